//! Status of the driver, for systemd and administrators.

use crate::edge::store;
use crate::protocol::Moment;

/// What the daemon reports about itself, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct DriverStatus<'a> {
    pub now: Moment,
    pub counts: StatusCounts,
    /// Why the disk cannot be used, if that is so.
    pub store_error: Option<&'a str>,
    /// An order to the disk has taken longer than it may.
    pub is_stuck: bool,
}

/// How many there are of what an administrator asks for first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusCounts {
    /// WebSocket connections.
    pub connections: usize,
    pub workers: usize,
    /// Operations that run.
    pub operations: usize,
    /// Messages that are kept.
    pub messages: usize,
    pub store: store::StoreState,
}
