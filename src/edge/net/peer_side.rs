//! The kind of a peer, client or worker, with its undecoded input and its latches.

use super::latch::{Latch, LatchState, Latches};
use super::line_decoder::{PartialLine, PartialLineState};
use super::mem_accounting::WorkerCount;
use super::peer_credentials::WorkerRank;
use super::send_queue::{QueuePool, SendQueue};
use super::ws_decoder::{PartialMessage, PartialMessageState};

/// The kind of a peer.
pub enum PeerSide {
    Client { partial: Option<Box<PartialMessage>> },
    Worker(Box<WorkerSide>),
}

/// What only the connection of a worker has.
#[derive(Default)]
pub struct WorkerSide {
    partial: Option<Box<PartialLine>>,
    rank: WorkerRank,
    /// One per running operation. What is in a latch leaves before the queue.
    latches: Vec<Latch>,
    #[expect(dead_code, reason = "counts the worker for as long as it lives")]
    count: WorkerCount,
}

/// Undecoded input of a connection.
#[derive(Debug)]
pub enum PartialInput {
    Message(Option<Box<PartialMessage>>),
    Line(Option<Box<PartialLine>>),
}

/// The kind of a peer in a hand-over.
#[derive(Debug)]
pub enum SideState {
    Client(Option<PartialMessageState>),
    Worker { rank: WorkerRank, line: Option<PartialLineState>, latches: Vec<LatchState> },
}

impl PeerSide {
    /// A client that has sent nothing yet.
    pub fn client() -> Self {
        Self::Client { partial: None }
    }

    /// A worker that has sent nothing yet.
    pub fn worker(rank: WorkerRank) -> Self {
        Self::Worker(Box::new(WorkerSide { rank, ..WorkerSide::default() }))
    }

    pub(super) fn is_worker(&self) -> bool {
        matches!(self, Self::Worker(_))
    }

    pub(super) fn is_administrator(&self) -> bool {
        matches!(self, Self::Worker(worker) if worker.rank == WorkerRank::Administrator)
    }

    /// Bytes that its undecoded input takes.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Client { partial } => partial.as_ref().map_or(0, |partial| partial.bytes()),
            Self::Worker(worker) => worker.partial.as_ref().map_or(0, |partial| partial.bytes()),
        }
    }

    /// Whether something was read and not decoded.
    pub(super) fn has_undecoded(&self) -> bool {
        match self {
            Self::Client { partial } => partial.as_ref().is_some_and(|partial| partial.has_frames()),
            Self::Worker(worker) => worker.partial.as_ref().is_some_and(|partial| partial.has_lines()),
        }
    }

    /// Takes the undecoded input out.
    pub(super) fn take_partial(&mut self) -> PartialInput {
        match self {
            Self::Client { partial } => PartialInput::Message(partial.take()),
            Self::Worker(worker) => PartialInput::Line(worker.partial.take()),
        }
    }

    /// Puts back what is still undecoded.
    pub(super) fn put_partial(&mut self, input: PartialInput) {
        match (self, input) {
            (Self::Client { partial }, PartialInput::Message(message)) => *partial = message,
            (Self::Worker(worker), PartialInput::Line(line)) => worker.partial = line,
            _ => debug_assert!(false, "the kind of a peer does not change"),
        }
    }

    /// Moves interrupts from the latches to the front of the queue, and drops latches of ended
    /// operations.
    pub(super) fn collect_interrupts(&mut self, queue: &mut Option<Box<SendQueue>>, pool: &mut QueuePool) {
        let Self::Worker(worker) = self else { return };
        for latch in &worker.latches {
            while let Some(interrupt) = latch.take() {
                queue.get_or_insert_with(|| pool.take()).push_ahead(interrupt, latch.operation());
            }
        }
        worker.latches.retain(|latch| !latch.is_over());
    }

    /// Adds the latch of an operation that its worker has started; false if there is no worker.
    pub(super) fn add_latch(&mut self, make: impl FnOnce() -> Latch) -> bool {
        let Self::Worker(worker) = self else { return false };
        worker.latches.retain(|latch| !latch.is_over());
        worker.latches.push(make());
        true
    }

    /// Whether operations of the worker are running.
    pub(super) fn has_latches(&self) -> bool {
        matches!(self, Self::Worker(worker) if !worker.latches.is_empty())
    }

    /// As it is handed over; it stays as it was.
    pub(super) fn export(&mut self, queue: Option<&SendQueue>, latches: &Latches) -> SideState {
        match self {
            Self::Client { partial } => SideState::Client(partial.as_ref().map(|partial| partial.export())),
            Self::Worker(worker) => {
                let export = |latch: &mut Latch| {
                    let start = queue.and_then(|queue| queue.start_of(latch.operation()));
                    latch.export(latches, start)
                };
                SideState::Worker {
                    rank: worker.rank,
                    line: worker.partial.as_ref().map(|partial| partial.export()),
                    latches: worker.latches.iter_mut().map(export).collect(),
                }
            }
        }
    }

    /// The same again in another process. `make_latch` makes a latch again.
    pub(super) fn import(state: SideState, make_latch: impl FnMut(LatchState) -> Latch) -> Self {
        match state {
            SideState::Client(partial) => {
                Self::Client { partial: partial.map(|partial| Box::new(PartialMessage::import(partial))) }
            }
            SideState::Worker { rank, line, latches } => Self::Worker(Box::new(WorkerSide {
                partial: line.map(|line| Box::new(PartialLine::import(line))),
                rank,
                latches: latches.into_iter().map(make_latch).collect(),
                count: WorkerCount::default(),
            })),
        }
    }
}
