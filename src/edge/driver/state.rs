//! State of the driver in a hand-over.

use std::os::fd::OwnedFd;

use crate::edge::net::connection::ConnectionState;
use crate::edge::store::Store;
use crate::hub::{Hub, Now};
use crate::protocol::{ConnectionId, Moment};

/// The driver in a hand-over, seen by the process that hands over.
pub struct DriverExport<'a, C> {
    pub now: Now,
    /// In the order of [`sockets`](super::Driver::sockets).
    pub connections: C,
    pub closing: Vec<(Moment, ConnectionId)>,
    pub last_http_request: u64,
    pub hub: &'a Hub,
    pub store: &'a mut Store,
}

/// The driver in a hand-over but for hub and store, seen by the process that goes on.
#[derive(Default, Debug)]
pub struct DriverImport {
    pub connections: Vec<(ConnectionState, OwnedFd)>,
    pub closing: Vec<(Moment, ConnectionId)>,
    pub last_http_request: u64,
}
