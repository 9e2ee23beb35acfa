//! Stops, kills and starts of a hub, on the contents of the disk.
//!
//! Holds what a killed daemon has written, and what a clean stop leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use wshubd::hub::settings::{Keep, WriteThrough as When};
use wshubd::hub::{Hub, Input, LogKey, RecoveredLog, RecoveredMessage, Settings, StoreEvent};
use wshubd::protocol::{Close, Message, Moment};

use super::Harness;

/// The contents of the disk, over several hubs.
#[derive(Default)]
pub(crate) struct Past {
    /// How many hubs have begun anew.
    lives: u64,
    /// For each log, up to where all is forgotten, and the last position that was
    /// written.
    marks: BTreeMap<LogKey, (u64, u64)>,
    /// What is on a disk that nobody has read since the hub began.
    unread: Option<BTreeMap<LogKey, BTreeMap<u64, Rc<Message>>>>,
    /// What was removed from the disk comes back when the power fails.
    pub(crate) forgets_removals: bool,
    /// What was ordered to be noted where a process that is killed leaves it: for
    /// each log its epoch and how far it has come.
    noted: BTreeMap<LogKey, (u64, u64)>,
    /// The same, for the hub that begins after the kill.
    reached: Vec<(LogKey, u64, u64)>,
    /// What was removed.
    removed: Vec<(LogKey, u64, Rc<Message>)>,
}

/// What is on the disk of one log.
#[derive(Clone, Default, Debug)]
pub(crate) struct Written {
    /// All up to here is forgotten.
    pub(crate) forgotten: u64,
    /// The last position that was ever written.
    pub(crate) last: u64,
    pub(crate) kept: BTreeSet<u64>,
}

impl Harness {
    /// What a hub that is killed now leaves of a log.
    pub(crate) fn written(&self, log: &LogKey) -> Written {
        let (forgotten, last) = self.past.marks.get(log).copied().unwrap_or_default();
        let kept = self.store.get(log).into_iter().flat_map(BTreeMap::keys).copied();
        Written { forgotten, last, kept: kept.filter(|seq| self.disk.has(log, *seq)).collect() }
    }

    /// Notes what goes from the disk.
    pub(super) fn remove(&mut self, log: &LogKey, from: u64, to: u64) {
        let kept = self.store.get(log).into_iter().flat_map(|kept| kept.range(from..=to));
        for (seq, message) in kept.filter(|(seq, _)| self.disk.has(log, **seq)) {
            self.past.removed.push((log.clone(), *seq, message.clone()));
        }
        if self.past.unread.is_some() {
            return;
        }
        let first = self.store.get(log).and_then(|kept| kept.range(..from).next());
        if let Some((forgotten, _)) = self.past.marks.get_mut(log).filter(|_| first.is_none()) {
            *forgotten = (*forgotten).max(to);
        }
    }

    pub(super) fn mark(&mut self, log: &LogKey, seq: u64) {
        let (_, last) = self.past.marks.entry(log.clone()).or_default();
        *last = (*last).max(seq);
    }

    /// The daemon stops and is started again.
    pub(crate) fn restart(&mut self) {
        let remains = self.end();
        self.begin(Some(&remains), 0);
    }

    /// The same, and the machine with it: its clock begins anew.
    pub(crate) fn reboot(&mut self, off: Duration) {
        let remains = self.end();
        let before = self.now.moment + off;
        self.now.wall.0 += u64::try_from(off.as_millis()).unwrap();
        self.now.moment = Moment(5000);
        self.begin(Some(&remains), 5000 - i64::try_from(before.0).unwrap());
    }

    /// The daemon is killed and started again, on a machine that goes on.
    pub(crate) fn kill(&mut self) {
        let noted = std::mem::take(&mut self.past.noted);
        self.past.reached = noted.into_iter().map(|(log, (epoch, seq))| (log, epoch, seq)).collect();
        self.crash();
    }

    /// Notes how far a log has come, as the daemon does before it carries out what
    /// was ordered behind that.
    pub(super) fn reach(&mut self, log: &LogKey, epoch: u64, seq: u64) {
        self.past.noted.insert(log.clone(), (epoch, seq));
    }

    /// A process that begins, or takes over, notes what there is.
    pub(super) fn note_reaches(&mut self) {
        let positions = self.hub.lasting_positions().into_iter();
        self.past.noted = positions.map(|(log, last)| (log, (last.epoch, last.seq))).collect();
    }

    /// No peer receives a position that a hub after this one could give out again,
    /// though the numbers of its log go on over a kill.
    pub(super) fn is_noted(&self, message: &Message) {
        let channel = message.channel.as_ref().filter(|channel| channel.as_str() != "@me");
        let (Some(channel), Some(seq)) = (channel, message.seq) else { return };
        let policy = self.settings.policy_of(channel);
        let is_behind = policy.keep == Keep::History && policy.disk == When::Behind;
        if !self.settings.has_disk || !is_behind || channel.operation().is_some() {
            return;
        }
        let noted = self.past.noted.get(&LogKey::Channel(channel.clone())).map(|(_, seq)| *seq);
        assert!(noted >= Some(seq), "{} {seq} is heard, and {noted:?} is noted", channel.as_str());
    }

    /// The power fails, and the daemon is started again.
    pub(crate) fn crash(&mut self) {
        self.forget_tail();
        for (log, seq, message) in std::mem::take(&mut self.past.removed) {
            if self.past.forgets_removals {
                self.past.marks.entry(log.clone()).or_default().0 = 0;
                self.disk.put_back(&log, seq);
                self.store.entry(log).or_default().insert(seq, message);
            }
        }
        self.begin(None, 0);
    }

    /// The same, with other settings from then on.
    pub(crate) fn crash_into(&mut self, settings: Settings) {
        self.settings = settings;
        self.crash();
    }

    /// Ends the daemon as it should be; what is left of it.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        self.stop(Close::Restarting);
        self.connections.clear();
        self.paused.clear();
        self.disk_writes_what(|when| when != When::Never);
        self.forget_tail();
        self.hub.checkpoint_bytes()
    }

    /// The disk is in order when the next daemon starts.
    pub(crate) fn repair_disk(&mut self) {
        self.disk.repair();
    }

    /// What is not on the disk is lost with the process.
    fn forget_tail(&mut self) {
        for (log, kept) in &mut self.store {
            kept.retain(|seq, _| self.disk.has(log, *seq));
        }
        self.store.retain(|_, kept| !kept.is_empty());
        self.disk.forget_tail();
    }

    /// Starts a daemon on what is on the disk; a disk that has failed is not read.
    pub(crate) fn begin(&mut self, remains: Option<&[u8]>, shift: i64) {
        self.past.lives += 1;
        let (settings, seed) = (self.settings.clone(), 7 + self.past.lives);
        self.hub = match remains {
            Some(remains) => Hub::revive(settings, seed, self.now, remains, shift).unwrap(),
            None => Hub::new(settings, seed),
        };
        self.connections.clear();
        self.paused.clear();
        self.waiting.clear();
        self.http.clear();
        self.latches.clear();
        self.past.removed.clear();
        self.disk.shift(shift);
        let on_disk = std::mem::take(&mut self.store);
        let unread = self.past.unread.get_or_insert_default();
        unread.extend(on_disk);
        if remains.is_none() {
            // A log of which nothing is there is another when it begins again.
            self.past.marks.retain(|log, _| unread.contains_key(log));
        }
        for (log, epoch, seq) in std::mem::take(&mut self.past.reached) {
            self.handle(Input::Store(StoreEvent::LastSeq { log, epoch, seq }));
        }
        if self.disk.failed {
            self.handle(Input::Store(StoreEvent::Failed));
        } else {
            self.report_recovered_logs();
        }
        self.note_reaches();
    }

    /// Reports the logs on the disk to the hub, unless that was done.
    pub(super) fn report_recovered_logs(&mut self) {
        let mut all = Vec::new();
        for (log, messages) in self.past.unread.take().unwrap_or_default() {
            let (cursor, last) = self.past.marks.get(&log).copied().unwrap_or_default();
            let kept = messages.iter().map(|(seq, message)| self.found_message(&log, *seq, message));
            all.push(RecoveredLog { cursor, last, kept: kept.collect(), log: log.clone() });
            let here = self.store.entry(log).or_default();
            for (seq, message) in messages {
                assert!(here.insert(seq, message).is_none(), "a position is given out once");
            }
        }
        for found in all {
            self.handle(Input::Store(StoreEvent::RecoveredLog(Box::new(found))));
        }
        self.handle(Input::Timeout);
    }

    fn found_message(&self, log: &LogKey, seq: u64, message: &Message) -> RecoveredMessage {
        let keeping = self.disk.keepings[&(log.clone(), seq)].clone();
        let id = keeping.scope.as_ref().map(|_| message.message_id.clone());
        RecoveredMessage { seq, meta: keeping, id }
    }
}
