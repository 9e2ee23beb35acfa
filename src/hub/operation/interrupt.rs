//! Interrupts: their causes, and those that wait for their operation to start.
//!
//! Does not know how an interrupt gets ahead of everything else: that is the work of the latch.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::hub::RequestContext;
use crate::hub::channel::publish::forbidden;
use crate::hub::connection::account::Account;
use crate::hub::event::{Now, Requester};
use crate::hub::timers::{NEVER, Timer, Timers};
use crate::protocol::frame::Outcome;
use crate::protocol::worker::InterruptLine;
use crate::protocol::{
    Channel, Code, ConnectionId, Event, Frame, Message, MessageId, Moment, OperationId, Payload, Refusal,
    Sender, UserId,
};

/// For how long an interrupt waits for its operation to start: a user who presses Stop at
/// once is faster than a worker that starts.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many may wait of one connection.
const MAX_PER_CONNECTION: u32 = 16;

/// How many of one user, and of all clients of this machine without a user together.
const MAX_PER_USER: usize = 64;
const MAX_WITHOUT_USER: usize = 512;

/// How many of all clients, of all workers, and over HTTP: none of these takes the places of
/// another.
const MAX_PER_ROUTE: usize = 1024;

/// Number of an interrupt that waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct PendingId(u32);

/// An interrupt that waits for its operation to start.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct PendingInterrupt {
    request: RequestContext,
    #[serde(default)]
    route: InterruptRoute,
    operation: OperationId,
    channel: Option<Channel>,
    reason: Option<String>,
    armed: Moment,
}

/// Over which route an interrupt came: each has places of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) enum InterruptRoute {
    Client(Account),
    Worker,
    #[default]
    Http,
}

/// All interrupts that wait, in the order in which they came.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::hub) struct PendingInterrupts(BTreeMap<PendingId, PendingInterrupt>);

/// The sender of an interrupt, and why.
pub(super) struct InterruptCause {
    sender: Sender,
    user: Option<UserId>,
    reason: Option<String>,
}

impl PendingInterrupt {
    pub(super) fn new(
        request: RequestContext,
        route: InterruptRoute,
        operation: OperationId,
        channel: Option<Channel>,
        reason: Option<String>,
    ) -> Self {
        Self { request, route, operation, channel, reason, armed: NEVER }
    }

    /// The request that is answered with its outcome.
    pub(super) fn request(&self) -> &RequestContext {
        &self.request
    }

    /// The channel that the request named.
    pub(super) fn channel(&self) -> Option<&Channel> {
        self.channel.as_ref()
    }

    pub(super) fn reason(&self) -> Option<String> {
        self.reason.clone()
    }

    /// Whether it is for what runs on a channel.
    pub(super) fn is_for(&self, channel: &Channel) -> bool {
        self.channel.as_ref().is_none_or(|named| named == channel)
    }

    /// The answer to its request.
    pub(super) fn result(&self, outcome: Outcome) -> Frame<'static> {
        result(self.operation.clone(), self.channel.clone(), outcome)
    }
}

impl PendingInterrupts {
    /// Whether one more may wait that came over a route, from a connection of which so many
    /// wait already.
    pub(super) fn check_limit(&self, route: InterruptRoute, of_connection: u32) -> Result<(), Refusal> {
        if self.is_full(route) || of_connection >= MAX_PER_CONNECTION {
            return Err(Refusal::new(Code::RateLimited, "too many interrupts wait").after(PATIENCE));
        }
        Ok(())
    }

    fn is_full(&self, route: InterruptRoute) -> bool {
        let count = |is_meant: &dyn Fn(InterruptRoute) -> bool| {
            self.0.values().filter(|pending| is_meant(pending.route)).count()
        };
        let most_of_one = match route {
            InterruptRoute::Client(account) if account.is_limited() => MAX_PER_USER,
            InterruptRoute::Client(_) => MAX_WITHOUT_USER,
            InterruptRoute::Worker | InterruptRoute::Http => MAX_PER_ROUTE,
        };
        let is_client = |route: InterruptRoute| matches!(route, InterruptRoute::Client(_));
        count(&|other| other == route) >= most_of_one
            || is_client(route) && count(&is_client) >= MAX_PER_ROUTE
    }

    /// Lets one more wait.
    pub(super) fn push(&mut self, now: Moment, mut pending: PendingInterrupt, timers: &mut Timers) {
        let last = self.0.last_key_value();
        let id = PendingId(last.map_or(0, |(PendingId(last), _)| last.wrapping_add(1)));
        timers.rearm(Timer::Pending(id), &mut pending.armed, now + PATIENCE);
        self.0.insert(id, pending);
    }

    pub(super) fn remove(&mut self, id: PendingId, timers: &mut Timers) -> Option<PendingInterrupt> {
        let mut pending = self.0.remove(&id)?;
        timers.rearm(Timer::Pending(id), &mut pending.armed, NEVER);
        Some(pending)
    }

    /// The one that has waited longest.
    pub(super) fn first(&self) -> Option<PendingId> {
        self.0.keys().next().copied()
    }

    /// Those that wait for an operation.
    pub(super) fn for_operation(&self, id: &OperationId) -> Vec<PendingId> {
        self.ids(|pending| pending.operation == *id)
    }

    /// Those that a connection has requested.
    pub(super) fn of_connection(&self, conn: ConnectionId) -> Vec<PendingId> {
        self.ids(|pending| pending.request.from == Requester::Connection(conn))
    }

    fn ids(&self, is_meant: impl Fn(&PendingInterrupt) -> bool) -> Vec<PendingId> {
        self.0.iter().filter(|(_, pending)| is_meant(pending)).map(|(id, _)| *id).collect()
    }
}

impl InterruptCause {
    pub(super) fn new(sender: Sender, user: Option<UserId>, reason: Option<String>) -> Self {
        Self { sender, user, reason }
    }

    /// The deadline of the operation itself.
    pub(super) fn deadline() -> Self {
        Self::new(Sender::Hub, None, Some("deadline".to_owned()))
    }

    /// Its sender, as the state of the operation shows it.
    pub(super) fn by(&self) -> String {
        match (&self.user, self.sender) {
            (Some(user), _) => user.to_string(),
            (None, Sender::Connection(conn)) => conn.to_string(),
            (None, other) => other.source().to_owned(),
        }
    }

    /// What the worker of the operation receives.
    pub(super) fn line(
        &self,
        now: Now,
        id: &OperationId,
        channel: &Channel,
        message_id: MessageId,
    ) -> InterruptLine {
        InterruptLine {
            operation_id: id.clone(),
            channel: channel.clone(),
            user_id: self.user.clone(),
            from: self.sender,
            reason: self.reason.clone(),
            message_id,
            timestamp: now.wall,
        }
    }

    /// The event for subscribers. It has no position: it goes to two channels at once.
    pub(super) fn message(
        &self,
        now: Now,
        id: &OperationId,
        channel: Channel,
        message_id: MessageId,
    ) -> Message {
        /// The data of the event.
        #[derive(Serialize)]
        struct InterruptData<'a> {
            operation_id: &'a OperationId,
        }
        Message {
            channel: Some(channel),
            event: Event::interrupt(),
            data: Payload::of(&InterruptData { operation_id: id }),
            from: self.sender,
            user_id: self.user.clone(),
            message_id,
            timestamp: now.wall,
            seq: None,
        }
    }
}

/// The refusal of an interrupt for want of a right. It names a channel only where the request
/// named it: the operation of another user is on one that is not to be revealed.
pub(super) fn no_right(named: Option<&Channel>) -> Refusal {
    match named {
        Some(channel) => forbidden(format!("the right to interrupt on {channel} is missing")).on(channel),
        None => forbidden("the right to interrupt on the channel of this operation is missing"),
    }
}

/// The answer to a request to interrupt.
pub(super) fn result(
    operation_id: OperationId,
    channel: Option<Channel>,
    outcome: Outcome,
) -> Frame<'static> {
    Frame::InterruptResult { operation_id, channel, outcome }
}
