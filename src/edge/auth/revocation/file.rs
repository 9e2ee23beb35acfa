//! File of the revocations, which outlive the process and a power cut.
//!
//! A change that was acknowledged is in it after a power cut; one that was not is in it whole or
//! not at all. Each line has a checksum and all changes of one write, so a write that was cut
//! off is the last line, and was never acknowledged. When most lines concern tokens that are not
//! revoked any more, a new file is written beside the old one and then replaces it.

use std::fmt::Display;
use std::fs;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{Change, Revocations};
use crate::config::file_owner::{Purpose, explained};
use crate::config::{Location, Problem};
use crate::edge::atomic_file::{Replacement, read_if_there, sync_directory};

/// The first line; its number is raised by a format that earlier daemons cannot read, or that
/// reads theirs in another way.
const HEADING: &str = "wshubd revocations 1\n";

/// Most obsolete changes in the file before it is rewritten.
const STALE: usize = 256;

/// The open file.
#[derive(Debug)]
pub struct RevocationFile {
    directory: PathBuf,
    /// None before the first write, and while its content is unknown: the next write replaces
    /// it then.
    file: Option<File>,
    bytes: u64,
    changes: usize,
}

/// The problem of a file that cannot be used.
fn unusable(location: Location, why: impl Display) -> Problem {
    let message = format!(
        "{why}. Without it tokens that were revoked would be taken again; put the file back, or remove it \
         (of a damaged one: the line) and revoke once more what has to be"
    );
    Problem::new(location, message)
}

fn path(directory: &Path) -> PathBuf {
    directory.join("revocations")
}

/// Reads the revocations.
///
/// # Errors
/// The file cannot be used. An incomplete last line is no error: its change was never
/// acknowledged. It is logged.
pub fn open(directory: &Path) -> Result<(Revocations, RevocationFile), Problem> {
    let path = path(directory);
    let file: Rc<Path> = Rc::from(path.as_path());
    let denied = |error: io::Error| {
        // If its metadata cannot be read, the directory is closed.
        let closed = if path.symlink_metadata().is_ok() { &path } else { directory };
        unusable(Location::File(Rc::clone(&file)), explained(&error, closed, Purpose::State))
    };
    let mut revocations = Revocations::default();
    let none = RevocationFile { directory: directory.to_owned(), file: None, bytes: 0, changes: 0 };
    let Some(text) = read_if_there(&path).map_err(denied)? else { return Ok((revocations, none)) };
    let mut rest = text.strip_prefix(HEADING.as_bytes()).ok_or_else(|| {
        let why = "it does not begin as revocations of this version do";
        unusable(Location::File(Rc::clone(&file)), why)
    })?;
    let mut changes = 0;
    // The heading is line 1.
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
            // A file system may have stored its length and not all of its bytes.
            None if after.is_empty() && (!is_ended || line.is_some_and(|line| line.contains(&0))) => {
                log::error!(
                    "{}, line {number}: the last one is not whole, and none: it was being written when the \
                     daemon or the machine ended, and nobody was told that it was done",
                    path.display()
                );
                return Ok((revocations, none));
            }
            None => return Err(unusable(Location::Line { file, line: number }, "it is damaged")),
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

/// A write for a thread that may wait for the disk.
#[derive(Debug)]
pub struct Writing {
    file: RevocationFile,
    bytes: Vec<u8>,
    changes: usize,
    mode: WriteMode,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WriteMode {
    Append,
    /// Writes a new file in the place of the old one.
    Replace,
}

impl RevocationFile {
    /// Its path.
    pub fn path(&self) -> PathBuf {
        path(&self.directory)
    }

    /// Whether the file under its name is the open one: it may have been replaced or removed.
    fn is_in_place(&self) -> bool {
        let named = fs::metadata(self.path()).map(|found| (found.dev(), found.ino()));
        let own = self.file.as_ref().and_then(|file| file.metadata().ok());
        own.map(|own| (own.dev(), own.ino())).is_some_and(|own| named.is_ok_and(|named| named == own))
    }

    /// The write that some changes need, which are in `all` already.
    pub fn write(self, changes: &[Change], all: &Revocations) -> Writing {
        let is_stale = self.changes + changes.len() > 2 * all.len() + STALE;
        if self.is_in_place() && !is_stale {
            return Writing {
                bytes: line(changes),
                changes: changes.len(),
                mode: WriteMode::Append,
                file: self,
            };
        }
        let (mut bytes, mut count) = (HEADING.as_bytes().to_vec(), 0);
        for change in all.changes() {
            bytes.append(&mut line(&[change]));
            count += 1;
        }
        Writing { bytes, changes: count, mode: WriteMode::Replace, file: self }
    }
}

impl Writing {
    /// Carries the write out. The file is returned in any case; after an error nothing of the
    /// write is in it.
    pub fn carry_out(self) -> (RevocationFile, io::Result<()>) {
        let Self { mut file, bytes, changes, mode } = self;
        let done = match mode {
            WriteMode::Append => file.append(&bytes, changes),
            WriteMode::Replace => file.replace(&bytes, changes),
        };
        (file, done)
    }
}

impl RevocationFile {
    fn append(&mut self, bytes: &[u8], changes: usize) -> io::Result<()> {
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let done = file.write_all_at(bytes, self.bytes).and_then(|()| file.sync_data());
        if done.is_err() {
            // A part of it may be written: that is cut off, and the next write replaces the file,
            // whether that has worked or not.
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
        // It has its name now, even if the directory is not on the disk yet.
        *self = Self {
            directory: std::mem::take(&mut self.directory),
            file: Some(file),
            bytes: bytes.len() as u64,
            changes,
        };
        let synced = sync_directory(&self.directory);
        if synced.is_err() {
            // The next write leaves out the change, which is not acknowledged.
            self.file = None;
        }
        synced
    }
}
