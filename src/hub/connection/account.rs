//! Who pays for what is asked.
//!
//! Knows that all connections of a user, or of an address without one, ask together, and
//! how often they may. Does not know what is asked.
//!
//! Whoever reconnects begins with full buckets; whoever has many connections has as many
//! of them. So beside those of a connection stand those of its account, larger, and they
//! outlive it.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rate_limit::Bucket;
use super::table::Kind;
use crate::hub::Hub;
use crate::hub::settings::Limits;
use crate::protocol::{ConnectionId, Moment, RateLimit, UserId};

/// One who asks, over whatever connections: known by a digest of who that is, for there may
/// be very many, and two with the same one would only share their limits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Account {
    digest: u64,
    /// Whether there is a limit: workers are slowed down by their sockets, and behind whoever
    /// comes from this machine without a name may be a proxy for very many.
    pub pays: bool,
}

impl Account {
    /// Of whoever has no name and comes from nowhere else.
    const NOBODY: Self = Self { digest: 0, pays: false };

    fn of(who: impl Hash, pays: bool) -> Self {
        let mut hasher = DefaultHasher::new();
        who.hash(&mut hasher);
        Self { digest: hasher.finish(), pays }
    }

    pub(in crate::hub) fn of_user(user: &UserId) -> Self {
        Self::of(user, true)
    }

    /// Of all connections of a user whose tokens allow the same, where they say so: what
    /// others of this user ask is not taken from that.
    fn of_user_allowed(user: &UserId, allowance: RateLimit) -> Self {
        Self::of((user, allowance), true)
    }

    /// Of all who ask over HTTP: one secret lets them in.
    pub(in crate::hub) fn of_http() -> Self {
        Self::of("http", false)
    }

    /// Enough of the digest to tell those apart who publish in one place.
    pub(in crate::hub) fn short(self) -> u32 {
        (self.digest >> 32) as u32
    }
}

/// What is paid for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::hub) enum Charge {
    /// By somebody whose token may say how often that may be.
    Request(Option<RateLimit>),
    Interrupt,
    Whisper,
    Connection,
}

/// What one account has paid.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Purse {
    requests: Bucket,
    interrupts: Bucket,
    whispers: Bucket,
    connections: Bucket,
    used: Moment,
}

/// For how long the buckets of an account are kept that asks for nothing.
const KEPT: Duration = Duration::from_secs(60);

/// More accounts than that are not kept for so long.
const MOST: usize = 16 << 10;

/// What one account takes at most: 56 bytes in leaves that are half full at least, and 24 in
/// a list that may be twice as long as it is.
pub(in crate::hub) const ACCOUNT: u64 = 160;

/// All accounts that have paid for something a moment ago.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(Account, Purse)>", into = "Vec<(Account, Purse)>")]
pub(in crate::hub) struct Accounts {
    purses: BTreeMap<Account, Purse>,
    /// By when they were looked at last.
    order: VecDeque<(Moment, Account)>,
}

/// Those that were looked at first come first.
impl From<Vec<(Account, Purse)>> for Accounts {
    fn from(purses: Vec<(Account, Purse)>) -> Self {
        let order = purses.iter().map(|(account, purse)| (purse.used, *account)).collect();
        let mut accounts = Self { purses: BTreeMap::new(), order };
        accounts.purses.extend(purses);
        accounts
    }
}

impl From<Accounts> for Vec<(Account, Purse)> {
    fn from(mut accounts: Accounts) -> Self {
        let order = accounts.order.into_iter();
        order.filter_map(|(_, account)| accounts.purses.remove_entry(&account)).collect()
    }
}

impl Accounts {
    pub(in crate::hub) fn len(&self) -> usize {
        self.purses.len()
    }

    /// Pays for one, or says how long to wait for it.
    pub(in crate::hub) fn take(
        &mut self,
        now: Moment,
        account: Account,
        charge: Charge,
        limits: &Limits,
    ) -> Result<(), Duration> {
        if !account.pays {
            return Ok(());
        }
        if !self.purses.contains_key(&account) {
            self.forget(now, 2);
            self.order.push_back((now, account));
        }
        let purse = self.purses.entry(account).or_default();
        purse.used = now;
        let bucket = match charge {
            Charge::Request(_) => &mut purse.requests,
            Charge::Interrupt => &mut purse.interrupts,
            Charge::Whisper => &mut purse.whispers,
            Charge::Connection => &mut purse.connections,
        };
        bucket.take(now, limits.of_user(charge))
    }

    /// Forgets some who have asked for nothing, where one more comes, or something else is
    /// due: it is worth no waking up. Two for one, and their number follows that of those
    /// who are there.
    pub(in crate::hub) fn forget(&mut self, now: Moment, some: usize) {
        for _ in 0..some {
            let is_over = self.purses.len() >= MOST;
            let Some((looked_at, _)) = self.order.front() else { return };
            if !is_over && now.since(*looked_at) < KEPT {
                return;
            }
            let Some((_, account)) = self.order.pop_front() else { return };
            match self.purses.get(&account) {
                Some(purse) if !is_over && now.since(purse.used) < KEPT => {
                    self.order.push_back((purse.used, account));
                }
                _ => drop(self.purses.remove(&account)),
            }
        }
    }
}

impl Hub {
    /// Whose connection it is; nobody's, if it is gone.
    pub fn account(&self, conn: ConnectionId) -> Account {
        let Some(connection) = self.connections.get(conn) else { return Account::NOBODY };
        match (connection.kind, &connection.user) {
            (Kind::Worker { uid, .. }, _) => Account::of(uid, false),
            (Kind::Client | Kind::Waiting, Some(user)) => Account::of_user(user),
            (Kind::Client | Kind::Waiting, None) => {
                connection.network.map_or(Account::NOBODY, |network| Account::of(network, true))
            }
        }
    }

    /// Charges the account of a connection, or says how long it has to wait.
    pub(in crate::hub) fn charge(
        &mut self,
        now: Moment,
        conn: ConnectionId,
        charge: Charge,
    ) -> Result<(), Duration> {
        let account = match (charge, self.connections.get(conn).and_then(|c| c.user.as_ref())) {
            (Charge::Request(Some(own)), Some(user)) => Account::of_user_allowed(user, own),
            _ => self.account(conn),
        };
        self.accounts.take(now, account, charge, &self.settings.limits)
    }
}
