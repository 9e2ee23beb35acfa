//! Rate limits of one connection: requests, interrupts, whispers, controls, and mistakes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Connection;
use super::account::Charge;
use crate::hub::settings::Limits;
use crate::protocol::{Moment, RateLimit};
use crate::rate_limiter::Rate;

/// The rate of a user with several connections, as a multiple of that of one.
pub const OF_USER: u32 = 5;

impl Limits {
    /// The request rate of one connection: what its token says, up to a ceiling, else the
    /// usual one.
    pub(in crate::hub) fn allowed(&self, own: Option<RateLimit>) -> RateLimit {
        own.map_or_else(
            || RateLimit::new(self.requests_per_second, self.burst),
            |own| own.capped(self.token_rate),
        )
    }

    fn interrupts(&self) -> Rate {
        Rate::new(self.interrupts_per_second, self.interrupt_burst)
    }

    fn whispers(&self) -> Rate {
        Rate::new(self.whispers_per_second, self.whisper_burst)
    }

    /// The rate of all connections of a user, or of an address without one, together.
    pub(super) fn of_user(&self, charge: Charge) -> Rate {
        // The rate of one connection its user has in any case.
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

/// Pings and pongs of one connection: a peer that checks whether it is still connected does so
/// now and then.
const CONTROLS: Rate = Rate::new(10, 100);

/// The same of connections that are not authenticated.
const UNAUTHENTICATED_CONTROLS: Rate = Rate::new(10, 20);

/// How much the lists in the answers to one request may take: a client that needs more
/// requests it separately.
const LISTS: usize = 256 << 10;

/// What is left of that.
pub(in crate::hub) struct ListSpace(usize);

impl Default for ListSpace {
    fn default() -> Self {
        Self(LISTS)
    }
}

impl ListSpace {
    /// Takes so much of it; whether there was as much.
    pub(in crate::hub) fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// So many refusals within [`REFUSAL_WINDOW`] end a connection: its client ignores them, and
/// refusing costs as much as serving.
const MAX_REFUSALS: u32 = 500;
const REFUSAL_WINDOW: Duration = Duration::from_secs(60);

/// Refusals for rate since the window began.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Refusals {
    since: Moment,
    count: u32,
}

impl Refusals {
    /// Counts one; whether it was one too many.
    fn count(&mut self, now: Moment) -> bool {
        if now.since(self.since) >= REFUSAL_WINDOW {
            *self = Self { since: now, count: 0 };
        }
        self.count += 1;
        self.count >= MAX_REFUSALS
    }
}

/// When the last mistakes were made, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Mistakes(Vec<Moment>);

impl Mistakes {
    /// Counts one; whether it was one too many.
    fn count(&mut self, now: Moment, limits: &Limits) -> bool {
        self.0.retain(|at| now.since(*at) < limits.errors_window);
        self.0.push(now);
        self.0.len() >= limits.errors
    }
}

impl Connection {
    /// Takes one request out of its bucket, or returns how long to wait for it.
    pub(in crate::hub) fn take_request(&mut self, now: Moment, limits: &Limits) -> Result<(), Duration> {
        let rate = limits.allowed(self.own_limits()).into();
        self.requests.take(now, rate)
    }

    pub(in crate::hub) fn take_interrupt(&mut self, now: Moment, limits: &Limits) -> Result<(), Duration> {
        self.ext_mut().interrupts.take(now, limits.interrupts())
    }

    pub(in crate::hub) fn take_whisper(&mut self, now: Moment, limits: &Limits) -> Result<(), Duration> {
        self.ext_mut().whispers.take(now, limits.whispers())
    }

    /// Counts pings and pongs; whether they came too fast.
    pub(in crate::hub) fn count_controls(&mut self, now: Moment, count: u32) -> bool {
        let rate = if self.is_admitted() { CONTROLS } else { UNAUTHENTICATED_CONTROLS };
        (0..count).any(|_| self.controls.take(now, rate).is_err())
    }

    /// Counts a refusal for rate; whether it was one too many.
    pub(in crate::hub) fn count_refusal(&mut self, now: Moment) -> bool {
        self.ext_mut().refusals.count(now)
    }

    /// Counts a mistake; whether it was one too many.
    pub(in crate::hub) fn count_mistake(&mut self, now: Moment, limits: &Limits) -> bool {
        self.ext_mut().mistakes.count(now, limits)
    }
}
