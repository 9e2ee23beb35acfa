//! The backend as a value, for a process that takes over: all but its logs.
//!
//! Each part is described by itself. The order of the fields is that of the bytes.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Backend;
use crate::edge::store::Options;
use crate::edge::store::child::{Children, ChildrenSnapshot};
use crate::edge::store::failures::{Failures, FailuresSnapshot};
use crate::edge::store::hub_clock::{HubClock, StoreClock};
use crate::edge::store::index::{GenerationSnapshot, Index};
use crate::edge::store::memtable::Memtable;
use crate::edge::store::messages::Messages;
use crate::edge::store::read_queue::{PendingRead, ReadQueue};
use crate::edge::store::snapshot_codec::ImportError;
use crate::edge::store::space::{DiskSpace, SpaceSnapshot};
use crate::edge::store::write_queue::WriteQueueSnapshot;
use crate::hub::Now;
use crate::protocol::Moment;

/// All that a backend is but for its logs.
#[derive(Serialize, Deserialize)]
pub(in crate::edge::store) struct BackendSnapshot {
    directory: Box<Path>,
    /// All that is on the disk is known; else it is read from the beginning.
    is_recovered: bool,
    hub_clock: Option<HubClock>,
    /// What of the write budget was spent.
    spent: u64,
    generations: Vec<GenerationSnapshot>,
    space: SpaceSnapshot,
    last_life: u64,
    writes: WriteQueueSnapshot,
    failures: FailuresSnapshot,
    /// Pages that are read for notices, and forgotten by the hub.
    notices: Vec<PendingRead>,
    children: ChildrenSnapshot,
}

impl BackendSnapshot {
    pub(in crate::edge::store) fn of(backend: &Backend, now: Moment) -> Self {
        let (generations, last_life) = backend.messages.index().snapshot();
        Self {
            directory: backend.options.directory.as_path().into(),
            is_recovered: backend.recovery.is_none(),
            hub_clock: backend.clock.hub_clock().cloned(),
            spent: backend.space.budget().spent(now),
            generations,
            space: backend.space.snapshot(),
            last_life,
            writes: backend.messages.queue_snapshot(),
            failures: backend.failures.snapshot(),
            notices: backend.reads.notices(),
            children: backend.children.snapshot(),
        }
    }

    pub(in crate::edge::store) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The index without its logs.
    pub(in crate::edge::store) fn take_index(&mut self) -> Index {
        Index::resume(std::mem::take(&mut self.generations), self.last_life)
    }

    /// A backend that goes on, with the messages of this one.
    pub(in crate::edge::store) fn resume(
        self,
        options: Options,
        now: Now,
        memtable: Memtable,
        index: Index,
    ) -> Result<Backend, ImportError> {
        let mut space = DiskSpace::resume(self.space, &options, now.moment);
        space.spent_before(now.moment, self.spent);
        let fresh = Backend::new(options, now);
        Ok(Backend {
            messages: Messages::resume(memtable, index, self.writes),
            reads: ReadQueue::resume(self.notices),
            children: Children::resume(self.children, now.moment),
            space,
            recovery: fresh.recovery.filter(|_| !self.is_recovered),
            failures: Failures::resume(self.failures),
            clock: StoreClock::resume(self.hub_clock, now).ok_or(ImportError::Boot)?,
            ..fresh
        })
    }
}
