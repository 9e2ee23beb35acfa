//! A client that is disconnected ten thousand times, anywhere.
//!
//! Its connection is slow, the store sometimes is, and with each cut some frames are
//! lost that its socket had taken already. `CUTS_SEED` chooses other cuts; the
//! seed is printed when something fails.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use wshubd::hub::Settings;
use wshubd::hub::settings::{Keep, Policy};
use wshubd::protocol::InboxMode;
use wshubd::protocol::InboxMode::{Ack, Auto, Off};

use super::harness::{ConnectionId, Harness};

const CUTS: usize = 10_000;

/// Numbers as if by chance (splitmix64): the same for the same seed.
struct Chance {
    seed: u64,
    state: u64,
}

impl Chance {
    fn new() -> Self {
        let asked = std::env::var("CUTS_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = asked.unwrap_or(1);
        Self { seed, state: seed }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// A hub, a publisher of numbers, and a client that is disconnected.
struct Cuts {
    harness: Harness,
    chance: Chance,
    worker: ConnectionId,
    target: Value,
    published: u64,
}

impl Cuts {
    fn new(target: Value) -> Self {
        // More than the client is ever behind.
        let history = Policy { keep: Keep::History, count: 200, ..Policy::default() };
        let mut harness = Harness::with(Settings { policy: history, ..Settings::default() });
        let worker = harness.worker();
        Self { harness, chance: Chance::new(), worker, target, published: 0 }
    }

    fn publish(&mut self) {
        self.published += 1;
        let mut line = self.target.clone();
        line["event"] = json!("say");
        line["data"] = json!(self.published);
        line["message_id"] = json!(format!("m{}", self.published));
        self.harness.send_unread(self.worker, &line);
    }

    fn come(&mut self, mode: InboxMode) -> ConnectionId {
        self.harness.slow_store = self.chance.below(3) == 0;
        let conn = self.harness.client_in("bob", mode);
        self.harness.slow(conn);
        conn
    }

    /// Something happens while the client is there.
    fn happen(&mut self, conn: ConnectionId) {
        match self.chance.below(8) {
            0..2 => self.publish(),
            2..6 => {
                let count = 1 + self.chance.below(12);
                self.harness.carry(conn, count);
            }
            6 => self.harness.store_answers(),
            _ => self.harness.wait(0.1),
        }
        self.harness.report_send_queues();
    }

    /// The last of it is cut off too; what is published meanwhile it receives later.
    fn cut(&mut self, conn: ConnectionId) {
        let lost = self.chance.below(8);
        self.harness.cut(conn, lost);
        for _ in 0..self.chance.below(2) {
            self.publish();
        }
    }

    /// At last a link that holds.
    fn rest(&mut self, conn: ConnectionId) -> Vec<Value> {
        self.harness.slow_store = false;
        self.harness.store_answers();
        self.harness.fast(conn);
        self.harness.frames(conn)
    }

    fn seed(&self) -> String {
        format!("with CUTS_SEED={}, after {} messages", self.chance.seed, self.published)
    }
}

fn messages(frames: &[Value]) -> impl Iterator<Item = &Value> {
    frames.iter().filter(|frame| frame["type"] == "message")
}

/// A client of a history that reconnects with its last position.
struct Reader {
    since: Value,
    received: u64,
}

impl Reader {
    fn receive(&mut self, frames: &[Value], seed: &str) {
        for frame in frames {
            match frame["type"].as_str().unwrap() {
                "subscription_succeeded" => {
                    assert_eq!(frame["recovered"], true, "{seed}");
                    self.since["epoch"] = frame["epoch"].clone();
                }
                "message" => {
                    self.received += 1;
                    assert_eq!(frame["data"], self.received, "nothing missing, nothing doubled, {seed}");
                    self.since["seq"] = frame["seq"].clone();
                }
                "gap" => panic!("{frame} {seed}"),
                _ => {}
            }
        }
    }
}

#[test]
fn a_history_loses_and_doubles_nothing() {
    let mut cuts = Cuts::new(json!({"channel": "orders"}));
    let mut reader = Reader { since: json!({"epoch": "", "seq": 0}), received: 0 };
    for cut in 0..=CUTS {
        let conn = cuts.come(Off);
        let request = json!({"action": "subscribe", "channel": "orders", "since": reader.since});
        cuts.harness.send_unread(conn, &request);
        cuts.harness.report_send_queues();
        let frames = if cut == CUTS {
            cuts.rest(conn)
        } else {
            for _ in 0..cuts.chance.below(6) {
                cuts.happen(conn);
            }
            cuts.harness.frames(conn)
        };
        reader.receive(&frames, &cuts.seed());
        if cut < CUTS {
            cuts.cut(conn);
        }
    }
    assert_eq!(reader.received, cuts.published, "{}", cuts.seed());
}

#[test]
fn ack_mode_loses_nothing_and_repeats_nothing_acknowledged() {
    let mut cuts = Cuts::new(json!({"user_id": "bob"}));
    let (mut received, mut last, mut acknowledged) = (BTreeMap::new(), 0, 0);
    for cut in 0..=CUTS {
        let conn = cuts.come(Ack);
        let frames = if cut == CUTS {
            cuts.rest(conn)
        } else {
            for _ in 0..cuts.chance.below(6) {
                cuts.happen(conn);
            }
            cuts.harness.frames(conn)
        };
        let mut before = acknowledged;
        for message in messages(&frames) {
            let seq = message["seq"].as_u64().unwrap();
            assert_eq!(seq, before + 1, "in order, from the first that is not acknowledged, {}", cuts.seed());
            let id = message["message_id"].clone();
            let first = received.entry(seq).or_insert_with(|| id.clone());
            assert_eq!(*first, id, "what comes again is the same, {}", cuts.seed());
            (before, last) = (seq, seq.max(last));
        }
        if before > acknowledged && cuts.chance.below(2) == 0 {
            acknowledged += 1 + cuts.chance.below((before - acknowledged) as usize) as u64;
            cuts.harness.ack(conn, acknowledged);
        }
        if cut < CUTS {
            cuts.cut(conn);
        }
    }
    assert_eq!((last, received.len() as u64), (cuts.published, cuts.published), "{}", cuts.seed());
}

#[test]
fn auto_mode_doubles_nothing_and_loses_only_frames_taken() {
    let mut cuts = Cuts::new(json!({"user_id": "bob"}));
    let (mut received, mut lost) = (BTreeSet::new(), BTreeSet::new());
    for cut in 0..=CUTS {
        let conn = cuts.come(Auto);
        let frames = if cut == CUTS {
            cuts.rest(conn)
        } else {
            for _ in 0..cuts.chance.below(6) {
                cuts.happen(conn);
            }
            cuts.harness.frames(conn)
        };
        for message in messages(&frames) {
            let number = message["data"].as_u64().unwrap();
            assert!(received.last().is_none_or(|last| *last < number), "once and in order, {}", cuts.seed());
            received.insert(number);
        }
        if cut < CUTS {
            let count = cuts.chance.below(8);
            let behind = cuts.harness.waiting(conn).into_iter().take(count);
            lost.extend(behind.filter_map(|frame| frame["data"].as_u64()));
            cuts.harness.cut(conn, count);
            cuts.publish();
        }
    }
    let wanted: BTreeSet<u64> = (1..=cuts.published).filter(|number| !lost.contains(number)).collect();
    assert_eq!(received, wanted, "{}", cuts.seed());
}
