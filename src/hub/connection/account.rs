//! Accounts: rate limits that all connections of a user, or of an address without one, share.
//!
//! A new connection begins with full buckets, and many connections have as many of them. So
//! beside the buckets of a connection stand those of its account, larger, and they outlive it.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::table::Connections;
use super::{Connection, ConnectionKind};
use crate::hub::settings::Limits;
use crate::protocol::{ConnectionId, Moment, RateLimit, UserId};
use crate::rate_limiter::Bucket;

/// A user, or an address, over whatever connections: known by a digest, for there may be very
/// many, and two with the same one would only share their limits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Account {
    digest: u64,
    /// Workers are slowed down by their sockets, and a client of this machine without a user
    /// may be a proxy for very many.
    is_limited: bool,
}

/// Whether an account has limits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limited {
    Yes,
    No,
}

impl Account {
    /// Of clients of this machine without a user.
    const ANONYMOUS: Self = Self { digest: 0, is_limited: false };

    fn of(owner: impl Hash, limited: Limited) -> Self {
        let mut hasher = DefaultHasher::new();
        owner.hash(&mut hasher);
        Self { digest: hasher.finish(), is_limited: limited == Limited::Yes }
    }

    /// Whether there is a limit on what is requested on it.
    pub fn is_limited(self) -> bool {
        self.is_limited
    }

    pub(in crate::hub) fn of_user(user: &UserId) -> Self {
        Self::of(user, Limited::Yes)
    }

    /// Of all connections of a user whose tokens allow the same rate, where they say one:
    /// requests on others of this user are not taken from that.
    fn of_user_allowed(user: &UserId, allowance: RateLimit) -> Self {
        Self::of((user, allowance), Limited::Yes)
    }

    /// Of all HTTP requests: one secret permits them.
    pub(in crate::hub) fn of_http() -> Self {
        Self::of("http", Limited::No)
    }

    /// Enough of the digest to tell those apart who publish in one place.
    pub(in crate::hub) fn short(self) -> u32 {
        (self.digest >> 32) as u32
    }
}

/// What an account is charged for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::hub) enum Charge {
    /// At the rate that the token says, where it says one.
    Request(Option<RateLimit>),
    Interrupt,
    Whisper,
    Connection,
}

/// The buckets of one account.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct AccountBuckets {
    requests: Bucket,
    interrupts: Bucket,
    whispers: Bucket,
    connections: Bucket,
    used: Moment,
}

/// For how long the buckets of an account are kept that requests nothing.
const KEPT: Duration = Duration::from_secs(60);

/// More accounts than that are not kept for so long.
const MAX_ACCOUNTS: usize = 16 << 10;

/// What one account takes at most: 56 bytes in leaves that are half full at least, and 24 in
/// a list that may be twice as long as it is.
pub(in crate::hub) const ACCOUNT: u64 = 160;

/// All accounts that were charged a moment ago.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(Account, AccountBuckets)>", into = "Vec<(Account, AccountBuckets)>")]
pub(in crate::hub) struct Accounts {
    buckets: BTreeMap<Account, AccountBuckets>,
    /// By when they were checked last.
    order: VecDeque<(Moment, Account)>,
}

/// Those that were checked first come first.
impl From<Vec<(Account, AccountBuckets)>> for Accounts {
    fn from(buckets: Vec<(Account, AccountBuckets)>) -> Self {
        let order = buckets.iter().map(|(account, of_one)| (of_one.used, *account)).collect();
        let mut accounts = Self { buckets: BTreeMap::new(), order };
        accounts.buckets.extend(buckets);
        accounts
    }
}

impl From<Accounts> for Vec<(Account, AccountBuckets)> {
    fn from(mut accounts: Accounts) -> Self {
        let order = accounts.order.into_iter();
        order.filter_map(|(_, account)| accounts.buckets.remove_entry(&account)).collect()
    }
}

impl Accounts {
    pub(in crate::hub) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Charges an account for one, or returns how long it has to wait for that.
    pub(in crate::hub) fn charge(
        &mut self,
        now: Moment,
        account: Account,
        charge: Charge,
        limits: &Limits,
    ) -> Result<(), Duration> {
        if !account.is_limited {
            return Ok(());
        }
        if !self.buckets.contains_key(&account) {
            self.forget(now, 2);
            self.order.push_back((now, account));
        }
        let of_one = self.buckets.entry(account).or_default();
        of_one.used = now;
        let bucket = match charge {
            Charge::Request(_) => &mut of_one.requests,
            Charge::Interrupt => &mut of_one.interrupts,
            Charge::Whisper => &mut of_one.whispers,
            Charge::Connection => &mut of_one.connections,
        };
        bucket.take(now, limits.of_user(charge))
    }

    /// Forgets some that requested nothing, where one more comes, or something else is due:
    /// it is worth no waking up. Two for one, and their number follows that of the accounts in
    /// use.
    pub(in crate::hub) fn forget(&mut self, now: Moment, some: usize) {
        for _ in 0..some {
            let is_over = self.buckets.len() >= MAX_ACCOUNTS;
            let Some((checked_at, _)) = self.order.front() else { return };
            if !is_over && now.since(*checked_at) < KEPT {
                return;
            }
            let Some((_, account)) = self.order.pop_front() else { return };
            match self.buckets.get(&account) {
                Some(of_one) if !is_over && now.since(of_one.used) < KEPT => {
                    self.order.push_back((of_one.used, account));
                }
                _ => drop(self.buckets.remove(&account)),
            }
        }
    }
}

impl Connection {
    /// The account of its requests.
    fn account(&self) -> Account {
        match (self.kind, &self.user) {
            (ConnectionKind::Worker { uid, .. }, _) => Account::of(uid, Limited::No),
            (_, Some(user)) => Account::of_user(user),
            (_, None) => {
                self.network.map_or(Account::ANONYMOUS, |network| Account::of(network, Limited::Yes))
            }
        }
    }

    /// The account that is charged: requests at a rate of their own have one of their own.
    fn account_for(&self, charge: Charge) -> Account {
        match (charge, &self.user) {
            (Charge::Request(Some(own)), Some(user)) => Account::of_user_allowed(user, own),
            _ => self.account(),
        }
    }
}

impl Connections {
    /// The account of a connection; the anonymous one, if it is gone.
    pub(in crate::hub) fn account(&self, conn: ConnectionId) -> Account {
        self.get(conn).map_or(Account::ANONYMOUS, Connection::account)
    }

    pub(in crate::hub) fn account_for(&self, conn: ConnectionId, charge: Charge) -> Account {
        self.get(conn).map_or(Account::ANONYMOUS, |connection| connection.account_for(charge))
    }
}
