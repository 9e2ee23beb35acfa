//! The numbers of one topic: which were given out, and up to where its user has them.
//!
//! While the disk cannot be read, nobody knows which numbers are on it. What is published
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

/// While nobody can read the disk, nobody knows what numbers are on it. New
/// topics begin above all that they could be: above this,
const BASE: u64 = 1 << 32;

/// and above what was numbered like this at an earlier start, by so many for each
/// second since 1970: more than a topic gets in one. A part of that is random,
/// for clocks that begin in 1970 each time.
const EACH_SECOND: u64 = 1 << 20;

/// All stays below 2^53, until the year 2106.
const MOST_SECONDS: u64 = 1 << 32;

/// Where the numbers of a topic jump, because they went on while nobody could
/// read what the disk has of it: that lies below, and is found later or never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct ProvisionalRange {
    /// The last position below that is known of; zero while there is none.
    from: u64,
    /// Nobody misses a position above `from` and up to here: it was never given
    /// out, or is of an inbox and its user has it.
    to: u64,
    /// What is found up to here was numbered before.
    reach: u64,
    /// Of an inbox, the last position that its user had when it jumped.
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
fn is_jump(from: u64, to: u64) -> bool {
    to > BASE && to - from >= EACH_SECOND
}

/// The number above which topics begin from now on: none that is on the disk.
pub(in crate::hub) fn provisional_floor(now: Now, random: &mut Rng) -> u64 {
    let seconds = (now.wall.0 / 1000).min(MOST_SECONDS);
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
    /// Where the numbers jump, if they do.
    jump: Option<Box<ProvisionalRange>>,
}

impl Numbering {
    pub(in crate::hub) fn new(epoch: u64) -> Self {
        Self { last: LogPosition { epoch, seq: 0 }, cursor: 0, offered: 0, jump: None }
    }

    /// As another hub left it.
    pub(in crate::hub) fn restored(
        last: LogPosition,
        cursor: u64,
        offered: u64,
        jump: Option<Box<ProvisionalRange>>,
    ) -> Self {
        Self { last, cursor, offered, jump }
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

    pub(in crate::hub) fn jump(&self) -> Option<&ProvisionalRange> {
        self.jump.as_deref()
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
        let jump =
            ProvisionalRange { to: floor, reach: floor, cursor: self.cursor, ..ProvisionalRange::default() };
        (self.last.seq, self.cursor) = (floor, floor);
        self.jump = Some(Box::new(jump));
    }

    /// What the disk has of the topic of that key cannot be read from now on.
    pub(in crate::hub) fn detach_from_disk(&mut self, key: &LogKey) {
        let (seq, jump) = (self.last.seq, self.jump.take().map(|jump| *jump));
        let jump = match jump {
            _ if seq == 0 => None,
            // What its user has not is on the disk, and not lost yet.
            jump if matches!(key, LogKey::Inbox(_)) => {
                let cursor = jump.filter(|jump| jump.from == 0).map_or(self.cursor, |jump| jump.cursor);
                self.cursor = seq;
                Some(ProvisionalRange { to: seq, reach: seq, cursor, ..ProvisionalRange::default() })
            }
            Some(jump) => Some(ProvisionalRange { reach: seq, ..jump }),
            None => Some(ProvisionalRange { from: seq, to: seq, reach: seq, ..ProvisionalRange::default() }),
        };
        self.jump = jump.map(Box::new);
    }

    /// The last position below the provisional numbers that is known of.
    pub(in crate::hub) fn known_below(&self) -> u64 {
        self.jump.as_deref().map_or(0, |jump| jump.from)
    }

    /// Whether its numbers are provisional, and nothing below them is known.
    pub(in crate::hub) fn is_provisional(&self) -> bool {
        self.jump.as_deref().is_some_and(|jump| jump.from == 0)
    }

    /// What is missing after a position.
    pub(in crate::hub) fn gaps(&self, after: u64, entries: Option<&Entries>, cause: GapCause) -> Vec<Gap> {
        let jump = self.jump.as_deref().copied().unwrap_or_default();
        let stretches = [(after, jump.from), (after.max(jump.to), self.last.seq)];
        let mut gaps = Vec::new();
        for (after, to) in stretches {
            let mut expected = after + 1;
            let kept = entries.into_iter().flat_map(|entries| entries.within(after, to));
            for seq in kept.chain([to + 1]) {
                if seq > expected && !is_jump(expected, seq) {
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
            |jump: &ProvisionalRange| self.cursor < jump.from && jump.from < seq && seq <= jump.seen;
        self.jump.as_deref().is_some_and(is_from_before)
    }

    /// The user of an inbox has all up to a position.
    pub(in crate::hub) fn pass(&mut self, seq: u64) {
        self.cursor = self.cursor.max(seq);
        if let Some(jump) = self.jump.as_deref().filter(|jump| self.cursor >= jump.from) {
            self.cursor = self.cursor.max(jump.to);
        }
    }

    /// Whether the user of an inbox has what is at a position.
    pub(in crate::hub) fn is_passed(&self, seq: u64) -> bool {
        seq <= self.cursor || self.jump.as_ref().is_some_and(|jump| jump.from < seq && seq <= jump.to)
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
        let reach = self.jump.as_ref().map_or(self.last.seq, |jump| jump.reach);
        if last > reach {
            self.cursor = if known == Known::Yes { cursor.min(self.cursor) } else { cursor };
            self.last = LogPosition { epoch, seq: self.last.seq.max(last) };
            (self.offered, self.jump) = (0, None);
            return RecoveredPlace::Among;
        }
        let Some(jump) = &mut self.jump else { return RecoveredPlace::Below };
        let from = seqs.chain([found.last]).filter(|seq| *seq <= jump.to).max().unwrap_or_default();
        jump.from = jump.from.max(from);
        if from > 0 && matches!(found.log, LogKey::Inbox(_)) {
            jump.to = jump.to.max(self.cursor);
            jump.seen = self.last.seq;
            self.cursor = 0;
            let cursor = jump.cursor.max(cursor);
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
