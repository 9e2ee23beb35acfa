//! What can be heard: channels and inboxes, one mechanism.
//!
//! Knows who hears what, and how far the numbers have come. Does not know what
//! is kept of it; that is in [`logs`](super::logs).

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};
use slab::Slab;
use smallvec::SmallVec;

use super::deadlines::{NEVER, round_up};
use super::event::LogKey;
use super::found::is_jump;
use super::logs::Log;
use super::presence::Presence;
use super::readers::Hole;
use super::weights::Weights;
use crate::protocol::frame::GapCause;
use crate::protocol::{Channel, Moment, UserId};

/// A channel that nobody hears keeps its position for so long, so that who
/// comes back after a broken link learns that nothing was missed.
const IDLE: Duration = Duration::from_secs(300);

/// At some two hundred bytes each, a megabyte at worst.
const MOST_IDLE: usize = 4096;

/// How a subscriber hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Hearing {
    /// What is published, as it is published.
    Live,
    /// What is kept first; what is published meanwhile goes behind that.
    Reading,
    /// Nothing: a connection that wants no inbox, and yet is its user's.
    Off,
}

/// One who hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Subscriber {
    pub(super) slot: u32,
    pub(super) hearing: Hearing,
    /// Wants to be told who comes and goes.
    pub(super) watches: bool,
}

/// One channel or inbox.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Topic {
    pub(super) key: LogKey,
    /// Which run of numbers.
    pub(super) epoch: u64,
    /// The last number given out.
    pub(super) seq: u64,
    /// Of an inbox, the last position that its user has.
    pub(super) cursor: u64,
    /// Of an inbox, the last position that was queued for some connection.
    pub(super) offered: u64,
    /// Why messages went that are missing now.
    pub(super) last_loss: GapCause,
    /// In no order that means anything. An inbox has one or two, and so has a
    /// channel of one's own; there are thousands of both.
    pub(super) subscribers: SmallVec<[Subscriber; 2]>,
    /// What is kept, and who reads it; none while there is neither.
    pub(super) log: Option<Box<Log>>,
    /// Where its numbers jump, if they do.
    pub(super) jump: Option<Box<Jump>>,
    /// Who is here, while somebody wants to be told.
    pub(super) presence: Option<Box<Presence>>,
    /// When it is forgotten, while nobody needs it.
    idle_until: Moment,
    /// How many of its subscribers are in the sum over all topics.
    counted: u32,
}

impl Topic {
    pub(super) fn new(key: LogKey, epoch: u64) -> Self {
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

    pub(super) fn subscriber_mut(&mut self, slot: u32) -> Option<&mut Subscriber> {
        self.subscribers.iter_mut().find(|subscriber| subscriber.slot == slot)
    }

    /// A message is here no longer: whoever was still to read it will be told.
    pub(super) fn lose(&mut self, seq: u64, cause: GapCause) {
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
    pub(super) fn tells_of_others(&self) -> bool {
        matches!(&self.key, LogKey::Channel(channel) if *channel == Channel::undelivered())
    }

    /// How frames call it.
    pub(super) fn name(&self) -> Channel {
        match &self.key {
            LogKey::Channel(channel) => channel.clone(),
            LogKey::Inbox(_) => Channel::inbox(),
        }
    }
}

/// Where the numbers of a topic jump, because they went on while nobody could
/// read what the disk has of it: that lies below, and is found later or never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Jump {
    /// The last position below that is known of; zero while there is none.
    pub(super) from: u64,
    /// Nobody misses a position above `from` and up to here: it was never given
    /// out, or is of an inbox and its user has it.
    pub(super) to: u64,
    /// What is found up to here was numbered before.
    pub(super) reach: u64,
    /// Of an inbox, the last position that its user had when it jumped.
    pub(super) cursor: u64,
    /// Of an inbox, the last position there was when the messages below were
    /// found: that its user has what lies up to here says nothing of those.
    pub(super) seen: u64,
}

impl Topic {
    /// Numbers what comes from now on from above `base`: what lies below may be on
    /// the disk.
    pub(super) fn begin_above(&mut self, base: u64) {
        let jump = Jump { to: base, reach: base, cursor: self.cursor, ..Jump::default() };
        (self.seq, self.cursor) = (base, base);
        self.jump = Some(Box::new(jump));
    }

    /// What is missing after a position, as the runs of it.
    pub(super) fn holes(&self, after: u64) -> Vec<Hole> {
        let jump = self.jump.as_deref().copied().unwrap_or_default();
        let stretches = [(after, jump.from), (after.max(jump.to), self.seq)];
        let mut holes = Vec::new();
        for (after, to) in stretches {
            let mut expected = after + 1;
            let kept = self.log.iter().flat_map(|log| log.within(after, to));
            for seq in kept.chain([to + 1]) {
                if seq > expected && !is_jump(expected, seq) {
                    let cause = self.last_loss;
                    holes.push(Hole { from: expected, to: seq - 1, lost: seq - expected, cause });
                }
                expected = seq + 1;
            }
        }
        holes
    }

    /// All of it as one.
    pub(super) fn missing(&self, after: u64) -> Option<Hole> {
        let holes = self.holes(after);
        let (first, last) = (holes.first()?, holes.last()?);
        let lost = holes.iter().map(|hole| hole.lost).sum();
        Some(Hole { from: first.from, to: last.to, lost, cause: self.last_loss })
    }

    /// Whether that the user of an inbox has a position may not mean that nothing
    /// before it is owed.
    pub(super) fn is_ambiguous(&self, seq: u64) -> bool {
        let is_from_before = |jump: &Jump| self.cursor < jump.from && jump.from < seq && seq <= jump.seen;
        self.jump.as_deref().is_some_and(is_from_before)
    }

    /// The user of an inbox has all up to a position.
    pub(super) fn pass(&mut self, seq: u64) {
        self.cursor = self.cursor.max(seq);
        if let Some(jump) = self.jump.as_deref().filter(|jump| self.cursor >= jump.from) {
            self.cursor = self.cursor.max(jump.to);
        }
    }

    /// Whether the user of an inbox has what is at a position.
    pub(super) fn is_passed(&self, seq: u64) -> bool {
        seq <= self.cursor || self.jump.as_ref().is_some_and(|jump| jump.from < seq && seq <= jump.to)
    }
}

/// All topics.
#[derive(Debug, Default)]
pub(super) struct Channels {
    table: Slab<Topic>,
    /// Places by key; the keys themselves are in the table alone. Never
    /// iterated: its order is not the same in every process.
    index: HashTable<u32>,
    /// Nobody can guess which names fall together.
    hasher: RandomState,
    /// Those nobody needs, by the moment at which they are forgotten.
    idle: BTreeSet<(Moment, u32)>,
    /// So many more may be idle than usual: those that were heard when the last
    /// hub stopped, or this one does. Whoever heard them comes back.
    pub(super) returning: usize,
    /// What all of them keep together.
    pub(super) weights: Weights,
    /// Subscribers of all of them together.
    pub(super) subscribers: usize,
}

impl Channels {
    pub(super) fn find(&self, key: &LogKey) -> Option<u32> {
        let is_meant = |place: &u32| self.at(*place).is_some_and(|topic| topic.key == *key);
        self.index.find(self.hasher.hash_one(key), is_meant).copied()
    }

    pub(super) fn find_channel(&self, channel: &Channel) -> Option<u32> {
        self.find(&LogKey::Channel(channel.clone()))
    }

    pub(super) fn find_inbox(&self, user: &UserId) -> Option<u32> {
        self.find(&LogKey::Inbox(user.clone()))
    }

    /// Adds a topic that is not there. Who adds one has to settle it.
    pub(super) fn insert(&mut self, topic: Topic) -> u32 {
        let place = self.table.insert(topic) as u32;
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
    }

    pub(super) fn at(&self, place: u32) -> Option<&Topic> {
        self.table.get(place as usize)
    }

    pub(super) fn at_mut(&mut self, place: u32) -> Option<&mut Topic> {
        self.table.get_mut(place as usize)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.table.iter().map(|(_, topic)| topic)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Topic> {
        self.table.iter_mut().map(|(_, topic)| topic)
    }

    /// Brings what is derived from a topic up to date: its weight, and whether
    /// anybody needs it.
    pub(super) fn settle(&mut self, now: Moment, place: u32) {
        let Some(topic) = self.table.get_mut(place as usize) else { return };
        let counted = topic.subscribers.len() as u32;
        self.subscribers = self.subscribers - topic.counted as usize + counted as usize;
        topic.counted = counted;
        self.weigh(place);
        let Some(topic) = self.table.get_mut(place as usize) else { return };
        if topic.log.as_ref().is_some_and(|log| log.is_unused()) {
            topic.log = None;
        }
        let needed = !topic.subscribers.is_empty()
            || topic.log.is_some()
            || topic.presence.is_some()
            // A worker that sends mails may be away for longer.
            || topic.tells_of_others();
        if needed != (topic.idle_until == NEVER) {
            self.idle.remove(&(topic.idle_until, place));
            topic.idle_until = if needed { NEVER } else { round_up(now + IDLE) };
            if !needed {
                self.idle.insert((topic.idle_until, place));
            }
        }
        if self.idle.len() > MOST_IDLE.saturating_add(self.returning) {
            self.forget_first();
        }
    }

    /// Brings the sums over all logs up to date with one of them.
    pub(super) fn weigh(&mut self, place: u32) {
        let Some(topic) = self.table.get_mut(place as usize) else { return };
        if let Some(log) = &mut topic.log {
            let is = log.weight();
            self.weights.change(place, std::mem::replace(&mut log.weighed, is), is);
        }
    }

    /// When the first idle topic is forgotten.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.idle.first().map(|(until, _)| *until)
    }

    /// Forgets those that were idle for long enough.
    pub(super) fn forget(&mut self, now: Moment) {
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
    pub(super) fn forget_now(&mut self, place: u32) {
        let Some(topic) = self.at(place) else { return };
        if self.idle.remove(&(topic.idle_until, place)) {
            self.remove(place);
        }
    }

    /// How many are needed; the others are few, and forgotten by and by.
    pub(super) fn needed(&self) -> usize {
        self.table.len() - self.idle.len()
    }

    /// Those that somebody reads.
    pub(super) fn reading(&self) -> Vec<u32> {
        self.with(|log| !log.readers.is_empty())
    }

    /// Those whose log satisfies a condition.
    pub(super) fn with(&self, wanted: impl Fn(&Log) -> bool) -> Vec<u32> {
        let is_meant = |topic: &Topic| topic.log.as_deref().is_some_and(&wanted);
        self.table.iter().filter(|(_, topic)| is_meant(topic)).map(|(place, _)| place as u32).collect()
    }
}

/// The table alone is written; the rest follows from it.
impl Serialize for Channels {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.table.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Channels {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut all = Self { table: Slab::deserialize(from)?, ..Self::default() };
        let places: Vec<u32> = all.table.iter().map(|(place, _)| place as u32).collect();
        for place in places {
            all.enter(place);
            all.weigh(place);
        }
        for (place, topic) in &all.table {
            let place = place as u32;
            if topic.idle_until != NEVER {
                all.idle.insert((topic.idle_until, place));
            }
            all.subscribers += topic.counted as usize;
        }
        Ok(all)
    }
}
