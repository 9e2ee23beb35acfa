//! One link: a socket, and what is known of its other end.
//!
//! Knows what state it is in. Does not know how that changes: that is the table's
//! business, in [`connection_table`](super::connection_table).

use async_channel::Receiver;

use super::epoll::Interest;
use super::mem_accounting::Head;
use super::send_queue::{QueuedFrame, SendQueue};
use super::socket::PeerSocket;
use super::{line_decoder, ws_decoder};
use crate::protocol::{Close, ConnectionId, Moment, OperationId};

/// One link.
pub struct Link {
    pub id: ConnectionId,
    pub wire: PeerSocket,
    pub side: Side,
    /// What the kernel was asked to tell of it.
    pub(in crate::edge) interest: Interest,
    /// Only while something waits.
    pub(in crate::edge) outbox: Option<Box<SendQueue>>,
    /// Its place in `given`, while it is there.
    pub(in crate::edge) dirty_at: Option<u32>,
    /// The hub has closed it; what it says is not heard any more.
    pub leaving: bool,
    /// The socket is dead.
    pub(in crate::edge) broken: bool,
    /// The peer, a worker, reads no more; what it has written is still to be
    /// read.
    pub(in crate::edge) deaf: bool,
    /// The peer says no more; what it is owed is still to be written.
    pub(in crate::edge) ended: bool,
    /// It has ended, and what is queued is all that it is owed.
    pub(in crate::edge) finished: bool,
    /// It is not read: what it said last waits for the disk.
    pub(in crate::edge) paused: bool,
    /// It is among those whose unsaid requests are heard in the next turn.
    pub(in crate::edge) resumed: bool,
    /// It hung up while it was not read, and is not waited for until it is read again: its
    /// end would be told again and again.
    pub(in crate::edge) muted: bool,
    /// The hub knows, or is being told, that the link is down. The slot is free
    /// for others once the socket is dead and the hub knows.
    pub(in crate::edge) parted: bool,
    /// How it ends, where that is not the hub's decision.
    pub(in crate::edge) end: End,
    /// When the kernel last took something that had waited.
    pub(in crate::edge) took: Moment,
    /// It was told goodbye in the middle of a frame that it still sends.
    pub(in crate::edge) rest: PartialFrame,
}

/// What comes of a frame that is not taken. A socket that closes with that in it takes the
/// goodbye back, so it is read to its end: as long as it comes, and not for ever.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in crate::edge) enum PartialFrame {
    /// There is none.
    #[default]
    Nothing,
    /// So often it was waited for longer, and some has come since the last time or not.
    Coming { waited: u8, has_come: bool },
}

impl PartialFrame {
    /// So often it is waited for once more: half a minute in all.
    const MOST_WAITS: u8 = 15;

    /// Some of it has come.
    pub(in crate::edge) fn comes(&mut self) {
        if let Self::Coming { has_come, .. } = self {
            *has_come = true;
        }
    }

    /// Whether it is worth waiting for once more.
    pub(in crate::edge) fn waits_again(&mut self) -> bool {
        match self {
            Self::Coming { waited, has_come: has_come @ true } if *waited < Self::MOST_WAITS => {
                (*waited, *has_come) = (*waited + 1, false);
                true
            }
            _ => false,
        }
    }
}

/// How a link ends that the hub does not close.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum End {
    /// The socket broke, or closed without a word.
    #[default]
    Lost,
    /// The peer has sent a close frame.
    ByPeer,
    /// The peer broke the protocol of the wire.
    Malformed(Close),
}

impl Link {
    /// How many pieces wait for the socket, and how many bytes.
    pub fn queued(&self) -> (usize, usize) {
        self.outbox.as_ref().map_or((0, 0), |outbox| outbox.size())
    }
}

/// What is at the other end, and what it has begun to say.
pub enum Side {
    Client { held: Option<Box<ws_decoder::PartialMessage>> },
    Worker(Box<Worker>),
}

impl Link {
    /// What the link itself takes, with its place in the hub and in the kernel's
    /// tables as far as they are ours to pay for: of an idle one with a user 585 bytes
    /// measured with 3000, 184 of which are its inbox.
    pub const SIZE: usize = 416;

    /// What is held for it alone.
    pub fn held(&self) -> usize {
        let begun = match &self.side {
            Side::Client { held } => held.as_ref().map_or(0, |held| held.bytes()),
            Side::Worker(worker) => worker.held.as_ref().map_or(0, |held| held.bytes()),
        };
        begun + self.outbox.as_ref().map_or(0, |outbox| outbox.held())
    }

    /// Whether it has said something that was read and left unsaid.
    pub(in crate::edge) fn has_unsaid(&self) -> bool {
        match &self.side {
            Side::Client { held } => held.as_ref().is_some_and(|held| held.has_frames()),
            Side::Worker(worker) => worker.held.as_ref().is_some_and(|held| held.has_lines()),
        }
    }

    /// Forgets what it has begun to say.
    pub(in crate::edge) fn forget_input(&mut self) {
        match &mut self.side {
            Side::Client { held } => *held = None,
            Side::Worker(worker) => worker.held = None,
        }
    }
}

/// What only a worker's link has.
#[derive(Default)]
pub struct Worker {
    pub held: Option<Box<line_decoder::PartialLine>>,
    /// May ask for what only administrators may.
    pub admin: bool,
    /// One per running operation. What is in a latch leaves before the queue.
    pub latches: Vec<Latch>,
    /// It is counted.
    pub head: Head,
}

/// The worker's end of an operation's latch.
pub struct Latch {
    pub operation: OperationId,
    pub pieces: Receiver<QueuedFrame>,
}

impl Latch {
    /// Whether the operation has ended, and what was in the latch has left.
    pub fn is_over(&self) -> bool {
        self.pieces.is_closed() && self.pieces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::PartialFrame;

    #[test]
    fn a_frame_that_comes_is_waited_for_and_not_for_ever() {
        assert!(!PartialFrame::default().waits_again());
        let mut rest = PartialFrame::Coming { waited: 0, has_come: false };
        assert!(!rest.waits_again(), "nothing has come");
        let mut waits = 0;
        rest.comes();
        while rest.waits_again() {
            assert!(!rest.waits_again(), "nothing has come since");
            waits += 1;
            rest.comes();
        }
        assert_eq!(waits, PartialFrame::MOST_WAITS);
    }
}
