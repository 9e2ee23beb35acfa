//! Positions that a client may store: the start of its subscription, and then the last
//! message that it has read.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wshubd::hub::Settings;
use wshubd::hub::settings::{Keep, Policy};

use super::harness::{ConnectionId, Harness};

fn with(keep: Keep) -> Harness {
    Harness::with(Settings { policy: Policy { keep, ..Policy::default() }, ..Settings::default() })
}

/// Where a subscription begins: `seq`, `after_seq` and `recovered`.
fn begins(harness: &mut Harness, conn: ConnectionId, since: Option<(&str, u64)>) -> (u64, u64, Option<bool>) {
    let since = since.map(|(epoch, seq)| json!({"epoch": epoch, "seq": seq}));
    let received = harness.request(conn, json!({"action": "subscribe", "channel": "room", "since": since}));
    let answer = received.iter().find(|frame| frame["type"] == "subscription_succeeded").unwrap();
    let number = |field: &str| answer[field].as_u64().unwrap();
    (number("seq"), number("after_seq"), answer["recovered"].as_bool())
}

fn epoch(harness: &mut Harness) -> String {
    let eve = harness.client("eve");
    let received = harness
        .request(eve, json!({"action": "subscribe", "channel": "room", "since": {"epoch": "x", "seq": 0}}));
    harness.disconnect(eve);
    received[1]["epoch"].as_str().unwrap().to_owned()
}

#[test]
fn a_subscription_begins_before_its_first_message() {
    let mut harness = with(Keep::History);
    let (ann, bob) = (harness.client("ann"), harness.client("bob"));
    assert_eq!(begins(&mut harness, bob, None), (0, 0, None), "an empty channel");
    for n in 1..=5 {
        harness.publish(ann, "room", n);
    }
    assert_eq!(begins(&mut harness, bob, None), (5, 5, None), "live only");
    assert_eq!(begins(&mut harness, bob, Some(("", 0))), (5, 0, Some(true)));
    let epoch = epoch(&mut harness);
    assert_eq!(begins(&mut harness, bob, Some((&epoch, 3))), (5, 3, Some(true)));
    assert_eq!(begins(&mut harness, bob, Some((&epoch, 5))), (5, 5, Some(true)));
    assert_eq!(begins(&mut harness, bob, Some((&epoch, 9))), (5, 0, Some(false)), "beyond what there is");
    assert_eq!(begins(&mut harness, bob, Some(("other", 3))), (5, 0, Some(false)), "of other numbers");
}

#[test]
fn lost_messages_lie_before_the_start_of_a_subscription() {
    let policy = Policy { keep: Keep::History, count: 3, ..Policy::default() };
    let mut harness = Harness::with(Settings { policy, ..Settings::default() });
    let (ann, bob) = (harness.client("ann"), harness.client("bob"));
    for n in 1..=8 {
        harness.publish(ann, "room", n);
    }
    let epoch = epoch(&mut harness);
    assert_eq!(begins(&mut harness, bob, Some((&epoch, 2))), (8, 5, Some(false)));
    assert_eq!(begins(&mut harness, bob, Some(("other", 2))), (8, 5, Some(false)));
    let never = &mut with(Keep::Never);
    let (ann, bob) = (never.client("ann"), never.client("bob"));
    never.publish(ann, "room", 1);
    assert_eq!(begins(never, bob, Some(("other", 2))), (1, 1, Some(false)), "nothing follows");
}

#[test]
fn undelivered_messages_follow_the_start_of_a_subscription() {
    let mut harness = with(Keep::Undelivered);
    let (ann, bob) = (harness.client("ann"), harness.client("bob"));
    begins(&mut harness, bob, None);
    harness.publish(ann, "room", 1);
    harness.disconnect(bob);
    for n in 2..=4 {
        harness.publish(ann, "room", n);
    }
    let carol = harness.client("carol");
    harness.slow(carol);
    harness.send_unread(carol, &json!({"action": "subscribe", "channel": "room"}));
    harness.carry(carol, 2);
    assert_eq!(harness.frames(carol)[1]["after_seq"], 1);
    // It reads on where it is.
    harness.carry(carol, 1);
    harness.send_unread(carol, &json!({"action": "subscribe", "channel": "room"}));
    harness.carry(carol, 9);
    let received = harness.frames(carol);
    let answer = received.iter().find(|frame| frame["type"] == "subscription_succeeded").unwrap();
    assert_eq!(answer["after_seq"], 4, "all of it is on its way: {received:?}");
    // One's own message without echo does not follow.
    let dave = harness.client("dave");
    harness.disconnect(carol);
    harness.send(dave, json!({"action": "send", "channel": "room", "event": "say", "echo": false}));
    assert_eq!(begins(&mut harness, dave, None), (5, 5, None));
}

/// A client that stores where it is, and nothing else.
#[derive(Default)]
struct Reader {
    epoch: String,
    seq: u64,
    /// Where it began.
    began: Option<u64>,
    received: BTreeSet<u64>,
    lost: BTreeSet<u64>,
}

impl Reader {
    fn read(&mut self, frame: &Value) {
        match frame["type"].as_str().unwrap() {
            "subscription_succeeded" => {
                self.epoch = frame["epoch"].as_str().unwrap().to_owned();
                let after = frame["after_seq"].as_u64().unwrap();
                // That alone announces the loss in between; the `gap` may not be read.
                if frame["recovered"] == false {
                    self.lost.extend(self.seq + 1..=after);
                }
                self.seq = after;
                self.began.get_or_insert(after);
            }
            "message" => {
                self.seq = frame["seq"].as_u64().unwrap();
                assert!(self.received.insert(self.seq), "{} came twice", self.seq);
            }
            "gap" => {
                let [from, to] = ["from_seq", "to_seq"].map(|field| frame[field].as_u64().unwrap());
                self.lost.extend(from..=to);
                self.seq = self.seq.max(to);
            }
            _ => {}
        }
    }
}

/// Lives of a client that ends at any frame, having read only part of what its socket took.
fn lives(keep: Keep, seed: u64) -> Reader {
    let mut harness = with(keep);
    let (worker, carol) = (harness.worker(), harness.client("carol"));
    let mut random = seed;
    let mut below = |most: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % most
    };
    let (mut bob, mut published) = (Reader::default(), 0);
    let mut publish = |harness: &mut Harness, count: u64| {
        for _ in 0..count {
            published += 1;
            harness.send(worker, json!({"channel": "room", "event": "say", "data": published}));
        }
    };
    for life in 0..30 {
        publish(&mut harness, below(9));
        // Sometimes another subscriber receives it too.
        match below(3) {
            0 => drop(harness.subscribe(carol, "room")),
            1 => drop(harness.send(carol, json!({"action": "unsubscribe", "channel": "room"}))),
            _ => {}
        }
        // No client asks too often.
        harness.keep_alive(1);
        let conn = harness.client("bob");
        harness.slow(conn);
        let since = bob.began.map(|_| json!({"epoch": bob.epoch, "seq": bob.seq}));
        harness.send_unread(conn, &json!({"action": "subscribe", "channel": "room", "since": since}));
        publish(&mut harness, below(6));
        let is_last = life == 29;
        harness.carry(conn, if is_last { usize::MAX } else { below(16) as usize });
        let taken = harness.frames(conn);
        let read = if is_last { taken.len() } else { below(taken.len() as u64 + 1) as usize };
        taken.iter().take(read).for_each(|frame| bob.read(frame));
        harness.disconnect(conn);
    }
    let began = bob.began.unwrap();
    let accounted: BTreeSet<u64> = bob.received.union(&bob.lost).copied().collect();
    let expected = (began + 1..=published).collect();
    let silent: Vec<_> = BTreeSet::difference(&expected, &accounted).collect();
    assert!(silent.is_empty(), "{keep:?} seed {seed}: neither heard nor told: {silent:?}");
    bob
}

#[test]
fn a_client_that_stores_its_position_misses_nothing() {
    let mut received = [0, 0];
    for seed in 0..40 {
        let bob = lives(Keep::History, seed);
        assert!(bob.lost.is_empty(), "seed {seed}: a history has all of it: {:?}", bob.lost);
        received[0] += bob.received.len();
        received[1] += lives(Keep::Undelivered, seed).received.len();
        lives(Keep::Never, seed);
    }
    assert!(received.iter().all(|received| *received > 1_000), "{received:?}");
}
