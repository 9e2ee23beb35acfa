//! The splice of replay and live, in every order of events.
//!
//! All sequences of the same few events are tried, not a choice of them.
//! The result must be the same for each: every message once, in order, the
//! replayed ones before the live ones.

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{SendQueueState, Settings};
use wshubd::protocol::InboxMode;

use super::harness::{ConnectionId, Harness};

/// What can happen to a reader between its first fetch and being live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Published,
    Fetched,
    Written,
    Congested,
    Drained,
}

const EVENTS: [Event; 5] =
    [Event::Published, Event::Fetched, Event::Written, Event::Congested, Event::Drained];

/// Which topic it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Topic {
    History,
    Undelivered,
    Auto,
    Ack,
}

struct Splice {
    harness: Harness,
    topic: Topic,
    worker: ConnectionId,
    reader: ConnectionId,
    published: u64,
}

impl Splice {
    /// Two messages wait, and the reader has just come.
    fn new(topic: Topic) -> Self {
        let keep = if topic == Topic::History { Keep::History } else { Keep::Undelivered };
        let policy = Policy { keep, ..Policy::default() };
        let mut harness = Harness::with(Settings { policy, ..Settings::default() });
        let worker = harness.worker();
        let mut splice = Self { harness, topic, worker, reader: worker, published: 0 };
        splice.publish();
        splice.publish();
        splice.harness.slow_store = true;
        splice.reader = splice.come();
        splice
    }

    fn come(&mut self) -> ConnectionId {
        let mode = if self.topic == Topic::Ack { InboxMode::Ack } else { InboxMode::Auto };
        if matches!(self.topic, Topic::Auto | Topic::Ack) {
            let reader = self.harness.client_in("bob", mode);
            self.harness.block_socket(reader);
            return reader;
        }
        let reader = self.harness.client_in("carol", mode);
        self.harness.block_socket(reader);
        let since = (self.topic == Topic::History).then(|| json!({"epoch": "", "seq": 0}));
        self.harness.send(reader, json!({"action": "subscribe", "channel": "room", "since": since}));
        reader
    }

    fn publish(&mut self) {
        self.published += 1;
        let line = match self.topic {
            Topic::History | Topic::Undelivered => {
                json!({"channel": "room", "event": "say", "data": self.published})
            }
            Topic::Auto | Topic::Ack => json!({"user_id": "bob", "event": "say", "data": self.published}),
        };
        self.harness.send(self.worker, line);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Published => self.publish(),
            Event::Fetched => self.harness.store_answers(),
            Event::Written => self.harness.drain(self.reader, 1),
            Event::Congested => self.harness.send_queue(self.reader, SendQueueState::Full),
            Event::Drained => self.harness.send_queue(self.reader, SendQueueState::Empty),
        }
    }

    /// Everything is fetched and taken.
    fn settle(&mut self) {
        self.harness.slow_store = false;
        self.harness.store_answers();
        self.harness.send_queue(self.reader, SendQueueState::Empty);
        self.harness.unblock_socket(self.reader);
        self.publish();
    }

    fn received(&mut self) -> Vec<Value> {
        let frames = self.harness.frames(self.reader);
        frames.into_iter().filter(|frame| frame["type"] == "message" || frame["type"] == "gap").collect()
    }
}

/// All rows of so many events.
fn rows(length: u32) -> impl Iterator<Item = Vec<Event>> {
    (0..EVENTS.len().pow(length)).map(move |mut number| {
        let mut row = Vec::new();
        for _ in 0..length {
            row.push(EVENTS[number % EVENTS.len()]);
            number /= EVENTS.len();
        }
        row
    })
}

fn every_order(topic: Topic, length: u32) {
    for row in rows(length) {
        let mut splice = Splice::new(topic);
        for event in &row {
            splice.happen(*event);
        }
        splice.settle();
        let received = splice.received();
        let numbers: Vec<u64> = received.iter().filter_map(|frame| frame["data"].as_u64()).collect();
        let wanted: Vec<u64> = (1..=splice.published).collect();
        assert_eq!(numbers, wanted, "{topic:?}: {row:?}");
        assert_eq!(received.last().unwrap().get("replayed"), None, "it is live at last: {row:?}");
    }
}

#[test]
fn a_history_is_spliced_exactly_once_in_every_event_order() {
    every_order(Topic::History, 5);
}

#[test]
fn a_backlog_is_spliced_exactly_once_in_every_event_order() {
    every_order(Topic::Undelivered, 4);
}

#[test]
fn an_inbox_is_spliced_exactly_once_in_every_event_order() {
    every_order(Topic::Auto, 4);
    every_order(Topic::Ack, 5);
}

/// What the next reader receives when this one dies after a row of events.
fn death_after(topic: Topic, row: &[Event]) {
    let mut splice = Splice::new(topic);
    for event in row {
        splice.happen(*event);
    }
    let left = splice.harness.unflushed(splice.reader);
    let queued: Vec<u64> = splice.received().iter().filter_map(|frame| frame["data"].as_u64()).collect();
    splice.harness.disconnect(splice.reader);
    splice.harness.store_answers();
    splice.reader = splice.come();
    splice.settle();
    let received: Vec<u64> = splice.received().iter().filter_map(|frame| frame["data"].as_u64()).collect();
    let had = |n: &u64| queued.contains(n) && !left.contains(n);
    let cursor = (1..=splice.published).filter(had).max().unwrap_or(0);
    let waits = |n: &u64| match topic {
        Topic::History | Topic::Ack => true,
        Topic::Undelivered => !had(n),
        Topic::Auto => *n > cursor,
    };
    let wanted: Vec<u64> = (1..=splice.published).filter(waits).collect();
    assert_eq!(received, wanted, "{topic:?}: {row:?}");
}

#[test]
fn the_next_reader_gets_what_a_dying_one_did_not_take() {
    for topic in [Topic::History, Topic::Undelivered, Topic::Auto, Topic::Ack] {
        for row in rows(4) {
            death_after(topic, &row);
        }
    }
}
