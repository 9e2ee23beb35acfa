//! Heartbeat and deadlines of a connection: pings, stalls, token expiry, authentication.

use std::time::Duration;

use super::Connection;
use crate::hub::event::SendQueueState;
use crate::hub::memory_pressure::Level;
use crate::hub::settings::{Heartbeat, Settings};
use crate::hub::timers::{NEVER, Timer, Timers, round_up};
use crate::protocol::{Close, Moment, UnixTime};

/// How long before it expires a token is to be renewed.
const WARNING: Duration = Duration::from_secs(60);

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
    /// Notes that its peer has sent anything. The timer stays: the deadlines are checked again
    /// when it fires.
    pub(in crate::hub) fn touch(&mut self, now: Moment) {
        self.last_activity = now;
        self.pinged = false;
    }

    /// Notes the same; whether it was the answer to a ping.
    pub(in crate::hub) fn touch_after_ping(&mut self, now: Moment) -> bool {
        let was_pinged = self.pinged;
        self.touch(now);
        was_pinged
    }

    /// Counts a silence that no ping has ended yet as no longer than the heartbeat allows:
    /// no connection is closed for a silence that was usual until now.
    pub(in crate::hub) fn forgive_silence(&mut self, now: Moment, heartbeat: Heartbeat) {
        let quiet = heartbeat.ping_interval.min(heartbeat.pong_timeout);
        let quiet = u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX);
        self.last_activity = self.last_activity.max(Moment(now.0.saturating_sub(quiet)));
    }

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
        let silence = match self.pinged {
            false => settings.heartbeat.ping_interval.min(settings.heartbeat.pong_timeout),
            true => settings.heartbeat.pong_timeout,
        };
        let heartbeat = if self.is_worker() { NEVER } else { self.last_activity + silence };
        let token = if self.warned { self.expires } else { warning(self.expires) };
        let (auth, stall) = match &self.ext {
            Some(ext) if ext.stalled_since != NEVER => {
                (ext.auth_deadline, ext.stalled_since.max(ext.spared) + settings.limits.stall)
            }
            Some(ext) => (ext.auth_deadline, NEVER),
            None => (NEVER, NEVER),
        };
        round_up(heartbeat.min(token).min(auth).min(stall))
    }

    /// Takes what is due now that its timer has fired, and marks it as done.
    pub(super) fn take_due(&mut self, now: Moment, settings: &Settings) -> Due {
        self.armed = NEVER;
        if let Some(close) = self.overdue(now, settings) {
            return Due::Close(close);
        }
        let mut token_expiring = None;
        if !self.warned && now >= warning(self.expires) {
            self.warned = true;
            token_expiring = self.expires_at();
        }
        let is_quiet = now.since(self.last_activity) >= settings.heartbeat.ping_interval;
        let is_ping_due = is_quiet && !self.is_worker() && !self.pinged;
        self.pinged |= is_ping_due;
        if let Some(ext) = &mut self.ext
            && ext.stalled_since != NEVER
            && now.since(ext.stalled_since) >= settings.limits.stall
        {
            // The owner of an operation is not closed; it is checked again.
            ext.spared = now;
        }
        Due::Notify { token_expiring, is_ping_due }
    }

    /// Why it has to be closed now, if it has to.
    fn overdue(&self, now: Moment, settings: &Settings) -> Option<Close> {
        if now >= self.expires {
            return Some(Close::TokenExpired);
        }
        if self.ext.as_ref().is_some_and(|ext| now >= ext.auth_deadline) {
            return Some(Close::Unauthenticated);
        }
        let is_stalled = self.stalled_since().is_some_and(|since| now.since(since) >= settings.limits.stall);
        if is_stalled && !self.owns_operations() {
            return Some(Close::TooSlow);
        }
        let is_silent = now.since(self.last_activity) >= settings.heartbeat.pong_timeout;
        (is_silent && !self.is_worker()).then_some(Close::NoPong)
    }

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
}

/// When it is time to renew a token that expires at a moment.
fn warning(expires: Moment) -> Moment {
    if expires == NEVER { NEVER } else { Moment(expires.0.saturating_sub(WARNING.as_millis() as u64)) }
}
