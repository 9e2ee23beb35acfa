//! The store: what is on the disk after any history, and what that costs. Most tests
//! drive the real process that owns the disk over a real socket.

#![expect(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod backend;
mod capacity;
mod checkpoint;
mod child;
mod damage;
mod full_disk;
mod harness;
mod histories;
mod hub_clock;
mod process_end;
mod read_queue;
mod recovery;
mod seq_file;
mod snapshot;
mod wal;
mod write_budget;
