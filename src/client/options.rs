//! How a client finds its hub, and what it does while that is away.
//!
//! Knows the choices and puts the parts together. Does not know what is said.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use smol::net::unix::UnixStream;

use super::backpressure::{STANDSTILL, SendBudget};
use super::connect::{Trust, connect};
use super::connection::{ConnectionTask, Parts};
use super::error::Error;
use super::message_ids::Names;
use super::unacked::Memory;
use super::{Client, Connection, incoming};

/// What is kept for a hub that is away: some ten thousand lines of output, and
/// less than anybody misses on a small machine.
const BUFFER: usize = 1 << 20;

/// How long an answer is waited for while the hub is away: longer than a hub
/// takes to start again and to take its workers back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the worker socket may be.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: Arc<Path>,
    trust: Trust,
}

impl Place {
    pub(super) fn connect(&self) -> Result<UnixStream, Error> {
        connect(&self.path, self.trust)
    }
}

/// One or more of them.
#[derive(Clone, Debug)]
pub(super) struct Places {
    first: Place,
    others: Vec<Place>,
}

impl Places {
    /// The first that exists now; the first of all where none does.
    pub(super) fn present(&self) -> &Place {
        let others = || self.others.iter().find(|place| place.path.exists());
        let present = if self.first.path.exists() { None } else { others() };
        present.unwrap_or(&self.first)
    }
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    places: Places,
    buffer: usize,
    patience: Duration,
    standstill: Duration,
    denial_ends: bool,
}

impl Options {
    /// The worker socket, and the usual choices.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let first = Place { path: path.as_ref().into(), trust: Trust::Named };
        let places = Places { first, others: Vec::new() };
        Self { places, buffer: BUFFER, patience: PATIENCE, standstill: STANDSTILL, denial_ends: true }
    }

    /// Where else the worker socket may be found, if it is not at the path: each attempt
    /// is made at the first of all that exists then. These are used as with
    /// [`Options::trusted_only`].
    #[must_use]
    pub fn or_at(mut self, others: impl IntoIterator<Item = PathBuf>) -> Self {
        let found = |path: PathBuf| Place { path: path.into(), trust: Trust::Found };
        self.places.others.extend(others.into_iter().map(found));
        self
    }

    /// Goes on looking for the hub where the system denies the socket: its mode may
    /// be put right. Otherwise some denials, one after another, are the end.
    #[must_use]
    pub fn despite_denial(mut self) -> Self {
        self.denial_ends = false;
        self
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

    /// For how long a publisher waits on a hub that is there and takes nothing at all: 5 s
    /// unless said otherwise. After that what finds no room is dropped, as for one that is
    /// away.
    #[must_use]
    pub fn standstill(mut self, standstill: Duration) -> Self {
        self.standstill = standstill;
        self
    }

    /// Connects only where the process behind the socket has our own uid or root's, or
    /// where nobody else can have put the socket there: in a directory in which everybody
    /// may write, what leads to it belongs to us or to root. For a path
    /// that was found rather than named.
    #[must_use]
    pub fn trusted_only(mut self) -> Self {
        self.places.first.trust = Trust::Found;
        self
    }

    /// Connects, and comes back whenever the connection is lost.
    ///
    /// # Errors
    /// [`Error::Unreachable`], which names the path and says what to look at, and
    /// [`Error::Untrusted`] after [`Options::trusted_only`].
    pub async fn connect(self) -> Result<Connection, Error> {
        let stream = self.places.present().connect()?;
        Ok(self.assemble(Memory::UntilTaken, Some(stream)))
    }

    /// As [`Options::connect`], but the hub need not be there yet: what is said
    /// waits for it as it would after a loss. Where the first attempt finds nobody,
    /// [`News::Away`](super::News::Away) says so; [`News::Back`](super::News::Back)
    /// comes when the hub has answered for the first time.
    pub fn connect_later(self) -> Connection {
        self.assemble(Memory::UntilTaken, None)
    }

    /// Connects, for as long as this connection lasts. Nothing is repeated, and a
    /// slow hub is waited for however slow it is.
    ///
    /// # Errors
    /// As [`Options::connect`].
    pub async fn connect_once(self) -> Result<Connection, Error> {
        let stream = self.places.present().connect()?;
        Ok(self.assemble(Memory::UntilWritten, Some(stream)))
    }

    fn assemble(self, memory: Memory, stream: Option<UnixStream>) -> Connection {
        let Self { places, buffer, patience, standstill, denial_ends } = self;
        let path = places.present().path.clone();
        // The room bounds it.
        let (orders, taken) = async_channel::unbounded();
        let (unasked, lines) = incoming::queue();
        let over = Arc::new(OnceLock::new());
        let repeats = memory == Memory::UntilTaken;
        let room = SendBudget::new(buffer, repeats.then_some(standstill));
        let parts = Parts {
            places,
            orders: taken,
            unasked,
            room: room.clone(),
            memory,
            over: over.clone(),
            patience,
            denial_ends,
        };
        let names = repeats.then(|| Arc::new(Names::new()));
        let link = ConnectionTask::new(parts, stream);
        Connection { client: Client { orders, room, names, path, over }, lines, link }
    }
}
