//! Failures of the disk: why it cannot be used, and when it is tried again.
//!
//! The disk is tried again for as long as the daemon runs, at growing intervals. Only when the
//! daemon stops is the number of attempts limited.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::child::StartError;
use super::scheduler::ChildTask;
use crate::protocol::Moment;

/// The longest pause between two attempts on a disk that fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// So often is the disk tried before the daemon starts without it: once more than
/// it takes until all that is damaged is out of the way.
const ATTEMPTS: u32 = 5;

/// A page is read so often before the answer is that it cannot be read: one process may die
/// by chance, and what is damaged is out of the way after three.
const READINGS: u32 = 4;

/// What fails again within this time has not recovered: a disk that takes what is
/// written and cannot be read would else fail once a second for ever, at the cost
/// of a commit each time.
const CALM: Duration = Duration::from_secs(120);

/// At the end there is no later: it is tried so often.
const LAST_ATTEMPTS: u32 = 3;

/// What can still be done with a disk that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DiskAccess {
    None,
    ReadOnly,
}

/// What the daemon was doing when the disk failed: it may stop before all is recovered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FailurePhase {
    /// What is on the disk is not known yet.
    pub(super) is_recovering: bool,
    /// The daemon stops.
    pub(super) is_finishing: bool,
}

/// What follows from the failure of a task.
pub(super) enum FailureConsequence {
    /// A write-ahead log stays as it is.
    NoCheckpoint,
    /// Another process reads it again, and may do better.
    ReadAgain,
    /// The disk can be used so far only.
    Degraded(DiskAccess),
}

/// Why the disk cannot be used.
#[derive(Debug)]
struct DiskFailure {
    why: String,
    access: DiskAccess,
    /// The hub knows.
    is_reported: bool,
    /// When it is tried again.
    retry_at: Moment,
}

/// The failure of the disk, if there is one, and when the disk is tried again.
#[derive(Debug)]
pub(super) struct Failures {
    current: Option<DiskFailure>,
    /// How often it failed lately, and since when it works again.
    attempts: u32,
    works_since: Option<Moment>,
    /// How often in a row reading has failed.
    reads: u32,
    /// How often it may fail at the end until it is given up.
    last_attempts: u32,
}

impl Failures {
    pub(super) fn new() -> Self {
        Self { current: None, attempts: 0, works_since: None, reads: 0, last_attempts: LAST_ATTEMPTS }
    }

    /// Why the disk cannot be used, if that is so.
    pub(super) fn why(&self) -> Option<&str> {
        self.current.as_ref().map(|failure| failure.why.as_str())
    }

    pub(super) fn is_failing(&self) -> bool {
        self.current.is_some()
    }

    /// Whether the disk cannot be used, and the hub knows.
    pub(super) fn is_reported(&self) -> bool {
        self.current.as_ref().is_some_and(|failure| failure.is_reported)
    }

    /// Whether nothing can be read either.
    pub(super) fn is_unreadable(&self) -> bool {
        self.current.as_ref().is_some_and(|failure| failure.access == DiskAccess::None)
    }

    /// When the disk is tried again, if it fails.
    pub(super) fn retry_at(&self) -> Option<Moment> {
        self.current.as_ref().map(|failure| failure.retry_at)
    }

    /// Tries the disk again at a time, if it fails.
    pub(super) fn retry_from(&mut self, time: Moment) {
        if let Some(failure) = &mut self.current {
            failure.retry_at = time;
        }
    }

    /// Logs that no process is started where too many hang, if the hub knows of another reason.
    pub(super) fn log_refused_start(&self, error: &StartError) {
        let is_news = || self.is_reported() && self.why() != Some(&error.to_string());
        if error.is_refusal() && is_news() {
            log::error!("{error}; no other is started until one of them has ended");
        }
    }

    /// The disk cannot be used, for now. Whether the hub has to be notified: in the recovery
    /// that is so after some attempts only, for what is damaged is set aside after some.
    pub(super) fn record(
        &mut self,
        now: Moment,
        why: String,
        access: DiskAccess,
        phase: FailurePhase,
    ) -> bool {
        let before = self.current.take();
        let is_known = before.as_ref().is_some_and(|failure| failure.why == why);
        let was_reported = before.is_some_and(|failure| failure.is_reported);
        let is_tried_again = phase.is_recovering && self.attempts < ATTEMPTS;
        let is_due = !was_reported && !is_tried_again;
        if is_due {
            log::error!("messages are kept in memory only: {why}");
            if phase.is_recovering {
                // Connections waited for the first attempts; from now on none does.
                self.attempts = 0;
            }
        } else if !was_reported && !is_known {
            log::warn!("{why}; trying again");
        }
        let is_reported = was_reported || is_due;
        // The start of the daemon waits for the first attempts.
        let first = if is_reported { Duration::from_secs(1) } else { Duration::from_millis(100) };
        let retry_at = now + self.pause(now, first, phase);
        self.current = Some(DiskFailure { why, access, is_reported, retry_at });
        is_due
    }

    /// How long to wait before another attempt, after one more that failed.
    fn pause(&mut self, now: Moment, first: Duration, phase: FailurePhase) -> Duration {
        let is_calm = self.works_since.take().is_some_and(|since| since + CALM <= now);
        let exponent = if is_calm { 0 } else { self.attempts.min(5) };
        self.attempts = exponent + 1;
        if phase.is_finishing {
            self.last_attempts = self.last_attempts.saturating_sub(1);
            return Duration::from_millis(300);
        }
        LONGEST_PAUSE.min(first * (1 << exponent))
    }

    /// The daemon starts without the disk: the next failure is reported.
    pub(super) fn skip_attempts(&mut self) {
        self.attempts = ATTEMPTS;
    }

    /// A task has failed, or a process could not be started for it. `is_for_reads` is whether a
    /// process is started in order to read.
    pub(super) fn consequence(&mut self, task: Option<&ChildTask>, is_for_reads: bool) -> FailureConsequence {
        let is_reading = match task {
            Some(ChildTask::WalCheckpoint(_)) => return FailureConsequence::NoCheckpoint,
            Some(ChildTask::Start) => is_for_reads,
            task => task.is_some_and(ChildTask::is_reading),
        };
        if is_reading && self.retry_read() {
            return FailureConsequence::ReadAgain;
        }
        let is_writing = task.is_some_and(ChildTask::is_writing);
        FailureConsequence::Degraded(if is_writing { DiskAccess::ReadOnly } else { DiskAccess::None })
    }

    /// A page could not be read. Whether it is tried again.
    fn retry_read(&mut self) -> bool {
        let may_retry = self.reads < READINGS - 1;
        if may_retry {
            self.reads += 1;
        }
        may_retry
    }

    /// Reading takes too long: it is not tried again.
    pub(super) fn give_up_reading(&mut self) {
        self.reads = u32::MAX;
    }

    /// Something was read.
    pub(super) fn read_succeeded(&mut self) {
        self.reads = 0;
    }

    /// The disk can be used again. Whether the hub has to be notified.
    pub(super) fn recover(&mut self, now: Moment) -> bool {
        if self.current.is_some() {
            self.works_since = Some(now);
        }
        self.current.take().is_some_and(|failure| failure.is_reported)
    }

    /// Whether the disk was tried often enough at the end.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_failing() && self.last_attempts == 0
    }
}

/// How the disk does, for a process that takes over: a failure only where the hub knows.
#[derive(Serialize, Deserialize)]
pub(super) struct FailuresSnapshot {
    current: Option<FailureSnapshot>,
    attempts: u32,
    works_since: Option<Moment>,
}

#[derive(Serialize, Deserialize)]
struct FailureSnapshot {
    why: String,
    is_unreadable: bool,
    retry_at: Moment,
}

impl Failures {
    pub(super) fn snapshot(&self) -> FailuresSnapshot {
        let current = self.current.as_ref().filter(|failure| failure.is_reported);
        let current = current.map(|failure| FailureSnapshot {
            why: failure.why.clone(),
            is_unreadable: failure.access == DiskAccess::None,
            retry_at: failure.retry_at,
        });
        FailuresSnapshot { current, attempts: self.attempts, works_since: self.works_since }
    }

    /// Those of another process.
    pub(super) fn resume(snapshot: FailuresSnapshot) -> Self {
        let FailuresSnapshot { current, attempts, works_since } = snapshot;
        let current = current.map(|FailureSnapshot { why, is_unreadable, retry_at }| {
            let access = if is_unreadable { DiskAccess::None } else { DiskAccess::ReadOnly };
            DiskFailure { why, access, is_reported: true, retry_at }
        });
        Self { current, attempts, works_since, ..Self::new() }
    }
}
