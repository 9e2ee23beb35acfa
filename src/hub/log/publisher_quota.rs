//! Shares of one publisher in what belongs to others too: places in their inboxes, room in the
//! store, and writes to the flash.
//!
//! Publishers are known by a digest.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::entries::{Entries, LogEntry};
use super::eviction::Victim;
use super::usage::UsageIndex;
use crate::hub::RequestResult;
use crate::hub::channel::topics::{TopicId, Topics};
use crate::hub::connection::account::Account;
use crate::hub::settings::Settings;
use crate::protocol::{Code, Moment, Refusal};
use crate::rate_limiter::Bucket;

/// The publisher of a message, over whatever connection: a digest, that an entry of the
/// index has room for. Zero, as of no publisher, for what was found on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct Author(u32);

impl Author {
    /// The lowest bit says whether there is a limit.
    const LIMITED: u32 = 1;

    pub(in crate::hub) fn of(account: Account) -> Self {
        let digest = account.short();
        Self(if account.is_limited() { digest | Self::LIMITED } else { digest & !Self::LIMITED })
    }

    /// Its number in tables of those for whom there is a limit.
    pub(in crate::hub) fn number(self) -> Option<u32> {
        self.is_limited().then_some(self.0)
    }

    pub(in crate::hub) fn of_number(number: u32) -> Self {
        Self(number)
    }

    /// Whether shares and budgets count for it.
    pub(in crate::hub) fn is_limited(self) -> bool {
        self.0 & Self::LIMITED != 0
    }
}

/// What of a log is too much: messages, or their bytes.
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
pub(in crate::hub) struct Incoming {
    author: Author,
    size: u32,
}

impl Incoming {
    pub(super) fn of(entry: &LogEntry) -> Self {
        Self { author: entry.author(), size: entry.size() }
    }

    pub(super) fn size(self) -> usize {
        self.size as usize
    }
}

/// So many of the oldest messages of a log are looked at for the share of each publisher.
const LOOKED_AT: usize = 4096;

impl Entries {
    /// Of the messages that may go, the oldest of the publisher who has most of them here,
    /// an incoming one counted.
    pub(super) fn first_of_largest(
        &self,
        measure: Measure,
        incoming: Option<Incoming>,
        may_go: impl Fn(&LogEntry) -> bool,
    ) -> Option<u64> {
        // By publisher, and the oldest of each first: what comes from one is sorted already.
        let oldest = (0..).zip(self.iter()).take(LOOKED_AT).filter(|(_, entry)| may_go(entry));
        let mut shares: Vec<(u64, u32, u64)> =
            oldest.map(|(at, entry)| (u64::from(entry.author().0), at, measure.of(entry.size()))).collect();
        shares.sort_unstable();
        let mut largest = None;
        for of_one in shares.chunk_by(|(one, ..), (other, ..)| one == other) {
            let Some((author, first, _)) = of_one.first() else { continue };
            let is_theirs = |incoming: &Incoming| u64::from(incoming.author.0) == *author;
            let more = incoming.filter(is_theirs).map_or(0, |incoming| measure.of(incoming.size));
            let sum = more + of_one.iter().map(|(.., share)| share).sum::<u64>();
            largest = largest.max(Some((sum, Reverse(*first))));
        }
        let (_, Reverse(first)) = largest?;
        self.at(first as usize).map(LogEntry::seq)
    }
}

/// One user may have this part of all that is kept, once there is no room for more.
const PART_OF_ALL: usize = 8;

/// So many messages of a user who has more are looked for at a time: all logs are gone
/// through for that.
const AT_ONCE: usize = 1000;

/// One kept message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct KeptMessage {
    id: TopicId,
    seq: u64,
}

/// How much may be kept, as far as the share of one publisher follows from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShareBase {
    /// Bytes in the store.
    store: usize,
    /// Bytes in memory.
    memory: usize,
}

impl ShareBase {
    pub(super) fn new(store: usize, memory: usize) -> Self {
        Self { store, memory }
    }

    /// The publisher of whom most is kept, and by how much that is more than a share, if it is.
    fn largest_excess(self, usage: &UsageIndex) -> Option<(Author, usize)> {
        let (author, bytes) = usage.largest_publisher()?;
        let share = self.store.min(self.memory) / PART_OF_ALL;
        Some((author, bytes.checked_sub(share).filter(|more| *more > 0)?))
    }

    /// What publishers who have more than their share give up, in bytes.
    pub(super) fn excess_bytes(self, usage: &UsageIndex) -> usize {
        self.largest_excess(usage).map_or(0, |(_, more)| more)
    }
}

/// Which messages of a publisher may be given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MayGo {
    /// Those whose publisher was promised nothing.
    NotDurable,
    /// Of those, the ones that only the memory has.
    Volatile,
}

/// What goes next of a publisher who has too much.
#[derive(Debug, Default)]
pub(super) struct Excess {
    author: Author,
    /// The oldest first.
    found: VecDeque<KeptMessage>,
    /// What was kept of that publisher when nothing was found that may go.
    in_vain: usize,
}

impl Excess {
    /// The oldest message of the publisher who has most of all that is kept, where that is more
    /// than a share.
    pub(super) fn next(&mut self, topics: &Topics, base: ShareBase, which: MayGo) -> Option<Victim> {
        let (author, _) = base.largest_excess(topics.usage())?;
        if self.author != author {
            *self = Self { author, ..Self::default() };
        }
        let may_go = |entry: &LogEntry| {
            entry.author() == author
                && !entry.is_durable()
                && !(which == MayGo::Volatile && entry.is_stored())
        };
        loop {
            while let Some(message) = self.found.pop_front() {
                let log = topics.log(message.id);
                if log.and_then(|log| log.entries().find(message.seq)).is_some_and(may_go) {
                    return Some(Victim::Message(message.id, message.seq));
                }
            }
            let bytes = topics.usage().of_publisher(author);
            if bytes <= self.in_vain {
                return None;
            }
            self.found = oldest(topics, may_go);
            // A little more of it is not worth another look.
            let more = base.store / 64;
            self.in_vain = if self.found.is_empty() { bytes + more } else { 0 };
        }
    }
}

/// The oldest messages that may go, in whatever logs.
fn oldest(topics: &Topics, may_go: impl Fn(&LogEntry) -> bool) -> VecDeque<KeptMessage> {
    let mut found: Vec<(u64, u32, u64)> = Vec::new();
    for id in topics.with_log(|log| !log.entries().is_empty()) {
        let Some(log) = topics.log(id) else { continue };
        let theirs = log.entries().iter().filter(|entry| may_go(entry));
        found.extend(theirs.map(|entry| (entry.since().0, id.number(), entry.seq())));
        if found.len() > 4 * AT_ONCE {
            found.sort_unstable();
            found.truncate(AT_ONCE);
        }
    }
    found.sort_unstable();
    let found = found.into_iter().take(AT_ONCE);
    found.map(|(_, id, seq)| KeptMessage { id: TopicId::of_number(id), seq }).collect()
}

/// Whether so much more may be kept of a publisher that no other message pushes out, of `limit`
/// bytes for all.
pub(super) fn may_hold(usage: &UsageIndex, limit: usize, author: Author) -> RequestResult {
    let is_near = usage.sum().bytes() >= limit / 4 * 3;
    if !is_near || usage.of_publisher(author) < limit / PART_OF_ALL {
        return Ok(());
    }
    let why = "the store is nearly full, and an eighth of what may be kept (`[store] bytes`) is of this user";
    Err(Refusal::new(Code::StoreUnavailable, why))
}

/// One user may write this part of a day's budget, once half of that is spent.
const PART: u64 = 8;

const DAY: u64 = 24 * 3600 * 1_000_000;

/// What a message costs for which a sync is made, beside its bytes: measured, a single one
/// of 300 bytes dirties 5 KiB.
const SYNC: u64 = 4096;

/// So many publishers are remembered. Of more, those who owe least are forgotten.
const MAX_PUBLISHERS: usize = 4096;

/// What users have had written to the flash.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct Flash {
    /// Half of what may be written in a day is spent. Reported again by the store of another
    /// process.
    #[serde(skip)]
    is_scarce: bool,
    /// A day pays off what one may write in a day.
    spent: Vec<(Author, Bucket)>,
}

/// Whether a sync was made for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Synced {
    Yes,
    No,
}

impl Flash {
    /// Whether half of what may be written in a day is spent.
    pub(in crate::hub) fn set_scarce(&mut self, is_scarce: bool) {
        self.is_scarce = is_scarce;
    }

    /// Notes what was written of a message.
    pub(super) fn charge(
        &mut self,
        now: Moment,
        author: Author,
        size: u32,
        synced: Synced,
        settings: &Settings,
    ) {
        let Some(budget) = settings.flash_budget.filter(|_| author.is_limited()) else { return };
        // A commit holds many of those that wait.
        let bytes = 2 * u64::from(size) + if synced == Synced::Yes { SYNC } else { 0 };
        let cost = u128::from(bytes) * u128::from(DAY) / u128::from((budget / PART).max(1));
        let cost = Duration::from_micros(u64::try_from(cost).unwrap_or(u64::MAX));
        self.spent_by(now, author).owe(now, cost);
    }

    /// What one owes. Where very many owe something, the one who owes least is forgotten.
    fn spent_by(&mut self, now: Moment, author: Author) -> &mut Bucket {
        let known = self.spent.iter().position(|(other, _)| *other == author);
        let at = known.unwrap_or_else(|| {
            if self.spent.len() >= MAX_PUBLISHERS {
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

    /// Whether one more message of a publisher may be written at once.
    pub(in crate::hub) fn may_spend(&self, now: Moment, author: Author) -> RequestResult {
        let Some(wait) = self.wait(now, author) else { return Ok(()) };
        let why = "an eighth of what may be written in a day (`[store] flash_budget`) was written for this user; \
                   without `durable` it is sent now";
        Err(Refusal::new(Code::RateLimited, why).after(wait))
    }

    /// Whether what may wait for the end waits for it.
    pub(super) fn is_overspent(&self, now: Moment, author: Author) -> bool {
        self.wait(now, author).is_some()
    }
}
