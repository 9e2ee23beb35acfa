//! A copy of a database in memory, to be read.
//!
//! The engine writes whenever it opens something, were it only to read that: it
//! writes over each segment that is free, and syncs. That is a quarter of a megabyte
//! of flash, and on a slow card a second, for a page of messages. A copy costs as
//! much memory as the database takes, for as long as it is open.

use std::env;
use std::fs;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatFs, statfs};

use super::generation_files;
use super::record;

/// What the kernel calls such a file system.
const TMPFS: u64 = 0x0102_1994;

/// Where there is one as a rule, beside the directory that systemd makes.
const SHARED: &str = "/dev/shm";

/// The directory with the copy. It is removed with this, and by the process that makes
/// the next copy of a database of the same store.
#[derive(Debug)]
pub(super) struct RamCopy(PathBuf);

impl RamCopy {
    /// Copies a database out of a store, in a generation that takes so many bytes. None
    /// where there is no room, or no such place, or it cannot be read: opening it shows why.
    pub(super) fn of(place: &Path, store: &Path, bytes: u64) -> Option<Self> {
        let directory = env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from);
        let directory = directory.into_iter().chain([PathBuf::from(SHARED)]).find(|directory| {
            // Others need room there as well.
            statfs(directory).is_ok_and(|system| is_in_memory(&system) && free(&system) / 2 > bytes)
        })?;
        let store = record::checksum(&[store.as_os_str().as_encoded_bytes()]);
        let mirror = directory.join(format!("wshubd-{store:08x}"));
        // Where many users may write, none but ours is removed or used.
        let _ = fs::remove_dir_all(&mirror);
        DirBuilder::new().mode(0o700).create(&mirror).ok()?;
        let mirror = Self(mirror);
        generation_files::copy(place, &mirror.path()).ok()?;
        Some(mirror)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.join("database")
    }
}

impl Drop for RamCopy {
    fn drop(&mut self) {
        // Else the next one removes it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_in_memory(system: &StatFs) -> bool {
    u64::try_from(system.f_type).is_ok_and(|kind| kind == TMPFS)
}

fn free(system: &StatFs) -> u64 {
    u64::try_from(system.f_bsize).map_or(0, |block| system.f_bavail.saturating_mul(block))
}
