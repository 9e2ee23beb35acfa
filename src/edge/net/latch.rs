//! Latches: at most one interrupt per running operation, ahead of its worker's send queue.
//!
//! A latch is a queue of one place between the driver and the connection of the worker. Full
//! means that an interrupt is on its way already, closed that the operation is over: either
//! way the requester has what was asked for.

use std::collections::HashMap;

use async_channel::{Receiver, Sender};

use super::send_queue::QueuedFrame;
use crate::protocol::{ConnectionId, OperationId};

/// The driver's ends of all latches, one per running operation.
#[derive(Default)]
pub struct Latches(HashMap<OperationId, OwnedLatch>);

struct OwnedLatch {
    sender: Sender<QueuedFrame>,
    owner: ConnectionId,
}

/// The worker's end of a latch.
pub struct Latch {
    operation: OperationId,
    frames: Receiver<QueuedFrame>,
}

/// A latch in a hand-over.
#[derive(Debug)]
pub struct LatchState {
    pub operation: OperationId,
    /// The operation goes on.
    pub is_running: bool,
    /// The interrupt that has not left yet.
    pub pulled: Option<QueuedFrame>,
    /// The place in the send queue of the frame that confirms the start of the operation, if
    /// that still waits.
    pub start: Option<usize>,
}

impl Latches {
    /// Makes the latch of an operation that has started.
    pub fn open(&mut self, operation: OperationId, owner: ConnectionId) -> Latch {
        let (sender, frames) = async_channel::bounded(1);
        self.0.insert(operation.clone(), OwnedLatch { sender, owner });
        Latch { operation, frames }
    }

    /// Puts an interrupt into the latch of an operation. Returns the connection that is to be
    /// written to.
    pub fn pull(&self, operation: &OperationId, interrupt: QueuedFrame) -> Option<ConnectionId> {
        let OwnedLatch { sender, owner } = self.0.get(operation)?;
        // Full or closed: see above.
        let _ = sender.try_send(interrupt);
        Some(*owner)
    }

    /// The operation is over.
    pub fn close(&mut self, operation: &OperationId) {
        self.0.remove(operation);
    }

    /// Makes a latch again that another process has handed over.
    pub(super) fn import(&mut self, state: LatchState, owner: ConnectionId) -> Latch {
        let LatchState { operation, is_running, pulled, start: _ } = state;
        let (sender, frames) = async_channel::bounded(1);
        if let Some(interrupt) = pulled {
            // It has room for one.
            let _ = sender.try_send(interrupt);
        }
        if is_running {
            self.0.insert(operation.clone(), OwnedLatch { sender, owner });
        }
        Latch { operation, frames }
    }
}

impl Latch {
    /// The operation that it interrupts.
    pub fn operation(&self) -> &OperationId {
        &self.operation
    }

    /// Takes the interrupt out, if there is one.
    pub(super) fn take(&self) -> Option<QueuedFrame> {
        self.frames.try_recv().ok()
    }

    /// Whether the operation has ended, and what was in the latch has left.
    pub fn is_over(&self) -> bool {
        self.frames.is_closed() && self.frames.is_empty()
    }

    /// The latch as it is handed over; it stays as it was. `start` is the place of the frame
    /// that confirms the start of the operation.
    pub(super) fn export(&mut self, latches: &Latches, start: Option<usize>) -> LatchState {
        let is_running = !self.frames.is_closed();
        let pulled = self.take();
        if let Some(interrupt) = pulled.clone() {
            // It was only looked at, and goes back.
            if let Some(running) = latches.0.get(&self.operation).filter(|_| is_running) {
                let _ = running.sender.try_send(interrupt);
            } else {
                let (sender, frames) = async_channel::bounded(1);
                let _ = sender.try_send(interrupt);
                self.frames = frames;
            }
        }
        LatchState { operation: self.operation.clone(), is_running, pulled, start }
    }
}
