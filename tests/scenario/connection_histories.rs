//! Random histories of one user's connections.
//!
//! The connections behave as those of the edge do: bounded queues, marks in their
//! order, full until half is gone. It is all about one inbox and its cursor.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use wshubd::hub::settings::Policy;
use wshubd::hub::{
    Credentials, Effect, Effects, FetchPurpose, Hub, Identity, Input, LogKey, Now, Peer, Requester,
    SendQueueState, Settings,
};
use wshubd::protocol;
use wshubd::protocol::message::Delivery;
use wshubd::protocol::{ConnectionId, HubRequest, InboxMode, Message, Moment, UnixTime, worker};

use super::harness::{for_hub, rights, user_id};

const BOUND: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Open(u8),
    Close(u8),
    Send(u8, bool),
    Fleeting,
    Drain(u8, u8),
    Mode(u8, u8),
    Ack(u8, u8, bool),
    Wait(u8),
    Slow(bool),
    Answers,
    HandOver,
    Other(u8),
}

type Mark = (LogKey, u64, Delivery);

struct Link {
    id: ConnectionId,
    mode: InboxMode,
    queue: VecDeque<(Value, Option<Mark>)>,
    reported: SendQueueState,
    /// Queued since it last began to read the inbox.
    received: BTreeSet<u64>,
    last: u64,
    begins: u64,
    taken: u64,
}

struct World {
    hub: Hub,
    settings: Settings,
    now: Now,
    links: BTreeMap<u32, Link>,
    free: Vec<u32>,
    tags: u64,
    store: BTreeMap<LogKey, BTreeMap<u64, Rc<Message>>>,
    slow: bool,
    answers: VecDeque<Input>,
    worker: ConnectionId,
    receipts: BTreeMap<(String, String), u32>,
    epoch: String,
    taken: BTreeSet<u64>,
    gaps: BTreeSet<u64>,
    acked: u64,
    read: u64,
    last: u64,
    sent: u64,
}

const MODES: [InboxMode; 3] = [InboxMode::Auto, InboxMode::Ack, InboxMode::Off];

impl World {
    fn new() -> Self {
        let mut settings = Settings::default();
        settings.inbox = Policy { count: 20, ..settings.inbox };
        settings.limits.requests_per_second = 1_000_000;
        settings.limits.burst = 1_000_000;
        let worker = ConnectionId { slot: 0, tag: 1 };
        let mut world = Self {
            hub: Hub::new(settings.clone(), 7),
            settings,
            now: Now { moment: Moment(1_000_000), wall: UnixTime(1_800_000_000_000) },
            links: BTreeMap::new(),
            free: (1..6).rev().collect(),
            tags: 1,
            store: BTreeMap::new(),
            slow: false,
            answers: VecDeque::new(),
            worker,
            receipts: BTreeMap::new(),
            epoch: String::new(),
            taken: BTreeSet::new(),
            gaps: BTreeSet::new(),
            acked: 0,
            read: 0,
            last: 0,
            sent: 0,
        };
        world.handle(Input::Opened { conn: worker, peer: Peer::Worker { uid: 1, admin: true } });
        world
    }

    fn open(&mut self, mode: InboxMode) -> Option<u32> {
        let slot = self.free.pop()?;
        self.tags += 1;
        let id = ConnectionId { slot, tag: self.tags };
        let link = Link {
            id,
            mode,
            queue: VecDeque::new(),
            reported: SendQueueState::Empty,
            received: BTreeSet::new(),
            last: 0,
            begins: u64::MAX,
            taken: 0,
        };
        self.links.insert(slot, link);
        let rights = rights(&["*"], &["*", "@user:*"], &[]);
        let claim = Credentials::Verified(Identity { rights: Some(rights), ..Identity::new(user_id("u")) });
        self.handle(Input::Opened {
            conn: id,
            peer: Peer::Client { credentials: claim, inbox: mode, network: None },
        });
        Some(slot)
    }

    fn close(&mut self, slot: u32) {
        let Some(link) = self.links.remove(&slot) else { return };
        self.free.push(slot);
        self.handle(Input::Closed { conn: link.id });
    }

    fn pick(&self, n: u8) -> Option<u32> {
        let all: Vec<u32> = self.links.keys().copied().collect();
        (!all.is_empty()).then(|| all[usize::from(n) % all.len()])
    }

    fn handle(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut out = Effects::default();
            self.hub.handle(self.now, input, &mut out);
            for effect in &out.list {
                self.perform(effect, &out);
            }
            inputs.extend(self.states());
            if !self.slow {
                inputs.extend(self.answers.drain(..));
            }
        }
    }

    fn states(&mut self) -> Vec<Input> {
        let mut facts = Vec::new();
        for link in self.links.values_mut() {
            let waiting = link.queue.len();
            let state = match link.reported {
                _ if waiting == 0 => SendQueueState::Empty,
                SendQueueState::Full if waiting >= BOUND / 2 => SendQueueState::Full,
                _ if waiting >= BOUND => SendQueueState::Full,
                _ => SendQueueState::Backlogged,
            };
            if state != link.reported {
                link.reported = state;
                facts.push(Input::SendQueue { conn: link.id, state });
            }
        }
        facts
    }

    fn give(&mut self, slot: u32, json: Value, mark: Option<Mark>) {
        if slot == 0 {
            if json["event"] == "system:receipt" {
                let data = &json["data"];
                let key = (
                    data["message_id"].as_str().unwrap().to_owned(),
                    data["state"].as_str().unwrap().to_owned(),
                );
                let seq: u64 = key.0[1..].parse().unwrap();
                let (acked, read) = (self.acked, self.read);
                assert!(seq <= if key.1 == "read" { read } else { acked }, "{key:?} {acked} {read}");
                let count = self.receipts.entry(key).or_default();
                *count += 1;
                assert_eq!(*count, 1, "told once");
            }
            if json["type"] == "ok" && json["seq"].is_null() && json["kept"] == true {
                self.sent += 1;
            }
            return;
        }
        let link = self.links.get_mut(&slot).expect("somebody is there");
        if json["type"] == "connection_established" {
            self.epoch = json["inbox"]["epoch"].as_str().unwrap().to_owned();
        }
        if json["channel"] == "@me" {
            assert!(link.mode != InboxMode::Off || json["type"] == "gap", "off: {json}");
            if json["type"] == "gap" {
                let (from, to) = (json["from_seq"].as_u64().unwrap(), json["to_seq"].as_u64().unwrap());
                assert!(from > link.last, "a gap in its place: {json} after {}", link.last);
                link.begins = link.begins.min(from);
                link.last = to;
                link.received.extend(from..=to);
                self.gaps.extend(from..=to);
            } else if let Some(seq) = json["seq"].as_u64() {
                assert!(seq > link.last, "order: {seq} after {}", link.last);
                link.begins = link.begins.min(seq);
                link.last = seq;
                link.received.insert(seq);
            }
        }
        link.queue.push_back((json, mark));
    }

    fn slot_is_there(&self, conn: ConnectionId) -> bool {
        conn == self.worker || self.links.get(&conn.slot).is_some_and(|link| link.id == conn)
    }

    fn perform(&mut self, effect: &Effect, out: &Effects) {
        match effect {
            Effect::Deliver { message, to, log } => {
                let json = json_of(|to| message.encode(Delivery::Live, to));
                for slot in out.slots(to) {
                    let mark = log.clone().map(|log| (log, message.seq.unwrap(), Delivery::Live));
                    self.give(*slot, json.clone(), mark);
                }
            }
            Effect::Replay { message, conn, log } => {
                assert!(self.slot_is_there(*conn));
                let json = json_of(|to| message.encode(Delivery::Replayed, to));
                self.give(conn.slot, json, Some((log.clone(), message.seq.unwrap(), Delivery::Replayed)));
            }
            Effect::Broadcast { frame, to } => {
                let json = json_of(|to| frame.encode(None, to));
                for slot in out.slots(to) {
                    self.give(*slot, json.clone(), None);
                }
            }
            Effect::Reply { to: Requester::Connection(conn), frame, .. } => {
                assert!(self.slot_is_there(*conn));
                let json = json_of(|to| frame.encode(None, to));
                self.give(conn.slot, json, None);
            }
            Effect::Refuse { refusal, .. } => panic!("{refusal:?}"),
            Effect::Append { log, message, .. } => {
                let known =
                    self.store.entry(log.clone()).or_default().insert(message.seq.unwrap(), message.clone());
                assert!(known.is_none());
            }
            Effect::Fetch { fetch, log, after, count, bytes: _ } => {
                let kept = self.store.get(log).into_iter().flat_map(|kept| kept.range(after + 1..));
                let count = if matches!(fetch, FetchPurpose::Replay(_)) { 3.min(*count) } else { *count };
                let messages = kept.take(count).map(|(_, message)| message.clone()).collect();
                self.answers.push_back(Input::Fetched { fetch: *fetch, log: log.clone(), messages });
            }
            Effect::Truncate { log, from, to } => {
                if let Some(kept) = self.store.get_mut(log) {
                    kept.retain(|seq, _| seq < from || seq > to);
                }
            }
            _ => {}
        }
    }

    fn drain(&mut self, slot: u32, count: usize) {
        for _ in 0..count {
            let Some(link) = self.links.get_mut(&slot) else { return };
            let Some((json, mark)) = link.queue.pop_front() else { break };
            if json["channel"] == "@me" {
                if let Some(seq) = json["seq"].as_u64() {
                    self.taken.insert(seq);
                    link.taken = link.taken.max(seq);
                }
                if let Some(to) = json["to_seq"].as_u64() {
                    link.taken = link.taken.max(to);
                }
            }
            let conn = link.id;
            if let Some((log, seq, how)) = mark {
                self.handle(Input::Flushed { conn, log, seq, how });
            }
            for fact in self.states() {
                self.handle(fact);
            }
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Open(mode) => drop(self.open(MODES[usize::from(mode) % 3])),
            Step::Close(n) => {
                if let Some(slot) = self.pick(n) {
                    self.close(slot);
                }
            }
            Step::Send(ttl, receipt) => self.send(ttl, receipt),
            Step::Fleeting => self.send_from_worker(&json!({"user_id": "u", "event": "f", "ttl": 0})),
            Step::Drain(n, count) => {
                if let Some(slot) = self.pick(n) {
                    self.drain(slot, usize::from(count));
                }
            }
            Step::Mode(n, mode) => self.change_mode(n, MODES[usize::from(mode) % 3]),
            Step::Ack(n, back, read) => self.ack(n, u64::from(back % 3), read),
            Step::Wait(seconds) => self.wait(u64::from(seconds % 12)),
            Step::Slow(slow) => {
                self.slow = slow;
                self.answer();
            }
            Step::Answers => self.answer(),
            Step::HandOver => self.hand_over(),
            Step::Other(n) => {
                let what = ["system:undelivered", "system:presence"][usize::from(n) % 2];
                let action = if n % 3 == 0 { "unsubscribe" } else { "subscribe" };
                self.send_from_worker(&json!({"action": action, "channel": what}));
            }
        }
    }

    fn send(&mut self, ttl: u8, receipt: bool) {
        self.last += 1;
        let id = format!("m{}", self.last);
        let mut line = json!({"user_id": "u", "event": "e", "message_id": id, "receipt": receipt});
        if ttl < 100 {
            line["ttl"] = json!(1 + ttl / 10);
        }
        self.send_from_worker(&line);
    }

    fn hand_over(&mut self) {
        let bytes = self.hub.export();
        self.hub = Hub::import(self.settings.clone(), &bytes).unwrap();
        // What the other process asked of its store is answered to nobody.
        self.answers.clear();
        self.handle(Input::Timeout);
    }

    fn change_mode(&mut self, n: u8, mode: InboxMode) {
        let Some(slot) = self.pick(n) else { return };
        let link = self.links.get_mut(&slot).unwrap();
        let was = std::mem::replace(&mut link.mode, mode);
        if was == InboxMode::Off && mode != InboxMode::Off {
            (link.last, link.begins) = (0, u64::MAX);
            link.received.clear();
        }
        let conn = link.id;
        let rights = rights(&["*"], &["*", "@user:*"], &[]);
        let claim = Ok(Identity { rights: Some(rights), ..Identity::new(user_id("u")) });
        self.handle(Input::TokenChecked { conn, id: None, inbox: Some(mode), claim });
    }

    fn ack(&mut self, n: u8, back: u64, read: bool) {
        let Some(slot) = self.pick(n) else { return };
        let link = &self.links[&slot];
        let (conn, seq) = (link.id, link.taken.saturating_sub(back));
        if seq == 0 {
            return;
        }
        if link.mode != InboxMode::Off {
            self.acked = self.acked.max(seq);
            if read {
                self.read = self.read.max(seq);
            }
        }
        let line = json!({"action": "ack", "epoch": self.epoch, "seq": seq, "read": read}).to_string();
        let parsed = protocol::parse(&line).unwrap();
        let request = for_hub(parsed);
        assert!(matches!(request.request, HubRequest::Ack { .. }));
        self.handle(Input::Request { from: Requester::Connection(conn), request });
    }

    fn answer(&mut self) {
        while let Some(input) = self.answers.pop_front() {
            self.handle(input);
        }
    }

    fn send_from_worker(&mut self, line: &Value) {
        let parsed = worker::parse(line.to_string().as_bytes()).unwrap();
        self.handle(Input::Request { from: Requester::Connection(self.worker), request: for_hub(parsed) });
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now.moment = self.now.moment + Duration::from_secs(1);
            for conn in self.links.values().map(|link| link.id).collect::<Vec<_>>() {
                self.handle(Input::KeepAlive { conn, controls: 0 });
                self.handle(Input::WriteProgress { conn });
            }
            if self.hub.deadline().is_some_and(|due| due <= self.now.moment) {
                self.handle(Input::Timeout);
                assert!(self.hub.deadline().is_none_or(|due| due > self.now.moment), "spins");
            }
        }
    }

    /// All sockets take all: no reader misses anything.
    fn settle(&mut self) {
        self.slow = false;
        self.answer();
        for slot in self.links.keys().copied().collect::<Vec<_>>() {
            self.drain(slot, 100_000);
        }
        for link in self.links.values().filter(|link| link.mode != InboxMode::Off && link.begins < u64::MAX) {
            let missing: Vec<u64> =
                (link.begins..=self.last).filter(|seq| !link.received.contains(seq)).collect();
            assert!(missing.is_empty(), "{:?} misses {missing:?} of {}", link.id, self.last);
        }
    }

    fn end(mut self, settles: bool) {
        if settles {
            self.settle();
        }
        for slot in self.links.keys().copied().collect::<Vec<_>>() {
            self.close(slot);
        }
        self.slow = false;
        self.answer();
        let slot = self.open(InboxMode::Auto).unwrap();
        self.drain(slot, 100_000);
        let received = &self.links[&slot].received;
        let silent: Vec<u64> = (1..=self.last)
            .filter(|seq| *seq > self.acked)
            .filter(|seq| !self.taken.contains(seq) && !self.gaps.contains(seq) && !received.contains(seq))
            .collect();
        assert!(silent.is_empty(), "lost in silence: {silent:?} of {}", self.last);
        self.close(slot);
        self.wait(90_000);
        let state = serde_json::to_value(&self.hub).unwrap();
        assert_eq!(state["pending_leaves"], json!({"until": {}, "order": []}));
        let left: Vec<&Value> = state["channels"].as_object().unwrap().values().collect();
        assert!(left.iter().all(|topic| topic["key"] != json!({"Inbox": "u"})), "{left:?}");
    }
}

fn json_of(encode: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    serde_json::from_slice(&bytes).unwrap()
}

fn step() -> impl Strategy<Value = Step> {
    let two = (any::<u8>(), any::<u8>());
    prop_oneof![
        4 => any::<u8>().prop_map(Step::Open),
        2 => any::<u8>().prop_map(Step::Close),
        20 => (any::<u8>(), any::<bool>()).prop_map(|(a, b)| Step::Send(a, b)),
        1 => Just(Step::Fleeting),
        12 => (any::<u8>(), 1..9u8).prop_map(|(a, n)| Step::Drain(a, n)),
        2 => two.prop_map(|(a, b)| Step::Mode(a, b)),
        5 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(a, b, c)| Step::Ack(a, b, c)),
        3 => any::<u8>().prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Slow),
        2 => Just(Step::Answers),
        1 => Just(Step::HandOver),
        1 => any::<u8>().prop_map(Step::Other),
    ]
}

fn config() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(100), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_inbox_loses_nothing_unannounced(
        steps in prop::collection::vec(step(), 1..120), settles in any::<bool>()
    ) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        world.end(settles);
    }
}
