//! Memory pressure: how near the memory of all peers is to its ceiling, and which connections
//! are closed for it.
//!
//! What the sockets hold is counted at the edge and comes in as an input.
//!
//! No client may be able to bring a small machine down, or to keep others out of it, and those
//! that behave notice last. So whispers go first, connections that are not authenticated, and
//! users that hold more than a share; then messages to peers that are slow already; and only
//! then, one by one, the connections that hold most.

use std::collections::HashMap;
use std::time::Duration;

use super::channel::topic::Topic;
use super::channel::topics::{TopicId, Topics};
use super::connection::account::Account;
use super::connection::table::Connections;
use super::connection::{Connection, ConnectionKind};
use super::log::Log;
use super::settings::Limits;
use crate::protocol::{ConnectionId, Moment};
use crate::sort::sort;

/// How near the ceiling is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Level {
    /// Far.
    #[default]
    Calm,
    /// Whispers are dropped. A connection that is not authenticated and holds something is
    /// closed, and so are those of a user that holds more than a share. New connections are
    /// refused, where none gives way to them.
    High,
    /// Messages to a connection that has something queued are shed, and such a peer is not
    /// read until it has taken that.
    Critical,
    /// The connections that hold most are closed, as they are when a lower level lasts.
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
/// that no connection is admitted and closed by turns.
const SLACK: u64 = 5;

/// What one topic takes beside the bytes of its name: its entry in the table (120 bytes), the
/// block of its name (24) and its place in the index (7).
pub(super) const TOPIC: u64 = 152;

/// What keeping something in it takes beside the messages: the log (200 bytes), its
/// ranks among the others and its deadline (30 each), and its place in the store (96);
/// and what the blocks of those are rounded up by. 100,000 logs of a message each, written,
/// take some 530 bytes each of the daemon's memory, and 586 are counted; 20,000 that are not
/// written yet take some 730, and 678 are.
pub(super) const LOG: u64 = 360;

const _: () = assert!(size_of::<Topic>() <= 120 && size_of::<Log>() + size_of::<usize>() <= 200);

/// What one subscription takes, on both of its ends: with 40,000 to channels of one's own it
/// is 178 bytes beside the name, the channel's among them.
pub(super) const SUBSCRIPTION: u64 = 24;

/// Closing a connection that holds less than this is not worth its reconnection.
const LEAST: u64 = 4 << 10;

/// Where no connection holds enough to be closed, that is checked again so much later.
const AGAIN: Duration = Duration::from_secs(1);

/// This part of the ceiling all connections of a user may hold together while memory is
/// short: so one alone brings it no further than to the first level, and there are users
/// with a hundred slow tabs.
const SHARE: u64 = 8;

/// A client that holds this part of the ceiling gives way to a new one that has authenticated.
/// With less, each that is closed would come back as the new one for which another is closed.
const GIVES_WAY: u64 = 128;

/// Memory use of all peers, as it was reported last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MemoryUse {
    level: Level,
    /// Since when it is high or worse.
    since: Moment,
    /// What the sockets held.
    links: u64,
    /// Until then no connection is worth closing.
    patient_until: Moment,
    /// A connection was closed at the last report.
    has_made_room: bool,
}

/// How much memory is to be freed.
#[derive(Clone, Copy)]
pub(super) struct Relief {
    /// What is held now.
    held: u64,
    ceiling: u64,
    /// What may stay, where connections have to go although they hold no more than a share.
    bearable: Option<u64>,
}

impl MemoryUse {
    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// Whether a connection was closed at the last report: then there is room for a new one.
    pub(super) fn has_made_room(&self) -> bool {
        self.has_made_room
    }

    /// What is held for all peers, of which `own` by the hub itself.
    pub(super) fn held(&self, own: u64) -> u64 {
        self.links + own
    }

    /// What is to be reported now that so many bytes are held: nothing, the total, or also the
    /// connections that hold them.
    pub(super) fn query(&self, now: Moment, held: u64, limits: &Limits) -> MemoryQuery {
        let level = self.level_at(held, limits);
        let is_due = now >= self.patient_until || level > self.level;
        if level >= Level::High && is_due {
            return MemoryQuery::Holders;
        }
        if level == self.level { MemoryQuery::Nothing } else { MemoryQuery::Total }
    }

    /// Takes a report of what the sockets hold; `own` is what the hub holds itself. What
    /// connections are to be closed for, where that is so.
    pub(super) fn update(&mut self, now: Moment, links: u64, own: u64, limits: &Limits) -> Option<Relief> {
        let held = links + own;
        let (was, level) = (self.level, self.level_at(held, limits));
        let bearable = self.bearable(now, level, limits);
        self.level = level;
        self.links = links;
        if was < Level::High {
            self.since = now;
        }
        self.has_made_room = false;
        self.patient_until = now;
        let relief = Relief { held, ceiling: limits.memory as u64, bearable };
        (level >= Level::High).then_some(relief)
    }

    /// Notes how many connections were closed for a report.
    pub(super) fn note_closed(&mut self, now: Moment, closed: usize) {
        self.has_made_room = closed > 0;
        if closed == 0 {
            self.patient_until = now + AGAIN;
        }
    }

    /// How much may stay, where connections have to go: at the ceiling, or when a high level
    /// lasts longer than a peer may take to read what is queued for it. Or some that hold on to
    /// what they have, just below the ceiling, would lock all new ones out.
    fn bearable(&self, now: Moment, level: Level, limits: &Limits) -> Option<u64> {
        let was_high = self.level >= Level::High;
        let lasts = was_high && now.since(self.since) >= limits.stall;
        let below = match level {
            Level::Over => Level::Over,
            Level::High | Level::Critical if lasts => Level::High,
            _ => return None,
        };
        Some(limits.memory as u64 / 100 * (below.mark() - SLACK))
    }

    fn level_at(&self, held: u64, limits: &Limits) -> Level {
        let held = held.saturating_mul(100);
        let ceiling = limits.memory as u64;
        let is_at = |level: &Level| {
            let slack = if self.level >= *level { SLACK } else { 0 };
            held >= ceiling.saturating_mul(level.mark() - slack)
        };
        [Level::Over, Level::Critical, Level::High].into_iter().find(is_at).unwrap_or_default()
    }
}

/// What the subscriptions of a connection take. A channel counts for its only subscriber.
fn subscriptions_held(connection: &Connection, topics: &Topics) -> u64 {
    let alone = |topic_id: &TopicId| topics.at(*topic_id).filter(|topic| topic.subscribers().len() == 1);
    let taken = |topic_id: &TopicId| alone(topic_id).map_or(0, |topic| TOPIC + topic.held_bytes() as u64);
    connection.topics().iter().map(|topic_id| SUBSCRIPTION + taken(topic_id)).sum()
}

/// Whether an authenticated client waits for room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Newcomer {
    Waits,
    None,
}

/// A connection, and what would be free without it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    bytes: u64,
    conn: ConnectionId,
}

impl Holder {
    pub(super) fn conn(&self) -> ConnectionId {
        self.conn
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What all connections of one user hold.
#[derive(Debug)]
struct UserShare {
    rank: EvictionRank,
    bytes: u64,
    holders: Vec<Holder>,
}

/// Users and what they hold.
#[derive(Default, Debug)]
pub(super) struct Ranking(Vec<UserShare>);

impl Ranking {
    /// All that are worth closing.
    pub(super) fn of(
        mut holders: Vec<(ConnectionId, u64)>,
        connections: &Connections,
        topics: &Topics,
    ) -> Self {
        sort(&mut holders);
        let mut ranking = Self::default();
        let mut known: HashMap<Account, u32> = HashMap::new();
        for (slot, connection) in connections.iter() {
            let conn = connection.id(slot);
            let of_its_link = holders.binary_search_by_key(&conn, |(conn, _)| *conn);
            let of_its_link = of_its_link.ok().and_then(|at| holders.get(at)).map_or(0, |(_, held)| *held);
            let bytes = of_its_link + subscriptions_held(connection, topics);
            let rank = EvictionRank::of(connection);
            if bytes < if rank == EvictionRank::Unauthenticated { 1 } else { LEAST } {
                continue;
            }
            let account = connections.account(conn);
            let next = ranking.0.len() as u32;
            // A connection that may stand for many, or is of no user yet, counts by itself.
            let is_shared = rank == EvictionRank::Client && account.is_limited();
            let at = if is_shared { *known.entry(account).or_insert(next) } else { next };
            if at == next {
                ranking.0.push(UserShare { rank, bytes: 0, holders: Vec::new() });
            }
            if let Some(share) = ranking.0.get_mut(at as usize) {
                share.bytes += bytes;
                share.holders.push(Holder { bytes, conn });
            }
        }
        ranking
    }

    /// Takes out the connections that are closed, so that no more than a bearable amount is
    /// held where that is asked for. Where an authenticated client waits for room, one that
    /// holds much gives way to it.
    pub(super) fn choose(mut self, relief: Relief, newcomer: Newcomer) -> Vec<Holder> {
        let Relief { held, ceiling, bearable } = relief;
        let calm = ceiling / 100 * (Level::High.mark() - SLACK);
        let mut left = held;
        let mut chosen = Vec::new();
        let first = [(EvictionRank::Unauthenticated, 0, calm), (EvictionRank::Client, ceiling / SHARE, calm)];
        let all =
            [EvictionRank::Unauthenticated, EvictionRank::Client, EvictionRank::Worker, EvictionRank::Owner];
        let then = bearable.map(|bearable| all.map(|rank| (rank, 0, bearable)));
        for (rank, above, bearable) in first.into_iter().chain(then.into_iter().flatten()) {
            while left > bearable
                && let Some(holder) = self.take_largest(rank, above)
            {
                left = left.saturating_sub(holder.bytes);
                chosen.push(holder);
            }
        }
        if newcomer == Newcomer::Waits && chosen.is_empty() {
            chosen.extend(self.take_largest(EvictionRank::Client, ceiling / GIVES_WAY));
        }
        chosen
    }

    /// Takes out the connection that holds most of the user that holds most, where that is more
    /// than so much.
    fn take_largest(&mut self, rank: EvictionRank, above: u64) -> Option<Holder> {
        let shares = self.0.iter_mut().filter(|share| share.rank == rank && share.bytes > above);
        let first = shares.max_by_key(|share| share.bytes)?;
        let (largest, _) = first.holders.iter().enumerate().max_by_key(|(_, holder)| holder.bytes)?;
        let holder = first.holders.swap_remove(largest);
        first.bytes -= holder.bytes;
        Some(holder)
    }
}

/// In which order connections are closed, whatever they hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum EvictionRank {
    Unauthenticated,
    Client,
    /// Of this machine, and trusted; a line that a busy one is just sending may well be the
    /// largest thing there is.
    Worker,
    /// A worker with operations: work would be lost with it.
    Owner,
}

impl EvictionRank {
    fn of(connection: &Connection) -> Self {
        match connection.kind() {
            _ if connection.owns_operations() => Self::Owner,
            ConnectionKind::Worker { .. } => Self::Worker,
            ConnectionKind::Client => Self::Client,
            ConnectionKind::Unauthenticated => Self::Unauthenticated,
        }
    }
}

/// What is to be reported of the memory that sockets hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryQuery {
    Nothing,
    /// How much it is.
    Total,
    /// And which connection holds how much of it.
    Holders,
}
