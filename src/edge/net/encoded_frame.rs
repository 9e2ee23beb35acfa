//! Encoded frames: shared bytes that are a WebSocket frame to clients and a line to workers.
//!
//! The framing is that of RFC 6455 from the server's side, without masks.

use std::io::Cursor;
use std::ops::Deref;
use std::rc::Rc;

use async_tungstenite::tungstenite::protocol::frame::FrameHeader;
use async_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::mem_accounting;
use crate::protocol::Close;

/// Bytes that exist once, however many queues they are in; all of it is accounted for.
#[derive(Debug)]
pub struct SharedBytes(Rc<[u8]>);

/// Bytes that one place in a queue takes, its tag included.
const PLACE: usize = 64;

impl SharedBytes {
    pub fn new(bytes: &[u8]) -> Self {
        mem_accounting::add(PLACE + bytes.len());
        Self(bytes.into())
    }

    /// Its address, which tells it from others for as long as it lives.
    pub fn address(&self) -> *const u8 {
        self.0.as_ptr()
    }

    /// Bytes that count for one of those that share it: its place, and its part of the content.
    pub fn share(&self) -> usize {
        PLACE + self.0.len() / Rc::strong_count(&self.0)
    }
}

impl Clone for SharedBytes {
    fn clone(&self) -> Self {
        mem_accounting::add(PLACE);
        Self(self.0.clone())
    }
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        let is_last = Rc::strong_count(&self.0) == 1;
        mem_accounting::remove(PLACE + if is_last { self.0.len() } else { 0 });
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// The part of shared bytes that one kind of peer reads.
#[derive(Clone, Debug)]
pub struct FrameBytes {
    shared: SharedBytes,
    from: u32,
    to: u32,
}

impl FrameBytes {
    /// The bytes from `from` up to `to`.
    pub fn new(shared: SharedBytes, from: u32, to: u32) -> Self {
        Self { shared, from, to }
    }

    /// What they are a part of.
    pub fn shared(&self) -> &SharedBytes {
        &self.shared
    }

    pub fn from(&self) -> u32 {
        self.from
    }

    pub fn to(&self) -> u32 {
        self.to
    }
}

impl Deref for FrameBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.shared.get(self.from as usize..self.to as usize).unwrap_or_default()
    }
}

/// One message in shared memory, read as a frame by clients and as a line by workers.
#[derive(Clone, Debug)]
pub struct EncodedFrame {
    /// Frame header, JSON, line break.
    bytes: SharedBytes,
    /// Where the JSON begins.
    body: u32,
}

impl EncodedFrame {
    /// Frames JSON that was written to `scratch` after [`EncodedFrame::room`].
    pub fn seal(scratch: &mut Vec<u8>) -> Self {
        let payload = scratch.len() - LONGEST_HEAD;
        let mut head = [0; LONGEST_HEAD];
        let written = header(OpCode::Data(Data::Text), payload, &mut head);
        let from = LONGEST_HEAD - written;
        if let (Some(place), Some(head)) = (scratch.get_mut(from..LONGEST_HEAD), head.get(..written)) {
            place.copy_from_slice(head);
        }
        scratch.push(b'\n');
        let bytes = SharedBytes::new(scratch.get(from..).unwrap_or_default());
        Self { bytes, body: written as u32 }
    }

    /// Empties `scratch` but for the room that the header will take.
    pub fn room(scratch: &mut Vec<u8>) {
        scratch.clear();
        scratch.resize(LONGEST_HEAD, 0);
    }

    /// A control frame, as it goes out.
    pub fn raw(frame: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(frame.len() + 1);
        bytes.extend_from_slice(frame);
        bytes.push(b'\n');
        Self { bytes: SharedBytes::new(&bytes), body: 0 }
    }

    /// A ping without payload.
    pub fn ping() -> Self {
        let mut head = [0; LONGEST_HEAD];
        let written = header(OpCode::Control(Control::Ping), 0, &mut head);
        Self::raw(head.get(..written).unwrap_or_default())
    }

    /// A close frame.
    pub fn close(close: Close) -> Self {
        let reason = close.reason().as_bytes();
        let mut head = [0; LONGEST_HEAD];
        let written = header(OpCode::Control(Control::Close), 2 + reason.len(), &mut head);
        let mut frame = head.get(..written).unwrap_or_default().to_vec();
        frame.extend_from_slice(&close.code().to_be_bytes());
        frame.extend_from_slice(reason);
        Self::raw(&frame)
    }

    /// As a client reads it.
    pub fn for_client(&self) -> FrameBytes {
        FrameBytes::new(self.bytes.clone(), 0, self.bytes.len() as u32 - 1)
    }

    /// As a worker reads it.
    pub fn for_worker(&self) -> FrameBytes {
        FrameBytes::new(self.bytes.clone(), self.body, self.bytes.len() as u32)
    }
}

/// Encodes frames, all in the same buffer.
#[derive(Default, Debug)]
pub struct FrameEncoder {
    scratch: Vec<u8>,
}

/// What the buffer keeps between two frames: one large message must not cost its size for ever.
const KEPT_SCRATCH: usize = 16 << 10;

impl FrameEncoder {
    /// Frames the JSON that `write` appends.
    pub fn encode(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> EncodedFrame {
        EncodedFrame::room(&mut self.scratch);
        write(&mut self.scratch);
        let encoded = EncodedFrame::seal(&mut self.scratch);
        self.scratch.clear();
        self.scratch.shrink_to(KEPT_SCRATCH);
        encoded
    }
}

/// The server's headers have no mask: at most two bytes and a 64-bit length.
const LONGEST_HEAD: usize = 10;

fn header(opcode: OpCode, payload: usize, to: &mut [u8; LONGEST_HEAD]) -> usize {
    let header = FrameHeader { is_final: true, rsv1: false, rsv2: false, rsv3: false, opcode, mask: None };
    let mut cursor = Cursor::new(&mut to[..]);
    // Ten bytes always suffice.
    let _ = header.format(payload as u64, &mut cursor);
    cursor.position() as usize
}
