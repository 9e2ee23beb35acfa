//! Edge: sockets, HTTP, tokens, the store, systemd, hand-over. It decides nothing; the hub does.
//!
//! The order of its folders, each of which names only those before it: `net` and `auth`, `store`,
//! `driver`, `http` and `systemd`, `handover`. The event loop and the configuration stand above
//! all of them.

mod atomic_file;
pub mod auth;
pub mod clock;
pub mod config;
pub mod driver;
pub mod event_loop;
pub mod handover;
pub mod http;
pub mod net;
pub mod store;
pub mod systemd;
