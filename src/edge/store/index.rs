//! What is on the disk, and where.
//!
//! Knows for each log which messages lie in which generation, and how much of a
//! generation is still owed to somebody. Does not know what they say, and does
//! not touch the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::encoding::LogMark;
use crate::hub::LogKey;
use crate::small_queue::{SmallQueue, shrink};

/// A message on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Placed {
    pub(super) seq: u64,
    pub(super) generation: u32,
    pub(super) size: u32,
}

/// One log on the disk.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) life: u64,
    /// Ascending by position.
    pub(super) messages: SmallQueue<Placed>,
    /// As the last mark has them that was written; zero where there is none.
    pub(super) cursor: u64,
    pub(super) last: u64,
}

impl Log {
    /// Whether the disk may have a mark of it.
    fn has_mark(&self) -> bool {
        self.last > 0
    }
}
/// The hub counts 96 bytes for a log here: 72 of a table that is three quarters full.
const _: () = assert!(size_of::<(LogKey, Log)>() <= 72);

/// One generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Generation {
    /// Messages in it that are still kept, and what they count.
    pub(super) messages: u64,
    pub(super) owed: u64,
    /// What all count that were ever written to it.
    pub(super) put: u64,
    /// What it takes on the disk.
    pub(super) bytes: u64,
    /// What of it is not in its database yet; zero until that was told.
    pub(super) wal: u64,
}

impl Generation {
    /// How much of what it takes is for nobody: what sled and marks take around the
    /// messages is shared by all that were written, small or large.
    pub(super) fn waste(&self) -> u64 {
        let live = u128::from(self.bytes) * u128::from(self.owed) / u128::from(self.put.max(1));
        // What marks take that came later is not for the sake of few messages.
        let most = 8 * self.owed + (64 << 10);
        self.bytes.saturating_sub(u64::try_from(live).unwrap_or(u64::MAX).min(most))
    }
}

/// A run of messages of one life of a log, both ends included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) log: LogKey,
    pub(super) life: u64,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// All that is known of the disk.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) logs: HashMap<LogKey, Log>,
    pub(super) generations: BTreeMap<u32, Generation>,
    /// Of the next log that begins anew.
    pub(super) next_life: u64,
    /// Logs whose mark on the disk is not true any more.
    pub(super) stale: BTreeSet<LogKey>,
    /// Messages out of the middle of their logs that are kept no longer.
    pub(super) gone: Vec<Run>,
}

impl Index {
    /// Whether something is kept no longer, and the disk does not know.
    pub(super) fn is_stale(&self) -> bool {
        !self.stale.is_empty() || !self.gone.is_empty()
    }

    /// What all generations take on the disk.
    pub(super) fn used(&self) -> u64 {
        self.generations.values().map(|generation| generation.bytes).sum()
    }

    /// What all messages count that are still kept on the disk.
    pub(super) fn owed(&self) -> u64 {
        self.generations.values().map(|generation| generation.owed).sum()
    }

    /// How much of that is for nobody.
    pub(super) fn waste(&self) -> u64 {
        self.generations.values().map(Generation::waste).sum()
    }

    pub(super) fn contains(&self, key: &LogKey, seq: u64) -> bool {
        self.get(key, seq).is_some()
    }

    /// Where a message is.
    pub(super) fn get(&self, key: &LogKey, seq: u64) -> Option<Placed> {
        let messages = &self.logs.get(key)?.messages;
        messages.find(&seq, |placed| placed.seq).ok().and_then(|at| messages.get(at)).copied()
    }

    /// The first message of a log after a position.
    pub(super) fn next(&self, key: &LogKey, after: u64) -> Option<Placed> {
        let messages = &self.logs.get(key)?.messages;
        messages.get(messages.partition_point(|placed| placed.seq <= after)).copied()
    }

    /// Messages of a log after a position that lie in one generation and before
    /// `end`: up to `count`, or `bytes`.
    pub(super) fn run(&self, key: &LogKey, after: u64, end: u64, count: usize, bytes: usize) -> Vec<Placed> {
        let Some(log) = self.logs.get(key) else { return Vec::new() };
        let mut run: Vec<Placed> = Vec::new();
        let mut room = bytes;
        for placed in log.messages.range(log.messages.partition_point(|placed| placed.seq <= after)..) {
            let apart = run.first().is_some_and(|first| first.generation != placed.generation);
            let full = run.len() >= count || (placed.size as usize > room && !run.is_empty());
            if placed.seq >= end || apart || full {
                break;
            }
            room = room.saturating_sub(placed.size as usize);
            run.push(*placed);
        }
        run
    }

    /// In which life a log's messages are written by the commit that is being made;
    /// an empty one begins another. Its numbers may begin anew, and what the disk
    /// has of it must not be taken for what comes.
    pub(super) fn life(&mut self, key: &LogKey) -> u64 {
        let is_empty = |log: &Log| log.messages.is_empty();
        if self.logs.get(key).is_none_or(is_empty) {
            let life = self.new_life();
            let fresh = || Log { life, messages: SmallQueue::default(), cursor: 0, last: 0 };
            self.logs.entry(key.clone()).or_insert_with(fresh).life = life;
        }
        self.logs.get(key).map_or(0, |log| log.life)
    }

    fn new_life(&mut self) -> u64 {
        self.next_life += 1;
        self.next_life
    }

    /// A message is on the disk, perhaps in another place than before.
    pub(super) fn place(&mut self, key: &LogKey, placed: Placed) {
        let Some(log) = self.logs.get_mut(key) else { return };
        match log.messages.find(&placed.seq, |placed| placed.seq) {
            Ok(at) => {
                let here = log.messages.get_mut(at);
                if let Some(before) = here.map(|here| std::mem::replace(here, placed)) {
                    self.lift(before);
                }
            }
            Err(at) => log.messages.insert(at, placed),
        }
        self.count(placed);
    }

    /// A message is owed in its place.
    fn count(&mut self, placed: Placed) {
        let generation = self.generations.entry(placed.generation).or_default();
        generation.messages += 1;
        generation.owed += u64::from(placed.size);
        generation.put += u64::from(placed.size);
    }

    /// A message is owed no longer in the place where it was.
    fn lift(&mut self, placed: Placed) {
        if let Some(generation) = self.generations.get_mut(&placed.generation) {
            generation.messages = generation.messages.saturating_sub(1);
            generation.owed = generation.owed.saturating_sub(u64::from(placed.size));
        }
    }

    /// Messages are kept no longer, both ends included. `lowest` is the first
    /// position of the log that is in memory: if that is written later, the mark of
    /// the log goes down to it, and must not bring back what lies above.
    pub(super) fn forget(&mut self, key: &LogKey, from: u64, to: u64, lowest: Option<u64>) {
        let Some(log) = self.logs.get_mut(key) else { return };
        let begin = log.messages.partition_point(|placed| placed.seq < from);
        let end = log.messages.partition_point(|placed| placed.seq <= to);
        if begin >= end {
            return;
        }
        let lifted: Vec<Placed> = log.messages.drain(begin, end);
        let (Some(first), Some(last)) = (lifted.first(), lifted.last()) else { return };
        let is_first = begin == 0 && lowest.is_none_or(|lowest| lowest > last.seq);
        if is_first || log.messages.is_empty() {
            self.stale.insert(key.clone());
        } else {
            let run = Run { log: key.clone(), life: log.life, from: first.seq, to: last.seq };
            self.note_gone(run);
        }
        for placed in lifted {
            self.lift(placed);
        }
    }

    /// A message is kept no longer that may be on the disk, though nobody said so:
    /// a commit with it was not answered.
    pub(super) fn bury(&mut self, key: &LogKey, seq: u64) {
        match self.logs.get(key).filter(|log| !log.messages.is_empty()) {
            Some(log) => {
                let run = Run { log: key.clone(), life: log.life, from: seq, to: seq };
                self.note_gone(run);
            }
            None => drop(self.stale.insert(key.clone())),
        }
    }

    /// Notes a run; one that goes on where the last one ends makes that longer.
    fn note_gone(&mut self, run: Run) {
        match self.gone.last_mut() {
            Some(last) if last.log == run.log && last.life == run.life && last.to + 1 == run.from => {
                last.to = run.to;
            }
            _ => self.gone.push(run),
        }
    }

    /// The mark of a log for the commit that is being made, and whether it has to be
    /// written. `standing` is its cursor and last position, where the hub has it;
    /// `written` the first position among what is written with it.
    ///
    /// Where nothing of a log was dropped yet its messages say all that a mark would:
    /// for a message in each of very many logs, that is a third of what the disk takes.
    pub(super) fn mark(
        &mut self,
        key: &LogKey,
        standing: Option<(u64, u64)>,
        written: Option<u64>,
        is_stale: bool,
    ) -> Option<(LogMark, bool)> {
        let life = self.life(key);
        let log = self.logs.get_mut(key)?;
        let (cursor, last) = standing.unwrap_or((log.cursor, log.last));
        let is_needed = is_stale || log.has_mark() || cursor > 0;
        if is_needed {
            // Positions begin at 1: where the hub does not know the log there is a mark all
            // the same.
            (log.cursor, log.last) = (cursor, last.max(1));
        }
        let first = log.messages.front().map(|placed| placed.seq).into_iter().chain(written).min();
        Some((LogMark { life, first: first.unwrap_or_default(), cursor, last }, is_needed))
    }

    /// Forgets all that lies in generations that are not there any more; how many
    /// messages that is.
    pub(super) fn lose_generations(&mut self, is_there: impl Fn(u32) -> bool) -> usize {
        if self.generations.keys().all(|generation| is_there(*generation)) {
            return 0;
        }
        self.generations.retain(|generation, _| is_there(*generation));
        let mut lost = Vec::new();
        for (key, log) in &self.logs {
            let gone = log.messages.iter().filter(|placed| !is_there(placed.generation));
            lost.extend(gone.map(|placed| (key.clone(), placed.seq)));
        }
        let count = lost.len();
        for (key, seq) in lost {
            self.forget(&key, seq, seq, Some(0));
        }
        count
    }

    /// Takes what the disk does not know: up to so many logs with a stale mark, and as
    /// many runs.
    pub(super) fn take_stale(&mut self, most: usize) -> Stale {
        let rest = self.stale.iter().nth(most).cloned();
        let rest = rest.map(|first| self.stale.split_off(&first)).unwrap_or_default();
        let logs = std::mem::replace(&mut self.stale, rest);
        let gone = self.gone.drain(..most.min(self.gone.len())).collect();
        self.gone.shrink_to(2 * self.gone.len());
        Stale { logs, gone }
    }

    /// The disk did not learn of it after all.
    pub(super) fn give_back(&mut self, mut stale: Stale) {
        self.stale.append(&mut stale.logs);
        stale.gone.append(&mut self.gone);
        self.gone = stale.gone;
    }

    /// The disk knows of it: logs of which nothing is left need not be known.
    pub(super) fn settle(&mut self, told: &Stale) {
        for key in told.logs.iter().filter(|key| !self.stale.contains(*key)) {
            if self.logs.get(key).is_some_and(|log| log.messages.is_empty()) {
                self.logs.remove(key);
            }
        }
        shrink(&mut self.logs);
    }

    /// Runs of messages of a generation that are still kept, up to `bytes` in all.
    pub(super) fn survivors(&self, generation: u32, bytes: usize) -> Vec<(LogKey, Vec<Placed>)> {
        let mut room = bytes;
        let mut found = Vec::new();
        for (key, log) in &self.logs {
            let Some(first) = log.messages.iter().find(|placed| placed.generation == generation) else {
                continue;
            };
            let run = self.run(key, first.seq - 1, u64::MAX, usize::MAX, room);
            room = room.saturating_sub(run.iter().map(|placed| placed.size as usize).sum());
            found.push((key.clone(), run));
            if room == 0 {
                break;
            }
        }
        found
    }

    /// Takes a log as it was found; `last` is that of its mark, if it has one.
    pub(super) fn adopt(
        &mut self,
        key: &LogKey,
        mark: &LogMark,
        last: u64,
        placed: impl Iterator<Item = Placed>,
    ) {
        let mut messages = SmallQueue::default();
        for placed in placed {
            self.count(placed);
            messages.push_back(placed);
        }
        let log = Log { life: mark.life, messages, cursor: mark.cursor, last };
        self.logs.insert(key.clone(), log);
    }

    /// A message was found that is kept no longer.
    pub(super) fn has_seen_dead(&mut self, placed: &Placed) {
        self.generations.entry(placed.generation).or_default().put += u64::from(placed.size);
    }

    /// The lives that were found; those that begin come after them.
    pub(super) fn has_seen(&mut self, life: u64) {
        self.next_life = self.next_life.max(life);
    }
}

/// What the disk does not know yet.
#[derive(Debug, Default)]
pub(super) struct Stale {
    pub(super) logs: BTreeSet<LogKey>,
    pub(super) gone: Vec<Run>,
}
