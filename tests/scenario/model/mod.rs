//! A small reference beside the hub, and random histories for both.
//!
//! Knows what each peer was told, frame by frame, and asks the reference whether
//! it should have been. What is found is shrunk to a story, told line by line.
//! `PROPTEST_CASES` tries more of them; `MODEL_SECONDS=3600` tries for an hour.

mod operations;
mod reference;
mod step;
mod stories;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{LogKey, Pattern, Settings};
use wshubd::protocol::{InboxMode, Moment};

use super::bench::{Bench, Seat, Seen, brief, rights};
use operations::Observed;
use reference::{Check, Keeps, Line, Log, Told};
use step::{CHANNELS, DEVICES, PEERS, Step, USERS};

/// A device or worker, with what it remembers while it is away.
#[derive(Default)]
struct Peer {
    seat: Option<Seat>,
    mode: InboxMode,
    /// Where it is on each channel: the epoch and the last position it heard.
    positions: BTreeMap<usize, (Value, u64)>,
    /// The positions that it asked for when it last subscribed.
    asked: BTreeMap<usize, Option<u64>>,
    /// The last position of the inbox that it heard.
    inbox: u64,
    /// Its interrupts that have no final answer yet, by request id.
    interrupts: BTreeSet<u64>,
    /// What it published last, and whether that still counts.
    said: Option<Value>,
}

struct Model {
    bench: Bench,
    peers: Vec<Peer>,
    logs: BTreeMap<String, Log>,
    /// Hears what the hub tells of undelivered messages.
    listener: Seat,
    /// What it has to hear, in any order.
    notices: Vec<String>,
    told: Vec<String>,
    observed: Observed,
    said: u64,
    requests: u64,
    waited: u64,
}

/// Channels are forgotten when nobody needs them for five minutes; within less
/// than that every epoch is the first.
const MOST_WAITED: u64 = 280;

const DAY: u64 = 86_400;
const BRIEF: u64 = 10;
const HISTORY: usize = 4;

fn settings() -> Settings {
    let keep =
        |keep, count, seconds| Policy { keep, count, ttl: Duration::from_secs(seconds), ..Policy::default() };
    let mut settings = Settings {
        policies: vec![
            (Pattern::new("history"), keep(Keep::History, HISTORY, DAY)),
            (Pattern::new("undelivered"), keep(Keep::Undelivered, 1000, DAY)),
            (Pattern::new("brief"), keep(Keep::Undelivered, 1000, BRIEF)),
            (Pattern::new("never"), keep(Keep::Never, 0, 0)),
        ],
        rights: rights(&["*"], &["*", "@user:*"], &[]),
        ..Settings::default()
    };
    settings.limits.requests_per_second = 1_000_000;
    settings.limits.burst = 1_000_000;
    settings
}

fn inbox_of(user: &str) -> String {
    format!("@{user}")
}

impl Model {
    fn new() -> Self {
        let mut bench = Bench::with(settings());
        let listener = bench.worker();
        bench.subscribe(listener, "system:undelivered");
        let observed = Observed::new(&mut bench);
        let mut logs = BTreeMap::new();
        let policies = [Keeps::Last(HISTORY), Keeps::Unheard, Keeps::Unheard, Keeps::Nothing];
        for (channel, keeps) in CHANNELS.iter().zip(policies) {
            logs.insert((*channel).to_owned(), Log::new(channel, keeps));
        }
        for user in USERS {
            logs.insert(inbox_of(user), Log::new(&format!("the inbox of {user}"), Keeps::Unacknowledged));
        }
        bench.journal = Some(Vec::new());
        Self {
            bench,
            peers: PEERS.iter().map(|_| Peer::default()).collect(),
            logs,
            listener,
            notices: Vec::new(),
            told: Vec::new(),
            observed,
            said: 0,
            requests: 0,
            waited: 0,
        }
    }

    /// Lets a history happen, and everything come to rest after it.
    fn run(steps: &[Step]) -> Check {
        let mut model = Self::new();
        for step in steps {
            model.step(step)?;
            model.bench.report_links();
            model.listen()?;
            model.count()?;
        }
        model.settle()?;
        model.end()
    }

    fn log(&mut self, name: &str) -> &mut Log {
        self.logs.get_mut(name).unwrap()
    }

    fn user(who: usize) -> Option<&'static str> {
        (who < DEVICES).then(|| USERS[who / 2])
    }

    fn step(&mut self, step: &Step) -> Check {
        match *step {
            Step::Come(who, mode) => self.come(who, mode),
            Step::Leave(who) => self.depart(who, |bench, seat| bench.leave(seat)),
            Step::Cut(who, count) => self.depart(who, |bench, seat| bench.cut(seat, count)),
            Step::Mode(who, mode) => {
                if self.peers[who].seat.is_some() {
                    self.peers[who].mode = mode;
                    let user = Self::user(who);
                    self.ask(who, json!({"action": "auth", "token": user, "inbox": mode}));
                }
            }
            Step::Subscribe(who, channel) => {
                let position = self.peers[who].positions.get(&channel).cloned();
                let since = position.map(|(epoch, seq)| json!({"epoch": epoch, "seq": seq}));
                self.subscribe(who, channel, since);
            }
            Step::SubscribeFromTheStart(who, channel) => {
                self.subscribe(who, channel, Some(json!({"epoch": "", "seq": 0})));
            }
            Step::Unsubscribe(who, channel) => {
                self.ask(who, json!({"action": "unsubscribe", "channel": CHANNELS[channel], "id": 0}));
            }
            Step::Publish { by, channel, ttl, quiet } => self.publish(by, channel, ttl, quiet),
            Step::Send { by, user, ttl, receipt } => self.send(by, USERS[user], ttl, receipt),
            Step::Repeat(who) => self.repeat(who)?,
            Step::Whisper(who, channel) => {
                self.ask(who, json!({"action": "whisper", "channel": CHANNELS[channel], "event": "w"}));
            }
            Step::Ack { by, back, read } => self.ack(by, back, read),
            Step::AckNonsense(who) => self.ack_nonsense(who),
            _ => return self.step_beside(step),
        }
        Ok(())
    }

    /// What happens to links, the store, time and operations.
    fn step_beside(&mut self, step: &Step) -> Check {
        match *step {
            Step::Slow(who) => self.on_link(who, Bench::slow),
            Step::Carry(who, count) => self.on_link(who, |bench, seat| bench.carry(seat, count)),
            Step::Fast(who) => self.on_link(who, Bench::fast),
            Step::SlowStore => self.bench.slow_store = true,
            Step::StoreAnswers => self.bench.store_answers(),
            Step::QuickStore => {
                self.bench.slow_store = false;
                self.bench.store_answers();
            }
            Step::Wait(seconds) => {
                let seconds = seconds.min(MOST_WAITED - self.waited);
                self.waited += seconds;
                for _ in 0..seconds {
                    self.second()?;
                }
            }
            Step::HandOver => self.bench.hand_over(),
            _ => {
                let asked = operations::request(step, &mut self.requests);
                if let Some((who, request)) = asked.filter(|(who, _)| self.peers[*who].seat.is_some()) {
                    if let Step::Interrupt(..) = step {
                        self.peers[who].interrupts.insert(self.requests);
                    }
                    self.ask(who, request);
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, who: usize, request: Value) {
        if let Some(seat) = self.peers[who].seat {
            self.bench.tell(seat, &request);
        }
    }

    fn on_link(&mut self, who: usize, what: impl FnOnce(&mut Bench, Seat)) {
        if let Some(seat) = self.peers[who].seat {
            what(&mut self.bench, seat);
        }
    }

    fn come(&mut self, who: usize, mode: InboxMode) {
        if self.peers[who].seat.is_some() {
            return;
        }
        let seat = match Self::user(who) {
            Some(user) => self.bench.client_in(user, mode),
            None => self.bench.worker(),
        };
        self.peers[who].seat = Some(seat);
        self.peers[who].mode = mode;
    }

    /// What its socket takes before it is gone still counts.
    fn depart(&mut self, who: usize, how: impl FnOnce(&mut Bench, Seat)) {
        self.on_link(who, how);
        if self.listen().is_ok() {
            self.gone(who);
        }
    }

    fn gone(&mut self, who: usize) {
        let Some(seat) = self.peers[who].seat.take() else { return };
        self.peers[who].interrupts.clear();
        for log in self.logs.values_mut() {
            log.leave(seat);
        }
    }

    fn subscribe(&mut self, who: usize, channel: usize, since: Option<Value>) {
        let asked = since.as_ref().map(|since| since["seq"].as_u64().unwrap());
        self.peers[who].asked.insert(channel, asked);
        let request = json!({"action": "subscribe", "channel": CHANNELS[channel], "since": since, "id": 0});
        self.ask(who, request);
    }

    /// Has a peer publish something; whether it was there to do so, with the
    /// line that it makes.
    fn say(&mut self, who: usize, mut request: Value, ttl: Option<u64>, most: u64) -> Option<Line> {
        let seat = self.peers[who].seat?;
        self.said += 1;
        let id = format!("m{}", self.said);
        request["action"] = json!("send");
        request["event"] = json!("say");
        request["message_id"] = json!(id);
        request["ttl"] = json!(ttl);
        self.bench.tell(seat, &request);
        self.peers[who].said = Some(request.clone());
        let line = Line {
            seq: 0,
            id,
            by: Some(seat),
            // A worker never hears itself.
            is_quiet: request["echo"] == false || who >= DEVICES,
            expires: self.now() + Duration::from_secs(ttl.unwrap_or(most).min(most)),
            is_heard: false,
            gone: None,
            receipt: None,
        };
        (ttl != Some(0)).then_some(line)
    }

    fn publish(&mut self, who: usize, channel: usize, ttl: Option<u64>, quiet: bool) {
        let most = if CHANNELS[channel] == "brief" { BRIEF } else { DAY };
        let request = json!({"channel": CHANNELS[channel], "echo": !quiet});
        if let Some(line) = self.say(who, request, ttl, most) {
            let notices = self.log(CHANNELS[channel]).say(line);
            self.notices.extend(notices);
        }
    }

    fn send(&mut self, who: usize, user: &str, ttl: Option<u64>, receipt: bool) {
        let asker = Self::user(who).filter(|_| receipt);
        let request = json!({"user_id": user, "receipt": asker.is_some()});
        if let Some(mut line) = self.say(who, request, ttl, DAY) {
            line.is_quiet = false;
            line.receipt = asker.map(|user| (user.to_owned(), Told::Nothing));
            let kept = format!("kept {}", line.id);
            let inbox = self.log(&inbox_of(user));
            let is_away = inbox.sessions.is_empty();
            inbox.say(line);
            if is_away {
                self.notices.push(kept);
            }
        }
    }

    /// The same again: a duplicate, and nobody hears it.
    fn repeat(&mut self, who: usize) -> Check {
        let (Some(seat), Some(request)) = (self.peers[who].seat, self.peers[who].said.clone()) else {
            return Ok(());
        };
        let mut request = request;
        request["id"] = json!(0);
        self.bench.tell(seat, &request);
        let seen = self.bench.journal.iter().flatten().rev();
        let answers = seen.filter_map(|(whose, seen)| match seen {
            Seen::Queued(frame) if *whose == seat => Some(frame),
            _ => None,
        });
        let duplicate = answers.map(|frame| frame["duplicate"] == true).next();
        if duplicate == Some(true) { Ok(()) } else { Err("what was said twice is sent twice".to_owned()) }
    }

    fn ack(&mut self, who: usize, back: u64, read: bool) {
        let seq = self.peers[who].inbox.saturating_sub(back);
        let (Some(seat), Some(user)) = (self.peers[who].seat, Self::user(who)) else { return };
        if seq == 0 {
            return;
        }
        let state = if read { Told::Read } else { Told::Delivered };
        if read {
            self.bench.ack_read(seat, seq)
        } else {
            self.bench.ack(seat, seq)
        }
        if self.peers[who].mode == InboxMode::Off {
            return;
        }
        let now = self.now();
        let receipts = self.log(&inbox_of(user)).ack(seq, state, now);
        for (to, id) in receipts {
            let expires = now + Duration::from_secs(DAY);
            let line = Line {
                seq: 0,
                id,
                by: None,
                is_quiet: false,
                expires,
                is_heard: false,
                gone: None,
                receipt: None,
            };
            self.log(&inbox_of(&to)).say(line);
        }
    }

    fn ack_nonsense(&mut self, who: usize) {
        let (Some(seat), Some(user)) = (self.peers[who].seat, Self::user(who)) else { return };
        let beyond = self.log(&inbox_of(user)).seq() + 1;
        self.bench.ack(seat, beyond);
        self.bench.tell(seat, &json!({"action": "ack", "epoch": "other", "seq": 1, "read": true}));
    }

    fn now(&self) -> Moment {
        self.bench.now.moment
    }

    /// One second passes, in which everybody gives signs of life.
    fn second(&mut self) -> Check {
        self.bench.live(1);
        let now = self.now();
        for log in self.logs.values_mut() {
            self.notices.extend(log.expire(now));
        }
        self.listen()
    }

    /// Everything that was seen at the links is held against the reference.
    fn listen(&mut self) -> Check {
        loop {
            let journal = self.bench.journal.replace(Vec::new()).unwrap_or_default();
            if journal.is_empty() {
                break;
            }
            for (seat, seen) in journal {
                let Some(who) = self.peers.iter().position(|peer| peer.seat == Some(seat)) else { continue };
                let told = match seen {
                    Seen::Queued(frame) => self.queued(who, seat, &frame),
                    Seen::Taken(log, seq) => self.taken(who, seat, &log, seq),
                    Seen::Heard(frame) => self.heard(who, &frame),
                };
                told.map_err(|why| format!("{}: {why}", PEERS[who]))?;
            }
        }
        for frame in self.bench.frames(self.listener) {
            let data = &frame["data"];
            if data["event"] == "say" {
                let (state, id) = (data["state"].as_str(), data["message_id"].as_str());
                self.told.push(format!("{} {}", state.unwrap(), id.unwrap()));
            }
        }
        self.observed.listen(&mut self.bench)
    }

    fn queued(&mut self, who: usize, seat: Seat, frame: &Value) -> Check {
        let channel = frame["channel"].as_str().unwrap_or_default();
        let known = CHANNELS.iter().position(|name| *name == channel);
        let inbox = Self::user(who).map(inbox_of).unwrap_or_default();
        let name = if channel == "@me" { inbox.clone() } else { channel.to_owned() };
        match frame["type"].as_str().unwrap() {
            "connection_established" => self.greeted(who, seat, &inbox, frame),
            "auth_success" => {
                let mode = self.peers[who].mode;
                let log = self.log(&inbox);
                match (mode, log.session(seat).is_some()) {
                    (InboxMode::Off, _) => log.leave(seat),
                    (_, false) => log.join_inbox(seat),
                    _ => {}
                }
                Ok(())
            }
            "subscription_succeeded" | "ok" if frame.get("epoch").is_some() => {
                let since = self.peers[who].asked[&known.unwrap()];
                self.log(&name).join(seat, since, frame["recovered"].as_bool())
            }
            "unsubscribe_succeeded" | "ok" if known.is_some() && frame.get("message_id").is_none() => {
                self.log(&name).leave(seat);
                Ok(())
            }
            "message" if frame["seq"].is_u64() => {
                let seq = frame["seq"].as_u64().unwrap();
                let log = self.log(&name);
                is_the_same(&log.line(seq)?.id, frame)?;
                log.hears(seat, seq, frame)
            }
            "gap" => self.log(&name).misses(seat, frame),
            "closed" => {
                self.bench.leave(seat);
                self.gone(who);
                Ok(())
            }
            "error" if ["internal", "bad_request"].contains(&frame["code"].as_str().unwrap()) => {
                Err(brief(frame))
            }
            "error" | "interrupt_result" => self.peers[who].answered(frame),
            _ => Ok(()),
        }
    }

    fn greeted(&mut self, who: usize, seat: Seat, inbox: &str, frame: &Value) -> Check {
        let mode = self.peers[who].mode;
        let log = self.log(inbox);
        let state = json!({"epoch": frame["inbox"]["epoch"], "seq": log.seq(), "waiting": log.kept().len()});
        if frame["inbox"] != state {
            return Err(format!("greeted with {}, where it is {state}", frame["inbox"]));
        }
        if mode != InboxMode::Off {
            log.join_inbox(seat);
        }
        Ok(())
    }

    fn taken(&mut self, who: usize, seat: Seat, log: &LogKey, seq: u64) -> Check {
        match log {
            LogKey::Channel(channel) => self.log(channel.as_str()).takes(seat, seq),
            LogKey::Inbox(user) => {
                let here = |who: &usize| self.peers[*who].seat.is_some();
                let theirs = (0..DEVICES).filter(|who| Self::user(*who) == Some(user.as_str())).filter(here);
                let acknowledges = theirs.map(|who| self.peers[who].mode).any(|mode| mode == InboxMode::Ack);
                if !acknowledges && self.peers[who].mode == InboxMode::Auto {
                    self.log(&inbox_of(user.as_str())).pass(seq);
                }
                Ok(())
            }
        }
    }

    /// What a client makes of what it hears: a position to come back with.
    fn heard(&mut self, who: usize, frame: &Value) -> Check {
        let channel = frame["channel"].as_str().unwrap_or_default();
        let (seq, epoch) = (frame["seq"].as_u64(), frame["epoch"].clone());
        let peer = &mut self.peers[who];
        match (frame["type"].as_str().unwrap(), seq) {
            ("message", Some(seq)) if channel == "@me" => peer.inbox = peer.inbox.max(seq),
            ("subscription_succeeded" | "ok", Some(seq)) => {
                let channel = CHANNELS.iter().position(|name| *name == channel).unwrap();
                peer.positions.insert(channel, (epoch, peer.asked[&channel].unwrap_or(seq)));
            }
            ("message", Some(seq)) => {
                let place = CHANNELS.iter().position(|name| *name == channel).unwrap();
                let Some((_, last)) = peer.positions.get_mut(&place) else { return Ok(()) };
                let before = std::mem::replace(last, seq);
                if channel == "history" {
                    return self.is_next(before, seq);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// From one message of a history to the next, nothing is missing but what was
    /// lost, and nothing comes twice.
    fn is_next(&mut self, before: u64, seq: u64) -> Check {
        if seq <= before {
            return Err(format!("history {seq} is heard after {before}"));
        }
        let log = self.log("history");
        for missed in before + 1..seq {
            let line = log.line(missed)?;
            if line.gone.is_none() && !line.is_quiet {
                return Err(format!("history {missed} was never heard, and {seq} is"));
            }
        }
        Ok(())
    }
}

impl Peer {
    fn answered(&mut self, frame: &Value) -> Check {
        let request = frame["id"].as_u64().filter(|request| *request > 0);
        if frame["outcome"] == "pending" {
            return Ok(());
        }
        match request {
            Some(request) if !self.interrupts.remove(&request) => {
                Err(format!("a second final answer: {}", brief(frame)))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a message is what was said at its position.
fn is_the_same(id: &str, frame: &Value) -> Check {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let data = &frame["data"];
    let is = match frame["event"].as_str() {
        Some("system:receipt") => format!("{} {}", text(&data["message_id"]), text(&data["state"])),
        _ => text(&frame["message_id"]),
    };
    if is == id { Ok(()) } else { Err(format!("heard {is} where {id} was said")) }
}
