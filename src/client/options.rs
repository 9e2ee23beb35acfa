//! How a client finds its hub, and what it does while that is away.
//!
//! Knows the choices and puts the parts together. Does not know what is said.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use smol::net::unix::UnixStream;

use super::error::Error;
use super::journal::Memory;
use super::link::{Link, Parts};
use super::names::Names;
use super::room::{Room, STANDSTILL};
use super::{Client, Connection, lines};

/// What is kept for a hub that is away: some ten thousand lines of output, and
/// less than anybody misses on a small machine.
const BUFFER: usize = 1 << 20;

/// How long an answer is waited for while the hub is away: longer than a hub
/// takes to start again and to take its workers back.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    path: Arc<Path>,
    buffer: usize,
    patience: Duration,
}

impl Options {
    /// The worker socket, and the usual choices.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().into(), buffer: BUFFER, patience: PATIENCE }
    }

    /// How many bytes may wait for the hub: 1 MiB unless said otherwise. Below
    /// it one more message of any size is taken; what finds no room is dropped,
    /// and its publisher hears [`Error::Full`].
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes;
        self
    }

    /// How long answers are waited for while the hub is away: 10 s unless said
    /// otherwise, [`Duration::MAX`] for as long as it takes. After that they come
    /// as [`Error::Away`].
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Connects, and comes back whenever the connection is lost.
    ///
    /// # Errors
    /// [`Error::Unreachable`], which names the path and says what to look at.
    pub async fn connect(self) -> Result<Connection, Error> {
        let stream = self.reach().await?;
        Ok(self.assemble(Memory::UntilTaken, Some(stream)))
    }

    /// As [`Options::connect`], but the hub need not be there yet: what is said
    /// waits for it as it would after a loss.
    pub fn connect_later(self) -> Connection {
        self.assemble(Memory::UntilTaken, None)
    }

    /// Connects, for as long as this connection lasts. Nothing is repeated, and a
    /// slow hub is waited for however slow it is.
    ///
    /// # Errors
    /// As [`Options::connect`].
    pub async fn connect_once(self) -> Result<Connection, Error> {
        let stream = self.reach().await?;
        Ok(self.assemble(Memory::UntilWritten, Some(stream)))
    }

    async fn reach(&self) -> Result<UnixStream, Error> {
        let unreachable = |error| Error::Unreachable { path: self.path.clone(), why: Arc::new(error) };
        UnixStream::connect(&self.path).await.map_err(unreachable)
    }

    fn assemble(self, memory: Memory, stream: Option<UnixStream>) -> Connection {
        let Self { path, buffer, patience } = self;
        // The room bounds it.
        let (orders, taken) = async_channel::unbounded();
        let (unasked, lines) = lines::queue();
        let over = Arc::new(OnceLock::new());
        let repeats = memory == Memory::UntilTaken;
        let room = Room::new(buffer, repeats.then_some(STANDSTILL));
        let parts = Parts {
            path: path.clone(),
            orders: taken,
            unasked,
            room: room.clone(),
            memory,
            over: over.clone(),
            patience,
        };
        let names = repeats.then(|| Arc::new(Names::new()));
        let link = Link::new(parts, stream);
        Connection { client: Client { orders, room, names, path, over }, lines, link }
    }
}
