//! How an operation starts, is watched and ends.
//!
//! Knows its owner, its time limits and who is told. Does not know who may stop
//! one; that is in [`interrupt`](super::interrupt).

use std::rc::Rc;
use std::time::Duration;

use super::{Operation, OperationSummary};
use crate::hub::channel::publish::forbidden;
use crate::hub::channel::topic::Subscriber;
use crate::hub::connection::table::Kind;
use crate::hub::event::{Anomaly, Cx, Effect, Effects, Now, Recipients, Requester};
use crate::hub::log::cursor::DeferredFrame;
use crate::hub::timers::{NEVER, Timer};
use crate::hub::{Hub, RequestContext, RequestResult};
use crate::protocol::frame::OperationState;
use crate::protocol::request::{EndState, OperationEnd, OperationStart};
use crate::protocol::{Channel, Code, ConnectionId, Frame, Message, Moment, Payload, Refusal};

/// How long a worker may take to end an operation after an interrupt.
const GRACE: Duration = Duration::from_secs(30);

impl Hub {
    /// A worker's long work begins.
    pub(in crate::hub) fn start_operation(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        start: OperationStart,
    ) -> RequestResult {
        let owner = self.worker(ask.from)?;
        if start.channel.is_reserved() {
            return Err(forbidden(format!("{} is the daemon's own", start.channel)).on(&start.channel));
        }
        if let Some(known) = self.operations.find(&start.operation_id) {
            if known.owner != owner {
                return Err(Refusal::new(Code::Conflict, "an operation of this id runs already"));
            }
            self.answer(ask, Frame::Done {}, cx.out);
            return Ok(());
        }
        let most = self.settings.limits.operations;
        if self.operations.running() >= most {
            let why = format!("{most} operations run, which is the most there may be");
            return Err(Refusal::new(Code::RateLimited, why));
        }
        let id = start.operation_id.clone();
        let place = self.operations.insert(Operation {
            id: start.operation_id,
            owner,
            channel: start.channel,
            user: start.user_id,
            label: start.label,
            started_at: cx.now.wall,
            grace: start.interrupt_grace.unwrap_or(GRACE),
            deadline: start.deadline.map_or(NEVER, |wait| cx.now.moment + wait),
            timeout: NEVER,
            armed: NEVER,
            by: None,
        });
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.rare().operations += 1;
        }
        cx.out.push(Effect::Latch { operation: id.clone(), worker: owner, id: ask.id.clone() });
        self.arm_operation(place);
        self.tell_of_operation(place, cx.out);
        self.settle_pending(cx, &id);
        Ok(())
    }

    /// And ends.
    pub(in crate::hub) fn end_operation(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        end: OperationEnd,
    ) -> RequestResult {
        let worker = self.worker(ask.from)?;
        let Some(place) = self.operations.place(&end.operation_id) else {
            return Err(Refusal::new(Code::UnknownOperation, "no such operation runs"));
        };
        if self.operations.at(place).is_some_and(|operation| operation.owner != worker) {
            return Err(forbidden("only the worker that started an operation ends it"));
        }
        self.answer(ask, Frame::Done {}, cx.out);
        self.finish(cx, place, end.state, end.data);
        Ok(())
    }

    /// Operations are of workers.
    fn worker(&self, from: Requester) -> Result<ConnectionId, Refusal> {
        let conn = match from {
            Requester::Connection(conn) => self.connections.get(conn).filter(|c| c.is_worker()).map(|_| conn),
            Requester::Http(_) => None,
        };
        conn.ok_or_else(|| forbidden("operations are for workers"))
    }

    /// As which user of the machine a worker runs, where that tells it from others: what root
    /// does is an administrator's, and whom the kernel cannot name could be anybody.
    pub(in crate::hub) fn machine_user(&self, from: Requester) -> Option<u32> {
        let Requester::Connection(conn) = from else { return None };
        match self.connections.get(conn)?.kind {
            Kind::Worker { uid, .. } => (uid != 0 && uid != self.settings.overflow_uid).then_some(uid),
            _ => None,
        }
    }

    /// Whether a worker runs as the user of the machine who has started an operation.
    pub(in crate::hub) fn has_started(&self, from: Requester, operation: &Operation) -> bool {
        let theirs = self.machine_user(Requester::Connection(operation.owner));
        theirs.is_some() && theirs == self.machine_user(from)
    }

    /// Who is told of an operation: the subscribers of its channel and of its
    /// own, each once.
    fn watchers(&self, operation: &Operation, wants: impl Fn(u32) -> bool, out: &mut Effects) -> Recipients {
        let start = out.recipients.len();
        for channel in [&operation.channel, &Channel::of_operation(&operation.id)] {
            let topic = self.channels.find_channel(channel).and_then(|place| self.channels.at(place));
            let Some(topic) = topic else { continue };
            let hear = topic.subscribers().iter().filter(|subscriber| subscriber.is_recipient());
            out.recipients.extend(hear.map(Subscriber::slot).filter(|slot| wants(*slot)));
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
    pub(in crate::hub) fn tell_of_operation(&mut self, place: u32, out: &mut Effects) {
        let Some(operation) = self.operations.at(place) else { return };
        let (told, to) = (operation.told(), self.watchers(operation, |_| true, out));
        self.tell_in_order(told, to, out);
    }

    /// Tells how an operation stands: at once, or behind the backlog to those who
    /// still read that and would hear of the end before the last lines.
    fn tell_in_order(&mut self, told: OperationSummary, to: Recipients, out: &mut Effects) {
        let channel = told.channel.clone();
        let word = DeferredFrame::Operation(Box::new(told));
        let to = self.those_who_hear_now(&channel, &word, to, out);
        if !to.is_empty() {
            out.push(Effect::Broadcast { frame: Box::new(word.frame()), to });
        }
    }

    /// The last recipients but those who are told later.
    fn those_who_hear_now(
        &mut self,
        channel: &Channel,
        word: &DeferredFrame,
        to: Recipients,
        out: &mut Effects,
    ) -> Recipients {
        let Some(place) = self.channels.find_channel(channel) else { return to };
        let start = to.start as usize;
        let mut kept = start;
        for at in start..out.recipients.len() {
            let slot = out.recipients[at];
            if !self.defer(place, slot, word) {
                out.recipients[kept] = slot;
                kept += 1;
            }
        }
        out.recipients.truncate(kept);
        out.noted(start)
    }

    /// A message to those who watch, except to whom it does not fit.
    pub(in crate::hub) fn message_watchers(&mut self, place: u32, message: Message, out: &mut Effects) {
        let Some(operation) = self.operations.at(place) else { return };
        let room = |slot| self.connections.at(slot).is_some_and(|connection| !connection.full);
        let start = self.watchers(operation, room, out).start as usize;
        self.deliver(Rc::new(message), start, None, out);
    }

    /// Sets the one deadline of an operation.
    pub(in crate::hub) fn arm_operation(&mut self, place: u32) {
        let Some(operation) = self.operations.at_mut(place) else { return };
        let due = operation.deadline.min(operation.timeout);
        self.timers.rearm(Timer::Operation(place), &mut operation.armed, due);
    }

    /// Gives an interrupted operation its time to end. Asking again gives none.
    pub(in crate::hub) fn begin_grace(&mut self, now: Now, place: u32, by: String) {
        let Some(operation) = self.operations.at_mut(place) else { return };
        if !operation.is_interrupted() {
            operation.timeout = Moment((now.moment + operation.grace).0.min(NEVER.0 - 1));
            operation.by = Some(by);
        }
        self.arm_operation(place);
    }

    /// The deadline of an operation has come.
    pub(in crate::hub) fn attend_operation(&mut self, cx: &mut Cx<'_>, place: u32) {
        let Some(operation) = self.operations.at_mut(place) else { return };
        operation.armed = NEVER;
        if cx.now.moment >= operation.timeout {
            let (id, channel) = (operation.id.clone(), operation.channel.clone());
            cx.out.push(Effect::LogAnomaly(Anomaly::Overran { operation: id, channel }));
            self.finish(cx, place, EndState::Timeout, None);
            return;
        }
        if cx.now.moment >= operation.deadline {
            operation.deadline = NEVER;
            self.interrupt_at_deadline(cx, place);
        }
        self.arm_operation(place);
    }

    /// The worker's socket closed.
    pub(in crate::hub) fn lose_owner(&mut self, cx: &mut Cx<'_>, owner: ConnectionId) {
        let lost = self.operations.table.iter().filter(|(_, operation)| operation.owner == owner);
        let lost: Vec<usize> = lost.map(|(place, _)| place).collect();
        for place in lost {
            let Some(operation) = self.operations.at(place as u32) else { continue };
            let (id, channel) = (operation.id.clone(), operation.channel.clone());
            // When the daemon itself ends, this is no anomaly.
            if self.stopping.is_none() {
                cx.out.push(Effect::LogAnomaly(Anomaly::OwnerLost { operation: id, channel }));
            }
            self.finish(cx, place as u32, EndState::OwnerLost, None);
        }
    }

    /// The one end of an operation. Taking it from the table makes it the only
    /// one.
    fn finish(&mut self, cx: &mut Cx<'_>, place: u32, reason: EndState, data: Option<Payload>) {
        let Some(mut operation) = self.operations.remove(place) else { return };
        self.timers.rearm(Timer::Operation(place), &mut operation.armed, NEVER);
        if let Some(connection) = self.connections.get_mut(operation.owner) {
            let rare = connection.rare();
            rare.operations = rare.operations.saturating_sub(1);
        }
        cx.out.push(Effect::Unlatch { operation: operation.id.clone() });
        // Whoever stops listening at the end has heard of all that was shed.
        self.tell_missed_on(&operation.channel, cx.out);
        let told =
            OperationSummary { state: OperationState::Ended, reason: Some(reason), data, ..operation.told() };
        let to = self.watchers(&operation, |_| true, cx.out);
        self.tell_in_order(told.clone(), to, cx.out);
        self.operations.remember(cx.now.moment, told);
        self.end_channel(cx, &operation);
    }

    /// Tells those who missed something of a channel what it was.
    fn tell_missed_on(&mut self, channel: &Channel, out: &mut Effects) {
        let Some(place) = self.channels.find_channel(channel) else { return };
        let Some(topic) = self.channels.at(place) else { return };
        let full = |slot: &u32| self.connections.at(*slot).is_some_and(|connection| connection.full);
        let slots: Vec<u32> = topic.subscribers().iter().map(Subscriber::slot).filter(full).collect();
        for slot in slots {
            self.notify_missed(slot, Some(place), out);
        }
    }

    /// The channel of an operation goes with it.
    fn end_channel(&mut self, cx: &mut Cx<'_>, operation: &Operation) {
        let channel = Channel::of_operation(&operation.id);
        let Some(place) = self.channels.find_channel(&channel) else { return };
        let Some(topic) = self.channels.at(place) else { return };
        let slots: Vec<u32> = topic.subscribers().iter().map(Subscriber::slot).collect();
        for slot in &slots {
            let Some(tag) = self.connections.at(*slot).map(|connection| connection.tag) else { continue };
            self.notify_missed(*slot, Some(place), cx.out);
            self.unsubscribe_from(cx, ConnectionId { slot: *slot, tag }, place);
        }
        self.channels.forget_now(place);
        let start = cx.out.recipients.len();
        cx.out.recipients.extend(slots);
        let word = DeferredFrame::Unsubscribed(channel);
        let to = self.those_who_hear_now(&operation.channel, &word, cx.out.noted(start), cx.out);
        if !to.is_empty() {
            cx.out.push(Effect::Broadcast { frame: Box::new(word.frame()), to });
        }
    }
}
