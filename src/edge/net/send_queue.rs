//! Send queue of a connection: frames that wait for the kernel.
//!
//! A connection has a queue only while something is in it, and few writes empty it.

use std::collections::VecDeque;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::encoded_frame::{EncodedFrame, FrameBytes};
use super::socket::{IoOutcome, PeerSocket};
use crate::hub::{LogKey, SendQueueState};
use crate::protocol::{Delivery, OperationId};

/// How much may wait for one peer before messages to it are shed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLimits {
    pub messages: usize,
    pub bytes: usize,
}

/// What is to be known of a frame as long as it waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeliveryTag {
    /// Where its message is kept: the hub is notified when the kernel has it.
    Kept(FramePosition),
    /// It confirms that an operation has started.
    Starts(OperationId),
}

/// The position of a message in its log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FramePosition {
    pub log: LogKey,
    pub seq: u64,
    pub how: Delivery,
}

/// An encoded frame as one kind of peer reads it, in a queue.
#[derive(Clone, Debug)]
pub struct QueuedFrame {
    bytes: FrameBytes,
    tag: Option<Rc<DeliveryTag>>,
}

impl QueuedFrame {
    /// One that was handed over.
    pub fn new(bytes: FrameBytes, tag: Option<Rc<DeliveryTag>>) -> Self {
        Self { bytes, tag }
    }

    /// As a client reads it.
    pub fn for_client(encoded: &EncodedFrame) -> Self {
        Self { bytes: encoded.for_client(), tag: None }
    }

    /// As a worker reads it.
    pub fn for_worker(encoded: &EncodedFrame) -> Self {
        Self { bytes: encoded.for_worker(), tag: None }
    }

    /// The same with a tag.
    #[must_use]
    pub fn tagged(mut self, tag: Rc<DeliveryTag>) -> Self {
        self.tag = Some(tag);
        self
    }

    /// The bytes that go out.
    pub fn bytes(&self) -> &FrameBytes {
        &self.bytes
    }

    /// What is to be known of it.
    pub fn tag(&self) -> Option<&Rc<DeliveryTag>> {
        self.tag.as_ref()
    }
}

/// The frames that wait for one connection.
#[derive(Default, Debug)]
pub struct SendQueue {
    frames: VecDeque<QueuedFrame>,
    /// How much of the first frame the kernel has.
    taken: usize,
    /// All that waits, `taken` included.
    bytes: usize,
    /// The state that was reported last.
    reported: SendQueueState,
    /// The kernel's buffer is full: nothing is written until it reports otherwise.
    blocked: bool,
}

/// A send queue in a hand-over.
#[derive(Debug)]
pub struct QueueState {
    pub frames: Vec<QueuedFrame>,
    /// How much of the first frame the kernel has.
    pub taken: usize,
    pub reported: SendQueueState,
}

/// How much waits in a queue.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QueuedAmount {
    pub frames: usize,
    /// Those that the kernel has not taken.
    pub bytes: usize,
}

/// What a flush came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushOutcome {
    /// The kernel has all of it.
    All,
    /// The kernel takes no more now; whether it took anything.
    Part { moved: bool },
    /// The connection is broken.
    Broken,
}

/// Small frames are copied together up to this much, so that a burst leaves in
/// one write; a system call costs more than copying a few kilobytes.
const TOGETHER: usize = 64 << 10;

/// A frame over this is worth a write of its own.
const LARGE: usize = 8 << 10;

impl SendQueue {
    /// Begins with a frame of which some has left already.
    pub(super) fn begin(&mut self, frame: QueuedFrame, taken: usize) {
        self.push(frame);
        self.taken = taken;
    }

    /// Queues a frame behind all others.
    pub fn push(&mut self, frame: QueuedFrame) {
        self.bytes += frame.bytes.len();
        self.frames.push_back(frame);
    }

    /// Queues an interrupt: behind the frame that confirms the start of its operation, if
    /// that still waits, else ahead of all that have not begun to leave.
    pub fn push_ahead(&mut self, frame: QueuedFrame, operation: &OperationId) {
        self.bytes += frame.bytes.len();
        let at = self.start_of(operation).map_or(usize::from(self.taken > 0), |at| at + 1);
        self.frames.insert(at, frame);
    }

    /// The place of the frame that confirms the start of an operation; of one that has ended
    /// and started again meanwhile, the later one.
    pub(super) fn start_of(&self, operation: &OperationId) -> Option<usize> {
        let confirms = |frame: &QueuedFrame| matches!(frame.tag.as_deref(), Some(DeliveryTag::Starts(started)) if started == operation);
        self.frames.iter().rposition(confirms)
    }

    /// Tags the frame at a place as that which confirms the start of an operation.
    pub(super) fn mark_start(&mut self, at: usize, operation: OperationId) {
        if let Some(frame) = self.frames.get_mut(at) {
            frame.tag = Some(Rc::new(DeliveryTag::Starts(operation)));
        }
    }

    /// Drops what has not begun to leave.
    pub(super) fn clear_unsent(&mut self) {
        self.frames.truncate(usize::from(self.taken > 0));
        self.bytes = self.frames.front().map_or(0, |frame| frame.bytes.len());
    }

    /// Whether part of the first frame has left, and not the rest.
    pub(super) fn has_begun(&self) -> bool {
        self.taken > 0
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether the kernel took no more when it was written last.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// How much waits.
    pub(super) fn amount(&self) -> QueuedAmount {
        QueuedAmount { frames: self.frames.len(), bytes: self.bytes.saturating_sub(self.taken) }
    }

    /// How many bytes it holds, as one of those that share its frames.
    pub fn held(&self) -> usize {
        self.frames.iter().map(|frame| frame.bytes.shared().share()).sum()
    }

    /// How it stands against its limits. Full stays full until half is gone, so
    /// that a slow peer does not go to and fro with every message.
    pub(super) fn state(&self, limits: QueueLimits) -> SendQueueState {
        let messages = self.frames.len();
        let is_over = |part: usize| messages >= limits.messages / part || self.bytes >= limits.bytes / part;
        match self.reported {
            _ if messages == 0 => SendQueueState::Empty,
            SendQueueState::Full if is_over(2) => SendQueueState::Full,
            _ if is_over(1) => SendQueueState::Full,
            _ => SendQueueState::Backlogged,
        }
    }

    /// The state that was reported last.
    pub(super) fn reported(&self) -> SendQueueState {
        self.reported
    }

    /// Whether it is full, and was not reported to be.
    pub(super) fn has_become_full(&self, limits: QueueLimits) -> bool {
        self.reported != SendQueueState::Full && self.state(limits) == SendQueueState::Full
    }

    /// The state to report, where it is another than was reported last.
    pub(super) fn change(&mut self, limits: QueueLimits) -> Option<SendQueueState> {
        let state = self.state(limits);
        (std::mem::replace(&mut self.reported, state) != state).then_some(state)
    }

    /// Writes until all is gone or the kernel takes no more. The tags of frames
    /// that are gone as a whole are added to `flushed`.
    pub fn flush(
        &mut self,
        socket: &PeerSocket,
        scratch: &mut Vec<u8>,
        flushed: &mut Vec<Rc<DeliveryTag>>,
    ) -> FlushOutcome {
        let mut moved = false;
        while let Some(first) = self.frames.front() {
            let rest = first.bytes.get(self.taken..).unwrap_or_default();
            let outcome = if self.frames.len() == 1 || rest.len() > LARGE {
                socket.write(rest)
            } else {
                scratch.clear();
                scratch.extend_from_slice(rest);
                for frame in self.frames.iter().skip(1) {
                    if scratch.len() + frame.bytes.len() > TOGETHER {
                        break;
                    }
                    scratch.extend_from_slice(&frame.bytes);
                }
                socket.write(scratch)
            };
            match outcome {
                IoOutcome::Bytes(bytes) => {
                    moved = true;
                    self.advance(bytes, flushed);
                }
                IoOutcome::NotNow => {
                    self.blocked = true;
                    return FlushOutcome::Part { moved };
                }
                IoOutcome::Broken => return FlushOutcome::Broken,
            }
        }
        self.blocked = false;
        FlushOutcome::All
    }

    /// The kernel has taken so much.
    fn advance(&mut self, bytes: usize, flushed: &mut Vec<Rc<DeliveryTag>>) {
        self.taken += bytes;
        while let Some(first) = self.frames.front() {
            let size = first.bytes.len();
            if self.taken < size {
                return;
            }
            self.taken -= size;
            self.bytes -= size;
            if let Some(tag) = self.frames.pop_front().and_then(|frame| frame.tag) {
                flushed.push(tag);
            }
        }
    }

    /// As it is handed over.
    pub(super) fn export(&self) -> QueueState {
        let frames = self.frames.iter().cloned().collect();
        QueueState { frames, taken: self.taken, reported: self.reported }
    }

    /// The same again in another process. Nothing leaves before the kernel reports that it takes
    /// something: so what comes now stays behind it.
    pub(super) fn import(state: QueueState) -> Box<Self> {
        let QueueState { frames, taken, reported } = state;
        let mut queue = Box::new(Self { taken, reported, blocked: true, ..Self::default() });
        frames.into_iter().for_each(|frame| queue.push(frame));
        queue
    }
}

/// Queues that are not in use.
#[derive(Default)]
pub(super) struct QueuePool {
    #[expect(clippy::vec_box, reason = "they move between here and the connections as boxes")]
    free: Vec<Box<SendQueue>>,
}

/// Enough for the turns of a usual day; a burst allocates, and frees again.
const MOST_FREE: usize = 64;

/// A queue with room for more frames is not worth keeping.
const SMALL: usize = 8;

impl QueuePool {
    /// An empty queue.
    pub(super) fn take(&mut self) -> Box<SendQueue> {
        self.free.pop().unwrap_or_default()
    }

    /// Keeps an empty queue for the next connection that needs one.
    pub(super) fn put(&mut self, mut queue: Box<SendQueue>) {
        if self.free.len() < MOST_FREE && queue.frames.capacity() <= SMALL {
            queue.reported = SendQueueState::Empty;
            queue.blocked = false;
            self.free.push(queue);
        }
    }
}
