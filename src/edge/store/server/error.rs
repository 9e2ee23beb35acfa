//! Errors of the storage server: damage, what the disk does not give back, and what may pass
//! by itself.

use std::fmt::Display;
use std::io;
use std::path::Path;

/// Why something could not be done, for people.
#[derive(Debug)]
pub enum StoreError {
    /// The disk is full, belongs to another user, or is broken; its content may be intact.
    Hindered(String),
    /// The disk does not give back some of what it took.
    Unread(String),
    /// What is on the disk is not what was written.
    Damaged(String),
}

pub type StoreResult<T = ()> = Result<T, StoreError>;

impl StoreError {
    /// For people.
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Hindered(why) | Self::Unread(why) | Self::Damaged(why) => why,
        }
    }

    /// Something that a file system refused.
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Hindered(format!("{}: {error}", path.display()))
    }

    /// A file that was opened, and cannot be read.
    pub(super) fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let why = format!("{}: {error}", path.display());
            if is_unread(&error) { Self::Unread(why) } else { Self::Hindered(why) }
        }
    }

    /// What a file system refused, as rustix returns it.
    pub(super) fn call(path: &Path) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |error| Self::file(path)(error.into())
    }

    /// An error of the engine about what is in this directory.
    pub(super) fn engine(path: &Path) -> impl FnOnce(sled::Error) -> Self {
        move |error| {
            let why = |error: &dyn Display| format!("{}: {error}", path.display());
            match error {
                sled::Error::Io(error) if is_circumstance(&error) => Self::Hindered(why(&error)),
                // Made by another version of the engine; its settings are checked
                // before it is opened.
                sled::Error::Unsupported(error) => Self::Hindered(why(&error)),
                error => Self::Damaged(why(&error)),
            }
        }
    }
}

/// Whether the disk itself refuses, as it does where a sector is bad.
pub(super) fn is_unread(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// A file that is too short, or not there, is damage; so is an offset that no file
/// can have. The rest is between the system and the disk.
fn is_circumstance(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    !matches!(error.kind(), InvalidData | InvalidInput | NotFound | UnexpectedEof)
}
