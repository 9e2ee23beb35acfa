//! Requests of administrators: statistics, lists, purge, disconnect, revoke.

use std::collections::BinaryHeap;

use super::channel::topic::{DeliveryMode, Subscriber, Topic};
use super::connection::Connection;
use super::event::{Cx, Effect, LogKey, Now, Requester};
use super::{Hub, RequestContext, RequestResult};
use crate::protocol::frame::{ChannelEntry, ConnectionEntry, InboxEntry, LinkEntry, Statistics};
use crate::protocol::ids::spelled;
use crate::protocol::request::After;
use crate::protocol::{
    Channel, Close, Code, ConnectionId, Frame, Moment, Refusal, RevocationTarget, Target, TokenId, UnixTime,
    UserId,
};

impl Hub {
    /// Answers with the numbers of the daemon. They are counted on
    /// request, so that there is nothing which could be wrong.
    pub(super) fn stats(&self, cx: &mut Cx<'_>, request: &RequestContext) -> RequestResult {
        self.may_administer(request.from)?;
        self.answer(request, Frame::Stats(Box::new(self.statistics(cx.now))), cx.out);
        Ok(())
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
            memory_level: self.memory.level() as u64,
            uptime_seconds: self.started.map_or(0, |started| now.moment.since(started).as_secs()),
            refused: self.refused,
            counters: self.counters,
            ..Statistics::default()
        };
        for (_, connection) in self.connections.iter() {
            match connection.is_worker() {
                true => counted.workers += 1,
                false => counted.total_connections += 1,
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

    /// Lists the open connections, in the order of their slots.
    pub(super) fn list_connections(
        &self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        after: After,
    ) -> RequestResult {
        self.may_administer(request.from)?;
        let no_id = || Refusal::new(Code::BadRequest, "`after` must be the `next` of an answer");
        let after = after.map(|id| ConnectionId::parse(&id).ok_or_else(no_id)).transpose()?;
        let from = after.map_or(0, |conn| conn.slot as usize + 1);
        let mut rest = self.connections.iter_from(from).peekable();
        let page = rest.by_ref().take(LISTED);
        let connections: Vec<_> =
            page.map(|(slot, connection)| connection_entry(cx.now, slot, connection)).collect();
        let last = connections.last().map(|last| last.connection_id);
        let next = last.filter(|_| rest.peek().is_some());
        self.answer(request, Frame::Connections { connections, next }, cx.out);
        Ok(())
    }

    /// Lists the channels there are, by name.
    pub(super) fn list_channels(
        &self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        after: After,
    ) -> RequestResult {
        self.may_administer(request.from)?;
        let channels = self.channels.iter().filter_map(|topic| match topic.key() {
            LogKey::Channel(channel) => Some((channel, topic)),
            LogKey::Inbox(_) => None,
        });
        let channels: Vec<_> = channels.collect();
        let entry = |(channel, topic): &(&Channel, &Topic)| {
            (self.channel_entry(cx.now, channel, topic), (*channel).clone())
        };
        let page = Page::of(&channels, after.as_deref(), |(channel, _)| channel.as_str(), entry);
        self.answer(request, Frame::Channels { channels: page.entries, next: page.next }, cx.out);
        Ok(())
    }

    fn channel_entry(&self, now: Now, channel: &Channel, topic: &Topic) -> ChannelEntry {
        let KeptMessages { messages, bytes, oldest_at } = kept_messages(now, topic);
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

    /// Shows what is kept for a user.
    pub(super) fn show_inbox(
        &self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        user_id: UserId,
    ) -> RequestResult {
        self.may_administer(request.from)?;
        let topic = self.channels.find_inbox(&user_id).and_then(|place| self.channels.at(place));
        self.answer(request, Frame::Inbox(Box::new(inbox_entry(cx.now, user_id, topic))), cx.out);
        Ok(())
    }

    /// Lists the users for whom something is kept, by name.
    pub(super) fn list_inboxes(
        &self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        after: After,
    ) -> RequestResult {
        self.may_administer(request.from)?;
        let inboxes = self.channels.iter().filter_map(|topic| match topic.key() {
            LogKey::Inbox(user_id) => Some((user_id, topic)).filter(|_| topic.waiting() > 0),
            LogKey::Channel(_) => None,
        });
        let inboxes: Vec<_> = inboxes.collect();
        let entry = |(user_id, topic): &(&UserId, &Topic)| {
            (inbox_entry(cx.now, (*user_id).clone(), Some(topic)), (*user_id).clone())
        };
        let page = Page::of(&inboxes, after.as_deref(), |(user_id, _)| user_id.as_str(), entry);
        self.answer(request, Frame::Inboxes { inboxes: page.entries, next: page.next }, cx.out);
        Ok(())
    }

    /// Drops what is kept of a channel or for a user.
    pub(super) fn purge(
        &mut self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        target: &Target,
    ) -> RequestResult {
        self.may_administer(request.from)?;
        let place = match target {
            Target::Channel(channel) => self.channels.find_channel(channel),
            Target::User(user) => self.channels.find_inbox(user),
            Target::Connection(_) | Target::All => None,
        };
        let purged = place.map_or(0, |place| self.purge_topic(cx, place));
        self.answer(request, Frame::Purged { purged }, cx.out);
        Ok(())
    }

    /// Closes a connection, or all of a user; a user without one is no mistake.
    pub(super) fn disconnect(
        &mut self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        target: &Target,
    ) -> RequestResult {
        self.may_administer(request.from)?;
        let ended = match target {
            Target::Connection(id) => {
                let found = ConnectionId::parse(id).filter(|id| self.connections.contains(*id));
                vec![found.ok_or_else(|| Refusal::new(Code::UnknownConnection, "no such connection"))?]
            }
            Target::User(user) => self.connections.ids(|connection| connection.is_of(user)),
            Target::Channel(_) | Target::All => Vec::new(),
        };
        let disconnected = ended.len() as u64;
        // A requester that closes its own connection is answered before that.
        self.answer(request, Frame::Disconnected { disconnected }, cx.out);
        for conn in ended {
            self.close(cx, conn, Close::Disconnected);
        }
        Ok(())
    }

    /// Has tokens refused from now on. It is answered when that is on the disk.
    pub(super) fn revoke(
        &self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        revoked: RevocationTarget,
    ) -> RequestResult {
        self.may_administer(request.from)?;
        cx.out.push(Effect::Revoke { to: request.from, id: request.id.clone(), revoked });
        Ok(())
    }

    /// A revocation is on the disk, and counts since then; or it could not be written, and
    /// does not. The requester may be gone.
    pub(super) fn on_revocation_saved(
        &mut self,
        cx: &mut Cx<'_>,
        request: &RequestContext,
        revoked: &RevocationTarget,
        outcome: Result<UnixTime, Refusal>,
    ) {
        let is_open = match request.from {
            Requester::Connection(conn) => self.connections.contains(conn),
            Requester::Http(_) => true,
        };
        let revoked_at = match outcome {
            Ok(at) => at,
            Err(refusal) if is_open => return self.refuse(cx, request, refusal.of("disconnect")),
            Err(_) => return,
        };
        let ended = self.connections.ids(|connection| match revoked {
            RevocationTarget::User(user) => connection.is_of(user),
            RevocationTarget::Token(jti) => connection.jti() == Some(jti),
        });
        if is_open {
            let disconnected = ended.len() as u64;
            let is_ahead = |conn: &&ConnectionId| {
                let issued_at = self.connections.get(**conn).map(|connection| connection.issued_at().0);
                issued_at.is_some_and(|issued_at| issued_at / 1000 > revoked_at.0 / 1000)
            };
            let ahead = ended.iter().filter(is_ahead).count() as u64;
            self.answer(request, Frame::Revoked { disconnected, revoked_at, ahead }, cx.out);
        }
        for conn in ended {
            self.close(cx, conn, Close::Disconnected);
        }
    }

    /// Connections with a user, to be checked against the revocations.
    pub fn bearers(&self) -> impl Iterator<Item = Bearer<'_>> {
        self.connections.iter().filter_map(|(slot, connection)| {
            Some(Bearer {
                conn: connection.id(slot),
                user: connection.user()?,
                jti: connection.jti(),
                issued_at: connection.issued_at(),
            })
        })
    }
}

/// A connection whose token was verified.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    pub conn: ConnectionId,
    pub user: &'a UserId,
    /// The id of the token.
    pub jti: Option<&'a TokenId>,
    /// When the token was issued; 0 where that is not known.
    pub issued_at: UnixTime,
}

/// So many entries are in one answer: it takes a turn of the loop, and everything else waits
/// for that.
const LISTED: usize = 1000;

/// Part of a list, by name.
pub(super) struct Page<E, K> {
    entries: Vec<E>,
    /// The last name, where there are more.
    next: Option<K>,
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

    /// The entries, and the last name where there are more.
    pub(super) fn into_parts(self) -> (Vec<E>, Option<K>) {
        (self.entries, self.next)
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

/// A connection as administrators see it, but for what its socket knows.
fn connection_entry(now: Now, slot: u32, connection: &Connection) -> ConnectionEntry {
    ConnectionEntry {
        connection_id: connection.id(slot),
        kind: if connection.is_worker() { "worker" } else { "client" },
        user_id: connection.user().cloned(),
        uid: connection.worker_uid(),
        link: LinkEntry::default(),
        connected_at: at(now, connection.opened()),
        heard_at: at(now, connection.last_activity()),
        expires_at: connection.expires_at(),
        jti: connection.jti().cloned(),
        subscriptions: connection.subscriptions() as u64,
        operations: u64::from(connection.operations()),
        stalled: connection.stalled_since().map(|since| now.moment.since(since)),
        missed: connection.missed(),
    }
}

fn inbox_entry(now: Now, user_id: UserId, topic: Option<&Topic>) -> InboxEntry {
    let KeptMessages { bytes, oldest_at, .. } =
        topic.map_or_else(KeptMessages::default, |topic| kept_messages(now, topic));
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

/// What a topic keeps; of an inbox, the oldest is the first that its user does not have yet.
#[derive(Default)]
struct KeptMessages {
    messages: u64,
    bytes: u64,
    oldest_at: Option<UnixTime>,
}

fn kept_messages(now: Now, topic: &Topic) -> KeptMessages {
    let Some(entries) = topic.entries() else { return KeptMessages::default() };
    KeptMessages {
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
