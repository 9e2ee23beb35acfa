//! The database of a generation: a directory that the engine has to itself.
//!
//! Knows the engine, its settings and its errors. Does not know what else a generation
//! has, nor what a message means.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sled::{Db, IVec, Tree};

use super::error::{StoreError, StoreResult};
use super::generation::{Next, RecordSink, Told};
use super::generation_files;
use super::ram_copy::RamCopy;
use super::record;
use super::record::{Assembly, Found};

/// How much the engine writes at least of each opening: small, because a child
/// that is started for one message opens once for it. Below this, pages of places
/// would become files of their own. Another size needs another format.
const SEGMENT: usize = 32 * 1024;
/// The engine takes several times this; more brings nothing to what is read once.
const CACHE: u64 = 1024 * 1024;

/// Threads of the engine may hold its lock a little longer than a generation that
/// was closed: so often is it tried again, at this distance.
const TRIES: u32 = 40;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// In the engine's own tree: how many messages were written to this generation.
const COUNT: &[u8] = b"count";

/// A database that is open.
pub(super) struct Database {
    directory: PathBuf,
    db: Db,
    messages: Tree,
    marks: Tree,
    gone: Tree,
    /// What is synced.
    file: File,
    /// Messages written so far. More may be found, of what a crash cut short; fewer, if
    /// the engine has lost some without a word.
    count: u64,
    /// It is a copy: nothing that is written to it lasts.
    is_copy: bool,
}

impl Database {
    /// Opens the one in a directory, and makes it if it is not there.
    pub(super) fn open(directory: &Path) -> StoreResult<Self> {
        generation_files::prepare_database(directory)?;
        Self::start(directory, directory)
    }

    /// Opens one of a store, in a generation that takes so many bytes, to be read: a copy
    /// of it where that can be. It is removed at once, for what is open stays.
    pub(super) fn open_to_read(directory: &Path, store: &Path, bytes: u64) -> StoreResult<Self> {
        generation_files::prepare_database(directory)?;
        match RamCopy::of(directory, store, bytes) {
            Some(copy) => Ok(Self { is_copy: true, ..Self::start(directory, &copy.path())? }),
            None => Self::start(directory, directory),
        }
    }

    /// Opens what is in a place; people are told of the directory.
    fn start(directory: &Path, place: &Path) -> StoreResult<Self> {
        let told = || StoreError::engine(directory);
        let db = open_engine(place).map_err(told())?;
        let tree = |name| db.open_tree(name).map_err(told());
        let (messages, marks, gone) = (tree("messages")?, tree("marks")?, tree("gone")?);
        let path = place.join(generation_files::DB);
        let file = File::open(&path).map_err(StoreError::file(&path))?;
        let count = match db.get(COUNT).map_err(told())? {
            None => 0,
            Some(value) => read_count(&value)
                .ok_or_else(|| StoreError::Damaged(format!("{}: its count is wrong", directory.display())))?,
        };
        let witness = read_count(&generation_files::read_witness(place)?).unwrap_or_default();
        let count = count.max(witness);
        let directory = directory.to_owned();
        Ok(Self { directory, db, messages, marks, gone, file, count, is_copy: false })
    }

    pub(super) fn is_copy(&self) -> bool {
        self.is_copy
    }

    /// Takes a message in the place of what it has there; on the disk with [`Self::sync`].
    pub(super) fn put(&mut self, told: Told<'_>) -> StoreResult {
        let text = record::join([told.log, told.head, told.body]);
        for (part, content) in record::cut(&text) {
            let place = record::message_place(told.log, told.seq, part);
            let old = self.insert(&self.messages, &place, &content)?;
            if part == 0 && old.is_none() {
                self.count += 1;
            }
        }
        Ok(())
    }

    pub(super) fn mark(&self, log: &str, state: &str) -> StoreResult {
        self.insert(&self.marks, &record::mark_place(log), &record::join([log, state])).map(drop)
    }

    pub(super) fn gone(&self, log: &str, from: u64, to: u64) -> StoreResult {
        self.insert(&self.gone, &record::gone_place(log, from, to), &record::join([log])).map(drop)
    }

    fn insert(&self, tree: &Tree, place: &[u8], content: &[u8]) -> StoreResult<Option<IVec>> {
        tree.insert(place, record::seal(place, content)).map_err(StoreError::engine(&self.directory))
    }

    /// Returns when all of it is on the disk. The engine's flush hands bytes to the disk,
    /// but has it write down neither them nor how long the file is.
    pub(super) fn sync(&mut self) -> StoreResult {
        self.insert(&self.db, COUNT, &self.count.to_be_bytes())?;
        self.db.flush().map_err(StoreError::engine(&self.directory))?;
        self.file.sync_data().map_err(StoreError::file(&self.directory))?;
        // How much there is is told outside of the engine as well, which finds an end of
        // its log wherever it cannot read on.
        generation_files::write_witness(&self.directory, &record::seal(COUNT, &self.count.to_be_bytes()))?;
        generation_files::sync_database(&self.directory)
    }

    /// Tells all messages that are in it, by log and position.
    pub(super) fn messages(&self, listener: &mut impl RecordSink) -> StoreResult {
        let found = self.tell(self.messages.iter(), |_| true, listener)?;
        if found < self.count {
            let lost = self.count - found;
            let what = format!("{}: {lost} messages are not there", self.directory.display());
            listener.damaged(what, lost);
        }
        Ok(())
    }

    /// Tells all states, then what is kept no longer.
    pub(super) fn marks_and_gone(&self, listener: &mut impl RecordSink) -> StoreResult {
        for pair in self.marks.iter() {
            let (place, value) = pair.map_err(StoreError::engine(&self.directory))?;
            match record::unseal(&place, &value).and_then(record::split) {
                Some([log, state]) => listener.mark(log, state)?,
                None => listener.damaged("the state of a log".to_owned(), 1),
            }
        }
        for pair in self.gone.iter() {
            let (place, value) = pair.map_err(StoreError::engine(&self.directory))?;
            let log = record::unseal(&place, &value).and_then(record::split);
            match (log, record::read_gone_place(&place)) {
                (Some([log]), Some((from, to))) => listener.gone(log, from, to)?,
                _ => listener.damaged("a run of messages that are kept no longer".to_owned(), 1),
            }
        }
        Ok(())
    }

    /// Tells messages of one log, both ends included.
    pub(super) fn read(&self, log: &str, from: u64, to: u64, listener: &mut impl RecordSink) -> StoreResult {
        let range = record::message_place(log, from, 0)..=record::message_place(log, to, u32::MAX);
        self.tell(self.messages.range(range), |told| told == log, listener).map(drop)
    }

    /// Puts messages together and tells them; returns how many there were, damaged
    /// ones included.
    fn tell(
        &self,
        parts: sled::Iter,
        is_asked: impl Fn(&str) -> bool,
        to: &mut impl RecordSink,
    ) -> StoreResult<u64> {
        let mut assembly = Assembly::default();
        let mut count = 0;
        let mut tell = |found: Found| {
            count += 1;
            tell_one(found, &is_asked, to)
        };
        for pair in parts {
            let (place, value) = pair.map_err(StoreError::engine(&self.directory))?;
            if let Some(found) = assembly.push(&place, &value)
                && tell(found)? == Next::Enough
            {
                return Ok(count);
            }
        }
        if let Some(found) = assembly.finish() {
            tell(found)?;
        }
        Ok(count)
    }
}

fn tell_one(found: Found, is_asked: &impl Fn(&str) -> bool, to: &mut impl RecordSink) -> StoreResult<Next> {
    let seq = match &found {
        Found::Whole { seq, .. } | Found::Damaged { seq } => *seq,
    };
    if let Found::Whole { text, .. } = &found
        && let Some([log, head, body]) = record::split(text)
    {
        // Another log in the same place would be a wonder, but no damage.
        return if is_asked(log) { to.message(Told { log, seq, head, body }) } else { Ok(Next::More) };
    }
    to.damaged(format!("message {seq} of a log"), 1);
    Ok(Next::More)
}

fn open_engine(directory: &Path) -> sled::Result<Db> {
    let config = sled::Config::new()
        .path(directory)
        .mode(sled::Mode::LowSpace)
        .segment_size(SEGMENT)
        .cache_capacity(CACHE)
        // A commit flushes; nothing is to wake up between commits.
        .flush_every_ms(None);
    let mut tries = 0;
    loop {
        match config.open() {
            // The engine has no other word for a lock that is taken.
            Err(sled::Error::Io(error)) if error.to_string().contains("lock") && tries < TRIES => tries += 1,
            opened => return opened,
        }
        thread::sleep(BETWEEN_TRIES);
    }
}

fn read_count(value: &[u8]) -> Option<u64> {
    record::unseal(COUNT, value)?.try_into().ok().map(u64::from_be_bytes)
}
