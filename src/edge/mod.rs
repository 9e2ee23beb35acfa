//! Floor 3: the hands. They do, and decide nothing.
//!
//! Knows sockets, files, tokens and the clock. Does not know what anything
//! means for anybody else: that is the hub's.

mod claims;
pub mod origin;
pub mod secret;
pub mod token;
