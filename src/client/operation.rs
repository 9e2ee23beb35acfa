//! An operation of this worker: a long piece of work that others may interrupt.

use std::sync::{Arc, OnceLock};

use async_channel::{Receiver, Sender};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::request_queue::RequestKind;
use super::{Client, PendingAnswer, request};
use crate::protocol::EndState;

/// An operation that runs. Dropped without [`OperationHandle::end`] it counts as
/// failed.
#[derive(Debug)]
#[must_use = "an operation that is dropped has failed"]
pub struct OperationHandle {
    client: Client,
    /// Kept for as long as it runs: the task ends an operation if the receiver of the answer
    /// to its start is gone.
    _start: PendingAnswer,
    id: Box<str>,
    latch: LatchReceiver,
    has_ended: bool,
}

/// An interrupt of an operation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Interrupt {
    /// The user who asked for it, if it was one.
    pub user_id: Option<String>,
    /// The connection that asked for it, or the kind of requester.
    #[serde(default)]
    pub from: String,
    /// Why, in the requester's words, or `deadline`.
    pub reason: Option<String>,
}

/// The two ends of an operation's latch.
pub(super) fn latch() -> (LatchSender, LatchReceiver) {
    let (sender, interrupts) = async_channel::bounded(1);
    let closed_by = Arc::new(OnceLock::new());
    (
        LatchSender { interrupts: sender, closed_by: closed_by.clone() },
        LatchReceiver { interrupts, closed_by },
    )
}

/// The task's end of a latch.
#[derive(Debug)]
pub(super) struct LatchSender {
    /// Full means already asked, closed means already over; both are as good as
    /// pulled.
    interrupts: Sender<Interrupt>,
    closed_by: Arc<OnceLock<Error>>,
}

impl LatchSender {
    pub(super) fn pull(&self, interrupt: Interrupt) {
        let _ = self.interrupts.try_send(interrupt);
    }

    /// The hub does not know the operation any more.
    pub(super) fn close(self, error: Error) {
        // Before the queue closes, so that its reader finds the reason.
        let _ = self.closed_by.set(error);
    }
}

/// The operation's end of a latch.
#[derive(Debug)]
pub(super) struct LatchReceiver {
    interrupts: Receiver<Interrupt>,
    /// Why the hub does not know the operation any more, if it does not.
    closed_by: Arc<OnceLock<Error>>,
}

impl OperationHandle {
    pub(super) fn new(client: Client, start: PendingAnswer, id: &str, latch: LatchReceiver) -> Self {
        Self { client, _start: start, id: id.into(), latch, has_ended: false }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether an interrupt has come that [`OperationHandle::interrupted`] has not
    /// taken. For loops that would rather look than wait.
    pub fn is_interrupted(&self) -> bool {
        !self.latch.interrupts.is_empty()
    }

    /// Waits until it is interrupted, over all connections that it
    /// outlives. A second interrupt before this is awaited again is the
    /// same.
    ///
    /// # Errors
    /// It can no longer be interrupted, because the task has ended, or, as
    /// [`Error::Refused`], because the hub did not take it, or not again.
    pub async fn interrupted(&self) -> Result<Interrupt, Error> {
        self.latch.interrupts.recv().await.map_err(|_| self.closed_by())
    }

    fn closed_by(&self) -> Error {
        self.latch.closed_by.get().cloned().unwrap_or_else(|| self.client.end_reason())
    }

    /// Ends it, and waits until the hub knows, and with it all that was
    /// published before. `state` is one of the three that a worker sends:
    /// completed, failed, interrupted. An operation that the hub has lost is
    /// registered once more and then ended, so that its subscribers get its end.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], [`Error::Refused`], and why the task has ended.
    /// With [`Error::Unavailable`] the hub does not know yet, and gets the end when it is
    /// back and the task still runs.
    pub async fn end(mut self, state: EndState, data: &impl Serialize) -> Result<(), Error> {
        let line = request::end(&self.id, state, data)?;
        self.has_ended = true;
        if let Some(error) = self.latch.closed_by.get() {
            return Err(error.clone());
        }
        let end = self.client.send_request(RequestKind::End(self.id.clone()), line, None).await?;
        let answer = end.answer().await;
        match (answer, self.latch.closed_by.get()) {
            // The refusal of the start is the cause; that the hub does not know it only follows.
            (Err(_), Some(error)) => Err(error.clone()),
            (answer, _) => answer.map(drop),
        }
    }
}

/// An operation whose start is not answered yet.
pub(super) struct StartingOperation {
    pending: PendingAnswer,
    /// Taken once it is known whether it runs.
    operation: Option<OperationHandle>,
}

impl StartingOperation {
    pub(super) fn new(pending: PendingAnswer, operation: OperationHandle) -> Self {
        Self { pending, operation: Some(operation) }
    }

    pub(super) async fn started(mut self) -> Result<OperationHandle, Error> {
        let answer = self.pending.answer().await;
        let Some(mut operation) = self.operation.take() else {
            debug_assert!(false, "an operation is taken once");
            return Err(self.pending.end_reason());
        };
        operation.has_ended = answer.is_err();
        answer.map(|_| operation)
    }
}

impl Drop for StartingOperation {
    /// The caller has not waited for the answer. If it had come all the same, the
    /// operation runs and is dropped with this; if not, the task finds that the caller
    /// does not wait, and ends it.
    fn drop(&mut self) {
        if let Some(operation) = &mut self.operation {
            operation.has_ended = !self.pending.close();
        }
    }
}

impl Drop for OperationHandle {
    fn drop(&mut self) {
        if self.has_ended || self.latch.closed_by.get().is_some() {
            return;
        }
        if let Ok(line) = request::end(&self.id, EndState::Failed, &()) {
            self.client.send_unconditionally(RequestKind::End(self.id.clone()), line);
        }
    }
}
