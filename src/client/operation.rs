//! One long piece of work that somebody may stop.
//!
//! Knows its latch. Does not know what the work is, or how it is stopped.

use async_channel::Receiver;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::link::Latching;
use super::{Client, ask};
use crate::protocol::Ending;

/// An operation that runs. Dropped without [`Operation::end`] it runs on in the
/// eyes of the hub, until the connection closes and it counts as `owner_lost`.
#[derive(Debug)]
#[must_use = "an operation runs until it is ended"]
pub struct Operation {
    client: Client,
    id: Box<str>,
    latch: Receiver<Interrupt>,
}

/// Somebody wants an operation to stop.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Interrupt {
    /// Who asked, if it was a user.
    pub user_id: Option<String>,
    /// The connection that asked, or the kind of asker.
    #[serde(default)]
    pub from: String,
    /// Why, in the asker's words, or `deadline`.
    pub reason: Option<String>,
}

impl Operation {
    pub(super) fn new(client: Client, id: &str, latch: Receiver<Interrupt>) -> Self {
        Self { client, id: id.into(), latch }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether an interrupt has come that [`Operation::interrupted`] has not
    /// taken. For loops that would rather look than wait.
    pub fn is_interrupted(&self) -> bool {
        !self.latch.is_empty()
    }

    /// Waits until somebody wants it to stop. Whoever asks again before this is
    /// awaited again asks for the same.
    ///
    /// # Errors
    /// [`Error::Lost`] when the connection ends: nobody can ask any more.
    pub async fn interrupted(&self) -> Result<Interrupt, Error> {
        self.latch.recv().await.map_err(|_| self.client.lost())
    }

    /// Says how it ended, and waits until the hub knows. `state` is one of the
    /// three that are a worker's to say: completed, failed, interrupted.
    ///
    /// # Errors
    /// As [`Client::request`], and [`Error::Refused`].
    pub async fn end(self, state: Ending, data: &impl Serialize) -> Result<(), Error> {
        let line = ask::End { operation_id: &self.id, state, data };
        let pending = self.client.request_with(&line, Latching::Detach(self.id.clone())).await?;
        pending.answer().await.map(drop)
    }
}
