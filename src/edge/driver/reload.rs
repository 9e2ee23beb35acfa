//! Reloads that connections have requested and that are still to be answered.

use async_channel::Receiver;

use super::trigger::Trigger;
use crate::protocol::{ConnectionId, RequestId};

/// A request to reload.
pub(super) struct ReloadRequest {
    pub conn: ConnectionId,
    pub id: Option<RequestId>,
}

/// All of them; one reload answers all that were requested by then.
#[derive(Default)]
pub(super) struct Reloads {
    requested: Vec<ReloadRequest>,
    trigger: Trigger,
}

impl Reloads {
    /// Whether a connection waits for an answer.
    pub(super) fn is_awaited_by(&self, conn: ConnectionId) -> bool {
        self.requested.iter().any(|request| request.conn == conn)
    }

    /// A connection requests one. It is answered when that is done: files are read
    /// between two turns, when nothing else is under way.
    pub(super) fn request(&mut self, conn: ConnectionId, id: Option<RequestId>) {
        self.requested.push(ReloadRequest { conn, id });
        self.trigger.fire();
    }

    /// What a reload waits for.
    pub(super) fn trigger(&self) -> Receiver<()> {
        self.trigger.receiver()
    }

    /// Those that are to be answered now.
    pub(super) fn take(&mut self) -> Vec<ReloadRequest> {
        std::mem::take(&mut self.requested)
    }
}
