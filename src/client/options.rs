//! How a client finds its hub, and what it does while that is away.
//!
//! Knows the choices and puts the parts together. Does not know what is said.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use smol::net::unix::UnixStream;

use super::connect::{Trust, connect};
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
    trust: Trust,
}

impl Options {
    /// The worker socket, and the usual choices.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().into(), buffer: BUFFER, patience: PATIENCE, trust: Trust::Named }
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

    /// Connects only where the process behind the socket has our own uid or root's, or
    /// where nobody else can have put the socket there: below a directory in which
    /// everybody may write, all that leads to it belongs to us or to root. For a path
    /// that was found rather than named.
    #[must_use]
    pub fn trusted_only(mut self) -> Self {
        self.trust = Trust::Found;
        self
    }

    /// Connects, and comes back whenever the connection is lost.
    ///
    /// # Errors
    /// [`Error::Unreachable`], which names the path and says what to look at, and
    /// [`Error::Untrusted`] after [`Options::trusted_only`].
    pub async fn connect(self) -> Result<Connection, Error> {
        let stream = connect(&self.path, self.trust)?;
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
        let stream = connect(&self.path, self.trust)?;
        Ok(self.assemble(Memory::UntilWritten, Some(stream)))
    }

    fn assemble(self, memory: Memory, stream: Option<UnixStream>) -> Connection {
        let Self { path, buffer, patience, trust } = self;
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
            trust,
        };
        let names = repeats.then(|| Arc::new(Names::new()));
        let link = Link::new(parts, stream);
        Connection { client: Client { orders, room, names, path, over }, lines, link }
    }
}
