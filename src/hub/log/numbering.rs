//! The numbers of one topic: which were given out, and up to where its user has them.
//!
//! While the disk cannot be read, it is unknown which numbers are on it. What is published
//! meanwhile gets provisional ones, above all that can be there; what is found later, if
//! anything is, lies below, and [`ProvisionalRange`] notes what of that gap was never given
//! out. [`recovery`](super::recovery) puts found messages back.

use serde::{Deserialize, Serialize};

use super::entries::Entries;
use super::gap::Gap;
use super::position::{LogPosition, SeqRange};
use super::recovery::RecoveredPlace;
use crate::hub::event::{LogKey, Now, RecoveredLog};
use crate::hub::rng::Rng;
use crate::protocol::Position;
use crate::protocol::frame::GapCause;
use crate::protocol::ids::spelled;

/// While the disk cannot be read, it is unknown which numbers are on it. New topics
/// begin above all that they could be: above this,
const BASE: u64 = 1 << 32;

/// and above what was numbered like this at an earlier start, by so many for each
/// second since 1970: more than a topic gets in one. A part of that is random,
/// for clocks that begin in 1970 each time.
const EACH_SECOND: u64 = 1 << 20;

/// All stays below 2^53, until the year 2106.
const MAX_SECONDS: u64 = 1 << 32;

/// Where the numbers of a topic leave a gap, because they went on while the disk could not be
/// read: what it has of the topic lies below, and is found later or never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct ProvisionalRange {
    /// The last position below that is known of; zero while there is none.
    from: u64,
    /// A position above `from` and up to here is never missing: it was never given
    /// out, or is of an inbox and its user has it.
    to: u64,
    /// What is found up to here was numbered before.
    reach: u64,
    /// Of an inbox, the last position that its user had when the provisional numbers began.
    cursor: u64,
    /// Of an inbox, the last position there was when the messages below were
    /// found: that its user has what lies up to here means nothing for those.
    seen: u64,
}

impl ProvisionalRange {
    /// As it is after a clean stop at `seq`.
    pub(in crate::hub) fn restored(self, seq: u64) -> Self {
        Self { reach: seq, ..self }
    }
}

/// Whether so many positions between two were never given out: where an earlier
/// hub began to number apart is known by nothing else any more.
fn skips_unused_numbers(from: u64, to: u64) -> bool {
    to > BASE && to - from >= EACH_SECOND
}

/// The number above which topics begin from now on: none that is on the disk.
pub(in crate::hub) fn provisional_floor(now: Now, random: &mut Rng) -> u64 {
    let seconds = (now.wall.0 / 1000).min(MAX_SECONDS);
    BASE + seconds * EACH_SECOND + random.below(EACH_SECOND)
}

/// The numbers of one topic.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::hub) struct Numbering {
    /// The last number given out.
    last: LogPosition,
    /// Of an inbox, the last position that its user has.
    cursor: u64,
    /// Of an inbox, the last position that was queued for some connection.
    offered: u64,
    /// The gap below the provisional numbers, if any were given out.
    provisional: Option<Box<ProvisionalRange>>,
}

impl Numbering {
    pub(in crate::hub) fn new(epoch: u64) -> Self {
        Self { last: LogPosition { epoch, seq: 0 }, cursor: 0, offered: 0, provisional: None }
    }

    /// As another hub left it.
    pub(in crate::hub) fn restored(
        last: LogPosition,
        cursor: u64,
        offered: u64,
        provisional: Option<Box<ProvisionalRange>>,
    ) -> Self {
        Self { last, cursor, offered, provisional }
    }

    /// The last number given out.
    pub(in crate::hub) fn last(&self) -> LogPosition {
        self.last
    }

    /// Of an inbox, the last position that its user has.
    pub(in crate::hub) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Of an inbox, the last position that was queued for some connection.
    pub(in crate::hub) fn offered(&self) -> u64 {
        self.offered
    }

    pub(in crate::hub) fn provisional_range(&self) -> Option<&ProvisionalRange> {
        self.provisional.as_deref()
    }

    /// Gives out one more number.
    pub(in crate::hub) fn give_out(&mut self) -> LogPosition {
        self.last.seq += 1;
        self.last
    }

    /// Whether a position that a client names is one of these.
    pub(in crate::hub) fn includes(&self, position: &Position) -> bool {
        position.epoch == spelled(self.last.epoch) && position.seq <= self.last.seq
    }

    /// Whether a client may acknowledge a position: of other numbers, or beyond what any
    /// connection of its user was sent, it means nothing, nor where it is ambiguous.
    pub(in crate::hub) fn may_acknowledge(&self, position: &Position) -> bool {
        position.epoch == spelled(self.last.epoch)
            && position.seq <= self.offered
            && !self.is_ambiguous(position.seq)
    }

    /// Some connection was sent all that there is.
    pub(in crate::hub) fn offer_all(&mut self) {
        self.offered = self.last.seq;
    }

    /// Some connection was sent what lies up to a position.
    pub(in crate::hub) fn offer(&mut self, seq: u64) {
        self.offered = self.offered.max(seq);
    }

    /// Numbers what comes from now on from above `floor`: what lies below may be on the disk.
    pub(in crate::hub) fn begin_above(&mut self, floor: u64) {
        let range =
            ProvisionalRange { to: floor, reach: floor, cursor: self.cursor, ..ProvisionalRange::default() };
        (self.last.seq, self.cursor) = (floor, floor);
        self.provisional = Some(Box::new(range));
    }

    /// What the disk has of the topic of that key cannot be read from now on.
    pub(in crate::hub) fn detach_from_disk(&mut self, key: &LogKey) {
        let (seq, range) = (self.last.seq, self.provisional.take().map(|range| *range));
        let range = match range {
            _ if seq == 0 => None,
            // What its user has not is on the disk, and not lost yet.
            range if matches!(key, LogKey::Inbox(_)) => {
                let cursor = range.filter(|range| range.from == 0).map_or(self.cursor, |range| range.cursor);
                self.cursor = seq;
                Some(ProvisionalRange { to: seq, reach: seq, cursor, ..ProvisionalRange::default() })
            }
            Some(range) => Some(ProvisionalRange { reach: seq, ..range }),
            None => Some(ProvisionalRange { from: seq, to: seq, reach: seq, ..ProvisionalRange::default() }),
        };
        self.provisional = range.map(Box::new);
    }

    /// The last position below the provisional numbers that is known of.
    pub(in crate::hub) fn known_below(&self) -> u64 {
        self.provisional.as_deref().map_or(0, |range| range.from)
    }

    /// Whether its numbers are provisional, and nothing below them is known.
    pub(in crate::hub) fn is_provisional(&self) -> bool {
        self.provisional.as_deref().is_some_and(|range| range.from == 0)
    }

    /// What is missing after a position.
    pub(in crate::hub) fn gaps(&self, after: u64, entries: Option<&Entries>, cause: GapCause) -> Vec<Gap> {
        let range = self.provisional.as_deref().copied().unwrap_or_default();
        let stretches = [(after, range.from), (after.max(range.to), self.last.seq)];
        let mut gaps = Vec::new();
        for (after, to) in stretches {
            let mut expected = after + 1;
            let kept = entries.into_iter().flat_map(|entries| entries.within(after, to));
            for seq in kept.chain([to + 1]) {
                if seq > expected && !skips_unused_numbers(expected, seq) {
                    gaps.push(Gap::new(SeqRange::new(expected, seq - 1), seq - expected, cause));
                }
                expected = seq + 1;
            }
        }
        gaps
    }

    /// Whether that the user of an inbox has a position may not mean that nothing
    /// before it is owed.
    pub(in crate::hub) fn is_ambiguous(&self, seq: u64) -> bool {
        let is_from_before =
            |range: &ProvisionalRange| self.cursor < range.from && range.from < seq && seq <= range.seen;
        self.provisional.as_deref().is_some_and(is_from_before)
    }

    /// The user of an inbox has all up to a position.
    pub(in crate::hub) fn pass(&mut self, seq: u64) {
        self.cursor = self.cursor.max(seq);
        if let Some(range) = self.provisional.as_deref().filter(|range| self.cursor >= range.from) {
            self.cursor = self.cursor.max(range.to);
        }
    }

    /// Whether the user of an inbox has what is at a position.
    pub(in crate::hub) fn is_passed(&self, seq: u64) -> bool {
        seq <= self.cursor
            || self.provisional.as_ref().is_some_and(|range| range.from < seq && seq <= range.to)
    }

    /// Goes on after what was found on the disk. Where numbers might be given out again, those
    /// of `epoch` begin.
    pub(in crate::hub) fn recover(
        &mut self,
        found: &RecoveredLog,
        known: Known,
        epoch: u64,
    ) -> RecoveredPlace {
        let seqs = found.kept.iter().map(|message| message.seq);
        let last = seqs.clone().chain([found.last, found.cursor]).max().unwrap_or_default();
        // All that is found is owed: a mark of what is not may be of other numbers.
        let cursor =
            seqs.clone().next().map_or(found.cursor, |first| found.cursor.min(first.saturating_sub(1)));
        let reach = self.provisional.as_ref().map_or(self.last.seq, |range| range.reach);
        if last > reach {
            self.cursor = if known == Known::Yes { cursor.min(self.cursor) } else { cursor };
            self.last = LogPosition { epoch, seq: self.last.seq.max(last) };
            (self.offered, self.provisional) = (0, None);
            return RecoveredPlace::Among;
        }
        let Some(range) = &mut self.provisional else { return RecoveredPlace::Below };
        let from = seqs.chain([found.last]).filter(|seq| *seq <= range.to).max().unwrap_or_default();
        range.from = range.from.max(from);
        if from > 0 && matches!(found.log, LogKey::Inbox(_)) {
            range.to = range.to.max(self.cursor);
            range.seen = self.last.seq;
            self.cursor = 0;
            let cursor = range.cursor.max(cursor);
            self.pass(cursor);
        }
        RecoveredPlace::Below
    }
}

/// Whether the hub knew a topic before it was found on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::hub) enum Known {
    Yes,
    No,
}
