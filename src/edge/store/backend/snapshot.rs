//! The backend as a value, for a process that takes over: all but its logs.
//!
//! Each part is described by itself. The order of the fields is that of the bytes.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Backend;
use crate::edge::store::StoreOptions;
use crate::edge::store::child::{Children, ChildrenSnapshot};
use crate::edge::store::compaction::Compactor;
use crate::edge::store::disk_usage::{DiskSpace, SpaceSnapshot};
use crate::edge::store::failures::{Failures, FailuresSnapshot};
use crate::edge::store::hub_clock::{HubClock, StoreClock};
use crate::edge::store::index::{GenerationSnapshot, Index};
use crate::edge::store::memtable::Memtable;
use crate::edge::store::messages::Messages;
use crate::edge::store::read_queue::{PendingRead, ReadQueue};
use crate::edge::store::scheduler::Scheduler;
use crate::edge::store::snapshot_codec::ImportError;
use crate::edge::store::wal_checkpoint::WalCheckpoints;
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
    last_incarnation: u64,
    writes: WriteQueueSnapshot,
    failures: FailuresSnapshot,
    /// Pages that are read for notices, and forgotten by the hub.
    notices: Vec<PendingRead>,
    children: ChildrenSnapshot,
}

impl BackendSnapshot {
    pub(in crate::edge::store) fn of(backend: &Backend, now: Moment) -> Self {
        let (generations, last_incarnation) = backend.messages.index().snapshot();
        Self {
            directory: backend.options.directory.as_path().into(),
            is_recovered: backend.recovery.is_none(),
            hub_clock: backend.clock.hub_clock().cloned(),
            spent: backend.space.budget().spent(now),
            generations,
            space: backend.space.snapshot(),
            last_incarnation,
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
        Index::resume(std::mem::take(&mut self.generations), self.last_incarnation)
    }

    /// A backend that goes on, with the messages of this one.
    pub(in crate::edge::store) fn resume(
        self,
        options: StoreOptions,
        now: Now,
        memtable: Memtable,
        index: Index,
    ) -> Result<Backend, ImportError> {
        let mut space = DiskSpace::resume(self.space, &options, now.moment);
        space.spent_before(now.moment, self.spent);
        Ok(Backend {
            messages: Messages::resume(memtable, index, self.writes),
            reads: ReadQueue::resume(self.notices),
            scheduler: Scheduler::new(now.moment),
            children: Children::resume(self.children, now.moment),
            space,
            recovery: (!self.is_recovered).then(Box::default),
            compactor: Compactor::default(),
            wal_checkpoints: WalCheckpoints::default(),
            failures: Failures::resume(self.failures),
            clock: StoreClock::resume(self.hub_clock, now).ok_or(ImportError::Boot)?,
            is_finishing: false,
            options,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::BackendSnapshot;
    use crate::binary_codec::{Output, Source, collect};
    use crate::hub::{DeliveryOutcome, FetchPurpose, LogKey};
    use crate::protocol::{Channel, Moment};

    fn encoded(value: &impl Serialize) -> Vec<u8> {
        collect(|to| {
            let mut output = Output::new(2, to);
            output.add(value);
            output.end()
        })
    }

    /// As a daemon of version 2 wrote it, field by field.
    #[test]
    fn snapshot_keeps_the_bytes_of_version_2() {
        let log = LogKey::Channel(Channel::new("orders").unwrap());
        let purpose = FetchPurpose::Notice(DeliveryOutcome::Expired);
        let notice = (purpose, log, 7_u64, 3_usize, Some((4_u32, 8_u64, 10_u64)));
        let first = ("/state/store", true, None::<u8>, 1_000_u64, [(4_u32, 300_u64, 4096_u64)].as_slice());
        let space = (5_u32, 8192_u64, 42_u64);
        let queue = (Moment(11), Some(Moment(12)));
        let failures = (Some(("no space left", true, Moment(13))), 2_u32, Some(Moment(14)));
        let notices = [notice];
        let rest = (notices.as_slice(), [77_u32].as_slice(), [78_u32, 79].as_slice());
        let bytes = encoded(&(first, space, queue, failures, rest));
        let mut unread = bytes.as_slice();
        let mut from = Source::new(&mut unread);
        assert_eq!(from.version().unwrap(), 2);
        let snapshot: BackendSnapshot = from.next().unwrap();
        assert_eq!(encoded(&snapshot), bytes);
        assert_eq!((snapshot.spent, snapshot.last_incarnation), (1_000, 42));
    }
}
