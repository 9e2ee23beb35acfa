//! The lock on the state directory: one daemon has it at a time.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::Error;
use crate::edge::clock;

/// How long the state directory may belong to another process. One that was killed
/// while it started the process that owns the disk leaves a copy of itself behind,
/// which holds it until it has become that: mostly less than a millisecond.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// The time between two attempts.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Takes the state directory for this process; the lock ends with it. It is the
/// directory that is locked: nothing has to be written for that.
///
/// A lock that a process before this one has `kept` for it is used, so that no other
/// process takes it in between.
pub(super) fn lock(directory: &Path, kept: Option<&File>) -> Result<File, Error> {
    let wrong = |error| Error::State(directory.to_owned(), error);
    let file = File::open(directory).map_err(wrong)?;
    let is_same = |kept: &File| -> io::Result<bool> {
        let (kept, found) = (kept.metadata()?, file.metadata()?);
        Ok((kept.dev(), kept.ino()) == (found.dev(), found.ino()))
    };
    let kept = kept.filter(|kept| is_same(kept).unwrap_or(false));
    let file = kept.map_or(Ok(file), File::try_clone).map_err(wrong)?;
    let deadline = clock::now().moment + LOCK_TIMEOUT;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if clock::now().moment >= deadline {
            return Err(Error::Running(directory.to_owned()));
        }
        std::thread::sleep(LOCK_POLL);
    }
    Ok(file)
}
