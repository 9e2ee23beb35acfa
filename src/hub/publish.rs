//! A message is to be sent.
//!
//! Knows who may publish where, what was sent before, and how it is answered.
//! Does not know whom it reaches; that is in [`fanout`](super::fanout).

use super::connections::{Connection, Kind};
use super::event::{Asker, Effects, LogKey, Now};
use super::fanout::Reach;
use super::receipts::Wants;
use super::recent::{Key, Scope};
use super::settings::Keep;
use super::{Ask, Done, Hub};
use crate::protocol::say::Target;
use crate::protocol::{
    Channel, Code, ConnectionId, Frame, Message, MessageId, OperationId, Publication, Refusal, Sender, UserId,
};

/// Who publishes.
#[derive(Clone, Debug)]
pub(super) struct Publisher {
    /// Where it is connected, if it is.
    pub(super) conn: Option<ConnectionId>,
    pub(super) sender: Sender,
    pub(super) user: Option<UserId>,
    /// Whether it hears itself where it is subscribed.
    pub(super) echo: bool,
}

impl Publisher {
    /// The hub itself.
    pub(super) fn hub() -> Self {
        Self { conn: None, sender: Sender::Hub, user: None, echo: false }
    }

    pub(super) fn slot(&self) -> Option<u32> {
        self.conn.map(|conn| conn.slot)
    }
}

impl Hub {
    /// Who asks, as a publisher.
    pub(super) fn publisher(&self, from: Asker, echo: bool) -> Publisher {
        let Asker::Connection(conn) = from else {
            return Publisher { conn: None, sender: Sender::Http, user: None, echo: false };
        };
        let connection = self.connections.get(conn);
        Publisher {
            conn: Some(conn),
            sender: connection.map_or(Sender::Hub, |connection| connection.sender(conn.slot)),
            user: connection.and_then(|connection| connection.user.clone()),
            echo: echo && connection.is_some_and(|connection| !connection.is_worker()),
        }
    }

    pub(super) fn publish(
        &mut self,
        now: Now,
        ask: &Ask,
        publication: Publication,
        out: &mut Effects,
    ) -> Done {
        self.may_publish(ask.from, &publication.target)?;
        let conn = self.addressed(&publication.target)?;
        let receipt = if publication.receipt { Some(self.wants_receipt(ask.from)?) } else { None };
        if publication.durable && self.would_keep(&publication.target) {
            let why = "the store is in memory: nothing in it outlives a power cut";
            return Err(Refusal::new(Code::StoreUnavailable, why));
        }
        self.counters.messages_received += 1;
        let key = publication.message_id.clone().map(|id| Key {
            scope: self.scope(ask.from),
            target: publication.target.clone(),
            id,
        });
        if let Some(key) = key {
            self.recent.forget(now.moment);
            if self.recent.contains(&key) {
                let answer = send_success(key.target, key.id, Reach::default(), true);
                self.answer(ask, answer, out);
                return Ok(());
            }
            self.recent.insert(now.moment, key);
        }
        let from = self.publisher(ask.from, publication.echo);
        let Publication { target, event, data, ttl, message_id, .. } = publication;
        let message_id = message_id.unwrap_or_else(|| MessageId::made(self.random.next()));
        let message = Message {
            channel: None,
            event,
            data,
            from: from.sender,
            user_id: from.user.clone(),
            message_id: message_id.clone(),
            timestamp: now.wall,
            seq: None,
        };
        let reach = match &target {
            Target::Channel(channel) => {
                self.publish_on(now, LogKey::Channel(channel.clone()), message, &from, ttl, out)
            }
            Target::User(user) => {
                let reach = self.publish_on(now, LogKey::Inbox(user.clone()), message, &from, ttl, out);
                if let Some(wants) = receipt.filter(|_| reach.kept) {
                    self.owe_receipt(now, user, &message_id, wants);
                }
                reach
            }
            Target::Connection(_) => {
                self.send_to(message, |slot, _| Some(slot) == conn.map(|c| c.slot), &from, out)
            }
            Target::All => self.send_to(message, |_, connection| connection.kind == Kind::Client, &from, out),
        };
        self.answer(ask, send_success(target, message_id, reach, false), out);
        Ok(())
    }

    /// Whether somebody may send there. A worker's or HTTP caller's right is its
    /// socket or secret; the daemon's own names are nobody's.
    fn may_publish(&self, from: Asker, target: &Target) -> Done {
        let connection = match from {
            Asker::Connection(conn) => self.connections.get(conn),
            Asker::Http(_) => None,
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
            Target::Channel(channel) => return may_publish_on(connection, channel),
            Target::User(user) => format!("@user:{user}"),
            Target::Connection(id) => format!("@connection:{id}"),
            Target::All => return Err(forbidden("`all` is for workers and HTTP callers")),
        };
        if connection.rights.may_publish(&name, connection.user.as_ref()) {
            return Ok(());
        }
        Err(forbidden(format!("the right to publish to {name} is missing")))
    }

    /// Only its worker publishes on the channel of an operation.
    fn owns(&self, from: Asker, operation: &str) -> Done {
        let Ok(id) = OperationId::new(operation) else {
            return Err(Refusal::new(Code::UnknownOperation, "no such operation"));
        };
        match self.operations.find(&id) {
            None => Err(Refusal::new(Code::UnknownOperation, "no such operation runs")),
            Some(operation) if Asker::Connection(operation.owner) == from => Ok(()),
            Some(_) => Err(forbidden("only its worker publishes on the channel of an operation")),
        }
    }

    /// The connection that a message is addressed to, where it is to one.
    fn addressed(&self, target: &Target) -> Result<Option<ConnectionId>, Refusal> {
        let Target::Connection(id) = target else { return Ok(None) };
        let found =
            ConnectionId::parse(id).filter(|id| self.connections.get(*id).is_some_and(Connection::is_let_in));
        found.map(Some).ok_or_else(|| Refusal::new(Code::UnknownConnection, "no such connection"))
    }

    /// Who is told that a message has arrived; somebody must be there to tell.
    fn wants_receipt(&self, from: Asker) -> Result<Wants, Refusal> {
        let nobody = || Refusal::new(Code::BadRequest, "`receipt` needs a user or a worker who is told");
        let Asker::Connection(conn) = from else { return Err(nobody()) };
        let connection = self.connections.get(conn).ok_or_else(nobody)?;
        if connection.is_worker() {
            return Ok(Wants::Worker(conn));
        }
        connection.user.clone().map(Wants::User).ok_or_else(nobody)
    }

    fn would_keep(&self, target: &Target) -> bool {
        let key = match target {
            Target::Channel(channel) => LogKey::Channel(channel.clone()),
            Target::User(user) => LogKey::Inbox(user.clone()),
            Target::Connection(_) | Target::All => return false,
        };
        self.policy_of(&key).keep != Keep::Never
    }

    fn scope(&self, from: Asker) -> Scope {
        let Asker::Connection(conn) = from else { return Scope::Http };
        match self.connections.get(conn) {
            Some(Connection { kind: Kind::Worker { uid, .. }, .. }) => Scope::Worker(*uid),
            Some(Connection { user: Some(user), .. }) => Scope::User(user.clone()),
            _ => Scope::Connection(conn),
        }
    }
}

pub(super) fn forbidden(why: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(Code::Forbidden, why)
}

pub(super) fn may_publish_on(connection: &Connection, channel: &Channel) -> Done {
    if connection.rights.may_publish(channel.as_str(), connection.user.as_ref()) {
        return Ok(());
    }
    Err(forbidden(format!("the right to publish to {channel} is missing")).on(channel))
}

fn send_success(target: Target, message_id: MessageId, reach: Reach, duplicate: bool) -> Frame<'static> {
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
        stored: false,
        message_id,
        duplicate,
        partial: false,
    }
}
