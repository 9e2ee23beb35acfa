//! WebSocket frames, coming in (RFC 6455).
//!
//! Knows framing. One decoder serves every connection of the thread: a
//! connection keeps bytes of its own only while a frame or a fragmented message
//! is unfinished. Does not know what the text in the frames says.

use std::io::{self, Cursor, Read, Write};

use async_tungstenite::tungstenite::protocol::frame::FrameHeader;
use async_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use async_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use async_tungstenite::tungstenite::{Error, Message};

use super::meter::Load;
use crate::protocol::Close;

/// What the peer's bytes came to.
#[derive(PartialEq, Eq, Debug)]
pub enum Heard<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping or pong: the peer lives.
    Alive,
    /// Bytes that the protocol itself sends back: a pong, or the answer to a close.
    Reply(&'a [u8]),
    /// The peer has closed; the reply went before this.
    Closed,
    /// The peer broke the protocol; nothing after this is looked at.
    Broken(Close),
}

/// What a connection keeps while something it sent is unfinished.
#[derive(Default, Debug)]
pub struct Held {
    /// The beginning of a frame.
    tail: Vec<u8>,
    /// How long `tail` must be before looking at it again is of use.
    wanted: usize,
    /// Whole frames of a message that has not ended, as they came.
    fragments: Vec<u8>,
    /// The payload in `fragments`.
    fragments_payload: usize,
    load: Load,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.fragments.is_empty()
    }

    /// How much memory it takes.
    pub fn bytes(&self) -> usize {
        self.load.bytes()
    }

    /// Whole frames of an unfinished message, with how much of them is payload,
    /// and the beginning of a frame.
    pub(super) fn parts(&self) -> (&[u8], usize, &[u8]) {
        (&self.fragments, self.fragments_payload, &self.tail)
    }

    /// The same again, of another process.
    pub(super) fn of_parts(fragments: Vec<u8>, fragments_payload: usize, tail: Vec<u8>) -> Self {
        // Looked at again with the next byte, whatever it waits for.
        let mut held = Self { tail, wanted: 0, fragments, fragments_payload, load: Load::default() };
        held.load.set(size_of::<Self>() + held.tail.capacity() + held.fragments.capacity());
        held
    }
}

/// One frame that is there as a whole, or why not.
enum Next {
    Whole {
        size: usize,
        payload: usize,
        kind: Kind,
    },
    /// So many bytes are needed in all, as far as one can tell.
    Wants(usize),
    Bad(Close),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A message in one frame, or a control frame.
    Complete,
    /// The beginning of a message in several frames.
    First,
    /// Its continuation.
    Middle,
    /// Its end.
    Last,
    /// A control frame, which may stand between fragments.
    Control,
}

/// What the context reads from and writes to: memory on both sides.
struct Feed<'a> {
    input: &'a [u8],
    reply: &'a mut Vec<u8>,
}

impl Read for Feed<'_> {
    /// Says `WouldBlock` at the end: to the context nothing is ever over.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.input.read(into) }
    }
}

impl Write for Feed<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.reply.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decodes for all connections of a thread in turn.
pub struct Decoder {
    /// Empty between two connections: it is given whole frames only, exactly as
    /// many messages are taken out as went in, replies are flushed at once, and
    /// after an error or a close it is replaced. Were it not, one peer would
    /// hear what was meant for another.
    context: WebSocketContext,
    /// Pongs and closes on their way to `Heard::Reply`; empty between frames.
    reply: Vec<u8>,
    /// Largest message in bytes.
    limit: usize,
}

/// The context's own buffer. It is zeroed for each read, so it is no larger than
/// what a busy connection sends in one go.
const CONTEXT_BUFFER: usize = 4 << 10;

fn context() -> WebSocketContext {
    // Sizes are checked on the headers, before anything is buffered.
    let config = WebSocketConfig::default()
        .read_buffer_size(CONTEXT_BUFFER)
        .write_buffer_size(0)
        .max_message_size(None)
        .max_frame_size(None);
    WebSocketContext::new(Role::Server, Some(config))
}

impl Decoder {
    /// Takes messages of up to `limit` bytes from now on.
    pub fn limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// A decoder that takes messages of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { context: context(), reply: Vec::new(), limit }
    }

    /// Decodes what was read from one connection, beginning with what it `held`.
    pub fn decode(&mut self, held: &mut Option<Box<Held>>, block: &[u8], mut hear: impl FnMut(Heard<'_>)) {
        let mut kept = held.take().unwrap_or_default();
        if kept.tail.is_empty() {
            if let Some(rest) = self.walk(&mut kept, block, &mut hear) {
                kept.tail = rest.to_vec();
            }
        } else {
            kept.tail.extend_from_slice(block);
            if kept.tail.len() >= kept.wanted {
                let all = std::mem::take(&mut kept.tail);
                if let Some(rest) = self.walk(&mut kept, &all, &mut hear) {
                    kept.tail = rest.to_vec();
                }
            }
        }
        if !kept.is_empty() {
            kept.load.set(size_of::<Held>() + kept.tail.capacity() + kept.fragments.capacity());
            *held = Some(kept);
        }
    }

    /// Takes whole frames off the front; returns what is left of an unfinished
    /// one, or nothing more is to be heard of this connection.
    fn walk<'b>(
        &mut self,
        kept: &mut Held,
        bytes: &'b [u8],
        hear: &mut impl FnMut(Heard<'_>),
    ) -> Option<&'b [u8]> {
        let mut rest = bytes;
        // Whole frames in a row go to the context together.
        let (mut run, mut frames) = (0, 0);
        loop {
            let ahead = rest.get(run..).unwrap_or_default();
            match next(ahead, self.limit) {
                Next::Whole { size, kind: Kind::Complete, .. } if kept.fragments.is_empty() => {
                    run += size;
                    frames += 1;
                }
                Next::Whole { size, kind: Kind::Control, .. } => {
                    run += size;
                    frames += 1;
                }
                other => {
                    let (now, later) = rest.split_at(run);
                    rest = later;
                    if !self.feed(now, frames, hear) {
                        *kept = Held::default();
                        return None;
                    }
                    (run, frames) = (0, 0);
                    match self.odd(kept, other, rest, hear) {
                        Step::On(size) => rest = rest.get(size..).unwrap_or_default(),
                        Step::Wait => return Some(rest),
                        Step::Over => {
                            *kept = Held::default();
                            return None;
                        }
                    }
                }
            }
        }
    }

    /// What is no whole message: a fragment, an unfinished frame, a mistake.
    fn odd(&mut self, kept: &mut Held, next: Next, rest: &[u8], hear: &mut impl FnMut(Heard<'_>)) -> Step {
        let (size, payload, kind) = match next {
            Next::Whole { size, payload, kind } => (size, payload, kind),
            Next::Wants(bytes) => {
                kept.wanted = bytes;
                return Step::Wait;
            }
            Next::Bad(close) => {
                hear(Heard::Broken(close));
                return Step::Over;
            }
        };
        // A new message inside an unfinished one, or the continuation of none.
        if (kind == Kind::Middle || kind == Kind::Last) == kept.fragments.is_empty() {
            hear(Heard::Broken(Close::ProtocolError));
            return Step::Over;
        }
        kept.fragments.extend_from_slice(rest.get(..size).unwrap_or_default());
        kept.fragments_payload += payload;
        // Headers count too, or empty fragments would cost memory without end.
        let headers = kept.fragments.len() - kept.fragments_payload;
        if kept.fragments_payload > self.limit || headers > self.limit / 4 + CONTEXT_BUFFER {
            hear(Heard::Broken(Close::TooBig));
            return Step::Over;
        }
        if kind == Kind::Last {
            let message = std::mem::take(&mut kept.fragments);
            kept.fragments_payload = 0;
            if !self.feed(&message, 1, hear) {
                return Step::Over;
            }
        } else {
            hear(Heard::Alive);
        }
        Step::On(size)
    }

    /// Gives the context whole frames and takes as many messages out of it.
    /// Returns whether the connection goes on.
    fn feed(&mut self, input: &[u8], messages: usize, hear: &mut impl FnMut(Heard<'_>)) -> bool {
        let mut feed = Feed { input, reply: &mut self.reply };
        for _ in 0..messages {
            let message = self.context.read(&mut feed);
            let over = match &message {
                Ok(Message::Text(text)) => {
                    hear(Heard::Text(text.as_str()));
                    None
                }
                Ok(Message::Binary(bytes)) => {
                    hear(Heard::Binary(bytes));
                    None
                }
                Ok(Message::Close(_)) => Some(Heard::Closed),
                Ok(Message::Ping(_)) => {
                    hear(Heard::Alive);
                    None
                }
                Ok(Message::Pong(_) | Message::Frame(_)) => {
                    hear(Heard::Alive);
                    None
                }
                Err(Error::Utf8(_)) => Some(Heard::Broken(Close::NotUtf8)),
                Err(Error::Capacity(_)) => Some(Heard::Broken(Close::TooBig)),
                Err(_) => Some(Heard::Broken(Close::ProtocolError)),
            };
            if matches!(message, Ok(Message::Ping(_) | Message::Close(_))) {
                // The error that follows a close says only that it is one.
                let _ = self.context.flush(&mut feed);
                hear(Heard::Reply(feed.reply));
                feed.reply.clear();
            }
            if let Some(end) = over {
                feed.reply.clear();
                self.context = context();
                hear(end);
                return false;
            }
        }
        true
    }
}

/// How the walk goes on after something odd.
enum Step {
    On(usize),
    Wait,
    Over,
}

/// Looks at the frame in front: everything that its header can tell.
fn next(bytes: &[u8], limit: usize) -> Next {
    let mut cursor = Cursor::new(bytes);
    let (header, payload) = match FrameHeader::parse(&mut cursor) {
        Ok(Some(parsed)) => parsed,
        // A header is at least 2 and at most 14 bytes; one more may complete it.
        Ok(None) => return Next::Wants(bytes.len() + 1),
        Err(_) => return Next::Bad(Close::ProtocolError),
    };
    let kind = match header.opcode {
        OpCode::Control(Control::Close | Control::Ping | Control::Pong) => Kind::Control,
        OpCode::Data(Data::Text | Data::Binary) if header.is_final => Kind::Complete,
        OpCode::Data(Data::Text | Data::Binary) => Kind::First,
        OpCode::Data(Data::Continue) if header.is_final => Kind::Last,
        OpCode::Data(Data::Continue) => Kind::Middle,
        OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
            return Next::Bad(Close::ProtocolError);
        }
    };
    let head = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
    /// RFC 6455, section 5.5.
    const LONGEST_CONTROL: u64 = 125;
    let in_order = header.mask.is_some()
        && !(header.rsv1 || header.rsv2 || header.rsv3)
        && header.len(payload) == head
        && (kind != Kind::Control || header.is_final && payload <= LONGEST_CONTROL);
    if !in_order {
        return Next::Bad(Close::ProtocolError);
    }
    let Some(payload) = usize::try_from(payload).ok().filter(|&payload| payload <= limit) else {
        return Next::Bad(Close::TooBig);
    };
    match head + payload {
        size if size <= bytes.len() => Next::Whole { size, payload, kind },
        size => Next::Wants(size),
    }
}
