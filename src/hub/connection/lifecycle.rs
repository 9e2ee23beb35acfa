//! Lifecycle of a connection: opening, authentication, send queue, timer, closing.
//!
//! For the hub a connection is gone as soon as it orders it to close: what its socket still
//! delivers after that finds nothing in the table.

use std::time::Duration;

use super::account::{Account, Charge};
use super::auth::{Admission, Anonymous};
use super::deadlines::Due;
use super::rights::Identity;
use super::{Connection, Subscriptions};
use crate::hub::channel::publish::forbidden;
use crate::hub::channel::subscribe::Leaving;
use crate::hub::event::{
    Anomaly, Credentials, Cx, Effect, Effects, Now, Peer, Rejection, SendQueueState, TokenFault,
};
use crate::hub::{Hub, RequestContext};
use crate::protocol::{Close, ConnectionId, Frame, InboxMode, Reason, Return, UserId, VERSION};

/// Over how long the clients of connections that were closed reconnect, where they are to
/// do that later, or at once: a thousand browsers at the same instant would be a needless
/// burst.
const SPREAD_LATER: u64 = 5000;
const SPREAD_NOW: u64 = 1000;

/// Whether a token was taken over by its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IdentityOutcome {
    Set,
    /// The connection was closed instead.
    Refused,
}

/// Opening and authentication.
impl Hub {
    /// A connection was opened.
    pub(in crate::hub) fn on_opened(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, peer: Peer) {
        // A slot is given out again only after its socket was closed: what stands there, if
        // anything does, is gone.
        if let Some(before) = self.connections.id(conn.slot) {
            self.remove_connection(cx, before, None);
        }
        self.counters.connections_opened += 1;
        let anonymous = if self.settings.anonymous { Anonymous::Allowed } else { Anonymous::Refused };
        let (admission, credentials) = Admission::of(peer, anonymous);
        let connection = admission.open(conn.tag, cx.now.moment, self.settings.limits.auth);
        let (is_worker, is_admitted) = (connection.is_worker(), connection.is_admitted());
        self.connections.insert(conn.slot, connection);
        if !is_admitted {
            self.unauthenticated.push(conn, &self.connections);
        }
        if let Some(close) = self.stopping {
            self.close(cx, conn, close);
            return;
        }
        if !matches!(credentials, Credentials::Verified(_))
            && self.charge(cx.now.moment, conn, Charge::Connection).is_err()
        {
            return self.refuse_connection(cx, conn, None, Close::TooFast);
        }
        match credentials {
            _ if is_worker => {}
            Credentials::Refused(TokenFault { code, message, wait, .. }) => {
                cx.out.notify(conn, Frame::AuthFailed { code, message });
                self.close_refused(cx, conn, wait);
            }
            Credentials::Nothing if !is_admitted => cx.out.notify(conn, Frame::AuthRequired),
            Credentials::Nothing => self.greet(cx, conn),
            Credentials::Verified(identity) => {
                if self.take_identity(cx, conn, identity) == IdentityOutcome::Set {
                    self.greet(cx, conn);
                    self.join_inbox(cx, conn);
                }
            }
        }
        self.rearm(conn.slot);
    }

    /// All slots are taken, and a client waits for one: the oldest connection gives way that
    /// has not authenticated.
    pub(in crate::hub) fn on_no_capacity(&mut self, cx: &mut Cx<'_>) {
        if let Some(conn) = self.unauthenticated.pop_oldest(&self.connections) {
            self.counters.closed_overloaded += 1;
            self.note_refusal(conn, None, Reason::Overloaded, cx.out);
            self.close(cx, conn, Close::Overloaded);
        }
    }

    /// Whether a connection may request more than `auth`.
    pub fn is_admitted(&self, conn: ConnectionId) -> bool {
        self.connections.get(conn).is_some_and(Connection::is_admitted)
    }

    /// The account of a connection; the anonymous one, if it is gone.
    pub fn account(&self, conn: ConnectionId) -> Account {
        self.connections.account(conn)
    }

    /// The token of an `auth` request was checked.
    pub(in crate::hub) fn on_token_checked(
        &mut self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        conn: ConnectionId,
        mode: Option<InboxMode>,
        claim: Result<Identity, TokenFault>,
    ) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.touch(cx.now.moment);
        let was_admitted = connection.is_admitted();
        let identity = match claim {
            Ok(identity) => identity,
            Err(fault) => return self.reject_token(cx, request, conn, fault),
        };
        let was_users = connection.user().is_some();
        if was_users && !connection.is_of(&identity.user_id) {
            let why = "this connection belongs to another user; open a new one";
            self.refuse(cx, request, forbidden(why).of("auth"));
            return;
        }
        let is_other_mode = connection.change_inbox_mode(mode);
        let (user_id, expires_at) = (identity.user_id.clone(), identity.expires_at);
        let own = identity.terms.as_ref().and_then(|terms| terms.limits);
        if self.take_identity(cx, conn, identity) == IdentityOutcome::Refused {
            return;
        }
        // A client that receives the inbox from now on, or acknowledges it, must know its epoch.
        let begins = was_admitted && (!was_users || is_other_mode);
        let inbox = if begins { self.inbox_state(cx, &user_id) } else { None };
        let limits = self.settings.limits.frame(own);
        self.answer(request, Frame::AuthSuccess { user_id, expires_at, limits, inbox }, cx.out);
        if !was_admitted {
            if let Some(connection) = self.connections.get_mut(conn) {
                connection.admit();
            }
            self.greet(cx, conn);
        }
        if !was_users {
            self.join_inbox(cx, conn);
        } else if is_other_mode {
            self.change_inbox(cx, conn);
        }
        self.check_subscriptions(cx, conn);
        self.rearm(conn.slot);
    }

    fn reject_token(
        &mut self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        conn: ConnectionId,
        fault: TokenFault,
    ) {
        let TokenFault { code, message, wait, .. } = fault;
        self.answer(request, Frame::AuthFailed { code, message }, cx.out);
        if self.is_admitted(conn) {
            // Verifying tokens costs more than most requests, and is free.
            self.count_refusal(cx, request.from);
        } else {
            self.close_refused(cx, conn, wait);
        }
    }

    /// Makes a connection its user's, with what the token allows, or closes it where the user
    /// has too many.
    fn take_identity(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, identity: Identity) -> IdentityOutcome {
        let user_id = identity.user_id.clone();
        let Some(connection) = self.connections.existing(conn) else { return IdentityOutcome::Refused };
        let is_new = connection.user().is_none();
        if is_new && let Err(close) = self.charge_user(cx.now, &user_id) {
            self.refuse_connection(cx, conn, Some(user_id), close);
            return IdentityOutcome::Refused;
        }
        let Some(connection) = self.connections.existing_mut(conn) else { return IdentityOutcome::Refused };
        connection.set_identity(cx.now, identity);
        for topic_id in connection.topics().clone() {
            if is_new {
                // Not in the inbox yet, so these are channels all of them.
                self.channels.join_presence(&self.connections, topic_id, conn.slot, &user_id, cx.out);
            } else {
                self.channels.update_presence_info(&self.connections, topic_id, conn.slot);
            }
        }
        IdentityOutcome::Set
    }

    /// Charges a user for one more connection; why it is refused.
    fn charge_user(&mut self, now: Now, user: &UserId) -> Result<(), Close> {
        let limits = &self.settings.limits;
        let inbox = self.channels.find_inbox(user).and_then(|topic_id| self.channels.at(topic_id));
        let connections = inbox.map_or(0, |topic| topic.subscribers().len());
        if connections >= limits.connections_per_user {
            return Err(Close::TooManyConnections);
        }
        let charged = self.accounts.charge(now.moment, Account::of_user(user), Charge::Connection, limits);
        charged.map_err(|_| Close::TooFast)
    }

    /// A user, or an address, has too many connections, or opens them too fast.
    fn refuse_connection(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, user: Option<UserId>, close: Close) {
        self.counters.connections_refused += 1;
        let reason = match close {
            Close::TooManyConnections => Reason::TooManyConnections,
            _ => Reason::RateLimited,
        };
        self.note_refusal(conn, user, reason, cx.out);
        self.close(cx, conn, close);
    }

    /// The first frame of a client that is admitted.
    fn greet(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        let Some(connection) = self.connections.existing(conn) else { return };
        let user_id = connection.user().cloned();
        let inbox = user_id.as_ref().and_then(|user| self.inbox_state(cx, user));
        let Some(connection) = self.connections.existing(conn) else { return };
        let frame = Frame::ConnectionEstablished {
            connection_id: conn.to_string(),
            user_id,
            protocol: VERSION,
            server_time: cx.now.wall,
            ping_interval: self.settings.heartbeat.ping_interval,
            pong_timeout: self.settings.heartbeat.pong_timeout,
            limits: self.settings.limits.frame(connection.own_limits()),
            expires_at: connection.expires_at(),
            inbox,
        };
        cx.out.notify(conn, frame);
    }
}

/// Signs of life, send queue and timer.
impl Hub {
    /// Sets the timer of a connection to what is due first, where that is sooner than what it
    /// is set to.
    pub(in crate::hub) fn rearm(&mut self, slot: u32) {
        if let Some(connection) = self.connections.at_mut(slot) {
            connection.rearm(slot, &self.settings, &mut self.timers);
        }
    }

    /// Pings and pongs, or part of a message. A peer that does nothing but ping keeps others
    /// waiting as much as one that requests something.
    pub(in crate::hub) fn on_keep_alive(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, controls: u32) {
        self.touch(cx.now, conn);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.count_controls(cx.now.moment, controls) {
            self.close_abuser(cx, conn, Close::TooFast);
        }
    }

    /// Notes that the peer of a connection has sent anything.
    pub(in crate::hub) fn touch(&mut self, now: Now, conn: ConnectionId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        // Its timer was that of the pong, which may be later than the next ping: some proxy
        // counts on that.
        if connection.touch_after_ping(now.moment) {
            self.rearm(conn.slot);
        }
    }

    /// The timer of a connection has fired: whatever is due is done.
    pub(in crate::hub) fn on_connection_timer(&mut self, cx: &mut Cx<'_>, slot: u32) {
        let Some(connection) = self.connections.at_mut(slot) else {
            debug_assert!(false, "a timer is disarmed with its connection");
            return;
        };
        let conn = connection.id(slot);
        if self.waiting.is_paused(conn) {
            // A pong would not be read: its silence is ours.
            connection.touch(cx.now.moment);
        }
        match connection.take_due(cx.now.moment, &self.settings) {
            Due::Close(close) => return self.close_overdue(cx, conn, close),
            Due::Notify { token_expiring, is_ping_due } => {
                if let Some(expires_at) = token_expiring {
                    cx.out.notify(conn, Frame::TokenExpiring { expires_at });
                }
                if is_ping_due {
                    cx.out.push(Effect::Ping { conn });
                }
            }
        }
        self.rearm(slot);
    }

    fn close_overdue(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, close: Close) {
        match close {
            Close::TooSlow => {
                self.counters.closed_slow += 1;
                let user = self.connections.get(conn).and_then(Connection::user).cloned();
                cx.out.push(Effect::LogAnomaly(Anomaly::Stalled { conn, user }));
            }
            Close::NoPong => self.counters.closed_no_pong += 1,
            Close::Unauthenticated => {
                self.counters.closed_unauthenticated += 1;
                self.note_refusal(conn, None, Reason::TokenMissing, cx.out);
            }
            _ => {}
        }
        self.close(cx, conn, close);
    }

    /// The send queue of a connection is in another state.
    pub(in crate::hub) fn on_send_queue(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnectionId,
        state: SendQueueState,
    ) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.set_send_queue(state, cx.now.moment, self.memory.level());
        if state == SendQueueState::Empty {
            self.catch_up(cx, conn);
        }
        self.rearm(conn.slot);
    }

    /// The socket has taken all: what was shed is reported, and replays go on.
    fn catch_up(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        self.notify_missed(conn.slot, None, cx.out);
        let Some(connection) = self.connections.existing(conn) else { return };
        for topic_id in connection.topics().clone() {
            self.advance(cx, topic_id, conn.slot);
        }
    }

    /// The peer of a connection has accepted a part of what is queued.
    pub(in crate::hub) fn on_write_progress(&mut self, now: Now, conn: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.note_write_progress(now.moment);
        }
    }
}

/// Closing.
impl Hub {
    /// Closes a connection: for the hub it is gone at once.
    pub(in crate::hub) fn close(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, close: Close) {
        let after_ms = match close.returning() {
            Return::No => 0,
            Return::Later => self.random.below(SPREAD_LATER + 1),
            Return::Now => self.random.below(SPREAD_NOW + 1),
        };
        self.remove_connection(cx, conn, Some(close));
        cx.out.push(Effect::Close { conn, close, after_ms });
    }

    /// Closes one whose token was refused. It is not to reconnect as it is; how long its client
    /// waits in any case grows with how often it was refused.
    fn close_refused(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, wait: Duration) {
        let close = Close::Unauthenticated;
        self.remove_connection(cx, conn, Some(close));
        let after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        cx.out.push(Effect::Close { conn, close, after_ms });
    }

    /// As [`Hub::close`], and worth a line in the log.
    pub(in crate::hub) fn close_abuser(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, close: Close) {
        let Some(connection) = self.connections.get(conn) else { return };
        self.counters.closed_errors += 1;
        let user = connection.user().cloned();
        cx.out.push(Effect::LogAnomaly(Anomaly::Misbehaved { conn, user, close }));
        self.close(cx, conn, close);
    }

    /// Counts a refusal of an open connection, and has it logged.
    fn note_refusal(&mut self, conn: ConnectionId, user: Option<UserId>, reason: Reason, out: &mut Effects) {
        self.refused.count(reason);
        out.push(Effect::LogAnomaly(Anomaly::Refused { conn, user, reason }));
    }

    /// Counts what the edge has rejected.
    pub(in crate::hub) fn on_rejected(&mut self, rejection: Rejection) {
        let count = match rejection {
            Rejection::NoCapacity => &mut self.counters.connections_refused,
            Rejection::HandshakeTimeout => &mut self.counters.newcomers_dropped,
            Rejection::WrongSecret => &mut self.counters.wrong_secrets,
            Rejection::BadHttpBody => &mut self.counters.requests_refused,
            Rejection::ProtocolViolation => &mut self.counters.closed_malformed,
            Rejection::Refused(reason) => return self.refused.count(reason),
        };
        *count += 1;
    }

    /// Removes a connection that is gone, or will be, with all that belongs to it.
    pub(in crate::hub) fn remove_connection(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnectionId,
        close: Option<Close>,
    ) {
        let Some(mut connection) = self.connections.remove(conn) else { return };
        self.counters.connections_closed += 1;
        let lasted = cx.now.moment.since(connection.opened());
        let user = connection.user().cloned();
        cx.out.push(Effect::LogDisconnect { conn, user, lasted, close });
        self.waiting.forget(conn);
        self.half_closed.remove(conn);
        connection.disarm(conn.slot, &mut self.timers);
        self.leave_topics(cx, conn, connection.take_subscriptions());
        if connection.pending_interrupts() > 0 {
            self.drop_pending_interrupts(conn);
        }
        if connection.owns_operations() {
            self.on_owner_lost(cx, conn);
        }
    }

    /// Ends the subscriptions of a connection that receives nothing of them any more.
    fn leave_topics(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, subscriptions: Subscriptions) {
        let Subscriptions { user, topics, lingering } = subscriptions;
        for topic_id in topics {
            self.leave(cx, topic_id, conn, user.as_ref(), Leaving::Lost);
        }
        for topic_id in lingering {
            self.drop_readers(topic_id, conn);
            self.sweep(cx, topic_id);
        }
    }

    /// The peer sends no more: its subscriptions end and it ends none of its operations, but
    /// its requests are answered.
    pub(in crate::hub) fn on_read_closed(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let (subscriptions, owns_operations) =
            (connection.take_subscriptions(), connection.owns_operations());
        self.leave_topics(cx, conn, subscriptions);
        if owns_operations {
            self.on_owner_lost(cx, conn);
        }
        self.half_closed.insert(conn);
    }

    /// Closes each half-closed connection that has its last answer, behind that.
    pub(in crate::hub) fn close_half_closed(&mut self, out: &mut Effects) {
        for conn in self.half_closed.take_answered() {
            let connection = self.connections.get(conn);
            let waits = self.waiting.has(conn) || connection.is_some_and(|c| c.pending_interrupts() > 0);
            if !waits && self.half_closed.remove(conn) {
                out.push(Effect::HangUp { conn });
            }
        }
    }

    /// The daemon stops: all connections are closed, the clients before the workers, so that
    /// no client takes an operation for lost which its worker registers again.
    pub(in crate::hub) fn on_stopping(&mut self, cx: &mut Cx<'_>, close: Close) {
        self.stopping = Some(close);
        self.channels.keep_idle();
        self.expire_pending_interrupts(cx.out);
        let clients = self.connections.ids(|connection| !connection.is_worker());
        let workers = self.connections.ids(Connection::is_worker);
        for conn in clients.into_iter().chain(workers) {
            self.close(cx, conn, close);
        }
    }
}
