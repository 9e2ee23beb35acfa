//! Hand-over of all connections from one process to the next, unnoticed by their peers.
//!
//! Hub, store and connections go along as bytes in a sealed file, sockets in the queue of one
//! socket, in the order in which the file lists them. Both come to the next process by exec in
//! place ([`exec`]), or through systemd's store of descriptors ([`fd_store`]).
//!
//! Packing changes nothing that could be noticed. If no process takes over, this one goes on, and
//! the copies are closed.
//!
//! Moments are those of the machine's clock since it was started, so they stay
//! true in another process.

pub mod drain;
pub mod exec;
mod export;
mod fd_passing;
pub mod fd_store;
mod format;
mod import;
mod memfd;
mod refuse;

use std::error::Error;
use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::clock;
use super::driver::Driver;
use super::driver::state::DriverImport;
use super::net::connection::ConnectionState;
use super::net::listeners::{ListenerName, Listeners, NamedSocket, Passed};
use super::store;
use super::store::Store;
use crate::binary_codec::Source;
use crate::hub::{Hub, Settings};
use crate::protocol::Moment;
use format::Table;
use memfd::{DescriptorCounts, MemfdWriter, Sealed};

/// All that goes to the next process, as two descriptors.
#[derive(Debug)]
pub struct Package {
    /// The sealed file.
    pub state: OwnedFd,
    /// The socket in whose queue all others wait.
    pub descriptors: OwnedFd,
}

/// A package that another process may take.
#[derive(Debug)]
pub struct SentPackage {
    pub package: Package,
    /// The other end of the socket.
    sender: OwnedFd,
}

impl SentPackage {
    /// Lets the package go; whether another process has it, and still has it after so long.
    pub fn release(self, patience: Duration) -> bool {
        let Self { package, sender } = self;
        drop(package);
        fd_passing::is_held(&sender, patience)
    }
}

/// The way to the next process.
#[derive(Clone, Copy, Debug)]
pub enum Transport<'a> {
    /// By exec. The lock on the state directory goes along, so that no other process gets in
    /// between.
    Exec(&'a File),
    /// Through systemd, which starts no other process meanwhile, and passes on by
    /// itself what it has opened.
    Systemd,
}

/// Packs all that the daemon is.
///
/// # Errors
/// When memory or descriptors do not suffice. This daemon can go on in any case.
pub fn pack(driver: &mut Driver, listeners: &Listeners, transport: Transport<'_>) -> io::Result<SentPackage> {
    let mut writer = MemfdWriter::new()?;
    let (lock, passed) = match transport {
        Transport::Exec(lock) => (Some(lock), Passed::Included),
        Transport::Systemd => (None, Passed::Excluded),
    };
    let pending = listeners.pending().borrow();
    let names = listeners.sockets(passed).map(|(name, _)| name.clone()).collect();
    let timeouts = pending.unread().map(|(until, _)| until).collect();
    let table = export::table(driver, &mut writer, names, timeouts)?;
    let mut descriptors: Vec<BorrowedFd<'_>> = lock.iter().map(|lock| lock.as_fd()).collect();
    descriptors.extend(listeners.sockets(passed).map(|(_, socket)| socket));
    descriptors.extend(driver.sockets());
    descriptors.extend(pending.unread().map(|(_, stream)| stream.as_fd()));
    let counts = DescriptorCounts {
        locks: usize::from(lock.is_some()),
        listeners: table.listeners.len(),
        connections: table.connections.len(),
        pending: table.pending.len(),
    };
    let table = serde_json::to_vec(&table)?;
    let state = writer.seal(counts, &table)?;
    let (sender, descriptors) = fd_passing::send(&descriptors)?;
    Ok(SentPackage { package: Package { state, descriptors }, sender })
}

/// What another process has handed over to this one.
#[derive(Default)]
pub struct ReceivedHandover {
    /// The lock on the state directory.
    lock: Option<File>,
    listeners: Vec<NamedSocket>,
    /// Pending connections, and when each times out.
    pending: Vec<(Option<Moment>, TcpStream)>,
    /// Sockets of connections that cannot be gone on with.
    unusable: Vec<OwnedFd>,
    /// Something has come, whatever it is.
    has_come: bool,
    state: Option<ReceivedState>,
    /// What this process does not go on with, as far as it was understood.
    unused: Option<UnusedState>,
}

/// A hub and its store, as bytes.
#[derive(Debug)]
pub struct UnusedState {
    pub hub: io::Result<Vec<u8>>,
    pub store: io::Result<Vec<u8>>,
}

impl UnusedState {
    fn of(sealed: &Sealed, table: &Table) -> Self {
        Self { hub: sealed.get(table.hub), store: sealed.get(table.store) }
    }
}

/// What is gone on with.
struct ReceivedState {
    table: Table,
    /// As many as there are sockets.
    connections: Vec<ConnectionState>,
    sockets: Vec<OwnedFd>,
    sealed: Sealed,
}

/// The connections that were taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakenOver {
    pub count: usize,
    /// Since when they were not read from.
    pub since: Moment,
}

impl ReceivedHandover {
    /// Unpacks what has come, as far as it is understood.
    pub fn unpack(package: Package) -> Self {
        let Package { state, descriptors } = package;
        let mut descriptors = fd_passing::receive(descriptors).unwrap_or_else(|error| {
            log::error!("connections were handed over and could not be taken: {error}");
            Vec::new()
        });
        let sealed = Sealed::open(state).and_then(|sealed| {
            let are_all_here = descriptors.len() == sealed.counts.total();
            are_all_here.then_some(sealed).ok_or_else(|| io::Error::other("descriptors are missing"))
        });
        let received = match sealed {
            Ok(sealed) => Self::sort(sealed, descriptors),
            Err(error) => {
                log_unusable(&error);
                // Which of them are connections is not known; a listener has no peer.
                descriptors.retain(|socket| rustix::net::getpeername(socket).is_ok());
                Self { unusable: descriptors, ..Self::default() }
            }
        };
        Self { has_come: true, ..received }
    }

    /// Sorts the descriptors by what each is for.
    fn sort(sealed: Sealed, descriptors: Vec<OwnedFd>) -> Self {
        let counts = sealed.counts;
        let mut descriptors = descriptors.into_iter();
        let lock = descriptors.by_ref().take(counts.locks).last().map(File::from);
        let listeners: Vec<OwnedFd> = descriptors.by_ref().take(counts.listeners).collect();
        let sockets: Vec<OwnedFd> = descriptors.by_ref().take(counts.connections).collect();
        let pending: Vec<TcpStream> = descriptors.map(TcpStream::from).collect();
        let table = sealed.table().and_then(|table| Ok(serde_json::from_slice::<Table>(&table)?));
        match table {
            Ok(mut table) => {
                let names = std::mem::take(&mut table.listeners).into_iter();
                let named = names.zip(listeners).map(|(name, socket)| NamedSocket { name, socket });
                let until = std::mem::take(&mut table.pending).into_iter().map(Some);
                let (listeners, pending) = (named.collect(), until.zip(pending).collect());
                let received = Self { lock, listeners, pending, ..Self::default() };
                received.with_connections(sealed, table, sockets)
            }
            Err(error) => {
                log_unusable(&error);
                let pending = pending.into_iter().map(|stream| (None, stream)).collect();
                Self { lock, pending, unusable: sockets, ..Self::default() }
            }
        }
    }

    fn with_connections(mut self, sealed: Sealed, mut table: Table, sockets: Vec<OwnedFd>) -> Self {
        match import::connections(&sealed, &mut table) {
            Ok(connections) => self.state = Some(ReceivedState { table, connections, sockets, sealed }),
            Err(error) => {
                log_unusable(&error);
                self.unusable = sockets;
                self.unused = Some(UnusedState::of(&sealed, &table));
            }
        }
        self
    }

    /// Whether a process before this one has handed anything over.
    pub fn has_come(&self) -> bool {
        self.has_come
    }

    /// The lock on the state directory, which the process before this one has kept.
    pub fn lock(&self) -> Option<&File> {
        self.lock.as_ref()
    }

    /// Releases the lock, now that this process has its own.
    pub fn release_lock(&mut self) {
        self.lock = None;
    }

    /// Takes what systemd had passed to the process before, by name.
    pub fn take_passed(&mut self) -> Vec<(String, OwnedFd)> {
        let is_passed = |listener: &mut NamedSocket| matches!(listener.name, ListenerName::Passed(_));
        let passed = self.listeners.extract_if(.., is_passed);
        let named = passed.map(|NamedSocket { name, socket }| match name {
            ListenerName::Passed(name) => (name, socket),
            ListenerName::Clients(_) | ListenerName::Workers(_) => (String::new(), socket),
        });
        named.collect()
    }

    /// Takes the other listening sockets.
    pub fn take_listeners(&mut self) -> Vec<NamedSocket> {
        std::mem::take(&mut self.listeners)
    }

    /// Takes the pending connections, and when each times out.
    pub fn take_pending(&mut self) -> Vec<(Option<Moment>, TcpStream)> {
        std::mem::take(&mut self.pending)
    }

    /// How many connections are pending.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The hub and its store, if they can be gone on with: either both or none, for
    /// one counts what the other has. `options` are those of a disk.
    pub fn revive(
        &mut self,
        settings: &Settings,
        options: Option<store::StoreOptions>,
    ) -> Option<(Hub, Store)> {
        let state = self.state.as_ref()?;
        match state.revive(settings, options) {
            Ok(revived) => Some(revived),
            Err(error) => {
                log_unusable(&*error);
                self.unusable = self.give_up();
                None
            }
        }
    }

    /// Goes on with the connections that have come, after [`Self::revive`].
    pub fn take_over(&mut self, driver: &mut Driver) -> Option<TakenOver> {
        let ReceivedState { table, connections, sockets, .. } = self.state.take()?;
        let taken_over = TakenOver { count: connections.len(), since: table.since };
        driver.import(DriverImport {
            connections: connections.into_iter().zip(sockets).collect(),
            closing: table.closing,
            last_http_request: table.last_http_request,
        });
        Some(taken_over)
    }

    /// Takes what is not gone on with: it was not understood in all its parts, or this process
    /// does not become the daemon.
    pub fn take_unused(&mut self) -> Option<UnusedState> {
        self.unused.take()
    }

    /// Goes on with nothing: returns the sockets of all connections.
    fn give_up(&mut self) -> Vec<OwnedFd> {
        let mut unusable = std::mem::take(&mut self.unusable);
        if let Some(ReceivedState { table, sockets, sealed, .. }) = self.state.take() {
            self.unused = Some(UnusedState::of(&sealed, &table));
            unusable.extend(sockets);
        }
        unusable
    }
}

impl ReceivedState {
    fn revive(
        &self,
        settings: &Settings,
        options: Option<store::StoreOptions>,
    ) -> Result<(Hub, Store), Box<dyn Error>> {
        let (mut hub, mut store) = (self.sealed.reader(self.table.hub), self.sealed.reader(self.table.store));
        let hub = Hub::read(settings.clone(), Source::new(&mut hub))?;
        let store = Store::read(options, clock::now(), Source::new(&mut store), |key| hub.shared(key))?;
        Ok((hub, store))
    }
}

fn log_unusable(error: &dyn std::fmt::Display) {
    log::error!(
        "what the daemon before this one has handed over cannot be used: {error}; its connections are told to come back"
    );
}
