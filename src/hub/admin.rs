//! What administrators see and do.
//!
//! Knows how to count and list what the other rooms hold, and how to end and drop
//! it on demand. Does not know who is an administrator beyond the word of the edge.

use super::channels::Topic;
use super::connections::{Connection, Kind};
use super::event::{Asker, Effects, LogKey, Now};
use super::publish::forbidden;
use super::{Ask, Done, Hub};
use crate::protocol::frame::{ChannelEntry, ConnectionEntry, Statistics};
use crate::protocol::name::spelled;
use crate::protocol::{Close, Code, ConnectionId, Frame, Refusal, Target, UserId};

impl Hub {
    /// Answers with the numbers of the daemon. They are counted when somebody
    /// asks, so that there is nothing which could be wrong.
    pub(super) fn stats(&self, now: Now, ask: &Ask, out: &mut Effects) -> Done {
        self.may_administer(ask.from)?;
        self.answer(ask, Frame::Stats(Box::new(self.statistics(now))), out);
        Ok(())
    }

    pub(super) fn may_administer(&self, from: Asker) -> Done {
        let kind = match from {
            Asker::Http(_) => return Ok(()),
            Asker::Connection(conn) => self.connections.get(conn).map(|connection| connection.kind),
        };
        match kind {
            Some(Kind::Worker { admin: true, .. }) => Ok(()),
            _ => Err(forbidden("this is for administrators")),
        }
    }

    fn statistics(&self, now: Now) -> Statistics {
        let mut counted = Statistics {
            operations: self.operations.running() as u64,
            kept_bytes: self.channels.bytes as u64,
            memory_bytes: self.memory_held(),
            memory_level: self.memory.level as u64,
            uptime_seconds: self.started.map_or(0, |started| now.moment.since(started).as_secs()),
            counters: self.counters,
            ..Statistics::default()
        };
        for (_, connection) in self.connections.iter() {
            match connection.kind {
                Kind::Worker { .. } => counted.workers += 1,
                Kind::Client | Kind::Waiting => counted.total_connections += 1,
            }
            counted.subscriptions += connection.subscriptions() as u64;
        }
        for topic in self.channels.iter() {
            match topic.key {
                LogKey::Channel(_) => counted.channels += 1,
                LogKey::Inbox(_) => counted.connected_users += u64::from(!topic.subscribers.is_empty()),
            }
            counted.kept_messages += topic.log.as_ref().map_or(0, |log| log.kept.len() as u64);
        }
        counted
    }

    /// Lists who is connected, in the order of their places.
    pub(super) fn list_connections(&self, ask: &Ask, out: &mut Effects) -> Done {
        self.may_administer(ask.from)?;
        let entry = |(slot, connection): (u32, &Connection)| ConnectionEntry {
            connection_id: ConnectionId { slot, tag: connection.tag }.to_string(),
            kind: if connection.is_worker() { "worker" } else { "client" },
            user_id: connection.user.clone(),
            subscriptions: connection.subscriptions() as u64,
            operations: connection.rare.as_ref().map_or(0, |rare| u64::from(rare.operations)),
        };
        let connections = self.connections.iter().map(entry).collect();
        self.answer(ask, Frame::Connections { connections }, out);
        Ok(())
    }

    /// Lists the channels there are, by name.
    pub(super) fn list_channels(&self, ask: &Ask, out: &mut Effects) -> Done {
        self.may_administer(ask.from)?;
        let entry = |topic: &Topic| {
            let LogKey::Channel(channel) = &topic.key else { return None };
            let log = topic.log.as_deref();
            Some(ChannelEntry {
                channel: channel.clone(),
                subscribers: topic.subscribers.len() as u64,
                epoch: spelled(topic.epoch),
                seq: topic.seq,
                kept: log.map_or(0, |log| log.kept.len() as u64),
                bytes: log.map_or(0, |log| log.bytes as u64),
            })
        };
        let mut channels: Vec<_> = self.channels.iter().filter_map(entry).collect();
        channels.sort_by(|a, b| a.channel.cmp(&b.channel));
        self.answer(ask, Frame::Channels { channels }, out);
        Ok(())
    }

    /// Tells what waits for a user.
    pub(super) fn look_into_inbox(&self, ask: &Ask, user_id: UserId, out: &mut Effects) -> Done {
        self.may_administer(ask.from)?;
        let topic = self.channels.find_inbox(&user_id).and_then(|place| self.channels.at(place));
        let log = topic.and_then(|topic| topic.log.as_deref());
        let frame = Frame::Inbox {
            user_id,
            epoch: topic.map(|topic| spelled(topic.epoch)),
            seq: topic.map_or(0, |topic| topic.seq),
            waiting: log.map_or(0, |log| log.kept.len() as u64),
            bytes: log.map_or(0, |log| log.bytes as u64),
        };
        self.answer(ask, frame, out);
        Ok(())
    }

    /// Drops what is kept of a channel or for a user.
    pub(super) fn purge(&mut self, now: Now, ask: &Ask, target: &Target, out: &mut Effects) -> Done {
        self.may_administer(ask.from)?;
        let place = match target {
            Target::Channel(channel) => self.channels.find_channel(channel),
            Target::User(user) => self.channels.find_inbox(user),
            Target::Connection(_) | Target::All => None,
        };
        let purged = place.map_or(0, |place| self.purge_topic(now, place, out));
        self.answer(ask, Frame::Purged { purged }, out);
        Ok(())
    }

    /// Ends a connection, or all of a user; a user who has none is no mistake.
    pub(super) fn disconnect(&mut self, now: Now, ask: &Ask, target: &Target, out: &mut Effects) -> Done {
        self.may_administer(ask.from)?;
        let ended = match target {
            Target::Connection(id) => {
                let found = ConnectionId::parse(id).filter(|id| self.connections.get(*id).is_some());
                vec![found.ok_or_else(|| Refusal::new(Code::UnknownConnection, "no such connection"))?]
            }
            Target::User(user) => self.connections.ids(|connection| connection.user.as_ref() == Some(user)),
            Target::Channel(_) | Target::All => Vec::new(),
        };
        let disconnected = ended.len() as u64;
        // Who ends its own connection is answered before it ends.
        self.answer(ask, Frame::Disconnected { disconnected }, out);
        for conn in ended {
            self.close(now, conn, Close::Disconnected, out);
        }
        Ok(())
    }
}
