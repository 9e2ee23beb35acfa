//! The memtable: messages that no disk has yet.
//!
//! They lie by log and position, encoded as the disk will have them. How much may be kept
//! is not limited here: the hub counts, and drops.

use std::collections::HashMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::arena::{Arena, TextPlace};
use super::encoding;
use super::encoding::EncodedText;
use crate::hub::settings::WriteThrough;
use crate::hub::{EntryMeta, LogKey};
use crate::protocol::{Message, Moment};
use crate::small_queue::{SmallQueue, shrink};
use crate::sort::sort_by;

/// One message of one log.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct MessageKey {
    pub(super) log: LogKey,
    pub(super) seq: u64,
}

/// What is known of a message that is in memory only: its `EntryMeta`, but for the scope of
/// its id, which is encoded with the text, and what became of it on its way to the disk.
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
pub(super) struct EntryState {
    pub(super) expires: Moment,
    pub(super) since: Moment,
    pub(super) size: u32,
    pub(super) delivered: bool,
    pub(super) durable: bool,
    disk: WriteThrough,
    /// It was in a commit that failed: perhaps it is on the disk all the same.
    is_tried: bool,
    /// It is read no more; it is here because its publisher was promised that it is
    /// written.
    is_forgotten: bool,
}

/// One message that is in memory only.
#[derive(Debug)]
pub(super) struct MemtableEntry {
    state: EntryState,
    /// It is in the commit under way.
    is_in_commit: bool,
    /// Its id and its body, one behind the other.
    text: TextPlace,
    id_bytes: u16,
}

impl MemtableEntry {
    pub(super) fn state(&self) -> &EntryState {
        &self.state
    }

    /// What it counts against limits.
    pub(super) fn size(&self) -> usize {
        self.state.size as usize
    }
}

/// A message whose publisher waits until it is on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Promise {
    /// It is in the commit under way, or in the queue of those that are written at once.
    UnderWay,
    /// It has to be put into that queue.
    ToBeQueued,
}

/// When a message is written whose commit failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Retry {
    /// At once: its publisher waits for that.
    Now,
    /// When its time comes, which began then.
    Behind(Moment),
    /// When the daemon stops, or not at all.
    NotYet,
    /// Never: it is forgotten, and removed. It may be on the disk.
    Dropped,
}

/// A message whose publisher cannot wait for it any more, as the disk fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Demoted {
    /// It is written when its time comes.
    Kept,
    /// It is forgotten, and removed.
    Dropped { may_be_on_disk: bool },
}

/// A message that was in a commit which is on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Committed {
    pub(super) size: u32,
    /// It is read no more.
    pub(super) is_forgotten: bool,
}

/// The messages of one log, ascending by position.
type LogMessages = SmallQueue<(u64, MemtableEntry)>;

/// The place of a message, or where it would be.
fn place(messages: &LogMessages, seq: u64) -> Result<usize, usize> {
    messages.find(&seq, |(seq, _)| *seq)
}

/// Messages that live as long as the process.
#[derive(Default)]
pub(super) struct Memtable {
    /// Logs without messages are not here.
    logs: HashMap<LogKey, LogMessages>,
    /// How many messages there are.
    count: usize,
    /// What those count against limits that go to a disk sooner or later, and what
    /// the others count.
    for_disk: usize,
    never: usize,
    texts: Arena,
    /// Where a text is encoded before it has its place.
    scratch: Vec<u8>,
}

/// So much of the scratch space is kept; a longer text is rare.
const SCRATCH: usize = 64 << 10;

impl Memtable {
    /// What all of them count against limits.
    pub(super) fn bytes(&self) -> usize {
        self.for_disk + self.never
    }

    /// What of that goes to a disk sooner or later.
    pub(super) fn bytes_for_disk(&self) -> usize {
        self.for_disk
    }

    /// What of it goes to no disk at all.
    pub(super) fn bytes_for_memory(&self) -> usize {
        self.never
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The sum in which a message counts.
    fn sum(&mut self, disk: WriteThrough) -> &mut usize {
        if disk == WriteThrough::Never { &mut self.never } else { &mut self.for_disk }
    }

    /// Has a message go to the disk at another time.
    fn set_disk(&mut self, log: &LogKey, seq: u64, disk: WriteThrough) {
        let Some(entry) = self.get_mut(log, seq) else { return };
        let (size, before) = (entry.size(), std::mem::replace(&mut entry.state.disk, disk));
        *self.sum(before) -= size;
        *self.sum(disk) += size;
    }

    pub(super) fn insert(&mut self, log: &LogKey, seq: u64, message: &Message, meta: &EntryMeta) {
        let mut text = std::mem::take(&mut self.scratch);
        let id_bytes = encoding::encode(message, meta.scope.as_ref(), &mut text);
        let &EntryMeta { expires, since, size, delivered, durable, disk, .. } = meta;
        // One that was forgotten is another message with the same number.
        let before = self.get(log, seq).filter(|before| !before.state.is_forgotten);
        let is_in_commit = before.is_some_and(|before| before.is_in_commit);
        let is_tried = before.is_some_and(|before| before.state.is_tried);
        let state =
            EntryState { expires, since, size, delivered, durable, disk, is_tried, is_forgotten: false };
        self.insert_encoded(log, seq, state, &text, id_bytes);
        if let Some(entry) = self.get_mut(log, seq) {
            entry.is_in_commit = is_in_commit;
        }
        text.clear();
        text.shrink_to(SCRATCH);
        self.scratch = text;
    }

    /// Takes a message that is encoded already: how long the id is that comes first.
    fn insert_encoded(&mut self, log: &LogKey, seq: u64, state: EntryState, text: &[u8], id_bytes: usize) {
        self.count += 1;
        *self.sum(state.disk) += state.size as usize;
        let text = self.texts.put(text);
        // Names are short, whatever is escaped in them.
        let id_bytes = u16::try_from(id_bytes).unwrap_or_default();
        let entry = MemtableEntry { state, is_in_commit: false, text, id_bytes };
        let messages = match self.logs.get_mut(log) {
            Some(messages) => messages,
            None => self.logs.entry(log.clone()).or_default(),
        };
        match place(messages, seq) {
            Ok(at) => {
                let here = messages.get_mut(at);
                if let Some((_, before)) = here.map(|here| std::mem::replace(here, (seq, entry))) {
                    self.release(&before);
                }
            }
            Err(at) => messages.insert(at, (seq, entry)),
        }
    }

    /// What the disk will have of a message.
    pub(super) fn text(&self, entry: &MemtableEntry) -> Option<EncodedText<'_>> {
        let (id, body) = self.encoded(entry);
        Some(EncodedText::new(serde_json::from_slice(id).ok()?, serde_json::from_slice(body).ok()?))
    }

    /// The same, as bytes: the id and the body.
    pub(super) fn encoded(&self, entry: &MemtableEntry) -> (&[u8], &[u8]) {
        self.texts.get(entry.text).split_at_checked(entry.id_bytes.into()).unwrap_or_default()
    }

    /// A message as it was kept.
    pub(super) fn message(&self, log: &LogKey, seq: u64, entry: &MemtableEntry) -> Option<Rc<Message>> {
        encoding::message(log, seq, self.text(entry)?.body())
    }

    pub(super) fn get(&self, log: &LogKey, seq: u64) -> Option<&MemtableEntry> {
        let messages = self.logs.get(log)?;
        messages.get(place(messages, seq).ok()?).map(|(_, entry)| entry)
    }

    fn get_mut(&mut self, log: &LogKey, seq: u64) -> Option<&mut MemtableEntry> {
        let messages = self.logs.get_mut(log)?;
        let at = place(messages, seq).ok()?;
        messages.get_mut(at).map(|(_, entry)| entry)
    }

    fn remove(&mut self, log: &LogKey, seq: u64) -> Option<MemtableEntry> {
        let messages = self.logs.get_mut(log)?;
        let at = place(messages, seq).ok()?;
        let (_, entry) = messages.remove(at)?;
        if messages.is_empty() {
            self.logs.remove(log);
            shrink(&mut self.logs);
        }
        self.release(&entry);
        Some(entry)
    }

    /// Gives back what a message took that is here no more.
    fn release(&mut self, entry: &MemtableEntry) {
        self.count -= 1;
        *self.sum(entry.state.disk) -= entry.size();
        self.texts.free(entry.text);
        if self.texts.is_sparse() {
            self.compact_texts();
        }
    }

    /// Moves texts out of blocks that hold little else.
    fn compact_texts(&mut self) {
        let mut text = Vec::new();
        for (_, entry) in self.logs.values_mut().flat_map(SmallQueue::iter_mut) {
            if self.texts.should_move(entry.text) {
                text.clear();
                text.extend_from_slice(self.texts.get(entry.text));
                let moved = self.texts.put(&text);
                self.texts.free(std::mem::replace(&mut entry.text, moved));
            }
        }
    }

    /// Has a message written as soon as can be, for its publisher waits for that; none, if it
    /// is not here.
    pub(super) fn promise(&mut self, key: &MessageKey) -> Option<Promise> {
        let entry = self.get_mut(&key.log, key.seq)?;
        let is_under_way = entry.state.disk == WriteThrough::Now || entry.is_in_commit;
        entry.state.durable = true;
        self.set_disk(&key.log, key.seq, WriteThrough::Now);
        Some(if is_under_way { Promise::UnderWay } else { Promise::ToBeQueued })
    }

    /// Whether a message still waits for the time at which it is written.
    pub(super) fn is_delayed(&self, key: &MessageKey) -> bool {
        self.get(&key.log, key.seq)
            .is_some_and(|entry| entry.state.disk == WriteThrough::Behind && !entry.is_in_commit)
    }

    /// Puts a message into the commit that is being made: what it counts. None, if it was
    /// forgotten, or went before.
    pub(super) fn begin_commit(&mut self, key: &MessageKey) -> Option<usize> {
        let entry = self.get_mut(&key.log, key.seq).filter(|entry| !entry.is_in_commit)?;
        entry.is_in_commit = true;
        Some(entry.size())
    }

    /// The commit failed that a message was in; none, if it is not here any more.
    pub(super) fn undo_commit(&mut self, key: &MessageKey) -> Option<Retry> {
        let entry = self.get_mut(&key.log, key.seq)?;
        (entry.is_in_commit, entry.state.is_tried) = (false, true);
        Some(match entry.state.disk {
            WriteThrough::Now => Retry::Now,
            _ if entry.state.is_forgotten => {
                self.remove(&key.log, key.seq);
                Retry::Dropped
            }
            WriteThrough::Behind => Retry::Behind(entry.state.since),
            WriteThrough::Stop | WriteThrough::Never => Retry::NotYet,
        })
    }

    /// Takes out a message that is on the disk now; none, if another has its number by now.
    pub(super) fn end_commit(&mut self, key: &MessageKey) -> Option<Committed> {
        self.get(&key.log, key.seq).filter(|entry| entry.is_in_commit)?;
        let EntryState { size, is_forgotten, .. } = self.remove(&key.log, key.seq)?.state;
        Some(Committed { size, is_forgotten })
    }

    /// Has a message written later whose publisher has waited in vain; none, if it is not
    /// here any more.
    pub(super) fn demote(&mut self, key: &MessageKey) -> Option<Demoted> {
        self.set_disk(&key.log, key.seq, WriteThrough::Behind);
        let EntryState { is_forgotten, is_tried, .. } = self.get(&key.log, key.seq)?.state;
        if !is_forgotten {
            return Some(Demoted::Kept);
        }
        self.remove(&key.log, key.seq);
        Some(Demoted::Dropped { may_be_on_disk: is_tried })
    }

    /// The first position after one at which there is something to read.
    pub(super) fn next(&self, log: &LogKey, after: u64) -> Option<u64> {
        self.read(log, after).next().map(|(seq, _)| seq)
    }

    /// What there is to read after a position, oldest first.
    pub(super) fn read(&self, log: &LogKey, after: u64) -> impl Iterator<Item = (u64, &MemtableEntry)> {
        let later = |messages: &LogMessages| messages.partition_point(|(seq, _)| *seq <= after);
        let messages = self.logs.get(log).map(|messages| messages.range(later(messages)..));
        let there = messages.into_iter().flatten().filter(|(_, entry)| !entry.state.is_forgotten);
        there.map(|(seq, entry)| (*seq, entry))
    }

    /// Drops messages, both ends included, but for those that have to be written
    /// all the same. Returns those that may be on the disk.
    pub(super) fn forget(&mut self, log: &LogKey, from: u64, to: u64) -> Vec<u64> {
        let Some(messages) = self.logs.get_mut(log) else { return Vec::new() };
        let (mut gone, mut tried) = (Vec::new(), Vec::new());
        let begin = messages.partition_point(|(seq, _)| *seq < from);
        let end = messages.partition_point(|(seq, _)| *seq <= to);
        for (seq, entry) in messages.range_mut(begin..end) {
            entry.state.is_forgotten = entry.is_in_commit || entry.state.disk == WriteThrough::Now;
            if !entry.state.is_forgotten {
                gone.push(*seq);
            }
        }
        for seq in gone {
            let entry = self.remove(log, seq);
            tried.extend(entry.filter(|entry| entry.state.is_tried).map(|_| seq));
        }
        tried
    }

    /// All that is to reach a disk before the end, by log and position.
    pub(super) fn unwritten(&self) -> impl Iterator<Item = (&LogKey, u64)> {
        let is_unwritten =
            |entry: &MemtableEntry| entry.state.disk != WriteThrough::Never && !entry.is_in_commit;
        self.logs.iter().flat_map(move |(log, messages)| {
            messages.iter().filter(move |(_, entry)| is_unwritten(entry)).map(move |(seq, _)| (log, *seq))
        })
    }
}

/// A message in memory, for a process that takes over; its text follows the log.
#[derive(Serialize, Deserialize)]
pub(super) struct EntrySnapshot {
    seq: u64,
    state: EntryState,
    id_bytes: usize,
    body_bytes: usize,
}

impl EntrySnapshot {
    /// How long its text is; none, if it cannot be so long.
    pub(super) fn text_bytes(&self) -> Option<usize> {
        self.id_bytes.checked_add(self.body_bytes)
    }
}

impl Memtable {
    /// The logs that have messages here, in no order.
    pub(super) fn logs(&self) -> impl Iterator<Item = &LogKey> {
        self.logs.keys()
    }

    /// The messages of a log, for a process that takes over.
    pub(super) fn snapshot_of(&self, log: &LogKey) -> Vec<EntrySnapshot> {
        let of = |(seq, entry): &(u64, MemtableEntry)| {
            let (id, body) = self.encoded(entry);
            EntrySnapshot { seq: *seq, state: entry.state, id_bytes: id.len(), body_bytes: body.len() }
        };
        self.logs.get(log).into_iter().flatten().map(of).collect()
    }

    /// The texts of those messages.
    pub(super) fn texts_of(&self, log: &LogKey) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.logs.get(log).into_iter().flatten().map(|(_, entry)| self.encoded(entry))
    }

    /// Takes a message of another process. What goes to the disk at a stop goes at a
    /// hand-over: afterwards, when that delays nothing.
    pub(super) fn resume(&mut self, log: &LogKey, snapshot: &EntrySnapshot, text: &[u8]) {
        let mut state = snapshot.state;
        if state.disk == WriteThrough::Stop {
            state.disk = WriteThrough::Behind;
        }
        self.insert_encoded(log, snapshot.seq, state, text, snapshot.id_bytes);
    }

    /// All messages that go to the disk while the daemon runs, with the time since when they
    /// are kept, oldest first.
    pub(super) fn to_be_queued(&self) -> Vec<(Moment, MessageKey, WriteThrough)> {
        let is_queued =
            |entry: &MemtableEntry| matches!(entry.state.disk, WriteThrough::Behind | WriteThrough::Now);
        let all = self.logs.iter().flat_map(|(log, messages)| {
            messages.iter().filter(move |(_, entry)| is_queued(entry)).map(move |(seq, entry)| {
                let key = MessageKey { log: log.clone(), seq: *seq };
                (entry.state.since, key, entry.state.disk)
            })
        });
        let mut all: Vec<_> = all.collect();
        sort_by(&mut all, |one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        all
    }
}
