//! How far the numbers of logs have come, in a file that outlives the process and
//! not the machine.
//!
//! Knows the last position that was given out in each log whose messages go to the
//! disk a little later. Does not know the messages. The file lies where the kernel
//! keeps it in memory: it costs a call for each turn in which such a log grew, and
//! no flash.
//!
//! When the process dies and the machine does not, what is on the disk is all but
//! the last second of such a log. With this file the numbers go on where they were,
//! and it can be told exactly what that second held.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::spelling;
use crate::hub::LogKey;

/// One log in the file: its checksum, epoch, position, the length of its name, and
/// the name. A write of it is a single call.
const SLOT: usize = 256;

/// What stands before the name.
const HEAD: usize = 4 + 8 + 8 + 1;

/// More logs than this are not followed; after a crash their numbers begin anew.
const MOST: usize = 4096;

/// How far a log has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    pub log: LogKey,
    pub epoch: u64,
    pub seq: u64,
}

/// The file.
#[derive(Debug)]
pub struct Positions {
    path: PathBuf,
    file: File,
    slots: HashMap<LogKey, u64>,
    /// Grew since it was written last.
    grown: HashMap<LogKey, (u64, u64)>,
}

impl Positions {
    /// Reads what a daemon left that did not stop cleanly. Something there that is
    /// not ours, or of another run of the machine, counts as nothing.
    pub fn read(path: &Path, boot: &str) -> Vec<Position> {
        let Ok(bytes) = fs::read(path) else { return Vec::new() };
        let mut slots = bytes.chunks(SLOT);
        if slots.next() != Some(&heading(boot)[..]) {
            return Vec::new();
        }
        slots.filter_map(position).collect()
    }

    /// Begins anew, with what is known already.
    ///
    /// # Errors
    /// Those of the directory; then nothing is followed.
    pub fn create(path: &Path, boot: &str, known: &[Position]) -> io::Result<Self> {
        // Nobody may find an older one while this is not whole.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all_at(&heading(boot), 0)?;
        let mut positions =
            Self { path: path.to_owned(), file, slots: HashMap::new(), grown: HashMap::new() };
        for known in known {
            positions.grew(&known.log, known.epoch, known.seq);
        }
        positions.write()?;
        Ok(positions)
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A position was given out.
    pub fn grew(&mut self, log: &LogKey, epoch: u64, seq: u64) {
        match self.grown.get_mut(log) {
            Some(known) => *known = (epoch, seq),
            None => drop(self.grown.insert(log.clone(), (epoch, seq))),
        }
    }

    /// Writes what grew, before anybody hears of it.
    ///
    /// # Errors
    /// Those of the file system, which is full.
    pub fn write(&mut self) -> io::Result<()> {
        for (log, (epoch, seq)) in self.grown.drain() {
            let next = self.slots.len() as u64 + 1;
            if next > MOST as u64 && !self.slots.contains_key(&log) {
                continue;
            }
            let name = spelling::log(&log);
            let place = *self.slots.entry(log).or_insert(next);
            if let Some(slot) = slot(&name, epoch, seq) {
                self.file.write_all_at(&slot, place * SLOT as u64)?;
            }
        }
        Ok(())
    }

    /// The daemon stops cleanly: what it leaves on the disk counts instead.
    pub fn remove(self) {
        // It is of no use, and of no harm: what a clean stop leaves is read first.
        let _ = fs::remove_file(&self.path);
    }
}

fn heading(boot: &str) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    let text = format!("wshubd positions 1 {boot}\n");
    for (to, from) in slot.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    slot
}

fn slot(name: &str, epoch: u64, seq: u64) -> Option<[u8; SLOT]> {
    let mut slot = [0; SLOT];
    slot.get_mut(4..12)?.copy_from_slice(&epoch.to_be_bytes());
    slot.get_mut(12..20)?.copy_from_slice(&seq.to_be_bytes());
    *slot.get_mut(20)? = u8::try_from(name.len()).ok()?;
    slot.get_mut(HEAD..HEAD + name.len())?.copy_from_slice(name.as_bytes());
    let checksum = crc32fast::hash(slot.get(4..)?);
    slot.get_mut(..4)?.copy_from_slice(&checksum.to_be_bytes());
    Some(slot)
}

fn position(slot: &[u8]) -> Option<Position> {
    let (checksum, rest) = slot.split_first_chunk()?;
    if u32::from_be_bytes(*checksum) != crc32fast::hash(rest) || slot.len() != SLOT {
        return None;
    }
    let (epoch, rest) = rest.split_first_chunk()?;
    let (seq, rest) = rest.split_first_chunk()?;
    let (length, name) = rest.split_first()?;
    let name = std::str::from_utf8(name.get(..usize::from(*length))?).ok()?;
    let log = spelling::key(name)?;
    Some(Position { log, epoch: u64::from_be_bytes(*epoch), seq: u64::from_be_bytes(*seq) })
}
