//! How a command is stopped: SIGINT, SIGTERM, SIGKILL, and how long between.
//!
//! Knows the steps. Does not know who asked; `run` and the hub do.

use std::time::Duration;

use rustix::process::Signal;
use smol::{Timer, future};
use wshubd::edge::clock;
use wshubd::protocol::Moment;

use super::process_tree::{ProcessTree, SignalScope, last_born};
use super::sigint_timing::{Aim, aim};

/// A moment in which nobody forgives SIGINT is looked for so often: a shell is between
/// two commands for less than a millisecond, unless the machine is busy, and a program
/// that only looks like one is kept waiting for 0.15 s.
const AIMS: u32 = 32;
/// The interval between two looks; every fourth is longer by as much.
const AIM_AGAIN: Duration = Duration::from_millis(1);

/// Who missed SIGINT is looked for so often and at these intervals: a shell on
/// a busy machine takes some milliseconds from fork to exec, and whoever pressed
/// Stop sees no delay yet.
const REMINDERS: u32 = 5;
const REMIND: Duration = Duration::from_millis(20);

/// So often all is looked at later: a daemon goes into a session of its own some
/// milliseconds after its parent has exited, and on a machine that is very busy a shell
/// takes longer than that from fork to exec.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// After SIGKILL: processes may be born while the others are killed.
const AGAIN: Duration = Duration::from_millis(10);

/// After which many of these what is still there cannot be killed: it waits in
/// the kernel, for a disk or a network that does not answer, or belongs to
/// another user.
const ATTEMPTS: u32 = 500;

/// How long the last step may take, for whoever must know when all is over.
pub(super) const LAST_STEP: Duration = Duration::from_millis(10 * 500);

/// What has been done to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Nothing.
    Runs,
    /// It has exited unasked; what it left behind may finish.
    Finishes,
    /// A moment for SIGINT is looked for, for the so many-th time.
    Aims(u32),
    /// SIGINT, and so many reminders.
    Interrupted(u32),
    /// SIGTERM.
    Terminated,
    /// SIGKILL, so many times.
    Killed(u32),
    /// Nothing helps.
    GivenUp,
}

pub(super) struct Stop {
    step: Step,
    reach: SignalScope,
    term_after: Duration,
    kill_after: Duration,
    due: Option<Timer>,
    /// When the present step has had its time.
    until: Option<Moment>,
    /// The process that was born last before SIGINT.
    last_born: i32,
}

impl Stop {
    pub(super) fn new(term_after: Duration, kill_after: Duration) -> Self {
        Self {
            step: Step::Runs,
            reach: SignalScope::Session,
            term_after,
            kill_after,
            due: None,
            until: None,
            last_born: 0,
        }
    }

    /// Whether somebody asked for it.
    pub(super) fn was_asked(&self) -> bool {
        self.reach == SignalScope::Everybody
    }

    /// Whether all is over.
    pub(super) fn is_over(&self, family: &ProcessTree) -> bool {
        self.step == Step::GivenUp || family.is_gone(self.reach)
    }

    /// Somebody wants it to stop. Asking again changes nothing.
    pub(super) fn ask(&mut self, family: &ProcessTree) {
        self.reach = SignalScope::Everybody;
        match self.step {
            Step::Runs => self.aim(0, family),
            Step::Finishes => self.go(Step::Terminated, family),
            _ => {}
        }
    }

    /// As [`Stop::ask`]; asking again does not wait for the next step.
    pub(super) fn insist(&mut self, family: &ProcessTree) {
        if self.was_asked() { self.next(family) } else { self.ask(family) }
    }

    /// The command itself has exited. If that was asked for, what is left has
    /// lost who would have waited for it: background jobs of a shell do not even
    /// hear SIGINT.
    pub(super) fn leader_exited(&mut self, family: &ProcessTree) {
        match self.step {
            Step::Runs => self.go(Step::Finishes, family),
            Step::Aims(_) | Step::Interrupted(_) => self.go(Step::Terminated, family),
            _ => {}
        }
    }

    /// Sends SIGINT to all while they are held, unless somebody would forgive it
    /// just now: then they run on for a while first.
    fn aim(&mut self, times: u32, family: &ProcessTree) {
        if aim(family) == Aim::Missed && times < AIMS {
            family.release();
            self.step = Step::Aims(times);
            self.due = Some(Timer::after(AIM_AGAIN * (1 + times / 4)));
            return;
        }
        // Nobody is born while all are held: who is born later tidies up.
        self.last_born = last_born();
        self.go(Step::Interrupted(0), family);
    }

    /// Waits until the next step is due.
    pub(super) async fn due(&mut self) {
        match &mut self.due {
            Some(due) => drop(due.await),
            None => future::pending().await,
        }
    }

    /// The wait for the next step is over.
    pub(super) fn go_on(&mut self, family: &ProcessTree) {
        match self.step {
            Step::Aims(times) => self.aim(times + 1, family),
            Step::Interrupted(times) if !self.has_had_its_time() => {
                family.remind(self.last_born, Signal::INT);
                self.step = Step::Interrupted(times.saturating_add(1));
                self.look_again(if times < REMINDERS { REMIND } else { LOOK_AGAIN });
            }
            // Nothing tells that the last of it has gone into a session of its own.
            Step::Finishes if !self.has_had_its_time() => self.look_again(LOOK_AGAIN),
            _ => self.next(family),
        }
    }

    fn has_had_its_time(&self) -> bool {
        self.until.is_none_or(|until| clock::now().moment >= until)
    }

    /// Has all looked at again after a while, within the time of the present step.
    fn look_again(&mut self, pause: Duration) {
        let left = self.until.map(|until| until.since(clock::now().moment)).unwrap_or_default();
        self.due = Some(Timer::after(left.min(pause)));
    }

    /// Takes the next step.
    fn next(&mut self, family: &ProcessTree) {
        let step = match self.step {
            Step::Runs | Step::Aims(_) => return self.aim(AIMS, family),
            Step::Finishes | Step::Interrupted(_) => Step::Terminated,
            Step::Terminated => Step::Killed(1),
            Step::Killed(ATTEMPTS..) | Step::GivenUp => Step::GivenUp,
            Step::Killed(times) => Step::Killed(times + 1),
        };
        self.go(step, family);
    }

    fn go(&mut self, step: Step, family: &ProcessTree) {
        let (signal, wait) = match step {
            Step::Runs | Step::Aims(_) | Step::GivenUp => (None, None),
            Step::Finishes => (None, None),
            Step::Interrupted(_) => (Some(Signal::INT), None),
            Step::Terminated => (Some(Signal::TERM), Some(self.kill_after)),
            Step::Killed(_) => (Some(Signal::KILL), Some(AGAIN)),
        };
        self.step = step;
        if let Some(signal) = signal {
            family.signal(self.reach, signal);
        }
        self.due = wait.map(Timer::after);
        let now = clock::now().moment;
        match step {
            Step::Finishes => {
                self.until = Some(now + self.term_after);
                self.look_again(LOOK_AGAIN);
            }
            Step::Interrupted(_) => {
                self.until = Some(now + self.term_after.saturating_add(REMIND * REMINDERS));
                self.look_again(REMIND);
            }
            _ => {}
        }
    }
}
