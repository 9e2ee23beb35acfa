//! Connection of `run` to the hub: whether the command waits for it, and reports of its
//! losses.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use smol::{LocalExecutor, Timer, future};
use wshubd::client::{Client, ClientEvent, ConnectOptions, Error, Events, PendingAnswer, WorkerConnection};
use wshubd::edge::clock;

use super::messages::RunReport;
use crate::error::{Exit, Failure};
use crate::socket_path;
use crate::socket_path::SocketPath;

/// How long a command waits for an answer: a hub that is connected answers within
/// milliseconds, and before a command that is worth watching a second is no matter.
const ANSWER: Duration = Duration::from_secs(1);

/// How much output waits for a hub that is not connected, in bytes as it is published.
const BUFFER: usize = 1 << 20;

/// How long a hub that is needed may take to answer, by default.
const NEEDED: Duration = Duration::from_secs(10);

/// Between two attempts to connect to a hub that is needed.
const PAUSE: Duration = Duration::from_millis(50);

/// For how long output waits for a hub that is connected and takes nothing, before it is
/// dropped: until then the command may block.
const STALL_LIMIT: Duration = Duration::from_secs(1);

/// Whether the hub is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HubPresence {
    /// It never was.
    NeverSeen,
    Connected,
    /// It was before.
    Disconnected,
}

/// Whether the hub has the operation.
pub(super) enum RegistrationState {
    Registered,
    Unanswered,
}

/// Whether the command begins without the hub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HubPolicy {
    Optional,
    /// It must be connected within the first time, and answer within the second.
    Needed {
        connect: Duration,
        answer: Duration,
    },
}

impl HubPolicy {
    /// From the option `--need-hub[=WAIT]`.
    pub(super) fn new(option: Option<Option<Duration>>) -> Self {
        match option {
            Some(wait) => Self::Needed { connect: wait.unwrap_or_default(), answer: wait.unwrap_or(NEEDED) },
            None => Self::Optional,
        }
    }

    fn is_needed(self) -> bool {
        self != Self::Optional
    }
}

pub(super) struct HubLink {
    client: Client,
    events: Events,
    /// Where its socket may come into being.
    paths: Vec<SocketPath>,
    presence: Rc<Cell<HubPresence>>,
    policy: HubPolicy,
    report: RunReport,
}

impl HubLink {
    /// Begins to connect; a hub that is needed must be there.
    pub(super) async fn new(
        executor: &LocalExecutor<'_>,
        named: Option<&Path>,
        policy: HubPolicy,
        report: RunReport,
    ) -> Result<Self, Failure> {
        let (paths, WorkerConnection { client, events, task }, presence) = match policy {
            HubPolicy::Needed { connect, .. } => {
                let (path, connection) = connect_within(named, connect).await?;
                (vec![path], connection, HubPresence::Connected)
            }
            HubPolicy::Optional => {
                let paths = socket_path::candidates(named);
                let connection = options(&paths).connect_later();
                (paths, connection, HubPresence::NeverSeen)
            }
        };
        // A pending answer gets the error.
        executor.spawn(async { drop(task.run().await) }).detach();
        Ok(Self { client, events, paths, presence: Rc::new(Cell::new(presence)), policy, report })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn presence(&self) -> &Rc<Cell<HubPresence>> {
        &self.presence
    }

    /// Waits until the hub has the operation, or for as long as the command does.
    ///
    /// # Errors
    /// The hub does not take it, or does not answer though it is needed.
    pub(super) async fn wait_for_registration(
        &self,
        start: &PendingAnswer,
    ) -> Result<RegistrationState, Failure> {
        let limit = match self.policy {
            HubPolicy::Needed { answer, .. } => answer,
            HubPolicy::Optional => ANSWER,
        };
        let answer = async { Some(start.answer().await) };
        let absent = async {
            self.wait_for_absence().await;
            None
        };
        let late = async {
            Timer::after(limit).await;
            if !self.policy.is_needed() {
                self.report.hub_silent(&self.client.path());
            }
            None
        };
        match future::or(answer, future::or(absent, late)).await {
            Some(Ok(_)) => {
                self.presence.set(HubPresence::Connected);
                Ok(RegistrationState::Registered)
            }
            Some(Err(error)) if self.policy.is_needed() || is_refusal(&error) => Err(error.into()),
            // The error also ends the wait for interrupts, and is reported there.
            Some(Err(_)) => Ok(RegistrationState::Unanswered),
            None if self.policy.is_needed() => {
                let path = self.client.path();
                let limit = humantime::format_duration(limit);
                let message = format!("wshubd at {} has not answered within {limit}", path.display());
                Err(Failure::new(Exit::TimedOut, message))
            }
            None => Ok(RegistrationState::Unanswered),
        }
    }

    /// Waits until a connection has failed, and reports it.
    async fn wait_for_absence(&self) {
        loop {
            match self.events.next_event().await {
                Some(ClientEvent::Disconnected(error)) if !self.policy.is_needed() => {
                    if self.presence.get() == HubPresence::Connected {
                        self.presence.set(HubPresence::Disconnected);
                    }
                    let is_nowhere = self.paths.len() > 1 && !self.paths.iter().any(|path| path.exists());
                    return self.report.hub_absent(&match is_nowhere {
                        true => socket_path::not_found(&self.paths, " "),
                        false => error.to_string(),
                    });
                }
                Some(ClientEvent::Reconnected) => self.presence.set(HubPresence::Connected),
                Some(_) => {}
                None => return future::pending().await,
            }
        }
    }

    /// Reports losses and reconnects, until the connection has ended for good. Output is sent
    /// without waiting for answers; errors about it come as events, and most
    /// often for each line, so that the first is enough.
    pub(super) async fn watch(self) {
        let Self { events, presence, report, .. } = self;
        let mut has_reported_error = false;
        while let Some(event) = events.next_event().await {
            match event {
                ClientEvent::Line(line) if line.kind() == "error" && !has_reported_error => {
                    has_reported_error = true;
                    report.output_refused(&line);
                }
                ClientEvent::Line(_) => {}
                // This was reported before.
                ClientEvent::Disconnected(_) if presence.get() == HubPresence::NeverSeen => {}
                ClientEvent::Disconnected(error) => {
                    presence.set(HubPresence::Disconnected);
                    report.hub_disconnected(&error);
                }
                ClientEvent::Reconnected => match presence.replace(HubPresence::Connected) {
                    HubPresence::NeverSeen => report.hub_connected(),
                    HubPresence::Disconnected => report.hub_reconnected(),
                    // Its answer has come before.
                    HubPresence::Connected => {}
                },
            }
        }
    }
}

/// Answers are waited for without a limit: `run` has limits of its own.
fn options(paths: &[SocketPath]) -> ConnectOptions {
    let options = socket_path::options(paths).buffer(BUFFER).patience(Duration::MAX);
    options.stall_limit(STALL_LIMIT).retry_on_denial()
}

/// Connects to a hub that must be there, or must come within so long.
async fn connect_within(
    named: Option<&Path>,
    limit: Duration,
) -> Result<(SocketPath, WorkerConnection), Failure> {
    let deadline = clock::now().moment + limit;
    loop {
        let failure = match socket_path::find(named) {
            Ok(path) => match options(std::slice::from_ref(&path)).connect().await {
                Ok(connection) => return Ok((path, connection)),
                Err(error) => error.into(),
            },
            Err(failure) => failure,
        };
        if failure.exit() != Exit::Unreachable || clock::now().moment >= deadline {
            return Err(failure);
        }
        Timer::after(PAUSE).await;
    }
}

/// Whether the hub refuses the operation, or rejects this process.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Refused(_) | Error::Rejected { .. })
}
