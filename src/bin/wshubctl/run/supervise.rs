//! Supervision of a running command: interrupts of the hub, signals to this process, the
//! deadline, and the report of the end.

use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::WaitStatus;
use smol::{Task, Timer, future};
use wshubd::client::{Error, HubLine, Interrupt, OperationHandle, PendingAnswer};
use wshubd::protocol::EndState;

use super::escalation::Escalation;
use super::hub_link::HubPresence;
use super::messages;
use super::messages::{CommandOutcome, RunReport};
use super::output::OutputPublisher;
use super::process_tree::ProcessTree;
use super::signals::{SignalAction, SignalQueue};

/// How long the last output may take to be written after an interrupt, before the
/// end is sent without it: a reader of ours that does not read must not keep
/// all subscribers waiting for the end.
pub(super) const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// How long the end waits for a hub that is not connected, by default.
const LINGER: Duration = Duration::from_secs(10);

/// The same where no hub was ever connected: one that is just starting may still come,
/// but a command of a machine without a hub must not take ten seconds.
const LINGER_UNSEEN: Duration = Duration::from_secs(1);

/// After so long without an answer there is a notice of the wait at the end.
const SILENCE: Duration = Duration::from_secs(1);

/// For how long an end is sent in spite of signals: a hub that is connected takes it
/// within milliseconds.
const MINIMUM_WAIT: Duration = Duration::from_millis(500);

pub(super) struct Supervisor {
    processes: ProcessTree,
    escalation: Escalation,
    signals: SignalQueue,
    output: Rc<OutputPublisher>,
    /// Until the hub has answered whether it takes the operation.
    start: Option<PendingAnswer>,
    /// Whether the operation can still be interrupted through the hub.
    has_hub: bool,
    presence: Rc<Cell<HubPresence>>,
    report: RunReport,
    linger: Option<Duration>,
}

enum SupervisorEvent {
    Interrupt(Result<Interrupt, Error>),
    Registered(Result<HubLine, Error>),
    Signal(SignalAction),
    StepDue,
    Deadline,
}

impl Supervisor {
    pub(super) fn new(
        processes: ProcessTree,
        escalation: Escalation,
        signals: SignalQueue,
        output: Rc<OutputPublisher>,
        start: Option<PendingAnswer>,
        linger: Option<Duration>,
    ) -> Self {
        let (presence, report) = (output.presence().clone(), output.report());
        Self { processes, escalation, signals, output, start, has_hub: true, presence, report, linger }
    }

    /// Waits until no process of the command is left, and stops it on request.
    pub(super) async fn run(
        &mut self,
        operation: &OperationHandle,
        deadline: Option<Duration>,
    ) -> Option<WaitStatus> {
        // The hub interrupts at the deadline; this is for when it is not connected.
        let mut deadline =
            deadline.map(|deadline| Timer::after(deadline.saturating_add(Duration::from_secs(1))));
        let mut leader_runs = true;
        let mut has_reported_suspend = false;
        loop {
            self.processes.reap();
            if leader_runs && self.processes.status().is_some() {
                leader_runs = false;
                self.escalation.on_leader_exit(&self.processes);
            }
            if self.escalation.is_over(&self.processes) {
                if self.escalation.is_requested() {
                    self.report.unkillable(self.processes.count_living());
                }
                return self.processes.status();
            }
            match self.next(operation, &mut deadline).await {
                SupervisorEvent::Interrupt(Ok(interrupt)) => {
                    self.report.interrupted(&interrupt);
                    self.escalation.request(&self.processes);
                }
                SupervisorEvent::Interrupt(Err(error)) => {
                    self.has_hub = false;
                    self.report.hub_lost(&error);
                }
                SupervisorEvent::Registered(answer) => self.on_registered(&answer),
                SupervisorEvent::Signal(SignalAction::Reap) => {}
                SupervisorEvent::Signal(SignalAction::Stop) => self.escalation.insist(&self.processes),
                SupervisorEvent::Signal(SignalAction::Suspend) => {
                    if !std::mem::replace(&mut has_reported_suspend, true) {
                        self.report.not_suspended();
                    }
                }
                SupervisorEvent::StepDue => self.escalation.on_due(&self.processes),
                SupervisorEvent::Deadline => {
                    deadline = None;
                    self.escalation.request(&self.processes);
                }
            }
        }
    }

    fn on_registered(&mut self, answer: &Result<HubLine, Error>) {
        self.start = None;
        match answer {
            Ok(_) => self.output.report_started(),
            // Its output would be taken for that of another command's operation, or be
            // refused as well. The error also ends the wait for interrupts, and is reported there.
            Err(_) => self.output.stop_publishing(),
        }
    }

    async fn next(&mut self, operation: &OperationHandle, deadline: &mut Option<Timer>) -> SupervisorEvent {
        let interrupt = async {
            if !self.has_hub {
                return future::pending().await;
            }
            SupervisorEvent::Interrupt(operation.interrupted().await)
        };
        let registered = async {
            match &self.start {
                Some(start) => SupervisorEvent::Registered(start.answer().await),
                None => future::pending().await,
            }
        };
        let late = async {
            match deadline {
                Some(deadline) => drop(deadline.await),
                None => future::pending().await,
            }
            SupervisorEvent::Deadline
        };
        let due = async {
            self.escalation.due().await;
            SupervisorEvent::StepDue
        };
        let signal = async { SupervisorEvent::Signal(self.signals.next().await) };
        let hub = future::or(registered, interrupt);
        future::or(future::or(hub, signal), future::or(due, late)).await
    }

    /// Waits for the rest of the output, and ends the operation.
    pub(super) async fn finish(
        mut self,
        operation: OperationHandle,
        mut copying: Task<()>,
        status: Option<WaitStatus>,
    ) -> ExitCode {
        let is_requested = self.escalation.is_requested();
        let limit = async {
            if is_requested {
                Timer::after(LAST_OUTPUT).await;
            } else {
                self.signals.wait_for_stop().await;
            }
            false
        };
        let copied = async {
            (&mut copying).await;
            true
        };
        let is_copied = future::or(copied, limit).await;
        // Output after this is for our own reader alone: nothing is published of an
        // operation behind its end.
        self.output.stop_publishing();

        let outcome = self.output.outcome(status);
        let state = if is_requested { EndState::Interrupted } else { outcome.end_state() };
        self.send_end(operation, state, &outcome).await;
        if !is_copied && is_requested {
            // A person who presses Ctrl-C now has no use for the rest either.
            future::or(copying, self.signals.wait_for_stop()).await;
        }
        if self.signals.was_interrupted() && outcome.is_interrupted() {
            return messages::end_by_interrupt();
        }
        outcome.exit_code()
    }

    /// Sends the end, and with it the output before. A hub that does not
    /// answer within some time, or before a signal such as that of Ctrl-C, does not keep
    /// the caller waiting.
    async fn send_end(&mut self, operation: OperationHandle, state: EndState, outcome: &CommandOutcome) {
        let (report, presence) = (self.report, self.presence.clone());
        let linger = self.linger.unwrap_or(match presence.get() {
            HubPresence::NeverSeen => LINGER_UNSEEN,
            HubPresence::Connected | HubPresence::Disconnected => LINGER,
        });
        let is_long = match presence.get() {
            HubPresence::NeverSeen => linger > LINGER_UNSEEN,
            HubPresence::Disconnected => !linger.is_zero(),
            HubPresence::Connected => false,
        };
        if self.has_hub && is_long {
            report.lingers(linger);
        }
        let notices_silence = self.has_hub && !is_long && linger > SILENCE;
        let end = async { EndDelivery::of(operation.end(state, outcome).await) };
        let late = async {
            let mut left = linger;
            if notices_silence {
                Timer::after(SILENCE).await;
                left = linger.saturating_sub(SILENCE);
                report.lingers(left);
            }
            Timer::after(left).await;
            EndDelivery::Failed("it did not answer in time".to_owned())
        };
        let impatient = async {
            let minimum = Timer::after(MINIMUM_WAIT);
            self.signals.wait_for_stop().await;
            minimum.await;
            EndDelivery::Failed("a signal ended the wait".to_owned())
        };
        match future::or(end, future::or(late, impatient)).await {
            EndDelivery::Failed(_) if self.has_hub && presence.get() == HubPresence::NeverSeen => {
                report.never_connected();
            }
            EndDelivery::Failed(why) if self.has_hub => report.end_not_delivered(&why),
            EndDelivery::EndedBefore => report.ended_before(),
            EndDelivery::Delivered | EndDelivery::Failed(_) => {}
        }
    }
}

/// Delivery of the end to the hub.
enum EndDelivery {
    Delivered,
    Failed(String),
    /// The hub had ended the operation already.
    EndedBefore,
}

impl EndDelivery {
    fn of(answer: Result<(), Error>) -> Self {
        match answer {
            Ok(()) => Self::Delivered,
            Err(error) if error.code() == Some("unknown_operation") => Self::EndedBefore,
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}
