//! Making room for what is to be kept.
//!
//! Knows the limits of a log, of all logs together and of the memory, and who
//! gives something up when one is reached. Does not know what is worth keeping;
//! that is in [`keeping`](super::keeping).

use super::Hub;
use super::event::{Anomaly, Effect, Effects, Fate, Now};
use super::kept::ENTRY;
use super::logs::Log;
use super::memory::{LOG, TOPIC};
use super::settings::Policy;
use crate::protocol::frame::GapCause;

/// What there is too little of for one more message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lack {
    /// All that is kept together has a limit.
    Store,
    /// What only the memory has, and the index of all, has another.
    Memory,
}

/// What is given up.
enum Loss {
    /// The oldest receipt of a log: what was said is worth more.
    Receipt,
    /// The message at a position.
    Message(u64),
}

impl Hub {
    /// Makes room for one more message of a log; whether there is any. Those who
    /// gave something up for it are noted in `others`, for the readers that they
    /// may have.
    pub(super) fn find_room(
        &mut self,
        place: u32,
        policy: &Policy,
        size: usize,
        others: &mut Vec<u32>,
        out: &mut Effects,
    ) -> bool {
        let policy = Policy { count: policy.count.saturating_sub(1), ..*policy };
        self.give_way(place, &policy, size, others, out)
    }

    /// Gives up what of a log is over its limits, and those of all, now that it
    /// has grown otherwise than by a newcomer.
    pub(super) fn trim(&mut self, now: Now, place: u32, out: &mut Effects) {
        let Some(topic) = self.channels.at(place) else { return };
        let policy = self.policy_of(&topic.key);
        let mut others = Vec::new();
        self.give_way(place, &policy, 0, &mut others, out);
        self.settle(now, place);
        for other in others {
            self.settle(now, other);
            self.advance_all(now, other, out);
        }
    }

    fn give_way(
        &mut self,
        place: u32,
        policy: &Policy,
        size: usize,
        others: &mut Vec<u32>,
        out: &mut Effects,
    ) -> bool {
        let is_over = |log: &Log| log.kept.len() > policy.count || log.sums.bytes + size > policy.bytes;
        while let Some(log) = self.log(place)
            && is_over(log)
            && let Some(oldest) = log.kept.front().map(|kept| kept.seq)
        {
            self.evict(place, oldest, out);
        }
        self.channels.weigh(place);
        let mut is_short = false;
        let has_room = loop {
            let Some(lack) = self.lack(place, size) else { break true };
            is_short = true;
            let Some((victim, loss)) = self.victim(place, size, lack) else { break false };
            match loss {
                Loss::Message(seq) => self.evict(victim, seq, out),
                Loss::Receipt => self.drop_receipt(victim),
            }
            self.channels.weigh(victim);
            if victim != place && !others.contains(&victim) {
                others.push(victim);
            }
        };
        if is_short {
            out.push(Effect::Report(Anomaly::KeptLimit));
        }
        has_room
    }

    fn log(&self, place: u32) -> Option<&Log> {
        self.channels.at(place).and_then(|topic| topic.log.as_deref())
    }

    /// What is too little for one more message of a log. The index of what is kept
    /// is in memory wherever the messages are, and a short message in each of very
    /// many channels is little to read and much to hold: were that not bounded,
    /// messages that wait for nobody would throw out those who are here.
    fn lack(&self, place: u32, size: usize) -> Option<Lack> {
        let sum = &self.channels.weights.sum;
        if sum.bytes + size > self.settings.limits.kept_bytes {
            return Some(Lack::Store);
        }
        let is_new = self.log(place).is_none_or(|log| log.weighed.bytes == 0);
        let logs = (self.channels.weights.logs + usize::from(is_new)) as u64;
        let held = (sum.unstored + sum.stored * ENTRY + size) as u64 + logs * (TOPIC + LOG);
        (held > self.settings.limits.memory as u64 / 2).then_some(Lack::Memory)
    }

    /// Which log gives what up for a newcomer of `size` bytes in the log at `own`:
    /// the one that has most, the newcomer counted; none where that is the newcomer
    /// itself. What is durable goes for its own log alone.
    fn victim(&mut self, own: u32, size: usize, lack: Lack) -> Option<(u32, Loss)> {
        let weights = &self.channels.weights;
        // Where the index takes more than what is only in memory, that would be
        // the wrong thing to give up, again and again.
        let is_loose = lack == Lack::Memory && weights.sum.loose >= weights.sum.stored * ENTRY;
        let most = if is_loose { weights.loosest() } else { weights.heaviest() };
        let topic = self.channels.at(own)?;
        let weighed = topic.log.as_ref().map(|log| log.weighed).unwrap_or_default();
        let mine = size + if is_loose { weighed.loose } else { weighed.bytes };
        // What tells of evictions must not cause others.
        let other = most.filter(|(bytes, _)| *bytes > mine && !topic.tells_of_others());
        let victim = other.map_or(own, |(_, place)| place);
        let log = self.channels.at_mut(victim)?.log.as_mut()?;
        let oldest = match is_loose {
            true => log.first_loose(),
            false => log.kept.front().map(|kept| kept.seq),
        };
        match oldest {
            Some(seq) if !log.is_mostly_receipts() => Some((victim, Loss::Message(seq))),
            _ if log.receipts.is_empty() => None,
            _ => Some((victim, Loss::Receipt)),
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
        if self.reached_nobody(topic, &kept, Fate::Evicted) {
            self.look_up(place, &[(seq, 1)], Fate::Evicted, out);
        }
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(log) = &mut topic.log else { return };
        log.take(seq);
        topic.lose(seq, GapCause::Evicted);
        self.counters.messages_evicted += 1;
        out.push(Effect::Forget { log: topic.key.clone(), from: seq, to: seq });
    }
}
