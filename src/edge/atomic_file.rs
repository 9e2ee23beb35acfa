//! Small files that are replaced as a whole: after a crash there is the old one or the new one.
//!
//! A new file is written beside the old one, under its name with `.new` behind it, and renamed.
//! Before that its bytes are synced and afterwards its directory, where it has to outlive a
//! power cut. What is in it is the caller's; each has a heading with a version, and checksums.

use std::fs;
use std::fs::{File, OpenOptions};
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file that is being written, to replace another one.
#[derive(Debug)]
pub(in crate::edge) struct Replacement<'a> {
    path: &'a Path,
    fresh: PathBuf,
    file: File,
}

impl<'a> Replacement<'a> {
    /// An empty one, for its owner alone.
    pub(in crate::edge) fn create(path: &'a Path) -> io::Result<Self> {
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        // Left by a process that was killed just here.
        remove_if_there(&fresh)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        Ok(Self { path, fresh, file })
    }

    pub(in crate::edge) fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name, once all is written. Where that fails nothing is left of it.
    pub(in crate::edge) fn rename(self) -> io::Result<File> {
        let renamed = fs::rename(&self.fresh, self.path);
        self.finish(renamed)
    }

    /// The same, with bytes that are on the disk by then. Its name is there after
    /// [`sync_directory`].
    pub(in crate::edge) fn write(mut self, parts: &[&[u8]]) -> io::Result<File> {
        let written = parts.iter().try_for_each(|part| self.file.write_all(part));
        let written = written.and_then(|()| self.file.sync_all());
        let renamed = written.and_then(|()| fs::rename(&self.fresh, self.path));
        self.finish(renamed)
    }

    fn finish(self, renamed: io::Result<()>) -> io::Result<File> {
        if renamed.is_err() {
            // What is left is removed by the next.
            let _ = fs::remove_file(&self.fresh);
        }
        renamed.map(|()| self.file)
    }
}

/// What is in a file, if there is one.
pub(in crate::edge) fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Removes a file, if there is one.
pub(in crate::edge) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Puts the names in a directory on the disk.
pub(in crate::edge) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
