//! Retention: what is kept, for how long, and what gives way where there is no room.
//!
//! [`eviction`](super::eviction) finds what is given up next.

use super::entries::{EntryRun, LogEntry};
use super::eviction::{Demand, RoomStep, StoreRoom, Victim, next_over_policy};
use super::publisher_quota::Incoming;
use super::replay::PAGE_MESSAGES;
use crate::hub::Hub;
use crate::hub::channel::fanout::Fanout;
use crate::hub::channel::topic::Topic;
use crate::hub::channel::topics::TopicId;
use crate::hub::event::{Anomaly, Cx, DeliveryOutcome, Effect, Effects, LogKey, Now};
use crate::hub::settings::{Keep, Policy, WriteThrough};
use crate::protocol::frame::GapCause;

/// So many messages are given up at a time, where the disk takes less than was thought:
/// everybody else has a turn in between.
const AT_ONCE: usize = 500;

/// Keeping.
impl Hub {
    /// Finds the topic of a key, or adds it.
    pub(in crate::hub) fn find_or_add_topic(&mut self, key: LogKey) -> TopicId {
        if let Some(id) = self.channels.find(&key) {
            return id;
        }
        let mut topic = Topic::new(key, self.random.next());
        if let Some(floor) = self.seq_floor {
            topic.begin_above(floor);
        }
        self.channels.insert(topic)
    }

    /// Brings up to date what follows from the state of a topic.
    pub(in crate::hub) fn refresh_topic(&mut self, now: Now, id: TopicId) {
        self.channels.refresh(now.moment, id, &mut self.timers);
    }

    /// Puts a message into its log, where the policy keeps one of its size and
    /// there is room for it. Whether it is there.
    pub(in crate::hub) fn keep(
        &mut self,
        cx: &mut Cx<'_>,
        policy: &Policy,
        entry: LogEntry,
        fanout: &Fanout,
    ) -> bool {
        let (size, id) = (entry.size() as usize, fanout.id());
        let limit = policy.bytes.min(self.settings.limits.kept_bytes);
        let fits = policy.keep != Keep::Never && policy.count > 0 && size <= limit;
        let mut others = Vec::new();
        let demand = Demand::new(id, Some(Incoming::of(&entry)));
        let is_kept = fits && self.make_room(demand, policy, &mut others, cx.out);
        let Some(topic) = self.channels.existing_mut(id) else { return false };
        if is_kept {
            topic.log_or_new().push(entry);
            let log = topic.key().clone();
            let disk = self.write_through(cx.now, policy, &entry);
            let meta = Box::new(entry.meta(disk, fanout.options().scope().cloned()));
            cx.out.push(Effect::Append { log, message: fanout.message().clone(), meta });
        } else {
            topic.lose(entry.seq(), GapCause::NotKept);
        }
        self.refresh_topic(cx.now, id);
        for other in others {
            self.resume_after_eviction(cx, other);
        }
        is_kept
    }

    /// When a message goes to the disk.
    fn write_through(&self, now: Now, policy: &Policy, entry: &LogEntry) -> WriteThrough {
        match (self.settings.has_disk, policy.disk) {
            (false, _) => WriteThrough::Never,
            (true, _) if entry.is_durable() => WriteThrough::Now,
            (true, WriteThrough::Behind) if self.flash.is_overspent(now.moment, entry.author()) => {
                WriteThrough::Stop
            }
            (true, disk) => disk,
        }
    }
}

/// Dropping what is too old, delivered, or kept no longer by its policy.
impl Hub {
    /// The timer of a log has come.
    pub(in crate::hub) fn expiry_due(&mut self, cx: &mut Cx<'_>, id: TopicId) {
        if let Some(log) = self.channels.log_mut(id) {
            log.disarm();
        }
        self.expire(cx, id);
    }

    /// Drops what is too old already, whose deadline was rounded up: what is
    /// counted and promised is not a moment too old.
    pub(in crate::hub) fn expire_due(&mut self, cx: &mut Cx<'_>, id: TopicId) {
        if self.channels.log(id).is_some_and(|log| log.is_due(cx.now.moment)) {
            self.expire(cx, id);
        }
    }

    /// Drops what has grown too old.
    pub(in crate::hub) fn expire(&mut self, cx: &mut Cx<'_>, id: TopicId) {
        let now = cx.now.moment;
        let Some(topic) = self.channels.existing(id) else { return };
        let keep = self.settings.log_policy(topic.key()).keep;
        if let Some(entries) = topic.entries() {
            let lost = entries.runs(PAGE_MESSAGES, |entry| {
                entry.is_expired(now) && topic.reached_nobody(entry, keep, DeliveryOutcome::Expired)
            });
            self.channels.fetch_undelivered(id, &lost, DeliveryOutcome::Expired, cx.out);
        }
        if let Some(log) = self.channels.log_mut(id) {
            log.expire_receipts(now);
        }
        self.counters.messages_expired +=
            self.drop_where(cx, id, GapCause::Expired, |entry| entry.is_expired(now));
    }

    /// Drops all that is kept of a topic; how many messages that were.
    pub(in crate::hub) fn purge_topic(&mut self, cx: &mut Cx<'_>, id: TopicId) -> u64 {
        let purged = self.drop_where(cx, id, GapCause::Evicted, |_| true);
        self.counters.messages_evicted += purged;
        purged
    }

    /// Drops what satisfies a condition; readers that were still to get it get a gap.
    fn drop_where(
        &mut self,
        cx: &mut Cx<'_>,
        id: TopicId,
        cause: GapCause,
        goes: impl Fn(&LogEntry) -> bool,
    ) -> u64 {
        let Some(topic) = self.channels.existing_mut(id) else { return 0 };
        let Some(log) = topic.log_mut() else { return 0 };
        let removed = log.drop_where(goes);
        for seq in removed.seqs() {
            topic.lose(*seq, cause);
        }
        topic.truncate(removed.ranges(), cx.out);
        self.advance_all(cx, id);
        self.refresh_topic(cx.now, id);
        removed.seqs().len() as u64
    }

    /// Drops one message that was just delivered: looking at all of them for each
    /// would make a replay quadratic.
    pub(in crate::hub) fn sweep_one(&mut self, cx: &mut Cx<'_>, id: TopicId, seq: u64) {
        let Some(topic) = self.channels.existing_mut(id) else { return };
        let keep = self.settings.log_policy(topic.key()).keep;
        if keep != Keep::History && topic.take_delivered(seq, cx.out) {
            self.refresh_topic(cx.now, id);
        }
    }

    /// Drops what was delivered, where the policy is to keep no more than that.
    pub(in crate::hub) fn sweep(&mut self, cx: &mut Cx<'_>, id: TopicId) {
        let Some(topic) = self.channels.at_mut(id) else { return };
        let keep = self.settings.log_policy(topic.key()).keep;
        topic.take_all_delivered(keep, cx.out);
        self.refresh_topic(cx.now, id);
    }

    /// Brings all that is kept under the policies as they are.
    pub(in crate::hub) fn conform_all(&mut self, cx: &mut Cx<'_>) {
        let ids = self.channels.with_log(|_| true);
        // All of them before any is trimmed: what goes by its own policy makes room
        // for what another might have to give up.
        for id in &ids {
            self.conform(cx, *id);
        }
        for id in ids {
            self.trim(cx, id);
            self.advance_all(cx, id);
        }
    }

    /// Drops what the policy of a topic keeps no longer. An age counts from when a
    /// message was kept; none lives longer than was promised.
    pub(in crate::hub) fn conform(&mut self, cx: &mut Cx<'_>, id: TopicId) {
        let Some(topic) = self.channels.at(id) else { return };
        let policy = self.settings.log_policy(topic.key());
        if policy.keep == Keep::Never {
            self.purge_topic(cx, id);
        }
        if let Some(log) = self.channels.log_mut(id) {
            log.shorten(policy.ttl);
        }
        self.expire_due(cx, id);
        self.sweep(cx, id);
    }
}

/// Making room.
impl Hub {
    /// The store has reported how much it takes.
    pub(in crate::hub) fn set_store_capacity(&mut self, cx: &mut Cx<'_>, bytes: Option<u64>) {
        self.store_room.set_bytes(bytes);
        self.fit_into_store(cx);
    }

    /// Gives up some of what is kept and does not fit into the store.
    pub(in crate::hub) fn fit_into_store(&mut self, cx: &mut Cx<'_>) {
        self.store_room.start_fitting();
        let mut changed: Option<TopicId> = None;
        for _ in 0..AT_ONCE {
            let limits = &self.settings.limits;
            let Some(victim) = self.store_room.next_unfitting(&self.channels, limits) else { break };
            self.drop_victim(victim, cx.out);
            if let Some(before) = changed.replace(victim.id()).filter(|before| *before != victim.id()) {
                self.resume_after_eviction(cx, before);
            }
        }
        if let Some(last) = changed {
            self.resume_after_eviction(cx, last);
            cx.out.push(Effect::LogAnomaly(Anomaly::KeptLimit { is_newcomer_lost: false }));
        }
    }

    /// Refreshes a log that gave something up, and goes on with its readers.
    fn resume_after_eviction(&mut self, cx: &mut Cx<'_>, id: TopicId) {
        self.refresh_topic(cx.now, id);
        self.advance_all(cx, id);
    }

    /// Gives up what of a log is over its limits, and those of all, now that it
    /// has grown otherwise than by one more message.
    pub(in crate::hub) fn trim(&mut self, cx: &mut Cx<'_>, id: TopicId) {
        let Some(topic) = self.channels.at(id) else { return };
        let policy = self.settings.log_policy(topic.key());
        let mut others = Vec::new();
        self.make_room(Demand::new(id, None), &policy, &mut others, cx.out);
        self.refresh_topic(cx.now, id);
        for other in others {
            self.resume_after_eviction(cx, other);
        }
    }

    /// Makes the room that a log needs; whether there is enough. Other logs that gave
    /// something up for it are noted in `others`, for the readers that they may have.
    fn make_room(
        &mut self,
        demand: Demand,
        policy: &Policy,
        others: &mut Vec<TopicId>,
        out: &mut Effects,
    ) -> bool {
        if !self.store_room.can_have_room(&self.channels, &self.settings.limits, &demand) {
            out.push(Effect::LogAnomaly(Anomaly::KeptLimit { is_newcomer_lost: true }));
            return false;
        }
        while let Some(seq) = next_over_policy(&self.channels, &demand, policy) {
            self.evict(demand.id(), seq, out);
        }
        self.channels.weigh(demand.id());
        let mut is_short = false;
        // Its own log may have made room already.
        let most = StoreRoom::most_with(&self.channels, &demand);
        let has_room = loop {
            let limits = &self.settings.limits;
            match self.store_room.next_victim(&mut self.channels, limits, &demand, most) {
                RoomStep::Enough => break true,
                RoomStep::Stuck => {
                    is_short = true;
                    break false;
                }
                RoomStep::GiveUp(victim) => {
                    is_short = true;
                    self.drop_victim(victim, out);
                    if victim.id() != demand.id() && !others.contains(&victim.id()) {
                        others.push(victim.id());
                    }
                }
            }
        };
        if is_short {
            out.push(Effect::LogAnomaly(Anomaly::KeptLimit { is_newcomer_lost: !has_room }));
        }
        has_room
    }

    fn drop_victim(&mut self, victim: Victim, out: &mut Effects) {
        match victim {
            Victim::Message(id, seq) => self.evict(id, seq, out),
            // Its publisher is not notified.
            Victim::Receipt(id) => {
                if let Some(log) = self.channels.log_mut(id) {
                    log.drop_receipt();
                }
            }
        }
        self.channels.weigh(victim.id());
    }

    fn evict(&mut self, id: TopicId, seq: u64, out: &mut Effects) {
        let Some(topic) = self.channels.existing(id) else { return };
        let Some(entry) = topic.entries().and_then(|entries| entries.find(seq)) else {
            debug_assert!(false, "a message that is evicted is kept");
            return;
        };
        let keep = self.settings.log_policy(topic.key()).keep;
        if topic.reached_nobody(entry, keep, DeliveryOutcome::Evicted) {
            self.channels.fetch_undelivered(id, &[EntryRun::one(seq)], DeliveryOutcome::Evicted, out);
        }
        if let Some(topic) = self.channels.at_mut(id) {
            topic.evict(seq, out);
        }
        self.counters.messages_evicted += 1;
    }
}
