//! Stories of the real program, over real sockets.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a story that cannot go on has failed")]

mod addresses;
mod administration;
mod bench;
mod command;
mod console;
mod doors;
mod frames;
mod handover;
mod heads;
#[cfg(feature = "store")]
mod kept;
mod limits;
mod log;
mod messages;
mod operations;
mod proxies;
mod refusals;
mod reload;
mod revocation;
mod secrets;
mod startup;
mod stopping;
mod systemd;
mod worker_lines;
