//! Room for what is to be kept: the limits of a log, of all logs together and of the memory,
//! and what is given up next where one of them is reached.
//!
//! [`retention`](super::retention) carries it out, and decides what is kept at all.

use super::Log;
use super::entries::LogEntry;
use super::publisher_quota::{Author, Excess, Incoming, MayGo, Measure, ShareBase, may_hold};
use super::usage::{RankedLog, UsageIndex};
use crate::hub::RequestResult;
use crate::hub::channel::topic::Topic;
use crate::hub::channel::topics::{TopicId, Topics};
use crate::hub::memory_pressure::{LOG, TOPIC};
use crate::hub::settings::{Limits, Policy};

/// What there is too little of for one more message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shortage {
    /// All that is kept together has a limit.
    Store,
    /// What only the memory has, and the index of all, has another.
    Memory,
}

/// What is given up, and of which log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Victim {
    /// The oldest receipt: what was published is worth more.
    Receipt(TopicId),
    /// The message at a position.
    Message(TopicId, u64),
}

impl Victim {
    pub(super) fn id(self) -> TopicId {
        match self {
            Self::Receipt(id) | Self::Message(id, _) => id,
        }
    }
}

/// The next step on the way to enough room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RoomStep {
    /// There is enough.
    Enough,
    GiveUp(Victim),
    /// There is too little, and nothing that may go.
    Stuck,
}

/// Room that a log needs: for one more message, or for what it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    id: TopicId,
    incoming: Option<Incoming>,
}

impl Demand {
    pub(super) fn new(id: TopicId, incoming: Option<Incoming>) -> Self {
        Self { id, incoming }
    }

    pub(super) fn id(&self) -> TopicId {
        self.id
    }

    fn size(&self) -> usize {
        self.incoming.map_or(0, Incoming::size)
    }
}

/// How much of what is kept the disk takes.
#[derive(Debug, Default)]
pub(in crate::hub) struct StoreRoom {
    /// As the store has reported; nothing, while it is not known.
    bytes: Option<usize>,
    /// More is kept than that, and something of it may go.
    is_over: bool,
    excess: Excess,
}

impl StoreRoom {
    /// Whether more is kept than the disk takes, and something of it may go.
    pub(in crate::hub) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn set_bytes(&mut self, bytes: Option<u64>) {
        self.bytes = bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// What all logs may hold together.
    fn limit(&self, limits: &Limits) -> usize {
        self.bytes.map_or(limits.kept_bytes, |bytes| bytes.min(limits.kept_bytes))
    }

    fn share_base(&self, limits: &Limits) -> ShareBase {
        let memory = usize::try_from(memory_limit(limits)).unwrap_or(usize::MAX);
        ShareBase::new(self.limit(limits), memory)
    }

    /// Whether so much more may be kept of a publisher that no other message pushes out.
    pub(in crate::hub) fn may_hold(&self, topics: &Topics, limits: &Limits, author: Author) -> RequestResult {
        may_hold(topics.usage(), self.limit(limits), author)
    }

    /// Begins to fit what is kept into the store.
    pub(super) fn start_fitting(&mut self) {
        self.is_over = false;
    }

    /// What is given up next of what does not fit into the store: of the log that holds most,
    /// as for an incoming message.
    pub(super) fn next_unfitting(&mut self, topics: &Topics, limits: &Limits) -> Option<Victim> {
        if topics.usage().sum().bytes() <= self.limit(limits) {
            return None;
        }
        let base = self.share_base(limits);
        let victim = match self.excess.next(topics, base, MayGo::NotDurable) {
            Some(victim) => victim,
            None => {
                let id = topics.usage().heaviest()?.id();
                let log = topics.log(id)?;
                match first_to_go(topics, id, Measure::Bytes, None, |entry| !entry.is_durable()) {
                    Some(seq) if !log.is_mostly_receipts() => Victim::Message(id, seq),
                    _ => Victim::Receipt(id),
                }
            }
        };
        self.is_over = true;
        Some(victim)
    }

    /// Where the disk takes less than what is kept, one more message may leave it at so much:
    /// what others have too much they give up by and by. Where none of them may, for all of it
    /// is durable, its log gives up as much again.
    pub(super) fn most_with(topics: &Topics, demand: &Demand) -> usize {
        let usage = topics.usage();
        let again = if usage.heaviest().is_some() { 0 } else { demand.size() };
        usage.sum().bytes().saturating_sub(again)
    }

    /// Whether an incoming message can have room at all: otherwise its log would give up what
    /// it has for one that is not kept in the end.
    pub(super) fn can_have_room(&self, topics: &Topics, limits: &Limits, demand: &Demand) -> bool {
        let size = demand.size();
        if size == 0 {
            return true;
        }
        let usage = topics.usage();
        let own = topics.log(demand.id).map(Log::counted).unwrap_or_default();
        let limit = self.limit(limits).max(Self::most_with(topics, demand)).min(limits.kept_bytes);
        let store = (usage.sum().bytes() + size).saturating_sub(limit);
        let memory = held_with(topics, demand).saturating_sub(memory_limit(limits));
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        let others_give = |lacking| lacking == 0 || self.others_give(topics, limits, demand, lacking);
        let gives_way = |log: RankedLog| log.id() != demand.id && log.bytes() > size;
        others_give(store.saturating_sub(own.bytes()))
            && (usage.heaviest_volatile().is_some_and(gives_way)
                || others_give(memory.saturating_sub(own.kept_memory())))
    }

    /// Whether other logs give up so much for an incoming message: each what it has more than
    /// that.
    fn others_give(&self, topics: &Topics, limits: &Limits, demand: &Demand, mut lacking: usize) -> bool {
        /// So many are looked at; where there are more, they have it.
        const LOOKED_AT: usize = 16;
        if !may_evict_others(topics, demand.id) {
            return false;
        }
        lacking = lacking.saturating_sub(self.share_base(limits).excess_bytes(topics.usage()));
        if lacking == 0 {
            return true;
        }
        let size = demand.size();
        let others = topics.usage().heavier_than(size).filter(|other| other.id() != demand.id);
        for (count, other) in others.enumerate() {
            lacking = lacking.saturating_sub(other.bytes() - size);
            if lacking == 0 || count == LOOKED_AT {
                return true;
            }
        }
        false
    }

    /// What is given up next for a log. Where the disk takes less than what is kept, one more
    /// message may leave it at `most`: its log does not pay for all others.
    pub(super) fn next_victim(
        &mut self,
        topics: &mut Topics,
        limits: &Limits,
        demand: &Demand,
        most: usize,
    ) -> RoomStep {
        let Some(lack) = self.shortage(topics, limits, demand, most) else { return RoomStep::Enough };
        let may_go = which_may_go(topics.usage(), lack);
        if may_evict_others(topics, demand.id)
            && let Some(victim) = self.excess.next(topics, self.share_base(limits), may_go)
        {
            return RoomStep::GiveUp(victim);
        }
        victim(topics, demand, may_go).map_or(RoomStep::Stuck, RoomStep::GiveUp)
    }

    /// What is too little for one more message of a log. The index of what is kept
    /// is in memory wherever the messages are, and a short message in each of very
    /// many channels is little to read and much to hold: were that not bounded,
    /// messages without a reader would push out the connections.
    fn shortage(&self, topics: &Topics, limits: &Limits, demand: &Demand, most: usize) -> Option<Shortage> {
        let with_it = topics.usage().sum().bytes() + demand.size();
        let is_incoming_too_much = demand.size() > 0 && with_it > self.limit(limits).max(most);
        if is_incoming_too_much || with_it > limits.kept_bytes {
            return Some(Shortage::Store);
        }
        (held_with(topics, demand) > memory_limit(limits)).then_some(Shortage::Memory)
    }
}

/// How much of the memory keeping may take.
fn memory_limit(limits: &Limits) -> u64 {
    limits.memory as u64 / 2
}

/// What keeping takes of the memory, an incoming message counted.
fn held_with(topics: &Topics, demand: &Demand) -> u64 {
    let usage = topics.usage();
    let is_new = topics.log(demand.id).is_none_or(|log| log.counted().bytes() == 0);
    let logs = (usage.logs() + usize::from(is_new)) as u64;
    (usage.sum().kept_memory() + demand.size()) as u64 + logs * (TOPIC + LOG)
}

/// What is written about evictions must not cause others.
fn may_evict_others(topics: &Topics, id: TopicId) -> bool {
    topics.at(id).is_some_and(|topic| !topic.is_undelivered())
}

/// Which messages are worth giving up: where the index takes more than what no disk has, the
/// latter would be the wrong thing, again and again.
fn which_may_go(usage: &UsageIndex, lack: Shortage) -> MayGo {
    match lack {
        Shortage::Memory if usage.sum().volatile() >= usage.sum().index_bytes() => MayGo::Volatile,
        _ => MayGo::NotDurable,
    }
}

/// Which log gives what up: the one that has most, the incoming message counted; none where
/// that is the incoming message itself. What is durable goes for its own log alone.
fn victim(topics: &mut Topics, demand: &Demand, may_go: MayGo) -> Option<Victim> {
    let is_volatile = may_go == MayGo::Volatile;
    let most = if is_volatile { topics.usage().heaviest_volatile() } else { topics.usage().heaviest() };
    let topic = topics.at(demand.id)?;
    let own = topic.log().map(Log::counted).unwrap_or_default();
    let own = demand.size() + if is_volatile { own.volatile() } else { own.bytes() };
    let other = most.filter(|most| most.bytes() > own && !topic.is_undelivered());
    let id = other.map_or(demand.id, RankedLog::id);
    let incoming = demand.incoming.filter(|_| id == demand.id);
    let first = match may_go {
        MayGo::Volatile => first_volatile(topics, id, incoming),
        MayGo::NotDurable => {
            let may_go = |entry: &LogEntry| id == demand.id || !entry.is_durable();
            first_to_go(topics, id, Measure::Bytes, incoming, may_go)
        }
    };
    let log = topics.log(id)?;
    match first {
        Some(seq) if !log.is_mostly_receipts() => Some(Victim::Message(id, seq)),
        _ => log.has_receipts().then_some(Victim::Receipt(id)),
    }
}

/// Which message of a log goes first, of those that may: the oldest. What several sent to
/// a user is not all pushed out by the one who sends most: there it is the oldest of that
/// one.
fn first_to_go(
    topics: &Topics,
    id: TopicId,
    measure: Measure,
    incoming: Option<Incoming>,
    may_go: impl Fn(&LogEntry) -> bool,
) -> Option<u64> {
    let topic = topics.at(id)?;
    let entries = topic.log()?.entries();
    if topic.is_inbox() {
        return entries.first_of_largest(measure, incoming, may_go);
    }
    entries.iter().find(|entry| may_go(entry)).map(LogEntry::seq)
}

/// The same, of those that only the memory has, and whose publisher does not wait.
fn first_volatile(topics: &mut Topics, id: TopicId, incoming: Option<Incoming>) -> Option<u64> {
    let topic = topics.at_mut(id)?;
    if topic.is_inbox() {
        return topic.log()?.entries().first_of_largest(Measure::Bytes, incoming, LogEntry::is_volatile);
    }
    topic.log_mut()?.first_volatile()
}

/// Which message of a log goes next because its policy keeps no more.
pub(super) fn next_over_policy(topics: &Topics, demand: &Demand, policy: &Policy) -> Option<u64> {
    let entries = topics.at(demand.id).and_then(Topic::log)?.entries();
    let count = policy.count.saturating_sub(usize::from(demand.incoming.is_some()));
    let measure = if entries.len() > count {
        Measure::Messages
    } else if entries.bytes() + demand.size() > policy.bytes {
        Measure::Bytes
    } else {
        return None;
    };
    first_to_go(topics, demand.id, measure, demand.incoming, |_| true)
}
