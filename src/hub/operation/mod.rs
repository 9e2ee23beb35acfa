//! Long pieces of work, each with an owner and one end.
//!
//! Knows which run and which have ended a moment ago. Does not know what makes
//! them start and end; that is in [`lifecycle`].

pub(super) mod interrupt;
pub(super) mod lifecycle;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slab::Slab;

use super::admin::Page;
use super::connection::rate_limit::ListSpace;
use super::timers::{NEVER, round_up};
use crate::protocol::frame::{OperationEntry, OperationState};
use crate::protocol::request::EndState;
use crate::protocol::{Channel, ConnectionId, Frame, Moment, OperationId, Payload, UnixTime, UserId};

/// For how long an ended operation is remembered, and how many are: a page that
/// was reloaded still learns how it ended.
const REMEMBERED: Duration = Duration::from_secs(600);
const MOST_REMEMBERED: usize = 1024;

/// Final data above this is told and not remembered.
const MOST_DATA: usize = 4 << 10;

/// Above this, a list of what runs on a channel says nothing to people.
const MOST_LISTED: usize = 1000;

/// What an entry in a list takes beside names and texts.
const ENTRY: usize = 150;

/// What one that runs takes beside its texts, with its latch: 1280 bytes measured with
/// 10,000, and 1390 where the texts are as long as they may be.
const OPERATION: usize = 1280;

/// What one that is remembered takes beside its texts: 430 measured.
const ENDED: usize = 432;

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
struct EndedOperation {
    told: OperationSummary,
    at: Moment,
}

/// What somebody who comes later is told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct OperationSummary {
    pub(super) id: OperationId,
    pub(super) channel: Channel,
    pub(super) user: Option<UserId>,
    pub(super) state: OperationState,
    pub(super) reason: Option<EndState>,
    pub(super) label: Option<String>,
    pub(super) by: Option<String>,
    pub(super) data: Option<Payload>,
}

impl EndedOperation {
    fn held(&self) -> usize {
        let OperationSummary { id, channel, user, label, by, data, .. } = &self.told;
        let (user, data) = (user.as_ref().map(UserId::as_str), data.as_ref().map(Payload::json));
        let names = [Some(id.as_str()), Some(channel.as_str()), user];
        ENDED + texts(names) + texts([label.as_deref(), by.as_deref(), data])
    }
}

impl OperationSummary {
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

    pub(super) fn told(&self) -> OperationSummary {
        OperationSummary {
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

    /// What its entry in a list takes, at most.
    fn entry_bytes(&self) -> usize {
        self.held() - OPERATION + ENTRY
    }

    fn held(&self) -> usize {
        let Self { id, channel, user, label, .. } = self;
        let user = user.as_ref().map(UserId::as_str);
        OPERATION + texts([Some(id.as_str()), Some(channel.as_str()), user, label.as_deref()])
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
    ended: BTreeMap<OperationId, EndedOperation>,
    /// Those that ended, oldest first.
    order: VecDeque<OperationId>,
    /// What all of them take, in bytes. Follows from the rest.
    #[serde(skip)]
    held: usize,
}

/// What texts take of which few are there.
fn texts<const N: usize>(texts: [Option<&str>; N]) -> usize {
    texts.into_iter().flatten().map(str::len).sum()
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
    pub(super) fn told(&self, id: &OperationId) -> Option<OperationSummary> {
        let ended = || self.ended.get(id).map(|ended| ended.told.clone());
        self.find(id).map(Operation::told).or_else(ended)
    }

    /// What all of them take, in bytes.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Counts that anew, after they were read back.
    pub(super) fn weigh(&mut self) {
        let running: usize = self.table.iter().map(|(_, operation)| operation.held()).sum();
        self.held = running + self.ended.values().map(EndedOperation::held).sum::<usize>();
    }

    pub(super) fn running(&self) -> usize {
        self.table.len()
    }

    /// All that run and are wanted.
    pub(super) fn list(
        &self,
        after: Option<&str>,
        is_wanted: impl Fn(&Operation) -> bool,
    ) -> Page<OperationEntry, OperationId> {
        let running = self.by_id.keys().filter_map(|id| self.find(id));
        let running: Vec<&Operation> = running.filter(|operation| is_wanted(operation)).collect();
        let entry = |operation: &&Operation| (operation.entry(), operation.id.clone());
        Page::of(&running, after, |operation| operation.id.as_str(), entry)
    }

    /// Those that run on a channel, as many as there is room for, and how many they are
    /// where that is not all.
    pub(super) fn list_on(
        &self,
        channel: &Channel,
        room: &mut ListSpace,
    ) -> (Vec<OperationEntry>, Option<u64>) {
        let Some(before_all) = OperationId::new("\u{20}").ok() else { return Default::default() };
        let from = (channel.clone(), before_all);
        let here = self.by_channel.range(from..).take_while(|(at, _)| at == channel);
        let mut listed = Vec::new();
        let mut running = 0;
        for operation in here.filter_map(|(_, id)| self.find(id)) {
            running += 1;
            if listed.len() + 1 == running && running <= MOST_LISTED && room.takes(operation.entry_bytes()) {
                listed.push(operation.entry());
            }
        }
        let is_all = listed.len() == running;
        (listed, (!is_all).then_some(running as u64))
    }

    pub(super) fn insert(&mut self, operation: Operation) -> u32 {
        let (id, channel) = (operation.id.clone(), operation.channel.clone());
        // Its name is in use again: how it ended before is of no interest.
        if let Some(ended) = self.ended.remove(&id) {
            self.held -= ended.held();
            self.order.retain(|ended| *ended != id);
        }
        self.held += operation.held();
        let place = self.table.insert(operation) as u32;
        self.by_channel.insert((channel, id.clone()));
        self.by_id.insert(id, place);
        place
    }

    pub(super) fn remove(&mut self, place: u32) -> Option<Operation> {
        let operation = self.table.try_remove(place as usize)?;
        self.held -= operation.held();
        self.by_id.remove(&operation.id);
        self.by_channel.remove(&(operation.channel.clone(), operation.id.clone()));
        Some(operation)
    }

    pub(super) fn remember(&mut self, now: Moment, mut told: OperationSummary) {
        told.data = told.data.filter(|data| data.json().len() <= MOST_DATA);
        let (id, ended) = (told.id.clone(), EndedOperation { told, at: now });
        self.held += ended.held();
        self.order.push_back(id.clone());
        self.ended.insert(id, ended);
        if self.order.len() > MOST_REMEMBERED {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(ended) = self.order.pop_front().and_then(|id| self.ended.remove(&id)) {
            self.held -= ended.held();
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
