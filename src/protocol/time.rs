//! Points in time.
//!
//! Knows how they are written. Does not know what time it is: only the driver
//! reads a clock.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

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
}

/// The last millisecond that RFC 3339 can spell, in the year 9999.
const LAST_SPELLABLE: u64 = 253_402_300_799_999;

/// RFC 3339 in UTC with milliseconds.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = UNIX_EPOCH + Duration::from_millis(self.0.min(LAST_SPELLABLE));
        humantime::format_rfc3339_millis(at).fmt(f)
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
    to.collect_str(time)
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
