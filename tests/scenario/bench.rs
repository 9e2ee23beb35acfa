//! One hub on a bench: a virtual clock, a store in memory, and peers that say
//! and hear JSON.
//!
//! Knows how to carry out every effect. Does not know what should follow from
//! what; that is in the stories.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use wshubd::hub::{
    Asker, Claim, Effect, Effects, Hub, Identity, Input, LogKey, Now, Outbound, Pattern, Peer, Purpose,
    Rights, Settings, TokenFault,
};
use wshubd::protocol::message::Delivery;
use wshubd::protocol::{
    self, Close, ConnectionId, Frame, InboxMode, Message, Moment, OperationId, RequestId, Say, UnixTime,
    UserId, worker,
};

/// A client or worker of a story.
pub(crate) type Seat = ConnectionId;

/// What is at the other end of a link.
#[derive(Default)]
struct Link {
    is_worker: bool,
    heard: Vec<Value>,
    /// Its socket takes nothing of a replay.
    stuck: bool,
    /// Replays that the socket has not taken.
    unwritten: VecDeque<(LogKey, u64, Delivery)>,
}

pub(crate) struct Bench {
    pub(crate) hub: Hub,
    pub(crate) now: Now,
    pub(crate) settings: Settings,
    links: BTreeMap<ConnectionId, Link>,
    next_slot: u32,
    store: BTreeMap<LogKey, BTreeMap<u64, Rc<Message>>>,
    /// Whether the store lets the hub wait.
    pub(crate) slow_store: bool,
    waiting: VecDeque<Input>,
    http: Vec<(u64, Value)>,
    latches: BTreeMap<OperationId, ConnectionId>,
    /// Everything that was delivered or kept, by channel and position.
    pub(crate) seen: BTreeMap<(LogKey, u64), Rc<Message>>,
    /// The effects of the last input.
    pub(crate) last: Effects,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    /// A hub in which nobody needs a token.
    pub(crate) fn open() -> Self {
        Self::with(Settings { anonymous: true, ..Settings::default() })
    }

    pub(crate) fn with(settings: Settings) -> Self {
        Self {
            hub: Hub::new(settings.clone(), 7),
            now: Now { moment: Moment(1_000_000), wall: UnixTime(1_800_000_000_000) },
            settings,
            links: BTreeMap::new(),
            next_slot: 0,
            store: BTreeMap::new(),
            slow_store: false,
            waiting: VecDeque::new(),
            http: Vec::new(),
            latches: BTreeMap::new(),
            seen: BTreeMap::new(),
            last: Effects::default(),
        }
    }

    // ---- coming and going ----

    pub(crate) fn link(&mut self, peer: Peer) -> Seat {
        let slot = self.next_slot;
        self.next_slot += 1;
        let conn = ConnectionId { slot, tag: 1000 + u64::from(slot) };
        let is_worker = matches!(peer, Peer::Worker { .. });
        self.links.insert(conn, Link { is_worker, ..Link::default() });
        self.handle(Input::Opened { conn, peer });
        conn
    }

    /// A client with a token for `user` and the usual rights.
    pub(crate) fn client(&mut self, user: &str) -> Seat {
        let rights = self.settings.rights.clone();
        self.client_with(user, rights)
    }

    pub(crate) fn client_with(&mut self, user: &str, rights: Rc<Rights>) -> Seat {
        let seat = self.newcomer(user, rights);
        self.hush(seat);
        seat
    }

    /// The same, with all that it hears at first still to be heard.
    pub(crate) fn newcomer(&mut self, user: &str, rights: Rc<Rights>) -> Seat {
        let claim = Claim::Proven(Identity { user_id: user_id(user), rights, expires_at: None });
        self.link(Peer::Client { claim, inbox: InboxMode::Auto })
    }

    /// A client without a token.
    pub(crate) fn stranger(&mut self) -> Seat {
        self.link(Peer::Client { claim: Claim::Nothing, inbox: InboxMode::Auto })
    }

    pub(crate) fn worker(&mut self) -> Seat {
        self.link(Peer::Worker { uid: 1000, admin: false })
    }

    pub(crate) fn admin(&mut self) -> Seat {
        self.link(Peer::Worker { uid: 0, admin: true })
    }

    pub(crate) fn leave(&mut self, seat: Seat) {
        self.links.remove(&seat);
        self.handle(Input::Closed { conn: seat });
    }

    // ---- saying and hearing ----

    /// Says something, and gives what was heard by the one who said it, in a
    /// few words each.
    pub(crate) fn say(&mut self, seat: Seat, request: Value) -> Vec<String> {
        self.ask(seat, request).iter().map(brief).collect()
    }

    /// The same, whole.
    pub(crate) fn ask(&mut self, seat: Seat, request: Value) -> Vec<Value> {
        let text = request.to_string();
        let is_worker = self.links.get(&seat).is_some_and(|link| link.is_worker);
        let parsed = if is_worker { worker::parse(text.as_bytes()) } else { protocol::parse(&text) };
        let from = Asker::Connection(seat);
        match parsed {
            Ok(protocol::Said { id, say: Say::Auth { token, inbox } }) => {
                let claim = self.verify(token.reveal());
                self.handle(Input::Identified { conn: seat, id, inbox, claim });
            }
            Ok(said) => self.handle(Input::Said { from, said }),
            Err(misspoken) => self.handle(Input::Misspoke { from, misspoken }),
        }
        self.frames(seat)
    }

    /// Tokens of the bench are the name of their user; `bad` is none.
    fn verify(&self, token: &str) -> Result<Identity, TokenFault> {
        match token {
            "bad" => Err(TokenFault { code: "token_invalid", message: "not a token".into() }),
            user => {
                let rights = self.settings.rights.clone();
                Ok(Identity { user_id: user_id(user), rights, expires_at: None })
            }
        }
    }

    pub(crate) fn subscribe(&mut self, seat: Seat, channel: &str) -> Vec<String> {
        self.say(seat, json!({"action": "subscribe", "channel": channel}))
    }

    /// Publishes `data` as event `say`.
    pub(crate) fn publish(&mut self, seat: Seat, channel: &str, data: impl Into<Value>) -> Vec<String> {
        self.say(seat, json!({"action": "send", "channel": channel, "event": "say", "data": data.into()}))
    }

    pub(crate) fn ask_http(&mut self, number: u64, say: Say) -> Vec<String> {
        self.handle(Input::Said { from: Asker::Http(number), said: protocol::Said { id: None, say } });
        self.answers(number)
    }

    /// What an HTTP caller was answered.
    pub(crate) fn answers(&mut self, number: u64) -> Vec<String> {
        let (his, others) = std::mem::take(&mut self.http).into_iter().partition(|(to, _)| *to == number);
        self.http = others;
        let his: Vec<(u64, Value)> = his;
        his.iter().map(|(_, frame)| brief(frame)).collect()
    }

    pub(crate) fn stats(&mut self) -> Value {
        let from = Asker::Http(u64::MAX);
        self.handle(Input::Said { from, said: protocol::Said { id: None, say: Say::Stats } });
        self.http.pop().map(|(_, frame)| frame).unwrap()
    }

    /// What a peer heard since it was last asked, whole.
    pub(crate) fn frames(&mut self, seat: Seat) -> Vec<Value> {
        self.links.get_mut(&seat).map(|link| std::mem::take(&mut link.heard)).unwrap_or_default()
    }

    /// The same, in a few words each.
    pub(crate) fn story(&mut self, seat: Seat) -> Vec<String> {
        self.frames(seat).iter().map(brief).collect()
    }

    /// Lets what was heard so far be of no interest.
    pub(crate) fn hush(&mut self, seat: Seat) {
        self.frames(seat);
    }

    // ---- sockets, store and time ----

    pub(crate) fn outbound(&mut self, seat: Seat, state: Outbound) {
        self.handle(Input::Outbound { conn: seat, state });
    }

    /// A socket that takes nothing of a replay.
    pub(crate) fn clog(&mut self, seat: Seat) {
        self.links.get_mut(&seat).unwrap().stuck = true;
    }

    /// And takes `count` more messages of it.
    pub(crate) fn drain(&mut self, seat: Seat, count: usize) {
        for _ in 0..count {
            let next = self.links.get_mut(&seat).and_then(|link| link.unwritten.pop_front());
            let Some((log, seq, how)) = next else { return };
            self.handle(Input::Written { conn: seat, log, seq, how });
        }
    }

    pub(crate) fn unclog(&mut self, seat: Seat) {
        self.links.get_mut(&seat).unwrap().stuck = false;
        self.drain(seat, usize::MAX);
    }

    /// The store answers what it was asked.
    pub(crate) fn store_answers(&mut self) {
        while let Some(input) = self.waiting.pop_front() {
            self.handle(input);
        }
    }

    /// The store forgets everything, as a broken disk does.
    pub(crate) fn lose_store(&mut self) {
        self.store.clear();
    }

    pub(crate) fn stored(&self) -> usize {
        self.store.values().map(BTreeMap::len).sum()
    }

    /// Lets time pass, with everything that falls due in it.
    pub(crate) fn wait(&mut self, seconds: f64) {
        let until = self.now.moment + Duration::from_secs_f64(seconds);
        while let Some(due) = self.hub.deadline().filter(|due| *due <= until) {
            let ahead = due.since(self.now.moment);
            self.pass(ahead);
            self.handle(Input::Due);
            let next = self.hub.deadline();
            assert!(next.is_none_or(|next| next > self.now.moment), "due again at once: {next:?}");
        }
        self.pass(until.since(self.now.moment));
    }

    fn pass(&mut self, time: Duration) {
        self.now.moment = self.now.moment + time;
        self.now.wall.0 += time.as_millis() as u64;
    }

    pub(crate) fn stop(&mut self, close: Close) {
        self.handle(Input::Stopping { close });
    }

    /// Another process takes over.
    pub(crate) fn hand_over(&mut self) {
        let bytes = self.hub.export();
        self.hub = Hub::import(self.settings.clone(), &bytes).unwrap();
        assert_eq!(
            String::from_utf8(self.hub.export()),
            String::from_utf8(bytes),
            "nothing is lost on the way"
        );
    }

    // ---- carrying out ----

    pub(crate) fn handle(&mut self, input: Input) {
        let mut out = Effects::default();
        self.hub.handle(self.now, input, &mut out);
        let mut taken = Vec::new();
        for effect in &out.list {
            self.carry_out(effect, &out, &mut taken);
        }
        self.last = out;
        for input in taken {
            self.handle(input);
        }
        if !self.slow_store {
            self.store_answers();
        }
    }

    fn carry_out(&mut self, effect: &Effect, out: &Effects, taken: &mut Vec<Input>) {
        match effect {
            Effect::Deliver { message, to, log } => {
                self.note(message, None);
                let json = encoded(|to| message.encode(Delivery::Live, to));
                self.give(out.slots(to), &json);
                if let Some(log) = log {
                    for slot in out.slots(to) {
                        let seat = self.seat(*slot);
                        self.write(seat, log, message.seq.unwrap(), Delivery::Live, taken);
                    }
                }
            }
            Effect::Tell { frame, to } => {
                let json = encoded(|to| frame.encode(None, to));
                self.give(out.slots(to), &json);
            }
            Effect::Replay { message, conn, log } => {
                let json = encoded(|to| message.encode(Delivery::Replayed, to));
                let link = self.links.get_mut(conn).expect("a replay goes to somebody");
                link.heard.push(json);
                self.write(*conn, log, message.seq.unwrap(), Delivery::Replayed, taken);
            }
            Effect::Answer { to, id, frame } => self.answer_with(*to, id.as_ref(), frame),
            Effect::Refuse { to, id, refusal } => {
                let frame = Frame::from(&**refusal);
                let json = encoded(|to| frame.encode(id.as_ref(), to));
                self.answer(*to, json);
            }
            Effect::Ping { conn } => self.answer(Asker::Connection(*conn), json!({"type": "ping"})),
            Effect::Close { conn, close, after_ms } => {
                let json = json!({"type": "closed", "code": close.code(), "after_ms": after_ms});
                self.answer(Asker::Connection(*conn), json);
            }
            Effect::Report(_) => {}
            Effect::Latch { .. } | Effect::Interrupt { .. } | Effect::Unlatch { .. } => self.latch(effect),
            Effect::Keep { .. } | Effect::Fetch { .. } | Effect::Forget { .. } => self.ask_store(effect),
        }
    }

    /// A worker hears of an answer only what it wants to know.
    fn answer_with(&mut self, to: Asker, id: Option<&RequestId>, frame: &Frame<'_>) {
        let worker = matches!(to, Asker::Connection(conn) if self.is_worker(conn));
        let mut bytes = Vec::new();
        let said = match worker {
            true => worker::encode(frame, id, &mut bytes),
            false => {
                frame.encode(id, &mut bytes);
                true
            }
        };
        if said {
            self.answer(to, serde_json::from_slice(&bytes).unwrap());
        }
    }

    fn latch(&mut self, effect: &Effect) {
        match effect {
            Effect::Latch { operation, worker } => {
                assert!(self.is_worker(*worker));
                let known = self.latches.insert(operation.clone(), *worker);
                assert!(known.is_none(), "one latch for an operation");
            }
            Effect::Interrupt { line } => {
                let owner =
                    self.latches.get(&line.operation_id).expect("a latch is pulled while it is there");
                let json = encoded(|to| line.encode(to));
                self.answer(Asker::Connection(*owner), json);
            }
            Effect::Unlatch { operation } => {
                assert!(self.latches.remove(operation).is_some(), "a latch is dropped once");
            }
            _ => {}
        }
    }

    fn ask_store(&mut self, effect: &Effect) {
        match effect {
            Effect::Keep { log, message } => {
                self.note(message, Some(log));
                let seq = message.seq.unwrap();
                let known = self.store.entry(log.clone()).or_default().insert(seq, message.clone());
                assert!(known.is_none(), "a position is given out once");
            }
            Effect::Fetch { fetch, log, after, count, bytes } => {
                let input = self.read(*fetch, log, *after, *count, *bytes);
                self.waiting.push_back(input);
            }
            Effect::Forget { log, from, to } => {
                if let Some(kept) = self.store.get_mut(log) {
                    kept.retain(|seq, _| seq < from || seq > to);
                    if kept.is_empty() {
                        self.store.remove(log);
                    }
                }
            }
            _ => {}
        }
    }

    fn note(&mut self, message: &Rc<Message>, log: Option<&LogKey>) {
        let channel = message.channel.clone().filter(|channel| channel.as_str() != "@me");
        let key = log.cloned().or_else(|| channel.map(LogKey::Channel));
        if let (Some(key), Some(seq)) = (key, message.seq) {
            self.seen.insert((key, seq), message.clone());
        }
    }

    fn read(&self, fetch: Purpose, log: &LogKey, after: u64, count: usize, bytes: usize) -> Input {
        let mut left = bytes;
        let kept = self.store.get(log).into_iter().flat_map(|kept| kept.range(after + 1..));
        let fits = |(_, message): &(&u64, &Rc<Message>)| {
            let first = left == bytes;
            let room = left.checked_sub(message.size());
            left = room.unwrap_or(0);
            first || room.is_some()
        };
        let messages = kept.take(count).take_while(fits).map(|(_, message)| message.clone()).collect();
        Input::Fetched { fetch, log: log.clone(), messages }
    }

    fn is_worker(&self, conn: ConnectionId) -> bool {
        self.links.get(&conn).is_some_and(|link| link.is_worker)
    }

    fn answer(&mut self, to: Asker, json: Value) {
        match to {
            Asker::Connection(conn) => {
                self.links.get_mut(&conn).expect("an answer goes to somebody").heard.push(json);
            }
            Asker::Http(number) => self.http.push((number, json)),
        }
    }

    fn give(&mut self, slots: &[u32], json: &Value) {
        for slot in slots {
            let seat = self.seat(*slot);
            self.links.get_mut(&seat).unwrap().heard.push(json.clone());
        }
    }

    fn seat(&self, slot: u32) -> Seat {
        let there = self.links.keys().find(|conn| conn.slot == slot);
        *there.expect("only open connections are recipients")
    }

    /// A socket takes a message whole, now or when it is unclogged.
    fn write(&mut self, seat: Seat, log: &LogKey, seq: u64, how: Delivery, taken: &mut Vec<Input>) {
        let link = self.links.get_mut(&seat).unwrap();
        if link.stuck {
            link.unwritten.push_back((log.clone(), seq, how));
        } else {
            taken.push(Input::Written { conn: seat, log: log.clone(), seq, how });
        }
    }
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    serde_json::from_slice(&bytes).unwrap()
}

pub(crate) fn user_id(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// Rights to subscribe, to publish and to interrupt.
pub(crate) fn rights(subscribe: &[&str], publish: &[&str], interrupt: &[&str]) -> Rc<Rights> {
    let patterns = |list: &[&str]| list.iter().map(|text| Pattern::new(text)).collect();
    Rc::new(Rights {
        subscribe: patterns(subscribe),
        publish: patterns(publish),
        interrupt: patterns(interrupt),
        admin: false,
    })
}

/// A frame in a few words: what stories are about.
pub(crate) fn brief(frame: &Value) -> String {
    let kind = frame["type"].as_str().unwrap_or_default();
    let fields: &[&str] = match kind {
        "message" => &["event", "data", "replayed"],
        "gap" => &["from_seq", "to_seq", "lost", "cause"],
        "error" => &["code", "channel"],
        "operation" => &["operation_id", "state", "reason"],
        "interrupt_result" => &["outcome"],
        "interrupt" => &["operation_id", "reason"],
        "unsubscribed" => &["channel", "reason"],
        "send_success" => &["sent", "failed", "kept", "duplicate"],
        "subscription_succeeded" => &["channel", "seq", "recovered"],
        "closed" | "auth_failed" => &["code"],
        "user_joined" | "user_left" | "auth_success" => &["user_id"],
        _ => &[],
    };
    let mut words = vec![if kind == "message" { String::new() } else { kind.to_owned() }];
    for field in fields {
        match &frame[*field] {
            Value::Null => {}
            Value::Bool(true) => words.push((*field).to_owned()),
            Value::String(text) => words.push(text.clone()),
            other => words.push(other.to_string()),
        }
    }
    words.join(" ").trim().to_owned()
}
