//! The hub as bytes, for a process that takes over.
//!
//! Knows the version of the form. Does not know how the bytes get there.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::event::LogKey;
use super::{Hub, Settings, Terms};
use crate::binary_codec;
use crate::binary_codec::{Destination, Output, Source};
use crate::protocol::{Payload, RejectionCounts, UnixTime, UserId};

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
    /// By slot: when a token was issued, and what it says of its bearer beside its rights.
    bearers: Vec<(u32, UnixTime, Option<Rc<Terms>>)>,
    /// By place in the table of topics: what is said of users who may come back.
    absent: Vec<(u32, UserId, Payload)>,
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

impl Hub {
    /// All state, for a process that takes over.
    pub fn export(&self) -> Vec<u8> {
        binary_codec::collect(|to| self.write(to))
    }

    /// The same, without holding it.
    pub(crate) fn write(&self, to: Destination<'_>) -> binary_codec::Written {
        let mut output = Output::new(VERSION, to);
        output.add(self);
        output.add(&Since5 { bearers: self.connections.bearers(), absent: self.infos_of_absent() });
        // Last, and only where there are any: without, whoever knows no more reads it too.
        if self.refused != RejectionCounts::default() {
            output.add(self.refused.counts());
        }
        output.end()
    }

    /// Goes on where another hub was, with settings that may be new.
    ///
    /// # Errors
    /// When the bytes are no state, or one of another version.
    pub fn import(settings: Settings, mut bytes: &[u8]) -> Result<Self, StateError> {
        Self::read(settings, Source::new(&mut bytes))
    }

    /// The same, of a stream.
    pub(crate) fn read(settings: Settings, from: Source<'_>) -> Result<Self, StateError> {
        let mut hub = Self { settings, resume_pending: true, ..Self::read_as_it_was(from)? };
        hub.connections.share_rights();
        hub.share_users();
        hub.operations.weigh();
        Ok(hub)
    }

    fn read_as_it_was(mut from: Source<'_>) -> Result<Self, StateError> {
        let version = from.version()?;
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(StateError::Version { found: version, known: VERSION });
        }
        let mut hub: Self = from.next()?;
        let Since5 { bearers, absent } = if version >= 5 { from.next()? } else { Since5::default() };
        if from.has_more() {
            hub.refused = RejectionCounts::of_counts(&from.next::<Vec<u64>>()?);
        }
        from.end()?;
        hub.connections.restore_bearers(bearers);
        hub.restore_infos(absent);
        Ok(hub)
    }

    /// A hub that nobody goes on with: it takes in what the store tells, and leaves its
    /// remains. No settings count for it, so that nothing is dropped by them.
    ///
    /// # Errors
    /// As [`Hub::import`].
    pub fn import_to_leave(mut bytes: &[u8]) -> Result<Self, StateError> {
        let mut hub = Self::read_as_it_was(Source::new(&mut bytes))?;
        hub.channels.returning = usize::MAX;
        Ok(hub)
    }

    /// Lets a user's id be one text again, after it was read back many times.
    fn share_users(&mut self) {
        for connection in self.connections.iter_mut() {
            let topic = connection.inbox_at().and_then(|place| self.channels.at(place));
            if let Some(LogKey::Inbox(user)) = topic.map(|topic| &topic.key) {
                connection.user = Some(user.clone());
            }
        }
    }
}
