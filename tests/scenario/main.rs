//! Stories about the hub, in virtual time.
//!
//! Each test says in its name what is true; what peers say and hear is the JSON
//! of the wire.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod accounts;
mod administration;
mod answers;
mod auth;
mod bench;
mod bounds;
mod channels;
mod configured;
mod cursor;
mod cuts;
mod deduplication;
mod doubts;
mod durable;
mod half_closed;
mod handover;
mod heartbeat;
mod history;
mod inbox;
mod interrupts;
mod invariants;
mod late;
mod limits;
mod lives;
mod losses;
mod memory;
mod model;
mod operations;
mod positions;
mod presence;
mod readers;
mod receipts;
mod restarts;
mod revocation;
mod rights;
mod shares;
mod slow_peers;
mod splice;
mod starters;
mod stopping;
mod system_channels;
mod undelivered;
mod unreadable;
mod whereabouts;
