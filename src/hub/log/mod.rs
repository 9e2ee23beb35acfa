//! What is kept of one topic, and who reads it.
//!
//! Knows the position, size and age of each kept message. Does not know what it
//! says: the store has that.

pub(super) mod cursor;
pub(super) mod durable;
pub(super) mod entry;
pub(super) mod eviction;
pub(super) mod provisional_seq;
pub(super) mod publisher_quota;
pub(super) mod read_failure;
pub(super) mod recovery;
pub(super) mod replay;
pub(super) mod retention;
pub(super) mod usage;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::channel::receipts::Owed;
use super::optional_list::OptionalList;
use super::timers::NEVER;
use crate::protocol::Moment;
use crate::protocol::frame::GapCause;
use crate::small_queue::SmallQueue;
use cursor::{Backlog, Reader, Readers, join};
use durable::Answers;
use entry::{LogEntry, Totals};
use publisher_quota::Author;
use usage::LogUsage;

/// What is kept of one topic.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Log {
    /// By position, ascending.
    pub(super) kept: SmallQueue<LogEntry>,
    /// Of all kept messages.
    pub(super) sums: Totals,
    /// What of it is in the sums over all logs.
    #[serde(skip)]
    pub(super) weighed: LogUsage,
    /// Nothing loose lies before this.
    loose_from: u64,
    /// Who reads it.
    pub(super) readers: OptionalList<Readers>,
    /// No kept message expires before this.
    pub(super) soonest: Moment,
    /// For which moment the deadline of its oldest is set.
    pub(super) armed: Moment,
    /// Who is to be told that a message has arrived, by position.
    pub(super) receipts: OptionalList<VecDeque<Owed>>,
    /// Publishers that wait for the disk.
    pub(super) answers: OptionalList<Answers>,
    /// Of an inbox: the first and the last position that was passed over for a
    /// connection because the disk could not be read. The cursor stays before the
    /// first until some connection has had it.
    unread: Option<Box<SeqRange>>,
    /// What has come and gone since it was weighed, of publishers who have a share in all that
    /// is kept.
    #[serde(skip)]
    moved: OptionalList<Vec<(Author, isize)>>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            kept: SmallQueue::default(),
            sums: Totals::default(),
            weighed: LogUsage::default(),
            loose_from: 0,
            readers: OptionalList::default(),
            soonest: NEVER,
            armed: NEVER,
            receipts: OptionalList::default(),
            answers: OptionalList::default(),
            unread: None,
            moved: OptionalList::default(),
        }
    }
}

/// Where more read, what was delivered goes once all of them have had it: asking each of
/// them about each message would cost more than delivering it.
const FEW_READERS: usize = 16;

/// A run of positions, both ends included.
pub(super) type SeqRange = (u64, u64);

/// What one receipt that is owed takes, with the names in it.
pub(super) const RECEIPT: usize = 256;

impl Log {
    /// What it counts in the sums over all logs: a receipt waits longer than its
    /// message, so it is not in the bytes of those.
    pub(super) fn weight(&self) -> LogUsage {
        let receipts = self.receipts.len() * RECEIPT;
        let Totals { bytes, loose, promised, stored } = self.sums;
        LogUsage {
            bytes: bytes + receipts,
            unstored: loose + promised + receipts,
            loose: loose + receipts,
            messages: self.kept.len() as u32,
            stored: stored as u32,
            answers: self.answers.len() as u32,
            awaited: self.answers.bytes(),
            yields: self.kept.front().is_none_or(|oldest| !oldest.durable),
        }
    }

    /// Whether most of its weight is receipts.
    pub(super) fn is_mostly_receipts(&self) -> bool {
        self.receipts.len() * RECEIPT > self.sums.bytes
    }

    pub(super) fn is_unused(&self) -> bool {
        self.kept.is_empty() && self.readers.is_empty() && self.receipts.is_empty() && self.answers.is_empty()
    }

    /// What was passed over because the disk could not be read.
    pub(super) fn unread(&self) -> Option<SeqRange> {
        self.unread.as_deref().copied()
    }

    pub(super) fn set_unread(&mut self, unread: Option<SeqRange>) {
        self.unread = unread.map(Box::new);
    }

    /// Gives back what lists hold that are empty.
    pub(super) fn tidy(&mut self) {
        self.readers.tidy();
        self.receipts.tidy();
        self.answers.tidy();
    }

    pub(super) fn push(&mut self, kept: LogEntry) {
        self.sums.add(&kept);
        self.note_moved(&kept, 1);
        self.soonest = self.soonest.min(kept.expires);
        self.kept.push_back(kept);
    }

    fn note_moved(&mut self, kept: &LogEntry, sign: isize) {
        if kept.author.pays() {
            self.moved.push((kept.author, sign * kept.size as isize));
        }
    }

    /// Takes that out: bytes by publisher, those that went below zero.
    pub(super) fn take_moved(&mut self) -> Vec<(Author, isize)> {
        self.moved.take_all()
    }

    /// Puts messages that were found on the disk between those that are here; how
    /// many found their place taken.
    pub(super) fn merge(&mut self, found: Vec<LogEntry>) -> u64 {
        let mut doubles = 0;
        let mut rest = std::mem::take(&mut self.kept).into_iter().peekable();
        for kept in found {
            while let Some(before) = rest.next_if(|here| here.seq < kept.seq) {
                self.kept.push_back(before);
            }
            if rest.peek().is_some_and(|here| here.seq == kept.seq) {
                doubles += 1;
            } else {
                self.push(kept);
            }
        }
        self.kept.extend(rest);
        doubles
    }

    /// The place of the first message after a position.
    fn place_after(&self, seq: u64) -> usize {
        self.kept.partition_point(|kept| kept.seq <= seq)
    }

    pub(super) fn first_after(&self, seq: u64) -> Option<&LogEntry> {
        self.kept.get(self.place_after(seq))
    }

    pub(super) fn find_mut(&mut self, seq: u64) -> Option<&mut LogEntry> {
        let place = self.kept.find(&seq, |kept| kept.seq).ok()?;
        self.kept.get_mut(place)
    }

    pub(super) fn find(&self, seq: u64) -> Option<&LogEntry> {
        let place = self.kept.find(&seq, |kept| kept.seq).ok()?;
        self.kept.get(place)
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.find(seq).is_some()
    }

    /// A run of messages is on the disk; tells those that were not, and how many they are.
    pub(super) fn store(&mut self, (from, to): SeqRange, mut tell: impl FnMut(&LogEntry)) -> u64 {
        let run = self.kept.partition_point(|kept| kept.seq < from)..self.place_after(to);
        let mut count = 0;
        for kept in self.kept.range_mut(run).filter(|kept| !kept.stored) {
            self.sums.take(kept);
            kept.stored = true;
            self.sums.add(kept);
            tell(kept);
            count += 1;
        }
        count
    }

    /// The publisher of a message waits for the disk from now on.
    pub(super) fn promise(&mut self, seq: u64) {
        self.change(seq, |kept| kept.durable = true);
    }

    /// It waits no longer, in vain; what is on the disk stays promised.
    pub(super) fn release(&mut self, seq: u64) {
        self.change(seq, |kept| kept.durable &= kept.stored);
        self.loose_from = self.loose_from.min(seq);
    }

    fn change(&mut self, seq: u64, what: impl FnOnce(&mut LogEntry)) {
        let Ok(place) = self.kept.find(&seq, |kept| kept.seq) else { return };
        if let Some(kept) = self.kept.get_mut(place) {
            self.sums.take(kept);
            what(kept);
            self.sums.add(kept);
        }
    }

    /// The oldest message that only the memory has and nobody waits for. What was
    /// passed once is not looked at again.
    pub(super) fn first_loose(&mut self) -> Option<u64> {
        let from = self.kept.partition_point(|kept| kept.seq < self.loose_from);
        let mut rest = self.kept.range(from..);
        let found = rest.find(|kept| !kept.stored && !kept.durable).map(|kept| kept.seq);
        let last = self.kept.back().map_or(0, |kept| kept.seq + 1);
        self.loose_from = found.unwrap_or(last).max(self.loose_from);
        found
    }

    /// The positions between two, the second included, that are kept.
    pub(super) fn within(&self, after: u64, to: u64) -> impl Iterator<Item = u64> {
        let rest = self.kept.range(self.place_after(after)..);
        rest.map(|kept| kept.seq).take_while(move |seq| *seq <= to)
    }

    /// The first after a position that a connection said and does not hear.
    pub(super) fn first_unheard_by(&self, tag: u64, after: u64) -> Option<u64> {
        let mut rest = self.kept.range(self.place_after(after)..);
        rest.find(|kept| kept.by == tag && !kept.echo).map(|kept| kept.seq)
    }

    /// The first of a backlog that a connection hears: not what it has said itself and does
    /// not want to hear, nor what is kept for others.
    pub(super) fn first_for(&self, tag: u64, backlog: &Backlog) -> Option<u64> {
        let mut rest = self.kept.range(self.place_after(backlog.after)..);
        let is_heard = |kept: &&LogEntry| {
            (kept.by != tag || kept.echo) && backlog.others.binary_search(&kept.seq).is_err()
        };
        rest.find(is_heard).map(|kept| kept.seq)
    }

    /// How many are kept after a position.
    pub(super) fn waiting(&self, after: u64) -> usize {
        self.kept.len() - self.place_after(after)
    }

    /// What a newcomer hears: what nobody heard, from the first such message that
    /// no reader is on its way to. What somebody heard is kept for those who were
    /// here when it was said, and for nobody else.
    pub(super) fn unclaimed(&self) -> Option<Backlog> {
        let claimed = |kept: &LogEntry| self.readers.want(kept.seq);
        let at = self.kept.iter().position(|kept| !kept.heard && !claimed(kept))?;
        let after = self.kept.get(at)?.seq - 1;
        let heard = self.kept.range(at..).filter(|kept| kept.heard);
        Some(Backlog { others: heard.map(|kept| kept.seq).collect(), ..Backlog::after(after) })
    }

    /// The reader that a connection is now.
    pub(super) fn reader_mut(&mut self, slot: u32) -> Option<&mut Reader> {
        self.readers.some_mut()?.of_mut(slot).iter_mut().find(|reader| !reader.left)
    }

    pub(super) fn reader(&self, slot: u32) -> Option<&Reader> {
        self.readers.of(slot).iter().find(|reader| !reader.left)
    }

    /// A reader may have nothing on its way any more, and is dropped then.
    pub(super) fn drop_over(&mut self, slot: u32) {
        if let Some(readers) = self.readers.some_mut() {
            readers.drop_over(slot);
        }
    }

    /// Nobody will acknowledge a message any more.
    pub(super) fn owe_no_receipt(&mut self, seq: u64) {
        if let Ok(at) = self.receipts.binary_search_by_key(&seq, |owed| owed.seq)
            && self.receipts.get(at).is_some_and(|owed| !owed.is_delivered)
        {
            self.receipts.remove(at);
        }
    }

    /// Notes in front of every reader that has not passed it that a message,
    /// which is here no longer, is lost. Holes with nothing between them are one.
    pub(super) fn lose(&mut self, seq: u64, cause: GapCause) {
        let is_in_front =
            |reader: &&mut Reader| !reader.left && reader.sent < seq && !reader.passes_over(seq);
        let readers = self.readers.some_mut().map(|readers| readers.iter_mut());
        for reader in readers.into_iter().flatten().filter(is_in_front) {
            let at = reader.note_lost(seq, cause);
            join(&mut reader.holes, at + 1, &self.kept);
            join(&mut reader.holes, at, &self.kept);
        }
    }

    /// The runs of messages that satisfy a condition, each by its first position
    /// and how many it has; none is longer than `most`.
    pub(super) fn runs(&self, most: usize, wanted: impl Fn(&LogEntry) -> bool) -> Vec<(u64, usize)> {
        let mut runs: Vec<(u64, usize)> = Vec::new();
        let mut adjacent = false;
        for kept in &self.kept {
            let is_wanted = wanted(kept);
            match runs.last_mut() {
                Some(run) if is_wanted && adjacent && run.1 < most => run.1 += 1,
                _ if is_wanted => runs.push((kept.seq, 1)),
                _ => {}
            }
            adjacent = is_wanted;
        }
        runs
    }

    /// Takes out what satisfies a condition, and says which positions went.
    pub(super) fn remove(&mut self, mut gone: impl FnMut(&LogEntry) -> bool) -> Vec<SeqRange> {
        let mut runs: Vec<SeqRange> = Vec::new();
        let mut adjacent = false;
        let mut moved = Vec::new();
        let sums = &mut self.sums;
        self.kept.retain(|kept| {
            let goes = gone(kept);
            if goes {
                sums.take(kept);
                if kept.author.pays() {
                    moved.push((kept.author, -(kept.size as isize)));
                }
                match runs.last_mut() {
                    Some(run) if adjacent => run.1 = kept.seq,
                    _ => runs.push((kept.seq, kept.seq)),
                }
            }
            adjacent = goes;
            !goes
        });
        if !moved.is_empty() {
            self.moved.extend(moved);
        }
        runs
    }

    /// Takes out of the front what somebody heard and no reader wants any more;
    /// enough where messages are heard in their order.
    pub(super) fn remove_first_delivered(&mut self) -> Option<SeqRange> {
        let mut run: Option<SeqRange> = None;
        while let Some(first) = self.kept.front().filter(|kept| kept.heard)
            && !self.readers.want(first.seq)
        {
            let seq = first.seq;
            self.take(seq);
            // What is gone between is gone already.
            run = Some(run.map_or((seq, seq), |(from, _)| (from, seq)));
        }
        run
    }

    /// Takes out what somebody heard and no reader wants any more.
    pub(super) fn remove_delivered(&mut self) -> Vec<SeqRange> {
        if self.readers.len() > FEW_READERS {
            let written = self.readers.written();
            let is_first = self.kept.front().is_some_and(|first| first.seq <= written);
            return if is_first { self.remove(|kept| kept.heard && kept.seq <= written) } else { Vec::new() };
        }
        let readers = std::mem::take(&mut self.readers);
        let runs = self.remove(|kept| kept.heard && !readers.want(kept.seq));
        self.readers = readers;
        runs
    }

    /// Takes one message out, if somebody heard it and no reader wants it any
    /// more.
    pub(super) fn take_delivered(&mut self, seq: u64) -> bool {
        let is_heard = self.find_mut(seq).is_some_and(|kept| kept.heard);
        is_heard && self.readers.len() <= FEW_READERS && !self.readers.want(seq) && self.take(seq)
    }

    /// Takes one message out, if it is there.
    pub(super) fn take(&mut self, seq: u64) -> bool {
        let Ok(place) = self.kept.find(&seq, |kept| kept.seq) else { return false };
        if let Some(kept) = self.kept.remove(place) {
            self.sums.take(&kept);
            self.note_moved(&kept, -1);
        }
        true
    }
}
