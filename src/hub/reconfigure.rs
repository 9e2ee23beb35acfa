//! Going on with other settings.
//!
//! Knows what becomes of those who are here and of what is kept when the settings
//! change under them. Does not know where settings come from, or which of them a
//! running daemon can change.
//!
//! Whoever is here stays: a limit on how many there may be turns newcomers away,
//! and ends nothing. What a connection may do, what is kept and how much memory
//! that takes follow at once, as they would after a restart.

use super::Hub;
use super::connection::rights::Rights;
use super::connection::table::Connection;
use super::event::Cx;
use super::settings::{Heartbeat, Settings};
use crate::protocol::Moment;

impl Hub {
    /// The settings are others from now on.
    pub(super) fn configured(&mut self, cx: &mut Cx<'_>, settings: Settings) {
        let was = std::mem::replace(&mut self.settings, settings);
        if was.heartbeat != self.settings.heartbeat {
            self.forgive_silence(cx.now.moment);
        }
        for slot in self.connections.slots() {
            self.arm(slot);
        }
        if was.rights != self.settings.rights {
            self.apply_rights(cx);
        }
        self.conform_all(cx);
    }

    /// What a connection may do: what its token says, or the settings.
    pub(super) fn rights_of<'a>(&'a self, connection: &'a Connection) -> &'a Rights {
        connection.rights.as_deref().unwrap_or(&self.settings.rights)
    }

    /// Nobody is closed for a silence that nobody has asked about: whoever was quiet
    /// for longer than is usual now is asked, and has all the time for an answer.
    fn forgive_silence(&mut self, now: Moment) {
        let Heartbeat { ping_interval, pong_timeout } = self.settings.heartbeat;
        let quiet = u64::try_from(ping_interval.min(pong_timeout).as_millis()).unwrap_or(u64::MAX);
        for connection in self.connections.iter_mut() {
            connection.heard = connection.heard.max(Moment(now.0.saturating_sub(quiet)));
        }
    }

    /// Ends the subscriptions which only the old settings allowed.
    fn apply_rights(&mut self, cx: &mut Cx<'_>) {
        let usual = self.connections.ids(|connection| connection.rights.is_none());
        for conn in usual {
            self.check_subscriptions(cx, conn);
        }
    }
}
