//! What can be heard: channels and inboxes, one mechanism.
//!
//! Knows who hears what, and how far the numbers have come. Does not know what
//! is kept of it; that is in [`logs`](super::logs).

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slab::Slab;

use super::deadlines::{NEVER, round_up};
use super::event::LogKey;
use super::logs::Log;
use super::presence::Presence;
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
    /// In no order that means anything.
    pub(super) subscribers: Vec<Subscriber>,
    /// What is kept, and who reads it; none while there is neither.
    pub(super) log: Option<Box<Log>>,
    /// Who is here, while somebody wants to be told.
    pub(super) presence: Option<Box<Presence>>,
    /// When it is forgotten, while nobody needs it.
    idle_until: Moment,
    /// How many of its subscribers are in the sum over all topics.
    counted: u32,
}

impl Topic {
    pub(super) fn subscriber_mut(&mut self, slot: u32) -> Option<&mut Subscriber> {
        self.subscribers.iter_mut().find(|subscriber| subscriber.slot == slot)
    }

    /// How frames call it.
    pub(super) fn name(&self) -> Channel {
        match &self.key {
            LogKey::Channel(channel) => channel.clone(),
            LogKey::Inbox(_) => Channel::inbox(),
        }
    }
}

/// All topics.
#[derive(Debug, Default)]
pub(super) struct Channels {
    table: Slab<Topic>,
    /// Never iterated: its order is not the same in every process.
    index: HashMap<LogKey, u32>,
    /// Those nobody needs, by the moment at which they are forgotten.
    idle: BTreeSet<(Moment, u32)>,
    /// Those that keep something, by the bytes they keep.
    sizes: BTreeSet<(usize, u32)>,
    /// What all of them keep together.
    pub(super) bytes: usize,
    /// Subscribers of all of them together.
    pub(super) subscribers: usize,
}

impl Channels {
    pub(super) fn find(&self, key: &LogKey) -> Option<u32> {
        self.index.get(key).copied()
    }

    pub(super) fn find_channel(&self, channel: &Channel) -> Option<u32> {
        self.find(&LogKey::Channel(channel.clone()))
    }

    pub(super) fn find_inbox(&self, user: &UserId) -> Option<u32> {
        self.find(&LogKey::Inbox(user.clone()))
    }

    /// Makes a topic, or finds it. Who makes one has to settle it.
    pub(super) fn make(&mut self, key: LogKey, epoch: impl FnOnce() -> u64) -> u32 {
        if let Some(found) = self.find(&key) {
            return found;
        }
        let topic = Topic {
            key: key.clone(),
            epoch: epoch(),
            seq: 0,
            subscribers: Vec::new(),
            log: None,
            presence: None,
            idle_until: NEVER,
            counted: 0,
        };
        let place = self.table.insert(topic) as u32;
        self.index.insert(key, place);
        place
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

    /// Brings what is derived from a topic up to date: its weight, and whether
    /// anybody needs it.
    pub(super) fn settle(&mut self, now: Moment, place: u32) {
        let Some(topic) = self.table.get_mut(place as usize) else { return };
        let counted = topic.subscribers.len() as u32;
        self.subscribers = self.subscribers - topic.counted as usize + counted as usize;
        topic.counted = counted;
        if let Some(log) = &mut topic.log {
            let (was, is) = (log.weighed, log.bytes);
            if was != is {
                self.sizes.remove(&(was, place));
                if is > 0 {
                    self.sizes.insert((is, place));
                }
                self.bytes = self.bytes - was + is;
                log.weighed = is;
            }
            if log.is_unused() {
                topic.log = None;
            }
        }
        let needed = !topic.subscribers.is_empty() || topic.log.is_some() || topic.presence.is_some();
        if needed != (topic.idle_until == NEVER) {
            self.idle.remove(&(topic.idle_until, place));
            topic.idle_until = if needed { NEVER } else { round_up(now + IDLE) };
            if !needed {
                self.idle.insert((topic.idle_until, place));
            }
        }
        if self.idle.len() > MOST_IDLE {
            self.forget_first();
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
    }

    fn forget_first(&mut self) {
        if let Some((_, place)) = self.idle.pop_first() {
            let topic = self.table.remove(place as usize);
            self.index.remove(&topic.key);
        }
    }

    /// Forgets an idle topic at once.
    pub(super) fn forget_now(&mut self, place: u32) {
        let Some(topic) = self.at(place) else { return };
        if self.idle.remove(&(topic.idle_until, place)) {
            let topic = self.table.remove(place as usize);
            self.index.remove(&topic.key);
        }
    }

    /// How many are needed; the others are few, and forgotten by and by.
    pub(super) fn needed(&self) -> usize {
        self.table.len() - self.idle.len()
    }

    /// The one that keeps most bytes.
    pub(super) fn heaviest(&self) -> Option<u32> {
        self.sizes.last().map(|(_, place)| *place)
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
        let table = Slab::<Topic>::deserialize(from)?;
        let mut all = Self::default();
        for (place, topic) in &table {
            let place = place as u32;
            all.index.insert(topic.key.clone(), place);
            if topic.idle_until != NEVER {
                all.idle.insert((topic.idle_until, place));
            }
            all.subscribers += topic.counted as usize;
            let bytes = topic.log.as_ref().map_or(0, |log| log.bytes);
            if bytes > 0 {
                all.sizes.insert((bytes, place));
                all.bytes += bytes;
            }
        }
        all.table = table;
        Ok(all)
    }
}
