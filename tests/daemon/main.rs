//! Tests of the real program, over real sockets.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod addresses;
mod administration;
mod admission;
mod frames;
mod handover;
mod harness;
mod http_heads;
mod limits;
mod log;
mod messages;
mod operations;
#[cfg(feature = "store")]
mod persistence;
mod proxies;
mod refusals;
mod reload;
mod revocation;
mod secrets;
mod startup;
mod stopping;
mod systemd;
mod worker_lines;
mod wshubctl;
mod wshubctl_admin;
