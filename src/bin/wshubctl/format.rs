//! Tables, times and sizes as people read them.
//!
//! Times of wshubd are compared with the clock of this machine, which is wshubd's too.

use std::time::{Duration, UNIX_EPOCH};

use bytesize::ByteSize;
use wshubd::protocol::UnixTime;

use crate::terminal::escape;

/// Age of a time: `3h 12m`. The clock may have been set since; a time that lies
/// ahead then is now.
pub(crate) fn age(timestamp: &str, now: UnixTime) -> Option<String> {
    parse_timestamp(timestamp).map(|then| span(between(then, now)))
}

/// An end: the time, and how far that is.
pub(crate) fn end(timestamp: &str, now: UnixTime) -> String {
    match parse_timestamp(timestamp) {
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
    let parts = UNITS.iter().skip(first).take(2).enumerate().filter_map(|(index, (name, unit))| {
        let count = rest / unit;
        rest %= unit;
        // `2h` rather than `2h 0m`, and `0s` rather than nothing.
        (index == 0 || count > 0).then(|| format!("{count}{name}"))
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

fn parse_timestamp(timestamp: &str) -> Option<UnixTime> {
    let since = humantime::parse_rfc3339(timestamp).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(UnixTime(u64::try_from(since.as_millis()).ok()?))
}

fn between(from: UnixTime, to: UnixTime) -> Duration {
    Duration::from_millis(to.0.saturating_sub(from.0))
}

/// One column of a table of `T`.
pub(crate) struct Column<T> {
    head: &'static str,
    align: Align,
    /// The text of its cell, if there is one. The time is now, for ages.
    cell: fn(&T, UnixTime) -> Option<String>,
}

/// Alignment of its cells: words on the left, numbers on the right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

impl<T> Column<T> {
    /// A column of words.
    pub(crate) const fn words(head: &'static str, cell: fn(&T, UnixTime) -> Option<String>) -> Self {
        Self { head, align: Align::Left, cell }
    }

    /// A column of numbers, which can be compared by their length.
    pub(crate) const fn numbers(head: &'static str, cell: fn(&T, UnixTime) -> Option<String>) -> Self {
        Self { head, align: Align::Right, cell }
    }
}

/// A line of heads and one for each entry. A column without any text is
/// left out.
pub(crate) fn table<'a, T: 'a>(
    columns: &[Column<T>],
    entries: impl Iterator<Item = &'a T> + Clone,
    now: UnixTime,
) -> String {
    let filled = columns.iter().filter_map(|column| {
        let cells: Vec<_> = entries.clone().map(|entry| (column.cell)(entry, now)).collect();
        cells.iter().any(Option::is_some).then(|| {
            let shown =
                cells.into_iter().map(|cell| cell.map_or_else(|| "-".to_owned(), |cell| escape(&cell)));
            (column.align, std::iter::once(column.head.to_owned()).chain(shown).collect::<Vec<_>>())
        })
    });
    aligned(&filled.collect::<Vec<_>>())
}

/// Names and their values, a line each.
pub(crate) fn pairs(rows: &[(impl AsRef<str>, String)]) -> String {
    let (names, values) = rows.iter().map(|(name, value)| (escape(name.as_ref()), escape(value))).unzip();
    aligned(&[(Align::Left, names), (Align::Left, values)])
}

/// Columns beside each other, each as wide as its widest cell.
fn aligned(columns: &[(Align, Vec<String>)]) -> String {
    let lines = columns.iter().map(|(_, cells)| cells.len()).max().unwrap_or_default();
    let padded: Vec<Vec<String>> = columns
        .iter()
        .map(|(align, cells)| {
            let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or_default();
            let pad = |cell: &String| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            };
            cells.iter().map(pad).collect()
        })
        .collect();
    (0..lines).fold(String::new(), |mut text, line| {
        let cells: Vec<&str> =
            padded.iter().filter_map(|cells| cells.get(line)).map(String::as_str).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
        text
    })
}
