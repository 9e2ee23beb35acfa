//! How links end: with a goodbye, or without one.
//!
//! Knows in which order a link stops to hear, is written to for the last time, and
//! gives its slot back. Does not know why it ends.

use super::connection::{End, Side};
use super::connection_table::Links;
use super::send_queue::QueuedFrame;
use crate::hub::{Input, SendQueueState};
use crate::protocol::ConnectionId;

impl Links {
    /// Says the last pieces and hears no more; once they are out, the link's
    /// sending side is shut.
    pub fn leave(&mut self, id: ConnectionId, last: impl IntoIterator<Item = QueuedFrame>, drop_queue: bool) {
        self.gather(id.slot);
        let Some(link) = self.get(id) else { return };
        if let (true, Some(outbox)) = (drop_queue, &mut link.outbox) {
            outbox.clear_unsent();
        }
        for piece in last {
            // It leaves at the end of the turn, whatever else waits.
            let _ = self.push(id.slot, piece);
        }
        // Not before: nothing follows a goodbye, and a flush in between would shut
        // the link too early.
        if let Some(link) = self.get(id) {
            link.leaving = true;
            link.forget_input();
        }
        self.touch(id.slot);
    }

    /// Notes how a link ends, for whoever writes that down.
    pub(in crate::edge) fn note_end(&mut self, id: ConnectionId, end: End) {
        if let Some(link) = self.get(id) {
            link.end = end;
        }
    }

    /// The peer says no more. Whether it may still read; then the link stays until it has
    /// all that it is owed.
    pub fn end(&mut self, id: ConnectionId) -> bool {
        let Some(link) = self.get(id) else { return false };
        // One that has ended before is told of again when nobody reads there either.
        if link.leaving || link.deaf || link.broken || std::mem::replace(&mut link.ended, true) {
            return false;
        }
        self.wait_for(id.slot);
        true
    }

    /// The peer has ended and is owed no more than what is queued: the link is lost once
    /// that has left.
    pub fn finish(&mut self, id: ConnectionId) {
        let Some(link) = self.get(id) else { return };
        link.finished = true;
        self.touch(id.slot);
    }

    /// Writing failed. A worker may have said things before it left.
    pub(in crate::edge) fn broke(&mut self, id: ConnectionId) {
        // Only a link of this table breaks, so its slot is its own.
        let Some(link) = self.table.get_mut(id.slot as usize) else { return };
        if link.ended || !matches!(link.side, Side::Worker(_)) {
            return self.lose(id);
        }
        link.deaf = true;
        link.outbox = None;
        // It is read on, and counts for one to whom nothing can be given.
        self.wait_for(id.slot);
        self.inputs.push_back(Input::SendQueue { conn: id, state: SendQueueState::Full });
    }

    /// The link is down as far as the hub is concerned; it is told once.
    pub fn part(&mut self, id: ConnectionId) {
        let Some(link) = self.get(id) else { return };
        if !std::mem::replace(&mut link.parted, true) {
            self.inputs.push_back(Input::Closed { conn: id });
        }
    }

    /// The socket is dead. Once the hub knows, the slot is free.
    pub fn lose(&mut self, id: ConnectionId) {
        let Some(link) = self.get(id) else { return };
        if std::mem::replace(&mut link.broken, true) {
            return;
        }
        link.outbox = None;
        if link.parted {
            self.table.remove(id.slot as usize);
        } else {
            self.part(id);
        }
    }

    /// The hub has been told that a link is down: frees the slot, unless the
    /// peer has still to read what was said last.
    pub fn settle(&mut self, id: ConnectionId) {
        if self.get(id).is_some_and(|link| link.broken) {
            self.table.remove(id.slot as usize);
        }
    }
}
