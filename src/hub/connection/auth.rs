//! Authentication of a connection: how it is admitted, and what its token makes of it.
//!
//! Does not know how a token is verified: the edge does that.

use std::collections::VecDeque;
use std::time::Duration;

use super::rights::Identity;
use super::table::Connections;
use super::{Connection, ConnectionKind};
use crate::hub::event::{Credentials, Now, Peer};
use crate::hub::settings;
use crate::hub::timers::NEVER;
use crate::protocol::frame::ClientLimits;
use crate::protocol::{ConnectionId, InboxMode, Moment, RateLimit, UnixTime};

/// As what a connection is admitted.
#[derive(Clone, Copy)]
pub(super) struct Admission {
    kind: ConnectionKind,
    inbox: InboxMode,
    network: Option<u128>,
}

/// Whether clients may connect without a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Anonymous {
    Allowed,
    Refused,
}

impl Admission {
    /// How the peer of a new connection is admitted, and the credentials that it came with.
    pub(super) fn of(peer: Peer, anonymous: Anonymous) -> (Self, Credentials) {
        let (credentials, inbox, network) = match peer {
            Peer::Worker { uid, admin } => {
                let kind = ConnectionKind::Worker { uid, admin };
                return (Self { kind, inbox: InboxMode::Off, network: None }, Credentials::Nothing);
            }
            Peer::Client { credentials, inbox, network } => (credentials, inbox, network),
        };
        let kind = match credentials {
            Credentials::Nothing if anonymous == Anonymous::Refused => ConnectionKind::Unauthenticated,
            Credentials::Refused(_) => ConnectionKind::Unauthenticated,
            Credentials::Nothing | Credentials::Verified(_) => ConnectionKind::Client,
        };
        (Self { kind, inbox, network }, credentials)
    }

    /// The connection that is opened. One that has to authenticate has `auth_timeout` for that.
    pub(super) fn open(self, tag: u64, now: Moment, auth_timeout: Duration) -> Connection {
        let Self { kind, inbox, network } = self;
        let mut connection = Connection { inbox, network, ..Connection::new(tag, kind, now) };
        if !connection.is_admitted() {
            connection.ext_mut().auth_deadline = now + auth_timeout;
        }
        connection
    }
}

/// Connections that have to authenticate, in the order in which they were opened. Those that
/// have done it, or are gone, may still stand here.
#[derive(Debug, Default)]
pub(in crate::hub) struct AuthQueue(VecDeque<ConnectionId>);

impl AuthQueue {
    /// Those of a table, after it was read back.
    pub(in crate::hub) fn of(connections: &Connections) -> Self {
        let mut waiting: Vec<(u64, ConnectionId)> = connections
            .iter()
            .filter(|(_, connection)| !connection.is_admitted())
            .map(|(slot, connection)| (connection.opened.0, connection.id(slot)))
            .collect();
        waiting.sort_unstable();
        Self(waiting.into_iter().map(|(_, conn)| conn).collect())
    }

    pub(super) fn push(&mut self, conn: ConnectionId, connections: &Connections) {
        if self.0.len() == self.0.capacity() {
            self.0.retain(|conn| has_to_authenticate(*conn, connections));
            // As many may come as there are until it is cleaned up again.
            self.0.shrink_to(2 * self.0.len());
            self.0.reserve(self.0.len() + 16);
        }
        self.0.push_back(conn);
    }

    /// Takes out the oldest that still has to authenticate.
    pub(super) fn pop_oldest(&mut self, connections: &Connections) -> Option<ConnectionId> {
        while let Some(conn) = self.0.pop_front() {
            if has_to_authenticate(conn, connections) {
                return Some(conn);
            }
        }
        None
    }
}

fn has_to_authenticate(conn: ConnectionId, connections: &Connections) -> bool {
    connections.get(conn).is_some_and(|connection| !connection.is_admitted())
}

impl Connection {
    /// Marks it as authenticated.
    pub(super) fn admit(&mut self) {
        self.kind = ConnectionKind::Client;
        self.ext_mut().auth_deadline = NEVER;
    }

    /// Makes it its user's, with what the token allows.
    pub(super) fn set_identity(&mut self, now: Now, identity: Identity) {
        let Identity { user_id, rights, expires_at, issued_at, terms } = identity;
        self.rights = rights;
        self.issued_at = issued_at;
        self.terms = terms;
        self.expires = moment_of(now, expires_at);
        self.expires_at = expires_at.unwrap_or_default();
        self.warned = false;
        self.user = Some(user_id);
    }

    /// Changes how it takes part in the inbox of its user, where another mode is asked for;
    /// whether it is another.
    pub(super) fn change_inbox_mode(&mut self, mode: Option<InboxMode>) -> bool {
        let is_other = mode.is_some_and(|mode| mode != self.inbox);
        self.inbox = mode.unwrap_or(self.inbox);
        is_other
    }
}

/// The moment of a wall-clock time, as far as is known now.
fn moment_of(now: Now, wall: Option<UnixTime>) -> Moment {
    let left = |wall: UnixTime| wall.0.saturating_sub(now.wall.0);
    wall.map_or(NEVER, |wall| Moment(now.moment.0.saturating_add(left(wall)).min(NEVER.0 - 1000)))
}

impl settings::Limits {
    /// The limits of a connection, as its client is notified of them; `own` is the rate that
    /// its token says.
    pub(super) fn frame(&self, own: Option<RateLimit>) -> ClientLimits {
        let requests_per_second = self.allowed(own);
        ClientLimits {
            message_bytes: self.message_bytes as u64,
            requests_per_second,
            burst: requests_per_second.burst(),
            subscriptions: u32::try_from(self.subscriptions).unwrap_or(u32::MAX),
        }
    }
}
