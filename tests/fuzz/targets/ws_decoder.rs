//! WebSocket frames: `edge::net::ws_decoder::Decoder` on any bytes in any pieces, alone and for two
//! connections in turn.

#![no_main]

mod pieces;

use libfuzzer_sys::fuzz_target;
use pieces::Cuts;
use wshubd::edge::net::line_decoder::DecodeFlow;
use wshubd::edge::net::ws_decoder::{Decoded, Decoder, PartialMessage};
use wshubd::protocol::Close;

/// Small, so that messages over it are common.
const LONGEST: usize = 600;

/// A frame of a pong or close from a server: not masked, in one byte of length.
const PONG: u8 = 0x8a;
const CLOSE: u8 = 0x88;

#[derive(Clone, PartialEq, Debug)]
enum DecodedEvent {
    Text(String),
    Binary(Vec<u8>),
    /// The answer to a close.
    Goodbye(Vec<u8>),
    Closed,
    Broken(Close),
}

/// One connection: its partial input, and the decoded messages.
#[derive(Default)]
struct Connection {
    held: Option<Box<PartialMessage>>,
    events: Vec<DecodedEvent>,
    /// Each pong, with how many of the others came before.
    pongs: Vec<(usize, Vec<u8>)>,
    controls: u32,
    is_over: bool,
    is_waiting: bool,
}

impl Connection {
    fn decode(&mut self, decoder: &mut Decoder, piece: &[u8], mut waits: impl FnMut() -> bool) {
        if self.is_over {
            return;
        }
        let Self { held, events, pongs, controls, is_over, is_waiting } = self;
        *is_waiting = false;
        decoder.decode(held, piece, |decoded| {
            assert!(!*is_over, "nothing follows the end");
            match decoded {
                Decoded::Text(text) => events.push(DecodedEvent::Text(text.to_owned())),
                Decoded::Binary(bytes) => events.push(DecodedEvent::Binary(bytes.to_vec())),
                Decoded::Alive { controls: more } => *controls += more,
                Decoded::Reply(bytes) if bytes.first() == Some(&CLOSE) => {
                    events.push(DecodedEvent::Goodbye(bytes.to_vec()))
                }
                Decoded::Reply(bytes) => pongs.extend(split_pongs(bytes).map(|pong| (events.len(), pong))),
                Decoded::Closed => events.push(DecodedEvent::Closed),
                Decoded::Broken(close) => events.push(DecodedEvent::Broken(close)),
            }
            *is_over = matches!(events.last(), Some(DecodedEvent::Closed | DecodedEvent::Broken(_)));
            *is_waiting = !*is_over && waits();
            if *is_waiting { DecodeFlow::Pause } else { DecodeFlow::Continue }
        });
        assert!(!self.is_over || self.held.is_none(), "what has ended keeps nothing");
        let most = 4 * (LONGEST + 14 + (LONGEST / 4 + (4 << 10))) + 1024;
        assert!(self.held.as_ref().is_none_or(|held| held.bytes() <= most), "what is held is bounded");
    }

    /// Decodes the input that was left for later, in parts.
    fn go_on(&mut self, decoder: &mut Decoder, mut waits: impl FnMut() -> bool) {
        while self.is_waiting {
            self.decode(decoder, &[], &mut waits);
        }
    }
}

fn split_pongs(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, after) = rest.split_first_chunk::<2>()?;
        assert_eq!(head[0], PONG, "a reply is pongs, or the answer to a close");
        let (payload, after) = after.split_at(usize::from(head[1]));
        rest = after;
        Some(payload.to_vec())
    })
}

/// What is decoded byte by byte: then each ping is answered.
fn by_bytes(bytes: &[u8]) -> Connection {
    let (mut connection, mut decoder) = (Connection::default(), Decoder::new(LONGEST));
    for byte in bytes.chunks(1) {
        connection.decode(&mut decoder, byte, || false);
    }
    connection
}

/// Whether the result is the same as byte by byte. Of very many pings in a row, which depends on the
/// pieces, only some are answered.
fn check(cut: &Connection, by_bytes: &Connection) {
    assert_eq!(cut.events, by_bytes.events);
    let mut all = by_bytes.pongs.iter();
    let is_among = cut.pongs.iter().all(|pong| all.any(|other| other == pong));
    assert!(is_among, "pongs in pieces: {:?}, byte by byte: {:?}", cut.pongs, by_bytes.pongs);
    assert_eq!(cut.controls, by_bytes.controls, "each ping and pong is counted once");
}

fuzz_target!(|input: &[u8]| {
    let Some((mut cuts, bytes)) = Cuts::split_off(input) else { return };
    let (one, two) = bytes.split_at(bytes.len() * cuts.below(4) / 4);
    let expected = by_bytes(bytes);
    let mut connection = Connection::default();
    let mut decoder = Decoder::new(LONGEST);
    connection.decode(&mut decoder, bytes, || false);
    check(&connection, &expected);
    let pieces = cuts.pieces(bytes);
    let mut connection = Connection::default();
    for piece in &pieces {
        connection.decode(&mut decoder, piece, || false);
    }
    check(&connection, &expected);
    // The same decoder, for the next connection; now and then with the rest to wait.
    let mut connection = Connection::default();
    for piece in &pieces {
        connection.decode(&mut decoder, piece, || cuts.below(3) == 0);
    }
    connection.go_on(&mut decoder, || cuts.below(3) == 0);
    check(&connection, &expected);
    let mut both = [Connection::default(), Connection::default()];
    let (pieces, others) = (cuts.pieces(one), cuts.pieces(two));
    for turn in 0..pieces.len().max(others.len()) {
        for (connection, pieces) in both.iter_mut().zip([&pieces, &others]) {
            let piece = pieces.get(turn).copied().unwrap_or_default();
            connection.decode(&mut decoder, piece, || false);
        }
    }
    check(&both[0], &by_bytes(one));
    check(&both[1], &by_bytes(two));
});
