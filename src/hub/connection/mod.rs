//! Connections: table, authentication, rights, heartbeat, rate limits.

pub(super) mod account;
pub(super) mod auth;
pub(super) mod half_closed;
pub(super) mod heartbeat;
pub(super) mod rate_limit;
pub mod rights;
pub(super) mod table;
