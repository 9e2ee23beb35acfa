//! Histories of a hub: the input is a list of steps, one byte for the event and some for its
//! peer. The hub of tests/scenario is driven, with its store and links; its own checks hold
//! as well: a position is given out once, a latch is made and dropped once.

#![no_main]

#[allow(dead_code, unused_imports, reason = "stories use more of it")]
#[path = "../../scenario/harness/mod.rs"]
mod harness;
mod hub_witness;

use std::collections::BTreeMap;
use std::time::Duration;

use harness::{ConnectionId, Harness, for_hub, rights};
use hub_witness::{ANSWERED_ONCE, Witness};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy, WriteThrough};
use wshubd::hub::{Effects, Hub, Input, Pattern, Rejection, Requester, SendQueueState, Settings, StoreEvent};
use wshubd::protocol;
use wshubd::protocol::{HubRequest, InboxMode};

/// As tests/scenario/work_per_input.rs has it: the most orders that follow from one request of a
/// client, with 128 channels and the lists of one answer.
const MOST_ORDERS: usize = 600;

/// One of each policy; the last is that of operations, and heard by an observer.
const CHANNELS: [&str; 5] = ["undelivered", "history", "never", "brief", "jobs"];

const USERS: [&str; 3] = ["ann", "ben", "cho"];

/// Steps, and then everybody leaves: each costs what it makes of the hub, so there is an end.
const MOST_STEPS: usize = 200;

fn settings() -> Settings {
    let keep = |keep, count, ttl, disk| {
        let ttl = Duration::from_secs(ttl);
        Policy { keep, count, ttl, disk, ..Policy::default() }
    };
    let mut settings = Settings {
        anonymous: true,
        has_disk: true,
        policies: vec![
            (Pattern::new("undelivered"), keep(Keep::Undelivered, 12, 86_400, WriteThrough::Behind)),
            (Pattern::new("history"), keep(Keep::History, 4, 86_400, WriteThrough::Stop)),
            (Pattern::new("never"), keep(Keep::Never, 0, 0, WriteThrough::Never)),
            (Pattern::new("brief"), keep(Keep::Undelivered, 3, 10, WriteThrough::Behind)),
        ],
        ..Settings::default()
    };
    settings.limits.kept_bytes = 20_000;
    settings.limits.operations = 3;
    settings.limits.subscriptions = 6;
    settings
}

/// The steps that are left, read byte by byte.
struct Steps<'a>(&'a [u8]);

impl Steps<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn below(&mut self, most: usize) -> usize {
        usize::from(self.byte()) % most
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// Bytes with their number before them.
    fn text(&mut self) -> String {
        let length = usize::from(self.byte()).min(self.0.len());
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8_lossy(text).into_owned()
    }
}

struct History {
    harness: Harness,
    conns: BTreeMap<ConnectionId, Witness>,
    /// Hears of every operation, and takes all at once.
    observer: ConnectionId,
    /// Operations that run, and whether they were interrupted.
    running: BTreeMap<String, bool>,
    requests: u64,
    /// Requests and frames are printed: `FUZZ_TELL=1`, for one input.
    is_verbose: bool,
}

impl History {
    fn new() -> Self {
        let mut harness = Harness::with(settings());
        let observer = observer(&mut harness);
        let is_verbose = std::env::var_os("FUZZ_TELL").is_some();
        Self { harness, conns: BTreeMap::new(), observer, running: BTreeMap::new(), requests: 0, is_verbose }
    }

    fn pick(&self, steps: &mut Steps<'_>, wanted: impl Fn(&Witness) -> bool) -> Option<ConnectionId> {
        let number = steps.byte();
        let here: Vec<ConnectionId> =
            self.conns.iter().filter(|(_, one)| wanted(one)).map(|(conn, _)| *conn).collect();
        (!here.is_empty()).then(|| here[usize::from(number) % here.len()])
    }

    fn anybody(&self, steps: &mut Steps<'_>) -> Option<ConnectionId> {
        self.pick(steps, |_| true)
    }

    /// Sends a request of a peer, which is answered.
    fn request(&mut self, who: Option<ConnectionId>, request: Value) {
        self.send_as(who, ANSWERED_ONCE, request);
    }

    /// The same under an id that begins so.
    fn send_as(&mut self, who: Option<ConnectionId>, kind: &str, mut request: Value) {
        let may_send =
            |conn: &ConnectionId| !self.harness.paused.contains(conn) && !self.conns[conn].has_ended;
        let Some(conn) = who.filter(may_send) else { return };
        self.requests += 1;
        let id = format!("{kind}{}", self.requests);
        request["id"] = json!(id);
        self.conns.get_mut(&conn).expect("it is here").record_request(&id, &request);
        if self.is_verbose {
            eprintln!("{} sends {request}", conn.slot);
        }
        self.harness.send_unread(conn, &request);
        assert!(self.harness.last.list.len() <= MOST_ORDERS, "{} orders", self.harness.last.list.len());
    }

    fn step(&mut self, steps: &mut Steps<'_>) {
        let step = steps.below(32);
        if self.is_verbose {
            eprintln!("step {step}");
        }
        match step {
            0..=2 => self.come(steps),
            3 => {
                let Some(conn) = self.anybody(steps) else { return };
                self.harness.disconnect(conn);
                self.conns.remove(&conn);
            }
            4..=9 => self.random_request(steps),
            10..=14 => self.publish(steps),
            15 | 16 => self.operation(steps),
            17 => self.administer(steps),
            18 => self.random_raw_request(steps),
            19..=22 => self.random_link_event(steps),
            23 | 24 => self.store(steps),
            25 => {
                let seconds = steps.below(20);
                self.harness.handle(Input::KeepAlive { conn: self.observer, controls: 0 });
                self.harness.wait(seconds as f64 + 0.5);
            }
            26 => {
                self.harness.handle(Input::KeepAlive { conn: self.observer, controls: 0 });
                self.harness.keep_alive(steps.below(70) as u64);
            }
            27 => self.harness.hand_over(),
            28 => self.configure(steps),
            29 => self.memory(steps),
            30 => self.post(steps),
            _ => self.restart(steps),
        }
        self.check_frames();
    }

    fn come(&mut self, steps: &mut Steps<'_>) {
        let user = steps.of(&USERS);
        let modes = [InboxMode::Auto, InboxMode::Ack, InboxMode::Off];
        let (conn, is_worker) = match steps.below(8) {
            0 | 1 => (self.harness.worker(), true),
            2 => (self.harness.admin(), true),
            3 => (self.harness.anonymous_client(), false),
            4 => (self.harness.client_in(user, steps.of(&modes)), false),
            5 => {
                let rights = rights(&["history", "brief"], &["history", "@user:*"], &["*"]);
                (self.harness.new_client(user, rights), false)
            }
            _ => (self.harness.new_client(user, None), false),
        };
        self.conns.insert(conn, Witness::new(is_worker));
    }

    fn random_request(&mut self, steps: &mut Steps<'_>) {
        let (who, channel) = (self.anybody(steps), steps.of(&CHANNELS));
        let request = match steps.below(10) {
            0..=2 => json!({"action": "subscribe", "channel": channel}),
            3 => {
                let since = json!({"epoch": "", "seq": steps.below(4)});
                json!({"action": "subscribe", "channel": channel, "since": since})
            }
            4 => json!({"action": "subscribe", "channel": channel, "presence": true}),
            5 => json!({"action": "unsubscribe", "channel": channel}),
            6 => json!({"action": "operations", "channel": channel}),
            7 => json!({"action": "presence", "channel": channel}),
            8 => json!({"action": "ping"}),
            _ => {
                let token = steps.of(&["ann", "ben", "bad"]);
                json!({"action": "auth", "token": token, "inbox": steps.of(&["auto", "ack", "off"])})
            }
        };
        self.request(who, request);
    }

    fn publish(&mut self, steps: &mut Steps<'_>) {
        let (who, flags) = (self.anybody(steps), steps.byte());
        let has = |flag: u8| flags & flag != 0;
        let mut request = json!({"action": "send", "event": "e", "durable": has(1), "echo": !has(2)});
        match steps.below(8) {
            0..=4 => request["channel"] = json!(steps.of(&CHANNELS)),
            5 => (request["user_id"], request["receipt"]) = (json!(steps.of(&USERS)), json!(has(4))),
            6 => request["action"] = json!("whisper"),
            _ => request["all"] = json!(true),
        }
        if request["action"] == "whisper" {
            request = json!({"action": "whisper", "event": "e", "channel": steps.of(&CHANNELS)});
        }
        if has(8) {
            request["ttl"] = json!(steps.below(30));
        }
        if has(16) {
            request["message_id"] = json!(format!("m{}", steps.below(4)));
        }
        if has(32) {
            request["data"] = json!("d".repeat(steps.below(256) * 16));
        }
        let kind = if request["action"] == "whisper" { "whisper-" } else { ANSWERED_ONCE };
        self.send_as(who, kind, request);
    }

    fn operation(&mut self, steps: &mut Steps<'_>) {
        let operation = format!("op{}", steps.below(4));
        let worker = self.pick(steps, |witness| witness.is_worker);
        match steps.below(4) {
            0 => {
                let mut start =
                    json!({"action": "operation_start", "operation_id": operation, "channel": "jobs"});
                if steps.below(2) == 1 {
                    start["deadline"] = json!(steps.below(9));
                    start["interrupt_grace"] = json!(steps.below(9));
                    start["user_id"] = json!(steps.of(&USERS));
                }
                self.request(worker, start);
            }
            1 => {
                let state = steps.of(&["completed", "failed", "interrupted"]);
                let end = json!({"action": "operation_end", "operation_id": operation, "state": state});
                self.request(worker, end);
            }
            _ => {
                let who = self.anybody(steps);
                self.request(who, json!({"action": "interrupt", "data": {"operation_id": operation}}));
            }
        }
    }

    fn administer(&mut self, steps: &mut Steps<'_>) {
        let who = self.pick(steps, |witness| witness.is_worker);
        let request = match steps.below(7) {
            0 => json!({"action": "stats"}),
            1 => json!({"action": "connections"}),
            2 => json!({"action": "channels"}),
            3 => json!({"action": "inbox", "user_id": steps.of(&USERS)}),
            4 => json!({"action": "inbox"}),
            5 => json!({"action": "purge", "channel": steps.of(&CHANNELS)}),
            _ => json!({"action": "disconnect", "user_id": steps.of(&USERS)}),
        };
        self.request(who, request);
    }

    /// Any object as a request.
    fn random_raw_request(&mut self, steps: &mut Steps<'_>) {
        let (who, text) = (self.anybody(steps), steps.text());
        let Ok(request) = serde_json::from_str::<Value>(&text) else { return };
        // What only the edge answers does not reach a hub.
        let is_of_the_edge = ["token", "reload"].iter().any(|action| request["action"] == *action);
        if request.is_object() && !is_of_the_edge {
            self.send_as(who, "raw-", request);
        }
    }

    fn random_link_event(&mut self, steps: &mut Steps<'_>) {
        let Some(conn) = self.anybody(steps) else { return };
        match steps.below(9) {
            0 => self.harness.send_queue(
                conn,
                steps.of(&[SendQueueState::Empty, SendQueueState::Backlogged, SendQueueState::Full]),
            ),
            1 => self.harness.block_socket(conn),
            2 => self.harness.drain(conn, steps.below(20)),
            3 => self.harness.unblock_socket(conn),
            4 => self.harness.handle(Input::KeepAlive { conn, controls: steps.below(30) as u32 }),
            5 => self.harness.handle(Input::WriteProgress { conn }),
            6 => {
                let witness = self.conns.get_mut(&conn).expect("it is here");
                if witness.is_worker && !witness.has_ended {
                    witness.ends();
                    self.harness.handle(Input::ReadClosed { conn });
                }
            }
            7 => self.acknowledge(conn, steps),
            _ => self.harness.report_send_queues(),
        }
    }

    fn acknowledge(&mut self, conn: ConnectionId, steps: &mut Steps<'_>) {
        let request =
            json!({"action": "ack", "epoch": "", "seq": steps.below(5), "read": steps.below(2) == 1});
        if !self.conns[&conn].is_worker {
            self.send_as(Some(conn), "ack-", request);
        }
    }

    fn store(&mut self, steps: &mut Steps<'_>) {
        match steps.below(12) {
            0 => self.harness.slow_store = true,
            1 | 2 => self.harness.store_answers(),
            3 => {
                self.harness.slow_store = false;
                self.harness.store_answers();
            }
            4 => self.harness.disk.slow = true,
            5 => self.harness.disk.slow = false,
            6 => self.harness.disk_writes(),
            7 => self.harness.disk_writes_all(),
            8 => self.harness.disk_refuses(),
            9 => self.harness.disk_fails(),
            10 => self.harness.disk_works(),
            _ => self.harness.disk.unreadable = true,
        }
    }

    fn configure(&mut self, steps: &mut Steps<'_>) {
        let usual = Policy { count: 12, ..Policy::default() };
        let policies = [
            usual,
            Policy { keep: Keep::History, count: 4, ..usual },
            Policy { keep: Keep::Never, ..usual },
            Policy { count: 3, ttl: Duration::from_secs(10), ..usual },
            Policy { keep: Keep::History, bytes: 300, ..usual },
        ];
        let (place, policy, bytes) = (steps.below(4), steps.of(&policies), steps.of(&[20_000, 2000]));
        self.harness.configure(|settings| {
            settings.policies[place].1 = policy;
            settings.limits.kept_bytes = bytes;
        });
    }

    fn memory(&mut self, steps: &mut Steps<'_>) {
        let ceiling = self.harness.settings.limits.memory as u64;
        match steps.below(6) {
            0 => {
                let bytes = [None, Some(0), Some(3000)][steps.below(3)];
                self.harness.handle(Input::Store(StoreEvent::Capacity { bytes }));
            }
            1 => {
                let is_scarce = steps.below(2) == 1;
                self.harness.handle(Input::Store(StoreEvent::WriteBudget { is_scarce }));
            }
            2 => self.harness.handle(Input::NoCapacity),
            3 => {
                let all = [Rejection::NoCapacity, Rejection::HandshakeTimeout, Rejection::WrongSecret];
                self.harness.handle(Input::Rejected(steps.of(&all)));
            }
            _ => {
                let links = ceiling / 100 * steps.below(110) as u64;
                let holders = self.anybody(steps).map(|conn| (conn, links / 2)).into_iter().collect();
                let is_waited_for = steps.below(2) == 1;
                self.harness.handle(Input::Memory { links, holders, is_waited_for });
            }
        }
    }

    /// HTTP callers have their answer, unless it waits for a disk.
    fn post(&mut self, steps: &mut Steps<'_>) {
        self.requests += 1;
        let body = match steps.below(3) {
            0 => json!({"channel": steps.of(&CHANNELS), "event": "e"}),
            1 => json!({"user_id": steps.of(&USERS), "event": "e", "durable": true}),
            _ => json!({"all": true, "event": "e"}),
        };
        let is_durable = body["durable"] == true;
        let answers = self.harness.post(self.requests, &body);
        assert!(is_durable || answers.len() == 1, "{answers:?}");
    }

    /// The hub ends in one of three ways, and another begins on what it left.
    fn restart(&mut self, steps: &mut Steps<'_>) {
        self.check_frames();
        self.conns.clear();
        self.running.clear();
        let how = steps.below(3);
        let remains = (how == 0).then(|| self.harness.end());
        self.harness.repair_disk();
        self.harness.disk.was_unread = false;
        match (remains, how) {
            (Some(remains), _) => self.harness.begin(Some(&remains), 0),
            (None, 1) => self.harness.kill(),
            (None, _) => self.harness.crash(),
        }
        self.observer = observer(&mut self.harness);
    }

    /// Hears everybody out. Who is sent away leaves.
    fn check_frames(&mut self) {
        loop {
            let was_unread = self.harness.disk.was_unread;
            for (conn, witness) in &mut self.conns {
                for frame in self.harness.frames(*conn) {
                    if self.is_verbose {
                        eprintln!("{}: {frame}", conn.slot);
                    }
                    witness.receive(&frame, was_unread);
                }
            }
            for frame in self.harness.frames(self.observer) {
                self.observe(&frame);
            }
            let gone = self.conns.iter().find(|(_, witness)| witness.is_closed).map(|(conn, _)| *conn);
            let Some(conn) = gone else { break };
            self.conns.remove(&conn);
            self.harness.disconnect(conn);
        }
        self.count();
    }

    /// The hub's counts are those of its contents.
    fn count(&mut self) {
        let stats = self.harness.stats();
        let workers = self.conns.values().filter(|witness| witness.is_worker).count();
        assert_eq!(stats["workers"], workers);
        assert_eq!(stats["total_connections"], self.conns.len() - workers + 1);
        let subscriptions: usize = self.conns.values().map(Witness::subscriptions).sum();
        assert_eq!(stats["subscriptions"], subscriptions + 1);
        assert_eq!(stats["kept_messages"], self.harness.stored(), "the index and the store agree");
    }

    /// An operation starts once, is shown as interrupted once, and ends once.
    fn observe(&mut self, frame: &Value) {
        assert_ne!(frame["type"], "closed", "the observer is in good health");
        if frame["type"] != "operation" {
            return;
        }
        let id = frame["operation_id"].as_str().expect("an id").to_owned();
        match frame["state"].as_str().expect("a state") {
            "started" => assert_eq!(self.running.insert(id, false), None, "started once"),
            "interrupting" => {
                let was = self.running.insert(id, true);
                assert_eq!(was, Some(false), "only what runs is interrupted, and that is shown once");
            }
            _ => assert!(self.running.remove(&id).is_some(), "one end"),
        }
    }

    /// One more request, of which the orders are only counted: the hub is of no use
    /// afterwards.
    fn bound(mut self, steps: &mut Steps<'_>) {
        let Some(conn) = self.pick(steps, |witness| !witness.is_worker) else { return };
        let all: Vec<Value> = CHANNELS
            .iter()
            .map(|channel| json!({"channel": channel, "since": {"epoch": "", "seq": 0}, "presence": true}))
            .collect();
        let request = json!({"action": "subscribe", "channels": all}).to_string();
        let parsed = protocol::parse(&request).expect("a request");
        let request = for_hub(parsed);
        assert!(matches!(request.request, HubRequest::Subscribe(_)));
        let mut out = Effects::default();
        self.harness.hub.handle(
            self.harness.now,
            Input::Request { from: Requester::Connection(conn), request },
            &mut out,
        );
        assert!(out.list.len() <= MOST_ORDERS, "{} orders", out.list.len());
    }

    /// The disk works, everybody takes everything, and time passes: all is answered.
    fn settle(&mut self) {
        self.harness.disk_works();
        self.harness.disk.slow = false;
        self.harness.disk_writes();
        self.harness.slow_store = false;
        self.harness.store_answers();
        self.harness.handle(Input::Store(StoreEvent::Capacity { bytes: None }));
        self.harness.handle(Input::Memory { links: 0, holders: Vec::new(), is_waited_for: false });
        for conn in self.conns.keys().copied().collect::<Vec<_>>() {
            if self.conns.contains_key(&conn) {
                self.harness.send_queue(conn, SendQueueState::Empty);
                self.harness.unblock_socket(conn);
                self.check_frames();
            }
        }
        self.harness.handle(Input::KeepAlive { conn: self.observer, controls: 0 });
        self.harness.wait(11.0);
        self.check_frames();
        for witness in self.conns.values() {
            assert!(witness.unanswered().is_empty(), "not answered: {:?}", witness.unanswered());
        }
    }

    /// When all have left and time has passed, nothing remains.
    fn end(mut self) {
        for conn in std::mem::take(&mut self.conns).into_keys() {
            self.harness.disconnect(conn);
        }
        self.check_frames();
        assert!(self.running.is_empty(), "every operation has ended: {:?}", self.running);
        self.harness.disconnect(self.observer);
        self.harness.wait(200_000.0);
        assert_eq!((self.harness.hub.deadline(), self.harness.stored()), (None, 0));
        let anew = Hub::new(self.harness.settings.clone(), 1);
        assert_eq!(tables(&self.harness.hub), tables(&anew));
    }
}

/// All that a hub holds, but for numbers that only grow, and what is random.
fn tables(hub: &Hub) -> Value {
    let mut hub = serde_json::to_value(hub).expect("a hub has a form");
    for number in ["counters", "seq_floor", "random", "started"] {
        hub.as_object_mut().expect("it has fields").remove(number);
    }
    hub
}

fn observer(harness: &mut Harness) -> ConnectionId {
    let observer = harness.client("observer");
    harness.subscribe(observer, "jobs");
    observer
}

fuzz_target!(|input: &[u8]| {
    let Some((last, steps)) = input.split_last() else { return };
    let (mut history, mut steps) = (History::new(), Steps(steps));
    for _ in 0..MOST_STEPS {
        if steps.0.is_empty() {
            break;
        }
        history.step(&mut steps);
    }
    match last % 4 {
        0 => history.bound(&mut steps),
        _ => {
            history.settle();
            history.end();
        }
    }
});
