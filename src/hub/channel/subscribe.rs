//! Subscriptions: how they begin and end, to channels and to the inbox of a user.
//!
//! An inbox is one more topic, to which each connection of its user is subscribed unasked. All
//! of them share one cursor, which acknowledgements move, or, without those, what sockets
//! take; [`replay`](crate::hub::log::replay) does the latter.

use super::presence::present;
use super::publish::forbidden;
use super::receipts::ReceiptState;
use super::subscription_start::{DiskIndex, Subscribed, SubscriptionStart};
use super::topic::{DeliveryMode, Subscriber, Topic};
use super::topics::TopicId;
use crate::hub::connection::Connection;
use crate::hub::connection::rate_limit::ListSpace;
use crate::hub::event::{Cx, Effects, LogKey};
use crate::hub::log::cursor::Backlog;
use crate::hub::operation::OperationSummary;
use crate::hub::settings::Keep;
use crate::hub::{Hub, RequestContext, RequestResult};
use crate::protocol::frame::InboxState;
use crate::protocol::ids::spelled;
use crate::protocol::{
    Channel, Code, ConnectionId, Frame, InboxMode, OperationId, Position, Refusal, Subscription, UserId,
};

/// How a connection leaves a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::hub) enum Leaving {
    /// By asking for it, or for lack of a right: the connection stays.
    Unsubscribed,
    /// With the connection.
    Lost,
}

/// Channels: beginning.
impl Hub {
    pub(in crate::hub) fn subscribe(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        conn: ConnectionId,
        list: Vec<Subscription>,
    ) -> RequestResult {
        let limit = self.settings.limits.subscriptions;
        let Some(connection) = self.connections.existing_mut(conn) else { return Ok(()) };
        if list.len() > limit {
            let why = format!("{} channels in one request, at most {limit} are allowed", list.len());
            return Err(Refusal::new(Code::TooManySubscriptions, why));
        }
        if connection.is_client() && connection.mark_introduced() {
            cx.out.notify(conn, Frame::ConnectionId { connection_id: conn.to_string() });
        }
        let mut room = ListSpace::default();
        for wish in last_of_each(list) {
            let channel = wish.channel.clone();
            if let Err(refusal) = self.subscribe_to(cx, ask, conn, wish, &mut room) {
                self.refuse(cx, ask, refusal.of("subscribe").on(&channel));
            }
        }
        Ok(())
    }

    /// Whether a connection may subscribe to a channel.
    pub(in crate::hub) fn may_subscribe(&self, connection: &Connection, channel: &Channel) -> RequestResult {
        let (user, rights) = (connection.user(), self.rights_of(connection));
        if let Some(id) = channel.operation() {
            let summary = OperationId::new(id).ok().and_then(|id| self.operations.summary(&id));
            let Some(summary) = summary else {
                return Err(Refusal::new(Code::UnknownOperation, "no such operation"));
            };
            let own = user.is_some() && user == summary.user();
            if own || connection.is_worker() || rights.may_subscribe(summary.channel(), user) {
                return Ok(());
            }
        } else if channel.as_str().starts_with('@') {
            return Err(forbidden(format!("{channel} is not a channel to subscribe to")));
        } else if connection.is_worker() || rights.may_subscribe(channel, user) {
            return Ok(());
        }
        Err(forbidden(format!("the right to subscribe to {channel} is missing")))
    }

    fn subscribe_to(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        conn: ConnectionId,
        wish: Subscription,
        room: &mut ListSpace,
    ) -> RequestResult {
        let Some(connection) = self.connections.get(conn) else { return Ok(()) };
        self.may_subscribe(connection, &wish.channel)?;
        let key = LogKey::Channel(wish.channel.clone());
        let known = self.channels.find(&key).filter(|id| connection.is_subscribed(*id));
        let limit = self.settings.limits.subscriptions;
        if known.is_none() && connection.subscriptions() >= limit {
            let why = format!("a connection may have {limit} subscriptions");
            return Err(Refusal::new(Code::TooManySubscriptions, why));
        }
        let id = self.find_or_add_topic(key);
        self.forget_end_of(conn, &wish.channel);
        self.expire_due(cx, id);
        let subscribed = if known.is_some() { Subscribed::Already } else { Subscribed::New };
        let Some(start) = self.subscription_start(id, subscribed, wish.since.as_ref()) else {
            debug_assert!(false, "the topic was found or added");
            return Ok(());
        };
        self.join(id, conn, &wish, cx.out);
        if let Some(topic) = self.channels.at(id) {
            self.answer(ask, self.confirmation(topic, conn, &wish, &start, room), cx.out);
            start.notify_missing(topic, conn, cx.out);
        }
        match start.into_backlog() {
            Some(backlog) => {
                self.forget_missed(id, conn);
                self.restart_reading(cx, id, conn, backlog);
            }
            None => self.break_off(id, conn, cx.out),
        }
        self.refresh_topic(cx.now, id);
        if let Some(summary) = self.operation_of(&wish.channel) {
            let is_over = summary.is_over();
            cx.out.notify(conn, summary.frame());
            if is_over {
                self.unsubscribe_from(cx, conn, id);
                cx.out.notify(conn, Frame::Unsubscribed { channel: wish.channel, reason: "ended" });
                self.channels.forget_now(id);
            }
        }
        Ok(())
    }

    /// That the channel of an operation has ended is not announced to a connection which
    /// subscribes to it again, for the next operation of that name.
    fn forget_end_of(&mut self, conn: ConnectionId, channel: &Channel) {
        if channel.operation().is_none() {
            return;
        }
        let ids = self.connections.get(conn).map(|connection| connection.topics().clone());
        for id in ids.into_iter().flatten() {
            if let Some(reader) = self.channels.log_mut(id).and_then(|log| log.reader_mut(conn.slot)) {
                reader.forget_end_of(channel);
            }
        }
    }

    /// The operation whose channel this is, running or remembered.
    fn operation_of(&self, channel: &Channel) -> Option<OperationSummary> {
        let id = OperationId::new(channel.operation()?).ok()?;
        self.operations.summary(&id)
    }

    fn subscription_start(
        &self,
        id: TopicId,
        subscribed: Subscribed,
        since: Option<&Position>,
    ) -> Option<SubscriptionStart> {
        let topic = self.channels.existing(id)?;
        let keep = self.settings.log_policy(topic.key()).keep;
        let disk = if self.seq_floor.is_some() { DiskIndex::Unknown } else { DiskIndex::Complete };
        Some(SubscriptionStart::new(topic, keep, subscribed, since, disk))
    }

    /// Makes a connection a subscriber, if it is none.
    fn join(&mut self, id: TopicId, conn: ConnectionId, wish: &Subscription, out: &mut Effects) {
        let Some(connection) = self.connections.existing_mut(conn) else { return };
        let Some(topic) = self.channels.existing_mut(id) else { return };
        if connection.is_subscribed(id) {
            topic.set_watching(conn.slot, wish.presence);
        } else {
            connection.add_channel(id);
            let user = connection.user().cloned();
            let subscriber = Subscriber::new(conn.slot, DeliveryMode::Live).watching(wish.presence);
            topic.add_subscriber(subscriber);
            if let Some(user) = user {
                self.channels.join_presence(&self.connections, id, conn.slot, &user, out);
            }
        }
        self.channels.watch(&self.connections, &mut self.timers, id);
    }

    fn confirmation(
        &self,
        topic: &Topic,
        conn: ConnectionId,
        wish: &Subscription,
        start: &SubscriptionStart,
        room: &mut ListSpace,
    ) -> Frame<'static> {
        let keep = self.settings.log_policy(topic.key()).keep;
        let (operations, operations_running) = self.operations.list_on(&wish.channel, room);
        Frame::SubscriptionSucceeded {
            channel: wish.channel.clone(),
            epoch: spelled(topic.position().epoch),
            seq: topic.position().seq,
            after_seq: start.after_seq(topic, keep, conn),
            recovered: start.recovered(),
            presence: if wish.presence { present(topic, &self.connections, room).1 } else { None },
            operations,
            operations_running,
        }
    }

    /// Reads anew: what was being read is given up, what is on its way arrives
    /// before.
    pub(in crate::hub) fn restart_reading(
        &mut self,
        cx: &mut Cx<'_>,
        id: TopicId,
        conn: ConnectionId,
        backlog: Backlog,
    ) {
        // What waits for the backlog waits for it as it is read now.
        let deferred = self.channels.log_mut(id).map(|log| log.take_deferred(conn.slot)).unwrap_or_default();
        self.stop_reading(id, conn, cx.out);
        self.start_reading(id, conn.slot, backlog);
        if let Some(log) = self.channels.log_mut(id) {
            log.set_deferred(conn.slot, deferred);
        }
        self.advance(cx, id, conn.slot);
    }

    /// A subscriber that asks again, and for nothing of a history, gets it live. What
    /// was not delivered to any subscriber yet is read on: it is still owed.
    fn break_off(&mut self, id: TopicId, conn: ConnectionId, out: &mut Effects) {
        let Some(topic) = self.channels.existing(id) else { return };
        if self.settings.log_policy(topic.key()).keep != Keep::History {
            return;
        }
        self.stop_reading(id, conn, out);
        if let Some(topic) = self.channels.at_mut(id) {
            topic.set_mode(conn.slot, DeliveryMode::Live);
        }
    }

    pub(in crate::hub) fn presence(
        &self,
        ask: &RequestContext,
        channel: Channel,
        out: &mut Effects,
    ) -> RequestResult {
        self.may_look(ask.from, &channel)?;
        let topic = self.channels.find_channel(&channel).and_then(|id| self.channels.at(id));
        let (count, presence) = topic.map_or((0, Some(Vec::new())), |topic| {
            present(topic, &self.connections, &mut ListSpace::default())
        });
        self.answer(ask, Frame::Presence { channel, presence, count }, out);
        Ok(())
    }
}

/// Channels: ending.
impl Hub {
    /// What was shed of a topic is of no interest any more.
    fn forget_missed(&mut self, id: TopicId, conn: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.forget_missed(id);
        }
    }

    /// What it was still to read is given up; what is on its way arrives, and
    /// what waited for the backlog is sent.
    fn stop_reading(&mut self, id: TopicId, conn: ConnectionId, out: &mut Effects) {
        let Some(log) = self.channels.log_mut(id) else { return };
        let Some(deferred) = log.stop_reading(conn.slot) else { return };
        for frame in deferred {
            out.notify(conn, frame.into_frame());
        }
        let Some(connection) = self.connections.existing_mut(conn) else { return };
        let channels = &self.channels;
        connection.add_lingering(id, |id| channels.log(id).is_some());
    }

    pub(in crate::hub) fn unsubscribe(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        conn: ConnectionId,
        channel: Channel,
    ) -> RequestResult {
        if let Some(id) = self.channels.find_channel(&channel) {
            self.unsubscribe_from(cx, conn, id);
        }
        self.answer(ask, Frame::UnsubscribeSucceeded { channel }, cx.out);
        Ok(())
    }

    /// Ends one subscription of a connection that stays.
    pub(in crate::hub) fn unsubscribe_from(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, id: TopicId) {
        let Some(connection) = self.connections.existing_mut(conn) else { return };
        if !connection.remove_topic(id) {
            return;
        }
        let user = connection.user().cloned();
        self.forget_missed(id, conn);
        self.stop_reading(id, conn, cx.out);
        self.leave(cx, id, conn, user.as_ref(), Leaving::Unsubscribed);
    }

    /// Takes a connection out of a topic.
    pub(in crate::hub) fn leave(
        &mut self,
        cx: &mut Cx<'_>,
        id: TopicId,
        conn: ConnectionId,
        user: Option<&UserId>,
        how: Leaving,
    ) {
        let Some(topic) = self.channels.existing_mut(id) else { return };
        if topic.remove_subscriber(conn.slot)
            && let Some(user) = user
        {
            let (is_inbox, is_last) = (topic.is_inbox(), topic.subscribers().is_empty());
            self.channels.leave_presence(cx, &self.connections, &mut self.timers, id, user, how);
            match is_last {
                true if is_inbox => self.user_left(cx.now, user.clone()),
                false if is_inbox => self.channels.announce_waiting(id, cx.out),
                _ => {}
            }
        }
        if how == Leaving::Lost {
            self.drop_readers(id, conn);
        }
        self.channels.watch(&self.connections, &mut self.timers, id);
        self.sweep(cx, id);
    }

    /// Nothing that was on its way to a lost connection arrives.
    pub(in crate::hub) fn drop_readers(&mut self, id: TopicId, conn: ConnectionId) {
        if let Some(log) = self.channels.log_mut(id) {
            log.drop_readers(conn);
        }
    }

    /// Ends the subscriptions that a connection may have no longer.
    pub(in crate::hub) fn check_subscriptions(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        let Some(connection) = self.connections.existing(conn) else { return };
        let mut ended = Vec::new();
        for id in connection.topics() {
            let Some(LogKey::Channel(channel)) = self.channels.at(*id).map(Topic::key) else { continue };
            if self.may_subscribe(connection, channel).is_err() {
                ended.push((*id, channel.clone()));
            }
        }
        for (id, channel) in ended {
            self.unsubscribe_from(cx, conn, id);
            cx.out.notify(conn, Frame::Unsubscribed { channel, reason: "forbidden" });
        }
    }
}

/// Inboxes.
impl Hub {
    /// Where the inbox of a user stands, for the frame after which a connection
    /// gets it.
    pub(in crate::hub) fn inbox_state(&mut self, cx: &mut Cx<'_>, user: &UserId) -> Option<InboxState> {
        let id = self.find_or_add_topic(LogKey::Inbox(user.clone()));
        self.expire_due(cx, id);
        let topic = self.channels.at(id)?;
        let position = topic.position();
        Some(InboxState {
            epoch: spelled(position.epoch),
            seq: position.seq,
            waiting: topic.waiting() as u64,
        })
    }

    /// Makes a connection one of its user's: it gets the inbox, first what
    /// waits there.
    pub(in crate::hub) fn join_inbox(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        let Some(connection) = self.connections.existing(conn) else { return };
        let (Some(user), inbox) = (connection.user().cloned(), connection.inbox_mode()) else { return };
        let id = self.find_or_add_topic(LogKey::Inbox(user.clone()));
        let mode = if inbox == InboxMode::Off { DeliveryMode::Off } else { DeliveryMode::Live };
        let Some(topic) = self.channels.existing_mut(id) else { return };
        let is_first = topic.subscribers().is_empty();
        topic.add_subscriber(Subscriber::new(conn.slot, mode));
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.add_inbox(id);
        }
        if mode == DeliveryMode::Live {
            self.read_inbox(cx, id, conn);
        } else {
            // A user who is back only like this is away for what waits.
            self.channels.announce_waiting(id, cx.out);
        }
        self.refresh_topic(cx.now, id);
        if is_first {
            self.user_joined(cx, &user);
        }
    }

    /// Begins or ceases to deliver the inbox, as the connection has just asked for.
    pub(in crate::hub) fn change_inbox(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        let Some(connection) = self.connections.existing(conn) else { return };
        let is_off = connection.inbox_mode() == InboxMode::Off;
        let Some(id) = connection.inbox_topic() else { return };
        let Some(topic) = self.channels.existing_mut(id) else { return };
        let Some(mode) = topic.mode_of(conn.slot) else { return };
        if is_off == (mode == DeliveryMode::Off) {
            return;
        }
        topic.set_mode(conn.slot, if is_off { DeliveryMode::Off } else { DeliveryMode::Live });
        if is_off {
            self.stop_reading(id, conn, cx.out);
            self.forget_missed(id, conn);
            self.sweep(cx, id);
            self.channels.announce_waiting(id, cx.out);
        } else {
            self.read_inbox(cx, id, conn);
        }
    }

    /// Reads what lies after the cursor, if anything does, kept or lost.
    fn read_inbox(&mut self, cx: &mut Cx<'_>, id: TopicId, conn: ConnectionId) {
        let Some(topic) = self.channels.existing(id) else { return };
        let after = topic.numbers().cursor();
        if after < topic.position().seq {
            let backlog = Backlog::new(after).with_gaps(topic.gaps(after).into());
            self.restart_reading(cx, id, conn, backlog);
        }
    }

    /// A client acknowledges up to where its user has the inbox.
    pub(in crate::hub) fn ack(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnectionId,
        position: &Position,
        state: ReceiptState,
    ) {
        let Some(connection) = self.connections.get(conn) else { return };
        if connection.user().is_none() || connection.inbox_mode() == InboxMode::Off {
            return;
        }
        let Some(id) = connection.inbox_topic() else { return };
        let Some(topic) = self.channels.existing_mut(id) else { return };
        if !topic.numbers().may_acknowledge(position) {
            return;
        }
        // What was passed over is not acknowledged with what follows it.
        let seq = topic.log().map_or(position.seq, |log| log.cursor_limit(position.seq));
        topic.move_cursor(seq);
        self.sweep(cx, id);
        self.send_receipts(cx, id, seq, state);
    }
}

/// What is asked of each channel: of one that is named again the last counts, in the place
/// of the first.
fn last_of_each(list: Vec<Subscription>) -> Vec<Subscription> {
    let mut wishes: Vec<Subscription> = Vec::with_capacity(list.len());
    for wish in list {
        match wishes.iter_mut().find(|before| before.channel == wish.channel) {
            Some(before) => *before = wish,
            None => wishes.push(wish),
        }
    }
    wishes
}
