//! Free space on the file system, and what the store takes of it.
//!
//! Below a reserve nothing is written. The ballast is a file that is removed to read what is
//! kept on a disk that others have filled.

use std::cell::Cell;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::error::{StoreError, StoreResult};
use crate::edge::store::child::bytes_written_by;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What is put aside while there is plenty. As much as opening the largest
/// generation takes.
const BALLAST: u64 = MIB;

/// The file system that the store is on.
#[derive(Debug)]
pub(super) struct FreeSpace {
    directory: PathBuf,
    ballast: PathBuf,
    /// What that takes, once it was measured. No other process removes it.
    ballast_taken: Cell<Option<u64>>,
}

impl FreeSpace {
    pub(super) fn of(directory: &Path) -> Self {
        let ballast = directory.join("reserve");
        Self { directory: directory.to_owned(), ballast, ballast_taken: Cell::new(None) }
    }

    /// What is free, and what of it is never written to: 5 % of the file system,
    /// for others need a little, and the engine does not survive to be without.
    fn free_and_reserve(&self) -> StoreResult<(u64, u64)> {
        let system = statvfs(&self.directory).map_err(StoreError::call(&self.directory))?;
        let bytes = |blocks: u64| blocks.saturating_mul(system.f_frsize);
        Ok((bytes(system.f_bavail), (bytes(system.f_blocks) / 20).clamp(MIB, 16 * MIB)))
    }

    /// What may be written.
    pub(super) fn free(&self) -> StoreResult<u64> {
        self.free_and_reserve().map(|(free, reserve)| free.saturating_sub(reserve))
    }

    /// Refuses to write so many bytes where they would use up the reserve. The
    /// engine writes several times what it is given. Returns what is free, as
    /// [`Self::free`] does.
    pub(super) fn check_for_writing(&self, bytes: u64) -> StoreResult<u64> {
        let (free, reserve) = self.free_and_reserve()?;
        self.check(free, reserve.saturating_add(bytes.saturating_mul(4)))?;
        Ok(free.saturating_sub(reserve))
    }

    /// Refuses to open so many bytes where there is no room for what the engine
    /// writes then: the end of a segment, and what it knows of the pages. Removes
    /// the ballast first.
    pub(super) fn check_for_opening(&self, bytes: u64) -> StoreResult {
        let needed = 128 * KIB + bytes / 32;
        let (free, _) = self.free_and_reserve()?;
        if free >= needed || fs::remove_file(&self.ballast).is_err() {
            return self.check(free, needed);
        }
        self.ballast_taken.set(None);
        self.check(self.free_and_reserve()?.0, needed)
    }

    fn check(&self, free: u64, needed: u64) -> StoreResult {
        if free >= needed {
            return Ok(());
        }
        // In one unit, or it may have 1 MiB where 1 MiB is needed.
        let [free, needed] = [free / KIB, needed.div_ceil(KIB)];
        let place = self.directory.display();
        Err(StoreError::Hindered(format!(
            "the file system of {place} has {free} KiB free; {needed} KiB are needed"
        )))
    }

    /// Makes the ballast where there is plenty of room. To be without is no
    /// failure: some file systems cannot promise room, and those that could not
    /// now are asked again.
    pub(super) fn take_ballast(&self) {
        let plenty = self.free().is_ok_and(|free| free >= 2 * BALLAST);
        if !plenty || self.ballast.exists() {
            return;
        }
        let Ok(file) = File::create(&self.ballast) else { return };
        if fallocate(&file, FallocateFlags::empty(), 0, BALLAST).is_err() {
            drop(fs::remove_file(&self.ballast));
        }
        self.ballast_taken.set(None);
    }

    /// What the ballast takes.
    pub(super) fn ballast(&self) -> u64 {
        let taken = self.ballast_taken.get().unwrap_or_else(|| taken(&self.ballast).unwrap_or_default());
        self.ballast_taken.set(Some(taken));
        taken
    }
}

/// What a file, or a directory with all in it, takes on the disk.
pub(super) fn taken(path: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    // Blocks of this size, whatever the file system's own is.
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += match taken(&entry?.path()) {
                // The engine may put a file away under our eyes.
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                taken => taken?,
            };
        }
    }
    Ok(bytes)
}

/// What this process has had written to disks, where the kernel counts that.
pub(super) fn written() -> Option<u64> {
    bytes_written_by("self")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{FreeSpace, KIB, taken};

    #[test]
    fn nothing_is_written_or_opened_where_there_is_no_room_and_people_are_told_why() {
        let space = FreeSpace::of(Path::new(env!("CARGO_MANIFEST_DIR")));
        let (free, reserve) = space.free_and_reserve().unwrap();
        assert!((1024 * KIB..=16 * 1024 * KIB).contains(&reserve));
        let refused = space.check_for_writing(free / 4).unwrap_err();
        let (before, after) = refused.why().split_once(" KiB free; ").unwrap();
        assert!(before.starts_with("the file system of /") && before.contains(" has "), "{before}");
        let needed: u64 = after.strip_suffix(" KiB are needed").unwrap().parse().unwrap();
        assert!(needed >= (free / 4 * 4 + reserve) / KIB);
        assert!(space.check_for_opening(free.saturating_mul(40)).is_err());
        assert!(space.check_for_opening(0).is_ok());
    }

    #[test]
    fn what_is_taken_counts_all_that_is_in_a_directory() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/edge/store");
        let server = taken(&directory.join("server")).unwrap();
        assert!(server > 0);
        assert!(taken(&directory).unwrap() > server);
        assert!(taken(&directory.join("nothing")).is_err());
    }
}
