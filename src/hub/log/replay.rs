//! Reading what is kept, and telling what is missing.
//!
//! Knows how a subscriber catches up, page by page, until it is live. Does not
//! know what is kept, or for how long; that is in [`retention`](super::retention).

use std::rc::Rc;

use super::Log;
use super::cursor::{Backlog, DeferredFrame, Gap, Reader};
use super::retention::forget;
use crate::hub::Hub;
use crate::hub::channel::topics::DeliveryMode;
use crate::hub::connection::auth::AuthQueue;
use crate::hub::event::{Cx, Effect, Effects, FetchPurpose, LogKey, Requester};
use crate::protocol::frame::GapCause;
use crate::protocol::ids::spelled;
use crate::protocol::{Channel, ConnectionId, Delivery, Frame, Message};

/// How much is read from a log at a time: a quarter of what may wait for a
/// socket, so that what is live elsewhere still finds room beside it.
pub(in crate::hub) const PAGE_MESSAGES: usize = 64;
const PAGE_BYTES: usize = 64 << 10;

impl Hub {
    /// Makes a subscriber read what is kept for it.
    pub(in crate::hub) fn read_from(&mut self, place: u32, slot: u32, backlog: Backlog) {
        let Some(tag) = self.connections.id(slot).map(|conn| conn.tag) else { return };
        let Some(topic) = self.channels.at_mut(place) else { return };
        if let Some(subscriber) = topic.subscriber_mut(slot) {
            subscriber.hearing = DeliveryMode::Reading;
        }
        topic.log.get_or_insert_default().readers.insert(Reader::new(slot, tag, backlog));
    }

    /// Goes on with everybody who reads a log.
    pub(in crate::hub) fn advance_all(&mut self, cx: &mut Cx<'_>, place: u32) {
        let Some(log) = self.channels.at(place).and_then(|topic| topic.log.as_ref()) else { return };
        let reading = log.readers.iter().filter(|reader| !reader.left);
        let slots: Vec<u32> = reading.map(|reader| reader.slot).collect();
        for slot in slots {
            self.advance(cx, place, slot);
        }
    }

    /// Goes on where another process was: what it had asked of its store nobody
    /// answers any more.
    pub(in crate::hub) fn resume(&mut self, cx: &mut Cx<'_>) {
        for place in self.channels.reading() {
            let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) else {
                continue;
            };
            for reader in log.readers.iter_mut() {
                reader.asked = None;
            }
            log.readers.drop_all_over();
            self.advance_all(cx, place);
        }
        // The settings may be others than the ones it wrote all that under.
        self.conform_all(cx);
        self.unauthenticated = AuthQueue::of(&self.connections);
        self.promise_again(cx);
        self.read_again(cx);
    }

    /// The next step of a reader of which nothing is on its way: another page,
    /// or, when nothing remains, hearing live. There is nothing between the two.
    pub(in crate::hub) fn advance(&mut self, cx: &mut Cx<'_>, place: u32, slot: u32) {
        let Some(connection) = self.connections.at(slot) else { return };
        let conn = connection.id(slot);
        let Some(topic) = self.channels.at_mut(place) else { return };
        let (name, epoch) = (topic.name(), topic.epoch);
        let Some(log) = &mut topic.log else { return };
        let Some(reader) = log.reader(slot) else { return };
        if reader.in_flight > 0 || reader.asked.is_some() {
            return;
        }
        let after = reader.sent;
        // Deadlines are rounded up; what is read is not a moment too old.
        if log.soonest <= cx.now.moment {
            return self.expire(cx, place);
        }
        if log.first_after(after).is_some() {
            if !connection.is_full() {
                if let Some(reader) = log.reader_mut(slot) {
                    reader.asked = Some(topic.seq);
                }
                let log = topic.key.clone();
                let fetch = FetchPurpose::Replay(conn);
                cx.out.push(Effect::Fetch { fetch, log, after, count: PAGE_MESSAGES, bytes: PAGE_BYTES });
            }
            return;
        }
        let Some(mut reader) = log.readers.take_current(slot) else { return };
        let (holes, words) = (std::mem::take(&mut reader.holes), std::mem::take(&mut reader.words));
        if let Some(subscriber) = topic.subscriber_mut(slot) {
            subscriber.hearing = DeliveryMode::Live;
        }
        topic.offered = topic.seq;
        if !holes.is_empty() {
            // What was shed before it began to read lies before that.
            self.tell_missed(slot, Some(place), cx.out);
        }
        for hole in &holes {
            cx.out.push(gap(conn, name.clone(), epoch, hole));
        }
        for (_, word) in words {
            cx.out.tell(conn, word.frame());
        }
        self.has_caught_up(place, slot, reader.began);
        self.sweep(cx, place);
        self.is_through(cx, place, &reader);
    }

    /// Whether a subscriber that still reads what is kept has to be told
    /// something behind that; what is not urgent may overtake nothing.
    pub(in crate::hub) fn tell_later(&mut self, place: u32, slot: u32, word: &DeferredFrame) -> bool {
        let Some(topic) = self.channels.at_mut(place) else { return false };
        let seq = topic.seq;
        let Some(reader) = topic.log.as_mut().and_then(|log| log.reader_mut(slot)) else { return false };
        let waits = !reader.words.is_empty() || (word.is_last() && reader.sent < seq);
        if waits {
            reader.words.push((seq, word.clone()));
        }
        waits
    }

    /// The store has answered.
    pub(in crate::hub) fn fetched(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnectionId,
        key: &LogKey,
        messages: Vec<Rc<Message>>,
    ) {
        let Some(connection) = self.connections.get(conn) else { return };
        let full = connection.is_full();
        let Some(place) = self.channels.find(key) else { return };
        let Some(topic) = self.channels.at_mut(place) else { return };
        let (name, epoch) = (topic.name(), topic.epoch);
        let Some(log) = &mut topic.log else { return };
        let Some(reader) = log.readers.of_mut(conn.slot).iter_mut().find(|reader| reader.asks(conn)) else {
            return;
        };
        let asked = reader.asked.take().unwrap_or_default();
        if reader.left || full {
            log.drop_over(conn.slot);
            // Asked again when there is room: the hub holds no payloads.
            self.sweep(cx, place);
            return;
        }
        let after = reader.sent;
        let last = messages.last().and_then(|message| message.seq).unwrap_or(asked);
        // What the index has and the store has not is lost.
        let lost = lost_of(log, (after, last), &messages);
        if !lost.is_empty() {
            let runs = log.remove(|kept| lost.binary_search(&kept.seq).is_ok());
            for seq in &lost {
                topic.lose(*seq, GapCause::Evicted);
            }
            forget(key, &runs, cx.out);
        }
        let Some(log) = &mut topic.log else { return };
        let sent =
            replay(log, conn, key, messages, last, |hole| gap(conn, name.clone(), epoch, hole), cx.out);
        topic.offered = topic.offered.max(sent);
        if lost.is_empty() {
            self.advance(cx, place, conn.slot);
        } else {
            // Others may have waited for what is not there.
            self.advance_all(cx, place);
        }
        self.settle(cx.now, place);
    }

    /// A socket has taken a message whole.
    pub(in crate::hub) fn written(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnectionId,
        key: &LogKey,
        (seq, how): (u64, Delivery),
    ) {
        if self.connections.get(conn).is_none() {
            return;
        }
        let Some(place) = self.channels.find(key) else { return };
        if how == Delivery::Replayed {
            self.has_read(place, conn, seq);
        }
        self.has_taken(place, conn.slot, seq);
        if how == Delivery::Live {
            return self.sweep(cx, place);
        }
        let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) else { return };
        let waits = |reader: &&mut Reader| reader.tag == conn.tag && reader.in_flight > 0;
        let Some(reader) = log.readers.of_mut(conn.slot).iter_mut().find(waits) else { return };
        reader.in_flight -= 1;
        reader.written = seq;
        let is_page_over = reader.in_flight == 0;
        if is_page_over {
            // Past what was skipped as well.
            reader.written = reader.sent;
        }
        if let Some(kept) = log.find_mut(seq).filter(|_| matches!(key, LogKey::Channel(_))) {
            kept.heard |= kept.by != conn.tag;
        }
        if is_page_over {
            log.drop_over(conn.slot);
            self.sweep(cx, place);
            self.advance(cx, place, conn.slot);
        } else {
            self.sweep_one(cx, place, seq);
        }
    }

    /// Notes what was shed for a connection, to be told as one gap.
    pub(in crate::hub) fn miss(&mut self, place: u32, slot: u32, seq: u64) {
        if let Some(connection) = self.connections.at_mut(slot) {
            connection.note_missed(place, seq);
        }
    }

    /// Tells a connection what it missed of one topic, or of all.
    pub(in crate::hub) fn tell_missed(&mut self, slot: u32, only: Option<u32>, out: &mut Effects) {
        let Some(connection) = self.connections.at_mut(slot) else { return };
        let conn = connection.id(slot);
        for missed in connection.take_missed(only) {
            let Some(topic) = self.channels.at(missed.topic()) else { continue };
            let (from, to, lost) = (missed.from(), missed.to(), missed.lost());
            let hole = Gap { from, to, lost, cause: GapCause::Slow };
            out.push(gap(conn, topic.name(), topic.epoch, &hole));
        }
    }
}

/// What of a stretch of a log was not found, ascending.
fn lost_of(log: &Log, (after, last): (u64, u64), found: &[Rc<Message>]) -> Vec<u64> {
    let mut found = found.iter().filter_map(|message| message.seq).peekable();
    let is_lost = |seq: &u64| {
        while found.next_if(|found| *found < *seq).is_some() {}
        found.peek() != Some(seq)
    };
    log.within(after, last).filter(is_lost).collect()
}

/// Queues a page for the reader that asked for it; the position it has come to.
fn replay(
    log: &mut Log,
    conn: ConnectionId,
    key: &LogKey,
    messages: Vec<Rc<Message>>,
    last: u64,
    gap: impl Fn(&Gap) -> Effect,
    out: &mut Effects,
) -> u64 {
    let Log { kept, readers, .. } = log;
    let Some(reader) = readers.of_mut(conn.slot).iter_mut().find(|reader| !reader.left) else { return 0 };
    for message in messages {
        let Some(seq) = message.seq.filter(|seq| *seq > reader.sent) else { continue };
        // What was evicted since the store was asked is in a hole already.
        let Ok(at) = kept.find(&seq, |kept| kept.seq) else { continue };
        for hole in reader.holes.extract_if(.., |hole| hole.to < seq) {
            out.push(gap(&hole));
        }
        for (_, word) in reader.words.extract_if(.., |(after, _)| *after < seq) {
            out.tell(conn, word.frame());
        }
        reader.sent = seq;
        if (kept[at].by == reader.tag && !kept[at].echo) || reader.passes_over(seq) {
            continue;
        }
        reader.in_flight += 1;
        out.push(Effect::Replay { message, conn, log: key.clone() });
    }
    reader.sent = reader.sent.max(last);
    if reader.in_flight == 0 {
        reader.written = reader.sent;
    }
    reader.sent
}

impl DeferredFrame {
    /// Whether nothing that was said before may come after it.
    fn is_last(&self) -> bool {
        matches!(self, Self::Operation(told) if told.is_over())
    }

    pub(in crate::hub) fn frame(self) -> Frame<'static> {
        match self {
            Self::Operation(told) => told.frame(),
            Self::Unsubscribed(channel) => Frame::Unsubscribed { channel, reason: "ended" },
        }
    }
}

/// Tells one connection that the numbers of a topic are others from now on.
pub(in crate::hub) fn new_epoch(conn: ConnectionId, channel: Channel, epoch: u64) -> Effect {
    let frame = Frame::Gap {
        channel,
        epoch: spelled(epoch),
        from_seq: None,
        to_seq: None,
        lost: None,
        cause: GapCause::Epoch,
    };
    Effect::Reply { to: Requester::Connection(conn), id: None, frame: Box::new(frame) }
}

/// Tells one connection what it will not see.
pub(in crate::hub) fn gap(conn: ConnectionId, channel: Channel, epoch: u64, hole: &Gap) -> Effect {
    let frame = Frame::Gap {
        channel,
        epoch: spelled(epoch),
        from_seq: Some(hole.from),
        to_seq: Some(hole.to),
        lost: Some(hole.lost),
        cause: hole.cause,
    };
    Effect::Reply { to: Requester::Connection(conn), id: None, frame: Box::new(frame) }
}
