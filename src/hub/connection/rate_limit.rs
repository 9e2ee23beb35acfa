//! How much one peer may ask.
//!
//! Knows rates and the budget for mistakes. Does not know what is asked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::Charge;
use crate::hub::settings::Limits;
use crate::protocol::{Moment, RateLimit};
pub(in crate::hub) use crate::rate_limiter::{Bucket, Rate};

/// So many times as much as one connection may ask a user who has several.
pub const OF_USER: u32 = 5;

impl Limits {
    /// What one connection may ask: what its token says, up to a ceiling, else what everybody
    /// may.
    pub(in crate::hub) fn allowed(&self, own: Option<RateLimit>) -> RateLimit {
        own.map_or_else(
            || RateLimit::new(self.requests_per_second, self.burst),
            |own| own.capped(self.token_rate),
        )
    }

    pub(in crate::hub) fn interrupts(&self) -> Rate {
        Rate::new(self.interrupts_per_second, self.interrupt_burst)
    }

    pub(in crate::hub) fn whispers(&self) -> Rate {
        Rate::new(self.whispers_per_second, self.whisper_burst)
    }

    /// What all connections of a user, or of an address without one, may ask together.
    pub(in crate::hub) fn of_user(&self, charge: Charge) -> Rate {
        // What one connection may ask its user may in any case.
        let usual = Rate::new(self.user_requests_per_second, self.user_burst)
            .max(Rate::new(self.requests_per_second, self.burst));
        match charge {
            Charge::Request(None) => usual,
            Charge::Request(own) => Rate::from(self.allowed(own)).times(OF_USER),
            Charge::Interrupt => self.interrupts().times(OF_USER),
            Charge::Whisper => self.whispers().times(OF_USER),
            // After a restart all of them come back at once.
            Charge::Connection => {
                let all = u32::try_from(self.connections_per_user).unwrap_or(u32::MAX);
                usual.with_burst_of(all)
            }
        }
    }
}

/// Pings and pongs of one connection: a peer that looks whether its link lives does so now
/// and then.
pub(in crate::hub) const CONTROLS: Rate = Rate::new(10, 100);

/// The same of those who are not let in yet.
pub(in crate::hub) const CONTROLS_OF_STRANGERS: Rate = Rate::new(10, 20);

/// How much the lists in the answers to one request may take: whoever asks for many does
/// so again.
const LISTS: usize = 256 << 10;

/// What is left of that.
pub(in crate::hub) struct ListSpace(usize);

impl Default for ListSpace {
    fn default() -> Self {
        Self(LISTS)
    }
}

impl ListSpace {
    /// Takes so much of it, if there is as much.
    pub(in crate::hub) fn takes(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// So many refusals within [`REFUSAL_WINDOW`] end a connection: it does not
/// listen, and refusing costs as much as serving.
const MOST_REFUSALS: u32 = 500;
const REFUSAL_WINDOW: Duration = Duration::from_secs(60);

/// Refusals for rate since the window began.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct Refusals {
    since: Moment,
    count: u32,
}

impl Refusals {
    /// Counts one; whether it was one too many.
    pub(in crate::hub) fn count(&mut self, now: Moment) -> bool {
        if now.since(self.since) >= REFUSAL_WINDOW {
            *self = Self { since: now, count: 0 };
        }
        self.count += 1;
        self.count >= MOST_REFUSALS
    }
}

/// When the last mistakes were made, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct Mistakes(Vec<Moment>);

impl Mistakes {
    /// Counts one; whether it was one too many.
    pub(in crate::hub) fn count(&mut self, now: Moment, limits: &Limits) -> bool {
        self.0.retain(|at| now.since(*at) < limits.errors_window);
        self.0.push(now);
        self.0.len() >= limits.errors
    }
}
