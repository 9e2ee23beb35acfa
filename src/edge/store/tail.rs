//! The part of the store that is in memory: all that no disk has yet.
//!
//! Knows messages by log and position, spelled as the disk will have them. Does not
//! know how much may be kept: the hub counts, and says what to forget.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::blocks::{Blocks, Place};
use super::spelling::{self, Text};
use crate::hub::settings::Disk;
use crate::hub::{Keeping, LogKey};
use crate::protocol::{Message, Moment};

/// One message that is in memory only: what is said of it in its `Keeping`, but for
/// the scope of its id, which is spelled with the rest.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) expires: Moment,
    pub(super) since: Moment,
    pub(super) size: u32,
    pub(super) heard: bool,
    pub(super) durable: bool,
    pub(super) disk: Disk,
    /// It is in the commit under way.
    pub(super) is_leaving: bool,
    /// It was in a commit that failed: perhaps it is on the disk all the same.
    pub(super) is_tried: bool,
    /// Nobody reads it any more; it is here because its publisher was promised
    /// that it is written.
    pub(super) is_forgotten: bool,
    /// Its id and its body, one behind the other.
    text: Place,
    id_bytes: u16,
}

/// Messages that live as long as the process.
#[derive(Default)]
pub(super) struct Tail {
    /// Logs without messages are not here.
    pub(super) logs: HashMap<LogKey, BTreeMap<u64, Entry>>,
    /// What all of them count against limits.
    bytes: usize,
    texts: Blocks,
    /// Where a text is spelled before it has its place.
    scratch: Vec<u8>,
}

/// What is spelled in one place again and again; a longer text is rare.
const SCRATCH: usize = 64 << 10;

impl Tail {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn insert(&mut self, log: &LogKey, seq: u64, message: &Message, keeping: &Keeping) {
        let mut text = std::mem::take(&mut self.scratch);
        let id_bytes = spelling::spell(message, keeping.scope.as_ref(), &mut text);
        self.insert_spelled(log, seq, keeping, &text, id_bytes);
        text.clear();
        text.shrink_to(SCRATCH);
        self.scratch = text;
    }

    /// Takes a message that is spelled already: how long the id is that comes first.
    pub(super) fn insert_spelled(
        &mut self,
        log: &LogKey,
        seq: u64,
        keeping: &Keeping,
        text: &[u8],
        id_bytes: usize,
    ) {
        self.bytes += keeping.size as usize;
        // One that was forgotten is another message with the same number.
        let before = self.get(log, seq).filter(|before| !before.is_forgotten);
        let (is_leaving, is_tried) = before.map_or((false, false), |it| (it.is_leaving, it.is_tried));
        let &Keeping { expires, since, size, heard, durable, disk, .. } = keeping;
        let text = self.texts.put(text);
        // Names are short, whatever is escaped in them.
        let id_bytes = u16::try_from(id_bytes).unwrap_or_default();
        let entry = Entry {
            expires,
            since,
            size,
            heard,
            durable,
            disk,
            is_leaving,
            is_tried,
            is_forgotten: false,
            text,
            id_bytes,
        };
        let before = match self.logs.get_mut(log) {
            Some(messages) => messages.insert(seq, entry),
            None => self.logs.entry(log.clone()).or_default().insert(seq, entry),
        };
        if let Some(before) = before {
            self.let_go(&before);
        }
    }

    /// What the disk will have of a message.
    pub(super) fn text(&self, entry: &Entry) -> Option<Text<'_>> {
        let (id, body) = self.spelled(entry);
        Some(Text { id: serde_json::from_slice(id).ok()?, body: serde_json::from_slice(body).ok()? })
    }

    /// The same, as bytes.
    pub(super) fn spelled(&self, entry: &Entry) -> (&[u8], &[u8]) {
        self.texts.get(entry.text).split_at_checked(entry.id_bytes.into()).unwrap_or_default()
    }

    /// A message as it was kept.
    pub(super) fn message(&self, log: &LogKey, seq: u64, entry: &Entry) -> Option<Rc<Message>> {
        spelling::message(log, seq, self.text(entry)?.body)
    }

    pub(super) fn get(&self, log: &LogKey, seq: u64) -> Option<&Entry> {
        self.logs.get(log)?.get(&seq)
    }

    pub(super) fn get_mut(&mut self, log: &LogKey, seq: u64) -> Option<&mut Entry> {
        self.logs.get_mut(log)?.get_mut(&seq)
    }

    pub(super) fn remove(&mut self, log: &LogKey, seq: u64) -> Option<Entry> {
        let messages = self.logs.get_mut(log)?;
        let entry = messages.remove(&seq)?;
        if messages.is_empty() {
            self.logs.remove(log);
        }
        self.let_go(&entry);
        Some(entry)
    }

    /// A message is here no more.
    fn let_go(&mut self, entry: &Entry) {
        self.bytes -= entry.size as usize;
        self.texts.free(entry.text);
        if self.texts.is_sparse() {
            self.gather();
        }
    }

    /// Moves what holds up blocks of which little is of use.
    fn gather(&mut self) {
        let mut text = Vec::new();
        for entry in self.logs.values_mut().flat_map(BTreeMap::values_mut) {
            if self.texts.should_move(entry.text) {
                text.clear();
                text.extend_from_slice(self.texts.get(entry.text));
                let moved = self.texts.put(&text);
                self.texts.free(std::mem::replace(&mut entry.text, moved));
            }
        }
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
    pub(super) fn read(&self, log: &LogKey, after: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let messages = self.logs.get(log).map(|messages| messages.range(after.saturating_add(1)..));
        let there = messages.into_iter().flatten().filter(|(_, entry)| !entry.is_forgotten);
        there.map(|(seq, entry)| (*seq, entry))
    }

    /// Drops messages, both ends included, but for those that have to be written
    /// all the same. Returns those that may be on the disk.
    pub(super) fn forget(&mut self, log: &LogKey, from: u64, to: u64) -> Vec<u64> {
        let Some(messages) = self.logs.get_mut(log) else { return Vec::new() };
        let (mut gone, mut tried) = (Vec::new(), Vec::new());
        for (seq, entry) in messages.range_mut(from..=to.max(from)) {
            entry.is_forgotten = entry.is_leaving || entry.disk == Disk::Now;
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
        let owed = |entry: &Entry| entry.disk != Disk::Never && !entry.is_leaving;
        let each = self.logs.iter().flat_map(|(log, messages)| {
            messages.iter().filter(|(_, entry)| owed(entry)).map(|(seq, _)| (log.clone(), *seq))
        });
        each.collect()
    }
}
