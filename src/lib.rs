//! wshubd: a small hub between browsers, scripts and local worker processes.

pub mod config;
pub mod daemon;
pub mod edge;
pub mod hub;
pub mod protocol;
