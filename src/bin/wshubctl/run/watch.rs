//! Who may end a command, and how its end is told.
//!
//! Knows whom to listen to: the hub, the signals of this process, the deadline.
//! Does not know how a command is stopped.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use async_signal::{Signal, Signals};
use rustix::process::WaitStatus;
use smol::stream::StreamExt;
use smol::{Timer, future};
use wshubd::client::{Error, Interrupt, Operation};
use wshubd::protocol::Ending;

use super::family::Family;
use super::report::{Outcome, Report};
use super::stop::Stop;

/// Who may end it, and whether it has ended.
pub(super) struct Watch {
    pub(super) family: Family,
    pub(super) stop: Stop,
    pub(super) signals: Signals,
    pub(super) report: Report,
    /// Whether anybody can still stop it through the hub.
    pub(super) hub: bool,
    /// Whether the hub is away, for as long as nobody knows.
    pub(super) away: Rc<Cell<bool>>,
    pub(super) linger: Duration,
}

enum Happening {
    Interrupt(Result<Interrupt, Error>),
    Signal(Signal),
    StepDue,
    Deadline,
}

impl Watch {
    /// Waits until nothing of the command is left, and stops it when asked.
    pub(super) async fn until_over(
        &mut self,
        operation: &Operation,
        deadline: Option<Duration>,
    ) -> Option<WaitStatus> {
        // The hub interrupts at the deadline; this is for when it has gone.
        let mut deadline =
            deadline.map(|deadline| Timer::after(deadline.saturating_add(Duration::from_secs(1))));
        let mut leader_runs = true;
        loop {
            self.family.reap();
            if leader_runs && self.family.status().is_some() {
                leader_runs = false;
                self.stop.leader_exited(&self.family);
            }
            if self.stop.is_over(&self.family) {
                self.report.left(self.family.count(), self.stop.was_asked());
                return self.family.status();
            }
            match self.next(operation, &mut deadline).await {
                Happening::Interrupt(Ok(interrupt)) => {
                    self.report.interrupted(&interrupt);
                    self.stop.ask(&self.family);
                }
                Happening::Interrupt(Err(error)) => {
                    self.hub = false;
                    self.report.hub_lost(&error);
                }
                Happening::Signal(Signal::Child) => {}
                Happening::Signal(_) => self.stop.insist(&self.family),
                Happening::StepDue => self.stop.go_on(&self.family),
                Happening::Deadline => {
                    deadline = None;
                    self.stop.ask(&self.family);
                }
            }
        }
    }

    async fn next(&mut self, operation: &Operation, deadline: &mut Option<Timer>) -> Happening {
        let interrupt = async {
            if !self.hub {
                return future::pending().await;
            }
            Happening::Interrupt(operation.interrupted().await)
        };
        let late = async {
            match deadline {
                Some(deadline) => drop(deadline.await),
                None => future::pending().await,
            }
            Happening::Deadline
        };
        let due = async {
            self.stop.due().await;
            Happening::StepDue
        };
        let signal = async { Happening::Signal(next_signal(&mut self.signals).await) };
        future::or(future::or(interrupt, signal), future::or(due, late)).await
    }

    /// Says that it is over, and with it the output before. A hub that does not
    /// hear it within some time, or before somebody presses Ctrl-C, does not keep
    /// the caller waiting.
    pub(super) async fn tell_the_end(&mut self, operation: Operation, ending: Ending, outcome: &Outcome) {
        if self.away.get() && !self.linger.is_zero() {
            self.report.lingers(self.linger);
        }
        let linger = self.linger;
        let told = async { operation.end(ending, outcome).await.err().map(|error| error.to_string()) };
        let late = async {
            Timer::after(linger).await;
            Some("it did not answer in time".to_owned())
        };
        let impatient = async {
            impatient(&mut self.signals).await;
            Some("nobody waited for it".to_owned())
        };
        if let (Some(why), true) = (future::or(told, future::or(late, impatient)).await, self.hub) {
            self.report.end_untold(&why);
        }
    }

    /// Waits until somebody presses Ctrl-C once more.
    pub(super) async fn impatient(&mut self) {
        impatient(&mut self.signals).await;
    }
}

/// Waits until this process is asked to end.
pub(super) async fn impatient(signals: &mut Signals) {
    while next_signal(signals).await == Signal::Child {}
}

async fn next_signal(signals: &mut Signals) -> Signal {
    match signals.next().await {
        Some(Ok(signal)) => signal,
        // The pipe that carries them has broken: nothing more is heard of them.
        _ => future::pending().await,
    }
}
