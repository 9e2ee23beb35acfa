//! Buffer and decoder for reading, of all connections in turn.

use crate::edge::net::connection::PeerConnection;
use crate::edge::net::socket::IoOutcome;
use crate::edge::net::ws_decoder::Decoder;

/// How much is read from one connection in one turn: enough for a burst, little
/// enough that all others have a turn soon.
const BLOCK: usize = 16 << 10;

/// The same of one that may send nothing but `auth`.
const UNAUTHENTICATED_BLOCK: usize = 2 << 10;

/// What is known of the peer that is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PeerTrust {
    Admitted,
    /// It may send nothing but `auth`.
    Unauthenticated,
}

/// Both of them.
pub(super) struct ReadBuffer {
    block: Box<[u8]>,
    decoder: Decoder,
}

/// The decoder, and what was read for it.
pub(super) struct ReadBlock<'a> {
    pub bytes: &'a [u8],
    pub decoder: &'a mut Decoder,
}

impl ReadBuffer {
    /// For frames of up to so many bytes.
    pub(super) fn new(message_bytes: usize) -> Self {
        Self { block: vec![0; BLOCK].into(), decoder: Decoder::new(message_bytes) }
    }

    /// Takes frames of up to so many bytes from now on.
    pub(super) fn limit_messages(&mut self, bytes: usize) {
        self.decoder.limit(bytes);
    }

    /// Reads once from a connection.
    pub(super) fn read(&mut self, connection: &mut PeerConnection, trust: PeerTrust) -> IoOutcome {
        let most = if trust == PeerTrust::Admitted { BLOCK } else { UNAUTHENTICATED_BLOCK };
        connection.read(self.block.get_mut(..most).unwrap_or_default())
    }

    /// The first bytes of what was read.
    pub(super) fn block(&mut self, bytes: usize) -> ReadBlock<'_> {
        ReadBlock { bytes: self.block.get(..bytes).unwrap_or_default(), decoder: &mut self.decoder }
    }

    /// For bytes that were read before.
    pub(super) fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }
}
