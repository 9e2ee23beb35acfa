//! The store: messages are kept here until they are delivered or expire.
//!
//! What is in memory and what is on the disk is read as one. Which messages are kept, for how
//! long, and when they are forgotten is the hub's decision; the driver passes it on.

mod arena;
mod backend;
mod child;
mod commit;
mod compaction;
mod disk_usage;
mod encoding;
mod failures;
mod fetch;
pub mod hub_checkpoint;
mod hub_clock;
mod index;
pub mod ipc;
mod memtable;
mod messages;
mod read_queue;
mod recovery;
mod scheduler;
pub mod seq_file;
#[cfg(feature = "store")]
pub mod server;
mod snapshot;
mod snapshot_codec;
mod task_selection;
mod wal_checkpoint;
pub mod write_budget;
mod write_queue;

pub use child::is_store_event;
pub use fetch::Fetch;
pub use hub_clock::{Clocks, HubClock, Stamp};
pub use snapshot_codec::ImportError;

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::edge::net::epoll::Epoll;
use crate::hub::{EntryMeta, Hub, Input, LogKey, Now, StoreEvent};
use crate::protocol::frame::Statistics;
use crate::protocol::{Message, Moment};
use backend::Backend;
use fetch::FetchPart;
use memtable::{Memtable, MessageKey};
use seq_file::{SeqFile, SeqFileOwner};

/// The proof that this build can use a disk. Whatever is done with a disk wants one, through
/// [`StoreOptions`]; where the engine was left out there is no value of this type, and the
/// compiler leaves out the rest as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Engine {
    #[cfg(not(feature = "store"))]
    left_out: std::convert::Infallible,
}

impl Engine {
    /// The one of this build, if it has one.
    pub fn built_in() -> Option<Self> {
        #[cfg(feature = "store")]
        return Some(Self {});
        #[cfg(not(feature = "store"))]
        None
    }
}

/// How the disk is to be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreOptions {
    pub engine: Engine,
    /// What is started to own the disk.
    pub program: PathBuf,
    /// Where everything is.
    pub directory: PathBuf,
    /// How long a message may be in memory only before it is written.
    pub write_delay: Duration,
    /// What the store may take on the disk.
    pub bytes: u64,
    /// What may be written in a day.
    pub flash_budget: Option<u64>,
    /// When so much is in memory only, it is written before its time.
    pub memory: usize,
}

/// What the store needs of the rest of the daemon in a turn.
pub struct StoreContext<'a> {
    pub now: Now,
    pub hub: &'a Hub,
    /// None while nothing is waited for there: at the start and at the end.
    pub epoll: Option<&'a Epoll>,
    pub inputs: &'a mut VecDeque<Input>,
}

impl StoreContext<'_> {
    /// Notifies the hub.
    fn report(&mut self, events: impl IntoIterator<Item = StoreEvent>) {
        self.inputs.extend(events.into_iter().map(Input::Store));
    }
}

/// Keeps messages by log and seq. Calls on one log take effect in order.
pub struct Store {
    storage: Storage,
}

/// Where messages are kept.
#[expect(clippy::large_enum_variant, reason = "one a process; boxed, a build without the engine had it too")]
enum Storage {
    Memory(Memtable),
    Disk(Backend),
}

/// How a store does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreState {
    /// It forgets all when the process ends, as was asked for.
    InMemory,
    /// The disk works; what may still be written today.
    Working(write_budget::BudgetLevel),
    /// The disk cannot be used; [`Store::failure`] says why.
    Failing,
}

impl Store {
    /// One that forgets all when the process ends.
    pub fn in_memory() -> Self {
        Self { storage: Storage::Memory(Memtable::default()) }
    }

    /// One that writes to a disk.
    pub fn on_disk(options: StoreOptions, now: Now) -> Self {
        Self { storage: Storage::Disk(Backend::new(options, now)) }
    }

    fn backend(&self) -> Option<&Backend> {
        match &self.storage {
            Storage::Memory(_) => None,
            Storage::Disk(backend) => Some(backend),
        }
    }

    fn backend_mut(&mut self) -> Option<&mut Backend> {
        match &mut self.storage {
            Storage::Memory(_) => None,
            Storage::Disk(backend) => Some(backend),
        }
    }

    /// What is in memory only.
    fn memtable(&self) -> &Memtable {
        match &self.storage {
            Storage::Memory(memtable) => memtable,
            Storage::Disk(backend) => backend.messages().memtable(),
        }
    }

    /// Uses the disk in another way from now on, in the same place.
    pub fn reconfigure(&mut self, now: Moment, options: StoreOptions) {
        if let Some(backend) = self.backend_mut() {
            backend.reconfigure(now, options);
        }
    }

    /// Keeps a message under its own `seq`. One that is kept already may be passed once more,
    /// to be written at once.
    pub fn keep(&mut self, now: Moment, log: &LogKey, message: &Message, meta: &EntryMeta) {
        let Some(seq) = message.seq else { return };
        match &mut self.storage {
            Storage::Memory(memtable) => memtable.insert(log, seq, message, meta),
            Storage::Disk(backend) => {
                backend.keep(now, MessageKey { log: log.clone(), seq }, message, meta);
            }
        }
    }

    /// Writes a kept message at once. The answer comes as an input: now, where it is known.
    pub fn sync_now(&mut self, log: LogKey, seq: u64) -> Option<Input> {
        let event = match &mut self.storage {
            Storage::Memory(_) => Some(StoreEvent::NotStored { log, seq }),
            Storage::Disk(backend) => backend.sync_now(MessageKey { log, seq }),
        };
        event.map(Input::Store)
    }

    /// Reads messages. The answer comes as inputs: now, where it is known.
    pub fn fetch(&mut self, fetch: Fetch) -> Vec<Input> {
        let memtable = match &mut self.storage {
            Storage::Memory(memtable) => memtable,
            Storage::Disk(backend) => return backend.fetch(fetch),
        };
        let answers = fetch::plan(fetch, memtable, None).into_iter().filter_map(|part| match part {
            FetchPart::Page(page) => Some(page),
            FetchPart::Read(_) => {
                debug_assert!(false, "there is no disk to read from");
                None
            }
        });
        answers.collect()
    }

    /// Drops messages, both ends included.
    pub fn forget(&mut self, now: Moment, log: &LogKey, from: u64, to: u64) {
        match &mut self.storage {
            Storage::Memory(memtable) => drop(memtable.forget(log, from, to)),
            Storage::Disk(backend) => backend.forget(now, log, from, to),
        }
    }

    /// When it wants its turn again.
    pub fn deadline(&self, now: Moment) -> Option<Moment> {
        self.backend()?.deadline(now)
    }

    /// Does what is due.
    pub fn tick(&mut self, context: &mut StoreContext<'_>) {
        if let Some(backend) = self.backend_mut() {
            backend.tick(context);
        }
    }

    /// The socket to the process that owns the disk is readable or writable.
    pub fn ready(&mut self, context: &mut StoreContext<'_>) {
        if let Some(backend) = self.backend_mut() {
            backend.ready(context);
        }
    }

    /// How it does; costs nothing.
    pub fn state(&self, now: Moment) -> StoreState {
        self.backend().map_or(StoreState::InMemory, |backend| backend.state(now))
    }

    /// Whether a request has taken longer than it may, and was not given up.
    pub fn is_stuck(&self, now: Moment) -> bool {
        self.backend().is_some_and(|backend| backend.is_stuck(now))
    }

    /// Fills in what the hub does not know.
    pub fn describe(&self, now: Moment, statistics: &mut Statistics) {
        if let Some(backend) = self.backend() {
            backend.describe(now, statistics);
        }
    }

    /// Why nothing can be written, if that is so.
    pub fn failure(&self) -> Option<&str> {
        self.backend()?.failures().why()
    }

    /// Whether nothing can be written, and the hub was notified: where it was another one,
    /// this one has to be.
    pub fn is_failure_reported(&self) -> bool {
        self.backend().is_some_and(|backend| backend.failures().is_reported())
    }

    /// The daemon starts without waiting any longer for what is on the disk: that is read
    /// while it runs.
    pub fn abandon_recovery(&mut self, context: &mut StoreContext<'_>) {
        if let Some(backend) = self.backend_mut() {
            backend.abandon_recovery(context);
        }
    }

    /// Whose files it is that outlive the process, and not the machine; none without a
    /// disk.
    pub fn owner(&self) -> Option<SeqFileOwner> {
        self.backend().map(Backend::owner)
    }

    /// Whether a daemon of the same state directory has left its seq file in one of these
    /// places: then it was killed.
    pub fn was_killed(&self, places: &[PathBuf]) -> bool {
        let owner = self.owner();
        owner.is_some_and(|owner| places.iter().any(|place| SeqFile::is_left(place, &owner)))
    }

    /// Whether all that was on the disk is known, or cannot be read.
    pub fn is_open(&self) -> bool {
        self.backend().is_none_or(Backend::is_open)
    }

    /// Waits until the process that owns the disk has a response: for the start and the end,
    /// when nothing else is waited for.
    pub fn wait(&self, time: Duration) {
        if let Some(backend) = self.backend() {
            backend.wait(time);
        }
    }

    /// From now on everything is written that is to outlive the daemon.
    pub fn finish(&mut self) {
        if let Some(backend) = self.backend_mut() {
            backend.finish();
        }
    }

    /// How many messages are to outlive the daemon and are in memory only.
    pub fn unwritten_len(&self) -> usize {
        self.memtable().unwritten().count()
    }

    /// Whether that is done, or cannot be done.
    pub fn is_finished(&self) -> bool {
        self.backend().is_none_or(Backend::is_finished)
    }

    /// Ends what is under way without its response: the next process does it once more.
    pub fn interrupt(&mut self, now: Moment) {
        if let Some(backend) = self.backend_mut() {
            backend.interrupt(now);
        }
    }

    /// The hub clock, once it is known.
    pub fn hub_clock(&self) -> Option<&HubClock> {
        self.backend()?.hub_clock()
    }

    /// Goes on with the hub clock of a clean stop: what has to be added to the
    /// moments of that time.
    pub fn restore_clock(&mut self, stamp: &Stamp) -> Option<i64> {
        Some(self.backend_mut()?.restore_clock(stamp))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("memtable", &self.memtable().bytes()).finish_non_exhaustive()
    }
}
