//! Line of the access log for the end of a connection.

use std::time::Duration;

use crate::edge::net::connection::{DisconnectCause, PeerConnection};
use crate::protocol::{Close, UserId};

/// Writes it. `close` is the reason where the hub has closed the connection.
pub(super) fn write(
    connection: &PeerConnection,
    user: Option<&UserId>,
    lasted: Duration,
    close: Option<Close>,
) {
    let socket = connection.socket();
    let from = match connection.is_worker() {
        true => socket.pid().map_or("worker".to_owned(), |pid| format!("worker of pid {pid}")),
        false => socket.address().unwrap_or_else(|| "-".to_owned()),
    };
    let seconds = lasted.as_secs_f64();
    let user = user.map_or_else(|| "-".to_owned(), |user| format!("{user:?}"));
    let (code, why) = match (close, connection.cause()) {
        (Some(close), _) | (None, DisconnectCause::Malformed(close)) => (close.code(), close.reason()),
        (None, DisconnectCause::ByPeer) => (1000, "closed by its peer"),
        // RFC 6455, section 7.4.1: no close frame came.
        (None, DisconnectCause::Lost) => (1006, "its socket closed"),
    };
    let conn = connection.id();
    log::info!("access: {from} {user} end of {conn}: {code} {why} after {seconds:.1} s");
}
