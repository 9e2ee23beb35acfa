//! Times and sizes as people read them.
//!
//! Knows how much of a number is worth seeing. Takes wshubd's times as they come,
//! and compares them with the clock of this machine, which is wshubd's too.

use std::time::{Duration, UNIX_EPOCH};

use bytesize::ByteSize;
use wshubd::protocol::UnixTime;

/// How long ago a time is: `3h 12m`. The clock may have been set since; what lies
/// ahead then is now.
pub(crate) fn age(timestamp: &str, now: UnixTime) -> Option<String> {
    read(timestamp).map(|then| span(between(then, now)))
}

/// When something ends: the time, and how far that is.
pub(crate) fn end(timestamp: &str, now: UnixTime) -> String {
    match read(timestamp) {
        Some(then) => format!("{timestamp}, in {}", span(between(now, then))),
        None => timestamp.to_owned(),
    }
}

/// A duration in its two greatest units.
pub(crate) fn span(time: Duration) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)];
    let seconds = time.as_secs();
    let first = UNITS.iter().position(|(_, unit)| seconds >= *unit).unwrap_or(UNITS.len() - 1);
    let mut rest = seconds;
    let parts = UNITS.iter().skip(first).take(2).enumerate().filter_map(|(place, (name, unit))| {
        let count = rest / unit;
        rest %= unit;
        // `2h` rather than `2h 0m`, and `0s` rather than nothing.
        (place == 0 || count > 0).then(|| format!("{count}{name}"))
    });
    parts.collect::<Vec<_>>().join(" ")
}

/// Bytes: `190 B`, `3.4 KiB`.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// `1 message`, `2 messages`.
pub(crate) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn read(timestamp: &str) -> Option<UnixTime> {
    let since = humantime::parse_rfc3339(timestamp).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(UnixTime(u64::try_from(since.as_millis()).ok()?))
}

fn between(from: UnixTime, to: UnixTime) -> Duration {
    Duration::from_millis(to.0.saturating_sub(from.0))
}
