//! The read queue: pages that are read back from the disk, and in which order.
//!
//! Of the old generations one is open, and opening another is dear: it is copied into
//! memory, or it costs flash. So all pages of the one that is open are read first.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::encoding;
use super::fetch::{Fetch, FetchPart, page_of};
use super::index::{Index, IndexEntry};
use super::ipc::StoreRequest;
use super::memtable::Memtable;
use super::messages::Messages;
use crate::hub::{Input, LogKey};
use crate::protocol::{Message, Moment};

/// So many pages may be waited for before no more are read for notices: while a disk
/// hangs, undelivered messages go on to grow old, and each would be read.
const MOST_WAITING: usize = 4096;

/// A page of another generation waits no longer than this for pages of the one that is open,
/// of which more and more may come.
const TURN: Duration = Duration::from_secs(1);

/// Where messages of one log lie: positions of a generation, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct DiskRange {
    generation: u32,
    from: u64,
    to: u64,
}

impl DiskRange {
    /// That of a run; none, if it is empty.
    pub(super) fn of(run: &[IndexEntry]) -> Option<Self> {
        let (first, last) = (run.first()?, run.last()?);
        Some(Self { generation: first.generation, from: first.seq, to: last.seq })
    }

    pub(super) fn last(self) -> u64 {
        self.to
    }
}

/// A page that is to be read from the disk.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct PendingRead {
    fetch: Fetch,
    /// Where it lies, if it is forgotten before it is read.
    range: Option<DiskRange>,
}

impl PendingRead {
    /// A page of what the disk has when it is read.
    pub(super) fn new(fetch: Fetch) -> Self {
        Self { fetch, range: None }
    }

    /// A page of what is about to be forgotten.
    pub(super) fn of_range(fetch: Fetch, range: DiskRange) -> Self {
        Self { fetch, range: Some(range) }
    }

    pub(super) fn log(&self) -> &LogKey {
        &self.fetch.log
    }

    /// Where the page begins.
    fn generation(&self, index: &Index) -> Option<u32> {
        let Fetch { log, after, .. } = &self.fetch;
        let known = self.range.map(|range| range.generation);
        known.or_else(|| index.next(log, *after).map(|entry| entry.generation))
    }

    /// What is to be read: none if it was forgotten meanwhile, or what comes first is in
    /// memory.
    fn range(&self, index: &Index, memtable: &Memtable) -> Option<DiskRange> {
        let Fetch { log, after, count, bytes, .. } = &self.fetch;
        self.range.or_else(|| {
            let end = memtable.next(log, *after).unwrap_or(u64::MAX);
            DiskRange::of(&index.run(log, *after, end, *count, *bytes))
        })
    }
}

/// A page that is being read.
pub(super) struct ActiveRead {
    pending: PendingRead,
    range: DiskRange,
    /// The last position of which something came, readable or not.
    reached: Option<u64>,
    messages: Vec<Rc<Message>>,
}

/// What follows when a page was read.
pub(super) enum ReadOutcome {
    Page(Input),
    /// All of it is damaged up to a position, and forgotten: what follows is the page.
    Damaged {
        from: u64,
        to: u64,
        pending: PendingRead,
    },
}

impl ActiveRead {
    fn new(pending: PendingRead, range: DiskRange) -> Self {
        Self { pending, range, reached: None, messages: Vec::new() }
    }

    pub(super) fn generation(&self) -> u32 {
        self.range.generation
    }

    pub(super) fn request(&self) -> StoreRequest<'static> {
        let Fetch { log, count, bytes, .. } = &self.pending.fetch;
        StoreRequest::Read {
            generation: self.range.generation,
            log: encoding::log_name(log).into(),
            from: self.range.from,
            to: self.range.to,
            count: *count,
            bytes: *bytes,
        }
    }

    /// Takes a record that was read.
    pub(super) fn push(&mut self, log: &str, seq: u64, body: &RawValue) {
        let key = &self.pending.fetch.log;
        let is_of_log = encoding::log_name(key) == log;
        self.reached = Some(seq);
        self.messages.extend(encoding::message(key, seq, body).filter(|_| is_of_log));
    }

    /// It is read to its end.
    pub(super) fn finish(self, index: &Index) -> ReadOutcome {
        let Self { pending, range, reached, mut messages } = self;
        if pending.range.is_some() {
            // It is forgotten already.
            return ReadOutcome::Page(pending.fetch.found(messages));
        }
        let log = &pending.fetch.log;
        // What was forgotten, before or meanwhile, is read with the rest.
        messages.retain(|message| message.seq.is_some_and(|seq| index.contains(log, seq)));
        if messages.is_empty() {
            return ReadOutcome::Damaged { from: range.from, to: reached.unwrap_or(range.to), pending };
        }
        ReadOutcome::Page(pending.fetch.found(messages))
    }

    /// It failed, or its response is not waited for any more.
    pub(super) fn into_pending(self) -> PendingRead {
        self.pending
    }
}

/// The old generation that the process has open.
#[derive(Clone, Copy)]
struct OpenGeneration {
    generation: u32,
    since: Moment,
}

/// What is to be read.
#[derive(Default)]
pub(super) struct ReadQueue {
    pending: VecDeque<PendingRead>,
    open: Option<OpenGeneration>,
}

impl ReadQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The answers that are known now, out of the parts of a request; the pages among them that
    /// are on the disk are to be read.
    pub(super) fn answer(&mut self, parts: Vec<FetchPart>, is_unreadable: bool) -> Vec<Input> {
        let answers = parts.into_iter().filter_map(|part| match part {
            FetchPart::Page(page) => Some(page),
            FetchPart::Read(read) => self.push(read, is_unreadable),
        });
        answers.collect()
    }

    /// Takes a page to be read. What cannot be read is not waited for: then the answer comes
    /// at once.
    fn push(&mut self, read: PendingRead, is_unreadable: bool) -> Option<Input> {
        let is_too_much = read.fetch.is_for_notice() && self.pending.len() >= MOST_WAITING;
        if is_unreadable || is_too_much {
            return Some(read.fetch.failed());
        }
        self.pending.push_back(read);
        None
    }

    /// Takes a page back that was not read after all.
    pub(super) fn put_back(&mut self, read: PendingRead) {
        self.pending.push_front(read);
    }

    /// The next page to be read. What was forgotten meanwhile is answered on the way: what is
    /// left of it is in memory.
    pub(super) fn next(
        &mut self,
        now: Moment,
        active_generation: u32,
        messages: &Messages,
        answers: &mut VecDeque<Input>,
    ) -> Option<ActiveRead> {
        let (index, memtable) = (messages.index(), messages.memtable());
        while let Some(pending) = self.take_next(now, active_generation, index) {
            if let Some(range) = pending.range(index, memtable) {
                return Some(ActiveRead::new(pending, range));
            }
            let fetch = pending.fetch;
            let on_disk = index.next(&fetch.log, fetch.after);
            let found = page_of(memtable, &fetch, on_disk.map(|entry| entry.seq));
            answers.push_back(fetch.found(found));
        }
        None
    }

    /// Takes the first page for which nothing has to be opened; else the first of
    /// all. Pages of one log are read in their order.
    fn take_next(&mut self, now: Moment, active_generation: u32, index: &Index) -> Option<PendingRead> {
        let open = self.open.filter(|open| now < open.since + TURN).map(|open| open.generation);
        let is_open = |generation| Some(generation) == open || generation == active_generation;
        let at = self.pending.iter().position(|read| read.generation(index).is_none_or(is_open));
        let log = at.and_then(|at| self.pending.get(at)).map(|read| &read.fetch.log);
        let first = log.and_then(|log| self.pending.iter().position(|read| read.fetch.log == *log));
        self.pending.remove(first.unwrap_or_default())
    }

    /// The process opens an old generation, or goes on with the one that it has open.
    pub(super) fn note_open(&mut self, generation: u32, now: Moment) {
        let is_going_on =
            self.open.is_some_and(|open| open.generation == generation && now < open.since + TURN);
        if !is_going_on {
            self.open = Some(OpenGeneration { generation, since: now });
        }
    }

    /// Another process begins, which has nothing open.
    pub(super) fn note_process_start(&mut self) {
        self.open = None;
    }

    /// Nothing can be read: the answers to all that wait.
    pub(super) fn fail_all(&mut self) -> impl Iterator<Item = Input> {
        self.pending.drain(..).map(|read| read.fetch.failed())
    }

    /// What is read for notices, for a process that takes over. What is replayed is asked for
    /// again.
    pub(super) fn notices(&self) -> Vec<PendingRead> {
        self.pending.iter().filter(|read| read.fetch.is_for_notice()).cloned().collect()
    }

    /// The queue of another process.
    pub(super) fn resume(notices: Vec<PendingRead>) -> Self {
        Self { pending: notices.into(), open: None }
    }
}
