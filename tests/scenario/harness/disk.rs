//! The disk behind the store, which tests can make late, full or broken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wshubd::hub::settings::WriteThrough as When;
use wshubd::hub::{Effect, EntryMeta, Input, LogKey, StoreEvent};

use super::Harness;

/// One message, by its log and position.
type Place = (LogKey, u64);

#[derive(Default)]
pub(crate) struct Disk {
    /// Whether it writes only on demand.
    pub(crate) slow: bool,
    /// Whether what is on it cannot be read.
    pub(crate) unreadable: bool,
    pub(super) failed: bool,
    /// Writes that a publisher waits for.
    due: VecDeque<Place>,
    /// What is written some time.
    later: BTreeSet<Place>,
    written: BTreeSet<Place>,
    /// All that was ever written, by its id.
    ever: BTreeSet<String>,
    /// Whether a read has failed.
    pub(crate) was_unread: bool,
    /// The hub's order for each message to be kept.
    pub(crate) keepings: BTreeMap<Place, EntryMeta>,
}

impl Disk {
    /// Whether a message is on it and can be read no more.
    pub(super) fn hides(&self, log: &LogKey, seq: u64) -> bool {
        self.unreadable && self.written.contains(&(log.clone(), seq))
    }

    /// Whether a message is on it.
    pub(super) fn has(&self, log: &LogKey, seq: u64) -> bool {
        self.written.contains(&(log.clone(), seq))
    }

    pub(super) fn repair(&mut self) {
        (self.failed, self.unreadable) = (false, false);
    }

    /// What was to be written is not.
    pub(super) fn forget_tail(&mut self) {
        self.later.clear();
        self.due.clear();
    }

    pub(super) fn put_back(&mut self, log: &LogKey, seq: u64) {
        self.written.insert((log.clone(), seq));
    }

    /// Another clock begins.
    pub(super) fn shift(&mut self, shift: i64) {
        for keeping in self.keepings.values_mut() {
            for moment in [&mut keeping.expires, &mut keeping.since] {
                moment.0 = moment.0.saturating_add_signed(shift);
            }
        }
    }

    pub(super) fn keep(&mut self, log: &LogKey, seq: u64, keeping: &EntryMeta) {
        let place = (log.clone(), seq);
        self.keepings.insert(place.clone(), keeping.clone());
        match keeping.disk {
            When::Never => {}
            When::Now => self.due.push_back(place),
            When::Stop | When::Behind => {
                self.later.insert(place);
            }
        }
    }

    /// A write that a publisher waits for is done though the message is dropped.
    pub(super) fn forget(&mut self, log: &LogKey, from: u64, to: u64) {
        let stays = |place: &Place| place.0 != *log || place.1 < from || place.1 > to;
        self.later.retain(stays);
        self.written.retain(stays);
    }
}

impl Harness {
    pub(super) fn write_now(&mut self, effect: &Effect) {
        let Effect::SyncNow { log, seq } = effect else { return };
        let place = (log.clone(), *seq);
        assert!(!self.disk.due.contains(&place), "a message is ordered once");
        self.disk.due.push_back(place);
    }

    /// Does the writes that publishers wait for, as a quick disk does by itself.
    pub(super) fn disk_goes_on(&mut self) {
        if !self.disk.slow && !self.disk.failed && !self.disk.due.is_empty() {
            self.disk_writes();
        }
    }

    /// Does the writes that publishers wait for.
    pub(crate) fn disk_writes(&mut self) {
        if !self.disk.failed {
            let due = std::mem::take(&mut self.disk.due);
            self.put_on_disk(due);
        }
    }

    /// Writes everything that is to be written.
    pub(crate) fn disk_writes_all(&mut self) {
        self.disk_writes_what(|_| true);
    }

    /// Writes what does not wait for the end.
    pub(crate) fn disk_writes_behind(&mut self) {
        self.disk_writes_what(|when| when != When::Stop);
    }

    pub(super) fn disk_writes_what(&mut self, wanted: impl Fn(When) -> bool) {
        if self.disk.failed {
            return;
        }
        self.disk_writes();
        let Disk { later, keepings, .. } = &mut self.disk;
        let later: Vec<Place> = later.iter().filter(|place| wanted(keepings[place].disk)).cloned().collect();
        self.put_on_disk(later);
    }

    /// Whether the message of an id ever was on the disk.
    pub(crate) fn was_written(&self, id: &str) -> bool {
        self.disk.ever.contains(id)
    }

    /// Adjacent ones are reported in one.
    fn put_on_disk(&mut self, places: impl IntoIterator<Item = Place>) {
        let mut runs: Vec<(LogKey, u64, u64)> = Vec::new();
        for (log, seq) in places {
            self.disk.later.remove(&(log.clone(), seq));
            let message = &self.seen[&(log.clone(), seq)];
            self.disk.ever.insert(message.message_id.to_string());
            if self.store.get(&log).is_some_and(|kept| kept.contains_key(&seq)) {
                self.disk.written.insert((log.clone(), seq));
                self.mark(&log, seq);
            }
            match runs.last_mut() {
                Some((last, _, to)) if *last == log && *to + 1 == seq => *to = seq,
                _ => runs.push((log, seq, seq)),
            }
        }
        for (log, from, to) in runs {
            self.handle(Input::Store(StoreEvent::Stored { log, from, to }));
        }
    }

    /// Refuses the writes that publishers wait for; they are tried again some time.
    pub(crate) fn disk_refuses(&mut self) {
        for (log, seq) in std::mem::take(&mut self.disk.due) {
            if self.store.get(&log).is_some_and(|kept| kept.contains_key(&seq)) {
                self.disk.later.insert((log.clone(), seq));
            }
            self.handle(Input::Store(StoreEvent::NotStored { log, seq }));
        }
    }

    /// The disk breaks: nothing can be written or read.
    pub(crate) fn disk_fails(&mut self) {
        (self.disk.failed, self.disk.unreadable) = (true, true);
        self.handle(Input::Store(StoreEvent::Failed));
        self.disk_refuses();
    }

    /// The disk works again.
    pub(crate) fn disk_works(&mut self) {
        (self.disk.failed, self.disk.unreadable) = (false, false);
        self.report_recovered_logs();
        self.handle(Input::Store(StoreEvent::Recovered));
    }

    /// What a process was ordered and had not written when it ended.
    pub(super) fn forget_orders(&mut self) {
        let due = std::mem::take(&mut self.disk.due);
        let is_kept = |(log, seq): &Place| self.store.get(log).is_some_and(|kept| kept.contains_key(seq));
        self.disk.later.extend(due.into_iter().filter(is_kept));
    }

    /// The first report of a failed disk to another process.
    pub(super) fn report_failed_disk(&mut self) {
        if self.disk.failed {
            self.handle(Input::Store(StoreEvent::Failed));
        }
    }
}
