//! Long pieces of work, each with an owner and one end.
//!
//! Knows which run and which have ended a moment ago. Does not know who may
//! stop one; that is in [`interrupts`](super::interrupts).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slab::Slab;

use super::channels::Hearing;
use super::deadlines::{NEVER, Task, round_up};
use super::event::{Anomaly, Asker, Effect, Effects, Now, Recipients};
use super::publish::forbidden;
use super::{Ask, Done, Hub};
use crate::protocol::frame::{OperationEntry, OperationState};
use crate::protocol::say::{End, Ending, Start};
use crate::protocol::{
    Channel, Code, ConnectionId, Frame, Message, Moment, OperationId, Payload, Refusal, UnixTime, UserId,
};

/// How long a worker may take to end an operation after an interrupt.
const GRACE: Duration = Duration::from_secs(30);

/// For how long an ended operation is remembered, and how many are: a page that
/// was reloaded still learns how it ended.
const REMEMBERED: Duration = Duration::from_secs(600);
const MOST_REMEMBERED: usize = 1024;

/// Final data above this is told and not remembered.
const MOST_DATA: usize = 4 << 10;

/// More than any machine works on at once; a worker in a loop stops here.
const MOST_RUNNING: usize = 10_000;

/// One that runs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Operation {
    pub(super) id: OperationId,
    pub(super) owner: ConnectionId,
    pub(super) channel: Channel,
    pub(super) user: Option<UserId>,
    label: Option<String>,
    started_at: UnixTime,
    grace: Duration,
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
    id: OperationId,
    pub(super) channel: Channel,
    pub(super) user: Option<UserId>,
    state: OperationState,
    reason: Option<Ending>,
    label: Option<String>,
    by: Option<String>,
    data: Option<Payload>,
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

    fn insert(&mut self, operation: Operation) -> u32 {
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

    fn remove(&mut self, place: u32) -> Option<Operation> {
        let operation = self.table.try_remove(place as usize)?;
        self.by_id.remove(&operation.id);
        self.by_channel.remove(&(operation.channel.clone(), operation.id.clone()));
        Some(operation)
    }

    fn remember(&mut self, now: Moment, mut told: Told) {
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

impl Hub {
    /// A worker's long work begins.
    pub(super) fn start_operation(&mut self, now: Now, ask: &Ask, start: Start, out: &mut Effects) -> Done {
        let owner = self.worker(ask.from)?;
        if start.channel.is_reserved() {
            return Err(forbidden(format!("{} is the daemon's own", start.channel)).on(&start.channel));
        }
        if let Some(known) = self.operations.find(&start.operation_id) {
            if known.owner != owner {
                return Err(Refusal::new(Code::Conflict, "an operation of this id runs already"));
            }
            self.answer(ask, Frame::Done {}, out);
            return Ok(());
        }
        if self.operations.running() >= MOST_RUNNING {
            let why = format!("{MOST_RUNNING} operations run, which is the most there may be");
            return Err(Refusal::new(Code::RateLimited, why));
        }
        let id = start.operation_id.clone();
        let place = self.operations.insert(Operation {
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
        });
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.rare().operations += 1;
        }
        out.push(Effect::Latch { operation: id.clone(), worker: owner });
        self.answer(ask, Frame::Done {}, out);
        self.arm_operation(place);
        self.tell_of_operation(place, out);
        self.settle_pending(now, &id, out);
        Ok(())
    }

    /// And ends.
    pub(super) fn end_operation(&mut self, now: Now, ask: &Ask, end: End, out: &mut Effects) -> Done {
        let worker = self.worker(ask.from)?;
        let Some(place) = self.operations.place(&end.operation_id) else {
            return Err(Refusal::new(Code::UnknownOperation, "no such operation runs"));
        };
        if self.operations.at(place).is_some_and(|operation| operation.owner != worker) {
            return Err(forbidden("only the worker that started an operation ends it"));
        }
        self.answer(ask, Frame::Done {}, out);
        self.finish(now, place, end.state, end.data, out);
        Ok(())
    }

    /// Operations are of workers.
    fn worker(&self, from: Asker) -> Result<ConnectionId, Refusal> {
        let conn = match from {
            Asker::Connection(conn) => self.connections.get(conn).filter(|c| c.is_worker()).map(|_| conn),
            Asker::Http(_) => None,
        };
        conn.ok_or_else(|| forbidden("operations are for workers"))
    }

    /// Who is told of an operation: the subscribers of its channel and of its
    /// own, each once.
    fn watchers(&self, operation: &Operation, wants: impl Fn(u32) -> bool, out: &mut Effects) -> Recipients {
        let start = out.recipients.len();
        for channel in [&operation.channel, &Channel::of_operation(&operation.id)] {
            let topic = self.channels.find_channel(channel).and_then(|place| self.channels.at(place));
            let Some(topic) = topic else { continue };
            let hear = topic.subscribers.iter().filter(|subscriber| subscriber.hearing != Hearing::Off);
            out.recipients.extend(hear.map(|subscriber| subscriber.slot).filter(|slot| wants(*slot)));
        }
        let noted = &mut out.recipients[start..];
        noted.sort_unstable();
        let mut kept = start;
        for at in start..out.recipients.len() {
            if kept == start || out.recipients[at] != out.recipients[kept - 1] {
                out.recipients[kept] = out.recipients[at];
                kept += 1;
            }
        }
        out.recipients.truncate(kept);
        out.noted(start)
    }

    /// Tells those who watch how an operation stands.
    pub(super) fn tell_of_operation(&self, place: u32, out: &mut Effects) {
        if let Some(operation) = self.operations.at(place) {
            self.tell_watchers_of(operation, operation.told(), out);
        }
    }

    fn tell_watchers_of(&self, operation: &Operation, told: Told, out: &mut Effects) {
        let to = self.watchers(operation, |_| true, out);
        if !to.is_empty() {
            out.push(Effect::Tell { frame: Box::new(told.frame()), to });
        }
    }

    /// A message to those who watch, except to whom it does not fit.
    pub(super) fn message_watchers(&mut self, place: u32, message: Message, out: &mut Effects) {
        let Some(operation) = self.operations.at(place) else { return };
        let room = |slot| self.connections.at(slot).is_some_and(|connection| !connection.full);
        let start = self.watchers(operation, room, out).start as usize;
        self.deliver(Rc::new(message), start, out);
    }

    /// Sets the one deadline of an operation.
    pub(super) fn arm_operation(&mut self, place: u32) {
        let Some(operation) = self.operations.at_mut(place) else { return };
        let due = operation.deadline.min(operation.timeout);
        self.deadlines.rearm(Task::Operation(place), &mut operation.armed, due);
    }

    /// Gives an interrupted operation its time to end. Asking again gives none.
    pub(super) fn begin_grace(&mut self, now: Now, place: u32, by: String) {
        let Some(operation) = self.operations.at_mut(place) else { return };
        if !operation.is_interrupted() {
            operation.timeout = Moment((now.moment + operation.grace).0.min(NEVER.0 - 1));
            operation.by = Some(by);
        }
        self.arm_operation(place);
    }

    /// The deadline of an operation has come.
    pub(super) fn attend_operation(&mut self, now: Now, place: u32, out: &mut Effects) {
        let Some(operation) = self.operations.at_mut(place) else { return };
        operation.armed = NEVER;
        if now.moment >= operation.timeout {
            let (id, channel) = (operation.id.clone(), operation.channel.clone());
            out.push(Effect::Report(Anomaly::Overran { operation: id, channel }));
            self.finish(now, place, Ending::Timeout, None, out);
            return;
        }
        if now.moment >= operation.deadline {
            operation.deadline = NEVER;
            self.interrupt_at_deadline(now, place, out);
        }
        self.arm_operation(place);
    }

    /// The worker's socket closed.
    pub(super) fn lose_owner(&mut self, now: Now, owner: ConnectionId, out: &mut Effects) {
        let lost = self.operations.table.iter().filter(|(_, operation)| operation.owner == owner);
        let lost: Vec<usize> = lost.map(|(place, _)| place).collect();
        for place in lost {
            let Some(operation) = self.operations.at(place as u32) else { continue };
            let (id, channel) = (operation.id.clone(), operation.channel.clone());
            out.push(Effect::Report(Anomaly::OwnerLost { operation: id, channel }));
            self.finish(now, place as u32, Ending::OwnerLost, None, out);
        }
    }

    /// The one end of an operation. Taking it from the table makes it the only
    /// one.
    fn finish(&mut self, now: Now, place: u32, reason: Ending, data: Option<Payload>, out: &mut Effects) {
        let Some(mut operation) = self.operations.remove(place) else { return };
        self.deadlines.rearm(Task::Operation(place), &mut operation.armed, NEVER);
        if let Some(connection) = self.connections.get_mut(operation.owner) {
            let rare = connection.rare();
            rare.operations = rare.operations.saturating_sub(1);
        }
        out.push(Effect::Unlatch { operation: operation.id.clone() });
        let told = Told { state: OperationState::Ended, reason: Some(reason), data, ..operation.told() };
        self.tell_watchers_of(&operation, told.clone(), out);
        self.operations.remember(now.moment, told);
        self.end_channel(now, Channel::of_operation(&operation.id), out);
    }

    /// The channel of an operation goes with it.
    fn end_channel(&mut self, now: Now, channel: Channel, out: &mut Effects) {
        let Some(place) = self.channels.find_channel(&channel) else { return };
        let Some(topic) = self.channels.at(place) else { return };
        let slots: Vec<u32> = topic.subscribers.iter().map(|subscriber| subscriber.slot).collect();
        for slot in &slots {
            let Some(tag) = self.connections.at(*slot).map(|connection| connection.tag) else { continue };
            self.tell_missed(*slot, Some(place), out);
            self.unsubscribe_from(now, ConnectionId { slot: *slot, tag }, place, out);
        }
        self.channels.forget_now(place);
        let start = out.recipients.len();
        out.recipients.extend(slots);
        let to = out.noted(start);
        if !to.is_empty() {
            out.push(Effect::Tell { frame: Box::new(Frame::Unsubscribed { channel, reason: "ended" }), to });
        }
    }
}
