//! The access log: a line for each request over HTTP and each end of a connection.
//!
//! Knows what stands in a line; `[log] access` switches it. No query is in it, for a token may
//! be. Does not limit itself: whoever wants it wants all of it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::denial::quoted;
use super::driver::Driver;
use super::link::{End, Side};
use crate::protocol::{Close, ConnectionId, UserId};

/// A request that was answered.
pub(super) struct Request<'a> {
    pub(super) from: IpAddr,
    pub(super) user: Option<&'a UserId>,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) status: u16,
    /// Of the body.
    pub(super) bytes: u64,
    pub(super) took: Duration,
}

/// Writes a request down.
pub(super) fn request(of: &Request<'_>) {
    let (method, path) = (quoted(of.method.as_bytes()), quoted(of.path.as_bytes()));
    log::info!(
        "access: {} {} {} {} {} {} bytes {} ms",
        of.from.to_canonical(),
        Shown(of.user),
        method.trim_matches('"'),
        path,
        of.status,
        of.bytes,
        of.took.as_millis()
    );
}

impl Driver {
    /// Writes down that a connection is gone.
    pub(super) fn log_end(
        &mut self,
        conn: ConnectionId,
        user: Option<&UserId>,
        lasted: Duration,
        close: Option<Close>,
    ) {
        if !self.site.logs_access {
            return;
        }
        let Some(link) = self.links.get(conn) else { return };
        let is_worker = matches!(link.side, Side::Worker(_));
        let from = match is_worker {
            true => link.wire.pid().map_or("worker".to_owned(), |pid| format!("worker of pid {pid}")),
            false => link.wire.address().unwrap_or_else(|| "-".to_owned()),
        };
        let seconds = lasted.as_secs_f64();
        let (conn, user) = (conn.to_string(), Shown(user));
        let (code, why) = match (close, link.end) {
            (Some(close), _) | (None, End::Malformed(close)) => (close.code(), close.reason()),
            (None, End::ByPeer) => (1000, "closed by its peer"),
            // RFC 6455, section 7.4.1: no close frame came.
            (None, End::Lost) => (1006, "its socket closed"),
        };
        log::info!("access: {from} {user} end of {conn}: {code} {why} after {seconds:.1} s");
    }
}

/// A user, where there is one.
struct Shown<'a>(Option<&'a UserId>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(user) => write!(f, "{user:?}"),
            None => f.write_str("-"),
        }
    }
}
