//! Token expiry of a connection: the warning before, and the end.

use std::time::Duration;

use super::Connection;
use crate::hub::timers::NEVER;
use crate::protocol::{Moment, UnixTime};

/// How long before it expires a token is to be renewed.
const WARNING: Duration = Duration::from_secs(60);

impl Connection {
    /// When the warning is due, or the end after it.
    pub(super) fn token_deadline(&self) -> Moment {
        if self.warned { self.expires } else { warning(self.expires) }
    }

    /// When the token expires, where its owner is to be warned of that now; it counts as warned
    /// then.
    pub(super) fn take_expiry_warning(&mut self, now: Moment) -> Option<UnixTime> {
        if self.warned || now < warning(self.expires) {
            return None;
        }
        self.warned = true;
        self.expires_at()
    }

    pub(super) fn is_token_expired(&self, now: Moment) -> bool {
        now >= self.expires
    }
}

/// When it is time to renew a token that expires at a moment.
fn warning(expires: Moment) -> Moment {
    if expires == NEVER { NEVER } else { Moment(expires.0.saturating_sub(WARNING.as_millis() as u64)) }
}
