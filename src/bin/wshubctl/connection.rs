//! A connection to wshubd with a limit for each wait: attempts to connect, and answers.
//!
//! Does not know the requests.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use smol::LocalExecutor;
use wshubd::client::{Client, Connection, Error, Heard, Lines, Options};

use crate::error::Failure;
use crate::socket_path;
use crate::wait_limit::{Silence, Wait};

/// Between two attempts: short for a person, and each is some microseconds of work.
const PAUSE: Duration = Duration::from_millis(50);

/// After so many refusals by permission, one after another, they are meant: a wshubd
/// that starts makes its socket first and says who may use it then.
const DENIED: u32 = 3;

pub(crate) struct Hub {
    pub(crate) client: Client,
    pub(crate) lines: Lines,
    path: PathBuf,
    wait: Wait,
}

impl Hub {
    /// Connects in the given way, and tries again while that may help.
    pub(crate) async fn reach(
        executor: &LocalExecutor<'_>,
        named: Option<&Path>,
        wait: Wait,
        connect: impl AsyncFn(Options) -> Result<Connection, Error>,
    ) -> Result<Self, Failure> {
        let mut silence = Silence::begin();
        let mut denied = 0;
        loop {
            let (path, error) = match socket_path::find(named) {
                Ok(place) => match connect(place.options()).await {
                    Ok(Connection { client, lines, link }) => {
                        // A pending answer tells how it ended.
                        executor.spawn(async { drop(link.run().await) }).detach();
                        let path = client.path();
                        return Ok(Self { client, lines, path, wait });
                    }
                    Err(error) => (Some(place.into_path()), Err(error)),
                },
                Err(nowhere) => (None, Ok(nowhere)),
            };
            let trouble = Trouble::of(error.as_ref().err());
            denied = if trouble == Trouble::Denied { denied + 1 } else { 0 };
            let failure = error.unwrap_or_else(Failure::from);
            let may_pass = match trouble {
                Trouble::Absent => wait.is_wanted(),
                Trouble::Denied => wait.is_wanted() && denied < DENIED,
                Trouble::Full => true,
                Trouble::Lasting => false,
            };
            if !may_pass {
                return Err(match trouble {
                    Trouble::Absent => failure.but("`--wait 30s` waits for it"),
                    _ => failure,
                });
            }
            if !wait.arrival(&mut silence, path.as_deref(), PAUSE).await {
                let limit = humantime::format_duration(wait.patience());
                return Err(failure.but(&format!("waited {limit}")));
            }
        }
    }

    /// Waits for an answer, for no longer than `--wait` says.
    pub(crate) async fn answer<T>(&self, answer: impl Future<Output = T>) -> Result<T, Failure> {
        self.answer_in(&mut Silence::begin(), answer).await
    }

    /// As [`Hub::answer`], in a silence that may have begun before.
    pub(crate) async fn answer_in<T>(
        &self,
        silence: &mut Silence,
        answer: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        self.wait.answer(silence, &self.path, answer).await
    }

    /// Asks, and waits for the answer or the refusal.
    pub(crate) async fn ask(&self, request: &impl Serialize) -> Result<Result<Heard, Error>, Failure> {
        self.answer(async { self.client.request(request).await?.answer().await }).await
    }
}

/// What stands between us and wshubd.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// There is no socket, or nobody listens behind it.
    Absent,
    /// It has more connections to take than it may leave waiting.
    Full,
    /// We may not use the socket.
    Denied,
    /// Nothing that time alone mends.
    Lasting,
}

impl Trouble {
    /// None: there is not even a place.
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
