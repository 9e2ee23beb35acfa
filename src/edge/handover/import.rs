//! Links on their way in: made again of what another process has written.
//!
//! Knows how a link comes to be what it was. Does not know where it was.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::format;
use super::memfd::Sealed;
use crate::edge::driver::Latches;
use crate::edge::net::connection::{End, Latch, Link, PartialFrame, Side, Worker};
use crate::edge::net::encoded_frame::SharedBytes;
use crate::edge::net::epoll::Interest;
use crate::edge::net::send_queue::{DeliveryTag, QueuedFrame, SendQueue};
use crate::edge::net::socket::PeerSocket;
use crate::edge::net::{line_decoder, ws_decoder};
use crate::protocol::ConnectionId;

/// Links as they were, and the hub's ends of their latches.
#[derive(Default)]
pub(in crate::edge) struct ImportedLinks {
    pub(in crate::edge) links: Vec<Link>,
    pub(in crate::edge) latches: Latches,
}

/// Makes links of words and sockets, which are in the same order.
///
/// # Errors
/// When what they point to is not there: then none of them can be trusted. The sockets
/// come back.
pub(super) fn links(
    sealed: &Sealed,
    table: &mut format::Table,
    sockets: Vec<OwnedFd>,
) -> Result<ImportedLinks, (io::Error, Vec<OwnedFd>)> {
    let mut whole = ImportedLinks::default();
    let packets = table.packets.iter().map(|span| Ok(SharedBytes::new(&sealed.get(*span)?)));
    let packets = match packets.collect::<io::Result<_>>() {
        Ok(packets) => packets,
        Err(error) => return Err((error, sockets)),
    };
    let marks =
        std::mem::take(&mut table.marks).into_iter().map(|place| Rc::new(DeliveryTag::Kept(place))).collect();
    let luggage = Importer { sealed, packets, marks };
    let mut sockets = sockets.into_iter();
    for word in std::mem::take(&mut table.links) {
        // Counted before: there are as many of one as of the other.
        let Some(socket) = sockets.next() else { break };
        match luggage.link(word, socket, &mut whole.latches) {
            Ok(link) => whole.links.push(link),
            Err((error, socket)) => {
                let made = whole.links.into_iter().map(|link| link.wire.into());
                return Err((error, made.chain([socket]).chain(sockets).collect()));
            }
        }
    }
    Ok(whole)
}

struct Importer<'a> {
    sealed: &'a Sealed,
    packets: Vec<SharedBytes>,
    marks: Vec<Rc<DeliveryTag>>,
}

impl Importer<'_> {
    fn piece(&self, word: format::Piece) -> io::Result<QueuedFrame> {
        let format::Piece(packet, from, to, mark) = word;
        let nothing_there = || io::Error::new(io::ErrorKind::InvalidData, "it names what is not there");
        let bytes = self.packets.get(packet as usize).ok_or_else(nothing_there)?.clone();
        let mark = mark.map(|mark| self.marks.get(mark as usize).cloned().ok_or_else(nothing_there));
        Ok(QueuedFrame { bytes, from, to, mark: mark.transpose()? })
    }

    fn outbox(&self, word: format::Outbox) -> io::Result<Box<SendQueue>> {
        let mut outbox = Box::<SendQueue>::default();
        for piece in word.pieces {
            outbox.push(self.piece(piece)?);
        }
        outbox.taken = word.taken;
        outbox.reported = word.told;
        // Nothing leaves before the kernel says that it takes something: so what
        // comes now stays behind it.
        outbox.blocked = true;
        Ok(outbox)
    }

    fn latch(&self, word: format::Latch, owner: ConnectionId, running: &mut Latches) -> io::Result<Latch> {
        let (sender, pieces) = async_channel::bounded(1);
        if let Some(piece) = word.pulled {
            // It has room for one.
            let _ = sender.try_send(self.piece(piece)?);
        }
        if word.runs {
            running.insert(word.operation.clone(), (sender, owner));
        }
        Ok(Latch { operation: word.operation, pieces })
    }

    fn side(&self, word: format::Side, owner: ConnectionId, running: &mut Latches) -> io::Result<Side> {
        Ok(match word {
            format::Side::Client(None) => Side::Client { held: None },
            format::Side::Client(Some(format::Frames { fragments, payload, tail })) => {
                let (fragments, tail) = (self.sealed.get(fragments)?, self.sealed.get(tail)?);
                Side::Client {
                    held: Some(Box::new(ws_decoder::PartialMessage::of_parts(fragments, payload, tail))),
                }
            }
            format::Side::Worker { admin, line, latches } => {
                let held = match line {
                    None => None,
                    Some(line) => Some(Box::new(line_decoder::PartialLine::of_parts(
                        self.sealed.get(line.tail)?,
                        line.skips,
                    ))),
                };
                let latches = latches.into_iter().map(|latch| self.latch(latch, owner, running));
                let latches = latches.collect::<io::Result<_>>()?;
                Side::Worker(Box::new(Worker { held, admin, latches, ..Worker::default() }))
            }
        })
    }

    fn link(
        &self,
        word: format::Link,
        socket: OwnedFd,
        running: &mut Latches,
    ) -> Result<Link, (io::Error, OwnedFd)> {
        let format::State { leaving, deaf, ended, parted, took } = word.state;
        let mut outbox = word.outbox.map(|outbox| self.outbox(outbox)).transpose();
        if let (Ok(Some(outbox)), format::Side::Worker { latches, .. }) = (&mut outbox, &word.side) {
            for latch in latches {
                latch.start.into_iter().for_each(|at| outbox.mark_start(at, latch.operation.clone()));
            }
        }
        let parts = outbox.and_then(|outbox| Ok((outbox, self.side(word.side, word.id, running)?)));
        let (outbox, side) = match parts {
            Ok(parts) => parts,
            Err(error) => return Err((error, socket)),
        };
        Ok(Link {
            id: word.id,
            wire: PeerSocket::again(socket, word.named),
            side,
            interest: Interest::default(),
            outbox,
            dirty_at: None,
            leaving,
            broken: false,
            deaf,
            ended,
            finished: false,
            paused: false,
            resumed: false,
            muted: false,
            parted,
            end: End::default(),
            took,
            rest: PartialFrame::default(),
        })
    }
}
