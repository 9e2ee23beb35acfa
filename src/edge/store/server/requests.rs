//! Orders, and how each is carried out.
//!
//! Knows which generations are open: the newest, which is written to, stays open;
//! of the older ones at most one is. Does not know the engine.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::value::RawValue;

use super::connection::DaemonConnection;
use super::directory::StoreDir;
use super::error::{StoreError, StoreResult};
use super::free_space;
use super::free_space::Space;
use super::generation::{Access, Generation, Next, RecordSink, Told};
use super::generation_files;
use super::repair;
use super::repair::Seen;
use super::wal;
use crate::edge::store::ipc::{
    GenerationSize, LogHeader, NewRecord, SpaceReport, StoreRequest, StoreResponse, Tombstone,
};

/// So many damaged records are told one by one.
const NOTES: usize = 8;

/// How much a generation takes on the disk, and its write-ahead log of that.
#[derive(Clone, Copy, Default)]
struct Taken {
    bytes: u64,
    wal: u64,
}

pub(super) struct StorageServer {
    shelf: StoreDir,
    space: Space,
    newest: Option<(u32, Generation)>,
    older: Option<(u32, Generation)>,
    /// What each generation takes on the disk. That of the newest may grow.
    sizes: BTreeMap<u32, Taken>,
    /// What had been written to the disk when the kernel was asked last, and what was
    /// written to logs since: to ask it takes longer than a commit of one message.
    asked: u64,
    logged: u64,
}

impl StorageServer {
    /// Takes the store, and tells what is there.
    pub(super) fn start(directory: &Path) -> StoreResult<(Self, StoreResponse<'static>)> {
        let shelf = StoreDir::take(directory)?;
        shelf.sweep()?;
        let space = Space::of(directory);
        let mut notes = shelf.finish_replacing()?;
        notes.extend(repair::climb(&shelf, &space)?);
        space.take_ballast();
        let mut keeper =
            Self { shelf, space, newest: None, older: None, sizes: BTreeMap::new(), asked: 0, logged: 0 };
        for generation in keeper.shelf.generations()? {
            if generation_files::was_made(&keeper.shelf.place(generation)) {
                keeper.measure(generation)?;
            }
        }
        let size = |(&generation, &Taken { bytes, wal }): (&u32, &Taken)| {
            let is_only_read = generation_files::is_only_read(&keeper.shelf.place(generation));
            GenerationSize { generation, bytes, wal, is_only_read }
        };
        let generations = keeper.sizes.iter().map(size).collect();
        let ready = StoreResponse::Ready { generations, room: keeper.room(0)?, notes };
        Ok((keeper, ready))
    }

    pub(super) fn carry_out(&mut self, order: StoreRequest<'_>, talk: &mut DaemonConnection) -> StoreResult {
        match order {
            StoreRequest::Load { generation } => {
                let mut loading = Loading { talk, damaged: 0, notes: Vec::new() };
                self.with(generation, Access::ReadAll, |generation| generation.load(&mut loading))?;
                let Loading { talk, damaged, notes } = loading;
                talk.say(&StoreResponse::Loaded { damaged, notes })
            }
            StoreRequest::Read { generation, log, from, to, count, bytes } => {
                let mut reading = Reading { talk, told: 0, count, bytes, damaged: 0 };
                if count > 0 {
                    self.with(generation, Access::Read, |generation| {
                        generation.read(&log, from, to, &mut reading)
                    })?;
                }
                let Reading { talk, damaged, .. } = reading;
                talk.say(&StoreResponse::Read { damaged })
            }
            StoreRequest::Commit { generation, puts, marks, gone } => {
                let room = self.commit(generation, &puts, &marks, &gone)?;
                talk.say(&StoreResponse::Committed { room })
            }
            StoreRequest::Checkpoint { generation, bytes } => {
                self.space.for_writing(bytes)?;
                // For where the kernel does not count.
                self.logged += bytes;
                let mut is_done = true;
                self.with(generation, Access::Checkpoint, |generation| {
                    is_done = generation.checkpoint(bytes)?;
                    Ok(())
                })?;
                talk.say(&StoreResponse::Checkpointed { room: self.room(generation)?, is_done })
            }
            StoreRequest::Drop { generation } => {
                self.remove(generation)?;
                talk.say(&StoreResponse::Dropped { room: self.room(generation)? })
            }
        }
    }

    /// Ends in good order. What cannot be left behind now is not missed.
    pub(super) fn leave(&self) {
        for (_, open) in self.newest.iter().chain(&self.older) {
            drop(open.leave_witness());
        }
    }

    fn commit(
        &mut self,
        generation: u32,
        puts: &[NewRecord<'_>],
        marks: &[LogHeader<'_>],
        gone: &[Tombstone<'_>],
    ) -> StoreResult<SpaceReport> {
        let put = |put: &NewRecord<'_>| put.log.len() + put.head.get().len() + put.body.get().len();
        let mark = |mark: &LogHeader<'_>| mark.log.len() + mark.state.get().len();
        let given = puts.iter().map(put).chain(marks.iter().map(mark)).sum::<usize>() as u64;
        let free = self.space.for_writing(given)?;
        self.sizes.entry(generation).or_default();
        let mut written = 0;
        self.with(generation, Access::Commit, |generation| {
            written = generation.commit(puts, marks, gone)?;
            Ok(())
        })?;
        self.logged += written;
        Ok(self.room_with(generation, free.saturating_sub(written)))
    }

    /// Does something with a generation, which is opened if it is not. One that
    /// is not there has nothing to tell.
    fn with(
        &mut self,
        number: u32,
        what: Access,
        deed: impl FnOnce(&mut Generation) -> StoreResult,
    ) -> StoreResult {
        let Some(is_newest) = self.sizes.last_key_value().map(|(newest, _)| *newest == number) else {
            return Ok(());
        };
        if !self.sizes.contains_key(&number) {
            return Ok(());
        }
        self.make_way(number);
        let slot = if is_newest { &mut self.newest } else { &mut self.older };
        let bytes = self.sizes.get(&number).map_or(0, |taken| taken.bytes);
        let done = match slot {
            Some((_, open)) if open.is_ready_for(what) => {
                if what != Access::Checkpoint {
                    repair::begin(&self.shelf, number);
                }
                deed(open)
            }
            _ => open(&self.shelf, &self.space, number, slot.take(), (what, bytes)).and_then(|opened| {
                if what == Access::Checkpoint {
                    // What goes wrong with a copy is no damage of what is kept.
                    repair::end_well(what.seen());
                }
                let (_, open) = slot.insert((number, opened));
                deed(open)
            }),
        };
        if what.is_writing()
            && done.is_ok()
            && let Some((_, open)) = slot
        {
            let taken = Taken { bytes: open.taken()?, wal: open.wal() };
            self.sizes.insert(number, taken);
        }
        match &done {
            Ok(()) => repair::end_well(what.seen()),
            Err(trouble) => repair::end_badly(trouble),
        }
        done
    }

    /// Closes what is open in the way of a generation.
    fn make_way(&mut self, number: u32) {
        let newest = self.sizes.last_key_value().map(|(newest, _)| *newest);
        if self.newest.as_ref().is_some_and(|(open, _)| Some(*open) != newest) {
            self.older = self.newest.take();
        }
        if Some(number) != newest && self.older.as_ref().is_some_and(|(open, _)| *open != number) {
            self.older = None;
        }
    }

    fn remove(&mut self, generation: u32) -> StoreResult {
        for slot in [&mut self.newest, &mut self.older] {
            slot.take_if(|(open, _)| *open == generation);
        }
        self.sizes.remove(&generation);
        self.shelf.remove(generation)?;
        self.space.take_ballast();
        Ok(())
    }

    fn measure(&mut self, generation: u32) -> StoreResult {
        let place = self.shelf.place(generation);
        let bytes = free_space::taken(&place).map_err(StoreError::file(&place))?;
        self.sizes.insert(generation, Taken { bytes, wal: wal::length(&place)? });
        Ok(())
    }

    /// How much room there is, after something was done with a generation.
    fn room(&mut self, generation: u32) -> StoreResult<SpaceReport> {
        let known = self.asked + self.logged;
        (self.asked, self.logged) = (free_space::written().unwrap_or_default().max(known), 0);
        Ok(self.room_with(generation, self.space.free()?))
    }

    fn room_with(&self, generation: u32, free: u64) -> SpaceReport {
        let Taken { bytes, wal } = self.sizes.get(&generation).copied().unwrap_or_default();
        let used = self.sizes.values().map(|taken| taken.bytes).sum::<u64>() + self.space.ballast();
        SpaceReport { used, newest: bytes, wal, free, written: self.asked + self.logged }
    }
}

impl Access {
    /// How much of it is known to be well when that is done.
    fn seen(self) -> Seen {
        match self {
            Self::Commit | Self::Checkpoint => Seen::Nothing,
            Self::Read => Seen::Part,
            Self::ReadAll => Seen::All,
        }
    }

    fn is_writing(self) -> bool {
        matches!(self, Self::Commit | Self::Checkpoint)
    }
}

/// Opens a generation, or makes it, or opens what is missing of it for what it is wanted
/// for. That begins with this.
fn open(
    shelf: &StoreDir,
    space: &Space,
    number: u32,
    opened: Option<(u32, Generation)>,
    (what, bytes): (Access, u64),
) -> StoreResult<Generation> {
    let place = shelf.place(number);
    space.for_opening(bytes)?;
    let mut generation = match opened {
        Some((_, generation)) => {
            repair::begin_opening(shelf, number)?;
            generation
        }
        None => {
            if generation_files::was_made(&place) {
                repair::begin_opening(shelf, number)?;
            } else {
                // There is nothing to lose in one whose making did not come to its end, and
                // what is there of it may be in the way.
                shelf.remove(number)?;
            }
            Generation::open(&place)?
        }
    };
    generation.open_for(what, bytes)?;
    Ok(generation)
}

/// Tells all of a generation.
struct Loading<'t> {
    talk: &'t mut DaemonConnection,
    damaged: u64,
    notes: Vec<String>,
}

impl RecordSink for Loading<'_> {
    fn message(&mut self, told: Told<'_>) -> StoreResult<Next> {
        let Told { log, seq, head, .. } = told;
        match serde_json::from_str::<&RawValue>(head) {
            Ok(head) => {
                self.talk.say(&StoreResponse::Record {
                    log: log.into(),
                    seq,
                    head: Cow::Borrowed(head),
                    body: None,
                })?;
            }
            Err(_) => self.damaged(format!("message {seq} of {log}"), 1),
        }
        Ok(Next::More)
    }

    fn mark(&mut self, log: &str, state: &str) -> StoreResult {
        match serde_json::from_str::<&RawValue>(state) {
            Ok(state) => self
                .talk
                .say(&StoreResponse::Mark(LogHeader { log: log.into(), state: Cow::Borrowed(state) })),
            Err(_) => {
                self.damaged(format!("the state of {log}"), 1);
                Ok(())
            }
        }
    }

    fn gone(&mut self, log: &str, from: u64, to: u64) -> StoreResult {
        self.talk.say(&StoreResponse::Gone(Tombstone { log: log.into(), from, to }))
    }

    fn damaged(&mut self, what: String, count: u64) {
        self.damaged += count;
        if self.notes.len() < NOTES {
            self.notes.push(format!("damaged: {what}"));
        }
    }
}

/// Tells some messages of a log.
struct Reading<'t> {
    talk: &'t mut DaemonConnection,
    told: usize,
    count: usize,
    /// How many more.
    bytes: usize,
    damaged: u64,
}

impl RecordSink for Reading<'_> {
    fn message(&mut self, told: Told<'_>) -> StoreResult<Next> {
        let Told { log, seq, head, body } = told;
        let size = head.len() + body.len();
        let Some(bytes) = self.bytes.checked_sub(size).or((self.told == 0).then_some(0)) else {
            return Ok(Next::Enough);
        };
        let text = |text| serde_json::from_str::<&RawValue>(text).map(Cow::Borrowed);
        let (Ok(head), Ok(body)) = (text(head), text(body)) else {
            self.damaged(String::new(), 1);
            return Ok(Next::More);
        };
        self.talk.say(&StoreResponse::Record { log: log.into(), seq, head, body: Some(body) })?;
        self.bytes = bytes;
        self.told += 1;
        Ok(if self.told == self.count { Next::Enough } else { Next::More })
    }

    fn mark(&mut self, _: &str, _: &str) -> StoreResult {
        Ok(())
    }

    fn gone(&mut self, _: &str, _: u64, _: u64) -> StoreResult {
        Ok(())
    }

    fn damaged(&mut self, _: String, count: u64) {
        self.damaged += count;
    }
}
