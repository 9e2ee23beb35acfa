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

/// A message that the hub wants to know of when a socket has taken it.
type Mark = (LogKey, u64, Delivery);

/// What is at the other end of a link.
#[derive(Default)]
struct Link {
    is_worker: bool,
    heard: Vec<Value>,
    /// Its socket takes nothing of a replay.
    stuck: bool,
    /// Replays that the socket has not taken.
    unwritten: VecDeque<Mark>,
    /// A link that carries frames only when it is told to, with those that it
    /// has not carried.
    slow: Option<VecDeque<(Value, Option<Mark>)>>,
    /// How the hub was told that a slow link is doing.
    state: Outbound,
    /// The epoch of its user's inbox, as it was greeted.
    inbox: Option<String>,
}

/// What can be seen of one frame at a link.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Seen {
    /// The hub has queued it.
    Queued(Value),
    /// The socket has taken it, and the hub was told.
    Taken(LogKey, u64),
    /// The peer has heard it.
    Heard(Value),
}

/// From so many frames on a slow link counts as full.
const FULL: usize = 5;

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
    /// Those that were made for a story.
    tokens: BTreeMap<String, Identity>,
    /// Everything that was delivered or kept, by channel and position.
    pub(crate) seen: BTreeMap<(LogKey, u64), Rc<Message>>,
    /// The effects of the last input.
    pub(crate) last: Effects,
    /// What was seen at all links, in order, where somebody wants to know.
    pub(crate) journal: Option<Vec<(Seat, Seen)>>,
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
            tokens: BTreeMap::new(),
            seen: BTreeMap::new(),
            last: Effects::default(),
            journal: None,
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

    /// The same with a say in who moves the cursor of the inbox.
    pub(crate) fn client_in(&mut self, user: &str, inbox: InboxMode) -> Seat {
        let rights = self.settings.rights.clone();
        let claim = Claim::Proven(Identity { user_id: user_id(user), rights, expires_at: None });
        self.link(Peer::Client { claim, inbox })
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
        self.tell(seat, &request);
        self.frames(seat)
    }

    /// Says something; what is heard is left for later.
    pub(crate) fn tell(&mut self, seat: Seat, request: &Value) {
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
    }

    /// Makes a token that `auth` takes: with rights of its own, for so many
    /// seconds from now.
    pub(crate) fn token(&mut self, user: &str, rights: Rc<Rights>, seconds: u64) -> String {
        let expires_at = Some(UnixTime(self.now.wall.0 + seconds * 1000));
        let token = format!("{user}.{}", self.tokens.len());
        self.tokens.insert(token.clone(), Identity { user_id: user_id(user), rights, expires_at });
        token
    }

    /// Tokens that were not made are the name of their user; `bad` is none.
    fn verify(&self, token: &str) -> Result<Identity, TokenFault> {
        let fault = |code| Err(TokenFault { code, message: "not a token that holds".into() });
        match self.tokens.get(token) {
            Some(made) if made.expires_at.is_some_and(|end| end <= self.now.wall) => fault("token_expired"),
            Some(made) => Ok(made.clone()),
            None if token == "bad" => fault("token_invalid"),
            None => {
                let rights = self.settings.rights.clone();
                Ok(Identity { user_id: user_id(token), rights, expires_at: None })
            }
        }
    }

    /// Says who one is, as `auth` does.
    pub(crate) fn auth(&mut self, seat: Seat, token: &str, inbox: Option<&str>) -> Vec<String> {
        self.say(seat, json!({"action": "auth", "token": token, "inbox": inbox}))
    }

    /// Says that the inbox has arrived up to a position, of the epoch that the
    /// greeting told. It has no answer.
    pub(crate) fn ack(&mut self, seat: Seat, seq: u64) {
        let epoch = self.inbox_epoch(seat);
        self.tell(seat, &json!({"action": "ack", "epoch": epoch, "seq": seq}));
    }

    /// The same, and a person has seen it.
    pub(crate) fn ack_read(&mut self, seat: Seat, seq: u64) {
        let epoch = self.inbox_epoch(seat);
        self.tell(seat, &json!({"action": "ack", "epoch": epoch, "seq": seq, "read": true}));
    }

    pub(crate) fn inbox_epoch(&self, seat: Seat) -> String {
        self.links.get(&seat).and_then(|link| link.inbox.clone()).expect("a greeting tells the inbox's epoch")
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

    /// What `POST /broadcast` is answered.
    pub(crate) fn post(&mut self, number: u64, body: &Value) -> Vec<String> {
        match protocol::http::broadcast(body.to_string().as_bytes()) {
            Ok(publication) => self.ask_http(number, Say::Publish(publication)),
            Err(refusal) => vec![format!("error {}", refusal.code.word())],
        }
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

    /// The positions that were queued for it and its socket has not taken.
    pub(crate) fn untaken(&self, seat: Seat) -> Vec<u64> {
        self.links[&seat].unwritten.iter().map(|(_, seq, _)| *seq).collect()
    }

    pub(crate) fn unclog(&mut self, seat: Seat) {
        self.links.get_mut(&seat).unwrap().stuck = false;
        self.drain(seat, usize::MAX);
    }

    // ---- slow links ----

    /// Makes a link carry nothing until it is told to.
    pub(crate) fn slow(&mut self, seat: Seat) {
        self.links.get_mut(&seat).unwrap().slow.get_or_insert_default();
    }

    /// Has it carry `count` frames.
    pub(crate) fn carry(&mut self, seat: Seat, count: usize) {
        for _ in 0..count {
            let Some((frame, mark)) = self.next_frame(seat) else { break };
            self.hear(seat, frame);
            self.write(seat, mark);
            self.handle(Input::Took { conn: seat });
        }
        self.report_links();
    }

    /// Has its socket take `count` frames, which are lost with it.
    pub(crate) fn cut(&mut self, seat: Seat, count: usize) {
        for _ in 0..count {
            let Some((_, mark)) = self.next_frame(seat) else { break };
            self.write(seat, mark);
        }
        self.leave(seat);
    }

    /// Has it carry everything from now on.
    pub(crate) fn fast(&mut self, seat: Seat) {
        while self.links.get(&seat).is_some_and(|link| link.slow.as_ref().is_some_and(|l| !l.is_empty())) {
            self.carry(seat, 1);
        }
        if let Some(link) = self.links.get_mut(&seat) {
            link.slow = None;
        }
    }

    fn next_frame(&mut self, seat: Seat) -> Option<(Value, Option<Mark>)> {
        self.links.get_mut(&seat)?.slow.as_mut()?.pop_front()
    }

    fn write(&mut self, seat: Seat, mark: Option<Mark>) {
        if let Some((log, seq, how)) = mark {
            self.handle(Input::Written { conn: seat, log, seq, how });
        }
    }

    fn hear(&mut self, seat: Seat, frame: Value) {
        self.see(seat, || Seen::Heard(frame.clone()));
        self.links.get_mut(&seat).unwrap().heard.push(frame);
    }

    fn see(&mut self, seat: Seat, what: impl FnOnce() -> Seen) {
        if let Some(journal) = &mut self.journal {
            journal.push((seat, what()));
        }
    }

    /// Tells the hub how slow links are doing, as at the end of a turn.
    pub(crate) fn report_links(&mut self) {
        let state = |link: &Link| match link.slow.as_ref().map_or(0, VecDeque::len) {
            0 => Outbound::Clear,
            FULL.. => Outbound::Full,
            _ => Outbound::Waiting,
        };
        while let Some((seat, link)) = self.links.iter_mut().find(|(_, link)| link.state != state(link)) {
            link.state = state(link);
            let input = Input::Outbound { conn: *seat, state: link.state };
            self.handle(input);
        }
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

    /// Lets time pass in which every client gives signs of life.
    pub(crate) fn live(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.wait(1.0);
            let clients = self.links.iter().filter(|(_, link)| !link.is_worker).map(|(seat, _)| *seat);
            for conn in clients.collect::<Vec<_>>() {
                self.handle(Input::Heard { conn });
            }
        }
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
        if let Input::Written { conn, log, seq, .. } = &input {
            self.see(*conn, || Seen::Taken(log.clone(), *seq));
        }
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
                let mark = log.as_ref().map(|log| (log.clone(), message.seq.unwrap(), Delivery::Live));
                self.give(out.slots(to), &json, mark.as_ref(), taken);
            }
            Effect::Tell { frame, to } => {
                let json = encoded(|to| frame.encode(None, to));
                self.give(out.slots(to), &json, None, taken);
            }
            Effect::Replay { message, conn, log } => {
                let json = encoded(|to| message.encode(Delivery::Replayed, to));
                let mark = (log.clone(), message.seq.unwrap(), Delivery::Replayed);
                self.queue(*conn, json, Some(&mark), taken);
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
                let link = self.links.get_mut(&conn).expect("an answer goes to somebody");
                if let Some(epoch) = json["inbox"]["epoch"].as_str() {
                    link.inbox = Some(epoch.to_owned());
                }
                self.queue(conn, json, None, &mut Vec::new());
            }
            Asker::Http(number) => self.http.push((number, json)),
        }
    }

    fn give(&mut self, slots: &[u32], json: &Value, mark: Option<&Mark>, taken: &mut Vec<Input>) {
        for slot in slots {
            let there = self.links.keys().find(|conn| conn.slot == *slot);
            let seat = *there.expect("only open connections are recipients");
            self.queue(seat, json.clone(), mark, taken);
        }
    }

    /// Puts a frame into the queue of a link, which carries it at once unless it
    /// is slow; the socket takes it at once unless it is clogged.
    fn queue(&mut self, seat: Seat, json: Value, mark: Option<&Mark>, taken: &mut Vec<Input>) {
        self.see(seat, || Seen::Queued(json.clone()));
        let link = self.links.get_mut(&seat).expect("a frame goes to somebody");
        if let Some(waiting) = &mut link.slow {
            waiting.push_back((json, mark.cloned()));
            return;
        }
        if let Some((log, seq, how)) = mark.cloned() {
            if link.stuck {
                link.unwritten.push_back((log, seq, how));
            } else {
                taken.push(Input::Written { conn: seat, log, seq, how });
            }
        }
        self.hear(seat, json);
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
