//! The version of a store as bytes, and why such bytes are refused.
//!
//! The bytes are a stream of values: one for all that is of no log, then one for each log
//! with the texts of its messages behind it.

use std::fmt;
use std::path::PathBuf;

use crate::binary_codec;
use crate::hub::LogKey;

/// Raised when a store could not go on with what an older one wrote. Postcard encodes a value
/// by the order of its fields: a field more, less or in another place is another version.
pub(super) const VERSION: u32 = 2;

/// Why a store cannot go on.
#[derive(Debug)]
pub enum ImportError {
    /// It was written by a store of another time.
    Version { found: u32, known: u32 },
    /// It is no store, or not a whole one.
    Form(String),
    /// It has a log that cannot be.
    Log(LogKey),
    /// It was in another place, or in memory: what is on that disk is not on this.
    Place { found: Option<PathBuf>, known: Option<PathBuf> },
    /// It was written in another run of the machine, whose clock was another.
    Boot,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |place: &Option<PathBuf>| match place {
            Some(place) => format!("in {}", place.display()),
            None => "in memory".to_owned(),
        };
        match self {
            Self::Version { found, known } => {
                write!(f, "the store is of version {found}, this daemon understands version {known}")
            }
            Self::Form(error) => write!(f, "the store cannot be read: {error}"),
            Self::Log(log) => write!(f, "the store has a log that cannot be: {log:?}"),
            Self::Place { found, known } => {
                write!(f, "the store was {}, and is {} now", place(found), place(known))
            }
            Self::Boot => write!(f, "the store was written before the machine started"),
        }
    }
}

impl std::error::Error for ImportError {}

impl From<binary_codec::Error> for ImportError {
    fn from(error: binary_codec::Error) -> Self {
        Self::Form(error.to_string())
    }
}
