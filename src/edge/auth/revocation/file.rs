//! The file in which revocations outlive the daemon.
//!
//! Knows how changes are put down so that what was answered is there after a power cut, and
//! that what was not answered is there whole or not at all. Does not know what they mean.
//!
//! Each line has a checksum and all changes of one write, so a write that was cut off is the
//! last line, and was never answered. When most lines are about what is not revoked any more
//! the file is written anew beside the old one, which it replaces then.

use std::fmt::Display;
use std::fs;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{Change, Revocations};
use crate::config::file_owner::{Purpose, explained};
use crate::config::{Place, Problem};
use crate::edge::atomic_file::{Replacement, read_if_there, sync_directory};

/// The first line; its number is raised when a daemon could not read what an older one wrote.
const HEADING: &str = "wshubd revocations 1\n";

/// So many changes more than are kept may be in the file before it is written anew.
const STALE: usize = 256;

/// The file, as the process that writes it knows it.
#[derive(Debug)]
pub struct RevocationFile {
    directory: PathBuf,
    /// None until there is one, and where what is in it is not known: then it is written
    /// anew before anything is added.
    file: Option<File>,
    bytes: u64,
    changes: usize,
}

/// Why the file cannot be used.
fn unusable(place: Place, why: impl Display) -> Problem {
    let message = format!(
        "{why}. Without it tokens that were revoked would be taken again; put the file back, or remove it \
         (of a damaged one: the line) and revoke once more what has to be"
    );
    Problem::new(place, message)
}

fn path(directory: &Path) -> PathBuf {
    directory.join("revocations")
}

/// Reads what is revoked.
///
/// # Errors
/// What is there and cannot be used. A last line that is not whole is none: whoever wanted
/// that has had no answer. It is told in the log.
pub fn open(directory: &Path) -> Result<(Revocations, RevocationFile), Problem> {
    let path = path(directory);
    let file: Rc<Path> = Rc::from(path.as_path());
    let denied = |error: io::Error| {
        // Where it cannot be looked at it is the directory that is closed.
        let closed = if path.symlink_metadata().is_ok() { &path } else { directory };
        unusable(Place::File(Rc::clone(&file)), explained(&error, closed, Purpose::State))
    };
    let mut revocations = Revocations::default();
    let none = RevocationFile { directory: directory.to_owned(), file: None, bytes: 0, changes: 0 };
    let Some(text) = read_if_there(&path).map_err(denied)? else { return Ok((revocations, none)) };
    let mut rest = text.strip_prefix(HEADING.as_bytes()).ok_or_else(|| {
        let why = "it does not begin as revocations of this version do";
        unusable(Place::File(Rc::clone(&file)), why)
    })?;
    let mut changes = 0;
    // The heading is the first.
    let mut number = 1;
    while !rest.is_empty() {
        number += 1;
        let (line, after, is_ended) = match memchr::memchr(b'\n', rest) {
            Some(end) => (rest.get(..end), rest.get(end + 1..), true),
            None => (Some(rest), None, false),
        };
        let after = after.unwrap_or_default();
        match line.filter(|_| is_ended).and_then(parse) {
            Some(line) => {
                changes += line.len();
                line.into_iter().for_each(|change| revocations.apply(change));
            }
            // A file system may have given it its length and not all of its bytes.
            None if after.is_empty() && (!is_ended || line.is_some_and(|line| line.contains(&0))) => {
                log::error!(
                    "{}, line {number}: the last one is not whole, and none: it was being written when the \
                     daemon or the machine ended, and nobody was told that it was done",
                    path.display()
                );
                return Ok((revocations, none));
            }
            None => return Err(unusable(Place::Line { file, line: number }, "it is damaged")),
        }
        rest = after;
    }
    let file = OpenOptions::new().write(true).open(&path).map_err(denied)?;
    Ok((revocations, RevocationFile { file: Some(file), bytes: text.len() as u64, changes, ..none }))
}

fn parse(line: &[u8]) -> Option<Vec<Change>> {
    let (sum, json) = line.split_at_checked(8)?;
    let json = json.strip_prefix(b" ")?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    if crc32fast::hash(json) != sum {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn line(changes: &[Change]) -> Vec<u8> {
    let mut json = Vec::new();
    crate::json::write(&changes, &mut json);
    let mut line = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.append(&mut json);
    line.push(b'\n');
    line
}

/// A write that is still to be done, by a thread that may wait for the disk.
#[derive(Debug)]
pub struct Writing {
    file: RevocationFile,
    bytes: Vec<u8>,
    changes: usize,
    is_anew: bool,
}

impl RevocationFile {
    /// Where it is.
    pub fn path(&self) -> PathBuf {
        path(&self.directory)
    }

    /// Whether what has the name is what was written: somebody may have put another file in
    /// its place, or taken it away.
    fn is_there(&self) -> bool {
        let named = fs::metadata(self.path()).map(|found| (found.dev(), found.ino()));
        let own = self.file.as_ref().and_then(|file| file.metadata().ok());
        own.map(|own| (own.dev(), own.ino())).is_some_and(|own| named.is_ok_and(|named| named == own))
    }

    /// What has to be written for some changes, which `all` has already.
    pub fn write(self, changes: &[Change], all: &Revocations) -> Writing {
        let is_stale = self.changes + changes.len() > 2 * all.len() + STALE;
        if self.is_there() && !is_stale {
            return Writing { bytes: line(changes), changes: changes.len(), is_anew: false, file: self };
        }
        let (mut bytes, mut count) = (HEADING.as_bytes().to_vec(), 0);
        for change in all.changes() {
            bytes.append(&mut line(&[change]));
            count += 1;
        }
        Writing { bytes, changes: count, is_anew: true, file: self }
    }
}

impl Writing {
    /// Does it. The file comes back in any case; where it failed, nothing that was to be
    /// written is in it.
    pub fn carry_out(self) -> (RevocationFile, io::Result<()>) {
        let Self { mut file, bytes, changes, is_anew } = self;
        let done = if is_anew { file.replace(&bytes, changes) } else { file.append(&bytes, changes) };
        (file, done)
    }
}

impl RevocationFile {
    fn append(&mut self, bytes: &[u8], changes: usize) -> io::Result<()> {
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let done = file.write_all_at(bytes, self.bytes).and_then(|()| file.sync_data());
        if done.is_err() {
            // Part of it may be there: it is taken away, and what is there is written anew
            // next time, whether that has worked or not.
            let _ = file.set_len(self.bytes).and_then(|()| file.sync_all());
            self.file = None;
            return done;
        }
        self.bytes += bytes.len() as u64;
        self.changes += changes;
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8], changes: usize) -> io::Result<()> {
        let file = Replacement::create(&path(&self.directory))?.write(&[bytes])?;
        // It has its name now, whether the directory is on the disk or not.
        *self = Self {
            directory: std::mem::take(&mut self.directory),
            file: Some(file),
            bytes: bytes.len() as u64,
            changes,
        };
        let synced = sync_directory(&self.directory);
        if synced.is_err() {
            // What was not answered is left out next time.
            self.file = None;
        }
        synced
    }
}
