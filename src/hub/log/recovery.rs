//! What the disk has from an earlier life of the hub.
//!
//! Knows how messages that were found get back into their logs, at the start or
//! later, and who is to read them then. Does not know how they are found.
//!
//! Positions come from the [`checkpoint`](crate::hub::checkpoint) of a clean stop. A log
//! that has none begins a new epoch above all that was found: nobody knows which
//! numbers were given out and not written.

use super::cursor::{Backlog, Reader};
use super::entry::LogEntry;
use super::publisher_quota::Author;
use super::replay;
use crate::hub::Hub;
use crate::hub::channel::dedup::{DedupKey, LogPosition};
use crate::hub::channel::topics::{DeliveryMode, Topic};
use crate::hub::event::{Cx, Input, LogKey, Now, RecoveredLog, RecoveredMessage, StoreEvent};
use crate::hub::settings::{Keep, Policy, WriteThrough};
use crate::protocol::frame::GapCause;
use crate::protocol::request::Target;
use crate::sort::sort_by;

/// A log for which messages were found, to be looked after when all are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(in crate::hub) struct PendingRecovery {
    place: u32,
    how: RecoveredEntry,
}

/// How what was found fits to what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
enum RecoveredEntry {
    /// It lies below what was numbered meanwhile, if anything was.
    Below,
    /// Among that: there is a new epoch.
    Among,
}

impl Hub {
    /// Takes note of what a fact says about the disk, before it is dealt with.
    pub(in crate::hub) fn note_disk(&mut self, cx: &mut Cx<'_>, input: &Input) {
        match input {
            Input::Store(StoreEvent::RecoveredLog(_)) => return,
            // The first of all facts: what is on the disk is not known.
            Input::Store(StoreEvent::Failed) if self.started.is_none() => self.number_apart(cx.now),
            Input::Store(StoreEvent::Recovered) => self.seq_floor = None,
            _ => {}
        }
        if !self.recovering.is_empty() {
            self.sort_in(cx);
        }
    }

    /// The numbers of a log go on where a process was killed. What of it no disk
    /// has is lost, and known to be.
    pub(in crate::hub) fn reached(&mut self, now: Now, log: LogKey, epoch: u64, seq: u64) {
        // What a clean stop has left is no older.
        if self.channels.find(&log).is_none() {
            let mut topic = Topic::new(log, epoch);
            topic.seq = seq;
            let place = self.channels.insert(topic);
            self.settle(now, place);
        }
    }

    /// How far the logs have come whose numbers are to go on although the process
    /// is killed: those of which the disk has all but the last moment.
    pub fn reaches(&self) -> Vec<(LogKey, u64, u64)> {
        let is_one = |topic: &&Topic| topic.seq > 0 && self.goes_on(&self.policy_of(&topic.key));
        let topics = self.channels.iter().filter(is_one);
        topics.map(|topic| (topic.key.clone(), topic.epoch, topic.seq)).collect()
    }

    /// Whether the numbers of a log go on although the process is killed.
    pub(in crate::hub) fn goes_on(&self, policy: &Policy) -> bool {
        self.settings.has_disk && policy.keep == Keep::History && policy.disk == WriteThrough::Behind
    }

    /// Takes what was found of one log into the index. What follows from it waits
    /// until all is told, so that it does not depend on the order of that.
    pub(in crate::hub) fn found(&mut self, now: Now, mut found: RecoveredLog) {
        // From here on it is known what is there.
        self.started.get_or_insert(now.moment);
        sort_by(&mut found.kept, |one, other| one.seq.cmp(&other.seq));
        let known = self.channels.find(&found.log);
        let place = known.unwrap_or_else(|| {
            let topic = Topic::new(found.log.clone(), self.random.next());
            self.channels.insert(topic)
        });
        let epoch = self.random.next();
        let Some(topic) = self.channels.at_mut(place) else { return };
        let how = topic.take_back(&found, known.is_some(), epoch);
        let kept = found.kept.iter().map(|message| topic.kept_again(message)).collect();
        let epoch = topic.epoch;
        let doubles = topic.log.get_or_insert_default().merge(kept);
        if doubles > 0 {
            topic.last_loss = GapCause::Evicted;
            self.counters.messages_evicted += doubles;
        }
        self.know_again(now, epoch, &found);
        self.recovering.push(PendingRecovery { place, how });
    }

    /// The ids of messages that were found are those of messages seen.
    fn know_again(&mut self, now: Now, epoch: u64, found: &RecoveredLog) {
        let target = match &found.log {
            LogKey::Channel(channel) => Target::Channel(channel.clone()),
            LogKey::Inbox(user) => Target::User(user.clone()),
        };
        for message in &found.kept {
            if let (Some(scope), Some(id)) = (&message.meta.scope, &message.id) {
                let key = DedupKey { scope: scope.clone(), target: target.clone(), id: id.clone() };
                let place = LogPosition { epoch, seq: message.seq };
                self.dedup.restore(now.moment, message.meta.since, key, place);
            }
        }
    }

    /// Drops what is too old or too much, and has the rest read by those who are
    /// here.
    fn sort_in(&mut self, cx: &mut Cx<'_>) {
        let unsorted = std::mem::take(&mut self.recovering);
        for PendingRecovery { place, .. } in &unsorted {
            self.conform(cx, *place);
        }
        for PendingRecovery { place, how } in unsorted {
            self.trim(cx, place);
            self.read_found(cx, place, how);
        }
    }

    /// Whoever hears a topic hears now what was found of it, where it is owed.
    fn read_found(&mut self, cx: &mut Cx<'_>, place: u32, how: RecoveredEntry) {
        let Some(topic) = self.channels.at(place) else { return };
        let keep = self.policy_of(&topic.key).keep;
        let hearing = topic.subscribers.iter().filter(|subscriber| subscriber.hearing != DeliveryMode::Off);
        let hearing: Vec<u32> = hearing.map(|subscriber| subscriber.slot).collect();
        for slot in hearing {
            let Some(conn) = self.connections.id(slot) else { continue };
            let Some(topic) = self.channels.at(place) else { return };
            if how == RecoveredEntry::Among {
                cx.out.push(replay::new_epoch(conn, topic.name(), topic.epoch));
            }
            if let Some(backlog) = topic.backlog_found(slot, keep) {
                self.restart(cx, place, conn, backlog);
            }
        }
        self.settle(cx.now, place);
    }
}

impl Topic {
    /// Sets the positions after what was found, which is what was known before or
    /// not; another epoch where numbers might be given out again.
    fn take_back(&mut self, found: &RecoveredLog, is_known: bool, epoch: u64) -> RecoveredEntry {
        let seqs = found.kept.iter().map(|message| message.seq);
        let last = seqs.clone().chain([found.last, found.cursor]).max().unwrap_or_default();
        // All that is found is owed: a mark of what is not may be of other numbers.
        let cursor =
            seqs.clone().next().map_or(found.cursor, |first| found.cursor.min(first.saturating_sub(1)));
        let reach = self.jump.as_ref().map_or(self.seq, |jump| jump.reach);
        if last > reach {
            self.epoch = epoch;
            self.cursor = if is_known { cursor.min(self.cursor) } else { cursor };
            (self.seq, self.offered, self.jump) = (self.seq.max(last), 0, None);
            return RecoveredEntry::Among;
        }
        let Some(jump) = &mut self.jump else { return RecoveredEntry::Below };
        let from = seqs.chain([found.last]).filter(|seq| *seq <= jump.to).max().unwrap_or_default();
        jump.from = jump.from.max(from);
        if from > 0 && matches!(self.key, LogKey::Inbox(_)) {
            jump.to = jump.to.max(self.cursor);
            jump.seen = self.seq;
            self.cursor = 0;
            let cursor = jump.cursor.max(cursor);
            self.pass(cursor);
        }
        RecoveredEntry::Below
    }

    /// A message on the disk, in the index again. Who published it is somebody
    /// else by now, and workers were told of it when it was kept.
    fn kept_again(&self, message: &RecoveredMessage) -> LogEntry {
        let keeping = &message.meta;
        let heard = match self.key {
            LogKey::Channel(_) => keeping.delivered,
            LogKey::Inbox(_) => self.is_passed(message.seq),
        };
        LogEntry {
            seq: message.seq,
            expires: keeping.expires,
            since: keeping.since,
            by: 0,
            size: keeping.size,
            author: Author::default(),
            heard,
            echo: false,
            told: true,
            durable: keeping.durable,
            stored: true,
        }
    }

    /// What a subscriber is to read now that older messages are there, if
    /// anything.
    fn backlog_found(&self, slot: u32, keep: Keep) -> Option<Backlog> {
        let log = self.log.as_deref()?;
        let jump = self.jump.as_deref().copied().unwrap_or_default();
        let sent = log.reader(slot).map_or(self.seq, |reader| reader.sent);
        if sent < jump.from {
            // It comes to them; but what it has asked for already is without them.
            let asks = |reader: &&Reader| reader.asked.is_some();
            return log.reader(slot).filter(asks).map(Reader::backlog);
        }
        match keep {
            // What it had already comes twice, as it may there.
            Keep::Unacknowledged if self.cursor < jump.from => {
                let holes = self.holes(self.cursor).into_iter().filter(|hole| hole.to <= jump.from);
                Some(Backlog { holes: holes.collect(), ..Backlog::after(self.cursor) })
            }
            Keep::Undelivered if jump.from > 0 => {
                let first = log.kept.front().filter(|first| first.seq <= jump.from)?;
                let others = log.kept.iter().filter(|kept| kept.heard || jump.from < kept.seq);
                let others = others.map(|kept| kept.seq).filter(|seq| *seq <= sent).collect();
                Some(Backlog { others, ..Backlog::after(first.seq - 1) })
            }
            // Which of all that it had nobody can tell.
            Keep::Unacknowledged | Keep::Undelivered if self.jump.is_none() => {
                let first = log.kept.iter().find(|kept| !kept.heard)?;
                Some(Backlog::after(first.seq - 1))
            }
            _ => None,
        }
    }
}
