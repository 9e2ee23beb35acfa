//! The backend: all that the store knows and does where it has a disk.
//!
//! It composes parts of which each owns its state: a part changes by its own methods only, and
//! they return what follows. They are called from here; a commit, a compaction and the recovery
//! are lent the parts that they change.
//!
//! | Part | What it owns | It changes when |
//! |---|---|---|
//! | `messages` | messages in memory and on the disk, and which are written next | the hub asks, a commit, recovery or compaction goes on |
//! | `reads` | pages to be read | the hub asks, a read begins or fails |
//! | `scheduler`, `children` | the task under way, and the process that has it | a task begins or ends |
//! | `space` | what the store takes of the disk, and has written to it | a process starts, ends or reports, a reload |
//! | `recovery`, `compactor`, `wal_checkpoints` | how far each has come | its tasks begin, end or fail |
//! | `failures` | why the disk cannot be used | a task fails, a commit ends |
//! | `clock` | the clock of the hub, which outlives the machine | the recovery has read it |
//!
//! A response ends the task under way, and `tick` begins the next one, which `TaskSelection`
//! chooses. The disk itself belongs to a process of its own.

mod snapshot;

use std::io;
use std::time::Duration;

pub(super) use snapshot::BackendSnapshot;

use super::child::Children;
use super::compaction::Compactor;
use super::disk_usage::DiskSpace;
use super::failures::{DiskAccess, FailureConsequence, FailurePhase, Failures};
use super::fetch::Fetch;
use super::hub_clock::{HubClock, Stamp, StoreClock};
use super::ipc::{GenerationSize, StoreResponse};
use super::memtable::MessageKey;
use super::messages::Messages;
use super::read_queue::{ReadOutcome, ReadQueue};
use super::recovery::{Recovery, unexpected};
use super::scheduler::{ChildTask, Scheduler};
use super::seq_file::SeqFileOwner;
use super::task_selection::{SelectedTask, TaskSelection};
use super::wal_checkpoint::WalCheckpoints;
use super::write_queue::WritePace;
use super::{StoreContext, StoreOptions, StoreState};
use crate::edge::clock;
use crate::hub::{EntryMeta, Input, LogKey, Now, StoreEvent};
use crate::protocol::frame::Statistics;
use crate::protocol::{Message, Moment};

/// The store where it has a disk.
pub(super) struct Backend {
    options: StoreOptions,
    messages: Messages,
    reads: ReadQueue,
    scheduler: Scheduler,
    children: Children,
    space: DiskSpace,
    /// Until all that is on the disk was read.
    recovery: Option<Box<Recovery>>,
    compactor: Compactor,
    wal_checkpoints: WalCheckpoints,
    failures: Failures,
    clock: StoreClock,
    /// The daemon stops, and something is still to be written.
    is_finishing: bool,
}

/// What the hub asks for.
impl Backend {
    pub(super) fn new(options: StoreOptions, now: Now) -> Self {
        Self {
            messages: Messages::new(now.moment),
            reads: ReadQueue::default(),
            scheduler: Scheduler::new(now.moment),
            children: Children::default(),
            space: DiskSpace::new(&options, now.moment),
            recovery: Some(Box::default()),
            compactor: Compactor::default(),
            wal_checkpoints: WalCheckpoints::default(),
            failures: Failures::new(),
            clock: StoreClock::new(now),
            is_finishing: false,
            options,
        }
    }

    /// Uses the disk in another way from now on, in the same place.
    pub(super) fn reconfigure(&mut self, now: Moment, options: StoreOptions) {
        self.space.reconfigure(&options, now);
        self.options = options;
    }

    pub(super) fn keep(&mut self, now: Moment, key: MessageKey, message: &Message, meta: &EntryMeta) {
        self.messages.keep(now, key, message, meta);
    }

    /// Writes a message at once: the answer, where it is known now.
    pub(super) fn sync_now(&mut self, key: MessageKey) -> Option<StoreEvent> {
        self.messages.sync_now(key)
    }

    /// Reads messages: the answers that are known now.
    pub(super) fn fetch(&mut self, fetch: Fetch) -> Vec<Input> {
        let is_unreadable = self.failures.is_unreadable();
        self.reads.answer(self.messages.plan(fetch), is_unreadable)
    }

    /// Drops messages, both ends included.
    pub(super) fn forget(&mut self, now: Moment, log: &LogKey, from: u64, to: u64) {
        self.messages.forget(now, log, from, to);
    }
}

/// State, for the driver.
impl Backend {
    pub(super) fn messages(&self) -> &Messages {
        &self.messages
    }

    /// Whose files it is that outlive the process, and not the machine.
    pub(super) fn owner(&self) -> SeqFileOwner {
        SeqFileOwner::of(self.clock.boot(), &self.options.directory)
    }

    pub(super) fn hub_clock(&self) -> Option<&HubClock> {
        self.clock.hub_clock()
    }

    /// Goes on with the hub clock of a clean stop: what has to be added to the moments of
    /// that time.
    pub(super) fn restore_clock(&mut self, stamp: &Stamp) -> i64 {
        self.clock.restore(clock::now(), stamp)
    }

    pub(super) fn state(&self, now: Moment) -> StoreState {
        let working = || StoreState::Working(self.space.budget().level(now));
        self.failures.why().map_or_else(working, |_| StoreState::Failing)
    }

    pub(super) fn describe(&self, now: Moment, statistics: &mut Statistics) {
        statistics.disk_bytes = self.messages.index().used();
        self.space.describe(now, statistics);
    }

    pub(super) fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Whether all that was on the disk is known, or cannot be read.
    pub(super) fn is_open(&self) -> bool {
        self.recovery.is_none() || self.failures.is_reported()
    }

    /// Whether the task under way should have been given up a while ago.
    pub(super) fn is_stuck(&self, now: Moment) -> bool {
        self.scheduler.is_stuck(now)
    }

    /// Whether everything that can be written is.
    pub(super) fn is_finished(&self) -> bool {
        self.scheduler.is_free() && (self.failures.is_given_up() || !self.is_finishing)
    }

    /// When it wants its turn again.
    pub(super) fn deadline(&self, now: Moment) -> Option<Moment> {
        let reap = self.children.reap_at(now);
        if let Some(task) = self.scheduler.deadline() {
            return [Some(task), reap].into_iter().flatten().min();
        }
        let wish = match !self.reads.is_empty() && self.recovery.is_none() {
            true => Some(now),
            false => self.failures.retry_at().or_else(|| self.messages.commit_due(&self.pace(now))),
        };
        let idle = self.children.is_running().then(|| self.scheduler.idle_at());
        [wish, idle, self.wal_checkpoint_due(now), reap].into_iter().flatten().min()
    }

    fn pace(&self, now: Moment) -> WritePace {
        WritePace::new(now, self.space.budget(), &self.options, self.messages.memtable(), self.is_finishing)
    }

    /// When a write-ahead log is to be copied, if nothing else is to be done.
    fn wal_checkpoint_due(&self, now: Moment) -> Option<Moment> {
        let is_quiet = self.children.is_running()
            && self.messages.is_quiet()
            && !self.failures.is_failing()
            && self.recovery.is_none()
            && self.compactor.is_idle()
            && !self.is_finishing;
        let (busy_at, index) = (self.scheduler.busy_at(), self.messages.index());
        is_quiet.then(|| self.wal_checkpoints.due(now, busy_at, index, &self.space)).flatten()
    }
}

/// What is done next.
impl Backend {
    /// Does what is due.
    pub(super) fn tick(&mut self, context: &mut StoreContext<'_>) {
        let now = context.now.moment;
        if self.children.reap(now) {
            self.failures.retry_from(now);
        }
        if self.scheduler.is_free() && self.recovery.is_none() {
            context.report(self.space.capacity_change(&self.messages));
        }
        context.report(self.space.scarcity_change(now));
        if self.scheduler.is_overdue(now) {
            if self.scheduler.task().is_some_and(ChildTask::is_reading) {
                self.failures.give_up_reading();
            }
            self.fail(format!("the disk of {} does not answer", self.options.directory.display()), context);
        }
        if self.scheduler.is_free() {
            self.begin(context);
        }
        if self.scheduler.is_free() && now >= self.scheduler.idle_at() {
            self.children.dismiss_idle(now);
        }
    }

    /// Begins the next task, if one is due.
    fn begin(&mut self, context: &mut StoreContext<'_>) {
        let now = context.now.moment;
        let Some(task) = self.next_task(context) else { return };
        if !self.children.is_running() {
            // What the process is wanted for is found again once it is there.
            return self.start_process(context);
        }
        let sent = self.send(&task, context);
        let generation = task.generation(&self.compactor);
        if let Some(generation) = generation.filter(|it| *it != self.space.active_generation()) {
            self.reads.note_open(generation, now);
        }
        self.scheduler.begin(task, now);
        if let Err(error) = sent {
            let why = self.children.why_gone(&error);
            self.fail(why, context);
        }
    }

    /// The task that is due; where none is, a write-ahead log may be copied.
    fn next_task(&mut self, context: &mut StoreContext<'_>) -> Option<ChildTask> {
        let now = context.now.moment;
        let selection = TaskSelection {
            pace: self.pace(now),
            scheduler: &self.scheduler,
            children: &self.children,
            failures: &self.failures,
            recovery: self.recovery.as_deref(),
            messages: &mut self.messages,
            reads: &mut self.reads,
            space: &mut self.space,
            compactor: &mut self.compactor,
            is_finishing: &mut self.is_finishing,
        };
        match selection.select(context) {
            SelectedTask::Due(task) => Some(task),
            SelectedTask::Idle => self.next_wal_checkpoint(now),
            SelectedTask::None => None,
            SelectedTask::NoRoom => {
                let why = format!("the store has reached {} bytes, its limit", self.options.bytes);
                self.fail_with(DiskAccess::ReadOnly, why, context);
                None
            }
        }
    }

    fn next_wal_checkpoint(&mut self, now: Moment) -> Option<ChildTask> {
        let is_due = self.wal_checkpoint_due(now).is_some_and(|due| due <= now);
        let generation = is_due.then(|| self.wal_checkpoints.begin(self.messages.index(), &self.space));
        generation.flatten().map(ChildTask::WalCheckpoint)
    }

    fn start_process(&mut self, context: &mut StoreContext<'_>) {
        let now = context.now.moment;
        self.space.process_starts();
        self.reads.note_process_start();
        self.wal_checkpoints.end();
        self.scheduler.note_start(now);
        if let Err(error) = self.children.start(&self.options, context.epoll) {
            self.failures.log_refused_start(&error);
            return self.fail(error.to_string(), context);
        }
        self.scheduler.await_start(now);
    }

    fn send(&mut self, task: &ChildTask, context: &StoreContext<'_>) -> io::Result<()> {
        let ChildTask::Commit(commit) = task else {
            let request = task.request(&self.compactor);
            return request.map_or(Ok(()), |request| self.children.send(&request, context.epoll));
        };
        let Some(hub_clock) = self.clock.hub_clock() else {
            debug_assert!(false, "a commit before the hub clock is known");
            return Ok(());
        };
        let spent = self.space.budget().spent(context.now.moment);
        commit.send(&mut self.children, self.messages.memtable(), hub_clock, spent, context)
    }
}

/// What follows from a response.
impl Backend {
    /// The socket to the process is readable or writable.
    pub(super) fn ready(&mut self, context: &mut StoreContext<'_>) {
        let Some(mut process) = self.children.take() else { return };
        let (epoll, mut failed) = (context.epoll, None);
        let exchanged = process.exchange(epoll, |response| {
            if failed.is_none() {
                failed = self.receive(response, context).err();
            }
        });
        self.children.put_back(process, context.now.moment);
        if let Some(why) = failed.or(exchanged.err()) {
            let is_idle = self.scheduler.is_free() && !self.failures.is_failing();
            if is_idle && self.children.is_running() {
                // Nothing was asked of it, so nothing failed: the next task starts another.
                self.children.kill();
            } else {
                self.fail(why, context);
            }
        }
        self.tick(context);
    }

    fn receive(&mut self, response: StoreResponse<'_>, context: &mut StoreContext<'_>) -> Result<(), String> {
        let now = context.now.moment;
        match (response, self.scheduler.task()) {
            (StoreResponse::Failed { why }, _) => return Err(why),
            (StoreResponse::Ready { generations, room, notes }, Some(ChildTask::Start)) => {
                self.scheduler.take();
                self.space.process_reported_first(room);
                notes.iter().for_each(|note| log::warn!("{note}"));
                self.end_start(&generations, context);
            }
            (StoreResponse::Record { log, seq, body: Some(body), .. }, Some(ChildTask::Read(_))) => {
                if let Some(read) = self.scheduler.read_mut() {
                    read.push(&log, seq, &body);
                }
            }
            (StoreResponse::Record { seq, head, body: Some(body), .. }, Some(ChildTask::Compact)) => {
                self.compactor.push(seq, head.into_owned(), body.into_owned());
            }
            (response, Some(ChildTask::Load(generation))) => {
                let generation = *generation;
                self.load(generation, response, context)?;
            }
            (StoreResponse::Read { .. }, Some(ChildTask::Read(_))) => self.end_read(context),
            (StoreResponse::Read { .. }, Some(ChildTask::Compact)) => {
                self.scheduler.take();
                self.failures.read_succeeded();
                self.messages.lose(self.compactor.end_run(self.messages.index()));
            }
            (StoreResponse::Committed { room }, Some(ChildTask::Commit(_))) => {
                self.space.committed(now, room);
                self.end_commit(context);
            }
            (StoreResponse::Dropped { room }, Some(ChildTask::Drop(generation))) => {
                self.messages.remove_generation(*generation);
                self.scheduler.take();
                self.space.changed(now, None, room);
                context.report(self.space.capacity_change(&self.messages));
            }
            (StoreResponse::Checkpointed { room, is_done }, Some(ChildTask::WalCheckpoint(generation))) => {
                let generation = *generation;
                self.scheduler.take();
                self.messages.measured(generation, &room);
                self.space.changed(now, Some(generation), room);
                context.report(self.space.capacity_change(&self.messages));
                if is_done {
                    self.wal_checkpoints.end();
                    // The engine keeps memory, and threads.
                    self.children.end_after_response();
                }
            }
            (response, _) => return Err(unexpected(&response)),
        }
        Ok(())
    }

    /// The process has reported which generations there are. One that was set aside because it
    /// is damaged is gone with all that it held; a read of that is answered then.
    fn end_start(&mut self, sizes: &[GenerationSize], context: &mut StoreContext<'_>) {
        self.messages.found_generations(sizes, &self.options.directory);
        if let Some(last) = sizes.last() {
            self.space.found_generation(last.generation, last.is_only_read);
        }
        if self.recovery.as_mut().is_some_and(|recovery| recovery.set_generations(sizes)) {
            self.end_recovery(context);
        }
    }

    /// Takes something of a generation that is recovered.
    fn load(
        &mut self,
        generation: u32,
        response: StoreResponse<'_>,
        context: &mut StoreContext<'_>,
    ) -> Result<(), String> {
        let Some(recovery) = &mut self.recovery else {
            debug_assert!(false, "a generation is loaded without a recovery");
            return Ok(());
        };
        let bytes = self.messages.index().generation(generation).map_or(0, |usage| usage.bytes());
        let Some(read) = recovery.push(generation, bytes, response)? else { return Ok(()) };
        self.scheduler.take();
        if read.has_child_grown {
            self.children.end_after_response();
        }
        if read.is_last {
            self.end_recovery(context);
        }
        Ok(())
    }

    /// All generations were read.
    fn end_recovery(&mut self, context: &mut StoreContext<'_>) {
        let Some(recovery) = self.recovery.take() else { return };
        let spent = self.messages.recover(*recovery, &mut self.clock, context);
        self.space.recovered(context.now.moment, spent, self.messages.index());
        context.report(self.space.capacity_change(&self.messages));
    }

    /// A page was read.
    fn end_read(&mut self, context: &mut StoreContext<'_>) {
        let Some(ChildTask::Read(read)) = self.scheduler.take() else { return };
        self.failures.read_succeeded();
        match read.finish(self.messages.index()) {
            ReadOutcome::Page(page) => context.inputs.push_back(page),
            ReadOutcome::Damaged { from, to, pending } => {
                self.messages.forget_on_disk(context.now.moment, pending.log(), from, to);
                self.reads.put_back(pending);
            }
        }
    }

    /// A commit is on the disk.
    fn end_commit(&mut self, context: &mut StoreContext<'_>) {
        let Some(ChildTask::Commit(commit)) = self.scheduler.take() else { return };
        let now = context.now.moment;
        let stored = self.messages.finish_commit(now, *commit, self.space.report());
        context.report(stored);
        context.report(self.space.capacity_change(&self.messages));
        context.report(self.space.scarcity_change(now));
        if self.failures.recover(now) {
            log::info!("messages are written to {} again", self.options.directory.display());
            context.report([StoreEvent::Recovered]);
        }
    }
}

/// What is done when the disk cannot be used.
impl Backend {
    /// The task under way has failed, or a process could not be started.
    fn fail(&mut self, why: String, context: &mut StoreContext<'_>) {
        let now = context.now.moment;
        let is_for_reads = self.recovery.is_none() && !self.reads.is_empty();
        match self.failures.consequence(self.scheduler.task(), is_for_reads) {
            FailureConsequence::NoCheckpoint => {
                log::warn!("{why}; what is kept stays in its write-ahead log");
                self.kill_process(now);
                self.scheduler.take();
                self.wal_checkpoints.fail(now);
            }
            FailureConsequence::ReadAgain => {
                log::warn!("{why}; reading it again");
                self.kill_process(now);
                self.undo_task(now);
            }
            FailureConsequence::Degraded(access) => self.fail_with(access, why, context),
        }
    }

    fn fail_with(&mut self, access: DiskAccess, why: String, context: &mut StoreContext<'_>) {
        let now = context.now.moment;
        self.kill_process(now);
        let phase = FailurePhase { is_recovering: self.recovery.is_some(), is_finishing: self.is_finishing };
        if self.failures.record(now, why, access, phase) {
            context.report([StoreEvent::Failed]);
        }
        self.undo_task(now);
        context.report(self.messages.fail_urgent(now));
        if access == DiskAccess::None {
            context.inputs.extend(self.reads.fail_all());
        }
    }

    /// Ends the process at once; what it has written counts, whether it was reported or not.
    fn kill_process(&mut self, now: Moment) {
        if let Some(written) = self.children.kill() {
            self.space.process_ended(now, written);
        }
    }

    /// The task under way ends without its response: what it was to do is to be done again.
    fn undo_task(&mut self, now: Moment) {
        self.compactor.abort();
        match self.scheduler.take() {
            Some(ChildTask::Commit(commit)) => self.messages.undo_commit(now, *commit),
            Some(ChildTask::Read(read)) => self.reads.put_back(read.into_pending()),
            _ => {}
        }
        if let Some(recovery) = &mut self.recovery {
            // What was read without coming to the end is read again.
            **recovery = Recovery::default();
        }
    }
}

/// The start and the end of the daemon.
impl Backend {
    pub(super) fn wait(&self, time: Duration) {
        self.children.wait(time);
    }

    pub(super) fn abandon_recovery(&mut self, context: &mut StoreContext<'_>) {
        self.failures.skip_attempts();
        self.fail("reading what is kept takes too long".to_owned(), context);
    }

    /// From now on everything is written that can be. What failed is tried at once.
    pub(super) fn finish(&mut self) {
        let is_unwritten = self.messages.has_unwritten();
        // What is under way may fail, and is to be written then.
        self.is_finishing = is_unwritten || !self.scheduler.is_free() || self.recovery.is_some();
        self.failures.retry_from(Moment(0));
    }

    /// Kills the process if it has something to do, which is given up at its time.
    pub(super) fn interrupt(&mut self, now: Moment) {
        if !self.scheduler.is_free() {
            self.kill_process(now);
        }
    }

    /// Ends what is under way, without its response: the next daemon waits for its end.
    pub(super) fn release(&mut self, now: Moment) {
        self.children.dismiss_busy(self.scheduler.deadline(), now);
        self.undo_task(now);
    }
}
