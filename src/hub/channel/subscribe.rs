//! Hearing channels.
//!
//! Knows who may hear what and where each begins. Does not know how what is
//! kept is read.

use super::publish::forbidden;
use super::topics::{DeliveryMode, Subscriber, Topic};
use crate::hub::connection::Connection;
use crate::hub::connection::rate_limit::ListSpace;
use crate::hub::event::{Cx, Effect, Effects, LogKey, Requester};
use crate::hub::log::Log;
use crate::hub::log::cursor::{Backlog, DeferredFrame, Gap, Reader};
use crate::hub::log::replay::{gap, new_epoch};
use crate::hub::operation::OperationSummary;
use crate::hub::settings::Keep;
use crate::hub::{Hub, RequestContext, RequestResult};
use crate::protocol::ids::spelled;
use crate::protocol::{Channel, Code, ConnectionId, Frame, OperationId, Position, Refusal, Subscription};

/// Where a subscription begins.
pub(in crate::hub) struct Start {
    /// What it hears first; none for live.
    pub(in crate::hub) backlog: Option<Backlog>,
    /// Whether nothing since the given position is missing, if one was given.
    recovered: Option<bool>,
    /// What is missing.
    lost: Option<Lost>,
}

enum Lost {
    Hole(Gap),
    /// The position is of other numbers: nobody knows how many.
    Epoch,
}

impl Hub {
    pub(in crate::hub) fn subscribe(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &RequestContext,
        conn: ConnectionId,
        list: Vec<Subscription>,
    ) -> RequestResult {
        let limit = self.settings.limits.subscriptions;
        let Some(connection) = self.connections.get_mut(conn) else { return Ok(()) };
        if list.len() > limit {
            let why = format!("{} channels in one request, at most {limit} are allowed", list.len());
            return Err(Refusal::new(Code::TooManySubscriptions, why));
        }
        if connection.is_client() && connection.mark_introduced() {
            cx.out.tell(conn, Frame::ConnectionId { connection_id: conn.to_string() });
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

    /// Whether a connection may hear a channel.
    pub(in crate::hub) fn may_subscribe(&self, connection: &Connection, channel: &Channel) -> RequestResult {
        let (user, rights) = (connection.user(), self.rights_of(connection));
        if let Some(id) = channel.operation() {
            let told = OperationId::new(id).ok().and_then(|id| self.operations.summary(&id));
            let Some(told) = told else {
                return Err(Refusal::new(Code::UnknownOperation, "no such operation"));
            };
            let own = user.is_some() && user == told.user();
            if own || connection.is_worker() || rights.may_subscribe(told.channel(), user) {
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
        let known = self.channels.find(&key).filter(|place| connection.is_subscribed(*place));
        let limit = self.settings.limits.subscriptions;
        if known.is_none() && connection.subscriptions() >= limit {
            let why = format!("a connection may have {limit} subscriptions");
            return Err(Refusal::new(Code::TooManySubscriptions, why));
        }
        let place = self.topic(key);
        self.forget_end_of(conn, &wish.channel);
        self.expire_due(cx, place);
        let mut start = self.start(place, known.is_some(), wish.since);
        self.join(place, conn, wish.presence, cx.out);
        self.confirm(ask, conn, place, &wish.channel, (wish.presence, room), &start, cx.out);
        match start.backlog.take() {
            Some(backlog) => {
                self.forget_missed(place, conn);
                self.restart(cx, place, conn, backlog);
            }
            None => self.break_off(place, conn, cx.out),
        }
        self.settle(cx.now, place);
        if let Some(told) = self.told(&wish.channel) {
            cx.out.tell(conn, told.clone().frame());
            if told.is_over() {
                self.unsubscribe_from(cx, conn, place);
                cx.out.tell(conn, Frame::Unsubscribed { channel: wish.channel, reason: "ended" });
                self.channels.forget_now(place);
            }
        }
        Ok(())
    }

    /// That the channel of an operation has ended is not told to somebody who
    /// subscribes to it again, for the next operation of that name.
    fn forget_end_of(&mut self, conn: ConnectionId, channel: &Channel) {
        if channel.operation().is_none() {
            return;
        }
        let places = self.connections.get(conn).map(|connection| connection.topics().clone());
        for place in places.into_iter().flatten() {
            let reader =
                self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()?.reader_mut(conn.slot));
            if let Some(reader) = reader {
                reader.words.retain(
                    |(_, word)| !matches!(word, DeferredFrame::Unsubscribed(ended) if ended == channel),
                );
            }
        }
    }

    /// The operation whose channel this is, running or remembered.
    fn told(&self, channel: &Channel) -> Option<OperationSummary> {
        let id = OperationId::new(channel.operation()?).ok()?;
        self.operations.summary(&id)
    }

    /// Where a subscription begins.
    pub(in crate::hub) fn start(&self, place: u32, known: bool, since: Option<Position>) -> Start {
        let live = Start { backlog: None, recovered: None, lost: None };
        let Some(topic) = self.channels.at(place) else { return live };
        let policy = self.policy_of(&topic.key);
        let log = topic.log.as_deref();
        let Some(since) = since else {
            // A repeated subscription goes on where it is: what nobody else has
            // heard may be what this one said and heard itself.
            let is_owed = !known && policy.keep != Keep::History;
            return Start { backlog: log.filter(|_| is_owed).and_then(Log::unclaimed), ..live };
        };
        let all = since.epoch.is_empty() && since.seq == 0;
        let ours = since.epoch == spelled(topic.epoch) && since.seq <= topic.seq;
        if !all && !ours {
            return Start {
                backlog: Some(Backlog::after(0)),
                recovered: Some(false),
                lost: Some(Lost::Epoch),
            };
        }
        // What a disk has that cannot be read was numbered as nobody knows.
        let is_unread = self.seq_floor.is_some() && topic.jump.as_ref().is_some_and(|jump| jump.from == 0);
        let lost = match topic.missing(since.seq) {
            _ if is_unread && all => Some(Lost::Epoch),
            missing => missing.map(Lost::Hole),
        };
        Start { backlog: Some(Backlog::after(since.seq)), recovered: Some(lost.is_none()), lost }
    }

    /// Makes a connection a subscriber, if it is none.
    fn join(&mut self, place: u32, conn: ConnectionId, watches: bool, out: &mut Effects) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Some(topic) = self.channels.at_mut(place) else { return };
        if connection.is_subscribed(place) {
            if let Some(subscriber) = topic.subscriber_mut(conn.slot) {
                subscriber.watches = watches;
            }
            self.watch(place);
            return;
        }
        connection.add_channel(place);
        let user = connection.user().cloned();
        topic.subscribers.push(Subscriber { slot: conn.slot, hearing: DeliveryMode::Live, watches });
        if let Some(user) = user {
            self.arrived(place, conn.slot, &user, out);
        }
        self.watch(place);
    }

    #[expect(clippy::too_many_arguments, reason = "all that one frame tells, and to whom")]
    fn confirm(
        &self,
        ask: &RequestContext,
        conn: ConnectionId,
        place: u32,
        channel: &Channel,
        (presence, room): (bool, &mut ListSpace),
        start: &Start,
        out: &mut Effects,
    ) {
        let Some(topic) = self.channels.at(place) else { return };
        let after_seq = self.begins_after(topic, conn, start);
        let (operations, operations_running) = self.operations.list_on(channel, room);
        let frame = Frame::SubscriptionSucceeded {
            channel: channel.clone(),
            epoch: spelled(topic.epoch),
            seq: topic.seq,
            after_seq,
            recovered: start.recovered,
            presence: if presence { self.present(topic, room).1 } else { None },
            operations,
            operations_running,
        };
        self.answer(ask, frame, out);
        match &start.lost {
            None => {}
            Some(Lost::Hole(hole)) => out.push(gap(conn, channel.clone(), topic.epoch, hole)),
            Some(Lost::Epoch) => out.push(new_epoch(conn, channel.clone(), topic.epoch)),
        }
    }

    /// The position before the first message that a subscription brings. Who stores the
    /// last position there is, and goes before the backlog has come, would not be told of
    /// it again.
    fn begins_after(&self, topic: &Topic, conn: ConnectionId, start: &Start) -> u64 {
        let asked = start.backlog.as_ref();
        if let (Some(true), Some(backlog)) = (start.recovered, asked) {
            return backlog.after;
        }
        let Some(log) = topic.log.as_deref() else { return topic.seq };
        // Who is still to hear what nobody else has heard reads on.
        let reads_on = asked.is_none() && self.policy_of(&topic.key).keep != Keep::History;
        let continued = log.reader(conn.slot).filter(|_| reads_on).map(Reader::backlog);
        let Some(backlog) = asked.or(continued.as_ref()) else { return topic.seq };
        log.first_for(conn.tag, backlog).map_or(topic.seq, |seq| seq - 1)
    }

    /// Reads anew: what was being read is given up, what is on its way arrives
    /// before.
    pub(in crate::hub) fn restart(
        &mut self,
        cx: &mut Cx<'_>,
        place: u32,
        conn: ConnectionId,
        backlog: Backlog,
    ) {
        // What waits for the backlog waits for it as it is read now.
        let reader = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()?.reader_mut(conn.slot));
        let words = reader.map(|reader| std::mem::take(&mut reader.words)).unwrap_or_default();
        self.give_up_reading(place, conn, cx.out);
        self.read_from(place, conn.slot, backlog);
        let reader = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()?.reader_mut(conn.slot));
        if let Some(reader) = reader {
            reader.words = words;
        }
        self.advance(cx, place, conn.slot);
    }

    /// Who subscribes again and asks for nothing of a history hears it live. What
    /// nobody has heard yet is read on: it is owed to somebody.
    fn break_off(&mut self, place: u32, conn: ConnectionId, out: &mut Effects) {
        let Some(topic) = self.channels.at(place) else { return };
        if self.policy_of(&topic.key).keep != Keep::History {
            return;
        }
        self.give_up_reading(place, conn, out);
        let subscriber = self.channels.at_mut(place).and_then(|topic| topic.subscriber_mut(conn.slot));
        if let Some(subscriber) = subscriber {
            subscriber.hearing = DeliveryMode::Live;
        }
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

impl Effects {
    /// Tells one connection something that it did not ask for.
    pub(in crate::hub) fn tell(&mut self, conn: ConnectionId, frame: Frame<'static>) {
        self.push(Effect::Reply { to: Requester::Connection(conn), id: None, frame: Box::new(frame) });
    }
}
