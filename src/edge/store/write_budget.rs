//! The write budget: how much may be written to the flash in a day.
//!
//! Flash wears out by what is written to it. What was spent is forgiven evenly,
//! a whole budget in a day, so a burst is free and a steady stream is slowed down.

use std::time::Duration;

use crate::protocol::Moment;

const DAY: u128 = 24 * 3600 * 1000;

/// The widest that the commit window gets: a message that is written behind may be lost for
/// so long by a crash.
const WIDEST: Duration = Duration::from_secs(300);

/// What may be written in a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteBudget {
    /// Bytes a day; none: as many as it takes.
    daily: Option<u64>,
    spent: u64,
    /// When `spent` was true.
    at: Moment,
}

/// How much of the budget is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BudgetLevel {
    /// There is plenty.
    Ample,
    /// What may wait waits longer.
    Low,
    /// Only what was promised is written.
    Spent,
}

impl WriteBudget {
    /// One of which so much is spent already.
    pub fn new(daily: Option<u64>, spent: u64, now: Moment) -> Self {
        Self { daily, spent: daily.map_or(0, |daily| spent.min(daily)), at: now }
    }

    /// Another amount a day from now on; what was spent stays spent, as far as it was
    /// counted.
    pub fn limit(&mut self, daily: Option<u64>, now: Moment) {
        *self = Self { daily, spent: daily.map_or(0, |daily| self.spent(now).min(daily)), at: now };
    }

    /// Bytes that were written.
    pub fn spend(&mut self, now: Moment, bytes: u64) {
        let spent = self.spent(now);
        // At most one day is owed: a burst that is over must not stop writes for many days.
        self.spent = self.daily.map_or(0, |daily| spent.saturating_add(bytes).min(daily.saturating_mul(2)));
        self.at = now;
    }

    /// What is spent and not forgiven yet.
    pub fn spent(&self, now: Moment) -> u64 {
        let Some(daily) = self.daily else { return 0 };
        let forgiven = u128::from(daily) * now.since(self.at).as_millis() / DAY;
        self.spent.saturating_sub(u64::try_from(forgiven).unwrap_or(u64::MAX))
    }

    /// How much of it is left.
    pub fn level(&self, now: Moment) -> BudgetLevel {
        match self.daily {
            Some(daily) if self.spent(now) >= daily => BudgetLevel::Spent,
            Some(daily) if self.spent(now) > daily / 2 => BudgetLevel::Low,
            _ => BudgetLevel::Ample,
        }
    }

    /// How long what may wait waits, where that is `usual` while there is plenty:
    /// from half of the budget on it grows evenly.
    pub fn window(&self, now: Moment, usual: Duration) -> Duration {
        let Some(daily) = self.daily else { return usual };
        let half = daily / 2;
        let over = self.spent(now).saturating_sub(half).min(half.max(1));
        let share = over as f64 / half.max(1) as f64;
        usual + WIDEST.saturating_sub(usual).mul_f64(share)
    }

    /// When something can be written again, once it is spent.
    pub fn refilled(&self, now: Moment) -> Moment {
        let Some(daily) = self.daily.filter(|daily| *daily > 0) else { return now };
        // A sixteenth free: not to write each time a byte is forgiven.
        let excess = u128::from(self.spent(now).saturating_sub(daily - daily / 16));
        let wait = excess * DAY / u128::from(daily);
        now + Duration::from_millis(u64::try_from(wait).unwrap_or(u64::MAX))
    }
}
