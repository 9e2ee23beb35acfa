//! Events of connections as inputs of the hub.

use crate::edge::net::connection::ConnectionEvent;
use crate::edge::net::send_queue::FramePosition;
use crate::hub::Input;

impl From<ConnectionEvent> for Input {
    fn from(event: ConnectionEvent) -> Self {
        match event {
            ConnectionEvent::Flushed { conn, position: FramePosition { log, seq, how } } => {
                Self::Flushed { conn, log, seq, how }
            }
            ConnectionEvent::QueueChanged { conn, state } => Self::SendQueue { conn, state },
            ConnectionEvent::WriteProgress { conn } => Self::WriteProgress { conn },
            ConnectionEvent::ReadClosed { conn } => Self::ReadClosed { conn },
            ConnectionEvent::Closed { conn } => Self::Closed { conn },
        }
    }
}
