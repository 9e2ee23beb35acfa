//! Making room for what is to be kept.
//!
//! Knows the limits of a log, of all logs together and of the memory, and who
//! gives something up when one is reached. Does not know what is worth keeping;
//! that is in [`retention`](super::retention).

use super::Log;
use super::entry::{ENTRY, LogEntry};
use super::publisher_quota::{Measure, Newcomer};
use crate::hub::Hub;
use crate::hub::channel::topics::Topic;
use crate::hub::event::{Anomaly, Cx, DeliveryOutcome, Effect, Effects, LogKey};
use crate::hub::memory_pressure::{LOG, TOPIC};
use crate::hub::settings::Policy;
use crate::protocol::frame::GapCause;

/// What there is too little of for one more message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shortage {
    /// All that is kept together has a limit.
    Store,
    /// What only the memory has, and the index of all, has another.
    Memory,
}

/// How much of what is kept the disk takes.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::hub) struct StoreRoom {
    /// As it was told last; nothing, while it is not known.
    bytes: Option<usize>,
    /// More is kept than that, and something of it may go.
    pub(in crate::hub) is_over: bool,
}

/// So many messages are given up at a time, where the disk takes less than was thought:
/// everybody else has a turn in between.
const AT_ONCE: usize = 500;

/// What is given up.
enum Victim {
    /// The oldest receipt of a log: what was said is worth more.
    Receipt,
    /// The message at a position.
    Message(u64),
}

impl Hub {
    /// What all logs may hold together.
    pub(in crate::hub) fn kept_limit(&self) -> usize {
        let limit = self.settings.limits.kept_bytes;
        self.store_room.bytes.map_or(limit, |bytes| bytes.min(limit))
    }

    /// The disk has told how much it takes.
    pub(in crate::hub) fn capacity(&mut self, cx: &mut Cx<'_>, bytes: Option<u64>) {
        self.store_room.bytes = bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        self.fit_into_store(cx);
    }

    /// Gives up some of what is kept and does not fit into the store: of the log that
    /// holds most, as for a newcomer.
    pub(in crate::hub) fn fit_into_store(&mut self, cx: &mut Cx<'_>) {
        self.store_room.is_over = false;
        let mut changed: Option<u32> = None;
        for _ in 0..AT_ONCE {
            if self.channels.weights.sum.bytes <= self.kept_limit() {
                break;
            }
            let excess = self.first_of_excess(false);
            let heaviest = || self.channels.weights.heaviest().map(|(_, victim)| victim);
            let Some(victim) = excess.map(|(victim, _)| victim).or_else(heaviest) else { break };
            let first = match excess {
                Some((_, seq)) => Some(seq),
                None => self.first_to_go(victim, Measure::Bytes, None, |kept| !kept.durable),
            };
            let Some(log) = self.log(victim) else { break };
            match first {
                Some(seq) if excess.is_some() || !log.is_mostly_receipts() => self.evict(victim, seq, cx.out),
                _ => self.drop_receipt(victim),
            }
            self.channels.weigh(victim);
            if let Some(before) = changed.replace(victim).filter(|before| *before != victim) {
                self.settle_victim(cx, before);
            }
            self.store_room.is_over = true;
        }
        if let Some(last) = changed {
            self.settle_victim(cx, last);
            cx.out.push(Effect::LogAnomaly(Anomaly::KeptLimit { is_newcomer_lost: false }));
        }
    }

    pub(in crate::hub) fn settle_victim(&mut self, cx: &mut Cx<'_>, place: u32) {
        self.settle(cx.now, place);
        self.advance_all(cx, place);
    }

    /// Makes room for one more message of a log; whether there is any. Those who
    /// gave something up for it are noted in `others`, for the readers that they
    /// may have.
    pub(in crate::hub) fn find_room(
        &mut self,
        place: u32,
        policy: &Policy,
        newcomer: Newcomer,
        others: &mut Vec<u32>,
        out: &mut Effects,
    ) -> bool {
        let policy = Policy { count: policy.count.saturating_sub(1), ..*policy };
        self.give_way(place, &policy, Some(newcomer), others, out)
    }

    /// Gives up what of a log is over its limits, and those of all, now that it
    /// has grown otherwise than by a newcomer.
    pub(in crate::hub) fn trim(&mut self, cx: &mut Cx<'_>, place: u32) {
        let Some(topic) = self.channels.at(place) else { return };
        let policy = self.policy_of(&topic.key);
        let mut others = Vec::new();
        self.give_way(place, &policy, None, &mut others, cx.out);
        self.settle(cx.now, place);
        for other in others {
            self.settle_victim(cx, other);
        }
    }

    fn give_way(
        &mut self,
        place: u32,
        policy: &Policy,
        newcomer: Option<Newcomer>,
        others: &mut Vec<u32>,
        out: &mut Effects,
    ) -> bool {
        let size = newcomer.map_or(0, |newcomer| newcomer.size as usize);
        let most = self.most_for_a_newcomer(size);
        if size > 0 && !self.can_have_room(place, size, most) {
            out.push(Effect::LogAnomaly(Anomaly::KeptLimit { is_newcomer_lost: true }));
            return false;
        }
        let is_over = |log: &Log| match log {
            log if log.kept.len() > policy.count => Some(Measure::Messages),
            log => (log.sums.bytes + size > policy.bytes).then_some(Measure::Bytes),
        };
        while let Some(measure) = self.log(place).and_then(is_over)
            && let Some(first) = self.first_to_go(place, measure, newcomer, |_| true)
        {
            self.evict(place, first, out);
        }
        self.channels.weigh(place);
        let mut is_short = false;
        // Its own log may have made room already.
        let most = self.most_for_a_newcomer(size);
        let has_room = loop {
            let Some(lack) = self.lack(place, size, most) else { break true };
            is_short = true;
            let may_take = !self.tells_of_others(place);
            let is_loose = self.wants_loose(lack);
            if let Some((victim, seq)) = may_take.then(|| self.first_of_excess(is_loose)).flatten() {
                self.evict(victim, seq, out);
                self.gave_way(victim, place, others);
                continue;
            }
            let Some((victim, loss)) = self.victim(place, newcomer, lack) else { break false };
            match loss {
                Victim::Message(seq) => self.evict(victim, seq, out),
                Victim::Receipt => self.drop_receipt(victim),
            }
            self.gave_way(victim, place, others);
        };
        if is_short {
            out.push(Effect::LogAnomaly(Anomaly::KeptLimit { is_newcomer_lost: !has_room }));
        }
        has_room
    }

    /// A log has given something up for a newcomer in another one, or in itself.
    fn gave_way(&mut self, victim: u32, place: u32, others: &mut Vec<u32>) {
        self.channels.weigh(victim);
        if victim != place && !others.contains(&victim) {
            others.push(victim);
        }
    }

    /// What tells of evictions must not cause others.
    fn tells_of_others(&self, place: u32) -> bool {
        self.channels.at(place).is_none_or(Topic::tells_of_others)
    }

    /// Where the disk takes less than what is kept, a newcomer may leave it at so much: what
    /// others have too much they give up by and by. Where none of them may, for all of it is
    /// durable, its log gives up as much again.
    fn most_for_a_newcomer(&self, size: usize) -> usize {
        let weights = &self.channels.weights;
        let again = if weights.heaviest().is_some() { 0 } else { size };
        weights.sum.bytes.saturating_sub(again)
    }

    /// Whether a newcomer can have room at all: otherwise its log would give up what it has
    /// for one that is not kept in the end.
    fn can_have_room(&self, place: u32, size: usize, most: usize) -> bool {
        let weights = &self.channels.weights;
        let own = self.log(place).map(|log| log.weighed).unwrap_or_default();
        let limit = self.kept_limit().max(most).min(self.settings.limits.kept_bytes);
        let store = (weights.sum.bytes + size).saturating_sub(limit);
        let memory = self.held_with(place, size).saturating_sub(self.memory_limit());
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        let own_memory = own.unstored + own.stored as usize * ENTRY;
        let others_give = |lacking| lacking == 0 || self.others_give(place, size, lacking);
        let is_loose = |(bytes, other): (usize, u32)| other != place && bytes > size;
        others_give(store.saturating_sub(own.bytes))
            && (weights.loosest().is_some_and(is_loose) || others_give(memory.saturating_sub(own_memory)))
    }

    /// Whether other logs give up so much for a newcomer: each what it has more than that.
    fn others_give(&self, place: u32, size: usize, mut lacking: usize) -> bool {
        /// So many are looked at; where there are more, they have it.
        const LOOKED_AT: usize = 16;
        if self.tells_of_others(place) {
            return false;
        }
        lacking = lacking.saturating_sub(self.can_give_up());
        if lacking == 0 {
            return true;
        }
        let others = self.channels.weights.heavier_than(size).filter(|(_, other)| *other != place);
        for (count, (bytes, _)) in others.enumerate() {
            lacking = lacking.saturating_sub(bytes - size);
            if lacking == 0 || count == LOOKED_AT {
                return true;
            }
        }
        false
    }

    fn log(&self, place: u32) -> Option<&Log> {
        self.channels.at(place).and_then(|topic| topic.log.as_deref())
    }

    /// What is too little for one more message of a log. The index of what is kept
    /// is in memory wherever the messages are, and a short message in each of very
    /// many channels is little to read and much to hold: were that not bounded,
    /// messages that wait for nobody would throw out those who are here.
    ///
    /// Where the disk takes less than what is kept, a newcomer may leave it at `most`: its
    /// log does not pay for all others.
    fn lack(&self, place: u32, size: usize, most: usize) -> Option<Shortage> {
        let sum = &self.channels.weights.sum;
        let is_newcomer_too_much = size > 0 && sum.bytes + size > self.kept_limit().max(most);
        if is_newcomer_too_much || sum.bytes + size > self.settings.limits.kept_bytes {
            return Some(Shortage::Store);
        }
        (self.held_with(place, size) > self.memory_limit()).then_some(Shortage::Memory)
    }

    /// What keeping takes of the memory, a newcomer counted.
    fn held_with(&self, place: u32, size: usize) -> u64 {
        let sum = &self.channels.weights.sum;
        let is_new = self.log(place).is_none_or(|log| log.weighed.bytes == 0);
        let logs = (self.channels.weights.logs + usize::from(is_new)) as u64;
        (sum.unstored + sum.stored as usize * ENTRY + size) as u64 + logs * (TOPIC + LOG)
    }

    /// How much of the memory keeping may take.
    pub(in crate::hub) fn memory_limit(&self) -> u64 {
        self.settings.limits.memory as u64 / 2
    }

    /// Whether only what no disk has is worth giving up: where the index takes more than that,
    /// it would be the wrong thing, again and again.
    fn wants_loose(&self, lack: Shortage) -> bool {
        let sum = &self.channels.weights.sum;
        lack == Shortage::Memory && sum.loose >= sum.stored as usize * ENTRY
    }

    /// Which log gives what up for a newcomer of `size` bytes in the log at `own`:
    /// the one that has most, the newcomer counted; none where that is the newcomer
    /// itself. What is durable goes for its own log alone.
    fn victim(&mut self, own: u32, newcomer: Option<Newcomer>, lack: Shortage) -> Option<(u32, Victim)> {
        let size = newcomer.map_or(0, |newcomer| newcomer.size as usize);
        let is_loose = self.wants_loose(lack);
        let weights = &self.channels.weights;
        let most = if is_loose { weights.loosest() } else { weights.heaviest() };
        let topic = self.channels.at(own)?;
        let weighed = topic.log.as_ref().map(|log| log.weighed).unwrap_or_default();
        let mine = size + if is_loose { weighed.loose } else { weighed.bytes };
        // What tells of evictions must not cause others.
        let other = most.filter(|(bytes, _)| *bytes > mine && !topic.tells_of_others());
        let victim = other.map_or(own, |(_, place)| place);
        let newcomer = newcomer.filter(|_| victim == own);
        let first = match is_loose {
            true => self.first_loose(victim, newcomer),
            false => {
                self.first_to_go(victim, Measure::Bytes, newcomer, |kept| victim == own || !kept.durable)
            }
        };
        let log = self.log(victim)?;
        match first {
            Some(seq) if !log.is_mostly_receipts() => Some((victim, Victim::Message(seq))),
            _ if log.receipts.is_empty() => None,
            _ => Some((victim, Victim::Receipt)),
        }
    }

    /// Which message of a log goes first, of those that may: the oldest. What several sent to
    /// a user is not all pushed out by the one who sends most: there it is the oldest of that
    /// one.
    fn first_to_go(
        &self,
        place: u32,
        measure: Measure,
        newcomer: Option<Newcomer>,
        may_go: impl Fn(&LogEntry) -> bool,
    ) -> Option<u64> {
        let topic = self.channels.at(place)?;
        let log = topic.log.as_deref()?;
        match &topic.key {
            LogKey::Inbox(_) => log.first_of_largest(measure, newcomer, may_go),
            LogKey::Channel(_) => log.kept.iter().find(|kept| may_go(kept)).map(|kept| kept.seq),
        }
    }

    /// The same, of those that only the memory has and nobody waits for.
    fn first_loose(&mut self, place: u32, newcomer: Option<Newcomer>) -> Option<u64> {
        let topic = self.channels.at_mut(place)?;
        let log = topic.log.as_mut()?;
        match &topic.key {
            LogKey::Inbox(_) => {
                log.first_of_largest(Measure::Bytes, newcomer, |kept| !kept.stored && !kept.durable)
            }
            LogKey::Channel(_) => log.first_loose(),
        }
    }

    /// Whoever wants it does not hear of it.
    fn drop_receipt(&mut self, place: u32) {
        if let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) {
            log.receipts.pop_front();
        }
    }

    fn evict(&mut self, place: u32, seq: u64, out: &mut Effects) {
        let Some(topic) = self.channels.at(place) else { return };
        let Some(kept) = topic.log.as_ref().and_then(|log| log.find(seq).copied()) else { return };
        if self.reached_nobody(topic, &kept, DeliveryOutcome::Evicted) {
            self.look_up(place, &[(seq, 1)], DeliveryOutcome::Evicted, out);
        }
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(log) = &mut topic.log else { return };
        log.take(seq);
        topic.lose(seq, GapCause::Evicted);
        self.counters.messages_evicted += 1;
        out.push(Effect::Truncate { log: topic.key.clone(), from: seq, to: seq });
    }
}
