//! Links on their way out: what is known of each, as words and bytes.
//!
//! Knows how a link is spelled. Does not change one: if nobody takes over, all
//! goes on as it was.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use super::format;
use super::memfd::{MemfdWriter, Span};
use crate::edge::driver::{Driver, Latches};
use crate::edge::net::connection;
use crate::edge::net::connection::Link;
use crate::edge::net::send_queue::{DeliveryTag, FramePosition, QueuedFrame, SendQueue};
use crate::protocol::Moment;

impl Driver {
    /// All that is known of links, with the hub and the store; `doors` and `guests` go with it.
    pub(super) fn export(
        &mut self,
        draft: &mut MemfdWriter,
        doors: Vec<format::Door>,
        guests: Vec<Moment>,
    ) -> io::Result<format::Table> {
        self.look_at_the_clock();
        self.links.gather_all();
        let mut luggage = Exporter::new(draft);
        let mut links = Vec::with_capacity(self.links.len());
        for (_, link) in &mut self.links.table {
            links.push(luggage.link(link, &self.latches)?);
        }
        let Exporter { packets, marks, .. } = luggage;
        let hub = draft.stream(|to| self.hub.write(to))?;
        let store = draft.stream(|to| self.store.write(self.now, to))?;
        Ok(format::Table {
            since: self.now.moment,
            doors,
            links,
            guests,
            lingering: self.lingering.iter().copied().collect(),
            last_ticket: self.last_ticket,
            packets,
            marks,
            hub,
            store,
        })
    }
}

/// What was put beside the table, so that what is shared stays so.
struct Exporter<'a> {
    draft: &'a mut MemfdWriter,
    packets: Vec<Span>,
    packet_at: HashMap<*const u8, u32>,
    marks: Vec<FramePosition>,
    mark_at: HashMap<*const DeliveryTag, u32>,
}

impl<'a> Exporter<'a> {
    fn new(draft: &'a mut MemfdWriter) -> Self {
        let (packet_at, mark_at) = (HashMap::new(), HashMap::new());
        Self { draft, packets: Vec::new(), packet_at, marks: Vec::new(), mark_at }
    }

    fn piece(&mut self, piece: &QueuedFrame) -> io::Result<format::Piece> {
        let place = piece.bytes.place();
        let packet = match self.packet_at.get(&place) {
            Some(at) => *at,
            None => {
                let at = self.packets.len() as u32;
                self.packets.push(self.draft.put(&piece.bytes)?);
                self.packet_at.insert(place, at);
                at
            }
        };
        let mark = piece.mark.as_ref().and_then(|mark| self.mark(mark));
        Ok(format::Piece(packet, piece.from, piece.to, mark))
    }

    /// What confirms a start is told of its latch.
    fn mark(&mut self, mark: &Rc<DeliveryTag>) -> Option<u32> {
        let DeliveryTag::Kept(place) = &**mark else { return None };
        let marks = &mut self.marks;
        Some(*self.mark_at.entry(Rc::as_ptr(mark)).or_insert_with(|| {
            marks.push(place.clone());
            marks.len() as u32 - 1
        }))
    }

    fn outbox(&mut self, outbox: &SendQueue) -> io::Result<format::Outbox> {
        let pieces = outbox.pieces.iter().map(|piece| self.piece(piece)).collect::<io::Result<_>>()?;
        Ok(format::Outbox { pieces, taken: outbox.taken, told: outbox.reported })
    }

    fn latch(
        &mut self,
        latch: &mut connection::Latch,
        outbox: Option<&SendQueue>,
        running: &Latches,
    ) -> io::Result<format::Latch> {
        let runs = !latch.pieces.is_closed();
        let pulled = latch.pieces.try_recv().ok();
        let word = pulled.as_ref().map(|piece| self.piece(piece)).transpose()?;
        if let Some(piece) = pulled {
            // It was only looked at.
            if let Some((sender, _)) = running.get(&latch.operation).filter(|_| runs) {
                let _ = sender.try_send(piece);
            } else {
                let (sender, pieces) = async_channel::bounded(1);
                let _ = sender.try_send(piece);
                latch.pieces = pieces;
            }
        }
        let start = outbox.and_then(|outbox| outbox.start_of(&latch.operation));
        Ok(format::Latch { operation: latch.operation.clone(), runs, pulled: word, start })
    }

    fn link(&mut self, link: &mut Link, running: &Latches) -> io::Result<format::Link> {
        let side = match &mut link.side {
            connection::Side::Client { held } => format::Side::Client(match held {
                None => None,
                Some(held) => {
                    let (fragments, payload, tail) = held.parts();
                    let (fragments, tail) = (self.draft.put(fragments)?, self.draft.put(tail)?);
                    Some(format::Frames { fragments, payload, tail })
                }
            }),
            connection::Side::Worker(worker) => format::Side::Worker {
                admin: worker.admin,
                line: match &worker.held {
                    None => None,
                    Some(held) => {
                        let (tail, skips) = held.parts();
                        Some(format::Line { tail: self.draft.put(tail)?, skips })
                    }
                },
                latches: {
                    let outbox = link.outbox.as_deref();
                    let latches = worker.latches.iter_mut();
                    let latches = latches.map(|latch| self.latch(latch, outbox, running));
                    latches.collect::<io::Result<_>>()?
                },
            },
        };
        let outbox = link.outbox.as_ref().map(|outbox| self.outbox(outbox)).transpose()?;
        let Link { leaving, deaf, ended, parted, took, .. } = *link;
        // It is told at most once a second, so who owes nothing need not know.
        let took = if outbox.is_some() { took } else { Moment::default() };
        let state = format::State { leaving, deaf, ended, parted, took };
        Ok(format::Link { id: link.id, side, named: link.wire.named(), outbox, state })
    }
}
