//! Who reads what is kept of a topic, and how far each has come.
//!
//! Knows what lies before a reader, and what it is told in which place. Does not
//! know what is kept; that is in [`logs`](super::logs).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::kept::Kept;
use super::operations::Told;
use crate::protocol::frame::GapCause;
use crate::protocol::{Channel, ConnectionId};

/// A subscriber that reads what is kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Reader {
    pub(super) slot: u32,
    pub(super) tag: u64,
    /// What lies up to here it heard live, if its socket has taken that, or it was
    /// passed over.
    pub(super) began: u64,
    /// The last position that was queued for it, or passed over.
    pub(super) sent: u64,
    /// The last position that its socket has taken.
    pub(super) written: u64,
    /// How many are queued and not taken.
    pub(super) in_flight: u32,
    /// The last position there was when the store was asked; none while it is not.
    pub(super) asked: Option<u64>,
    /// Once through, it reads what was passed over for it.
    pub(super) again: bool,
    /// It hears the topic no longer; only what is on its way counts.
    pub(super) left: bool,
    /// What was lost in front of it, and is told in its place.
    pub(super) holes: Vec<Hole>,
    /// What is kept for other readers alone, ascending.
    #[serde(default)]
    pub(super) others: Vec<u64>,
    /// What is told behind the messages up to a position.
    pub(super) words: Vec<(u64, Word)>,
}

/// What has to wait for the backlog: nobody is told of the end before the lines.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// How an operation stands.
    Operation(Box<Told>),
    /// Its channel has ended with it.
    Unsubscribed(Channel),
}

/// Messages that were lost before a reader came to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Hole {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) lost: u64,
    pub(super) cause: GapCause,
}

/// What lies before a reader that begins.
#[derive(Default)]
pub(super) struct Backlog {
    /// The last position that counts as heard.
    pub(super) after: u64,
    /// What is missing behind that, and told in its place.
    pub(super) holes: Vec<Hole>,
    /// What is kept there for others alone, ascending.
    pub(super) others: Vec<u64>,
}

impl Backlog {
    /// All that is kept after a position.
    pub(super) fn after(after: u64) -> Self {
        Self { after, ..Self::default() }
    }
}

impl Reader {
    /// One that has everything up to where its backlog begins.
    pub(super) fn new(slot: u32, tag: u64, backlog: Backlog) -> Self {
        let Backlog { after, holes, others } = backlog;
        Self {
            slot,
            tag,
            began: after,
            sent: after,
            written: after,
            in_flight: 0,
            asked: None,
            again: false,
            left: false,
            holes,
            others,
            words: Vec::new(),
        }
    }

    /// What lies before it still.
    pub(super) fn backlog(&self) -> Backlog {
        Backlog { after: self.sent, holes: self.holes.clone(), others: self.others.clone() }
    }

    /// Whether a connection is this reader, and waits for the store.
    pub(super) fn asks(&self, conn: ConnectionId) -> bool {
        self.slot == conn.slot && self.tag == conn.tag && self.asked.is_some()
    }

    /// Whether `seq` is still to reach it.
    pub(super) fn wants(&self, seq: u64) -> bool {
        self.written < seq
            && (!self.left || (self.in_flight > 0 && seq <= self.sent))
            && !self.passes_over(seq)
    }

    /// Whether `seq` is for others alone.
    pub(super) fn passes_over(&self, seq: u64) -> bool {
        self.others.binary_search(&seq).is_ok()
    }

    /// Notes that a message is lost in front of it; where.
    pub(super) fn note_lost(&mut self, seq: u64, cause: GapCause) -> usize {
        let at = self.holes.partition_point(|hole| hole.to < seq);
        match self.holes.get_mut(at) {
            Some(hole) if hole.from <= seq => hole.lost += 1,
            _ => self.holes.insert(at, Hole { from: seq, to: seq, lost: 1, cause }),
        }
        at
    }

    pub(super) fn is_over(&self) -> bool {
        self.left && self.in_flight == 0 && self.asked.is_none()
    }
}

/// Makes one of two neighbouring holes of one cause with nothing kept between
/// them; `at` is the second.
pub(super) fn join(holes: &mut Vec<Hole>, at: usize, kept: &VecDeque<Kept>) {
    let (Some(before), Some(next)) = (at.checked_sub(1).and_then(|at| holes.get(at)), holes.get(at)) else {
        return;
    };
    let place = kept.partition_point(|kept| kept.seq <= before.to);
    let is_apart = kept.get(place).is_some_and(|kept| kept.seq < next.from);
    if before.cause != next.cause || is_apart {
        return;
    }
    let next = holes.remove(at);
    if let Some(before) = holes.get_mut(at - 1) {
        before.to = next.to;
        before.lost += next.lost;
    }
}
