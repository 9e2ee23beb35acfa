//! Points in time, and how they are written. Only `edge::clock` reads a clock.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

/// A point of the monotonic clock that goes on while the machine sleeps; for
/// deadlines. Milliseconds since the machine started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    /// How long ago `earlier` was; nothing if it is still to come.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// A wall-clock time, in milliseconds since 1970 began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Deserialize)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// From the whole seconds that tokens use.
    pub fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// The letters of RFC 3339. Every message has a time, and a formatter would be a
    /// twentieth of the daemon's own work for a publication.
    fn spelled(self) -> [u8; 24] {
        let millis = self.0.min(LAST_SPELLABLE);
        let (year, month, day) = date(millis / DAY);
        let (hour, minute) = (millis / 3_600_000 % 24, millis / 60_000 % 60);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let second = millis / 1000 % 60;
        let parts =
            [(4, year), (7, month), (10, day), (13, hour), (16, minute), (19, second), (23, millis % 1000)];
        for (end, number) in parts {
            let (mut place, mut rest) = (end, number);
            while rest > 0 {
                place -= 1;
                text[place] = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        text
    }
}

/// Milliseconds.
const DAY: u64 = 86_400_000;

/// Year, month and day of a day since 1970 began, in the calendar of RFC 3339.
fn date(days: u64) -> (u64, u64, u64) {
    /// From the first of March of the year 0 to 1970: a year that begins in March has
    /// its leap day at its end, and four centuries are as long as any other four.
    const BEFORE: u64 = 719_468;
    const YEAR: u64 = 365;
    const FOUR_YEARS: u64 = 4 * YEAR + 1;
    const CENTURY: u64 = 25 * FOUR_YEARS - 1;
    const FOUR_CENTURIES: u64 = 4 * CENTURY + 1;
    let days = days + BEFORE;
    let (eras, day) = (days / FOUR_CENTURIES, days % FOUR_CENTURIES);
    // The leap days that went before are taken away, so that all years are alike.
    let leaps = day / (FOUR_YEARS - 1) - day / CENTURY + day / (FOUR_CENTURIES - 1);
    let year = (day - leaps) / YEAR;
    let day = day - (YEAR * year + year / 4 - year / 100);
    // From March on months have 31, 30, 31, 30 and 31 days, again and again.
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let is_next_year = month >= 10;
    let month = if is_next_year { month - 9 } else { month + 3 };
    (400 * eras + year + u64::from(is_next_year), month, day_of_month)
}

/// Digits are ASCII.
fn as_text(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).unwrap_or_default()
}

/// The last millisecond that RFC 3339 can spell, in the year 9999.
const LAST_SPELLABLE: u64 = 253_402_300_799_999;

/// RFC 3339 in UTC with milliseconds.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(as_text(&self.spelled()))
    }
}

/// A number for the daemon's own state; frames spell it with [`rfc3339`].
impl Serialize for UnixTime {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(self.0)
    }
}

/// Writes a time as a frame does.
///
/// # Errors
/// Those of the serializer.
pub fn rfc3339<S: Serializer>(time: &UnixTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(as_text(&time.spelled()))
}

/// As [`rfc3339`], where there may be none.
///
/// # Errors
/// Those of the serializer.
pub fn rfc3339_if_any<S: Serializer>(time: &Option<UnixTime>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, to),
        None => to.serialize_none(),
    }
}

/// Writes a duration in seconds, as JSON on this wire has them.
///
/// # Errors
/// Those of the serializer.
pub fn seconds<S: Serializer>(wait: &Duration, to: S) -> Result<S::Ok, S::Error> {
    if wait.subsec_nanos() == 0 {
        to.serialize_u64(wait.as_secs())
    } else {
        to.serialize_f64(wait.as_secs_f64())
    }
}

/// As [`seconds`], where there may be none.
///
/// # Errors
/// Those of the serializer.
pub fn seconds_if_any<S: Serializer>(wait: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match wait {
        Some(wait) => seconds(wait, to),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn times_are_formatted_as_rfc_3339_until_the_year_9999() {
        // Every day of eight centuries at another time of the day, then every month or so.
        let days = (0..300_000).map(|day| day * DAY + day * 7919 % DAY);
        let rest = (0..=LAST_SPELLABLE).step_by(2_700_000_011).chain([LAST_SPELLABLE]);
        for millis in days.chain(rest) {
            let expected = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis));
            assert_eq!(UnixTime(millis).to_string(), expected.to_string(), "{millis}");
        }
        assert_eq!(UnixTime(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }
}
