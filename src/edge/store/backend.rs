//! The disk, as the daemon sees it: what it is owed.
//!
//! Knows what waits to be written and read. Does not know which order is given next,
//! which `orders` does; nor the disk itself: a process of its own does; nor what is
//! worth keeping, which the hub decides.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use super::child::{EndedChild, StoreProcess};
use super::compaction::Compaction;
use super::engine::Engine;
use super::failure::{Failure, LAST_TRIES};
use super::hub_clock::{Clocks, HubClock};
use super::index::Index;
use super::ipc::SpaceReport;
use super::memtable::Memtable;
use super::read_queue::QueuedRead;
use super::recovery::Recovery;
use super::scheduler::ChildTask;
use super::write_budget::WriteBudget;
use crate::edge::net::epoll::Epoll;
use crate::hub::settings::WriteThrough as When;
use crate::hub::{Hub, Input, LogKey, Now};
use crate::protocol::Moment;

/// How the disk is to be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    pub engine: Engine,
    /// What is started to own the disk.
    pub program: PathBuf,
    /// Where everything is.
    pub directory: PathBuf,
    /// How long a message may be owed before it is written.
    pub write_delay: Duration,
    /// What the store may take on the disk.
    pub bytes: u64,
    /// What may be written in a day.
    pub flash_budget: Option<u64>,
    /// When so much is in memory only, it is written before its time.
    pub memory: usize,
}

/// What the disk needs of the rest of the daemon.
pub struct StoreContext<'a> {
    pub now: Now,
    pub hub: &'a Hub,
    /// None while nobody waits there: at the start and at the end.
    pub epoll: Option<&'a Epoll>,
    pub inputs: &'a mut VecDeque<Input>,
}

/// The disk.
pub(super) struct Backend {
    pub(super) options: Options,
    pub(super) clocks: Clocks,
    pub(super) elapsed: Option<HubClock>,
    pub(super) budget: WriteBudget,
    pub(super) index: Index,
    /// Until all of it was read.
    pub(super) loading: Option<Box<Recovery>>,
    pub(super) moving: Option<Box<Compaction>>,
    pub(super) process: Option<StoreProcess>,
    pub(super) ended: Vec<EndedChild>,
    pub(super) task: Option<(ChildTask, Moment)>,
    pub(super) reads: VecDeque<QueuedRead>,
    /// The old generation that the process has open, and since when.
    pub(super) open: Option<(u32, Moment)>,
    /// What is to be written: when it was kept, oldest first.
    pub(super) unwritten: VecDeque<(Moment, LogKey, u64)>,
    /// What somebody waits for.
    pub(super) sync_queue: VecDeque<(LogKey, u64)>,
    /// When all that was owed for long enough went last. What comes up a moment later
    /// waits for the next time, or a steady stream would be written one by one.
    pub(super) last_flush: Moment,
    /// Since when something on the disk is kept no longer.
    pub(super) garbage_since: Option<Moment>,
    /// The number of the generation that is written.
    pub(super) active_generation: u32,
    pub(super) room: SpaceReport,
    /// When the process had something to do last.
    pub(super) busy_at: Moment,
    pub(super) trouble: Option<Failure>,
    /// How often it failed lately, and since when it works again.
    pub(super) attempts: u32,
    pub(super) works_since: Option<Moment>,
    /// How often in a row reading has failed.
    pub(super) read_failures: u32,
    /// Everything that can be is written now.
    pub(super) is_finishing: bool,
    /// How often it may fail until it is given up, at the end.
    pub(super) last_tries: u32,
    /// The order before this one was a commit, so that reading gets its turn.
    pub(super) has_committed: bool,
    /// It has grown; another process begins with fresh memory.
    pub(super) ends_after_this: bool,
    /// The generation whose log is being copied into its database.
    pub(super) checkpoint: Option<u32>,
    /// Nothing is copied before: it failed.
    pub(super) no_checkpoint_before: Moment,
    /// What the hub was told that may be kept; nothing yet.
    pub(super) told_capacity: Option<u64>,
    /// Whether it was told that little may be written in what is left of the day.
    pub(super) told_scarce: bool,
}

impl Backend {
    pub(super) fn new(options: Options, now: Now) -> Self {
        let budget = WriteBudget::new(options.flash_budget, 0, now.moment);
        Self {
            options,
            clocks: Clocks::of_machine(now),
            elapsed: None,
            budget,
            index: Index::default(),
            loading: Some(Box::default()),
            moving: None,
            process: None,
            ended: Vec::new(),
            task: None,
            reads: VecDeque::new(),
            open: None,
            unwritten: VecDeque::new(),
            sync_queue: VecDeque::new(),
            last_flush: now.moment,
            garbage_since: None,
            active_generation: 0,
            room: SpaceReport::default(),
            busy_at: now.moment,
            trouble: None,
            attempts: 0,
            works_since: None,
            read_failures: 0,
            is_finishing: false,
            last_tries: LAST_TRIES,
            has_committed: false,
            ends_after_this: false,
            checkpoint: None,
            no_checkpoint_before: Moment(0),
            told_capacity: None,
            told_scarce: false,
        }
    }

    /// A message was kept.
    pub(super) fn owes(&mut self, now: Moment, log: &LogKey, seq: u64, when: When, tail: &Memtable) {
        /// A list as short as this is not worth looking through.
        const SHORT: usize = 1024;
        match when {
            When::Behind => {
                self.unwritten.push_back((now, log.clone(), seq));
                if self.unwritten.len() > SHORT.max(2 * tail.len()) {
                    self.drop_paid(tail);
                }
            }
            When::Now => self.sync_queue.push_back((log.clone(), seq)),
            When::Stop | When::Never => {}
        }
    }

    /// Drops from the list of what is to be written what is owed no longer: while nothing
    /// can be written, most messages are delivered and forgotten before they would have
    /// been.
    fn drop_paid(&mut self, tail: &Memtable) {
        self.unwritten.retain(|(_, log, seq)| {
            tail.get(log, *seq).is_some_and(|entry| entry.disk == When::Behind && !entry.is_leaving)
        });
        self.unwritten.shrink_to(2 * self.unwritten.len());
    }

    /// Messages are kept no longer.
    pub(super) fn forget(&mut self, now: Moment, log: &LogKey, from: u64, to: u64, tail: &Memtable) {
        self.index.forget(log, from, to, tail.next(log, 0));
        if self.index.is_stale() {
            self.is_stale(now);
        }
    }

    /// Messages are kept no longer that a failed commit may have written.
    pub(super) fn bury(&mut self, now: Moment, log: &LogKey, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            self.index.bury(log, seq);
            self.is_stale(now);
        }
    }

    /// The disk does not know of something that is kept no longer.
    pub(super) fn is_stale(&mut self, now: Moment) {
        self.garbage_since.get_or_insert(now);
    }

    /// What was written counts, and how much room there is.
    pub(super) fn has_room(&mut self, now: Moment, room: SpaceReport) {
        self.budget.spend(now, room.written.saturating_sub(self.room.written));
        self.room = room;
    }

    /// The disk knows of all that is kept no longer.
    pub(super) fn is_tidy(&mut self) {
        self.garbage_since = None;
    }

    /// Ends the process at once; what it has written until then counts, whether it could
    /// say so or not.
    pub(super) fn kill_process(&mut self, now: Moment) {
        let Some(process) = self.process.take() else { return };
        if let Some(written) = process.written() {
            self.has_room(now, SpaceReport { written, ..self.room });
        }
        self.ended.push(process.kill());
    }

    /// All that the disk has is known.
    pub(super) fn has_found_all(&mut self) {
        self.room.newest =
            self.index.generations.get(&self.active_generation).map_or(0, |generation| generation.bytes);
    }

    /// Waits for the process alone.
    pub(super) fn wait(&self, time: Duration) {
        match &self.process {
            Some(process) => process.wait(time),
            None => std::thread::sleep(time),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Backend, Engine, Memtable, Options, When};
    use crate::hub::{EntryMeta, LogKey, Now};
    use crate::protocol::{Channel, Event, Message, MessageId, Moment, Payload, Sender, UnixTime};

    fn message(channel: &Channel, seq: u64) -> Message {
        Message {
            channel: Some(channel.clone()),
            event: Event::new("said").unwrap(),
            data: Payload::of(&seq),
            from: Sender::Hub,
            user_id: None,
            message_id: MessageId::new("m").unwrap(),
            timestamp: UnixTime(0),
            seq: Some(seq),
        }
    }

    #[test]
    fn list_of_what_is_owed_is_as_long_as_what_is_live() {
        let Some(engine) = Engine::built_in() else { return };
        let options = Options {
            engine,
            program: "/nowhere".into(),
            directory: "/nowhere".into(),
            write_delay: Duration::from_secs(1),
            bytes: 64 << 20,
            flash_budget: None,
            memory: 64 << 20,
        };
        let (mut disk, mut tail) = (Backend::new(options, Now::default()), Memtable::default());
        let channel = Channel::new("orders").unwrap();
        let log = LogKey::Channel(channel.clone());
        let keeping = EntryMeta {
            expires: Moment(u64::MAX),
            since: Moment(0),
            size: 200,
            delivered: false,
            durable: false,
            disk: When::Behind,
            scope: None,
        };
        let mut longest = 0;
        // Each is delivered a hundred messages later, and none is ever written.
        for seq in 1..=100_000 {
            tail.insert(&log, seq, &message(&channel, seq), &keeping);
            disk.owes(Moment(seq), &log, seq, When::Behind, &tail);
            longest = longest.max(disk.unwritten.len());
            if seq > 100 {
                tail.forget(&log, seq - 100, seq - 100);
            }
        }
        assert!(longest <= 1100, "{longest}");
        assert!(disk.unwritten.capacity() <= 4096, "{}", disk.unwritten.capacity());
        // All of what is live is still owed, oldest first.
        let owed: Vec<u64> =
            disk.unwritten.iter().map(|(.., seq)| *seq).filter(|seq| *seq > 99_900).collect();
        assert_eq!(owed, (99_901..=100_000).collect::<Vec<_>>());
    }
}
