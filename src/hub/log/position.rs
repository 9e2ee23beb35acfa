//! Positions in a log, and ranges of them.

use serde::{Deserialize, Serialize};

/// A position in a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LogPosition {
    /// Which sequence of numbers: random, so that no two of them are taken for one.
    pub epoch: u64,
    /// The number in it, from 1; 0 is before all of them.
    pub seq: u64,
}

/// Positions of one epoch that follow each other, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct SeqRange {
    from: u64,
    to: u64,
}

impl SeqRange {
    /// All positions there can be.
    pub(in crate::hub) const ALL: Self = Self { from: 0, to: u64::MAX };

    pub(in crate::hub) fn new(from: u64, to: u64) -> Self {
        Self { from, to }
    }

    /// One position.
    pub(in crate::hub) fn one(seq: u64) -> Self {
        Self { from: seq, to: seq }
    }

    pub(in crate::hub) fn from(self) -> u64 {
        self.from
    }

    pub(in crate::hub) fn to(self) -> u64 {
        self.to
    }

    pub(in crate::hub) fn contains(self, seq: u64) -> bool {
        (self.from..=self.to).contains(&seq)
    }

    /// Moves its end to a later position; begins there where there is no range yet.
    pub(in crate::hub) fn extend(range: &mut Option<Self>, to: u64) {
        match range {
            Some(range) => range.to = to,
            None => *range = Some(Self::one(to)),
        }
    }

    /// From the first position of two ranges to the last.
    pub(in crate::hub) fn hull(self, other: Self) -> Self {
        Self { from: self.from.min(other.from), to: self.to.max(other.to) }
    }

    /// What of it lies behind a position that is not before it.
    pub(in crate::hub) fn behind(self, seq: u64) -> Option<Self> {
        (seq < self.to).then_some(Self { from: seq + 1, to: self.to })
    }
}
