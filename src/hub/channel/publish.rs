//! Publishing: permission, deduplication, and the answer to the publisher.
//!
//! [`fanout`](super::fanout) finds the recipients.

use std::rc::Rc;

use super::dedup::{DedupKey, Scope};
use super::delivery::{DeliveryCounts, DuplicatePlace, Echo, PublishOptions, Publisher};
use super::fanout::FanoutResult;
use super::receipts::ReceiptRecipient;
use super::topic::Topic;
use crate::hub::connection::Connection;
use crate::hub::connection::account::Charge;
use crate::hub::event::{Cx, LogKey, Now, Requester};
use crate::hub::log::durable::Answer;
use crate::hub::log::position::LogPosition;
use crate::hub::memory_pressure::Level;
use crate::hub::settings::Keep;
use crate::hub::{Hub, RequestContext, RequestResult};
use crate::protocol::request::Target;
use crate::protocol::{
    Channel, Code, ConnectionId, Event, Message, MessageId, OperationId, Payload, Publication, Refusal,
};

/// A whisper: typing indicators, cursors, what is worth nothing a moment later. It has neither
/// position nor log.
pub(in crate::hub) struct Whisper {
    channel: Channel,
    event: Event,
    data: Payload,
}

impl Whisper {
    pub(in crate::hub) fn new(channel: Channel, event: Event, data: Payload) -> Self {
        Self { channel, event, data }
    }
}

impl Hub {
    /// The publisher that a requester is.
    pub(in crate::hub) fn publisher(&self, from: Requester, echo: Echo) -> Publisher {
        let Requester::Connection(conn) = from else { return Publisher::http() };
        let Some(connection) = self.connections.get(conn) else { return Publisher::gone(conn) };
        let echo = if connection.is_worker() { Echo::No } else { echo };
        Publisher::connection(conn, connection.sender(conn.slot), connection.user().cloned(), echo)
    }

    pub(in crate::hub) fn publish(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        publication: Publication,
    ) -> RequestResult {
        self.may_publish(ask.from, &publication.target)?;
        let conn = self.addressed(&publication.target)?;
        let receipt = if publication.receipt { Some(self.receipt_recipient(ask.from)?) } else { None };
        let key = publication
            .message_id
            .clone()
            .map(|id| DedupKey::new(self.scope(ask.from), publication.target.clone(), id));
        self.dedup.forget(cx.now.moment);
        if let Some(first) = key.as_ref().and_then(|key| self.dedup.find(key)) {
            return self.repeat(cx, ask, &publication, first);
        }
        let log = log_of(&publication.target);
        let from = self.publisher(ask.from, if publication.echo { Echo::Yes } else { Echo::No });
        if publication.durable && log.as_ref().is_some_and(|log| self.would_keep(log)) {
            self.may_store()?;
            self.store_room.may_hold(&self.channels, &self.settings.limits, self.author(&from))?;
            self.flash.may_spend(cx.now.moment, self.author(&from))?;
        }
        let Publication { ttl, durable, .. } = publication;
        let target = publication.target.clone();
        let options = PublishOptions::new(ttl, key.as_ref().map(|key| key.scope().clone())).durable(durable);
        let message = self.compose(cx.now, &from, publication);
        let message_id = message.message_id.clone();
        self.counters.messages_received += 1;
        let published = match log {
            Some(log) => self.publish_on(cx, log, message, &from, options),
            None => {
                let is_target = |slot: u32, connection: &Connection| match target {
                    Target::All => connection.is_client(),
                    _ => conn.is_some_and(|conn| conn.slot == slot),
                };
                FanoutResult::unplaced(self.send_to(message, is_target, &from, cx.out))
            }
        };
        let (counts, place) = (published.counts(), published.place());
        if let (Target::User(user), Some(recipient), true) = (&target, receipt, counts.is_kept()) {
            self.owe_receipt(cx.now, user, &message_id, recipient);
        }
        if let Some(key) = key {
            self.dedup.insert(cx.now.moment, key, place.map(|place| place.position()));
        }
        match place.filter(|_| durable && counts.is_kept()) {
            Some(place) => {
                let answer = Answer::new(place.position().seq, ask, message_id, counts);
                self.await_disk(cx, place.id(), answer);
            }
            None => self.answer(ask, counts.frame(target, message_id), cx.out),
        }
        Ok(())
    }

    /// The message, as all recipients get it.
    fn compose(&mut self, now: Now, from: &Publisher, publication: Publication) -> Message {
        Message {
            channel: None,
            event: publication.event,
            data: publication.data,
            from: from.sender(),
            user_id: from.user().cloned(),
            message_id: publication.message_id.unwrap_or_else(|| MessageId::made(self.random.next())),
            timestamp: now.wall,
            seq: None,
        }
    }

    /// A message that came before is not sent again. Its publisher is answered what
    /// became of it, and may wait for the disk now if it did not then.
    fn repeat(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        publication: &Publication,
        first: Option<LogPosition>,
    ) -> RequestResult {
        let Publication { target, durable, message_id: Some(message_id), .. } = publication else {
            debug_assert!(false, "a message that came before has an id");
            return Ok(());
        };
        let LogPosition { epoch, seq } = first.unwrap_or_default();
        let id = log_of(target).and_then(|log| self.channels.find(&log));
        let topic = id.and_then(|id| self.channels.at(id)).filter(|topic| topic.position().epoch == epoch);
        let log = topic.and_then(Topic::log);
        let entry = log.and_then(|log| log.entries().find(seq));
        let is_awaited = log.is_some_and(|log| log.answers().await_seq(seq));
        let place = match entry {
            None => DuplicatePlace::Gone,
            Some(entry) if *durable && entry.is_stored() => DuplicatePlace::Stored,
            Some(_) => DuplicatePlace::Kept,
        };
        let counts = DeliveryCounts::duplicate(place);
        let waits =
            *durable && place != DuplicatePlace::Stored && (place == DuplicatePlace::Kept || is_awaited);
        if waits {
            self.may_store()?;
        }
        if waits && !is_awaited {
            let author = self.author(&self.publisher(ask.from, Echo::No));
            self.flash.may_spend(cx.now.moment, author)?;
        }
        self.counters.messages_received += 1;
        match id.filter(|_| waits) {
            Some(id) => {
                if !is_awaited {
                    self.store_now(id, seq, cx.out);
                }
                self.await_disk(cx, id, Answer::new(seq, ask, message_id.clone(), counts));
            }
            None => self.answer(ask, counts.frame(target.clone(), message_id.clone()), cx.out),
        }
        Ok(())
    }

    /// Delivers to the other subscribers, those whose socket takes it at once.
    pub(in crate::hub) fn whisper(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnectionId,
        whisper: Whisper,
    ) -> RequestResult {
        let Whisper { channel, event, data } = whisper;
        let Some(connection) = self.connections.existing(conn) else { return Ok(()) };
        let id = self.channels.find_channel(&channel).filter(|id| connection.is_subscribed(*id));
        let id = id.ok_or_else(|| {
            Refusal::new(Code::NotSubscribed, "a whisper needs a subscription").on(&channel)
        })?;
        if channel.is_reserved() {
            return Err(forbidden(format!("{channel} is the daemon's own")).on(&channel));
        }
        self.may_publish_on(connection, &channel)?;
        let Some(connection) = self.connections.existing_mut(conn) else { return Ok(()) };
        let too_many = connection.take_whisper(cx.now.moment, &self.settings.limits).is_err()
            || self.charge(cx.now.moment, conn, Charge::Whisper).is_err();
        let Some(connection) = self.connections.existing_mut(conn) else { return Ok(()) };
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
        let Some(topic) = self.channels.existing(id) else { return Ok(()) };
        for subscriber in topic.subscribers().iter().filter(|subscriber| subscriber.slot() != conn.slot) {
            let connection = self.connections.at(subscriber.slot());
            // Nothing overtakes a replay, and a whisper does not wait for one.
            let takes =
                subscriber.is_live() && connection.is_some_and(|connection| connection.has_empty_queue());
            if takes {
                cx.out.recipients.push(subscriber.slot());
            } else {
                self.counters.whispers_dropped += 1;
            }
        }
        self.deliver(Rc::new(message), start, None, cx.out);
        Ok(())
    }

    /// Whether a requester may publish to a target. A worker's or HTTP caller's right is its
    /// socket or secret; to the daemon's own names no requester has one.
    fn may_publish(&self, from: Requester, target: &Target) -> RequestResult {
        let connection = match from {
            Requester::Connection(conn) => self.connections.get(conn),
            Requester::Http(_) => None,
        };
        if let Target::Channel(channel) = target {
            if let Some(operation) = channel.operation() {
                return self.owns(from, operation);
            }
            if channel.is_reserved() {
                return Err(forbidden(format!("{channel} is the daemon's own")).on(channel));
            }
        }
        let Some(connection) = connection.filter(|connection| !connection.is_worker()) else { return Ok(()) };
        let name = match target {
            Target::Channel(channel) => return self.may_publish_on(connection, channel),
            Target::User(user) => format!("@user:{user}"),
            Target::Connection(id) => format!("@connection:{id}"),
            Target::All => return Err(forbidden("`all` is for workers and HTTP callers")),
        };
        if self.rights_of(connection).may_publish(&name, connection.user()) {
            return Ok(());
        }
        Err(forbidden(format!("the right to publish to {name} is missing")))
    }

    /// Only its worker publishes on the channel of an operation.
    fn owns(&self, from: Requester, operation: &str) -> RequestResult {
        let Ok(id) = OperationId::new(operation) else {
            return Err(Refusal::new(Code::UnknownOperation, "no such operation"));
        };
        match self.operations.find(&id) {
            None => Err(Refusal::new(Code::UnknownOperation, "no such operation runs")),
            Some(operation) if Requester::Connection(operation.owner()) == from => Ok(()),
            Some(_) => Err(forbidden("only its worker publishes on the channel of an operation")),
        }
    }

    /// The connection that a message is addressed to, where it is to one.
    fn addressed(&self, target: &Target) -> Result<Option<ConnectionId>, Refusal> {
        let Target::Connection(id) = target else { return Ok(None) };
        let found = ConnectionId::parse(id)
            .filter(|id| self.connections.get(*id).is_some_and(Connection::is_admitted));
        found.map(Some).ok_or_else(|| Refusal::new(Code::UnknownConnection, "no such connection"))
    }

    /// Where a receipt goes that a publisher wants.
    fn receipt_recipient(&self, from: Requester) -> Result<ReceiptRecipient, Refusal> {
        let nobody = || Refusal::new(Code::BadRequest, "`receipt` needs a user or a worker who is told");
        let Requester::Connection(conn) = from else { return Err(nobody()) };
        let connection = self.connections.get(conn).ok_or_else(nobody)?;
        if connection.is_worker() {
            return Ok(ReceiptRecipient::Worker(conn));
        }
        connection.user().cloned().map(ReceiptRecipient::User).ok_or_else(nobody)
    }

    pub(in crate::hub) fn may_publish_on(&self, connection: &Connection, channel: &Channel) -> RequestResult {
        if self.rights_of(connection).may_publish(channel.as_str(), connection.user()) {
            return Ok(());
        }
        Err(forbidden(format!("the right to publish to {channel} is missing")).on(channel))
    }

    fn would_keep(&self, log: &LogKey) -> bool {
        let policy = self.settings.log_policy(log);
        policy.keep != Keep::Never && policy.count > 0
    }

    fn scope(&self, from: Requester) -> Scope {
        let Requester::Connection(conn) = from else { return Scope::Http };
        let connection = self.connections.get(conn);
        let uid = connection.and_then(Connection::worker_uid);
        let user = connection.and_then(Connection::user);
        uid.map(Scope::Worker).or_else(|| user.cloned().map(Scope::User)).unwrap_or(Scope::Connection(conn))
    }
}

pub(in crate::hub) fn forbidden(why: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(Code::Forbidden, why)
}

/// The log in which what is published to a target is kept, if it is.
fn log_of(target: &Target) -> Option<LogKey> {
    match target {
        Target::Channel(channel) => Some(LogKey::Channel(channel.clone())),
        Target::User(user) => Some(LogKey::Inbox(user.clone())),
        Target::Connection(_) | Target::All => None,
    }
}
