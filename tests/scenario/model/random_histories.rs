//! Random histories: tried, shrunk and printed.

use std::cell::Cell;
use std::fmt::Write;
use std::sync::Once;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};
use serde_json::{Value, json};
use wshubd::protocol::InboxMode;

use super::reference::{Check, Keeps, Line};
use super::step::{CHANNELS, Step, USERS, step};
use super::{Model, inbox_of};

impl Model {
    /// What the hub counts is what there is.
    pub(super) fn count(&mut self) -> Check {
        let stats = self.harness.stats();
        let (devices, workers) = self.peers.split_at(super::DEVICES);
        let here = |peers: &[super::Peer]| peers.iter().filter(|peer| peer.conn.is_some()).count();
        let channels = self.logs.iter().filter(|(name, _)| !name.starts_with('@'));
        let sessions: usize = channels.map(|(_, log)| log.sessions.len()).sum();
        let wanted = [
            // The listener and the observer are there all the time.
            ("workers", here(workers) + 1),
            ("total_connections", here(devices) + 1),
            ("subscriptions", sessions + 2),
            ("operations", self.observed.running.len()),
            ("kept_messages", self.harness.stored()),
        ];
        for (name, wanted) in wanted {
            if stats[name] != wanted {
                return Err(format!("{name} is {}, and {wanted} is true", stats[name]));
            }
        }
        Ok(())
    }

    /// Everybody takes everything; then nobody is owed anything, and what is
    /// left is what nobody has.
    pub(super) fn settle(&mut self) -> Check {
        self.step_beside(&Step::DiskWorks)?;
        self.step_beside(&Step::QuickDisk)?;
        self.step_beside(&Step::QuickStore)?;
        for who in 0..self.peers.len() {
            self.step_beside(&Step::Fast(who))?;
            self.harness.report_send_queues();
            self.listen()?;
        }
        for log in self.logs.values() {
            log.settled()?;
        }
        for _ in 0..16 {
            self.second()?;
        }
        if let Some(peer) = self.peers.iter().find(|peer| !peer.interrupts.is_empty()) {
            return Err(format!("interrupts {:?} have no final answer", peer.interrupts));
        }
        self.reported.retain(|notice| {
            let place = self.maybe.iter().position(|maybe| maybe == notice);
            place.map(|place| self.maybe.remove(place)).is_none()
        });
        self.notices.sort();
        self.reported.sort();
        if self.notices != self.reported {
            return Err(format!(
                "system:undelivered told {:?}, and true is {:?}",
                self.reported, self.notices
            ));
        }
        self.look()
    }

    /// A new connection finds what is left.
    fn look(&mut self) -> Check {
        for user in USERS {
            let probe = self.harness.client_in(user, InboxMode::Ack);
            self.found(probe, &inbox_of(user))?;
        }
        for channel in CHANNELS.iter().filter(|channel| **channel != "history") {
            let probe = self.harness.client("probe");
            self.harness.send_unread(probe, &json!({"action": "subscribe", "channel": channel}));
            self.found(probe, channel)?;
        }
        Ok(())
    }

    fn found(&mut self, probe: super::ConnectionId, name: &str) -> Check {
        let wanted = self.log(name).kept();
        let is_message = |frame: &Value| frame["type"] == "message";
        let received = self.harness.frames(probe).into_iter().filter(is_message);
        let found: Vec<u64> = received.filter_map(|frame| frame["seq"].as_u64()).collect();
        self.harness.disconnect(probe);
        let log = self.log(name);
        if found == wanted {
            return Ok(());
        }
        if log.was_unread {
            // More may come again; what nobody ever received has to be there.
            let is_owed = |line: &&Line| line.gone.is_none() && !line.is_had && !found.contains(&line.seq);
            let lost = log.lines.iter().find(|line| log.keeps == Keeps::Unacknowledged && is_owed(line));
            return lost.map_or(Ok(()), |line| Err(format!("{name} {} was never heard", line.seq)));
        }
        Err(format!("{name}: a newcomer finds {found:?}, and {wanted:?} should wait"))
    }

    /// When all have left and time has passed, nothing remains.
    pub(super) fn end(mut self) -> Check {
        for peer in &mut self.peers {
            if let Some(conn) = peer.conn.take() {
                self.harness.disconnect(conn);
            }
        }
        self.observed.listen(&mut self.harness)?;
        if !self.observed.running.is_empty() {
            return Err(format!("never ended: {:?}", self.observed.running));
        }
        self.harness.disconnect(self.observed.observer);
        self.harness.disconnect(self.listener);
        self.harness.wait(200_000.0);
        if self.harness.hub.deadline().is_some() || self.harness.stored() > 0 {
            return Err(format!("{} messages are left for ever", self.harness.stored()));
        }
        let state = serde_json::to_value(&self.harness.hub).unwrap();
        // What reaches nobody is reported to workers that are away as well: that
        // channel stays.
        let channels = state["channels"].as_object().into_iter().flatten();
        let own = json!({"Channel": "system:undelivered"});
        let others = channels.filter(|(_, topic)| topic["key"] != own || !topic["log"].is_null()).count();
        let is_left = |table: &str| state[table] != json!([]);
        if others > 0 || is_left("connections") || is_left("dedup") {
            return Err(format!("not forgotten: {state}"));
        }
        Ok(())
    }
}

thread_local! {
    /// While histories are tried, a failure is reported by its history alone.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Lets a test try out what may panic many thousand times in silence.
fn quietly<T>(what: impl FnOnce() -> T) -> T {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_QUIET.get() {
                loud(panic);
            }
        }));
    });
    IS_QUIET.set(true);
    let result = what();
    IS_QUIET.set(false);
    result
}

/// Which histories are tried out.
enum Chance {
    /// The same ones each time.
    Same,
    /// Others each time.
    New,
}

/// Tries so many histories, and prints the shortest that fails.
fn try_out(cases: u32, chance: Chance) {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    let histories = prop::collection::vec(step(), 1..120);
    let mut runner = match chance {
        Chance::Same => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
        Chance::New => TestRunner::new(config),
    };
    let tried = quietly(|| runner.run(&histories, |steps| Model::run(&steps).map_err(TestCaseError::fail)));
    if let Err(TestError::Fail(why, mut steps)) = tried {
        let why = quietly(|| shorten(&mut steps)).unwrap_or_else(|| why.message().to_owned());
        panic!("{}", report(&steps, &why));
    }
    assert!(tried.is_ok(), "{tried:?}");
}

/// What goes wrong in a history, if anything does.
fn wrong(steps: &[Step]) -> Option<String> {
    match std::panic::catch_unwind(|| Model::run(steps)) {
        Ok(check) => check.err(),
        Err(panic) => Some(match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => panic.downcast_ref::<&str>().copied().unwrap_or("a panic").to_owned(),
        }),
    }
}

/// Leaves out every step without which it goes wrong too: where steps have
/// become simpler, others are of no use any more.
fn shorten(steps: &mut Vec<Step>) -> Option<String> {
    let mut why = None;
    loop {
        let before = steps.len();
        for place in (0..steps.len()).rev() {
            let mut shorter = steps.clone();
            shorter.remove(place);
            if let Some(reason) = wrong(&shorter) {
                (*steps, why) = (shorter, Some(reason));
            }
        }
        if steps.len() == before {
            return why;
        }
    }
}

fn report(steps: &[Step], why: &str) -> String {
    let mut text = String::from("\n");
    for step in steps {
        writeln!(text, "  {step}").unwrap();
    }
    writeln!(text, "and then\n  {why}").unwrap();
    text
}

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_history_matches_the_reference_model() {
    let seconds = number_from_env("MODEL_SECONDS");
    let cases = number_from_env("PROPTEST_CASES").map(|cases| u32::try_from(cases).unwrap());
    if seconds.is_none() && cases.is_none() {
        return try_out(60, Chance::Same);
    }
    #[expect(clippy::disallowed_methods, reason = "how long to try is no part of a story")]
    let now = Instant::now;
    let (start, time) = (now(), Duration::from_secs(seconds.unwrap_or(0)));
    loop {
        try_out(cases.unwrap_or(200), Chance::New);
        if now() - start >= time {
            break;
        }
    }
}

/// Few random histories kill a hub between the delivery and the write.
#[test]
fn a_position_received_before_a_kill_is_never_reused() {
    let publish = || Step::Publish { by: 6, channel: 0, ttl: None, quiet: false, durable: false };
    let arrive = || [Step::Come(0, InboxMode::Auto), Step::Subscribe(0, 0)];
    let mut steps = vec![Step::Come(6, InboxMode::Auto)];
    for end in [Step::Kill, Step::HandOver, Step::Kill, Step::Restart, Step::Kill, Step::Crash] {
        steps.extend(arrive());
        steps.extend([publish(), publish(), end.clone(), Step::Come(6, InboxMode::Auto)]);
        steps.extend(arrive());
        steps.push(publish());
        if matches!(end, Step::HandOver) {
            steps.push(Step::Kill);
        }
    }
    if let Some(why) = wrong(&steps) {
        panic!("{}", report(&steps, &why));
    }
}
