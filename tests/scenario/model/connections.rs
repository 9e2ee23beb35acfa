//! Connects, disconnects and the passing of time, in the hub and the reference.

use wshubd::protocol::InboxMode;

use super::reference::Check;
use super::{DEVICES, GRACE, Model, inbox_of};
use crate::harness::{ConnectionEvent, ConnectionId, Harness};

impl Model {
    pub(super) fn come(&mut self, who: usize, mode: InboxMode) {
        if self.peers[who].conn.is_some() {
            return;
        }
        let conn = match Self::user(who) {
            Some(user) => self.harness.client_in(user, mode),
            None => self.harness.worker(),
        };
        if let Some(user) = Self::user(who) {
            self.departures.remove(user);
        }
        self.peers[who].conn = Some(conn);
        self.peers[who].mode = mode;
    }

    /// What its socket takes before it is gone still counts.
    pub(super) fn depart(&mut self, who: usize, how: impl FnOnce(&mut Harness, ConnectionId)) -> Check {
        self.on_link(who, how);
        self.listen()?;
        self.gone(who);
        Ok(())
    }

    pub(super) fn gone(&mut self, who: usize) {
        let Some(conn) = self.peers[who].conn.take() else { return };
        self.peers[who].interrupts.clear();
        self.peers[who].asked.clear();
        for log in self.logs.values_mut() {
            log.leave(conn);
        }
        let Some(user) = Self::user(who) else { return };
        if (0..DEVICES).any(|other| Self::user(other) == Some(user) && self.peers[other].conn.is_some()) {
            self.desert(user);
        } else {
            self.departures.insert(user, self.now() + GRACE);
        }
    }

    /// Perhaps no connection reads the inbox of a user any more: what waits there
    /// is reported.
    pub(super) fn desert(&mut self, user: &str) {
        let now = self.now();
        let inbox = self.log(&inbox_of(user));
        if inbox.sessions.is_empty() {
            let (waiting, passing) = inbox.desert(now);
            // By the time of a slow store's page, it may wait no longer.
            if self.harness.slow_store || self.is_dark {
                self.maybe.extend(waiting)
            } else {
                self.notices.extend(waiting)
            }
            self.maybe.extend(passing);
        }
    }

    /// One second passes, in which everybody gives signs of life.
    pub(super) fn second(&mut self) -> Check {
        self.harness.keep_alive(1);
        self.close();
        let now = self.now();
        for log in self.logs.values_mut() {
            self.asked.extend(log.expire(now));
            self.maybe.append(&mut log.maybe);
        }
        let gone: Vec<&str> =
            self.departures.iter().filter(|(_, until)| **until <= now).map(|(user, _)| *user).collect();
        for user in gone {
            self.departures.remove(user);
            self.desert(user);
        }
        self.look_up();
        self.listen()
    }

    /// A quick store has said already what was lost; of what cannot be read nobody
    /// says anything.
    pub(super) fn look_up(&mut self) {
        if self.is_dark {
            self.maybe.append(&mut self.asked);
        }
        if !self.harness.slow_store {
            self.notices.append(&mut self.asked);
        }
    }

    /// Those whom the hub has sent away are gone before what grows too old in the
    /// same moment.
    pub(super) fn close(&mut self) {
        let seen = self.harness.journal.iter().flatten();
        let closed = seen
            .filter(|(_, seen)| matches!(seen, ConnectionEvent::Queued(frame) if frame["type"] == "closed"));
        for conn in closed.map(|(conn, _)| *conn).collect::<Vec<_>>() {
            if let Some(who) = self.peers.iter().position(|peer| peer.conn == Some(conn)) {
                self.harness.disconnect(conn);
                self.gone(who);
            }
        }
    }
}
