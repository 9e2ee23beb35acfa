//! Positions that a client may store: the start of its subscription, and then the last
//! message that it has read.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wshubd::hub::Settings;
use wshubd::hub::settings::{Keep, Policy};

use super::bench::{Bench, Seat};

fn with(keep: Keep) -> Bench {
    Bench::with(Settings { policy: Policy { keep, ..Policy::default() }, ..Settings::default() })
}

/// Where a subscription begins: `seq`, `after_seq` and `recovered`.
fn begins(bench: &mut Bench, seat: Seat, since: Option<(&str, u64)>) -> (u64, u64, Option<bool>) {
    let since = since.map(|(epoch, seq)| json!({"epoch": epoch, "seq": seq}));
    let heard = bench.ask(seat, json!({"action": "subscribe", "channel": "room", "since": since}));
    let answer = heard.iter().find(|frame| frame["type"] == "subscription_succeeded").unwrap();
    let number = |field: &str| answer[field].as_u64().unwrap();
    (number("seq"), number("after_seq"), answer["recovered"].as_bool())
}

fn epoch(bench: &mut Bench) -> String {
    let eve = bench.client("eve");
    let heard =
        bench.ask(eve, json!({"action": "subscribe", "channel": "room", "since": {"epoch": "x", "seq": 0}}));
    bench.leave(eve);
    heard[1]["epoch"].as_str().unwrap().to_owned()
}

#[test]
fn a_subscription_begins_before_its_first_message() {
    let mut bench = with(Keep::History);
    let (ann, bob) = (bench.client("ann"), bench.client("bob"));
    assert_eq!(begins(&mut bench, bob, None), (0, 0, None), "an empty channel");
    for n in 1..=5 {
        bench.publish(ann, "room", n);
    }
    assert_eq!(begins(&mut bench, bob, None), (5, 5, None), "live only");
    assert_eq!(begins(&mut bench, bob, Some(("", 0))), (5, 0, Some(true)));
    let epoch = epoch(&mut bench);
    assert_eq!(begins(&mut bench, bob, Some((&epoch, 3))), (5, 3, Some(true)));
    assert_eq!(begins(&mut bench, bob, Some((&epoch, 5))), (5, 5, Some(true)));
    assert_eq!(begins(&mut bench, bob, Some((&epoch, 9))), (5, 0, Some(false)), "beyond what there is");
    assert_eq!(begins(&mut bench, bob, Some(("other", 3))), (5, 0, Some(false)), "of other numbers");
}

#[test]
fn lost_messages_lie_before_the_start_of_a_subscription() {
    let policy = Policy { keep: Keep::History, count: 3, ..Policy::default() };
    let mut bench = Bench::with(Settings { policy, ..Settings::default() });
    let (ann, bob) = (bench.client("ann"), bench.client("bob"));
    for n in 1..=8 {
        bench.publish(ann, "room", n);
    }
    let epoch = epoch(&mut bench);
    assert_eq!(begins(&mut bench, bob, Some((&epoch, 2))), (8, 5, Some(false)));
    assert_eq!(begins(&mut bench, bob, Some(("other", 2))), (8, 5, Some(false)));
    let never = &mut with(Keep::Never);
    let (ann, bob) = (never.client("ann"), never.client("bob"));
    never.publish(ann, "room", 1);
    assert_eq!(begins(never, bob, Some(("other", 2))), (1, 1, Some(false)), "nothing follows");
}

#[test]
fn undelivered_messages_follow_the_start_of_a_subscription() {
    let mut bench = with(Keep::Undelivered);
    let (ann, bob) = (bench.client("ann"), bench.client("bob"));
    begins(&mut bench, bob, None);
    bench.publish(ann, "room", 1);
    bench.leave(bob);
    for n in 2..=4 {
        bench.publish(ann, "room", n);
    }
    let carol = bench.client("carol");
    bench.slow(carol);
    bench.tell(carol, &json!({"action": "subscribe", "channel": "room"}));
    bench.carry(carol, 2);
    assert_eq!(bench.frames(carol)[1]["after_seq"], 1);
    // It reads on where it is.
    bench.carry(carol, 1);
    bench.tell(carol, &json!({"action": "subscribe", "channel": "room"}));
    bench.carry(carol, 9);
    let heard = bench.frames(carol);
    let answer = heard.iter().find(|frame| frame["type"] == "subscription_succeeded").unwrap();
    assert_eq!(answer["after_seq"], 4, "all of it is on its way: {heard:?}");
    // One's own message without echo does not follow.
    let dave = bench.client("dave");
    bench.leave(carol);
    bench.say(dave, json!({"action": "send", "channel": "room", "event": "say", "echo": false}));
    assert_eq!(begins(&mut bench, dave, None), (5, 5, None));
}

/// A client that stores where it is, and nothing else.
#[derive(Default)]
struct Reader {
    epoch: String,
    seq: u64,
    /// Where it began.
    began: Option<u64>,
    heard: BTreeSet<u64>,
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
                assert!(self.heard.insert(self.seq), "{} came twice", self.seq);
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
    let mut bench = with(keep);
    let (worker, carol) = (bench.worker(), bench.client("carol"));
    let mut random = seed;
    let mut below = |most: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % most
    };
    let (mut bob, mut published) = (Reader::default(), 0);
    let mut publish = |bench: &mut Bench, count: u64| {
        for _ in 0..count {
            published += 1;
            bench.say(worker, json!({"channel": "room", "event": "say", "data": published}));
        }
    };
    for life in 0..30 {
        publish(&mut bench, below(9));
        // Sometimes another subscriber receives it too.
        match below(3) {
            0 => drop(bench.subscribe(carol, "room")),
            1 => drop(bench.say(carol, json!({"action": "unsubscribe", "channel": "room"}))),
            _ => {}
        }
        // No client asks too often.
        bench.live(1);
        let seat = bench.client("bob");
        bench.slow(seat);
        let since = bob.began.map(|_| json!({"epoch": bob.epoch, "seq": bob.seq}));
        bench.tell(seat, &json!({"action": "subscribe", "channel": "room", "since": since}));
        publish(&mut bench, below(6));
        let is_last = life == 29;
        bench.carry(seat, if is_last { usize::MAX } else { below(16) as usize });
        let taken = bench.frames(seat);
        let read = if is_last { taken.len() } else { below(taken.len() as u64 + 1) as usize };
        taken.iter().take(read).for_each(|frame| bob.read(frame));
        bench.leave(seat);
    }
    let began = bob.began.unwrap();
    let told: BTreeSet<u64> = bob.heard.union(&bob.lost).copied().collect();
    let expected = (began + 1..=published).collect();
    let silent: Vec<_> = BTreeSet::difference(&expected, &told).collect();
    assert!(silent.is_empty(), "{keep:?} seed {seed}: neither heard nor told: {silent:?}");
    bob
}

#[test]
fn a_client_that_stores_its_position_misses_nothing() {
    let mut heard = [0, 0];
    for seed in 0..40 {
        let bob = lives(Keep::History, seed);
        assert!(bob.lost.is_empty(), "seed {seed}: a history has all of it: {:?}", bob.lost);
        heard[0] += bob.heard.len();
        heard[1] += lives(Keep::Undelivered, seed).heard.len();
        lives(Keep::Never, seed);
    }
    assert!(heard.iter().all(|heard| *heard > 1_000), "{heard:?}");
}
