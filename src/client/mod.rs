//! The worker's side of the worker socket: publish, listen, and be stopped.
//!
//! Knows how to ask and whose answer is whose. Does not know what the messages
//! mean, or which executor runs it: whoever connects spawns the [`ConnectionTask`].
//!
//! One task, the link, owns the socket. Everybody else holds an end of a queue:
//! a [`Client`] gives orders, [`Pending`] waits for one answer, [`Lines`] hears
//! what comes unasked, and an [`Operation`] holds the latch that an interrupt
//! pulls. So an interrupt never stands behind a message, and nobody but the link
//! notices that one socket has followed another.
//!
//! ```no_run
//! use wshubd::client::{self, Connection, Publication, Start};
//! use wshubd::protocol::EndState;
//!
//! # async fn work() -> Result<(), client::Error> {
//! let Connection { client, link, .. } = client::connect("/run/wshubd/worker.sock").await?;
//! smol::spawn(link.run()).detach();
//!
//! let operation = client.start(Start::new("report-7", "reports")).await?;
//! for page in 1..=100 {
//!     if operation.is_interrupted() {
//!         return operation.end(EndState::Interrupted, &page).await;
//!     }
//!     client.send(&Publication::to_channel("reports", "page", &page)).await?;
//! }
//! operation.end(EndState::Completed, &100).await
//! # }
//! ```
//!
//! # When the hub goes away
//!
//! The link tries again at once, or when the hub has asked for it, and then with
//! growing pauses of up to 5 s, until the hub is back. It stops where the hub
//! says not to come back (close codes 4000 to 4099), turns it away, the system denies
//! the socket, or another user's has taken its place ([`Options::trusted_only`]).
//!
//! - **Operations** are registered again under the same id, with what is left of
//!   the deadline, and can be stopped again. To those who watch, the hub has said
//!   `owner_lost` unless it went away itself; now it says `started`. An interrupt
//!   that has come stays in its latch. Where the hub will not have one again, as
//!   somebody else runs that id, [`Operation::interrupted`] says why.
//! - **Subscriptions** go on after the last position that was heard, so that all
//!   comes that was kept, and a `gap` where something was not.
//! - **Messages** wait, up to a bound, and keep their order. Those that were
//!   written and not confirmed are written again, each under the same
//!   `message_id`, which the hub takes once; only a hub that has lost its memory
//!   of them can take one twice. What finds no room is dropped, counted
//!   ([`Client::dropped`]) and told to its publisher; nothing is dropped after
//!   that, but what has outlived its own `ttl`.
//! - **Answers** are waited for 10 s after the loss, then they come as
//!   [`Error::Away`], and what was asked is given up; only the end of an operation
//!   is told whenever the hub is back. A request that is no message, subscription
//!   or operation, and was on its way, comes as [`Error::Lost`] at once: nobody
//!   knows whether it was carried out.

mod backoff;
mod backpressure;
mod connect;
mod connection;
mod dispatch;
mod error;
mod event;
mod framed;
mod incoming;
mod message_ids;
mod operation;
mod options;
mod request;
mod select;
mod session;
mod socket_trust;
mod unacked;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_channel::{Receiver, Sender};
use serde::Serialize;

pub use connection::ConnectionTask;
pub use error::{Error, Refused};
pub use event::{Heard, Message};
pub use incoming::{Lines, News};
pub use operation::{Interrupt, Operation};
pub use options::Options;
pub use request::{Publication, Published, Start};

use crate::edge::clock;
use backpressure::{Found, SendBudget};
use connection::{Answer, Order};
use message_ids::Names;
use operation::Beginning;
use session::Registration;
use unacked::Kind;

/// A new connection, in its parts.
#[derive(Debug)]
pub struct Connection {
    /// Gives orders; may be cloned.
    pub client: Client,
    /// Hears messages and whatever else comes unasked. May be dropped.
    pub lines: Lines,
    /// Owns the socket; nothing happens until [`ConnectionTask::run`] is polled.
    pub link: ConnectionTask,
}

/// Connects to the worker socket at `path`, and comes back whenever the
/// connection is lost. [`Options`] has other ways.
///
/// # Errors
/// As [`Options::connect`].
pub async fn connect(path: impl AsRef<Path>) -> Result<Connection, Error> {
    Options::new(path).connect().await
}

/// Gives orders to the link. A publisher is slowed down by a slow hub, but not
/// stopped by one that is away or takes nothing.
#[derive(Clone, Debug)]
pub struct Client {
    orders: Sender<Order>,
    room: SendBudget,
    /// Where messages may be repeated.
    names: Option<Arc<Names>>,
    path: Arc<Path>,
    over: Arc<OnceLock<Error>>,
}

impl Client {
    /// The socket that this talks to.
    pub fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }

    /// How many messages and requests have found no room so far.
    pub fn dropped(&self) -> u64 {
        self.room.dropped()
    }

    /// Publishes a message without waiting for the hub to have it. What the hub
    /// finds wrong with it comes as an `error` line among the [`Lines`].
    ///
    /// # Errors
    /// [`Error::Full`] where the message is dropped because the hub is away, or
    /// takes nothing, and too much waits for it; [`Error::Unspeakable`] for what
    /// has no JSON form; and why the link has ended, if it has.
    pub async fn send(&self, message: &Publication<'_, impl Serialize + ?Sized>) -> Result<(), Error> {
        let (kind, line) = self.publication(message)?;
        self.order(kind, line, None, None).await
    }

    /// Publishes a message and waits until the hub has it.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Pending::answer`]; with any, the message is given
    /// up.
    pub async fn publish(
        &self,
        message: &Publication<'_, impl Serialize + ?Sized>,
    ) -> Result<Published, Error> {
        self.begin_publish(message).await?.answer().await?.read()
    }

    /// As [`Client::publish`], for those who have many messages on their way:
    /// they are answered in order, unless they wait for the disk.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn begin_publish(
        &self,
        message: &Publication<'_, impl Serialize + ?Sized>,
    ) -> Result<Pending, Error> {
        let (kind, line) = self.publication(message)?;
        self.ask(kind, line, None).await
    }

    /// Hears a channel from now on, and what waits there undelivered.
    ///
    /// # Errors
    /// As [`Client::begin_subscribe`] and [`Pending::answer`].
    pub async fn subscribe(&self, channel: &str) -> Result<(), Error> {
        self.begin_subscribe(channel).await?.answer().await.map(drop)
    }

    /// As [`Client::subscribe`], for those who hear many channels.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn begin_subscribe(&self, channel: &str) -> Result<Pending, Error> {
        let line = spoken(&request::Subscribe { channel, since: None })?;
        self.ask(Kind::Subscribe(channel.into()), line, None).await
    }

    /// Hears a channel no more, once the answer has come.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Pending::answer`].
    pub async fn unsubscribe(&self, channel: &str) -> Result<(), Error> {
        let line = spoken(&request::Unsubscribe { channel })?;
        self.ask(Kind::Unsubscribe(channel.into()), line, None).await?.answer().await.map(drop)
    }

    /// Begins an operation, which can be interrupted from then on.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Pending::answer`]; `conflict` where one of that id
    /// runs already.
    pub async fn start(&self, start: Start<'_>) -> Result<Operation, Error> {
        let (operation, pending) = self.begin(start).await?;
        Beginning::new(pending, operation).answered().await
    }

    /// As [`Client::start`], for work that does not wait for the hub: the operation
    /// is there at once, and its latch can be pulled from the moment at which the
    /// hub has it. What [`Pending::answer`] gives says whether that takes it; where
    /// it does not, [`Operation::interrupted`] says why, too.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn begin(&self, start: Start<'_>) -> Result<(Operation, Pending), Error> {
        let (latch, pulled) = async_channel::bounded(1);
        let fate = Arc::new(OnceLock::new());
        let registration = Registration {
            channel: start.channel.into(),
            user_id: start.user_id.map(Into::into),
            label: start.label.map(Into::into),
            deadline: start.deadline.map(|deadline| clock::now().moment + deadline),
            interrupt_grace: start.interrupt_grace,
            latch,
            fate: fate.clone(),
        };
        let kind = Kind::Start(start.operation_id.into());
        let pending = self.ask(kind, spoken(&start)?, Some(registration)).await?;
        let operation = Operation::new(pending.clone(), start.operation_id, pulled, fate);
        Ok((operation, pending))
    }

    /// Waits until the hub has all that this client has sent so far.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Pending::answer`]; what was sent still waits.
    pub async fn flush(&self) -> Result<(), Error> {
        self.ask(Kind::Flush, spoken(&request::Ping {})?, None).await?.answer().await.map(drop)
    }

    /// Sends a line of any kind, without an `id`: it gets one. It is never
    /// repeated. For messages, subscriptions and operations there are better ways.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn request(&self, line: &impl Serialize) -> Result<Pending, Error> {
        self.ask(Kind::Ask, spoken(line)?, None).await
    }

    fn publication(
        &self,
        message: &Publication<'_, impl Serialize + ?Sized>,
    ) -> Result<(Kind, Vec<u8>), Error> {
        let mut line = spoken(message)?;
        if let (Some(names), None) = (&self.names, message.message_id) {
            names.add(&mut line);
        }
        let expires = message.ttl.map(|ttl| clock::now().moment + ttl);
        Ok((Kind::Publish { expires, durable: message.durable }, line))
    }

    async fn ask(&self, kind: Kind, line: Vec<u8>, begins: Option<Registration>) -> Result<Pending, Error> {
        // Two: an interrupt of an operation that nobody owns yet is answered twice.
        let (answer, answers) = async_channel::bounded(2);
        self.order(kind, line, Some(answer), begins).await?;
        Ok(Pending { answers, client: self.clone() })
    }

    async fn order(
        &self,
        kind: Kind,
        line: Vec<u8>,
        answer: Option<Sender<Answer>>,
        begins: Option<Registration>,
    ) -> Result<(), Error> {
        let weight = backpressure::weight(&line);
        match kind {
            // The last word about an operation always finds room.
            Kind::End(_) => self.room.take_anyway(weight),
            _ => match self.room.take(weight).await {
                Found::Room => {}
                Found::None if self.orders.is_closed() => return Err(self.lost()),
                Found::None => return Err(Error::Full { bound: self.room.bound() }),
            },
        }
        let order = Order { kind, line, weight, answer, begins };
        self.orders.try_send(order).map_err(|_| self.lost())
    }

    /// Why nothing more comes, once [`Lines`] or an answer has ended.
    pub fn lost(&self) -> Error {
        let unsaid = || Error::Lost { path: self.path.clone(), why: "its link has ended".into() };
        self.over.get().cloned().unwrap_or_else(unsaid)
    }
}

/// An answer that is still to come. Of clones one gets it.
#[derive(Clone, Debug)]
pub struct Pending {
    answers: Receiver<Answer>,
    client: Client,
}

impl Pending {
    /// Lets no answer come any more, and says whether a good one has come.
    fn close(&self) -> bool {
        self.answers.close();
        matches!(self.answers.try_recv(), Ok(Ok(_)))
    }

    /// Whether an answer, or why there is none, can be had without waiting.
    pub fn is_answered(&self) -> bool {
        !self.answers.is_empty() || self.answers.is_closed()
    }

    /// Waits for the next answer. All requests have one, but an interrupt that
    /// is answered `pending`: its outcome follows.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Away`] where the hub has been away for too
    /// long; [`Error::Expired`] where it was so for the message; [`Error::Lost`]
    /// where nobody knows what became of the request; and why the link has ended,
    /// if it has.
    pub async fn answer(&self) -> Result<Heard, Error> {
        self.answers.recv().await.map_err(|_| self.client.lost())?
    }
}

fn spoken(line: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(line).map_err(|error| Error::Unspeakable(error.to_string()))?;
    if line.len() < 3 || line.first() != Some(&b'{') {
        return Err(Error::Unspeakable("a request is an object with at least one field".into()));
    }
    // JSON that is passed on as it is spelled may go over several lines; what is
    // within its strings cannot.
    for byte in line.iter_mut().filter(|byte| **byte == b'\n') {
        *byte = b' ';
    }
    Ok(line)
}
