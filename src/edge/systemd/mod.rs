//! systemd: descriptors that it has passed (sd_listen_fds(3)), and notifications to it
//! (sd_notify(3)).
//!
//! Without systemd nothing happens here: no variable is set, so nothing was passed
//! and nothing is sent.

mod listen_fds;
mod notify;
mod status;

pub use listen_fds::ListenFds;
pub use notify::Notify;
pub use status::StatusReporter;
