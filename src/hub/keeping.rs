//! What is kept, and for how long.
//!
//! Knows policies, limits and ages, and when a message has done its duty. Does
//! not know who reads; that is in [`replay`](super::replay).

use std::rc::Rc;

use super::Hub;
use super::channels::Topic;
use super::deadlines::{NEVER, Task, round_up};
use super::event::{Anomaly, Effect, Effects, Fate, Keeping, LogKey, Now};
use super::logs::{Kept, Log, Run};
use super::replay::PAGE_MESSAGES;
use super::settings::{Keep, Policy};
use crate::protocol::frame::GapCause;
use crate::protocol::{Message, Moment};

impl Hub {
    pub(super) fn policy_of(&self, key: &LogKey) -> Policy {
        match key {
            LogKey::Inbox(_) => self.settings.inbox,
            // Its state is told to whoever comes later; its messages are for
            // those who watch.
            LogKey::Channel(channel) if channel.operation().is_some() => {
                Policy { keep: Keep::Never, ..Policy::default() }
            }
            LogKey::Channel(channel) => self.settings.policy_of(channel),
        }
    }

    /// Makes the topic of a key, or finds it.
    pub(super) fn topic(&mut self, key: LogKey) -> u32 {
        if let Some(place) = self.channels.find(&key) {
            return place;
        }
        let mut topic = Topic::new(key, self.random.next());
        if let Some(base) = self.unread {
            topic.begin_above(base);
        }
        self.channels.insert(topic)
    }

    /// Brings up to date what follows from the state of a topic.
    pub(super) fn settle(&mut self, now: Now, place: u32) {
        if let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) {
            if log.kept.is_empty() {
                log.soonest = NEVER;
            }
            let receipt = log.receipts.front().map_or(NEVER, |owed| owed.expires);
            self.deadlines.rearm(Task::Expiry(place), &mut log.armed, round_up(log.soonest.min(receipt)));
        }
        self.channels.settle(now.moment, place);
    }

    /// Puts a message into its log, where the policy has room for one of its
    /// size. Evicting what is too much is the next step: the readers that are
    /// to know of it come between.
    pub(super) fn keep(
        &mut self,
        place: u32,
        policy: &Policy,
        kept: Kept,
        message: &Rc<Message>,
        out: &mut Effects,
    ) -> bool {
        let Some(topic) = self.channels.at_mut(place) else { return false };
        let size = kept.size as usize;
        let fits = policy.count > 0 && size <= policy.bytes && size <= self.settings.limits.kept_bytes;
        if policy.keep == Keep::Never || !fits {
            topic.lose(kept.seq, GapCause::NotKept);
            return false;
        }
        topic.log.get_or_insert_default().push(kept);
        let keeping = Keeping {
            expires: kept.expires,
            since: kept.since,
            size: kept.size,
            heard: kept.heard,
            durable: false,
            disk: policy.disk,
            scope: None,
        };
        out.push(Effect::Keep {
            log: topic.key.clone(),
            message: message.clone(),
            keeping: Box::new(keeping),
        });
        true
    }

    /// Evicts what is over a log's limits, or over those of all logs together.
    pub(super) fn trim(&mut self, now: Now, place: u32, policy: &Policy, out: &mut Effects) {
        let over = |log: &Log| log.kept.len() > policy.count || log.bytes > policy.bytes;
        while self.channels.at(place).and_then(|topic| topic.log.as_deref()).is_some_and(over) {
            self.evict(place, out);
        }
        self.settle(now, place);
        let mut short = false;
        // What tells of evictions must not cause others.
        let own = self.channels.at(place).filter(|topic| topic.tells_of_others()).map(|_| place);
        while self.keeps_too_much() {
            let Some(heaviest) = own.or_else(|| self.channels.heaviest()) else { break };
            if self.channels.at(heaviest).is_none_or(|topic| topic.log.is_none()) {
                break;
            }
            short = true;
            if !self.drop_receipt(heaviest) {
                self.evict(heaviest, out);
            }
            self.settle(now, heaviest);
            if heaviest != place {
                self.advance_all(now, heaviest, out);
            }
        }
        if short {
            out.push(Effect::Report(Anomaly::KeptLimit));
        }
        self.advance_all(now, place, out);
    }

    /// Drops the oldest receipt of a log that holds little else. Whoever wants it
    /// does not hear of it; what was said is worth more.
    fn drop_receipt(&mut self, place: u32) -> bool {
        let log = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut());
        log.filter(|log| log.is_mostly_receipts()).is_some_and(|log| log.receipts.pop_front().is_some())
    }

    fn evict(&mut self, place: u32, out: &mut Effects) {
        let Some(topic) = self.channels.at(place) else { return };
        let Some(kept) = topic.log.as_ref().and_then(|log| log.kept.front().copied()) else { return };
        let first = kept.seq;
        if self.reached_nobody(topic, &kept, Fate::Evicted) {
            self.look_up(place, &[(first, 1)], Fate::Evicted, out);
        }
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(log) = &mut topic.log else { return };
        log.take(first);
        topic.lose(first, GapCause::Evicted);
        self.counters.messages_evicted += 1;
        out.push(Effect::Forget { log: topic.key.clone(), from: first, to: first });
    }

    /// The deadline of the oldest message has come.
    pub(super) fn grow_old(&mut self, now: Now, place: u32, out: &mut Effects) {
        if let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) {
            log.armed = NEVER;
        }
        self.expire(now, place, out);
    }

    /// Whether a message that is about to be lost reached nobody, in a way that is
    /// worth telling. What a user who is here was sent counts as heard, and that a
    /// history moves on is in its nature.
    fn reached_nobody(&self, topic: &Topic, kept: &Kept, fate: Fate) -> bool {
        !kept.heard
            && match self.policy_of(&topic.key).keep {
                Keep::Unacknowledged => kept.seq > topic.offered || topic.is_unheard(),
                Keep::Undelivered => true,
                Keep::History => fate == Fate::Expired,
                Keep::Never => false,
            }
    }

    /// Drops what is too old already, whose deadline was rounded up: what is
    /// counted and promised is not a moment too old.
    pub(super) fn expire_due(&mut self, now: Now, place: u32, out: &mut Effects) {
        let log = self.channels.at(place).and_then(|topic| topic.log.as_ref());
        if log.is_some_and(|log| log.soonest <= now.moment) {
            self.expire(now, place, out);
        }
    }

    /// Drops what has grown too old.
    pub(super) fn expire(&mut self, now: Now, place: u32, out: &mut Effects) {
        let old = |kept: &Kept| kept.expires <= now.moment;
        let Some(topic) = self.channels.at(place) else { return };
        if let Some(log) = &topic.log {
            let unheard =
                log.runs(PAGE_MESSAGES, |kept| old(kept) && self.reached_nobody(topic, kept, Fate::Expired));
            self.look_up(place, &unheard, Fate::Expired, out);
        }
        if let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) {
            while log.receipts.front().is_some_and(|owed| owed.expires <= now.moment) {
                log.receipts.pop_front();
            }
        }
        self.counters.messages_expired += self.drop_where(now, place, GapCause::Expired, old, out);
    }

    /// Drops all that is kept of a topic, because an administrator says so.
    pub(super) fn purge_topic(&mut self, now: Now, place: u32, out: &mut Effects) -> u64 {
        let purged = self.drop_where(now, place, GapCause::Evicted, |_| true, out);
        self.counters.messages_evicted += purged;
        purged
    }

    /// Drops what satisfies a condition; who was still to read it is told.
    fn drop_where(
        &mut self,
        now: Now,
        place: u32,
        cause: GapCause,
        goes: impl Fn(&Kept) -> bool,
        out: &mut Effects,
    ) -> u64 {
        let Some(topic) = self.channels.at_mut(place) else { return 0 };
        let Some(log) = &mut topic.log else { return 0 };
        let mut gone = Vec::new();
        let runs = log.remove(|kept| {
            let goes = goes(kept);
            if goes {
                gone.push(kept.seq);
            }
            goes
        });
        log.soonest = log.kept.iter().map(|kept| kept.expires).min().unwrap_or(NEVER);
        for seq in &gone {
            topic.lose(*seq, cause);
        }
        forget(&topic.key, &runs, out);
        self.advance_all(now, place, out);
        self.settle(now, place);
        gone.len() as u64
    }

    /// Drops one message that was just delivered: looking at all of them for each
    /// would make a replay quadratic.
    pub(super) fn sweep_one(&mut self, now: Now, place: u32, seq: u64, out: &mut Effects) {
        let Some(topic) = self.channels.at(place) else { return };
        let stays = self.policy_of(&topic.key).keep == Keep::History;
        let Some(topic) = self.channels.at_mut(place) else { return };
        if let Some(log) = &mut topic.log
            && !stays
            && log.take_delivered(seq)
        {
            forget(&topic.key, &[(seq, seq)], out);
            self.settle(now, place);
        }
    }

    /// Drops what was delivered, where the policy is to keep no more than that.
    pub(super) fn sweep(&mut self, now: Now, place: u32, out: &mut Effects) {
        let Some(topic) = self.channels.at(place) else { return };
        let keep = self.policy_of(&topic.key).keep;
        let Some(topic) = self.channels.at_mut(place) else { return };
        if let Some(log) = &mut topic.log {
            log.drop_over();
            let runs = match keep {
                Keep::History => Vec::new(),
                Keep::Unacknowledged => log.remove_first_delivered().into_iter().collect(),
                Keep::Undelivered | Keep::Never => log.remove_delivered(),
            };
            // What the cursor of an inbox has passed is missed by nobody.
            if !runs.is_empty() && keep != Keep::Unacknowledged {
                topic.last_loss = GapCause::NotKept;
            }
            forget(&topic.key, &runs, out);
        }
        self.settle(now, place);
    }
}

/// Orders the store to drop runs of a log.
pub(super) fn forget(key: &LogKey, runs: &[Run], out: &mut Effects) {
    for (from, to) in runs {
        out.push(Effect::Forget { log: key.clone(), from: *from, to: *to });
    }
}

/// When a message kept now is too old.
pub(super) fn expiry(now: Moment, policy: &Policy, ttl: Option<std::time::Duration>) -> Moment {
    now + ttl.map_or(policy.ttl, |ttl| ttl.min(policy.ttl))
}
