//! Who may end a command, and how its end is told.
//!
//! Knows whom to listen to: the hub, the signals of this process, the deadline.
//! Does not know how a command is stopped.

use std::rc::Rc;
use std::time::Duration;

use rustix::process::WaitStatus;
use smol::{Timer, future};
use wshubd::client::{Error, Heard, Interrupt, Operation, Pending};
use wshubd::protocol::EndState;

use super::escalation::Stop;
use super::hub_connection::Presence;
use super::messages::Outcome;
use super::output::Output;
use super::process_tree::ProcessTree;
use super::signals::{Event, SignalQueue};

/// How long the end waits for a hub that is away, unless somebody says otherwise.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// The same where no hub was ever there: one that is just starting may still come,
/// but a command of a machine without a hub must not take ten seconds.
const LINGER_UNSEEN: Duration = Duration::from_secs(1);

/// After so long without an answer the wait at the end is told.
const SILENT: Duration = Duration::from_secs(1);

/// For how long an end is told whatever is pressed: a hub that is there takes it
/// within milliseconds.
const FAIR: Duration = Duration::from_millis(500);

/// Who may end it, and whether it has ended.
pub(super) struct Supervisor {
    pub(super) family: ProcessTree,
    pub(super) stop: Stop,
    pub(super) attention: SignalQueue,
    pub(super) output: Rc<Output>,
    /// Until the hub has answered whether it takes the operation.
    pub(super) beginning: Option<Pending>,
    /// Whether anybody can still stop it through the hub.
    pub(super) hub: bool,
    pub(super) linger: Option<Duration>,
}

enum Happening {
    Interrupt(Result<Interrupt, Error>),
    Registered(Result<Heard, Error>),
    Signal(Event),
    StepDue,
    Deadline,
}

impl Supervisor {
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
        let mut is_told = false;
        loop {
            self.family.reap();
            if leader_runs && self.family.status().is_some() {
                leader_runs = false;
                self.stop.leader_exited(&self.family);
            }
            if self.stop.is_over(&self.family) {
                self.output.report.left(self.family.count(), self.stop.was_asked());
                return self.family.status();
            }
            match self.next(operation, &mut deadline).await {
                Happening::Interrupt(Ok(interrupt)) => {
                    self.output.report.interrupted(&interrupt);
                    self.stop.ask(&self.family);
                }
                Happening::Interrupt(Err(error)) => {
                    self.hub = false;
                    self.output.report.hub_lost(&error);
                }
                Happening::Registered(answer) => self.registered(&answer),
                Happening::Signal(Event::Child) => {}
                Happening::Signal(Event::End) => self.stop.insist(&self.family),
                Happening::Signal(Event::Suspend) => {
                    if !std::mem::replace(&mut is_told, true) {
                        self.output.report.not_suspended();
                    }
                }
                Happening::StepDue => self.stop.go_on(&self.family),
                Happening::Deadline => {
                    deadline = None;
                    self.stop.ask(&self.family);
                }
            }
        }
    }

    fn registered(&mut self, answer: &Result<Heard, Error>) {
        self.beginning = None;
        match answer {
            Ok(_) => self.output.report.started(&self.output.operation_id, &self.output.channel),
            // Its output would be taken for that of somebody else's operation, or be
            // refused as well. That nobody can interrupt it says why.
            Err(_) => self.output.publishing.set(false),
        }
    }

    async fn next(&mut self, operation: &Operation, deadline: &mut Option<Timer>) -> Happening {
        let interrupt = async {
            if !self.hub {
                return future::pending().await;
            }
            Happening::Interrupt(operation.interrupted().await)
        };
        let registered = async {
            match &self.beginning {
                Some(beginning) => Happening::Registered(beginning.answer().await),
                None => future::pending().await,
            }
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
        let signal = async { Happening::Signal(self.attention.next().await) };
        let hub = future::or(registered, interrupt);
        future::or(future::or(hub, signal), future::or(due, late)).await
    }

    /// Says that it is over, and with it the output before. A hub that does not
    /// hear it within some time, or before somebody presses Ctrl-C, does not keep
    /// the caller waiting.
    pub(super) async fn tell_the_end(&mut self, operation: Operation, ending: EndState, outcome: &Outcome) {
        let report = self.output.report;
        let presence = &self.output.presence;
        let linger = self.linger.unwrap_or(match presence.get() {
            Presence::Sought => LINGER_UNSEEN,
            Presence::Here | Presence::Away => LINGER,
        });
        let is_long = match presence.get() {
            Presence::Sought => linger > LINGER_UNSEEN,
            Presence::Away => !linger.is_zero(),
            Presence::Here => false,
        };
        if self.hub && is_long {
            report.lingers(linger);
        }
        let is_silent = self.hub && !is_long && linger > SILENT;
        let told = async { Told::of(operation.end(ending, outcome).await) };
        let late = async {
            let mut left = linger;
            if is_silent {
                Timer::after(SILENT).await;
                left = linger.saturating_sub(SILENT);
                report.lingers(left);
            }
            Timer::after(left).await;
            Told::No("it did not answer in time".to_owned())
        };
        let impatient = async {
            let fair = Timer::after(FAIR);
            self.attention.end().await;
            fair.await;
            Told::No("nobody waited for it".to_owned())
        };
        match future::or(told, future::or(late, impatient)).await {
            Told::No(_) if self.hub && presence.get() == Presence::Sought => report.unheard(),
            Told::No(why) if self.hub => report.end_untold(&why),
            Told::Before => report.end_unknown(),
            Told::Yes | Told::No(_) => {}
        }
    }
}

/// Whether the hub has heard of the end.
enum Told {
    Yes,
    No(String),
    /// It had told another one.
    Before,
}

impl Told {
    fn of(answer: Result<(), Error>) -> Self {
        match answer {
            Ok(()) => Self::Yes,
            Err(error) if error.code() == Some("unknown_operation") => Self::Before,
            Err(error) => Self::No(error.to_string()),
        }
    }
}
