//! The store: what is promised to be on the disk, and what it costs. Most stories
//! drive the real process that owns the disk over a real socket.

#![expect(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod capacity;
mod child;
mod damage;
mod disk;
mod flash_budget;
mod handover;
mod histories;
mod hub_clock;
mod lives;
mod positions;
mod reading;
mod records;
mod remains;
mod room;
mod stage;
mod wal;
