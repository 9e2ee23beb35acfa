//! How much one peer may ask.
//!
//! Knows rates and the budget for mistakes. Does not know what is asked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::settings::Limits;
use crate::protocol::Moment;

/// A rate with a burst, in one number (the generic cell rate algorithm of
/// ATM): the microsecond at which all that was let through is paid off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Bucket(u64);

/// How fast a bucket fills, and how much goes into it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) per_second: u32,
    pub(super) burst: u32,
}

impl Limits {
    pub(super) fn requests(&self) -> Rate {
        Rate { per_second: self.requests_per_second, burst: self.burst }
    }

    pub(super) fn interrupts(&self) -> Rate {
        Rate { per_second: self.interrupts_per_second, burst: self.interrupt_burst }
    }

    pub(super) fn whispers(&self) -> Rate {
        Rate { per_second: self.whispers_per_second, burst: self.whisper_burst }
    }
}

impl Bucket {
    /// Takes one out, or says how long to wait for it.
    pub(super) fn take(&mut self, now: Moment, rate: Rate) -> Result<(), Duration> {
        let now = now.0.saturating_mul(1000);
        let each = 1_000_000 / u64::from(rate.per_second.max(1));
        let paid = self.0.max(now).saturating_add(each);
        let ahead = paid.saturating_sub(now);
        let allowed = each.saturating_mul(u64::from(rate.burst.max(1)));
        if ahead > allowed {
            return Err(Duration::from_micros(ahead - allowed));
        }
        self.0 = paid;
        Ok(())
    }
}

/// So many refusals within [`REFUSAL_WINDOW`] end a connection: it does not
/// listen, and refusing costs as much as serving.
const MOST_REFUSALS: u32 = 500;
const REFUSAL_WINDOW: Duration = Duration::from_secs(60);

/// Refusals for rate since the window began.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Refusals {
    since: Moment,
    count: u32,
}

impl Refusals {
    /// Counts one; whether it was one too many.
    pub(super) fn count(&mut self, now: Moment) -> bool {
        if now.since(self.since) >= REFUSAL_WINDOW {
            *self = Self { since: now, count: 0 };
        }
        self.count += 1;
        self.count >= MOST_REFUSALS
    }
}

/// So many within [`MISTAKE_WINDOW`] end a connection: a program that is wrong
/// five times will be wrong again.
const MOST_MISTAKES: usize = 5;
const MISTAKE_WINDOW: Duration = Duration::from_secs(600);

/// When the last mistakes were made, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Mistakes(Vec<Moment>);

impl Mistakes {
    /// Counts one; whether it was one too many.
    pub(super) fn count(&mut self, now: Moment) -> bool {
        self.0.retain(|at| now.since(*at) < MISTAKE_WINDOW);
        self.0.push(now);
        self.0.len() >= MOST_MISTAKES
    }
}
