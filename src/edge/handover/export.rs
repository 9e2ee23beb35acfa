//! Export of connections: their states as entries of the table and bytes beside it.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use super::format::{
    ConnectionForm, FrameForm, LatchForm, PartialLineForm, PartialMessageForm, QueueForm, SideForm,
    StateForm, Table,
};
use super::memfd::{MemfdWriter, Span};
use crate::edge::driver::Driver;
use crate::edge::driver::state::DriverExport;
use crate::edge::net::connection::ConnectionState;
use crate::edge::net::latch::LatchState;
use crate::edge::net::line_decoder::PartialLineState;
use crate::edge::net::listeners::ListenerName;
use crate::edge::net::peer_credentials::WorkerRank;
use crate::edge::net::peer_side::SideState;
use crate::edge::net::send_queue::{DeliveryTag, FramePosition, QueueState, QueuedFrame};
use crate::edge::net::ws_decoder::PartialMessageState;
use crate::protocol::Moment;

/// The driver as a table; `listeners` and `pending` go with it.
pub(super) fn table(
    driver: &mut Driver,
    writer: &mut MemfdWriter,
    listeners: Vec<ListenerName>,
    pending: Vec<Moment>,
) -> io::Result<Table> {
    let DriverExport { now, connections, closing, last_http_request, hub, store } = driver.export();
    let mut exporter = Exporter::new(writer);
    let connections = connections.map(|state| exporter.connection(state)).collect::<io::Result<_>>()?;
    let Exporter { frames, positions, .. } = exporter;
    let hub = writer.stream(|to| hub.write(to))?;
    let store = writer.stream(|to| store.write(now, to))?;
    Ok(Table {
        since: now.moment,
        listeners,
        connections,
        pending,
        closing,
        last_http_request,
        frames,
        positions,
        hub,
        store,
    })
}

/// What was put beside the table, so that what is shared stays so.
struct Exporter<'a> {
    writer: &'a mut MemfdWriter,
    frames: Vec<Span>,
    frame_at: HashMap<*const u8, u32>,
    positions: Vec<FramePosition>,
    position_at: HashMap<*const DeliveryTag, u32>,
}

impl<'a> Exporter<'a> {
    fn new(writer: &'a mut MemfdWriter) -> Self {
        let (frame_at, position_at) = (HashMap::new(), HashMap::new());
        Self { writer, frames: Vec::new(), frame_at, positions: Vec::new(), position_at }
    }

    fn connection(&mut self, state: ConnectionState) -> io::Result<ConnectionForm> {
        let ConnectionState { id, named, side, queue, .. } = state;
        let side = match side {
            SideState::Client(partial) => {
                SideForm::Client(partial.map(|partial| self.partial_message(&partial)).transpose()?)
            }
            SideState::Worker { rank, line, latches } => SideForm::Worker {
                admin: rank == WorkerRank::Administrator,
                line: line.map(|line| self.partial_line(&line)).transpose()?,
                latches: latches.into_iter().map(|latch| self.latch(latch)).collect::<io::Result<_>>()?,
            },
        };
        let queue = queue.map(|queue| self.queue(&queue)).transpose()?;
        let state = StateForm {
            is_closing: state.is_closing,
            write_failed: state.write_failed,
            read_closed: state.read_closed,
            close_reported: state.close_reported,
            progress_at: state.progress_at,
        };
        Ok(ConnectionForm { id, side, named, queue, state })
    }

    fn partial_message(&mut self, partial: &PartialMessageState) -> io::Result<PartialMessageForm> {
        let (fragments, tail) = (self.writer.put(&partial.fragments)?, self.writer.put(&partial.tail)?);
        Ok(PartialMessageForm { fragments, payload: partial.fragments_payload, tail })
    }

    fn partial_line(&mut self, partial: &PartialLineState) -> io::Result<PartialLineForm> {
        Ok(PartialLineForm { tail: self.writer.put(&partial.tail)?, skips: partial.skips })
    }

    fn latch(&mut self, latch: LatchState) -> io::Result<LatchForm> {
        let LatchState { operation, is_running, pulled, start } = latch;
        let pulled = pulled.map(|interrupt| self.frame(&interrupt)).transpose()?;
        Ok(LatchForm { operation, is_running, pulled, start })
    }

    fn queue(&mut self, queue: &QueueState) -> io::Result<QueueForm> {
        let frames = queue.frames.iter().map(|frame| self.frame(frame)).collect::<io::Result<_>>()?;
        Ok(QueueForm { frames, taken: queue.taken, reported: queue.reported })
    }

    fn frame(&mut self, frame: &QueuedFrame) -> io::Result<FrameForm> {
        let bytes = frame.bytes();
        let address = bytes.shared().address();
        let at = match self.frame_at.get(&address) {
            Some(at) => *at,
            None => {
                let at = self.frames.len() as u32;
                self.frames.push(self.writer.put(bytes.shared())?);
                self.frame_at.insert(address, at);
                at
            }
        };
        let position = frame.tag().and_then(|tag| self.position(tag));
        Ok(FrameForm { frame: at, from: bytes.from(), to: bytes.to(), position })
    }

    /// The frame that confirms a start is named by its latch.
    fn position(&mut self, tag: &Rc<DeliveryTag>) -> Option<u32> {
        let DeliveryTag::Kept(position) = &**tag else { return None };
        let positions = &mut self.positions;
        Some(*self.position_at.entry(Rc::as_ptr(tag)).or_insert_with(|| {
            positions.push(position.clone());
            positions.len() as u32 - 1
        }))
    }
}
