//! Stories about the hub, in virtual time.
//!
//! Each test says in its name what is true; what peers say and hear is the JSON
//! of the wire.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod administration;
mod auth;
mod bench;
mod channels;
mod handover;
mod heartbeat;
mod interrupts;
mod limits;
mod memory;
mod model;
mod operations;
mod presence;
mod slow_peers;
mod stopping;
mod undelivered;
