//! Numbers that jump.
//!
//! Knows how a hub numbers what is said while nobody can read what the disk has:
//! above all that can be there. Does not know what is found later, or who reads
//! it; that is in [`recovery`](super::recovery).

use serde::{Deserialize, Serialize};

use super::cursor::Gap;
use crate::hub::Hub;
use crate::hub::channel::topics::Topic;
use crate::hub::event::{LogKey, Now};

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
    pub(in crate::hub) from: u64,
    /// Nobody misses a position above `from` and up to here: it was never given
    /// out, or is of an inbox and its user has it.
    pub(in crate::hub) to: u64,
    /// What is found up to here was numbered before.
    pub(in crate::hub) reach: u64,
    /// Of an inbox, the last position that its user had when it jumped.
    pub(in crate::hub) cursor: u64,
    /// Of an inbox, the last position there was when the messages below were
    /// found: that its user has what lies up to here says nothing of those.
    pub(in crate::hub) seen: u64,
}

/// Whether so many positions between two were never given out: where an earlier
/// hub began to number apart is known by nothing else any more.
fn is_jump(from: u64, to: u64) -> bool {
    to > BASE && to - from >= EACH_SECOND
}

impl Hub {
    /// From now on nothing gets a number that may be on the disk.
    pub(in crate::hub) fn number_apart(&mut self, now: Now) {
        let seconds = (now.wall.0 / 1000).min(MOST_SECONDS);
        self.seq_floor = Some(BASE + seconds * EACH_SECOND + self.random.below(EACH_SECOND));
        for topic in self.channels.iter_mut() {
            let (seq, jump) = (topic.seq, topic.jump.take().map(|jump| *jump));
            let jump = match (&topic.key, jump) {
                _ if seq == 0 => None,
                // What its user has not is on the disk, and not lost yet.
                (LogKey::Inbox(_), jump) => {
                    let cursor = jump.filter(|jump| jump.from == 0).map_or(topic.cursor, |jump| jump.cursor);
                    topic.cursor = seq;
                    Some(ProvisionalRange { to: seq, reach: seq, cursor, ..ProvisionalRange::default() })
                }
                (LogKey::Channel(_), Some(jump)) => Some(ProvisionalRange { reach: seq, ..jump }),
                (LogKey::Channel(_), None) => {
                    Some(ProvisionalRange { from: seq, to: seq, reach: seq, ..ProvisionalRange::default() })
                }
            };
            topic.jump = jump.map(Box::new);
        }
    }
}

impl Topic {
    /// Numbers what comes from now on from above `base`: what lies below may be on
    /// the disk.
    pub(in crate::hub) fn begin_above(&mut self, base: u64) {
        let jump =
            ProvisionalRange { to: base, reach: base, cursor: self.cursor, ..ProvisionalRange::default() };
        (self.seq, self.cursor) = (base, base);
        self.jump = Some(Box::new(jump));
    }

    /// What is missing after a position, as the runs of it.
    pub(in crate::hub) fn holes(&self, after: u64) -> Vec<Gap> {
        let jump = self.jump.as_deref().copied().unwrap_or_default();
        let stretches = [(after, jump.from), (after.max(jump.to), self.seq)];
        let mut holes = Vec::new();
        for (after, to) in stretches {
            let mut expected = after + 1;
            let kept = self.log.iter().flat_map(|log| log.within(after, to));
            for seq in kept.chain([to + 1]) {
                if seq > expected && !is_jump(expected, seq) {
                    let cause = self.last_loss;
                    holes.push(Gap { from: expected, to: seq - 1, lost: seq - expected, cause });
                }
                expected = seq + 1;
            }
        }
        holes
    }

    /// All of it as one.
    pub(in crate::hub) fn missing(&self, after: u64) -> Option<Gap> {
        let holes = self.holes(after);
        let (first, last) = (holes.first()?, holes.last()?);
        let lost = holes.iter().map(|hole| hole.lost).sum();
        Some(Gap { from: first.from, to: last.to, lost, cause: self.last_loss })
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
}
