//! Requests, and how each is carried out.
//!
//! Of the generations the newest, which is written to, stays open; of the older ones at most
//! one is. The engine is not named here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::value::RawValue;

use super::connection::DaemonConnection;
use super::directory::StoreDirectory;
use super::error::{StoreError, StoreResult};
use super::free_space;
use super::free_space::FreeSpace;
use super::generation::{Access, Generation, ReadDemand, RecordSink, StoredMessage};
use super::generation_files;
use super::repair;
use super::repair::Verified;
use super::wal;
use crate::edge::store::ipc::{
    GenerationSize, LogHeader, NewRecord, SpaceReport, StoreRequest, StoreResponse, Tombstone,
};

/// So many damaged records are reported one by one.
const NOTES: usize = 8;

/// How much a generation takes on the disk, and its write-ahead log of that.
#[derive(Clone, Copy, Default)]
struct GenerationBytes {
    bytes: u64,
    wal: u64,
}

pub(super) struct StorageServer {
    directory: StoreDirectory,
    space: FreeSpace,
    newest: Option<(u32, Generation)>,
    older: Option<(u32, Generation)>,
    /// What each generation takes on the disk. That of the newest may grow.
    sizes: BTreeMap<u32, GenerationBytes>,
    /// What had been written to the disk when the kernel was asked last, and what was
    /// written to logs since: to ask it takes longer than a commit of one message.
    counted_by_kernel: u64,
    written_to_logs: u64,
}

impl StorageServer {
    /// Takes the store, and reports what is there.
    pub(super) fn start(path: &Path) -> StoreResult<(Self, StoreResponse<'static>)> {
        let directory = StoreDirectory::take(path)?;
        directory.sweep()?;
        let space = FreeSpace::of(path);
        let mut notes = directory.finish_replacing()?;
        notes.extend(repair::repair_all(&directory, &space)?);
        space.take_ballast();
        let mut server = Self {
            directory,
            space,
            newest: None,
            older: None,
            sizes: BTreeMap::new(),
            counted_by_kernel: 0,
            written_to_logs: 0,
        };
        for generation in server.directory.generations()? {
            if generation_files::was_made(&server.directory.place(generation)) {
                server.measure(generation)?;
            }
        }
        let size = |(&generation, &GenerationBytes { bytes, wal }): (&u32, &GenerationBytes)| {
            let is_only_read = generation_files::is_only_read(&server.directory.place(generation));
            GenerationSize { generation, bytes, wal, is_only_read }
        };
        let generations = server.sizes.iter().map(size).collect();
        let ready = StoreResponse::Ready { generations, room: server.room(0)?, notes };
        Ok((server, ready))
    }

    pub(super) fn handle(
        &mut self,
        order: StoreRequest<'_>,
        connection: &mut DaemonConnection,
    ) -> StoreResult {
        match order {
            StoreRequest::Load { generation } => {
                let mut loading = LoadSink { connection, damaged: 0, notes: Vec::new() };
                self.use_generation(generation, Access::ReadAll, |generation| generation.load(&mut loading))?;
                let LoadSink { connection, damaged, notes } = loading;
                connection.send(&StoreResponse::Loaded { damaged, notes })
            }
            StoreRequest::Read { generation, log, from, to, count, bytes } => {
                let mut reading = ReadSink { connection, sent: 0, count, bytes, damaged: 0 };
                if count > 0 {
                    self.use_generation(generation, Access::Read, |generation| {
                        generation.read(&log, from, to, &mut reading)
                    })?;
                }
                let ReadSink { connection, damaged, .. } = reading;
                connection.send(&StoreResponse::Read { damaged })
            }
            StoreRequest::Commit { generation, puts, marks, gone } => {
                let room = self.commit(generation, &puts, &marks, &gone)?;
                connection.send(&StoreResponse::Committed { room })
            }
            StoreRequest::Checkpoint { generation, bytes } => {
                self.space.check_for_writing(bytes)?;
                // For where the kernel does not count.
                self.written_to_logs += bytes;
                let mut is_done = true;
                self.use_generation(generation, Access::WalCheckpoint, |generation| {
                    is_done = generation.checkpoint_wal(bytes)?;
                    Ok(())
                })?;
                connection.send(&StoreResponse::Checkpointed { room: self.room(generation)?, is_done })
            }
            StoreRequest::Drop { generation } => {
                self.remove(generation)?;
                connection.send(&StoreResponse::Dropped { room: self.room(generation)? })
            }
        }
    }

    /// Ends in good order. What cannot be written now is not missed.
    pub(super) fn close(&self) {
        for (_, open) in self.newest.iter().chain(&self.older) {
            drop(open.write_count());
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
        let free = self.space.check_for_writing(given)?;
        self.sizes.entry(generation).or_default();
        let mut written = 0;
        self.use_generation(generation, Access::Commit, |generation| {
            written = generation.commit(puts, marks, gone)?;
            Ok(())
        })?;
        self.written_to_logs += written;
        Ok(self.room_with(generation, free.saturating_sub(written)))
    }

    /// Does something with a generation, which is opened if it is not. One that
    /// is not there holds nothing.
    fn use_generation(
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
        self.close_others(number);
        let slot = if is_newest { &mut self.newest } else { &mut self.older };
        let bytes = self.sizes.get(&number).map_or(0, |taken| taken.bytes);
        let done = match slot {
            Some((_, open)) if open.is_ready_for(what) => {
                if what != Access::WalCheckpoint {
                    repair::begin(&self.directory, number);
                }
                deed(open)
            }
            _ => open(&self.directory, &self.space, number, slot.take(), (what, bytes)).and_then(|opened| {
                if what == Access::WalCheckpoint {
                    // What goes wrong with a copy is no damage of what is kept.
                    repair::end_successful(what.verified());
                }
                let (_, open) = slot.insert((number, opened));
                deed(open)
            }),
        };
        if what.is_writing()
            && done.is_ok()
            && let Some((_, open)) = slot
        {
            let taken = GenerationBytes { bytes: open.taken()?, wal: open.wal() };
            self.sizes.insert(number, taken);
        }
        match &done {
            Ok(()) => repair::end_successful(what.verified()),
            Err(error) => repair::end_failed(error),
        }
        done
    }

    /// Closes what must not be open beside a generation.
    fn close_others(&mut self, number: u32) {
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
        self.directory.remove(generation)?;
        self.space.take_ballast();
        Ok(())
    }

    fn measure(&mut self, generation: u32) -> StoreResult {
        let place = self.directory.place(generation);
        let bytes = free_space::taken(&place).map_err(StoreError::file(&place))?;
        self.sizes.insert(generation, GenerationBytes { bytes, wal: wal::length(&place)? });
        Ok(())
    }

    /// How much room there is, after something was done with a generation.
    fn room(&mut self, generation: u32) -> StoreResult<SpaceReport> {
        let known = self.counted_by_kernel + self.written_to_logs;
        (self.counted_by_kernel, self.written_to_logs) =
            (free_space::written().unwrap_or_default().max(known), 0);
        Ok(self.room_with(generation, self.space.free()?))
    }

    fn room_with(&self, generation: u32, free: u64) -> SpaceReport {
        let GenerationBytes { bytes, wal } = self.sizes.get(&generation).copied().unwrap_or_default();
        let used = self.sizes.values().map(|taken| taken.bytes).sum::<u64>() + self.space.ballast();
        SpaceReport { used, newest: bytes, wal, free, written: self.counted_by_kernel + self.written_to_logs }
    }
}

impl Access {
    /// How much of a generation is verified when that is done.
    fn verified(self) -> Verified {
        match self {
            Self::Commit | Self::WalCheckpoint => Verified::Nothing,
            Self::Read => Verified::Part,
            Self::ReadAll => Verified::All,
        }
    }

    fn is_writing(self) -> bool {
        matches!(self, Self::Commit | Self::WalCheckpoint)
    }
}

/// Opens a generation, or makes it, or opens what is missing of it for an access, which
/// begins with this.
fn open(
    directory: &StoreDirectory,
    space: &FreeSpace,
    number: u32,
    opened: Option<(u32, Generation)>,
    (what, bytes): (Access, u64),
) -> StoreResult<Generation> {
    let place = directory.place(number);
    space.check_for_opening(bytes)?;
    let mut generation = match opened {
        Some((_, generation)) => {
            repair::begin_opening(directory, number)?;
            generation
        }
        None => {
            if generation_files::was_made(&place) {
                repair::begin_opening(directory, number)?;
            } else {
                // There is nothing to lose in one whose making did not come to its end, and
                // what is there of it may be in the way.
                directory.remove(number)?;
            }
            Generation::open(&place)?
        }
    };
    generation.open_for(what, bytes)?;
    Ok(generation)
}

/// Sends all of a generation.
struct LoadSink<'t> {
    connection: &'t mut DaemonConnection,
    damaged: u64,
    notes: Vec<String>,
}

impl RecordSink for LoadSink<'_> {
    fn message(&mut self, message: StoredMessage<'_>) -> StoreResult<ReadDemand> {
        let StoredMessage { log, seq, head, .. } = message;
        match serde_json::from_str::<&RawValue>(head) {
            Ok(head) => {
                self.connection.send(&StoreResponse::Record {
                    log: log.into(),
                    seq,
                    head: Cow::Borrowed(head),
                    body: None,
                })?;
            }
            Err(_) => self.damaged(format!("message {seq} of {log}"), 1),
        }
        Ok(ReadDemand::More)
    }

    fn mark(&mut self, log: &str, state: &str) -> StoreResult {
        match serde_json::from_str::<&RawValue>(state) {
            Ok(state) => self
                .connection
                .send(&StoreResponse::Mark(LogHeader { log: log.into(), state: Cow::Borrowed(state) })),
            Err(_) => {
                self.damaged(format!("the state of {log}"), 1);
                Ok(())
            }
        }
    }

    fn gone(&mut self, log: &str, from: u64, to: u64) -> StoreResult {
        self.connection.send(&StoreResponse::Gone(Tombstone { log: log.into(), from, to }))
    }

    fn damaged(&mut self, what: String, count: u64) {
        self.damaged += count;
        if self.notes.len() < NOTES {
            self.notes.push(format!("damaged: {what}"));
        }
    }
}

/// Sends some messages of a log.
struct ReadSink<'t> {
    connection: &'t mut DaemonConnection,
    sent: usize,
    count: usize,
    /// How many more.
    bytes: usize,
    damaged: u64,
}

impl RecordSink for ReadSink<'_> {
    fn message(&mut self, message: StoredMessage<'_>) -> StoreResult<ReadDemand> {
        let StoredMessage { log, seq, head, body } = message;
        let size = head.len() + body.len();
        let Some(bytes) = self.bytes.checked_sub(size).or((self.sent == 0).then_some(0)) else {
            return Ok(ReadDemand::Enough);
        };
        let text = |text| serde_json::from_str::<&RawValue>(text).map(Cow::Borrowed);
        let (Ok(head), Ok(body)) = (text(head), text(body)) else {
            self.damaged(String::new(), 1);
            return Ok(ReadDemand::More);
        };
        self.connection.send(&StoreResponse::Record { log: log.into(), seq, head, body: Some(body) })?;
        self.bytes = bytes;
        self.sent += 1;
        Ok(if self.sent == self.count { ReadDemand::Enough } else { ReadDemand::More })
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
