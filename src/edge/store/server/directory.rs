//! The directory of the store: its lock, and which generations there are.

use std::fs;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::error::{StoreError, StoreResult};
use super::generation_files;
use super::lock_holder;
use crate::edge::atomic_file;

/// The process before this one may be finishing what it has begun, which is waited for
/// so long. As a rule it is only on its way out: so the first tries are close. What it
/// has not finished by then the daemon requests once more, so it is killed.
const PATIENCE: Duration = Duration::from_secs(5);
const AFTER_KILLING: Duration = Duration::from_secs(2);
const BETWEEN_FIRST: Duration = Duration::from_millis(1);
const BETWEEN_LAST: Duration = Duration::from_millis(50);

/// A generation that is being deleted; what is found under such a name is deleted.
const DROPPED: &str = "dropped";

/// What was made of a generation, whole and on the disk: it takes the place of that.
const REPLACEMENT: &str = "mended";

/// The directory, ours alone as long as this lives.
#[derive(Debug)]
pub(super) struct StoreDirectory {
    directory: PathBuf,
    /// Holds the lock, and is what new names are synced with.
    handle: File,
}

impl StoreDirectory {
    /// Takes the directory, and makes it if it is not there.
    pub(super) fn take(directory: &Path) -> StoreResult<Self> {
        let failed = || StoreError::file(directory);
        match DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => sync_directory(directory.parent().unwrap_or(Path::new("/")))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed()(error)),
        }
        let handle = File::open(directory).map_err(failed())?;
        lock(&handle, directory)?;
        Ok(Self { directory: directory.to_owned(), handle })
    }

    /// All generations, ascending.
    pub(super) fn generations(&self) -> StoreResult<Vec<u32>> {
        let mut generations: Vec<u32> = self.names()?.iter().filter_map(|name| number(name)).collect();
        generations.sort_unstable();
        Ok(generations)
    }

    /// Where a generation is, or would be.
    pub(super) fn place(&self, generation: u32) -> PathBuf {
        self.directory.join(format!("{generation:08}"))
    }

    /// A file beside a generation.
    pub(super) fn beside(&self, generation: u32, what: &str) -> PathBuf {
        self.directory.join(format!("{generation:08}.{what}"))
    }

    /// The generations that have such a file beside them.
    pub(super) fn with(&self, what: &str) -> StoreResult<Vec<u32>> {
        let of = |name: &String| name.strip_suffix(what)?.strip_suffix('.').and_then(number);
        Ok(self.names()?.iter().filter_map(of).collect())
    }

    /// Deletes a generation: it vanishes as one, and its bytes after that.
    pub(super) fn remove(&self, generation: u32) -> StoreResult {
        let (place, dropped) = (self.place(generation), self.beside(generation, DROPPED));
        match fs::rename(&place, &dropped) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| fs::remove_dir_all(&dropped)).map_err(StoreError::file(&place)),
        }
    }

    /// Deletes what was being deleted when the process before this one ended.
    pub(super) fn sweep(&self) -> StoreResult {
        for generation in self.with(DROPPED)? {
            let dropped = self.beside(generation, DROPPED);
            fs::remove_dir_all(&dropped).map_err(StoreError::file(&dropped))?;
        }
        Ok(())
    }

    /// Where a generation is made of another one: what is there is deleted unless
    /// that came to its end.
    pub(super) fn path_unfinished(&self, generation: u32) -> PathBuf {
        self.beside(generation, DROPPED)
    }

    /// A name under which no process opens a generation, or deletes it, and which is
    /// not taken.
    pub(super) fn path_aside(&self, generation: u32) -> StoreResult<PathBuf> {
        let mut names = (1_u32..).map(|n| self.beside(generation, &format!("damaged-{n}")));
        let free = names.find(|name| !name.exists());
        free.ok_or_else(|| StoreError::Hindered(format!("{}: no name is left", self.directory.display())))
    }

    /// Gives a generation such a name.
    pub(super) fn set_aside(&self, generation: u32) -> StoreResult<PathBuf> {
        let (place, aside) = (self.place(generation), self.path_aside(generation)?);
        fs::rename(&place, &aside).map_err(StoreError::file(&place))?;
        self.sync()?;
        Ok(aside)
    }

    /// The same with what cannot be opened of a generation that is damaged. A write-ahead
    /// log can be read around any damage: beside one it is the database.
    pub(super) fn set_damaged_aside(&self, generation: u32) -> StoreResult<PathBuf> {
        let place = self.place(generation);
        let Some(database) = generation_files::database_beside_wal(&place) else {
            return self.set_aside(generation);
        };
        let aside = self.path_aside(generation)?;
        fs::create_dir(&aside).map_err(StoreError::file(&aside))?;
        let moved = aside.join(database.file_name().unwrap_or_default());
        fs::rename(&database, moved).map_err(StoreError::file(&database))?;
        sync_directory(&aside)?;
        sync_directory(&place)?;
        self.sync()?;
        Ok(aside)
    }

    /// Sets a generation aside, and puts what was made of it in its place. These are
    /// several steps: once the first is done, the next process that takes the directory does
    /// the rest.
    pub(super) fn replace(&self, generation: u32) -> StoreResult<PathBuf> {
        let (made, replacement) = (self.path_unfinished(generation), self.beside(generation, REPLACEMENT));
        fs::rename(&made, &replacement).map_err(StoreError::file(&made))?;
        self.sync()?;
        let aside = self.set_aside(generation)?;
        self.put_in_place(generation)?;
        Ok(aside)
    }

    fn put_in_place(&self, generation: u32) -> StoreResult {
        let replacement = self.beside(generation, REPLACEMENT);
        fs::rename(&replacement, self.place(generation)).map_err(StoreError::file(&replacement))?;
        self.sync()
    }

    /// Puts in place what was being put there when the process before this one ended: what an
    /// administrator should know.
    pub(super) fn finish_replacing(&self) -> StoreResult<Vec<String>> {
        let mut notes = Vec::new();
        for generation in self.with(REPLACEMENT)? {
            let place = self.place(generation);
            if place.exists() {
                self.set_aside(generation)?;
            }
            self.put_in_place(generation)?;
            let name = place.display();
            notes.push(format!("{name} goes on as what could be read of it, and was set aside"));
        }
        Ok(notes)
    }

    /// Puts the names in the directory on the disk.
    pub(super) fn sync(&self) -> StoreResult {
        self.handle.sync_all().map_err(StoreError::file(&self.directory))
    }

    fn names(&self) -> StoreResult<Vec<String>> {
        let failed = || StoreError::file(&self.directory);
        let entries = fs::read_dir(&self.directory).map_err(failed())?;
        let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().into_string().ok());
        entries.filter_map(|entry| name(entry).transpose()).collect::<io::Result<_>>().map_err(failed())
    }
}

/// The number that a name spells, if it spells one as we do.
fn number(name: &str) -> Option<u32> {
    let number = name.parse().ok()?;
    (name == format!("{number:08}")).then_some(number)
}

fn lock(handle: &File, directory: &Path) -> StoreResult {
    let is_locked = wait_for_lock(handle, directory, PATIENCE)?
        || (lock_holder::kill(handle, directory) && wait_for_lock(handle, directory, AFTER_KILLING)?);
    let why = || StoreError::Hindered(format!("another process has {} open", directory.display()));
    is_locked.then_some(()).ok_or_else(why)
}

fn wait_for_lock(handle: &File, directory: &Path, patience: Duration) -> StoreResult<bool> {
    let (mut waited, mut wait) = (Duration::ZERO, BETWEEN_FIRST);
    while waited < patience {
        match flock(handle, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => thread::sleep(wait),
            locked => return locked.map(|()| true).map_err(StoreError::call(directory)),
        }
        waited += wait;
        wait = BETWEEN_LAST.min(2 * wait);
    }
    Ok(false)
}

/// Puts the names in a directory on the disk.
pub(super) fn sync_directory(directory: &Path) -> StoreResult {
    atomic_file::sync_directory(directory).map_err(StoreError::file(directory))
}
