//! One generation: a directory that the engine has to itself.
//!
//! Knows the engine, its settings, its traps, and what has to be synced before a
//! commit is one. Does not know other generations, nor what a message means.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use sled::{Db, IVec, Tree};

use super::record::{self, Assembly, Found};
use super::shelf::sync_directory;
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

/// What the engine calls its files.
const DB: &str = "db";
const CONF: &str = "conf";
const BLOBS: &str = "blobs";
const SNAPSHOT: &str = "snap.";
const UNFINISHED: &str = ".generating";

/// Our own file beside those: which form all the rest has.
const FORMAT: &str = "format";

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
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Trouble::file(directory)(error));
            }
            _ => {}
        }
        let is_new = read_format(directory)?.is_none();
        check_settings(directory)?;
        check_readable(directory)?;
        // What the engine was writing when it ended it takes for whole, and then
        // never opens again.
        remove_snapshots(directory, |name| name.ends_with(UNFINISHED))?;
        Ok(Self { is_new, ..Self::start(directory)? })
    }

    fn start(directory: &Path) -> Done<Self> {
        let told = || Trouble::engine(directory);
        let db = open_engine(directory).map_err(told())?;
        let tree = |name| db.open_tree(name).map_err(told());
        let (messages, marks, gone) = (tree("messages")?, tree("marks")?, tree("gone")?);
        let path = directory.join(DB);
        let file = File::open(&path).map_err(Trouble::file(&path))?;
        let count = match db.get(COUNT).map_err(told())? {
            None => 0,
            Some(value) => read_count(&value)
                .ok_or_else(|| Trouble::Damaged(format!("{}: its count is wrong", directory.display())))?,
        };
        Ok(Self { directory: directory.to_owned(), db, messages, marks, gone, file, count, is_new: false })
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
        sync_blobs(&self.directory)?;
        if self.is_new {
            sync_file(&self.directory.join(CONF))?;
            sync_directory(&self.directory)?;
            sync_directory(self.directory.parent().unwrap_or(&self.directory))?;
            // Last: where it is, all of the above is on the disk.
            write_format(&self.directory)?;
            self.is_new = false;
        }
        Ok(())
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

/// Removes what the engine makes anew from the rest.
pub(super) fn remove_what_can_be_made_anew(directory: &Path) -> Done {
    remove_snapshots(directory, |_| true)?;
    if check_settings(directory).is_err() {
        let conf = directory.join(CONF);
        fs::remove_file(&conf).map_err(Trouble::file(&conf))?;
    }
    Ok(())
}

/// Whether a directory holds a generation, and not only what was begun when the
/// machine went down.
pub(super) fn was_made(directory: &Path) -> bool {
    let holds = |file| fs::metadata(directory.join(file)).is_ok_and(|file| file.len() > 0);
    holds(FORMAT) || holds(DB)
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

fn write_format(directory: &Path) -> Done {
    let format = directory.join(FORMAT);
    fs::write(&format, spell_format(record::FORMAT.into())).map_err(Trouble::file(&format))?;
    sync_file(&format)?;
    sync_directory(directory)
}

fn spell_format(format: u32) -> String {
    let text = format!("wshubd store {format}");
    let sum = record::checksum(&[text.as_bytes()]);
    format!("{text} {sum:08x}\n")
}

/// The format of a generation, if there is one that can be read; none is told of
/// one that was being made.
fn read_format(directory: &Path) -> Done<Option<u32>> {
    let path = directory.join(FORMAT);
    let text = read_if_there(&path)?;
    if text.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&text);
    let format = text.split(' ').nth(2).and_then(|format| format.parse().ok());
    match format.filter(|format| spell_format(*format) == text) {
        Some(format) if format <= u32::from(record::FORMAT) => Ok(Some(format)),
        Some(format) => Err(Trouble::Hindered(format!(
            "{} was written by a newer wshubd, in format {format}; this one reads formats up to {}",
            directory.display(),
            record::FORMAT
        ))),
        None => Err(Trouble::Damaged(format!("{}: it spells no format", path.display()))),
    }
}

/// The engine opens what says that it was made with other settings only to say
/// so; whether that is true it does not check.
fn check_settings(directory: &Path) -> Done {
    let path = directory.join(CONF);
    let text = read_if_there(&path)?;
    match text.split_last_chunk::<4>() {
        Some((settings, sum)) if u32::from_le_bytes(*sum) != record::checksum(&[settings]) => {
            Err(Trouble::Damaged(format!("{}: its checksum is wrong", path.display())))
        }
        _ => Ok(()),
    }
}

/// The engine takes what it cannot read for what was never written, and writes
/// over it: all that it will read is read before.
fn check_readable(directory: &Path) -> Done {
    let mut block = vec![0; 64 * 1024];
    for entry in fs::read_dir(directory).map_err(Trouble::file(directory))? {
        let path = entry.map_err(Trouble::file(directory))?.path();
        if path.is_dir() {
            continue;
        }
        let mut file = File::open(&path).map_err(Trouble::file(&path))?;
        while file.read(&mut block).map_err(Trouble::file(&path))? > 0 {}
    }
    Ok(())
}

fn remove_snapshots(directory: &Path, which: impl Fn(&str) -> bool) -> Done {
    for entry in fs::read_dir(directory).map_err(Trouble::file(directory))? {
        let entry = entry.map_err(Trouble::file(directory))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(SNAPSHOT) && which(&name) {
            fs::remove_file(entry.path()).map_err(Trouble::file(directory))?;
        }
    }
    Ok(())
}

/// Pages that are too long for a segment become files, which the engine never
/// syncs. Values are so short that there are none.
fn sync_blobs(directory: &Path) -> Done {
    let blobs = directory.join(BLOBS);
    let mut any = false;
    for entry in fs::read_dir(&blobs).map_err(Trouble::file(&blobs))? {
        let path = entry.map_err(Trouble::file(&blobs))?.path();
        sync_file(&path)?;
        any = true;
    }
    if any { sync_directory(&blobs) } else { Ok(()) }
}

fn sync_file(path: &Path) -> Done {
    File::open(path).and_then(|file| file.sync_all()).map_err(Trouble::file(path))
}

/// What is in a file; nothing, if there is none.
fn read_if_there(path: &Path) -> Done<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        text => text.map_err(Trouble::file(path)),
    }
}
