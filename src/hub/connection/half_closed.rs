//! Half-closed connections: the peer sends no more, and still reads its answers.

use std::collections::HashSet;

use crate::protocol::ConnectionId;

/// All half-closed connections.
#[derive(Default, Debug)]
pub(in crate::hub) struct HalfClosed {
    /// Those that wait for an answer.
    waiting: HashSet<ConnectionId>,
    /// Those that got an answer since they were last checked.
    answered: Vec<ConnectionId>,
}

impl HalfClosed {
    pub(super) fn insert(&mut self, conn: ConnectionId) {
        self.waiting.insert(conn);
        // It may have no answer to wait for.
        self.answered.push(conn);
    }

    /// A connection has one answer less waiting.
    pub(in crate::hub) fn note_answered(&mut self, conn: ConnectionId) {
        if self.waiting.contains(&conn) {
            self.answered.push(conn);
        }
    }

    /// Takes out those that may have had their last answer.
    pub(super) fn take_answered(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.answered)
    }

    /// Removes a connection; whether it was there.
    pub(super) fn remove(&mut self, conn: ConnectionId) -> bool {
        self.waiting.remove(&conn)
    }
}
