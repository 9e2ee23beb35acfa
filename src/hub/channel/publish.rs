//! A message is to be sent.
//!
//! Knows who may publish where, what was sent before, and how it is answered.
//! Does not know whom it reaches; that is in [`fanout`](super::fanout).

use super::dedup::{DedupKey, LogPosition, Scope};
use super::fanout::{DeliveryCounts, PublishOptions};
use super::receipts::Wants;
use crate::hub::connection::Connection;
use crate::hub::event::{Cx, LogKey, Now, Requester};
use crate::hub::log::durable::Answer;
use crate::hub::settings::Keep;
use crate::hub::{Hub, RequestContext, RequestResult};
use crate::protocol::request::Target;
use crate::protocol::{
    Channel, Code, ConnectionId, Frame, Message, MessageId, OperationId, Publication, Refusal, Sender, UserId,
};

/// Who publishes.
#[derive(Clone, Debug)]
pub(in crate::hub) struct Publisher {
    /// Where it is connected, if it is.
    pub(in crate::hub) conn: Option<ConnectionId>,
    pub(in crate::hub) sender: Sender,
    pub(in crate::hub) user: Option<UserId>,
    /// Whether it hears itself where it is subscribed.
    pub(in crate::hub) echo: bool,
}

impl Publisher {
    /// The hub itself.
    pub(in crate::hub) fn hub() -> Self {
        Self { conn: None, sender: Sender::Hub, user: None, echo: false }
    }

    pub(in crate::hub) fn slot(&self) -> Option<u32> {
        self.conn.map(|conn| conn.slot)
    }
}

impl Hub {
    /// Who asks, as a publisher.
    pub(in crate::hub) fn publisher(&self, from: Requester, echo: bool) -> Publisher {
        let Requester::Connection(conn) = from else {
            return Publisher { conn: None, sender: Sender::Http, user: None, echo: false };
        };
        let connection = self.connections.get(conn);
        Publisher {
            conn: Some(conn),
            sender: connection.map_or(Sender::Hub, |connection| connection.sender(conn.slot)),
            user: connection.and_then(Connection::user).cloned(),
            echo: echo && connection.is_some_and(|connection| !connection.is_worker()),
        }
    }

    pub(in crate::hub) fn publish(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        publication: Publication,
    ) -> RequestResult {
        self.may_publish(ask.from, &publication.target)?;
        let conn = self.addressed(&publication.target)?;
        let receipt = if publication.receipt { Some(self.wants_receipt(ask.from)?) } else { None };
        let key = publication.message_id.clone().map(|id| DedupKey {
            scope: self.scope(ask.from),
            target: publication.target.clone(),
            id,
        });
        self.dedup.forget(cx.now.moment);
        if let Some(first) = key.as_ref().and_then(|key| self.dedup.find(key)) {
            return self.repeat(cx, ask, &publication, first);
        }
        let log = log_of(&publication.target);
        let from = self.publisher(ask.from, publication.echo);
        if publication.durable && log.as_ref().is_some_and(|log| self.would_keep(log)) {
            self.may_store()?;
            self.may_hold(&from)?;
            self.may_spend(cx.now, &from)?;
        }
        let Publication { ttl, durable, .. } = publication;
        let target = publication.target.clone();
        let terms = PublishOptions { ttl, durable, scope: key.as_ref().map(|key| key.scope.clone()) };
        let is_fleeting = ttl.is_some_and(|ttl| ttl.is_zero());
        let message = self.compose(cx.now, &from, publication);
        let message_id = message.message_id.clone();
        self.counters.messages_received += 1;
        let reach = match log.clone() {
            Some(log) => self.publish_on(cx, log, message, &from, terms),
            None if target == Target::All => {
                self.send_to(message, |_, connection| connection.is_client(), &from, cx.out)
            }
            None => self.send_to(message, |slot, _| Some(slot) == conn.map(|c| c.slot), &from, cx.out),
        };
        if let (Target::User(user), Some(wants), true) = (&target, receipt, reach.kept) {
            self.owe_receipt(cx.now, user, &message_id, wants);
        }
        let place = log.filter(|_| !is_fleeting).and_then(|log| self.channels.find(&log));
        let put = place.and_then(|place| self.channels.at(place));
        let put = put.map(|topic| LogPosition { epoch: topic.epoch, seq: topic.seq });
        if let Some(key) = key {
            self.dedup.insert(cx.now.moment, key, put);
        }
        match place.zip(put).filter(|_| durable && reach.kept) {
            Some((place, LogPosition { seq, .. })) => {
                self.await_disk(cx, place, Answer::new(seq, ask, message_id, reach))
            }
            None => self.answer(ask, send_success(target, message_id, reach), cx.out),
        }
        Ok(())
    }

    /// What is said, as everybody will hear it.
    fn compose(&mut self, now: Now, from: &Publisher, publication: Publication) -> Message {
        Message {
            channel: None,
            event: publication.event,
            data: publication.data,
            from: from.sender,
            user_id: from.user.clone(),
            message_id: publication.message_id.unwrap_or_else(|| MessageId::made(self.random.next())),
            timestamp: now.wall,
            seq: None,
        }
    }

    /// A message that came before is not sent again. Its publisher is told what
    /// became of it, and may wait for the disk now if it did not then.
    fn repeat(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        publication: &Publication,
        first: Option<LogPosition>,
    ) -> RequestResult {
        let Publication { target, durable, message_id: Some(id), .. } = publication else { return Ok(()) };
        let LogPosition { epoch, seq } = first.unwrap_or_default();
        let place = log_of(target).and_then(|log| self.channels.find(&log));
        let topic = place.and_then(|place| self.channels.at(place)).filter(|topic| topic.epoch == epoch);
        let log = topic.and_then(|topic| topic.log.as_ref());
        let kept = log.and_then(|log| log.find(seq));
        let is_awaited = log.is_some_and(|log| log.answers.awaits(seq));
        let reach = DeliveryCounts {
            kept: kept.is_some(),
            stored: *durable && kept.is_some_and(|kept| kept.stored),
            duplicate: true,
            ..DeliveryCounts::default()
        };
        let waits = *durable && !reach.stored && (reach.kept || is_awaited);
        if waits {
            self.may_store()?;
        }
        if waits && !is_awaited {
            self.may_spend(cx.now, &self.publisher(ask.from, false))?;
        }
        self.counters.messages_received += 1;
        match place.filter(|_| waits) {
            Some(place) => {
                if !is_awaited {
                    self.store_now(place, seq, cx.out);
                }
                self.await_disk(cx, place, Answer::new(seq, ask, id.clone(), reach));
            }
            None => self.answer(ask, send_success(target.clone(), id.clone(), reach), cx.out),
        }
        Ok(())
    }

    /// Whether somebody may send there. A worker's or HTTP caller's right is its
    /// socket or secret; the daemon's own names are nobody's.
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

    /// Who is told that a message has arrived; somebody must be there to tell.
    fn wants_receipt(&self, from: Requester) -> Result<Wants, Refusal> {
        let nobody = || Refusal::new(Code::BadRequest, "`receipt` needs a user or a worker who is told");
        let Requester::Connection(conn) = from else { return Err(nobody()) };
        let connection = self.connections.get(conn).ok_or_else(nobody)?;
        if connection.is_worker() {
            return Ok(Wants::Worker(conn));
        }
        connection.user().cloned().map(Wants::User).ok_or_else(nobody)
    }

    pub(in crate::hub) fn may_publish_on(&self, connection: &Connection, channel: &Channel) -> RequestResult {
        if self.rights_of(connection).may_publish(channel.as_str(), connection.user()) {
            return Ok(());
        }
        Err(forbidden(format!("the right to publish to {channel} is missing")).on(channel))
    }

    fn would_keep(&self, log: &LogKey) -> bool {
        let policy = self.policy_of(log);
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

/// Where what is sent to somebody is kept, if it is.
fn log_of(target: &Target) -> Option<LogKey> {
    match target {
        Target::Channel(channel) => Some(LogKey::Channel(channel.clone())),
        Target::User(user) => Some(LogKey::Inbox(user.clone())),
        Target::Connection(_) | Target::All => None,
    }
}

pub(in crate::hub) fn send_success(
    target: Target,
    message_id: MessageId,
    reach: DeliveryCounts,
) -> Frame<'static> {
    let (channel, connection_id, user_id) = match target {
        Target::Channel(channel) => (Some(channel), None, None),
        Target::Connection(id) => (None, Some(id), None),
        Target::User(user) => (None, None, Some(user)),
        Target::All => (None, None, None),
    };
    Frame::SendSuccess {
        channel,
        connection_id,
        user_id,
        sent: reach.sent,
        failed: reach.failed,
        kept: reach.kept,
        stored: reach.stored,
        message_id,
        duplicate: reach.duplicate,
        partial: false,
    }
}
