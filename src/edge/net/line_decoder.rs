//! Lines of a worker, out of what its socket gives.
//!
//! Knows where a line ends and how long one may be. Does not know JSON.

use super::mem_accounting::MemCharge;

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
pub struct PartialLine {
    /// The beginning of the line.
    tail: Vec<u8>,
    /// The rest of a line that was too long is being skipped.
    skips: bool,
    /// There are whole lines in `tail`, which nobody has heard yet.
    has_lines: bool,
    load: MemCharge,
}

impl PartialLine {
    fn is_empty(&self) -> bool {
        self.tail.is_empty() && !self.skips
    }

    /// How much memory it takes.
    pub fn bytes(&self) -> usize {
        self.load.bytes()
    }

    /// Whether there are whole lines that nobody has heard yet.
    pub(in crate::edge) fn has_lines(&self) -> bool {
        self.has_lines
    }

    /// The beginning of the line, or lines that were not heard yet, and whether the rest of it is skipped.
    pub(in crate::edge) fn parts(&self) -> (&[u8], bool) {
        (&self.tail, self.skips)
    }

    /// The same again, of another process.
    pub(in crate::edge) fn of_parts(tail: Vec<u8>, skips: bool) -> Self {
        let load = MemCharge::of(size_of::<Self>() + tail.capacity());
        let has_lines = memchr::memchr(b'\n', &tail).is_some();
        Self { tail, skips, has_lines, load }
    }
}

/// Whether more of what a link has said is to be heard now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    More,
    /// What follows is held, as it is.
    Wait,
}

/// Splits what was read, beginning with what was `held`. Lines over `limit`
/// bytes are told once and never kept.
pub fn split(
    held: &mut Option<Box<PartialLine>>,
    block: &[u8],
    limit: usize,
    mut hear: impl FnMut(Line<'_>) -> Next,
) {
    let mut kept = held.take().unwrap_or_default();
    if std::mem::take(&mut kept.has_lines) {
        let mut all = std::mem::take(&mut kept.tail);
        all.extend_from_slice(block);
        split_block(&mut kept, &all, limit, &mut hear);
    } else {
        split_block(&mut kept, block, limit, &mut hear);
    }
    if !kept.is_empty() {
        kept.load.set(size_of::<PartialLine>() + kept.tail.capacity());
        *held = Some(kept);
    }
}

fn split_block(kept: &mut PartialLine, block: &[u8], limit: usize, hear: &mut impl FnMut(Line<'_>) -> Next) {
    let mut rest = block;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let (line, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        let length = kept.tail.len() + line.len();
        if std::mem::take(&mut kept.skips) {
            continue;
        }
        let next = if length > limit {
            kept.tail = Vec::new();
            hear(Line::TooLong)
        } else if kept.tail.is_empty() {
            tell(line, hear)
        } else {
            kept.tail.extend_from_slice(line);
            let line = std::mem::take(&mut kept.tail);
            tell(&line, hear)
        };
        if next == Next::Wait && memchr::memchr(b'\n', rest).is_some() {
            kept.has_lines = true;
            kept.tail = rest.to_vec();
            return;
        }
    }
    if !kept.skips && kept.tail.len() + rest.len() > limit {
        // Whether more is to be heard now is asked again with the next line.
        hear(Line::TooLong);
        kept.tail = Vec::new();
        kept.skips = true;
    }
    if !kept.skips {
        kept.tail.extend_from_slice(rest);
    }
}

/// Blank lines separate, they say nothing.
fn tell(line: &[u8], hear: &mut impl FnMut(Line<'_>) -> Next) -> Next {
    if line.trim_ascii().is_empty() { Next::More } else { hear(Line::Whole(line)) }
}

/// The socket has closed: what is left of a line is never a message.
pub fn end(held: Option<Box<PartialLine>>, mut hear: impl FnMut(Line<'_>)) {
    if held.is_some_and(|held| !held.tail.trim_ascii().is_empty()) {
        hear(Line::Half);
    }
}
