//! Requests: rate limits, general rights, and the method that each request leads to.

use std::time::Duration;

use super::channel::publish::{Whisper, forbidden};
use super::channel::receipts::ReceiptState;
use super::connection::Connection;
use super::connection::account::Charge;
use super::connection::rights::Rights;
use super::event::{Cx, Now, Requester};
use super::{Hub, RequestContext, RequestResult};
use crate::protocol::{
    Channel, Close, Code, ConnectionId, Frame, HubRequest, MalformedRequest, Moment, Refusal, RequestEnvelope,
};

/// Which bucket a request is taken from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RateClass {
    Requests,
    Interrupts,
    /// None, or one that is charged where the request is carried out.
    Free,
}

/// The reason of a refusal where one connection alone would not be too much.
const OF_ALL: &str = "too many requests on all connections of this user together";

impl RateClass {
    fn of(request: &HubRequest) -> Self {
        match request {
            HubRequest::Interrupt(_) => Self::Interrupts,
            HubRequest::Whisper { .. } | HubRequest::Ack { .. } => Self::Free,
            _ => Self::Requests,
        }
    }
}

impl Hub {
    /// A well-formed request.
    pub(super) fn handle_request(
        &mut self,
        cx: &mut Cx<'_>,
        from: Requester,
        envelope: RequestEnvelope<HubRequest>,
    ) {
        let RequestEnvelope { id, request: body } = envelope;
        let request = RequestContext { from, id };
        let (action, class) = (body.action(), RateClass::of(&body));
        if !self.touch_if_open(cx.now, from) {
            return;
        }
        let result = self.admit(cx.now, from, class);
        let Err(refusal) = result.and_then(|()| self.dispatch(cx, &request, body)) else { return };
        // What is free is so where it is right.
        let charged = match class {
            RateClass::Free => self.charge_rate(cx.now, from, RateClass::Requests),
            RateClass::Requests | RateClass::Interrupts => Ok(()),
        };
        let refusal = charged.err().unwrap_or(refusal);
        let is_limited = refusal.code == Code::RateLimited;
        let refusal = if refusal.action.is_some() { refusal } else { refusal.of(action) };
        self.refuse(cx, &request, refusal);
        if is_limited {
            self.count_refusal(cx, from);
        }
    }

    /// A request that cannot be parsed.
    pub(super) fn handle_malformed(&mut self, cx: &mut Cx<'_>, from: Requester, malformed: MalformedRequest) {
        let request = RequestContext { from, id: malformed.id };
        if !self.touch_if_open(cx.now, from) {
            return;
        }
        match self.charge_rate(cx.now, from, RateClass::Requests) {
            Ok(()) => self.refuse(cx, &request, malformed.refusal),
            Err(limited) => {
                self.refuse(cx, &request, limited);
                self.count_refusal(cx, from);
            }
        }
    }

    /// Notes activity of a requester; false where it is gone. What a closing connection still
    /// sends is dropped.
    fn touch_if_open(&mut self, now: Now, from: Requester) -> bool {
        let Requester::Connection(conn) = from else { return true };
        self.touch(now, conn);
        self.connections.contains(conn)
    }

    fn admit(&mut self, now: Now, from: Requester, class: RateClass) -> RequestResult {
        if self.stopping.is_some() {
            return Err(Refusal::new(Code::ShuttingDown, "the daemon is about to end"));
        }
        self.charge_rate(now, from, class)?;
        let Requester::Connection(conn) = from else { return Ok(()) };
        if self.connections.get(conn).is_some_and(|connection| !connection.is_admitted()) {
            return Err(Refusal::new(Code::AuthRequired, "say who you are first: action `auth`"));
        }
        Ok(())
    }

    /// Workers and HTTP callers are slowed down by their sockets, not refused.
    fn charge_rate(&mut self, now: Now, from: Requester, class: RateClass) -> RequestResult {
        let Requester::Connection(conn) = from else { return Ok(()) };
        let Some(connection) = self.connections.get_mut(conn).filter(|c| !c.is_worker()) else {
            return Ok(());
        };
        let limits = &self.settings.limits;
        let (taken, charge) = match class {
            RateClass::Free => return Ok(()),
            RateClass::Requests => {
                (connection.take_request(now.moment, limits), Charge::Request(connection.own_limits()))
            }
            RateClass::Interrupts => (connection.take_interrupt(now.moment, limits), Charge::Interrupt),
        };
        let refused = match taken {
            Ok(()) => self.charge(now.moment, conn, charge).err().map(|wait| (wait, OF_ALL)),
            Err(wait) => Some((wait, "too many requests")),
        };
        let Some((wait, why)) = refused else { return Ok(()) };
        self.counters.rate_limited += 1;
        Err(Refusal::new(Code::RateLimited, why).after(wait))
    }

    /// Charges the account of a connection, or returns how long it has to wait.
    pub(super) fn charge(&mut self, now: Moment, conn: ConnectionId, charge: Charge) -> Result<(), Duration> {
        let account = self.connections.account_for(conn, charge);
        self.accounts.charge(now, account, charge, &self.settings.limits)
    }

    fn dispatch(&mut self, cx: &mut Cx<'_>, request: &RequestContext, body: HubRequest) -> RequestResult {
        match body {
            HubRequest::Subscribe(list) => self.subscribe(cx, request, connected(request)?, list),
            HubRequest::Unsubscribe(channel) => self.unsubscribe(cx, request, connected(request)?, channel),
            HubRequest::Publish(publication) => self.publish(cx, request, publication),
            HubRequest::Whisper { channel, event, data } => {
                self.whisper(cx, connected(request)?, Whisper::new(channel, event, data))
            }
            HubRequest::Interrupt(interrupt) => self.interrupt(cx, request, interrupt),
            HubRequest::Operations { channel, after } => {
                self.list_operations(request, channel, after, cx.out)
            }
            HubRequest::Presence(channel) => self.presence(request, channel, cx.out),
            HubRequest::Ack { position, read } => {
                let state = if read { ReceiptState::Read } else { ReceiptState::Delivered };
                self.ack(cx, connected(request)?, &position, state);
                Ok(())
            }
            HubRequest::Ping => {
                self.answer(request, Frame::Pong { server_time: cx.now.wall }, cx.out);
                Ok(())
            }
            HubRequest::Start(start) => self.start_operation(cx, request, start),
            HubRequest::End(end) => self.end_operation(cx, request, end),
            HubRequest::Stats => self.stats(cx, request),
            HubRequest::Connections { after } => self.list_connections(cx, request, after),
            HubRequest::Channels { after } => self.list_channels(cx, request, after),
            HubRequest::Inbox(user) => self.show_inbox(cx, request, user),
            HubRequest::Inboxes { after } => self.list_inboxes(cx, request, after),
            HubRequest::Purge(target) => self.purge(cx, request, &target),
            HubRequest::Disconnect(target) => self.disconnect(cx, request, &target),
            HubRequest::Revoke(revoked) => self.revoke(cx, request, revoked),
        }
    }

    /// What a connection may do: what its token says, or the settings.
    pub(super) fn rights_of<'a>(&'a self, connection: &'a Connection) -> &'a Rights {
        connection.rights(&self.settings.rights)
    }

    pub(super) fn may_administer(&self, from: Requester) -> RequestResult {
        let is_admin = match from {
            Requester::Http(_) => true,
            Requester::Connection(conn) => {
                let connection = self.connections.get(conn);
                connection.is_some_and(|connection| connection.is_admin(&self.settings.rights))
            }
        };
        if is_admin { Ok(()) } else { Err(Refusal::for_administrators()) }
    }

    /// Whether a requester may know what is on a channel: if it may subscribe to it.
    pub(super) fn may_look(&self, from: Requester, channel: &Channel) -> RequestResult {
        let Requester::Connection(conn) = from else { return Ok(()) };
        let Some(connection) = self.connections.get(conn) else { return Ok(()) };
        self.may_subscribe(connection, channel).map_err(|refusal| refusal.on(channel))
    }

    /// Counts a refusal for rate; one too many ends the connection.
    pub(super) fn count_refusal(&mut self, cx: &mut Cx<'_>, from: Requester) {
        let Some((conn, connection)) = self.client(from) else { return };
        if connection.count_refusal(cx.now.moment) {
            self.close_abuser(cx, conn, Close::TooFast);
        }
    }

    /// Counts a mistake; one too many ends the connection.
    pub(super) fn count_mistake(&mut self, cx: &mut Cx<'_>, from: Requester) {
        let limits = self.settings.limits;
        let Some((conn, connection)) = self.client(from) else { return };
        if connection.count_mistake(cx.now.moment, &limits) {
            self.close_abuser(cx, conn, Close::TooManyErrors);
        }
    }

    /// The connection of a requester, where it is none of a worker.
    fn client(&mut self, from: Requester) -> Option<(ConnectionId, &mut Connection)> {
        let Requester::Connection(conn) = from else { return None };
        self.connections.get_mut(conn).filter(|c| !c.is_worker()).map(|connection| (conn, connection))
    }
}

/// The connection of a request: over HTTP there is none that could subscribe.
fn connected(request: &RequestContext) -> Result<ConnectionId, Refusal> {
    match request.from {
        Requester::Connection(conn) => Ok(conn),
        Requester::Http(_) => Err(forbidden("only connections subscribe")),
    }
}
