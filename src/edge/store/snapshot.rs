//! The store as bytes, for a process that takes over without reading the disk again.
//!
//! What the hub has fetched to replay it is not in them: that is fetched again. The texts of
//! messages in memory are passed on as they were encoded when they were kept; nothing decodes
//! them before they are delivered.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::backend::BackendSnapshot;
use super::index::{Index, IndexedLogSnapshot};
use super::memtable::{EntrySnapshot, Memtable};
use super::snapshot_codec::{ImportError, VERSION};
use super::{Storage, Store, StoreOptions};
use crate::binary_codec;
use crate::binary_codec::{Destination, Output, Source};
use crate::hub::{LogKey, Now};
use crate::sort::sort;

/// What comes first: all that is of no log.
#[derive(Serialize, Deserialize)]
struct StoreSnapshot {
    /// How many logs follow.
    logs: usize,
    backend: Option<BackendSnapshot>,
}

/// One log, in memory and on the disk. The texts of the messages in memory follow it.
#[derive(Serialize, Deserialize)]
struct LogSnapshot {
    log: LogKey,
    on_disk: IndexedLogSnapshot,
    in_memory: Vec<EntrySnapshot>,
}

impl Store {
    /// All that it knows, for a process that takes over. The process that owns the
    /// disk is let go: it finishes what it does, and the next one waits for
    /// that. What it would have answered is to be done again, so this one can go on as
    /// well if nothing takes over.
    pub fn export(&mut self, now: Now) -> Vec<u8> {
        binary_codec::collect(|to| self.write(now, to))
    }

    /// The same, without holding it.
    pub(crate) fn write(&mut self, now: Now, to: Destination<'_>) -> binary_codec::Written {
        if let Some(backend) = self.backend_mut() {
            backend.release(now.moment);
        }
        let (memtable, backend) = (self.memtable(), self.backend());
        let index = backend.map(|backend| backend.messages().index());
        let mut gone = index.map(Index::gone_by_log).unwrap_or_default();
        let is_on_disk = |log: &LogKey| index.is_some_and(|index| index.has_log(log));
        let garbage = index.into_iter().flat_map(Index::logs_of_garbage);
        let others = memtable.logs().chain(garbage).filter(|log| !is_on_disk(log));
        let mut others: Vec<&LogKey> = others.collect();
        sort(&mut others);
        others.dedup();
        let logs = index.map_or(0, |index| index.logs().len()) + others.len();
        let mut output = Output::new(VERSION, to);
        let backend = backend.map(|backend| BackendSnapshot::of(backend, now.moment));
        output.add(&StoreSnapshot { logs, backend });
        for log in index.into_iter().flat_map(Index::logs).chain(others) {
            let gone = gone.remove(log).unwrap_or_default();
            let on_disk = index.map(|index| index.snapshot_of(log, gone)).unwrap_or_default();
            let in_memory = memtable.snapshot_of(log);
            output.add(&LogSnapshot { log: log.clone(), on_disk, in_memory });
            for (id, body) in memtable.texts_of(log) {
                output.add_bytes(id);
                output.add_bytes(body);
            }
        }
        output.end()
    }

    /// Goes on where another store was, with options that may be new but for the
    /// place; without options, in memory.
    ///
    /// # Errors
    /// When the bytes are no store, or one that this one cannot be.
    pub fn import(options: Option<StoreOptions>, now: Now, mut bytes: &[u8]) -> Result<Self, ImportError> {
        Self::read(options, now, Source::new(&mut bytes), |key| key)
    }

    /// The same, of a stream. `shared` finds the key of a log whose text others have.
    pub(crate) fn read(
        options: Option<StoreOptions>,
        now: Now,
        mut from: Source<'_>,
        shared: impl Fn(LogKey) -> LogKey,
    ) -> Result<Self, ImportError> {
        match from.version()? {
            VERSION => Self::assemble(options, now, from, shared),
            found => Err(ImportError::Version { found, known: VERSION }),
        }
    }

    fn assemble(
        options: Option<StoreOptions>,
        now: Now,
        mut from: Source<'_>,
        shared: impl Fn(LogKey) -> LogKey,
    ) -> Result<Self, ImportError> {
        let StoreSnapshot { logs, mut backend } = from.next()?;
        let found = backend.as_ref().map(BackendSnapshot::directory);
        let known = options.as_ref().map(|options| options.directory.as_path());
        if found != known {
            let (found, known) = (found.map(PathBuf::from), known.map(PathBuf::from));
            return Err(ImportError::Place { found, known });
        }
        let mut memtable = Memtable::default();
        let mut index = backend.as_mut().map(BackendSnapshot::take_index).unwrap_or_default();
        for _ in 0..logs {
            let log: LogSnapshot = from.next()?;
            let log = LogSnapshot { log: shared(log.log), ..log };
            log.resume(&mut memtable, &mut index, &mut from)?;
        }
        from.end()?;
        let storage = match (options, backend) {
            (Some(options), Some(backend)) => Storage::Disk(backend.resume(options, now, memtable, index)?),
            _ => Storage::Memory(memtable),
        };
        Ok(Self { storage })
    }

    /// Where the disk of another store is, if it has one.
    ///
    /// # Errors
    /// When the bytes are no store.
    pub fn place(mut bytes: &[u8]) -> Result<Option<PathBuf>, ImportError> {
        let mut from = Source::new(&mut bytes);
        from.version()?;
        let StoreSnapshot { backend, .. } = from.next()?;
        Ok(backend.map(|backend| backend.directory().to_owned()))
    }
}

impl LogSnapshot {
    /// Takes one log, with its texts.
    fn resume(
        self,
        memtable: &mut Memtable,
        index: &mut Index,
        from: &mut Source<'_>,
    ) -> Result<(), ImportError> {
        let Self { log, on_disk, in_memory } = self;
        if !on_disk.is_valid() {
            return Err(ImportError::Log(log));
        }
        for entry in in_memory {
            let Some(bytes) = entry.text_bytes() else { return Err(ImportError::Log(log)) };
            let text = from.next_bytes(bytes)?;
            memtable.resume(&log, &entry, text);
        }
        index.resume_log(&log, on_disk);
        Ok(())
    }
}
