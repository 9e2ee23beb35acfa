//! Stop.
//!
//! Knows who may stop what, and what becomes of the wish. Does not know how it
//! gets ahead of everything else; that is the latch's work.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Operation;
use crate::hub::channel::delivery::Echo;
use crate::hub::channel::publish::forbidden;
use crate::hub::channel::topic::Subscriber;
use crate::hub::connection::account::Account;
use crate::hub::connection::table::{Connection, Kind};
use crate::hub::event::{Cx, Effect, Effects, Now, Requester};
use crate::hub::timers::{NEVER, Timer};
use crate::hub::{Hub, RequestContext, RequestResult};
use crate::protocol::frame::Outcome;
use crate::protocol::worker::InterruptLine;
use crate::protocol::{
    Channel, Code, ConnectionId, Event, Frame, InterruptRequest, Message, MessageId, Moment, OperationId,
    Payload, Refusal, Sender, UserId,
};

/// For how long an interrupt waits for its operation to register: somebody who
/// presses Stop at once is faster than a worker that starts.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many may wait of one connection.
const MOST_OF_ONE: u32 = 16;

/// How many of one user, and of all together who have no name and come from this machine.
const MOST_OF_USER: usize = 64;
const MOST_OF_NAMELESS: usize = 512;

/// How many of all clients, of all workers, and over HTTP: none of these takes the places of
/// another.
const MOST: usize = 1024;

/// An interrupt that waits for its operation to register.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct PendingInterrupts {
    ask: RequestContext,
    #[serde(default)]
    way: Way,
    operation: OperationId,
    channel: Option<Channel>,
    reason: Option<String>,
    armed: Moment,
}

/// Over which way an interrupt came: each has places of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
enum Way {
    Client(Account),
    Worker,
    #[default]
    Http,
}

/// All interrupts that wait, in the order in which they came.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::hub) struct Pending(BTreeMap<u32, PendingInterrupts>);

/// Who interrupts, and why.
struct InterruptCause {
    sender: Sender,
    user: Option<UserId>,
    reason: Option<String>,
}

/// A request, and the channel that it named.
struct Asked<'a> {
    ask: &'a RequestContext,
    channel: Option<Channel>,
}

impl Pending {
    /// Whether none more may wait that came over a way.
    fn is_full(&self, way: Way) -> bool {
        let count =
            |is_meant: &dyn Fn(Way) -> bool| self.0.values().filter(|waiting| is_meant(waiting.way)).count();
        let most_of_one = match way {
            Way::Client(account) if account.pays => MOST_OF_USER,
            Way::Client(_) => MOST_OF_NAMELESS,
            Way::Worker | Way::Http => MOST,
        };
        let is_client = |way: Way| matches!(way, Way::Client(_));
        count(&|other| other == way) >= most_of_one || is_client(way) && count(&is_client) >= MOST
    }
}

impl InterruptCause {
    fn by(&self) -> String {
        match (&self.user, self.sender) {
            (Some(user), _) => user.to_string(),
            (None, Sender::Connection(conn)) => conn.to_string(),
            (None, other) => other.source().to_owned(),
        }
    }
}

impl Hub {
    pub(in crate::hub) fn interrupt(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        wish: InterruptRequest,
    ) -> RequestResult {
        self.counters.interrupts += 1;
        let Some(told) = self.operations.told(&wish.operation_id) else {
            return self.await_operation(cx, ask, wish);
        };
        if wish.channel.as_ref().is_some_and(|channel| *channel != told.channel) {
            return Err(Refusal::new(Code::UnknownOperation, "no such operation on that channel"));
        }
        let may = match self.operations.find(&wish.operation_id) {
            Some(operation) => self.may_stop(ask.from, operation),
            // That it is over any worker may hear on its channel.
            None => {
                self.is_worker(ask.from) || self.may_interrupt(ask.from, &told.channel, told.user.as_ref())
            }
        };
        if !may {
            return Err(no_right(wish.channel.as_ref()));
        }
        let asked = Asked { ask, channel: wish.channel };
        match self.operations.place(&wish.operation_id) {
            Some(place) => {
                let cause = self.cause(ask.from, wish.reason);
                self.pull(cx, place, &cause, Some(asked));
            }
            None => {
                let channel = self.nameable(asked, &wish.operation_id, told.channel);
                self.answer(ask, result(wish.operation_id, channel, Outcome::AlreadyEnded), cx.out);
            }
        }
        Ok(())
    }

    /// The channel of an operation as far as whoever asks may know it: who has guessed an id
    /// learns nothing by that.
    fn nameable(&self, asked: Asked<'_>, id: &OperationId, channel: Channel) -> Option<Channel> {
        let may_hear = || self.may_look(asked.ask.from, &Channel::of_operation(id)).is_ok();
        asked.channel.or_else(|| may_hear().then_some(channel))
    }

    fn cause(&self, from: Requester, reason: Option<String>) -> InterruptCause {
        let publisher = self.publisher(from, Echo::Yes);
        InterruptCause { sender: publisher.sender(), user: publisher.user().cloned(), reason }
    }

    /// Whether somebody may stop what runs on a channel for a user, or for none.
    fn may_interrupt(&self, from: Requester, channel: &Channel, of: Option<&UserId>) -> bool {
        let Requester::Connection(conn) = from else { return true };
        let Some(connection) = self.connections.get(conn) else { return true };
        if let Kind::Worker { admin, .. } = connection.kind {
            return admin;
        }
        let (user, rights) = (connection.user.as_ref(), self.rights_of(connection));
        let own = user.is_some() && user == of;
        let nobodys = of.is_none() && rights.may_publish(channel.as_str(), user);
        own || nobodys || rights.may_interrupt(channel, user)
    }

    /// Whether somebody may stop what runs.
    fn may_stop(&self, from: Requester, operation: &Operation) -> bool {
        self.may_interrupt(from, &operation.channel, operation.user.as_ref())
            || self.has_started(from, operation)
    }

    /// Pulls the latch; the worker hears it before anybody hears of it.
    fn pull(&mut self, cx: &mut Cx<'_>, place: u32, cause: &InterruptCause, asked: Option<Asked<'_>>) {
        let Some(operation) = self.operations.at(place) else { return };
        let (id, channel) = (operation.id.clone(), operation.channel.clone());
        let again = operation.is_interrupted();
        let line = InterruptLine {
            operation_id: id.clone(),
            channel: channel.clone(),
            user_id: cause.user.clone(),
            from: cause.sender,
            reason: cause.reason.clone(),
            message_id: MessageId::made(self.random.next()),
            timestamp: cx.now.wall,
        };
        let message_id = line.message_id.clone();
        cx.out.push(Effect::Interrupt { line: Box::new(line) });
        if let Some(asked) = asked {
            let ask = asked.ask;
            let channel = self.nameable(asked, &id, channel.clone());
            self.answer(ask, result(id.clone(), channel, Outcome::Delivered), cx.out);
        }
        self.begin_grace(cx.now, place, cause.by());
        if again {
            return;
        }
        self.tell_of_operation(place, cx.out);
        let message = Message { message_id, ..interrupt_message(cx.now, &id, channel, cause) };
        self.message_watchers(place, message, cx.out);
    }

    /// At its deadline an operation is interrupted by the hub itself.
    pub(in crate::hub) fn interrupt_at_deadline(&mut self, cx: &mut Cx<'_>, place: u32) {
        let cause = InterruptCause { sender: Sender::Hub, user: None, reason: Some("deadline".to_owned()) };
        self.pull(cx, place, &cause, None);
    }

    /// Nobody has registered it: the wish waits, and is told to those who only
    /// listen.
    fn await_operation(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        wish: InterruptRequest,
    ) -> RequestResult {
        let InterruptRequest { operation_id, channel, reason } = wish;
        match &channel {
            Some(channel) if channel.is_reserved() => {
                return Err(forbidden(format!("{channel} is the daemon's own")).on(channel));
            }
            Some(channel) if !self.may_interrupt(ask.from, channel, None) => {
                return Err(no_right(Some(channel)));
            }
            _ => {}
        }
        let full = || Refusal::new(Code::RateLimited, "too many interrupts wait").after(PATIENCE);
        let way = self.way(ask.from);
        if self.pending.is_full(way) {
            return Err(full());
        }
        if let Requester::Connection(conn) = ask.from
            && let Some(connection) = self.connections.get_mut(conn)
        {
            if connection.rare().pending >= MOST_OF_ONE {
                return Err(full());
            }
            connection.rare().pending += 1;
        }
        let number = self.pending.0.last_key_value().map_or(0, |(last, _)| last.wrapping_add(1));
        let mut armed = NEVER;
        self.timers.rearm(Timer::Pending(number), &mut armed, cx.now.moment + PATIENCE);
        self.answer(ask, result(operation_id.clone(), channel.clone(), Outcome::Pending), cx.out);
        if let Some(channel) = &channel {
            let cause = self.cause(ask.from, reason.clone());
            self.announce(cx, &operation_id, channel, &cause);
        }
        let waiting =
            PendingInterrupts { ask: ask.clone(), way, operation: operation_id, channel, reason, armed };
        self.pending.0.insert(number, waiting);
        Ok(())
    }

    fn way(&self, from: Requester) -> Way {
        match from {
            Requester::Http(_) => Way::Http,
            Requester::Connection(_) if self.is_worker(from) => Way::Worker,
            Requester::Connection(conn) => Way::Client(self.account(conn)),
        }
    }

    fn is_worker(&self, from: Requester) -> bool {
        matches!(from, Requester::Connection(conn) if self.connections.get(conn).is_some_and(Connection::is_worker))
    }

    /// `system:interrupt` on a channel. It is about now, so it is not kept.
    fn announce(&mut self, cx: &mut Cx<'_>, id: &OperationId, channel: &Channel, cause: &InterruptCause) {
        let Some(place) = self.channels.find_channel(channel) else { return };
        let Some(topic) = self.channels.at(place) else { return };
        let start = cx.out.recipients.len();
        let slots = topic.subscribers().iter().map(Subscriber::slot);
        let room = |slot: &u32| self.connections.at(*slot).is_some_and(|connection| !connection.full);
        cx.out.recipients.extend(slots.filter(room));
        let message = interrupt_message(cx.now, id, channel.clone(), cause);
        let message = Message { message_id: MessageId::made(self.random.next()), ..message };
        self.deliver(Rc::new(message), start, None, cx.out);
    }

    /// An operation has registered: those who asked before are answered now,
    /// where they may.
    pub(in crate::hub) fn settle_pending(&mut self, cx: &mut Cx<'_>, id: &OperationId) {
        let theirs = self.pending.0.iter().filter(|(_, waiting)| waiting.operation == *id);
        let numbers: Vec<u32> = theirs.map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(waiting) = self.take_pending(number) else { continue };
            let Some(place) = self.operations.place(id) else { continue };
            let Some(operation) = self.operations.at(place) else { continue };
            let there = waiting.channel.as_ref().is_none_or(|channel| *channel == operation.channel);
            let may = self.may_stop(waiting.ask.from, operation);
            if there && may {
                let cause = self.cause(waiting.ask.from, waiting.reason);
                let asked = Asked { ask: &waiting.ask, channel: waiting.channel };
                self.pull(cx, place, &cause, Some(asked));
            } else {
                self.answer(&waiting.ask, result(id.clone(), waiting.channel, Outcome::NoOwner), cx.out);
            }
        }
    }

    fn take_pending(&mut self, number: u32) -> Option<PendingInterrupts> {
        let mut waiting = self.pending.0.remove(&number)?;
        self.timers.rearm(Timer::Pending(number), &mut waiting.armed, NEVER);
        if let Requester::Connection(conn) = waiting.ask.from
            && let Some(connection) = self.connections.get_mut(conn)
        {
            let rare = connection.rare();
            rare.pending = rare.pending.saturating_sub(1);
            self.half_closed.look_at(conn);
        }
        Some(waiting)
    }

    /// Nobody came to own it.
    pub(in crate::hub) fn give_up(&mut self, number: u32, out: &mut Effects) {
        if let Some(waiting) = self.take_pending(number) {
            self.answer(&waiting.ask, result(waiting.operation, waiting.channel, Outcome::NoOwner), out);
        }
    }

    /// Nobody will come any more.
    pub(in crate::hub) fn give_up_pending(&mut self, out: &mut Effects) {
        while let Some(number) = self.pending.0.keys().next().copied() {
            self.give_up(number, out);
        }
    }

    /// Who asked is gone; whether it is the operation's user that is asked for
    /// can be checked no longer.
    pub(in crate::hub) fn drop_pending(&mut self, conn: ConnectionId) {
        let theirs =
            self.pending.0.iter().filter(|(_, waiting)| waiting.ask.from == Requester::Connection(conn));
        let numbers: Vec<u32> = theirs.map(|(number, _)| *number).collect();
        for number in numbers {
            self.take_pending(number);
        }
    }
}

/// Names a channel only to who named it: an operation of others is on one that is none of
/// his business.
fn no_right(named: Option<&Channel>) -> Refusal {
    match named {
        Some(channel) => forbidden(format!("the right to interrupt on {channel} is missing")).on(channel),
        None => forbidden("the right to interrupt on the channel of this operation is missing"),
    }
}

fn result(operation_id: OperationId, channel: Option<Channel>, outcome: Outcome) -> Frame<'static> {
    Frame::InterruptResult { operation_id, channel, outcome }
}

/// What handlers that listen the simple way hear. It has no position: it goes to
/// two channels at once.
fn interrupt_message(now: Now, id: &OperationId, channel: Channel, cause: &InterruptCause) -> Message {
    /// The data of the event.
    #[derive(Serialize)]
    struct About<'a> {
        operation_id: &'a OperationId,
    }
    Message {
        channel: Some(channel),
        event: Event::interrupt(),
        data: Payload::of(&About { operation_id: id }),
        from: cause.sender,
        user_id: cause.user.clone(),
        message_id: MessageId::made(0),
        timestamp: now.wall,
        seq: None,
    }
}
