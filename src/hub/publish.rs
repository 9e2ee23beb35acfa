//! From one to many: messages and whispers.
//!
//! Knows who may publish where, and who is reached. Does not know what becomes
//! of a kept message afterwards; that is in [`replay`](super::replay).

use std::rc::Rc;
use std::time::Duration;

use super::channels::Hearing;
use super::connections::{Connection, Kind};
use super::event::{Asker, Effect, Effects, LogKey, Now};
use super::keeping::expiry;
use super::logs::Kept;
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
    pub(super) fn slot(&self) -> Option<u32> {
        self.conn.map(|conn| conn.slot)
    }
}

/// Whom a message reaches.
#[derive(Clone, Copy, Debug, Default)]
struct Reach {
    sent: u64,
    failed: u64,
    kept: bool,
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
            Target::User(user) => self.publish_on(now, LogKey::Inbox(user.clone()), message, &from, ttl, out),
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

    /// A message to all that a condition names; it has no position.
    fn send_to(
        &mut self,
        message: Message,
        wanted: impl Fn(u32, &Connection) -> bool,
        from: &Publisher,
        out: &mut Effects,
    ) -> Reach {
        let mut reach = Reach::default();
        let start = out.recipients.len();
        for (slot, connection) in self.connections.iter() {
            if !wanted(slot, connection) || (Some(slot) == from.slot() && !from.echo) {
                continue;
            }
            if connection.full {
                reach.failed += 1;
            } else {
                out.recipients.push(slot);
            }
        }
        reach.sent = self.deliver(Rc::new(message), start, out);
        self.counters.messages_shed += reach.failed;
        reach
    }

    /// Orders a message to be queued for the recipients noted since `start`.
    pub(super) fn deliver(&mut self, message: Rc<Message>, start: usize, out: &mut Effects) -> u64 {
        let to = out.noted(start);
        let count = u64::from(to.end - to.start);
        if count > 0 {
            self.counters.messages_delivered += count;
            out.push(Effect::Deliver { message, to });
        }
        count
    }

    /// A message to the subscribers of a channel, or to a user's connections.
    fn publish_on(
        &mut self,
        now: Now,
        key: LogKey,
        mut message: Message,
        from: &Publisher,
        ttl: Option<Duration>,
        out: &mut Effects,
    ) -> Reach {
        let fleeting = ttl.is_some_and(|ttl| ttl.is_zero());
        if let LogKey::Channel(channel) = &key {
            message.channel = Some(channel.clone());
        }
        let place = match self.channels.find(&key) {
            None if fleeting => return Reach::default(),
            None => self.topic(key),
            Some(place) => place,
        };
        let Some(topic) = self.channels.at_mut(place) else { return Reach::default() };
        if !fleeting {
            topic.seq += 1;
            message.seq = Some(topic.seq);
        }
        let start = out.recipients.len();
        let (mut heard, mut reading, mut full) = (false, 0, 0);
        for subscriber in &topic.subscribers {
            let own = Some(subscriber.slot) == from.slot();
            if own && !from.echo {
                continue;
            }
            match subscriber.hearing {
                Hearing::Live if self.connections.at(subscriber.slot).is_some_and(|c| c.full) => full += 1,
                Hearing::Live => {
                    heard |= !own;
                    out.recipients.push(subscriber.slot);
                }
                Hearing::Reading => reading += 1,
                Hearing::Off => {}
            }
        }
        let message = Rc::new(message);
        let sent = self.deliver(message.clone(), start, out);
        let rest = Rest { place, message, ttl, heard, reading, full };
        let mut reach = self.keep_for(now, &rest, from, out);
        if sent == 0 {
            self.settle(now, place);
        }
        reach.sent += sent;
        reach
    }

    /// Those who did not hear it live read it later, where the policy is so.
    fn keep_for(&mut self, now: Now, rest: &Rest, from: &Publisher, out: &mut Effects) -> Reach {
        let late = rest.reading + rest.full;
        let Some(seq) = rest.message.seq else {
            self.counters.messages_shed += late;
            return Reach { sent: 0, failed: late, kept: false };
        };
        let Some(topic) = self.channels.at(rest.place) else { return Reach::default() };
        let policy = self.policy_of(&topic.key);
        let wanted = match policy.keep {
            Keep::Never => rest.reading > 0,
            Keep::History => true,
            Keep::Undelivered => !rest.heard || rest.reading > 0,
        };
        if !wanted && rest.full == 0 {
            return Reach::default();
        }
        let kept = Kept {
            seq,
            expires: expiry(now.moment, &policy, rest.ttl),
            since: now.moment,
            by: from.conn.map_or(0, |conn| conn.tag),
            size: u32::try_from(rest.message.size()).unwrap_or(u32::MAX),
            heard: rest.heard,
            echo: from.echo,
        };
        let kept = wanted && self.keep(rest.place, &policy, kept, &rest.message, out);
        // What others heard is not kept for the sake of one who is slow, unless
        // it is kept anyway.
        let behind = kept && (policy.keep == Keep::History || !rest.heard);
        for slot in self.full_ones(rest, from) {
            if behind {
                self.read_from(rest.place, slot, seq - 1);
            } else {
                self.miss(rest.place, slot, seq);
            }
        }
        if kept {
            self.trim(now, rest.place, &policy, out);
        }
        let log = self.channels.at(rest.place).and_then(|topic| topic.log.as_ref());
        let kept = kept && log.is_some_and(|log| log.contains(seq));
        let sent = if kept { rest.reading } else { 0 } + if kept && behind { rest.full } else { 0 };
        self.counters.messages_shed += late - sent;
        Reach { sent, failed: late - sent, kept }
    }

    /// The subscribers that hear live and have no room.
    fn full_ones(&self, rest: &Rest, from: &Publisher) -> Vec<u32> {
        let Some(topic) = self.channels.at(rest.place).filter(|_| rest.full > 0) else { return Vec::new() };
        let live = topic.subscribers.iter().filter(|subscriber| subscriber.hearing == Hearing::Live);
        live.map(|subscriber| subscriber.slot)
            .filter(|slot| Some(*slot) != from.slot() || from.echo)
            .filter(|slot| self.connections.at(*slot).is_some_and(|connection| connection.full))
            .collect()
    }
}

/// A message, and those whom it did not reach live.
struct Rest {
    place: u32,
    message: Rc<Message>,
    ttl: Option<Duration>,
    /// Whether anybody but its publisher heard it.
    heard: bool,
    /// How many read what lies before it.
    reading: u64,
    /// How many have no room.
    full: u64,
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
