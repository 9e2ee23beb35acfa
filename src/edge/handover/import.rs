//! Import of connections: their states, made again of the table and the bytes beside it.

use std::io;
use std::rc::Rc;

use super::format::{
    ConnectionForm, FrameForm, LatchForm, PartialLineForm, PartialMessageForm, QueueForm, SideForm,
    StateForm, Table,
};
use super::memfd::Sealed;
use crate::edge::net::connection::ConnectionState;
use crate::edge::net::encoded_frame::{FrameBytes, SharedBytes};
use crate::edge::net::latch::LatchState;
use crate::edge::net::line_decoder::PartialLineState;
use crate::edge::net::peer_credentials::WorkerRank;
use crate::edge::net::peer_side::SideState;
use crate::edge::net::send_queue::{DeliveryTag, QueueState, QueuedFrame};
use crate::edge::net::ws_decoder::PartialMessageState;

/// Takes the connections out of the table, in its order.
///
/// # Errors
/// What they refer to is not there: then none of them can be trusted.
pub(super) fn connections(sealed: &Sealed, table: &mut Table) -> io::Result<Vec<ConnectionState>> {
    let frames = table.frames.iter().map(|span| Ok(SharedBytes::new(&sealed.get(*span)?)));
    let frames = frames.collect::<io::Result<_>>()?;
    let positions = std::mem::take(&mut table.positions).into_iter();
    let tags = positions.map(|position| Rc::new(DeliveryTag::Kept(position))).collect();
    let importer = Importer { sealed, frames, tags };
    std::mem::take(&mut table.connections).into_iter().map(|form| importer.connection(form)).collect()
}

struct Importer<'a> {
    sealed: &'a Sealed,
    frames: Vec<SharedBytes>,
    tags: Vec<Rc<DeliveryTag>>,
}

impl Importer<'_> {
    fn connection(&self, form: ConnectionForm) -> io::Result<ConnectionState> {
        let ConnectionForm { id, side, named, queue, state } = form;
        let StateForm { is_closing, write_failed, read_closed, close_reported, progress_at } = state;
        Ok(ConnectionState {
            id,
            named,
            side: self.side(side)?,
            queue: queue.map(|queue| self.queue(queue)).transpose()?,
            is_closing,
            write_failed,
            read_closed,
            close_reported,
            progress_at,
        })
    }

    fn side(&self, form: SideForm) -> io::Result<SideState> {
        Ok(match form {
            SideForm::Client(partial) => {
                SideState::Client(partial.map(|partial| self.partial_message(&partial)).transpose()?)
            }
            SideForm::Worker { admin, line, latches } => SideState::Worker {
                rank: if admin { WorkerRank::Administrator } else { WorkerRank::Worker },
                line: line.map(|line| self.partial_line(&line)).transpose()?,
                latches: latches.into_iter().map(|latch| self.latch(latch)).collect::<io::Result<_>>()?,
            },
        })
    }

    fn partial_message(&self, form: &PartialMessageForm) -> io::Result<PartialMessageState> {
        let (fragments, tail) = (self.sealed.get(form.fragments)?, self.sealed.get(form.tail)?);
        Ok(PartialMessageState { fragments, fragments_payload: form.payload, tail })
    }

    fn partial_line(&self, form: &PartialLineForm) -> io::Result<PartialLineState> {
        Ok(PartialLineState { tail: self.sealed.get(form.tail)?, skips: form.skips })
    }

    fn latch(&self, form: LatchForm) -> io::Result<LatchState> {
        let LatchForm { operation, is_running, pulled, start } = form;
        let pulled = pulled.map(|frame| self.frame(frame)).transpose()?;
        Ok(LatchState { operation, is_running, pulled, start })
    }

    fn queue(&self, form: QueueForm) -> io::Result<QueueState> {
        let QueueForm { frames, taken, reported } = form;
        let frames = frames.into_iter().map(|frame| self.frame(frame)).collect::<io::Result<_>>()?;
        Ok(QueueState { frames, taken, reported })
    }

    fn frame(&self, form: FrameForm) -> io::Result<QueuedFrame> {
        let FrameForm { frame, from, to, position } = form;
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "it names what is not there");
        let shared = self.frames.get(frame as usize).ok_or_else(missing)?.clone();
        let tag = position.map(|position| self.tags.get(position as usize).cloned().ok_or_else(missing));
        Ok(QueuedFrame::new(FrameBytes::new(shared, from, to), tag.transpose()?))
    }
}
