//! The part of the store that is in memory: all that no disk has yet.
//!
//! Knows messages by log and position, spelled as the disk will have them. Does not
//! know how much may be kept: the hub counts, and says what to forget.

use std::collections::HashMap;
use std::rc::Rc;

use super::arena::{Arena, Place};
use super::encoding;
use super::encoding::Text;
use crate::hub::settings::WriteThrough;
use crate::hub::{EntryMeta, LogKey};
use crate::protocol::{Message, Moment};
use crate::small_queue::{SmallQueue, shrink};

/// One message that is in memory only: what is said of it in its `EntryMeta`, but for
/// the scope of its id, which is spelled with the rest.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) expires: Moment,
    pub(super) since: Moment,
    pub(super) size: u32,
    pub(super) heard: bool,
    pub(super) durable: bool,
    pub(super) disk: WriteThrough,
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

/// The messages of one log, ascending by position.
pub(super) type Messages = SmallQueue<(u64, Entry)>;

/// The place of a message, or where it would be.
fn place(messages: &Messages, seq: u64) -> Result<usize, usize> {
    messages.find(&seq, |(seq, _)| *seq)
}

/// Messages that live as long as the process.
#[derive(Default)]
pub(super) struct Memtable {
    /// Logs without messages are not here.
    pub(super) logs: HashMap<LogKey, Messages>,
    /// How many there are.
    count: usize,
    /// What those count against limits that go to a disk sooner or later, and what
    /// the others count.
    for_disk: usize,
    never: usize,
    texts: Arena,
    /// Where a text is spelled before it has its place.
    scratch: Vec<u8>,
}

/// What is spelled in one place again and again; a longer text is rare.
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
    pub(super) fn set_disk(&mut self, log: &LogKey, seq: u64, disk: WriteThrough) {
        let Some(entry) = self.get_mut(log, seq) else { return };
        let (size, before) = (entry.size as usize, std::mem::replace(&mut entry.disk, disk));
        *self.sum(before) -= size;
        *self.sum(disk) += size;
    }

    pub(super) fn insert(&mut self, log: &LogKey, seq: u64, message: &Message, keeping: &EntryMeta) {
        let mut text = std::mem::take(&mut self.scratch);
        let id_bytes = encoding::spell(message, keeping.scope.as_ref(), &mut text);
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
        keeping: &EntryMeta,
        text: &[u8],
        id_bytes: usize,
    ) {
        self.count += 1;
        *self.sum(keeping.disk) += keeping.size as usize;
        // One that was forgotten is another message with the same number.
        let before = self.get(log, seq).filter(|before| !before.is_forgotten);
        let (is_leaving, is_tried) = before.map_or((false, false), |it| (it.is_leaving, it.is_tried));
        let &EntryMeta { expires, since, size, delivered: heard, durable, disk, .. } = keeping;
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
        let messages = match self.logs.get_mut(log) {
            Some(messages) => messages,
            None => self.logs.entry(log.clone()).or_default(),
        };
        match place(messages, seq) {
            Ok(at) => {
                let here = messages.get_mut(at);
                if let Some((_, before)) = here.map(|here| std::mem::replace(here, (seq, entry))) {
                    self.let_go(&before);
                }
            }
            Err(at) => messages.insert(at, (seq, entry)),
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
        encoding::message(log, seq, self.text(entry)?.body)
    }

    pub(super) fn get(&self, log: &LogKey, seq: u64) -> Option<&Entry> {
        let messages = self.logs.get(log)?;
        messages.get(place(messages, seq).ok()?).map(|(_, entry)| entry)
    }

    pub(super) fn get_mut(&mut self, log: &LogKey, seq: u64) -> Option<&mut Entry> {
        let messages = self.logs.get_mut(log)?;
        let at = place(messages, seq).ok()?;
        messages.get_mut(at).map(|(_, entry)| entry)
    }

    pub(super) fn remove(&mut self, log: &LogKey, seq: u64) -> Option<Entry> {
        let messages = self.logs.get_mut(log)?;
        let at = place(messages, seq).ok()?;
        let (_, entry) = messages.remove(at)?;
        if messages.is_empty() {
            self.logs.remove(log);
            shrink(&mut self.logs);
        }
        self.let_go(&entry);
        Some(entry)
    }

    /// A message is here no more.
    fn let_go(&mut self, entry: &Entry) {
        self.count -= 1;
        *self.sum(entry.disk) -= entry.size as usize;
        self.texts.free(entry.text);
        if self.texts.is_sparse() {
            self.gather();
        }
    }

    /// Moves what holds up blocks of which little is of use.
    fn gather(&mut self) {
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
        let later = |messages: &Messages| messages.partition_point(|(seq, _)| *seq <= after);
        let messages = self.logs.get(log).map(|messages| messages.range(later(messages)..));
        let there = messages.into_iter().flatten().filter(|(_, entry)| !entry.is_forgotten);
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
            entry.is_forgotten = entry.is_leaving || entry.disk == WriteThrough::Now;
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
    pub(super) fn owed(&self) -> impl Iterator<Item = (&LogKey, u64)> {
        let is_owed = |entry: &Entry| entry.disk != WriteThrough::Never && !entry.is_leaving;
        self.logs.iter().flat_map(move |(log, messages)| {
            messages.iter().filter(move |(_, entry)| is_owed(entry)).map(move |(seq, _)| (log, *seq))
        })
    }
}
