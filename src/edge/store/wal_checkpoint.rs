//! Checkpoints: what lies in write-ahead logs is copied into databases.
//!
//! Knows when that is worth its writing: where nobody wants anything of the disk for a
//! while, what is kept is here to stay. Does not know how it is copied.
//!
//! A commit goes to a log, for that is the least a disk can do. A database takes more room
//! than a log with the same messages: so it is made of what fits easily, and where the
//! store is full of what is kept, that stays in logs.

use std::time::Duration;

use super::backend::{Backend, StoreContext};
use super::ipc::SpaceReport;
use super::memtable::Memtable;
use super::scheduler::ChildTask;
use super::write_budget::Thrift;
use crate::protocol::Moment;

/// How long nothing is asked of the disk before that. Who reads what it missed does so
/// within this time, as a rule.
const QUIET: Duration = Duration::from_secs(5);

/// A shorter log is not worth it: a database takes two segments of sled's at least, and
/// writes one whenever it is opened.
const SHORT: u64 = 64 << 10;

/// How much is copied by one order, so that whoever wants something meanwhile waits for no
/// more than that.
pub(super) const COPIED: u64 = 256 << 10;

/// About what a database takes for each byte of a log, as measured with messages of 300 B.
/// Where it is more, a copy that was begun is finished all the same.
const TIMES: u64 = 3;

/// What is kept takes so much of the disk at most, when some of it is copied.
const PART: u64 = 4;

/// What failed is not tried before.
const PAUSE: Duration = Duration::from_secs(3600);

impl Backend {
    /// When something is to be copied, if there is something.
    pub(super) fn checkpoint_due(&self, now: Moment) -> Option<Moment> {
        // What is still to be written comes first.
        let is_quiet = self.unwritten.is_empty() && self.sync_queue.is_empty();
        self.to_be_copied(now).filter(|_| is_quiet)?;
        let is_under_way = self.checkpoint.is_some();
        Some(if is_under_way { now } else { self.no_checkpoint_before.max(self.busy_at + QUIET) })
    }

    /// The next part, if it is due.
    pub(super) fn next_checkpoint(&mut self, now: Moment) -> Option<ChildTask> {
        let is_due = self.checkpoint_due(now).is_some_and(|due| due <= now);
        if !is_due {
            return None;
        }
        self.checkpoint = self.to_be_copied(now);
        self.checkpoint.map(ChildTask::Checkpoint)
    }

    /// The oldest generation whose log is worth it, and fits.
    fn to_be_copied(&self, now: Moment) -> Option<u32> {
        let may_write = self.process.is_some()
            && self.trouble.is_none()
            && self.loading.is_none()
            && self.moving.is_none()
            && !self.is_finishing
            && self.budget.thrift(now) == Thrift::Free;
        if !may_write {
            return None;
        }
        let used = self.index.used();
        let fits = |generation: u32, wal: u64| {
            // What was begun takes room already, and more until it is finished.
            if self.checkpoint == Some(generation) {
                return self.takes_more() && self.room.free > wal.saturating_mul(TIMES);
            }
            let most = self.room.free.min(self.options.bytes / PART);
            used.saturating_add(wal.saturating_mul(TIMES)) <= most
        };
        let is_worth_it = |generation: &u32| {
            let of = self.index.generations.get(generation);
            of.is_some_and(|of| of.wal > SHORT && of.messages > 0 && fits(*generation, of.wal))
        };
        // What was begun comes first.
        let mut generations = self.checkpoint.iter().chain(self.index.generations.keys()).copied();
        generations.find(is_worth_it)
    }

    /// Something was copied.
    pub(super) fn has_copied(
        &mut self,
        generation: u32,
        room: SpaceReport,
        is_done: bool,
        tail: &Memtable,
        around: &mut StoreContext<'_>,
    ) {
        self.task = None;
        if let Some(of) = self.index.generations.get_mut(&generation) {
            (of.bytes, of.wal) = (room.newest, room.wal);
        }
        let newest = if generation == self.active_generation { room.newest } else { self.room.newest };
        self.has_room(around.now.moment, SpaceReport { newest, ..room });
        self.tell_capacity(tail, around.inputs);
        if is_done {
            self.checkpoint = None;
            // The engine keeps memory, and threads.
            self.ends_after_this = true;
        }
    }

    /// What failed was only copying: what is kept is where it was.
    pub(super) fn copies_later(&mut self, now: Moment, why: &str) -> bool {
        let is_copying = matches!(self.task, Some((ChildTask::Checkpoint(_), _)));
        if is_copying {
            log::warn!("{why}; what is kept stays in its write-ahead log");
            self.kill_process(now);
            (self.task, self.checkpoint) = (None, None);
            self.no_checkpoint_before = now + PAUSE;
        }
        is_copying
    }
}
