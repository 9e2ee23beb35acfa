//! Connections, and sockets that take little.
//!
//! Records the frames that a connection has carried and its socket has taken.

use std::collections::VecDeque;

use serde_json::Value;
use wshubd::hub::{Input, LogKey, SendQueueState};
use wshubd::protocol::Delivery;

use super::{ConnectionId, Harness};

/// A message that the hub wants to know of when a socket has taken it.
pub(super) type Mark = (LogKey, u64, Delivery);

/// The peer and the socket of one connection.
#[derive(Default)]
pub(super) struct Connection {
    pub(super) is_worker: bool,
    pub(super) received: Vec<Value>,
    /// Its socket takes nothing of a replay.
    pub(super) is_blocked: bool,
    /// Replays that the socket has not taken.
    pub(super) unwritten: VecDeque<Mark>,
    /// The frames not yet carried by a connection that carries them only on
    /// demand.
    pub(super) slow: Option<VecDeque<(Value, Option<Mark>)>>,
    /// The state of a slow connection as the hub was notified of it.
    pub(super) state: SendQueueState,
    /// The epoch of its user's inbox, from `connection_established`.
    pub(super) inbox: Option<String>,
}

/// An event of one frame on a connection.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum ConnectionEvent {
    /// The hub has queued it.
    Queued(Value),
    /// The socket has taken it, and the hub was notified.
    Flushed(LogKey, u64),
    /// The peer has received it.
    Received(Value),
}

/// From so many frames on, a slow connection counts as full.
const FULL: usize = 5;

impl Harness {
    pub(crate) fn send_queue(&mut self, conn: ConnectionId, state: SendQueueState) {
        self.handle(Input::SendQueue { conn, state });
    }

    /// A socket that takes nothing of a replay.
    pub(crate) fn block_socket(&mut self, conn: ConnectionId) {
        self.connections.get_mut(&conn).unwrap().is_blocked = true;
    }

    /// Takes `count` messages of a replay.
    pub(crate) fn drain(&mut self, conn: ConnectionId, count: usize) {
        for _ in 0..count {
            let next =
                self.connections.get_mut(&conn).and_then(|connection| connection.unwritten.pop_front());
            let Some((log, seq, how)) = next else { return };
            self.handle(Input::Flushed { conn, log, seq, how });
        }
    }

    /// The positions that were queued for it and its socket has not taken.
    pub(crate) fn unflushed(&self, conn: ConnectionId) -> Vec<u64> {
        self.connections[&conn].unwritten.iter().map(|(_, seq, _)| *seq).collect()
    }

    pub(crate) fn unblock_socket(&mut self, conn: ConnectionId) {
        self.connections.get_mut(&conn).unwrap().is_blocked = false;
        self.drain(conn, usize::MAX);
    }

    /// Makes a connection carry nothing until it is released.
    pub(crate) fn slow(&mut self, conn: ConnectionId) {
        self.connections.get_mut(&conn).unwrap().slow.get_or_insert_default();
    }

    /// Has it carry `count` frames.
    pub(crate) fn carry(&mut self, conn: ConnectionId, count: usize) {
        for _ in 0..count {
            let Some((frame, mark)) = self.next_frame(conn) else { break };
            self.receive(conn, frame);
            self.write(conn, mark);
            self.handle(Input::WriteProgress { conn });
        }
        self.report_send_queues();
    }

    /// The frames that it has not carried.
    pub(crate) fn waiting(&self, conn: ConnectionId) -> Vec<Value> {
        self.connections[&conn].slow.iter().flatten().map(|(frame, _)| frame.clone()).collect()
    }

    /// Has its socket take `count` frames, which are lost with it.
    pub(crate) fn cut(&mut self, conn: ConnectionId, count: usize) {
        for _ in 0..count {
            let Some((_, mark)) = self.next_frame(conn) else { break };
            self.write(conn, mark);
        }
        self.disconnect(conn);
    }

    /// Has it carry everything from now on.
    pub(crate) fn fast(&mut self, conn: ConnectionId) {
        while self
            .connections
            .get(&conn)
            .is_some_and(|connection| connection.slow.as_ref().is_some_and(|l| !l.is_empty()))
        {
            self.carry(conn, 1);
        }
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.slow = None;
        }
    }

    fn next_frame(&mut self, conn: ConnectionId) -> Option<(Value, Option<Mark>)> {
        self.connections.get_mut(&conn)?.slow.as_mut()?.pop_front()
    }

    fn write(&mut self, conn: ConnectionId, mark: Option<Mark>) {
        if let Some((log, seq, how)) = mark {
            self.handle(Input::Flushed { conn, log, seq, how });
        }
    }

    pub(super) fn receive(&mut self, conn: ConnectionId, frame: Value) {
        self.record(conn, || ConnectionEvent::Received(frame.clone()));
        self.connections.get_mut(&conn).unwrap().received.push(frame);
    }

    pub(super) fn record(&mut self, conn: ConnectionId, what: impl FnOnce() -> ConnectionEvent) {
        if let Some(journal) = &mut self.journal {
            journal.push((conn, what()));
        }
    }

    /// Notifies the hub of changed send queues, as at the end of a turn.
    pub(crate) fn report_send_queues(&mut self) {
        let state = |connection: &Connection| match connection.slow.as_ref().map_or(0, VecDeque::len) {
            0 => SendQueueState::Empty,
            FULL.. => SendQueueState::Full,
            _ => SendQueueState::Backlogged,
        };
        while let Some((conn, connection)) =
            self.connections.iter_mut().find(|(_, connection)| connection.state != state(connection))
        {
            connection.state = state(connection);
            let input = Input::SendQueue { conn: *conn, state: connection.state };
            self.handle(input);
        }
    }
}
