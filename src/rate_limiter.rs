//! Rate limiter: the generic cell rate algorithm (GCRA, ITU-T I.371).
//!
//! A leaky bucket in one number and without a timer. All limits on requests, mistakes, log
//! lines and writes use it; each says for itself what one costs and how many may come at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::{Moment, RateLimit};

/// The debt of one peer: the microsecond at which all that was admitted is paid off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Bucket(u64);

/// How fast a debt is paid off, and how large it may grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// What one costs, in microseconds.
    each: u64,
    burst: u32,
}

impl Rate {
    pub(crate) const fn new(per_second: u32, burst: u32) -> Self {
        let per_second = if per_second == 0 { 1 } else { per_second };
        Self { each: 1_000_000 / per_second as u64, burst }
    }

    pub(crate) fn times(self, times: u32) -> Self {
        Self { each: self.each / u64::from(times), burst: self.burst.saturating_mul(times) }
    }

    /// The faster of two, with the larger burst.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { each: self.each.min(other.each), burst: self.burst.max(other.burst) }
    }

    /// The same with a burst of at least so many.
    pub(crate) fn with_burst_of(self, least: u32) -> Self {
        Self { burst: self.burst.max(least), ..self }
    }
}

impl From<RateLimit> for Rate {
    fn from(limit: RateLimit) -> Self {
        let each = 1_000_000_000 / u64::from(limit.millirate().max(1));
        Self { each, burst: limit.burst() }
    }
}

impl Bucket {
    /// Admits one at a rate.
    ///
    /// # Errors
    /// The time until one would be admitted.
    pub(crate) fn take(&mut self, now: Moment, rate: Rate) -> Result<(), Duration> {
        let most = rate.each.saturating_mul(u64::from(rate.burst.max(1)));
        self.admit(now, rate.each, most)
    }

    /// Admits one that costs so much, if the debt does not exceed `most` with it.
    ///
    /// # Errors
    /// The time until one would be admitted.
    pub(crate) fn take_within(
        &mut self,
        now: Moment,
        cost: Duration,
        most: Duration,
    ) -> Result<(), Duration> {
        self.admit(now, micros(cost), micros(most))
    }

    fn admit(&mut self, now: Moment, cost: u64, most: u64) -> Result<(), Duration> {
        let now = micros_of(now);
        let paid = self.0.max(now).saturating_add(cost);
        let debt = paid.saturating_sub(now);
        if debt > most {
            return Err(Duration::from_micros(debt - most));
        }
        self.0 = paid;
        Ok(())
    }

    /// Adds the cost of something that is done already.
    pub(crate) fn owe(&mut self, now: Moment, cost: Duration) {
        self.0 = self.0.max(micros_of(now)).saturating_add(micros(cost));
    }

    /// How long it takes until all is paid off.
    pub(crate) fn owes(&self, now: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(micros_of(now)))
    }
}

fn micros_of(moment: Moment) -> u64 {
    moment.0.saturating_mul(1000)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_at_once_and_then_one_at_each_interval() {
        let (mut bucket, rate) = (Bucket::default(), Rate::new(10, 3));
        for _ in 0..3 {
            assert_eq!(bucket.take(Moment(1000), rate), Ok(()));
        }
        assert_eq!(bucket.take(Moment(1000), rate), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(Moment(1099), rate), Err(Duration::from_millis(1)));
        assert_eq!(bucket.take(Moment(1100), rate), Ok(()));
        assert_eq!(bucket.owes(Moment(1100)), Duration::from_millis(300));
    }

    #[test]
    fn costs_of_work_that_is_done_may_exceed_every_limit() {
        let mut bucket = Bucket::default();
        bucket.owe(Moment(0), Duration::from_secs(10));
        bucket.owe(Moment(4000), Duration::from_secs(1));
        assert_eq!(bucket.owes(Moment(4000)), Duration::from_secs(7));
        let second = Duration::from_secs(1);
        assert_eq!(bucket.take_within(Moment(11_000), second, second), Ok(()));
        assert_eq!(bucket.take_within(Moment(11_000), second, second), Err(second));
    }

    #[test]
    fn a_bucket_is_stored_as_one_number() {
        let mut bucket = Bucket::default();
        bucket.owe(Moment(1), Duration::ZERO);
        assert_eq!(serde_json::to_string(&bucket).unwrap_or_default(), "1000");
    }
}
