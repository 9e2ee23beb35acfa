//! What all logs weigh together, and which of them may give something up.
//!
//! Knows sums and ranks. Does not know limits, or what goes when one is reached;
//! that is in [`eviction`](super::eviction).

use std::collections::BTreeSet;

use super::publisher_quota::Author;
use crate::small_queue::gather;

/// What one log weighs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::hub) struct LogUsage {
    /// All that it keeps, wherever that is, and the receipts that it owes.
    pub(in crate::hub) bytes: usize,
    /// Of that: what only the memory has.
    pub(in crate::hub) unstored: usize,
    /// Of that in turn: what may be given up.
    pub(in crate::hub) loose: usize,
    /// How many messages it keeps.
    pub(in crate::hub) messages: u32,
    /// How many of them are on the disk.
    pub(in crate::hub) stored: u32,
    /// How many publishers wait for the disk.
    pub(in crate::hub) answers: u32,
    /// The bytes for which they wait.
    pub(in crate::hub) awaited: usize,
    /// Whether another log may push its oldest message out.
    pub(in crate::hub) yields: bool,
}

impl LogUsage {
    /// Where it stands among those that give way to others.
    fn rank(&self) -> Option<usize> {
        Some(self.bytes).filter(|bytes| self.yields && *bytes > 0)
    }

    /// Where it stands among those that have something loose.
    fn loose_rank(&self) -> Option<usize> {
        Some(self.loose).filter(|bytes| *bytes > 0)
    }
}

/// What all logs weigh.
#[derive(Debug, Default)]
pub(in crate::hub) struct UsageIndex {
    /// The sums; nobody yields.
    pub(in crate::hub) sum: LogUsage,
    /// How many keep something.
    pub(in crate::hub) logs: usize,
    /// Those whose oldest may be pushed out, by the bytes they keep.
    yielding: BTreeSet<(usize, u32)>,
    /// Those that have something loose, by its bytes.
    loose: BTreeSet<(usize, u32)>,
    /// What is kept of each user.
    pub(in crate::hub) publishers: Publishers,
}

/// What all logs together keep of each publisher who has a share in that.
#[derive(Debug, Default)]
pub(in crate::hub) struct Publishers {
    /// By publisher, and by bytes.
    bytes: BTreeSet<(usize, u32)>,
    ranks: BTreeSet<(usize, u32)>,
}

impl Publishers {
    /// So much more or less is kept.
    pub(in crate::hub) fn change(&mut self, author: Author, bytes: isize) {
        let Some(number) = author.number() else { return };
        let was = self.of(author);
        // Four gigabytes are as good as any more.
        let is = was.saturating_add_signed(bytes).min(u32::MAX as usize);
        place_anew(&mut self.ranks, number, Some(was).filter(|was| *was > 0), Some(is).filter(|is| *is > 0));
        let place = |bytes: usize| (number as usize, bytes as u32);
        self.bytes.remove(&place(was));
        if is > 0 {
            self.bytes.insert(place(is));
        }
    }

    pub(in crate::hub) fn of(&self, author: Author) -> usize {
        let Some(number) = author.number() else { return 0 };
        let found = self.bytes.range((number as usize, 0)..).next();
        found.filter(|(of, _)| *of == number as usize).map_or(0, |(_, bytes)| *bytes as usize)
    }

    /// The one of whom most is kept, and how much.
    pub(in crate::hub) fn largest(&self) -> Option<(usize, Author)> {
        self.ranks.last().map(|(bytes, number)| (*bytes, Author::of_number(*number)))
    }
}

impl UsageIndex {
    /// A log weighs something else than before.
    pub(in crate::hub) fn change(&mut self, place: u32, was: LogUsage, is: LogUsage) {
        if was == is {
            return;
        }
        let change = |sum: &mut usize, was: usize, is: usize| *sum = *sum - was + is;
        let count = |sum: &mut u32, was: u32, is: u32| *sum = *sum - was + is;
        change(&mut self.sum.bytes, was.bytes, is.bytes);
        change(&mut self.sum.unstored, was.unstored, is.unstored);
        change(&mut self.sum.loose, was.loose, is.loose);
        count(&mut self.sum.messages, was.messages, is.messages);
        count(&mut self.sum.stored, was.stored, is.stored);
        count(&mut self.sum.answers, was.answers, is.answers);
        change(&mut self.sum.awaited, was.awaited, is.awaited);
        change(&mut self.logs, usize::from(was.bytes > 0), usize::from(is.bytes > 0));
        place_anew(&mut self.yielding, place, was.rank(), is.rank());
        place_anew(&mut self.loose, place, was.loose_rank(), is.loose_rank());
    }

    /// Puts the ranks together again, now that there were many more of them: what is left of
    /// a tree lies scattered over the memory that it had.
    pub(in crate::hub) fn gather(&mut self) {
        gather(&mut self.yielding);
        gather(&mut self.loose);
    }

    /// The one that keeps most bytes among those whose oldest may go, and how
    /// many.
    pub(in crate::hub) fn heaviest(&self) -> Option<(usize, u32)> {
        self.yielding.last().copied()
    }

    /// Those among them that keep more than so much, the heaviest first.
    pub(in crate::hub) fn heavier_than(&self, bytes: usize) -> impl Iterator<Item = (usize, u32)> {
        self.yielding.range((bytes + 1, 0)..).rev().copied()
    }

    /// The one that has most which only the memory has, and how much.
    pub(in crate::hub) fn loosest(&self) -> Option<(usize, u32)> {
        self.loose.last().copied()
    }
}

fn place_anew(ranks: &mut BTreeSet<(usize, u32)>, place: u32, was: Option<usize>, is: Option<usize>) {
    if was == is {
        return;
    }
    if let Some(was) = was {
        ranks.remove(&(was, place));
    }
    if let Some(is) = is {
        ranks.insert((is, place));
    }
}
