//! What is kept, and for how long.
//!
//! Knows policies and ages, and when a message has done its duty. Does not know
//! what goes where there is no room; that is in [`eviction`](super::eviction). Nor who
//! reads; that is in [`replay`](super::replay).

use super::SeqRange;
use super::entry::LogEntry;
use super::publisher_quota::Newcomer;
use super::replay::PAGE_MESSAGES;
use crate::hub::Hub;
use crate::hub::channel::fanout::Fanout;
use crate::hub::channel::topics::Topic;
use crate::hub::event::{Cx, DeliveryOutcome, Effect, Effects, EntryMeta, LogKey, Now};
use crate::hub::settings::{Keep, Policy, WriteThrough};
use crate::hub::timers::{NEVER, Timer, round_up};
use crate::protocol::Moment;
use crate::protocol::frame::GapCause;

impl Hub {
    pub(in crate::hub) fn policy_of(&self, key: &LogKey) -> Policy {
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
    pub(in crate::hub) fn topic(&mut self, key: LogKey) -> u32 {
        if let Some(place) = self.channels.find(&key) {
            return place;
        }
        let mut topic = Topic::new(key, self.random.next());
        if let Some(base) = self.seq_floor {
            topic.begin_above(base);
        }
        self.channels.insert(topic)
    }

    /// Brings up to date what follows from the state of a topic.
    pub(in crate::hub) fn settle(&mut self, now: Now, place: u32) {
        if let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) {
            if log.kept.is_empty() {
                log.soonest = NEVER;
            }
            let receipt = log.receipts.front().map_or(NEVER, |owed| owed.expires);
            self.timers.rearm(Timer::Expiry(place), &mut log.armed, round_up(log.soonest.min(receipt)));
        }
        self.channels.settle(now.moment, place);
    }

    /// Puts a message into its log, where the policy keeps one of its size and
    /// there is room for it. Whether it is there.
    pub(in crate::hub) fn keep(
        &mut self,
        cx: &mut Cx<'_>,
        policy: &Policy,
        kept: LogEntry,
        rest: &Fanout,
    ) -> bool {
        let (size, place) = (kept.size as usize, rest.place);
        let limit = policy.bytes.min(self.settings.limits.kept_bytes);
        let fits = policy.keep != Keep::Never && policy.count > 0 && size <= limit;
        let mut others = Vec::new();
        let newcomer = Newcomer { author: kept.author, size: kept.size };
        let is_kept = fits && self.find_room(place, policy, newcomer, &mut others, cx.out);
        let Some(topic) = self.channels.at_mut(place) else { return false };
        let log = topic.key.clone();
        if is_kept {
            topic.log.get_or_insert_default().push(kept);
            let keeping = Box::new(self.keeping(cx.now, policy, &kept, rest));
            cx.out.push(Effect::Append { log, message: rest.message.clone(), meta: keeping });
        } else {
            topic.lose(kept.seq, GapCause::NotKept);
        }
        self.settle(cx.now, place);
        for other in others {
            self.settle_victim(cx, other);
        }
        is_kept
    }

    /// What the store has to know of a message.
    fn keeping(&self, now: Now, policy: &Policy, kept: &LogEntry, rest: &Fanout) -> EntryMeta {
        let disk = match (self.settings.has_disk, policy.disk) {
            (false, _) => WriteThrough::Never,
            (true, _) if kept.durable => WriteThrough::Now,
            (true, WriteThrough::Behind) if self.flash.is_overspent(now.moment, kept.author) => {
                WriteThrough::Stop
            }
            (true, disk) => disk,
        };
        EntryMeta {
            expires: kept.expires,
            since: kept.since,
            size: kept.size,
            delivered: kept.heard,
            durable: kept.durable,
            disk,
            scope: rest.terms.scope.clone(),
        }
    }

    /// The deadline of the oldest message has come.
    pub(in crate::hub) fn grow_old(&mut self, cx: &mut Cx<'_>, place: u32) {
        if let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) {
            log.armed = NEVER;
        }
        self.expire(cx, place);
    }

    /// Whether a message that is about to be lost reached nobody, in a way that is
    /// worth telling. What a user who is here was sent counts as heard, and that a
    /// history moves on is in its nature.
    pub(in crate::hub) fn reached_nobody(
        &self,
        topic: &Topic,
        kept: &LogEntry,
        fate: DeliveryOutcome,
    ) -> bool {
        !kept.heard
            && match self.policy_of(&topic.key).keep {
                Keep::Unacknowledged => {
                    let is_unread = topic.log.as_ref().is_some_and(|log| log.is_unread(kept.seq));
                    kept.seq > topic.offered || topic.is_unheard() || is_unread
                }
                Keep::Undelivered => true,
                Keep::History => fate == DeliveryOutcome::Expired,
                Keep::Never => false,
            }
    }

    /// Drops what is too old already, whose deadline was rounded up: what is
    /// counted and promised is not a moment too old.
    pub(in crate::hub) fn expire_due(&mut self, cx: &mut Cx<'_>, place: u32) {
        let log = self.channels.at(place).and_then(|topic| topic.log.as_ref());
        if log.is_some_and(|log| log.soonest <= cx.now.moment) {
            self.expire(cx, place);
        }
    }

    /// Drops what has grown too old.
    pub(in crate::hub) fn expire(&mut self, cx: &mut Cx<'_>, place: u32) {
        let moment = cx.now.moment;
        let old = |kept: &LogEntry| kept.expires <= moment;
        let Some(topic) = self.channels.at(place) else { return };
        if let Some(log) = &topic.log {
            let unheard = log.runs(PAGE_MESSAGES, |kept| {
                old(kept) && self.reached_nobody(topic, kept, DeliveryOutcome::Expired)
            });
            self.look_up(place, &unheard, DeliveryOutcome::Expired, cx.out);
        }
        if let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) {
            while log.receipts.front().is_some_and(|owed| owed.expires <= moment) {
                log.receipts.pop_front();
            }
        }
        self.counters.messages_expired += self.drop_where(cx, place, GapCause::Expired, old);
    }

    /// Drops all that is kept of a topic, because an administrator says so.
    pub(in crate::hub) fn purge_topic(&mut self, cx: &mut Cx<'_>, place: u32) -> u64 {
        let purged = self.drop_where(cx, place, GapCause::Evicted, |_| true);
        self.counters.messages_evicted += purged;
        purged
    }

    /// Drops what satisfies a condition; who was still to read it is told.
    fn drop_where(
        &mut self,
        cx: &mut Cx<'_>,
        place: u32,
        cause: GapCause,
        goes: impl Fn(&LogEntry) -> bool,
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
        forget(&topic.key, &runs, cx.out);
        self.advance_all(cx, place);
        self.settle(cx.now, place);
        gone.len() as u64
    }

    /// Drops one message that was just delivered: looking at all of them for each
    /// would make a replay quadratic.
    pub(in crate::hub) fn sweep_one(&mut self, cx: &mut Cx<'_>, place: u32, seq: u64) {
        let Some(topic) = self.channels.at(place) else { return };
        let stays = self.policy_of(&topic.key).keep == Keep::History;
        let Some(topic) = self.channels.at_mut(place) else { return };
        if let Some(log) = &mut topic.log
            && !stays
            && log.take_delivered(seq)
        {
            forget(&topic.key, &[(seq, seq)], cx.out);
            self.settle(cx.now, place);
        }
    }

    /// Drops what was delivered, where the policy is to keep no more than that.
    pub(in crate::hub) fn sweep(&mut self, cx: &mut Cx<'_>, place: u32) {
        let Some(topic) = self.channels.at(place) else { return };
        let keep = self.policy_of(&topic.key).keep;
        let Some(topic) = self.channels.at_mut(place) else { return };
        if let Some(log) = &mut topic.log {
            let runs = match keep {
                Keep::History => Vec::new(),
                Keep::Unacknowledged => log.remove_first_delivered().into_iter().collect(),
                Keep::Undelivered | Keep::Never => log.remove_delivered(),
            };
            // What the cursor of an inbox has passed is missed by nobody.
            if !runs.is_empty() && keep != Keep::Unacknowledged {
                topic.last_loss = GapCause::NotKept;
            }
            forget(&topic.key, &runs, cx.out);
        }
        self.settle(cx.now, place);
    }
}

/// Orders the store to drop runs of a log.
pub(in crate::hub) fn forget(key: &LogKey, runs: &[SeqRange], out: &mut Effects) {
    for (from, to) in runs {
        out.push(Effect::Truncate { log: key.clone(), from: *from, to: *to });
    }
}

/// When a message kept now is too old.
pub(in crate::hub) fn expiry(now: Moment, policy: &Policy, ttl: Option<std::time::Duration>) -> Moment {
    now + ttl.map_or(policy.ttl, |ttl| ttl.min(policy.ttl))
}
