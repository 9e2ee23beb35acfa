//! Requests at the door.
//!
//! Knows who may ask at all, how often, and which room each request belongs to.
//! Does not know what any of them leads to.

use super::channel::publish::{Whisper, forbidden};
use super::channel::receipts::ReceiptState;
use super::connection::account::Charge;
use super::connection::rate_limit::{CONTROLS, CONTROLS_OF_STRANGERS, ListSpace};
use super::connection::table::{Connection, Kind};
use super::event::{Cx, Effects, Now, Requester};
use super::operation::Operation;
use super::{Hub, RequestContext, RequestResult};
use crate::protocol::request::After;
use crate::protocol::{
    Channel, Close, Code, ConnectionId, Frame, MalformedRequest, Refusal, Request, RequestEnvelope,
};

/// Which bucket a request is taken from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RateClass {
    Requests,
    Interrupts,
    /// None, or one that is taken from where the request is carried out.
    Free,
}

/// What is said where one connection alone would not be too much.
const OF_ALL: &str = "too many requests on all connections of this user together";

fn toll(say: &Request) -> RateClass {
    match say {
        Request::Interrupt(_) => RateClass::Interrupts,
        Request::Whisper { .. } | Request::Ack { .. } | Request::Auth { .. } => RateClass::Free,
        _ => RateClass::Requests,
    }
}

impl Hub {
    /// A request that could be read.
    pub(super) fn handle_request(&mut self, cx: &mut Cx<'_>, from: Requester, said: RequestEnvelope) {
        let ask = RequestContext { from, id: said.id };
        let (action, toll) = (said.request.action(), toll(&said.request));
        if !self.is_there(cx.now, from) {
            return;
        }
        let done = self.admit(cx.now, from, toll);
        let done = done.and_then(|()| self.dispatch(cx, &ask, said.request));
        if let Err(refusal) = done {
            // What is free is so where it is right.
            let charged = if toll == RateClass::Free {
                self.charge_rate(cx.now, from, RateClass::Requests)
            } else {
                Ok(())
            };
            let refusal = charged.err().unwrap_or(refusal);
            let limited = refusal.code == Code::RateLimited;
            let refusal = if refusal.action.is_some() { refusal } else { refusal.of(action) };
            self.refuse(cx, &ask, refusal);
            if limited {
                self.count_refusal(cx, from);
            }
        }
    }

    /// A request that could not be read.
    pub(super) fn handle_malformed(&mut self, cx: &mut Cx<'_>, from: Requester, misspoken: MalformedRequest) {
        let ask = RequestContext { from, id: misspoken.id };
        if !self.is_there(cx.now, from) {
            return;
        }
        match self.charge_rate(cx.now, from, RateClass::Requests) {
            Ok(()) => self.refuse(cx, &ask, misspoken.refusal),
            Err(limited) => {
                self.refuse(cx, &ask, limited);
                self.count_refusal(cx, from);
            }
        }
    }

    /// Pings and pongs, or part of a message. Whoever does nothing but ping keeps others
    /// waiting as well as whoever asks.
    pub(super) fn control(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, controls: u32) {
        self.alive(cx.now, conn);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let rate = if connection.is_let_in() { CONTROLS } else { CONTROLS_OF_STRANGERS };
        let is_too_fast = (0..controls).any(|_| connection.controls.take(cx.now.moment, rate).is_err());
        if is_too_fast {
            self.throw_out(cx, conn, Close::TooFast);
        }
    }

    /// A sign of life that says nothing.
    pub(super) fn alive(&mut self, now: Now, conn: ConnectionId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let was_pinged = connection.pinged;
        connection.heard(now.moment);
        // Its deadline was that of the pong, which may be later than the next ping: some
        // proxy counts on that.
        if was_pinged {
            self.arm(conn.slot);
        }
    }

    /// Whether there is somebody to answer. What a link that is closing still
    /// says is nobody's.
    fn is_there(&mut self, now: Now, from: Requester) -> bool {
        let Requester::Connection(conn) = from else { return true };
        self.alive(now, conn);
        self.connections.get(conn).is_some()
    }

    fn admit(&mut self, now: Now, from: Requester, toll: RateClass) -> RequestResult {
        if self.stopping.is_some() {
            return Err(Refusal::new(Code::ShuttingDown, "the daemon is about to end"));
        }
        self.charge_rate(now, from, toll)?;
        let Requester::Connection(conn) = from else { return Ok(()) };
        if self.connections.get(conn).is_some_and(|connection| connection.kind == Kind::Waiting) {
            return Err(Refusal::new(Code::AuthRequired, "say who you are first: action `auth`"));
        }
        Ok(())
    }

    /// Workers and HTTP callers are slowed down by their sockets, not refused.
    fn charge_rate(&mut self, now: Now, from: Requester, toll: RateClass) -> RequestResult {
        let Requester::Connection(conn) = from else { return Ok(()) };
        let Some(connection) = self.connections.get_mut(conn).filter(|c| !c.is_worker()) else {
            return Ok(());
        };
        let limits = &self.settings.limits;
        let (taken, charge) = match toll {
            RateClass::Free => return Ok(()),
            RateClass::Requests => {
                let own = connection.own_limits();
                let rate = limits.allowed(own).into();
                (connection.requests.take(now.moment, rate), Charge::Request(own))
            }
            RateClass::Interrupts => {
                (connection.rare().interrupts.take(now.moment, limits.interrupts()), Charge::Interrupt)
            }
        };
        let refused = match taken {
            Ok(()) => self.charge(now.moment, conn, charge).err().map(|wait| (wait, OF_ALL)),
            Err(wait) => Some((wait, "too many requests")),
        };
        let Some((wait, why)) = refused else { return Ok(()) };
        self.counters.rate_limited += 1;
        Err(Refusal::new(Code::RateLimited, why).after(wait))
    }

    fn dispatch(&mut self, cx: &mut Cx<'_>, ask: &RequestContext, say: Request) -> RequestResult {
        match say {
            Request::Subscribe(list) => self.subscribe(cx, ask, connected(ask)?, list),
            Request::Unsubscribe(channel) => self.unsubscribe(cx, ask, connected(ask)?, channel),
            Request::Publish(publication) => self.publish(cx, ask, publication),
            Request::Whisper { channel, event, data } => {
                self.whisper(cx, connected(ask)?, Whisper::new(channel, event, data))
            }
            Request::Interrupt(interrupt) => self.interrupt(cx, ask, interrupt),
            Request::Operations { channel, after } => self.list_operations(ask, channel, after, cx.out),
            Request::Presence(channel) => self.presence(ask, channel, cx.out),
            Request::Ack { position, read } => {
                let state = if read { ReceiptState::Read } else { ReceiptState::Delivered };
                self.ack(cx, connected(ask)?, &position, state);
                Ok(())
            }
            Request::Ping => {
                self.answer(ask, Frame::Pong { server_time: cx.now.wall }, cx.out);
                Ok(())
            }
            Request::Start(start) => self.start_operation(cx, ask, start),
            Request::End(end) => self.end_operation(cx, ask, end),
            Request::Stats => self.stats(cx, ask),
            Request::Connections { after } => self.list_connections(cx, ask, after),
            Request::Channels { after } => self.list_channels(cx, ask, after),
            Request::Inbox(user) => self.look_into_inbox(cx, ask, user),
            Request::Inboxes { after } => self.list_inboxes(cx, ask, after),
            Request::Purge(target) => self.purge(cx, ask, &target),
            Request::Disconnect(target) => self.disconnect(cx, ask, &target),
            Request::Revoke(revoked) => self.revoke(ask, revoked, cx.out),
            Request::Auth { .. }
            | Request::MintToken { .. }
            | Request::CheckToken(_)
            | Request::Revocations { .. }
            | Request::Lift(_)
            | Request::Reload => {
                Err(Refusal::new(Code::Internal, "this is answered where tokens and files are known"))
            }
        }
    }

    fn list_operations(
        &self,
        ask: &RequestContext,
        channel: Option<Channel>,
        after: After,
        out: &mut Effects,
    ) -> RequestResult {
        let mut next = None;
        let (operations, operations_running) = match &channel {
            Some(channel) => {
                self.may_administer(ask.from).or_else(|_| self.may_look(ask.from, channel))?;
                self.operations.list_on(channel, &mut ListSpace::default())
            }
            None => {
                let may = self.may_administer(ask.from);
                let sees_all = may.is_ok();
                if self.machine_user(ask.from).is_none() {
                    may.map_err(|refusal| Refusal {
                        message: format!(
                            "all operations are asked for without `channel`: {}",
                            refusal.message
                        )
                        .into(),
                        ..refusal
                    })?;
                }
                let is_theirs = |operation: &Operation| sees_all || self.has_started(ask.from, operation);
                let page = self.operations.list(after.as_deref(), is_theirs);
                next = page.next;
                (page.entries, None)
            }
        };
        self.answer(ask, Frame::Operations { channel, operations, operations_running, next }, out);
        Ok(())
    }

    /// Who may hear a channel may know what is on it.
    pub(super) fn may_look(&self, from: Requester, channel: &Channel) -> RequestResult {
        let Requester::Connection(conn) = from else { return Ok(()) };
        let Some(connection) = self.connections.get(conn) else { return Ok(()) };
        self.may_subscribe(connection, channel).map_err(|refusal| refusal.on(channel))
    }

    /// Counts a refusal for rate; one too many ends the connection.
    pub(super) fn count_refusal(&mut self, cx: &mut Cx<'_>, from: Requester) {
        let Some((conn, connection)) = self.client(from) else { return };
        if connection.rare().refusals.count(cx.now.moment) {
            self.throw_out(cx, conn, Close::TooFast);
        }
    }

    /// Counts a mistake; one too many ends the connection.
    pub(super) fn count_mistake(&mut self, cx: &mut Cx<'_>, from: Requester) {
        let limits = self.settings.limits;
        let Some((conn, connection)) = self.client(from) else { return };
        if connection.rare().mistakes.count(cx.now.moment, &limits) {
            self.throw_out(cx, conn, Close::TooManyErrors);
        }
    }

    fn client(&mut self, from: Requester) -> Option<(ConnectionId, &mut Connection)> {
        let Requester::Connection(conn) = from else { return None };
        self.connections.get_mut(conn).filter(|c| !c.is_worker()).map(|connection| (conn, connection))
    }
}

/// Only who is connected hears anything.
fn connected(ask: &RequestContext) -> Result<ConnectionId, Refusal> {
    match ask.from {
        Requester::Connection(conn) => Ok(conn),
        Requester::Http(_) => Err(forbidden("only connections subscribe")),
    }
}
