//! Random histories, with the invariants that hold in all of them.
//!
//! Each peer is a witness of the frames it receives: order, doubles and losses are
//! judged from the frames alone, as a client would. `PROPTEST_CASES` runs more.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{Input, Pattern, SendQueueState, Settings};

use super::harness::{ConnectionId, Harness, summary};

/// One thing that happens; numbers choose among those who are there.
#[derive(Clone, Debug)]
enum Step {
    Client(u8),
    Worker,
    Leave(u8),
    Subscribe(u8, u8),
    SubscribeFromTheStart(u8, u8),
    Unsubscribe(u8, u8),
    Publish(u8, u8),
    Fleeting(u8, u8),
    Whisper(u8, u8),
    ToUser(u8, u8),
    Outbound(u8, SendQueueState),
    Clog(u8),
    Drain(u8, u8),
    Unclog(u8),
    SlowStore(bool),
    StoreAnswers,
    Memory(u8),
    Wait(u8),
    Start(u8, u8),
    End(u8, u8),
    Interrupt(u8, u8),
    HandOver,
    Configure(u8, u8),
    Durable(u8, u8),
    DurableToUser(u8, u8),
    Disk(Disk),
}

/// What a disk does.
#[derive(Clone, Copy, Debug)]
enum Disk {
    Slow,
    Quick,
    Writes,
    WritesAll,
    Refuses,
    Fails,
    Works,
    Unreadable,
}

/// One of each policy, small enough that random histories reach their limits.
const CHANNELS: [&str; 4] = ["undelivered", "history", "never", "brief"];

fn settings() -> Settings {
    let keep = |keep, count, seconds| Policy {
        keep,
        count,
        ttl: std::time::Duration::from_secs(seconds),
        ..Policy::default()
    };
    let mut settings = Settings {
        policies: vec![
            (Pattern::new("undelivered"), keep(Keep::Undelivered, 70, 86_400)),
            (Pattern::new("history"), keep(Keep::History, 4, 86_400)),
            (Pattern::new("never"), keep(Keep::Never, 0, 0)),
            (Pattern::new("brief"), keep(Keep::Undelivered, 3, 10)),
        ],
        ..Settings::default()
    };
    settings.limits.requests_per_second = 1_000_000;
    settings.limits.burst = 1_000_000;
    settings.limits.kept_bytes = 20_000;
    settings.has_disk = true;
    settings
}

/// Policies that a channel may come under while it is used, a limit of each among
/// them.
fn policies() -> [Policy; 5] {
    let usual = Policy { count: 70, ..Policy::default() };
    [
        usual,
        Policy { keep: Keep::History, count: 4, ..usual },
        Policy { keep: Keep::Never, ..usual },
        Policy { count: 3, ttl: std::time::Duration::from_secs(10), ..usual },
        Policy { keep: Keep::History, bytes: 300, ..usual },
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let state = prop_oneof![
        Just(SendQueueState::Empty),
        Just(SendQueueState::Backlogged),
        Just(SendQueueState::Full)
    ];
    let two = (any::<u8>(), any::<u8>());
    prop_oneof![
        3 => any::<u8>().prop_map(Step::Client),
        1 => Just(Step::Worker),
        2 => any::<u8>().prop_map(Step::Leave),
        6 => two.prop_map(|(a, b)| Step::Subscribe(a, b)),
        2 => two.prop_map(|(a, b)| Step::SubscribeFromTheStart(a, b)),
        2 => two.prop_map(|(a, b)| Step::Unsubscribe(a, b)),
        16 => two.prop_map(|(a, b)| Step::Publish(a, b)),
        1 => two.prop_map(|(a, b)| Step::Fleeting(a, b)),
        1 => two.prop_map(|(a, b)| Step::Whisper(a, b)),
        3 => two.prop_map(|(a, b)| Step::ToUser(a, b)),
        5 => (any::<u8>(), state).prop_map(|(a, state)| Step::Outbound(a, state)),
        3 => any::<u8>().prop_map(Step::Clog),
        4 => (any::<u8>(), 1..80u8).prop_map(|(a, n)| Step::Drain(a, n)),
        2 => any::<u8>().prop_map(Step::Unclog),
        1 => any::<bool>().prop_map(Step::SlowStore),
        2 => Just(Step::StoreAnswers),
        1 => (0..100u8).prop_map(Step::Memory),
        3 => (0..20u8).prop_map(Step::Wait),
        3 => two.prop_map(|(a, b)| Step::Start(a, b)),
        2 => two.prop_map(|(a, b)| Step::End(a, b)),
        3 => two.prop_map(|(a, b)| Step::Interrupt(a, b)),
        1 => Just(Step::HandOver),
        1 => two.prop_map(|(a, b)| Step::Configure(a, b)),
        3 => two.prop_map(|(a, b)| Step::Durable(a, b)),
        2 => two.prop_map(|(a, b)| Step::DurableToUser(a, b)),
        4 => prop::sample::select(&DISK[..]).prop_map(Step::Disk),
    ]
}

const DISK: [Disk; 8] = [
    Disk::Slow,
    Disk::Quick,
    Disk::Writes,
    Disk::WritesAll,
    Disk::Refuses,
    Disk::Fails,
    Disk::Works,
    Disk::Unreadable,
];

/// What one subscription has received so far.
#[derive(Default, Debug)]
struct Session {
    /// The position at which it began.
    start: u64,
    /// The last position received or in a gap.
    last: u64,
    /// All of them.
    accounted: BTreeSet<u64>,
    /// A gap now is about what lies before all that follows.
    fresh: bool,
}

impl Session {
    fn misses(&mut self, gap: &Value) {
        let number = |field: &str| gap[field].as_u64().unwrap();
        let (from, to, lost) = (number("from_seq"), number("to_seq"), number("lost"));
        assert!(from <= to && (1..=to - from + 1).contains(&lost), "{}", summary(gap));
        let of_the_past = self.fresh && to <= self.start;
        self.fresh = false;
        if !of_the_past {
            assert!(from > self.last, "a gap stands in its place: {from} after {}", self.last);
            self.last = to;
            self.accounted.extend(from..=to);
        }
    }
}

#[derive(Default)]
struct Witness {
    is_worker: bool,
    sessions: BTreeMap<String, Session>,
    inbox: u64,
    /// Interrupts and durable messages that have no final answer yet, by request id.
    asked: BTreeSet<u64>,
}

struct Model {
    harness: Harness,
    conns: BTreeMap<ConnectionId, Witness>,
    /// Hears of every operation, and is always in good health.
    observer: ConnectionId,
    /// Those that run, and whether they were interrupted.
    running: BTreeMap<String, bool>,
    requests: u64,
}

impl Model {
    fn new() -> Self {
        let mut harness = Harness::with(settings());
        let observer = harness.client("observer");
        harness.subscribe(observer, "jobs");
        Self { harness, conns: BTreeMap::new(), observer, running: BTreeMap::new(), requests: 0 }
    }

    fn pick(&self, number: u8, wanted: impl Fn(&Witness) -> bool) -> Option<ConnectionId> {
        let all: Vec<ConnectionId> =
            self.conns.iter().filter(|(_, witness)| wanted(witness)).map(|(conn, _)| *conn).collect();
        (!all.is_empty()).then(|| all[usize::from(number) % all.len()])
    }

    /// Sends a request, and leaves the frames for the witness.
    fn send(&mut self, conn: ConnectionId, request: Value) {
        for frame in self.harness.request(conn, request) {
            self.witness(conn, &frame);
        }
    }

    fn run(&mut self, step: &Step) {
        let anybody = |_: &Witness| true;
        let client = |witness: &Witness| !witness.is_worker;
        let worker = |witness: &Witness| witness.is_worker;
        let channel = |number: u8| CHANNELS[usize::from(number) % CHANNELS.len()];
        match *step {
            Step::Client(user) => {
                let rights = self.harness.settings.rights.clone();
                let conn = self.harness.new_client(&format!("user{}", user % 3), rights);
                self.conns.insert(conn, Witness::default());
            }
            Step::Worker => {
                let conn = self.harness.worker();
                self.conns.insert(conn, Witness { is_worker: true, ..Witness::default() });
            }
            Step::Leave(who) => {
                let Some(conn) = self.pick(who, anybody) else { return };
                self.harness.disconnect(conn);
                self.conns.remove(&conn);
            }
            Step::Subscribe(who, what) => {
                let Some(conn) = self.pick(who, anybody) else { return };
                self.send(conn, json!({"action": "subscribe", "channel": channel(what), "id": 0}));
            }
            Step::SubscribeFromTheStart(who, what) => {
                let Some(conn) = self.pick(who, client) else { return };
                let since = json!({"epoch": "", "seq": 0});
                self.send(conn, json!({"action": "subscribe", "channel": channel(what), "since": since}));
            }
            Step::Unsubscribe(who, what) => {
                let Some(conn) = self.pick(who, anybody) else { return };
                self.send(conn, json!({"action": "unsubscribe", "channel": channel(what), "id": 0}));
            }
            Step::Publish(who, what) => {
                let Some(conn) = self.pick(who, anybody) else { return };
                self.send(conn, json!({"action": "send", "channel": channel(what), "event": "e"}));
            }
            Step::Fleeting(who, what) => {
                let Some(conn) = self.pick(who, anybody) else { return };
                self.send(conn, json!({"action": "send", "channel": channel(what), "event": "e", "ttl": 0}));
            }
            Step::Whisper(who, what) => {
                let Some(conn) = self.pick(who, client) else { return };
                self.send(conn, json!({"action": "whisper", "channel": channel(what), "event": "w"}));
            }
            Step::Durable(who, what) => {
                let Some(conn) = self.pick(who, anybody) else { return };
                let target = json!({"action": "send", "channel": channel(what)});
                self.publish_durable(conn, target);
            }
            Step::DurableToUser(who, user) => {
                let Some(conn) = self.pick(who, worker) else { return };
                self.publish_durable(conn, json!({"user_id": format!("user{}", user % 3)}));
            }
            Step::ToUser(who, user) => {
                let Some(conn) = self.pick(who, worker) else { return };
                self.send(conn, json!({"user_id": format!("user{}", user % 3), "event": "e"}));
            }
            _ => self.run_beside(step),
        }
    }

    fn publish_durable(&mut self, conn: ConnectionId, mut request: Value) {
        self.requests += 1;
        self.conns.get_mut(&conn).unwrap().asked.insert(self.requests);
        for (field, value) in [("event", json!("e")), ("durable", json!(true)), ("id", json!(self.requests))]
        {
            request[field] = value;
        }
        self.send(conn, request);
    }

    fn run_disk(&mut self, what: Disk) {
        match what {
            Disk::Slow => self.harness.disk.slow = true,
            Disk::Quick => self.harness.disk.slow = false,
            Disk::Writes => self.harness.disk_writes(),
            Disk::WritesAll => self.harness.disk_writes_all(),
            Disk::Refuses => self.harness.disk_refuses(),
            Disk::Fails => self.harness.disk_fails(),
            Disk::Works => self.harness.disk_works(),
            Disk::Unreadable => self.harness.disk.unreadable = true,
        }
    }

    /// What happens to sockets, the store, time and operations.
    fn run_beside(&mut self, step: &Step) {
        let anybody = |_: &Witness| true;
        let worker = |witness: &Witness| witness.is_worker;
        match *step {
            Step::Outbound(who, state) => {
                let Some(conn) = self.pick(who, anybody) else { return };
                self.harness.send_queue(conn, state);
            }
            Step::Clog(who) => {
                let Some(conn) = self.pick(who, anybody) else { return };
                self.harness.block_socket(conn);
            }
            Step::Drain(who, count) => {
                let Some(conn) = self.pick(who, anybody) else { return };
                self.harness.drain(conn, usize::from(count));
            }
            Step::Unclog(who) => {
                let Some(conn) = self.pick(who, anybody) else { return };
                self.harness.unblock_socket(conn);
            }
            Step::SlowStore(slow) => {
                self.harness.slow_store = slow;
                if !slow {
                    self.harness.store_answers();
                }
            }
            Step::StoreAnswers => self.harness.store_answers(),
            Step::Disk(what) => self.run_disk(what),
            Step::Memory(hundredths) => {
                let ceiling = self.harness.settings.limits.memory as u64;
                // Kept messages and the rest are less than another hundredth.
                let links = ceiling / 100 * u64::from(hundredths);
                self.harness.handle(Input::Memory { links, holders: Vec::new(), is_waited_for: false });
            }
            Step::Configure(what, how) => self.configure(what.into(), how.into()),
            Step::Wait(seconds) => {
                self.harness.handle(Input::KeepAlive { conn: self.observer, controls: 0 });
                self.harness.wait(f64::from(seconds));
            }
            Step::Start(who, what) => {
                let Some(conn) = self.pick(who, worker) else { return };
                let id = format!("op{}", what % 4);
                self.send(conn, json!({"action": "operation_start", "operation_id": id, "channel": "jobs"}));
            }
            Step::End(who, what) => {
                let Some(conn) = self.pick(who, worker) else { return };
                let id = format!("op{}", what % 4);
                self.send(conn, json!({"action": "operation_end", "operation_id": id, "state": "completed"}));
            }
            Step::Interrupt(who, what) => {
                let Some(conn) = self.pick(who, |witness| !witness.is_worker) else { return };
                self.requests += 1;
                let request = self.requests;
                self.conns.get_mut(&conn).unwrap().asked.insert(request);
                let data = json!({"operation_id": format!("op{}", what % 4)});
                self.send(conn, json!({"action": "interrupt", "data": data, "id": request}));
            }
            _ => self.harness.hand_over(),
        }
    }

    fn configure(&mut self, what: usize, how: usize) {
        self.harness.configure(|settings| {
            let policies = policies();
            settings.policies[what % CHANNELS.len()].1 = policies[how % policies.len()];
            settings.limits.kept_bytes = [20_000, 2000][what % 2];
            let silence = std::time::Duration::from_secs(20 + 20 * (how as u64 % 3));
            settings.heartbeat.ping_interval = silence - std::time::Duration::from_secs(6);
            settings.heartbeat.pong_timeout = silence;
        });
    }

    /// Hears everybody out, and compares what is counted with who is there.
    fn check(&mut self) {
        for conn in self.conns.keys().copied().collect::<Vec<_>>() {
            for frame in self.harness.frames(conn) {
                self.witness(conn, &frame);
            }
        }
        for frame in self.harness.frames(self.observer) {
            self.observe(&frame);
        }
        let stats = self.harness.stats();
        let workers = self.conns.values().filter(|witness| witness.is_worker).count();
        assert_eq!(stats["workers"], workers);
        assert_eq!(stats["total_connections"], self.conns.len() - workers + 1);
        let subscriptions: usize = self.conns.values().map(|witness| witness.sessions.len()).sum();
        assert_eq!(stats["subscriptions"], subscriptions + 1);
        assert_eq!(stats["operations"], self.running.len());
        assert_eq!(stats["kept_messages"], self.harness.stored(), "the index and the store agree");
        let most = self.harness.settings.limits.kept_bytes as u64;
        assert!(stats["kept_bytes"].as_u64().unwrap() <= most);
    }

    fn witness(&mut self, conn: ConnectionId, frame: &Value) {
        let is_written = |id: &Value| self.harness.was_written(id.as_str().unwrap());
        assert!(frame["stored"] != true || is_written(&frame["message_id"]), "{} is a lie", summary(frame));
        let Some(witness) = self.conns.get_mut(&conn) else {
            panic!("{} after the end", summary(frame));
        };
        let number = |field: &str| frame[field].as_u64();
        let channel = frame["channel"].as_str().unwrap_or_default().to_owned();
        match frame["type"].as_str().unwrap() {
            "closed" => {
                self.harness.disconnect(conn);
                self.conns.remove(&conn);
            }
            // A worker's `ok` carries the fields of the frame that it stands for.
            "subscription_succeeded" | "ok" if number("seq").is_some() => {
                // Who subscribes again goes on with what nobody has heard, and
                // hears a history from now on.
                let name = wshubd::protocol::Channel::new(&channel).unwrap();
                let is_history = self.harness.settings.policy_of(&name).keep == Keep::History;
                let goes_on = frame.get("recovered").is_none() && !is_history;
                if !goes_on || !witness.sessions.contains_key(&channel) {
                    let start = number("seq").unwrap();
                    let session = Session { start, fresh: true, ..Session::default() };
                    witness.sessions.insert(channel, session);
                }
            }
            "unsubscribe_succeeded" | "unsubscribed" => {
                witness.sessions.remove(&channel);
            }
            "ok" if frame.get("epoch").is_none() && frame.get("message_id").is_none() => {
                witness.sessions.remove(&channel);
            }
            "send_success" | "ok" if number("id").is_some_and(|id| id > 0) => {
                assert!(witness.asked.remove(&number("id").unwrap()), "one answer for each durable message");
            }
            "message" => match number("seq") {
                Some(seq) if channel == "@me" => {
                    // What could not be read comes again, and what follows it.
                    let again = frame["replayed"] == true && self.harness.disk.was_unread;
                    assert!(seq > witness.inbox || again, "the inbox has an order");
                    witness.inbox = seq;
                }
                Some(seq) => {
                    let session = witness.sessions.get_mut(&channel).expect("only subscribers hear");
                    assert!(seq > session.last, "{channel} {seq} after {}", session.last);
                    (session.last, session.fresh) = (seq, false);
                    session.accounted.insert(seq);
                }
                None => {}
            },
            "gap" if channel != "@me" => {
                let session = witness.sessions.get_mut(&channel).expect("only subscribers miss something");
                session.misses(frame);
            }
            "interrupt_result" if frame["outcome"] != "pending" => {
                let request = number("id").unwrap();
                assert!(witness.asked.remove(&request), "one final answer for each interrupt");
            }
            "error" => {
                if let Some(request) = number("id").filter(|request| *request > 0) {
                    assert!(witness.asked.remove(&request));
                }
            }
            _ => {}
        }
    }

    fn observe(&mut self, frame: &Value) {
        if frame["type"] == "closed" {
            panic!("the observer is in good health");
        }
        if frame["type"] != "operation" {
            return;
        }
        let id = frame["operation_id"].as_str().unwrap().to_owned();
        match frame["state"].as_str().unwrap() {
            "started" => assert!(self.running.insert(id, false).is_none(), "started once"),
            "interrupting" => {
                let interrupted = self.running.get_mut(&id).expect("only what runs is interrupted");
                assert!(!*interrupted, "shown once");
                *interrupted = true;
            }
            _ => assert!(self.running.remove(&id).is_some(), "exactly one end"),
        }
    }

    /// Everybody takes everything; then nothing may be missing.
    fn settle(&mut self) {
        self.harness.disk_works();
        self.harness.disk.slow = false;
        self.harness.disk_writes();
        self.harness.slow_store = false;
        self.harness.store_answers();
        for conn in self.conns.keys().copied().collect::<Vec<_>>() {
            if self.conns.contains_key(&conn) {
                self.harness.send_queue(conn, SendQueueState::Empty);
                self.harness.unblock_socket(conn);
            }
        }
        self.check();
        for channel in CHANNELS {
            let probe = self.harness.client("probe");
            let received = self.harness.request(probe, json!({"action": "subscribe", "channel": channel}));
            let last = received[1]["seq"].as_u64().unwrap();
            self.harness.disconnect(probe);
            // A worker does not receive its own messages, so what it misses proves nothing.
            let clients = self.conns.values().filter(|witness| !witness.is_worker);
            for session in clients.filter_map(|witness| witness.sessions.get(channel)) {
                let missing: Vec<u64> =
                    (session.start + 1..=last).filter(|seq| !session.accounted.contains(seq)).collect();
                assert!(missing.is_empty(), "{channel} lost {missing:?} of {last}");
            }
        }
        self.harness.handle(Input::KeepAlive { conn: self.observer, controls: 0 });
        self.harness.wait(11.0);
        self.check();
        for witness in self.conns.values() {
            assert!(witness.asked.is_empty(), "everything is answered finally");
        }
    }

    /// When all have left and time has passed, nothing remains.
    fn end(mut self) {
        for (conn, _) in std::mem::take(&mut self.conns) {
            self.harness.disconnect(conn);
        }
        self.check();
        assert!(self.running.is_empty(), "every operation has ended: {:?}", self.running);
        self.harness.disconnect(self.observer);
        self.harness.wait(200_000.0);
        assert_eq!((self.harness.hub.deadline(), self.harness.stored()), (None, 0));
        let hub = serde_json::to_value(&self.harness.hub).unwrap();
        assert_eq!(hub["connections"], json!([]));
        for table in ["channels", "pending"] {
            assert_eq!(hub[table], json!({}), "{table}");
        }
        assert_eq!((&hub["dedup"], &hub["timers"]), (&json!([]), &json!({"set": []})));
        let none = json!({"table": {}, "by_id": {}, "by_channel": [], "ended": {}, "order": []});
        assert_eq!(hub["operations"], none);
    }
}

/// Few enough for every day; the environment asks for more.
fn config() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(100), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn order_and_counts_hold_and_no_loss_goes_unannounced(
        steps in prop::collection::vec(step(), 1..160)
    ) {
        let mut model = Model::new();
        for step in &steps {
            model.run(step);
            model.check();
        }
        model.settle();
        model.end();
    }
}
