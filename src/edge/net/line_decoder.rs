//! Decoder of the lines of workers.
//!
//! Lines end with a line feed and have a limit on their length.

use super::mem_accounting::MemCharge;

/// What a worker has sent.
#[derive(PartialEq, Eq, Debug)]
pub enum WorkerLine<'a> {
    /// One line, without its end.
    Whole(&'a [u8]),
    /// One over the limit was skipped to its end.
    TooLong,
    /// The socket closed in the middle of a line.
    Half,
}

/// What is held of a worker's input while a line is unfinished.
#[derive(Default, Debug)]
pub struct PartialLine {
    /// The beginning of the line.
    tail: Vec<u8>,
    /// The rest of a line that was too long is being skipped.
    skips: bool,
    /// There are whole lines in `tail` that are still to be decoded.
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

    /// Whether there are whole lines that are still to be decoded.
    pub fn has_lines(&self) -> bool {
        self.has_lines
    }

    /// As it is handed over.
    pub(super) fn export(&self) -> PartialLineState {
        PartialLineState { tail: self.tail.clone(), skips: self.skips }
    }

    /// The same again in another process.
    pub(super) fn import(state: PartialLineState) -> Self {
        let PartialLineState { tail, skips } = state;
        let load = MemCharge::of(size_of::<Self>() + tail.capacity());
        let has_lines = memchr::memchr(b'\n', &tail).is_some();
        Self { tail, skips, has_lines, load }
    }
}

/// A partial line in a hand-over.
#[derive(Debug)]
pub struct PartialLineState {
    /// The beginning of the line, or lines that are still to be decoded.
    pub tail: Vec<u8>,
    /// The rest of the line is skipped.
    pub skips: bool,
}

/// Whether more of what a connection has sent is to be decoded now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeFlow {
    Continue,
    /// What follows is held, as it is.
    Pause,
}

/// Splits what was read, beginning with what was `held`. Lines over `limit` bytes are reported
/// once and never kept.
pub fn split(
    held: &mut Option<Box<PartialLine>>,
    block: &[u8],
    limit: usize,
    mut receive: impl FnMut(WorkerLine<'_>) -> DecodeFlow,
) {
    let mut kept = held.take().unwrap_or_default();
    if std::mem::take(&mut kept.has_lines) {
        let mut all = std::mem::take(&mut kept.tail);
        all.extend_from_slice(block);
        split_block(&mut kept, &all, limit, &mut receive);
    } else {
        split_block(&mut kept, block, limit, &mut receive);
    }
    if !kept.is_empty() {
        kept.load.set(size_of::<PartialLine>() + kept.tail.capacity());
        *held = Some(kept);
    }
}

fn split_block(
    kept: &mut PartialLine,
    block: &[u8],
    limit: usize,
    receive: &mut impl FnMut(WorkerLine<'_>) -> DecodeFlow,
) {
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
            receive(WorkerLine::TooLong)
        } else if kept.tail.is_empty() {
            pass_on(line, receive)
        } else {
            kept.tail.extend_from_slice(line);
            let line = std::mem::take(&mut kept.tail);
            pass_on(&line, receive)
        };
        if next == DecodeFlow::Pause && memchr::memchr(b'\n', rest).is_some() {
            kept.has_lines = true;
            kept.tail = rest.to_vec();
            return;
        }
    }
    if !kept.skips && kept.tail.len() + rest.len() > limit {
        // Whether more is to be decoded now is asked again with the next line.
        receive(WorkerLine::TooLong);
        kept.tail = Vec::new();
        kept.skips = true;
    }
    if !kept.skips {
        kept.tail.extend_from_slice(rest);
    }
}

/// Passes a line on. Blank lines separate others and mean nothing.
fn pass_on(line: &[u8], receive: &mut impl FnMut(WorkerLine<'_>) -> DecodeFlow) -> DecodeFlow {
    if line.trim_ascii().is_empty() { DecodeFlow::Continue } else { receive(WorkerLine::Whole(line)) }
}

/// The socket has closed: what is left of a line is never a message.
pub fn end(held: Option<Box<PartialLine>>, mut receive: impl FnMut(WorkerLine<'_>)) {
    if held.is_some_and(|held| !held.tail.trim_ascii().is_empty()) {
        receive(WorkerLine::Half);
    }
}
