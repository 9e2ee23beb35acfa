//! Write stall of a connection: its send queue fills, messages are shed, and a peer that accepts
//! no byte for too long is closed.

use super::Connection;
use crate::hub::event::SendQueueState;
use crate::hub::memory_pressure::Level;
use crate::hub::settings::Settings;
use crate::hub::timers::NEVER;
use crate::protocol::Moment;

impl Connection {
    /// When its peer last accepted a byte, while something is queued.
    pub(in crate::hub) fn stalled_since(&self) -> Option<Moment> {
        let since = self.ext.as_ref().map(|ext| ext.stalled_since);
        since.filter(|since| *since != NEVER)
    }

    /// Notes that its send queue is in another state.
    pub(super) fn set_send_queue(&mut self, state: SendQueueState, now: Moment, level: Level) {
        let was = std::mem::replace(&mut self.send_queue, state);
        match state {
            SendQueueState::Empty => {
                self.is_shedding = false;
                if let Some(ext) = &mut self.ext {
                    ext.stalled_since = NEVER;
                }
            }
            SendQueueState::Backlogged => {
                self.is_shedding |= level >= Level::Critical;
                self.ext_mut().stalled_since = now;
            }
            SendQueueState::Full => {
                self.is_shedding = true;
                let ext = self.ext_mut();
                // From backlogged to full nothing was accepted.
                if was == SendQueueState::Empty || ext.stalled_since == NEVER {
                    ext.stalled_since = now;
                }
            }
        }
    }

    /// Notes that its peer has accepted a part of what is queued.
    pub(super) fn note_write_progress(&mut self, now: Moment) {
        if !self.has_empty_queue() {
            self.ext_mut().stalled_since = now;
        }
    }

    /// When a stall has lasted for as long as it may.
    pub(super) fn stall_deadline(&self, settings: &Settings) -> Moment {
        match &self.ext {
            Some(ext) if ext.stalled_since != NEVER => {
                ext.stalled_since.max(ext.spared) + settings.limits.stall
            }
            _ => NEVER,
        }
    }

    /// Whether a stall has lasted for too long.
    pub(super) fn is_stalled(&self, now: Moment, settings: &Settings) -> bool {
        self.stalled_since().is_some_and(|since| now.since(since) >= settings.limits.stall)
    }

    /// Gives a stalled connection as much time again: the owner of an operation is not closed.
    pub(super) fn spare_stalled(&mut self, now: Moment, settings: &Settings) {
        if self.is_stalled(now, settings) {
            self.ext_mut().spared = now;
        }
    }
}
