//! The hub as bytes, for a process that takes over; and as numbers.
//!
//! Knows the version of the form. Does not know how the bytes get there.

use serde::{Deserialize, Serialize};

use super::connections::Kind;
use super::event::{Asker, Effects, LogKey, Now};
use super::publish::forbidden;
use super::{Ask, Done, Hub, Settings};
use crate::protocol::Frame;
use crate::protocol::frame::Statistics;

/// Raised when a hub could not go on with what an older one wrote.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    hub: &'a Hub,
}

#[derive(Deserialize)]
struct Read {
    hub: Hub,
}

/// Why a state cannot be taken over.
#[derive(Debug)]
pub enum StateError {
    /// It was written by a hub of another time.
    Version(u32),
    /// It is no state, or not a whole one.
    Form(serde_json::Error),
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(found) => {
                write!(f, "the state is of version {found}, this daemon understands version {VERSION}")
            }
            Self::Form(error) => write!(f, "the state cannot be read: {error}"),
        }
    }
}

impl std::error::Error for StateError {}

impl Hub {
    /// All state, for a process that takes over.
    pub fn export(&self) -> Vec<u8> {
        let written = serde_json::to_vec(&Written { version: VERSION, hub: self });
        debug_assert!(written.is_ok(), "{written:?}");
        written.unwrap_or_default()
    }

    /// Goes on where another hub was, with settings that may be new.
    ///
    /// # Errors
    /// When the bytes are no state, or one of another version.
    pub fn import(settings: Settings, bytes: &[u8]) -> Result<Self, StateError> {
        /// The version alone, of whatever the rest looks like.
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(StateError::Form)?;
        if head.version != VERSION {
            return Err(StateError::Version(head.version));
        }
        let Read { hub } = serde_json::from_slice(bytes).map_err(StateError::Form)?;
        let mut hub = Self { settings, ..hub };
        hub.connections.share_rights(vec![hub.settings.rights.clone()]);
        hub.share_users();
        Ok(hub)
    }

    /// Lets a user's id be one text again, after it was read back many times.
    fn share_users(&mut self) {
        for connection in self.connections.iter_mut() {
            let inbox = connection.topics.first().filter(|_| connection.user.is_some());
            let topic = inbox.and_then(|place| self.channels.at(*place));
            if let Some(LogKey::Inbox(user)) = topic.map(|topic| &topic.key) {
                connection.user = Some(user.clone());
            }
        }
    }

    /// Answers with the numbers of the daemon. They are counted when somebody
    /// asks, so that there is nothing which could be wrong.
    pub(super) fn stats(&self, now: Now, ask: &Ask, out: &mut Effects) -> Done {
        self.may_administer(ask.from)?;
        self.answer(ask, Frame::Stats(Box::new(self.statistics(now))), out);
        Ok(())
    }

    pub(super) fn may_administer(&self, from: Asker) -> Done {
        let kind = match from {
            Asker::Http(_) => return Ok(()),
            Asker::Connection(conn) => self.connections.get(conn).map(|connection| connection.kind),
        };
        match kind {
            Some(Kind::Worker { admin: true, .. }) => Ok(()),
            _ => Err(forbidden("this is for administrators")),
        }
    }

    fn statistics(&self, now: Now) -> Statistics {
        let mut counted = Statistics {
            operations: self.operations.running() as u64,
            kept_bytes: self.channels.bytes as u64,
            uptime_seconds: self.started.map_or(0, |started| now.moment.since(started).as_secs()),
            counters: self.counters,
            ..Statistics::default()
        };
        for (_, connection) in self.connections.iter() {
            match connection.kind {
                Kind::Worker { .. } => counted.workers += 1,
                Kind::Client | Kind::Waiting => counted.total_connections += 1,
            }
            counted.subscriptions += connection.subscriptions() as u64;
        }
        for topic in self.channels.iter() {
            match topic.key {
                LogKey::Channel(_) => counted.channels += 1,
                LogKey::Inbox(_) => counted.connected_users += u64::from(!topic.subscribers.is_empty()),
            }
            counted.kept_messages += topic.log.as_ref().map_or(0, |log| log.kept.len() as u64);
        }
        counted
    }
}
