//! One generation: a directory with a write-ahead log, and the database into which that is
//! copied while no request waits.
//!
//! A commit goes to the log, and a message is in one of both. Most messages are delivered
//! soon: those never go to the database, for by the time of a checkpoint their generation is
//! dropped, or nearly empty. And a commit takes one write and one sync.

use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::vec;

use super::database::Database;
use super::directory::sync_directory;
use super::error::{StoreError, StoreResult};
use super::free_space;
use super::generation_files;
use super::generation_files::Layout;
use super::wal::{LocatedMessage, Wal, WalRecord};
use crate::edge::store::ipc::{LogHeader, NewRecord, Tombstone};

/// A generation that is open.
pub(super) struct Generation {
    directory: PathBuf,
    layout: Layout,
    wal: Option<Wal>,
    database: Option<Database>,
    /// How much of the log an unfinished WAL checkpoint has copied.
    wal_copied: Option<u64>,
    /// What all but the log takes on the disk, once that was measured.
    rest: Option<u64>,
}

/// What takes the records of a generation while it is read. An error ends the reading.
pub trait RecordSink {
    /// A message, or the place where one was damaged.
    fn message(&mut self, message: StoredMessage<'_>) -> StoreResult<ReadDemand>;
    fn mark(&mut self, log: &str, state: &str) -> StoreResult;
    fn gone(&mut self, log: &str, from: u64, to: u64) -> StoreResult;
    fn damaged(&mut self, what: String, count: u64);
}

/// A message as it was put.
#[derive(Clone, Copy)]
pub struct StoredMessage<'a> {
    pub log: &'a str,
    pub seq: u64,
    pub head: &'a str,
    pub body: &'a str,
}

/// Whether more records are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadDemand {
    More,
    Enough,
}

/// What a generation is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Read,
    ReadAll,
    Commit,
    WalCheckpoint,
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
        Ok(Self { directory, layout, wal, database: None, wal_copied: None, rest: None })
    }

    /// Whether all is open that this takes.
    pub(super) fn is_ready_for(&self, access: Access) -> bool {
        match access {
            Access::Commit => true,
            Access::Read | Access::ReadAll => {
                self.database.is_some() || self.layout.database(&self.directory).is_none()
            }
            Access::WalCheckpoint => self.database.as_ref().is_some_and(|database| !database.is_copy()),
        }
    }

    /// Opens the rest of what this takes.
    pub(super) fn open_for(&mut self, access: Access, bytes: u64) -> StoreResult {
        if self.is_ready_for(access) {
            return Ok(());
        }
        self.rest = None;
        // The engine has a directory to itself.
        self.database = None;
        let place = self.layout.database(&self.directory);
        self.database = match (place, access) {
            (Some(place), Access::Read | Access::ReadAll) => {
                let store = self.directory.parent().unwrap_or(&self.directory);
                Some(Database::open_to_read(&place, store, bytes)?)
            }
            (Some(place), _) => Some(Database::open(&place)?),
            (None, Access::WalCheckpoint) => {
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

    /// Copies so much of the log into the database. Whether that was all: then
    /// there is no log any more.
    pub(super) fn checkpoint_wal(&mut self, bytes: u64) -> StoreResult<bool> {
        let (Some(wal), Some(database)) = (&self.wal, &mut self.database) else { return Ok(true) };
        if wal.damaged() > 0 {
            return Ok(true);
        }
        let mut left = bytes;
        let reached = wal.each(self.wal_copied.unwrap_or_default(), |record| {
            let copied = match record {
                WalRecord::Message(message) => {
                    database.put(message)?;
                    message.head.len() + message.body.len()
                }
                WalRecord::Mark { log, state } => {
                    database.mark(log, state)?;
                    log.len() + state.len()
                }
                WalRecord::Gone { log, from, to } => {
                    database.gone(log, from, to)?;
                    log.len()
                }
                WalRecord::End(_) => 0,
            };
            left = left.saturating_sub(copied as u64);
            Ok(if left == 0 { ReadDemand::Enough } else { ReadDemand::More })
        })?;
        (self.wal_copied, self.rest) = (Some(reached), None);
        if reached < wal.end() {
            return Ok(false);
        }
        database.sync()?;
        self.wal_copied = None;
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

    /// Writes down how many messages there are in it, for the process that opens it next.
    pub(super) fn write_count(&self) -> StoreResult {
        self.wal.as_ref().map_or(Ok(()), Wal::write_count)
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

    /// Passes on all that is in it: messages, then states, then what is kept no longer. Of
    /// what comes twice the later one counts.
    pub(super) fn load(&self, sink: &mut impl RecordSink) -> StoreResult {
        if let Some(database) = &self.database {
            database.messages(sink)?;
            database.marks_and_gone(sink)?;
        }
        self.wal.as_ref().map_or(Ok(()), |wal| wal.load(sink))
    }

    /// Passes on messages of one log, both ends included, ascending.
    pub(super) fn read(&mut self, log: &str, from: u64, to: u64, sink: &mut impl RecordSink) -> StoreResult {
        let found = self.wal.as_mut().map(|wal| wal.find(log, from, to)).transpose()?.unwrap_or_default();
        let mut merge = MergedRead {
            wal: self.wal.as_ref(),
            found: found.into_iter().peekable(),
            sink,
            next: ReadDemand::More,
        };
        if let Some(database) = &self.database {
            database.read(log, from, to, &mut merge)?;
        }
        merge.send_before(u64::MAX)
    }
}

/// Merges what is in the log into what is in the database, in its place.
struct MergedRead<'m, L> {
    wal: Option<&'m Wal>,
    found: Peekable<vec::IntoIter<LocatedMessage>>,
    sink: &'m mut L,
    next: ReadDemand,
}

impl<L: RecordSink> MergedRead<'_, L> {
    /// Passes on what is in the log up to a position.
    fn send_before(&mut self, seq: u64) -> StoreResult {
        let Some(wal) = self.wal else { return Ok(()) };
        while self.next == ReadDemand::More
            && let Some(found) = self.found.next_if(|found| found.seq <= seq)
        {
            self.next = wal.pass_on(&found, self.sink)?;
        }
        Ok(())
    }
}

impl<L: RecordSink> RecordSink for MergedRead<'_, L> {
    fn message(&mut self, message: StoredMessage<'_>) -> StoreResult<ReadDemand> {
        let is_in_both = |merge: &mut Self| merge.found.peek().is_some_and(|found| found.seq == message.seq);
        self.send_before(message.seq - u64::from(message.seq > 0))?;
        if self.next == ReadDemand::More && !is_in_both(self) {
            self.next = self.sink.message(message)?;
        }
        Ok(self.next)
    }

    fn mark(&mut self, log: &str, state: &str) -> StoreResult {
        self.sink.mark(log, state)
    }

    fn gone(&mut self, log: &str, from: u64, to: u64) -> StoreResult {
        self.sink.gone(log, from, to)
    }

    fn damaged(&mut self, what: String, count: u64) {
        self.sink.damaged(what, count);
    }
}
