//! Client library for workers: publish, subscribe, and be interrupted.
//!
//! It runs on any executor: the caller spawns the [`ConnectionTask`].
//!
//! One task owns the socket. All others hold an end of a queue:
//! a [`Client`] sends requests, [`PendingAnswer`] waits for one answer, [`Events`] receives
//! lines that answer no request, and an [`OperationHandle`] holds the latch that an interrupt
//! sets. So an interrupt never waits behind a message, and only the task
//! notices that one socket has replaced another.
//!
//! ```no_run
//! use wshubd::client::{self, PublishRequest, StartRequest, WorkerConnection};
//! use wshubd::protocol::EndState;
//!
//! # async fn work() -> Result<(), client::Error> {
//! let WorkerConnection { client, task, .. } = client::connect("/run/wshubd/worker.sock").await?;
//! smol::spawn(task.run()).detach();
//!
//! let operation = client.start(StartRequest::new("report-7", "reports")).await?;
//! for page in 1..=100 {
//!     if operation.is_interrupted() {
//!         return operation.end(EndState::Interrupted, &page).await;
//!     }
//!     client.send(&PublishRequest::to_channel("reports", "page", &page)).await?;
//! }
//! operation.end(EndState::Completed, &100).await
//! # }
//! ```
//!
//! # When the connection is lost
//!
//! The task reconnects at once, or after the pause that the hub requests, and then with
//! growing pauses of up to 5 s. It stops if the hub requests that (close codes 4000 to
//! 4099) or rejects it, if the system denies access to the socket, or if a socket of
//! another user has taken its place ([`ConnectOptions::trusted_only`]).
//!
//! - **Operations** are registered again under the same id, with what is left of
//!   the deadline, and can be interrupted again. Subscribers got `owner_lost`, unless the
//!   hub itself was gone; now they get `started`. An interrupt
//!   that has come stays in its latch. Where the hub does not take one again, as
//!   another worker runs that id, [`OperationHandle::interrupted`] gives the error.
//! - **Subscriptions** go on after the last position that was received: all
//!   comes that was kept, and a `gap` where something was not.
//! - **Messages** wait, up to a bound, and keep their order. Those that were
//!   written and not confirmed are written again, each under the same
//!   `message_id`, which the hub takes once; only a hub that has lost its memory
//!   of them can take one twice. What does not fit is dropped, counted
//!   ([`Client::dropped`]) and its publisher gets an error; nothing is dropped after
//!   that, but what has outlived its own `ttl`.
//! - **Answers** are waited for 10 s after the loss, then they come as
//!   [`Error::Unavailable`], and the request is given up; only the end of an operation
//!   is sent whenever the hub is back. A request that is no message, subscription
//!   or operation, and was on its way, comes as [`Error::Lost`] at once: it is
//!   unknown whether it was carried out.

mod backoff;
mod connect;
mod connection;
mod error;
mod event_queue;
mod framed;
mod operation;
mod options;
mod registrations;
mod request;
mod request_queue;
mod session;
mod unacked;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_channel::Receiver;
use serde::Serialize;

pub use connection::ConnectionTask;
pub use error::{Error, ErrorLine};
pub use event_queue::{ClientEvent, Events, HubLine, MessageLine};
pub use operation::{Interrupt, OperationHandle};
pub use options::ConnectOptions;
pub use request::{PublishRequest, Published, StartRequest};

use crate::edge::clock;
use operation::StartingOperation;
use registrations::Registration;
use request::MessageIds;
use request_queue::{RequestAnswer, RequestKind, RequestSender};

/// A new connection, in its parts.
#[derive(Debug)]
pub struct WorkerConnection {
    /// Sends requests; may be cloned.
    pub client: Client,
    /// Receives messages and other lines that answer no request. May be dropped.
    pub events: Events,
    /// Owns the socket; nothing happens until [`ConnectionTask::run`] is polled.
    pub task: ConnectionTask,
}

/// Connects to the worker socket at `path`, and reconnects whenever the
/// connection is lost. [`ConnectOptions`] has other ways.
///
/// # Errors
/// As [`ConnectOptions::connect`].
pub async fn connect(path: impl AsRef<Path>) -> Result<WorkerConnection, Error> {
    ConnectOptions::new(path).connect().await
}

/// Sends requests to the hub. A publisher is slowed down by a slow hub, but not
/// stopped by one that is not connected or takes nothing.
#[derive(Clone, Debug)]
pub struct Client {
    requests: RequestSender,
    /// Where messages may be repeated.
    message_ids: Option<Arc<MessageIds>>,
}

impl Client {
    fn new(requests: RequestSender, message_ids: Option<MessageIds>) -> Self {
        Self { requests, message_ids: message_ids.map(Arc::new) }
    }

    /// The socket that it connected to first.
    pub fn path(&self) -> PathBuf {
        self.requests.path().to_path_buf()
    }

    /// How many messages and requests were dropped so far because too much waited.
    pub fn dropped(&self) -> u64 {
        self.requests.dropped()
    }

    /// Publishes a message without waiting for the hub to have it. An
    /// error of the hub about it comes as an `error` line among the [`Events`].
    ///
    /// # Errors
    /// [`Error::QueueFull`] where the message is dropped because the hub is not connected, or
    /// takes nothing, and too much waits for it; [`Error::InvalidRequest`] for what
    /// has no JSON form; and why the task has ended, if it has.
    pub async fn send(&self, message: &PublishRequest<'_, impl Serialize + ?Sized>) -> Result<(), Error> {
        let (kind, line) = self.publication(message)?;
        self.requests.send(kind, line, None, None).await
    }

    /// Publishes a message and waits until the hub has it.
    ///
    /// # Errors
    /// As [`Client::send`] and [`PendingAnswer::answer`]; with any, the message is given
    /// up.
    pub async fn publish(
        &self,
        message: &PublishRequest<'_, impl Serialize + ?Sized>,
    ) -> Result<Published, Error> {
        self.begin_publish(message).await?.answer().await?.parse()
    }

    /// As [`Client::publish`], for many messages on their way at once:
    /// they are answered in order, unless they wait for the disk.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn begin_publish(
        &self,
        message: &PublishRequest<'_, impl Serialize + ?Sized>,
    ) -> Result<PendingAnswer, Error> {
        let (kind, line) = self.publication(message)?;
        self.send_request(kind, line, None).await
    }

    /// Subscribes to a channel, from now on and with what waits there undelivered.
    ///
    /// # Errors
    /// As [`Client::begin_subscribe`] and [`PendingAnswer::answer`].
    pub async fn subscribe(&self, channel: &str) -> Result<(), Error> {
        self.begin_subscribe(channel).await?.answer().await.map(drop)
    }

    /// As [`Client::subscribe`], for many channels at once.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn begin_subscribe(&self, channel: &str) -> Result<PendingAnswer, Error> {
        let line = request::subscribe(channel, None)?;
        self.send_request(RequestKind::Subscribe(channel.into()), line, None).await
    }

    /// Unsubscribes from a channel; in effect once the answer has come.
    ///
    /// # Errors
    /// As [`Client::send`] and [`PendingAnswer::answer`].
    pub async fn unsubscribe(&self, channel: &str) -> Result<(), Error> {
        let line = request::unsubscribe(channel)?;
        self.send_request(RequestKind::Unsubscribe(channel.into()), line, None)
            .await?
            .answer()
            .await
            .map(drop)
    }

    /// Starts an operation, which can be interrupted from then on.
    ///
    /// # Errors
    /// As [`Client::send`] and [`PendingAnswer::answer`]; `conflict` where one of that id
    /// runs already.
    pub async fn start(&self, start: StartRequest<'_>) -> Result<OperationHandle, Error> {
        let (operation, pending) = self.begin(start).await?;
        StartingOperation::new(pending, operation).started().await
    }

    /// As [`Client::start`], for work that does not wait for the hub: the operation
    /// is there at once, and its latch can be pulled from the moment at which the
    /// hub has it. [`PendingAnswer::answer`] gives the hub's answer; where that is an
    /// error, [`OperationHandle::interrupted`] gives it, too.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn begin(&self, start: StartRequest<'_>) -> Result<(OperationHandle, PendingAnswer), Error> {
        let (sender, latch) = operation::latch();
        let registration = Registration::new(&start, sender);
        let kind = RequestKind::Start(start.operation_id.into());
        let pending = self.send_request(kind, request::encode(&start)?, Some(registration)).await?;
        let operation = OperationHandle::new(self.clone(), pending.clone(), start.operation_id, latch);
        Ok((operation, pending))
    }

    /// Waits until the hub has all that this client has sent so far.
    ///
    /// # Errors
    /// As [`Client::send`] and [`PendingAnswer::answer`]; what was sent still waits.
    pub async fn flush(&self) -> Result<(), Error> {
        self.send_request(RequestKind::Flush, request::ping()?, None).await?.answer().await.map(drop)
    }

    /// Sends a line of any kind, without an `id`: it gets one. It is never
    /// repeated. For messages, subscriptions and operations there are better ways.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn request(&self, line: &impl Serialize) -> Result<PendingAnswer, Error> {
        self.send_request(RequestKind::Other, request::encode(line)?, None).await
    }

    fn publication(
        &self,
        message: &PublishRequest<'_, impl Serialize + ?Sized>,
    ) -> Result<(RequestKind, Vec<u8>), Error> {
        let mut line = request::encode(message)?;
        if let (Some(ids), None) = (&self.message_ids, message.message_id) {
            ids.add_to(&mut line);
        }
        let expires = message.ttl.map(|ttl| clock::now().moment + ttl);
        Ok((RequestKind::Publish { expires, durable: message.durable }, line))
    }

    async fn send_request(
        &self,
        kind: RequestKind,
        line: Vec<u8>,
        registration: Option<Registration>,
    ) -> Result<PendingAnswer, Error> {
        // Two: an interrupt of an operation that has no owner yet is answered twice.
        let (sender, answers) = async_channel::bounded(2);
        self.requests.send(kind, line, Some(sender), registration).await?;
        Ok(PendingAnswer { answers, client: self.clone() })
    }

    fn send_unconditionally(&self, kind: RequestKind, line: Vec<u8>) {
        self.requests.send_unconditionally(kind, line);
    }

    /// Why nothing more comes, once [`Events`] or an answer has ended.
    pub fn end_reason(&self) -> Error {
        self.requests.end_reason()
    }
}

/// An answer that is still to come. Of clones one gets it.
#[derive(Clone, Debug)]
pub struct PendingAnswer {
    answers: Receiver<RequestAnswer>,
    client: Client,
}

impl PendingAnswer {
    /// Lets no answer come any more; true where a good one has come.
    fn close(&self) -> bool {
        self.answers.close();
        matches!(self.answers.try_recv(), Ok(Ok(_)))
    }

    fn end_reason(&self) -> Error {
        self.client.end_reason()
    }

    /// Whether an answer, or why there is none, can be had without waiting.
    pub fn is_answered(&self) -> bool {
        !self.answers.is_empty() || self.answers.is_closed()
    }

    /// Waits for the next answer. All requests have one, but an interrupt that
    /// is answered `pending`: its outcome follows.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Unavailable`] where the hub has been disconnected for too
    /// long; [`Error::Expired`] where it was so for the message; [`Error::Lost`]
    /// where the outcome of the request is unknown; and the error that has ended the task,
    /// if it has ended.
    pub async fn answer(&self) -> Result<HubLine, Error> {
        self.answers.recv().await.map_err(|_| self.end_reason())?
    }
}
