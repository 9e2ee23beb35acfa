//! Long pieces of work, each with an owner and one end.
//!
//! Knows which run and which have ended a moment ago. Does not know what makes
//! them start and end; that is in [`progress`](super::progress).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slab::Slab;

use super::deadlines::{NEVER, round_up};
use crate::protocol::frame::{OperationEntry, OperationState};
use crate::protocol::say::Ending;
use crate::protocol::{Channel, ConnectionId, Frame, Moment, OperationId, Payload, UnixTime, UserId};

/// For how long an ended operation is remembered, and how many are: a page that
/// was reloaded still learns how it ended.
const REMEMBERED: Duration = Duration::from_secs(600);
const MOST_REMEMBERED: usize = 1024;

/// Final data above this is told and not remembered.
const MOST_DATA: usize = 4 << 10;

/// One that runs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Operation {
    pub(super) id: OperationId,
    pub(super) owner: ConnectionId,
    pub(super) channel: Channel,
    pub(super) user: Option<UserId>,
    pub(super) label: Option<String>,
    pub(super) started_at: UnixTime,
    pub(super) grace: Duration,
    /// When it is interrupted by itself.
    pub(super) deadline: Moment,
    /// When it has to be over, once it was interrupted.
    pub(super) timeout: Moment,
    /// For which moment its one deadline is set.
    pub(super) armed: Moment,
    /// Who asked it to stop.
    pub(super) by: Option<String>,
}

/// What is remembered of one that ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Ended {
    told: Told,
    at: Moment,
}

/// What somebody who comes later is told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) id: OperationId,
    pub(super) channel: Channel,
    pub(super) user: Option<UserId>,
    pub(super) state: OperationState,
    pub(super) reason: Option<Ending>,
    pub(super) label: Option<String>,
    pub(super) by: Option<String>,
    pub(super) data: Option<Payload>,
}

impl Told {
    pub(super) fn is_over(&self) -> bool {
        self.state == OperationState::Ended
    }

    pub(super) fn frame(self) -> Frame<'static> {
        Frame::Operation {
            operation_id: self.id,
            channel: self.channel,
            state: self.state,
            reason: self.reason,
            label: self.label,
            by: self.by,
            data: self.data,
        }
    }
}

impl Operation {
    pub(super) fn is_interrupted(&self) -> bool {
        self.timeout != NEVER
    }

    fn state(&self) -> OperationState {
        if self.is_interrupted() { OperationState::Interrupting } else { OperationState::Started }
    }

    pub(super) fn told(&self) -> Told {
        Told {
            id: self.id.clone(),
            channel: self.channel.clone(),
            user: self.user.clone(),
            state: self.state(),
            reason: None,
            label: self.label.clone(),
            by: self.by.clone(),
            data: None,
        }
    }

    fn entry(&self) -> OperationEntry {
        OperationEntry {
            operation_id: self.id.clone(),
            channel: self.channel.clone(),
            state: self.state(),
            user_id: self.user.clone(),
            label: self.label.clone(),
            started_at: self.started_at,
        }
    }
}

/// All operations.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Operations {
    pub(super) table: Slab<Operation>,
    by_id: BTreeMap<OperationId, u32>,
    by_channel: BTreeSet<(Channel, OperationId)>,
    ended: BTreeMap<OperationId, Ended>,
    /// Those that ended, oldest first.
    order: VecDeque<OperationId>,
}

impl Operations {
    pub(super) fn place(&self, id: &OperationId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    pub(super) fn at(&self, place: u32) -> Option<&Operation> {
        self.table.get(place as usize)
    }

    pub(super) fn at_mut(&mut self, place: u32) -> Option<&mut Operation> {
        self.table.get_mut(place as usize)
    }

    pub(super) fn find(&self, id: &OperationId) -> Option<&Operation> {
        self.at(self.place(id)?)
    }

    /// What there is to tell of one, running or remembered.
    pub(super) fn told(&self, id: &OperationId) -> Option<Told> {
        let ended = || self.ended.get(id).map(|ended| ended.told.clone());
        self.find(id).map(Operation::told).or_else(ended)
    }

    pub(super) fn running(&self) -> usize {
        self.table.len()
    }

    /// Those that run, on one channel or on all.
    pub(super) fn list(&self, channel: Option<&Channel>) -> Vec<OperationEntry> {
        let Some(channel) = channel else {
            return self.by_id.keys().filter_map(|id| self.find(id)).map(Operation::entry).collect();
        };
        let Some(before_all) = OperationId::new("\u{20}").ok() else { return Vec::new() };
        let from = (channel.clone(), before_all);
        let here = self.by_channel.range(from..).take_while(|(at, _)| at == channel);
        here.filter_map(|(_, id)| self.find(id)).map(Operation::entry).collect()
    }

    pub(super) fn insert(&mut self, operation: Operation) -> u32 {
        let (id, channel) = (operation.id.clone(), operation.channel.clone());
        // Its name is in use again: how it ended before is of no interest.
        if self.ended.remove(&id).is_some() {
            self.order.retain(|ended| *ended != id);
        }
        let place = self.table.insert(operation) as u32;
        self.by_channel.insert((channel, id.clone()));
        self.by_id.insert(id, place);
        place
    }

    pub(super) fn remove(&mut self, place: u32) -> Option<Operation> {
        let operation = self.table.try_remove(place as usize)?;
        self.by_id.remove(&operation.id);
        self.by_channel.remove(&(operation.channel.clone(), operation.id.clone()));
        Some(operation)
    }

    pub(super) fn remember(&mut self, now: Moment, mut told: Told) {
        told.data = told.data.filter(|data| data.json().len() <= MOST_DATA);
        self.order.push_back(told.id.clone());
        self.ended.insert(told.id.clone(), Ended { told, at: now });
        if self.order.len() > MOST_REMEMBERED {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(id) = self.order.pop_front() {
            self.ended.remove(&id);
        }
    }

    /// When the first that ended is to be forgotten.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let first = self.ended.get(self.order.front()?)?;
        Some(round_up(first.at + REMEMBERED))
    }

    /// Forgets those that ended long ago.
    pub(super) fn forget(&mut self, now: Moment) {
        while self.deadline().is_some_and(|due| due <= now) {
            self.forget_first();
        }
    }
}
