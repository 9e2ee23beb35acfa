//! Where messages are kept until somebody has them.
//!
//! Knows the promise of a store: what is in memory, what is on the disk, and that
//! both are read as one. Does not know policies: which messages are kept, for how
//! long and when they are forgotten is the hub's decision.

mod arena;
mod backend;
pub mod checkpoint;
mod child;
mod commit;
mod compaction;
mod encoding;
mod engine;
mod failure;
mod hub_clock;
mod index;
pub mod ipc;
mod memtable;
mod read_queue;
mod recovery;
mod responses;
mod scheduler;
pub mod seq_file;
#[cfg(feature = "store")]
pub mod server;
mod snapshot;
mod snapshot_codec;
mod wal_checkpoint;
pub mod write_budget;

pub use backend::{Options, StoreContext};
pub use child::is_meant;
pub use engine::Engine;
pub use hub_clock::{Clocks, HubClock, Stamp};
pub use snapshot_codec::ImportError;

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::clock;
use crate::hub::settings::WriteThrough as When;
use crate::hub::{EntryMeta, FetchPurpose, Input, LogKey, Now, StoreEvent};
use crate::protocol::frame::Statistics;
use crate::protocol::{Message, Moment};
use backend::Backend;
use memtable::Memtable;
use read_queue::QueuedRead;
use seq_file::{Owner, SeqFile};

/// Keeps messages by log and seq. Calls on one log take effect in order.
pub struct Store {
    tail: Memtable,
    disk: Option<Backend>,
}

/// How a store stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It forgets all when the process ends, as was asked for.
    Memory,
    /// The disk works; what may still be written today.
    Works(write_budget::Thrift),
    /// The disk cannot be used; [`Store::trouble`] says why.
    Failing,
}

/// What is asked of a log.
#[derive(Clone, PartialEq, Debug)]
pub struct Fetch {
    pub purpose: FetchPurpose,
    pub log: LogKey,
    /// What lies after this, oldest first: up to `count` messages or `bytes`, but
    /// at least one where there is one.
    pub after: u64,
    pub count: usize,
    pub bytes: usize,
}

impl Fetch {
    /// What was asked for.
    pub fn found(self, messages: Vec<Rc<Message>>) -> Input {
        Input::Fetched { fetch: self.purpose, log: self.log, messages }
    }

    fn unread(self) -> Input {
        Input::Store(StoreEvent::ReadFailed { fetch: self.purpose, log: self.log })
    }
}

/// What is in memory of what was asked for, up to the first that is on the disk.
fn page_of(tail: &Memtable, fetch: &Fetch, disk: Option<u64>) -> Vec<Rc<Message>> {
    let mut room = fetch.bytes;
    let mut page = Vec::new();
    for (seq, entry) in tail.read(&fetch.log, fetch.after).take(fetch.count) {
        let size = entry.size as usize;
        if disk.is_some_and(|disk| disk < seq) || (size > room && !page.is_empty()) {
            break;
        }
        room = room.saturating_sub(size);
        page.extend(tail.message(&fetch.log, seq, entry));
    }
    page
}

impl Store {
    /// One that forgets all when the process ends.
    pub fn in_memory() -> Self {
        Self { tail: Memtable::default(), disk: None }
    }

    /// One that writes to a disk.
    pub fn on_disk(options: Options, now: Now) -> Self {
        Self { tail: Memtable::default(), disk: Some(Backend::new(options, now)) }
    }

    /// Uses the disk in another way from now on, in the same place.
    pub fn adjust(&mut self, now: Moment, options: Options) {
        if let Some(disk) = &mut self.disk {
            disk.budget.limit(options.flash_budget, now);
            disk.options = options;
        }
    }

    /// Keeps a message under its own `seq`. One that is kept already may be asked
    /// for once more, to be written at once.
    pub fn keep(&mut self, now: Moment, log: &LogKey, message: &Message, keeping: &EntryMeta) {
        let Some(seq) = message.seq else { return };
        self.tail.insert(log, seq, message, keeping);
        if let Some(disk) = &mut self.disk {
            disk.owes(now, log, seq, keeping.disk, &self.tail);
        }
    }

    /// Writes a kept message at once. What comes of it is told, now where it is known.
    pub fn hurry(&mut self, log: LogKey, seq: u64) -> Option<Input> {
        let Some(disk) = &mut self.disk else {
            return Some(Input::Store(StoreEvent::NotStored { log, seq }));
        };
        if let Some(entry) = self.tail.get_mut(&log, seq) {
            let is_on_its_way = entry.disk == When::Now || entry.is_leaving;
            entry.durable = true;
            self.tail.set_disk(&log, seq, When::Now);
            if !is_on_its_way {
                disk.sync_queue.push_back((log, seq));
            }
            return None;
        }
        let fact = if disk.index.contains(&log, seq) {
            StoreEvent::Stored { log, from: seq, to: seq }
        } else {
            StoreEvent::NotStored { log, seq }
        };
        Some(Input::Store(fact))
    }

    /// Answers at once, or as facts that come later.
    pub fn fetch(&mut self, fetch: Fetch) -> Vec<Input> {
        if matches!(fetch.purpose, FetchPurpose::Notice(_)) {
            return self.look_up(fetch);
        }
        let on_disk = self.disk.as_ref().and_then(|disk| disk.index.next(&fetch.log, fetch.after));
        let in_memory = self.tail.next(&fetch.log, fetch.after);
        if let Some(placed) = on_disk.filter(|placed| in_memory.is_none_or(|seq| placed.seq < seq))
            && let Some(disk) = &mut self.disk
        {
            debug_assert!(placed.seq > fetch.after);
            return disk.want(QueuedRead { fetch, run: None });
        }
        let page = page_of(&self.tail, &fetch, on_disk.map(|placed| placed.seq));
        vec![fetch.found(page)]
    }

    /// The same for what is about to be forgotten: where it lies is noted now, and it
    /// may come in several parts.
    fn look_up(&mut self, fetch: Fetch) -> Vec<Input> {
        let mut facts = Vec::new();
        let mut rest = Fetch { bytes: usize::MAX, ..fetch };
        while rest.count > 0 {
            let in_memory = self.tail.next(&rest.log, rest.after);
            let end = in_memory.unwrap_or(u64::MAX);
            let disk = self.disk.as_mut();
            let run =
                disk.as_ref().map(|disk| disk.index.run(&rest.log, rest.after, end, rest.count, usize::MAX));
            let run = run.unwrap_or_default();
            if let (Some(first), Some(last), Some(disk)) = (run.first(), run.last(), disk) {
                let (length, run) = (run.len(), Some((first.generation, first.seq, last.seq)));
                rest.count -= length;
                let fetch = Fetch { count: length, ..rest.clone() };
                facts.extend(disk.want(QueuedRead { fetch, run }));
                rest.after = last.seq;
                continue;
            }
            let on_disk = self.disk.as_ref().and_then(|disk| disk.index.next(&rest.log, rest.after));
            let page = page_of(&self.tail, &rest, on_disk.map(|placed| placed.seq));
            let Some(last) = page.last().and_then(|message| message.seq) else { break };
            rest.count -= page.len();
            facts.push(rest.clone().found(page));
            rest.after = last;
        }
        facts
    }

    /// Drops messages, both ends included.
    pub fn forget(&mut self, now: Moment, log: &LogKey, from: u64, to: u64) {
        let tried = self.tail.forget(log, from, to);
        if let Some(disk) = &mut self.disk {
            disk.bury(now, log, tried);
            disk.forget(now, log, from, to, &self.tail);
        }
    }

    /// When it wants its turn again.
    pub fn deadline(&self, now: Moment) -> Option<Moment> {
        self.disk.as_ref()?.deadline(now, &self.tail)
    }

    /// Does what is due.
    pub fn tick(&mut self, around: &mut StoreContext<'_>) {
        if let Some(disk) = &mut self.disk {
            disk.tick(&mut self.tail, around);
        }
    }

    /// The process that owns the disk has something to say.
    pub fn ready(&mut self, around: &mut StoreContext<'_>) {
        if let Some(disk) = &mut self.disk {
            disk.ready(&mut self.tail, around);
        }
    }

    /// What an administrator is to know of it at any time. Costs nothing to ask.
    pub fn state(&self, now: Moment) -> State {
        let Some(disk) = &self.disk else { return State::Memory };
        match disk.trouble {
            Some(_) => State::Failing,
            None => State::Works(disk.budget.thrift(now)),
        }
    }

    /// Whether an order has taken longer than it may, and nobody has looked after it.
    pub fn is_stuck(&self, now: Moment) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.is_stuck(now))
    }

    /// Fills in what the hub does not know.
    pub fn describe(&self, now: Moment, statistics: &mut Statistics) {
        let Some(disk) = &self.disk else { return };
        statistics.disk_bytes = disk.index.used();
        statistics.flash_spent_bytes = disk.budget.spent(now);
        statistics.flash_level = disk.budget.thrift(now) as u64;
    }

    /// Why nothing can be written, if that is so.
    pub fn trouble(&self) -> Option<&str> {
        Some(&self.disk.as_ref()?.trouble.as_ref()?.why)
    }

    /// Whether nothing can be written, and the hub was told: where it was another one,
    /// this one has to be.
    pub fn has_failed(&self) -> bool {
        self.disk.as_ref().is_some_and(Backend::has_told)
    }

    /// What takes too long is done while the daemon runs.
    pub fn give_up(&mut self, around: &mut StoreContext<'_>) {
        if let Some(disk) = &mut self.disk {
            disk.give_up(&mut self.tail, around);
        }
    }

    /// Whose files it is that outlive the process, and not the machine; none without a
    /// disk.
    pub fn owner(&self) -> Option<Owner> {
        let disk = self.disk.as_ref()?;
        let state = disk.options.directory.parent().and_then(|state| state.metadata().ok());
        let state = state.map(|state| (state.dev(), state.ino())).unwrap_or_default();
        Some(Owner { boot: disk.clocks.boot.clone(), state })
    }

    /// Whether a daemon of the same state directory has left its positions in one of these
    /// places: then it was killed.
    pub fn is_left_behind(&self, places: &[PathBuf]) -> bool {
        let owner = self.owner();
        owner.is_some_and(|owner| places.iter().any(|place| SeqFile::is_left(place, &owner)))
    }

    /// Whether all that was on the disk is known, or is not to be had.
    pub fn is_open(&self) -> bool {
        self.disk.as_ref().is_none_or(|disk| disk.loading.is_none() || disk.has_told())
    }

    /// Waits until the process that owns the disk has something to say: for the
    /// start and the end, when nothing else is waited for.
    pub fn wait(&self, time: Duration) {
        if let Some(disk) = &self.disk {
            disk.wait(time);
        }
    }

    /// From now on everything is written that is to outlive the daemon.
    pub fn finish(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.finish(&self.tail);
        }
    }

    /// How many messages are to outlive the daemon and are in memory only.
    pub fn owed(&self) -> usize {
        self.tail.owed().count()
    }

    /// Whether that is done, or cannot be done.
    pub fn is_finished(&self) -> bool {
        self.disk.as_ref().is_none_or(|disk| disk.is_finished())
    }

    /// Ends what is under way without its answer: the order is given once more by
    /// whoever goes on.
    pub fn interrupt(&mut self, now: Moment) {
        if let Some(disk) = &mut self.disk {
            disk.interrupt(now);
        }
    }

    /// The hub clock, once it is known.
    pub fn elapsed(&self) -> Option<&HubClock> {
        self.disk.as_ref()?.elapsed.as_ref()
    }

    /// Goes on with the hub clock of a clean stop: what has to be added to the
    /// moments of that time.
    pub fn go_on(&mut self, stamp: &Stamp) -> Option<i64> {
        let disk = self.disk.as_mut()?;
        let elapsed = HubClock::new(clock::now(), disk.clocks.clone(), Some(stamp));
        let shift = elapsed.shift(stamp);
        disk.elapsed = Some(elapsed);
        Some(shift)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("tail", &self.tail.bytes()).finish_non_exhaustive()
    }
}
