//! Snapshot: the hub as bytes, for a process that takes over.

use serde::{Deserialize, Serialize};

use super::Hub;
use super::channel::presence::AbsentInfo;
use super::connection::table::SavedBearer;
use crate::binary_codec;
use crate::binary_codec::{Destination, Output, Source};
use crate::protocol::RejectionCounts;

/// Raised when a hub could not go on with what an older one wrote. Postcard spells a value
/// by the order of its fields: a field more, less or in another place is another version.
///
/// What a version adds stands behind all of the one before, as a part of its own: so a
/// state of version 4 is one that ends earlier, and one reader reads both.
const VERSION: u32 = 5;
const OLDEST: u32 = 4;

/// What version 5 has added.
#[derive(Serialize, Deserialize, Default)]
struct Since5 {
    bearers: Vec<SavedBearer>,
    /// By id of the topic: the infos of users that may come back.
    absent: Vec<AbsentInfo>,
}

/// Why a state cannot be taken over.
#[derive(Debug)]
pub enum StateError {
    /// It was written by a hub of another time.
    Version { found: u32, known: u32 },
    /// It is no state, or not a whole one.
    Form(String),
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version { found, known } => {
                write!(f, "the state is of version {found}, this daemon understands version {known}")
            }
            Self::Form(error) => write!(f, "the state cannot be read: {error}"),
        }
    }
}

impl std::error::Error for StateError {}

impl From<binary_codec::Error> for StateError {
    fn from(error: binary_codec::Error) -> Self {
        Self::Form(error.to_string())
    }
}

/// Writes all state, without holding it as bytes.
pub(super) fn write(hub: &Hub, to: Destination<'_>) -> binary_codec::Written {
    let mut output = Output::new(VERSION, to);
    output.add(hub);
    output.add(&Since5 { bearers: hub.connections.saved_bearers(), absent: hub.channels.absent_infos() });
    // Last, and only where there are any: without, a process that knows no more reads it too.
    if hub.refused != RejectionCounts::default() {
        output.add(hub.refused.counts());
    }
    output.end()
}

/// Reads the same, without what can be derived from it.
pub(super) fn read(mut from: Source<'_>) -> Result<Hub, StateError> {
    let version = from.version()?;
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(StateError::Version { found: version, known: VERSION });
    }
    let mut hub: Hub = from.next()?;
    let Since5 { bearers, absent } = if version >= 5 { from.next()? } else { Since5::default() };
    if from.has_more() {
        hub.refused = RejectionCounts::of_counts(&from.next::<Vec<u64>>()?);
    }
    from.end()?;
    hub.connections.restore_bearers(bearers);
    hub.channels.restore_infos(&hub.connections, absent);
    Ok(hub)
}
