//! Read side of a connection: whether its peer may send more, and whether that is read now.

use super::refused_frame_rest::RefusedFrameRest;
use crate::hub::SendQueueState;

/// The read side of one connection.
#[derive(Default)]
pub(super) struct ReadSide {
    phase: ReadPhase,
    /// It is not read: its last request waits for the disk.
    is_paused: bool,
    /// It is among those whose undecoded input is looked at in the next turn.
    is_resumed: bool,
    refused_frame: RefusedFrameRest,
}

/// Whether the peer may send more.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum ReadPhase {
    #[default]
    Open,
    /// It sends no more; what it is owed is still to be written.
    Closed,
    /// The same, and what is queued is all that it is owed.
    Done,
}

/// When the input of a peer is read that has something queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadPolicy {
    /// As long as there is room in its queue.
    WhileRoom,
    /// Once its queue is empty.
    OnceEmpty,
}

/// Whether a connection is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// Its last request waits for the disk.
    Paused,
    Resumed,
}

impl ReadSide {
    /// That of a peer which sends no more.
    pub(super) fn closed() -> Self {
        Self { phase: ReadPhase::Closed, ..Self::default() }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == ReadPhase::Open
    }

    /// Whether the peer sends no more, and is owed no more than what is queued.
    pub(super) fn is_done(&self) -> bool {
        self.phase == ReadPhase::Done
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub(super) fn set_reading(&mut self, reading: Reading) {
        self.is_paused = reading == Reading::Paused;
    }

    /// Whether input is decoded now: a peer that does not read is not read either.
    pub(super) fn is_read(&self, queue: SendQueueState, policy: ReadPolicy) -> bool {
        let takes = match queue {
            SendQueueState::Empty => true,
            SendQueueState::Backlogged => policy == ReadPolicy::WhileRoom,
            SendQueueState::Full => false,
        };
        takes && !self.is_paused
    }

    /// Notes that it is to be looked at in the next turn; false if it was noted already.
    pub(super) fn mark_resumed(&mut self) -> bool {
        !std::mem::replace(&mut self.is_resumed, true)
    }

    pub(super) fn clear_resumed(&mut self) {
        self.is_resumed = false;
    }

    /// The peer has shut its sending side.
    pub(super) fn close(&mut self) {
        self.phase = ReadPhase::Closed;
    }

    /// What is queued is all that the peer is owed.
    pub(super) fn finish(&mut self) {
        debug_assert!(!self.is_open(), "only a peer that sends no more is finished with");
        self.phase = ReadPhase::Done;
    }

    /// Has the rest of a frame that is too large read before the socket is closed.
    pub(super) fn refuse_frame(&mut self) {
        self.refused_frame = RefusedFrameRest::coming();
    }

    /// Something was read.
    pub(super) fn receive(&mut self) {
        self.refused_frame.receive();
    }

    /// Waits once more for the rest of a refused frame, if that is worth it.
    pub(super) fn wait_for_refused_frame(&mut self) -> bool {
        self.refused_frame.wait_again()
    }
}
