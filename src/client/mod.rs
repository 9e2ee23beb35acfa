//! The worker's side of the worker socket: publish, listen, and be stopped.
//!
//! Knows how to ask and whose answer is whose. Does not know what the messages
//! mean, or which executor runs it: whoever connects spawns the [`Link`].
//!
//! One task, the link, owns the socket. Everybody else holds an end of a queue:
//! a [`Client`] gives orders, [`Pending`] waits for one answer, [`Lines`] hears
//! what comes unasked, and an [`Operation`] holds the latch that an interrupt
//! pulls. So nothing but the link would have to know of a second socket after
//! the first, and an interrupt never stands behind a message.
//!
//! ```no_run
//! use wshubd::client::{self, Connection, Publication, Start};
//! use wshubd::protocol::Ending;
//!
//! # async fn work() -> Result<(), client::Error> {
//! let Connection { client, link, .. } = client::connect("/run/wshubd/worker.sock").await?;
//! smol::spawn(link.run()).detach();
//!
//! let operation = client.start(Start::new("report-7", "reports")).await?;
//! for page in 1..=100 {
//!     if operation.is_interrupted() {
//!         return operation.end(Ending::Interrupted, &page).await;
//!     }
//!     client.publish(&Publication::to_channel("reports", "page", &page)).await?;
//! }
//! operation.end(Ending::Completed, &100).await
//! # }
//! ```

mod ask;
mod error;
mod heard;
mod lines;
mod link;
mod operation;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_channel::{Receiver, Sender};
use serde::Serialize;
use smol::net::unix::UnixStream;

pub use ask::{Publication, Published, Start};
pub use error::{Error, Refused};
pub use heard::{Heard, Message};
pub use lines::Lines;
pub use link::Link;
pub use operation::{Interrupt, Operation};

use link::{Answer, Latching, Order};

/// Orders that may wait for the link: enough to fill one write of small lines,
/// few enough that a publisher feels a slow hub soon.
const WAITING_ORDERS: usize = 256;

/// A new connection, in its parts.
#[derive(Debug)]
pub struct Connection {
    /// Gives orders; may be cloned.
    pub client: Client,
    /// Hears messages and whatever else comes unasked. May be dropped.
    pub lines: Lines,
    /// Owns the socket; nothing happens until [`Link::run`] is polled.
    pub link: Link,
}

/// Connects to the worker socket at `path`.
///
/// # Errors
/// [`Error::Unreachable`], which names the path and says what to look at.
pub async fn connect(path: impl AsRef<Path>) -> Result<Connection, Error> {
    let path: Arc<Path> = path.as_ref().into();
    let stream = UnixStream::connect(&path)
        .await
        .map_err(|error| Error::Unreachable { path: path.clone(), why: Arc::new(error) })?;
    let (orders, taken) = async_channel::bounded(WAITING_ORDERS);
    let (unasked, lines) = lines::queue();
    let over = Arc::new(OnceLock::new());
    let link = Link::new(stream, path.clone(), taken, unasked, over.clone());
    Ok(Connection { client: Client { orders, path, over }, lines, link })
}

/// Gives orders to the link. Each waits while the link has as many as it takes,
/// so that a publisher is slowed down by a slow hub.
#[derive(Clone, Debug)]
pub struct Client {
    orders: Sender<Order>,
    path: Arc<Path>,
    over: Arc<OnceLock<Error>>,
}

impl Client {
    /// The socket that this talks to.
    pub fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }

    /// Sends a line that wants no answer. What is wrong with it comes as an
    /// `error` line among the [`Lines`].
    ///
    /// # Errors
    /// [`Error::Unspeakable`] for what has no JSON form, [`Error::Lost`].
    pub async fn send(&self, line: &impl Serialize) -> Result<(), Error> {
        self.order(Order { line: spoken(line)?, answer: None, latching: Latching::None }).await
    }

    /// Sends a line under an id of its own. The answer may be awaited later:
    /// many requests can be on their way at once, and are answered in order.
    ///
    /// # Errors
    /// As [`Client::send`]; what the hub refuses shows in the answer.
    pub async fn request(&self, line: &impl Serialize) -> Result<Pending, Error> {
        self.request_with(line, Latching::None).await
    }

    /// Publishes a message and waits until the hub has it.
    ///
    /// # Errors
    /// As [`Client::request`], and [`Error::Refused`].
    pub async fn publish(
        &self,
        message: &Publication<'_, impl Serialize + ?Sized>,
    ) -> Result<Published, Error> {
        self.request(message).await?.answer().await?.read()
    }

    /// Hears a channel from now on, and what waits there undelivered.
    ///
    /// # Errors
    /// As [`Client::request`], and [`Error::Refused`].
    pub async fn subscribe(&self, channel: &str) -> Result<(), Error> {
        self.request(&ask::Subscribe::to(channel)).await?.answer().await.map(drop)
    }

    /// Begins an operation, which can be interrupted from then on.
    ///
    /// # Errors
    /// As [`Client::request`], and [`Error::Refused`]: `conflict` where one of
    /// that id runs already.
    pub async fn start(&self, start: Start<'_>) -> Result<Operation, Error> {
        let (latch, pulled) = async_channel::bounded(1);
        let latching = Latching::Attach(start.operation_id.into(), latch);
        self.request_with(&start, latching).await?.answer().await?;
        Ok(Operation::new(self.clone(), start.operation_id, pulled))
    }

    async fn request_with(&self, line: &impl Serialize, latching: Latching) -> Result<Pending, Error> {
        // Two: an interrupt of an operation that nobody owns yet is answered twice.
        let (answer, answers) = async_channel::bounded(2);
        self.order(Order { line: spoken(line)?, answer: Some(answer), latching }).await?;
        Ok(Pending { answers, client: self.clone() })
    }

    async fn order(&self, order: Order) -> Result<(), Error> {
        self.orders.send(order).await.map_err(|_| self.lost())
    }

    /// Why nothing more comes, once [`Lines`] or an answer has ended.
    pub fn lost(&self) -> Error {
        let unsaid = || Error::Lost { path: self.path.clone(), why: "its link has ended".into() };
        self.over.get().cloned().unwrap_or_else(unsaid)
    }
}

/// An answer that is still to come.
#[derive(Debug)]
pub struct Pending {
    answers: Receiver<Answer>,
    client: Client,
}

impl Pending {
    /// Waits for the next answer. All requests have one, but an interrupt that
    /// is answered `pending`: its outcome follows.
    ///
    /// # Errors
    /// [`Error::Refused`], and [`Error::Lost`] where the connection ended first.
    pub async fn answer(&self) -> Result<Heard, Error> {
        self.answers.recv().await.map_err(|_| self.client.lost())?
    }
}

fn spoken(line: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(line).map_err(|error| Error::Unspeakable(error.to_string()))
}
