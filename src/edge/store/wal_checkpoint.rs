//! WAL checkpoints: what lies in write-ahead logs is copied into databases.
//!
//! A commit goes to a log, for that is the least a disk can do. A database takes more room
//! than a log with the same messages: so it is made of what fits easily, and where the
//! store is full of what is kept, that stays in logs. Copying is worth its writing where the
//! disk has been left alone for a while: what is kept then is here to stay.

use std::time::Duration;

use super::disk_usage::DiskSpace;
use super::index::Index;
use super::write_budget::BudgetLevel;
use crate::protocol::Moment;

/// How long nothing is requested of the disk before that. A client reads what it missed
/// within this time, as a rule.
const QUIET: Duration = Duration::from_secs(5);

/// A shorter log is not worth it: a database takes two segments of sled's at least, and
/// writes one whenever it is opened.
const SHORT: u64 = 64 << 10;

/// How much is copied by one request, so that another one waits for no more than that.
pub(super) const COPIED: u64 = 256 << 10;

/// About what a database takes for each byte of a log, as measured with messages of 300 B.
/// Where it is more, a copy that was begun is finished all the same.
const TIMES: u64 = 3;

/// What is kept takes so much of the disk at most, when some of it is copied.
const PART: u64 = 4;

/// What failed is not tried before.
const PAUSE: Duration = Duration::from_secs(3600);

/// Which write-ahead log is being copied.
#[derive(Default)]
pub(super) struct WalCheckpoints {
    /// The generation of a copy that is not finished.
    under_way: Option<u32>,
    /// Nothing is copied before: it failed.
    not_before: Moment,
}

impl WalCheckpoints {
    /// When something is to be copied, if there is something.
    pub(super) fn due(
        &self,
        now: Moment,
        busy_at: Moment,
        index: &Index,
        space: &DiskSpace,
    ) -> Option<Moment> {
        if space.budget().level(now) != BudgetLevel::Ample {
            return None;
        }
        self.candidate(index, space)?;
        Some(if self.under_way.is_some() { now } else { self.not_before.max(busy_at + QUIET) })
    }

    /// Begins the next part: the generation whose log it is of.
    pub(super) fn begin(&mut self, index: &Index, space: &DiskSpace) -> Option<u32> {
        self.under_way = self.candidate(index, space);
        self.under_way
    }

    /// The oldest generation whose log is worth it, and fits. What was begun comes first.
    fn candidate(&self, index: &Index, space: &DiskSpace) -> Option<u32> {
        let used = index.used();
        let fits = |generation: u32, wal: u64| {
            // What was begun takes room already, and more until it is finished.
            if self.under_way == Some(generation) {
                return space.fits_commit(index) && space.free() > wal.saturating_mul(TIMES);
            }
            let most = space.free().min(space.limit() / PART);
            used.saturating_add(wal.saturating_mul(TIMES)) <= most
        };
        let is_worth_it = |generation: &u32| {
            let usage = index.generation(*generation);
            usage.is_some_and(|usage| {
                usage.wal() > SHORT && !usage.is_empty() && fits(*generation, usage.wal())
            })
        };
        let all = index.generations().map(|(generation, _)| generation);
        self.under_way.into_iter().chain(all).find(is_worth_it)
    }

    /// Nothing is being copied any more: it is done, or another process begins.
    pub(super) fn end(&mut self) {
        self.under_way = None;
    }

    /// It failed. What is kept is where it was.
    pub(super) fn fail(&mut self, now: Moment) {
        (self.under_way, self.not_before) = (None, now + PAUSE);
    }
}
