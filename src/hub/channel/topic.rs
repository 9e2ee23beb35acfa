//! One topic: a channel or an inbox, with its subscribers, its numbers and its log.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use smallvec::SmallVec;

use super::presence::Presence;
use super::receipts::OwedReceipt;
use crate::hub::event::{DeliveryOutcome, Effect, Effects, LogKey, RecoveredLog};
use crate::hub::log::Log;
use crate::hub::log::entries::{Entries, LogEntry};
use crate::hub::log::gap::Gap;
use crate::hub::log::numbering::{Known, Numbering, ProvisionalRange};
use crate::hub::log::position::{LogPosition, SeqRange};
use crate::hub::log::recovery::RecoveredPlace;
use crate::hub::settings::Keep;
use crate::hub::timers::NEVER;
use crate::protocol::frame::GapCause;
use crate::protocol::{Channel, Moment};

/// What is delivered to a subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) enum DeliveryMode {
    /// What is published, as it is published.
    Live,
    /// What is kept first; what is published meanwhile goes behind that.
    Reading,
    /// Nothing: a connection that wants no inbox, and yet is its user's.
    Off,
}

/// One connection that is subscribed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Subscriber {
    slot: u32,
    mode: DeliveryMode,
    /// Is notified of users who come and go.
    watches: bool,
}

impl Subscriber {
    pub(in crate::hub) fn new(slot: u32, mode: DeliveryMode) -> Self {
        Self { slot, mode, watches: false }
    }

    pub(in crate::hub) fn watching(self, watches: bool) -> Self {
        Self { watches, ..self }
    }

    pub(in crate::hub) fn slot(&self) -> u32 {
        self.slot
    }

    pub(in crate::hub) fn mode(&self) -> DeliveryMode {
        self.mode
    }

    pub(in crate::hub) fn is_live(&self) -> bool {
        self.mode == DeliveryMode::Live
    }

    /// Whether anything is delivered to it.
    pub(in crate::hub) fn is_recipient(&self) -> bool {
        self.mode != DeliveryMode::Off
    }

    /// Whether it is notified of users who come and go.
    pub(in crate::hub) fn is_watching(&self) -> bool {
        self.watches
    }
}

/// One channel or inbox.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(from = "TopicState")]
pub(in crate::hub) struct Topic {
    key: LogKey,
    numbers: Numbering,
    /// Why messages went that are missing now.
    last_loss: GapCause,
    /// In no order that means anything. An inbox has one or two, and so has a
    /// channel of one's own; there are thousands of both.
    subscribers: SmallVec<[Subscriber; 2]>,
    /// What is kept, and its readers; none while there is neither.
    log: Option<Box<Log>>,
    /// The users who are here, while some subscriber watches.
    presence: Option<Box<Presence>>,
    /// When it is forgotten, while it is not needed.
    idle_until: Moment,
    /// How many of its subscribers are in the sum over all topics.
    counted: u32,
}

/// A topic as it is handed over, in the order of its fields there.
#[derive(Deserialize)]
struct TopicState {
    key: LogKey,
    epoch: u64,
    seq: u64,
    cursor: u64,
    offered: u64,
    last_loss: GapCause,
    subscribers: SmallVec<[Subscriber; 2]>,
    log: Option<Box<Log>>,
    provisional: Option<Box<ProvisionalRange>>,
    presence: Option<Box<Presence>>,
    idle_until: Moment,
    counted: u32,
}

impl From<TopicState> for Topic {
    fn from(state: TopicState) -> Self {
        let last = LogPosition { epoch: state.epoch, seq: state.seq };
        Self {
            key: state.key,
            numbers: Numbering::restored(last, state.cursor, state.offered, state.provisional),
            last_loss: state.last_loss,
            subscribers: state.subscribers,
            log: state.log,
            presence: state.presence,
            idle_until: state.idle_until,
            counted: state.counted,
        }
    }
}

/// In the order of [`TopicState`].
impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let LogPosition { epoch, seq } = self.numbers.last();
        let mut state = to.serialize_struct("TopicState", 12)?;
        state.serialize_field("key", &self.key)?;
        state.serialize_field("epoch", &epoch)?;
        state.serialize_field("seq", &seq)?;
        state.serialize_field("cursor", &self.numbers.cursor())?;
        state.serialize_field("offered", &self.numbers.offered())?;
        state.serialize_field("last_loss", &self.last_loss)?;
        state.serialize_field("subscribers", &self.subscribers)?;
        state.serialize_field("log", &self.log)?;
        state.serialize_field("provisional", &self.numbers.provisional_range())?;
        state.serialize_field("presence", &self.presence)?;
        state.serialize_field("idle_until", &self.idle_until)?;
        state.serialize_field("counted", &self.counted)?;
        state.end()
    }
}

/// What outlives a clean stop of one topic.
#[derive(Serialize, Deserialize)]
pub(in crate::hub) struct TopicCheckpoint {
    key: LogKey,
    epoch: u64,
    seq: u64,
    cursor: u64,
    offered: u64,
    last_loss: GapCause,
    provisional: Option<ProvisionalRange>,
    receipts: Vec<OwedReceipt>,
}

impl TopicCheckpoint {
    /// The topic again; `shift` is added to every moment.
    pub(in crate::hub) fn restore(self, shift: i64) -> Topic {
        let last = LogPosition { epoch: self.epoch, seq: self.seq };
        let provisional = self.provisional.map(|range| Box::new(range.restored(self.seq)));
        let mut topic = Topic::new(self.key, self.epoch);
        topic.numbers = Numbering::restored(last, self.cursor, self.offered, provisional);
        topic.last_loss = self.last_loss;
        if !self.receipts.is_empty() {
            let receipts = self.receipts.into_iter().map(|owed| owed.shifted(shift));
            topic.log = Some(Box::new(Log::of_receipts(receipts.collect())));
        }
        topic
    }
}

impl Topic {
    pub(in crate::hub) fn new(key: LogKey, epoch: u64) -> Self {
        Self::numbered(key, Numbering::new(epoch))
    }

    /// One whose numbers go on.
    pub(in crate::hub) fn numbered(key: LogKey, numbers: Numbering) -> Self {
        Self {
            key,
            numbers,
            last_loss: GapCause::NotKept,
            subscribers: SmallVec::new(),
            log: None,
            presence: None,
            idle_until: NEVER,
            counted: 0,
        }
    }

    pub(in crate::hub) fn to_checkpoint(&self) -> TopicCheckpoint {
        let LogPosition { epoch, seq } = self.numbers.last();
        // What no disk has is lost with this process.
        let loses = self.entries().is_some_and(|entries| entries.iter().any(|entry| !entry.is_stored()));
        TopicCheckpoint {
            key: self.key.clone(),
            epoch,
            seq,
            cursor: self.numbers.cursor(),
            offered: self.numbers.offered(),
            last_loss: if loses { GapCause::NotKept } else { self.last_loss },
            provisional: self.numbers.provisional_range().copied(),
            receipts: self.log.as_deref().map(Log::lasting_receipts).unwrap_or_default(),
        }
    }

    pub(in crate::hub) fn key(&self) -> &LogKey {
        &self.key
    }

    pub(in crate::hub) fn is_inbox(&self) -> bool {
        matches!(self.key, LogKey::Inbox(_))
    }

    /// How frames call it.
    pub(in crate::hub) fn name(&self) -> Channel {
        match &self.key {
            LogKey::Channel(channel) => channel.clone(),
            LogKey::Inbox(_) => Channel::inbox(),
        }
    }

    /// Whether workers learn on it of messages that reached nobody.
    pub(in crate::hub) fn is_undelivered(&self) -> bool {
        matches!(&self.key, LogKey::Channel(channel) if *channel == Channel::undelivered())
    }

    /// What its name and its presence take, in bytes.
    pub(in crate::hub) fn held_bytes(&self) -> usize {
        self.name_bytes() + self.presence.as_ref().map_or(0, |presence| presence.held())
    }

    pub(super) fn name_bytes(&self) -> usize {
        match &self.key {
            LogKey::Channel(channel) => channel.as_str().len(),
            LogKey::Inbox(user) => user.as_str().len(),
        }
    }

    /// The users who are here, while some subscriber watches.
    pub(in crate::hub) fn presence(&self) -> Option<&Presence> {
        self.presence.as_deref()
    }
}

/// What [`Topics`](super::topics::Topics) knows of it.
impl Topic {
    /// How many subscribers of it are in the sum over all topics.
    pub(super) fn counted(&self) -> usize {
        self.counted as usize
    }

    /// All of them are from now on.
    pub(super) fn count_subscribers(&mut self) {
        self.counted = self.subscribers.len() as u32;
    }

    /// Gives back a log that has nothing in it.
    pub(super) fn tidy(&mut self) {
        if let Some(log) = &mut self.log {
            log.tidy();
        }
        self.log.take_if(|log| log.is_unused());
    }

    pub(super) fn is_needed(&self) -> bool {
        !self.subscribers.is_empty()
            || self.log.is_some()
            || self.presence.is_some()
            // A worker that sends mails may be away for longer.
            || self.is_undelivered()
    }

    /// When it is forgotten; never while it is needed.
    pub(super) fn idle_until(&self) -> Moment {
        self.idle_until
    }

    pub(super) fn set_idle_until(&mut self, until: Moment) {
        self.idle_until = until;
    }

    /// Puts another presence here; the one that was.
    pub(super) fn replace_presence(&mut self, presence: Option<Box<Presence>>) -> Option<Box<Presence>> {
        std::mem::replace(&mut self.presence, presence)
    }
}

/// Numbers.
impl Topic {
    pub(in crate::hub) fn numbers(&self) -> &Numbering {
        &self.numbers
    }

    /// The last number given out.
    pub(in crate::hub) fn position(&self) -> LogPosition {
        self.numbers.last()
    }

    /// Gives out one more number.
    pub(in crate::hub) fn give_out_number(&mut self) -> LogPosition {
        self.numbers.give_out()
    }

    /// Numbers what comes from now on from above `floor`: what lies below may be on the disk.
    pub(in crate::hub) fn begin_above(&mut self, floor: u64) {
        self.numbers.begin_above(floor);
    }

    /// What the disk has of it cannot be read from now on.
    pub(in crate::hub) fn detach_from_disk(&mut self) {
        self.numbers.detach_from_disk(&self.key);
    }

    /// Goes on after what was found on the disk, as [`Numbering::recover`] says.
    pub(in crate::hub) fn recover_numbers(
        &mut self,
        found: &RecoveredLog,
        known: Known,
        epoch: u64,
    ) -> RecoveredPlace {
        self.numbers.recover(found, known, epoch)
    }

    /// Some connection was sent all that there is.
    pub(in crate::hub) fn offer_all(&mut self) {
        self.numbers.offer_all();
    }

    /// Some connection was sent what lies up to a position.
    pub(in crate::hub) fn offer(&mut self, seq: u64) {
        self.numbers.offer(seq);
    }

    /// The user of an inbox has all up to a position, but for what was passed over.
    pub(in crate::hub) fn move_cursor(&mut self, seq: u64) {
        if self.numbers.is_ambiguous(seq) {
            return;
        }
        self.numbers.pass(self.log.as_deref().map_or(seq, |log| log.cursor_limit(seq)));
        if let Some(log) = &mut self.log {
            log.mark_delivered_up_to(self.numbers.cursor());
        }
    }

    /// How many messages of an inbox its user does not have yet.
    pub(in crate::hub) fn waiting(&self) -> usize {
        self.entries().map_or(0, |entries| entries.count_after(self.numbers.cursor()))
    }

    /// What is missing after a position.
    pub(in crate::hub) fn gaps(&self, after: u64) -> Vec<Gap> {
        self.numbers.gaps(after, self.entries(), self.last_loss)
    }

    /// All of it as one gap.
    pub(in crate::hub) fn missing(&self, after: u64) -> Option<Gap> {
        Gap::sum(&self.gaps(after), self.last_loss)
    }
}

/// Subscribers.
impl Topic {
    pub(in crate::hub) fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    fn subscriber_mut(&mut self, slot: u32) -> Option<&mut Subscriber> {
        self.subscribers.iter_mut().find(|subscriber| subscriber.slot == slot)
    }

    pub(in crate::hub) fn add_subscriber(&mut self, subscriber: Subscriber) {
        self.subscribers.push(subscriber);
    }

    /// Removes the subscriber at a slot; whether it was one.
    pub(in crate::hub) fn remove_subscriber(&mut self, slot: u32) -> bool {
        let at = self.subscribers.iter().position(|subscriber| subscriber.slot == slot);
        at.map(|at| self.subscribers.swap_remove(at)).is_some()
    }

    /// What is delivered to the subscriber at a slot.
    pub(in crate::hub) fn mode_of(&self, slot: u32) -> Option<DeliveryMode> {
        let found = self.subscribers.iter().find(|subscriber| subscriber.slot == slot);
        found.map(|subscriber| subscriber.mode)
    }

    pub(in crate::hub) fn set_mode(&mut self, slot: u32, mode: DeliveryMode) {
        if let Some(subscriber) = self.subscriber_mut(slot) {
            subscriber.mode = mode;
        }
    }

    /// Whether the subscriber at a slot is notified of users who come and go.
    pub(in crate::hub) fn set_watching(&mut self, slot: u32, watches: bool) {
        if let Some(subscriber) = self.subscriber_mut(slot) {
            subscriber.watches = watches;
        }
    }

    /// Whether nothing is delivered to any connection: of an inbox, its user is away.
    pub(in crate::hub) fn has_no_recipient(&self) -> bool {
        !self.subscribers.iter().any(Subscriber::is_recipient)
    }
}

/// The log.
impl Topic {
    pub(in crate::hub) fn log(&self) -> Option<&Log> {
        self.log.as_deref()
    }

    pub(in crate::hub) fn log_mut(&mut self) -> Option<&mut Log> {
        self.log.as_deref_mut()
    }

    pub(in crate::hub) fn log_or_new(&mut self) -> &mut Log {
        self.log.get_or_insert_default()
    }

    pub(in crate::hub) fn entries(&self) -> Option<&Entries> {
        self.log.as_deref().map(Log::entries)
    }

    /// Why messages went that are missing now.
    pub(in crate::hub) fn note_loss(&mut self, cause: GapCause) {
        self.last_loss = cause;
    }

    /// A message is here no longer: readers that have not passed it get a gap.
    pub(in crate::hub) fn lose(&mut self, seq: u64, cause: GapCause) {
        self.last_loss = cause;
        let Some(log) = &mut self.log else { return };
        log.lose(seq, cause);
        // What its user has already may go, and still be acknowledged.
        if seq > self.numbers.cursor() {
            log.lose_unacknowledged(seq);
        }
    }

    /// Gives up one message.
    pub(in crate::hub) fn evict(&mut self, seq: u64, out: &mut Effects) {
        if let Some(log) = &mut self.log {
            log.take(seq);
        }
        self.lose(seq, GapCause::Evicted);
        self.truncate(&[SeqRange::one(seq)], out);
    }

    /// Has the store drop ranges.
    pub(in crate::hub) fn truncate(&self, ranges: &[SeqRange], out: &mut Effects) {
        for range in ranges {
            out.push(Effect::Truncate { log: self.key.clone(), from: range.from(), to: range.to() });
        }
    }

    /// Drops one message, if it was delivered and no reader wants it any more.
    pub(in crate::hub) fn take_delivered(&mut self, seq: u64, out: &mut Effects) -> bool {
        let is_taken = self.log.as_mut().is_some_and(|log| log.take_delivered(seq));
        if is_taken {
            self.truncate(&[SeqRange::one(seq)], out);
        }
        is_taken
    }

    /// Drops what was delivered and no reader wants any more, as far as the policy keeps it no
    /// longer.
    pub(in crate::hub) fn take_all_delivered(&mut self, keep: Keep, out: &mut Effects) {
        let Some(log) = &mut self.log else { return };
        let ranges = log.take_all_delivered(keep);
        // What the cursor of an inbox has passed is not missing.
        if !ranges.is_empty() && keep != Keep::Unacknowledged {
            self.last_loss = GapCause::NotKept;
        }
        self.truncate(&ranges, out);
    }

    /// Whether a message that is about to be lost reached nobody, in a way that workers are
    /// notified of. What a user who is here was sent counts as delivered, and that a
    /// history moves on is in its nature.
    pub(in crate::hub) fn reached_nobody(
        &self,
        entry: &LogEntry,
        keep: Keep,
        outcome: DeliveryOutcome,
    ) -> bool {
        !entry.is_delivered()
            && match keep {
                Keep::Unacknowledged => {
                    entry.seq() > self.numbers.offered()
                        || self.has_no_recipient()
                        || self.log.as_ref().is_some_and(|log| log.is_unread(entry.seq()))
                }
                Keep::Undelivered => true,
                Keep::History => outcome == DeliveryOutcome::Expired,
                Keep::Never => false,
            }
    }
}
