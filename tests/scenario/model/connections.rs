//! Connects, disconnects and the passing of time, in the hub and the reference.

use wshubd::protocol::InboxMode;

use super::reference::Check;
use super::{DEVICES, GRACE, Model, inbox_of};
use crate::bench::{Bench, Seat, Seen};

impl Model {
    pub(super) fn come(&mut self, who: usize, mode: InboxMode) {
        if self.peers[who].seat.is_some() {
            return;
        }
        let seat = match Self::user(who) {
            Some(user) => self.bench.client_in(user, mode),
            None => self.bench.worker(),
        };
        if let Some(user) = Self::user(who) {
            self.departures.remove(user);
        }
        self.peers[who].seat = Some(seat);
        self.peers[who].mode = mode;
    }

    /// What its socket takes before it is gone still counts.
    pub(super) fn depart(&mut self, who: usize, how: impl FnOnce(&mut Bench, Seat)) -> Check {
        self.on_link(who, how);
        self.listen()?;
        self.gone(who);
        Ok(())
    }

    pub(super) fn gone(&mut self, who: usize) {
        let Some(seat) = self.peers[who].seat.take() else { return };
        self.peers[who].interrupts.clear();
        self.peers[who].asked.clear();
        for log in self.logs.values_mut() {
            log.leave(seat);
        }
        let Some(user) = Self::user(who) else { return };
        if (0..DEVICES).any(|other| Self::user(other) == Some(user) && self.peers[other].seat.is_some()) {
            self.desert(user);
        } else {
            self.departures.insert(user, self.now() + GRACE);
        }
    }

    /// Perhaps nobody hears the inbox of a user any more: what waits there is
    /// told.
    pub(super) fn desert(&mut self, user: &str) {
        let now = self.now();
        let inbox = self.log(&inbox_of(user));
        if inbox.sessions.is_empty() {
            let (waiting, passing) = inbox.desert(now);
            // By the time a slow store says what it was, it may wait no longer.
            if self.bench.slow_store || self.is_dark {
                self.maybe.extend(waiting)
            } else {
                self.notices.extend(waiting)
            }
            self.maybe.extend(passing);
        }
    }

    /// One second passes, in which everybody gives signs of life.
    pub(super) fn second(&mut self) -> Check {
        self.bench.live(1);
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
        if !self.bench.slow_store {
            self.notices.append(&mut self.asked);
        }
    }

    /// Those whom the hub has sent away are gone before what grows too old in the
    /// same moment.
    pub(super) fn close(&mut self) {
        let seen = self.bench.journal.iter().flatten();
        let closed =
            seen.filter(|(_, seen)| matches!(seen, Seen::Queued(frame) if frame["type"] == "closed"));
        for seat in closed.map(|(seat, _)| *seat).collect::<Vec<_>>() {
            if let Some(who) = self.peers.iter().position(|peer| peer.seat == Some(seat)) {
                self.bench.leave(seat);
                self.gone(who);
            }
        }
    }
}
