//! wshubd: a small hub between browsers, scripts and local worker processes.

pub mod client;
pub mod hub;
pub mod protocol;
