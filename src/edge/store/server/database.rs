//! The database of a generation: a directory that the engine has to itself.
//!
//! The engine, its settings and its errors are named here and nowhere else.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sled::{Db, IVec, Tree};

use super::error::{StoreError, StoreResult};
use super::generation::{ReadDemand, RecordSink, StoredMessage};
use super::generation_files;
use super::ram_copy::RamCopy;
use super::record;
use super::record::{AssembledMessage, Assembly};

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

    /// Opens what is in a place; errors name the directory.
    fn start(directory: &Path, place: &Path) -> StoreResult<Self> {
        let failed = || StoreError::engine(directory);
        let db = open_engine(place).map_err(failed())?;
        let tree = |name| db.open_tree(name).map_err(failed());
        let (messages, marks, gone) = (tree("messages")?, tree("marks")?, tree("gone")?);
        let path = place.join(generation_files::DB);
        let file = File::open(&path).map_err(StoreError::file(&path))?;
        let count = match db.get(COUNT).map_err(failed())? {
            None => 0,
            Some(value) => read_count(&value)
                .ok_or_else(|| StoreError::Damaged(format!("{}: its count is wrong", directory.display())))?,
        };
        let count_file = read_count(&generation_files::read_count_file(place)?).unwrap_or_default();
        let count = count.max(count_file);
        let directory = directory.to_owned();
        Ok(Self { directory, db, messages, marks, gone, file, count, is_copy: false })
    }

    pub(super) fn is_copy(&self) -> bool {
        self.is_copy
    }

    /// Takes a message in the place of what it has there; on the disk with [`Self::sync`].
    pub(super) fn put(&mut self, message: StoredMessage<'_>) -> StoreResult {
        let text = record::join([message.log, message.head, message.body]);
        for (part, content) in record::cut(&text) {
            let place = record::message_key(message.log, message.seq, part);
            let old = self.insert(&self.messages, &place, &content)?;
            if part == 0 && old.is_none() {
                self.count += 1;
            }
        }
        Ok(())
    }

    pub(super) fn mark(&self, log: &str, state: &str) -> StoreResult {
        self.insert(&self.marks, &record::mark_key(log), &record::join([log, state])).map(drop)
    }

    pub(super) fn gone(&self, log: &str, from: u64, to: u64) -> StoreResult {
        self.insert(&self.gone, &record::gone_key(log, from, to), &record::join([log])).map(drop)
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
        // How much there is is written down outside of the engine as well, which finds an end
        // of its log wherever it cannot read on.
        generation_files::write_count_file(&self.directory, &record::seal(COUNT, &self.count.to_be_bytes()))?;
        generation_files::sync_database(&self.directory)
    }

    /// Passes on all messages that are in it, by log and position.
    pub(super) fn messages(&self, sink: &mut impl RecordSink) -> StoreResult {
        let found = self.pass_on(self.messages.iter(), |_| true, sink)?;
        if found < self.count {
            let lost = self.count - found;
            let what = format!("{}: {lost} messages are not there", self.directory.display());
            sink.damaged(what, lost);
        }
        Ok(())
    }

    /// Passes on all states, then what is kept no longer.
    pub(super) fn marks_and_gone(&self, sink: &mut impl RecordSink) -> StoreResult {
        for pair in self.marks.iter() {
            let (place, value) = pair.map_err(StoreError::engine(&self.directory))?;
            match record::unseal(&place, &value).and_then(record::split) {
                Some([log, state]) => sink.mark(log, state)?,
                None => sink.damaged("the state of a log".to_owned(), 1),
            }
        }
        for pair in self.gone.iter() {
            let (place, value) = pair.map_err(StoreError::engine(&self.directory))?;
            let log = record::unseal(&place, &value).and_then(record::split);
            match (log, record::read_gone_key(&place)) {
                (Some([log]), Some((from, to))) => sink.gone(log, from, to)?,
                _ => sink.damaged("a run of messages that are kept no longer".to_owned(), 1),
            }
        }
        Ok(())
    }

    /// Passes on messages of one log, both ends included.
    pub(super) fn read(&self, log: &str, from: u64, to: u64, sink: &mut impl RecordSink) -> StoreResult {
        let range = record::message_key(log, from, 0)..=record::message_key(log, to, u32::MAX);
        self.pass_on(self.messages.range(range), |name| name == log, sink).map(drop)
    }

    /// Assembles messages and passes them on; returns how many there were, damaged
    /// ones included.
    fn pass_on(
        &self,
        parts: sled::Iter,
        is_asked: impl Fn(&str) -> bool,
        to: &mut impl RecordSink,
    ) -> StoreResult<u64> {
        let mut assembly = Assembly::default();
        let mut count = 0;
        let mut pass_on = |found: AssembledMessage| {
            count += 1;
            pass_on_one(found, &is_asked, to)
        };
        for pair in parts {
            let (place, value) = pair.map_err(StoreError::engine(&self.directory))?;
            if let Some(found) = assembly.push(&place, &value)
                && pass_on(found)? == ReadDemand::Enough
            {
                return Ok(count);
            }
        }
        if let Some(found) = assembly.finish() {
            pass_on(found)?;
        }
        Ok(count)
    }
}

fn pass_on_one(
    found: AssembledMessage,
    is_asked: &impl Fn(&str) -> bool,
    to: &mut impl RecordSink,
) -> StoreResult<ReadDemand> {
    let seq = match &found {
        AssembledMessage::Whole { seq, .. } | AssembledMessage::Damaged { seq } => *seq,
    };
    if let AssembledMessage::Whole { text, .. } = &found
        && let Some([log, head, body]) = record::split(text)
    {
        // Another log with the same hash is most improbable, but no damage.
        return if is_asked(log) {
            to.message(StoredMessage { log, seq, head, body })
        } else {
            Ok(ReadDemand::More)
        };
    }
    to.damaged(format!("message {seq} of a log"), 1);
    Ok(ReadDemand::More)
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
