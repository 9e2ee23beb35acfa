//! Operations: long pieces of work, each with one owner and one end.
//!
//! [`Operations`] holds those that run and those that ended a moment ago; [`lifecycle`] starts,
//! interrupts and ends them, and [`interrupt`] has the interrupts that wait for one.

pub(super) mod interrupt;
mod lifecycle;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slab::Slab;

use super::admin::Page;
use super::connection::rate_limit::ListSpace;
use super::event::Now;
use super::timers::{NEVER, Timer, Timers, round_up};
use crate::protocol::frame::{OperationEntry, OperationState};
use crate::protocol::request::{EndState, OperationStart};
use crate::protocol::{Channel, ConnectionId, Frame, Moment, OperationId, Payload, UnixTime, UserId};

/// For how long an ended operation is remembered, and how many are: a page that
/// was reloaded still gets to know how it ended.
const REMEMBERED: Duration = Duration::from_secs(600);
const MAX_REMEMBERED: usize = 1024;

/// Final data above this is sent and not remembered.
const MAX_REMEMBERED_DATA: usize = 4 << 10;

/// How long a worker may take to end an operation after an interrupt, where it does not say.
const GRACE: Duration = Duration::from_secs(30);

/// Above this, a list of what runs on a channel is of no use to people.
const MAX_LISTED: usize = 1000;

/// What an entry in a list takes beside names and texts.
const ENTRY: usize = 150;

/// What one that runs takes beside its texts, with its latch: 1280 bytes measured with
/// 10,000, and 1390 where the texts are as long as they may be.
const OPERATION: usize = 1280;

/// What one that is remembered takes beside its texts: 430 measured.
const ENDED: usize = 432;

/// Place of an operation in the table of those that run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct OperationSlot(u32);

/// One that runs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Operation {
    id: OperationId,
    owner: ConnectionId,
    channel: Channel,
    user: Option<UserId>,
    label: Option<String>,
    started_at: UnixTime,
    grace: Duration,
    /// When it is interrupted by itself.
    deadline: Moment,
    /// When it has to be over, once it was interrupted.
    timeout: Moment,
    /// For which moment its one timer is set.
    armed: Moment,
    /// The sender of the first interrupt.
    by: Option<String>,
}

/// What is remembered of one that ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct EndedOperation {
    summary: OperationSummary,
    at: Moment,
}

/// State of an operation, as its watchers are notified of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct OperationSummary {
    id: OperationId,
    channel: Channel,
    user: Option<UserId>,
    state: OperationState,
    reason: Option<EndState>,
    label: Option<String>,
    by: Option<String>,
    data: Option<Payload>,
}

/// What is due on an operation when its timer fires.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OperationDue {
    Nothing,
    /// It has reached its deadline.
    Interrupt,
    /// It did not end within its grace.
    End,
}

impl EndedOperation {
    fn held(&self) -> usize {
        let OperationSummary { id, channel, user, label, by, data, .. } = &self.summary;
        let (user, data) = (user.as_ref().map(UserId::as_str), data.as_ref().map(Payload::json));
        let names = [Some(id.as_str()), Some(channel.as_str()), user];
        ENDED + texts(names) + texts([label.as_deref(), by.as_deref(), data])
    }
}

impl OperationSummary {
    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

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
    /// One that begins now, as its owner describes it.
    fn new(owner: ConnectionId, now: Now, start: OperationStart) -> Self {
        Self {
            id: start.operation_id,
            owner,
            channel: start.channel,
            user: start.user_id,
            label: start.label,
            started_at: now.wall,
            grace: start.interrupt_grace.unwrap_or(GRACE),
            deadline: start.deadline.map_or(NEVER, |wait| now.moment + wait),
            timeout: NEVER,
            armed: NEVER,
            by: None,
        }
    }

    /// The worker that started it, and alone ends it.
    pub(super) fn owner(&self) -> ConnectionId {
        self.owner
    }

    fn is_interrupted(&self) -> bool {
        self.timeout != NEVER
    }

    fn state(&self) -> OperationState {
        if self.is_interrupted() { OperationState::Interrupting } else { OperationState::Started }
    }

    fn summary(&self) -> OperationSummary {
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

    /// The same of one that has just ended.
    fn final_summary(&self, reason: EndState, data: Option<Payload>) -> OperationSummary {
        OperationSummary { state: OperationState::Ended, reason: Some(reason), data, ..self.summary() }
    }

    /// Gives it its time to end, where it is interrupted for the first time: another interrupt
    /// gives none.
    fn begin_grace(&mut self, now: Moment, by: String) {
        if !self.is_interrupted() {
            self.timeout = Moment((now + self.grace).0.min(NEVER.0 - 1));
            self.by = Some(by);
        }
    }

    /// Sets its timer to what is due first.
    fn rearm(&mut self, slot: OperationSlot, timers: &mut Timers) {
        let due = self.deadline.min(self.timeout);
        timers.rearm(Timer::Operation(slot), &mut self.armed, due);
    }

    fn disarm(&mut self, slot: OperationSlot, timers: &mut Timers) {
        timers.rearm(Timer::Operation(slot), &mut self.armed, NEVER);
    }

    /// Takes what is due now that its timer has fired.
    fn take_due(&mut self, now: Moment) -> OperationDue {
        self.armed = NEVER;
        if now >= self.timeout {
            return OperationDue::End;
        }
        if now < self.deadline {
            return OperationDue::Nothing;
        }
        self.deadline = NEVER;
        OperationDue::Interrupt
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

/// All operations: those that run, and those that ended a moment ago.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Operations {
    table: Slab<Operation>,
    by_id: BTreeMap<OperationId, OperationSlot>,
    by_channel: BTreeSet<(Channel, OperationId)>,
    ended: BTreeMap<OperationId, EndedOperation>,
    /// Those that ended, oldest first.
    order: VecDeque<OperationId>,
    /// What all of them take, in bytes. Follows from the rest.
    #[serde(skip)]
    held: usize,
}

/// What some texts take, of which any may be absent.
fn texts<const N: usize>(texts: [Option<&str>; N]) -> usize {
    texts.into_iter().flatten().map(str::len).sum()
}

impl Operations {
    fn slot(&self, id: &OperationId) -> Option<OperationSlot> {
        self.by_id.get(id).copied()
    }

    fn at(&self, slot: OperationSlot) -> Option<&Operation> {
        let found = self.table.get(slot.0 as usize);
        debug_assert!(found.is_some(), "no index and no timer names a slot that is free");
        found
    }

    fn at_mut(&mut self, slot: OperationSlot) -> Option<&mut Operation> {
        let found = self.table.get_mut(slot.0 as usize);
        debug_assert!(found.is_some(), "no index and no timer names a slot that is free");
        found
    }

    /// The running operation of an id.
    pub(super) fn find(&self, id: &OperationId) -> Option<&Operation> {
        self.at(self.slot(id)?)
    }

    /// The state of one, running or remembered.
    pub(super) fn summary(&self, id: &OperationId) -> Option<OperationSummary> {
        let ended = || self.ended.get(id).map(|ended| ended.summary.clone());
        self.find(id).map(Operation::summary).or_else(ended)
    }

    /// Those that a worker owns.
    fn slots_of(&self, owner: ConnectionId) -> Vec<OperationSlot> {
        let owned = self.table.iter().filter(|(_, operation)| operation.owner == owner);
        owned.map(|(slot, _)| OperationSlot(slot as u32)).collect()
    }

    /// What all of them take, in bytes.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Counts that anew, after they were read back.
    pub(super) fn count_held(&mut self) {
        let running: usize = self.table.iter().map(|(_, operation)| operation.held()).sum();
        self.held = running + self.ended.values().map(EndedOperation::held).sum::<usize>();
    }

    pub(super) fn running(&self) -> usize {
        self.table.len()
    }

    /// Lists those that run and satisfy a condition.
    fn list(
        &self,
        after: Option<&str>,
        is_wanted: impl Fn(&Operation) -> bool,
    ) -> Page<OperationEntry, OperationId> {
        let running = self.by_id.keys().filter_map(|id| self.find(id));
        let running: Vec<&Operation> = running.filter(|operation| is_wanted(operation)).collect();
        let entry = |operation: &&Operation| (operation.entry(), operation.id.clone());
        Page::of(&running, after, |operation| operation.id.as_str(), entry)
    }

    /// Lists those that run on a channel, as many as there is space for, and how many they are
    /// where that is not all.
    pub(super) fn list_on(
        &self,
        channel: &Channel,
        space: &mut ListSpace,
    ) -> (Vec<OperationEntry>, Option<u64>) {
        let Ok(before_all) = OperationId::new("\u{20}") else {
            debug_assert!(false, "a space is an id, before all others");
            return Default::default();
        };
        let from = (channel.clone(), before_all);
        let here = self.by_channel.range(from..).take_while(|(at, _)| at == channel);
        let mut listed = Vec::new();
        let mut running = 0;
        for operation in here.filter_map(|(_, id)| self.find(id)) {
            running += 1;
            if listed.len() + 1 == running && running <= MAX_LISTED && space.take(operation.entry_bytes()) {
                listed.push(operation.entry());
            }
        }
        let is_all = listed.len() == running;
        (listed, (!is_all).then_some(running as u64))
    }

    fn insert(&mut self, operation: Operation) -> OperationSlot {
        let (id, channel) = (operation.id.clone(), operation.channel.clone());
        // Its id is in use again: how the one before ended is of no interest.
        if let Some(ended) = self.ended.remove(&id) {
            self.held -= ended.held();
            self.order.retain(|ended| *ended != id);
        }
        self.held += operation.held();
        let slot = OperationSlot(self.table.insert(operation) as u32);
        self.by_channel.insert((channel, id.clone()));
        self.by_id.insert(id, slot);
        slot
    }

    fn remove(&mut self, slot: OperationSlot) -> Option<Operation> {
        self.at(slot)?;
        let operation = self.table.try_remove(slot.0 as usize)?;
        self.held -= operation.held();
        self.by_id.remove(&operation.id);
        self.by_channel.remove(&(operation.channel.clone(), operation.id.clone()));
        Some(operation)
    }

    fn remember(&mut self, now: Moment, mut summary: OperationSummary) {
        summary.data = summary.data.filter(|data| data.json().len() <= MAX_REMEMBERED_DATA);
        let (id, ended) = (summary.id.clone(), EndedOperation { summary, at: now });
        self.held += ended.held();
        self.order.push_back(id.clone());
        self.ended.insert(id, ended);
        if self.order.len() > MAX_REMEMBERED {
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
