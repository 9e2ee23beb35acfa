//! From one process to the next, without anybody noticing.
//!
//! Knows what goes along: hub, store and links as bytes in a sealed file, and
//! the sockets in a pouch, in the order in which the file lists them. Does not
//! know how the two come to the next process: by exec in place, in
//! [`exec`], or through systemd's store of descriptors.
//!
//! Packing changes nothing that anybody could notice. If nobody takes over, the
//! packed daemon goes on, and the copies are closed.
//!
//! Moments are those of the machine's clock since it was started, so they stay
//! true in another process.

mod adopt;
pub mod drain;
pub mod exec;
mod export;
mod fd_passing;
pub mod fd_store;
pub mod format;
mod import;
mod listeners;
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
use super::net::listeners::Listeners;
use super::store;
use super::store::Store;
use crate::binary_codec::Source;
use crate::hub::{Hub, Settings};
use crate::protocol::Moment;
use format::{Door, Table};
use import::ImportedLinks;
use memfd::{Counts, MemfdWriter, Sealed};

/// All that goes to the next process, as two descriptors.
#[derive(Debug)]
pub struct Package {
    /// The sealed file.
    pub state: OwnedFd,
    /// The socket in which all others wait.
    pub pouch: OwnedFd,
}

/// A parcel that was packed, and that others may have.
#[derive(Debug)]
pub struct Sent {
    pub parcel: Package,
    into: OwnedFd,
}

impl Sent {
    /// Whether somebody else has it, now that this process lets it go, and still has it
    /// after so long.
    pub fn is_held(self, patience: Duration) -> bool {
        let Self { parcel, into } = self;
        drop(parcel);
        fd_passing::is_held(&into, patience)
    }
}

/// What the next process would listen at and could not.
#[derive(Debug)]
pub struct Unavailable {
    pub why: String,
    /// Somebody else has it; otherwise another process may be allowed what this one is
    /// not.
    pub is_taken: bool,
}

/// How the parcel travels.
#[derive(Clone, Copy, Debug)]
pub enum Way<'a> {
    /// By exec. The lock on the state directory goes along, so that nobody gets in
    /// between.
    InPlace(&'a File),
    /// Through systemd, which starts no other process meanwhile, and passes on by
    /// itself what it has opened.
    Systemd,
}

/// Packs all that the daemon is.
///
/// # Errors
/// When memory or descriptors do not suffice. This daemon can go on in any case.
pub fn pack(driver: &mut Driver, doors: &Listeners, way: Way<'_>) -> io::Result<Sent> {
    let mut draft = MemfdWriter::new()?;
    // Whoever takes over writes to the same links.
    let _ = driver.permit_to_write();
    let guests = doors.guests().borrow();
    let names = doors.going(way).map(|(name, _)| name.clone()).collect();
    let table = driver.export(&mut draft, names, guests.silent().map(|(until, _)| until).collect())?;
    let lock = if let Way::InPlace(lock) = way { Some(lock) } else { None };
    let mut descriptors: Vec<BorrowedFd<'_>> = lock.iter().map(|lock| lock.as_fd()).collect();
    descriptors.extend(doors.going(way).map(|(_, socket)| socket));
    descriptors.extend(driver.links.wires());
    descriptors.extend(guests.silent().map(|(_, stream)| stream.as_fd()));
    let counts = Counts {
        locks: usize::from(lock.is_some()),
        doors: table.doors.len(),
        links: table.links.len(),
        guests: table.guests.len(),
    };
    let table = serde_json::to_vec(&table)?;
    let state = draft.seal(counts, &table)?;
    let (into, pouch) = fd_passing::fill(&descriptors)?;
    Ok(Sent { parcel: Package { state, pouch }, into })
}

/// What another process has left for this one.
#[derive(Default)]
pub struct Arrival {
    /// The lock on the state directory.
    pub lock: Option<File>,
    /// Listening sockets, with the names under which they were opened.
    pub doors: Vec<(Door, OwnedFd)>,
    /// Who has not spoken yet, and until when that may be so.
    pub guests: Vec<(Option<Moment>, TcpStream)>,
    /// Links that cannot be gone on with are told goodbye.
    strangers: Vec<OwnedFd>,
    /// Something has come, whatever it is.
    has_come: bool,
    legacy: Option<ReceivedState>,
    /// What nobody goes on with, where it was understood so far.
    unused: Option<State>,
}

/// A hub and its store, as bytes.
#[derive(Debug)]
pub struct State {
    pub hub: io::Result<Vec<u8>>,
    pub store: io::Result<Vec<u8>>,
}

impl State {
    fn of(sealed: &Sealed, table: &Table) -> Self {
        Self { hub: sealed.get(table.hub), store: sealed.get(table.store) }
    }
}

/// What is gone on with.
struct ReceivedState {
    table: Table,
    whole: ImportedLinks,
    sealed: Sealed,
}

impl Arrival {
    /// Unpacks what has come, as far as it is understood.
    pub fn unpack(parcel: Package) -> Self {
        let Package { state, pouch } = parcel;
        let mut descriptors = fd_passing::empty(pouch).unwrap_or_else(|error| {
            log::error!("connections were handed over and could not be taken: {error}");
            Vec::new()
        });
        let sealed = Sealed::open(state).and_then(|sealed| {
            let Counts { locks, doors, links, guests } = sealed.counts;
            let are_all_here = descriptors.len() == locks + doors + links + guests;
            are_all_here.then_some(sealed).ok_or_else(|| io::Error::other("descriptors are missing"))
        });
        let arrival = match sealed {
            Ok(sealed) => Self::sort(sealed, descriptors),
            Err(error) => {
                complain(&error);
                // Which of them are links nobody knows; a listener has no peer.
                descriptors.retain(|socket| rustix::net::getpeername(socket).is_ok());
                Self { strangers: descriptors, ..Self::default() }
            }
        };
        Self { has_come: true, ..arrival }
    }

    /// Tells the descriptors from one another.
    fn sort(sealed: Sealed, descriptors: Vec<OwnedFd>) -> Self {
        let Counts { locks, doors, links, .. } = sealed.counts;
        let mut descriptors = descriptors.into_iter();
        let lock = descriptors.by_ref().take(locks).last().map(File::from);
        let doors: Vec<OwnedFd> = descriptors.by_ref().take(doors).collect();
        let links: Vec<OwnedFd> = descriptors.by_ref().take(links).collect();
        let guests: Vec<TcpStream> = descriptors.map(TcpStream::from).collect();
        let table = sealed.table().and_then(|table| Ok(serde_json::from_slice::<Table>(&table)?));
        match table {
            Ok(mut table) => {
                let doors = std::mem::take(&mut table.doors).into_iter().zip(doors).collect();
                let until = std::mem::take(&mut table.guests).into_iter().map(Some);
                let guests = until.zip(guests).collect();
                let arrival = Self { lock, doors, guests, ..Self::default() };
                arrival.with_links(sealed, table, links)
            }
            Err(error) => {
                complain(&error);
                let guests = guests.into_iter().map(|guest| (None, guest)).collect();
                Self { lock, guests, strangers: links, ..Self::default() }
            }
        }
    }

    fn with_links(mut self, sealed: Sealed, mut table: Table, sockets: Vec<OwnedFd>) -> Self {
        match import::links(&sealed, &mut table, sockets) {
            Ok(whole) => self.legacy = Some(ReceivedState { table, whole, sealed }),
            Err((error, sockets)) => {
                complain(&error);
                self.strangers = sockets;
                self.unused = Some(State::of(&sealed, &table));
            }
        }
        self
    }

    /// Whether a process before this one has handed anything over.
    pub fn has_come(&self) -> bool {
        self.has_come
    }

    /// What systemd had passed to the process before, by name.
    pub fn passed(&mut self) -> Vec<(String, OwnedFd)> {
        let is_passed = |(name, _): &mut (Door, OwnedFd)| matches!(name, Door::Passed(_));
        let passed = self.doors.extract_if(.., is_passed);
        passed
            .map(|(name, socket)| (if let Door::Passed(name) = name { name } else { String::new() }, socket))
            .collect()
    }

    /// The hub and its store, if they can be gone on with: either both or none, for
    /// one counts what the other has. `options` are those of a disk.
    pub fn revive(
        &mut self,
        settings: &Settings,
        options: Option<store::StoreOptions>,
    ) -> Option<(Hub, Store)> {
        let legacy = self.legacy.as_ref()?;
        match legacy.revive(settings, options) {
            Ok(revived) => Some(revived),
            Err(error) => {
                complain(&*error);
                self.strangers = self.let_go();
                None
            }
        }
    }

    /// What nobody goes on with: it was not understood in all its parts, or this process
    /// does not become the daemon. To be had once.
    pub fn unused(&mut self) -> Option<State> {
        self.unused.take()
    }

    /// Goes on with nothing: the sockets of all links.
    fn let_go(&mut self) -> Vec<OwnedFd> {
        let mut sockets = std::mem::take(&mut self.strangers);
        if let Some(ReceivedState { table, whole, sealed }) = self.legacy.take() {
            self.unused = Some(State::of(&sealed, &table));
            sockets.extend(whole.links.into_iter().map(|link| OwnedFd::from(link.wire)));
        }
        sockets
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

fn complain(error: &dyn std::fmt::Display) {
    log::error!(
        "what the daemon before this one has handed over cannot be used: {error}; its connections are told to come back"
    );
}
