//! One generation: a directory that the engine has to itself.
//!
//! Knows the engine, its settings and its errors. Does not know other generations,
//! nor what a message means.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use sled::{Db, IVec, Tree};

use super::files;
use super::mirror::Mirror;
use super::record::{self, Assembly, Found};
use super::trouble::{Done, Trouble};
use crate::edge::store::words::{Gone, Mark, Put};

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

/// A generation that is open.
pub(super) struct Generation {
    directory: PathBuf,
    db: Db,
    messages: Tree,
    marks: Tree,
    gone: Tree,
    /// What is synced.
    file: File,
    /// Messages written so far. More may be found, of a commit that a crash cut
    /// short; fewer, if the engine has lost some without a word.
    count: u64,
    /// It has no file that says its format: no commit to it is on the disk yet.
    is_new: bool,
    /// It is a copy: nothing that is written to it lasts.
    pub(super) is_copy: bool,
    /// Something was committed since it was opened.
    has_grown: bool,
}

/// What is told while a generation is read. An error ends the reading.
pub(super) trait Listener {
    /// A message, or the place where one was damaged.
    fn message(&mut self, message: Told<'_>) -> Done<Next>;
    fn mark(&mut self, log: &str, state: &str) -> Done;
    fn gone(&mut self, log: &str, from: u64, to: u64) -> Done;
    fn damaged(&mut self, what: String, count: u64);
}

/// A message as it was put.
pub(super) struct Told<'a> {
    pub(super) log: &'a str,
    pub(super) seq: u64,
    pub(super) head: &'a str,
    pub(super) body: &'a str,
}

/// Whether somebody wants to hear more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    More,
    Enough,
}

impl Generation {
    /// Opens a generation, and makes it if it is not there.
    pub(super) fn open(directory: &Path) -> Done<Self> {
        let is_new = files::prepare(directory)?;
        Ok(Self { is_new, ..Self::start(directory, directory)? })
    }

    /// Opens a generation that takes so many bytes to be read: a copy of it where that
    /// can be. It is removed at once, for what is open stays.
    pub(super) fn open_to_read(directory: &Path, bytes: u64) -> Done<Self> {
        let is_new = files::prepare(directory)?;
        match Mirror::of(directory, bytes) {
            Some(copy) => Ok(Self { is_new, is_copy: true, ..Self::start(directory, &copy.path())? }),
            None => Ok(Self { is_new, ..Self::start(directory, directory)? }),
        }
    }

    /// Opens what is in a place; people are told of the directory.
    fn start(directory: &Path, place: &Path) -> Done<Self> {
        let told = || Trouble::engine(directory);
        let db = open_engine(place).map_err(told())?;
        let tree = |name| db.open_tree(name).map_err(told());
        let (messages, marks, gone) = (tree("messages")?, tree("marks")?, tree("gone")?);
        let path = place.join(files::DB);
        let file = File::open(&path).map_err(Trouble::file(&path))?;
        let count = match db.get(COUNT).map_err(told())? {
            None => 0,
            Some(value) => read_count(&value)
                .ok_or_else(|| Trouble::Damaged(format!("{}: its count is wrong", directory.display())))?,
        };
        let witness = read_count(&files::read_witness(place)?).unwrap_or_default();
        let count = count.max(witness);
        Ok(Self {
            directory: directory.to_owned(),
            db,
            messages,
            marks,
            gone,
            file,
            count,
            is_new: false,
            is_copy: false,
            has_grown: false,
        })
    }

    /// Writes all of it, and returns when it is on the disk.
    pub(super) fn commit(&mut self, puts: &[Put<'_>], marks: &[Mark<'_>], gone: &[Gone<'_>]) -> Done {
        self.insert_all(puts, marks, gone).and_then(|()| self.sync()).inspect_err(|_| {
            // What could not be written is still in memory, where it looks as if
            // it were on the disk. The next to open this is to see the disk.
            let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        })
    }

    fn insert_all(&mut self, puts: &[Put<'_>], marks: &[Mark<'_>], gone: &[Gone<'_>]) -> Done {
        let before = self.count;
        for put in puts {
            self.put(put)?;
        }
        for Mark { log, state } in marks {
            self.insert(&self.marks, &record::mark_place(log), &record::join([log, state.get()]))?;
        }
        for Gone { log, from, to } in gone {
            self.insert(&self.gone, &record::gone_place(log, *from, *to), &record::join([log]))?;
        }
        if self.count != before {
            self.insert(&self.db, COUNT, &self.count.to_be_bytes())?;
        }
        Ok(())
    }

    fn put(&mut self, put: &Put<'_>) -> Done {
        let text = record::join([&put.log, put.head.get(), put.body.get()]);
        for (part, content) in record::cut(&text) {
            let place = record::message_place(&put.log, put.seq, part);
            let old = self.insert(&self.messages, &place, &content)?;
            if part == 0 && old.is_none() {
                self.count += 1;
            }
        }
        Ok(())
    }

    fn insert(&self, tree: &Tree, place: &[u8], content: &[u8]) -> Done<Option<IVec>> {
        tree.insert(place, record::seal(place, content)).map_err(Trouble::engine(&self.directory))
    }

    /// The engine's flush hands bytes to the disk, but has it write down neither
    /// them nor how long the file is.
    fn sync(&mut self) -> Done {
        self.db.flush().map_err(Trouble::engine(&self.directory))?;
        self.file.sync_data().map_err(Trouble::file(&self.directory))?;
        files::sync_blobs(&self.directory)?;
        if self.is_new {
            files::sync_new(&self.directory)?;
            self.is_new = false;
        }
        self.has_grown = true;
        Ok(())
    }

    /// Leaves word of how much there is outside of the engine, which finds an end
    /// of its log wherever it cannot read on. Not synced: fewer than there are are
    /// no harm.
    pub(super) fn leave_witness(&self) -> Done {
        if !self.has_grown {
            return Ok(());
        }
        files::write_witness(&self.directory, &record::seal(COUNT, &self.count.to_be_bytes()))
    }

    /// Tells all that is in it: messages by log and position, then states, then
    /// what is kept no longer.
    pub(super) fn load(&self, listener: &mut impl Listener) -> Done {
        let found = self.tell(self.messages.iter(), |_| true, listener)?;
        if found < self.count {
            let lost = self.count - found;
            let what = format!("{}: {lost} messages are not there", self.directory.display());
            listener.damaged(what, lost);
        }
        for pair in self.marks.iter() {
            let (place, value) = pair.map_err(Trouble::engine(&self.directory))?;
            match record::unseal(&place, &value).and_then(record::split) {
                Some([log, state]) => listener.mark(log, state)?,
                None => listener.damaged("the state of a log".to_owned(), 1),
            }
        }
        for pair in self.gone.iter() {
            let (place, value) = pair.map_err(Trouble::engine(&self.directory))?;
            let log = record::unseal(&place, &value).and_then(record::split);
            match (log, record::read_gone_place(&place)) {
                (Some([log]), Some((from, to))) => listener.gone(log, from, to)?,
                _ => listener.damaged("a run of messages that are kept no longer".to_owned(), 1),
            }
        }
        Ok(())
    }

    /// Tells messages of one log, both ends included.
    pub(super) fn read(&self, log: &str, from: u64, to: u64, listener: &mut impl Listener) -> Done {
        let range = record::message_place(log, from, 0)..=record::message_place(log, to, u32::MAX);
        self.tell(self.messages.range(range), |told| told == log, listener).map(drop)
    }

    /// Puts messages together and tells them; returns how many there were, damaged
    /// ones included.
    fn tell(&self, parts: sled::Iter, is_asked: impl Fn(&str) -> bool, to: &mut impl Listener) -> Done<u64> {
        let mut assembly = Assembly::default();
        let mut count = 0;
        let mut tell = |found: Found| {
            count += 1;
            tell_one(found, &is_asked, to)
        };
        for pair in parts {
            let (place, value) = pair.map_err(Trouble::engine(&self.directory))?;
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

fn tell_one(found: Found, is_asked: &impl Fn(&str) -> bool, to: &mut impl Listener) -> Done<Next> {
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
