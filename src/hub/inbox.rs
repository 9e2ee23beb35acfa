//! The inbox of a user, which is heard unasked.
//!
//! Knows when a connection begins and ceases to hear it. Does not know how it
//! is kept or read: it is one more topic.

use super::Hub;
use super::channels::{Hearing, Subscriber};
use super::event::{Effects, LogKey, Now};
use crate::protocol::{ConnectionId, InboxMode};

impl Hub {
    /// Makes a connection one of its user's: it hears the inbox, first what
    /// waits there.
    pub(super) fn join_inbox(&mut self, now: Now, conn: ConnectionId, out: &mut Effects) {
        let Some(connection) = self.connections.get(conn) else { return };
        let (Some(user), mode) = (connection.user.clone(), connection.inbox) else { return };
        let place = self.topic(LogKey::Inbox(user));
        let hearing = if mode == InboxMode::Off { Hearing::Off } else { Hearing::Live };
        if let Some(topic) = self.channels.at_mut(place) {
            // Most users have one connection, and there are thousands of them.
            if topic.subscribers.is_empty() {
                topic.subscribers.reserve_exact(1);
            }
            topic.subscribers.push(Subscriber { slot: conn.slot, hearing, watches: false });
        }
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.topics.insert(0, place);
        }
        if hearing == Hearing::Live {
            let start = self.start(place, false, None);
            if let Some(after) = start.after {
                self.restart(now, place, conn, after, out);
            }
        }
        self.settle(now, place);
    }

    /// Begins or ceases to hear the inbox, as the connection has just said.
    pub(super) fn change_inbox(&mut self, now: Now, conn: ConnectionId, out: &mut Effects) {
        let Some(connection) = self.connections.get(conn) else { return };
        let off = connection.inbox == InboxMode::Off;
        let Some(place) = connection.topics.first().copied() else { return };
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(subscriber) = topic.subscriber_mut(conn.slot) else { return };
        if off == (subscriber.hearing == Hearing::Off) {
            return;
        }
        subscriber.hearing = if off { Hearing::Off } else { Hearing::Live };
        if off {
            self.give_up_reading(place, conn);
            self.sweep(now, place, out);
        } else if let Some(after) = self.start(place, false, None).after {
            self.restart(now, place, conn, after, out);
        }
    }
}
