//! How much one peer may ask.
//!
//! Knows rates and the budget for mistakes. Does not know what is asked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::Charge;
use crate::hub::settings::Limits;
use crate::protocol::{Moment, RateLimit};

/// A rate with a burst, in one number (the generic cell rate algorithm of
/// ATM): the microsecond at which all that was let through is paid off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct Bucket(u64);

/// How fast a bucket fills, and how much goes into it.
#[derive(Clone, Copy, Debug)]
pub(in crate::hub) struct Rate {
    /// What one costs, in microseconds.
    each: u64,
    burst: u32,
}

/// So many times as much as one connection may ask a user who has several.
pub const OF_USER: u32 = 5;

impl Rate {
    const fn new(per_second: u32, burst: u32) -> Self {
        let per_second = if per_second == 0 { 1 } else { per_second };
        Self { each: 1_000_000 / per_second as u64, burst }
    }

    fn times(self, times: u32) -> Self {
        Self { each: self.each / u64::from(times), burst: self.burst.saturating_mul(times) }
    }

    /// The faster of two, with the larger burst.
    fn max(self, other: Self) -> Self {
        Self { each: self.each.min(other.each), burst: self.burst.max(other.burst) }
    }
}

impl From<RateLimit> for Rate {
    fn from(allowance: RateLimit) -> Self {
        let each = 1_000_000_000 / u64::from(allowance.millirate().max(1));
        Self { each, burst: allowance.burst() }
    }
}

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
                Rate { burst: usual.burst.max(all), ..usual }
            }
        }
    }
}

impl Bucket {
    /// Takes one out, or says how long to wait for it.
    pub(in crate::hub) fn take(&mut self, now: Moment, rate: Rate) -> Result<(), Duration> {
        let now = now.0.saturating_mul(1000);
        let paid = self.0.max(now).saturating_add(rate.each);
        let ahead = paid.saturating_sub(now);
        let allowed = rate.each.saturating_mul(u64::from(rate.burst.max(1)));
        if ahead > allowed {
            return Err(Duration::from_micros(ahead - allowed));
        }
        self.0 = paid;
        Ok(())
    }

    /// Notes what is done already.
    pub(in crate::hub) fn owe(&mut self, now: Moment, cost: Duration) {
        let cost = u64::try_from(cost.as_micros()).unwrap_or(u64::MAX);
        self.0 = self.0.max(now.0.saturating_mul(1000)).saturating_add(cost);
    }

    /// How long it takes until all is paid off.
    pub(in crate::hub) fn owes(&self, now: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(now.0.saturating_mul(1000)))
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
