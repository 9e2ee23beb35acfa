//! What all logs take together, and their ranks: whose messages may be given up first.

use std::collections::BTreeSet;

use super::durable::ANSWER;
use super::entries::ENTRY;
use super::publisher_quota::Author;
use super::{Log, RECEIPT};
use crate::hub::channel::topics::TopicId;
use crate::small_queue::gather;

/// What one log takes, or all of them together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::hub) struct LogUsage {
    /// All that is kept, wherever that is, and the receipts that are owed.
    bytes: usize,
    /// Part of `bytes`: messages that only the memory has.
    unstored: usize,
    /// Part of `unstored`: messages that were not promised to a publisher, and may be evicted.
    volatile: usize,
    /// How many messages are kept.
    messages: u32,
    /// How many of them are on the disk.
    stored: u32,
    /// How many publishers wait for the disk.
    answers: u32,
    /// The bytes for which they wait.
    awaited: usize,
    /// Whether another log may push its oldest message out.
    yields: bool,
}

impl Log {
    /// What it counts in the sums over all logs: a receipt waits longer than its
    /// message, so it is not in the bytes of those.
    fn usage(&self) -> LogUsage {
        let receipts = self.receipts.len() * RECEIPT;
        LogUsage {
            bytes: self.entries.bytes() + receipts,
            unstored: self.entries.unstored_bytes() + receipts,
            volatile: self.entries.volatile_bytes() + receipts,
            messages: self.entries.len() as u32,
            stored: self.entries.stored() as u32,
            answers: self.answers.len() as u32,
            awaited: self.answers.bytes(),
            yields: self.entries.first().is_none_or(|oldest| !oldest.is_durable()),
        }
    }

    /// What of it is in the sums over all logs.
    pub(in crate::hub) fn counted(&self) -> LogUsage {
        self.counted
    }
}

impl LogUsage {
    /// All that is kept, wherever that is, and the receipts that are owed.
    pub(in crate::hub) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Part of `bytes`: messages that only the memory has.
    pub(in crate::hub) fn unstored(&self) -> usize {
        self.unstored
    }

    /// Part of `unstored`: messages that were not promised to a publisher, and may be evicted.
    pub(super) fn volatile(&self) -> usize {
        self.volatile
    }

    /// How many messages are kept.
    pub(in crate::hub) fn messages(&self) -> u32 {
        self.messages
    }

    /// How many publishers wait for the disk.
    pub(super) fn answers(&self) -> usize {
        self.answers as usize
    }

    /// The bytes for which they wait.
    pub(super) fn awaited(&self) -> usize {
        self.awaited
    }

    /// What the entries take of messages that are on the disk.
    pub(super) fn index_bytes(&self) -> usize {
        self.stored as usize * ENTRY
    }

    /// What is in memory of what is kept: messages that no disk has, and entries of the others.
    pub(super) fn kept_memory(&self) -> usize {
        self.unstored + self.index_bytes()
    }

    /// All of it that is in memory, with the answers that wait.
    pub(in crate::hub) fn memory(&self) -> usize {
        self.kept_memory() + self.awaited + self.answers as usize * ANSWER
    }

    /// Where it stands among those that give way to others.
    fn rank(&self) -> Option<usize> {
        Some(self.bytes).filter(|bytes| self.yields && *bytes > 0)
    }

    /// Where it stands among those that have volatile messages.
    fn volatile_rank(&self) -> Option<usize> {
        Some(self.volatile).filter(|bytes| *bytes > 0)
    }
}

/// What all logs take.
#[derive(Debug, Default)]
pub(in crate::hub) struct UsageIndex {
    /// Of all together; `yields` means nothing here.
    sum: LogUsage,
    /// How many keep something.
    logs: usize,
    /// Those whose oldest may be pushed out, by the bytes they keep.
    yielding: BTreeSet<(usize, TopicId)>,
    /// Those that have volatile messages, by the bytes of these.
    volatile: BTreeSet<(usize, TopicId)>,
    /// What is kept of each publisher.
    publishers: PublisherUsage,
}

/// A log, and the bytes by which it has its rank.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::hub) struct RankedLog {
    bytes: usize,
    id: TopicId,
}

impl RankedLog {
    fn new((bytes, id): (usize, TopicId)) -> Self {
        Self { bytes, id }
    }

    pub(super) fn bytes(self) -> usize {
        self.bytes
    }

    pub(super) fn id(self) -> TopicId {
        self.id
    }
}

/// What all logs together keep of each publisher who has a share in that.
#[derive(Debug, Default)]
struct PublisherUsage {
    /// By publisher, and by bytes.
    bytes: BTreeSet<(usize, u32)>,
    ranks: BTreeSet<(usize, u32)>,
}

impl PublisherUsage {
    /// So much more or less is kept.
    fn change(&mut self, author: Author, bytes: isize) {
        let Some(number) = author.number() else { return };
        let was = self.of(author);
        // Four gigabytes are as good as any more.
        let is = was.saturating_add_signed(bytes).min(u32::MAX as usize);
        change_rank(&mut self.ranks, number, Some(was).filter(|was| *was > 0), Some(is).filter(|is| *is > 0));
        let entry = |bytes: usize| (number as usize, bytes as u32);
        self.bytes.remove(&entry(was));
        if is > 0 {
            self.bytes.insert(entry(is));
        }
    }

    fn of(&self, author: Author) -> usize {
        let Some(number) = author.number() else { return 0 };
        let found = self.bytes.range((number as usize, 0)..).next();
        found.filter(|(of, _)| *of == number as usize).map_or(0, |(_, bytes)| *bytes as usize)
    }
}

impl UsageIndex {
    /// Of all logs together.
    pub(in crate::hub) fn sum(&self) -> &LogUsage {
        &self.sum
    }

    /// How many logs keep something.
    pub(in crate::hub) fn logs(&self) -> usize {
        self.logs
    }

    /// Brings the sums up to date with one log.
    pub(in crate::hub) fn update(&mut self, id: TopicId, log: &mut Log) {
        let is = log.usage();
        let was = std::mem::replace(&mut log.counted, is);
        self.change(id, was, is);
        for (author, bytes) in log.moved.take_all() {
            self.publishers.change(author, bytes);
        }
    }

    /// Counts what a log that was read back keeps of each publisher.
    pub(in crate::hub) fn count_publishers(&mut self, log: &Log) {
        for entry in log.entries.iter() {
            self.publishers.change(entry.author(), entry.size() as isize);
        }
    }

    fn change(&mut self, id: TopicId, was: LogUsage, is: LogUsage) {
        if was == is {
            return;
        }
        let change = |sum: &mut usize, was: usize, is: usize| *sum = *sum - was + is;
        let count = |sum: &mut u32, was: u32, is: u32| *sum = *sum - was + is;
        change(&mut self.sum.bytes, was.bytes, is.bytes);
        change(&mut self.sum.unstored, was.unstored, is.unstored);
        change(&mut self.sum.volatile, was.volatile, is.volatile);
        count(&mut self.sum.messages, was.messages, is.messages);
        count(&mut self.sum.stored, was.stored, is.stored);
        count(&mut self.sum.answers, was.answers, is.answers);
        change(&mut self.sum.awaited, was.awaited, is.awaited);
        change(&mut self.logs, usize::from(was.bytes > 0), usize::from(is.bytes > 0));
        change_rank(&mut self.yielding, id, was.rank(), is.rank());
        change_rank(&mut self.volatile, id, was.volatile_rank(), is.volatile_rank());
    }

    /// Puts the ranks together again, now that there were many more of them: what is left of
    /// a tree lies scattered over the memory that it had.
    pub(in crate::hub) fn gather(&mut self) {
        gather(&mut self.yielding);
        gather(&mut self.volatile);
    }

    /// The one that keeps most bytes among those whose oldest may go.
    pub(super) fn heaviest(&self) -> Option<RankedLog> {
        self.yielding.last().copied().map(RankedLog::new)
    }

    /// Those among them that keep more than so much, the heaviest first.
    pub(super) fn heavier_than(&self, bytes: usize) -> impl Iterator<Item = RankedLog> {
        self.yielding.range((bytes + 1, TopicId::default())..).rev().copied().map(RankedLog::new)
    }

    /// The one that has most which only the memory has.
    pub(super) fn heaviest_volatile(&self) -> Option<RankedLog> {
        self.volatile.last().copied().map(RankedLog::new)
    }

    /// Bytes that are kept of a publisher who has a share.
    pub(super) fn of_publisher(&self, author: Author) -> usize {
        self.publishers.of(author)
    }

    /// The publisher of whom most is kept, and how much.
    pub(super) fn largest_publisher(&self) -> Option<(Author, usize)> {
        self.publishers.ranks.last().map(|(bytes, number)| (Author::of_number(*number), *bytes))
    }
}

fn change_rank<T: Ord + Copy>(
    ranks: &mut BTreeSet<(usize, T)>,
    of: T,
    was: Option<usize>,
    is: Option<usize>,
) {
    if was == is {
        return;
    }
    if let Some(was) = was {
        ranks.remove(&(was, of));
    }
    if let Some(is) = is {
        ranks.insert((is, of));
    }
}
