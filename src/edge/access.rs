//! The access log: a line for each request over HTTP and each end of a connection.
//!
//! Knows what stands in a line; `[log] access` switches it. No query is in it, for a token may
//! be. Does not limit itself: whoever wants it wants all of it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::denial::{quoted, quoted_path};
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
    let (method, path) = (quoted(of.method.as_bytes()), quoted_path(of.path));
    log::info!(
        "access: {} {} {} {} {} {} bytes {:.1} ms",
        of.from.to_canonical(),
        Shown(of.user),
        method.trim_matches('"'),
        path,
        of.status,
        of.bytes,
        of.took.as_secs_f64() * 1000.0
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
        match (close, link.end) {
            (Some(close), _) | (None, End::Malformed(close)) => log::info!(
                "access: {from} {user} end of {conn}: {} {} after {seconds:.1} s",
                close.code(),
                close.reason()
            ),
            (None, End::ByPeer) => {
                log::info!("access: {from} {user} end of {conn}: closed by its peer after {seconds:.1} s");
            }
            (None, End::Lost) => {
                log::info!("access: {from} {user} end of {conn}: its socket closed after {seconds:.1} s");
            }
        }
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
