//! Scenarios of the hub, in virtual time.
//!
//! The name of each test states what is true; what peers send and receive is the
//! JSON of the wire.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod account_limits;
mod administration;
mod answer_size;
mod auth;
mod channels;
mod connection_histories;
mod cursor;
mod deduplication;
mod durable;
mod edge_cases;
mod half_closed;
mod handover;
mod harness;
mod heartbeat;
mod inbox;
mod inbox_losses;
mod interrupts;
mod invariants;
mod late_recovery;
mod limits;
mod memory;
mod model;
mod operation_owner;
mod operations;
mod positions;
mod presence;
mod publisher_quota;
mod random_disconnects;
mod readers;
mod receipts;
mod reconfigure;
mod replay;
mod restarts;
mod revocation;
mod rights;
mod slow_peers;
mod splice;
mod stopping;
mod system_channels;
mod undelivered;
mod unreadable;
mod work_per_input;
mod write_policy;
