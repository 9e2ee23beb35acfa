//! Fanout: the recipients of a message, now and later; and what the hub itself publishes.
//!
//! [`publish`](super::publish) decides who may publish.

use std::rc::Rc;

use serde::Serialize;

use super::delivery::{DeliveryCounts, PublishOptions, Publisher};
use super::presence::GRACE;
use super::receipts::{OwedReceipt, ReceiptRecipient, ReceiptState};
use super::system_channels::{UserData, undelivered_data};
use super::topic::{DeliveryMode, Topic};
use super::topics::TopicId;
use crate::hub::Hub;
use crate::hub::connection::Connection;
use crate::hub::connection::account::Account;
use crate::hub::event::{Cx, DeliveryOutcome, Effect, Effects, LogKey, Now};
use crate::hub::log::cursor::Backlog;
use crate::hub::log::entries::LogEntry;
use crate::hub::log::position::LogPosition;
use crate::hub::log::publisher_quota::Author;
use crate::hub::settings::{Keep, Policy};
use crate::hub::timers::round_up;
use crate::protocol::frame::GapCause;
use crate::protocol::{Channel, Event, Message, MessageId, Payload, Sender, UserId};

/// What has become of a message that was published.
pub(super) struct FanoutResult {
    counts: DeliveryCounts,
    place: Option<PublishedPlace>,
}

/// The position that a message has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PublishedPlace {
    id: TopicId,
    position: LogPosition,
}

impl PublishedPlace {
    pub(super) fn id(self) -> TopicId {
        self.id
    }

    pub(super) fn position(self) -> LogPosition {
        self.position
    }
}

impl FanoutResult {
    /// It has no position.
    pub(super) fn unplaced(counts: DeliveryCounts) -> Self {
        Self { counts, place: None }
    }

    pub(super) fn counts(&self) -> DeliveryCounts {
        self.counts
    }

    /// The position that it has got, if any.
    pub(super) fn place(&self) -> Option<PublishedPlace> {
        self.place
    }
}

/// A message on its way to the subscribers of one topic.
pub(in crate::hub) struct Fanout {
    id: TopicId,
    message: Rc<Message>,
    options: PublishOptions,
    /// Whether any recipient but its publisher gets it live.
    is_delivered: bool,
    /// How many read what lies before it.
    reading: u64,
    /// How many have no room.
    full: u64,
}

impl Fanout {
    pub(in crate::hub) fn id(&self) -> TopicId {
        self.id
    }

    pub(in crate::hub) fn message(&self) -> &Rc<Message> {
        &self.message
    }

    pub(in crate::hub) fn options(&self) -> &PublishOptions {
        &self.options
    }

    /// Whether a policy keeps the message for later readers.
    fn is_kept_by(&self, keep: Keep) -> bool {
        match keep {
            Keep::Never => self.reading > 0,
            Keep::History | Keep::Unacknowledged => true,
            Keep::Undelivered => !self.is_delivered || self.reading > 0,
        }
    }
}

impl Hub {
    /// A message to all that a condition names; it has no position.
    pub(super) fn send_to(
        &mut self,
        message: Message,
        is_wanted: impl Fn(u32, &Connection) -> bool,
        from: &Publisher,
        out: &mut Effects,
    ) -> DeliveryCounts {
        let mut failed = 0;
        let start = out.recipients.len();
        for (slot, connection) in self.connections.iter() {
            if !is_wanted(slot, connection) || from.excludes(slot) {
                continue;
            }
            if connection.is_full() {
                failed += 1;
            } else {
                out.recipients.push(slot);
            }
        }
        let sent = self.deliver(Rc::new(message), start, None, out);
        self.counters.messages_shed += failed;
        DeliveryCounts::new(sent, failed)
    }

    /// Orders a message to be queued for the recipients noted since `start`; how many they
    /// are. With a log, the hub gets an input when they have it.
    pub(in crate::hub) fn deliver(
        &mut self,
        message: Rc<Message>,
        start: usize,
        log: Option<LogKey>,
        out: &mut Effects,
    ) -> u64 {
        let to = out.noted(start);
        let count = u64::from(to.end - to.start);
        if count > 0 {
            self.counters.messages_delivered += count;
            out.push(Effect::Deliver { message, to, log });
        }
        count
    }

    /// A message to the subscribers of a channel, or to a user's connections.
    pub(super) fn publish_on(
        &mut self,
        cx: &mut Cx<'_>,
        key: LogKey,
        mut message: Message,
        from: &Publisher,
        options: PublishOptions,
    ) -> FanoutResult {
        let is_fleeting = options.is_fleeting();
        let (channel, inbox) = match &key {
            LogKey::Channel(channel) => (channel.clone(), None),
            LogKey::Inbox(_) => (Channel::inbox(), Some(key.clone()).filter(|_| !is_fleeting)),
        };
        message.channel = Some(channel);
        let id = match self.channels.find(&key) {
            None if is_fleeting => return FanoutResult::unplaced(DeliveryCounts::default()),
            None => self.find_or_add_topic(key),
            Some(id) => id,
        };
        let place = if is_fleeting { None } else { self.give_out_position(id, cx.out) };
        message.seq = place.map(|place| place.position.seq);
        let start = cx.out.recipients.len();
        let fanout = self.choose_recipients(id, Rc::new(message), from, options, cx.out);
        let sent = self.deliver(fanout.message.clone(), start, inbox, cx.out);
        if sent > 0
            && let Some(topic) = self.channels.at_mut(id)
        {
            topic.offer_all();
        }
        let counts = self.keep_for_readers(cx, &fanout, from);
        if sent == 0 {
            self.refresh_topic(cx.now, id);
        }
        let is_away = |topic: &Topic| topic.is_inbox() && topic.has_no_recipient();
        // Messages of the hub itself are not announced to workers.
        if counts.is_kept() && !from.is_hub() && self.channels.at(id).is_some_and(is_away) {
            self.announce_kept(cx, id, &fanout.message);
        }
        FanoutResult { counts: counts.add_sent(sent), place }
    }

    /// Notes the subscribers that get a message live, and counts the others.
    fn choose_recipients(
        &self,
        id: TopicId,
        message: Rc<Message>,
        from: &Publisher,
        options: PublishOptions,
        out: &mut Effects,
    ) -> Fanout {
        let mut fanout = Fanout { id, message, options, is_delivered: false, reading: 0, full: 0 };
        let subscribers = self.channels.at(id).map(Topic::subscribers).unwrap_or_default();
        for subscriber in subscribers.iter().filter(|subscriber| !from.excludes(subscriber.slot())) {
            let slot = subscriber.slot();
            match subscriber.mode() {
                DeliveryMode::Live if self.connections.at(slot).is_some_and(|c| c.is_full()) => {
                    fanout.full += 1
                }
                DeliveryMode::Live => {
                    fanout.is_delivered |= !from.is_at(slot);
                    out.recipients.push(slot);
                }
                DeliveryMode::Reading => fanout.reading += 1,
                DeliveryMode::Off => {}
            }
        }
        fanout
    }

    /// The position of one more message. Where it must not be given out again after
    /// a crash, that is ordered before the message is delivered at all.
    fn give_out_position(&mut self, id: TopicId, out: &mut Effects) -> Option<PublishedPlace> {
        let topic = self.channels.existing_mut(id)?;
        let position = topic.give_out_number();
        if self.settings.keeps_numbers(&self.settings.log_policy(topic.key())) {
            let LogPosition { epoch, seq } = position;
            out.push(Effect::PersistSeq { log: topic.key().clone(), epoch, seq });
        }
        Some(PublishedPlace { id, position })
    }

    /// Those who did not get it live read it later, where the policy is so.
    fn keep_for_readers(&mut self, cx: &mut Cx<'_>, fanout: &Fanout, from: &Publisher) -> DeliveryCounts {
        let late = fanout.reading + fanout.full;
        let Some(seq) = fanout.message.seq else {
            self.counters.messages_shed += late;
            return DeliveryCounts::new(0, late);
        };
        let Some(topic) = self.channels.existing_mut(fanout.id) else { return DeliveryCounts::default() };
        let policy = self.settings.log_policy(topic.key());
        let is_wanted = fanout.is_kept_by(policy.keep);
        if !is_wanted {
            topic.note_loss(GapCause::NotKept);
            if fanout.full == 0 {
                return DeliveryCounts::default();
            }
        }
        let is_kept = is_wanted && {
            let entry = self.new_entry(cx.now, &policy, fanout, from, seq);
            self.keep(cx, &policy, entry, fanout)
        };
        // What others have is not kept for the sake of one who is slow, unless
        // it is kept anyway.
        let reads_later = is_kept && (policy.keep.keeps_all() || !fanout.is_delivered);
        for slot in self.full_recipients(fanout, from) {
            if reads_later {
                self.start_reading(fanout.id, slot, Backlog::new(seq - 1));
            } else {
                self.note_missed(fanout.id, slot, seq);
            }
        }
        if is_wanted {
            self.advance_all(cx, fanout.id);
        }
        let sent = if is_kept { fanout.reading } else { 0 } + if reads_later { fanout.full } else { 0 };
        self.counters.messages_shed += late - sent;
        let counts = DeliveryCounts::new(sent, late - sent);
        if is_kept { counts.kept() } else { counts }
    }

    fn new_entry(&self, now: Now, policy: &Policy, fanout: &Fanout, from: &Publisher, seq: u64) -> LogEntry {
        let size = u32::try_from(fanout.message.size()).unwrap_or(u32::MAX);
        let ttl = fanout.options.ttl().map_or(policy.ttl, |ttl| ttl.min(policy.ttl));
        LogEntry::new(seq, size, now.moment, now.moment + ttl)
            .published_by(from, self.author(from))
            // In an inbox the cursor counts.
            .delivered(fanout.is_delivered && policy.keep != Keep::Unacknowledged)
            .durable(fanout.options.is_durable())
    }

    /// The live subscribers that have no room.
    fn full_recipients(&self, fanout: &Fanout, from: &Publisher) -> Vec<u32> {
        let Some(topic) = self.channels.at(fanout.id).filter(|_| fanout.full > 0) else { return Vec::new() };
        let live = topic.subscribers().iter().filter(|subscriber| subscriber.is_live());
        live.map(|subscriber| subscriber.slot())
            .filter(|slot| !from.excludes(*slot))
            .filter(|slot| self.connections.at(*slot).is_some_and(|connection| connection.is_full()))
            .collect()
    }

    /// A publisher, as far as shares go. All who publish over HTTP are one.
    pub(in crate::hub) fn author(&self, from: &Publisher) -> Author {
        Author::of(from.conn().map_or_else(Account::of_http, |conn| self.account(conn)))
    }
}

/// Messages of the hub itself: users who come and go, what reached nobody, receipts.
impl Hub {
    fn own_message(&mut self, now: Now, event: Event, data: Payload) -> Message {
        Message {
            channel: None,
            event,
            data,
            from: Sender::Hub,
            user_id: None,
            message_id: MessageId::made(self.random.next()),
            timestamp: now.wall,
            seq: None,
        }
    }

    /// Publishes on a channel of the daemon's own, if any worker has ever asked for it.
    fn notify_workers(
        &mut self,
        cx: &mut Cx<'_>,
        channel: Channel,
        event: Event,
        data: &impl Serialize,
        options: PublishOptions,
    ) {
        if self.channels.is_asked_for(&channel) {
            let message = self.own_message(cx.now, event, Payload::of(data));
            self.publish_on(cx, LogKey::Channel(channel), message, &Publisher::hub(), options);
        }
    }

    /// A user's first connection is here.
    pub(super) fn user_joined(&mut self, cx: &mut Cx<'_>, user: &UserId) {
        if !self.pending_leaves.cancel(user) {
            self.notify_of_user(cx, Event::user_joined(), user);
        }
    }

    /// A user's last connection is gone; a page that is reloaded is back soon.
    pub(super) fn user_left(&mut self, now: Now, user: UserId) {
        let is_asked = |channel: &Channel| self.channels.is_asked_for(channel);
        if self.stopping.is_some() || !(is_asked(&Channel::presence()) || is_asked(&Channel::undelivered())) {
            return;
        }
        self.pending_leaves.add(round_up(now.moment + GRACE), user);
    }

    /// Notifies workers of users who did not come back.
    pub(in crate::hub) fn end_pending_leaves(&mut self, cx: &mut Cx<'_>) {
        while let Some(user) = self.pending_leaves.next(cx.now.moment) {
            self.notify_of_user(cx, Event::user_left(), &user);
            if let Some(id) = self.channels.find_inbox(&user) {
                self.channels.announce_waiting(id, cx.out);
            }
        }
    }

    fn notify_of_user(&mut self, cx: &mut Cx<'_>, event: Event, user: &UserId) {
        // It is about now: not kept, and without a position.
        let options = PublishOptions::fleeting();
        self.notify_workers(cx, Channel::presence(), event, &UserData::new(user), options);
    }

    /// A message waits for a user none of whose connections gets the inbox.
    fn announce_kept(&mut self, cx: &mut Cx<'_>, id: TopicId, message: &Message) {
        if let Some(log) = self.channels.log_mut(id) {
            log.mark_announced(message.seq.unwrap_or_default());
        }
        self.notify_undelivered(cx, id, message, DeliveryOutcome::Kept);
    }

    fn notify_undelivered(
        &mut self,
        cx: &mut Cx<'_>,
        id: TopicId,
        message: &Message,
        outcome: DeliveryOutcome,
    ) {
        if let Some(topic) = self.channels.at(id)
            && self.channels.is_asked_for(&Channel::undelivered())
        {
            let data = undelivered_data(topic, message, outcome);
            let message = self.own_message(cx.now, Event::undelivered(), data);
            let key = LogKey::Channel(Channel::undelivered());
            self.publish_on(cx, key, message, &Publisher::hub(), PublishOptions::default());
        }
    }

    /// Notifies workers of messages that reached nobody, now that they are read. Where the
    /// store has a hole, what it found instead is not meant.
    pub(in crate::hub) fn undelivered_fetched(
        &mut self,
        cx: &mut Cx<'_>,
        key: &LogKey,
        messages: &[Rc<Message>],
        outcome: DeliveryOutcome,
    ) {
        let Some(id) = self.channels.find(key) else { return };
        for message in messages {
            let seq = message.seq.unwrap_or_default();
            let is_kept = self.channels.log(id).is_some_and(|log| log.entries().contains(seq));
            // Messages of the hub itself are not announced to workers.
            if is_kept == (outcome == DeliveryOutcome::Kept) && message.from != Sender::Hub {
                self.notify_undelivered(cx, id, message, outcome);
            }
        }
    }

    /// Notes that a publisher wants a receipt for the message that was just kept for
    /// a user.
    pub(super) fn owe_receipt(
        &mut self,
        now: Now,
        user: &UserId,
        message_id: &MessageId,
        to: ReceiptRecipient,
    ) {
        // It may be read long after it was delivered.
        let expires = now.moment + self.settings.inbox.ttl;
        let Some(id) = self.channels.find_inbox(user) else { return };
        let Some(topic) = self.channels.at_mut(id) else { return };
        let seq = topic.position().seq;
        let Some(log) = topic.log_mut() else { return };
        log.owe_receipt(OwedReceipt::new(seq, expires, to, message_id.clone()), self.settings.inbox.count);
        self.refresh_topic(now, id);
    }

    /// A user has acknowledged up to a position.
    pub(super) fn send_receipts(&mut self, cx: &mut Cx<'_>, id: TopicId, seq: u64, state: ReceiptState) {
        let Some(topic) = self.channels.existing_mut(id) else { return };
        let LogKey::Inbox(user) = topic.key() else {
            debug_assert!(false, "only what lies in an inbox is acknowledged");
            return;
        };
        let user = user.clone();
        let Some(log) = topic.log_mut() else { return };
        for owed in log.acknowledge(seq, state) {
            self.send_receipt(cx, &owed, &user, state);
        }
        self.refresh_topic(cx.now, id);
    }

    fn send_receipt(&mut self, cx: &mut Cx<'_>, owed: &OwedReceipt, user: &UserId, state: ReceiptState) {
        let data = Payload::of(&owed.data(user, state));
        let message = self.own_message(cx.now, Event::receipt(), data);
        match owed.to() {
            ReceiptRecipient::User(user) => {
                // It must not evict a message of a publisher: where there is no room
                // for it, it is for those who are here.
                let options = if self.is_full_for(user, &message) {
                    PublishOptions::fleeting()
                } else {
                    PublishOptions::default()
                };
                self.publish_on(cx, LogKey::Inbox(user.clone()), message, &Publisher::hub(), options);
            }
            ReceiptRecipient::Worker(conn) => {
                // As an answer, it is never shed.
                if self.connections.get(*conn).is_some() {
                    let start = cx.out.recipients.len();
                    cx.out.recipients.push(conn.slot);
                    self.deliver(Rc::new(message), start, None, cx.out);
                }
            }
        }
    }

    /// Whether an inbox has room for one more message only if another goes.
    fn is_full_for(&self, user: &UserId, message: &Message) -> bool {
        let topic = self.channels.find_inbox(user).and_then(|id| self.channels.at(id));
        let Some(entries) = topic.and_then(Topic::entries) else { return false };
        let policy = &self.settings.inbox;
        entries.len() >= policy.count || entries.bytes() + message.size() > policy.bytes
    }
}
