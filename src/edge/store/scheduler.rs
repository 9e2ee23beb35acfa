//! What is asked of the disk.
//!
//! Knows which order is given next, and when. Does not know what comes of it.
//!
//! One order is under way at a time. What is to be written meanwhile goes into the
//! next commit, so that a sync is shared by all who wait for one.

use std::time::Duration;

use super::backend::{Backend, StoreContext};
use super::child::StoreProcess;
use super::commit::Batch;
use super::failure::{ENDING, Left};
use super::ipc::StoreRequest;
use super::memtable::Memtable;
use super::read_queue::{QueuedRead, Reading};
use super::wal_checkpoint::COPIED;
use super::write_budget::Thrift;
use crate::protocol::Moment;

/// A process that has nothing to do for so long ends: its threads wake up, and
/// opening it again costs a segment of flash.
const IDLE: Duration = Duration::from_secs(30);

/// How long the disk may not know that something is kept no longer. After a crash
/// it comes once more, which costs less than a write for each.
const FORGETTING: Duration = Duration::from_secs(5);

/// How long an order may take: slow cards stall for seconds; what takes longer
/// hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reading a whole generation takes longer, and so does writing what lies in its log.
const LOADING: Duration = Duration::from_secs(60);

/// What is under way.
pub(super) enum ChildTask {
    /// The process begins, and says what is there.
    Start,
    Load(u32),
    Commit(Box<Batch>),
    Read(QueuedRead, Reading),
    Drop(u32),
    /// A run of survivors is read, to be written again.
    Move,
    /// A part of a write-ahead log is copied into its database.
    Checkpoint(u32),
}

impl ChildTask {
    /// Whether it leaves the disk as it is, and can be begun again.
    pub(super) fn is_reading(&self) -> bool {
        matches!(self, Self::Read(..) | Self::Move)
    }
}

impl Backend {
    /// When something has to be written that is not urgent.
    fn commit_due(&self, now: Moment, tail: &Memtable) -> Option<Moment> {
        if !self.sync_queue.is_empty() || self.is_finishing {
            return Some(now);
        }
        let thrift = self.budget.thrift(now);
        if tail.bytes_for_disk() > self.options.memory
            && thrift != Thrift::Spent
            && !self.unwritten.is_empty()
        {
            return Some(now);
        }
        let window = self.budget.window(now, self.options.write_delay);
        let behind = self.unwritten.front().map(|(kept, ..)| self.last_flush.max(*kept) + window);
        let stale = self.garbage_since.map(|since| since + window.max(FORGETTING));
        let due = [behind, stale].into_iter().flatten().min()?;
        Some(if thrift == Thrift::Spent { due.max(self.budget.refilled(now)) } else { due })
    }

    /// When the disk wants its turn again.
    pub(super) fn deadline(&self, now: Moment, tail: &Memtable) -> Option<Moment> {
        /// Who was killed is looked after; nobody waits for it.
        const LOOK_AGAIN: Duration = Duration::from_secs(1);
        let task = self.task.as_ref().map(|(_, deadline)| *deadline);
        let free = self.task.is_none();
        let trouble = self.trouble.as_ref().map(|trouble| trouble.again);
        let wish = if trouble.is_some() { trouble } else { self.commit_due(now, tail) };
        // Who waits for a page waits for nothing else.
        let wish = if self.reads.is_empty() || self.loading.is_some() { wish } else { Some(now) };
        let idle = self.process.is_some().then(|| self.busy_at + IDLE);
        let ended = (!self.ended.is_empty()).then(|| now + LOOK_AGAIN);
        let copy = self.checkpoint_due(now);
        [task, wish.filter(|_| free), idle.filter(|_| free), ended, copy.filter(|_| free)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether the order that is under way should have been given up a while ago.
    pub(super) fn is_stuck(&self, now: Moment) -> bool {
        /// The turn in which it becomes due does that, and is not stuck.
        const GRACE: Duration = Duration::from_secs(1);
        self.task.as_ref().is_some_and(|(_, deadline)| *deadline + GRACE <= now)
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, tail: &mut Memtable, around: &mut StoreContext<'_>) {
        let now = around.now.moment;
        self.look_after_ended(now);
        if self.task.is_none() && self.loading.is_none() {
            self.tell_capacity(tail, around.inputs);
        }
        self.tell_scarcity(now, around.inputs);
        if let Some((task, deadline)) = &self.task
            && *deadline <= now
        {
            let why = format!("the disk of {} does not answer", self.options.directory.display());
            if task.is_reading() {
                // Nobody waits for that twice.
                self.read_failures = u32::MAX;
            }
            self.fail(why, tail, around);
        }
        if self.task.is_none() {
            self.begin(tail, around);
        }
        let is_idle = self.task.is_none() && now >= self.busy_at + IDLE;
        if is_idle && let Some(process) = self.process.take() {
            self.ended.push(process.dismiss(now + ENDING));
        }
    }

    /// Begins the next order, if one is due.
    fn begin(&mut self, tail: &mut Memtable, around: &mut StoreContext<'_>) {
        let now = around.now.moment;
        let may_try = self.trouble.as_ref().is_none_or(|trouble| trouble.again <= now);
        let Some(task) = self.next(may_try, tail, around) else { return };
        if self.process.is_none() {
            return self.start(tail, around);
        }
        let is_long = matches!(task, ChildTask::Load(_) | ChildTask::Checkpoint(_));
        let patience = if is_long { LOADING } else { PATIENCE };
        let given = self.give(&task, tail, around);
        self.has_committed = matches!(task, ChildTask::Commit(_));
        self.opens(&task, now);
        self.busy_at = now;
        self.task = Some((task, now + patience));
        if let Err(error) = given {
            let why = self.last_words();
            let why = why.unwrap_or_else(|| format!("the process that owns the disk is gone: {error}"));
            self.fail(why, tail, around);
        }
    }

    /// What to do next.
    fn next(
        &mut self,
        may_try: bool,
        tail: &mut Memtable,
        around: &mut StoreContext<'_>,
    ) -> Option<ChildTask> {
        let now = around.now.moment;
        if let Some(loading) = &self.loading {
            return match loading.next() {
                _ if !may_try => None,
                Some(generation) => Some(ChildTask::Load(generation)),
                // The first word of the process tells what there is.
                None => Some(ChildTask::Start),
            };
        }
        let is_due = self.commit_due(now, tail).is_some_and(|due| due <= now) || self.trouble.is_some();
        if self.process.is_none() && !self.reads.is_empty() {
            return Some(ChildTask::Start);
        }
        let reads_first = self.has_committed || !(is_due && may_try);
        if reads_first && let Some(task) = self.next_read(tail, around) {
            return Some(task);
        }
        if !may_try {
            return None;
        }
        if is_due && !self.takes_more() {
            // Making room comes first; where there is none to be made, nothing more
            // is written.
            if let Some(task) = self.tidy(tail, around) {
                return Some(task);
            }
            let why = format!("the store has reached {} bytes, its limit", self.options.bytes);
            self.fail_but(Left::Reading, why, tail, around);
            return None;
        }
        if is_due && self.process.is_none() {
            return Some(ChildTask::Start);
        }
        if is_due {
            return self.batch(tail, around).map(|batch| ChildTask::Commit(Box::new(batch)));
        }
        self.tidy(tail, around).or_else(|| self.next_checkpoint(now))
    }

    /// Starts the process; what it is wanted for is found again once it is there.
    fn start(&mut self, tail: &mut Memtable, around: &mut StoreContext<'_>) {
        let now = around.now.moment;
        self.room.written = 0;
        (self.open, self.checkpoint) = (None, None);
        self.busy_at = now;
        if let Some(why) = self.hangs() {
            return self.fail(why, tail, around);
        }
        match StoreProcess::start(&self.options.program, &self.options.directory, around.epoll) {
            Ok(process) => {
                self.process = Some(process);
                self.task = Some((ChildTask::Start, now + PATIENCE));
            }
            Err(error) => {
                let why = format!("cannot start {}: {error}", self.options.program.display());
                self.fail(why, tail, around);
            }
        }
    }

    fn give(
        &mut self,
        task: &ChildTask,
        tail: &Memtable,
        around: &mut StoreContext<'_>,
    ) -> std::io::Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let order = match task {
            ChildTask::Start => return Ok(()),
            ChildTask::Load(generation) => StoreRequest::Load { generation: *generation },
            ChildTask::Drop(generation) => StoreRequest::Drop { generation: *generation },
            ChildTask::Checkpoint(generation) => {
                StoreRequest::Checkpoint { generation: *generation, bytes: COPIED }
            }
            ChildTask::Read(QueuedRead { fetch, .. }, reading) => StoreRequest::Read {
                generation: reading.generation,
                log: super::encoding::log(&fetch.log).into(),
                from: reading.from,
                to: reading.to,
                count: fetch.count,
                bytes: fetch.bytes,
            },
            ChildTask::Move => match self.moving.as_ref().and_then(|moving| moving.order()) {
                Some(order) => order,
                None => return Ok(()),
            },
            ChildTask::Commit(batch) => {
                let elapsed = self.elapsed.as_ref();
                let Some(elapsed) = elapsed else { return Ok(()) };
                return batch.give(process, tail, elapsed, &self.budget, around);
            }
        };
        process.order(&order, around.epoll)
    }
}
