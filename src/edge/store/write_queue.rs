//! The write queue: which messages go to the disk next, and when.
//!
//! A message whose publisher waits is written at once; others are written behind, after
//! some time in memory, in which most are delivered and never cost any flash. That something
//! is kept no longer is written a little later, too.
//!
//! A key in these lists may be of a message that was forgotten since: it is found out when
//! its turn comes.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::StoreOptions;
use super::commit::CommitLimits;
use super::memtable::{Demoted, Memtable, MessageKey, Retry};
use super::write_budget::{BudgetLevel, WriteBudget};
use crate::hub::settings::WriteThrough;
use crate::protocol::Moment;

/// How long the disk may not know that something is kept no longer. After a crash
/// it comes once more, which costs less than a write for each.
const FORGETTING: Duration = Duration::from_secs(5);

/// A list as short as this is not worth looking through.
const SHORT: usize = 1024;

/// What there is to write.
pub(super) struct WriteQueue {
    /// Written behind: since when each is kept, oldest first.
    delayed: VecDeque<(Moment, MessageKey)>,
    /// Written at once.
    urgent: VecDeque<MessageKey>,
    /// When all that had waited for long enough went last. What comes up a moment later
    /// waits for the next time, or a steady stream would be written one by one.
    last_flush: Moment,
    /// Since when something on the disk is kept no longer.
    garbage_since: Option<Moment>,
}

/// How the daemon writes at the moment.
pub(super) struct WritePace {
    now: Moment,
    /// How long a message waits.
    window: Duration,
    level: BudgetLevel,
    /// When something can be written again, once the budget is spent.
    refilled: Moment,
    /// Too much is in memory only.
    is_memory_full: bool,
    /// The daemon stops, and all is written that can be.
    is_finishing: bool,
}

impl WritePace {
    pub(super) fn new(
        now: Moment,
        budget: &WriteBudget,
        options: &StoreOptions,
        memtable: &Memtable,
        is_finishing: bool,
    ) -> Self {
        Self {
            now,
            window: budget.window(now, options.write_delay),
            level: budget.level(now),
            refilled: budget.refilled(now),
            is_memory_full: memtable.bytes_for_disk() > options.memory,
            is_finishing,
        }
    }

    /// Whether what may wait is written before its time.
    fn is_early(&self) -> bool {
        self.is_finishing || (self.is_memory_full && self.level != BudgetLevel::Spent)
    }
}

/// What becomes of messages that were to be written at once when the disk fails.
#[derive(Default)]
pub(super) struct FailedSync {
    /// All of them: their publishers are notified.
    pub(super) not_stored: Vec<MessageKey>,
    /// Those that are removed and may be on the disk all the same.
    pub(super) unconfirmed: Vec<MessageKey>,
}

impl WriteQueue {
    pub(super) fn new(now: Moment) -> Self {
        Self { delayed: VecDeque::new(), urgent: VecDeque::new(), last_flush: now, garbage_since: None }
    }

    /// Takes a message that was kept at a time.
    pub(super) fn push(&mut self, since: Moment, key: MessageKey, when: WriteThrough, memtable: &Memtable) {
        match when {
            WriteThrough::Behind => {
                self.delayed.push_back((since, key));
                if self.delayed.len() > SHORT.max(2 * memtable.len()) {
                    self.drop_settled(memtable);
                }
            }
            WriteThrough::Now => self.urgent.push_back(key),
            WriteThrough::Stop | WriteThrough::Never => {}
        }
    }

    /// Takes a message whose publisher waits.
    pub(super) fn push_urgent(&mut self, key: MessageKey) {
        self.urgent.push_back(key);
    }

    /// Drops what need not be written any more: while nothing can be written, most messages
    /// are delivered and forgotten before they would have been.
    fn drop_settled(&mut self, memtable: &Memtable) {
        self.delayed.retain(|(_, key)| memtable.is_delayed(key));
        self.delayed.shrink_to(2 * self.delayed.len());
    }

    /// The disk has something that is kept no longer.
    pub(super) fn note_garbage(&mut self, now: Moment) {
        self.garbage_since.get_or_insert(now);
    }

    /// The disk knows of all that is kept no longer.
    pub(super) fn clear_garbage(&mut self) {
        self.garbage_since = None;
    }

    /// Whether no message waits to be written while the daemon runs.
    pub(super) fn is_empty(&self) -> bool {
        self.delayed.is_empty() && self.urgent.is_empty()
    }

    /// When the next commit is due.
    pub(super) fn due(&self, pace: &WritePace) -> Option<Moment> {
        let is_early = pace.is_finishing || (pace.is_early() && !self.delayed.is_empty());
        if !self.urgent.is_empty() || is_early {
            return Some(pace.now);
        }
        let delayed = self.delayed.front().map(|(since, _)| self.last_flush.max(*since) + pace.window);
        let garbage = self.garbage_since.map(|since| since + pace.window.max(FORGETTING));
        let due = [delayed, garbage].into_iter().flatten().min()?;
        Some(if pace.level == BudgetLevel::Spent { due.max(pace.refilled) } else { due })
    }

    /// Takes what the next commit writes: what publishers wait for, then what has waited for
    /// long enough.
    pub(super) fn take(
        &mut self,
        limits: CommitLimits,
        pace: &WritePace,
        memtable: &mut Memtable,
    ) -> Vec<MessageKey> {
        let mut chosen = limits.begin();
        while !chosen.is_full()
            && let Some(key) = self.urgent.pop_front()
        {
            chosen.push(key, memtable);
        }
        let may_go_on = pace.level != BudgetLevel::Spent || pace.is_finishing;
        let is_due = |since: Moment| since + pace.window <= pace.now || pace.is_early();
        while may_go_on
            && !chosen.is_full()
            && self.delayed.front().is_some_and(|(since, _)| is_due(*since))
            && let Some((_, key)) = self.delayed.pop_front()
        {
            chosen.push(key, memtable);
        }
        if may_go_on && !chosen.is_full() {
            self.last_flush = pace.now;
        }
        if self.delayed.len() < self.delayed.capacity() / 4 {
            self.delayed.shrink_to(2 * self.delayed.len());
        }
        if may_go_on && !chosen.is_full() && pace.is_early() && self.delayed.is_empty() {
            let unwritten = memtable.unwritten().map(|(log, seq)| MessageKey { log: log.clone(), seq });
            let unwritten: Vec<MessageKey> = unwritten.take(limits.messages()).collect();
            for key in unwritten {
                if chosen.is_full() {
                    break;
                }
                chosen.push(key, memtable);
            }
        }
        chosen.into_keys()
    }

    /// Takes a message back whose commit failed. Those of a commit come last first, as each
    /// goes before the others.
    pub(super) fn put_back(&mut self, key: MessageKey, retry: Retry) {
        match retry {
            Retry::Now => self.urgent.push_front(key),
            Retry::Behind(since) => self.delayed.push_front((since, key)),
            Retry::NotYet | Retry::Dropped => {}
        }
    }

    /// The disk fails: no publisher can wait for it any more, and all is written behind.
    pub(super) fn fail_urgent(&mut self, now: Moment, memtable: &mut Memtable) -> FailedSync {
        let mut failed = FailedSync::default();
        for key in self.urgent.drain(..) {
            let demoted = memtable.demote(&key);
            if demoted.is_some() {
                self.delayed.push_back((now, key.clone()));
            }
            if demoted == Some(Demoted::Dropped { may_be_on_disk: true }) {
                failed.unconfirmed.push(key.clone());
            }
            failed.not_stored.push(key);
        }
        self.urgent.shrink_to(64);
        failed
    }
}

/// When what was written last, for a process that takes over. What waits is not here: each
/// message knows when it goes to the disk, and since when it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct WriteQueueSnapshot {
    last_flush: Moment,
    garbage_since: Option<Moment>,
}

impl WriteQueue {
    pub(super) fn snapshot(&self) -> WriteQueueSnapshot {
        WriteQueueSnapshot { last_flush: self.last_flush, garbage_since: self.garbage_since }
    }

    /// The queue of another process, with all messages that it has left.
    pub(super) fn resume(snapshot: WriteQueueSnapshot, memtable: &Memtable) -> Self {
        let WriteQueueSnapshot { last_flush, garbage_since } = snapshot;
        let mut queue = Self { garbage_since, ..Self::new(last_flush) };
        for (since, key, when) in memtable.to_be_queued() {
            queue.push(since, key, when, memtable);
        }
        queue
    }
}

#[cfg(test)]
mod tests {
    use super::{Memtable, MessageKey, WriteQueue, WriteThrough};
    use crate::hub::{EntryMeta, LogKey};
    use crate::protocol::{Channel, Event, Message, MessageId, Moment, Payload, Sender, UnixTime};

    fn message(channel: &Channel, seq: u64) -> Message {
        Message {
            channel: Some(channel.clone()),
            event: Event::new("said").unwrap(),
            data: Payload::of(&seq),
            from: Sender::Hub,
            user_id: None,
            message_id: MessageId::new("m").unwrap(),
            timestamp: UnixTime(0),
            seq: Some(seq),
        }
    }

    #[test]
    fn queue_is_as_long_as_what_is_live() {
        let (mut queue, mut memtable) = (WriteQueue::new(Moment(0)), Memtable::default());
        let channel = Channel::new("orders").unwrap();
        let log = LogKey::Channel(channel.clone());
        let meta = EntryMeta {
            expires: Moment(u64::MAX),
            since: Moment(0),
            size: 200,
            delivered: false,
            durable: false,
            disk: WriteThrough::Behind,
            scope: None,
        };
        let mut longest = 0;
        // Each is delivered a hundred messages later, and none is ever written.
        for seq in 1..=100_000 {
            memtable.insert(&log, seq, &message(&channel, seq), &meta);
            let key = MessageKey { log: log.clone(), seq };
            queue.push(Moment(seq), key, WriteThrough::Behind, &memtable);
            longest = longest.max(queue.delayed.len());
            if seq > 100 {
                memtable.forget(&log, seq - 100, seq - 100);
            }
        }
        assert!(longest <= 1100, "{longest}");
        assert!(queue.delayed.capacity() <= 4096, "{}", queue.delayed.capacity());
        // All of what is live is still to be written, oldest first.
        let live: Vec<u64> =
            queue.delayed.iter().map(|(_, key)| key.seq).filter(|seq| *seq > 99_900).collect();
        assert_eq!(live, (99_901..=100_000).collect::<Vec<_>>());
    }
}
