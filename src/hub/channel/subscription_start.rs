//! Where a subscription begins: what it reads first, and what of that is missing.

use super::topic::Topic;
use crate::hub::event::Effects;
use crate::hub::log::Log;
use crate::hub::log::cursor::{Backlog, Reader};
use crate::hub::log::gap::{Gap, new_epoch};
use crate::hub::settings::Keep;
use crate::protocol::{ConnectionId, Position};

/// Where a subscription begins.
pub(super) struct SubscriptionStart {
    /// What is delivered first; none for live.
    backlog: Option<Backlog>,
    /// Whether nothing since the given position is missing, if one was given.
    recovered: Option<bool>,
    /// What is missing.
    lost: Option<MissedPart>,
}

enum MissedPart {
    Gap(Gap),
    /// The position is of other numbers: how many are missing is unknown.
    Epoch,
}

/// Whether a connection was subscribed before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Subscribed {
    Already,
    New,
}

/// Whether it is known what the disk has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DiskIndex {
    Complete,
    /// It cannot be read yet.
    Unknown,
}

impl SubscriptionStart {
    /// Live, with nothing before.
    const LIVE: Self = Self { backlog: None, recovered: None, lost: None };

    /// Where a connection begins on a topic, after a position where it names one.
    pub(super) fn new(
        topic: &Topic,
        keep: Keep,
        subscribed: Subscribed,
        since: Option<&Position>,
        disk: DiskIndex,
    ) -> Self {
        let Some(since) = since else {
            // A repeated subscription goes on where it is: what was delivered to nobody else
            // may be what this one published and got back itself.
            let is_owed = subscribed == Subscribed::New && keep != Keep::History;
            let backlog = topic.log().filter(|_| is_owed).and_then(Log::unclaimed);
            return Self { backlog, ..Self::LIVE };
        };
        let is_all = since.epoch.is_empty() && since.seq == 0;
        if !is_all && !topic.numbers().includes(since) {
            return Self {
                backlog: Some(Backlog::new(0)),
                recovered: Some(false),
                lost: Some(MissedPart::Epoch),
            };
        }
        // The numbers of messages on a disk that cannot be read are unknown.
        let is_unread = disk == DiskIndex::Unknown && topic.numbers().is_provisional();
        let lost = match topic.missing(since.seq) {
            _ if is_unread && is_all => Some(MissedPart::Epoch),
            missing => missing.map(MissedPart::Gap),
        };
        Self { backlog: Some(Backlog::new(since.seq)), recovered: Some(lost.is_none()), lost }
    }

    /// Whether nothing since the given position is missing, if one was given.
    pub(super) fn recovered(&self) -> Option<bool> {
        self.recovered
    }

    /// What is delivered first; none for live.
    pub(super) fn into_backlog(self) -> Option<Backlog> {
        self.backlog
    }

    /// The position before the first message that a subscription brings. Who stores the
    /// last position there is, and goes before the backlog has come, would not get
    /// it again.
    pub(super) fn after_seq(&self, topic: &Topic, keep: Keep, conn: ConnectionId) -> u64 {
        let asked = self.backlog.as_ref();
        if let (Some(true), Some(backlog)) = (self.recovered, asked) {
            return backlog.after();
        }
        let last = topic.position().seq;
        let Some(log) = topic.log() else { return last };
        // Who is still to get what was delivered to nobody else reads on.
        let reads_on = asked.is_none() && keep != Keep::History;
        let continued = log.reader(conn.slot).filter(|_| reads_on).map(Reader::backlog);
        let Some(backlog) = asked.or(continued.as_ref()) else { return last };
        log.first_for(conn.tag, backlog).map_or(last, |seq| seq - 1)
    }

    /// Notifies the connection of what is missing.
    pub(super) fn notify_missing(&self, topic: &Topic, conn: ConnectionId, out: &mut Effects) {
        let epoch = topic.position().epoch;
        match &self.lost {
            None => {}
            Some(MissedPart::Gap(gap)) => out.push(gap.notice(conn, topic.name(), epoch)),
            Some(MissedPart::Epoch) => out.push(new_epoch(conn, topic.name(), epoch)),
        }
    }
}
