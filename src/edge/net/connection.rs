//! One connection of a client or worker: its socket, the state of both directions, and what
//! waits for its peer.
//!
//! | state                | read from    | written to            | the slot is free when        |
//! |----------------------|--------------|-----------------------|------------------------------|
//! | open                 | yes          | yes                   |                              |
//! | read side closed     | no           | yes                   |                              |
//! | read side done       | no           | what is queued        | that has left                |
//! | write failed (worker)| yes          | no                    | the peer has closed          |
//! | closing              | and ignored  | what is queued        | the peer closes, or 2 s pass |
//! | failed               | no           | no                    | the close was reported       |
//!
//! The read side, a failed write and `phase` are independent of each other but for this: one
//! that is closing or failed never opens again. `close_reported` may be set while a connection
//! is closing, for its peer has still to read what was written last.

use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use super::epoll::Interest;
use super::epoll_watch::{EpollWatch, InterestChange, WatchState};
use super::latch::{Latch, LatchState, Latches};
use super::peer_side::{PartialInput, PeerSide, SideState};
use super::read_side::{ReadPolicy, ReadSide, Reading};
use super::send_queue::{
    DeliveryTag, FlushOutcome, FramePosition, QueueLimits, QueuePool, QueueState, QueuedAmount, QueuedFrame,
    SendQueue,
};
use super::socket::{IoOutcome, PeerSocket};
use crate::hub::SendQueueState;
use crate::protocol::{Close, ConnectionId, Moment};

/// One connection.
pub struct PeerConnection {
    id: ConnectionId,
    socket: PeerSocket,
    side: PeerSide,
    watch: EpollWatch,
    /// Only while something waits.
    queue: Option<Box<SendQueue>>,
    /// Its place among those that are written to at the end of the turn.
    dirty_at: Option<u32>,
    phase: Phase,
    read_side: ReadSide,
    /// The peer, a worker, reads no more; what it has written is still to be read.
    write_failed: bool,
    /// The close was reported to the hub, or is being reported.
    close_reported: bool,
    cause: DisconnectCause,
    /// When the kernel last took something that had waited.
    progress_at: Moment,
}

/// How far the end of a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    /// The hub has closed it, or its peer has; its input is ignored.
    Closing,
    /// The socket is dead.
    Failed,
}

/// How a connection ends that the hub does not close.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum DisconnectCause {
    /// The socket broke, or closed without a close frame.
    #[default]
    Lost,
    /// The peer has sent a close frame.
    ByPeer,
    /// The peer broke the protocol of the transport.
    Malformed(Close),
}

/// Something that happened to a connection.
#[derive(Clone, PartialEq, Debug)]
pub enum ConnectionEvent {
    /// The kernel has taken the whole frame of a message that waits for that.
    Flushed { conn: ConnectionId, position: FramePosition },
    /// The state of its send queue is another than was reported last.
    QueueChanged { conn: ConnectionId, state: SendQueueState },
    /// The peer, which has something queued, took some of it; at most once a second.
    WriteProgress { conn: ConnectionId },
    /// The peer has shut its sending side.
    ReadClosed { conn: ConnectionId },
    /// Nothing of its queue will arrive any more.
    Closed { conn: ConnectionId },
}

/// What an attempt to write all that waits came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WriteOutcome {
    /// The kernel has all of it; the connection has nothing more to do if `is_done`.
    All {
        is_done: bool,
    },
    /// There was no queue.
    Nothing {
        is_done: bool,
    },
    /// The kernel takes no more now; whether it took anything.
    Part {
        moved: bool,
    },
    Broken,
}

/// A connection as it is handed over to another process, without its socket.
#[derive(Debug)]
pub struct ConnectionState {
    pub id: ConnectionId,
    /// Where the client is, if proxies have named it.
    pub named: Option<IpAddr>,
    pub side: SideState,
    pub queue: Option<QueueState>,
    pub is_closing: bool,
    pub write_failed: bool,
    pub read_closed: bool,
    pub close_reported: bool,
    pub progress_at: Moment,
}

impl PeerConnection {
    /// What the connection itself takes, with its slot in the hub and in the kernel's
    /// tables as far as they are ours to pay for: of an idle one with a user 585 bytes
    /// measured with 3000, 184 of which are its inbox.
    pub const SIZE: usize = 416;

    /// An open connection that epoll watches for input.
    pub(super) fn new(id: ConnectionId, socket: PeerSocket, side: PeerSide) -> Self {
        Self {
            id,
            socket,
            side,
            watch: EpollWatch::new(Interest::READ),
            queue: None,
            dirty_at: None,
            phase: Phase::Open,
            read_side: ReadSide::default(),
            write_failed: false,
            close_reported: false,
            cause: DisconnectCause::default(),
            progress_at: Moment::default(),
        }
    }

    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The socket, to be asked for the address of its peer.
    pub fn socket(&self) -> &PeerSocket {
        &self.socket
    }

    pub fn is_worker(&self) -> bool {
        self.side.is_worker()
    }

    /// Whether its peer may request what only administrators may.
    pub fn is_administrator(&self) -> bool {
        self.side.is_administrator()
    }

    /// How it ends, where the hub has not closed it.
    pub fn cause(&self) -> DisconnectCause {
        self.cause
    }

    /// What waits for the socket.
    pub fn queued(&self) -> QueuedAmount {
        self.queue.as_ref().map_or(QueuedAmount::default(), |queue| queue.amount())
    }

    /// Bytes that are held for it alone.
    pub fn held(&self) -> usize {
        self.side.held() + self.queue.as_ref().map_or(0, |queue| queue.held())
    }

    /// Whether it was closed, and its peer has still to read what was written last.
    pub fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(super) fn is_failed(&self) -> bool {
        self.phase == Phase::Failed
    }

    pub(super) fn is_close_reported(&self) -> bool {
        self.close_reported
    }

    /// Whether frames may be queued: nothing follows a close, or a failed write.
    pub(super) fn accepts_frames(&self) -> bool {
        self.is_open() && !self.write_failed
    }

    /// Whether the peer, which is not being closed, has shut its sending side.
    pub fn is_half_closed(&self) -> bool {
        !self.read_side.is_open() && !self.is_closing()
    }

    /// Whether it is not read because its last request waits for the disk.
    pub fn is_paused(&self) -> bool {
        self.read_side.is_paused() && !self.is_closing()
    }
}

/// Reading.
impl PeerConnection {
    /// Reads what is there, up to the block's length.
    pub fn read(&mut self, block: &mut [u8]) -> IoOutcome {
        let outcome = self.socket.read(block);
        if matches!(outcome, IoOutcome::Bytes(1..)) {
            self.read_side.receive();
        }
        outcome
    }

    /// Whether it has sent something that was read and not decoded.
    pub fn has_undecoded(&self) -> bool {
        self.side.has_undecoded()
    }

    /// Takes the undecoded input out, for as long as it is being decoded.
    pub fn take_partial(&mut self) -> PartialInput {
        self.side.take_partial()
    }

    /// Puts back what is still undecoded.
    pub fn put_partial(&mut self, input: PartialInput) {
        self.side.put_partial(input);
    }

    /// Has the rest of a frame that is too large read before the socket is closed.
    pub fn read_refused_frame(&mut self) {
        self.read_side.refuse_frame();
    }

    /// Whether the end of a refused frame is waited for once more.
    pub fn wait_for_refused_frame(&mut self) -> bool {
        self.is_closing() && self.read_side.wait_for_refused_frame()
    }

    /// Notes that it is to be looked at in the next turn; false if it was noted already.
    pub(super) fn mark_resumed(&mut self) -> bool {
        self.read_side.mark_resumed()
    }

    pub(super) fn clear_resumed(&mut self) {
        self.read_side.clear_resumed();
    }

    pub(super) fn set_reading(&mut self, reading: Reading) {
        self.read_side.set_reading(reading);
    }

    /// Whether input is decoded now: a peer that does not read is not read either.
    pub(super) fn is_read(&self, limits: QueueLimits, policy: ReadPolicy) -> bool {
        let queue = self.queue.as_ref().map_or(SendQueueState::Empty, |queue| queue.state(limits));
        self.read_side.is_read(queue, policy)
    }

    /// What epoll is to report from now on; the caller passes changes on.
    pub(super) fn update_interest(&mut self, is_read: bool) -> InterestChange {
        let read = self.read_side.is_open() && (is_read || self.is_closing());
        self.watch.update(Interest { read, write: self.is_blocked() })
    }

    pub(super) fn set_watch_state(&mut self, state: WatchState) {
        self.watch.set_state(state);
    }

    /// Whether epoll may stop watching it: where something is to be written, that finds the end.
    pub(super) fn can_be_unwatched(&self) -> bool {
        self.watch.can_be_unwatched()
    }
}

/// Writing.
impl PeerConnection {
    /// Its place among those that are written to at the end of the turn.
    pub(super) fn dirty_at(&self) -> Option<u32> {
        self.dirty_at
    }

    pub(super) fn set_dirty_at(&mut self, dirty_at: Option<u32>) {
        self.dirty_at = dirty_at;
    }

    pub(super) fn has_queue(&self) -> bool {
        self.queue.is_some()
    }

    /// The kernel's buffer is full: nothing is written until it reports otherwise.
    pub(super) fn is_blocked(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.is_blocked())
    }

    /// Whether the peer has taken part of a frame, and not the rest.
    pub(super) fn has_begun(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.has_begun())
    }

    /// Queues a frame behind all others. Whether the queue is full now, and was not reported to
    /// be.
    pub(super) fn enqueue(&mut self, frame: QueuedFrame, pool: &mut QueuePool, limits: QueueLimits) -> bool {
        let queue = self.queue.get_or_insert_with(|| pool.take());
        queue.push(frame);
        queue.has_become_full(limits)
    }

    /// Queues a frame of which some bytes have left already.
    pub(super) fn enqueue_rest(&mut self, frame: QueuedFrame, taken: usize, pool: &mut QueuePool) {
        let mut queue = pool.take();
        queue.begin(frame, taken);
        self.queue = Some(queue);
    }

    /// Writes the only frame of a turn without a queue.
    pub(super) fn write_frame(&self, frame: &QueuedFrame) -> IoOutcome {
        let outcome = self.socket.write(frame.bytes());
        if self.is_closing() && outcome == IoOutcome::Bytes(frame.bytes().len()) {
            self.socket.shutdown(Shutdown::Write);
        }
        outcome
    }

    /// Whether it is over once its queue is empty.
    pub(super) fn is_done(&self) -> bool {
        self.read_side.is_done()
    }

    /// Writes what waits, interrupts first. The tags of frames that have left whole are added
    /// to `flushed`.
    pub(super) fn write(
        &mut self,
        pool: &mut QueuePool,
        scratch: &mut Vec<u8>,
        flushed: &mut Vec<Rc<DeliveryTag>>,
    ) -> WriteOutcome {
        self.side.collect_interrupts(&mut self.queue, pool);
        let is_done = self.is_done() && !self.is_closing();
        let Some(queue) = &mut self.queue else {
            self.shut_if_closing();
            return WriteOutcome::Nothing { is_done };
        };
        match queue.flush(&self.socket, scratch, flushed) {
            FlushOutcome::All => {
                self.shut_if_closing();
                WriteOutcome::All { is_done }
            }
            FlushOutcome::Part { moved } => WriteOutcome::Part { moved },
            FlushOutcome::Broken => WriteOutcome::Broken,
        }
    }

    fn shut_if_closing(&self) {
        if self.is_closing() {
            self.socket.shutdown(Shutdown::Write);
        }
    }

    /// Adds the latch of an operation that its worker has started; false if there is no worker.
    pub(super) fn add_latch(&mut self, make: impl FnOnce() -> Latch) -> bool {
        self.side.add_latch(make)
    }

    /// Whether the progress of a slow peer is worth reporting once more, `pause` after the last
    /// time.
    pub(super) fn note_progress(&mut self, now: Moment, pause: Duration) -> bool {
        let is_due = now.since(self.progress_at) >= pause;
        if is_due {
            self.progress_at = now;
        }
        is_due
    }

    /// The state of its queue, where that is another than was reported last.
    pub(super) fn queue_change(&mut self, limits: QueueLimits) -> Option<SendQueueState> {
        self.queue.as_mut().and_then(|queue| queue.change(limits))
    }

    /// Gives an empty queue back.
    pub(super) fn give_back_queue(&mut self, pool: &mut QueuePool) {
        if self.queue.as_ref().is_some_and(|queue| queue.is_empty())
            && let Some(queue) = self.queue.take()
        {
            pool.put(queue);
        }
    }
}

/// Teardown.
impl PeerConnection {
    pub(super) fn set_cause(&mut self, cause: DisconnectCause) {
        self.cause = cause;
    }

    /// Drops what has not begun to leave.
    pub(super) fn clear_unsent(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.clear_unsent();
        }
    }

    /// Ignores its input from now on; once its queue is empty the sending side is shut.
    pub(super) fn begin_closing(&mut self) {
        if self.is_open() {
            self.phase = Phase::Closing;
        }
        // What it has sent is not decoded any more.
        let _ = self.side.take_partial();
    }

    /// The peer has shut its sending side. False if that ends the connection: it was known
    /// before, or nothing is written to it any more.
    pub(super) fn close_read_side(&mut self) -> bool {
        // One that was shut before is reported again when the peer reads no more either.
        if !self.accepts_frames() || !self.read_side.is_open() {
            return false;
        }
        self.read_side.close();
        true
    }

    /// What is queued is all that it is owed.
    pub(super) fn finish(&mut self) {
        self.read_side.finish();
    }

    /// Writing has failed. Whether it is still read, as a worker is that may have written
    /// something before it left.
    pub(super) fn fail_writing(&mut self) -> bool {
        if !self.read_side.is_open() || !self.is_worker() {
            return false;
        }
        self.write_failed = true;
        self.queue = None;
        true
    }

    /// The socket is dead; false if it was before.
    pub(super) fn fail(&mut self) -> bool {
        if self.is_failed() {
            return false;
        }
        self.phase = Phase::Failed;
        self.queue = None;
        true
    }

    /// The close is being reported; false if it was before.
    pub(super) fn report_close(&mut self) -> bool {
        !std::mem::replace(&mut self.close_reported, true)
    }
}

/// Hand-over.
impl PeerConnection {
    /// Its state, of which nothing is changed.
    pub(super) fn export(&mut self, latches: &Latches) -> ConnectionState {
        let queue = self.queue.as_deref();
        let side = self.side.export(queue, latches);
        ConnectionState {
            id: self.id,
            named: self.socket.named(),
            side,
            queue: queue.map(SendQueue::export),
            is_closing: self.is_closing(),
            write_failed: self.write_failed,
            read_closed: !self.read_side.is_open(),
            close_reported: self.close_reported,
            // It is reported at most once a second, so one that owes nothing need not have it.
            progress_at: if queue.is_some() { self.progress_at } else { Moment::default() },
        }
    }

    /// The connection as it was, with the socket that came with it.
    pub(super) fn import(state: ConnectionState, socket: OwnedFd, latches: &mut Latches) -> Self {
        let ConnectionState { id, named, side, queue, .. } = state;
        let mut queue = queue.map(SendQueue::import);
        if let (Some(queue), SideState::Worker { latches, .. }) = (&mut queue, &side) {
            for LatchState { operation, start, .. } in latches {
                start.iter().for_each(|at| queue.mark_start(*at, operation.clone()));
            }
        }
        let side = PeerSide::import(side, |state| latches.import(state, id));
        Self {
            queue,
            phase: if state.is_closing { Phase::Closing } else { Phase::Open },
            read_side: if state.read_closed { ReadSide::closed() } else { ReadSide::default() },
            write_failed: state.write_failed,
            close_reported: state.close_reported,
            progress_at: state.progress_at,
            ..Self::new(id, PeerSocket::again(socket, named), side)
        }
    }

    /// What epoll is to report of one that was imported, as it did before.
    pub(super) fn imported_interest(&mut self) -> Interest {
        let state = self.queue.as_ref().map_or(SendQueueState::Empty, |queue| queue.reported());
        let takes = state != SendQueueState::Full || self.is_closing();
        let read = self.read_side.is_open() && takes;
        let interest = Interest { read, write: self.has_queue() };
        self.watch = EpollWatch::new(interest);
        interest
    }

    /// Whether one that was imported may have something to write that is in no queue: what was
    /// pulled or shut last may not have left.
    pub(super) fn may_owe(&self) -> bool {
        self.is_closing() || self.side.has_latches()
    }
}

impl AsFd for PeerConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::PeerConnection;

    #[test]
    fn connection_takes_no_more_memory_than_was_measured() {
        assert!(size_of::<PeerConnection>() <= 88, "{}", size_of::<PeerConnection>());
    }
}
