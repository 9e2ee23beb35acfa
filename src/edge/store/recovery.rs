//! Reading the whole disk, once, before anything is written to it.
//!
//! Knows how records, marks and runs of several generations make logs. Does not
//! know what the hub does with them.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use serde::{Deserialize, Serialize};

use super::backend::{Backend, StoreContext};
use super::encoding;
use super::encoding::{Head, LogMark};
use super::hub_clock::{HubClock, Stamp};
use super::index::Placed;
use super::ipc::{GenerationSize, StoreResponse};
use super::memtable::Memtable;
use super::scheduler::ChildTask;
use crate::hub::{Input, LogKey, RecoveredLog, StoreEvent};
use crate::small_queue::SmallQueue;
use crate::sort::{sort, sort_by_cached_key};

/// The state of the store itself, written with every commit.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct StoreMark {
    pub(super) stamp: Stamp,
    /// What of the budget was spent.
    pub(super) spent: u64,
}

/// A log, while it is put together.
struct Gathered {
    key: LogKey,
    mark: Option<LogMark>,
    /// Ascending by position; a later generation has the later word.
    records: SmallQueue<Record>,
    /// Life, first and last position.
    gone: Vec<(u64, u64, u64)>,
}

/// What was read of a message.
struct Record {
    seq: u64,
    generation: u32,
    head: Head,
}

impl Record {
    fn placed(&self) -> Placed {
        Placed { seq: self.seq, generation: self.generation, size: self.head.3 }
    }
}

/// All logs, found by the names that they have on the disk. They are gone through in the
/// order in which they came, as their names and all that is made of them lie in memory.
#[derive(Default)]
struct Logs {
    list: Vec<Gathered>,
    places: HashTable<usize>,
    hasher: RandomState,
}

impl Logs {
    /// A log that was read of before, or a new one; none, if there can be none of that
    /// name.
    fn entry(&mut self, name: &str) -> Option<&mut Gathered> {
        let hasher = &self.hasher;
        let kind_and_name = encoding::split(name)?;
        let hash = hasher.hash_one(Some(kind_and_name));
        let parts = |place: &usize| self.list.get(*place).map(|log| encoding::parts(&log.key));
        let is_meant = |place: &usize| parts(place) == Some(kind_and_name);
        let place = match self.places.entry(hash, is_meant, |place| hasher.hash_one(parts(place))) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(free) => {
                let place = self.list.len();
                let key = encoding::key(name)?;
                free.insert(place);
                self.list.push(Gathered {
                    key,
                    mark: None,
                    records: SmallQueue::default(),
                    gone: Vec::new(),
                });
                place
            }
        };
        self.list.get_mut(place)
    }
}

/// What was read so far.
#[derive(Default)]
pub(super) struct Recovery {
    /// What is still to be read, oldest first, once that is known.
    generations: Option<VecDeque<u32>>,
    logs: Logs,
    store: Option<StoreMark>,
    damaged: u64,
    /// What of it the process has read that is there now.
    read: u64,
}

/// A process that has read so much has grown; another one begins with fresh memory.
/// It is less than two of the largest generations: with the third it would grow to
/// twice as much, and to begin takes as long as to read half a generation.
const LARGE: u64 = 12 << 20;

/// What has read so much does not stay once all is read.
const GROWN: u64 = 1 << 20;

impl Recovery {
    /// The next generation to be read.
    pub(super) fn next(&self) -> Option<u32> {
        self.generations.as_ref()?.front().copied()
    }

    fn take(&mut self, generation: u32, word: StoreResponse<'_>) -> Result<bool, String> {
        match word {
            StoreResponse::Record { log, seq, head, .. } => match encoding::head(&head) {
                Some(head) => self.record(&log, Record { seq, generation, head }),
                None => self.damaged += 1,
            },
            StoreResponse::Mark(mark) if mark.log.is_empty() => {
                self.store = serde_json::from_str(mark.state.get()).ok().or(self.store.take());
            }
            StoreResponse::Mark(mark) => match serde_json::from_str(mark.state.get()) {
                Ok(state) => {
                    if let Some(log) = self.logs.entry(&mark.log) {
                        log.mark = Some(state);
                    }
                }
                Err(_) => self.damaged += 1,
            },
            StoreResponse::Gone(gone) => match encoding::log_and_life(&gone.log) {
                Some((log, life)) => {
                    if let Some(log) = self.logs.entry(log) {
                        log.gone.push((life, gone.from, gone.to));
                    }
                }
                None => self.damaged += 1,
            },
            StoreResponse::Loaded { damaged, notes } => {
                self.damaged += damaged;
                for note in notes {
                    log::warn!("{note}");
                }
                return Ok(true);
            }
            word => return Err(format!("the process that owns the disk said {word:?}, unasked")),
        }
        Ok(false)
    }

    fn record(&mut self, log: &str, record: Record) {
        let Some(log) = self.logs.entry(log) else { return };
        match log.records.find(&record.seq, |record| record.seq) {
            Ok(at) => {
                if let Some(before) = log.records.get_mut(at) {
                    *before = record;
                }
            }
            Err(at) => log.records.insert(at, record),
        }
    }
}

impl Gathered {
    /// Drops what is kept no longer. A life that has no mark has lost nothing yet, or
    /// damage took its mark: all that is of it is kept.
    fn sift(&mut self, mut dead: impl FnMut(&Record)) -> LogMark {
        let last_life = self.records.iter().map(|record| record.head.0).max().unwrap_or_default();
        self.mark = self.mark.filter(|mark| mark.life >= last_life);
        let mark = self.mark.unwrap_or(LogMark { life: last_life, first: 0, cursor: 0, last: 0 });
        let of_this_life = |(life, from, to): (u64, u64, u64)| (life == mark.life).then_some((from, to));
        let mut gone: Vec<_> = std::mem::take(&mut self.gone).into_iter().filter_map(of_this_life).collect();
        sort(&mut gone);
        // Numbers go on above what is gone, too: it would be taken for that.
        let written =
            self.records.iter().filter(|record| record.head.0 == mark.life).map(|record| record.seq);
        let last = written.chain(gone.iter().map(|(_, to)| *to)).max().unwrap_or_default();
        let mut gone = gone.into_iter().peekable();
        // Ascending, both: no position above it is gone so far.
        let mut reach = 0;
        self.records.retain(|record| {
            let Record { seq, head, .. } = record;
            while let Some((_, to)) = gone.next_if(|(from, _)| from <= seq) {
                reach = reach.max(to);
            }
            let stays = head.0 == mark.life && *seq >= mark.first && *seq > reach;
            if !stays {
                dead(record);
            }
            stays
        });
        LogMark { last: mark.last.max(last), ..mark }
    }
}

impl Backend {
    /// The process has said which generations there are. One that was set aside
    /// because it is damaged is gone with all that it held; whoever wants to read
    /// that is told then.
    pub(super) fn is_there(
        &mut self,
        sizes: &[GenerationSize],
        tail: &Memtable,
        around: &mut StoreContext<'_>,
    ) {
        let is_there = |generation: u32| sizes.iter().any(|size| size.generation == generation);
        let lost = self.index.lose_generations(is_there);
        if lost > 0 {
            // Nobody but this line tells it to an administrator.
            log::error!(
                "{lost} messages are gone with what was set aside in {}",
                self.options.directory.display()
            );
        }
        if let Some(generations) = self.loading.as_mut().and_then(|loading| loading.generations.as_mut()) {
            generations.retain(|generation| is_there(*generation));
        }
        for size in sizes {
            let generation = self.index.generations.entry(size.generation).or_default();
            (generation.bytes, generation.wal) = (size.bytes, size.wal);
        }
        if let Some(last) = sizes.last() {
            self.active_generation = self.active_generation.max(last.generation);
            if last.is_only_read && self.active_generation == last.generation {
                self.active_generation += 1;
                self.room.newest = 0;
            }
        }
        if let Some(loading) = &mut self.loading {
            loading.generations.get_or_insert(sizes.iter().map(|size| size.generation).collect());
            if loading.next().is_none() {
                self.has_loaded(tail, around);
            }
        }
    }

    /// A word of a generation that is being read.
    pub(super) fn load(
        &mut self,
        generation: u32,
        word: StoreResponse<'_>,
        tail: &Memtable,
        around: &mut StoreContext<'_>,
    ) -> Result<(), String> {
        let Some(loading) = &mut self.loading else { return Ok(()) };
        if !loading.take(generation, word)? {
            return Ok(());
        }
        if let Some(generations) = &mut loading.generations {
            generations.pop_front();
        }
        loading.read += self.index.generations.get(&generation).map_or(0, |generation| generation.bytes);
        let is_over = loading.next().is_none();
        debug_assert!(matches!(self.task, Some((ChildTask::Load(_), _))));
        self.task = None;
        if loading.read > if is_over { GROWN } else { LARGE } {
            loading.read = 0;
            self.ends_after_this = true;
        }
        if is_over {
            self.has_loaded(tail, around);
        }
        Ok(())
    }

    /// All of it was read: the hub is told what is there.
    fn has_loaded(&mut self, tail: &Memtable, around: &mut StoreContext<'_>) {
        let Some(mut loading) = self.loading.take() else { return };
        if loading.damaged > 0 {
            log::error!("{} messages on the disk are damaged and lost", loading.damaged);
        }
        let now = around.now;
        let stamp = loading.store.as_ref().map(|store| &store.stamp);
        let heads = loading.logs.list.iter().flat_map(|log| log.records.iter().map(|record| &record.head));
        let latest = heads.map(|head| head.2).max();
        let clocks = self.clocks.clone();
        let elapsed = self.elapsed.take();
        let elapsed = elapsed.unwrap_or_else(|| HubClock::new(now, clocks, stamp));
        let elapsed = elapsed.not_before(now, latest.unwrap_or_default());
        if let Some(store) = &loading.store {
            self.budget.spend(now.moment, store.spent);
        }
        sort_by_cached_key(&mut loading.logs.list, |log| around.hub.place(&log.key));
        self.index.logs.reserve(loading.logs.list.len());
        for mut log in loading.logs.list {
            let lives = log.records.iter().map(|record| record.head.0).chain(log.mark.map(|mark| mark.life));
            // Damage may leave less of a log than what says that it is kept no longer.
            let lives = lives.chain(log.gone.iter().map(|(life, ..)| *life));
            self.index.has_seen(lives.max().unwrap_or_default());
            let mark = log.sift(|dead| self.index.has_seen_dead(&dead.placed()));
            if log.records.is_empty() {
                continue;
            }
            let key = around.hub.shared(log.key);
            let last_in_mark = log.mark.map_or(0, |mark| mark.last);
            self.index.adopt(&key, &mark, last_in_mark, log.records.iter().map(Record::placed));
            let kept =
                log.records.into_iter().map(|Record { seq, head, .. }| head.found(seq, &elapsed)).collect();
            let found = RecoveredLog { log: key, cursor: mark.cursor, last: mark.last, kept };
            around.inputs.push_back(Input::Store(StoreEvent::RecoveredLog(Box::new(found))));
        }
        self.elapsed = Some(elapsed);
        self.has_found_all();
        self.tell_capacity(tail, around.inputs);
    }
}
