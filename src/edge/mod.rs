//! Floor 3: the hands. Sockets, HTTP, tokens, the store. They decide nothing.
//!
//! Knows how to get bytes in and out. Does not know why.

mod atomic_file;
pub mod auth;
pub mod clock;
pub mod driver;
pub mod handover;
pub mod http;
pub mod net;
pub mod store;
pub mod systemd;
