//! wshubctl and the client library against a scripted hub.
//!
//! No test waits for a time: each waits for lines and for exits, those of a
//! program with a short limit of its own included.

#![expect(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod client;
mod command_line;
mod fake_hub;
mod lists;
mod publish;
mod publish_errors;
mod queries;
mod receipts;
mod reconnect;
mod reload;
mod run;
mod run_failures;
mod run_progress;
mod run_signals;
mod run_without_hub;
mod subscribe;
mod token;
mod wait_limit;
