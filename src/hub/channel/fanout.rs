//! From one to many.
//!
//! Knows whom a message reaches now, and who is to read it later. Does not know
//! who may publish; that is in [`publish`](super::publish).

use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::dedup::Scope;
use super::publish::Publisher;
use super::topics::{DeliveryMode, Topic};
use crate::hub::Hub;
use crate::hub::connection::Connection;
use crate::hub::event::{Cx, Effect, Effects, LogKey};
use crate::hub::log::cursor::Backlog;
use crate::hub::log::entry::LogEntry;
use crate::hub::log::retention::expiry;
use crate::hub::settings::Keep;
use crate::protocol::frame::GapCause;
use crate::protocol::{Channel, Message, Sender};

/// What becomes of a message, as its publisher is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct DeliveryCounts {
    pub(in crate::hub) sent: u64,
    pub(in crate::hub) failed: u64,
    pub(in crate::hub) kept: bool,
    pub(in crate::hub) stored: bool,
    /// It came before, and nothing was done.
    pub(in crate::hub) duplicate: bool,
}

/// What its publisher wants of a message beside its delivery.
#[derive(Clone, Debug, Default)]
pub(in crate::hub) struct PublishOptions {
    /// No longer than the policy says.
    pub(in crate::hub) ttl: Option<Duration>,
    pub(in crate::hub) durable: bool,
    /// Among whose messages the id is unique that its publisher gave it.
    pub(in crate::hub) scope: Option<Scope>,
}

impl PublishOptions {
    /// For those who are here now, and nobody else.
    pub(in crate::hub) fn fleeting() -> Self {
        Self { ttl: Some(Duration::ZERO), ..Self::default() }
    }
}

/// A message, and those whom it did not reach live.
pub(in crate::hub) struct Fanout {
    pub(in crate::hub) place: u32,
    pub(in crate::hub) message: Rc<Message>,
    pub(in crate::hub) terms: PublishOptions,
    /// Whether anybody but its publisher heard it.
    heard: bool,
    /// How many read what lies before it.
    reading: u64,
    /// How many have no room.
    full: u64,
}

impl Hub {
    /// A message to all that a condition names; it has no position.
    pub(in crate::hub) fn send_to(
        &mut self,
        message: Message,
        wanted: impl Fn(u32, &Connection) -> bool,
        from: &Publisher,
        out: &mut Effects,
    ) -> DeliveryCounts {
        let mut reach = DeliveryCounts::default();
        let start = out.recipients.len();
        for (slot, connection) in self.connections.iter() {
            if !wanted(slot, connection) || (Some(slot) == from.slot() && !from.echo) {
                continue;
            }
            if connection.is_full() {
                reach.failed += 1;
            } else {
                out.recipients.push(slot);
            }
        }
        reach.sent = self.deliver(Rc::new(message), start, None, out);
        self.counters.messages_shed += reach.failed;
        reach
    }

    /// Orders a message to be queued for the recipients noted since `start`.
    /// With a log, the hub is told when they have it.
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
    pub(in crate::hub) fn publish_on(
        &mut self,
        cx: &mut Cx<'_>,
        key: LogKey,
        mut message: Message,
        from: &Publisher,
        terms: PublishOptions,
    ) -> DeliveryCounts {
        let fleeting = terms.ttl.is_some_and(|ttl| ttl.is_zero());
        let (channel, inbox) = match &key {
            LogKey::Channel(channel) => (channel.clone(), None),
            LogKey::Inbox(_) => (Channel::inbox(), Some(key.clone())),
        };
        message.channel = Some(channel);
        let place = match self.channels.find(&key) {
            None if fleeting => return DeliveryCounts::default(),
            None => self.topic(key),
            Some(place) => place,
        };
        if !fleeting {
            message.seq = self.next_seq(place, cx.out);
        }
        let Some(topic) = self.channels.at_mut(place) else { return DeliveryCounts::default() };
        let start = cx.out.recipients.len();
        let (mut heard, mut reading, mut full) = (false, 0, 0);
        for subscriber in &topic.subscribers {
            let own = Some(subscriber.slot) == from.slot();
            if own && !from.echo {
                continue;
            }
            match subscriber.hearing {
                DeliveryMode::Live if self.connections.at(subscriber.slot).is_some_and(|c| c.is_full()) => {
                    full += 1
                }
                DeliveryMode::Live => {
                    heard |= !own;
                    cx.out.recipients.push(subscriber.slot);
                }
                DeliveryMode::Reading => reading += 1,
                DeliveryMode::Off => {}
            }
        }
        let message = Rc::new(message);
        let mark = inbox.filter(|_| !fleeting);
        let sent = self.deliver(message.clone(), start, mark, cx.out);
        if let Some(topic) = self.channels.at_mut(place).filter(|_| sent > 0) {
            topic.offered = topic.seq;
        }
        let rest = Fanout { place, message, terms, heard, reading, full };
        let mut reach = self.keep_for(cx, &rest, from);
        if sent == 0 {
            self.settle(cx.now, place);
        }
        reach.sent += sent;
        let away = |topic: &Topic| matches!(topic.key, LogKey::Inbox(_)) && topic.is_unheard();
        // That somebody has a message is worth no push to anybody.
        if reach.kept && from.sender != Sender::Hub && self.channels.at(place).is_some_and(away) {
            self.tell_kept(cx, place, &rest.message);
        }
        reach
    }

    /// The position of one more message. Where it must not be given out again after
    /// a crash, that is ordered before the message is delivered to anybody.
    fn next_seq(&mut self, place: u32, out: &mut Effects) -> Option<u64> {
        let topic = self.channels.at_mut(place)?;
        topic.seq += 1;
        let (epoch, seq) = (topic.epoch, topic.seq);
        let topic = self.channels.at(place)?;
        if self.goes_on(&self.policy_of(&topic.key)) {
            out.push(Effect::PersistSeq { log: topic.key.clone(), epoch, seq });
        }
        Some(seq)
    }

    /// Those who did not hear it live read it later, where the policy is so.
    fn keep_for(&mut self, cx: &mut Cx<'_>, rest: &Fanout, from: &Publisher) -> DeliveryCounts {
        let late = rest.reading + rest.full;
        let Some(seq) = rest.message.seq else {
            self.counters.messages_shed += late;
            return DeliveryCounts { failed: late, ..DeliveryCounts::default() };
        };
        let Some(topic) = self.channels.at(rest.place) else { return DeliveryCounts::default() };
        let policy = self.policy_of(&topic.key);
        let wanted = match policy.keep {
            Keep::Never => rest.reading > 0,
            Keep::History | Keep::Unacknowledged => true,
            Keep::Undelivered => !rest.heard || rest.reading > 0,
        };
        if !wanted && let Some(topic) = self.channels.at_mut(rest.place) {
            topic.last_loss = GapCause::NotKept;
        }
        if !wanted && rest.full == 0 {
            return DeliveryCounts::default();
        }
        let kept = LogEntry {
            seq,
            expires: expiry(cx.now.moment, &policy, rest.terms.ttl),
            since: cx.now.moment,
            by: from.conn.map_or(0, |conn| conn.tag),
            size: u32::try_from(rest.message.size()).unwrap_or(u32::MAX),
            author: self.author(from),
            // In an inbox it is the cursor that says so.
            heard: rest.heard && policy.keep != Keep::Unacknowledged,
            echo: from.echo,
            told: false,
            durable: rest.terms.durable,
            stored: false,
        };
        let kept = wanted && self.keep(cx, &policy, kept, rest);
        // What others heard is not kept for the sake of one who is slow, unless
        // it is kept anyway.
        let behind = kept && (policy.keep.keeps_all() || !rest.heard);
        for slot in self.full_ones(rest, from) {
            if behind {
                self.read_from(rest.place, slot, Backlog::after(seq - 1));
            } else {
                self.miss(rest.place, slot, seq);
            }
        }
        if wanted {
            self.advance_all(cx, rest.place);
        }
        let sent = if kept { rest.reading } else { 0 } + if kept && behind { rest.full } else { 0 };
        self.counters.messages_shed += late - sent;
        DeliveryCounts { sent, failed: late - sent, kept, ..DeliveryCounts::default() }
    }

    /// The subscribers that hear live and have no room.
    fn full_ones(&self, rest: &Fanout, from: &Publisher) -> Vec<u32> {
        let Some(topic) = self.channels.at(rest.place).filter(|_| rest.full > 0) else { return Vec::new() };
        let live = topic.subscribers.iter().filter(|subscriber| subscriber.hearing == DeliveryMode::Live);
        live.map(|subscriber| subscriber.slot)
            .filter(|slot| Some(*slot) != from.slot() || from.echo)
            .filter(|slot| self.connections.at(*slot).is_some_and(|connection| connection.is_full()))
            .collect()
    }
}
