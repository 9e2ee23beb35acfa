//! All topics: the table, the sums over it, and those that are idle.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use hashbrown::HashTable;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use slab::Slab;

use super::presence::Presence;
use super::topic::Topic;
use crate::hub::event::LogKey;
use crate::hub::log::Log;
use crate::hub::log::usage::UsageIndex;
use crate::hub::timers::{NEVER, Timers, round_up};
use crate::protocol::{Channel, Moment, UserId};
use crate::small_queue::gather;

/// A channel without subscribers keeps its position for so long, so that a client that
/// reconnects after a broken link finds that it has missed nothing.
const IDLE: Duration = Duration::from_secs(300);

/// Tables of fewer topics are not worth shrinking.
const FEW: usize = 64;

/// At some two hundred bytes each, a megabyte at worst.
const MAX_IDLE: usize = 4096;

/// The place of a topic in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::hub) struct TopicId(u32);

impl TopicId {
    pub(in crate::hub) fn of_number(number: u32) -> Self {
        Self(number)
    }

    pub(in crate::hub) fn number(self) -> u32 {
        self.0
    }

    fn of_place(place: usize) -> Self {
        Self(place as u32)
    }

    fn place(self) -> usize {
        self.0 as usize
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
    index: HashTable<TopicId>,
    /// Keyed at random: which names collide cannot be guessed.
    hasher: RandomState,
    /// Those that are not needed, by the moment at which they are forgotten.
    idle: BTreeSet<(Moment, TopicId)>,
    /// So many more may be idle than usual: those that had subscribers when the last
    /// hub stopped, or this one does, which come back.
    returning: usize,
    /// What all of them keep together.
    usage: UsageIndex,
    /// Subscribers of all of them together.
    subscriptions: usize,
    /// Bytes in the names of those that are needed.
    name_bytes: usize,
    /// Bytes that the presence of all takes.
    presence_bytes: usize,
}

/// The table.
impl Topics {
    pub(in crate::hub) fn find(&self, key: &LogKey) -> Option<TopicId> {
        let is_meant = |id: &TopicId| self.at(*id).is_some_and(|topic| topic.key() == key);
        self.index.find(self.hasher.hash_one(key), is_meant).copied()
    }

    pub(in crate::hub) fn find_channel(&self, channel: &Channel) -> Option<TopicId> {
        self.find(&LogKey::Channel(channel.clone()))
    }

    pub(in crate::hub) fn find_inbox(&self, user: &UserId) -> Option<TopicId> {
        self.find(&LogKey::Inbox(user.clone()))
    }

    /// Makes room for so many more: a table that grows by and by looks at all names again
    /// each time.
    fn reserve(&mut self, count: usize) {
        let (table, hasher) = (&self.table, &self.hasher);
        let hash = |id: &TopicId| table.get(id.place()).map_or(0, |topic| hasher.hash_one(topic.key()));
        self.index.reserve(count, hash);
    }

    /// So many are read back that had subscribers or kept something when the last hub stopped.
    pub(in crate::hub) fn expect_back(&mut self, count: usize) {
        // A count beyond this is wrong: the file has no bytes for so many.
        const MAX_RESERVED: usize = 1 << 20;
        self.reserve(count.min(MAX_RESERVED));
        self.returning = count;
    }

    /// No idle topic is forgotten before its time any more: the hub stops.
    pub(in crate::hub) fn keep_idle(&mut self) {
        self.returning = usize::MAX;
    }

    /// Adds a topic that is not there. The caller refreshes it.
    pub(in crate::hub) fn insert(&mut self, topic: Topic) -> TopicId {
        self.name_bytes += topic.name_bytes();
        let id = TopicId::of_place(self.table.insert(topic));
        self.most = self.most.max(self.table.len());
        self.enter(id);
        id
    }

    /// Makes a topic of the table known by its key.
    fn enter(&mut self, id: TopicId) {
        let (table, hasher) = (&self.table, &self.hasher);
        // Only what is in the table is in the index.
        let hash = |id: &TopicId| table.get(id.place()).map_or(0, |topic| hasher.hash_one(topic.key()));
        self.index.insert_unique(hash(&id), id, hash);
    }

    /// Takes a topic out of both.
    fn remove(&mut self, id: TopicId) {
        let Some(topic) = self.table.get(id.place()) else {
            debug_assert!(false, "an idle topic is in the table");
            return;
        };
        let hash = self.hasher.hash_one(topic.key());
        if let Ok(entry) = self.index.find_entry(hash, |found| *found == id) {
            entry.remove();
        }
        self.table.remove(id.place());
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
        let hash = |id: &TopicId| table.get(id.place()).map_or(0, |topic| hasher.hash_one(topic.key()));
        self.index.shrink_to(2 * table.len(), hash);
        self.usage.gather();
        gather(&mut self.idle);
    }

    pub(in crate::hub) fn at(&self, id: TopicId) -> Option<&Topic> {
        self.table.get(id.place())
    }

    pub(in crate::hub) fn at_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        self.table.get_mut(id.place())
    }

    /// The topic at a place that cannot be free: it is in use, or was found since any topic was
    /// forgotten.
    #[track_caller]
    pub(in crate::hub) fn existing(&self, id: TopicId) -> Option<&Topic> {
        let topic = self.at(id);
        debug_assert!(topic.is_some(), "a topic in use is in the table");
        topic
    }

    #[track_caller]
    pub(in crate::hub) fn existing_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        let topic = self.at_mut(id);
        debug_assert!(topic.is_some(), "a topic in use is in the table");
        topic
    }

    pub(in crate::hub) fn log(&self, id: TopicId) -> Option<&Log> {
        self.at(id)?.log()
    }

    pub(in crate::hub) fn log_mut(&mut self, id: TopicId) -> Option<&mut Log> {
        self.at_mut(id)?.log_mut()
    }

    pub(in crate::hub) fn len(&self) -> usize {
        self.table.len()
    }

    pub(in crate::hub) fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.table.iter().map(|(_, topic)| topic)
    }

    /// What the disk has of any of them cannot be read from now on.
    pub(in crate::hub) fn detach_all_from_disk(&mut self) {
        self.table.iter_mut().for_each(|(_, topic)| topic.detach_from_disk());
    }

    /// Those with readers.
    pub(in crate::hub) fn reading(&self) -> Vec<TopicId> {
        self.with_log(Log::has_readers)
    }

    /// Those whose log satisfies a condition.
    pub(in crate::hub) fn with_log(&self, is_wanted: impl Fn(&Log) -> bool) -> Vec<TopicId> {
        self.ids(|topic| topic.log().is_some_and(&is_wanted))
    }

    /// Those whose presence is counted.
    pub(in crate::hub) fn with_presence(&self) -> Vec<TopicId> {
        self.ids(|topic| topic.presence().is_some())
    }

    fn ids(&self, is_wanted: impl Fn(&Topic) -> bool) -> Vec<TopicId> {
        let wanted = self.table.iter().filter(|(_, topic)| is_wanted(topic));
        wanted.map(|(place, _)| TopicId::of_place(place)).collect()
    }
}

/// Sums over all of them, and those that are not needed.
impl Topics {
    /// What all of them keep together.
    pub(in crate::hub) fn usage(&self) -> &UsageIndex {
        &self.usage
    }

    /// Subscribers of all of them together.
    pub(in crate::hub) fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Bytes in the names of those that are needed, and in the presence of all.
    pub(in crate::hub) fn held_bytes(&self) -> usize {
        self.name_bytes + self.presence_bytes
    }

    /// How many are needed; the others are few, and forgotten by and by.
    pub(in crate::hub) fn needed(&self) -> usize {
        self.table.len() - self.idle.len()
    }

    /// Brings up to date what is derived from a topic: its timer, its share in the sums, and
    /// whether it is needed.
    pub(in crate::hub) fn refresh(&mut self, now: Moment, id: TopicId, timers: &mut Timers) {
        let Some(topic) = self.table.get_mut(id.place()) else { return };
        self.subscriptions -= topic.counted();
        topic.count_subscribers();
        self.subscriptions += topic.counted();
        if let Some(log) = topic.log_mut() {
            log.rearm(id, timers);
            self.usage.update(id, log);
        }
        topic.tidy();
        let (was_until, is_needed) = (topic.idle_until(), topic.is_needed());
        if is_needed != (was_until == NEVER) {
            self.idle.remove(&(was_until, id));
            if is_needed {
                topic.set_idle_until(NEVER);
                self.name_bytes += topic.name_bytes();
            } else {
                let until = round_up(now + IDLE);
                topic.set_idle_until(until);
                self.name_bytes -= topic.name_bytes();
                self.idle.insert((until, id));
            }
        }
        if self.idle.len() > MAX_IDLE.saturating_add(self.returning) {
            self.forget_first();
        }
    }

    /// Brings the sums over all logs up to date with one of them.
    pub(in crate::hub) fn weigh(&mut self, id: TopicId) {
        if let Some(log) = self.table.get_mut(id.place()).and_then(Topic::log_mut) {
            self.usage.update(id, log);
        }
    }

    /// Puts another presence into a topic; the one that was there.
    pub(super) fn set_presence(
        &mut self,
        id: TopicId,
        presence: Option<Box<Presence>>,
    ) -> Option<Box<Presence>> {
        let held = |presence: &Option<Box<Presence>>| presence.as_ref().map_or(0, |presence| presence.held());
        let topic = self.table.get_mut(id.place())?;
        let is = held(&presence);
        let was = topic.replace_presence(presence);
        self.presence_bytes = self.presence_bytes + is - held(&was);
        was
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
        if self.idle.len() <= MAX_IDLE {
            self.returning = 0;
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, id)) = self.idle.pop_first() {
            self.remove(id);
        }
    }

    /// Forgets an idle topic at once.
    pub(in crate::hub) fn forget_now(&mut self, id: TopicId) {
        let Some(topic) = self.at(id) else { return };
        if self.idle.remove(&(topic.idle_until(), id)) {
            self.remove(id);
        }
    }
}

/// The table alone is written; the rest follows from it.
impl Serialize for Topics {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.table.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Topics {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut all = Self { table: Slab::deserialize(from)?, ..Self::default() };
        let ids = all.ids(|_| true);
        all.reserve(ids.len());
        for id in ids {
            all.enter(id);
            let Some(topic) = all.table.get_mut(id.place()) else {
                debug_assert!(false, "these are the places of the table");
                continue;
            };
            if let Some(log) = topic.log_mut() {
                all.usage.update(id, log);
                all.usage.count_publishers(log);
            }
            if topic.idle_until() == NEVER {
                all.name_bytes += topic.name_bytes();
            } else {
                all.idle.insert((topic.idle_until(), id));
            }
            all.presence_bytes += topic.presence().map_or(0, Presence::held);
            all.subscriptions += topic.counted();
        }
        all.most = all.table.len();
        Ok(all)
    }
}
