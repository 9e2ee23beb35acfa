//! Connections that were closed and whose peers have still to read that, in the order in which
//! they are cut off.

use std::collections::VecDeque;
use std::time::Duration;

use crate::edge::net::connection_table::ConnectionTable;
use crate::protocol::{ConnectionId, Moment};

/// How long a peer may take to close after the daemon did.
const LINGER: Duration = Duration::from_secs(2);

/// All of them, the first to be cut off first.
#[derive(Default)]
pub(super) struct ClosingQueue(VecDeque<(Moment, ConnectionId)>);

impl ClosingQueue {
    /// A connection was closed, or is waited for once more.
    pub(super) fn push(&mut self, now: Moment, conn: ConnectionId) {
        self.0.push_back((now + LINGER, conn));
    }

    /// Takes out one whose time is over.
    pub(super) fn pop_due(&mut self, now: Moment) -> Option<ConnectionId> {
        if self.0.front().is_none_or(|(moment, _)| *moment > now) {
            return None;
        }
        self.0.pop_front().map(|(_, conn)| conn)
    }

    /// Takes out the first that is still there.
    pub(super) fn pop_open(&mut self, connections: &ConnectionTable) -> Option<ConnectionId> {
        loop {
            let (_, conn) = self.0.pop_front()?;
            if connections.get(conn).is_some_and(|connection| connection.is_closing()) {
                return Some(conn);
            }
        }
    }

    /// When the first is cut off.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.0.front().map(|(moment, _)| *moment)
    }

    /// As it is handed over.
    pub(super) fn export(&self) -> Vec<(Moment, ConnectionId)> {
        self.0.iter().copied().collect()
    }

    /// The same again in another process.
    pub(super) fn import(&mut self, closing: Vec<(Moment, ConnectionId)>) {
        self.0 = closing.into();
    }
}
