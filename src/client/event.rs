//! One line of the hub, kept as it came.
//!
//! Knows its kind and how to read it when somebody asks. Does not know which
//! kinds there are: what is new in a later hub passes through.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::Error;

/// A line of the hub.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heard {
    kind: Box<str>,
    json: Box<str>,
}

impl Heard {
    pub(super) fn new(kind: &str, json: &str) -> Self {
        Self { kind: kind.into(), json: json.into() }
    }

    /// Its `type`: `message`, `operation`, `gap` and so on.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The JSON object, on one line.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Reads the fields that the caller is after.
    ///
    /// # Errors
    /// [`Error::Garbled`] where they are missing or of another type.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_json::from_str(&self.json).map_err(|error| Error::Garbled(format!("{error} in {}", self.json)))
    }

    /// The message, if it is one.
    pub fn message(&self) -> Option<Message<'_>> {
        if &*self.kind == "message" { self.read().ok() } else { None }
    }
}

/// A `message` line.
#[derive(Debug, Deserialize)]
pub struct Message<'a> {
    /// Missing for what goes to one connection, one user or all.
    #[serde(borrow)]
    pub channel: Option<Cow<'a, str>>,
    /// What kind of message it is.
    #[serde(borrow)]
    pub event: Cow<'a, str>,
    /// The payload, as JSON text.
    #[serde(borrow)]
    pub data: &'a RawValue,
    /// A connection's id, `worker`, `http` or `hub`.
    #[serde(borrow)]
    pub from: Cow<'a, str>,
    /// The user who said it, if it was one.
    #[serde(borrow)]
    pub user_id: Option<Cow<'a, str>>,
    /// Its own id.
    #[serde(borrow)]
    pub message_id: Cow<'a, str>,
    /// When the hub took it, in RFC 3339.
    #[serde(borrow)]
    pub timestamp: Cow<'a, str>,
    /// Its position in the channel, if it has one.
    pub seq: Option<u64>,
    /// Whether it comes from what was kept.
    #[serde(default)]
    pub replayed: bool,
}
