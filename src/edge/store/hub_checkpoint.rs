//! Checkpoint of the hub: the file that a clean stop of the daemon leaves beside its messages.
//!
//! It is there whole or not at all, and counts once. Behind a heading is what the hub wrote.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Stamp;
use crate::edge::atomic_file;
use crate::edge::atomic_file::{Replacement, sync_directory};

/// Raised when what comes before the hub's part changes.
const FORM: u32 = 1;

/// The first line.
#[derive(Serialize, Deserialize)]
struct HubCheckpointHeading {
    form: u32,
    stamp: Stamp,
    /// Of all that follows.
    bytes: usize,
    checksum: u32,
}

/// What a daemon has left.
#[derive(Debug)]
pub struct HubCheckpoint {
    pub stamp: Stamp,
    pub hub: Vec<u8>,
}

pub fn path(state: &Path) -> PathBuf {
    state.join("remains")
}

/// Leaves it for the next daemon.
///
/// # Errors
/// Those of the disk; then nothing is left.
pub fn write(state: &Path, stamp: Stamp, hub: &[u8]) -> io::Result<()> {
    let heading =
        HubCheckpointHeading { form: FORM, stamp, bytes: hub.len(), checksum: crc32fast::hash(hub) };
    let mut text = serde_json::to_vec(&heading)?;
    text.push(b'\n');
    Replacement::create(&path(state))?.write(&[&text, hub])?;
    sync_directory(state)
}

/// Removes it, once the daemon is ready and before it accepts a connection: a daemon that
/// goes on from it makes it untrue, and one that is stopped before that does not.
///
/// # Errors
/// Those of the disk; then no connection may be accepted.
pub fn remove(state: &Path) -> io::Result<()> {
    // Where a file system is frozen, removing even what is not there waits for its thaw;
    // looking does not.
    match path(state).symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        _ => {}
    }
    std::fs::remove_file(path(state)).and_then(|()| sync_directory(state))
}

/// Reads what a daemon before this one has left.
///
/// # Errors
/// What is there and cannot be used.
pub fn read(state: &Path) -> io::Result<Option<HubCheckpoint>> {
    let Some(text) = atomic_file::read_if_there(&path(state))? else { return Ok(None) };
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged, or of another version");
    let end = memchr::memchr(b'\n', &text).ok_or_else(wrong)?;
    let (heading, hub) = text.split_at(end);
    let heading: HubCheckpointHeading = serde_json::from_slice(heading).map_err(|_| wrong())?;
    let hub = hub.get(1..).unwrap_or_default();
    if heading.form != FORM || heading.bytes != hub.len() || heading.checksum != crc32fast::hash(hub) {
        return Err(wrong());
    }
    Ok(Some(HubCheckpoint { stamp: heading.stamp, hub: hub.to_owned() }))
}
