//! Values and texts as one run of bytes, for a process that takes over.
//!
//! Knows that they are whole, and of a version that is understood. Does not know what
//! they mean.
//!
//! A heading, then the values, all of them JSON, one to a line; behind those the texts.

use std::fmt;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use serde_json::de::SliceRead;

use crate::hub::LogKey;
use crate::json;

/// Raised when a store could not go on with what an older one wrote.
const VERSION: u32 = 1;

/// The first line.
#[derive(Serialize, Deserialize)]
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
    Form(serde_json::Error),
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

/// What is being written.
#[derive(Default)]
pub(super) struct Bundle(Vec<u8>);

impl Bundle {
    /// Adds a value.
    pub(super) fn add(&mut self, value: &impl Serialize) {
        write(&mut self.0, value);
    }

    /// All of it, with the texts one behind the other.
    pub(super) fn seal(self, texts: &[&[u8]]) -> Vec<u8> {
        let length = texts.iter().map(|text| text.len()).sum();
        let mut sum = crc32fast::Hasher::new();
        sum.update(&self.0);
        texts.iter().for_each(|text| sum.update(text));
        // They may be most of the memory: they are copied once.
        let mut whole = Vec::with_capacity(self.0.len() + length + 128);
        write(&mut whole, &Heading { version: VERSION, checksum: sum.finalize(), texts: length });
        whole.extend(self.0);
        texts.iter().for_each(|text| whole.extend_from_slice(text));
        whole
    }
}

/// Each is a line.
fn write(bytes: &mut Vec<u8>, value: &impl Serialize) {
    json::write(value, bytes);
    bytes.push(b'\n');
}

/// The values and the texts of which one was made.
///
/// # Errors
/// When it is not whole, or of another version.
pub(super) fn open(bytes: &[u8]) -> Result<(Values<'_>, &[u8]), ImportError> {
    let (heading, rest) = bytes.split_at(memchr::memchr(b'\n', bytes).unwrap_or(bytes.len()));
    let rest = rest.get(1..).unwrap_or_default();
    let Heading { version: found, checksum, texts } =
        serde_json::from_slice(heading).map_err(ImportError::Form)?;
    if found != VERSION {
        return Err(ImportError::Version { found, known: VERSION });
    }
    if checksum != crc32fast::hash(rest) {
        return Err(wrong("its checksum is wrong"));
    }
    let end = rest.len().checked_sub(texts).ok_or_else(|| wrong("it is shorter than it says"))?;
    let (values, texts) = rest.split_at(end);
    Ok((Values(serde_json::Deserializer::from_slice(values)), texts))
}

fn wrong(why: &str) -> ImportError {
    ImportError::Form(serde_json::Error::custom(why))
}

/// What was written, value by value.
pub(super) struct Values<'a>(serde_json::Deserializer<SliceRead<'a>>);

impl<'a> Values<'a> {
    pub(super) fn next<T: Deserialize<'a>>(&mut self) -> Result<T, ImportError> {
        T::deserialize(&mut self.0).map_err(ImportError::Form)
    }

    /// Nothing is left, of values or texts.
    pub(super) fn end(mut self, texts: &[u8]) -> Result<(), ImportError> {
        self.0.end().map_err(ImportError::Form)?;
        if texts.is_empty() { Ok(()) } else { Err(wrong("it is longer than it says")) }
    }
}
