//! Ceasing to hear.
//!
//! Knows what remains of a subscription that ends, whoever ends it. Does not know
//! how one begins.

use crate::hub::event::{Cx, Effects, LogKey};
use crate::hub::{Hub, RequestContext, RequestResult};
use crate::protocol::{Channel, ConnectionId, Frame, UserId};

/// How somebody leaves a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::hub) enum Leaving {
    /// By asking for it, or for lack of a right: the connection stays.
    Unsubscribed,
    /// With the connection.
    Lost,
}

impl Hub {
    /// What was shed of a topic is of no interest any more.
    pub(in crate::hub) fn forget_missed(&mut self, place: u32, conn: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.forget_missed(place);
        }
    }

    /// What it was still to read is given up; what is on its way arrives, and
    /// what waited for the backlog is told.
    pub(in crate::hub) fn give_up_reading(&mut self, place: u32, conn: ConnectionId, out: &mut Effects) {
        let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) else { return };
        let Some(reader) = log.reader_mut(conn.slot) else { return };
        reader.left = true;
        reader.holes.clear();
        for (_, word) in std::mem::take(&mut reader.words) {
            out.tell(conn, word.frame());
        }
        log.drop_over(conn.slot);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let channels = &self.channels;
        connection.add_lingering(place, |place| channels.at(place).is_some_and(|topic| topic.log.is_some()));
    }

    pub(in crate::hub) fn unsubscribe(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        conn: ConnectionId,
        channel: Channel,
    ) -> RequestResult {
        if let Some(place) = self.channels.find_channel(&channel) {
            self.unsubscribe_from(cx, conn, place);
        }
        self.answer(ask, Frame::UnsubscribeSucceeded { channel }, cx.out);
        Ok(())
    }

    /// Ends one subscription of a connection that stays.
    pub(in crate::hub) fn unsubscribe_from(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, place: u32) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if !connection.remove_topic(place) {
            return;
        }
        let user = connection.user().cloned();
        self.forget_missed(place, conn);
        self.give_up_reading(place, conn, cx.out);
        self.leave(cx, place, conn, user.as_ref(), Leaving::Unsubscribed);
    }

    /// Takes a connection out of a topic.
    pub(in crate::hub) fn leave(
        &mut self,
        cx: &mut Cx<'_>,
        place: u32,
        conn: ConnectionId,
        user: Option<&UserId>,
        how: Leaving,
    ) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        if let Some(at) = topic.subscribers.iter().position(|subscriber| subscriber.slot == conn.slot) {
            topic.subscribers.swap_remove(at);
            if let Some(user) = user {
                let is_inbox = matches!(topic.key, LogKey::Inbox(_));
                let is_last = topic.subscribers.is_empty();
                self.departed(cx, place, user, how);
                match is_last {
                    true if is_inbox => self.user_went(cx.now, user.clone()),
                    false if is_inbox => self.tell_waiting(place, cx.out),
                    _ => {}
                }
            }
        }
        if how == Leaving::Lost {
            self.drop_readers(place, conn);
        }
        self.watch(place);
        self.sweep(cx, place);
    }

    /// Nothing that was on its way to a lost connection arrives.
    pub(in crate::hub) fn drop_readers(&mut self, place: u32, conn: ConnectionId) {
        if let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) {
            log.readers.drop_all_of(conn);
        }
    }

    /// Ends the subscriptions that a connection may have no longer.
    pub(in crate::hub) fn check_subscriptions(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        let Some(connection) = self.connections.get(conn) else { return };
        let mut ended = Vec::new();
        for place in connection.topics() {
            let Some(topic) = self.channels.at(*place) else { continue };
            let LogKey::Channel(channel) = &topic.key else { continue };
            if self.may_subscribe(connection, channel).is_err() {
                ended.push((*place, channel.clone()));
            }
        }
        for (place, channel) in ended {
            self.unsubscribe_from(cx, conn, place);
            cx.out.tell(conn, Frame::Unsubscribed { channel, reason: "forbidden" });
        }
    }
}
