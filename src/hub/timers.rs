//! Timers: deadlines of connections, operations, interrupts and topics, in order.
//!
//! A timer that fires says only what to check: its owner knows whether anything is due.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::channel::topics::TopicId;
use super::operation::OperationSlot;
use super::operation::interrupt::PendingId;
use crate::protocol::Moment;
use crate::small_queue::gather;

/// Stands for a moment that does not come.
pub(super) const NEVER: Moment = Moment(u64::MAX);

/// What a deadline concerns, by its place in the table of its kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) enum Timer {
    /// Heartbeat, token, authentication or stall of a connection.
    Connection(u32),
    /// Deadline or grace of an operation.
    Operation(OperationSlot),
    /// An interrupt that waits for its operation to start.
    Pending(PendingId),
    /// A message of a topic expires.
    Expiry(TopicId),
    /// A user that lost a connection is taken for gone from a topic.
    Absence(TopicId),
}

/// All deadlines. One for each thing that has any: it is re-armed when it comes
/// and turns out to be too early, so that activity of a peer costs nothing here.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Timers {
    set: BTreeSet<(Moment, Timer)>,
    /// How many there were at most since the tree was made.
    #[serde(skip)]
    most: usize,
}

/// A tree of fewer is not worth making anew.
const FEW: usize = 64;

impl Timers {
    /// Moves the deadline of `task`, which is kept in `armed`, to `due`.
    pub(super) fn rearm(&mut self, task: Timer, armed: &mut Moment, due: Moment) {
        if *armed == due {
            return;
        }
        self.set.remove(&(*armed, task));
        if due != NEVER {
            self.set.insert((due, task));
        }
        self.most = self.most.max(self.set.len());
        *armed = due;
        self.gather();
    }

    /// Makes the tree anew, once there were many more: what is left of it lies scattered
    /// over the memory that it had.
    fn gather(&mut self) {
        if self.most > 4 * self.set.len().max(FEW) {
            gather(&mut self.set);
            self.most = self.set.len();
        }
    }

    /// The first of all.
    pub(super) fn first(&self) -> Option<Moment> {
        self.set.first().map(|(moment, _)| *moment)
    }

    /// Takes out one that is due, if any is. Its owner has to note that it is armed no longer.
    pub(super) fn pop(&mut self, now: Moment) -> Option<Timer> {
        let first = *self.set.first()?;
        if first.0 > now {
            return None;
        }
        self.set.remove(&first);
        self.gather();
        Some(first.1)
    }
}

/// The next whole second: what need not be exact shares its wake-ups.
pub(super) fn round_up(moment: Moment) -> Moment {
    Moment(moment.0.div_ceil(1000).saturating_mul(1000))
}
