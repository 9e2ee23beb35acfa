//! The file in which a daemon that stops cleanly leaves what is not a message.
//!
//! Knows that it is there whole or not at all, and that it counts once. Does not
//! know what the hub writes into it.

use std::fs;
use std::fs::{File, OpenOptions};
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Stamp;

/// Raised when what comes before the hub's part changes.
const FORM: u32 = 1;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Heading {
    form: u32,
    stamp: Stamp,
    /// Of all that follows.
    bytes: usize,
    checksum: u32,
}

/// What was left.
#[derive(Debug)]
pub struct CheckpointFile {
    pub stamp: Stamp,
    pub hub: Vec<u8>,
}

/// Where it is.
pub fn path(state: &Path) -> PathBuf {
    state.join("remains")
}

/// Leaves it for the next daemon.
///
/// # Errors
/// Those of the disk; then nothing is left.
pub fn write(state: &Path, stamp: Stamp, hub: &[u8]) -> io::Result<()> {
    let heading = Heading { form: FORM, stamp, bytes: hub.len(), checksum: crc32fast::hash(hub) };
    let mut text = serde_json::to_vec(&heading)?;
    text.push(b'\n');
    let fresh = state.join("remains.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&text)?;
    file.write_all(hub)?;
    file.sync_all()?;
    fs::rename(&fresh, path(state))?;
    File::open(state)?.sync_all()
}

/// Takes it away, once the daemon is ready and before it lets anybody in: whoever
/// goes on from it makes it untrue, and whoever is stopped before that does not.
///
/// # Errors
/// Those of the disk; then nobody may be let in.
pub fn remove(state: &Path) -> io::Result<()> {
    // Where a file system is frozen, removing even what is not there waits for its thaw;
    // looking does not.
    match path(state).symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        _ => {}
    }
    fs::remove_file(path(state)).and_then(|()| File::open(state)?.sync_all())
}

/// Reads what a daemon before this one has left.
///
/// # Errors
/// What is there and cannot be used.
pub fn read(state: &Path) -> io::Result<Option<CheckpointFile>> {
    let text = match fs::read(path(state)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged, or of another version");
    let end = memchr::memchr(b'\n', &text).ok_or_else(wrong)?;
    let (heading, hub) = text.split_at(end);
    let heading: Heading = serde_json::from_slice(heading).map_err(|_| wrong())?;
    let hub = hub.get(1..).unwrap_or_default();
    if heading.form != FORM || heading.bytes != hub.len() || heading.checksum != crc32fast::hash(hub) {
        return Err(wrong());
    }
    Ok(Some(CheckpointFile { stamp: heading.stamp, hub: hub.to_owned() }))
}
