//! systemd: what it has passed to this process, and what it is told.
//!
//! Knows the words of sd_listen_fds(3) and sd_notify(3). Does not know what becomes
//! of a descriptor, nor when there is something to tell.
//!
//! Without systemd nothing happens here: no variable is set, so nothing was passed
//! and nobody is told.

mod bulletin;
mod notify;
mod passed;
mod standing;

pub use bulletin::{Bulletin, Numbers};
pub use notify::Notify;
pub use passed::Passed;
