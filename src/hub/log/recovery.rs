//! Messages of an earlier process, found on the disk: how they fit to what is there, and which
//! subscribers are to read them.
//!
//! Positions come from the [`checkpoint`](crate::hub::checkpoint) of a clean stop. A log
//! that has none begins a new epoch above all that was found: it is unknown which
//! numbers were given out and not written.

use serde::{Deserialize, Serialize};

use super::cursor::{Backlog, Reader};
use super::entries::LogEntry;
use super::gap::Gap;
use super::numbering::Known;
use crate::hub::channel::topic::Topic;
use crate::hub::channel::topics::TopicId;
use crate::hub::event::{RecoveredLog, RecoveredMessage};
use crate::hub::settings::Keep;
use crate::protocol::frame::GapCause;

/// How what was found fits to what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) enum RecoveredPlace {
    /// It lies below what was numbered meanwhile, if anything was.
    Below,
    /// Among that: there is a new epoch.
    Among,
}

/// A log for which messages were found, to be looked after when all are reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct PendingRecovery {
    id: TopicId,
    place: RecoveredPlace,
}

impl PendingRecovery {
    pub(super) fn id(self) -> TopicId {
        self.id
    }

    pub(super) fn place(self) -> RecoveredPlace {
        self.place
    }
}

/// What has become of what was found.
pub(super) struct Recovered {
    pending: PendingRecovery,
    /// How many found their place taken.
    doubles: u64,
}

impl Recovered {
    pub(super) fn pending(&self) -> PendingRecovery {
        self.pending
    }

    /// How many messages found their place taken, and are lost.
    pub(super) fn doubles(&self) -> u64 {
        self.doubles
    }
}

impl Topic {
    /// Takes what was found, ascending, into the index. Where numbers might be given out again,
    /// those of `epoch` begin.
    pub(super) fn recover(
        &mut self,
        id: TopicId,
        found: &RecoveredLog,
        known: Known,
        epoch: u64,
    ) -> Recovered {
        let place = self.recover_numbers(found, known, epoch);
        let entries = found.kept.iter().map(|message| self.recovered_entry(message)).collect();
        let doubles = self.log_or_new().merge(entries);
        if doubles > 0 {
            self.note_loss(GapCause::Evicted);
        }
        Recovered { pending: PendingRecovery { id, place }, doubles }
    }

    fn recovered_entry(&self, message: &RecoveredMessage) -> LogEntry {
        let entry = LogEntry::recovered(message.seq, &message.meta);
        // In an inbox the cursor counts.
        if self.is_inbox() { entry.delivered(self.numbers().is_passed(message.seq)) } else { entry }
    }

    /// What a subscriber is to read now that older messages are there, if anything.
    pub(super) fn backlog_found(&self, slot: u32, keep: Keep) -> Option<Backlog> {
        let (log, numbers) = (self.log()?, self.numbers());
        let below = numbers.known_below();
        let sent = log.reader(slot).map_or(numbers.last().seq, Reader::sent);
        if sent < below {
            // It comes to them; but what it has asked for already is without them.
            return log.reader(slot).filter(|reader| reader.is_fetching()).map(Reader::backlog);
        }
        match keep {
            // What it had already comes twice, as it may there.
            Keep::Unacknowledged if numbers.cursor() < below => {
                let gaps: Vec<Gap> =
                    self.gaps(numbers.cursor()).into_iter().filter(|gap| gap.to() <= below).collect();
                Some(Backlog::new(numbers.cursor()).with_gaps(gaps.into()))
            }
            Keep::Undelivered if below > 0 => {
                let entries = log.entries();
                let first = entries.first().filter(|first| first.seq() <= below)?;
                let others = entries.iter().filter(|entry| entry.is_delivered() || below < entry.seq());
                let others = others.map(LogEntry::seq).filter(|seq| *seq <= sent).collect();
                Some(Backlog::new(first.seq() - 1).skipping(others))
            }
            // Which of them the connection had is unknown.
            Keep::Unacknowledged | Keep::Undelivered if numbers.provisional_range().is_none() => {
                let first = log.entries().iter().find(|entry| !entry.is_delivered())?;
                Some(Backlog::new(first.seq() - 1))
            }
            _ => None,
        }
    }
}
