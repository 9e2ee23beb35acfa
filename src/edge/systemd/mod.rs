//! systemd: what it has passed to this process, and what it is told.
//!
//! Knows the words of sd_listen_fds(3) and sd_notify(3). Does not know what becomes
//! of a descriptor, nor when there is something to tell.
//!
//! Without systemd nothing happens here: no variable is set, so nothing was passed
//! and nobody is told.

mod listen_fds;
mod notify;
mod standing;
mod status;

pub use listen_fds::ListenFds;
pub use notify::Notify;
pub use status::{StatusCounts, StatusNotifier};
