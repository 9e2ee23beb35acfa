//! What is written to the flash in a day has a bound; what was promised is written
//! all the same.

use std::time::Duration;

use wshubd::edge::store::write_budget::{BudgetLevel, WriteBudget};
use wshubd::protocol::Moment;

use crate::harness::MIB;

const DELAY: Duration = Duration::from_secs(1);
const DAY: u64 = 24 * 3_600_000;

#[test]
fn fresh_budget_changes_nothing() {
    let budget = WriteBudget::new(Some(256 * MIB), 0, Moment(0));
    assert_eq!((budget.level(Moment(0)), budget.window(Moment(0), DELAY)), (BudgetLevel::Ample, DELAY));
}

#[test]
fn without_a_budget_nothing_is_ever_spent() {
    let mut budget = WriteBudget::new(None, 0, Moment(0));
    budget.spend(Moment(0), 1 << 40);
    assert_eq!((budget.level(Moment(0)), budget.window(Moment(0), DELAY)), (BudgetLevel::Ample, DELAY));
}

#[test]
fn window_grows_once_half_of_the_budget_is_spent() {
    let mut budget = WriteBudget::new(Some(256 * MIB), 0, Moment(0));
    budget.spend(Moment(0), 128 * MIB);
    assert_eq!(budget.window(Moment(0), DELAY), DELAY);
    let mut before = DELAY;
    for _ in 0..7 {
        budget.spend(Moment(0), 16 * MIB);
        let window = budget.window(Moment(0), DELAY);
        assert!(window > before, "{window:?}");
        assert_eq!(budget.level(Moment(0)), BudgetLevel::Low);
        before = window;
    }
    budget.spend(Moment(0), 16 * MIB);
    assert_eq!(budget.level(Moment(0)), BudgetLevel::Spent);
}

#[test]
fn spent_budget_is_whole_again_a_day_later() {
    let mut budget = WriteBudget::new(Some(256 * MIB), 0, Moment(0));
    budget.spend(Moment(0), 256 * MIB);
    assert_eq!(budget.spent(Moment(DAY / 2)), 128 * MIB);
    assert_eq!(budget.spent(Moment(DAY)), 0);
}

#[test]
fn spent_budget_knows_when_writing_is_worth_it_again() {
    let mut budget = WriteBudget::new(Some(256 * MIB), 0, Moment(0));
    budget.spend(Moment(0), 256 * MIB);
    let refilled = budget.refilled(Moment(0));
    assert!(refilled > Moment(DAY / 20) && refilled < Moment(DAY / 10), "{refilled:?}");
    assert_eq!(budget.level(refilled), BudgetLevel::Low);
}

#[test]
fn steady_stream_stays_near_its_budget() {
    let mut budget = WriteBudget::new(Some(256 * MIB), 0, Moment(0));
    let (mut now, mut written) = (Moment(0), 0);
    // Each commit writes 64 KiB, and is due again as soon as the window allows.
    while now.0 < 4 * DAY {
        if budget.level(now) == BudgetLevel::Spent {
            now = budget.refilled(now);
            continue;
        }
        budget.spend(now, 64 << 10);
        written += 64 << 10;
        now = now + budget.window(now, DELAY);
    }
    // The first day may take what was saved up beside its own.
    assert!((3 * 256 * MIB..=5 * 256 * MIB).contains(&written), "{} MiB", written / MIB);
}
