//! Heartbeat of a connection: pings to a quiet peer, and the silence after which it is closed.

use super::Connection;
use crate::hub::settings::Heartbeat;
use crate::hub::timers::NEVER;
use crate::protocol::Moment;

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

    /// When the next ping is due, or the answer to the last one overdue. Workers get none.
    pub(super) fn heartbeat_deadline(&self, heartbeat: Heartbeat) -> Moment {
        let silence = match self.pinged {
            false => heartbeat.ping_interval.min(heartbeat.pong_timeout),
            true => heartbeat.pong_timeout,
        };
        if self.is_worker() { NEVER } else { self.last_activity + silence }
    }

    /// Whether a ping is due, which counts as sent then.
    pub(super) fn take_ping(&mut self, now: Moment, heartbeat: Heartbeat) -> bool {
        let is_quiet = now.since(self.last_activity) >= heartbeat.ping_interval;
        let is_due = is_quiet && !self.is_worker() && !self.pinged;
        self.pinged |= is_due;
        is_due
    }

    /// Whether its peer has been silent for too long.
    pub(super) fn is_silent(&self, now: Moment, heartbeat: Heartbeat) -> bool {
        !self.is_worker() && now.since(self.last_activity) >= heartbeat.pong_timeout
    }
}
