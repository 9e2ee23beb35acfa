//! What can be heard: channels and inboxes, one mechanism.
//!
//! Knows who hears what, and how far the numbers have come. Does not know what
//! is kept of it; that is in [`log`](crate::hub::log).

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};
use slab::Slab;
use smallvec::SmallVec;

use super::presence::Presence;
use crate::hub::event::LogKey;
use crate::hub::log::Log;
use crate::hub::log::provisional_seq::ProvisionalRange;
use crate::hub::log::usage::UsageIndex;
use crate::hub::timers::{NEVER, round_up};
use crate::protocol::frame::GapCause;
use crate::protocol::{Channel, Moment, UserId};
use crate::small_queue::gather;

/// A channel that nobody hears keeps its position for so long, so that who
/// comes back after a broken link learns that nothing was missed.
const IDLE: Duration = Duration::from_secs(300);

/// Tables of fewer topics are not worth shrinking.
const FEW: usize = 64;

/// At some two hundred bytes each, a megabyte at worst.
const MOST_IDLE: usize = 4096;

/// How a subscriber hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) enum DeliveryMode {
    /// What is published, as it is published.
    Live,
    /// What is kept first; what is published meanwhile goes behind that.
    Reading,
    /// Nothing: a connection that wants no inbox, and yet is its user's.
    Off,
}

/// One who hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Subscriber {
    pub(in crate::hub) slot: u32,
    pub(in crate::hub) hearing: DeliveryMode,
    /// Wants to be told who comes and goes.
    pub(in crate::hub) watches: bool,
}

/// One channel or inbox.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Topic {
    pub(in crate::hub) key: LogKey,
    /// Which run of numbers.
    pub(in crate::hub) epoch: u64,
    /// The last number given out.
    pub(in crate::hub) seq: u64,
    /// Of an inbox, the last position that its user has.
    pub(in crate::hub) cursor: u64,
    /// Of an inbox, the last position that was queued for some connection.
    pub(in crate::hub) offered: u64,
    /// Why messages went that are missing now.
    pub(in crate::hub) last_loss: GapCause,
    /// In no order that means anything. An inbox has one or two, and so has a
    /// channel of one's own; there are thousands of both.
    pub(in crate::hub) subscribers: SmallVec<[Subscriber; 2]>,
    /// What is kept, and who reads it; none while there is neither.
    pub(in crate::hub) log: Option<Box<Log>>,
    /// Where its numbers jump, if they do.
    pub(in crate::hub) jump: Option<Box<ProvisionalRange>>,
    /// Who is here, while somebody wants to be told.
    pub(in crate::hub) presence: Option<Box<Presence>>,
    /// When it is forgotten, while nobody needs it.
    idle_until: Moment,
    /// How many of its subscribers are in the sum over all topics.
    counted: u32,
}

impl Topic {
    pub(in crate::hub) fn new(key: LogKey, epoch: u64) -> Self {
        Self {
            key,
            epoch,
            seq: 0,
            cursor: 0,
            offered: 0,
            last_loss: GapCause::NotKept,
            subscribers: SmallVec::new(),
            log: None,
            jump: None,
            presence: None,
            idle_until: NEVER,
            counted: 0,
        }
    }

    pub(in crate::hub) fn subscriber_mut(&mut self, slot: u32) -> Option<&mut Subscriber> {
        self.subscribers.iter_mut().find(|subscriber| subscriber.slot == slot)
    }

    /// A message is here no longer: whoever was still to read it will be told.
    pub(in crate::hub) fn lose(&mut self, seq: u64, cause: GapCause) {
        self.last_loss = cause;
        let Some(log) = &mut self.log else { return };
        log.lose(seq, cause);
        // What its user has already may go, and still be acknowledged.
        if seq > self.cursor {
            log.owe_no_receipt(seq);
            log.answers.lose(seq);
        }
    }

    /// Whether it is where workers hear what reached nobody.
    pub(in crate::hub) fn tells_of_others(&self) -> bool {
        matches!(&self.key, LogKey::Channel(channel) if *channel == Channel::undelivered())
    }

    /// What its name and the list of who is here take, in bytes.
    pub(in crate::hub) fn taken(&self) -> usize {
        self.named() + self.presence.as_ref().map_or(0, |presence| presence.held())
    }

    /// How long its name is.
    fn named(&self) -> usize {
        match &self.key {
            LogKey::Channel(channel) => channel.as_str().len(),
            LogKey::Inbox(user) => user.as_str().len(),
        }
    }

    /// How frames call it.
    pub(in crate::hub) fn name(&self) -> Channel {
        match &self.key {
            LogKey::Channel(channel) => channel.clone(),
            LogKey::Inbox(_) => Channel::inbox(),
        }
    }
}

/// All topics.
#[derive(Debug, Default)]
pub(in crate::hub) struct Topics {
    table: Slab<Topic>,
    /// How many there were at most since the tables were shrunk.
    most: usize,
    /// Places by key; the keys themselves are in the table alone. Never
    /// iterated: its order is not the same in every process.
    index: HashTable<u32>,
    /// Nobody can guess which names fall together.
    hasher: RandomState,
    /// Those nobody needs, by the moment at which they are forgotten.
    idle: BTreeSet<(Moment, u32)>,
    /// So many more may be idle than usual: those that were heard when the last
    /// hub stopped, or this one does. Whoever heard them comes back.
    pub(in crate::hub) returning: usize,
    /// What all of them keep together.
    pub(in crate::hub) weights: UsageIndex,
    /// Subscribers of all of them together.
    pub(in crate::hub) subscribers: usize,
    /// Bytes in the names of those that are needed.
    pub(in crate::hub) named: usize,
    /// Bytes that the lists of who is here take.
    pub(in crate::hub) watched: usize,
}

impl Topics {
    pub(in crate::hub) fn find(&self, key: &LogKey) -> Option<u32> {
        let is_meant = |place: &u32| self.at(*place).is_some_and(|topic| topic.key == *key);
        self.index.find(self.hasher.hash_one(key), is_meant).copied()
    }

    pub(in crate::hub) fn find_channel(&self, channel: &Channel) -> Option<u32> {
        self.find(&LogKey::Channel(channel.clone()))
    }

    pub(in crate::hub) fn find_inbox(&self, user: &UserId) -> Option<u32> {
        self.find(&LogKey::Inbox(user.clone()))
    }

    /// Makes room for so many more: a table that grows by and by looks at all names again
    /// each time.
    pub(in crate::hub) fn reserve(&mut self, count: usize) {
        let (table, hasher) = (&self.table, &self.hasher);
        let hash = |place: &u32| table.get(*place as usize).map_or(0, |topic| hasher.hash_one(&topic.key));
        self.index.reserve(count, hash);
    }

    /// Adds a topic that is not there. Who adds one has to settle it.
    pub(in crate::hub) fn insert(&mut self, topic: Topic) -> u32 {
        self.named += topic.named();
        let place = self.table.insert(topic) as u32;
        self.most = self.most.max(self.table.len());
        self.enter(place);
        place
    }

    /// Makes a topic of the table known by its key.
    fn enter(&mut self, place: u32) {
        let (table, hasher) = (&self.table, &self.hasher);
        // Only what is in the table is in the index.
        let hash = |place: &u32| table.get(*place as usize).map_or(0, |topic| hasher.hash_one(&topic.key));
        self.index.insert_unique(hash(&place), place, hash);
    }

    /// Takes a topic out of both.
    fn remove(&mut self, place: u32) {
        let Some(topic) = self.table.get(place as usize) else { return };
        let hash = self.hasher.hash_one(&topic.key);
        if let Ok(entry) = self.index.find_entry(hash, |found| *found == place) {
            entry.remove();
        }
        self.table.remove(place as usize);
        self.shrink();
    }

    /// Gives back what the tables hold for many more topics than there are. Places are
    /// names here, so what is behind the last topic can go, and nothing else; it is looked
    /// at once each time so many went that the rest is a quarter.
    fn shrink(&mut self) {
        if self.most <= 4 * self.table.len().max(FEW) {
            return;
        }
        self.most = self.table.len();
        self.table.shrink_to_fit();
        let (table, hasher) = (&self.table, &self.hasher);
        let hash = |place: &u32| table.get(*place as usize).map_or(0, |topic| hasher.hash_one(&topic.key));
        self.index.shrink_to(2 * table.len(), hash);
        self.weights.gather();
        gather(&mut self.idle);
    }

    pub(in crate::hub) fn at(&self, place: u32) -> Option<&Topic> {
        self.table.get(place as usize)
    }

    pub(in crate::hub) fn at_mut(&mut self, place: u32) -> Option<&mut Topic> {
        self.table.get_mut(place as usize)
    }

    pub(in crate::hub) fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.table.iter().map(|(_, topic)| topic)
    }

    pub(in crate::hub) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Topic> {
        self.table.iter_mut().map(|(_, topic)| topic)
    }

    /// Brings what is derived from a topic up to date: its weight, and whether
    /// anybody needs it.
    pub(in crate::hub) fn settle(&mut self, now: Moment, place: u32) {
        let Some(topic) = self.table.get_mut(place as usize) else { return };
        let counted = topic.subscribers.len() as u32;
        self.subscribers = self.subscribers - topic.counted as usize + counted as usize;
        topic.counted = counted;
        self.weigh(place);
        let Some(topic) = self.table.get_mut(place as usize) else { return };
        if let Some(log) = &mut topic.log {
            log.tidy();
        }
        topic.log.take_if(|log| log.is_unused());
        let needed = !topic.subscribers.is_empty()
            || topic.log.is_some()
            || topic.presence.is_some()
            // A worker that sends mails may be away for longer.
            || topic.tells_of_others();
        if needed != (topic.idle_until == NEVER) {
            self.idle.remove(&(topic.idle_until, place));
            topic.idle_until = if needed { NEVER } else { round_up(now + IDLE) };
            if needed {
                self.named += topic.named();
            } else {
                self.named -= topic.named();
                self.idle.insert((topic.idle_until, place));
            }
        }
        if self.idle.len() > MOST_IDLE.saturating_add(self.returning) {
            self.forget_first();
        }
    }

    /// Brings the sums over all logs up to date with one of them.
    pub(in crate::hub) fn weigh(&mut self, place: u32) {
        let Some(topic) = self.table.get_mut(place as usize) else { return };
        if let Some(log) = &mut topic.log {
            let is = log.weight();
            self.weights.change(place, std::mem::replace(&mut log.weighed, is), is);
            for (author, bytes) in log.take_moved() {
                self.weights.publishers.change(author, bytes);
            }
        }
    }

    /// When the first idle topic is forgotten.
    pub(in crate::hub) fn deadline(&self) -> Option<Moment> {
        self.idle.first().map(|(until, _)| *until)
    }

    /// Forgets those that were idle for long enough.
    pub(in crate::hub) fn forget(&mut self, now: Moment) {
        while self.idle.first().is_some_and(|(until, _)| *until <= now) {
            self.forget_first();
        }
        if self.idle.len() <= MOST_IDLE {
            self.returning = 0;
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, place)) = self.idle.pop_first() {
            self.remove(place);
        }
    }

    /// Forgets an idle topic at once.
    pub(in crate::hub) fn forget_now(&mut self, place: u32) {
        let Some(topic) = self.at(place) else { return };
        if self.idle.remove(&(topic.idle_until, place)) {
            self.remove(place);
        }
    }

    /// How many are needed; the others are few, and forgotten by and by.
    pub(in crate::hub) fn needed(&self) -> usize {
        self.table.len() - self.idle.len()
    }

    /// Those that somebody reads.
    pub(in crate::hub) fn reading(&self) -> Vec<u32> {
        self.with(|log| !log.readers.is_empty())
    }

    /// Those whose log satisfies a condition.
    pub(in crate::hub) fn with(&self, wanted: impl Fn(&Log) -> bool) -> Vec<u32> {
        let is_meant = |topic: &Topic| topic.log.as_deref().is_some_and(&wanted);
        self.table.iter().filter(|(_, topic)| is_meant(topic)).map(|(place, _)| place as u32).collect()
    }

    /// The places of all on which somebody is told who comes and goes, in their order.
    pub(in crate::hub) fn with_presence(&self) -> Vec<u32> {
        let watched = self.table.iter().filter(|(_, topic)| topic.presence.is_some());
        watched.map(|(place, _)| place as u32).collect()
    }
}

/// The table alone is written; the rest follows from it.
impl Serialize for Topics {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.table.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Topics {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut all = Self { table: Slab::deserialize(from)?, ..Self::default() };
        let places: Vec<u32> = all.table.iter().map(|(place, _)| place as u32).collect();
        all.reserve(places.len());
        for place in places {
            all.enter(place);
            all.weigh(place);
            let log = all.table.get(place as usize).and_then(|topic| topic.log.as_ref());
            for kept in log.into_iter().flat_map(|log| &log.kept) {
                all.weights.publishers.change(kept.author, kept.size as isize);
            }
        }
        all.most = all.table.len();
        for (place, topic) in &all.table {
            let place = place as u32;
            if topic.idle_until == NEVER {
                all.named += topic.named();
            } else {
                all.idle.insert((topic.idle_until, place));
            }
            all.watched += topic.presence.as_ref().map_or(0, |presence| presence.held());
            all.subscribers += topic.counted as usize;
        }
        Ok(all)
    }
}
