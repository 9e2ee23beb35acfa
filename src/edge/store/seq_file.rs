//! The seq file: how far the numbers of logs have come, for after a crash of the process.
//!
//! It has the last position that was given out in each log whose messages go to the
//! disk a little later, and lies where the kernel keeps it in memory: it outlives the process
//! and not the machine. It costs a call for each turn in which such a log grew, and no flash.
//!
//! When the process dies and the machine does not, what is on the disk is all but
//! the last second of such a log. With this file the numbers go on where they were,
//! and what that second held is known exactly.

use std::collections::HashMap;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::encoding;
use crate::edge::atomic_file::Replacement;
use crate::hub::LogKey;

/// One log in the file: its checksum, epoch, position, the length of its name, and
/// the name. A write of it is a single call.
const SLOT: usize = 256;

/// What the file begins with.
const HEADING: &str = "wshubd positions 2";

/// What stands before the name.
const HEAD: usize = 4 + 8 + 8 + 1;

/// More logs than this are not followed at a time; after a crash their numbers begin
/// anew.
const MAX_LOGS: usize = 4096;

/// How far a log has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeqFileEntry {
    pub log: LogKey,
    pub epoch: u64,
    pub seq: u64,
}

/// The last position of a log.
#[derive(Clone, Copy, Debug)]
struct LogEnd {
    epoch: u64,
    seq: u64,
}

/// Whose file it is. Positions of another run of the machine may be old, and those of
/// another store are of other logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeqFileOwner {
    pub boot: String,
    /// Device and number of the state directory.
    pub state: (u64, u64),
}

impl SeqFileOwner {
    /// The daemon that has its store in a directory, in this run of the machine.
    pub(super) fn of(boot: &str, store: &Path) -> Self {
        let state = store.parent().and_then(|state| state.metadata().ok());
        let state = state.map(|state| (state.dev(), state.ino())).unwrap_or_default();
        Self { boot: boot.to_owned(), state }
    }
}

/// The file, while the daemon runs.
#[derive(Debug)]
pub struct SeqFile {
    path: PathBuf,
    file: File,
    slots: HashMap<LogKey, u64>,
    /// Slots that some log had before.
    free: Vec<u64>,
    /// Logs that grew since it was written last.
    grown: HashMap<LogKey, LogEnd>,
    /// How many got no slot since it was last looked for logs that are forgotten.
    without_slot: usize,
}

impl SeqFile {
    /// Reads what a daemon left that did not stop cleanly: nothing of a file that is not
    /// ours, or of another run of the machine.
    pub fn read(path: &Path, owner: &SeqFileOwner) -> Vec<SeqFileEntry> {
        let Ok(bytes) = fs::read(path) else { return Vec::new() };
        let mut slots = bytes.chunks(SLOT);
        let is_ours = |found: &[u8]| found == heading(owner) || found == heading_before_owners(owner);
        if !slots.next().is_some_and(is_ours) {
            return Vec::new();
        }
        slots.filter_map(entry).collect()
    }

    /// Whether a daemon with the same state directory has left a file there, in whichever run
    /// of the machine: a clean stop leaves none.
    pub fn is_left(path: &Path, owner: &SeqFileOwner) -> bool {
        let state = format!(" {}:{}\n", owner.state.0, owner.state.1);
        let mut heading = [0; SLOT];
        let is_read = File::open(path).and_then(|file| file.read_exact_at(&mut heading, 0)).is_ok();
        is_read
            && heading.starts_with(HEADING.as_bytes())
            && memchr::memmem::find(&heading, state.as_bytes()).is_some()
    }

    /// Begins a new file with what is known already. It replaces the one before as a whole.
    ///
    /// # Errors
    /// Those of the directory; then nothing is followed, and no file is there.
    pub fn create(path: &Path, owner: &SeqFileOwner, known: &[SeqFileEntry]) -> io::Result<Self> {
        Self::replace(path, owner, known).inspect_err(|_| drop(fs::remove_file(path)))
    }

    fn replace(path: &Path, owner: &SeqFileOwner, known: &[SeqFileEntry]) -> io::Result<Self> {
        let replacement = Replacement::create(path)?;
        let file = replacement.file().try_clone()?;
        file.write_all_at(&heading(owner), 0)?;
        let mut fresh_file = Self {
            path: path.to_owned(),
            file,
            slots: HashMap::new(),
            free: Vec::new(),
            grown: HashMap::new(),
            without_slot: 0,
        };
        for known in known {
            fresh_file.grew(&known.log, known.epoch, known.seq);
        }
        fresh_file.write(|_| true)?;
        // Not synced: it lies in memory.
        replacement.rename()?;
        Ok(fresh_file)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A position was given out.
    pub fn grew(&mut self, log: &LogKey, epoch: u64, seq: u64) {
        let end = LogEnd { epoch, seq };
        match self.grown.get_mut(log) {
            Some(known) => *known = end,
            None => drop(self.grown.insert(log.clone(), end)),
        }
    }

    /// Writes what grew, before any of it is sent. Where there are no more slots,
    /// those of logs that are not known any more are given to others.
    ///
    /// # Errors
    /// Those of the file system, which is full.
    pub fn write(&mut self, is_known: impl Fn(&LogKey) -> bool) -> io::Result<()> {
        let mut grown = std::mem::take(&mut self.grown);
        for (log, end) in grown.drain() {
            let Some(place) = self.place(&log, &is_known)? else { continue };
            if let Some(slot) = slot(&encoding::log_name(&log), end) {
                self.file.write_all_at(&slot, place * SLOT as u64)?;
            }
        }
        self.grown = grown;
        Ok(())
    }

    /// The slot of a log, if there is one for it.
    fn place(&mut self, log: &LogKey, is_known: impl Fn(&LogKey) -> bool) -> io::Result<Option<u64>> {
        if let Some(place) = self.slots.get(log) {
            return Ok(Some(*place));
        }
        if self.slots.len() >= MAX_LOGS {
            if self.without_slot == 0 {
                self.free_slots(is_known)?;
            }
            // Looking costs as much as there are slots: not for each log that has none.
            self.without_slot = (self.without_slot + 1) % MAX_LOGS;
            if self.slots.len() >= MAX_LOGS {
                return Ok(None);
            }
            self.without_slot = 0;
        }
        let place = self.free.pop().unwrap_or(self.slots.len() as u64 + 1);
        self.slots.insert(log.clone(), place);
        Ok(Some(place))
    }

    /// Takes the slots of logs back that are not known any more. They are emptied: a log
    /// that returns has another slot, and must not be found in two.
    fn free_slots(&mut self, is_known: impl Fn(&LogKey) -> bool) -> io::Result<()> {
        let (file, free) = (&self.file, &mut self.free);
        let forgotten = self.slots.extract_if(|log, _| !is_known(log));
        for (_, place) in forgotten {
            file.write_all_at(&[0; SLOT], place * SLOT as u64)?;
            free.push(place);
        }
        Ok(())
    }

    /// Removes what may be in a place where nothing is to be read.
    pub fn discard(path: &Path) {
        // In a file system that is frozen removing even what is not there waits.
        if path.exists() {
            // Where it cannot be removed none could be made: its directory is ours.
            let _ = fs::remove_file(path);
        }
    }

    /// The daemon stops cleanly, and what it leaves on the disk counts instead; or
    /// nothing can be written here, and what is there would be too old.
    pub fn remove(self) {
        // One of the two is enough.
        let _ = self.file.set_len(0);
        let _ = fs::remove_file(&self.path);
    }
}

fn heading(owner: &SeqFileOwner) -> [u8; SLOT] {
    let SeqFileOwner { boot, state: (device, number) } = owner;
    first_slot(&format!("{HEADING} {boot} {device}:{number}\n"))
}

/// As it was before a file said whose it is.
fn heading_before_owners(owner: &SeqFileOwner) -> [u8; SLOT] {
    first_slot(&format!("wshubd positions 1 {}\n", owner.boot))
}

fn first_slot(text: &str) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    for (to, from) in slot.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    slot
}

fn slot(name: &str, LogEnd { epoch, seq }: LogEnd) -> Option<[u8; SLOT]> {
    let mut slot = [0; SLOT];
    slot.get_mut(4..12)?.copy_from_slice(&epoch.to_be_bytes());
    slot.get_mut(12..20)?.copy_from_slice(&seq.to_be_bytes());
    *slot.get_mut(20)? = u8::try_from(name.len()).ok()?;
    slot.get_mut(HEAD..HEAD + name.len())?.copy_from_slice(name.as_bytes());
    let checksum = crc32fast::hash(slot.get(4..)?);
    slot.get_mut(..4)?.copy_from_slice(&checksum.to_be_bytes());
    Some(slot)
}

fn entry(slot: &[u8]) -> Option<SeqFileEntry> {
    let (checksum, rest) = slot.split_first_chunk()?;
    if u32::from_be_bytes(*checksum) != crc32fast::hash(rest) || slot.len() != SLOT {
        return None;
    }
    let (epoch, rest) = rest.split_first_chunk()?;
    let (seq, rest) = rest.split_first_chunk()?;
    let (length, name) = rest.split_first()?;
    let name = std::str::from_utf8(name.get(..usize::from(*length))?).ok()?;
    let log = encoding::log_key(name)?;
    Some(SeqFileEntry { log, epoch: u64::from_be_bytes(*epoch), seq: u64::from_be_bytes(*seq) })
}
