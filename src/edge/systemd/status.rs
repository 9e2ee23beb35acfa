//! When systemd is told how the daemon goes: the line of `systemctl status`, and
//! that the loop still turns.
//!
//! Knows what was told last, and when there is something else to tell. Does not know
//! how the numbers come about.
//!
//! Nobody is woken for this while nothing happens: a line waits for its turn only
//! while it differs from what was told. The watchdog is the one exception.

use std::fmt;
use std::time::Duration;

use super::Notify;
use crate::edge::store::StoreState;
use crate::edge::store::write_budget::Thrift;
use crate::protocol::Moment;

/// A person reads no faster, and systemd has others to listen to.
const PAUSE: Duration = Duration::from_secs(1);

/// How much longer starting or stopping may take from when it was told last. Telling
/// comes once in [`PAUSE`]; a machine under load may miss some.
const LONGER: Duration = Duration::from_secs(10);

/// What the line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusCounts {
    /// WebSocket connections.
    pub connections: usize,
    pub workers: usize,
    /// Operations that run.
    pub operations: usize,
    /// Messages that are kept.
    pub messages: usize,
    pub store: StoreState,
}

impl fmt::Display for StatusCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |count: usize, one: &str| {
            let ending = if count == 1 { "" } else { "s" };
            format!("{count} {one}{ending}")
        };
        let (connections, workers) =
            (counted(self.connections, "connection"), counted(self.workers, "worker"));
        let operations = counted(self.operations, "operation");
        write!(f, "{connections}, {workers}, {operations}, {} kept", counted(self.messages, "message"))?;
        f.write_str(match self.store {
            StoreState::InMemory => ", store in memory",
            StoreState::Working(Thrift::Free) => ", store ok",
            StoreState::Working(Thrift::Saving) => ", store ok (half of today's flash budget is spent)",
            StoreState::Working(Thrift::Spent) => {
                ", store ok (today's flash budget is spent: durable messages only)"
            }
            StoreState::Failing => ", store failing",
        })
    }
}

/// What was told, and when.
#[derive(Debug)]
pub struct StatusNotifier {
    notify: Notify,
    numbers: Option<StatusCounts>,
    line: String,
    told_at: Moment,
    /// When it was said last that more time is needed.
    extended_at: Option<Moment>,
    /// When systemd hears next that the loop turns.
    alive_at: Option<Moment>,
}

impl StatusNotifier {
    /// One that has told nothing yet.
    pub fn new(notify: Notify) -> Self {
        Self {
            notify,
            numbers: None,
            line: String::new(),
            told_at: Moment(0),
            extended_at: None,
            alive_at: None,
        }
    }

    /// Starting or stopping is under way and takes as long as it does.
    pub fn takes_longer(&mut self, now: Moment, why: &str) {
        if self.extended_at.is_some_and(|last| now.since(last) < PAUSE) {
            return;
        }
        self.extended_at = Some(now);
        self.notify.extend(LONGER);
        if self.notify.watchdog().is_some() {
            self.notify.alive();
        }
        if self.line != why {
            why.clone_into(&mut self.line);
            self.notify.status(why);
        }
    }

    /// Whoever connects is served from now on.
    pub fn ready(&mut self, now: Moment, numbers: StatusCounts, trouble: Option<&str>) {
        self.set(now, numbers, trouble);
        self.notify.ready(&self.line);
        self.alive_at = self.pulse().map(|pulse| now + pulse);
    }

    /// The daemon is going to end, and may take `time` until it saves what is kept.
    pub fn stopping(&mut self, now: Moment, time: Duration) {
        // No number is told after this.
        (self.numbers, self.line) = (None, "saying goodbye".to_owned());
        self.notify.stopping(&self.line);
        self.notify.extend(time + LONGER);
        self.extended_at = Some(now);
    }

    /// The next process of the unit goes on with everything.
    pub fn restarting(&mut self) {
        (self.numbers, self.line) = (None, "handing over to the next process".to_owned());
        self.notify.stopping(&self.line);
    }

    /// A turn of the loop has ended: tells what is to be told, and when there will be
    /// more.
    pub fn turn(
        &mut self,
        now: Moment,
        numbers: StatusCounts,
        trouble: Option<&str>,
        is_stuck: bool,
    ) -> Option<Moment> {
        [self.report(now, numbers, trouble), self.pulsate(now, is_stuck)].into_iter().flatten().min()
    }

    fn report(&mut self, now: Moment, numbers: StatusCounts, trouble: Option<&str>) -> Option<Moment> {
        let told = self.numbers?;
        // Why the store fails may change while it fails.
        if told == numbers && trouble.is_none() {
            return None;
        }
        let due = self.told_at + PAUSE;
        if now < due {
            return (told != numbers).then_some(due);
        }
        let before = std::mem::take(&mut self.line);
        self.set(now, numbers, trouble);
        if self.line != before {
            self.notify.status(&self.line);
        }
        None
    }

    fn set(&mut self, now: Moment, numbers: StatusCounts, trouble: Option<&str>) {
        self.line = match trouble {
            Some(why) => format!("degraded: messages are kept in memory only: {why}; {numbers}"),
            None => numbers.to_string(),
        };
        // A line feed would begin another message to systemd.
        self.line = self.line.replace(char::is_control, " ");
        (self.numbers, self.told_at) = (Some(numbers), now);
    }

    /// How often systemd wants to hear that the loop turns: twice in the time after
    /// which it kills, as sd_watchdog_enabled(3) advises.
    fn pulse(&self) -> Option<Duration> {
        self.notify.watchdog().map(|time| time / 2)
    }

    fn pulsate(&mut self, now: Moment, is_stuck: bool) -> Option<Moment> {
        let due = self.alive_at?;
        if now < due {
            return Some(due);
        }
        if !is_stuck {
            self.notify.alive();
        }
        self.alive_at = self.pulse().map(|pulse| now + pulse);
        self.alive_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: StatusCounts = StatusCounts {
        connections: 0,
        workers: 0,
        operations: 0,
        messages: 0,
        store: StoreState::Working(Thrift::Free),
    };

    /// Ready since the first second; nobody listens.
    fn bulletin(watchdog: Option<Duration>) -> StatusNotifier {
        let mut bulletin = StatusNotifier::new(Notify { watchdog });
        bulletin.ready(Moment(1000), QUIET, None);
        bulletin
    }

    #[test]
    fn nobody_is_woken_while_nothing_changes() {
        let mut bulletin = bulletin(None);
        assert_eq!(bulletin.turn(Moment(1001), QUIET, None, false), None);
        assert_eq!(bulletin.turn(Moment(90_000), QUIET, None, false), None);
    }

    #[test]
    fn a_change_within_a_second_is_told_when_it_is_over_and_only_if_it_lasts() {
        let mut bulletin = bulletin(None);
        let busy = StatusCounts { connections: 1, workers: 2, ..QUIET };
        assert_eq!(bulletin.turn(Moment(1500), busy, None, false), Some(Moment(2000)));
        assert_eq!(bulletin.turn(Moment(1600), QUIET, None, false), None);
        assert_eq!(bulletin.turn(Moment(2000), busy, None, false), None);
        assert_eq!(bulletin.line, "1 connection, 2 workers, 0 operations, 0 messages kept, store ok");
        assert_eq!(bulletin.turn(Moment(2999), QUIET, None, false), Some(Moment(3000)));
    }

    #[test]
    fn a_store_that_fails_is_told_with_the_reason_on_one_line() {
        let mut bulletin = bulletin(None);
        let failing = StatusCounts { store: StoreState::Failing, ..QUIET };
        bulletin.turn(Moment(5000), failing, Some("no\nspace"), false);
        let line = "degraded: messages are kept in memory only: no space; ";
        assert_eq!(bulletin.line.strip_prefix(line), Some(failing.to_string().as_str()));
        assert_eq!(bulletin.turn(Moment(7000), failing, Some("no disk"), false), None);
        assert!(bulletin.line.contains("no disk"), "{}", bulletin.line);
    }

    #[test]
    fn the_watchdog_hears_of_a_turn_twice_in_its_time() {
        let mut bulletin = bulletin(Some(Duration::from_secs(6)));
        assert_eq!(bulletin.turn(Moment(1000), QUIET, None, false), Some(Moment(4000)));
        assert_eq!(bulletin.turn(Moment(4000), QUIET, None, false), Some(Moment(7000)));
        assert_eq!(bulletin.turn(Moment(8000), QUIET, None, true), Some(Moment(11_000)));
    }
}
