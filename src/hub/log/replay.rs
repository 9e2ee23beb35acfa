//! Replay: a subscriber reads what is kept, page by page, until it is live.
//!
//! [`retention`](super::retention) decides what is kept, and for how long.

use std::rc::Rc;

use super::cursor::{Backlog, DeferredFrame, PageProgress, ReplayPage};
use super::gap::Gap;
use super::position::SeqRange;
use crate::hub::Hub;
use crate::hub::channel::topic::{DeliveryMode, Subscriber, Topic};
use crate::hub::channel::topics::TopicId;
use crate::hub::connection::auth::AuthQueue;
use crate::hub::event::{Cx, Effect, Effects, FetchPurpose, LogKey};
use crate::protocol::frame::GapCause;
use crate::protocol::{ConnectionId, Delivery, InboxMode, Message};

/// How much is read from a log at a time: a quarter of what may wait for a
/// socket, so that what is live elsewhere still finds room beside it.
pub(in crate::hub) const PAGE_MESSAGES: usize = 64;
const PAGE_BYTES: usize = 64 << 10;

/// Reading.
impl Hub {
    /// Makes a subscriber read what is kept for it.
    pub(in crate::hub) fn start_reading(&mut self, id: TopicId, slot: u32, backlog: Backlog) {
        let Some(connection) = self.connections.existing_at(slot) else { return };
        let conn = connection.id(slot);
        let Some(topic) = self.channels.existing_mut(id) else { return };
        topic.set_mode(slot, DeliveryMode::Reading);
        topic.log_or_new().start_reading(conn, backlog);
    }

    /// Goes on with all readers of a log.
    pub(in crate::hub) fn advance_all(&mut self, cx: &mut Cx<'_>, id: TopicId) {
        let Some(log) = self.channels.log(id) else { return };
        for slot in log.reading_slots() {
            self.advance(cx, id, slot);
        }
    }

    /// Goes on where another process was: its store will not answer what it was asked.
    pub(in crate::hub) fn resume(&mut self, cx: &mut Cx<'_>) {
        for id in self.channels.reading() {
            if let Some(log) = self.channels.log_mut(id) {
                log.forget_fetches();
            }
            self.advance_all(cx, id);
        }
        // The settings may be others than the ones it wrote all that under.
        self.conform_all(cx);
        self.unauthenticated = AuthQueue::of(&self.connections);
        self.sync_again(cx);
        self.reread_all(cx);
    }

    /// The next step of a reader of which nothing is on its way: another page,
    /// or, when nothing remains, live delivery. There is nothing between the two.
    pub(in crate::hub) fn advance(&mut self, cx: &mut Cx<'_>, id: TopicId, slot: u32) {
        let Some(connection) = self.connections.existing_at(slot) else { return };
        let conn = connection.id(slot);
        let Some(topic) = self.channels.existing_mut(id) else { return };
        let last = topic.position().seq;
        let Some(log) = topic.log_mut() else { return };
        let Some(after) = log.reader(slot).filter(|reader| reader.is_idle()).map(|reader| reader.sent())
        else {
            return;
        };
        // Deadlines are rounded up; what is read is not a moment too old.
        if log.is_due(cx.now.moment) {
            return self.expire(cx, id);
        }
        if log.entries().first_after(after).is_none() {
            return self.go_live(cx, id, conn);
        }
        if !connection.is_full() {
            if let Some(reader) = log.reader_mut(slot) {
                reader.start_fetch(last);
            }
            let (fetch, log) = (FetchPurpose::Replay(conn), topic.key().clone());
            cx.out.push(Effect::Fetch { fetch, log, after, count: PAGE_MESSAGES, bytes: PAGE_BYTES });
        }
    }

    /// A reader has had all there is.
    fn go_live(&mut self, cx: &mut Cx<'_>, id: TopicId, conn: ConnectionId) {
        let Some(topic) = self.channels.existing_mut(id) else { return };
        let Some(mut reader) = topic.log_mut().and_then(|log| log.take_reader(conn.slot)) else {
            debug_assert!(false, "only a reader goes live");
            return;
        };
        topic.set_mode(conn.slot, DeliveryMode::Live);
        topic.offer_all();
        let (position, name) = (topic.position(), topic.name());
        if reader.has_gaps() {
            // What was shed before it began to read lies before that.
            self.notify_missed(conn.slot, Some(id), cx.out);
        }
        reader.send_rest(conn, position, &name, cx.out);
        self.note_caught_up(id, conn.slot, reader.began());
        self.sweep(cx, id);
        if reader.rereads() {
            self.reread(cx, id, conn.slot);
        }
    }

    /// Whether a frame has to wait for the backlog of a subscriber, as one that is not urgent
    /// may overtake nothing; then it does.
    pub(in crate::hub) fn defer(&mut self, id: TopicId, slot: u32, frame: &DeferredFrame) -> bool {
        let Some(topic) = self.channels.existing_mut(id) else { return false };
        let last = topic.position().seq;
        let reader = topic.log_mut().and_then(|log| log.reader_mut(slot));
        reader.is_some_and(|reader| reader.defer(last, frame))
    }

    /// The store has read a page.
    pub(in crate::hub) fn page_fetched(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnectionId,
        key: &LogKey,
        messages: Vec<Rc<Message>>,
    ) {
        let Some(connection) = self.connections.get(conn) else { return };
        let is_full = connection.is_full();
        let Some(id) = self.channels.find(key) else { return };
        let Some(topic) = self.channels.existing_mut(id) else { return };
        let (name, epoch) = (topic.name(), topic.position().epoch);
        let Some(log) = topic.log_mut() else { return };
        let Some(reader) = log.fetching_mut(conn) else { return };
        let after = reader.sent();
        let Some(asked) = reader.end_fetch().filter(|_| !is_full) else {
            log.drop_over(conn.slot);
            // Asked again when there is room: the hub holds no payloads.
            return self.sweep(cx, id);
        };
        let last = messages.last().and_then(|message| message.seq).unwrap_or(asked);
        // What the index has and the store has not is lost.
        let lost = log.lost_of(after, last, messages.iter().filter_map(|message| message.seq));
        if !lost.is_empty() {
            let ranges = log.drop_lost(&lost);
            for seq in &lost {
                topic.lose(*seq, GapCause::Evicted);
            }
            topic.truncate(&ranges, cx.out);
        }
        let page = ReplayPage::new(conn, key, name, epoch).with_messages(messages, last);
        let sent = topic.log_mut().and_then(|log| log.queue_page(page, cx.out));
        topic.offer(sent.unwrap_or_default());
        if lost.is_empty() {
            self.advance(cx, id, conn.slot);
        } else {
            // Others may have waited for what is not there.
            self.advance_all(cx, id);
        }
        self.refresh_topic(cx.now, id);
    }

    /// A socket has taken a message whole.
    pub(in crate::hub) fn message_flushed(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnectionId,
        key: &LogKey,
        seq: u64,
        delivery: Delivery,
    ) {
        if self.connections.get(conn).is_none() {
            return;
        }
        let Some(id) = self.channels.find(key) else { return };
        if delivery == Delivery::Replayed
            && let Some(log) = self.channels.log_mut(id)
        {
            log.mark_read(conn, seq);
        }
        self.follow_socket(id, conn.slot, seq);
        if delivery == Delivery::Live {
            return self.sweep(cx, id);
        }
        let Some(log) = self.channels.log_mut(id) else { return };
        let Some(progress) = log.flushed(conn, seq) else { return };
        if matches!(key, LogKey::Channel(_)) {
            log.mark_delivered(seq, conn);
        }
        match progress {
            PageProgress::Message => self.sweep_one(cx, id, seq),
            PageProgress::Page => {
                log.drop_over(conn.slot);
                self.sweep(cx, id);
                self.advance(cx, id, conn.slot);
            }
        }
    }
}

/// The cursor of an inbox without acknowledgements.
impl Hub {
    /// A socket has taken a message of an inbox: without acknowledgements, that
    /// is what counts, up to what this connection published itself and does not get.
    fn follow_socket(&mut self, id: TopicId, slot: u32, seq: u64) {
        let Some(topic) = self.channels.at(id).filter(|topic| topic.numbers().cursor() < seq) else { return };
        let Some(connection) = self.connections.existing_at(slot) else { return };
        let tag = connection.id(slot).tag;
        if !self.moves_cursor(topic, slot) {
            return;
        }
        let cursor = topic.numbers().cursor();
        let own = topic.entries().and_then(|entries| entries.first_withheld_from(tag, cursor));
        if let Some(topic) = self.channels.at_mut(id) {
            topic.move_cursor(own.map_or(seq, |own| seq.min(own - 1)));
        }
    }

    /// A connection has had all there is of an inbox after `began`, gaps included. What was
    /// delivered live before may still wait for its socket.
    fn note_caught_up(&mut self, id: TopicId, slot: u32, began: u64) {
        let Some(topic) = self.channels.existing_mut(id) else { return };
        if let Some(log) = topic.log_mut() {
            log.keep_unread_before(began);
        }
        if topic.numbers().cursor() >= began {
            let last = topic.position().seq;
            self.follow_socket(id, slot, last);
        }
    }

    /// Whether the cursor of an inbox follows what one connection takes. Each of
    /// them has had all that lies before that.
    fn moves_cursor(&self, topic: &Topic, slot: u32) -> bool {
        let is_in = |slot: u32, mode: InboxMode| {
            self.connections.at(slot).is_some_and(|connection| connection.inbox_mode() == mode)
        };
        let acknowledges = |subscriber: &Subscriber| is_in(subscriber.slot(), InboxMode::Ack);
        topic.is_inbox() && is_in(slot, InboxMode::Auto) && !topic.subscribers().iter().any(acknowledges)
    }
}

/// A disk that cannot be read.
impl Hub {
    /// The page that a reader asked for cannot be read: it goes on behind that, and the cursor
    /// of an inbox waits until some connection has had it.
    pub(in crate::hub) fn page_unreadable(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, key: &LogKey) {
        let Some(connection) = self.connections.get(conn) else { return };
        let is_full = connection.is_full();
        let Some(id) = self.channels.find(key) else { return };
        let Some(log) = self.channels.log_mut(id) else { return };
        let Some(reader) = log.fetching_mut(conn) else { return };
        if reader.end_fetch().is_none() || is_full {
            log.drop_over(conn.slot);
            return self.sweep(cx, id);
        }
        let passed = log.pass_over(conn.slot);
        if let (LogKey::Inbox(_), Some(range)) = (key, passed) {
            log.add_unread(range);
        }
        self.advance_all(cx, id);
        self.refresh_topic(cx.now, id);
    }

    /// Has the subscribers of inboxes read what was passed over for them. What
    /// they had already comes twice, as it may there.
    pub(in crate::hub) fn reread_all(&mut self, cx: &mut Cx<'_>) {
        for id in self.channels.with_log(super::Log::has_unread) {
            let Some(topic) = self.channels.existing(id) else { continue };
            let slots: Vec<u32> = topic.subscribers().iter().map(Subscriber::slot).collect();
            for slot in slots {
                self.reread(cx, id, slot);
            }
            self.refresh_topic(cx.now, id);
        }
    }

    /// Has a subscriber read again from the first unread message: at once, or, where it is reading
    /// already, once it has caught up.
    fn reread(&mut self, cx: &mut Cx<'_>, id: TopicId, slot: u32) {
        let Some(topic) = self.channels.existing_mut(id) else { return };
        let Some(mode) = topic.mode_of(slot) else { return };
        let Some(log) = topic.log_mut() else { return };
        let Some(first) = log.next_unread() else { return };
        if mode == DeliveryMode::Live {
            self.start_reading(id, slot, Backlog::new(first - 1));
            self.advance(cx, id, slot);
        } else if let Some(reader) = log.reader_mut(slot) {
            reader.reread_from(first);
        }
    }
}

/// What was shed for slow connections.
impl Hub {
    /// Notes what was shed for a connection, to be announced as one gap.
    pub(in crate::hub) fn note_missed(&mut self, id: TopicId, slot: u32, seq: u64) {
        if let Some(connection) = self.connections.at_mut(slot) {
            connection.note_missed(id, seq);
        }
    }

    /// Notifies a connection of what it missed of one topic, or of all.
    pub(in crate::hub) fn notify_missed(&mut self, slot: u32, only: Option<TopicId>, out: &mut Effects) {
        let Some(connection) = self.connections.at_mut(slot) else {
            debug_assert!(false, "what was shed is of a connection in the table");
            return;
        };
        let conn = connection.id(slot);
        for missed in connection.take_missed(only) {
            let Some(topic) = self.channels.existing(missed.topic()) else { continue };
            let gap = Gap::new(SeqRange::new(missed.from(), missed.to()), missed.lost(), GapCause::Slow);
            out.push(gap.notice(conn, topic.name(), topic.position().epoch));
        }
    }
}
