//! A commit: what is written with it, and what follows when it is on the disk or has failed.
//!
//! It consists of messages, marks of their logs, and what is kept no longer. When a commit is
//! due is decided elsewhere.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use serde_json::value::{RawValue, to_raw_value};

use super::StoreContext;
use super::child::Children;
use super::encoding;
use super::encoding::LogMark;
use super::failures::Failures;
use super::hub_clock::HubClock;
use super::index::{Garbage, Index, IndexEntry};
use super::ipc::{LogHeader, NewRecord, SpaceReport, StoreRequest, Tombstone};
use super::memtable::{Memtable, MessageKey, Retry};
use super::recovery::StoreMark;
use super::write_queue::WriteQueue;
use crate::hub::{Hub, LogKey, StoreEvent};
use crate::protocol::Moment;
use crate::sort::sort;

/// How much goes into one commit: what a slow card writes in a fraction of a
/// second, and no more than part of a generation.
const MOST_BYTES: usize = 512 << 10;
const MOST_MESSAGES: usize = 1000;

/// How much garbage goes into one commit: so many logs that became empty, and as many
/// ranges.
const MOST_GARBAGE: usize = 500;

/// How many messages try whether the disk can be used again: if it cannot, it is unknown
/// which of them are there, and that is remembered of each.
const TRIAL: usize = 16;

/// How much goes into one commit.
#[derive(Clone, Copy)]
pub(super) struct CommitLimits {
    bytes: usize,
    messages: usize,
}

impl CommitLimits {
    /// Those of a commit to a generation of that size; while the disk fails, of one that
    /// tries whether it can be used again.
    pub(super) fn new(generation_bytes: u64, failures: &Failures) -> Self {
        let messages = if failures.is_failing() { TRIAL } else { MOST_MESSAGES };
        Self { bytes: MOST_BYTES.min(generation_bytes as usize / 4), messages }
    }

    pub(super) fn messages(self) -> usize {
        self.messages
    }

    /// The messages of one commit, of which there are none so far.
    pub(super) fn begin(self) -> ChosenMessages {
        ChosenMessages { room: self, keys: Vec::new() }
    }
}

/// The messages that go into a commit.
pub(super) struct ChosenMessages {
    room: CommitLimits,
    keys: Vec<MessageKey>,
}

impl ChosenMessages {
    pub(super) fn is_full(&self) -> bool {
        self.room.bytes == 0 || self.keys.len() >= self.room.messages
    }

    /// Takes a message, unless it was forgotten, or went before.
    pub(super) fn push(&mut self, key: MessageKey, memtable: &mut Memtable) {
        if let Some(size) = memtable.begin_commit(&key) {
            self.room.bytes = self.room.bytes.saturating_sub(size);
            self.keys.push(key);
        }
    }

    pub(super) fn into_keys(self) -> Vec<MessageKey> {
        self.keys
    }
}

/// A message of an old generation that is written again.
pub(super) struct MovedRecord {
    key: MessageKey,
    entry: IndexEntry,
    head: Box<RawValue>,
    body: Box<RawValue>,
}

impl MovedRecord {
    pub(super) fn new(log: LogKey, entry: IndexEntry, head: Box<RawValue>, body: Box<RawValue>) -> Self {
        Self { key: MessageKey { log, seq: entry.seq }, entry, head, body }
    }

    pub(super) fn key(&self) -> &MessageKey {
        &self.key
    }

    /// Whether it is still kept where it was read. What was forgotten meanwhile need not
    /// move, nor take the place of what has its number now.
    pub(super) fn is_kept(&self, index: &Index) -> bool {
        index.get(&self.key.log, self.key.seq) == Some(self.entry)
    }

    fn new_record<'a>(&'a self, log: &'a str) -> NewRecord<'a> {
        let (head, body) = (Cow::Borrowed(&*self.head), Cow::Borrowed(&*self.body));
        NewRecord { log: log.into(), seq: self.key.seq, head, body }
    }
}

/// A log that a commit writes to, or writes the mark of.
struct LogInCommit {
    log: LogKey,
    mark: LogMark,
    is_mark_needed: bool,
}

/// A message out of memory, in the incarnation that its log has.
struct Put {
    key: MessageKey,
    incarnation: u64,
}

/// What a commit may consist of.
pub(super) struct CommitContent {
    chosen: Vec<MessageKey>,
    moved: Vec<MovedRecord>,
    garbage: Garbage,
}

impl CommitContent {
    /// Messages out of memory and out of an old generation, with what the index has of
    /// garbage.
    pub(super) fn new(chosen: Vec<MessageKey>, moved: Vec<MovedRecord>, index: &mut Index) -> Self {
        Self { chosen, moved, garbage: index.take_garbage(MOST_GARBAGE) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chosen.is_empty() && self.moved.is_empty() && self.garbage.is_empty()
    }

    /// The logs that it is about, ascending.
    fn logs(&self, index: &mut Index, hub: &Hub) -> Vec<LogInCommit> {
        // With the first position that is written of each.
        let mut logs: BTreeMap<&LogKey, Option<u64>> = BTreeMap::new();
        for MessageKey { log, seq } in &self.chosen {
            let first = logs.entry(log).or_default();
            *first = Some(first.map_or(*seq, |first| first.min(*seq)));
        }
        for log in self.moved.iter().map(|moved| &moved.key.log).chain(self.garbage.logs()) {
            logs.entry(log).or_default();
        }
        let in_commit = |(log, written): (&LogKey, Option<u64>)| {
            let is_stale = self.garbage.has_mark(log);
            let (mark, is_mark_needed) = index.mark(log, hub.cursor_and_last(log), written, is_stale)?;
            Some(LogInCommit { log: log.clone(), mark, is_mark_needed })
        };
        logs.into_iter().filter_map(in_commit).collect()
    }
}

/// A commit that is being written.
pub(super) struct Commit {
    generation: u32,
    puts: Vec<Put>,
    moved: Vec<MovedRecord>,
    /// Ascending, to be searched.
    logs: Vec<LogInCommit>,
    garbage: Garbage,
    /// There is more garbage than this commit writes down.
    is_garbage_left: bool,
}

/// What follows from a commit that is on the disk.
pub(super) struct CommitOutcome {
    /// All garbage that there was when it was made is written down.
    pub(super) is_garbage_settled: bool,
    /// Which messages out of memory are on the disk now.
    pub(super) stored: Vec<StoreEvent>,
}

/// A log of a commit, and its place.
fn find<'a>(logs: &'a [LogInCommit], log: &LogKey) -> Option<(usize, &'a LogInCommit)> {
    let place = logs.binary_search_by(|of| of.log.cmp(log)).ok()?;
    Some((place, logs.get(place)?))
}

impl Commit {
    /// One to a generation.
    pub(super) fn new(content: CommitContent, generation: u32, index: &mut Index, hub: &Hub) -> Self {
        let logs = content.logs(index, hub);
        let CommitContent { chosen, moved, garbage } = content;
        let put = |key: MessageKey| {
            let incarnation = find(&logs, &key.log).map_or(0, |(_, of)| of.mark.incarnation);
            Put { key, incarnation }
        };
        let puts = chosen.into_iter().map(put).collect();
        Self { generation, puts, moved, logs, garbage, is_garbage_left: index.has_garbage() }
    }

    /// Sends it to the process; so much of the write budget is spent.
    pub(super) fn send(
        &self,
        children: &mut Children,
        memtable: &Memtable,
        clock: &HubClock,
        spent: u64,
        context: &StoreContext<'_>,
    ) -> io::Result<()> {
        let names: Vec<String> = self.logs.iter().map(|of| encoding::log_name(&of.log)).collect();
        let name = |log: &LogKey| {
            let name = find(&self.logs, log).and_then(|(place, _)| names.get(place));
            name.map_or("", String::as_str)
        };
        let put = |Put { key, incarnation }: &Put| {
            let entry = memtable.get(&key.log, key.seq)?;
            let text = memtable.text(entry)?;
            encoding::new_record(name(&key.log), *incarnation, key.seq, entry.state(), text, clock)
        };
        let moved = self.moved.iter().map(|moved| moved.new_record(name(&moved.key.log)));
        let puts = self.puts.iter().filter_map(put).chain(moved).collect();
        let mut marks = vec![header("", &StoreMark::new(clock.stamp(context.now), spent))?];
        for (of, name) in self.logs.iter().zip(&names).filter(|(of, _)| of.is_mark_needed) {
            marks.push(header(name, &of.mark)?);
        }
        let gone = self.garbage.ranges().map(|(log, range)| Tombstone {
            log: encoding::incarnation_name(name(log), range.incarnation).into(),
            from: range.from,
            to: range.to,
        });
        let gone = gone.collect();
        let request = StoreRequest::Commit { generation: self.generation, puts, marks, gone };
        children.send(&request, context.epoll)
    }

    /// It failed, or was not begun: all of it is to be written again.
    pub(super) fn undo(
        self,
        now: Moment,
        memtable: &mut Memtable,
        writes: &mut WriteQueue,
        index: &mut Index,
    ) {
        for Put { key, .. } in self.puts.into_iter().rev() {
            let Some(retry) = memtable.undo_commit(&key) else { continue };
            if retry == Retry::Dropped {
                index.forget_unconfirmed(&key.log, key.seq);
                writes.note_garbage(now);
            }
            writes.put_back(key, retry);
        }
        index.put_garbage_back(self.garbage);
    }

    /// It is on the disk.
    pub(super) fn finish(
        self,
        report: &SpaceReport,
        memtable: &mut Memtable,
        index: &mut Index,
    ) -> CommitOutcome {
        let generation = self.generation;
        index.measured(generation, report.newest, report.wal);
        for MovedRecord { key: MessageKey { log, seq }, entry, .. } in self.moved {
            // Forgotten since it was written, it is dead there as well.
            let is_kept = index.contains(&log, seq);
            index.insert(&log, IndexEntry { generation, ..entry });
            if !is_kept {
                index.forget(&log, seq, seq, memtable.next(&log, 0));
            }
        }
        let mut stored = Vec::new();
        for Put { key, .. } in self.puts {
            // Another message may have its number by now.
            let Some(committed) = memtable.end_commit(&key) else {
                index.forget_unconfirmed(&key.log, key.seq);
                continue;
            };
            let MessageKey { log, seq } = &key;
            index.insert(log, IndexEntry { seq: *seq, generation, size: committed.size });
            if committed.is_forgotten {
                index.forget(log, *seq, *seq, memtable.next(log, 0));
            }
            stored.push(key);
        }
        index.settle_garbage(&self.garbage);
        CommitOutcome { is_garbage_settled: !self.is_garbage_left, stored: stored_ranges(stored) }
    }
}

/// What the hub receives of messages that are on the disk now: ranges of each log.
fn stored_ranges(mut stored: Vec<MessageKey>) -> Vec<StoreEvent> {
    sort(&mut stored);
    let mut ranges = Vec::new();
    let mut stored = stored.into_iter().peekable();
    while let Some(MessageKey { log, seq: from }) = stored.next() {
        let mut to = from;
        while stored.next_if(|next| next.log == log && next.seq == to + 1).is_some() {
            to += 1;
        }
        ranges.push(StoreEvent::Stored { log, from, to });
    }
    ranges
}

fn header<'a>(log: &'a str, state: &impl serde::Serialize) -> io::Result<LogHeader<'a>> {
    Ok(LogHeader { log: log.into(), state: Cow::Owned(to_raw_value(state)?) })
}
