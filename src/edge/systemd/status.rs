//! Status for systemd: the line of `systemctl status`, and the watchdog.
//!
//! The daemon is not woken for this while nothing happens: a line waits for its turn only
//! while it differs from what was sent. The watchdog is the one exception.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::Notify;
use crate::edge::driver::{DriverStatus, StatusCounts};
use crate::edge::store::StoreState;
use crate::edge::store::write_budget::BudgetLevel;
use crate::protocol::Moment;

/// A person reads no faster, and systemd has others to listen to.
const PAUSE: Duration = Duration::from_secs(1);

/// How much longer starting or stopping may take from the last notification. One
/// comes in each [`PAUSE`]; a machine under load may miss some.
const LONGER: Duration = Duration::from_secs(10);

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
            StoreState::Working(BudgetLevel::Ample) => ", store ok",
            StoreState::Working(BudgetLevel::Low) => ", store ok (half of today's flash budget is spent)",
            StoreState::Working(BudgetLevel::Spent) => {
                ", store ok (today's flash budget is spent: durable messages only)"
            }
            StoreState::Failing => ", store failing",
        })
    }
}

/// The notifier as the loop and its tasks share it; without systemd nothing is sent.
#[derive(Clone, Default, Debug)]
pub struct StatusReporter(Option<Rc<RefCell<StatusNotifier>>>);

impl StatusReporter {
    /// Notifies systemd, where there is one.
    pub fn new(notify: Option<Notify>) -> Self {
        Self(notify.map(|notify| Rc::new(RefCell::new(StatusNotifier::new(notify)))))
    }

    /// Connections are accepted from now on.
    pub fn ready(&self, status: DriverStatus<'_>) {
        if let Some(notifier) = &self.0 {
            notifier.borrow_mut().ready(status);
        }
    }

    /// The daemon is going to end; its peers may take `time` to read what they are owed.
    pub fn stopping(&self, now: Moment, time: Duration) {
        if let Some(notifier) = &self.0 {
            notifier.borrow_mut().stopping(now, time);
        }
    }

    /// The daemon is going to end, and its connections go to the next process.
    pub fn restarting(&self) {
        if let Some(notifier) = &self.0 {
            notifier.borrow_mut().restarting();
        }
    }

    /// Starting or stopping is under way and takes as long as the disk does.
    pub fn takes_longer(&self, now: Moment, why: &str) {
        if let Some(notifier) = &self.0 {
            notifier.borrow_mut().takes_longer(now, why);
        }
    }

    /// A turn of the loop has ended: sends what is due, and returns when there will be more.
    pub fn tick<'a>(&self, status: impl FnOnce() -> DriverStatus<'a>) -> Option<Moment> {
        self.0.as_ref()?.borrow_mut().tick(status())
    }
}

/// What was sent, and when.
#[derive(Debug)]
struct StatusNotifier {
    notify: Notify,
    counts: Option<StatusCounts>,
    line: String,
    sent_at: Moment,
    /// When more time was requested last.
    extended_at: Option<Moment>,
    /// When the watchdog is fed next.
    alive_at: Option<Moment>,
}

impl StatusNotifier {
    /// One that has sent nothing yet.
    fn new(notify: Notify) -> Self {
        Self {
            notify,
            counts: None,
            line: String::new(),
            sent_at: Moment(0),
            extended_at: None,
            alive_at: None,
        }
    }

    fn takes_longer(&mut self, now: Moment, why: &str) {
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

    fn ready(&mut self, status: DriverStatus<'_>) {
        self.set(status);
        self.notify.ready(&self.line);
        self.alive_at = self.pulse().map(|pulse| status.now + pulse);
    }

    fn stopping(&mut self, now: Moment, time: Duration) {
        // No count is sent after this.
        (self.counts, self.line) = (None, "saying goodbye".to_owned());
        self.notify.stopping(&self.line);
        self.notify.extend(time + LONGER);
        self.extended_at = Some(now);
    }

    fn restarting(&mut self) {
        (self.counts, self.line) = (None, "handing over to the next process".to_owned());
        self.notify.stopping(&self.line);
    }

    fn tick(&mut self, status: DriverStatus<'_>) -> Option<Moment> {
        [self.report(status), self.feed_watchdog(status)].into_iter().flatten().min()
    }

    fn report(&mut self, status: DriverStatus<'_>) -> Option<Moment> {
        let sent = self.counts?;
        let is_changed = sent != status.counts;
        // Why the store fails may change while it fails.
        if !is_changed && status.store_error.is_none() {
            return None;
        }
        let due = self.sent_at + PAUSE;
        if status.now < due {
            return is_changed.then_some(due);
        }
        let before = std::mem::take(&mut self.line);
        self.set(status);
        if self.line != before {
            self.notify.status(&self.line);
        }
        None
    }

    fn set(&mut self, status: DriverStatus<'_>) {
        let DriverStatus { now, counts, store_error, .. } = status;
        self.line = match store_error {
            Some(why) => format!("degraded: messages are kept in memory only: {why}; {counts}"),
            None => counts.to_string(),
        };
        // A line feed would begin another message to systemd.
        self.line = self.line.replace(char::is_control, " ");
        (self.counts, self.sent_at) = (Some(counts), now);
    }

    /// How often the watchdog is fed: twice in the time after which it kills, as
    /// sd_watchdog_enabled(3) advises.
    fn pulse(&self) -> Option<Duration> {
        self.notify.watchdog().map(|time| time / 2)
    }

    /// A process that is stuck is to be killed.
    fn feed_watchdog(&mut self, status: DriverStatus<'_>) -> Option<Moment> {
        let due = self.alive_at?;
        if status.now < due {
            return Some(due);
        }
        if !status.is_stuck {
            self.notify.alive();
        }
        self.alive_at = self.pulse().map(|pulse| status.now + pulse);
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
        store: StoreState::Working(BudgetLevel::Ample),
    };

    const DISK_FAILS: StatusCounts = StatusCounts { store: StoreState::Failing, ..QUIET };

    fn at(millis: u64, counts: StatusCounts) -> DriverStatus<'static> {
        DriverStatus { now: Moment(millis), counts, store_error: None, is_stuck: false }
    }

    fn failing(millis: u64, why: &'static str) -> DriverStatus<'static> {
        DriverStatus { store_error: Some(why), ..at(millis, DISK_FAILS) }
    }

    /// Ready since the first second; nothing listens at the other end.
    fn notifier(watchdog: Option<Duration>) -> StatusNotifier {
        let mut notifier = StatusNotifier::new(Notify::with_watchdog(watchdog));
        notifier.ready(at(1000, QUIET));
        notifier
    }

    #[test]
    fn daemon_is_not_woken_while_nothing_changes() {
        let mut notifier = notifier(None);
        assert_eq!(notifier.tick(at(1001, QUIET)), None);
        assert_eq!(notifier.tick(at(90_000, QUIET)), None);
    }

    #[test]
    fn change_within_a_second_is_sent_after_it_and_only_if_it_lasts() {
        let mut notifier = notifier(None);
        let busy = StatusCounts { connections: 1, workers: 2, ..QUIET };
        assert_eq!(notifier.tick(at(1500, busy)), Some(Moment(2000)));
        assert_eq!(notifier.tick(at(1600, QUIET)), None);
        assert_eq!(notifier.tick(at(2000, busy)), None);
        assert_eq!(notifier.line, "1 connection, 2 workers, 0 operations, 0 messages kept, store ok");
        assert_eq!(notifier.tick(at(2999, QUIET)), Some(Moment(3000)));
    }

    #[test]
    fn failing_store_is_shown_with_the_reason_on_one_line() {
        let mut notifier = notifier(None);
        notifier.tick(failing(5000, "no\nspace"));
        let line = "degraded: messages are kept in memory only: no space; ";
        assert_eq!(notifier.line.strip_prefix(line), Some(DISK_FAILS.to_string().as_str()));
        assert_eq!(notifier.tick(failing(7000, "no disk")), None);
        assert!(notifier.line.contains("no disk"), "{}", notifier.line);
    }

    #[test]
    fn watchdog_is_fed_twice_in_its_time() {
        let mut notifier = notifier(Some(Duration::from_secs(6)));
        assert_eq!(notifier.tick(at(1000, QUIET)), Some(Moment(4000)));
        assert_eq!(notifier.tick(at(4000, QUIET)), Some(Moment(7000)));
        let stuck = DriverStatus { is_stuck: true, ..at(8000, QUIET) };
        assert_eq!(notifier.tick(stuck), Some(Moment(11_000)));
    }
}
