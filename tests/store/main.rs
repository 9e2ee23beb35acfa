//! The store: what is promised to be on the disk, and what it costs. Most stories
//! drive the real process that owns the disk over a real socket.

#![expect(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod capacity;
mod checkpoint;
mod child;
mod damage;
mod disk;
mod flash_budget;
mod full_disk;
mod handover;
mod harness;
mod histories;
mod hub_clock;
mod process_end;
mod read_queue;
mod recovery;
mod seq_file;
mod wal;
