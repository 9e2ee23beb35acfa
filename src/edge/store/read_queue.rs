//! Reading messages back from the disk.
//!
//! Knows which of those who wait for a page is next. Does not know who they are.
//!
//! Of the old generations one is open, and opening another is dear: it is copied into
//! memory, or it costs flash. So all who wait for the one that is open have their
//! pages first.

use std::rc::Rc;
use std::time::Duration;

use super::backend::{Backend, StoreContext};
use super::memtable::Memtable;
use super::scheduler::ChildTask;
use super::{Fetch, page_of};
use crate::hub::{FetchPurpose, Input};
use crate::protocol::{Message, Moment};

/// So many pages may be waited for before no more are read for notices: while a disk
/// hangs, messages that nobody heard go on to grow old, and each would be asked for.
const MOST_WAITING: usize = 4096;

/// Who waits for another generation waits no longer than this for those who keep
/// coming for the one that is open.
const TURN: Duration = Duration::from_secs(1);

/// What is to be read from the disk.
pub(super) struct QueuedRead {
    pub(super) fetch: Fetch,
    /// Where it lies, if it is forgotten before it is read: the generation, and the
    /// first and the last position.
    pub(super) run: Option<(u32, u64, u64)>,
}

/// What was asked for, and what came.
pub(super) struct Reading {
    pub(super) generation: u32,
    pub(super) from: u64,
    pub(super) to: u64,
    /// The last position of which something came, readable or not.
    pub(super) reached: Option<u64>,
    pub(super) messages: Vec<Rc<Message>>,
}

impl Backend {
    /// Reads something as soon as it is its turn. What cannot be read is not waited
    /// for: others have more to say.
    pub(super) fn want(&mut self, wanted: QueuedRead) -> Vec<Input> {
        let is_notice = matches!(wanted.fetch.purpose, FetchPurpose::Notice(_));
        let is_deaf = self.trouble.as_ref().is_some_and(|trouble| trouble.is_deaf);
        if is_deaf || (is_notice && self.reads.len() >= MOST_WAITING) {
            return vec![wanted.fetch.unread()];
        }
        self.reads.push_back(wanted);
        Vec::new()
    }

    /// The next page to be read. Who asked for what was forgotten meanwhile is
    /// answered on the way: what is left of it is in memory.
    pub(super) fn next_read(&mut self, tail: &Memtable, around: &mut StoreContext<'_>) -> Option<ChildTask> {
        while let Some(wanted) = self.next_wanted(around.now.moment) {
            if let Some(reading) = self.reading(&wanted, tail) {
                return Some(ChildTask::Read(wanted, reading));
            }
            let fetch = wanted.fetch;
            let placed = self.index.next(&fetch.log, fetch.after);
            let found = page_of(tail, &fetch, placed.map(|placed| placed.seq));
            around.inputs.push_back(fetch.found(found));
        }
        None
    }

    /// Takes the first of those for whom nothing has to be opened; else the first of
    /// all. What is asked of one log is answered in that order.
    fn next_wanted(&mut self, now: Moment) -> Option<QueuedRead> {
        let open = self.open.filter(|(_, since)| now < *since + TURN).map(|(open, _)| open);
        let is_open = |generation| Some(generation) == open || generation == self.active_generation;
        let at = self.reads.iter().position(|wanted| self.generation(wanted).is_none_or(is_open));
        let log = at.and_then(|at| self.reads.get(at)).map(|wanted| &wanted.fetch.log);
        let first = log.and_then(|log| self.reads.iter().position(|wanted| wanted.fetch.log == *log));
        self.reads.remove(first.unwrap_or_default())
    }

    /// Where the page begins that somebody waits for.
    fn generation(&self, wanted: &QueuedRead) -> Option<u32> {
        let Fetch { log, after, .. } = &wanted.fetch;
        let run = wanted.run.map(|(generation, ..)| generation);
        run.or_else(|| self.index.next(log, *after).map(|placed| placed.generation))
    }

    /// What an order makes the process open.
    pub(super) fn opens(&mut self, task: &ChildTask, now: Moment) {
        let generation = match task {
            ChildTask::Load(generation) | ChildTask::Checkpoint(generation) => Some(*generation),
            ChildTask::Read(_, reading) => Some(reading.generation),
            ChildTask::Move => self.moving.as_ref().map(|moving| moving.generation),
            ChildTask::Start | ChildTask::Commit(_) | ChildTask::Drop(_) => None,
        };
        if let Some(generation) = generation.filter(|generation| *generation != self.active_generation)
            && self.open.is_none_or(|(open, since)| open != generation || since + TURN <= now)
        {
            self.open = Some((generation, now));
        }
    }

    /// What is to be read for a request: none if it was forgotten meanwhile, or what
    /// comes first is in memory.
    fn reading(&self, wanted: &QueuedRead, tail: &Memtable) -> Option<Reading> {
        let fetch = &wanted.fetch;
        let reading =
            |(generation, from, to)| Reading { generation, from, to, reached: None, messages: Vec::new() };
        if wanted.run.is_some() {
            return wanted.run.map(reading);
        }
        let end = tail.next(&fetch.log, fetch.after).unwrap_or(u64::MAX);
        let run = self.index.run(&fetch.log, fetch.after, end, fetch.count, fetch.bytes);
        Some(reading((run.first()?.generation, run.first()?.seq, run.last()?.seq)))
    }

    /// A page has come.
    pub(super) fn has_read(&mut self, tail: &Memtable, around: &mut StoreContext<'_>) {
        let Some((ChildTask::Read(wanted, reading), _)) = self.task.take() else { return };
        self.read_failures = 0;
        let Reading { from, to, reached, mut messages, .. } = reading;
        if wanted.run.is_some() {
            // It is forgotten already.
            around.inputs.push_back(wanted.fetch.found(messages));
            return;
        }
        let log = &wanted.fetch.log;
        // What was forgotten, before or meanwhile, is read with the rest.
        messages.retain(|message| message.seq.is_some_and(|seq| self.index.contains(log, seq)));
        if messages.is_empty() {
            // All of it is damaged: what follows is the answer.
            self.forget(around.now.moment, log, from, reached.unwrap_or(to), tail);
            self.reads.push_front(wanted);
            return;
        }
        around.inputs.push_back(wanted.fetch.found(messages));
    }
}
