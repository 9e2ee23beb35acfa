//! Connection to wshubd with a limit for each wait: attempts to connect, and answers.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use smol::LocalExecutor;
use wshubd::client::{Client, ConnectOptions, Error, Events, HubLine, WorkerConnection};

use crate::error::Failure;
use crate::socket_path;
use crate::wait_limit::{Silence, WaitLimit};

/// Between two attempts: short for a person, and each is some microseconds of work.
const PAUSE: Duration = Duration::from_millis(50);

/// After so many refusals by permission, one after another, the permissions are final: a
/// wshubd that starts makes its socket first and sets its permissions then.
const DENIALS: u32 = 3;

pub(crate) struct HubConnection {
    client: Client,
    events: Events,
    path: PathBuf,
    wait: WaitLimit,
}

impl HubConnection {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// Connects in the given way, and tries again while that may help.
    pub(crate) async fn connect(
        executor: &LocalExecutor<'_>,
        named: Option<&Path>,
        wait: WaitLimit,
        connect: impl AsyncFn(ConnectOptions) -> Result<WorkerConnection, Error>,
    ) -> Result<Self, Failure> {
        let mut silence = Silence::begin();
        let mut denials = 0;
        loop {
            let (path, error) = match socket_path::find(named) {
                Ok(candidate) => match connect(candidate.options()).await {
                    Ok(WorkerConnection { client, events, task }) => {
                        // A pending answer gets the error.
                        executor.spawn(async { drop(task.run().await) }).detach();
                        let path = client.path();
                        return Ok(Self { client, events, path, wait });
                    }
                    Err(error) => (Some(candidate.into_path()), Err(error)),
                },
                Err(not_found) => (None, Ok(not_found)),
            };
            let obstacle = ConnectObstacle::of(error.as_ref().err());
            denials = if obstacle == ConnectObstacle::Denied { denials + 1 } else { 0 };
            let failure = error.unwrap_or_else(Failure::from);
            let may_pass = match obstacle {
                ConnectObstacle::Absent => wait.is_explicit(),
                ConnectObstacle::Denied => wait.is_explicit() && denials < DENIALS,
                ConnectObstacle::Full => true,
                ConnectObstacle::Lasting => false,
            };
            if !may_pass {
                return Err(match obstacle {
                    ConnectObstacle::Absent => failure.with_remark("`--wait 30s` waits for it"),
                    _ => failure,
                });
            }
            if !wait.retry_pause(&mut silence, path.as_deref(), PAUSE).await {
                let limit = humantime::format_duration(wait.patience());
                return Err(failure.with_remark(&format!("waited {limit}")));
            }
        }
    }

    /// Waits for an answer, for no longer than `--wait` says.
    pub(crate) async fn answer<T>(&self, answer: impl Future<Output = T>) -> Result<T, Failure> {
        self.answer_in(&mut Silence::begin(), answer).await
    }

    /// As [`HubConnection::answer`], in a silence that may have begun before.
    pub(crate) async fn answer_in<T>(
        &self,
        silence: &mut Silence,
        answer: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        self.wait.answer(silence, &self.path, answer).await
    }

    /// Sends a request, and waits for the answer or the refusal.
    pub(crate) async fn query(&self, request: &impl Serialize) -> Result<Result<HubLine, Error>, Failure> {
        self.answer(async { self.client.request(request).await?.answer().await }).await
    }
}

/// The reason why an attempt to connect failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectObstacle {
    /// There is no socket, or nothing listens at it.
    Absent,
    /// Its queue of connections is full.
    Full,
    /// The permissions of the socket deny it.
    Denied,
    /// Any other error: another attempt would not help.
    Lasting,
}

impl ConnectObstacle {
    /// Without an error there is no socket at any path.
    fn of(error: Option<&Error>) -> Self {
        match error {
            None => Self::Absent,
            Some(Error::Unreachable { why, .. }) => match why.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => Self::Absent,
                ErrorKind::WouldBlock => Self::Full,
                ErrorKind::PermissionDenied => Self::Denied,
                _ => Self::Lasting,
            },
            Some(_) => Self::Lasting,
        }
    }
}
