//! What administrators see and do.
//!
//! Knows how to count and list what the other rooms hold, and how to end and drop
//! it on demand. Does not know who is an administrator beyond the word of the edge.

use std::collections::BinaryHeap;

use super::channel::topic::{DeliveryMode, Subscriber, Topic};
use super::connection::table::{Connection, Kind};
use super::event::{Cx, Effect, Effects, LogKey, Now, Requester};
use super::timers::NEVER;
use super::{Hub, RequestContext, RequestResult};
use crate::protocol::frame::{ChannelEntry, ConnectionEntry, InboxEntry, LinkEntry, Statistics};
use crate::protocol::ids::spelled;
use crate::protocol::request::After;
use crate::protocol::{
    Channel, Close, Code, ConnectionId, Frame, Moment, Refusal, RevocationTarget, Target, TokenId, UnixTime,
    UserId,
};

impl Hub {
    /// Answers with the numbers of the daemon. They are counted when somebody
    /// asks, so that there is nothing which could be wrong.
    pub(super) fn stats(&self, cx: &mut Cx<'_>, ask: &RequestContext) -> RequestResult {
        self.may_administer(ask.from)?;
        self.answer(ask, Frame::Stats(Box::new(self.statistics(cx.now))), cx.out);
        Ok(())
    }

    pub(super) fn may_administer(&self, from: Requester) -> RequestResult {
        let kind = match from {
            Requester::Http(_) => return Ok(()),
            Requester::Connection(conn) => self.connections.get(conn).map(|connection| connection.kind),
        };
        match kind {
            Some(Kind::Worker { admin: true, .. }) => Ok(()),
            Some(Kind::Client) if self.has_admin_token(from) => Ok(()),
            _ => Err(Refusal::for_administrators()),
        }
    }

    fn has_admin_token(&self, from: Requester) -> bool {
        let Requester::Connection(conn) = from else { return false };
        self.connections.get(conn).is_some_and(|connection| self.rights_of(connection).admin)
    }

    /// Operations that run, and messages that are kept: what costs nothing to count.
    pub fn at_a_glance(&self) -> (usize, usize) {
        (self.operations.running(), self.channels.usage().sum().messages() as usize)
    }

    fn statistics(&self, now: Now) -> Statistics {
        let mut counted = Statistics {
            operations: self.operations.running() as u64,
            kept_messages: u64::from(self.channels.usage().sum().messages()),
            kept_bytes: self.channels.usage().sum().bytes() as u64,
            unstored_bytes: self.channels.usage().sum().unstored() as u64,
            store_failed: u64::from(self.disk_failed),
            memory_bytes: self.memory_held(),
            memory_level: self.memory.level as u64,
            uptime_seconds: self.started.map_or(0, |started| now.moment.since(started).as_secs()),
            refused: self.refused,
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
            match topic.key() {
                LogKey::Channel(_) => counted.channels += 1,
                LogKey::Inbox(_) => counted.connected_users += u64::from(!topic.subscribers().is_empty()),
            }
        }
        counted
    }

    /// Lists who is connected, in the order of their places.
    pub(super) fn list_connections(
        &self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        after: After,
    ) -> RequestResult {
        self.may_administer(ask.from)?;
        let nobody = || Refusal::new(Code::BadRequest, "`after` must be the `next` of an answer");
        let after = after.map(|id| ConnectionId::parse(&id).ok_or_else(nobody)).transpose()?;
        let from = after.map_or(0, |conn| conn.slot as usize + 1);
        let mut rest = self.connections.iter_from(from).peekable();
        let page = rest.by_ref().take(LISTED);
        let connections: Vec<_> = page.map(|(slot, connection)| entry(cx.now, slot, connection)).collect();
        let last = connections.last().map(|last| last.connection_id);
        let next = last.filter(|_| rest.peek().is_some());
        self.answer(ask, Frame::Connections { connections, next }, cx.out);
        Ok(())
    }

    /// Lists the channels there are, by name.
    pub(super) fn list_channels(&self, cx: &mut Cx<'_>, ask: &RequestContext, after: After) -> RequestResult {
        self.may_administer(ask.from)?;
        let channels = self.channels.iter().filter_map(|topic| match topic.key() {
            LogKey::Channel(channel) => Some((channel, topic)),
            LogKey::Inbox(_) => None,
        });
        let channels: Vec<_> = channels.collect();
        let entry = |(channel, topic): &(&Channel, &Topic)| {
            (self.channel_entry(cx.now, channel, topic), (*channel).clone())
        };
        let page = Page::of(&channels, after.as_deref(), |(channel, _)| channel.as_str(), entry);
        self.answer(ask, Frame::Channels { channels: page.entries, next: page.next }, cx.out);
        Ok(())
    }

    fn channel_entry(&self, now: Now, channel: &Channel, topic: &Topic) -> ChannelEntry {
        let Held { messages, bytes, oldest_at } = held(now, topic);
        let behind = |subscriber: &&Subscriber| subscriber.mode() == DeliveryMode::Reading;
        ChannelEntry {
            channel: channel.clone(),
            subscribers: topic.subscribers().len() as u64,
            behind: topic.subscribers().iter().filter(behind).count() as u64,
            epoch: spelled(topic.position().epoch),
            seq: topic.position().seq,
            keep: self.settings.log_policy(topic.key()).keep.word(),
            kept: messages,
            bytes,
            oldest_at,
        }
    }

    /// Tells what waits for a user.
    pub(super) fn look_into_inbox(
        &self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        user_id: UserId,
    ) -> RequestResult {
        self.may_administer(ask.from)?;
        let topic = self.channels.find_inbox(&user_id).and_then(|place| self.channels.at(place));
        self.answer(ask, Frame::Inbox(Box::new(inbox_entry(cx.now, user_id, topic))), cx.out);
        Ok(())
    }

    /// Lists the users for whom something waits, by name.
    pub(super) fn list_inboxes(&self, cx: &mut Cx<'_>, ask: &RequestContext, after: After) -> RequestResult {
        self.may_administer(ask.from)?;
        let inboxes = self.channels.iter().filter_map(|topic| match topic.key() {
            LogKey::Inbox(user_id) => Some((user_id, topic)).filter(|_| topic.waiting() > 0),
            LogKey::Channel(_) => None,
        });
        let inboxes: Vec<_> = inboxes.collect();
        let entry = |(user_id, topic): &(&UserId, &Topic)| {
            (inbox_entry(cx.now, (*user_id).clone(), Some(topic)), (*user_id).clone())
        };
        let page = Page::of(&inboxes, after.as_deref(), |(user_id, _)| user_id.as_str(), entry);
        self.answer(ask, Frame::Inboxes { inboxes: page.entries, next: page.next }, cx.out);
        Ok(())
    }

    /// Drops what is kept of a channel or for a user.
    pub(super) fn purge(&mut self, cx: &mut Cx<'_>, ask: &RequestContext, target: &Target) -> RequestResult {
        self.may_administer(ask.from)?;
        let place = match target {
            Target::Channel(channel) => self.channels.find_channel(channel),
            Target::User(user) => self.channels.find_inbox(user),
            Target::Connection(_) | Target::All => None,
        };
        let purged = place.map_or(0, |place| self.purge_topic(cx, place));
        self.answer(ask, Frame::Purged { purged }, cx.out);
        Ok(())
    }

    /// Ends a connection, or all of a user; a user who has none is no mistake.
    pub(super) fn disconnect(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        target: &Target,
    ) -> RequestResult {
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
        self.answer(ask, Frame::Disconnected { disconnected }, cx.out);
        for conn in ended {
            self.close(cx, conn, Close::Disconnected);
        }
        Ok(())
    }
}

impl Hub {
    /// Has tokens refused from now on. It is answered when that is on the disk.
    pub(super) fn revoke(
        &mut self,
        ask: &RequestContext,
        revoked: RevocationTarget,
        out: &mut Effects,
    ) -> RequestResult {
        self.may_administer(ask.from)?;
        out.push(Effect::Revoke { to: ask.from, id: ask.id.clone(), revoked });
        Ok(())
    }

    /// A revocation is on the disk, and counts since `at`; or it could not be written, and
    /// does not. Who has asked may be gone.
    pub(super) fn revoked(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        revoked: &RevocationTarget,
        outcome: Result<UnixTime, Refusal>,
    ) {
        let is_there = match ask.from {
            Requester::Connection(conn) => self.connections.get(conn).is_some(),
            Requester::Http(_) => true,
        };
        let revoked_at = match outcome {
            Ok(at) => at,
            Err(refusal) if is_there => return self.refuse(cx, ask, refusal.of("disconnect")),
            Err(_) => return,
        };
        let ended = self.connections.ids(|connection| match revoked {
            RevocationTarget::User(user) => connection.user.as_ref() == Some(user),
            RevocationTarget::Token(jti) => connection.jti() == Some(jti),
        });
        if is_there {
            let disconnected = ended.len() as u64;
            let is_ahead = |conn: &&ConnectionId| {
                let issued_at = self.connections.get(**conn).map(|connection| connection.issued_at.0);
                issued_at.is_some_and(|issued_at| issued_at / 1000 > revoked_at.0 / 1000)
            };
            let ahead = ended.iter().filter(is_ahead).count() as u64;
            self.answer(ask, Frame::Revoked { disconnected, revoked_at, ahead }, cx.out);
        }
        for conn in ended {
            self.close(cx, conn, Close::Disconnected);
        }
    }

    /// Whose tokens were taken, for whoever knows which of them are revoked: the user, the
    /// id of the token and when it was issued.
    pub fn bearers(&self) -> impl Iterator<Item = (ConnectionId, &UserId, Option<&TokenId>, UnixTime)> {
        self.connections.iter().filter_map(|(slot, connection)| {
            let conn = ConnectionId { slot, tag: connection.tag };
            Some((conn, connection.user.as_ref()?, connection.jti(), connection.issued_at))
        })
    }

    /// A connection came with a token that is revoked.
    pub(super) fn expel(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        self.close(cx, conn, Close::Disconnected);
    }
}

/// So many entries are in one answer: what is asked for takes a turn, and others wait for
/// that.
const LISTED: usize = 1000;

/// Part of a list, by name.
pub(super) struct Page<E, K> {
    pub(super) entries: Vec<E>,
    /// The last name, where there are more.
    pub(super) next: Option<K>,
}

impl<E, K> Page<E, K> {
    /// Makes entries of the first so many whose name is greater than the last one before.
    pub(super) fn of<T>(
        all: &[T],
        after: Option<&str>,
        name: impl Fn(&T) -> &str,
        entry: impl Fn(&T) -> (E, K),
    ) -> Self {
        let mut names = all.iter().map(name).enumerate().map(|(at, name)| (name, at));
        let (chosen, is_part) = choose(&mut names, after);
        let chosen = chosen.into_iter().filter_map(|(_, at)| all.get(at));
        let (entries, mut names): (Vec<E>, Vec<K>) = chosen.map(entry).unzip();
        Self { entries, next: names.pop().filter(|_| is_part) }
    }
}

/// The first so many names that are greater than the last one before, and whether there are
/// more.
fn choose<'n>(
    names: &mut dyn Iterator<Item = (&'n str, usize)>,
    after: Option<&str>,
) -> (Vec<(&'n str, usize)>, bool) {
    let mut chosen = BinaryHeap::new();
    let mut is_part = false;
    for one in names.filter(|(name, _)| after.is_none_or(|after| *name > after)) {
        if chosen.len() < LISTED {
            chosen.push(one);
            continue;
        }
        is_part = true;
        if let Some(mut last) = chosen.peek_mut()
            && one < *last
        {
            *last = one;
        }
    }
    (chosen.into_sorted_vec(), is_part)
}

/// A connection as administrators see it, but for what the link knows.
fn entry(now: Now, slot: u32, connection: &Connection) -> ConnectionEntry {
    let rare = connection.rare.as_deref();
    let stuck = rare.map(|rare| rare.stuck_since).filter(|since| *since != NEVER);
    ConnectionEntry {
        connection_id: ConnectionId { slot, tag: connection.tag },
        kind: if connection.is_worker() { "worker" } else { "client" },
        user_id: connection.user.clone(),
        uid: match connection.kind {
            Kind::Worker { uid, .. } => Some(uid),
            Kind::Client | Kind::Waiting => None,
        },
        link: LinkEntry::default(),
        connected_at: at(now, connection.opened),
        heard_at: at(now, connection.heard),
        expires_at: connection.expires_at(),
        jti: connection.jti().cloned(),
        subscriptions: connection.subscriptions() as u64,
        operations: rare.map_or(0, |rare| u64::from(rare.operations)),
        stalled: stuck.map(|since| now.moment.since(since)),
        missed: rare.map_or(0, |rare| rare.missed.iter().map(|missed| missed.lost).sum()),
    }
}

fn inbox_entry(now: Now, user_id: UserId, topic: Option<&Topic>) -> InboxEntry {
    let Held { bytes, oldest_at, .. } = topic.map_or_else(Held::default, |topic| held(now, topic));
    InboxEntry {
        user_id,
        connections: topic.map_or(0, |topic| topic.subscribers().len() as u64),
        epoch: topic.map(|topic| spelled(topic.position().epoch)),
        seq: topic.map_or(0, |topic| topic.position().seq),
        waiting: topic.map_or(0, |topic| topic.waiting() as u64),
        bytes,
        oldest_at,
    }
}

/// What a topic keeps; of an inbox, the oldest is the first that its user has not.
#[derive(Default)]
struct Held {
    messages: u64,
    bytes: u64,
    oldest_at: Option<UnixTime>,
}

fn held(now: Now, topic: &Topic) -> Held {
    let Some(entries) = topic.entries() else { return Held::default() };
    Held {
        messages: entries.len() as u64,
        bytes: entries.bytes() as u64,
        oldest_at: entries.first_after(topic.numbers().cursor()).map(|oldest| at(now, oldest.since())),
    }
}

/// What the clock on the wall showed at a moment, as far as it is known now: it
/// may have been set since, and is more likely to be right after that.
fn at(now: Now, moment: Moment) -> UnixTime {
    let ago = u64::try_from(now.moment.since(moment).as_millis()).unwrap_or(u64::MAX);
    UnixTime(now.wall.0.saturating_sub(ago))
}

#[cfg(test)]
mod tests {
    use super::{LISTED, choose};

    #[test]
    fn a_page_holds_the_first_names_whatever_their_order() {
        let names: Vec<String> = (0..3 * LISTED).map(|number| format!("{number:04}")).collect();
        // Each comes once, far from its neighbours.
        let scattered = (0..names.len()).map(|at| at * 7 % names.len());
        let all: Vec<(&str, usize)> = scattered.map(|at| (names[at].as_str(), at)).collect();
        let (mut after, mut seen) = (None, 0);
        loop {
            let (page, is_part) = choose(&mut all.iter().copied(), after);
            assert_eq!(page.len(), LISTED);
            for (name, at) in page {
                assert_eq!((name, at), (names[seen].as_str(), seen));
                seen += 1;
                after = Some(name);
            }
            if !is_part {
                break;
            }
        }
        assert_eq!(seen, names.len());
        assert_eq!(choose(&mut all.iter().copied(), after), (Vec::new(), false));
    }
}
