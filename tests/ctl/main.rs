//! wshubctl as a program, against a hub that is played line by line.
//!
//! Nothing here waits for a time: each story waits for lines and for exits, those of a
//! program with a short limit of its own included.

#![expect(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod ask;
mod client;
mod comeback;
mod cursor;
mod hub;
mod lines;
mod lists;
mod publish;
mod receipts;
mod reload;
mod run;
mod run_progress;
mod run_rough;
mod run_signals;
mod run_without_hub;
mod subscribe;
mod token;
mod waiting;
mod words;
