//! Requests at the door.
//!
//! Knows who may ask at all, how often, and which room each request belongs to.
//! Does not know what any of them leads to.

use super::channel::publish::forbidden;
use super::connection::account::Charge;
use super::connection::rate_limit::{CONTROLS, CONTROLS_OF_STRANGERS, ListSpace};
use super::connection::table::{Connection, Kind};
use super::event::{Effects, Now, Requester};
use super::operation::Operation;
use super::{Hub, RequestContext, RequestResult};
use crate::protocol::request::After;
use crate::protocol::{
    Channel, Close, Code, ConnectionId, Frame, HubRequest, MalformedRequest, Refusal, RequestEnvelope,
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

fn toll(say: &HubRequest) -> RateClass {
    match say {
        HubRequest::Interrupt(_) => RateClass::Interrupts,
        HubRequest::Whisper { .. } | HubRequest::Ack { .. } => RateClass::Free,
        _ => RateClass::Requests,
    }
}

impl Hub {
    /// A request that could be read.
    pub(super) fn handle_request(
        &mut self,
        now: Now,
        from: Requester,
        said: RequestEnvelope<HubRequest>,
        out: &mut Effects,
    ) {
        let ask = RequestContext { from, id: said.id };
        let (action, toll) = (said.request.action(), toll(&said.request));
        if !self.is_there(now, from) {
            return;
        }
        let done = self.admit(now, from, toll);
        let done = done.and_then(|()| self.dispatch(now, &ask, said.request, out));
        if let Err(refusal) = done {
            // What is free is so where it is right.
            let charged = if toll == RateClass::Free {
                self.charge_rate(now, from, RateClass::Requests)
            } else {
                Ok(())
            };
            let refusal = charged.err().unwrap_or(refusal);
            let limited = refusal.code == Code::RateLimited;
            let refusal = if refusal.action.is_some() { refusal } else { refusal.of(action) };
            self.refuse(now, &ask, refusal, out);
            if limited {
                self.count_refusal(now, from, out);
            }
        }
    }

    /// A request that could not be read.
    pub(super) fn handle_malformed(
        &mut self,
        now: Now,
        from: Requester,
        misspoken: MalformedRequest,
        out: &mut Effects,
    ) {
        let ask = RequestContext { from, id: misspoken.id };
        if !self.is_there(now, from) {
            return;
        }
        match self.charge_rate(now, from, RateClass::Requests) {
            Ok(()) => self.refuse(now, &ask, misspoken.refusal, out),
            Err(limited) => {
                self.refuse(now, &ask, limited, out);
                self.count_refusal(now, from, out);
            }
        }
    }

    /// Pings and pongs, or part of a message. Whoever does nothing but ping keeps others
    /// waiting as well as whoever asks.
    pub(super) fn control(&mut self, now: Now, conn: ConnectionId, controls: u32, out: &mut Effects) {
        self.alive(now, conn);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let rate = if connection.is_let_in() { CONTROLS } else { CONTROLS_OF_STRANGERS };
        let is_too_fast = (0..controls).any(|_| connection.controls.take(now.moment, rate).is_err());
        if is_too_fast {
            self.throw_out(now, conn, Close::TooFast, out);
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

    fn dispatch(
        &mut self,
        now: Now,
        ask: &RequestContext,
        say: HubRequest,
        out: &mut Effects,
    ) -> RequestResult {
        match say {
            HubRequest::Subscribe(list) => self.subscribe(now, ask, connected(ask)?, list, out),
            HubRequest::Unsubscribe(channel) => self.unsubscribe(now, ask, connected(ask)?, channel, out),
            HubRequest::Publish(publication) => self.publish(now, ask, publication, out),
            HubRequest::Whisper { channel, event, data } => {
                self.whisper(now, connected(ask)?, (channel, event, data), out)
            }
            HubRequest::Interrupt(interrupt) => self.interrupt(now, ask, interrupt, out),
            HubRequest::Operations { channel, after } => self.list_operations(ask, channel, after, out),
            HubRequest::Presence(channel) => self.presence(ask, channel, out),
            HubRequest::Ack { position, read } => {
                self.ack(now, connected(ask)?, &position, read, out);
                Ok(())
            }
            HubRequest::Ping => {
                self.answer(ask, Frame::Pong { server_time: now.wall }, out);
                Ok(())
            }
            HubRequest::Start(start) => self.start_operation(now, ask, start, out),
            HubRequest::End(end) => self.end_operation(now, ask, end, out),
            HubRequest::Stats => self.stats(now, ask, out),
            HubRequest::Connections { after } => self.list_connections(now, ask, after, out),
            HubRequest::Channels { after } => self.list_channels(now, ask, after, out),
            HubRequest::Inbox(user) => self.look_into_inbox(now, ask, user, out),
            HubRequest::Inboxes { after } => self.list_inboxes(now, ask, after, out),
            HubRequest::Purge(target) => self.purge(now, ask, &target, out),
            HubRequest::Disconnect(target) => self.disconnect(now, ask, &target, out),
            HubRequest::Revoke(revoked) => self.revoke(ask, revoked, out),
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
    pub(super) fn count_refusal(&mut self, now: Now, from: Requester, out: &mut Effects) {
        let Some((conn, connection)) = self.client(from) else { return };
        if connection.rare().refusals.count(now.moment) {
            self.throw_out(now, conn, Close::TooFast, out);
        }
    }

    /// Counts a mistake; one too many ends the connection.
    pub(super) fn count_mistake(&mut self, now: Now, from: Requester, out: &mut Effects) {
        let limits = self.settings.limits;
        let Some((conn, connection)) = self.client(from) else { return };
        if connection.rare().mistakes.count(now.moment, &limits) {
            self.throw_out(now, conn, Close::TooManyErrors, out);
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
