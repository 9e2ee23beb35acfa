//! The store as a stream of values and texts, for a process that takes over.
//!
//! Knows that they are whole, and of a version that is understood. Does not know what
//! they mean.
//!
//! Each log is one value, with the texts of its messages behind it. Until version 1 it
//! was JSON: a heading, then the values, one to a line; behind all of those the texts.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::de::SliceRead;

use crate::binary::{self, Source};
use crate::hub::LogKey;

/// Raised when a store could not go on with what an older one wrote. Postcard spells a value
/// by the order of its fields: a field more, less or in another place is another version.
pub(super) const VERSION: u32 = 2;

/// The last that was JSON.
const JSON_VERSION: u32 = 1;

/// The first line of JSON.
#[derive(Deserialize)]
struct Heading {
    version: u32,
    /// Of all that follows.
    #[serde(default)]
    checksum: u32,
    /// How many bytes of text are at the end.
    #[serde(default)]
    texts: usize,
}

/// Why a store cannot go on.
#[derive(Debug)]
pub enum ImportError {
    /// It was written by a store of another time.
    Version { found: u32, known: u32 },
    /// It is no store, or not a whole one.
    Form(String),
    /// What it says of a log cannot be.
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

impl From<binary::Error> for ImportError {
    fn from(error: binary::Error) -> Self {
        Self::Form(error.to_string())
    }
}

impl From<serde_json::Error> for ImportError {
    fn from(error: serde_json::Error) -> Self {
        Self::Form(error.to_string())
    }
}

/// What was written, in whatever form.
pub(super) trait Bundle {
    /// The next value.
    fn next<T: DeserializeOwned>(&mut self) -> Result<T, ImportError>;

    /// The text of a message, of so many bytes.
    fn text(&mut self, bytes: usize) -> Result<&[u8], ImportError>;

    /// Nothing is left, and all is as it was written.
    fn end(self) -> Result<(), ImportError>;
}

impl Bundle for Source<'_> {
    fn next<T: DeserializeOwned>(&mut self) -> Result<T, ImportError> {
        Ok(Source::next(self)?)
    }

    fn text(&mut self, bytes: usize) -> Result<&[u8], ImportError> {
        Ok(self.next_bytes(bytes)?)
    }

    fn end(self) -> Result<(), ImportError> {
        Ok(Source::end(self)?)
    }
}

/// What was written as JSON.
pub(super) struct Json<'a> {
    values: serde_json::Deserializer<SliceRead<'a>>,
    texts: &'a [u8],
}

impl<'a> Json<'a> {
    /// The values and the texts of which one was made.
    ///
    /// # Errors
    /// When it is not whole, or of another version.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, ImportError> {
        let (heading, rest) = bytes.split_at(memchr::memchr(b'\n', bytes).unwrap_or(bytes.len()));
        let rest = rest.get(1..).unwrap_or_default();
        let Heading { version: found, checksum, texts } = serde_json::from_slice(heading)?;
        if found != JSON_VERSION {
            return Err(ImportError::Version { found, known: VERSION });
        }
        if checksum != crc32fast::hash(rest) {
            return Err(wrong("its checksum is wrong"));
        }
        let end = rest.len().checked_sub(texts).ok_or_else(|| wrong("it is shorter than it says"))?;
        let (values, texts) = rest.split_at(end);
        Ok(Self { values: serde_json::Deserializer::from_slice(values), texts })
    }
}

impl Bundle for Json<'_> {
    fn next<T: DeserializeOwned>(&mut self) -> Result<T, ImportError> {
        Ok(T::deserialize(&mut self.values)?)
    }

    fn text(&mut self, bytes: usize) -> Result<&[u8], ImportError> {
        let (text, rest) = self.texts.split_at_checked(bytes).ok_or_else(|| wrong("a text is missing"))?;
        self.texts = rest;
        Ok(text)
    }

    fn end(mut self) -> Result<(), ImportError> {
        self.values.end()?;
        if self.texts.is_empty() { Ok(()) } else { Err(wrong("it is longer than it says")) }
    }
}

fn wrong(why: &str) -> ImportError {
    ImportError::Form(why.to_owned())
}
