//! The part of the store that is in memory: all that no disk has yet.
//!
//! Knows payloads by log and position. Does not know how much may be kept: the
//! hub counts, and says what to forget.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::Store;
use crate::hub::LogKey;
use crate::protocol::Message;

/// Messages that live as long as the process.
#[derive(Default, Debug)]
pub struct Memory {
    /// Logs without messages are not here.
    logs: HashMap<LogKey, BTreeMap<u64, Rc<Message>>>,
}

impl Store for Memory {
    fn keep(&mut self, log: &LogKey, message: Rc<Message>) {
        let Some(seq) = message.seq else { return };
        match self.logs.get_mut(log) {
            Some(messages) => messages.insert(seq, message),
            None => self.logs.entry(log.clone()).or_default().insert(seq, message),
        };
    }

    fn fetch(&self, log: &LogKey, after: u64, count: usize, bytes: usize) -> Vec<Rc<Message>> {
        let Some(messages) = self.logs.get(log) else { return Vec::new() };
        let mut room = bytes;
        let mut page = Vec::new();
        for (_, message) in messages.range(after.saturating_add(1)..).take(count) {
            let size = message.size();
            if size > room && !page.is_empty() {
                break;
            }
            room = room.saturating_sub(size);
            page.push(message.clone());
        }
        page
    }

    fn forget(&mut self, log: &LogKey, from: u64, to: u64) {
        let Some(messages) = self.logs.get_mut(log) else { return };
        let mut dropped = messages.split_off(&from);
        if let Some(after) = to.checked_add(1) {
            messages.append(&mut dropped.split_off(&after));
        }
        if messages.is_empty() {
            self.logs.remove(log);
        }
    }
}
