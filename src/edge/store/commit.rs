//! One commit: what is in it, and what follows when it is on the disk.
//!
//! Knows which messages, marks and runs go together. Does not know when a commit
//! is due.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use serde_json::value::{RawValue, to_raw_value};

use super::backend::{Backend, StoreContext};
use super::child::StoreProcess;
use super::encoding;
use super::encoding::LogMark;
use super::hub_clock::HubClock;
use super::index::{Placed, Stale};
use super::ipc::{LogHeader, NewRecord, SpaceReport, StoreRequest, Tombstone};
use super::memtable::Memtable;
use super::recovery::StoreMark;
use super::write_budget::{Thrift, WriteBudget};
use crate::hub::settings::WriteThrough as When;
use crate::hub::{Input, LogKey, StoreEvent};
use crate::protocol::Moment;
use crate::sort::sort;

/// How much goes into one commit: what a slow card writes in a fraction of a
/// second, and no more than part of a generation.
const MOST_BYTES: usize = 512 << 10;
const MOST_MESSAGES: usize = 1000;

/// How much of what is kept no longer goes into one commit: so many logs that became
/// empty, and as many runs.
const MOST_STALE: usize = 500;

/// How many messages try whether the disk can be used again: nobody knows what of them
/// is there if it cannot, and that is remembered of each.
const TRIAL: usize = 16;

/// A message of an old generation that is written again.
pub(super) struct Moved {
    pub(super) log: LogKey,
    pub(super) placed: Placed,
    pub(super) head: Box<RawValue>,
    pub(super) body: Box<RawValue>,
}

impl Moved {
    fn put<'a>(&'a self, log: &'a str) -> NewRecord<'a> {
        let (head, body) = (Cow::Borrowed(&*self.head), Cow::Borrowed(&*self.body));
        NewRecord { log: log.into(), seq: self.placed.seq, head, body }
    }
}

/// A log of which a commit speaks.
struct LogInCommit {
    log: LogKey,
    mark: LogMark,
    is_mark_needed: bool,
}

/// What is written with one commit.
pub(super) struct Batch {
    generation: u32,
    /// From memory, with the life of their logs.
    puts: Vec<(LogKey, u64, u64)>,
    moved: Vec<Moved>,
    /// Ascending, to be searched.
    logs: Vec<LogInCommit>,
    stale: Stale,
    /// More is kept no longer than this commit says.
    is_stale_left: bool,
}

impl Backend {
    /// What is to be written now; none if there is nothing.
    pub(super) fn batch(&mut self, tail: &mut Memtable, around: &mut StoreContext<'_>) -> Option<Batch> {
        let now = around.now.moment;
        // What is kept for making room is not used up by what comes.
        let has_room = self.takes_more();
        let chosen = if has_room { self.choose(now, tail) } else { Vec::new() };
        let moving = self.moving.take_if(|moving| moving.order().is_none());
        let mut moved = moving.map(|moving| moving.moved).unwrap_or_default();
        // What was forgotten meanwhile need not move, nor take the place of what has
        // its number now.
        moved.retain(|moved| self.index.get(&moved.log, moved.placed.seq) == Some(moved.placed));
        let stale = self.index.take_stale(MOST_STALE);
        let is_empty =
            chosen.is_empty() && moved.is_empty() && stale.logs.is_empty() && stale.gone.is_empty();
        if is_empty && self.trouble.is_none() {
            self.is_finishing &= !has_room;
            self.is_tidy();
            return None;
        }
        if self.room.newest > self.generation_bytes() {
            self.active_generation += 1;
            self.room.newest = 0;
        }
        let logs = self.logs_of(&chosen, &moved, &stale, around);
        let puts = chosen.into_iter().map(|(log, seq)| {
            let life = find(&logs, &log).map_or(0, |(_, of)| of.mark.life);
            (log, seq, life)
        });
        let (generation, puts, is_stale_left) =
            (self.active_generation, puts.collect(), self.index.is_stale());
        Some(Batch { generation, puts, moved, logs, stale, is_stale_left })
    }

    /// The logs that a commit speaks of, ascending.
    fn logs_of(
        &mut self,
        chosen: &[(LogKey, u64)],
        moved: &[Moved],
        stale: &Stale,
        around: &StoreContext<'_>,
    ) -> Vec<LogInCommit> {
        // With the first position that is written of each.
        let mut logs: BTreeMap<&LogKey, Option<u64>> = BTreeMap::new();
        for (log, seq) in chosen {
            let first = logs.entry(log).or_default();
            *first = Some(first.map_or(*seq, |first| first.min(*seq)));
        }
        let others = moved.iter().map(|moved| &moved.log).chain(&stale.logs);
        for log in others.chain(stale.gone.iter().map(|run| &run.log)) {
            logs.entry(log).or_default();
        }
        let in_commit = |(log, written): (&LogKey, Option<u64>)| {
            let (standing, is_stale) = (around.hub.standing(log), stale.logs.contains(log));
            let (mark, is_needed) = self.index.mark(log, standing, written, is_stale)?;
            Some(LogInCommit { log: log.clone(), mark, is_mark_needed: is_needed })
        };
        logs.into_iter().filter_map(in_commit).collect()
    }

    /// Which messages are written now: those that somebody waits for, and those
    /// that were owed for long enough.
    fn choose(&mut self, now: Moment, tail: &mut Memtable) -> Vec<(LogKey, u64)> {
        let mut chosen = Vec::new();
        let mut room = MOST_BYTES.min(self.generation_bytes() as usize / 4);
        let most = if self.trouble.is_some() { TRIAL } else { MOST_MESSAGES };
        let mut take = |log: LogKey, seq: u64, tail: &mut Memtable| {
            // It was forgotten, or went before.
            let Some(entry) = tail.get_mut(&log, seq).filter(|entry| !entry.is_leaving) else { return true };
            entry.is_leaving = true;
            room = room.saturating_sub(entry.size as usize);
            chosen.push((log, seq));
            room > 0 && chosen.len() < most
        };
        let mut more = true;
        while more && let Some((log, seq)) = self.sync_queue.pop_front() {
            more = take(log, seq, tail);
        }
        let window = self.budget.window(now, self.options.write_delay);
        let is_spent = self.budget.thrift(now) == Thrift::Spent;
        let hurries = self.is_finishing || (tail.bytes_for_disk() > self.options.memory && !is_spent);
        more &= !is_spent || self.is_finishing;
        while more && let Some((kept, ..)) = self.unwritten.front() {
            if *kept + window > now && !hurries {
                break;
            }
            let Some((_, log, seq)) = self.unwritten.pop_front() else { break };
            more = take(log, seq, tail);
        }
        if more {
            self.last_flush = now;
        }
        if self.unwritten.len() < self.unwritten.capacity() / 4 {
            self.unwritten.shrink_to(2 * self.unwritten.len());
        }
        if more && hurries && self.unwritten.is_empty() {
            let owed: Vec<(LogKey, u64)> =
                tail.owed().take(most).map(|(log, seq)| (log.clone(), seq)).collect();
            for (log, seq) in owed {
                if !take(log, seq, tail) {
                    break;
                }
            }
        }
        chosen
    }

    /// A commit failed, or was not begun: what it took is owed again.
    pub(super) fn take_back(&mut self, now: Moment, batch: Batch, tail: &mut Memtable) {
        for (log, seq, _) in batch.puts.into_iter().rev() {
            let Some(entry) = tail.get_mut(&log, seq) else { continue };
            (entry.is_leaving, entry.is_tried) = (false, true);
            match entry.disk {
                When::Now => self.sync_queue.push_front((log, seq)),
                _ if entry.is_forgotten => {
                    tail.remove(&log, seq);
                    self.bury(now, &log, [seq]);
                }
                When::Behind => self.unwritten.push_front((entry.since, log, seq)),
                When::Stop | When::Never => {}
            }
        }
        self.index.give_back(batch.stale);
        self.moving = None;
    }

    /// A commit is on the disk.
    pub(super) fn has_written(
        &mut self,
        room: SpaceReport,
        tail: &mut Memtable,
        around: &mut StoreContext<'_>,
    ) {
        let Some((super::scheduler::ChildTask::Commit(batch), _)) = self.task.take() else { return };
        let now = around.now.moment;
        let Batch { generation, puts, moved, stale, is_stale_left, .. } = *batch;
        self.has_room(now, room);
        let of = self.index.generations.entry(generation).or_default();
        (of.bytes, of.wal) = (room.newest, room.wal);
        for moved in moved {
            // Forgotten since it was written, it is dead there as well.
            let was_there = self.index.contains(&moved.log, moved.placed.seq);
            self.index.place(&moved.log, Placed { generation, ..moved.placed });
            if !was_there {
                self.forget(now, &moved.log, moved.placed.seq, moved.placed.seq, tail);
            }
        }
        let mut stored = Vec::new();
        for (log, seq, _) in puts {
            // Another message may have its number by now.
            let Some(entry) = tail.take_left(&log, seq) else {
                self.bury(now, &log, [seq]);
                continue;
            };
            self.index.place(&log, Placed { seq, generation, size: entry.size });
            if entry.is_forgotten {
                self.forget(now, &log, seq, seq, tail);
            }
            stored.push((log, seq));
        }
        self.index.settle(&stale);
        // What was forgotten meanwhile has its time from now on; what did not fit goes
        // with the next.
        if !is_stale_left {
            self.is_tidy();
        }
        if self.index.is_stale() {
            self.is_stale(now);
        }
        tell(stored, around);
        self.tell_capacity(tail, around.inputs);
        self.tell_scarcity(now, around.inputs);
        self.recover(around);
    }
}

/// Tells the hub what is on the disk now, in runs.
fn tell(mut stored: Vec<(LogKey, u64)>, around: &mut StoreContext<'_>) {
    sort(&mut stored);
    let mut stored = stored.into_iter().peekable();
    while let Some((log, from)) = stored.next() {
        let mut to = from;
        while stored.next_if(|(next, seq)| *next == log && *seq == to + 1).is_some() {
            to += 1;
        }
        around.inputs.push_back(Input::Store(StoreEvent::Stored { log, from, to }));
    }
}

/// A log of a commit, and its place.
fn find<'a>(logs: &'a [LogInCommit], log: &LogKey) -> Option<(usize, &'a LogInCommit)> {
    let place = logs.binary_search_by(|of| of.log.cmp(log)).ok()?;
    Some((place, logs.get(place)?))
}

impl Batch {
    /// Gives it to the process.
    pub(super) fn give(
        &self,
        process: &mut StoreProcess,
        tail: &Memtable,
        elapsed: &HubClock,
        budget: &WriteBudget,
        around: &mut StoreContext<'_>,
    ) -> io::Result<()> {
        let names: Vec<String> = self.logs.iter().map(|of| encoding::log(&of.log)).collect();
        let name = |log: &LogKey| {
            let name = find(&self.logs, log).and_then(|(place, _)| names.get(place));
            name.map_or("", String::as_str)
        };
        let put = |(log, seq, life): &(LogKey, u64, u64)| {
            let entry = tail.get(log, *seq)?;
            encoding::put((name(log), *seq), *life, entry, tail.text(entry)?, elapsed)
        };
        let moved = self.moved.iter().map(|moved| moved.put(name(&moved.log)));
        let puts = self.puts.iter().filter_map(put).chain(moved).collect();
        let store = StoreMark { stamp: elapsed.stamp(around.now), spent: budget.spent(around.now.moment) };
        let mut marks = vec![mark("", &store)?];
        for (of, name) in self.logs.iter().zip(&names).filter(|(of, _)| of.is_mark_needed) {
            marks.push(mark(name, &of.mark)?);
        }
        let gone = self.stale.gone.iter().map(|run| Tombstone {
            log: encoding::life(name(&run.log), run.life).into(),
            from: run.from,
            to: run.to,
        });
        let gone = gone.collect();
        let order = StoreRequest::Commit { generation: self.generation, puts, marks, gone };
        process.order(&order, around.epoll)
    }
}

fn mark<'a>(log: &'a str, state: &impl serde::Serialize) -> io::Result<LogHeader<'a>> {
    Ok(LogHeader { log: log.into(), state: Cow::Owned(to_raw_value(state)?) })
}
