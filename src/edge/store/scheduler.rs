//! The scheduler: the request that is under way, and the time that each may take.
//!
//! One request is under way at a time. What is to be written meanwhile goes into the
//! next commit, so that a sync is shared by all that wait for one. Which request comes next
//! is chosen by `TaskSelection`.

use std::time::Duration;

use super::child::IDLE_TIMEOUT;
use super::commit::Commit;
use super::compaction::Compactor;
use super::ipc::StoreRequest;
use super::read_queue::ActiveRead;
use super::wal_checkpoint::COPIED;
use crate::protocol::Moment;

/// How long a request may take: slow cards stall for seconds; what takes longer
/// hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reading a whole generation takes longer, and so does writing what lies in its log.
const LOADING: Duration = Duration::from_secs(60);

/// The turn in which a request becomes overdue gives it up, and is not stuck.
const GRACE: Duration = Duration::from_secs(1);

/// What the process is asked to do.
pub(super) enum ChildTask {
    /// The process begins, and reports what is there.
    Start,
    Load(u32),
    Commit(Box<Commit>),
    Read(ActiveRead),
    Drop(u32),
    /// A run of survivors is read, to be written again.
    Compact,
    /// A part of a write-ahead log is copied into its database.
    WalCheckpoint(u32),
}

impl ChildTask {
    /// Whether it leaves the disk as it is, and can be begun again.
    pub(super) fn is_reading(&self) -> bool {
        matches!(self, Self::Read(_) | Self::Compact)
    }

    /// Whether it fails where only writing does.
    pub(super) fn is_writing(&self) -> bool {
        matches!(self, Self::Commit(_) | Self::Drop(_))
    }

    /// The generation that the process opens for it.
    pub(super) fn generation(&self, compactor: &Compactor) -> Option<u32> {
        match self {
            Self::Load(generation) | Self::WalCheckpoint(generation) => Some(*generation),
            Self::Read(read) => Some(read.generation()),
            Self::Compact => compactor.generation(),
            Self::Start | Self::Commit(_) | Self::Drop(_) => None,
        }
    }

    /// What is sent for it; a commit is sent otherwise, and a start not at all.
    pub(super) fn request(&self, compactor: &Compactor) -> Option<StoreRequest<'static>> {
        match self {
            Self::Load(generation) => Some(StoreRequest::Load { generation: *generation }),
            Self::Drop(generation) => Some(StoreRequest::Drop { generation: *generation }),
            Self::WalCheckpoint(generation) => {
                Some(StoreRequest::Checkpoint { generation: *generation, bytes: COPIED })
            }
            Self::Read(read) => Some(read.request()),
            Self::Compact => compactor.request(),
            Self::Start | Self::Commit(_) => None,
        }
    }

    /// How long it may take.
    fn patience(&self) -> Duration {
        if matches!(self, Self::Load(_) | Self::WalCheckpoint(_)) { LOADING } else { PATIENCE }
    }
}

/// What the process does at the moment, and did last.
pub(super) struct Scheduler {
    /// Until when it may take.
    under_way: Option<(ChildTask, Moment)>,
    /// When the process had something to do last.
    busy_at: Moment,
    /// The request before this one was a commit, so that reading gets its turn.
    has_committed: bool,
}

impl Scheduler {
    pub(super) fn new(now: Moment) -> Self {
        Self { under_way: None, busy_at: now, has_committed: false }
    }

    /// A process is started, or would be if that did not fail.
    pub(super) fn note_start(&mut self, now: Moment) {
        self.busy_at = now;
    }

    /// A process was started, and has not reported yet.
    pub(super) fn await_start(&mut self, now: Moment) {
        self.under_way = Some((ChildTask::Start, now + PATIENCE));
    }

    /// A request was sent.
    pub(super) fn begin(&mut self, task: ChildTask, now: Moment) {
        debug_assert!(self.under_way.is_none(), "two requests are under way");
        self.has_committed = matches!(task, ChildTask::Commit(_));
        self.busy_at = now;
        let deadline = now + task.patience();
        self.under_way = Some((task, deadline));
    }

    /// Nothing is under way any more: what was.
    pub(super) fn take(&mut self) -> Option<ChildTask> {
        self.under_way.take().map(|(task, _)| task)
    }

    pub(super) fn task(&self) -> Option<&ChildTask> {
        self.under_way.as_ref().map(|(task, _)| task)
    }

    /// The read that is under way, if one is.
    pub(super) fn read_mut(&mut self) -> Option<&mut ActiveRead> {
        match &mut self.under_way {
            Some((ChildTask::Read(read), _)) => Some(read),
            _ => None,
        }
    }

    pub(super) fn is_free(&self) -> bool {
        self.under_way.is_none()
    }

    /// When the request that is under way is given up.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.under_way.as_ref().map(|(_, deadline)| *deadline)
    }

    /// Whether it has taken longer than it may.
    pub(super) fn is_overdue(&self, now: Moment) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Whether it should have been given up a while ago.
    pub(super) fn is_stuck(&self, now: Moment) -> bool {
        self.deadline().is_some_and(|deadline| deadline + GRACE <= now)
    }

    /// Whether reading comes before the commit that is due.
    pub(super) fn is_turn_of_reads(&self) -> bool {
        self.has_committed
    }

    /// When the process had something to do last.
    pub(super) fn busy_at(&self) -> Moment {
        self.busy_at
    }

    /// When the process ends, if it gets nothing to do until then.
    pub(super) fn idle_at(&self) -> Moment {
        self.busy_at + IDLE_TIMEOUT
    }
}
