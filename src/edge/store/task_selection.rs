//! Selection of the next task for the process that owns the disk.
//!
//! The recovery comes before all else, then commits and reads in turn, then compaction.

use super::StoreContext;
use super::child::Children;
use super::commit::CommitLimits;
use super::compaction::{CompactionStep, Compactor};
use super::disk_usage::DiskSpace;
use super::failures::Failures;
use super::messages::Messages;
use super::read_queue::ReadQueue;
use super::recovery::Recovery;
use super::scheduler::{ChildTask, Scheduler};
use super::write_queue::WritePace;

/// The parts of the backend that one selection depends on, and those that it changes.
pub(super) struct TaskSelection<'a> {
    pub pace: WritePace,
    pub scheduler: &'a Scheduler,
    pub children: &'a Children,
    pub failures: &'a Failures,
    pub recovery: Option<&'a Recovery>,
    pub messages: &'a mut Messages,
    pub reads: &'a mut ReadQueue,
    pub space: &'a mut DiskSpace,
    pub compactor: &'a mut Compactor,
    pub is_finishing: &'a mut bool,
}

/// The outcome of a selection.
pub(super) enum SelectedTask {
    Due(ChildTask),
    /// Nothing is due; what is not urgent may be done.
    Idle,
    /// Nothing is to be done now.
    None,
    /// The store has reached its limit, and no room can be made.
    NoRoom,
}

impl TaskSelection<'_> {
    /// Selects the task that is due.
    pub(super) fn select(mut self, context: &mut StoreContext<'_>) -> SelectedTask {
        let now = context.now.moment;
        let may_try = self.failures.retry_at().is_none_or(|again| again <= now);
        if let Some(recovery) = self.recovery {
            // The first response of the process reports what there is.
            let next = may_try.then(|| recovery.next().map_or(ChildTask::Start, ChildTask::Load));
            return SelectedTask::due_or(next, SelectedTask::None);
        }
        if !self.children.is_running() && !self.reads.is_empty() {
            return SelectedTask::Due(ChildTask::Start);
        }
        let due = self.messages.commit_due(&self.pace);
        let is_due = due.is_some_and(|due| due <= now) || self.failures.is_failing();
        let reads_first = self.scheduler.is_turn_of_reads() || !(is_due && may_try);
        let active = self.space.active_generation();
        if reads_first && let Some(read) = self.reads.next(now, active, self.messages, context.inputs) {
            return SelectedTask::Due(ChildTask::Read(read));
        }
        if !may_try {
            return SelectedTask::None;
        }
        if !is_due {
            return SelectedTask::due_or(self.compaction(context), SelectedTask::Idle);
        }
        if !self.space.fits_commit(self.messages.index()) {
            // Making room comes first; where there is none to be made, nothing more is written.
            return SelectedTask::due_or(self.compaction(context), SelectedTask::NoRoom);
        }
        let commit = if self.children.is_running() { self.commit(context) } else { Some(ChildTask::Start) };
        SelectedTask::due_or(commit, SelectedTask::None)
    }

    /// What there is to commit; none if there is nothing.
    fn commit(&mut self, context: &StoreContext<'_>) -> Option<ChildTask> {
        // What is kept for making room is not used up by what comes.
        let fits = self.space.fits_commit(self.messages.index());
        let limits = fits.then(|| CommitLimits::new(self.space.generation_bytes(), self.failures));
        let moved = self.compactor.take_moved(self.messages.index());
        let content = self.messages.take_for_commit(limits, moved, &self.pace);
        if content.is_empty() && !self.failures.is_failing() {
            *self.is_finishing &= !fits;
            self.messages.nothing_to_commit();
            return None;
        }
        let generation = self.space.generation_for_commit();
        let commit = self.messages.begin_commit(content, generation, context.hub);
        Some(ChildTask::Commit(Box::new(commit)))
    }

    /// Goes on with the compaction, or begins one where that is worth it.
    fn compaction(&mut self, context: &StoreContext<'_>) -> Option<ChildTask> {
        match self.compactor.next(self.messages.index(), self.space)? {
            CompactionStep::Drop(generation) => Some(ChildTask::Drop(generation)),
            CompactionStep::Read => Some(ChildTask::Compact),
            CompactionStep::Write if self.children.is_running() => self.commit(context),
            CompactionStep::Write => Some(ChildTask::Start),
        }
    }
}

impl SelectedTask {
    fn due_or(task: Option<ChildTask>, otherwise: Self) -> Self {
        task.map_or(otherwise, Self::Due)
    }
}
