//! The log of one topic: what is kept of it, its readers, and what waits for either.
//!
//! The hub knows position, size and age of each kept message; the payloads are in the store.
//! Each part is changed through the methods of its own file alone; `Log` owns what concerns one
//! log as a whole (timer, receipts, unread range, and what of it is in the sums, which
//! `usage` brings up to date):
//!
//! | file | owns |
//! |---|---|
//! | [`position`] | `LogPosition`, `SeqRange` |
//! | [`numbering`] | the numbers of a topic: the last one given out, cursor, provisional ranges |
//! | [`entries`] | `Entries`: the kept messages and their totals |
//! | [`cursor`] | `Readers`: how far each subscriber has come |
//! | [`gap`] | `Gaps`: what is missing in front of a reader |
//! | [`durable`] | `Answers` that wait for the disk, `DurableWaiters` by connection |
//! | this one | `Log`, which puts those of one topic together |
//! | [`usage`] | `UsageIndex`: what all logs take, by rank |
//! | [`publisher_quota`] | shares of one publisher: in a log, in the store, of the flash |
//! | [`eviction`] | `StoreRoom`: what is given up next, where there is too little room |
//! | [`recovery`] | how messages that were found on the disk fit to what is there |
//!
//! Three more files put logs, connections, timers and counters together, as methods of the
//! hub: [`retention`] (append, expire, sweep, evict), [`replay`] (page by page to a subscriber,
//! until it is live) and [`store_events`] (what the store reports).

pub(super) mod cursor;
pub(super) mod durable;
pub(super) mod entries;
pub(super) mod eviction;
pub(super) mod gap;
pub(super) mod numbering;
pub(super) mod position;
pub(super) mod publisher_quota;
pub(super) mod recovery;
pub(super) mod replay;
pub(super) mod retention;
pub(super) mod store_events;
pub(super) mod usage;

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::channel::receipts::{OwedReceipt, ReceiptState, Receipts};
use super::channel::topics::TopicId;
use super::event::Effects;
use super::optional_list::{List, OptionalList};
use super::settings::Keep;
use super::timers::{NEVER, Timer, Timers, round_up};
use crate::protocol::frame::GapCause;
use crate::protocol::{ConnectionId, Moment};
use cursor::{Backlog, CaughtUp, Deferred, PageProgress, Reader, Readers, ReplayPage};
use durable::{Answer, Answers};
use entries::{Entries, EntryRun, LogEntry};
use position::SeqRange;
use publisher_quota::Author;
use usage::LogUsage;

/// What is kept of one topic.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Log {
    entries: Entries,
    /// What of it is in the sums over all logs.
    #[serde(skip)]
    counted: LogUsage,
    readers: OptionalList<Readers>,
    /// No kept message expires before this.
    soonest: Moment,
    /// For which moment its timer is set.
    armed: Moment,
    /// Receipts that publishers wait for, by position.
    receipts: OptionalList<Receipts>,
    /// Publishers that wait for the disk.
    answers: OptionalList<Answers>,
    /// Of an inbox: what was passed over for a connection because the disk could not be read.
    /// The cursor stays before it until some connection has had it.
    unread: Option<Box<SeqRange>>,
    /// What has come and gone since it was counted, of publishers who have a share in all that
    /// is kept.
    #[serde(skip)]
    moved: OptionalList<Vec<(Author, isize)>>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            entries: Entries::default(),
            counted: LogUsage::default(),
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

/// What one receipt that is owed takes, with the names in it.
const RECEIPT: usize = 256;

/// The positions of entries that were dropped, one by one and as ranges.
pub(super) struct RemovedEntries {
    seqs: Vec<u64>,
    ranges: Vec<SeqRange>,
}

impl RemovedEntries {
    pub(super) fn seqs(&self) -> &[u64] {
        &self.seqs
    }

    pub(super) fn ranges(&self) -> &[SeqRange] {
        &self.ranges
    }
}

/// Entries.
impl Log {
    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }

    pub(super) fn is_unused(&self) -> bool {
        self.entries.is_empty()
            && self.readers.is_empty()
            && self.receipts.is_empty()
            && self.answers.is_empty()
    }

    /// Gives back what lists hold that are empty.
    pub(super) fn tidy(&mut self) {
        self.readers.tidy();
        self.receipts.tidy();
        self.answers.tidy();
    }

    pub(super) fn push(&mut self, entry: LogEntry) {
        note_moved(&mut self.moved, &entry, 1);
        self.soonest = self.soonest.min(entry.expires());
        self.entries.push(entry);
    }

    /// Puts messages that were found on the disk between those that are here; how
    /// many found their place taken.
    pub(super) fn merge(&mut self, found: Vec<LogEntry>) -> u64 {
        let (moved, soonest) = (&mut self.moved, &mut self.soonest);
        self.entries.merge(found, |entry| {
            note_moved(moved, entry, 1);
            *soonest = entry.expires().min(*soonest);
        })
    }

    /// A range is on the disk: `stored` gets each entry that was not, and how many those are
    /// is returned.
    pub(super) fn mark_stored(&mut self, range: SeqRange, stored: impl FnMut(&LogEntry)) -> u64 {
        self.entries.mark_stored(range, stored)
    }

    /// The publisher of a message waits for the disk from now on.
    pub(super) fn promise(&mut self, seq: u64) {
        self.entries.promise(seq);
    }

    /// Its publisher waits no longer, in vain.
    pub(super) fn release(&mut self, seq: u64) {
        self.entries.release(seq);
    }

    /// Of an inbox: its user has all up to a position.
    pub(super) fn mark_delivered_up_to(&mut self, seq: u64) {
        self.entries.mark_delivered_up_to(seq);
    }

    /// Of a channel: a connection has a message.
    pub(super) fn mark_delivered(&mut self, seq: u64, conn: ConnectionId) {
        self.entries.mark_delivered(seq, conn.tag);
    }

    /// Workers are notified that a message waits.
    pub(super) fn mark_announced(&mut self, seq: u64) {
        self.entries.mark_announced(seq);
    }

    /// Those after a position of which workers were not notified, as runs of at most `most`;
    /// they are notified of all now.
    pub(super) fn announce_after(&mut self, seq: u64, most: usize) -> Vec<EntryRun> {
        self.entries.announce_after(seq, most)
    }

    /// The oldest message that only the memory has, and whose publisher does not wait.
    pub(super) fn first_volatile(&mut self) -> Option<u64> {
        self.entries.first_volatile()
    }

    /// None lives longer than so long since it was kept, nor longer than before.
    pub(super) fn shorten(&mut self, ttl: Duration) {
        self.entries.shorten(ttl);
        self.soonest = self.entries.first_expiry();
    }

    /// Whether something in it is too old by now.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.soonest <= now
    }

    /// When its timer is due: for the oldest message or receipt.
    fn due(&mut self) -> Moment {
        if self.entries.is_empty() {
            self.soonest = NEVER;
        }
        round_up(self.soonest.min(self.receipts.first_expiry()))
    }

    /// Sets its timer.
    pub(super) fn rearm(&mut self, id: TopicId, timers: &mut Timers) {
        let due = self.due();
        timers.rearm(Timer::Expiry(id), &mut self.armed, due);
    }

    /// Its timer is set no longer.
    pub(super) fn disarm(&mut self) {
        self.armed = NEVER;
    }

    /// Takes out what satisfies a condition.
    fn remove(&mut self, mut goes: impl FnMut(&LogEntry) -> bool) -> Vec<SeqRange> {
        let moved = &mut self.moved;
        self.entries.remove(|entry| {
            let goes = goes(entry);
            if goes {
                note_moved(moved, entry, -1);
            }
            goes
        })
    }

    /// Drops what satisfies a condition.
    pub(super) fn drop_where(&mut self, goes: impl Fn(&LogEntry) -> bool) -> RemovedEntries {
        let mut seqs = Vec::new();
        let ranges = self.remove(|entry| {
            let goes = goes(entry);
            if goes {
                seqs.push(entry.seq());
            }
            goes
        });
        self.soonest = self.entries.first_expiry();
        RemovedEntries { seqs, ranges }
    }

    /// Drops messages that the store does not have, ascending. They become gaps by
    /// [`lose`](Self::lose).
    pub(super) fn drop_lost(&mut self, lost: &[u64]) -> Vec<SeqRange> {
        self.remove(|entry| lost.binary_search(&entry.seq()).is_ok())
    }

    /// Takes one message out, if it is there. `soonest` stays: a timer that is too early only
    /// checks.
    pub(super) fn take(&mut self, seq: u64) -> bool {
        if let Some(entry) = self.entries.take(seq) {
            note_moved(&mut self.moved, &entry, -1);
            return true;
        }
        false
    }

    /// Takes out what was delivered and no reader wants any more, as far as the policy keeps
    /// it no longer.
    pub(super) fn take_all_delivered(&mut self, keep: Keep) -> Vec<SeqRange> {
        match keep {
            Keep::History => Vec::new(),
            Keep::Unacknowledged => self.take_first_delivered().into_iter().collect(),
            Keep::Undelivered | Keep::Never => self.take_delivered_anywhere(),
        }
    }

    /// From the front; enough where messages are delivered in their order.
    fn take_first_delivered(&mut self) -> Option<SeqRange> {
        let mut range = None;
        while let Some(first) = self.entries.first().filter(|entry| entry.is_delivered())
            && !self.readers.want(first.seq())
        {
            let seq = first.seq();
            self.take(seq);
            // What is gone between is gone already.
            SeqRange::extend(&mut range, seq);
        }
        range
    }

    fn take_delivered_anywhere(&mut self) -> Vec<SeqRange> {
        if self.readers.len() > FEW_READERS {
            let written = self.readers.written();
            let is_first = self.entries.first().is_some_and(|first| first.seq() <= written);
            let goes = |entry: &LogEntry| entry.is_delivered() && entry.seq() <= written;
            return if is_first { self.remove(goes) } else { Vec::new() };
        }
        let readers = std::mem::take(&mut self.readers);
        let ranges = self.remove(|entry| entry.is_delivered() && !readers.want(entry.seq()));
        self.readers = readers;
        ranges
    }

    /// Takes one message out, if it was delivered and no reader wants it any more.
    pub(super) fn take_delivered(&mut self, seq: u64) -> bool {
        let is_delivered = self.entries.find(seq).is_some_and(LogEntry::is_delivered);
        is_delivered && self.readers.len() <= FEW_READERS && !self.readers.want(seq) && self.take(seq)
    }

    /// What a new subscriber reads: what was not delivered to any, from the first such message
    /// that no reader is on its way to. What one subscriber has is kept for the others that were
    /// subscribed when it was published, and for no later ones.
    pub(super) fn unclaimed(&self) -> Option<Backlog> {
        let is_free = |entry: &&LogEntry| !entry.is_delivered() && !self.readers.want(entry.seq());
        let after = self.entries.iter().find(is_free)?.seq() - 1;
        let delivered = self.entries.after(after).filter(|entry| entry.is_delivered());
        Some(Backlog::new(after).skipping(delivered.map(LogEntry::seq).collect()))
    }
}

/// Notes that an entry has come or gone, where its publisher has a share.
fn note_moved(moved: &mut OptionalList<Vec<(Author, isize)>>, entry: &LogEntry, sign: isize) {
    if entry.author().is_limited() {
        moved.push((entry.author(), sign * entry.size() as isize));
    }
}

/// Readers.
impl Log {
    pub(super) fn has_readers(&self) -> bool {
        !self.readers.is_empty()
    }

    /// The slots of the subscribers that read.
    pub(super) fn reading_slots(&self) -> Vec<u32> {
        self.readers.slots()
    }

    /// A subscriber reads from now on.
    pub(super) fn start_reading(&mut self, conn: ConnectionId, backlog: Backlog) {
        self.readers.insert(Reader::new(conn, backlog));
    }

    /// The reader that a subscriber is now.
    pub(super) fn reader(&self, slot: u32) -> Option<&Reader> {
        self.readers.current(slot)
    }

    pub(super) fn reader_mut(&mut self, slot: u32) -> Option<&mut Reader> {
        self.readers.some_mut()?.current_mut(slot)
    }

    /// The reader that a connection is and that waits for the store.
    pub(super) fn fetching_mut(&mut self, conn: ConnectionId) -> Option<&mut Reader> {
        self.readers.some_mut()?.fetching_mut(conn)
    }

    /// The store will not answer what it was asked.
    pub(super) fn forget_fetches(&mut self) {
        if let Some(readers) = self.readers.some_mut() {
            readers.forget_fetches();
        }
    }

    /// The first position of a backlog that a connection is to get.
    pub(super) fn first_for(&self, tag: u64, backlog: &Backlog) -> Option<u64> {
        backlog.first_for(tag, &self.entries)
    }

    /// Queues a page for the reader that has asked for it.
    fn queue_page(&mut self, page: ReplayPage<'_>, out: &mut Effects) -> Option<u64> {
        let reader = self.readers.some_mut()?.current_mut(page.conn().slot)?;
        reader.queue(page, &self.entries, out);
        Some(reader.sent())
    }

    /// What of a stretch is not among messages that were read from the store, ascending.
    pub(super) fn lost_of(&self, after: u64, last: u64, found: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut found = found.peekable();
        let is_lost = |seq: &u64| {
            while found.next_if(|found| *found < *seq).is_some() {}
            found.peek() != Some(seq)
        };
        self.entries.within(after, last).filter(is_lost).collect()
    }

    /// The socket of a connection has taken a message that was replayed.
    pub(super) fn flushed(&mut self, conn: ConnectionId, seq: u64) -> Option<PageProgress> {
        self.readers.some_mut()?.flushed(conn, seq)
    }

    /// A subscriber has caught up, and is a reader no longer.
    pub(super) fn take_reader(&mut self, slot: u32) -> Option<CaughtUp> {
        self.readers.some_mut()?.take_current(slot)
    }

    /// What a subscriber was still to read is given up; the frames that waited for that, if it
    /// was a reader. What is on its way arrives.
    pub(super) fn stop_reading(&mut self, slot: u32) -> Option<Vec<Deferred>> {
        self.readers.some_mut()?.leave(slot)
    }

    /// Takes out the frames that wait for the backlog of a subscriber.
    pub(super) fn take_deferred(&mut self, slot: u32) -> Vec<Deferred> {
        self.readers.some_mut().map(|readers| readers.take_deferred(slot)).unwrap_or_default()
    }

    /// Has them wait for another backlog of the same subscriber.
    pub(super) fn set_deferred(&mut self, slot: u32, deferred: Vec<Deferred>) {
        if let Some(readers) = self.readers.some_mut() {
            readers.set_deferred(slot, deferred);
        }
    }

    /// A reader may have nothing on its way any more, and is dropped then.
    pub(super) fn drop_over(&mut self, slot: u32) {
        if let Some(readers) = self.readers.some_mut() {
            readers.drop_over(slot);
        }
    }

    /// Drops the readers of a connection that is gone.
    pub(super) fn drop_readers(&mut self, conn: ConnectionId) {
        if let Some(readers) = self.readers.some_mut() {
            readers.drop_all_of(conn);
        }
    }

    /// A message that is here no longer is a gap in front of every reader that has not passed
    /// it.
    pub(super) fn lose(&mut self, seq: u64, cause: GapCause) {
        if let Some(readers) = self.readers.some_mut() {
            readers.lose(seq, cause, &self.entries);
        }
    }
}

/// What was passed over because the disk could not be read. Live traffic goes on for a reader
/// that waits for such a page: it gets a gap, and what it did not get stays for the one that reads
/// later.
impl Log {
    pub(super) fn has_unread(&self) -> bool {
        self.unread.is_some()
    }

    /// Passes over what lies before a reader on the disk: from the first to the last of it
    /// that the reader misses. It stays for others.
    pub(super) fn pass_over(&mut self, slot: u32) -> Option<SeqRange> {
        self.readers.some_mut()?.current_mut(slot)?.pass_over(&self.entries)
    }

    /// Of an inbox: a range was passed over.
    pub(super) fn add_unread(&mut self, range: SeqRange) {
        let unread = self.unread.as_deref().map_or(range, |unread| unread.hull(range));
        self.unread = Some(Box::new(unread));
    }

    /// The first message that was passed over and not read since.
    pub(super) fn first_unread(&self) -> Option<u64> {
        let unread = self.unread.as_deref()?;
        self.entries.first_after(unread.from() - 1).map(LogEntry::seq).filter(|seq| *seq <= unread.to())
    }

    /// The same; where there is none any more, that is over.
    pub(super) fn next_unread(&mut self) -> Option<u64> {
        let first = self.first_unread();
        if first.is_none() {
            self.unread = None;
        }
        first
    }

    /// A reader that began at a position has had all that lies behind it.
    pub(super) fn keep_unread_before(&mut self, began: u64) {
        self.unread.take_if(|unread| began < unread.from());
    }

    /// The socket of a connection has taken a message, which may have been passed over for
    /// another one.
    pub(super) fn mark_read(&mut self, conn: ConnectionId, seq: u64) {
        let Some(unread) = self.unread.as_deref().copied().filter(|unread| unread.from() <= seq) else {
            return;
        };
        if self.readers.has_begun_before(conn, unread.from()) {
            self.unread = unread.behind(seq).map(Box::new);
        }
    }

    /// Whether a message may be among those that were passed over.
    pub(super) fn is_unread(&self, seq: u64) -> bool {
        self.unread.as_deref().is_some_and(|unread| unread.contains(seq))
    }

    /// The last position up to `seq` that a cursor may have: it stays before what was passed
    /// over.
    pub(super) fn cursor_limit(&self, seq: u64) -> u64 {
        self.first_unread().map_or(seq, |unread| seq.min(unread - 1))
    }
}

/// Receipts, and answers that wait for the disk.
impl Log {
    /// Whether most of what it takes is receipts.
    pub(super) fn is_mostly_receipts(&self) -> bool {
        self.receipts.len() * RECEIPT > self.entries.bytes()
    }

    pub(super) fn has_receipts(&self) -> bool {
        !self.receipts.is_empty()
    }

    /// A publisher wants a receipt for the newest message; of more than `most` the oldest goes.
    pub(super) fn owe_receipt(&mut self, owed: OwedReceipt, most: usize) {
        self.receipts.push(owed, most);
    }

    /// A user has all up to a position, or has read it: the receipts to send for that.
    pub(super) fn acknowledge(&mut self, seq: u64, state: ReceiptState) -> Vec<OwedReceipt> {
        self.receipts.some_mut().map(|receipts| receipts.acknowledge(seq, state)).unwrap_or_default()
    }

    /// Gives up the oldest receipt.
    pub(super) fn drop_receipt(&mut self) {
        if let Some(receipts) = self.receipts.some_mut() {
            receipts.drop_first();
        }
    }

    /// Gives up receipts whose message was not acknowledged in time.
    pub(super) fn expire_receipts(&mut self, now: Moment) {
        if let Some(receipts) = self.receipts.some_mut() {
            receipts.expire(now);
        }
    }

    /// Receipts that outlive all connections.
    pub(super) fn lasting_receipts(&self) -> Vec<OwedReceipt> {
        self.receipts.lasting()
    }

    /// The log of a topic of which nothing but receipts is left.
    pub(super) fn of_receipts(receipts: VecDeque<OwedReceipt>) -> Self {
        Self { receipts: Receipts::from(receipts).into(), ..Self::default() }
    }

    pub(super) fn answers(&self) -> &Answers {
        &self.answers
    }

    /// A publisher waits until a message is on the disk.
    pub(super) fn await_answer(&mut self, answer: Answer) {
        self.answers.push(answer);
    }

    /// Takes out the answers that wait for a range.
    pub(super) fn take_answers(&mut self, range: SeqRange) -> Vec<Answer> {
        self.answers.some_mut().map(|answers| answers.take(range)).unwrap_or_default()
    }

    /// A message is lost before its user had it: it will not be acknowledged, and that it was
    /// kept is true no longer.
    pub(super) fn lose_unacknowledged(&mut self, seq: u64) {
        if let Some(receipts) = self.receipts.some_mut() {
            receipts.forget(seq);
        }
        if let Some(answers) = self.answers.some_mut() {
            answers.lose(seq);
        }
    }
}
