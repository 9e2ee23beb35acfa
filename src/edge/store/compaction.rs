//! Compaction: old generations are made empty, so that they can be dropped.
//!
//! sled never gives space back. So nothing is deleted in it: whole generations are,
//! the oldest first, and the few messages in it that are still kept are written
//! again before. They are read here; they are written with the next commit.

use std::collections::VecDeque;

use serde_json::value::RawValue;

use super::commit::MovedRecord;
use super::disk_usage::DiskSpace;
use super::encoding;
use super::index::{Index, IndexEntry};
use super::ipc::StoreRequest;
use super::memtable::MessageKey;
use crate::hub::LogKey;
use crate::sort::sort;

/// How much is written again with one commit: little beside what a card writes in
/// a second, so that other requests are hardly delayed.
const PORTION: usize = 128 << 10;

/// What is to be done about the oldest generation.
pub(super) enum CompactionStep {
    /// It is empty.
    Drop(u32),
    /// Some of what is kept in it has to be read.
    Read,
    /// What was read has to be written.
    Write,
}

/// Messages of a generation that are being written again.
struct Compaction {
    generation: u32,
    /// Still to be read.
    runs: VecDeque<(LogKey, Vec<IndexEntry>)>,
    /// Read, and still to be written.
    moved: Vec<MovedRecord>,
}

/// The compaction that is under way, if one is.
#[derive(Default)]
pub(super) struct Compactor {
    current: Option<Box<Compaction>>,
}

impl Compactor {
    pub(super) fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    /// What is to be done next, if anything is: it goes on, or begins where that is worth it.
    pub(super) fn next(&mut self, index: &Index, space: &mut DiskSpace) -> Option<CompactionStep> {
        if let Some(current) = &self.current {
            let is_read = current.runs.is_empty();
            return Some(if is_read { CompactionStep::Write } else { CompactionStep::Read });
        }
        let (oldest, usage) = index.generations().next()?;
        let (is_active, is_empty) = (oldest == space.active_generation(), usage.is_empty());
        if is_active && !space.is_wasteful(oldest, index) {
            return None;
        }
        if is_empty && !is_active {
            return Some(CompactionStep::Drop(oldest));
        }
        if !space.holds_too_much(index) {
            return None;
        }
        if is_active {
            // What is worth keeping of it goes into a new one.
            space.begin_generation();
        }
        let portion = PORTION.min(space.generation_bytes() as usize / 4);
        let runs: VecDeque<_> = index.survivors(oldest, portion).into();
        if runs.is_empty() {
            return is_empty.then_some(CompactionStep::Drop(oldest));
        }
        self.current = Some(Box::new(Compaction { generation: oldest, runs, moved: Vec::new() }));
        Some(CompactionStep::Read)
    }

    /// The generation that is made empty.
    pub(super) fn generation(&self) -> Option<u32> {
        self.current.as_ref().map(|current| current.generation)
    }

    /// What is to be read next.
    pub(super) fn request(&self) -> Option<StoreRequest<'static>> {
        let current = self.current.as_ref()?;
        let (log, run) = current.runs.front()?;
        Some(StoreRequest::Read {
            generation: current.generation,
            log: encoding::log_name(log).into(),
            from: run.first()?.seq,
            to: run.last()?.seq,
            count: usize::MAX,
            bytes: usize::MAX,
        })
    }

    /// Takes a message of the run that is being read.
    pub(super) fn push(&mut self, seq: u64, head: Box<RawValue>, body: Box<RawValue>) {
        let Some(current) = &mut self.current else { return };
        let Some((log, run)) = current.runs.front() else {
            debug_assert!(false, "message {seq} is of no run");
            return;
        };
        // What was forgotten lies between what was not.
        let found = run.binary_search_by_key(&seq, |entry| entry.seq).ok();
        if let Some(entry) = found.and_then(|at| run.get(at)) {
            current.moved.push(MovedRecord::new(log.clone(), *entry, head, body));
        }
    }

    /// All of the run was read. What is missing of it is damaged, and can never be read.
    pub(super) fn end_run(&mut self, index: &Index) -> Vec<MessageKey> {
        let Some(current) = &mut self.current else { return Vec::new() };
        let Some((log, run)) = current.runs.pop_front() else {
            debug_assert!(false, "no run was being read");
            return Vec::new();
        };
        let of_this = current.moved.iter().rev().map(MovedRecord::key).take_while(|key| key.log == log);
        let mut read: Vec<u64> = of_this.map(|key| key.seq).collect();
        sort(&mut read);
        let is_missing = |entry: &&IndexEntry| {
            read.binary_search(&entry.seq).is_err() && index.get(&log, entry.seq) == Some(**entry)
        };
        run.iter().filter(is_missing).map(|entry| MessageKey { log: log.clone(), seq: entry.seq }).collect()
    }

    /// Takes the messages to be written, if all were read: those that are still kept. They
    /// are all that is left of the compaction.
    pub(super) fn take_moved(&mut self, index: &Index) -> Vec<MovedRecord> {
        let done = self.current.take_if(|current| current.runs.is_empty());
        let mut moved = done.map(|done| done.moved).unwrap_or_default();
        moved.retain(|moved| moved.is_kept(index));
        moved
    }

    /// It begins anew, as a task of it has failed.
    pub(super) fn abort(&mut self) {
        self.current = None;
    }
}
