//! Options of a connection, and the assembly of its parts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use smol::net::unix::UnixStream;

use super::connect::SocketCandidates;
use super::connection::{ConnectionTask, DenialPolicy};
use super::error::Error;
use super::event_queue::event_queue;
use super::request::MessageIds;
use super::request_queue::{STALL_LIMIT, request_queue};
use super::session::Session;
use super::unacked::ResendPolicy;
use super::{Client, WorkerConnection};

/// What is kept for a hub that is not connected: some ten thousand lines of output, and
/// little memory even for a small machine.
const BUFFER: usize = 1 << 20;

/// How long an answer is waited for while the hub is not connected: longer than a hub
/// takes to start again and to take its workers back.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    candidates: SocketCandidates,
    buffer: usize,
    patience: Duration,
    stall_limit: Duration,
    on_denial: DenialPolicy,
}

impl ConnectOptions {
    /// The worker socket, and the usual choices.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            candidates: SocketCandidates::new(path.as_ref()),
            buffer: BUFFER,
            patience: PATIENCE,
            stall_limit: STALL_LIMIT,
            on_denial: DenialPolicy::GiveUp,
        }
    }

    /// Where else the worker socket may be found, if it is not at the path: each attempt
    /// is made at the first of all that exists then. These are used as with
    /// [`ConnectOptions::trusted_only`].
    #[must_use]
    pub fn or_at(mut self, others: impl IntoIterator<Item = PathBuf>) -> Self {
        self.candidates.extend(others);
        self
    }

    /// Keeps reconnecting where the system denies the socket: its mode may
    /// be put right. Otherwise some denials, one after another, are the end.
    #[must_use]
    pub fn retry_on_denial(mut self) -> Self {
        self.on_denial = DenialPolicy::KeepTrying;
        self
    }

    /// How many bytes may wait for the hub: 1 MiB by default. Below
    /// it one more message of any size is taken; what does not fit is dropped,
    /// and its publisher gets [`Error::QueueFull`].
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes;
        self
    }

    /// How long answers are waited for while the hub is not connected: 10 s by
    /// default, [`Duration::MAX`] for as long as it takes. After that they come
    /// as [`Error::Unavailable`].
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// For how long a publisher waits on a hub that is connected and takes nothing at all: 5 s
    /// by default. After that what does not fit is dropped, as for one that is not connected.
    #[must_use]
    pub fn stall_limit(mut self, limit: Duration) -> Self {
        self.stall_limit = limit;
        self
    }

    /// Connects only if the process that listens at the socket has our own uid or root's, or
    /// if no other user can have created the socket: below a directory that all users may
    /// write to, the way to the socket must belong to us or to root. For a path that was
    /// found rather than named.
    #[must_use]
    pub fn trusted_only(mut self) -> Self {
        self.candidates.distrust_first();
        self
    }

    /// Connects, and reconnects whenever the connection is lost.
    ///
    /// # Errors
    /// [`Error::Unreachable`], which names the path and a remedy, and
    /// [`Error::Untrusted`] after [`ConnectOptions::trusted_only`].
    pub async fn connect(self) -> Result<WorkerConnection, Error> {
        let stream = self.candidates.present().connect()?;
        Ok(self.assemble(ResendPolicy::UntilConfirmed, Some(stream)))
    }

    /// As [`ConnectOptions::connect`], but the hub need not be there yet: requests
    /// wait for it as they would after a loss. Where the first attempt fails,
    /// [`ClientEvent::Disconnected`](super::ClientEvent::Disconnected) comes;
    /// [`ClientEvent::Reconnected`](super::ClientEvent::Reconnected)
    /// comes when the hub has answered for the first time.
    pub fn connect_later(self) -> WorkerConnection {
        self.assemble(ResendPolicy::UntilConfirmed, None)
    }

    /// Connects, for as long as this connection lasts. Nothing is repeated, and a
    /// slow hub is waited for however slow it is.
    ///
    /// # Errors
    /// As [`ConnectOptions::connect`].
    pub async fn connect_once(self) -> Result<WorkerConnection, Error> {
        let stream = self.candidates.present().connect()?;
        Ok(self.assemble(ResendPolicy::Never, Some(stream)))
    }

    fn assemble(self, resend: ResendPolicy, stream: Option<UnixStream>) -> WorkerConnection {
        let Self { candidates, buffer, patience, stall_limit, on_denial } = self;
        let path = candidates.present().path().clone();
        let resends = resend == ResendPolicy::UntilConfirmed;
        let (sender, requests) = request_queue(path.clone(), buffer, resends.then_some(stall_limit));
        let (queue, events) = event_queue();
        let session = Session::new(path, requests, queue, resend, patience);
        let task = ConnectionTask::new(session, candidates, resend, on_denial, stream);
        WorkerConnection { client: Client::new(sender, resends.then(MessageIds::new)), events, task }
    }
}
