//! The hub as bytes, for a process that takes over.
//!
//! Knows the version of the form. Does not know how the bytes get there.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::event::LogKey;
use super::{Hub, Settings};

/// Raised when a hub could not go on with what an older one wrote.
const VERSION: u32 = 3;

#[derive(Serialize)]
struct Written<'a, T> {
    version: u32,
    hub: &'a T,
}

#[derive(Deserialize)]
struct Read<T> {
    hub: T,
}

/// The version alone, of whatever the rest looks like.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// A hub, or part of one, as bytes.
pub(super) fn write<T: Serialize>(version: u32, hub: &T) -> Vec<u8> {
    let written = serde_json::to_vec(&Written { version, hub });
    debug_assert!(written.is_ok(), "{written:?}");
    written.unwrap_or_default()
}

/// What was written in the same version.
pub(super) fn read<T: DeserializeOwned>(version: u32, bytes: &[u8]) -> Result<T, StateError> {
    let head: Head = serde_json::from_slice(bytes).map_err(StateError::Form)?;
    if head.version != version {
        return Err(StateError::Version { found: head.version, known: version });
    }
    let Read { hub } = serde_json::from_slice(bytes).map_err(StateError::Form)?;
    Ok(hub)
}

/// Why a state cannot be taken over.
#[derive(Debug)]
pub enum StateError {
    /// It was written by a hub of another time.
    Version { found: u32, known: u32 },
    /// It is no state, or not a whole one.
    Form(serde_json::Error),
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

impl Hub {
    /// All state, for a process that takes over.
    pub fn export(&self) -> Vec<u8> {
        write(VERSION, self)
    }

    /// Goes on where another hub was, with settings that may be new.
    ///
    /// # Errors
    /// When the bytes are no state, or one of another version.
    pub fn import(settings: Settings, bytes: &[u8]) -> Result<Self, StateError> {
        let hub: Self = read(VERSION, bytes)?;
        let mut hub = Self { settings, resumes: true, ..hub };
        hub.connections.share_rights();
        hub.share_users();
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
