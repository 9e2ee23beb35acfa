//! A small reference model beside the hub, and random histories for both.
//!
//! Records each frame of each peer, and compares it with the reference. A failure is
//! shrunk to a short history, printed line by line.
//! `PROPTEST_CASES` tries more of them; `MODEL_SECONDS=3600` tries for an hour.

mod connections;
mod observations;
mod operations;
mod publishers;
mod random_histories;
mod reference;
mod shutdown;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy, WriteThrough};
use wshubd::hub::{Pattern, Settings};
use wshubd::protocol::{InboxMode, Moment};

use super::harness::{ConnectionId, Harness, rights};
use operations::Observed;
use reference::{Check, Keeps, Log, Since};
use shutdown::End;
use step::{CHANNELS, DEVICES, PEERS, Step, USERS};

/// A device or worker, with what it remembers while it is away.
#[derive(Default)]
struct Peer {
    conn: Option<ConnectionId>,
    mode: InboxMode,
    /// Its position on each channel: the epoch and the last one received.
    positions: BTreeMap<usize, (Value, u64)>,
    /// The gaps of the history: from one position to another.
    gaps: Vec<(u64, u64)>,
    /// The positions that it asked for, of subscriptions without
    /// a reply so far; the last one is the newest.
    asked: Vec<(usize, Option<Since>)>,
    /// The last position of the inbox received.
    inbox: u64,
    /// Its interrupts that have no final answer yet, by request id.
    interrupts: BTreeSet<u64>,
    /// What it published last, and whether that still counts.
    last_publication: Option<Value>,
}

struct Model {
    harness: Harness,
    peers: Vec<Peer>,
    logs: BTreeMap<String, Log>,
    /// Subscribed to the notices of undelivered messages.
    listener: ConnectionId,
    /// What it has to receive, in any order.
    notices: Vec<String>,
    /// What it has to receive when the store has answered what it was.
    asked: Vec<String>,
    /// What it may receive.
    maybe: Vec<String>,
    /// When users who lost their last connection are taken for gone.
    departures: BTreeMap<&'static str, Moment>,
    reported: Vec<String>,
    /// The disk can be neither written nor read.
    is_dark: bool,
    /// The message of every position received: by log and epoch, over
    /// all lives of the hub.
    received: BTreeMap<(String, String), BTreeMap<u64, String>>,
    /// Ids of what was answered to be on the disk.
    stored: BTreeSet<String>,
    observed: Observed,
    published: u64,
    requests: u64,
    waited: u64,
}

/// Channels are forgotten when nobody needs them for five minutes; within less
/// than that every epoch is the first.
const MOST_WAITED: u64 = 280;

/// A page that is reloaded is back before this.
const GRACE: Duration = Duration::from_secs(15);

const DAY: u64 = 86_400;
const BRIEF: u64 = 10;
const HISTORY: usize = 4;

fn settings() -> Settings {
    let keep = |keep, count, seconds, disk| Policy {
        keep,
        count,
        ttl: Duration::from_secs(seconds),
        disk,
        ..Policy::default()
    };
    let mut settings = Settings {
        has_disk: true,
        policies: vec![
            (Pattern::new("history"), keep(Keep::History, HISTORY, DAY, WriteThrough::Behind)),
            (Pattern::new("undelivered"), keep(Keep::Undelivered, 1000, DAY, WriteThrough::Stop)),
            (Pattern::new("brief"), keep(Keep::Undelivered, 1000, BRIEF, WriteThrough::Never)),
            (Pattern::new("never"), keep(Keep::Never, 0, 0, WriteThrough::Never)),
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
        let mut harness = Harness::with(settings());
        let listener = harness.worker();
        harness.subscribe(listener, "system:undelivered");
        let observed = Observed::new(&mut harness);
        let mut logs = BTreeMap::new();
        let policies = [Keeps::Last(HISTORY), Keeps::Unheard, Keeps::Unheard, Keeps::Nothing];
        for (channel, keeps) in CHANNELS.iter().zip(policies) {
            logs.insert((*channel).to_owned(), Log::new(channel, keeps));
        }
        for user in USERS {
            logs.insert(inbox_of(user), Log::new(&format!("the inbox of {user}"), Keeps::Unacknowledged));
        }
        harness.journal = Some(Vec::new());
        Self {
            harness,
            peers: PEERS.iter().map(|_| Peer::default()).collect(),
            logs,
            listener,
            notices: Vec::new(),
            asked: Vec::new(),
            maybe: Vec::new(),
            departures: BTreeMap::new(),
            reported: Vec::new(),
            is_dark: false,
            received: BTreeMap::new(),
            stored: BTreeSet::new(),
            observed,
            published: 0,
            requests: 0,
            waited: 0,
        }
    }

    /// Lets a history happen, and everything come to rest after it.
    fn run(steps: &[Step]) -> Check {
        let mut model = Self::new();
        for step in steps {
            model.step(step)?;
            model.harness.report_send_queues();
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
            Step::Leave(who) => self.depart(who, |harness, conn| harness.disconnect(conn))?,
            Step::Cut(who, count) => self.depart(who, |harness, conn| harness.cut(conn, count))?,
            Step::Mode(who, mode) => {
                if self.peers[who].conn.is_some() {
                    self.peers[who].mode = mode;
                    let user = Self::user(who);
                    self.send_request(who, json!({"action": "auth", "token": user, "inbox": mode}));
                }
            }
            Step::Subscribe(who, channel) => {
                let position = self.peers[who].positions.get(&channel).cloned();
                let is_known = |epoch: &Value| self.logs[CHANNELS[channel]].epoch.as_ref() == Some(epoch);
                let asked = position.as_ref().map(|(epoch, seq)| match is_known(epoch) {
                    true => Since::Seq(*seq),
                    false => Since::Stale,
                });
                let since = position.map(|(epoch, seq)| json!({"epoch": epoch, "seq": seq}));
                self.subscribe(who, channel, since, asked);
            }
            Step::SubscribeFromTheStart(who, channel) => {
                self.subscribe(who, channel, Some(json!({"epoch": "", "seq": 0})), Some(Since::Seq(0)));
            }
            Step::Unsubscribe(who, channel) => {
                self.send_request(
                    who,
                    json!({"action": "unsubscribe", "channel": CHANNELS[channel], "id": 0}),
                );
            }
            Step::Publish { by, channel, ttl, quiet, durable } => {
                self.publish(by, channel, ttl, quiet, durable);
            }
            Step::Send { by, user, ttl, receipt, durable } => {
                self.send(by, USERS[user], ttl, receipt, durable);
            }
            Step::Repeat(who) => self.repeat(who)?,
            Step::Whisper(who, channel) => {
                self.send_request(
                    who,
                    json!({"action": "whisper", "channel": CHANNELS[channel], "event": "w"}),
                );
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
            Step::Slow(who) => self.on_link(who, Harness::slow),
            Step::Carry(who, count) => self.on_link(who, |harness, conn| harness.carry(conn, count)),
            Step::Fast(who) => self.on_link(who, Harness::fast),
            Step::SlowStore => self.harness.slow_store = true,
            Step::StoreAnswers => self.store_answers(),
            Step::QuickStore => {
                self.harness.slow_store = false;
                self.store_answers();
            }
            Step::Wait(seconds) => {
                let seconds = seconds.min(MOST_WAITED - self.waited);
                self.waited += seconds;
                for _ in 0..seconds {
                    self.second()?;
                }
            }
            Step::HandOver => {
                self.harness.hand_over();
                // What the store was asked is lost with the process that asked.
                self.maybe.append(&mut self.asked);
            }
            Step::Write => self.harness.disk_writes_behind(),
            Step::SlowDisk => self.harness.disk.slow = true,
            Step::QuickDisk => {
                self.harness.disk.slow = false;
                self.harness.disk_writes();
            }
            Step::DiskFails if !self.is_dark => {
                self.is_dark = true;
                self.harness.disk_fails();
            }
            Step::DiskWorks if self.is_dark => {
                self.is_dark = false;
                self.harness.disk_works();
            }
            Step::DiskFails | Step::DiskWorks => {}
            Step::Restart => self.end_hub(End::Clean)?,
            Step::Kill => self.end_hub(End::Killed)?,
            Step::Crash => self.end_hub(End::Power)?,
            _ => {
                let asked = operations::request(step, &mut self.requests);
                if let Some((who, request)) = asked.filter(|(who, _)| self.peers[*who].conn.is_some()) {
                    if let Step::Interrupt(..) = step {
                        self.peers[who].interrupts.insert(self.requests);
                    }
                    self.send_request(who, request);
                }
            }
        }
        Ok(())
    }

    fn store_answers(&mut self) {
        self.harness.store_answers();
        self.notices.append(&mut self.asked);
    }

    fn send_request(&mut self, who: usize, request: Value) {
        if let Some(conn) = self.peers[who].conn {
            self.harness.send_unread(conn, &request);
        }
    }

    fn on_link(&mut self, who: usize, what: impl FnOnce(&mut Harness, ConnectionId)) {
        if let Some(conn) = self.peers[who].conn {
            what(&mut self.harness, conn);
        }
    }

    fn subscribe(&mut self, who: usize, channel: usize, since: Option<Value>, asked: Option<Since>) {
        if self.peers[who].conn.is_some() {
            self.peers[who].asked.push((channel, asked));
        }
        let request = json!({"action": "subscribe", "channel": CHANNELS[channel], "since": since, "id": 0});
        self.send_request(who, request);
    }

    fn now(&self) -> Moment {
        self.harness.now.moment
    }
}
