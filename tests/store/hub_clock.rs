//! What is kept grows old with the time that has really passed, whatever the
//! clocks of the machine show.

use wshubd::edge::store::{Clocks, HubClock};
use wshubd::hub::Now;
use wshubd::protocol::{Moment, UnixTime};

const HOUR: u64 = 3_600_000;
const NOON: u64 = 1_795_000_000_000;

fn at(moment: u64, wall: u64) -> Now {
    Now { moment: Moment(moment), wall: UnixTime(wall) }
}

fn clocks(boot: &str, is_trusted: bool) -> Clocks {
    Clocks { boot: boot.to_owned(), is_trusted }
}

/// How much the hub clock went on from a stop at `stop` to a start at `start`.
fn passed(stop: (Clocks, Now), start: (Clocks, Now)) -> u64 {
    let stamp = HubClock::new(stop.1, stop.0, None).stamp(stop.1);
    let before = HubClock::new(stop.1, clocks("a", true), None).at(stop.1.moment);
    HubClock::new(start.1, start.0, Some(&stamp)).at(start.1.moment) - before
}

#[test]
fn restart_costs_exactly_the_time_that_it_took() {
    let stop = (clocks("a", false), at(5 * HOUR, 0));
    let start = (clocks("a", false), at(5 * HOUR + 300, 0));
    assert_eq!(passed(stop, start), 300);
}

#[test]
fn clock_set_while_the_daemon_is_away_changes_nothing() {
    for wall in [0, NOON - 24 * HOUR, NOON + 10 * 365 * 24 * HOUR] {
        let stop = (clocks("a", true), at(HOUR, NOON));
        let start = (clocks("a", true), at(HOUR + 1000, wall));
        assert_eq!(passed(stop, start), 1000, "{wall}");
    }
}

#[test]
fn time_without_power_counts_where_both_ends_are_trusted() {
    let stop = (clocks("a", true), at(9 * HOUR, NOON));
    let start = (clocks("b", true), at(2000, NOON + HOUR));
    assert_eq!(passed(stop, start), HOUR);
}

#[test]
fn board_that_starts_in_1970_never_expires_early() {
    let (then, now) = (at(9 * HOUR, 20_000), at(2000, 10_000));
    assert_eq!(passed((clocks("a", false), then), (clocks("b", false), now)), 0);
    // It was in 1970 when it stopped, and knows the time when it starts.
    let now = at(2000, NOON);
    assert_eq!(passed((clocks("a", false), then), (clocks("b", true), now)), 0);
    // And the other way round.
    let then = at(9 * HOUR, NOON);
    assert_eq!(passed((clocks("a", true), then), (clocks("b", false), at(2000, 10_000))), 0);
}

#[test]
fn clock_that_went_back_costs_nothing() {
    let stop = (clocks("a", true), at(9 * HOUR, NOON));
    let start = (clocks("b", true), at(2000, NOON - 24 * HOUR));
    assert_eq!(passed(stop, start), 0);
}

#[test]
fn clock_that_leaps_by_years_costs_one_at_most() {
    let stop = (clocks("a", true), at(9 * HOUR, NOON));
    let start = (clocks("b", true), at(2000, NOON + 50 * 365 * 24 * HOUR));
    assert_eq!(passed(stop, start), 366 * 24 * HOUR);
}

#[test]
fn moment_is_the_same_on_both_sides_of_a_reboot() {
    let stop = at(9 * HOUR, NOON);
    let before = HubClock::new(stop, clocks("a", true), None);
    let expires = before.at(Moment(10 * HOUR));
    let stamp = before.stamp(stop);
    let start = at(2000, NOON + HOUR / 4);
    let after = HubClock::new(start, clocks("b", true), Some(&stamp));
    // An hour was left; a quarter of it went by without power.
    assert_eq!(after.moment(expires), Moment(2000 + HOUR * 3 / 4));
    assert_eq!(
        Moment(10 * HOUR).0.cast_signed() + after.shift(&stamp),
        after.moment(expires).0.cast_signed()
    );
}

#[test]
fn age_while_the_daemon_was_away_counts_at_once() {
    let stop = at(9 * HOUR, NOON);
    let before = HubClock::new(stop, clocks("a", true), None);
    let expires = before.at(Moment(10 * HOUR));
    let start = at(2000, NOON + 3 * HOUR);
    let after = HubClock::new(start, clocks("b", true), Some(&before.stamp(stop)));
    assert!(after.moment(expires) <= start.moment);
}
