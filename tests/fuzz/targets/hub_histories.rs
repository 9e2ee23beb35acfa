//! Histories of a hub: the input is a list of steps, one byte for the event and some for its
//! peer. The hub of tests/scenario is driven, with its store and links; its own checks hold
//! as well: a position is given out once, a latch is made and dropped once.

#![no_main]

#[allow(dead_code, unused_imports, reason = "stories use more of it")]
#[path = "../../scenario/bench/mod.rs"]
mod bench;
mod hub_witness;

use std::collections::BTreeMap;
use std::time::Duration;

use bench::{Bench, Seat, for_hub, rights};
use hub_witness::{ASKED, Witness};
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
    bench: Bench,
    seats: BTreeMap<Seat, Witness>,
    /// Hears of every operation, and takes all at once.
    observer: Seat,
    /// Operations that run, and whether they were interrupted.
    running: BTreeMap<String, bool>,
    requests: u64,
    /// Requests and frames are printed: `FUZZ_TELL=1`, for one input.
    is_told: bool,
}

impl History {
    fn new() -> Self {
        let mut bench = Bench::with(settings());
        let observer = observer(&mut bench);
        let is_told = std::env::var_os("FUZZ_TELL").is_some();
        Self { bench, seats: BTreeMap::new(), observer, running: BTreeMap::new(), requests: 0, is_told }
    }

    fn pick(&self, steps: &mut Steps<'_>, wanted: impl Fn(&Witness) -> bool) -> Option<Seat> {
        let number = steps.byte();
        let here: Vec<Seat> =
            self.seats.iter().filter(|(_, one)| wanted(one)).map(|(seat, _)| *seat).collect();
        (!here.is_empty()).then(|| here[usize::from(number) % here.len()])
    }

    fn anybody(&self, steps: &mut Steps<'_>) -> Option<Seat> {
        self.pick(steps, |_| true)
    }

    /// Sends a request of a peer, which is answered.
    fn say(&mut self, who: Option<Seat>, request: Value) {
        self.ask(who, ASKED, request);
    }

    /// The same under an id that begins so.
    fn ask(&mut self, who: Option<Seat>, kind: &str, mut request: Value) {
        let says = |seat: &Seat| !self.bench.paused.contains(seat) && !self.seats[seat].has_ended;
        let Some(seat) = who.filter(says) else { return };
        self.requests += 1;
        let id = format!("{kind}{}", self.requests);
        request["id"] = json!(id);
        self.seats.get_mut(&seat).expect("it is here").asks(&id, &request);
        if self.is_told {
            eprintln!("{} says {request}", seat.slot);
        }
        self.bench.tell(seat, &request);
        assert!(self.bench.last.list.len() <= MOST_ORDERS, "{} orders", self.bench.last.list.len());
    }

    fn step(&mut self, steps: &mut Steps<'_>) {
        let step = steps.below(32);
        if self.is_told {
            eprintln!("step {step}");
        }
        match step {
            0..=2 => self.come(steps),
            3 => {
                let Some(seat) = self.anybody(steps) else { return };
                self.bench.leave(seat);
                self.seats.remove(&seat);
            }
            4..=9 => self.request(steps),
            10..=14 => self.publish(steps),
            15 | 16 => self.operation(steps),
            17 => self.administer(steps),
            18 => self.say_raw(steps),
            19..=22 => self.link(steps),
            23 | 24 => self.store(steps),
            25 => {
                let seconds = steps.below(20);
                self.bench.handle(Input::KeepAlive { conn: self.observer, controls: 0 });
                self.bench.wait(seconds as f64 + 0.5);
            }
            26 => {
                self.bench.handle(Input::KeepAlive { conn: self.observer, controls: 0 });
                self.bench.live(steps.below(70) as u64);
            }
            27 => self.bench.hand_over(),
            28 => self.configure(steps),
            29 => self.memory(steps),
            30 => self.post(steps),
            _ => self.restart(steps),
        }
        self.hear();
    }

    fn come(&mut self, steps: &mut Steps<'_>) {
        let user = steps.of(&USERS);
        let modes = [InboxMode::Auto, InboxMode::Ack, InboxMode::Off];
        let (seat, is_worker) = match steps.below(8) {
            0 | 1 => (self.bench.worker(), true),
            2 => (self.bench.admin(), true),
            3 => (self.bench.stranger(), false),
            4 => (self.bench.client_in(user, steps.of(&modes)), false),
            5 => {
                let rights = rights(&["history", "brief"], &["history", "@user:*"], &["*"]);
                (self.bench.newcomer(user, rights), false)
            }
            _ => (self.bench.newcomer(user, None), false),
        };
        self.seats.insert(seat, Witness::new(is_worker));
    }

    fn request(&mut self, steps: &mut Steps<'_>) {
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
        self.say(who, request);
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
        let kind = if request["action"] == "whisper" { "whisper-" } else { ASKED };
        self.ask(who, kind, request);
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
                self.say(worker, start);
            }
            1 => {
                let state = steps.of(&["completed", "failed", "interrupted"]);
                let end = json!({"action": "operation_end", "operation_id": operation, "state": state});
                self.say(worker, end);
            }
            _ => {
                let who = self.anybody(steps);
                self.say(who, json!({"action": "interrupt", "data": {"operation_id": operation}}));
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
        self.say(who, request);
    }

    /// Any object as a request.
    fn say_raw(&mut self, steps: &mut Steps<'_>) {
        let (who, text) = (self.anybody(steps), steps.text());
        let Ok(request) = serde_json::from_str::<Value>(&text) else { return };
        // What only the edge answers does not reach a hub.
        let is_of_the_edge = ["token", "reload"].iter().any(|action| request["action"] == *action);
        if request.is_object() && !is_of_the_edge {
            self.ask(who, "raw-", request);
        }
    }

    fn link(&mut self, steps: &mut Steps<'_>) {
        let Some(seat) = self.anybody(steps) else { return };
        match steps.below(9) {
            0 => self.bench.outbound(
                seat,
                steps.of(&[SendQueueState::Empty, SendQueueState::Backlogged, SendQueueState::Full]),
            ),
            1 => self.bench.clog(seat),
            2 => self.bench.drain(seat, steps.below(20)),
            3 => self.bench.unclog(seat),
            4 => self.bench.handle(Input::KeepAlive { conn: seat, controls: steps.below(30) as u32 }),
            5 => self.bench.handle(Input::WriteProgress { conn: seat }),
            6 => {
                let witness = self.seats.get_mut(&seat).expect("it is here");
                if witness.is_worker && !witness.has_ended {
                    witness.ends();
                    self.bench.handle(Input::ReadClosed { conn: seat });
                }
            }
            7 => self.acknowledge(seat, steps),
            _ => self.bench.report_links(),
        }
    }

    fn acknowledge(&mut self, seat: Seat, steps: &mut Steps<'_>) {
        let request =
            json!({"action": "ack", "epoch": "", "seq": steps.below(5), "read": steps.below(2) == 1});
        if !self.seats[&seat].is_worker {
            self.ask(Some(seat), "ack-", request);
        }
    }

    fn store(&mut self, steps: &mut Steps<'_>) {
        match steps.below(12) {
            0 => self.bench.slow_store = true,
            1 | 2 => self.bench.store_answers(),
            3 => {
                self.bench.slow_store = false;
                self.bench.store_answers();
            }
            4 => self.bench.disk.slow = true,
            5 => self.bench.disk.slow = false,
            6 => self.bench.disk_writes(),
            7 => self.bench.disk_writes_all(),
            8 => self.bench.disk_refuses(),
            9 => self.bench.disk_fails(),
            10 => self.bench.disk_works(),
            _ => self.bench.disk.unreadable = true,
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
        self.bench.configure(|settings| {
            settings.policies[place].1 = policy;
            settings.limits.kept_bytes = bytes;
        });
    }

    fn memory(&mut self, steps: &mut Steps<'_>) {
        let ceiling = self.bench.settings.limits.memory as u64;
        match steps.below(6) {
            0 => {
                let bytes = [None, Some(0), Some(3000)][steps.below(3)];
                self.bench.handle(Input::Store(StoreEvent::Capacity { bytes }));
            }
            1 => {
                let is_scarce = steps.below(2) == 1;
                self.bench.handle(Input::Store(StoreEvent::WriteBudget { is_scarce }));
            }
            2 => self.bench.handle(Input::NoCapacity),
            3 => {
                let all = [Rejection::NoCapacity, Rejection::HandshakeTimeout, Rejection::WrongSecret];
                self.bench.handle(Input::Rejected(steps.of(&all)));
            }
            _ => {
                let links = ceiling / 100 * steps.below(110) as u64;
                let holders = self.anybody(steps).map(|seat| (seat, links / 2)).into_iter().collect();
                let is_waited_for = steps.below(2) == 1;
                self.bench.handle(Input::Memory { links, holders, is_waited_for });
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
        let answers = self.bench.post(self.requests, &body);
        assert!(is_durable || answers.len() == 1, "{answers:?}");
    }

    /// The hub ends in one of three ways, and another begins on what it left.
    fn restart(&mut self, steps: &mut Steps<'_>) {
        self.hear();
        self.seats.clear();
        self.running.clear();
        let how = steps.below(3);
        let remains = (how == 0).then(|| self.bench.end());
        self.bench.repair_disk();
        self.bench.disk.was_unread = false;
        match (remains, how) {
            (Some(remains), _) => self.bench.begin(Some(&remains), 0),
            (None, 1) => self.bench.kill(),
            (None, _) => self.bench.crash(),
        }
        self.observer = observer(&mut self.bench);
    }

    /// Hears everybody out. Who is sent away leaves.
    fn hear(&mut self) {
        loop {
            let was_unread = self.bench.disk.was_unread;
            for (seat, witness) in &mut self.seats {
                for frame in self.bench.frames(*seat) {
                    if self.is_told {
                        eprintln!("{}: {frame}", seat.slot);
                    }
                    witness.hear(&frame, was_unread);
                }
            }
            for frame in self.bench.frames(self.observer) {
                self.observe(&frame);
            }
            let gone = self.seats.iter().find(|(_, witness)| witness.is_closed).map(|(seat, _)| *seat);
            let Some(seat) = gone else { break };
            self.seats.remove(&seat);
            self.bench.leave(seat);
        }
        self.count();
    }

    /// The hub's counts are those of its contents.
    fn count(&mut self) {
        let stats = self.bench.stats();
        let workers = self.seats.values().filter(|witness| witness.is_worker).count();
        assert_eq!(stats["workers"], workers);
        assert_eq!(stats["total_connections"], self.seats.len() - workers + 1);
        let subscriptions: usize = self.seats.values().map(Witness::subscriptions).sum();
        assert_eq!(stats["subscriptions"], subscriptions + 1);
        assert_eq!(stats["kept_messages"], self.bench.stored(), "the index and the store agree");
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
        let Some(seat) = self.pick(steps, |witness| !witness.is_worker) else { return };
        let all: Vec<Value> = CHANNELS
            .iter()
            .map(|channel| json!({"channel": channel, "since": {"epoch": "", "seq": 0}, "presence": true}))
            .collect();
        let request = json!({"action": "subscribe", "channels": all}).to_string();
        let said = protocol::parse(&request).expect("a request");
        let request = for_hub(said);
        assert!(matches!(request.request, HubRequest::Subscribe(_)));
        let mut out = Effects::default();
        self.bench.hub.handle(
            self.bench.now,
            Input::Request { from: Requester::Connection(seat), request },
            &mut out,
        );
        assert!(out.list.len() <= MOST_ORDERS, "{} orders", out.list.len());
    }

    /// The disk works, everybody takes everything, and time passes: all is answered.
    fn settle(&mut self) {
        self.bench.disk_works();
        self.bench.disk.slow = false;
        self.bench.disk_writes();
        self.bench.slow_store = false;
        self.bench.store_answers();
        self.bench.handle(Input::Store(StoreEvent::Capacity { bytes: None }));
        self.bench.handle(Input::Memory { links: 0, holders: Vec::new(), is_waited_for: false });
        for seat in self.seats.keys().copied().collect::<Vec<_>>() {
            if self.seats.contains_key(&seat) {
                self.bench.outbound(seat, SendQueueState::Empty);
                self.bench.unclog(seat);
                self.hear();
            }
        }
        self.bench.handle(Input::KeepAlive { conn: self.observer, controls: 0 });
        self.bench.wait(11.0);
        self.hear();
        for witness in self.seats.values() {
            assert!(witness.unanswered().is_empty(), "not answered: {:?}", witness.unanswered());
        }
    }

    /// When all have left and time has passed, nothing remains.
    fn end(mut self) {
        for seat in std::mem::take(&mut self.seats).into_keys() {
            self.bench.leave(seat);
        }
        self.hear();
        assert!(self.running.is_empty(), "every operation has ended: {:?}", self.running);
        self.bench.leave(self.observer);
        self.bench.wait(200_000.0);
        assert_eq!((self.bench.hub.deadline(), self.bench.stored()), (None, 0));
        let anew = Hub::new(self.bench.settings.clone(), 1);
        assert_eq!(tables(&self.bench.hub), tables(&anew));
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

fn observer(bench: &mut Bench) -> Seat {
    let observer = bench.client("observer");
    bench.subscribe(observer, "jobs");
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
