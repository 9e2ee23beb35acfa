//! Stories of the process that owns the disk: the real one, over a real socket.

#![expect(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod child;
mod damage;
mod lives;
mod records;
mod room;
