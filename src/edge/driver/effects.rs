//! Carries out what the hub orders.
//!
//! Knows how each effect is done: what is encoded once and for whom, which latch
//! is pulled, which log is kept. Does not know why.

use std::rc::Rc;

use super::inbound::{BLOCK, LINGER};
use super::{Driver, HttpAnswer};
use crate::edge::net::connection::{Latch, Side};
use crate::edge::net::encoded_frame::EncodedFrame;
use crate::edge::net::send_queue::{DeliveryTag, FramePosition, QueuedFrame};
use crate::edge::store::Fetch;
use crate::hub::{Effect, FetchPurpose, LogKey, Recipients, Requester};
use crate::protocol::frame::Outcome;
use crate::protocol::{
    Close, ConnectionId, Delivery, Frame, Message, OperationId, Refusal, RequestId, Return, worker,
};

impl Driver {
    /// Carries out one order.
    pub(in crate::edge) fn perform(&mut self, effect: Effect, recipients: &[u32]) {
        match effect {
            Effect::Deliver { message, to, log } => {
                let packet = self.seal_message(&message, Delivery::Live);
                let mark = log.map(|log| mark(log, &message, Delivery::Live));
                self.push_all(&packet, recipients, &to, mark.as_ref());
            }
            Effect::Replay { message, conn, log } => {
                let packet = self.seal_replayed(&message);
                let piece = self.piece(&packet, conn.slot).marked(mark(log, &message, Delivery::Replayed));
                self.push(conn.slot, piece);
            }
            Effect::Broadcast { frame, to } => {
                let packet = self.seal(|scratch| frame.encode(None, scratch));
                self.push_all(&packet, recipients, &to, None);
            }
            Effect::Reply { to, id, mut frame } => {
                self.complete(&mut frame);
                self.answer(to, id.as_ref(), &frame, None);
            }
            Effect::Refuse { to, id, refusal } => {
                self.answer(to, id.as_ref(), &Frame::from(&*refusal), Some(&refusal));
            }
            Effect::Latch { operation, worker, id } => self.latch(operation, worker, id.as_ref()),
            Effect::Interrupt { line } => {
                let packet = self.seal(|scratch| line.encode(scratch));
                if let Some((latch, owner)) = self.latches.get(&line.operation_id) {
                    // Full or closed, the asker has what it wanted.
                    let _ = latch.try_send(QueuedFrame::line(&packet));
                    self.links.touch(owner.slot);
                }
            }
            Effect::Unlatch { operation } => drop(self.latches.remove(&operation)),
            Effect::Ping { conn } => self.push(conn.slot, QueuedFrame::frame(&self.ping)),
            Effect::Close { conn, close, after_ms } => self.close(conn, close, after_ms),
            Effect::Append { log, message, meta: keeping } => {
                self.store.keep(self.now.moment, &log, &message, &keeping);
            }
            Effect::SyncNow { log, seq } => self.links.inputs.extend(self.store.hurry(log, seq)),
            Effect::PersistSeq { log, epoch, seq } => {
                if let Some(positions) = &mut self.positions {
                    positions.grew(&log, epoch, seq);
                }
            }
            Effect::Fetch { fetch, log, after, count, bytes } => {
                let fetch = Fetch { purpose: fetch, log, after, count, bytes };
                match fetch.purpose {
                    FetchPurpose::Replay(conn) => self.serve_page(conn, fetch),
                    // It is about to be forgotten.
                    FetchPurpose::Notice(_) => self.links.inputs.extend(self.store.fetch(fetch)),
                }
            }
            Effect::Truncate { log, from, to } => self.store.forget(self.now.moment, &log, from, to),
            Effect::HangUp { conn } => self.hang_up(conn),
            Effect::Revoke { to, id, revoked } => self.revoke(to, id, revoked),
            Effect::PauseReading { conn } => self.links.pause(conn),
            Effect::ResumeReading { conn } => self.links.resume(conn),
            effect @ (Effect::LogDisconnect { .. } | Effect::LogAnomaly(_)) => self.write_down(effect),
        }
    }

    /// Adds what the hub does not know.
    fn complete(&mut self, frame: &mut Frame<'_>) {
        match frame {
            Frame::Connections { connections, .. } => self.describe_links(connections),
            Frame::Stats(statistics) => {
                self.store.describe(self.now.moment, statistics);
                statistics.revocations = self.revocations();
            }
            _ => {}
        }
    }

    fn latch(&mut self, operation: OperationId, conn: ConnectionId, id: Option<&RequestId>) {
        let (sender, receiver) = async_channel::bounded(1);
        if let Some(Side::Worker(worker)) = self.links.get(conn).map(|link| &mut link.side) {
            worker.latches.retain(|latch| !latch.is_over());
            worker.latches.push(Latch { operation: operation.clone(), pieces: receiver });
            self.latches.insert(operation.clone(), (sender, conn));
            if id.is_some() {
                let packet = self.seal(|scratch| {
                    worker::encode(&Frame::Done {}, id, scratch);
                });
                let piece = QueuedFrame::line(&packet).marked(Rc::new(DeliveryTag::Starts(operation)));
                self.push(conn.slot, piece);
            }
        }
    }

    fn close(&mut self, conn: ConnectionId, close: Close, after_ms: u64) {
        // Its memory is needed now, and a goodbye would have to wait behind the
        // rest of what it does not take.
        if close == Close::Overloaded && self.links.has_begun(conn) {
            return self.links.lose(conn);
        }
        let bye = close.says_bye().then(|| {
            let reconnect = close.returning() != Return::No;
            let frame = Frame::Bye { code: close.code(), reason: close.reason(), reconnect, after_ms };
            self.seal(|scratch| frame.encode(None, scratch))
        });
        let is_worker = matches!(self.links.get(conn).map(|link| &link.side), Some(Side::Worker(_)));
        let pieces: Vec<QueuedFrame> = if is_worker {
            bye.iter().map(QueuedFrame::line).collect()
        } else {
            bye.iter().chain([&EncodedFrame::close(close)]).map(QueuedFrame::frame).collect()
        };
        // What such a peer did not take is in the way, its own or others'.
        let drop_queue = matches!(close, Close::TooSlow | Close::Overloaded);
        self.links.leave(conn, pieces, drop_queue);
        self.lingering.push_back((self.now.moment + LINGER, conn));
    }

    /// Nothing is asked of the hub any more; a reload or a revocation may still be under way.
    pub(in crate::edge) fn hang_up(&mut self, conn: ConnectionId) {
        if !self.reloads.owe(conn) && !self.revoking.owe(conn) {
            self.links.finish(conn);
        }
    }

    /// Answers whoever asked; nobody, if they are gone.
    pub(in crate::edge) fn answer(
        &mut self,
        to: Requester,
        id: Option<&RequestId>,
        frame: &Frame<'_>,
        refusal: Option<&Refusal>,
    ) {
        match to {
            Requester::Connection(conn) => {
                let is_worker = matches!(self.links.get(conn).map(|link| &link.side), Some(Side::Worker(_)));
                let mut is_said = true;
                let packet = self.seal(|scratch| {
                    if is_worker {
                        is_said = worker::encode(frame, id, scratch);
                    } else {
                        frame.encode(id, scratch);
                    }
                });
                if is_said && self.links.get(conn).is_some() {
                    let piece = self.piece(&packet, conn.slot);
                    self.push(conn.slot, piece);
                }
            }
            Requester::Http(ticket) => {
                if matches!(frame, Frame::InterruptResult { outcome: Outcome::Pending, .. }) {
                    return;
                }
                if let Some(waiting) = self.tickets.remove(&ticket) {
                    // The requester may have disconnected.
                    let _ = waiting.try_send(HttpAnswer::new(frame, refusal));
                }
            }
        }
    }

    pub(in crate::edge) fn seal(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> EncodedFrame {
        EncodedFrame::room(&mut self.scratch);
        write(&mut self.scratch);
        let packet = EncodedFrame::seal(&mut self.scratch);
        // One large message must not cost its size for ever.
        self.scratch.clear();
        self.scratch.shrink_to(BLOCK);
        packet
    }

    pub(in crate::edge) fn seal_message(&mut self, message: &Message, delivery: Delivery) -> EncodedFrame {
        self.seal(|scratch| message.encode(delivery, scratch))
    }

    /// Queues a piece for a link, which is written to at once where its queue is full.
    pub(in crate::edge) fn push(&mut self, slot: u32, piece: QueuedFrame) {
        if self.links.push(slot, piece) {
            let permit = self.permit_to_write();
            self.links.flush(slot, permit);
        }
    }

    fn piece(&self, packet: &EncodedFrame, slot: u32) -> QueuedFrame {
        match self.links.at(slot).map(|link| &link.side) {
            Some(Side::Worker(_)) => QueuedFrame::line(packet),
            _ => QueuedFrame::frame(packet),
        }
    }

    fn push_all(
        &mut self,
        packet: &EncodedFrame,
        recipients: &[u32],
        to: &Recipients,
        mark: Option<&Rc<DeliveryTag>>,
    ) {
        for &slot in recipients.get(to.start as usize..to.end as usize).unwrap_or_default() {
            let mut piece = self.piece(packet, slot);
            if let Some(mark) = mark {
                piece = piece.marked(mark.clone());
            }
            self.push(slot, piece);
        }
    }
}

/// Has the hub told when the kernel has taken a message whole.
fn mark(log: LogKey, message: &Message, how: Delivery) -> Rc<DeliveryTag> {
    Rc::new(DeliveryTag::Kept(FramePosition { log, seq: message.seq.unwrap_or_default(), how }))
}
