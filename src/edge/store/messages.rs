//! The messages of a store with a disk: in memory, on the disk, and on their way there.
//!
//! Each message is in the memtable until a commit with it is on the disk, and in the index
//! from then on. The write queue knows which are written next.

use std::path::Path;

use super::StoreContext;
use super::commit::{Commit, CommitContent, CommitLimits, MovedRecord};
use super::fetch;
use super::fetch::{Fetch, FetchPart};
use super::hub_clock::StoreClock;
use super::index::Index;
use super::ipc::{GenerationSize, SpaceReport};
use super::memtable::{Memtable, MessageKey, Promise};
use super::recovery::Recovery;
use super::write_queue::{WritePace, WriteQueue, WriteQueueSnapshot};
use crate::hub::{EntryMeta, Hub, LogKey, StoreEvent};
use crate::protocol::{Message, Moment};

/// All messages.
pub(super) struct Messages {
    memtable: Memtable,
    index: Index,
    writes: WriteQueue,
}

impl Messages {
    pub(super) fn new(now: Moment) -> Self {
        Self { memtable: Memtable::default(), index: Index::default(), writes: WriteQueue::new(now) }
    }

    /// Those that are in memory only.
    pub(super) fn memtable(&self) -> &Memtable {
        &self.memtable
    }

    /// Those that are on the disk.
    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    pub(super) fn keep(&mut self, now: Moment, key: MessageKey, message: &Message, meta: &EntryMeta) {
        self.memtable.insert(&key.log, key.seq, message, meta);
        self.writes.push(now, key, meta.disk, &self.memtable);
    }

    /// Writes a message at once: the answer, where it is known now.
    pub(super) fn sync_now(&mut self, key: MessageKey) -> Option<StoreEvent> {
        match self.memtable.promise(&key) {
            Some(Promise::UnderWay) => None,
            Some(Promise::ToBeQueued) => {
                self.writes.push_urgent(key);
                None
            }
            None => {
                let MessageKey { log, seq } = key;
                Some(if self.index.contains(&log, seq) {
                    StoreEvent::Stored { log, from: seq, to: seq }
                } else {
                    StoreEvent::NotStored { log, seq }
                })
            }
        }
    }

    /// Where the answer to a request comes from.
    pub(super) fn plan(&self, fetch: Fetch) -> Vec<FetchPart> {
        fetch::plan(fetch, &self.memtable, Some(&self.index))
    }

    /// Drops messages, both ends included.
    pub(super) fn forget(&mut self, now: Moment, log: &LogKey, from: u64, to: u64) {
        for seq in self.memtable.forget(log, from, to) {
            self.index.forget_unconfirmed(log, seq);
        }
        self.forget_on_disk(now, log, from, to);
    }

    /// Drops those of them that are on the disk.
    pub(super) fn forget_on_disk(&mut self, now: Moment, log: &LogKey, from: u64, to: u64) {
        self.index.forget(log, from, to, self.memtable.next(log, 0));
        self.note_garbage(now);
    }

    fn note_garbage(&mut self, now: Moment) {
        if self.index.has_garbage() {
            self.writes.note_garbage(now);
        }
    }

    /// Drops messages that the disk should have and does not.
    pub(super) fn lose(&mut self, lost: Vec<MessageKey>) {
        for MessageKey { log, seq } in lost {
            self.index.forget(&log, seq, seq, Some(0));
        }
    }

    /// Takes what the process has reported of all generations in a directory. Messages of one
    /// that is not there any more are gone.
    pub(super) fn found_generations(&mut self, sizes: &[GenerationSize], directory: &Path) {
        let is_there = |generation| sizes.iter().any(|size| size.generation == generation);
        let lost = self.index.lose_generations(is_there);
        if lost > 0 {
            // No other line tells an administrator.
            let directory = directory.display();
            log::error!("{lost} messages are gone with what was set aside in {directory}");
        }
        for size in sizes {
            self.index.measured(size.generation, size.bytes, size.wal);
        }
    }

    /// Something was written to a generation.
    pub(super) fn measured(&mut self, generation: u32, report: &SpaceReport) {
        self.index.measured(generation, report.newest, report.wal);
    }

    /// A generation is deleted.
    pub(super) fn remove_generation(&mut self, generation: u32) {
        self.index.remove_generation(generation);
    }

    /// All that is on the disk was read: what of the write budget was spent before.
    pub(super) fn recover(
        &mut self,
        recovery: Recovery,
        clock: &mut StoreClock,
        context: &mut StoreContext<'_>,
    ) -> u64 {
        recovery.finish(clock, &mut self.index, context)
    }

    /// When the next commit is due.
    pub(super) fn commit_due(&self, pace: &WritePace) -> Option<Moment> {
        self.writes.due(pace)
    }

    /// Whether no message waits to be written while the daemon runs.
    pub(super) fn is_quiet(&self) -> bool {
        self.writes.is_empty()
    }

    /// Whether the disk is to have something, or to drop something, that no commit under way
    /// has.
    pub(super) fn has_unwritten(&self) -> bool {
        self.memtable.unwritten().next().is_some() || self.index.has_garbage()
    }

    /// Takes what the next commit writes: messages out of memory, if it may; others out of an
    /// old generation; and what is garbage.
    pub(super) fn take_for_commit(
        &mut self,
        limits: Option<CommitLimits>,
        moved: Vec<MovedRecord>,
        pace: &WritePace,
    ) -> CommitContent {
        let chosen = limits.map(|limits| self.writes.take(limits, pace, &mut self.memtable));
        CommitContent::new(chosen.unwrap_or_default(), moved, &mut self.index)
    }

    /// There is nothing to commit: the disk knows of all that is kept no longer.
    pub(super) fn nothing_to_commit(&mut self) {
        self.writes.clear_garbage();
    }

    pub(super) fn begin_commit(&mut self, content: CommitContent, generation: u32, hub: &Hub) -> Commit {
        Commit::new(content, generation, &mut self.index, hub)
    }

    /// A commit is on the disk: what the hub receives.
    pub(super) fn finish_commit(
        &mut self,
        now: Moment,
        commit: Commit,
        report: &SpaceReport,
    ) -> Vec<StoreEvent> {
        let outcome = commit.finish(report, &mut self.memtable, &mut self.index);
        // What was forgotten meanwhile has its time from now on; what did not fit goes
        // with the next.
        if outcome.is_garbage_settled {
            self.writes.clear_garbage();
        }
        self.note_garbage(now);
        outcome.stored
    }

    /// A commit failed, or was not sent: all of it is to be written again.
    pub(super) fn undo_commit(&mut self, now: Moment, commit: Commit) {
        commit.undo(now, &mut self.memtable, &mut self.writes, &mut self.index);
    }

    /// The disk fails: no publisher can wait any more. What the hub receives.
    pub(super) fn fail_urgent(&mut self, now: Moment) -> impl Iterator<Item = StoreEvent> {
        let failed = self.writes.fail_urgent(now, &mut self.memtable);
        for MessageKey { log, seq } in failed.unconfirmed {
            self.index.forget_unconfirmed(&log, seq);
            self.writes.note_garbage(now);
        }
        let event = |MessageKey { log, seq }| StoreEvent::NotStored { log, seq };
        failed.not_stored.into_iter().map(event)
    }

    /// When something was written last, for a process that takes over.
    pub(super) fn queue_snapshot(&self) -> WriteQueueSnapshot {
        self.writes.snapshot()
    }

    /// The messages of another process.
    pub(super) fn resume(memtable: Memtable, index: Index, queue: WriteQueueSnapshot) -> Self {
        let writes = WriteQueue::resume(queue, &memtable);
        Self { memtable, index, writes }
    }
}
