//! What each publisher has of what belongs to others too: places in their inboxes, and what
//! may be written to the flash.
//!
//! Knows publishers by a digest. Does not know what they publish.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Log;
use super::entry::LogEntry;
use crate::hub::channel::publish::Publisher;
use crate::hub::connection::account::Account;
use crate::hub::connection::rate_limit::Bucket;
use crate::hub::event::Now;
use crate::hub::settings::Settings;
use crate::hub::{Hub, RequestResult};
use crate::protocol::{Code, Moment, Refusal};

/// Who has published a message, over whatever connection: a digest, that an entry of the
/// index has room for. Nobody in particular for what was found on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct Author(u32);

impl Author {
    /// The lowest bit says whether there is a limit.
    const PAYS: u32 = 1;

    fn of(account: Account) -> Self {
        let digest = account.short();
        Self(if account.is_limited() { digest | Self::PAYS } else { digest & !Self::PAYS })
    }

    /// As what it stands in tables of those for whom there is a limit.
    pub(in crate::hub) fn number(self) -> Option<u32> {
        self.pays().then_some(self.0)
    }

    pub(in crate::hub) fn of_number(number: u32) -> Self {
        Self(number)
    }

    pub(in crate::hub) fn pays(self) -> bool {
        self.0 & Self::PAYS != 0
    }
}

impl Hub {
    /// Who publishes, as far as shares go. Those who ask over HTTP are one.
    pub(in crate::hub) fn author(&self, from: &Publisher) -> Author {
        Author::of(from.conn.map_or_else(Account::of_http, |conn| self.account(conn)))
    }
}

/// How much of a log each message counts that stands in the way of a newcomer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::hub) enum Measure {
    Messages,
    Bytes,
}

impl Measure {
    fn of(self, size: u32) -> u64 {
        match self {
            Self::Messages => 1,
            Self::Bytes => u64::from(size),
        }
    }
}

/// A message that is not kept yet, as far as shares go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::hub) struct Newcomer {
    pub(in crate::hub) author: Author,
    pub(in crate::hub) size: u32,
}

/// So many of the oldest messages of a log are looked at for the share of each publisher.
const LOOKED_AT: usize = 4096;

impl Log {
    /// Of the messages that may go, the oldest of the publisher who has most of them here,
    /// a newcomer counted.
    pub(in crate::hub) fn first_of_largest(
        &self,
        measure: Measure,
        newcomer: Option<Newcomer>,
        may_go: impl Fn(&LogEntry) -> bool,
    ) -> Option<u64> {
        // By publisher, and the oldest of each first: what comes from one is sorted already.
        let oldest = (0..).zip(&self.kept).take(LOOKED_AT).filter(|(_, kept)| may_go(kept));
        let mut shares: Vec<(u64, u32, u64)> =
            oldest.map(|(at, kept)| (u64::from(kept.author.0), at, measure.of(kept.size))).collect();
        shares.sort_unstable();
        let mut largest = None;
        for of_one in shares.chunk_by(|(one, ..), (other, ..)| one == other) {
            let Some((author, first, _)) = of_one.first() else { continue };
            let is_newcomers = |newcomer: &Newcomer| u64::from(newcomer.author.0) == *author;
            let more = newcomer.filter(is_newcomers).map_or(0, |newcomer| measure.of(newcomer.size));
            let sum = more + of_one.iter().map(|(.., share)| share).sum::<u64>();
            largest = largest.max(Some((sum, Reverse(*first))));
        }
        let (_, Reverse(first)) = largest?;
        self.kept.get(first as usize).map(|kept| kept.seq)
    }
}

/// One user may have this part of all that is kept, once there is no room for more.
const PART_OF_ALL: usize = 8;

/// So many messages of a user who has more are looked for at a time: all logs are gone
/// through for that.
const AT_ONCE: usize = 1000;

/// What goes next of a user who has too much.
#[derive(Debug, Default)]
pub(in crate::hub) struct Excess {
    author: Author,
    /// Logs and positions, the oldest first.
    found: VecDeque<(u32, u64)>,
    /// What was kept of that user when nothing was found that may go.
    in_vain: usize,
}

impl Hub {
    /// How much more is kept of a user than the share of one, if anything.
    fn excess(&self) -> Option<(Author, usize)> {
        let (bytes, author) = self.channels.weights.publishers.largest()?;
        let limit = self.kept_limit().min(usize::try_from(self.memory_limit()).unwrap_or(usize::MAX));
        Some((author, bytes.checked_sub(limit / PART_OF_ALL).filter(|more| *more > 0)?))
    }

    /// What users who have more than their share give up, in bytes.
    pub(in crate::hub) fn can_give_up(&self) -> usize {
        self.excess().map_or(0, |(_, more)| more)
    }

    /// The oldest message of the user who has most of all that is kept, where that is more than
    /// a share; one that only the memory has, where that is wanted. What is durable stays.
    pub(in crate::hub) fn first_of_excess(&mut self, is_loose: bool) -> Option<(u32, u64)> {
        let (author, _) = self.excess()?;
        if self.excess.author != author {
            self.excess = Excess { author, ..Excess::default() };
        }
        let may_go = |kept: &LogEntry| kept.author == author && !kept.durable && !(is_loose && kept.stored);
        loop {
            while let Some((place, seq)) = self.excess.found.pop_front() {
                let log = self.channels.at(place).and_then(|topic| topic.log.as_ref());
                if log.and_then(|log| log.find(seq)).is_some_and(may_go) {
                    return Some((place, seq));
                }
            }
            let bytes = self.channels.weights.publishers.of(author);
            if bytes <= self.excess.in_vain {
                return None;
            }
            self.find_oldest(may_go);
            // A little more of it is not worth another look.
            let more = self.kept_limit() / 64;
            self.excess.in_vain = if self.excess.found.is_empty() { bytes + more } else { 0 };
        }
    }

    fn find_oldest(&mut self, may_go: impl Fn(&LogEntry) -> bool) {
        let mut found: Vec<(u64, u32, u64)> = Vec::new();
        for place in self.channels.with(|log| !log.kept.is_empty()) {
            let Some(log) = self.channels.at(place).and_then(|topic| topic.log.as_ref()) else { continue };
            let theirs = log.kept.iter().filter(|kept| may_go(kept));
            found.extend(theirs.map(|kept| (kept.since.0, place, kept.seq)));
            if found.len() > 4 * AT_ONCE {
                found.sort_unstable();
                found.truncate(AT_ONCE);
            }
        }
        found.sort_unstable();
        self.excess.found = found.into_iter().take(AT_ONCE).map(|(_, place, seq)| (place, seq)).collect();
    }

    /// Whether so much more may be kept of a publisher that no other message pushes out.
    pub(in crate::hub) fn may_hold(&self, from: &Publisher) -> RequestResult {
        let limit = self.kept_limit();
        let is_near = self.channels.weights.sum.bytes >= limit / 4 * 3;
        let theirs = self.channels.weights.publishers.of(self.author(from));
        if !is_near || theirs < limit / PART_OF_ALL {
            return Ok(());
        }
        let why =
            "the store is nearly full, and an eighth of what may be kept (`[store] bytes`) is of this user";
        Err(Refusal::new(Code::StoreUnavailable, why))
    }
}

/// One user may write this part of a day's budget, once half of that is spent.
const PART: u64 = 8;

const DAY: u64 = 24 * 3600 * 1_000_000;

/// What a message costs for which a sync is made, beside its bytes: measured, a single one
/// of 300 bytes dirties 5 KiB.
const SYNC: u64 = 4096;

/// So many publishers are remembered. Of more, those who owe least are forgotten.
const MOST: usize = 4096;

/// What users have had written to the flash.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct Flash {
    /// Half of what may be written in a day is spent. Told again by the store of another
    /// process.
    #[serde(skip)]
    pub(in crate::hub) is_scarce: bool,
    /// A day pays off what one may write in a day.
    spent: Vec<(Author, Bucket)>,
}

impl Flash {
    /// Notes what was written of a message.
    pub(in crate::hub) fn charge(
        &mut self,
        now: Moment,
        author: Author,
        size: u32,
        was_synced: bool,
        settings: &Settings,
    ) {
        let Some(budget) = settings.flash_budget.filter(|_| author.pays()) else { return };
        // A commit holds many of those that wait.
        let bytes = 2 * u64::from(size) + if was_synced { SYNC } else { 0 };
        let cost = u128::from(bytes) * u128::from(DAY) / u128::from((budget / PART).max(1));
        let cost = Duration::from_micros(u64::try_from(cost).unwrap_or(u64::MAX));
        self.spent_by(now, author).owe(now, cost);
    }

    /// What one owes. Where very many owe something, the one who owes least is forgotten.
    fn spent_by(&mut self, now: Moment, author: Author) -> &mut Bucket {
        let known = self.spent.iter().position(|(other, _)| *other == author);
        let at = known.unwrap_or_else(|| {
            if self.spent.len() >= MOST {
                let least = (0..).zip(&self.spent).min_by_key(|(_, (_, bucket))| bucket.owes(now));
                let least = least.map_or(0, |(at, _)| at);
                self.spent.swap_remove(least);
            }
            self.spent.push((author, Bucket::default()));
            self.spent.len() - 1
        });
        &mut self.spent[at].1
    }

    /// For how long nothing of a user is to be written.
    fn wait(&self, now: Moment, author: Author) -> Option<Duration> {
        let (_, bucket) = self.spent.iter().find(|(other, _)| *other == author).filter(|_| self.is_scarce)?;
        bucket.owes(now).checked_sub(Duration::from_micros(DAY)).filter(|wait| *wait > Duration::ZERO)
    }

    /// Whether what may wait for the end waits for it.
    pub(in crate::hub) fn is_overspent(&self, now: Moment, author: Author) -> bool {
        self.wait(now, author).is_some()
    }
}

impl Hub {
    /// Whether one more message of a publisher may be written at once.
    pub(in crate::hub) fn may_spend(&self, now: Now, from: &Publisher) -> RequestResult {
        let Some(wait) = self.flash.wait(now.moment, self.author(from)) else { return Ok(()) };
        let why = "an eighth of what may be written in a day (`[store] flash_budget`) was written for this user; \
                   without `durable` it is sent now";
        Err(Refusal::new(Code::RateLimited, why).after(wait))
    }
}
