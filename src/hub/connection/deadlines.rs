//! Deadlines of a connection: its one timer, for heartbeat, token, authentication and stall.

use super::Connection;
use crate::hub::settings::Settings;
use crate::hub::timers::{NEVER, Timer, Timers, round_up};
use crate::protocol::{Close, Moment, UnixTime};

/// What is due on a connection.
pub(super) enum Due {
    Close(Close),
    Notify {
        /// A frame says that the token expires then.
        token_expiring: Option<UnixTime>,
        is_ping_due: bool,
    },
}

impl Connection {
    /// Sets its timer to what is due first, where that is sooner than what it is set to.
    pub(super) fn rearm(&mut self, slot: u32, settings: &Settings, timers: &mut Timers) {
        let due = self.deadline(settings);
        if due < self.armed {
            timers.rearm(Timer::Connection(slot), &mut self.armed, due);
        }
    }

    pub(super) fn disarm(&mut self, slot: u32, timers: &mut Timers) {
        timers.rearm(Timer::Connection(slot), &mut self.armed, NEVER);
    }

    /// The next moment at which something may be due.
    fn deadline(&self, settings: &Settings) -> Moment {
        let auth = self.ext.as_ref().map_or(NEVER, |ext| ext.auth_deadline);
        let heartbeat = self.heartbeat_deadline(settings.heartbeat);
        round_up(heartbeat.min(self.token_deadline()).min(auth).min(self.stall_deadline(settings)))
    }

    /// Takes what is due now that its timer has fired, and marks it as done.
    pub(super) fn take_due(&mut self, now: Moment, settings: &Settings) -> Due {
        self.armed = NEVER;
        if let Some(close) = self.overdue(now, settings) {
            return Due::Close(close);
        }
        let token_expiring = self.take_expiry_warning(now);
        let is_ping_due = self.take_ping(now, settings.heartbeat);
        self.spare_stalled(now, settings);
        Due::Notify { token_expiring, is_ping_due }
    }

    /// Why it has to be closed now, if it has to.
    fn overdue(&self, now: Moment, settings: &Settings) -> Option<Close> {
        if self.is_token_expired(now) {
            return Some(Close::TokenExpired);
        }
        if self.ext.as_ref().is_some_and(|ext| now >= ext.auth_deadline) {
            return Some(Close::Unauthenticated);
        }
        if self.is_stalled(now, settings) && !self.owns_operations() {
            return Some(Close::TooSlow);
        }
        self.is_silent(now, settings.heartbeat).then_some(Close::NoPong)
    }
}
