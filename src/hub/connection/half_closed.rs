//! Connections whose peer says no more, and still reads.
//!
//! Knows which of them wait for an answer, and when the last of those is given. Does not
//! know how a socket is shut in one direction, or what each answer waits for.

use std::collections::HashSet;

use crate::hub::Hub;
use crate::hub::channel::subscribe::Leaving;
use crate::hub::event::{Cx, Effect, Effects};
use crate::protocol::ConnectionId;

/// All that there are.
#[derive(Default, Debug)]
pub(in crate::hub) struct HalfClosed {
    /// They wait for an answer.
    waiting: HashSet<ConnectionId>,
    /// Those of which an answer was given since they were looked at.
    answered: Vec<ConnectionId>,
}

impl HalfClosed {
    /// A connection has one answer less waiting, or may have none at all.
    pub(in crate::hub) fn look_at(&mut self, conn: ConnectionId) {
        if self.waiting.contains(&conn) {
            self.answered.push(conn);
        }
    }

    /// It is gone.
    pub(in crate::hub) fn forget(&mut self, conn: ConnectionId) {
        self.waiting.remove(&conn);
    }
}

impl Hub {
    /// The peer says no more: it hears no channel from now on and ends none of its
    /// operations, but what it has asked for is answered.
    pub(in crate::hub) fn ended(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let (topics, user) = (std::mem::take(&mut connection.topics), connection.user.clone());
        let mut owns = false;
        let mut lingering = Vec::new();
        if let Some(rare) = &mut connection.rare {
            owns = rare.operations > 0;
            rare.missed.clear();
            lingering = std::mem::take(&mut rare.lingering);
        }
        for place in topics {
            self.leave(cx, place, conn, user.as_ref(), Leaving::Lost);
        }
        for place in lingering {
            self.drop_readers(place, conn);
            self.sweep(cx, place);
        }
        if owns {
            self.lose_owner(cx, conn);
        }
        self.half_closed.waiting.insert(conn);
        self.half_closed.look_at(conn);
    }

    /// Whoever has the last answer is hung up on, behind that.
    pub(in crate::hub) fn hang_up(&mut self, out: &mut Effects) {
        for conn in std::mem::take(&mut self.half_closed.answered) {
            let waits_for_operations = self
                .connections
                .get(conn)
                .and_then(|connection| connection.rare.as_ref())
                .is_some_and(|rare| rare.pending > 0);
            let waits = waits_for_operations || self.waiting.has(conn);
            if !waits && self.half_closed.waiting.remove(&conn) {
                out.push(Effect::HangUp { conn });
            }
        }
    }
}
