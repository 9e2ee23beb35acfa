//! The inbox of a user: heard unasked, and kept until it is acknowledged.
//!
//! Knows when a connection begins and ceases to hear it, and what moves the one
//! cursor that all connections of a user share. Does not know how it is kept or
//! read: it is one more topic.

use super::topics::{DeliveryMode, Subscriber, Topic};
use crate::hub::Hub;
use crate::hub::event::{Cx, LogKey};
use crate::hub::log::Log;
use crate::hub::log::cursor::Backlog;
use crate::protocol::frame::InboxState;
use crate::protocol::ids::spelled;
use crate::protocol::{ConnectionId, InboxMode, Position, UserId};

impl Hub {
    /// Where the inbox of a user stands, for the frame after which a connection
    /// hears it.
    pub(in crate::hub) fn inbox_state(&mut self, cx: &mut Cx<'_>, user: &UserId) -> Option<InboxState> {
        let place = self.topic(LogKey::Inbox(user.clone()));
        self.expire_due(cx, place);
        let topic = self.channels.at(place)?;
        Some(InboxState { epoch: spelled(topic.epoch), seq: topic.seq, waiting: topic.waiting() as u64 })
    }

    /// Makes a connection one of its user's: it hears the inbox, first what
    /// waits there.
    pub(in crate::hub) fn join_inbox(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        let Some(connection) = self.connections.get(conn) else { return };
        let (Some(user), mode) = (connection.user().cloned(), connection.inbox_mode()) else { return };
        let place = self.topic(LogKey::Inbox(user.clone()));
        let hearing = if mode == InboxMode::Off { DeliveryMode::Off } else { DeliveryMode::Live };
        let Some(topic) = self.channels.at_mut(place) else { return };
        let is_first = topic.subscribers.is_empty();
        topic.subscribers.push(Subscriber { slot: conn.slot, hearing, watches: false });
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.add_inbox(place);
        }
        if hearing == DeliveryMode::Live {
            self.read_inbox(cx, place, conn);
        } else {
            // Who is back only like this is away for what waits.
            self.tell_waiting(place, cx.out);
        }
        self.settle(cx.now, place);
        if is_first {
            self.user_came(cx, user);
        }
    }

    /// Begins or ceases to hear the inbox, as the connection has just said.
    pub(in crate::hub) fn change_inbox(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        let Some(connection) = self.connections.get(conn) else { return };
        let off = connection.inbox_mode() == InboxMode::Off;
        let Some(place) = connection.inbox_topic() else { return };
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(subscriber) = topic.subscriber_mut(conn.slot) else { return };
        if off == (subscriber.hearing == DeliveryMode::Off) {
            return;
        }
        subscriber.hearing = if off { DeliveryMode::Off } else { DeliveryMode::Live };
        if off {
            self.give_up_reading(place, conn, cx.out);
            self.forget_missed(place, conn);
            self.sweep(cx, place);
            self.tell_waiting(place, cx.out);
        } else {
            self.read_inbox(cx, place, conn);
        }
    }

    /// Reads what lies after the cursor, if anything does, kept or lost.
    fn read_inbox(&mut self, cx: &mut Cx<'_>, place: u32, conn: ConnectionId) {
        let Some(topic) = self.channels.at(place) else { return };
        let after = topic.cursor;
        if after < topic.seq {
            let backlog = Backlog { holes: topic.holes(after), ..Backlog::after(after) };
            self.restart(cx, place, conn, backlog);
        }
    }

    /// A client says up to where its user has the inbox. Of other numbers, or
    /// beyond what any connection of that user was sent, it means nothing.
    pub(in crate::hub) fn ack(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnectionId,
        position: &Position,
        read: bool,
    ) {
        let Some(connection) = self.connections.get(conn) else { return };
        if connection.user().is_none() || connection.inbox_mode() == InboxMode::Off {
            return;
        }
        let Some(place) = connection.inbox_topic() else { return };
        let Some(topic) = self.channels.at(place) else { return };
        if position.epoch != spelled(topic.epoch) || position.seq > topic.offered {
            return;
        }
        if topic.is_ambiguous(position.seq) {
            return;
        }
        // Of what was passed over nobody can know.
        let seq = topic
            .log
            .as_deref()
            .and_then(Log::first_unread)
            .map_or(position.seq, |unread| position.seq.min(unread - 1));
        self.move_cursor(place, seq);
        self.sweep(cx, place);
        self.tell_receipts(cx, place, seq, read);
    }

    /// A socket has taken a message of an inbox: where nobody acknowledges, that
    /// is what counts, up to what this connection said itself and does not hear.
    pub(in crate::hub) fn has_taken(&mut self, place: u32, slot: u32, seq: u64) {
        let Some(topic) = self.channels.at(place).filter(|topic| topic.cursor < seq) else { return };
        let Some(tag) = self.connections.id(slot).map(|conn| conn.tag) else { return };
        if !self.moves_cursor(place, slot) {
            return;
        }
        let own = topic.log.as_ref().and_then(|log| log.first_unheard_by(tag, topic.cursor));
        self.move_cursor(place, own.map_or(seq, |own| seq.min(own - 1)));
    }

    /// A connection has heard all there is of an inbox after `began`: what was
    /// lost in it was told as well. What it heard live before may still wait for
    /// its socket.
    pub(in crate::hub) fn has_caught_up(&mut self, place: u32, slot: u32, began: u64) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        if let Some(log) = &mut topic.log {
            log.set_unread(log.unread().filter(|(first, _)| began >= *first));
        }
        if topic.cursor >= began {
            let last = topic.seq;
            self.has_taken(place, slot, last);
        }
    }

    /// Whether the cursor of an inbox follows what one connection takes. Each of
    /// them has had all that lies before that.
    fn moves_cursor(&self, place: u32, slot: u32) -> bool {
        let Some(topic) = self.channels.at(place) else { return false };
        let is_in = |slot: u32, mode: InboxMode| {
            self.connections.at(slot).is_some_and(|connection| connection.inbox_mode() == mode)
        };
        let acknowledges = |subscriber: &Subscriber| is_in(subscriber.slot, InboxMode::Ack);
        matches!(topic.key, LogKey::Inbox(_))
            && is_in(slot, InboxMode::Auto)
            && !topic.subscribers.iter().any(acknowledges)
    }

    fn move_cursor(&mut self, place: u32, seq: u64) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        if topic.is_ambiguous(seq) {
            return;
        }
        let unread = topic.log.as_deref().and_then(Log::first_unread);
        topic.pass(unread.map_or(seq, |unread| seq.min(unread - 1)));
        let cursor = topic.cursor;
        let Some(log) = &mut topic.log else { return };
        for kept in log.kept.iter_mut().take_while(|kept| kept.seq <= cursor) {
            kept.heard = true;
        }
    }
}

impl Topic {
    /// How many messages of an inbox its user does not have yet.
    pub(in crate::hub) fn waiting(&self) -> usize {
        self.log.as_ref().map_or(0, |log| log.waiting(self.cursor))
    }

    /// Whether no connection of its user hears an inbox.
    pub(in crate::hub) fn is_unheard(&self) -> bool {
        self.subscribers.iter().all(|subscriber| subscriber.hearing == DeliveryMode::Off)
    }
}
