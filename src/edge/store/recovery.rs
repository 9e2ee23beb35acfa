//! Recovery: the whole disk is read once, before anything is written to it.
//!
//! Records, marks and what is kept no longer come generation by generation, and make logs
//! together: of what comes twice the one of the later generation counts.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use serde::{Deserialize, Serialize};

use super::StoreContext;
use super::encoding;
use super::encoding::{LogMark, RecordHead};
use super::hub_clock::{HubClock, Stamp, StoreClock};
use super::index::{GoneRange, Index, IndexEntry};
use super::ipc::{GenerationSize, StoreResponse};
use crate::hub::{Hub, Input, LogKey, RecoveredLog, StoreEvent};
use crate::small_queue::SmallQueue;
use crate::sort::{sort, sort_by_cached_key};

/// The state of the store itself, written with every commit.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct StoreMark {
    stamp: Stamp,
    /// What of the budget was spent.
    spent: u64,
}

impl StoreMark {
    pub(super) fn new(stamp: Stamp, spent: u64) -> Self {
        Self { stamp, spent }
    }
}

/// A log, while it is put together.
struct GatheredLog {
    key: LogKey,
    mark: Option<LogMark>,
    /// Ascending by position.
    records: SmallQueue<RecoveredRecord>,
    gone: Vec<GoneRange>,
}

/// What was read of a message.
struct RecoveredRecord {
    seq: u64,
    generation: u32,
    head: RecordHead,
}

impl RecoveredRecord {
    fn entry(&self) -> IndexEntry {
        IndexEntry { seq: self.seq, generation: self.generation, size: self.head.size() }
    }
}

/// All logs, found by the names that they have on the disk. They are gone through in the
/// order in which they came, as their names and all that is made of them lie in memory.
#[derive(Default)]
struct GatheredLogs {
    list: Vec<GatheredLog>,
    places: HashTable<usize>,
    hasher: RandomState,
}

impl GatheredLogs {
    /// A log that was read of before, or a new one; none, if there can be none of that
    /// name.
    fn entry(&mut self, name: &str) -> Option<&mut GatheredLog> {
        let hasher = &self.hasher;
        let kind_and_name = encoding::split(name)?;
        let hash = hasher.hash_one(Some(kind_and_name));
        let parts = |place: &usize| self.list.get(*place).map(|log| encoding::parts(&log.key));
        let is_same = |place: &usize| parts(place) == Some(kind_and_name);
        let place = match self.places.entry(hash, is_same, |place| hasher.hash_one(parts(place))) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(free) => {
                let place = self.list.len();
                let key = encoding::log_key(name)?;
                free.insert(place);
                self.list.push(GatheredLog {
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
    logs: GatheredLogs,
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

/// What follows when a generation was read to its end.
pub(super) struct GenerationRead {
    /// All generations were read.
    pub(super) is_last: bool,
    /// The process has grown, and should end.
    pub(super) has_child_grown: bool,
}

impl Recovery {
    /// The next generation to be read.
    pub(super) fn next(&self) -> Option<u32> {
        self.generations.as_ref()?.front().copied()
    }

    /// A process has reported which generations there are. One that was set aside since is
    /// read no more. Whether none is left to be read.
    pub(super) fn set_generations(&mut self, sizes: &[GenerationSize]) -> bool {
        if let Some(generations) = &mut self.generations {
            generations.retain(|generation| sizes.iter().any(|size| size.generation == *generation));
        }
        self.generations.get_or_insert_with(|| sizes.iter().map(|size| size.generation).collect());
        self.next().is_none()
    }

    /// Takes something of a generation, which takes so much on the disk; what follows, where
    /// that was all of it.
    pub(super) fn push(
        &mut self,
        generation: u32,
        bytes: u64,
        response: StoreResponse<'_>,
    ) -> Result<Option<GenerationRead>, String> {
        match response {
            StoreResponse::Record { log, seq, head, .. } => match encoding::head(&head) {
                Some(head) => self.record(&log, RecoveredRecord { seq, generation, head }),
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
            StoreResponse::Gone(gone) => match encoding::log_and_incarnation(&gone.log) {
                Some((log, incarnation)) => {
                    if let Some(log) = self.logs.entry(log) {
                        log.gone.push(GoneRange { incarnation, from: gone.from, to: gone.to });
                    }
                }
                None => self.damaged += 1,
            },
            StoreResponse::Loaded { damaged, notes } => {
                self.damaged += damaged;
                for note in notes {
                    log::warn!("{note}");
                }
                return Ok(Some(self.end_generation(bytes)));
            }
            response => return Err(unexpected(&response)),
        }
        Ok(None)
    }

    fn end_generation(&mut self, bytes: u64) -> GenerationRead {
        if let Some(generations) = &mut self.generations {
            generations.pop_front();
        }
        self.read += bytes;
        let is_last = self.next().is_none();
        let has_child_grown = self.read > if is_last { GROWN } else { LARGE };
        if has_child_grown {
            self.read = 0;
        }
        GenerationRead { is_last, has_child_grown }
    }

    fn record(&mut self, log: &str, record: RecoveredRecord) {
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

impl GatheredLog {
    /// Drops what is kept no longer. An incarnation that has no mark has lost nothing yet, or
    /// damage took its mark: all that is of it is kept.
    fn sift(&mut self, mut drop_dead: impl FnMut(&RecoveredRecord)) -> LogMark {
        let last_incarnation =
            self.records.iter().map(|record| record.head.incarnation()).max().unwrap_or_default();
        self.mark = self.mark.filter(|mark| mark.incarnation >= last_incarnation);
        let mark =
            self.mark.unwrap_or(LogMark { incarnation: last_incarnation, first: 0, cursor: 0, last: 0 });
        let mut gone = std::mem::take(&mut self.gone);
        gone.retain(|range| range.incarnation == mark.incarnation);
        sort(&mut gone);
        // Numbers go on above what is gone, too: it would be taken for that.
        let written = self
            .records
            .iter()
            .filter(|record| record.head.incarnation() == mark.incarnation)
            .map(|record| record.seq);
        let last = written.chain(gone.iter().map(|range| range.to)).max().unwrap_or_default();
        let mut gone = gone.into_iter().peekable();
        // Ascending, both: no position above it is gone so far.
        let mut reach = 0;
        self.records.retain(|record| {
            let RecoveredRecord { seq, head, .. } = record;
            while let Some(range) = gone.next_if(|range| range.from <= *seq) {
                reach = reach.max(range.to);
            }
            let stays = head.incarnation() == mark.incarnation && *seq >= mark.first && *seq > reach;
            if !stays {
                drop_dead(record);
            }
            stays
        });
        LogMark { last: mark.last.max(last), ..mark }
    }
}

impl Recovery {
    /// All was read: it goes into the index, and the hub receives what is there. What of the
    /// write budget was spent before.
    pub(super) fn finish(
        mut self,
        clock: &mut StoreClock,
        index: &mut Index,
        context: &mut StoreContext<'_>,
    ) -> u64 {
        if self.damaged > 0 {
            log::error!("{} messages on the disk are damaged and lost", self.damaged);
        }
        let hub = context.hub;
        let stamp = self.store.as_ref().map(|store| &store.stamp);
        let heads = self.logs.list.iter().flat_map(|log| log.records.iter().map(|record| &record.head));
        let latest = heads.map(RecordHead::since).max();
        let hub_clock = clock.recover(context.now, stamp, latest.unwrap_or_default());
        sort_by_cached_key(&mut self.logs.list, |log| hub.place(&log.key));
        index.reserve(self.logs.list.len());
        for log in self.logs.list {
            if let Some(recovered) = log.into_index(index, hub, hub_clock) {
                context.inputs.push_back(Input::Store(StoreEvent::RecoveredLog(Box::new(recovered))));
            }
        }
        self.store.map_or(0, |store| store.spent)
    }
}

impl GatheredLog {
    /// Puts what is kept of it into the index; none, if nothing is.
    fn into_index(mut self, index: &mut Index, hub: &Hub, clock: &HubClock) -> Option<RecoveredLog> {
        let incarnations = self.records.iter().map(|record| record.head.incarnation());
        // Damage may leave less of a log than the ranges that are kept no longer.
        let others = self
            .mark
            .map(|mark| mark.incarnation)
            .into_iter()
            .chain(self.gone.iter().map(|range| range.incarnation));
        index.reserve_incarnation(incarnations.chain(others).max().unwrap_or_default());
        let mark = self.sift(|dead| index.count_dead(&dead.entry()));
        if self.records.is_empty() {
            return None;
        }
        let log = hub.shared(self.key);
        let last_in_mark = self.mark.map_or(0, |mark| mark.last);
        index.insert_recovered(&log, &mark, last_in_mark, self.records.iter().map(RecoveredRecord::entry));
        let kept =
            self.records.into_iter().map(|RecoveredRecord { seq, head, .. }| head.recovered(seq, clock));
        Some(RecoveredLog { log, cursor: mark.cursor, last: mark.last, kept: kept.collect() })
    }
}

/// The process has sent what nothing was requested of it for.
pub(super) fn unexpected(response: &StoreResponse<'_>) -> String {
    format!("the process that owns the disk said {response:?}, unasked")
}
