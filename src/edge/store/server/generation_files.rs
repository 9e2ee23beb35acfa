//! The files of a generation: the engine's own, and ours beside them.
//!
//! What the engine does not check or sync of its own is done here.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::directory::sync_directory;
use super::error::{StoreError, StoreResult, is_unread};
use super::record;
use super::wal;
use crate::edge::atomic_file;

/// What the engine calls its files.
pub(super) const DB: &str = "db";
const CONF: &str = "conf";
const BLOBS: &str = "blobs";
const SNAPSHOT: &str = "snap.";
const UNFINISHED: &str = ".generating";

/// Our own files beside those: which form all the rest has, and how much there was
/// when it was last left in good order.
const FORMAT: &str = "format";
const COUNT_FILE: &str = "count";

/// The database of a generation, and in it a file as long as it is not whole.
const DATABASE: &str = "database";
const UNFINISHED_DATABASE: &str = "unfinished";

/// The form of a generation that is written here. A reader refuses what is newer. The
/// first was a database alone, in the directory itself.
const NEWEST_FORMAT: u32 = 2;

/// What a generation is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    /// No commit to it was ever finished.
    New,
    /// A database alone, in its directory: it is only read.
    Bare,
    WithWal {
        has_database: bool,
    },
}

impl Layout {
    pub(super) fn has_wal(self) -> bool {
        self != Self::Bare
    }

    /// Where the database is, if there is one.
    pub(super) fn database(self, directory: &Path) -> Option<PathBuf> {
        match self {
            Self::Bare => Some(directory.to_owned()),
            Self::WithWal { has_database: true } => Some(directory.join(DATABASE)),
            Self::New | Self::WithWal { has_database: false } => None,
        }
    }
}

/// Makes the directory of a generation, or makes it ready.
pub(super) fn prepare(directory: &Path) -> StoreResult<Layout> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(StoreError::file(directory)(error));
        }
        _ => {}
    }
    let format = read_format(directory)?;
    check_readable(directory)?;
    let database = directory.join(DATABASE);
    if database.join(UNFINISHED_DATABASE).exists() {
        // All of it is in the log.
        fs::remove_dir_all(&database).map_err(StoreError::file(&database))?;
    }
    Ok(match format {
        Some(1) => Layout::Bare,
        None if directory.join(DB).exists() => Layout::Bare,
        None if !database.exists() => Layout::New,
        None | Some(_) => Layout::WithWal { has_database: database.exists() },
    })
}

/// The database of a generation that has a write-ahead log as well.
pub(super) fn database_beside_wal(directory: &Path) -> Option<PathBuf> {
    let has_wal = read_format(directory).is_ok() && wal::length(directory).is_ok_and(|length| length > 0);
    let database = directory.join(DATABASE);
    (has_wal && database.is_dir()).then_some(database)
}

/// Whether a generation is of a format that is only read.
pub(super) fn is_only_read(directory: &Path) -> bool {
    match read_format(directory) {
        Ok(format) => format == Some(1) || (format.is_none() && directory.join(DB).exists()),
        Err(_) => true,
    }
}

/// Makes a database ready for the engine.
pub(super) fn prepare_database(directory: &Path) -> StoreResult {
    check_settings(directory)?;
    check_readable(directory)?;
    // What the engine was writing when it ended it takes for whole, and then
    // never opens again.
    remove_snapshots(directory, |name| name.ends_with(UNFINISHED))
}

/// Makes a directory for a database, which is not whole before that is said.
pub(super) fn begin_database(directory: &Path) -> StoreResult<PathBuf> {
    let database = directory.join(DATABASE);
    let unfinished = database.join(UNFINISHED_DATABASE);
    let made = fs::create_dir(&database).and_then(|()| File::create_new(&unfinished));
    made.map_err(StoreError::file(&unfinished))?;
    sync_directory(&database)?;
    sync_directory(directory)?;
    Ok(database)
}

/// Says that it is whole: all of it was synced.
pub(super) fn finish_database(directory: &Path) -> StoreResult {
    let database = directory.join(DATABASE);
    let unfinished = database.join(UNFINISHED_DATABASE);
    fs::remove_file(&unfinished).map_err(StoreError::file(&unfinished))?;
    sync_directory(&database)
}

/// Puts all of a database on the disk but what the engine syncs.
pub(super) fn sync_database(directory: &Path) -> StoreResult {
    sync_file(&directory.join(CONF))?;
    sync_file(&directory.join(COUNT_FILE))?;
    sync_blobs(directory)?;
    sync_directory(directory)
}

/// Puts a new generation on the disk, whose files are there already.
pub(super) fn sync_new(directory: &Path) -> StoreResult {
    sync_directory(directory)?;
    sync_directory(directory.parent().unwrap_or(directory))?;
    // Last: where it is, all of the above is on the disk.
    write_format(directory)
}

pub(super) fn read_count_file(directory: &Path) -> StoreResult<Vec<u8>> {
    read_if_there(&directory.join(COUNT_FILE))
}

pub(super) fn write_count_file(directory: &Path, count_file: &[u8]) -> StoreResult {
    let path = directory.join(COUNT_FILE);
    fs::write(&path, count_file).map_err(StoreError::file(&path))
}

/// Copies all files of a generation to a directory that is not there.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// How much a copy has, and how much of that the disk did not give back.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Salvaged {
    pub(super) bytes: u64,
    pub(super) unread: u64,
}

/// Copies all that can be read of a generation, and puts it on the disk. The rest
/// becomes zeroes, which no checksum takes for anything else.
pub(super) fn salvage(from: &Path, to: &Path) -> io::Result<Salvaged> {
    fs::create_dir(to)?;
    let mut all = Salvaged::default();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        let is_directory = entry.file_type()?.is_dir();
        let of = if is_directory { salvage(&entry.path(), &to)? } else { salvage_file(&entry.path(), &to)? };
        all.bytes += of.bytes;
        all.unread += of.unread;
    }
    File::open(to)?.sync_all()?;
    Ok(all)
}

/// A bad sector costs the block of the file system around it.
const BLOCK: usize = 4096;

fn salvage_file(from: &Path, to: &Path) -> io::Result<Salvaged> {
    let (from, to) = (File::open(from)?, File::create_new(to)?);
    let length = from.metadata()?.len();
    let (mut block, mut salvaged) = (vec![0; BLOCK], Salvaged::default());
    loop {
        match from.read_at(&mut block, salvaged.bytes) {
            Ok(0) => break,
            Ok(read) => {
                to.write_all_at(block.get(..read).unwrap_or_default(), salvaged.bytes)?;
                salvaged.bytes += read as u64;
            }
            Err(error) if is_unread(&error) => {
                // Up to where the next block begins.
                let lost = BLOCK as u64 - salvaged.bytes % BLOCK as u64;
                salvaged.bytes += lost;
                salvaged.unread += lost;
                if salvaged.bytes >= length {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    to.set_len(length)?;
    to.sync_all()?;
    Ok(salvaged)
}

/// Removes what the engine makes anew from the rest.
pub(super) fn remove_what_can_be_made_anew(directory: &Path) -> StoreResult {
    for database in [directory.to_owned(), directory.join(DATABASE)].iter().filter(|place| place.exists()) {
        remove_snapshots(database, |_| true)?;
        if check_settings(database).is_err() {
            let conf = database.join(CONF);
            fs::remove_file(&conf).map_err(StoreError::file(&conf))?;
        }
    }
    Ok(())
}

/// Whether a directory holds a generation, and not only what was begun when the
/// machine went down.
pub(super) fn was_made(directory: &Path) -> bool {
    let holds = |file| fs::metadata(directory.join(file)).is_ok_and(|file| file.len() > 0);
    holds(FORMAT)
        || holds(DB)
        || directory.join(DATABASE).exists()
        || wal::length(directory).is_ok_and(|length| length > 0)
}

fn write_format(directory: &Path) -> StoreResult {
    let format = directory.join(FORMAT);
    fs::write(&format, spell_format(NEWEST_FORMAT)).map_err(StoreError::file(&format))?;
    sync_file(&format)?;
    sync_directory(directory)
}

fn spell_format(format: u32) -> String {
    let text = format!("wshubd store {format}");
    let sum = record::checksum(&[text.as_bytes()]);
    format!("{text} {sum:08x}\n")
}

/// The format of a generation, if there is one that can be read; one that
/// was being made has none.
fn read_format(directory: &Path) -> StoreResult<Option<u32>> {
    let path = directory.join(FORMAT);
    let text = read_if_there(&path)?;
    if text.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&text);
    let format = text.split(' ').nth(2).and_then(|format| format.parse().ok());
    match format.filter(|format| spell_format(*format) == text) {
        Some(format) if format <= NEWEST_FORMAT => Ok(Some(format)),
        Some(format) => Err(StoreError::Hindered(format!(
            "{} was written by a newer wshubd, in format {format}; this one reads formats up to {}",
            directory.display(),
            NEWEST_FORMAT
        ))),
        None => Err(StoreError::Damaged(format!("{}: it spells no format", path.display()))),
    }
}

/// The engine opens what says that it was made with other settings only to say
/// so; whether that is true it does not check.
fn check_settings(directory: &Path) -> StoreResult {
    let path = directory.join(CONF);
    let text = read_if_there(&path)?;
    match text.split_last_chunk::<4>() {
        Some((settings, sum)) if u32::from_le_bytes(*sum) != record::checksum(&[settings]) => {
            Err(StoreError::Damaged(format!("{}: its checksum is wrong", path.display())))
        }
        _ => Ok(()),
    }
}

/// The engine takes what it cannot read for what was never written, and writes
/// over it: all that it will read is read before.
fn check_readable(directory: &Path) -> StoreResult {
    let mut block = vec![0; 64 * 1024];
    for entry in fs::read_dir(directory).map_err(StoreError::file(directory))? {
        let path = entry.map_err(StoreError::file(directory))?.path();
        if path.is_dir() {
            continue;
        }
        let mut file = File::open(&path).map_err(StoreError::file(&path))?;
        while file.read(&mut block).map_err(StoreError::reading(&path))? > 0 {}
    }
    Ok(())
}

fn remove_snapshots(directory: &Path, which: impl Fn(&str) -> bool) -> StoreResult {
    for entry in fs::read_dir(directory).map_err(StoreError::file(directory))? {
        let entry = entry.map_err(StoreError::file(directory))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(SNAPSHOT) && which(&name) {
            fs::remove_file(entry.path()).map_err(StoreError::file(directory))?;
        }
    }
    Ok(())
}

/// Pages that are too long for a segment become files, which the engine never
/// syncs. Values are so short that there are none.
fn sync_blobs(directory: &Path) -> StoreResult {
    let blobs = directory.join(BLOBS);
    let mut any = false;
    for entry in fs::read_dir(&blobs).map_err(StoreError::file(&blobs))? {
        let path = entry.map_err(StoreError::file(&blobs))?.path();
        sync_file(&path)?;
        any = true;
    }
    if any { sync_directory(&blobs) } else { Ok(()) }
}

fn sync_file(path: &Path) -> StoreResult {
    File::open(path).and_then(|file| file.sync_all()).map_err(StoreError::file(path))
}

/// What is in a file; nothing, if there is none.
fn read_if_there(path: &Path) -> StoreResult<Vec<u8>> {
    Ok(atomic_file::read_if_there(path).map_err(StoreError::reading(path))?.unwrap_or_default())
}
