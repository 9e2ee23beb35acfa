//! Lines of a worker, out of what its socket gives.
//!
//! Knows where a line ends and how long one may be. Does not know JSON.

use super::meter::Load;

/// What came.
#[derive(PartialEq, Eq, Debug)]
pub enum Line<'a> {
    /// One line, without its end.
    Whole(&'a [u8]),
    /// One over the limit was skipped to its end.
    TooLong,
    /// The socket closed in the middle of a line.
    Half,
}

/// What a worker's socket keeps while a line is unfinished.
#[derive(Default, Debug)]
pub struct Held {
    /// The beginning of the line.
    tail: Vec<u8>,
    /// The rest of a line that was too long is being skipped.
    skips: bool,
    load: Load,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.tail.is_empty() && !self.skips
    }

    /// How much memory it takes.
    pub fn bytes(&self) -> usize {
        self.load.bytes()
    }

    /// The beginning of the line, and whether the rest of it is skipped.
    pub(super) fn parts(&self) -> (&[u8], bool) {
        (&self.tail, self.skips)
    }

    /// The same again, of another process.
    pub(super) fn of_parts(tail: Vec<u8>, skips: bool) -> Self {
        let load = Load::of(size_of::<Self>() + tail.capacity());
        Self { tail, skips, load }
    }
}

/// Splits what was read, beginning with what was `held`. Lines over `limit`
/// bytes are told once and never kept.
pub fn split(held: &mut Option<Box<Held>>, block: &[u8], limit: usize, mut hear: impl FnMut(Line<'_>)) {
    let mut kept = held.take().unwrap_or_default();
    let mut rest = block;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let (line, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        let length = kept.tail.len() + line.len();
        if std::mem::take(&mut kept.skips) {
            continue;
        }
        if length > limit {
            hear(Line::TooLong);
            kept.tail = Vec::new();
        } else if kept.tail.is_empty() {
            tell(line, &mut hear);
        } else {
            kept.tail.extend_from_slice(line);
            tell(&kept.tail, &mut hear);
            kept.tail = Vec::new();
        }
    }
    if !kept.skips && kept.tail.len() + rest.len() > limit {
        hear(Line::TooLong);
        kept.tail = Vec::new();
        kept.skips = true;
    }
    if !kept.skips {
        kept.tail.extend_from_slice(rest);
    }
    if !kept.is_empty() {
        kept.load.set(size_of::<Held>() + kept.tail.capacity());
        *held = Some(kept);
    }
}

/// Blank lines separate, they say nothing.
fn tell(line: &[u8], hear: &mut impl FnMut(Line<'_>)) {
    if !line.trim_ascii().is_empty() {
        hear(Line::Whole(line));
    }
}

/// The socket has closed: what is left of a line is never a message.
pub fn end(held: Option<Box<Held>>, mut hear: impl FnMut(Line<'_>)) {
    if held.is_some_and(|held| !held.tail.trim_ascii().is_empty()) {
        hear(Line::Half);
    }
}
