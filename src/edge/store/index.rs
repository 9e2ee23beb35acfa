//! The index: which messages are on the disk, and in which generation.
//!
//! It is complete and in memory: for each log the messages in it, for each generation how
//! much of it is still kept. What is dropped here is garbage on the disk until a commit has
//! written that down; until then the index holds that as well. It does not touch the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::encoding::LogMark;
use crate::hub::LogKey;
use crate::small_queue::{SmallQueue, shrink};

/// A message on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct IndexEntry {
    pub(super) seq: u64,
    pub(super) generation: u32,
    /// What it counts against limits.
    pub(super) size: u32,
}

/// What is said of a log on the disk beside its messages.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
struct LogState {
    incarnation: u64,
    /// As the last mark that was written has them; zero where there is none.
    cursor: u64,
    last: u64,
}

/// One log on the disk.
#[derive(Debug)]
struct IndexedLog {
    state: LogState,
    /// Ascending by position.
    messages: SmallQueue<IndexEntry>,
}

impl IndexedLog {
    /// Whether the disk may have a mark of it.
    fn has_mark(&self) -> bool {
        self.state.last > 0
    }
}
/// The hub counts 96 bytes for a log here: 72 of a table that is three quarters full.
const _: () = assert!(size_of::<(LogKey, IndexedLog)>() <= 72);

/// What one generation takes, and for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct GenerationUsage {
    /// Messages in it that are still kept, and what they count.
    messages: u64,
    kept: u64,
    /// What all count that were ever written to it.
    put: u64,
    /// What it takes on the disk.
    bytes: u64,
    /// What of it is not in its database yet; zero until the process has reported that.
    wal: u64,
}

impl GenerationUsage {
    /// Whether no message in it is kept any more.
    pub(super) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn wal(&self) -> u64 {
        self.wal
    }

    /// How much of what it takes is of no use: what sled and marks take around the
    /// messages is shared by all that were written, small or large.
    pub(super) fn waste(&self) -> u64 {
        let live = u128::from(self.bytes) * u128::from(self.kept) / u128::from(self.put.max(1));
        // What marks take that came later is not for the sake of few messages.
        let most = 8 * self.kept + (64 << 10);
        self.bytes.saturating_sub(u64::try_from(live).unwrap_or(u64::MAX).min(most))
    }
}

/// Messages in one incarnation of a log that are kept no longer, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Debug)]
pub(super) struct GoneRange {
    pub(super) incarnation: u64,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// What the disk has and should not have any more.
#[derive(Debug, Default)]
pub(super) struct Garbage {
    /// Logs whose mark on the disk is not true any more.
    marks: BTreeSet<LogKey>,
    /// Messages out of the middle of their logs that are kept no longer.
    ranges: Vec<(LogKey, GoneRange)>,
}

impl Garbage {
    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.ranges.is_empty()
    }

    /// Whether the mark of a log has to be written anew.
    pub(super) fn has_mark(&self, log: &LogKey) -> bool {
        self.marks.contains(log)
    }

    /// All logs that it is about; one may come several times.
    pub(super) fn logs(&self) -> impl Iterator<Item = &LogKey> {
        self.marks.iter().chain(self.ranges.iter().map(|(log, _)| log))
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = &(LogKey, GoneRange)> {
        self.ranges.iter()
    }
}

/// All that is known of the disk.
#[derive(Debug, Default)]
pub(super) struct Index {
    logs: HashMap<LogKey, IndexedLog>,
    generations: BTreeMap<u32, GenerationUsage>,
    /// The last incarnation that was given to a log.
    last_incarnation: u64,
    garbage: Garbage,
}

impl Index {
    /// Whether something is kept no longer, and the disk does not know.
    pub(super) fn has_garbage(&self) -> bool {
        !self.garbage.is_empty()
    }

    /// What all generations take on the disk.
    pub(super) fn used(&self) -> u64 {
        self.generations.values().map(|generation| generation.bytes).sum()
    }

    /// What all messages count that are still kept on the disk.
    pub(super) fn kept(&self) -> u64 {
        self.generations.values().map(|generation| generation.kept).sum()
    }

    /// How much of what is used is of no use.
    pub(super) fn waste(&self) -> u64 {
        self.generations.values().map(GenerationUsage::waste).sum()
    }

    /// All generations, ascending.
    pub(super) fn generations(&self) -> impl Iterator<Item = (u32, &GenerationUsage)> {
        self.generations.iter().map(|(generation, usage)| (*generation, usage))
    }

    pub(super) fn generation(&self, generation: u32) -> Option<&GenerationUsage> {
        self.generations.get(&generation)
    }

    /// The process has reported what a generation takes, and its write-ahead log of that.
    pub(super) fn measured(&mut self, generation: u32, bytes: u64, wal: u64) {
        let usage = self.generations.entry(generation).or_default();
        (usage.bytes, usage.wal) = (bytes, wal);
    }

    /// A generation is deleted.
    pub(super) fn remove_generation(&mut self, generation: u32) {
        self.generations.remove(&generation);
    }

    pub(super) fn contains(&self, key: &LogKey, seq: u64) -> bool {
        self.get(key, seq).is_some()
    }

    /// Where a message is.
    pub(super) fn get(&self, key: &LogKey, seq: u64) -> Option<IndexEntry> {
        let messages = &self.logs.get(key)?.messages;
        messages.find(&seq, |entry| entry.seq).ok().and_then(|at| messages.get(at)).copied()
    }

    /// The first message of a log after a position.
    pub(super) fn next(&self, key: &LogKey, after: u64) -> Option<IndexEntry> {
        let messages = &self.logs.get(key)?.messages;
        messages.get(messages.partition_point(|entry| entry.seq <= after)).copied()
    }

    /// Messages of a log after a position that lie in one generation and before
    /// `end`: up to `count`, or `bytes`.
    pub(super) fn run(
        &self,
        key: &LogKey,
        after: u64,
        end: u64,
        count: usize,
        bytes: usize,
    ) -> Vec<IndexEntry> {
        let Some(log) = self.logs.get(key) else { return Vec::new() };
        let mut run: Vec<IndexEntry> = Vec::new();
        let mut room = bytes;
        for entry in log.messages.range(log.messages.partition_point(|entry| entry.seq <= after)..) {
            let is_elsewhere = run.first().is_some_and(|first| first.generation != entry.generation);
            let is_full = run.len() >= count || (entry.size as usize > room && !run.is_empty());
            if entry.seq >= end || is_elsewhere || is_full {
                break;
            }
            room = room.saturating_sub(entry.size as usize);
            run.push(*entry);
        }
        run
    }

    /// In which incarnation a log's messages are written by the commit that is being made;
    /// an empty one begins another. Its numbers may begin anew, and what the disk
    /// has of it must not be taken for what comes.
    fn incarnation_for_commit(&mut self, key: &LogKey) -> u64 {
        let is_empty = |log: &IndexedLog| log.messages.is_empty();
        if self.logs.get(key).is_none_or(is_empty) {
            self.last_incarnation += 1;
            let incarnation = self.last_incarnation;
            let fresh = || IndexedLog {
                state: LogState { incarnation, cursor: 0, last: 0 },
                messages: SmallQueue::default(),
            };
            self.logs.entry(key.clone()).or_insert_with(fresh).state.incarnation = incarnation;
        }
        self.logs.get(key).map_or(0, |log| log.state.incarnation)
    }

    /// A message is on the disk, perhaps in another place than before.
    pub(super) fn insert(&mut self, key: &LogKey, entry: IndexEntry) {
        let Some(log) = self.logs.get_mut(key) else {
            debug_assert!(false, "{key:?} was committed without an incarnation");
            return;
        };
        match log.messages.find(&entry.seq, |entry| entry.seq) {
            Ok(at) => {
                let here = log.messages.get_mut(at);
                if let Some(before) = here.map(|here| std::mem::replace(here, entry)) {
                    self.discount(before);
                }
            }
            Err(at) => log.messages.insert(at, entry),
        }
        self.count(entry);
    }

    /// A message is kept in its place.
    fn count(&mut self, entry: IndexEntry) {
        let generation = self.generations.entry(entry.generation).or_default();
        generation.messages += 1;
        generation.kept += u64::from(entry.size);
        generation.put += u64::from(entry.size);
    }

    /// A message is kept no longer in the place where it was.
    fn discount(&mut self, entry: IndexEntry) {
        if let Some(generation) = self.generations.get_mut(&entry.generation) {
            generation.messages = generation.messages.saturating_sub(1);
            generation.kept = generation.kept.saturating_sub(u64::from(entry.size));
        }
    }

    /// Drops messages, both ends included. `lowest` is the first position of the log that
    /// is in memory: if that is written later, the mark of the log goes down to it, and
    /// must not bring back what lies above.
    pub(super) fn forget(&mut self, key: &LogKey, from: u64, to: u64, lowest: Option<u64>) {
        let Some(log) = self.logs.get_mut(key) else { return };
        let begin = log.messages.partition_point(|entry| entry.seq < from);
        let end = log.messages.partition_point(|entry| entry.seq <= to);
        if begin >= end {
            return;
        }
        let dropped: Vec<IndexEntry> = log.messages.drain(begin, end);
        let (Some(first), Some(last)) = (dropped.first(), dropped.last()) else { return };
        let is_first = begin == 0 && lowest.is_none_or(|lowest| lowest > last.seq);
        if is_first || log.messages.is_empty() {
            self.garbage.marks.insert(key.clone());
        } else {
            let range = GoneRange { incarnation: log.state.incarnation, from: first.seq, to: last.seq };
            self.note_gone(key, range);
        }
        for entry in dropped {
            self.discount(entry);
        }
    }

    /// Drops a message that may be on the disk, though no answer said so: that of the
    /// commit it was in never came.
    pub(super) fn forget_unconfirmed(&mut self, key: &LogKey, seq: u64) {
        match self.logs.get(key).filter(|log| !log.messages.is_empty()) {
            Some(log) => {
                let range = GoneRange { incarnation: log.state.incarnation, from: seq, to: seq };
                self.note_gone(key, range);
            }
            None => drop(self.garbage.marks.insert(key.clone())),
        }
    }

    /// Notes a range; one that goes on where the last one ends makes that longer.
    fn note_gone(&mut self, key: &LogKey, range: GoneRange) {
        match self.garbage.ranges.last_mut() {
            Some((log, last))
                if log == key && last.incarnation == range.incarnation && last.to + 1 == range.from =>
            {
                last.to = range.to;
            }
            _ => self.garbage.ranges.push((key.clone(), range)),
        }
    }

    /// The mark of a log for the commit that is being made, and whether it has to be
    /// written. `position` is its cursor and last position, where the hub has it;
    /// `written` the first position among what is written with it.
    ///
    /// Where nothing of a log was dropped yet its messages replace a mark:
    /// for a message in each of very many logs, that is a third of what the disk takes.
    pub(super) fn mark(
        &mut self,
        key: &LogKey,
        position: Option<(u64, u64)>,
        written: Option<u64>,
        is_stale: bool,
    ) -> Option<(LogMark, bool)> {
        let incarnation = self.incarnation_for_commit(key);
        let log = self.logs.get_mut(key)?;
        let (cursor, last) = position.unwrap_or((log.state.cursor, log.state.last));
        let is_needed = is_stale || log.has_mark() || cursor > 0;
        if is_needed {
            // Positions begin at 1: where the hub does not know the log there is a mark all
            // the same.
            (log.state.cursor, log.state.last) = (cursor, last.max(1));
        }
        let first = log.messages.front().map(|entry| entry.seq).into_iter().chain(written).min();
        Some((LogMark { incarnation, first: first.unwrap_or_default(), cursor, last }, is_needed))
    }

    /// Drops all that lies in generations that are not there any more; how many
    /// messages that is.
    pub(super) fn lose_generations(&mut self, is_there: impl Fn(u32) -> bool) -> usize {
        if self.generations.keys().all(|generation| is_there(*generation)) {
            return 0;
        }
        self.generations.retain(|generation, _| is_there(*generation));
        let mut lost = Vec::new();
        for (key, log) in &self.logs {
            let gone = log.messages.iter().filter(|entry| !is_there(entry.generation));
            lost.extend(gone.map(|entry| (key.clone(), entry.seq)));
        }
        let count = lost.len();
        for (key, seq) in lost {
            self.forget(&key, seq, seq, Some(0));
        }
        count
    }

    /// Takes what the next commit writes of the garbage: up to so many marks, and as many
    /// ranges.
    pub(super) fn take_garbage(&mut self, most: usize) -> Garbage {
        let Garbage { marks, ranges } = &mut self.garbage;
        let rest = marks.iter().nth(most).cloned();
        let rest = rest.map(|first| marks.split_off(&first)).unwrap_or_default();
        let taken = std::mem::replace(marks, rest);
        let gone = ranges.drain(..most.min(ranges.len())).collect();
        ranges.shrink_to(2 * ranges.len());
        Garbage { marks: taken, ranges: gone }
    }

    /// The commit with it failed.
    pub(super) fn put_garbage_back(&mut self, mut garbage: Garbage) {
        self.garbage.marks.append(&mut garbage.marks);
        garbage.ranges.append(&mut self.garbage.ranges);
        self.garbage.ranges = garbage.ranges;
    }

    /// The commit with it is on the disk: logs of which nothing is left need not be known.
    pub(super) fn settle_garbage(&mut self, written: &Garbage) {
        for key in written.marks.iter().filter(|key| !self.garbage.marks.contains(*key)) {
            if self.logs.get(key).is_some_and(|log| log.messages.is_empty()) {
                self.logs.remove(key);
            }
        }
        shrink(&mut self.logs);
    }

    /// Runs of messages of a generation that are still kept, up to `bytes` in all.
    pub(super) fn survivors(&self, generation: u32, bytes: usize) -> Vec<(LogKey, Vec<IndexEntry>)> {
        let mut room = bytes;
        let mut found = Vec::new();
        for (key, log) in &self.logs {
            let Some(first) = log.messages.iter().find(|entry| entry.generation == generation) else {
                continue;
            };
            let run = self.run(key, first.seq - 1, u64::MAX, usize::MAX, room);
            room = room.saturating_sub(run.iter().map(|entry| entry.size as usize).sum());
            found.push((key.clone(), run));
            if room == 0 {
                break;
            }
        }
        found
    }

    /// Makes room for so many logs that are recovered.
    pub(super) fn reserve(&mut self, logs: usize) {
        self.logs.reserve(logs);
    }

    /// Takes a log as it was recovered; `last` is that of its mark, if it has one.
    pub(super) fn insert_recovered(
        &mut self,
        key: &LogKey,
        mark: &LogMark,
        last: u64,
        entries: impl Iterator<Item = IndexEntry>,
    ) {
        let mut messages = SmallQueue::default();
        for entry in entries {
            self.count(entry);
            messages.push_back(entry);
        }
        let state = LogState { incarnation: mark.incarnation, cursor: mark.cursor, last };
        self.logs.insert(key.clone(), IndexedLog { state, messages });
    }

    /// A message was recovered that is kept no longer.
    pub(super) fn count_dead(&mut self, entry: &IndexEntry) {
        self.generations.entry(entry.generation).or_default().put += u64::from(entry.size);
    }

    /// An incarnation was recovered; those that begin come after it.
    pub(super) fn reserve_incarnation(&mut self, incarnation: u64) {
        self.last_incarnation = self.last_incarnation.max(incarnation);
    }
}

/// One generation, for a process that takes over; what is kept in it is counted by its logs.
#[derive(Serialize, Deserialize)]
pub(super) struct GenerationSnapshot {
    generation: u32,
    put: u64,
    bytes: u64,
}

/// What is on the disk of one log, for a process that takes over.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct IndexedLogSnapshot {
    state: Option<LogState>,
    is_mark_stale: bool,
    gone: Vec<GoneRange>,
    /// Ascending by position.
    entries: Vec<IndexEntry>,
}

impl IndexedLogSnapshot {
    /// Whether there can be such a log. Positions begin at 1: what lies after the one before
    /// is read.
    pub(super) fn is_valid(&self) -> bool {
        let is_ascending = self.entries.is_sorted_by(|before, after| before.seq < after.seq);
        let is_positive = self.entries.first().is_none_or(|entry| entry.seq > 0);
        is_ascending && is_positive && (self.state.is_some() || self.entries.is_empty())
    }
}

impl Index {
    /// All generations and the last incarnation, for a process that takes over.
    pub(super) fn snapshot(&self) -> (Vec<GenerationSnapshot>, u64) {
        let of = |(generation, GenerationUsage { put, bytes, .. }): (&u32, &GenerationUsage)| {
            GenerationSnapshot { generation: *generation, put: *put, bytes: *bytes }
        };
        (self.generations.iter().map(of).collect(), self.last_incarnation)
    }

    /// The index of another process, but for its logs.
    pub(super) fn resume(generations: Vec<GenerationSnapshot>, last_incarnation: u64) -> Self {
        let of = |GenerationSnapshot { generation, put, bytes }| {
            (generation, GenerationUsage { put, bytes, ..GenerationUsage::default() })
        };
        Self { generations: generations.into_iter().map(of).collect(), last_incarnation, ..Self::default() }
    }

    /// The logs that the disk has, in no order.
    pub(super) fn logs(&self) -> impl ExactSizeIterator<Item = &LogKey> {
        self.logs.keys()
    }

    pub(super) fn has_log(&self, log: &LogKey) -> bool {
        self.logs.contains_key(log)
    }

    /// The logs that there is garbage of; one may come several times.
    pub(super) fn logs_of_garbage(&self) -> impl Iterator<Item = &LogKey> {
        self.garbage.logs()
    }

    /// What was dropped out of the middle of each log.
    pub(super) fn gone_by_log(&self) -> HashMap<&LogKey, Vec<GoneRange>> {
        let mut gone: HashMap<&LogKey, Vec<GoneRange>> = HashMap::new();
        for (log, range) in &self.garbage.ranges {
            gone.entry(log).or_default().push(*range);
        }
        gone
    }

    /// One log, for a process that takes over; `gone` is what was dropped out of its middle.
    pub(super) fn snapshot_of(&self, key: &LogKey, gone: Vec<GoneRange>) -> IndexedLogSnapshot {
        let log = self.logs.get(key);
        IndexedLogSnapshot {
            state: log.map(|log| log.state),
            is_mark_stale: self.garbage.marks.contains(key),
            gone,
            entries: log.into_iter().flat_map(|log| log.messages.iter().copied()).collect(),
        }
    }

    /// Takes a log of another process.
    pub(super) fn resume_log(&mut self, key: &LogKey, snapshot: IndexedLogSnapshot) {
        let IndexedLogSnapshot { state, is_mark_stale, gone, entries } = snapshot;
        self.garbage.ranges.extend(gone.into_iter().map(|range| (key.clone(), range)));
        if is_mark_stale {
            self.garbage.marks.insert(key.clone());
        }
        for entry in &entries {
            // What was ever put there is in the snapshot of the generation.
            let generation = self.generations.entry(entry.generation).or_default();
            generation.messages += 1;
            generation.kept += u64::from(entry.size);
        }
        if let Some(state) = state {
            self.logs.insert(key.clone(), IndexedLog { state, messages: entries.into_iter().collect() });
        }
    }
}
