//! The disk of a bench, and hubs that end and begin.
//!
//! Knows what would be on a disk, by what the hub ordered and how much time has
//! passed. Does not know what a hub makes of it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use wshubd::hub::settings::Disk;
use wshubd::hub::{Found, FoundMessage, Hub, Input, Keeping, LogKey, StoreFact};
use wshubd::protocol::{Close, Message, Moment};

use super::Bench;

/// What waits this long to be written may be gone before it is.
const WRITE_DELAY: Duration = Duration::from_secs(1);

/// One kept message, with what a hub that starts anew has to know of it.
pub(super) type Record = (Rc<Message>, Keeping);

/// What a disk has of one log.
#[derive(Clone, Default)]
pub(super) struct OnDisk {
    /// All up to here is forgotten.
    forgotten: u64,
    /// The highest position that was ever written.
    last: u64,
    kept: BTreeMap<u64, Record>,
}

/// A disk, and what is on its way there.
#[derive(Default)]
pub(crate) struct Shelf {
    logs: BTreeMap<LogKey, OnDisk>,
    /// What is kept and not written.
    tail: BTreeMap<(LogKey, u64), Record>,
    /// It cannot be read or written.
    pub(super) is_broken: bool,
    /// Nobody has read it since the hub began.
    is_unread: bool,
    /// What is removed comes back when the power fails.
    pub(crate) forgets_removals: bool,
    /// What was removed and would come back.
    ghosts: Vec<(LogKey, u64, Record)>,
}

impl Shelf {
    pub(super) fn keep(&mut self, log: &LogKey, message: &Rc<Message>, keeping: &Keeping) {
        let seq = message.seq.unwrap();
        self.tail.insert((log.clone(), seq), (message.clone(), keeping.clone()));
    }

    pub(super) fn forget(&mut self, log: &LogKey, from: u64, to: u64) {
        self.tail.retain(|(whose, seq), _| whose != log || *seq < from || *seq > to);
        let Some(on_disk) = self.logs.get_mut(log) else { return };
        let gone = on_disk.kept.extract_if(from..=to, |_, _| true);
        self.ghosts.extend(gone.map(|(seq, record)| (log.clone(), seq, record)));
        if on_disk.kept.keys().next().is_none_or(|first| *first > to) {
            on_disk.forgotten = on_disk.forgotten.max(to);
        }
    }

    /// Writes what satisfies a condition, if that is possible.
    fn write(&mut self, wanted: impl Fn(&Keeping) -> bool) {
        if self.is_broken {
            return;
        }
        for ((log, seq), record) in self.tail.extract_if(.., |_, (_, keeping)| wanted(keeping)) {
            let on_disk = self.logs.entry(log).or_default();
            on_disk.last = on_disk.last.max(seq);
            on_disk.kept.insert(seq, record);
        }
    }

    /// All that a hub is told of it.
    fn found(&self, shift: i64) -> Vec<Found> {
        let moved = |moment: Moment| Moment(moment.0.saturating_add_signed(shift));
        let message = |(seq, (message, keeping)): (&u64, &Record)| FoundMessage {
            seq: *seq,
            keeping: Keeping {
                expires: moved(keeping.expires),
                since: moved(keeping.since),
                ..keeping.clone()
            },
            id: keeping.scope.as_ref().map(|_| message.message_id.clone()),
        };
        let logs = self.logs.iter().map(|(log, on_disk)| Found {
            log: log.clone(),
            cursor: on_disk.forgotten,
            last: on_disk.last,
            kept: on_disk.kept.iter().map(message).collect(),
        });
        logs.collect()
    }

    fn lose_power(&mut self) {
        self.tail.clear();
        let ghosts = std::mem::take(&mut self.ghosts).into_iter().filter(|_| self.forgets_removals);
        for (log, seq, record) in ghosts {
            let on_disk = self.logs.entry(log).or_default();
            on_disk.forgotten = on_disk.forgotten.min(seq - 1);
            on_disk.kept.insert(seq, record);
        }
    }
}

impl Bench {
    /// What is still kept after a while goes to the disk.
    pub(super) fn write_behind(&mut self) {
        let now = self.now.moment;
        let is_due = |keeping: &Keeping| keeping.disk == Disk::Behind && now >= keeping.since + WRITE_DELAY;
        self.shelf.write(is_due);
    }

    /// Everything that is kept goes to the disk, whatever its policy says.
    pub(crate) fn write_all(&mut self) {
        self.shelf.write(|_| true);
    }

    /// The daemon stops and is started again.
    pub(crate) fn restart(&mut self) {
        let remains = self.end();
        self.begin(Some(&remains), 0);
    }

    /// The same, with a machine that starts anew between: its clock too.
    pub(crate) fn reboot(&mut self, off: Duration) {
        let remains = self.end();
        let shift = self.power_off(off);
        self.begin(Some(&remains), shift);
    }

    /// The daemon is killed, and started again.
    pub(crate) fn crash(&mut self) {
        self.shelf.lose_power();
        self.begin(None, 0);
    }

    /// The same, with somebody else's settings.
    pub(crate) fn crash_into(&mut self, settings: wshubd::hub::Settings) {
        self.settings = settings;
        self.crash();
    }

    /// Ends the daemon as it should be; what is left of it.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        self.stop(Close::Restarting);
        self.shelf.write(|keeping| keeping.disk != Disk::Never);
        self.shelf.tail.clear();
        self.hub.remains()
    }

    /// Time passes while the machine is off; the difference of its clocks.
    fn power_off(&mut self, off: Duration) -> i64 {
        let before = self.now.moment + off;
        self.now.wall.0 += u64::try_from(off.as_millis()).unwrap();
        self.now.moment = Moment(5000);
        5000 - i64::try_from(before.0).unwrap()
    }

    /// Starts a daemon on what is on the disk.
    pub(crate) fn begin(&mut self, remains: Option<&[u8]>, shift: i64) {
        self.lives += 1;
        let (settings, seed) = (self.settings.clone(), 7 + self.lives);
        self.hub = match remains {
            Some(remains) => Hub::revive(settings, seed, self.now, remains, shift).unwrap(),
            None => Hub::new(settings, seed),
        };
        self.links.clear();
        self.waiting.clear();
        self.http.clear();
        self.latches.clear();
        self.store.clear();
        self.shelf.is_unread = true;
        if self.shelf.is_broken {
            self.handle(Input::Store(StoreFact::Failed));
        } else {
            self.read_disk(shift);
        }
    }

    /// The disk can be neither read nor written from now on.
    pub(crate) fn break_disk(&mut self) {
        self.shelf.is_broken = true;
    }

    /// And can be again: what is on it is told, if nobody was told yet.
    pub(crate) fn mend_disk(&mut self) {
        self.shelf.is_broken = false;
        self.read_disk(0);
        self.handle(Input::Store(StoreFact::Works));
    }

    fn read_disk(&mut self, shift: i64) {
        if !std::mem::take(&mut self.shelf.is_unread) {
            return;
        }
        let all = self.shelf.found(shift);
        for found in &all {
            let on_disk = self.shelf.logs.get_mut(&found.log).unwrap();
            for message in &found.kept {
                let record = on_disk.kept.get_mut(&message.seq).unwrap();
                record.1 = message.keeping.clone();
                let known = self.store.entry(found.log.clone()).or_default();
                assert!(
                    known.insert(message.seq, record.0.clone()).is_none(),
                    "a position is given out once"
                );
            }
        }
        for found in all {
            self.handle(Input::Store(StoreFact::Found(Box::new(found))));
        }
        self.handle(Input::Due);
    }
}
