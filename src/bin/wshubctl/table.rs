//! Lists as tables, for people on a terminal.
//!
//! Knows columns. Does not know what is listed.

use wshubd::protocol::UnixTime;

use crate::terminal::plain;

/// One column of a table of `T`.
pub(crate) struct Column<T> {
    head: &'static str,
    side: Side,
    /// What stands in it, if anything does. The time is now, for ages.
    cell: fn(&T, UnixTime) -> Option<String>,
}

/// On which side its cells begin: words on the left, numbers on the right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl<T> Column<T> {
    /// A column of words.
    pub(crate) const fn words(head: &'static str, cell: fn(&T, UnixTime) -> Option<String>) -> Self {
        Self { head, side: Side::Left, cell }
    }

    /// A column of numbers, which can be compared by their length.
    pub(crate) const fn numbers(head: &'static str, cell: fn(&T, UnixTime) -> Option<String>) -> Self {
        Self { head, side: Side::Right, cell }
    }
}

/// A line of heads and one for each entry. A column in which nothing stands is
/// left out: what is the case for nobody is not worth a look.
pub(crate) fn table<'a, T: 'a>(
    columns: &[Column<T>],
    entries: impl Iterator<Item = &'a T> + Clone,
    now: UnixTime,
) -> String {
    let filled = columns.iter().filter_map(|column| {
        let cells: Vec<_> = entries.clone().map(|entry| (column.cell)(entry, now)).collect();
        cells.iter().any(Option::is_some).then(|| {
            let shown =
                cells.into_iter().map(|cell| cell.map_or_else(|| "-".to_owned(), |cell| plain(&cell)));
            (column.side, std::iter::once(column.head.to_owned()).chain(shown).collect::<Vec<_>>())
        })
    });
    aligned(&filled.collect::<Vec<_>>())
}

/// Names and what belongs to them, a line each.
pub(crate) fn pairs(rows: &[(impl AsRef<str>, String)]) -> String {
    let (names, values) = rows.iter().map(|(name, value)| (plain(name.as_ref()), plain(value))).unzip();
    aligned(&[(Side::Left, names), (Side::Left, values)])
}

/// Columns beside each other, each as wide as its widest cell.
fn aligned(columns: &[(Side, Vec<String>)]) -> String {
    let lines = columns.iter().map(|(_, cells)| cells.len()).max().unwrap_or_default();
    let padded: Vec<Vec<String>> = columns
        .iter()
        .map(|(side, cells)| {
            let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or_default();
            let pad = |cell: &String| match side {
                Side::Left => format!("{cell:<width$}"),
                Side::Right => format!("{cell:>width$}"),
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
