//! The wire itself, case by case: what a peer may send in frames and lines, and
//! what comes of it, however the bytes are cut and whoever else is talking.

use wshubd::edge::net::encoded_frame::EncodedFrame;
use wshubd::edge::net::line_decoder;
use wshubd::edge::net::line_decoder::{DecodeFlow, WorkerLine};
use wshubd::edge::net::mem_accounting;
use wshubd::edge::net::send_queue::{QueuedFrame, SendQueue};
use wshubd::edge::net::ws_decoder::{Decoded, Decoder, PartialMessage};
use wshubd::protocol::Close;

/// Small, so that the limits are within reach.
const LIMIT: usize = 1000;

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const MORE: u8 = 0x0;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FIN: u8 = 0x80;

/// A masked frame; `first` is the byte with FIN, reserved bits and opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn text(payload: &str) -> Vec<u8> {
    frame(FIN | TEXT, payload.as_bytes())
}

fn joined(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.concat()
}

/// What was heard, in words that a table can hold.
fn spoken(received: &Decoded<'_>) -> String {
    match received {
        Decoded::Text(text) => format!("text {text}"),
        Decoded::Binary(bytes) => format!("binary {}", bytes.len()),
        Decoded::Alive { .. } => "alive".into(),
        Decoded::Reply(frame) => format!("reply {}", hex(frame)),
        Decoded::Closed => "closed".into(),
        Decoded::Broken(close) => format!("broken {}", close.code()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[expect(clippy::too_many_lines, reason = "one table")]
/// The cases: a sentence, what is sent, what is heard.
fn cases() -> Vec<(&'static str, Vec<u8>, Vec<&'static str>)> {
    let long = "x".repeat(LIMIT);
    vec![
        ("a message in one frame", text("hello"), vec!["text hello"]),
        ("an empty message", text(""), vec!["text "]),
        ("two messages in a row", joined(&[text("a"), text("b")]), vec!["text a", "text b"]),
        ("a binary message", frame(FIN | BINARY, &[0; 300]), vec!["binary 300"]),
        (
            "a message in three fragments",
            joined(&[frame(TEXT, b"one "), frame(MORE, b"two "), frame(FIN | MORE, b"three")]),
            vec!["alive", "text one two three"],
        ),
        (
            "a character cut in two by fragments",
            joined(&[frame(TEXT, &[0xc3]), frame(FIN | MORE, &[0xa9])]),
            vec!["alive", "text é"],
        ),
        (
            "a ping between fragments is answered at once",
            joined(&[frame(TEXT, b"be"), frame(FIN | PING, b"!"), frame(FIN | MORE, b"fore")]),
            vec!["alive", "reply 8a0121", "text before"],
        ),
        ("a ping without payload", frame(FIN | PING, b""), vec!["alive", "reply 8a00"]),
        ("an unasked pong", frame(FIN | PONG, b"?"), vec!["alive"]),
        ("a close without a code", frame(FIN | CLOSE, b""), vec!["reply 8800", "closed"]),
        ("a close with a code", frame(FIN | CLOSE, &[0x03, 0xe8]), vec!["reply 880203e8", "closed"]),
        (
            "nothing after a close is heard",
            joined(&[frame(FIN | CLOSE, b""), text("late")]),
            vec!["reply 8800", "closed"],
        ),
        ("a close of one byte", frame(FIN | CLOSE, &[0x03]), vec!["broken 1002"]),
        (
            "a close with a reason that is not UTF-8",
            frame(FIN | CLOSE, &[0x03, 0xe8, 0xff]),
            vec!["broken 1007"],
        ),
        ("text that is not UTF-8", frame(FIN | TEXT, &[0xc0, 0xaf]), vec!["broken 1007"]),
        ("a surrogate in UTF-8", frame(FIN | TEXT, &[0xed, 0xa0, 0x80]), vec!["broken 1007"]),
        ("a continuation of nothing", frame(FIN | MORE, b"x"), vec!["broken 1002"]),
        (
            "a message inside an unfinished one",
            joined(&[frame(TEXT, b"a"), text("b")]),
            vec!["alive", "broken 1002"],
        ),
        ("a reserved bit", frame(FIN | 0x40 | TEXT, b"x"), vec!["broken 1002"]),
        ("a reserved opcode", frame(FIN | 0x3, b"x"), vec!["broken 1002"]),
        ("a reserved control opcode", frame(FIN | 0xb, b""), vec!["broken 1002"]),
        ("a ping in fragments", frame(PING, b"x"), vec!["broken 1002"]),
        ("a ping of 126 bytes", frame(FIN | PING, &[0; 126]), vec!["broken 1002"]),
        ("a frame without a mask", vec![FIN | TEXT, 1, b'x'], vec!["broken 1002"]),
        (
            "a length in more bytes than it needs",
            vec![FIN | TEXT, 0xfe, 0, 1, 0, 0, 0, 0, b'x'],
            vec!["broken 1002"],
        ),
        (
            "what came before a mistake is heard",
            joined(&[text("a"), frame(FIN | 0x3, b"")]),
            vec!["text a", "broken 1002"],
        ),
        (
            "an absurd length, before any of it has come",
            [vec![FIN | TEXT, 0xff], vec![0x7f; 8], vec![0; 4]].concat(),
            vec!["broken 1009"],
        ),
        (
            "a length of 2^63",
            [vec![FIN | TEXT, 0xff, 0x80], vec![0; 7], vec![0; 4]].concat(),
            vec!["broken 1009"],
        ),
        (
            "the largest length that a header can say",
            [vec![FIN | TEXT, 0xff], vec![0xff; 8], vec![0; 4]].concat(),
            vec!["broken 1009"],
        ),
        ("one byte over the limit", frame(FIN | TEXT, &[b'x'; LIMIT + 1]), vec!["broken 1009"]),
        (
            "fragments over the limit together",
            joined(&[frame(TEXT, long.as_bytes()), frame(FIN | MORE, b"x")]),
            vec!["alive", "broken 1009"],
        ),
        (
            "fragments of one byte without end",
            [frame(TEXT, b"x"), joined(&vec![frame(MORE, b"x"); 2000])].concat(),
            vec!["alive", "broken 1009"],
        ),
        (
            "empty fragments without end",
            joined(&vec![frame(TEXT, b""); 1])
                .into_iter()
                .chain(joined(&vec![frame(MORE, b""); 2000]))
                .collect(),
            vec!["alive", "broken 1009"],
        ),
    ]
}

/// Decodes in pieces of `cut` bytes; `meanwhile` runs between two pieces.
fn decode(
    decoder: &mut Decoder,
    bytes: &[u8],
    cut: usize,
    mut meanwhile: impl FnMut(&mut Decoder),
) -> Vec<String> {
    let (mut held, mut received): (Option<Box<PartialMessage>>, Vec<String>) = (None, Vec::new());
    for piece in bytes.chunks(cut) {
        let is_over = received.last().is_some_and(|last| last.starts_with("broken") || last == "closed");
        if is_over {
            break;
        }
        decoder.decode(&mut held, piece, |one| {
            received.push(spoken(&one));
            DecodeFlow::Continue
        });
        meanwhile(decoder);
    }
    let is_over = received.last().is_some_and(|last| last.starts_with("broken") || last == "closed");
    assert!(held.is_none() || !is_over, "an ended connection keeps nothing");
    // That somebody lives is not news twice.
    received.dedup_by(|one, before| one == "alive" && before == "alive");
    received
}

#[test]
fn every_case_is_heard_as_it_should_be_however_it_is_cut() {
    for (sentence, bytes, wanted) in cases() {
        for cut in [bytes.len(), 1, 2, 3, 7, 64] {
            let mut decoder = Decoder::new(LIMIT);
            let received = decode(&mut decoder, &bytes, cut, |_| {});
            assert_eq!(received, wanted, "{sentence}, in pieces of {cut}");
        }
    }
}

#[test]
fn peers_that_share_a_decoder_never_hear_of_each_other() {
    for (sentence, bytes, wanted) in cases() {
        let mut decoder = Decoder::new(LIMIT);
        let (mut other, mut turn) = (None, 0usize);
        let story = joined(&[frame(FIN | PING, b"mine"), frame(TEXT, b"half"), frame(FIN | MORE, b" whole")]);
        let received = decode(&mut decoder, &bytes, 3, |decoder| {
            // A neighbour says its own in pieces of five, over and over.
            let pieces = story.len().div_ceil(5);
            let from = turn % pieces * 5;
            let piece = &story[from..story.len().min(from + 5)];
            let mut received = Vec::new();
            decoder.decode(&mut other, piece, |one| {
                received.push(spoken(&one));
                DecodeFlow::Continue
            });
            for one in &received {
                assert!(
                    ["alive", "reply 8a046d696e65", "text half whole"].contains(&one.as_str()),
                    "{sentence}: {one}"
                );
            }
            turn += 1;
        });
        assert_eq!(received, wanted, "{sentence}, beside a neighbour");
    }
}

#[test]
fn a_connection_with_nothing_unfinished_keeps_nothing() {
    let mut decoder = Decoder::new(LIMIT);
    let mut held = None;
    decoder.decode(&mut held, &joined(&[text("a"), frame(TEXT, b"b"), frame(FIN | MORE, b"c")]), |_| {
        DecodeFlow::Continue
    });
    assert!(held.is_none());
    decoder.decode(&mut held, &text("a")[..3], |_| DecodeFlow::Continue);
    assert!(held.is_some());
}

/// Splits in pieces of `cut` bytes, and ends.
fn lines_of(bytes: &[u8], cut: usize) -> Vec<String> {
    let (mut held, mut received) = (None, Vec::new());
    let mut tell = |line: WorkerLine<'_>| {
        received.push(match line {
            WorkerLine::Whole(line) => String::from_utf8_lossy(line).into_owned(),
            WorkerLine::TooLong => "(too long)".into(),
            WorkerLine::Half => "(half)".into(),
        });
        DecodeFlow::Continue
    };
    for piece in bytes.chunks(cut) {
        line_decoder::split(&mut held, piece, 8, &mut tell);
    }
    line_decoder::end(held, |line| {
        tell(line);
    });
    received
}

#[test]
fn a_line_is_whole_or_it_is_an_error() {
    let table: [(&str, &[&str]); 9] = [
        ("one\ntwo\n", &["one", "two"]),
        ("one\r\n", &["one\r"]),
        ("\n \n\r\nx\n", &["x"]),
        ("no end", &["(half)"]),
        ("12345678\n", &["12345678"]),
        ("123456789\nok\n", &["(too long)", "ok"]),
        ("1234567890123456789012345\nok\n", &["(too long)", "ok"]),
        ("12345678901234567890", &["(too long)"]),
        ("", &[]),
    ];
    for (bytes, wanted) in table {
        for cut in 1..=bytes.len().max(1) {
            assert_eq!(lines_of(bytes.as_bytes(), cut), wanted, "{bytes:?} in pieces of {cut}");
        }
    }
}

#[test]
fn every_close_code_fits_a_close_frame() {
    for close in [Close::TooBig, Close::TooFast, Close::Unauthenticated] {
        let packet = EncodedFrame::close(close);
        let frame = packet.for_client();
        assert_eq!(frame[0], FIN | CLOSE);
        assert_eq!(usize::from(frame[1]), frame.len() - 2, "a control frame's payload is at most 125 bytes");
        assert_eq!(u16::from_be_bytes([frame[2], frame[3]]), close.code());
    }
}

#[test]
fn bytes_in_many_queues_are_held_once_and_given_back_with_the_last() {
    let before = mem_accounting::held();
    let packet = EncodedFrame::raw(&[b'x'; 10_000]);
    let mut queues: Vec<SendQueue> = (0..100).map(|_| SendQueue::default()).collect();
    for queue in &mut queues {
        queue.push(QueuedFrame::for_client(&packet));
    }
    drop(packet);
    let held = mem_accounting::held() - before;
    assert!((10_000..20_000).contains(&held), "{held}: the bytes once, and a little for each place");
    let parts: usize = queues.iter().map(SendQueue::held).sum();
    assert!(parts.abs_diff(held) <= queues.len(), "{parts} of {held}: each has its part of them");
    queues.truncate(1);
    assert!((10_000..11_000).contains(&queues[0].held()));
    queues.clear();
    assert_eq!(mem_accounting::held(), before);
}

#[test]
fn what_is_half_said_is_held_until_it_is_whole_or_its_link_is_gone() {
    let before = mem_accounting::held();
    let mut decoder = Decoder::new(1 << 20);
    let (mut held, mut line) = (None, None);
    let long = frame(FIN | TEXT, &[b'x'; 60_000]);
    let (first, rest) = long.split_at(50_000);
    decoder.decode(&mut held, first, |_| DecodeFlow::Continue);
    let half = mem_accounting::held() - before;
    assert!((50_000..110_000).contains(&half), "{half}");
    assert_eq!(held.as_ref().map(|held| held.bytes()), Some(half));
    decoder.decode(&mut held, rest, |_| DecodeFlow::Continue);
    assert_eq!(mem_accounting::held(), before);

    line_decoder::split(&mut line, &[b'x'; 50_000], 1 << 20, |_| DecodeFlow::Continue);
    assert!(mem_accounting::held() - before >= 50_000);
    drop(line);
    assert_eq!(mem_accounting::held(), before);
}

#[test]
fn fragments_of_one_byte_are_held_within_a_bound() {
    let before = mem_accounting::held();
    let mut decoder = Decoder::new(LIMIT);
    let (mut held, mut most, mut is_over) = (None, 0, false);
    let mut fragment = frame(TEXT, b"x");
    let mut count = 0;
    while !is_over {
        decoder.decode(&mut held, &fragment, |one| {
            is_over |= one == Decoded::Broken(Close::TooBig);
            DecodeFlow::Continue
        });
        most = most.max(mem_accounting::held() - before);
        fragment = frame(MORE, b"x");
        count += 1;
    }
    // The payload of a whole message has more bytes than this many headers.
    assert!(count < LIMIT, "{count} fragments");
    assert!(most < 4 * (LIMIT + (4 << 10)), "{most} bytes were held");
    assert_eq!(mem_accounting::held(), before);
}

#[test]
fn a_header_that_says_too_much_takes_no_memory() {
    let before = mem_accounting::held();
    let mut decoder = Decoder::new(LIMIT);
    let mut held = None;
    for length in [1 << 16, 1 << 32, 1 << 63, u64::MAX] {
        let mut received = Vec::new();
        for byte in [&[FIN | TEXT, 0xff], &length.to_be_bytes()[..], &[0; 4]].concat() {
            decoder.decode(&mut held, &[byte], |one| {
                received.push(spoken(&one));
                DecodeFlow::Continue
            });
            assert!(mem_accounting::held() - before < 1000);
            if !received.is_empty() {
                break;
            }
        }
        assert_eq!((received, mem_accounting::held()), (vec!["broken 1009".to_owned()], before), "{length}");
    }
}

#[test]
fn lines_that_are_not_to_be_heard_yet_are_heard_later() {
    let bytes = b"one\ntwo\n\nthree\nfo";
    // Also where another process goes on: it is given what was held.
    for stop in 1..=3 {
        let (mut held, mut received) = (None, Vec::new());
        let mut say = |line: WorkerLine<'_>, stops: bool| {
            if let WorkerLine::Whole(line) = line {
                received.push(String::from_utf8_lossy(line).into_owned());
            }
            if stops && received.len() == stop { DecodeFlow::Pause } else { DecodeFlow::Continue }
        };
        line_decoder::split(&mut held, bytes, 8, |line| say(line, true));
        line_decoder::split(&mut held, b"ur\n", 8, |line| say(line, false));
        assert_eq!(received, ["one", "two", "three", "four"]);
        assert!(held.is_none());
    }
}

#[test]
fn frames_that_are_not_to_be_heard_yet_are_heard_later_also_by_another_process() {
    let bytes = joined(&[
        text("one"),
        frame(FIN | PING, b""),
        text("two"),
        frame(TEXT, b"th"),
        frame(FIN | MORE, b"ree"),
    ]);
    for stop in 1..=3 {
        let mut decoder = Decoder::new(LIMIT);
        let (mut held, mut received) = (None, Vec::new());
        let mut say = |one: &Decoded<'_>, stops: bool| {
            let Decoded::Text(text) = one else { return DecodeFlow::Continue };
            received.push((*text).to_owned());
            if stops && received.len() == stop { DecodeFlow::Pause } else { DecodeFlow::Continue }
        };
        decoder.decode(&mut held, &bytes, |one| say(&one, true));
        decoder.decode(&mut held, &[], |one| say(&one, false));
        assert!(held.is_none());
        assert_eq!(received, ["one", "two", "three"], "stopped after {stop}");
    }
}

#[test]
fn some_pings_in_a_row_are_answered_each_and_of_very_many_only_the_last_of_sixteen() {
    let mut decoder = Decoder::new(LIMIT);
    let pings: Vec<Vec<u8>> = (0..500).map(|n| frame(FIN | PING, format!("{n}").as_bytes())).collect();
    let bytes = joined(&[joined(&pings), text("and"), frame(FIN | PING, b"last")]);
    let (mut held, mut received, mut pinged) = (None, Vec::new(), 0);
    decoder.decode(&mut held, &bytes, |one| {
        if let Decoded::Alive { controls } = one {
            pinged += controls;
        } else {
            received.push(spoken(&one));
        }
        DecodeFlow::Continue
    });
    // In rows of sixteen, for whoever has to be sent away for it.
    assert_eq!(received.len(), 500usize.div_ceil(16) + 2);
    assert!(
        received[0].starts_with("reply 8a01308a0131") && received[0].ends_with("8a023135"),
        "{}",
        received[0]
    );
    assert_eq!(received[1], "reply 8a023331");
    assert_eq!(received[received.len() - 3..], ["reply 8a03343939", "text and", "reply 8a046c617374"]);
    assert_eq!(pinged, 501);
}
