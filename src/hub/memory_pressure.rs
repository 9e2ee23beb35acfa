//! How much is held for all peers together, and who gives way when that is too
//! much.
//!
//! Knows the ceiling, what the hub itself holds, and the order of shedding. What
//! the links hold is counted by those who hold it; it comes in as a fact.
//!
//! Nobody may be able to bring a small machine down, or to keep others out of it, and
//! those who behave notice last. So whispers go first, those who have not said who they
//! are, and whoever holds more than a share; then messages to those who are slow already;
//! and only then, one by one, those who hold most.

use std::collections::HashMap;
use std::time::Duration;

use super::Hub;
use super::channel::topic::Topic;
use super::channel::topics::TopicId;
use super::connection::account::{ACCOUNT, Account};
use super::connection::table::{Connection, Kind};
use super::event::{Anomaly, Cx, Effect, Now, SendQueueState};
use super::log::Log;
use crate::protocol::{Close, ConnectionId, Moment};
use crate::sort::sort;

/// How near the ceiling is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Level {
    /// Far.
    #[default]
    Calm,
    /// Whispers are dropped. Whoever has not said who it is and holds something is
    /// closed, and so is who holds more than a share. Newcomers are turned away, where
    /// nobody gives way to them.
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

/// What keeping something in it takes beside the messages: the log (200 bytes), its
/// ranks among the others and its deadline (30 each), and its place in the store (96);
/// and what the blocks of those are rounded up by. 100,000 logs of a message each, written,
/// take some 530 bytes each of the daemon's memory, and 586 are counted; 20,000 that are not
/// written yet take some 730, and 678 are.
pub(super) const LOG: u64 = 360;

const _: () = assert!(size_of::<Topic>() <= 120 && size_of::<Log>() + size_of::<usize>() <= 200);

/// What one subscription takes, on both of its ends: with 40,000 to channels of one's own it
/// is 178 bytes beside the name, the channel's among them.
const SUBSCRIPTION: u64 = 24;

/// Closing a connection that holds less than this is not worth its reconnection.
const LEAST: u64 = 4 << 10;

/// When nobody holds enough to be closed, that is looked at again so much later.
const AGAIN: Duration = Duration::from_secs(1);

/// This part of the ceiling all connections of a user may hold together while memory is
/// short: so one alone brings it no further than to the first level, and there are users
/// with a hundred slow tabs.
const SHARE: u64 = 8;

/// Whoever holds this part of the ceiling gives way to one more who says who it is. With
/// less, each who is closed would come back as the newcomer that somebody else is closed for.
const GIVES_WAY: u64 = 128;

/// What is known of the memory of all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MemoryUse {
    pub(super) level: Level,
    /// Since when it is high or worse.
    since: Moment,
    /// What the links held when it was told last.
    links: u64,
    /// Until then nobody is worth closing.
    patient_until: Moment,
    /// Somebody was closed when the hub was told last.
    has_made_room: bool,
}

impl Hub {
    /// What is to be told with `Input::Memory` now that the links hold so many
    /// bytes: nothing, that alone, or also who holds them.
    pub fn asks_for_memory(&self, now: Now, links: u64) -> MemoryQuery {
        let level = self.level_at(links);
        let is_due = now.moment >= self.memory.patient_until || level > self.memory.level;
        if level >= Level::High && is_due {
            return MemoryQuery::Holders;
        }
        if level == self.memory.level { MemoryQuery::Nothing } else { MemoryQuery::Total }
    }

    /// Whether somebody was closed for want of memory when the hub was told last of what is
    /// held: then there is room for a newcomer.
    pub fn has_made_room(&self) -> bool {
        self.memory.has_made_room
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
        self.channels.usage().sum().memory() as u64
            + self.channels.needed() as u64 * TOPIC
            + self.channels.usage().logs() as u64 * LOG
            + self.channels.subscriptions() as u64 * SUBSCRIPTION
            + self.accounts.len() as u64 * ACCOUNT
            + (self.channels.held_bytes() + self.operations.held()) as u64
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

    /// The links hold so much. Where somebody who has said who it is waits for room, one
    /// who holds much gives way to it.
    pub(super) fn weighed(
        &mut self,
        cx: &mut Cx<'_>,
        links: u64,
        holders: Vec<(ConnectionId, u64)>,
        is_waited_for: bool,
    ) {
        let (was, level) = (self.memory.level, self.level_at(links));
        let bearable = self.bearable(cx.now, level);
        self.memory.level = level;
        self.memory.links = links;
        if was < Level::High {
            self.memory.since = cx.now.moment;
        }
        if level > was {
            let (held, ceiling) = (self.memory_held(), self.settings.limits.memory as u64);
            cx.out.push(Effect::LogAnomaly(Anomaly::Memory { level, held, ceiling }));
        }
        if level >= Level::Critical && was < Level::Critical {
            for connection in self.connections.iter_mut() {
                // As one whose queue is full: what it misses makes one gap, told
                // once it has taken the rest.
                connection.full |= connection.outbound != SendQueueState::Empty;
            }
        }
        self.memory.has_made_room = false;
        self.memory.patient_until = cx.now.moment;
        if level >= Level::High {
            let chosen = self.choose(bearable, self.rank(holders), is_waited_for);
            self.memory.has_made_room = !chosen.is_empty();
            if chosen.is_empty() {
                self.memory.patient_until = cx.now.moment + AGAIN;
            }
            self.close_holders(cx, chosen);
        }
    }

    /// Who is closed, so that no more than a bearable amount is held where that is asked for.
    fn choose(&self, bearable: Option<u64>, mut ranking: Ranking, is_waited_for: bool) -> Vec<Holder> {
        let ceiling = self.settings.limits.memory as u64;
        let calm = ceiling / 100 * (Level::High.mark() - SLACK);
        let mut left = self.memory_held();
        let mut chosen = Vec::new();
        let first = [(EvictionRank::Stranger, 0, calm), (EvictionRank::Client, ceiling / SHARE, calm)];
        let all = [EvictionRank::Stranger, EvictionRank::Client, EvictionRank::Worker, EvictionRank::Owner];
        let then = bearable.map(|bearable| all.map(|turn| (turn, 0, bearable)));
        for (turn, above, bearable) in first.into_iter().chain(then.into_iter().flatten()) {
            while left > bearable
                && let Some(holder) = ranking.most(turn, above)
            {
                left = left.saturating_sub(holder.bytes);
                chosen.push(holder);
            }
        }
        if is_waited_for && chosen.is_empty() {
            chosen.extend(ranking.most(EvictionRank::Client, ceiling / GIVES_WAY));
        }
        chosen
    }

    fn close_holders(&mut self, cx: &mut Cx<'_>, chosen: Vec<Holder>) {
        for Holder { bytes: held, conn } in chosen {
            let Some(connection) = self.connections.get(conn) else { continue };
            let user = connection.user.clone();
            self.counters.closed_overloaded += 1;
            cx.out.push(Effect::LogAnomaly(Anomaly::Overloaded { conn, user, held }));
            self.close(cx, conn, Close::Overloaded);
        }
    }

    /// All who are worth closing.
    fn rank(&self, mut holders: Vec<(ConnectionId, u64)>) -> Ranking {
        sort(&mut holders);
        let mut ranking = Ranking::default();
        let mut known: HashMap<Account, u32> = HashMap::new();
        for (slot, connection) in self.connections.iter() {
            let conn = ConnectionId { slot, tag: connection.tag };
            let of_its_link = holders.binary_search_by_key(&conn, |(conn, _)| *conn);
            let of_its_link = of_its_link.ok().and_then(|at| holders.get(at)).map_or(0, |(_, held)| *held);
            let bytes = of_its_link + self.subscribed(connection);
            let turn = EvictionRank::of(connection);
            if bytes < if turn == EvictionRank::Stranger { 1 } else { LEAST } {
                continue;
            }
            let account = self.account(conn);
            let next = ranking.0.len() as u32;
            // Who may stand for many, or belongs to nobody yet, is looked at by itself.
            let is_shared = turn == EvictionRank::Client && account.pays;
            let at = if is_shared { *known.entry(account).or_insert(next) } else { next };
            if at == next {
                ranking.0.push(Share { turn, bytes: 0, holders: Vec::new() });
            }
            if let Some(share) = ranking.0.get_mut(at as usize) {
                share.bytes += bytes;
                share.holders.push(Holder { bytes, conn });
            }
        }
        ranking
    }

    /// What the subscriptions of a connection take. A channel is on its account
    /// where nobody else hears it.
    fn subscribed(&self, connection: &Connection) -> u64 {
        let alone = |id: &TopicId| self.channels.at(*id).filter(|topic| topic.subscribers().len() == 1);
        let taken = |id: &TopicId| alone(id).map_or(0, |topic| TOPIC + topic.held_bytes() as u64);
        connection.topics.iter().map(|id| SUBSCRIPTION + taken(id)).sum()
    }
}

/// A connection, and what would be free without it.
#[derive(Clone, Copy, Debug)]
struct Holder {
    bytes: u64,
    conn: ConnectionId,
}

/// What all connections of one user hold.
#[derive(Debug)]
struct Share {
    turn: EvictionRank,
    bytes: u64,
    holders: Vec<Holder>,
}

/// Users and what they hold.
#[derive(Default, Debug)]
struct Ranking(Vec<Share>);

impl Ranking {
    /// Takes out the connection that holds most of the user who holds most, where that is more
    /// than so much.
    fn most(&mut self, turn: EvictionRank, above: u64) -> Option<Holder> {
        let shares = self.0.iter_mut().filter(|share| share.turn == turn && share.bytes > above);
        let first = shares.max_by_key(|share| share.bytes)?;
        let (largest, _) = first.holders.iter().enumerate().max_by_key(|(_, holder)| holder.bytes)?;
        let holder = first.holders.swap_remove(largest);
        first.bytes -= holder.bytes;
        Some(holder)
    }
}

/// Who is closed before whom, whatever they hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum EvictionRank {
    /// Who has not said who it is.
    Stranger,
    Client,
    /// Of this machine, and trusted; a line that a busy one is just saying may well
    /// be the largest thing there is.
    Worker,
    /// Work would be lost with it.
    Owner,
}

impl EvictionRank {
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
pub enum MemoryQuery {
    Nothing,
    /// How much it is.
    Total,
    /// And who holds how much of it.
    Holders,
}
