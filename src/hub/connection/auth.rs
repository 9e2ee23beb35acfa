//! Who somebody is, from the first moment to the end of a token.
//!
//! Knows when a connection is let in, refreshed and warned. Does not know how a
//! token is verified.

use std::collections::VecDeque;

use super::account::{Account, Charge};
use super::rights::Identity;
use super::table::{Connection, Connections, Kind};
use crate::hub::channel::publish::forbidden;
use crate::hub::event::{Credentials, Effects, Now, Peer, TokenFault};
use crate::hub::timers::NEVER;
use crate::hub::{Hub, RequestContext};
use crate::protocol::frame::ClientLimits;
use crate::protocol::{
    Close, ConnectionId, Frame, InboxMode, Moment, RateLimit, Reason, UnixTime, UserId, VERSION,
};

/// What came with an `auth` request.
pub(in crate::hub) struct AuthAttempt {
    pub(in crate::hub) inbox: Option<InboxMode>,
    pub(in crate::hub) claim: Result<Identity, TokenFault>,
}

/// Connections that have to say who they are, in the order in which they came. Those that
/// have said it, or are gone, may still be named here.
#[derive(Debug, Default)]
pub(in crate::hub) struct Unauthenticated(VecDeque<ConnectionId>);

impl Unauthenticated {
    fn push(&mut self, conn: ConnectionId, connections: &Connections) {
        if self.0.len() == self.0.capacity() {
            self.0.retain(|conn| is_stranger(*conn, connections));
            // As many may come as are here until it is looked through again.
            self.0.shrink_to(2 * self.0.len());
            self.0.reserve(self.0.len() + 16);
        }
        self.0.push_back(conn);
    }
}

fn is_stranger(conn: ConnectionId, connections: &Connections) -> bool {
    connections.get(conn).is_some_and(|connection| !connection.is_let_in())
}

impl Hub {
    /// All places are taken, and somebody waits for one: the oldest connection gives way
    /// that has not said who it is.
    pub(in crate::hub) fn crowded(&mut self, now: Now, out: &mut Effects) {
        while let Some(conn) = self.unauthenticated.0.pop_front() {
            if is_stranger(conn, &self.connections) {
                self.counters.closed_overloaded += 1;
                self.note_refusal(conn, None, Reason::Overloaded, out);
                return self.close(now, conn, Close::Overloaded, out);
            }
        }
    }

    /// Finds those again who have to say who they are.
    pub(in crate::hub) fn find_strangers(&mut self) {
        let strangers = self.connections.iter().filter(|(_, connection)| !connection.is_let_in());
        let mut found: Vec<(u64, u32, u64)> =
            strangers.map(|(slot, connection)| (connection.opened.0, slot, connection.tag)).collect();
        found.sort_unstable();
        let found = found.into_iter().map(|(_, slot, tag)| ConnectionId { slot, tag });
        self.unauthenticated = Unauthenticated(found.collect());
    }

    /// A link is up.
    pub(in crate::hub) fn opened(&mut self, now: Now, conn: ConnectionId, peer: Peer, out: &mut Effects) {
        // A place is given out again only after its link has closed; who was
        // there, if anybody was, is gone.
        if let Some(before) = self.connections.at(conn.slot) {
            let before = ConnectionId { slot: conn.slot, tag: before.tag };
            self.closed(now, before, out);
        }
        self.counters.connections_opened += 1;
        let network = if let Peer::Client { network, .. } = &peer { *network } else { None };
        let (kind, claim, inbox) = match peer {
            Peer::Worker { uid, admin } => {
                (Kind::Worker { uid, admin }, Credentials::Nothing, InboxMode::Off)
            }
            Peer::Client { credentials: Credentials::Nothing, inbox, .. } if !self.settings.anonymous => {
                (Kind::Waiting, Credentials::Nothing, inbox)
            }
            Peer::Client { credentials: Credentials::Refused(fault), inbox, .. } => {
                (Kind::Waiting, Credentials::Refused(fault), inbox)
            }
            Peer::Client { credentials: claim, inbox, .. } => (Kind::Client, claim, inbox),
        };
        let mut connection = Connection::new(conn.tag, kind, now.moment);
        (connection.inbox, connection.network) = (inbox, network);
        if kind == Kind::Waiting {
            connection.rare().auth_by = now.moment + self.settings.limits.auth;
        }
        self.connections.insert(conn.slot, connection);
        if kind == Kind::Waiting {
            self.unauthenticated.push(conn, &self.connections);
        }
        if let Some(close) = self.stopping {
            self.close(now, conn, close, out);
            return;
        }
        if !matches!(claim, Credentials::Verified(_))
            && self.charge(now.moment, conn, Charge::Connection).is_err()
        {
            return self.refuse_connection(now, conn, None, Close::TooFast, out);
        }
        match (kind, claim) {
            (Kind::Worker { .. }, _) => {}
            (_, Credentials::Refused(TokenFault { code, message, wait, .. })) => {
                out.tell(conn, Frame::AuthFailed { code, message });
                self.close_refused(now, conn, wait, out);
            }
            (Kind::Waiting, _) => out.tell(conn, Frame::AuthRequired),
            (_, Credentials::Verified(identity)) => {
                if self.take_identity(now, conn, identity, out) {
                    self.greet(now, conn, out);
                    self.join_inbox(now, conn, out);
                }
            }
            (_, Credentials::Nothing) => self.greet(now, conn, out),
        }
        self.arm(conn.slot);
    }

    /// Whether a connection may say more than `auth`.
    pub fn lets_in(&self, conn: ConnectionId) -> bool {
        self.connections.get(conn).is_some_and(Connection::is_let_in)
    }

    /// A token was looked at.
    pub(in crate::hub) fn identified(
        &mut self,
        now: Now,
        ask: &RequestContext,
        conn: ConnectionId,
        proof: AuthAttempt,
        out: &mut Effects,
    ) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.heard(now.moment);
        let let_in = connection.is_let_in();
        let identity = match proof.claim {
            Ok(identity) => identity,
            Err(TokenFault { code, message, wait, .. }) => {
                self.answer(ask, Frame::AuthFailed { code, message }, out);
                if let_in {
                    // Looking at tokens costs more than most requests, and is free.
                    self.count_refusal(now, ask.from, out);
                } else {
                    self.close_refused(now, conn, wait, out);
                }
                return;
            }
        };
        if connection.user.as_ref().is_some_and(|user| *user != identity.user_id) {
            let why = "this connection belongs to another user; open a new one";
            self.refuse(now, ask, forbidden(why).of("auth"), out);
            return;
        }
        let refreshed = connection.user.is_some();
        let mode = proof.inbox.filter(|mode| *mode != connection.inbox);
        if let Some(mode) = mode {
            connection.inbox = mode;
        }
        let (user_id, expires_at) = (identity.user_id.clone(), identity.expires_at);
        let own = identity.terms.as_ref().and_then(|terms| terms.limits);
        if !self.take_identity(now, conn, identity, out) {
            return;
        }
        // Who hears the inbox from now on, or acknowledges it, must know its epoch.
        let begins = let_in && (!refreshed || mode.is_some());
        let inbox = if begins { self.inbox_state(now, &user_id, out) } else { None };
        let limits = self.limits_told(own);
        self.answer(ask, Frame::AuthSuccess { user_id, expires_at, limits, inbox }, out);
        if !let_in {
            if let Some(connection) = self.connections.get_mut(conn) {
                connection.kind = Kind::Client;
                connection.rare().auth_by = NEVER;
            }
            self.greet(now, conn, out);
        }
        if !refreshed {
            self.join_inbox(now, conn, out);
        } else if mode.is_some() {
            self.change_inbox(now, conn, out);
        }
        self.check_subscriptions(now, conn, out);
        self.arm(conn.slot);
    }

    /// Makes a connection its user's, with what the token allows; false if the
    /// user has too many already.
    fn take_identity(&mut self, now: Now, conn: ConnectionId, identity: Identity, out: &mut Effects) -> bool {
        let inbox = self.channels.find_inbox(&identity.user_id);
        let theirs =
            inbox.and_then(|place| self.channels.at(place)).map_or(0, |topic| topic.subscribers.len());
        let Some(connection) = self.connections.get_mut(conn) else { return false };
        let newcomer = connection.user.is_none();
        let limits = &self.settings.limits;
        let refused = if !newcomer {
            None
        } else if theirs >= limits.connections_per_user {
            Some(Close::TooManyConnections)
        } else {
            let account = Account::of_user(&identity.user_id);
            let taken = self.accounts.take(now.moment, account, Charge::Connection, limits);
            taken.err().map(|_| Close::TooFast)
        };
        if let Some(close) = refused {
            self.refuse_connection(now, conn, Some(identity.user_id), close, out);
            return false;
        }
        let Some(connection) = self.connections.get_mut(conn) else { return false };
        connection.rights = identity.rights;
        connection.issued_at = identity.issued_at;
        connection.terms = identity.terms;
        connection.expire(moment_of(now, identity.expires_at), identity.expires_at);
        connection.user = Some(identity.user_id.clone());
        if newcomer {
            // Not in the inbox yet, so these are channels all of them.
            for place in connection.topics.clone() {
                self.arrived(place, conn.slot, &identity.user_id, out);
            }
        } else {
            for place in connection.topics.clone() {
                self.redescribe(place, conn.slot);
            }
        }
        true
    }

    /// A user, or an address, has too many connections, or makes them too fast.
    fn refuse_connection(
        &mut self,
        now: Now,
        conn: ConnectionId,
        user: Option<UserId>,
        close: Close,
        out: &mut Effects,
    ) {
        self.counters.connections_refused += 1;
        let reason = match close {
            Close::TooManyConnections => Reason::TooManyConnections,
            _ => Reason::RateLimited,
        };
        self.note_refusal(conn, user, reason, out);
        self.close(now, conn, close, out);
    }

    /// What a connection may do at most; `own` is what its token says of that.
    fn limits_told(&self, own: Option<RateLimit>) -> ClientLimits {
        let limits = &self.settings.limits;
        let requests_per_second = limits.allowed(own);
        ClientLimits {
            message_bytes: limits.message_bytes as u64,
            requests_per_second,
            burst: requests_per_second.burst(),
            subscriptions: u32::try_from(limits.subscriptions).unwrap_or(u32::MAX),
        }
    }

    /// The first frame of a client that is let in.
    fn greet(&mut self, now: Now, conn: ConnectionId, out: &mut Effects) {
        let Some(connection) = self.connections.get(conn) else { return };
        let user_id = connection.user.clone();
        let inbox = user_id.as_ref().and_then(|user| self.inbox_state(now, user, out));
        let Some(connection) = self.connections.get(conn) else { return };
        let frame = Frame::ConnectionEstablished {
            connection_id: conn.to_string(),
            user_id,
            protocol: VERSION,
            server_time: now.wall,
            ping_interval: self.settings.heartbeat.ping_interval,
            pong_timeout: self.settings.heartbeat.pong_timeout,
            limits: self.limits_told(connection.own_limits()),
            expires_at: connection.expires_at(),
            inbox,
        };
        out.tell(conn, frame);
    }
}

/// The moment of a wall-clock time, as far as is known now.
fn moment_of(now: Now, wall: Option<UnixTime>) -> Moment {
    let left = |wall: UnixTime| wall.0.saturating_sub(now.wall.0);
    wall.map_or(NEVER, |wall| Moment(now.moment.0.saturating_add(left(wall)).min(NEVER.0 - 1000)))
}
