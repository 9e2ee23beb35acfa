//! How much is held for all peers together, and who gives way when that is too
//! much.
//!
//! Knows the ceiling, what the hub itself holds, and the order of shedding. What
//! the links hold is counted by those who hold it; it comes in as a fact.
//!
//! Nobody may be able to bring a small machine down, and those who behave notice
//! last. So newcomers and whispers go first; then messages to those who are slow
//! already; and only then, one by one, those who hold most.

use std::cmp::Reverse;
use std::time::Duration;

use super::Hub;
use super::accounts::ACCOUNT;
use super::channels::Topic;
use super::connections::{Connection, Kind};
use super::durable::ANSWER;
use super::event::{Anomaly, Effect, Effects, Now, Outbound};
use super::kept::ENTRY;
use super::logs::Log;
use crate::protocol::{Close, ConnectionId, Moment};

/// How near the ceiling is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Level {
    /// Far.
    #[default]
    Calm,
    /// Newcomers are turned away, whispers are dropped.
    High,
    /// Messages to whoever has something queued are shed, and such a peer is not
    /// read until it has taken it.
    Critical,
    /// Those who hold most are closed, as they are when a lower level lasts.
    Over,
}

impl Level {
    /// In hundredths of the ceiling.
    fn mark(self) -> u64 {
        match self {
            Self::Calm => 0,
            Self::High => 80,
            Self::Critical => 90,
            Self::Over => 100,
        }
    }
}

/// A level is left this many hundredths below the mark at which it begins, so
/// that nobody is let in and thrown out by turns.
const SLACK: u64 = 5;

/// What one topic takes beside the bytes of its name: its entry in the table (120 bytes), the
/// block of its name (24) and its place in the index (7).
pub(super) const TOPIC: u64 = 152;

/// What keeping something in it takes beside the messages: the log (192 bytes), its
/// ranks among the others and its deadline (30 each), and its place in the store (96);
/// and what the blocks of those are rounded up by. 100,000 logs of a message each, written,
/// take 520 bytes each of the daemon's memory, and 578 are counted; 20,000 that are not written
/// yet take 700 to 740, and 670 are.
pub(super) const LOG: u64 = 352;

const _: () = assert!(size_of::<Topic>() <= 120 && size_of::<Log>() + size_of::<usize>() <= 192);

/// What one subscription takes, on both of its ends: with 40,000 to channels of one's own it
/// is 178 bytes beside the name, the channel's among them.
const SUBSCRIPTION: u64 = 24;

/// Closing a connection that holds less than this is not worth its reconnection.
const LEAST: u64 = 4 << 10;

/// When nobody holds enough to be closed, that is looked at again so much later.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known of the memory of all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub(super) level: Level,
    /// Since when it is high or worse.
    since: Moment,
    /// What the links held when it was told last.
    links: u64,
    /// Until then nobody is worth closing.
    patient_until: Moment,
}

impl Hub {
    /// What is to be told with `Input::Memory` now that the links hold so many
    /// bytes: nothing, that alone, or also who holds them.
    pub fn asks_for_memory(&self, now: Now, links: u64) -> Asks {
        let level = self.level_at(links);
        if now.moment >= self.memory.patient_until && self.bearable(now, level).is_some() {
            return Asks::Holders;
        }
        if level == self.memory.level { Asks::Nothing } else { Asks::Total }
    }

    /// How much may stay, where somebody has to go: at the ceiling, or when a high
    /// level lasts longer than a peer may take to read what waits for it. Or some
    /// who hold on to what they have, just below the ceiling, would lock all
    /// newcomers out.
    fn bearable(&self, now: Now, level: Level) -> Option<u64> {
        let was_high = self.memory.level >= Level::High;
        let lasts = was_high && now.moment.since(self.memory.since) >= self.settings.limits.stall;
        let below = match level {
            Level::Over => Level::Over,
            Level::High | Level::Critical if lasts => Level::High,
            _ => return None,
        };
        Some(self.settings.limits.memory as u64 / 100 * (below.mark() - SLACK))
    }

    /// How near the ceiling was when that was told last.
    pub fn memory_level(&self) -> Level {
        self.memory.level
    }

    /// What is held for all peers, as far as was told.
    pub(super) fn memory_held(&self) -> u64 {
        self.memory.links + self.own_memory()
    }

    /// What the hub holds itself. What has a fixed and small bound (interrupts that wait, ids
    /// of messages, idle channels) is beside the ceiling.
    fn own_memory(&self) -> u64 {
        let sum = &self.channels.weights.sum;
        (sum.unstored + sum.stored as usize * ENTRY + sum.awaited + sum.answers as usize * ANSWER) as u64
            + self.channels.needed() as u64 * TOPIC
            + self.channels.weights.logs as u64 * LOG
            + self.channels.subscribers as u64 * SUBSCRIPTION
            + self.accounts.len() as u64 * ACCOUNT
            + (self.channels.named + self.channels.watched + self.operations.held()) as u64
    }

    fn level_at(&self, links: u64) -> Level {
        let held = (links + self.own_memory()).saturating_mul(100);
        let ceiling = self.settings.limits.memory as u64;
        let is_at = |level: &Level| {
            let slack = if self.memory.level >= *level { SLACK } else { 0 };
            held >= ceiling.saturating_mul(level.mark() - slack)
        };
        [Level::Over, Level::Critical, Level::High].into_iter().find(is_at).unwrap_or_default()
    }

    /// The links hold so much.
    pub(super) fn weighed(
        &mut self,
        now: Now,
        links: u64,
        holders: Vec<(ConnectionId, u64)>,
        out: &mut Effects,
    ) {
        let (was, level) = (self.memory.level, self.level_at(links));
        let bearable = self.bearable(now, level);
        self.memory.level = level;
        self.memory.links = links;
        if was < Level::High {
            self.memory.since = now.moment;
        }
        if level > was {
            let (held, ceiling) = (self.memory_held(), self.settings.limits.memory as u64);
            out.push(Effect::Report(Anomaly::Memory { level, held, ceiling }));
        }
        if level >= Level::Critical && was < Level::Critical {
            for connection in self.connections.iter_mut() {
                // As one whose queue is full: what it misses makes one gap, told
                // once it has taken the rest.
                connection.full |= connection.outbound != Outbound::Clear;
            }
        }
        self.memory.patient_until = now.moment;
        if let Some(bearable) = bearable {
            let excess = self.memory_held().saturating_sub(bearable);
            let mut ranked = self.rank(holders);
            ranked.sort_unstable();
            if ranked.is_empty() {
                self.memory.patient_until = now.moment + AGAIN;
            }
            self.make_room(now, excess, ranked, out);
        }
    }

    /// Closes those who come first until so much is free.
    fn make_room(&mut self, now: Now, mut excess: u64, ranked: Vec<Ranked>, out: &mut Effects) {
        for (_, Reverse(held), conn) in ranked {
            if excess == 0 {
                break;
            }
            let Some(connection) = self.connections.get(conn) else { continue };
            let user = connection.user.clone();
            excess = excess.saturating_sub(held);
            self.counters.closed_overloaded += 1;
            out.push(Effect::Report(Anomaly::Overloaded { conn, user, held }));
            self.close(now, conn, Close::Overloaded, out);
        }
    }

    /// All who are worth closing.
    fn rank(&self, mut holders: Vec<(ConnectionId, u64)>) -> Vec<Ranked> {
        holders.sort_unstable();
        let entry = |(slot, connection): (u32, &Connection)| {
            let conn = ConnectionId { slot, tag: connection.tag };
            let of_its_link = holders.binary_search_by_key(&conn, |(conn, _)| *conn);
            let of_its_link = of_its_link.ok().and_then(|at| holders.get(at)).map_or(0, |(_, held)| *held);
            let held = of_its_link + self.subscribed(connection);
            (held >= LEAST).then_some((Turn::of(connection), Reverse(held), conn))
        };
        self.connections.iter().filter_map(entry).collect()
    }

    /// What the subscriptions of a connection take. A channel is on its account
    /// where nobody else hears it.
    fn subscribed(&self, connection: &Connection) -> u64 {
        let alone = |place: &u32| self.channels.at(*place).filter(|topic| topic.subscribers.len() == 1);
        let taken = |place: &u32| alone(place).map_or(0, |topic| TOPIC + topic.taken() as u64);
        connection.topics.iter().map(|place| SUBSCRIPTION + taken(place)).sum()
    }
}

/// A connection in the order in which they are closed: who holds most first.
type Ranked = (Turn, Reverse<u64>, ConnectionId);

/// Who is closed before whom, whatever they hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Turn {
    /// Who has not said who it is.
    Stranger,
    Client,
    /// Of this machine, and trusted; a line that a busy one is just saying may well
    /// be the largest thing there is.
    Worker,
    /// Work would be lost with it.
    Owner,
}

impl Turn {
    fn of(connection: &Connection) -> Self {
        match connection.kind {
            _ if connection.owns_operations() => Self::Owner,
            Kind::Worker { .. } => Self::Worker,
            Kind::Client => Self::Client,
            Kind::Waiting => Self::Stranger,
        }
    }
}

/// What the hub wants to know of the memory of links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asks {
    Nothing,
    /// How much it is.
    Total,
    /// And who holds how much of it.
    Holders,
}
