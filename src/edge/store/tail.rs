//! The part of the store that is in memory: all that no disk has yet.
//!
//! Knows payloads by log and position. Does not know how much may be kept: the
//! hub counts, and says what to forget.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::hub::settings::Disk;
use crate::hub::{Keeping, LogKey};
use crate::protocol::Message;

/// One message that is in memory only.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Rc<Message>,
    pub(super) keeping: Box<Keeping>,
    /// It is in the commit under way.
    pub(super) is_leaving: bool,
    /// It was in a commit that failed: perhaps it is on the disk all the same.
    pub(super) is_tried: bool,
    /// Nobody reads it any more; it is here because its publisher was promised
    /// that it is written.
    pub(super) is_forgotten: bool,
}

/// Messages that live as long as the process.
#[derive(Default, Debug)]
pub(super) struct Tail {
    /// Logs without messages are not here.
    pub(super) logs: HashMap<LogKey, BTreeMap<u64, Entry>>,
    /// What all of them count against limits.
    bytes: usize,
}

impl Tail {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn insert(&mut self, log: &LogKey, message: Rc<Message>, keeping: Box<Keeping>) {
        let Some(seq) = message.seq else { return };
        self.bytes += keeping.size as usize;
        // One that was forgotten is another message with the same number.
        let before = self.get(log, seq).filter(|before| !before.is_forgotten);
        let (is_leaving, is_tried) = before.map_or((false, false), |it| (it.is_leaving, it.is_tried));
        let entry = Entry { message, keeping, is_leaving, is_tried, is_forgotten: false };
        let before = match self.logs.get_mut(log) {
            Some(messages) => messages.insert(seq, entry),
            None => self.logs.entry(log.clone()).or_default().insert(seq, entry),
        };
        self.bytes -= before.map_or(0, |before| before.keeping.size as usize);
    }

    pub(super) fn get(&self, log: &LogKey, seq: u64) -> Option<&Entry> {
        self.logs.get(log)?.get(&seq)
    }

    pub(super) fn get_mut(&mut self, log: &LogKey, seq: u64) -> Option<&mut Entry> {
        self.logs.get_mut(log)?.get_mut(&seq)
    }

    pub(super) fn remove(&mut self, log: &LogKey, seq: u64) -> Option<Entry> {
        let messages = self.logs.get_mut(log)?;
        let entry = messages.remove(&seq);
        if messages.is_empty() {
            self.logs.remove(log);
        }
        self.bytes -= entry.as_ref().map_or(0, |entry| entry.keeping.size as usize);
        entry
    }

    /// Takes out a message that was in a commit; none, if what is there now was not.
    pub(super) fn take_left(&mut self, log: &LogKey, seq: u64) -> Option<Entry> {
        self.get(log, seq).filter(|entry| entry.is_leaving)?;
        self.remove(log, seq)
    }

    /// The first position after one at which there is something to read.
    pub(super) fn next(&self, log: &LogKey, after: u64) -> Option<u64> {
        self.read(log, after).next().map(|(seq, _)| seq)
    }

    /// What there is to read after a position, oldest first.
    pub(super) fn read(&self, log: &LogKey, after: u64) -> impl Iterator<Item = (u64, &Rc<Message>)> {
        let messages = self.logs.get(log).map(|messages| messages.range(after.saturating_add(1)..));
        let there = messages.into_iter().flatten().filter(|(_, entry)| !entry.is_forgotten);
        there.map(|(seq, entry)| (*seq, &entry.message))
    }

    /// Drops messages, both ends included, but for those that have to be written
    /// all the same. Returns those that may be on the disk.
    pub(super) fn forget(&mut self, log: &LogKey, from: u64, to: u64) -> Vec<u64> {
        let Some(messages) = self.logs.get_mut(log) else { return Vec::new() };
        let (mut gone, mut tried) = (Vec::new(), Vec::new());
        for (seq, entry) in messages.range_mut(from..=to.max(from)) {
            entry.is_forgotten = entry.is_leaving || entry.keeping.disk == Disk::Now;
            if !entry.is_forgotten {
                gone.push(*seq);
            }
        }
        for seq in gone {
            let entry = self.remove(log, seq);
            tried.extend(entry.filter(|entry| entry.is_tried).map(|_| seq));
        }
        tried
    }

    /// All that is to reach a disk before the end, by log and position.
    pub(super) fn all(&self) -> Vec<(LogKey, u64)> {
        let owed = |entry: &Entry| entry.keeping.disk != Disk::Never && !entry.is_leaving;
        let each = self.logs.iter().flat_map(|(log, messages)| {
            messages.iter().filter(|(_, entry)| owed(entry)).map(|(seq, _)| (log.clone(), *seq))
        });
        each.collect()
    }
}
