//! Where messages are kept until somebody has them.
//!
//! Knows the promise of a store. Does not know policies: which messages are
//! kept, for how long and when they are forgotten is the hub's decision.

pub mod keeper;
mod memory;
pub mod words;

pub use memory::Memory;

use std::rc::Rc;

use crate::hub::LogKey;
use crate::protocol::Message;

/// Keeps messages by log and seq. Calls on one log take effect in order.
pub trait Store {
    /// Keeps a message under its own `seq`.
    fn keep(&mut self, log: &LogKey, message: Rc<Message>);

    /// What lies after `after`, oldest first: up to `count` messages or `bytes`,
    /// but at least one where there is one.
    fn fetch(&self, log: &LogKey, after: u64, count: usize, bytes: usize) -> Vec<Rc<Message>>;

    /// Drops messages, both ends included.
    fn forget(&mut self, log: &LogKey, from: u64, to: u64);
}
