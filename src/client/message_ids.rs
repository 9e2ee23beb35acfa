//! Ids for messages, by which the hub knows a repetition.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::edge::clock;

/// Gives out names that no other client has.
#[derive(Debug)]
pub(super) struct Names {
    /// Sixteen random digits: workers of one user share the hub's memory of names.
    prefix: String,
    next: AtomicU64,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { prefix: format!("{:016x}", clock::random()), next: AtomicU64::new(1) }
    }

    /// Adds a `message_id` to an object.
    pub(super) fn add(&self, line: &mut Vec<u8>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        line.pop();
        line.extend_from_slice(format!(",\"message_id\":\"{}-{number:x}\"}}", self.prefix).as_bytes());
    }
}
