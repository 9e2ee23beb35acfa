//! The encoding of messages and logs on the disk: the two texts of a record, and marks.
//!
//! All are short JSON arrays: read back by place, without the names of fields. Where they
//! lie only the process that owns the disk knows, which in turn cannot read them.

use std::borrow::Cow;
use std::rc::Rc;

use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::hub_clock::HubClock;
use super::ipc::NewRecord;
use super::memtable::EntryState;
use crate::hub::settings::WriteThrough;
use crate::hub::{EntryMeta, LogKey, RecoveredMessage, Scope};
use crate::json;
use crate::protocol::{Channel, Event, Message, MessageId, Payload, Sender, UnixTime, UserId};

/// The name of a log on the disk. A user has no name that a channel could have.
pub(super) fn log_name(key: &LogKey) -> String {
    let (kind, name) = parts(key);
    let mut log = String::with_capacity(1 + name.len());
    log.push(char::from(kind));
    log.push_str(name);
    log
}

/// What that is put together of.
pub(super) fn parts(key: &LogKey) -> (u8, &str) {
    match key {
        LogKey::Channel(channel) => (b'c', channel.as_str()),
        LogKey::Inbox(user) => (b'u', user.as_str()),
    }
}

/// The same, of a name on the disk.
pub(super) fn split(name: &str) -> Option<(u8, &str)> {
    Some((*name.as_bytes().first()?, name.get(1..)?))
}

/// The log of that name, if it is one.
pub(super) fn log_key(name: &str) -> Option<LogKey> {
    let (kind, name) = split(name)?;
    // Names that only the daemon gives are read back as well, and those that an earlier one
    // took and this one would not.
    let name: StrDeserializer<'_, serde_json::Error> = name.into_deserializer();
    match kind {
        b'c' => Channel::deserialize(name).ok().map(LogKey::Channel),
        b'u' => UserId::deserialize(name).ok().map(LogKey::Inbox),
        _ => None,
    }
}

/// The name of one incarnation of a log, where messages of it are kept no longer: in another incarnation
/// the same positions are other messages.
pub(super) fn incarnation_name(log: &str, incarnation: u64) -> String {
    format!("{incarnation} {log}")
}

/// The log and the incarnation of that name.
pub(super) fn log_and_incarnation(name: &str) -> Option<(&str, u64)> {
    let (incarnation, log) = name.split_once(' ')?;
    Some((log, incarnation.parse().ok()?))
}

/// What is read of a message when the daemon starts. On the disk it is an array of its
/// fields.
#[derive(Deserialize, Debug)]
pub(super) struct RecordHead<I = Option<MessageIdInScope>> {
    /// Which incarnation of its log it belongs to.
    incarnation: u64,
    /// When it expires and since when it is kept, by the hub clock.
    expires: u64,
    since: u64,
    /// What it counts against limits.
    size: u32,
    /// A subscriber other than its publisher has it.
    delivered: bool,
    /// Its publisher was promised that it is on the disk.
    durable: bool,
    id: I,
}

/// Where its publisher gave a message an id: among whose messages that is unique.
type MessageIdInScope = (Scope, MessageId);

impl<I: Serialize> Serialize for RecordHead<I> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { incarnation, expires, since, size, delivered, durable, id } = self;
        (incarnation, expires, since, size, delivered, durable, id).serialize(to)
    }
}

/// What of a message is encoded once, when it is kept: its id and its body, as they
/// are written later.
#[derive(Clone, Copy)]
pub(super) struct EncodedText<'a> {
    id: &'a RawValue,
    body: &'a RawValue,
}

impl<'a> EncodedText<'a> {
    pub(super) fn new(id: &'a RawValue, body: &'a RawValue) -> Self {
        Self { id, body }
    }

    pub(super) fn body(&self) -> &'a RawValue {
        self.body
    }
}

/// The rest of a message: its channel and position are its place. On the disk it is an
/// array of its fields.
#[derive(Deserialize)]
struct Body {
    event: Event,
    data: Payload,
    from: Sender,
    user_id: Option<UserId>,
    message_id: MessageId,
    timestamp: UnixTime,
}

/// The state of a log.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct LogMark {
    /// What the log is since it was empty last: of an earlier incarnation nothing counts.
    pub(super) incarnation: u64,
    /// All below is kept no longer.
    pub(super) first: u64,
    /// Of an inbox, the last position that its user has.
    pub(super) cursor: u64,
    /// The last position that was given out.
    pub(super) last: u64,
}

/// Encodes a message to be written, in an incarnation of the log of that name.
pub(super) fn new_record<'a>(
    log: &'a str,
    incarnation: u64,
    seq: u64,
    state: &EntryState,
    text: EncodedText<'a>,
    clock: &HubClock,
) -> Option<NewRecord<'a>> {
    let &EntryState { expires, since, size, delivered, durable, .. } = state;
    let (expires, since) = (clock.at(expires), clock.at(since));
    let head = RecordHead { incarnation, expires, since, size, delivered, durable, id: text.id };
    Some(NewRecord {
        log: Cow::Borrowed(log),
        seq,
        head: Cow::Owned(to_raw_value(&head).ok()?),
        body: Cow::Borrowed(text.body),
    })
}

/// Appends the id and the body of a message; how long the id is.
pub(super) fn encode(message: &Message, scope: Option<&Scope>, to: &mut Vec<u8>) -> usize {
    let begin = to.len();
    json::write(&scope.map(|scope| (scope, &message.message_id)), to);
    let id = to.len() - begin;
    // As [`Body`] reads it.
    let Message { event, data, from, user_id, message_id, timestamp, .. } = message;
    json::write(&(event, data, from, user_id, message_id, timestamp), to);
    id
}

/// Decodes the head of a message.
pub(super) fn head(text: &RawValue) -> Option<RecordHead> {
    serde_json::from_str(text.get()).ok()
}

impl RecordHead {
    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(super) fn since(&self) -> u64 {
        self.since
    }

    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// What the hub receives of it.
    pub(super) fn recovered(self, seq: u64, clock: &HubClock) -> RecoveredMessage {
        let Self { expires, since, size, delivered, durable, id, .. } = self;
        let (scope, id) = id.unzip();
        let meta = EntryMeta {
            expires: clock.moment(expires),
            since: clock.moment(since),
            size,
            delivered,
            durable,
            disk: WriteThrough::Behind,
            scope,
        };
        RecoveredMessage { seq, meta, id }
    }
}

/// Decodes a message.
pub(super) fn message(key: &LogKey, seq: u64, body: &RawValue) -> Option<Rc<Message>> {
    let body = serde_json::from_str(body.get()).ok()?;
    let Body { event, data, from, user_id, message_id, timestamp } = body;
    let channel = match key {
        LogKey::Channel(channel) => channel.clone(),
        LogKey::Inbox(_) => Channel::inbox(),
    };
    let channel = Some(channel);
    Some(Rc::new(Message { channel, event, data, from, user_id, message_id, timestamp, seq: Some(seq) }))
}

#[cfg(test)]
mod tests {
    use super::{log_key, parts};

    #[test]
    fn names_refused_by_now_are_read_back() {
        for (log, name) in [("ca\u{ad}b", "a\u{ad}b"), ("uzo\u{200d}e", "zo\u{200d}e"), ("c@me", "@me")] {
            assert!(log_key(log).is_some_and(|key| parts(&key).1 == name), "{log:?}");
        }
    }
}
