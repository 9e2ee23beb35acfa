//! Escalation that ends a command: SIGINT, SIGTERM, SIGKILL, with waits between.

use std::time::Duration;

use rustix::process::Signal;
use smol::{Timer, future};
use wshubd::edge::clock;
use wshubd::protocol::Moment;

use super::process_tree::{ProcessTree, SigintTiming, SignalScope, last_pid};

/// Attempts to find an instant in which no shell ignores SIGINT: a shell is between
/// two commands for less than a millisecond, unless the machine is busy, and a program
/// that only looks like one is kept waiting for 0.15 s.
const TIMING_ATTEMPTS: u32 = 32;
/// The interval between two attempts; every fourth is longer by as much.
const TIMING_INTERVAL: Duration = Duration::from_millis(1);

/// Processes that missed SIGINT get it again so often and at these intervals: a shell on
/// a busy machine takes some milliseconds from fork to exec, and the person who pressed
/// Stop sees no delay yet.
const REPEATS: u32 = 5;
const REPEAT: Duration = Duration::from_millis(20);

/// The interval of all later looks at the processes: a daemon goes into a session of its own
/// some milliseconds after its parent has exited, and on a machine that is very busy a shell
/// takes longer than that from fork to exec.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// After SIGKILL: processes may be born while the others are killed.
const KILL_AGAIN: Duration = Duration::from_millis(10);

/// After which many of these a process that still lives cannot be killed: it waits in
/// the kernel, for a disk or a network that does not answer, or belongs to
/// another user.
const KILLS: u32 = 500;

/// How long the last step may take, for the grace that the hub is asked for.
pub(super) const LAST_STEP: Duration = Duration::from_millis(10 * 500);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EscalationStep {
    Running,
    /// The command has exited by itself; the processes that it left may finish.
    Finishing,
    /// An instant for SIGINT is looked for; attempts so far.
    Timing(u32),
    /// SIGINT, and so many repeats.
    Interrupted(u32),
    /// SIGTERM.
    Terminated,
    /// SIGKILL, so many times.
    Killed(u32),
    /// A process cannot be killed.
    GivenUp,
}

pub(super) struct Escalation {
    step: EscalationStep,
    scope: SignalScope,
    term_after: Duration,
    kill_after: Duration,
    due: Option<Timer>,
    /// The end of the time that the present step has.
    until: Option<Moment>,
    /// The last process id that was given out before SIGINT.
    last_pid: i32,
}

impl Escalation {
    pub(super) fn new(term_after: Duration, kill_after: Duration) -> Self {
        Self {
            step: EscalationStep::Running,
            scope: SignalScope::Session,
            term_after,
            kill_after,
            due: None,
            until: None,
            last_pid: 0,
        }
    }

    /// Whether a stop was requested.
    pub(super) fn is_requested(&self) -> bool {
        self.scope == SignalScope::Everything
    }

    /// Whether nothing is left to signal or to wait for.
    pub(super) fn is_over(&self, processes: &ProcessTree) -> bool {
        self.step == EscalationStep::GivenUp || processes.is_gone(self.scope)
    }

    /// Begins. Requesting it again changes nothing.
    pub(super) fn request(&mut self, processes: &ProcessTree) {
        self.scope = SignalScope::Everything;
        match self.step {
            EscalationStep::Running => self.time_sigint(0, processes),
            EscalationStep::Finishing => self.enter(EscalationStep::Terminated, processes),
            _ => {}
        }
    }

    /// As [`Escalation::request`]; requesting it again does not wait for the next step.
    pub(super) fn insist(&mut self, processes: &ProcessTree) {
        if self.is_requested() { self.advance(processes) } else { self.request(processes) }
    }

    /// The command itself has exited. If that was requested, the processes that are left have
    /// lost their parent, which would have waited for them: background jobs of a shell
    /// ignore SIGINT.
    pub(super) fn on_leader_exit(&mut self, processes: &ProcessTree) {
        match self.step {
            EscalationStep::Running => self.enter(EscalationStep::Finishing, processes),
            EscalationStep::Timing(_) | EscalationStep::Interrupted(_) => {
                self.enter(EscalationStep::Terminated, processes)
            }
            _ => {}
        }
    }

    /// Sends SIGINT to all while they are frozen, unless a shell would ignore it
    /// just now: then they run on for a while first.
    fn time_sigint(&mut self, attempts: u32, processes: &ProcessTree) {
        if processes.freeze() == SigintTiming::Ignored && attempts < TIMING_ATTEMPTS {
            processes.resume();
            self.step = EscalationStep::Timing(attempts);
            self.due = Some(Timer::after(TIMING_INTERVAL * (1 + attempts / 4)));
            return;
        }
        // No process is born while all are frozen: those that are born later tidy up.
        self.last_pid = last_pid();
        self.enter(EscalationStep::Interrupted(0), processes);
    }

    /// Waits until the next step is due.
    pub(super) async fn due(&mut self) {
        match &mut self.due {
            Some(due) => drop(due.await),
            None => future::pending().await,
        }
    }

    /// The wait of [`Escalation::due`] is over.
    pub(super) fn on_due(&mut self, processes: &ProcessTree) {
        match self.step {
            EscalationStep::Timing(attempts) => self.time_sigint(attempts + 1, processes),
            EscalationStep::Interrupted(repeats) if !self.has_step_expired() => {
                processes.repeat_missed(self.last_pid, Signal::INT);
                self.step = EscalationStep::Interrupted(repeats.saturating_add(1));
                self.look_again(if repeats < REPEATS { REPEAT } else { LOOK_AGAIN });
            }
            // There is no signal when the last process has gone into a session of its own.
            EscalationStep::Finishing if !self.has_step_expired() => self.look_again(LOOK_AGAIN),
            _ => self.advance(processes),
        }
    }

    fn has_step_expired(&self) -> bool {
        self.until.is_none_or(|until| clock::now().moment >= until)
    }

    /// Schedules another look at the processes, within the time of the present step.
    fn look_again(&mut self, pause: Duration) {
        let left = self.until.map(|until| until.since(clock::now().moment)).unwrap_or_default();
        self.due = Some(Timer::after(left.min(pause)));
    }

    fn advance(&mut self, processes: &ProcessTree) {
        let step = match self.step {
            EscalationStep::Running | EscalationStep::Timing(_) => {
                return self.time_sigint(TIMING_ATTEMPTS, processes);
            }
            EscalationStep::Finishing | EscalationStep::Interrupted(_) => EscalationStep::Terminated,
            EscalationStep::Terminated => EscalationStep::Killed(1),
            EscalationStep::Killed(KILLS..) | EscalationStep::GivenUp => EscalationStep::GivenUp,
            EscalationStep::Killed(times) => EscalationStep::Killed(times + 1),
        };
        self.enter(step, processes);
    }

    fn enter(&mut self, step: EscalationStep, processes: &ProcessTree) {
        self.step = step;
        self.due = None;
        let now = clock::now().moment;
        match step {
            EscalationStep::Running | EscalationStep::Timing(_) | EscalationStep::GivenUp => {}
            EscalationStep::Finishing => {
                self.until = Some(now + self.term_after);
                self.look_again(LOOK_AGAIN);
            }
            EscalationStep::Interrupted(_) => {
                processes.signal(self.scope, Signal::INT);
                self.until = Some(now + self.term_after.saturating_add(REPEAT * REPEATS));
                self.look_again(REPEAT);
            }
            EscalationStep::Terminated => {
                processes.signal(self.scope, Signal::TERM);
                self.due = Some(Timer::after(self.kill_after));
            }
            EscalationStep::Killed(_) => {
                processes.signal(self.scope, Signal::KILL);
                self.due = Some(Timer::after(KILL_AGAIN));
            }
        }
    }
}
