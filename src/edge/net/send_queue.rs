//! What a link still owes its peer.
//!
//! Knows pieces, how many may wait, and how they leave in few writes. Does not
//! know what they say. A link has an outbox only while something is in it.

use std::collections::VecDeque;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::encoded_frame::{EncodedFrame, SharedBytes};
use super::socket::{IoOutcome, PeerSocket};
use crate::hub::{LogKey, SendQueueState};
use crate::protocol::{Delivery, OperationId};

/// How much may wait for one peer before messages to it are shed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLimits {
    pub messages: usize,
    pub bytes: usize,
}

/// What is to be known of a piece as long as it waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeliveryTag {
    /// Where the message is kept: the hub is told when the kernel has it.
    Kept(FramePosition),
    /// It confirms that an operation has started.
    Starts(OperationId),
}

/// The place of a message in its log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FramePosition {
    pub log: LogKey,
    pub seq: u64,
    pub how: Delivery,
}

/// Part of a shared packet, as one kind of peer reads it.
#[derive(Clone, Debug)]
pub struct QueuedFrame {
    pub(in crate::edge) bytes: SharedBytes,
    pub(in crate::edge) from: u32,
    pub(in crate::edge) to: u32,
    pub(in crate::edge) mark: Option<Rc<DeliveryTag>>,
}

impl QueuedFrame {
    /// The piece that clients read.
    pub fn frame(packet: &EncodedFrame) -> Self {
        Self::of(packet.frame())
    }

    /// The piece that workers read.
    pub fn line(packet: &EncodedFrame) -> Self {
        Self::of(packet.line())
    }

    fn of((bytes, from, to): (&SharedBytes, u32, u32)) -> Self {
        Self { bytes: bytes.clone(), from, to, mark: None }
    }

    /// The same, with what is to be known of it.
    #[must_use]
    pub fn marked(mut self, mark: Rc<DeliveryTag>) -> Self {
        self.mark = Some(mark);
        self
    }

    /// The bytes that go out.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.from as usize..self.to as usize).unwrap_or_default()
    }
}

/// The pieces that wait for one link.
#[derive(Default, Debug)]
pub struct SendQueue {
    pub(in crate::edge) pieces: VecDeque<QueuedFrame>,
    /// How much of the first piece the kernel has.
    pub(in crate::edge) taken: usize,
    /// All that waits, `taken` included.
    bytes: usize,
    /// What the hub was told last.
    pub reported: SendQueueState,
    /// The kernel's buffer is full: nothing is written until it says otherwise.
    pub blocked: bool,
}

/// What a flush came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushOutcome {
    /// The kernel has all of it.
    All,
    /// The kernel takes no more now; whether it took anything.
    Part { moved: bool },
    /// The link is broken.
    Broken,
}

/// Small pieces are copied together up to this much, so that a burst leaves in
/// one write; a system call costs more than copying a few kilobytes.
const TOGETHER: usize = 64 << 10;

/// A piece over this is worth a write of its own.
const LARGE: usize = 8 << 10;

impl SendQueue {
    /// Begins with a piece of which some has left already.
    pub fn begin(&mut self, piece: QueuedFrame, taken: usize) {
        self.push(piece);
        self.taken = taken;
    }

    /// Queues a piece behind all others.
    pub fn push(&mut self, piece: QueuedFrame) {
        self.bytes += piece.bytes().len();
        self.pieces.push_back(piece);
    }

    /// Queues an interrupt: behind the piece that confirms the start of its operation, if
    /// that still waits, else ahead of all that have not begun to leave.
    pub fn push_ahead(&mut self, piece: QueuedFrame, operation: &OperationId) {
        self.bytes += piece.bytes().len();
        let at = self.start_of(operation).map_or(usize::from(self.taken > 0), |at| at + 1);
        self.pieces.insert(at, piece);
    }

    /// Where the piece is that confirms the start of an operation; of one that has ended and
    /// started again meanwhile, the later one.
    pub(in crate::edge) fn start_of(&self, operation: &OperationId) -> Option<usize> {
        let confirms = |piece: &QueuedFrame| matches!(piece.mark.as_deref(), Some(DeliveryTag::Starts(started)) if started == operation);
        self.pieces.iter().rposition(confirms)
    }

    /// Marks a piece, by its place, as that which confirms the start of an operation.
    pub(in crate::edge) fn mark_start(&mut self, at: usize, operation: OperationId) {
        if let Some(piece) = self.pieces.get_mut(at) {
            piece.mark = Some(Rc::new(DeliveryTag::Starts(operation)));
        }
    }

    /// Drops what has not begun to leave.
    pub fn clear_unsent(&mut self) {
        self.pieces.truncate(usize::from(self.taken > 0));
        self.bytes = self.pieces.front().map_or(0, |piece| piece.bytes().len());
    }

    /// Whether part of the first piece has left, and not the rest.
    pub fn has_begun(&self) -> bool {
        self.taken > 0
    }

    /// Whether it owes nothing.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How many pieces wait, and how many bytes of them the kernel has not taken.
    pub fn size(&self) -> (usize, usize) {
        (self.pieces.len(), self.bytes.saturating_sub(self.taken))
    }

    /// How many bytes it holds, as one of those who share its pieces.
    pub fn held(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes.part()).sum()
    }

    /// Whether it is worth keeping for the next one who needs one.
    pub fn is_small(&self) -> bool {
        self.pieces.capacity() <= 8
    }

    /// How it stands against its bounds. Full stays full until half is gone, so
    /// that a slow peer does not go to and fro with every message.
    pub fn state(&self, bounds: QueueLimits) -> SendQueueState {
        let messages = self.pieces.len();
        let is_over = |part: usize| messages >= bounds.messages / part || self.bytes >= bounds.bytes / part;
        match self.reported {
            _ if messages == 0 => SendQueueState::Empty,
            SendQueueState::Full if is_over(2) => SendQueueState::Full,
            _ if is_over(1) => SendQueueState::Full,
            _ => SendQueueState::Backlogged,
        }
    }

    /// Writes until all is gone or the kernel takes no more. Marks of pieces
    /// that are gone as a whole are added to `gone`.
    pub fn flush(
        &mut self,
        wire: &PeerSocket,
        scratch: &mut Vec<u8>,
        gone: &mut Vec<Rc<DeliveryTag>>,
    ) -> FlushOutcome {
        let mut moved = false;
        while let Some(first) = self.pieces.front() {
            let rest = first.bytes().get(self.taken..).unwrap_or_default();
            let result = if self.pieces.len() == 1 || rest.len() > LARGE {
                wire.write(rest)
            } else {
                scratch.clear();
                scratch.extend_from_slice(rest);
                for piece in self.pieces.iter().skip(1) {
                    if scratch.len() + piece.bytes().len() > TOGETHER {
                        break;
                    }
                    scratch.extend_from_slice(piece.bytes());
                }
                wire.write(scratch)
            };
            match result {
                IoOutcome::Bytes(bytes) => {
                    moved = true;
                    self.took(bytes, gone);
                }
                IoOutcome::NotNow => return FlushOutcome::Part { moved },
                IoOutcome::Broken => return FlushOutcome::Broken,
            }
        }
        FlushOutcome::All
    }

    fn took(&mut self, bytes: usize, gone: &mut Vec<Rc<DeliveryTag>>) {
        self.taken += bytes;
        while let Some(first) = self.pieces.front() {
            let size = first.bytes().len();
            if self.taken < size {
                return;
            }
            self.taken -= size;
            self.bytes -= size;
            if let Some(mark) = self.pieces.pop_front().and_then(|piece| piece.mark) {
                gone.push(mark);
            }
        }
    }
}
