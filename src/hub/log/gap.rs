//! Gaps: messages that a subscriber does not get, and is notified of.

use serde::{Deserialize, Serialize};

use super::entries::Entries;
use super::position::SeqRange;
use crate::hub::event::{Effect, Requester};
use crate::protocol::frame::GapCause;
use crate::protocol::ids::spelled;
use crate::protocol::{Channel, ConnectionId, Frame};

/// Messages that were lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Gap {
    range: SeqRange,
    /// How many of the positions in the range had a message that is lost: what lies between
    /// may have gone to the subscriber, or not.
    lost: u64,
    cause: GapCause,
}

impl Gap {
    pub(in crate::hub) fn new(range: SeqRange, lost: u64, cause: GapCause) -> Self {
        Self { range, lost, cause }
    }

    /// All gaps as one.
    pub(in crate::hub) fn sum(gaps: &[Self], cause: GapCause) -> Option<Self> {
        let range = gaps.first()?.range.hull(gaps.last()?.range);
        Some(Self { range, lost: gaps.iter().map(|gap| gap.lost).sum(), cause })
    }

    /// Its last position.
    pub(in crate::hub) fn to(&self) -> u64 {
        self.range.to()
    }

    /// Notifies one connection of messages that it will not get.
    pub(in crate::hub) fn notice(&self, conn: ConnectionId, channel: Channel, epoch: u64) -> Effect {
        notice(
            conn,
            Frame::Gap {
                channel,
                epoch: spelled(epoch),
                from_seq: Some(self.range.from()),
                to_seq: Some(self.range.to()),
                lost: Some(self.lost),
                cause: self.cause,
            },
        )
    }
}

/// Notifies one connection that the numbers of a topic belong to another epoch from now on.
pub(in crate::hub) fn new_epoch(conn: ConnectionId, channel: Channel, epoch: u64) -> Effect {
    notice(
        conn,
        Frame::Gap {
            channel,
            epoch: spelled(epoch),
            from_seq: None,
            to_seq: None,
            lost: None,
            cause: GapCause::Epoch,
        },
    )
}

fn notice(conn: ConnectionId, frame: Frame<'static>) -> Effect {
    Effect::Reply { to: Requester::Connection(conn), id: None, frame: Box::new(frame) }
}

/// The gaps in front of one reader, ascending.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::hub) struct Gaps(Vec<Gap>);

impl From<Vec<Gap>> for Gaps {
    fn from(gaps: Vec<Gap>) -> Self {
        Self(gaps)
    }
}

impl Gaps {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Gap> {
        self.0.iter()
    }

    /// Takes out those that lie before a position.
    pub(super) fn take_before(&mut self, seq: u64) -> impl Iterator<Item = Gap> {
        self.0.extract_if(.., move |gap| gap.to() < seq)
    }

    /// Adds a message that is lost. Gaps of one cause with nothing kept between them are one.
    pub(super) fn add(&mut self, seq: u64, cause: GapCause, entries: &Entries) {
        let at = self.0.partition_point(|gap| gap.to() < seq);
        match self.0.get_mut(at) {
            Some(gap) if gap.range.from() <= seq => gap.lost += 1,
            _ => self.0.insert(at, Gap::new(SeqRange::one(seq), 1, cause)),
        }
        self.join(at + 1, entries);
        self.join(at, entries);
    }

    /// Makes one of two neighbours, if nothing that is kept lies between them; `at` is the
    /// second.
    fn join(&mut self, at: usize, entries: &Entries) {
        let (Some(before), Some(next)) = (at.checked_sub(1).and_then(|at| self.0.get(at)), self.0.get(at))
        else {
            return;
        };
        let is_apart = entries.first_after(before.to()).is_some_and(|kept| kept.seq() < next.range.from());
        if before.cause != next.cause || is_apart {
            return;
        }
        let next = self.0.remove(at);
        if let Some(before) = self.0.get_mut(at - 1) {
            before.range = before.range.hull(next.range);
            before.lost += next.lost;
        }
    }
}
