//! Latch that wakes one task: it runs once for all that was ordered by then.

use async_channel::{Receiver, Sender};

/// Both ends of it.
pub(super) struct Trigger {
    sender: Sender<()>,
    receiver: Receiver<()>,
}

impl Default for Trigger {
    fn default() -> Self {
        let (sender, receiver) = async_channel::bounded(1);
        Self { sender, receiver }
    }
}

impl Trigger {
    /// Wakes the task.
    pub(super) fn fire(&self) {
        // Full: it was woken already.
        let _ = self.sender.try_send(());
    }

    /// What the task waits for.
    pub(super) fn receiver(&self) -> Receiver<()> {
        self.receiver.clone()
    }
}
