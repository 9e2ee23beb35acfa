//! Lines of workers: `edge::net::line_decoder` on any bytes in any pieces, and `protocol::worker::parse`
//! on each line.

#![no_main]

mod pieces;
mod requests;

use libfuzzer_sys::fuzz_target;
use pieces::Cuts;
use wshubd::edge::net::line_decoder;
use wshubd::edge::net::line_decoder::{DecodeFlow, WorkerLine};
use wshubd::protocol::worker;

/// Short, so that lines over it are common.
const LONGEST: usize = 200;

#[derive(Clone, PartialEq, Debug)]
enum LineEvent {
    Whole(Vec<u8>),
    TooLong,
    Half,
}

fn event(line: WorkerLine<'_>) -> LineEvent {
    match line {
        WorkerLine::Whole(bytes) => LineEvent::Whole(bytes.to_vec()),
        WorkerLine::TooLong => LineEvent::TooLong,
        WorkerLine::Half => LineEvent::Half,
    }
}

/// The lines that the decoder returns for a stream in pieces. Now and then the rest of what
/// came is to wait, and is asked for with the next piece or before it.
fn decoded(pieces: &[&[u8]], mut waits: impl FnMut() -> bool) -> Vec<LineEvent> {
    let (mut all, mut held, mut is_waiting) = (Vec::new(), None, false);
    let empty: &[u8] = &[];
    let mut pieces = pieces.iter().copied();
    loop {
        let piece = if is_waiting && waits() { Some(empty) } else { pieces.next() };
        let Some(piece) = piece.or(is_waiting.then_some(empty)) else { break };
        is_waiting = false;
        line_decoder::split(&mut held, piece, LONGEST, |line| {
            all.push(event(line));
            is_waiting = waits();
            if is_waiting { DecodeFlow::Pause } else { DecodeFlow::Continue }
        });
    }
    line_decoder::end(held, |line| all.push(event(line)));
    all
}

/// The same by the rule alone.
fn expected(stream: &[u8]) -> Vec<LineEvent> {
    let mut all = Vec::new();
    let mut lines = stream.split(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let is_last = lines.peek().is_none();
        let is_blank = line.trim_ascii().is_empty();
        match () {
            () if line.len() > LONGEST => all.push(LineEvent::TooLong),
            () if is_blank => {}
            () if is_last => all.push(LineEvent::Half),
            () => all.push(LineEvent::Whole(line.to_vec())),
        }
    }
    all
}

fuzz_target!(|input: &[u8]| {
    let Some((mut cuts, stream)) = Cuts::split_off(input) else { return };
    let lines = expected(stream);
    assert_eq!(decoded(&[stream], || false), lines, "whole");
    let pieces = cuts.pieces(stream);
    assert_eq!(decoded(&pieces, || false), lines, "in pieces");
    assert_eq!(decoded(&pieces, || cuts.below(3) == 0), lines, "in pieces, with waits");
    for line in &lines {
        let LineEvent::Whole(line) = line else { continue };
        let parsed = worker::parse(line);
        match std::str::from_utf8(line) {
            Ok(text) => requests::check(text, &parsed),
            Err(_) => assert!(parsed.is_err(), "what is not UTF-8 is no request"),
        }
    }
});
