//! The room that the store has on the disk, and the budget of what it may write there.
//!
//! The limit is cut into parts; a generation is about one of them. When the store holds too
//! much that is kept no longer, and how much the hub may keep, follows from that.

use serde::{Deserialize, Serialize};

use super::StoreOptions;
use super::index::Index;
use super::ipc::SpaceReport;
use super::memtable::Memtable;
use super::messages::Messages;
use super::write_budget::{BudgetLevel, WriteBudget};
use crate::hub::StoreEvent;
use crate::protocol::Moment;
use crate::protocol::frame::Statistics;

/// The limit is cut into so many parts. Nothing is written into the last two, where the
/// oldest generation is made empty.
const PARTS: u64 = 16;

/// So many of them may be taken by what is kept, and one more by what is there already. The
/// rest is left for what is not kept any more and not dropped yet: the less that is, the
/// more often what stays is written again.
const LIVE: u64 = 10;

/// From so many on what is not kept any more is dropped before its time.
const CROWDED: u64 = 13;

/// What the store takes of the disk, and may take.
pub(super) struct DiskSpace {
    limit: u64,
    budget: WriteBudget,
    /// The number of the generation that is written.
    active_generation: u32,
    /// As the process has reported it last.
    report: SpaceReport,
    /// What the hub knows of how much may be kept.
    reported_capacity: Option<u64>,
    /// Whether the hub knows that little may be written in what is left of the day.
    is_reported_scarce: bool,
}

impl DiskSpace {
    pub(super) fn new(options: &StoreOptions, now: Moment) -> Self {
        Self {
            limit: options.bytes,
            budget: WriteBudget::new(options.flash_budget, 0, now),
            active_generation: 0,
            report: SpaceReport::default(),
            reported_capacity: None,
            is_reported_scarce: false,
        }
    }

    /// The store may take as much from now on as these say, and write as much.
    pub(super) fn reconfigure(&mut self, options: &StoreOptions, now: Moment) {
        self.limit = options.bytes;
        self.budget.limit(options.flash_budget, now);
    }

    pub(super) fn budget(&self) -> &WriteBudget {
        &self.budget
    }

    /// Fills in what was written of the budget, and what is left of it.
    pub(super) fn describe(&self, now: Moment, statistics: &mut Statistics) {
        statistics.flash_spent_bytes = self.budget.spent(now);
        statistics.flash_level = self.budget.level(now) as u64;
    }

    /// So much was written before this process.
    pub(super) fn spent_before(&mut self, now: Moment, bytes: u64) {
        self.budget.spend(now, bytes);
    }

    /// As the process has reported it last.
    pub(super) fn report(&self) -> &SpaceReport {
        &self.report
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// What is free on the disk.
    pub(super) fn free(&self) -> u64 {
        self.report.free
    }

    pub(super) fn active_generation(&self) -> u32 {
        self.active_generation
    }

    /// Writes into a new generation from now on.
    pub(super) fn begin_generation(&mut self) {
        self.active_generation += 1;
        self.report.newest = 0;
    }

    /// The generation into which the next commit is written: a new one, where the last one is
    /// full.
    pub(super) fn generation_for_commit(&mut self) -> u32 {
        if self.report.newest > self.generation_bytes() {
            self.begin_generation();
        }
        self.active_generation
    }

    /// There is a generation, perhaps one of a format that is not written any more.
    pub(super) fn found_generation(&mut self, generation: u32, is_only_read: bool) {
        self.active_generation = self.active_generation.max(generation);
        if is_only_read && self.active_generation == generation {
            self.begin_generation();
        }
    }

    /// All that is on the disk is known, and what of the write budget was spent before.
    pub(super) fn recovered(&mut self, now: Moment, spent: u64, index: &Index) {
        self.spent_before(now, spent);
        self.report.newest = index.generation(self.active_generation).map_or(0, |usage| usage.bytes());
    }

    /// A process starts, which counts anew what it writes.
    pub(super) fn process_starts(&mut self) {
        self.report.written = 0;
    }

    /// The first report of a process. What it has written so far is not counted.
    pub(super) fn process_reported_first(&mut self, report: SpaceReport) {
        self.report = SpaceReport { newest: self.report.newest, ..report };
    }

    /// A commit was written.
    pub(super) fn committed(&mut self, now: Moment, report: SpaceReport) {
        self.budget.spend(now, report.written.saturating_sub(self.report.written));
        self.report = report;
    }

    /// Something else was done with a generation; none, if it is deleted.
    pub(super) fn changed(&mut self, now: Moment, generation: Option<u32>, report: SpaceReport) {
        let is_active = generation == Some(self.active_generation);
        let newest = if is_active { report.newest } else { self.report.newest };
        self.committed(now, SpaceReport { newest, ..report });
    }

    /// A process has ended that had written so much, which it may not have reported.
    pub(super) fn process_ended(&mut self, now: Moment, written: u64) {
        self.committed(now, SpaceReport { written, ..self.report });
    }

    /// How large a generation gets: small enough that dropping one frees a good
    /// part of the whole, large enough that a log is not spread over many. An empty
    /// one takes two segments of sled's.
    pub(super) fn generation_bytes(&self) -> u64 {
        (self.limit / PARTS).clamp(64 << 10, 8 << 20)
    }

    /// Whether a commit fits under the limit, with room left in which the oldest
    /// generation can be made empty.
    pub(super) fn fits_commit(&self, index: &Index) -> bool {
        index.used() + 2 * self.generation_bytes() <= self.limit
    }

    /// Whether a single generation is large and holds little.
    pub(super) fn is_wasteful(&self, generation: u32, index: &Index) -> bool {
        let Some(usage) = index.generation(generation) else { return false };
        let is_large = usage.bytes() > self.generation_bytes() / 2;
        is_large && usage.waste() > usage.bytes() / 4 * 3
    }

    /// Whether the disk holds much more than is kept. What is all kept is not
    /// written again and again, however much it is.
    pub(super) fn holds_too_much(&self, index: &Index) -> bool {
        let (used, waste) = (index.used(), index.waste());
        let spare = self.generation_bytes();
        let is_crowded = used > self.limit / PARTS * CROWDED && waste > 2 * spare;
        // Where nothing may give way, as durable messages do not, little has to do.
        let is_full = !self.fits_commit(index) && waste > spare / 2;
        is_crowded || is_full || waste > 3 * (used - waste) + spare
    }

    /// How much may be kept on this disk, where that has changed since the hub was notified.
    ///
    /// How much a message takes depends on its size, on others that were written with it
    /// and on what becomes of its log: from a little more than it counts to five times
    /// that. So it is measured, with every commit.
    pub(super) fn capacity_change(&mut self, messages: &Messages) -> Option<StoreEvent> {
        let capacity = self.capacity(messages.index(), messages.memtable());
        let is_near = match (self.reported_capacity, capacity) {
            (Some(reported), Some(capacity)) => reported.abs_diff(capacity) < reported / 32,
            (reported, capacity) => reported == capacity,
        };
        if is_near {
            return None;
        }
        self.reported_capacity = capacity;
        Some(StoreEvent::Capacity { bytes: capacity })
    }

    /// Whether little may be written in what is left of the day, where that has changed since
    /// the hub was notified. It is of use when something is written, and looked at then.
    pub(super) fn scarcity_change(&mut self, now: Moment) -> Option<StoreEvent> {
        let is_scarce = self.budget.level(now) != BudgetLevel::Ample;
        let has_changed = std::mem::replace(&mut self.is_reported_scarce, is_scarce) != is_scarce;
        has_changed.then_some(StoreEvent::WriteBudget { is_scarce })
    }

    /// What all kept messages may count together so that the disk takes them; none, as
    /// long as too little is there to measure.
    fn capacity(&self, index: &Index, memtable: &Memtable) -> Option<u64> {
        let (part, kept) = (self.limit / PARTS, index.kept());
        let live = index.used().saturating_sub(index.waste());
        let room = LIVE.saturating_mul(part);
        let on_disk = if live <= room {
            let each = self.taken_for_each(live, kept, memtable)?;
            kept.saturating_add(((room - live) as f64 / each) as u64)
        } else {
            // One part more is left to what is there already: a figure that was measured
            // otherwise before a restart, or what was in memory until a stop, makes nothing
            // give way.
            let most = room.saturating_add(part);
            let fits = u128::from(kept) * u128::from(most.min(live)) / u128::from(live);
            u64::try_from(fits).unwrap_or(u64::MAX)
        };
        Some(on_disk.saturating_add(memtable.bytes_for_memory() as u64))
    }

    /// How much the disk takes for each byte that a message counts which is not written
    /// yet: no less than for those that are there, and no less than such messages take
    /// where nothing else is written with them. None, where there are neither.
    fn taken_for_each(&self, live: u64, kept: u64, memtable: &Memtable) -> Option<f64> {
        /// As measured, in logs of one message each: a little more than what it counts, some
        /// bytes of its own, and a generation some for itself.
        const PART: f64 = 1.1;
        const EACH: f64 = 60.0;
        const GENERATION: u64 = 32 << 10;
        let is_measured = kept > 0 && live >= self.limit / PARTS;
        let measured = is_measured.then(|| live as f64 / kept as f64);
        let is_much = memtable.bytes_for_disk() as u64 > self.limit / (4 * PARTS);
        let expected = is_much.then(|| {
            let size = memtable.bytes() as f64 / memtable.len().max(1) as f64;
            let generation = self.generation_bytes();
            let usable = generation.saturating_sub(GENERATION).max(generation / 2);
            (PART + EACH / size) * generation as f64 / usable as f64
        });
        measured.into_iter().chain(expected).reduce(f64::max)
    }
}

/// Which generation is written, and what it takes, for a process that takes over.
#[derive(Serialize, Deserialize)]
pub(super) struct SpaceSnapshot {
    active_generation: u32,
    newest_bytes: u64,
}

impl DiskSpace {
    pub(super) fn snapshot(&self) -> SpaceSnapshot {
        SpaceSnapshot { active_generation: self.active_generation, newest_bytes: self.report.newest }
    }

    /// The room of another process.
    pub(super) fn resume(snapshot: SpaceSnapshot, options: &StoreOptions, now: Moment) -> Self {
        let SpaceSnapshot { active_generation, newest_bytes } = snapshot;
        let report = SpaceReport { newest: newest_bytes, ..SpaceReport::default() };
        Self { active_generation, report, ..Self::new(options, now) }
    }
}
