//! Requests of administrators that the hub does not answer: tokens, revocations, the
//! configuration, and sockets.

use std::time::Duration;

use super::config::DriverConfig;
use crate::edge::net::connection_table::ConnectionTable;
use crate::edge::store::Store;
use crate::hub::Now;
use crate::protocol::frame::{ConnectionEntry, LinkEntry, RevocationEntry};
use crate::protocol::request::After;
use crate::protocol::{Code, Frame, MintTerms, Refusal, UnixTime, UserId};

/// What refusals name that come later than the request.
pub(super) const LIFT: &str = "lift";
pub(super) const RELOAD: &str = "reload";

/// A token that was made.
pub(super) struct MintedToken {
    pub token: String,
    pub expires_at: UnixTime,
}

/// Makes a token for a user, which lives for so long and grants so much.
pub(super) fn mint(
    config: &DriverConfig,
    user: &UserId,
    ttl: Duration,
    wanted: &MintTerms,
    now: UnixTime,
) -> Result<MintedToken, Refusal> {
    let minted = config.verifier.mint(user, ttl, wanted, now);
    let (token, expires_at) = minted.map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))?;
    Ok(MintedToken { token, expires_at })
}

/// So many revocations are in one answer.
const LISTED: usize = 1000;

/// A page of a list of revocations.
pub(super) struct RevocationPage {
    pub revocations: Vec<RevocationEntry>,
    /// After which the next page begins.
    pub next: Option<String>,
}

/// The tokens that are revoked.
pub(super) fn list_revocations(config: &DriverConfig, after: &After, now: UnixTime) -> RevocationPage {
    let (revocations, ttl) = config.verifier.revocations();
    revocations.borrow_mut().forget(now, ttl);
    let (revocations, next) = revocations.borrow().list(after.as_deref(), LISTED, ttl);
    RevocationPage { revocations, next }
}

/// Adds to an answer of the hub what the hub does not know.
pub(super) fn complete(
    frame: &mut Frame<'_>,
    config: &DriverConfig,
    connections: &ConnectionTable,
    store: &Store,
    now: Now,
) {
    match frame {
        Frame::Connections { connections: entries, .. } => describe_sockets(connections, entries),
        Frame::Stats(statistics) => {
            store.describe(now.moment, statistics);
            statistics.revocations = config.revocation_count(now.wall);
        }
        _ => {}
    }
}

/// Adds to a list of connections what their sockets show. The kernel knows the other end, so
/// nothing is held for such a list.
fn describe_sockets(connections: &ConnectionTable, entries: &mut [ConnectionEntry]) {
    for entry in entries {
        let Some(connection) = connections.get(entry.connection_id) else { continue };
        let (queued, socket) = (connection.queued(), connection.socket());
        let is_worker = connection.is_worker();
        entry.link = LinkEntry {
            address: if is_worker { None } else { socket.address() },
            pid: if is_worker { socket.pid() } else { None },
            queued: queued.frames as u64,
            queued_bytes: queued.bytes as u64,
        };
    }
}
