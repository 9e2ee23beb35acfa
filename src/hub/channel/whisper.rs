//! Typing indicators, cursors: what is worth nothing a moment later.
//!
//! Knows who may whisper and who hears it. Does not know positions or logs: a
//! whisper has neither.

use std::rc::Rc;

use super::publish::forbidden;
use super::topics::DeliveryMode;
use crate::hub::connection::account::Charge;
use crate::hub::event::Cx;
use crate::hub::memory_pressure::Level;
use crate::hub::{Hub, RequestResult};
use crate::protocol::{Channel, Code, ConnectionId, Event, Message, MessageId, Payload, Refusal};

impl Hub {
    /// Tells the other subscribers, those whose socket takes it at once.
    pub(in crate::hub) fn whisper(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnectionId,
        said: (Channel, Event, Payload),
    ) -> RequestResult {
        let (channel, event, data) = said;
        let Some(connection) = self.connections.get(conn) else { return Ok(()) };
        let place = self.channels.find_channel(&channel);
        let place = place.filter(|place| connection.is_subscribed(*place)).ok_or_else(|| {
            Refusal::new(Code::NotSubscribed, "a whisper needs a subscription").on(&channel)
        })?;
        if channel.is_reserved() {
            return Err(forbidden(format!("{channel} is the daemon's own")).on(&channel));
        }
        self.may_publish_on(connection, &channel)?;
        let Some(connection) = self.connections.get_mut(conn) else { return Ok(()) };
        let too_many = connection.take_whisper(cx.now.moment, &self.settings.limits).is_err()
            || self.charge(cx.now.moment, conn, Charge::Whisper).is_err();
        let Some(connection) = self.connections.get_mut(conn) else { return Ok(()) };
        if too_many || self.memory.level() >= Level::High {
            self.counters.whispers_dropped += 1;
            return Ok(());
        }
        let message = Message {
            channel: Some(channel),
            event,
            data,
            from: connection.sender(conn.slot),
            user_id: connection.user().cloned(),
            message_id: MessageId::made(self.random.next()),
            timestamp: cx.now.wall,
            seq: None,
        };
        let start = cx.out.recipients.len();
        let Some(topic) = self.channels.at(place) else { return Ok(()) };
        for subscriber in topic.subscribers.iter().filter(|subscriber| subscriber.slot != conn.slot) {
            let connection = self.connections.at(subscriber.slot);
            // Nothing overtakes a replay, and a whisper does not wait for one.
            let takes = subscriber.hearing == DeliveryMode::Live
                && connection.is_some_and(|connection| connection.has_empty_queue());
            if takes {
                cx.out.recipients.push(subscriber.slot);
            } else {
                self.counters.whispers_dropped += 1;
            }
        }
        self.deliver(Rc::new(message), start, None, cx.out);
        Ok(())
    }
}
