//! One generation: a directory with a write-ahead log, and the database into which that is
//! copied while nobody wants anything.
//!
//! Knows that a commit goes to the log, and that a message is in one of both. Does not know
//! how either is written, nor other generations.
//!
//! Most messages are delivered soon: those never go to the database, for by the time of a
//! checkpoint their generation is dropped, or nearly empty. And who waits for a commit waits
//! for one write and one sync.

use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::vec;

use super::database::Database;
use super::directory::sync_directory;
use super::error::{StoreError, StoreResult};
use super::free_space;
use super::generation_files;
use super::generation_files::Layout;
use super::wal::{Found, Record, Wal};
use crate::edge::store::ipc::{LogHeader, NewRecord, Tombstone};

/// A generation that is open.
pub(super) struct Generation {
    directory: PathBuf,
    layout: Layout,
    wal: Option<Wal>,
    database: Option<Database>,
    /// How much of the log a checkpoint has copied that has not ended.
    checkpoint: Option<u64>,
    /// What all but the log takes on the disk, once that was measured.
    rest: Option<u64>,
}

/// What is told while a generation is read. An error ends the reading.
pub trait RecordSink {
    /// A message, or the place where one was damaged.
    fn message(&mut self, message: Told<'_>) -> StoreResult<Next>;
    fn mark(&mut self, log: &str, state: &str) -> StoreResult;
    fn gone(&mut self, log: &str, from: u64, to: u64) -> StoreResult;
    fn damaged(&mut self, what: String, count: u64);
}

/// A message as it was put.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    pub log: &'a str,
    pub seq: u64,
    pub head: &'a str,
    pub body: &'a str,
}

/// Whether somebody wants to hear more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    More,
    Enough,
}

/// What a generation is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Read,
    ReadAll,
    Commit,
    Checkpoint,
}

impl Generation {
    /// Opens a generation, and makes it if it is not there; not its database yet.
    pub(super) fn open(directory: &Path) -> StoreResult<Self> {
        let layout = generation_files::prepare(directory)?;
        let wal = if layout.has_wal() { Wal::open(directory)? } else { None };
        if layout == (Layout::WithWal { has_database: false }) && wal.is_none() {
            return Err(StoreError::Damaged(format!(
                "{}: its write-ahead log is not there",
                directory.display()
            )));
        }
        let directory = directory.to_owned();
        Ok(Self { directory, layout, wal, database: None, checkpoint: None, rest: None })
    }

    /// Whether all is open that this takes.
    pub(super) fn is_ready_for(&self, deed: Access) -> bool {
        match deed {
            Access::Commit => true,
            Access::Read | Access::ReadAll => {
                self.database.is_some() || self.layout.database(&self.directory).is_none()
            }
            Access::Checkpoint => self.database.as_ref().is_some_and(|database| !database.is_copy()),
        }
    }

    /// Opens the rest of what this takes.
    pub(super) fn open_for(&mut self, deed: Access, bytes: u64) -> StoreResult {
        if self.is_ready_for(deed) {
            return Ok(());
        }
        self.rest = None;
        // The engine has a directory to itself.
        self.database = None;
        let place = self.layout.database(&self.directory);
        self.database = match (place, deed) {
            (Some(place), Access::Read | Access::ReadAll) => {
                let store = self.directory.parent().unwrap_or(&self.directory);
                Some(Database::open_to_read(&place, store, bytes)?)
            }
            (Some(place), _) => Some(Database::open(&place)?),
            (None, Access::Checkpoint) => {
                Some(Database::open(&generation_files::begin_database(&self.directory)?)?)
            }
            (None, _) => None,
        };
        Ok(())
    }

    /// Writes all of it, and returns when it is on the disk: how much that was.
    pub(super) fn commit(
        &mut self,
        puts: &[NewRecord<'_>],
        marks: &[LogHeader<'_>],
        gone: &[Tombstone<'_>],
    ) -> StoreResult<u64> {
        if !self.layout.has_wal() {
            let place = self.directory.display();
            return Err(StoreError::Hindered(format!("{place} is of a format that is only read")));
        }
        let is_there = self.wal.is_some();
        let wal = match &mut self.wal {
            Some(wal) => wal,
            none => none.insert(Wal::create(&self.directory)?),
        };
        let written = wal.commit(puts, marks, gone)?;
        if self.layout == Layout::New {
            generation_files::sync_new(&self.directory)?;
            self.layout = Layout::WithWal { has_database: false };
        } else if !is_there {
            sync_directory(&self.directory)?;
        }
        Ok(written)
    }

    /// Copies so much of the log into the database, and tells whether that was all: then
    /// there is no log any more.
    pub(super) fn checkpoint(&mut self, bytes: u64) -> StoreResult<bool> {
        let (Some(wal), Some(database)) = (&self.wal, &mut self.database) else { return Ok(true) };
        if wal.damaged() > 0 {
            return Ok(true);
        }
        let mut left = bytes;
        let reached = wal.each(self.checkpoint.unwrap_or_default(), |record| {
            let copied = match record {
                Record::Message(told) => {
                    database.put(told)?;
                    told.head.len() + told.body.len()
                }
                Record::Mark { log, state } => {
                    database.mark(log, state)?;
                    log.len() + state.len()
                }
                Record::Gone { log, from, to } => {
                    database.gone(log, from, to)?;
                    log.len()
                }
                Record::End(_) => 0,
            };
            left = left.saturating_sub(copied as u64);
            Ok(if left == 0 { Next::Enough } else { Next::More })
        })?;
        (self.checkpoint, self.rest) = (Some(reached), None);
        if reached < wal.end() {
            return Ok(false);
        }
        database.sync()?;
        self.checkpoint = None;
        if self.layout.database(&self.directory).is_none() {
            generation_files::finish_database(&self.directory)?;
            self.layout = Layout::WithWal { has_database: true };
        }
        if let Some(wal) = self.wal.take() {
            wal.remove()?;
        }
        sync_directory(&self.directory)?;
        Ok(true)
    }

    /// Leaves word of how much there is in it, for whoever opens it next.
    pub(super) fn leave_witness(&self) -> StoreResult {
        self.wal.as_ref().map_or(Ok(()), Wal::leave_witness)
    }

    /// What it takes on the disk.
    pub(super) fn taken(&mut self) -> StoreResult<u64> {
        let wal = self.wal.as_ref().map_or(0, Wal::bytes);
        let rest = match self.rest {
            Some(rest) => rest,
            None => free_space::taken(&self.directory)
                .map_err(StoreError::file(&self.directory))?
                .saturating_sub(wal),
        };
        self.rest = Some(rest);
        Ok(rest + wal)
    }

    /// How long its log is. One that is damaged is not copied, but left as it is.
    pub(super) fn wal(&self) -> u64 {
        self.wal.as_ref().filter(|wal| wal.damaged() == 0).map_or(0, Wal::end)
    }

    /// Tells all that is in it: messages, then states, then what is kept no longer. What is
    /// told of later has the last word.
    pub(super) fn load(&self, listener: &mut impl RecordSink) -> StoreResult {
        if let Some(database) = &self.database {
            database.messages(listener)?;
            database.marks_and_gone(listener)?;
        }
        self.wal.as_ref().map_or(Ok(()), |wal| wal.load(listener))
    }

    /// Tells messages of one log, both ends included, ascending.
    pub(super) fn read(
        &mut self,
        log: &str,
        from: u64,
        to: u64,
        listener: &mut impl RecordSink,
    ) -> StoreResult {
        let found = self.wal.as_mut().map(|wal| wal.find(log, from, to)).transpose()?.unwrap_or_default();
        let mut merge =
            Merge { wal: self.wal.as_ref(), found: found.into_iter().peekable(), listener, next: Next::More };
        if let Some(database) = &self.database {
            database.read(log, from, to, &mut merge)?;
        }
        merge.tell_before(u64::MAX)
    }
}

/// Tells what is in the log between what is in the database, and in its place.
struct Merge<'m, L> {
    wal: Option<&'m Wal>,
    found: Peekable<vec::IntoIter<Found>>,
    listener: &'m mut L,
    next: Next,
}

impl<L: RecordSink> Merge<'_, L> {
    /// Tells what is in the log up to a position.
    fn tell_before(&mut self, seq: u64) -> StoreResult {
        let Some(wal) = self.wal else { return Ok(()) };
        while self.next == Next::More
            && let Some(found) = self.found.next_if(|found| found.seq <= seq)
        {
            self.next = wal.tell(&found, self.listener)?;
        }
        Ok(())
    }
}

impl<L: RecordSink> RecordSink for Merge<'_, L> {
    fn message(&mut self, told: Told<'_>) -> StoreResult<Next> {
        let is_in_both = |merge: &mut Self| merge.found.peek().is_some_and(|found| found.seq == told.seq);
        self.tell_before(told.seq - u64::from(told.seq > 0))?;
        if self.next == Next::More && !is_in_both(self) {
            self.next = self.listener.message(told)?;
        }
        Ok(self.next)
    }

    fn mark(&mut self, log: &str, state: &str) -> StoreResult {
        self.listener.mark(log, state)
    }

    fn gone(&mut self, log: &str, from: u64, to: u64) -> StoreResult {
        self.listener.gone(log, from, to)
    }

    fn damaged(&mut self, what: String, count: u64) {
        self.listener.damaged(what, count);
    }
}
