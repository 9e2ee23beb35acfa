//! One long piece of work that somebody may stop.
//!
//! Knows its latch. Does not know what the work is, or how it is stopped.

use std::sync::{Arc, OnceLock};

use async_channel::Receiver;
use serde::{Deserialize, Serialize};

use super::connection::Order;
use super::error::Error;
use super::unacked::Kind;
use super::{Client, Pending, backpressure, request, spoken};
use crate::protocol::EndState;

/// An operation that runs. Dropped without [`Operation::end`] it counts as
/// failed.
#[derive(Debug)]
#[must_use = "an operation that is dropped has failed"]
pub struct Operation {
    client: Client,
    /// Kept for as long as it runs: the link ends an operation whose beginning
    /// nobody can hear of.
    _beginning: Pending,
    id: Box<str>,
    latch: Receiver<Interrupt>,
    /// Why the hub does not know it any more, where it will not.
    fate: Arc<OnceLock<Error>>,
    ended: bool,
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
    pub(super) fn new(
        beginning: Pending,
        id: &str,
        latch: Receiver<Interrupt>,
        fate: Arc<OnceLock<Error>>,
    ) -> Self {
        let client = beginning.client.clone();
        Self { client, _beginning: beginning, id: id.into(), latch, fate, ended: false }
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

    /// Waits until somebody wants it to stop, over all connections that it
    /// outlives. Whoever asks again before this is awaited again asks for the
    /// same.
    ///
    /// # Errors
    /// Nobody can ask any more, because the link has ended, or, as
    /// [`Error::Refused`], because the hub would not have it, or not again.
    pub async fn interrupted(&self) -> Result<Interrupt, Error> {
        self.latch.recv().await.map_err(|_| self.lost())
    }

    fn lost(&self) -> Error {
        self.fate.get().cloned().unwrap_or_else(|| self.client.lost())
    }

    /// Says how it ended, and waits until the hub knows, and with it all that was
    /// published before. `state` is one of the three that are a worker's to say:
    /// completed, failed, interrupted. An operation that the hub has lost is
    /// registered once more and then ended, so that whoever watches learns how.
    ///
    /// # Errors
    /// [`Error::Unspeakable`], [`Error::Refused`], and why the link has ended.
    /// With [`Error::Away`] the hub does not know yet, and is told when it is back
    /// and the link still there.
    pub async fn end(mut self, state: EndState, data: &impl Serialize) -> Result<(), Error> {
        let line = spoken(&request::End { operation_id: &self.id, state, data })?;
        self.ended = true;
        if let Some(fate) = self.fate.get() {
            return Err(fate.clone());
        }
        let told = self.client.ask(Kind::End(self.id.clone()), line, None).await?.answer().await;
        match (told, self.fate.get()) {
            // That it never began says more than that nobody knows it.
            (Err(_), Some(fate)) => Err(fate.clone()),
            (told, _) => told.map(drop),
        }
    }
}

/// An operation whose beginning is not answered yet.
pub(super) struct Beginning {
    pending: Pending,
    /// Taken once it is known whether it runs.
    operation: Option<Operation>,
}

impl Beginning {
    pub(super) fn new(pending: Pending, operation: Operation) -> Self {
        Self { pending, operation: Some(operation) }
    }

    pub(super) async fn answered(mut self) -> Result<Operation, Error> {
        let answer = self.pending.answer().await;
        let Some(mut operation) = self.operation.take() else { return Err(self.pending.client.lost()) };
        operation.ended = answer.is_err();
        answer.map(|_| operation)
    }
}

impl Drop for Beginning {
    /// Nobody has waited for the answer. If it had come all the same, the
    /// operation runs and is dropped with this; if not, the link finds that it
    /// can tell nobody, and ends it.
    fn drop(&mut self) {
        if let Some(operation) = &mut self.operation {
            operation.ended = !self.pending.close();
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if self.ended || self.fate.get().is_some() {
            return;
        }
        let end = request::End { operation_id: &self.id, state: EndState::Failed, data: &() };
        if let Ok(line) = spoken(&end) {
            let weight = backpressure::weight(&line);
            self.client.room.take_anyway(weight);
            let kind = Kind::End(self.id.clone());
            // It only fails where the link has gone, and the operation with it.
            let _ = self.client.orders.try_send(Order { kind, line, weight, answer: None, begins: None });
        }
    }
}
