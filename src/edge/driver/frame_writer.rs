//! Writer of frames: encodes once per effect and queues for each recipient.
//!
//! Nothing is written before the numbers in it are recorded.

use std::rc::Rc;

use super::seq_recorder::SeqRecorder;
use crate::edge::net::connection_table::{ConnectionTable, Slot, Unsent, Urgency};
use crate::edge::net::encoded_frame::{EncodedFrame, FrameEncoder};
use crate::edge::net::latch::Latches;
use crate::edge::net::send_queue::{DeliveryTag, FramePosition, QueuedFrame};
use crate::hub::{Hub, LogKey};
use crate::protocol::worker::InterruptLine;
use crate::protocol::{
    Close, ConnectionId, Delivery, Frame, Message, OperationId, RequestId, Return, worker,
};

/// The parts of the driver that writing takes, for the length of one effect.
pub(super) struct FrameWriter<'a> {
    hub: &'a Hub,
    connections: &'a mut ConnectionTable,
    latches: &'a mut Latches,
    encoder: &'a mut FrameEncoder,
    seqs: &'a mut SeqRecorder,
}

/// What becomes of a connection that is to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Closed {
    /// Its peer has still to read that.
    Lingers,
    /// At once.
    Cut,
}

impl<'a> FrameWriter<'a> {
    pub(super) fn new(
        hub: &'a Hub,
        connections: &'a mut ConnectionTable,
        latches: &'a mut Latches,
        encoder: &'a mut FrameEncoder,
        seqs: &'a mut SeqRecorder,
    ) -> Self {
        Self { hub, connections, latches, encoder, seqs }
    }

    /// Queues a frame for a connection, which is written to at once where its queue is full.
    pub(super) fn push(&mut self, slot: Slot, frame: QueuedFrame) {
        if self.connections.push(slot, frame) == Urgency::Now {
            self.flush(slot);
        }
    }

    /// Writes what waits for a connection.
    pub(super) fn flush(&mut self, slot: Slot) {
        let permit = self.seqs.permit(self.hub);
        self.connections.flush(slot, permit);
    }

    /// Writes once to every connection that was given something.
    pub(super) fn end_turn(&mut self) {
        let permit = self.seqs.permit(self.hub);
        self.connections.end_turn(permit);
    }

    /// Queues a message for all recipients. With a log, the hub is notified when each kernel has
    /// taken it.
    pub(super) fn deliver(&mut self, message: &Message, recipients: &[u32], log: Option<LogKey>) {
        let encoded = self.encoder.encode(|scratch| message.encode(Delivery::Live, scratch));
        let tag = log.map(|log| tag(log, message, Delivery::Live));
        self.push_all(&encoded, recipients, tag.as_ref());
    }

    /// Queues a kept message for a connection that catches up.
    pub(super) fn replay(
        &mut self,
        message: &Message,
        encoded: &EncodedFrame,
        conn: ConnectionId,
        log: LogKey,
    ) {
        let slot = Slot::from(conn);
        let frame = self.queued(encoded, slot).tagged(tag(log, message, Delivery::Replayed));
        self.push(slot, frame);
    }

    /// Queues a frame for all recipients.
    pub(super) fn broadcast(&mut self, frame: &Frame<'_>, recipients: &[u32]) {
        let encoded = self.encoder.encode(|scratch| frame.encode(None, scratch));
        self.push_all(&encoded, recipients, None);
    }

    /// Queues the reply to a request; none, if the connection is gone.
    pub(super) fn reply(&mut self, conn: ConnectionId, id: Option<&RequestId>, frame: &Frame<'_>) {
        let is_worker = self.connections.get(conn).is_some_and(|connection| connection.is_worker());
        let mut has_reply = true;
        let encoded = self.encoder.encode(|scratch| {
            if is_worker {
                has_reply = worker::encode(frame, id, scratch);
            } else {
                frame.encode(id, scratch);
            }
        });
        if has_reply && self.connections.get(conn).is_some() {
            let frame = self.queued(&encoded, Slot::from(conn));
            self.push(Slot::from(conn), frame);
        }
    }

    /// Makes the latch between an operation and its worker, and confirms the request that has
    /// started it, where that has an id.
    pub(super) fn open_latch(&mut self, operation: OperationId, conn: ConnectionId, id: Option<&RequestId>) {
        let latches = &mut *self.latches;
        if !self.connections.add_latch(conn, || latches.open(operation.clone(), conn)) || id.is_none() {
            return;
        }
        let encoded = self.encoder.encode(|scratch| {
            worker::encode(&Frame::Done {}, id, scratch);
        });
        let frame = QueuedFrame::for_worker(&encoded).tagged(Rc::new(DeliveryTag::Starts(operation)));
        self.push(Slot::from(conn), frame);
    }

    /// Pulls the latch of an operation.
    pub(super) fn interrupt(&mut self, line: &InterruptLine) {
        let encoded = self.encoder.encode(|scratch| line.encode(scratch));
        if let Some(owner) = self.latches.pull(&line.operation_id, QueuedFrame::for_worker(&encoded)) {
            self.connections.mark_dirty(Slot::from(owner));
        }
    }

    /// Closes a connection behind what is queued.
    pub(super) fn close(&mut self, conn: ConnectionId, close: Close, after_ms: u64) -> Closed {
        // Its memory is needed now, and a close frame would have to wait behind the
        // rest of what it does not take.
        if close == Close::Overloaded && self.connections.has_begun(conn) {
            self.connections.fail(conn);
            return Closed::Cut;
        }
        let bye = close.says_bye().then(|| {
            let reconnect = close.returning() != Return::No;
            let frame = Frame::Bye { code: close.code(), reason: close.reason(), reconnect, after_ms };
            self.encoder.encode(|scratch| frame.encode(None, scratch))
        });
        let is_worker = self.connections.get(conn).is_some_and(|connection| connection.is_worker());
        let last: Vec<QueuedFrame> = if is_worker {
            bye.iter().map(QueuedFrame::for_worker).collect()
        } else {
            bye.iter().chain([&EncodedFrame::close(close)]).map(QueuedFrame::for_client).collect()
        };
        // What such a peer did not take is in the way, its own or others'.
        let is_slow = matches!(close, Close::TooSlow | Close::Overloaded);
        self.connections.close(conn, last, if is_slow { Unsent::Drop } else { Unsent::Keep });
        Closed::Lingers
    }

    fn push_all(&mut self, encoded: &EncodedFrame, recipients: &[u32], tag: Option<&Rc<DeliveryTag>>) {
        for slot in recipients.iter().copied().map(Slot) {
            let mut frame = self.queued(encoded, slot);
            if let Some(tag) = tag {
                frame = frame.tagged(tag.clone());
            }
            self.push(slot, frame);
        }
    }

    fn queued(&self, encoded: &EncodedFrame, slot: Slot) -> QueuedFrame {
        if self.connections.is_worker(slot) {
            QueuedFrame::for_worker(encoded)
        } else {
            QueuedFrame::for_client(encoded)
        }
    }
}

/// Has the hub notified when the kernel has taken a message whole.
fn tag(log: LogKey, message: &Message, how: Delivery) -> Rc<DeliveryTag> {
    Rc::new(DeliveryTag::Kept(FramePosition { log, seq: message.seq.unwrap_or_default(), how }))
}
