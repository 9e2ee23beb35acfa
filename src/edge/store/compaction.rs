//! Making old generations empty, so that they can be dropped.
//!
//! Knows what of the oldest generation is still owed, and when the disk holds too
//! much that is not. Does not write: survivors go with the next commit.
//!
//! sled never gives space back. So nothing is deleted in it: whole generations are,
//! the oldest first, and the few messages in it that are still owed are written
//! again before.

use std::collections::VecDeque;

use serde_json::value::RawValue;

use super::backend::{Backend, StoreContext};
use super::commit::Moved;
use super::encoding;
use super::index::{Index, Placed};
use super::ipc::StoreRequest;
use super::memtable::Memtable;
use super::scheduler::ChildTask;
use super::write_budget::Thrift;
use crate::hub::{Input, LogKey, StoreEvent};
use crate::protocol::Moment;
use crate::sort::sort;

/// How much is written again with one commit: little beside what a card writes in
/// a second, so that whoever waits for the disk hardly notices.
const PORTION: usize = 128 << 10;

/// The cap is cut into so many parts; a generation is about one of them. Nothing is
/// written into the last two, where the oldest generation is made empty.
const PARTS: u64 = 16;

/// So many of them may be taken by what is kept, and one more by what is there already. The
/// rest is left for what is not kept any more and not dropped yet: the less that is, the
/// more often what stays is written again.
const LIVE: u64 = 10;

/// From so many on what is not kept any more is dropped before its time.
const CROWDED: u64 = 13;

/// What is being written again.
#[derive(Default)]
pub(super) struct Compaction {
    pub(super) generation: u32,
    /// Still to be read.
    runs: VecDeque<(LogKey, Vec<Placed>)>,
    /// Read, and still to be written.
    pub(super) moved: Vec<Moved>,
}

impl Compaction {
    /// What is to be read next.
    pub(super) fn order(&self) -> Option<StoreRequest<'static>> {
        let (log, run) = self.runs.front()?;
        Some(StoreRequest::Read {
            generation: self.generation,
            log: encoding::log(log).into(),
            from: run.first()?.seq,
            to: run.last()?.seq,
            count: usize::MAX,
            bytes: usize::MAX,
        })
    }

    /// A message of the run that is being read.
    pub(super) fn came(&mut self, seq: u64, head: Box<RawValue>, body: Box<RawValue>) {
        let Some((log, run)) = self.runs.front() else { return };
        // What was forgotten lies between what was not.
        if let Ok(at) = run.binary_search_by_key(&seq, |placed| placed.seq) {
            let (log, placed) = (log.clone(), run[at]);
            self.moved.push(Moved { log, placed, head, body });
        }
    }

    /// The run was read. What did not come is damaged; nobody will get it.
    pub(super) fn has_read(&mut self, index: &mut Index) {
        let Some((log, run)) = self.runs.pop_front() else { return };
        let of_this = self.moved.iter().rev().take_while(|moved| moved.log == log);
        let mut came: Vec<u64> = of_this.map(|moved| moved.placed.seq).collect();
        sort(&mut came);
        for placed in run.iter().filter(|placed| came.binary_search(&placed.seq).is_err()) {
            if index.get(&log, placed.seq) == Some(*placed) {
                index.forget(&log, placed.seq, placed.seq, Some(0));
            }
        }
    }
}

impl Backend {
    /// What may be done while nothing is urgent: drops what is empty, and makes
    /// empty what is nearly so.
    pub(super) fn tidy(&mut self, tail: &mut Memtable, around: &mut StoreContext<'_>) -> Option<ChildTask> {
        if let Some(moving) = &self.moving {
            if !moving.runs.is_empty() {
                return Some(ChildTask::Move);
            }
            if self.process.is_none() {
                return Some(ChildTask::Start);
            }
            return self.batch(tail, around).map(|batch| ChildTask::Commit(Box::new(batch)));
        }
        let (&oldest, generation) = self.index.generations.first_key_value()?;
        if oldest == self.active_generation && !self.is_wasteful(oldest) {
            return None;
        }
        let is_empty = generation.messages == 0;
        if is_empty && oldest != self.active_generation {
            return Some(ChildTask::Drop(oldest));
        }
        if !self.holds_too_much() {
            return None;
        }
        if oldest == self.active_generation {
            // What is worth keeping of it goes into a new one.
            self.active_generation += 1;
            self.room.newest = 0;
        }
        let portion = PORTION.min(self.generation_bytes() as usize / 4);
        let runs: VecDeque<_> = self.index.survivors(oldest, portion).into();
        if runs.is_empty() {
            return is_empty.then_some(ChildTask::Drop(oldest));
        }
        self.moving = Some(Box::new(Compaction { generation: oldest, runs, moved: Vec::new() }));
        Some(ChildTask::Move)
    }

    /// Whether a single generation is large and holds little.
    fn is_wasteful(&self, generation: u32) -> bool {
        let Some(generation) = self.index.generations.get(&generation) else { return false };
        let is_large = generation.bytes > self.generation_bytes() / 2;
        is_large && generation.waste() > generation.bytes / 4 * 3
    }

    /// Whether the disk holds much more than is owed. What is all owed is not
    /// written again and again, however much it is.
    fn holds_too_much(&self) -> bool {
        let (used, waste) = (self.index.used(), self.index.waste());
        let spare = self.generation_bytes();
        let is_crowded = used > self.options.bytes / PARTS * CROWDED && waste > 2 * spare;
        // Where nothing may give way, as durable messages do not, little has to do.
        let is_full = !self.takes_more() && waste > spare / 2;
        is_crowded || is_full || waste > 3 * (used - waste) + spare
    }

    /// Tells the hub how much may be kept on this disk, where that has changed.
    ///
    /// How much a message takes depends on its size, on others that were written with it
    /// and on what becomes of its log: from a little more than it counts to five times
    /// that. So it is measured, with every commit.
    pub(super) fn tell_capacity(&mut self, tail: &Memtable, facts: &mut VecDeque<Input>) {
        let capacity = self.capacity(tail);
        let is_near = match (self.told_capacity, capacity) {
            (Some(told), Some(capacity)) => told.abs_diff(capacity) < told / 32,
            (told, capacity) => told == capacity,
        };
        if !is_near {
            self.told_capacity = capacity;
            facts.push_back(Input::Store(StoreEvent::Capacity { bytes: capacity }));
        }
    }

    /// Tells the hub whether little may be written in what is left of the day, where that has
    /// changed. It is of use when something is written, and looked at then.
    pub(super) fn tell_scarcity(&mut self, now: Moment, facts: &mut VecDeque<Input>) {
        let is_scarce = self.budget.thrift(now) != Thrift::Free;
        if std::mem::replace(&mut self.told_scarce, is_scarce) != is_scarce {
            facts.push_back(Input::Store(StoreEvent::WriteBudget { is_scarce }));
        }
    }

    /// What all kept messages may count together so that the disk takes them; none, as
    /// long as too little is there to tell.
    fn capacity(&self, tail: &Memtable) -> Option<u64> {
        let (part, owed) = (self.options.bytes / PARTS, self.index.owed());
        let live = self.index.used().saturating_sub(self.index.waste());
        let room = LIVE.saturating_mul(part);
        let on_disk = if live <= room {
            let each = self.taken_for_each(live, owed, tail)?;
            owed.saturating_add(((room - live) as f64 / each) as u64)
        } else {
            // One part more is left to what is there already: a figure that was measured
            // otherwise before a restart, or what was in memory until a stop, makes nothing
            // give way.
            let most = room.saturating_add(part);
            let fits = u128::from(owed) * u128::from(most.min(live)) / u128::from(live);
            u64::try_from(fits).unwrap_or(u64::MAX)
        };
        Some(on_disk.saturating_add(tail.bytes_for_memory() as u64))
    }

    /// How much the disk takes for each byte that a message counts which is not written
    /// yet: no less than for those that are there, and no less than such messages take
    /// where nothing else is written with them. None, where there are neither.
    fn taken_for_each(&self, live: u64, owed: u64, tail: &Memtable) -> Option<f64> {
        /// As measured, in logs of one message each: a little more than what it counts, some
        /// bytes of its own, and a generation some for itself.
        const PART: f64 = 1.1;
        const EACH: f64 = 60.0;
        const GENERATION: u64 = 32 << 10;
        let is_measured = owed > 0 && live >= self.options.bytes / PARTS;
        let measured = is_measured.then(|| live as f64 / owed as f64);
        let is_much = tail.bytes_for_disk() as u64 > self.options.bytes / (4 * PARTS);
        let expected = is_much.then(|| {
            let size = tail.bytes() as f64 / tail.len().max(1) as f64;
            let generation = self.generation_bytes();
            let usable = generation.saturating_sub(GENERATION).max(generation / 2);
            (PART + EACH / size) * generation as f64 / usable as f64
        });
        measured.into_iter().chain(expected).reduce(f64::max)
    }

    /// Whether a commit fits under the cap, with room left in which the oldest
    /// generation can be made empty.
    pub(super) fn takes_more(&self) -> bool {
        self.index.used() + 2 * self.generation_bytes() <= self.options.bytes
    }

    /// How large a generation gets: small enough that dropping one frees a good
    /// part of the whole, large enough that a log is not spread over many. An empty
    /// one takes two segments of sled's.
    pub(super) fn generation_bytes(&self) -> u64 {
        (self.options.bytes / PARTS).clamp(64 << 10, 8 << 20)
    }
}
