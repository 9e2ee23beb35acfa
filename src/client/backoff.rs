//! Backoff between attempts to reconnect.

use std::time::Duration;

/// The first pause after an attempt that failed: a hub that is started again is
/// there within that.
const FIRST: Duration = Duration::from_millis(100);

/// The longest: one attempt on a socket of the same machine costs some
/// microseconds, so this is about being there soon and not about sparing.
const LONGEST: Duration = Duration::from_secs(5);

/// A connection that ends sooner than this does not reset the backoff.
pub(super) const SETTLED: Duration = Duration::from_secs(5);

/// Counts the attempts since a connection lasted.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The pause before the next attempt. The first is made at once, or when the
    /// hub has asked for it; what follows waits between half a pause and a whole
    /// one, so that all who lost the same hub do not return in step.
    pub(super) fn pause(&mut self, asked: Option<Duration>, random: u64) -> Duration {
        let attempt = self.attempts;
        self.attempts += 1;
        if attempt == 0 {
            return asked.unwrap_or_default();
        }
        let whole = FIRST.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST);
        let half = whole / 2;
        let jitter = random % (u64::try_from(half.as_micros()).unwrap_or(u64::MAX) + 1);
        let pause = half + Duration::from_micros(jitter);
        // A hub that is short of something knows better than we for how long.
        asked.map_or(pause, |asked| asked.max(pause))
    }

    /// A connection has lasted.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Backoff, LONGEST};

    #[test]
    fn it_starts_at_once_or_when_asked_and_grows_to_a_bound() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.pause(None, 7), Duration::ZERO);
        let pauses: Vec<_> = (0..40).map(|_| backoff.pause(None, u64::MAX)).collect();
        assert!(pauses.iter().all(|pause| (Duration::from_millis(50)..=LONGEST).contains(pause)));
        assert!(pauses.last().is_some_and(|last| *last >= LONGEST / 2));
        assert_eq!(backoff.pause(Some(Duration::from_secs(60)), 7), Duration::from_secs(60));
        backoff.reset();
        assert_eq!(backoff.pause(Some(Duration::from_millis(30)), 7), Duration::from_millis(30));
    }

    #[test]
    fn two_that_lost_the_same_hub_do_not_return_in_step() {
        let (mut one, mut other) = (Backoff::default(), Backoff::default());
        assert_eq!(one.pause(None, 1), other.pause(None, 2));
        assert_ne!(one.pause(None, 1), other.pause(None, 2));
    }
}
