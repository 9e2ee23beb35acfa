//! How the state of a daemon is spelled for the one that takes over.
//!
//! Knows the shape of what is handed over, and nothing of what is done with it.
//! Bytes that are not ours (what peers have half said, what they are owed) lie
//! beside the table, and a packet that many wait for lies there once.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::memfd::Span;
use crate::edge::net::send_queue::FramePosition;
use crate::hub::SendQueueState;
use crate::protocol::{ConnectionId, Moment, OperationId};

/// All but the bytes.
#[derive(Serialize, Deserialize)]
pub(super) struct Table {
    /// When the other process stopped to listen.
    pub(super) since: Moment,
    pub(super) doors: Vec<Door>,
    pub(super) links: Vec<Link>,
    /// Until when each may be silent.
    pub(super) guests: Vec<Moment>,
    /// Who was told goodbye, and when they are cut off.
    pub(super) lingering: Vec<(Moment, ConnectionId)>,
    /// The last request over HTTP: what the hub still knows of one is not to be
    /// taken for another.
    pub(super) last_ticket: u64,
    pub(super) packets: Vec<Span>,
    pub(super) marks: Vec<FramePosition>,
    pub(super) hub: Span,
    pub(super) store: Span,
}

/// A listening socket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Door {
    /// As it was asked for: the kernel may have chosen the port.
    Clients(SocketAddr),
    Workers(PathBuf),
    /// Systemd's, which has it open and passes it to each process that it starts; by
    /// its name there.
    Passed(String),
}

/// One link.
#[derive(Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) side: Side,
    /// Where the client is, if proxies have named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) named: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outbox: Option<Outbox>,
    #[serde(default, skip_serializing_if = "State::is_usual")]
    pub(super) state: State,
}

/// What is at the other end, and what it has half said.
#[derive(Serialize, Deserialize)]
pub(super) enum Side {
    #[serde(rename = "c")]
    Client(Option<Frames>),
    #[serde(rename = "w")]
    Worker { admin: bool, line: Option<Line>, latches: Vec<Latch> },
}

/// An unfinished message of a client.
#[derive(Serialize, Deserialize)]
pub(super) struct Frames {
    pub(super) fragments: Span,
    pub(super) payload: usize,
    pub(super) tail: Span,
}

/// An unfinished line of a worker.
#[derive(Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) tail: Span,
    pub(super) skips: bool,
}

/// The latch of an operation.
#[derive(Serialize, Deserialize)]
pub(super) struct Latch {
    pub(super) operation: OperationId,
    /// It goes on.
    pub(super) runs: bool,
    pub(super) pulled: Option<Piece>,
    /// Which piece of the outbox confirms its start, if that still waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<usize>,
}

/// What a link owes its peer.
#[derive(Serialize, Deserialize)]
pub(super) struct Outbox {
    pub(super) pieces: Vec<Piece>,
    pub(super) taken: usize,
    pub(super) told: SendQueueState,
}

/// Part of a packet: which, from, to; and its mark.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Piece(pub(super) u32, pub(super) u32, pub(super) u32, pub(super) Option<u32>);

/// What few links are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) leaving: bool,
    pub(super) deaf: bool,
    pub(super) ended: bool,
    pub(super) parted: bool,
    pub(super) took: Moment,
}

impl State {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}
