//! Decoder of incoming WebSocket frames (RFC 6455).
//!
//! One decoder serves every connection of the thread: a connection keeps bytes of its own only
//! while a frame or a fragmented message is unfinished.

use std::io;
use std::io::{Cursor, Read, Write};

use async_tungstenite::tungstenite::protocol::frame::FrameHeader;
use async_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use async_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use async_tungstenite::tungstenite::{Error, Message};

use super::line_decoder::DecodeFlow;
use super::mem_accounting::MemCharge;
use crate::protocol::Close;

/// What the peer's bytes came to.
#[derive(PartialEq, Eq, Debug)]
pub enum Decoded<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// Part of a message, or so many pings and pongs in a row: the peer lives.
    Alive { controls: u32 },
    /// Bytes that the protocol itself sends back: a pong, or the answer to a close.
    Reply(&'a [u8]),
    /// The peer has closed; the reply went before this.
    Closed,
    /// The peer broke the protocol; nothing after this is looked at.
    Broken(Close),
}

/// What is held of a client's input while a frame or message is unfinished.
#[derive(Default, Debug)]
pub struct PartialMessage {
    /// The beginning of a frame.
    tail: Vec<u8>,
    /// How long `tail` must be before looking at it again is of use.
    wanted: usize,
    /// Whole frames of a message that has not ended, as they came.
    fragments: Vec<u8>,
    /// The payload in `fragments`.
    fragments_payload: usize,
    /// There may be whole frames in `tail` that are still to be decoded.
    has_frames: bool,
    load: MemCharge,
}

impl PartialMessage {
    fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.fragments.is_empty()
    }

    /// How much memory it takes.
    pub fn bytes(&self) -> usize {
        self.load.bytes()
    }

    /// Whether there may be whole frames that are still to be decoded.
    pub fn has_frames(&self) -> bool {
        self.has_frames
    }

    /// As it is handed over.
    pub(super) fn export(&self) -> PartialMessageState {
        let (fragments, tail) = (self.fragments.clone(), self.tail.clone());
        PartialMessageState { fragments, fragments_payload: self.fragments_payload, tail }
    }

    /// The same again in another process.
    pub(super) fn import(state: PartialMessageState) -> Self {
        let PartialMessageState { fragments, fragments_payload, tail } = state;
        // Looked at again at once, whatever it waits for.
        let has_frames = !tail.is_empty();
        let load = MemCharge::default();
        let mut held = Self { tail, wanted: 0, fragments, fragments_payload, has_frames, load };
        held.load.set(size_of::<Self>() + held.tail.capacity() + held.fragments.capacity());
        held
    }
}

/// A partial message in a hand-over.
#[derive(Debug)]
pub struct PartialMessageState {
    /// Whole frames of a message that has not ended.
    pub fragments: Vec<u8>,
    /// How much of them is payload.
    pub fragments_payload: usize,
    /// The beginning of a frame, or frames that are still to be decoded.
    pub tail: Vec<u8>,
}

/// One frame that is there as a whole, or why not.
enum Ahead {
    Whole {
        size: usize,
        payload: usize,
        kind: FrameKind,
    },
    /// So many bytes are needed in all, as far as the header shows.
    Wants(usize),
    Bad(Close),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FrameKind {
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
    /// receive what was meant for another.
    context: WebSocketContext,
    /// Pongs and closes on their way to `Heard::Reply`; empty between frames.
    reply: Vec<u8>,
    /// How many pings and pongs came in a row, and the pongs for them; none between two
    /// connections.
    controls: u32,
    pongs: Vec<u8>,
    /// Very many came: only the last is answered (RFC 6455, section 5.5.3).
    is_crowded: bool,
    /// Largest message in bytes.
    limit: usize,
}

/// The context's own buffer. It is zeroed for each read, so it is no larger than
/// what a busy connection sends in one go.
const CONTEXT_BUFFER: usize = 4 << 10;

/// So many pings and pongs in a row are reported, and answered each: a peer that sends more may
/// be closed for it.
const MOST_CONTROLS: u32 = 16;

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
        Self {
            context: context(),
            reply: Vec::new(),
            controls: 0,
            pongs: Vec::new(),
            is_crowded: false,
            limit,
        }
    }

    /// Decodes what was read from one connection, beginning with what it `held`; what
    /// follows a message that is to be the last for now is held, as it is.
    pub fn decode(
        &mut self,
        held: &mut Option<Box<PartialMessage>>,
        block: &[u8],
        mut receive: impl FnMut(Decoded<'_>) -> DecodeFlow,
    ) {
        let mut kept = held.take().unwrap_or_default();
        kept.has_frames = false;
        if kept.tail.is_empty() {
            if let Some(rest) = self.walk(&mut kept, block, &mut receive) {
                kept.tail = rest.to_vec();
            }
        } else {
            kept.tail.extend_from_slice(block);
            if kept.tail.len() >= kept.wanted {
                let all = std::mem::take(&mut kept.tail);
                if let Some(rest) = self.walk(&mut kept, &all, &mut receive) {
                    kept.tail = rest.to_vec();
                }
            }
        }
        self.end_controls(&mut receive);
        if !kept.is_empty() {
            kept.load.set(size_of::<PartialMessage>() + kept.tail.capacity() + kept.fragments.capacity());
            *held = Some(kept);
        }
    }

    /// Takes whole frames off the front; returns what is left of an unfinished
    /// one, or nothing more of this connection is to be decoded.
    fn walk<'b>(
        &mut self,
        kept: &mut PartialMessage,
        bytes: &'b [u8],
        receive: &mut impl FnMut(Decoded<'_>) -> DecodeFlow,
    ) -> Option<&'b [u8]> {
        let mut rest = bytes;
        loop {
            let step = match look_ahead(rest, self.limit) {
                Ahead::Whole { size, kind: FrameKind::Control, .. } => {
                    let step = self.feed(rest.get(..size).unwrap_or_default(), size, receive);
                    match step {
                        DecodeStep::On { size, .. } if self.controls >= MOST_CONTROLS => {
                            let next = self.end_controls(receive);
                            self.is_crowded = true;
                            DecodeStep::On { size, next }
                        }
                        step => step,
                    }
                }
                Ahead::Whole { size, kind: FrameKind::Complete, .. } if kept.fragments.is_empty() => {
                    self.end_controls(receive);
                    self.feed(rest.get(..size).unwrap_or_default(), size, receive)
                }
                other => {
                    self.end_controls(receive);
                    self.odd(kept, other, rest, receive)
                }
            };
            match step {
                DecodeStep::On { size, next } => {
                    rest = rest.get(size..).unwrap_or_default();
                    if next == DecodeFlow::Pause && !rest.is_empty() {
                        (kept.has_frames, kept.wanted) = (true, 0);
                        return Some(rest);
                    }
                }
                DecodeStep::Wait => return Some(rest),
                DecodeStep::Over => {
                    *kept = PartialMessage::default();
                    return None;
                }
            }
        }
    }

    /// Reports pings and pongs that came in a row, and answers them.
    fn end_controls(&mut self, receive: &mut impl FnMut(Decoded<'_>) -> DecodeFlow) -> DecodeFlow {
        let controls = std::mem::take(&mut self.controls);
        let mut next = DecodeFlow::Continue;
        if controls > 0 {
            next = receive(Decoded::Alive { controls });
        }
        if !self.pongs.is_empty() {
            next = receive(Decoded::Reply(&self.pongs));
            self.pongs.clear();
        }
        self.is_crowded = false;
        next
    }

    /// What is no whole message: a fragment, an unfinished frame, a mistake.
    fn odd(
        &mut self,
        kept: &mut PartialMessage,
        ahead: Ahead,
        rest: &[u8],
        receive: &mut impl FnMut(Decoded<'_>) -> DecodeFlow,
    ) -> DecodeStep {
        let (size, payload, kind) = match ahead {
            Ahead::Whole { size, payload, kind } => (size, payload, kind),
            Ahead::Wants(bytes) => {
                kept.wanted = bytes;
                return DecodeStep::Wait;
            }
            Ahead::Bad(close) => {
                receive(Decoded::Broken(close));
                return DecodeStep::Over;
            }
        };
        // A new message inside an unfinished one, or the continuation of none.
        if (kind == FrameKind::Middle || kind == FrameKind::Last) == kept.fragments.is_empty() {
            receive(Decoded::Broken(Close::ProtocolError));
            return DecodeStep::Over;
        }
        kept.fragments.extend_from_slice(rest.get(..size).unwrap_or_default());
        kept.fragments_payload += payload;
        // Headers count too, or empty fragments would cost memory without end.
        let headers = kept.fragments.len() - kept.fragments_payload;
        if kept.fragments_payload > self.limit || headers > self.limit / 4 + CONTEXT_BUFFER {
            receive(Decoded::Broken(Close::TooBig));
            return DecodeStep::Over;
        }
        if kind == FrameKind::Last {
            let message = std::mem::take(&mut kept.fragments);
            kept.fragments_payload = 0;
            return self.feed(&message, size, receive);
        }
        receive(Decoded::Alive { controls: 0 });
        DecodeStep::On { size, next: DecodeFlow::Continue }
    }

    /// Gives the context the frames of one message and takes it out; they take `size` bytes
    /// of what is walked through.
    fn feed(
        &mut self,
        input: &[u8],
        size: usize,
        receive: &mut impl FnMut(Decoded<'_>) -> DecodeFlow,
    ) -> DecodeStep {
        let mut feed = Feed { input, reply: &mut self.reply };
        let message = self.context.read(&mut feed);
        let mut next = DecodeFlow::Continue;
        let over = match &message {
            Ok(Message::Text(text)) => {
                next = receive(Decoded::Text(text.as_str()));
                None
            }
            Ok(Message::Binary(bytes)) => {
                next = receive(Decoded::Binary(bytes));
                None
            }
            Ok(Message::Ping(_)) => {
                // Whatever could go wrong here the next read reports.
                let _ = self.context.flush(&mut feed);
                if self.is_crowded {
                    self.pongs.clear();
                }
                self.pongs.append(&mut self.reply);
                self.controls += 1;
                None
            }
            Ok(Message::Pong(_) | Message::Frame(_)) => {
                self.controls += 1;
                None
            }
            Ok(Message::Close(_)) => {
                // The error that follows a close means only that it is one.
                let _ = self.context.flush(&mut feed);
                Some(Decoded::Closed)
            }
            Err(Error::Utf8(_)) => Some(Decoded::Broken(Close::NotUtf8)),
            Err(Error::Capacity(_)) => Some(Decoded::Broken(Close::TooBig)),
            Err(_) => Some(Decoded::Broken(Close::ProtocolError)),
        };
        let Some(end) = over else { return DecodeStep::On { size, next } };
        self.context = context();
        self.end_controls(receive);
        if end == Decoded::Closed {
            receive(Decoded::Reply(&self.reply));
        }
        self.reply.clear();
        receive(end);
        DecodeStep::Over
    }
}

/// How the walk goes on.
enum DecodeStep {
    On {
        size: usize,
        next: DecodeFlow,
    },
    /// For more bytes.
    Wait,
    Over,
}

/// Looks at the frame in front: all that its header shows.
fn look_ahead(bytes: &[u8], limit: usize) -> Ahead {
    let mut cursor = Cursor::new(bytes);
    let (header, payload) = match FrameHeader::parse(&mut cursor) {
        Ok(Some(parsed)) => parsed,
        // A header is at least 2 and at most 14 bytes; one more may complete it.
        Ok(None) => return Ahead::Wants(bytes.len() + 1),
        Err(_) => return Ahead::Bad(Close::ProtocolError),
    };
    let kind = match header.opcode {
        OpCode::Control(Control::Close | Control::Ping | Control::Pong) => FrameKind::Control,
        OpCode::Data(Data::Text | Data::Binary) if header.is_final => FrameKind::Complete,
        OpCode::Data(Data::Text | Data::Binary) => FrameKind::First,
        OpCode::Data(Data::Continue) if header.is_final => FrameKind::Last,
        OpCode::Data(Data::Continue) => FrameKind::Middle,
        OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
            return Ahead::Bad(Close::ProtocolError);
        }
    };
    let head = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
    /// RFC 6455, section 5.5.
    const LONGEST_CONTROL: u64 = 125;
    let in_order = header.mask.is_some()
        && !(header.rsv1 || header.rsv2 || header.rsv3)
        && header.len(payload) == head
        && (kind != FrameKind::Control || header.is_final && payload <= LONGEST_CONTROL);
    if !in_order {
        return Ahead::Bad(Close::ProtocolError);
    }
    let Some(payload) = usize::try_from(payload).ok().filter(|&payload| payload <= limit) else {
        return Ahead::Bad(Close::TooBig);
    };
    match head + payload {
        size if size <= bytes.len() => Ahead::Whole { size, payload, kind },
        size => Ahead::Wants(size),
    }
}
