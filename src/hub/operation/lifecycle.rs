//! Lifecycle of an operation: start, interrupt, end, and what its watchers receive.
//!
//! An operation has one owner, the worker that started it, and one end: taking it out of the
//! table of those that run makes it the only one.

use std::rc::Rc;

use super::interrupt::{InterruptCause, InterruptRoute, PendingId, PendingInterrupt, no_right, result};
use super::{Operation, OperationDue, OperationSlot, OperationSummary};
use crate::hub::channel::delivery::Echo;
use crate::hub::channel::publish::forbidden;
use crate::hub::channel::topic::Subscriber;
use crate::hub::connection::Connection;
use crate::hub::connection::rate_limit::ListSpace;
use crate::hub::event::{Anomaly, Cx, Effect, Effects, Recipients, Requester};
use crate::hub::log::cursor::DeferredFrame;
use crate::hub::{Hub, RequestContext, RequestResult};
use crate::protocol::frame::Outcome;
use crate::protocol::request::{After, EndState, OperationEnd, OperationStart};
use crate::protocol::{
    Channel, Code, ConnectionId, Frame, InterruptRequest, Message, MessageId, OperationId, Payload, Refusal,
    UserId,
};

/// A request to interrupt, and the channel that it named.
#[derive(Clone, Copy)]
struct InterruptRequester<'a> {
    request: &'a RequestContext,
    channel: Option<&'a Channel>,
}

/// Start, end and list.
impl Hub {
    /// A worker starts an operation.
    pub(in crate::hub) fn start_operation(
        &mut self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        start: OperationStart,
    ) -> RequestResult {
        let owner = self.worker(request.from)?;
        if start.channel.is_reserved() {
            return Err(forbidden(format!("{} is the daemon's own", start.channel)).on(&start.channel));
        }
        if let Some(known) = self.operations.find(&start.operation_id) {
            if known.owner() != owner {
                return Err(Refusal::new(Code::Conflict, "an operation of this id runs already"));
            }
            self.answer(request, Frame::Done {}, cx.out);
            return Ok(());
        }
        let most = self.settings.limits.operations;
        if self.operations.running() >= most {
            let why = format!("{most} operations run, which is the most there may be");
            return Err(Refusal::new(Code::RateLimited, why));
        }
        let id = start.operation_id.clone();
        let slot = self.operations.insert(Operation::new(owner, cx.now, start));
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.add_operation();
        }
        cx.out.push(Effect::Latch { operation: id.clone(), worker: owner, id: request.id.clone() });
        self.rearm_operation(slot);
        self.notify_watchers(slot, cx.out);
        self.deliver_pending_interrupts(cx, slot, &id);
        Ok(())
    }

    /// Its worker ends it.
    pub(in crate::hub) fn end_operation(
        &mut self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        end: OperationEnd,
    ) -> RequestResult {
        let worker = self.worker(request.from)?;
        let Some(slot) = self.operations.slot(&end.operation_id) else {
            return Err(Refusal::new(Code::UnknownOperation, "no such operation runs"));
        };
        if self.operations.at(slot).is_some_and(|operation| operation.owner() != worker) {
            return Err(forbidden("only the worker that started an operation ends it"));
        }
        self.answer(request, Frame::Done {}, cx.out);
        self.finish(cx, slot, end.state, end.data);
        Ok(())
    }

    /// Lists what runs on a channel; without one, all that the requester may see.
    pub(in crate::hub) fn list_operations(
        &self,
        request: &RequestContext,
        channel: Option<Channel>,
        after: After,
        out: &mut Effects,
    ) -> RequestResult {
        let mut next = None;
        let (operations, operations_running) = match &channel {
            Some(channel) => {
                self.may_administer(request.from).or_else(|_| self.may_look(request.from, channel))?;
                self.operations.list_on(channel, &mut ListSpace::default())
            }
            None => {
                let may = self.may_administer(request.from);
                let sees_all = may.is_ok();
                if self.machine_user(request.from).is_none() {
                    may.map_err(needs_channel)?;
                }
                let is_theirs =
                    |operation: &Operation| sees_all || self.is_same_machine_user(request.from, operation);
                let entries;
                (entries, next) = self.operations.list(after.as_deref(), is_theirs).into_parts();
                (entries, None)
            }
        };
        self.answer(request, Frame::Operations { channel, operations, operations_running, next }, out);
        Ok(())
    }

    /// The worker that sends a request: operations are of workers.
    fn worker(&self, from: Requester) -> Result<ConnectionId, Refusal> {
        match from {
            Requester::Connection(conn) if self.is_worker(from) => Ok(conn),
            _ => Err(forbidden("operations are for workers")),
        }
    }

    fn is_worker(&self, from: Requester) -> bool {
        let Requester::Connection(conn) = from else { return false };
        self.connections.get(conn).is_some_and(Connection::is_worker)
    }

    /// As which user of the machine a worker runs, where that tells it from others: what root
    /// does is an administrator's, and a user whom the kernel cannot name could be any.
    fn machine_user(&self, from: Requester) -> Option<u32> {
        let Requester::Connection(conn) = from else { return None };
        let uid = self.connections.get(conn)?.worker_uid();
        uid.filter(|uid| *uid != 0 && *uid != self.settings.overflow_uid)
    }

    /// Whether a worker runs as the user of the machine who has started an operation.
    fn is_same_machine_user(&self, from: Requester, operation: &Operation) -> bool {
        let owner = self.machine_user(Requester::Connection(operation.owner()));
        owner.is_some() && owner == self.machine_user(from)
    }

    /// The worker of some operations is gone.
    pub(in crate::hub) fn on_owner_lost(&mut self, cx: &mut Cx<'_>, owner: ConnectionId) {
        for slot in self.operations.slots_of(owner) {
            let Some(operation) = self.operations.at(slot) else { continue };
            let (id, channel) = (operation.id.clone(), operation.channel.clone());
            // When the daemon itself stops, this is no anomaly.
            if self.stopping.is_none() {
                cx.out.push(Effect::LogAnomaly(Anomaly::OwnerLost { operation: id, channel }));
            }
            self.finish(cx, slot, EndState::OwnerLost, None);
        }
    }

    /// The timer of an operation has fired.
    pub(in crate::hub) fn on_operation_timer(&mut self, cx: &mut Cx<'_>, slot: OperationSlot) {
        let Some(operation) = self.operations.at_mut(slot) else { return };
        match operation.take_due(cx.now.moment) {
            OperationDue::Nothing => {}
            OperationDue::Interrupt => self.deliver_interrupt(cx, slot, &InterruptCause::deadline(), None),
            OperationDue::End => {
                let (id, channel) = (operation.id.clone(), operation.channel.clone());
                cx.out.push(Effect::LogAnomaly(Anomaly::Overran { operation: id, channel }));
                return self.finish(cx, slot, EndState::Timeout, None);
            }
        }
        self.rearm_operation(slot);
    }

    fn rearm_operation(&mut self, slot: OperationSlot) {
        if let Some(operation) = self.operations.at_mut(slot) {
            operation.rearm(slot, &mut self.timers);
        }
    }

    /// The one end of an operation.
    fn finish(&mut self, cx: &mut Cx<'_>, slot: OperationSlot, reason: EndState, data: Option<Payload>) {
        let Some(mut operation) = self.operations.remove(slot) else {
            debug_assert!(false, "an operation ends once");
            return;
        };
        operation.disarm(slot, &mut self.timers);
        if let Some(connection) = self.connections.get_mut(operation.owner()) {
            connection.remove_operation();
        }
        cx.out.push(Effect::Unlatch { operation: operation.id.clone() });
        // A client that unsubscribes at the end was notified of all that was shed.
        self.notify_missed_on(&operation.channel, cx.out);
        let summary = operation.final_summary(reason, data);
        let to = self.watchers(&operation, |_| true, cx.out);
        self.notify_in_order(summary.clone(), to, cx.out);
        self.operations.remember(cx.now.moment, summary);
        self.end_channel(cx, &operation);
    }

    /// Reports what was shed of a channel to those that missed it.
    fn notify_missed_on(&mut self, channel: &Channel, out: &mut Effects) {
        let Some(topic_id) = self.channels.find_channel(channel) else { return };
        let Some(topic) = self.channels.existing(topic_id) else { return };
        let slots = topic.subscribers().iter().map(Subscriber::slot);
        let slots: Vec<u32> =
            slots.filter(|slot| self.connections.at(*slot).is_some_and(Connection::is_full)).collect();
        for slot in slots {
            self.notify_missed(slot, Some(topic_id), out);
        }
    }

    /// The channel of an operation ends with it.
    fn end_channel(&mut self, cx: &mut Cx<'_>, operation: &Operation) {
        let channel = Channel::of_operation(&operation.id);
        let Some(topic_id) = self.channels.find_channel(&channel) else { return };
        let Some(topic) = self.channels.existing(topic_id) else { return };
        let slots: Vec<u32> = topic.subscribers().iter().map(Subscriber::slot).collect();
        for slot in &slots {
            let Some(connection) = self.connections.existing_at(*slot) else { continue };
            let conn = connection.id(*slot);
            self.notify_missed(*slot, Some(topic_id), cx.out);
            self.unsubscribe_from(cx, conn, topic_id);
        }
        self.channels.forget_now(topic_id);
        let start = cx.out.recipients.len();
        cx.out.recipients.extend(slots);
        let to = cx.out.noted(start);
        self.broadcast_in_order(&operation.channel, DeferredFrame::Unsubscribed(channel), to, cx.out);
    }
}

/// Watchers of an operation.
impl Hub {
    /// The subscribers of the channel of an operation and of its own, each once.
    fn watchers(&self, operation: &Operation, wants: impl Fn(u32) -> bool, out: &mut Effects) -> Recipients {
        let start = out.recipients.len();
        for channel in [&operation.channel, &Channel::of_operation(&operation.id)] {
            let topic = self.channels.find_channel(channel).and_then(|topic_id| self.channels.at(topic_id));
            let Some(topic) = topic else { continue };
            let hear = topic.subscribers().iter().filter(|subscriber| subscriber.is_recipient());
            out.recipients.extend(hear.map(Subscriber::slot).filter(|slot| wants(*slot)));
        }
        out.dedup_noted(start)
    }

    /// Sends its watchers the state of an operation.
    fn notify_watchers(&mut self, slot: OperationSlot, out: &mut Effects) {
        let Some(operation) = self.operations.at(slot) else { return };
        let (summary, to) = (operation.summary(), self.watchers(operation, |_| true, out));
        self.notify_in_order(summary, to, out);
    }

    /// Sends the state of an operation: at once, or behind the backlog to those that still
    /// read that and would receive the end before the last lines.
    fn notify_in_order(&mut self, summary: OperationSummary, to: Recipients, out: &mut Effects) {
        let channel = summary.channel().clone();
        self.broadcast_in_order(&channel, DeferredFrame::Operation(Box::new(summary)), to, out);
    }

    /// Sends a frame to recipients, the last ones noted: at once, or behind the backlog of a
    /// channel to those that still read that.
    fn broadcast_in_order(
        &mut self,
        channel: &Channel,
        frame: DeferredFrame,
        to: Recipients,
        out: &mut Effects,
    ) {
        let to = match self.channels.find_channel(channel) {
            Some(topic_id) => {
                let start = to.start as usize;
                out.retain_noted(start, |slot| !self.defer(topic_id, slot, &frame))
            }
            None => to,
        };
        if !to.is_empty() {
            out.push(Effect::Broadcast { frame: Box::new(frame.frame()), to });
        }
    }

    /// Sends its watchers a message, except where it does not fit.
    fn message_watchers(&mut self, slot: OperationSlot, message: Message, out: &mut Effects) {
        let Some(operation) = self.operations.at(slot) else { return };
        let has_room = |slot| self.connections.at(slot).is_some_and(|connection| !connection.is_full());
        let start = self.watchers(operation, has_room, out).start as usize;
        self.deliver(Rc::new(message), start, None, out);
    }
}

/// Interrupts.
impl Hub {
    /// A request to interrupt an operation.
    pub(in crate::hub) fn interrupt(
        &mut self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        interrupt: InterruptRequest,
    ) -> RequestResult {
        self.counters.interrupts += 1;
        let InterruptRequest { operation_id: id, channel: named, reason } = interrupt;
        let Some(summary) = self.operations.summary(&id) else {
            return self.await_operation(
                cx,
                request,
                InterruptRequest { operation_id: id, channel: named, reason },
            );
        };
        if named.as_ref().is_some_and(|channel| channel != summary.channel()) {
            return Err(Refusal::new(Code::UnknownOperation, "no such operation on that channel"));
        }
        let may = match self.operations.find(&id) {
            Some(operation) => self.may_stop(request.from, operation),
            // That it is over any worker may know from its channel.
            None => {
                self.is_worker(request.from)
                    || self.may_interrupt(request.from, summary.channel(), summary.user())
            }
        };
        if !may {
            return Err(no_right(named.as_ref()));
        }
        let requester = InterruptRequester { request, channel: named.as_ref() };
        match self.operations.slot(&id) {
            Some(slot) => {
                let cause = self.interrupt_cause(request.from, reason);
                self.deliver_interrupt(cx, slot, &cause, Some(requester));
            }
            None => {
                let channel = self.channel_to_name(requester, &id, summary.channel());
                self.answer(request, result(id, channel, Outcome::AlreadyEnded), cx.out);
            }
        }
        Ok(())
    }

    /// The channel of an operation as far as the requester may know it: guessing an id reveals
    /// nothing.
    fn channel_to_name(
        &self,
        requester: InterruptRequester<'_>,
        id: &OperationId,
        channel: &Channel,
    ) -> Option<Channel> {
        let may_know = || self.may_look(requester.request.from, &Channel::of_operation(id)).is_ok();
        requester.channel.cloned().or_else(|| may_know().then(|| channel.clone()))
    }

    fn interrupt_cause(&self, from: Requester, reason: Option<String>) -> InterruptCause {
        let publisher = self.publisher(from, Echo::Yes);
        let (sender, user) = (publisher.sender(), publisher.user().cloned());
        InterruptCause::new(sender, user, reason)
    }

    /// Whether a requester may stop what runs on a channel for a user, or for none.
    fn may_interrupt(&self, from: Requester, channel: &Channel, of: Option<&UserId>) -> bool {
        let Requester::Connection(conn) = from else { return true };
        let usual = &self.settings.rights;
        self.connections.get(conn).is_none_or(|connection| connection.may_interrupt(usual, channel, of))
    }

    /// Whether a requester may stop an operation.
    fn may_stop(&self, from: Requester, operation: &Operation) -> bool {
        self.may_interrupt(from, &operation.channel, operation.user.as_ref())
            || self.is_same_machine_user(from, operation)
    }

    /// Interrupts an operation; its worker receives that before all others.
    fn deliver_interrupt(
        &mut self,
        cx: &mut Cx<'_>,
        slot: OperationSlot,
        cause: &InterruptCause,
        requester: Option<InterruptRequester<'_>>,
    ) {
        let Some(operation) = self.operations.at(slot) else { return };
        let (id, channel) = (operation.id.clone(), operation.channel.clone());
        let is_repeated = operation.is_interrupted();
        let message_id = MessageId::made(self.random.next());
        let line = cause.line(cx.now, &id, &channel, message_id.clone());
        cx.out.push(Effect::Interrupt { line: Box::new(line) });
        if let Some(requester) = requester {
            let named = self.channel_to_name(requester, &id, &channel);
            self.answer(requester.request, result(id.clone(), named, Outcome::Delivered), cx.out);
        }
        if let Some(operation) = self.operations.at_mut(slot) {
            operation.begin_grace(cx.now.moment, cause.by());
            operation.rearm(slot, &mut self.timers);
        }
        if is_repeated {
            return;
        }
        self.notify_watchers(slot, cx.out);
        self.message_watchers(slot, cause.message(cx.now, &id, channel, message_id), cx.out);
    }

    /// Nothing of that id runs yet: the interrupt waits, and is an event for those that only
    /// subscribe.
    fn await_operation(
        &mut self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        interrupt: InterruptRequest,
    ) -> RequestResult {
        let InterruptRequest { operation_id, channel, reason } = interrupt;
        match &channel {
            Some(channel) if channel.is_reserved() => {
                return Err(forbidden(format!("{channel} is the daemon's own")).on(channel));
            }
            Some(channel) if !self.may_interrupt(request.from, channel, None) => {
                return Err(no_right(Some(channel)));
            }
            _ => {}
        }
        let route = self.interrupt_route(request.from);
        let connection = match request.from {
            Requester::Connection(conn) => self.connections.get_mut(conn),
            Requester::Http(_) => None,
        };
        let of_connection = connection.as_ref().map_or(0, |connection| connection.pending_interrupts());
        self.pending.check_limit(route, of_connection)?;
        if let Some(connection) = connection {
            connection.add_pending_interrupt();
        }
        self.answer(request, result(operation_id.clone(), channel.clone(), Outcome::Pending), cx.out);
        if let Some(channel) = &channel {
            let cause = self.interrupt_cause(request.from, reason.clone());
            self.announce_interrupt(cx, &operation_id, channel, &cause);
        }
        let pending = PendingInterrupt::new(request.clone(), route, operation_id, channel, reason);
        self.pending.push(cx.now.moment, pending, &mut self.timers);
        Ok(())
    }

    fn interrupt_route(&self, from: Requester) -> InterruptRoute {
        match from {
            Requester::Http(_) => InterruptRoute::Http,
            Requester::Connection(_) if self.is_worker(from) => InterruptRoute::Worker,
            Requester::Connection(conn) => InterruptRoute::Client(self.connections.account(conn)),
        }
    }

    /// Publishes `system:interrupt` on a channel. It is about now, so it is not kept.
    fn announce_interrupt(
        &mut self,
        cx: &mut Cx<'_>,
        id: &OperationId,
        channel: &Channel,
        cause: &InterruptCause,
    ) {
        let Some(topic_id) = self.channels.find_channel(channel) else { return };
        let Some(topic) = self.channels.existing(topic_id) else { return };
        let start = cx.out.recipients.len();
        let slots = topic.subscribers().iter().map(Subscriber::slot);
        let has_room =
            |slot: &u32| self.connections.at(*slot).is_some_and(|connection| !connection.is_full());
        cx.out.recipients.extend(slots.filter(has_room));
        let message_id = MessageId::made(self.random.next());
        let message = cause.message(cx.now, id, channel.clone(), message_id);
        self.deliver(Rc::new(message), start, None, cx.out);
    }

    /// An operation has started: interrupts that waited for it are answered now, and delivered
    /// where they are permitted.
    fn deliver_pending_interrupts(&mut self, cx: &mut Cx<'_>, slot: OperationSlot, id: &OperationId) {
        for pending_id in self.pending.for_operation(id) {
            let Some(pending) = self.take_pending_interrupt(pending_id) else { continue };
            let Some(operation) = self.operations.at(slot) else { continue };
            let request = pending.request();
            if pending.is_for(&operation.channel) && self.may_stop(request.from, operation) {
                let cause = self.interrupt_cause(request.from, pending.reason());
                let requester = InterruptRequester { request, channel: pending.channel() };
                self.deliver_interrupt(cx, slot, &cause, Some(requester));
            } else {
                self.answer(request, pending.result(Outcome::NoOwner), cx.out);
            }
        }
    }

    fn take_pending_interrupt(&mut self, id: PendingId) -> Option<PendingInterrupt> {
        let pending = self.pending.remove(id, &mut self.timers)?;
        if let Requester::Connection(conn) = pending.request().from
            && let Some(connection) = self.connections.get_mut(conn)
        {
            connection.remove_pending_interrupt();
            self.half_closed.note_answered(conn);
        }
        Some(pending)
    }

    /// No operation of that id has started in time.
    pub(in crate::hub) fn expire_pending_interrupt(&mut self, id: PendingId, out: &mut Effects) {
        if let Some(pending) = self.take_pending_interrupt(id) {
            self.answer(pending.request(), pending.result(Outcome::NoOwner), out);
        }
    }

    /// No operation will start any more.
    pub(in crate::hub) fn expire_pending_interrupts(&mut self, out: &mut Effects) {
        while let Some(id) = self.pending.first() {
            self.expire_pending_interrupt(id, out);
        }
    }

    /// The requester is gone; whether it is the user of the operation can be checked no longer.
    pub(in crate::hub) fn drop_pending_interrupts(&mut self, conn: ConnectionId) {
        for id in self.pending.of_connection(conn) {
            self.take_pending_interrupt(id);
        }
    }
}

/// Says that all operations can be listed by administrators alone.
fn needs_channel(refusal: Refusal) -> Refusal {
    let message = format!("all operations are asked for without `channel`: {}", refusal.message);
    Refusal { message: message.into(), ..refusal }
}
