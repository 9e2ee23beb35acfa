//! How messages and logs are spelled on the disk.
//!
//! Knows the form of a record's two texts and of a mark. Does not know where they
//! lie; the process that owns the disk does, and does not know what they mean.
//!
//! All are short JSON arrays: read back by place, without the names of fields.

use std::borrow::Cow;
use std::rc::Rc;

use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::hub_clock::HubClock;
use super::ipc::NewRecord;
use super::memtable::Entry;
use crate::hub::settings::WriteThrough;
use crate::hub::{EntryMeta, LogKey, RecoveredMessage, Scope};
use crate::json;
use crate::protocol::{Channel, Event, Message, MessageId, Payload, Sender, UnixTime, UserId};

/// How a log is called on the disk. A user is no channel that could be spelled.
pub(super) fn log(key: &LogKey) -> String {
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
pub(super) fn split(log: &str) -> Option<(u8, &str)> {
    Some((*log.as_bytes().first()?, log.get(1..)?))
}

/// The log of that name, if it is one.
pub(super) fn key(log: &str) -> Option<LogKey> {
    let (kind, name) = split(log)?;
    // Names that only the daemon gives are read back as well, and those that an earlier one
    // took and this one would not.
    let name: StrDeserializer<'_, serde_json::Error> = name.into_deserializer();
    match kind {
        b'c' => Channel::deserialize(name).ok().map(LogKey::Channel),
        b'u' => UserId::deserialize(name).ok().map(LogKey::Inbox),
        _ => None,
    }
}

/// How a life of a log is called, where runs of its messages are kept no longer:
/// in another life the same positions are other messages.
pub(super) fn life(log: &str, life: u64) -> String {
    format!("{life} {log}")
}

/// The log and the life of that name.
pub(super) fn log_and_life(name: &str) -> Option<(&str, u64)> {
    let (life, log) = name.split_once(' ')?;
    Some((log, life.parse().ok()?))
}

/// What is read of a message when the daemon starts.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Head<I = Option<Id>>(
    /// Which life of its log it belongs to.
    pub(super) u64,
    /// When it expires and since when it is kept, by the hub clock.
    pub(super) u64,
    pub(super) u64,
    /// What it counts against limits.
    pub(super) u32,
    /// Whether somebody other than its publisher has it; whether it was promised
    /// that it is here.
    bool,
    bool,
    I,
);

/// Where its publisher gave a message an id: among whose messages that is unique.
type Id = (Scope, MessageId);

/// What of a message is spelled once, when it is kept: its id and its body, as they
/// are written later.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) id: &'a RawValue,
    pub(super) body: &'a RawValue,
}

/// The rest of a message. Its channel and position are its place.
#[derive(Serialize, Deserialize)]
struct Body(Event, Payload, Sender, Option<UserId>, MessageId, UnixTime);

/// The state of a log.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct LogMark {
    /// What the log is since it was empty last: of an earlier life nothing counts.
    pub(super) life: u64,
    /// All below is kept no longer.
    pub(super) first: u64,
    /// Of an inbox, the last position that its user has.
    pub(super) cursor: u64,
    /// The last position that was given out.
    pub(super) last: u64,
}

/// Spells a message to be written.
pub(super) fn put<'a>(
    (log, seq): (&'a str, u64),
    life: u64,
    entry: &Entry,
    text: Text<'a>,
    elapsed: &HubClock,
) -> Option<NewRecord<'a>> {
    let Entry { expires, since, size, heard, durable, .. } = *entry;
    let head = Head(life, elapsed.at(expires), elapsed.at(since), size, heard, durable, text.id);
    Some(NewRecord {
        log: Cow::Borrowed(log),
        seq,
        head: Cow::Owned(to_raw_value(&head).ok()?),
        body: Cow::Borrowed(text.body),
    })
}

/// Appends the id and the body of a message; how long the id is.
pub(super) fn spell(message: &Message, scope: Option<&Scope>, to: &mut Vec<u8>) -> usize {
    let begin = to.len();
    json::write(&scope.map(|scope| (scope, &message.message_id)), to);
    let id = to.len() - begin;
    let Message { event, data, from, user_id, message_id, timestamp, .. } = message;
    let body = Body(event.clone(), data.clone(), *from, user_id.clone(), message_id.clone(), *timestamp);
    json::write(&body, to);
    id
}

/// Reads the head of a message.
pub(super) fn head(text: &RawValue) -> Option<Head> {
    serde_json::from_str(text.get()).ok()
}

impl Head {
    /// What the hub is told of it.
    pub(super) fn found(self, seq: u64, elapsed: &HubClock) -> RecoveredMessage {
        let Self(_, expires, since, size, heard, durable, id) = self;
        let (scope, id) = id.unzip();
        let keeping = EntryMeta {
            expires: elapsed.moment(expires),
            since: elapsed.moment(since),
            size,
            delivered: heard,
            durable,
            disk: WriteThrough::Behind,
            scope,
        };
        RecoveredMessage { seq, meta: keeping, id }
    }
}

/// Reads a message back.
pub(super) fn message(key: &LogKey, seq: u64, body: &RawValue) -> Option<Rc<Message>> {
    let Body(event, data, from, user_id, message_id, timestamp) = serde_json::from_str(body.get()).ok()?;
    let channel = match key {
        LogKey::Channel(channel) => channel.clone(),
        LogKey::Inbox(_) => Channel::inbox(),
    };
    let channel = Some(channel);
    Some(Rc::new(Message { channel, event, data, from, user_id, message_id, timestamp, seq: Some(seq) }))
}

#[cfg(test)]
mod tests {
    use super::{key, parts};

    #[test]
    fn names_that_are_refused_by_now_are_read_back() {
        for (log, name) in [("ca\u{ad}b", "a\u{ad}b"), ("uzo\u{200d}e", "zo\u{200d}e"), ("c@me", "@me")] {
            assert!(key(log).is_some_and(|key| parts(&key).1 == name), "{log:?}");
        }
    }
}
