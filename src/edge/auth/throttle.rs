//! How often one address, or one user, may present what is wrong.
//!
//! Knows a small budget for each, and a bound on how many it
//! remembers. Does not know what was presented, and never turns away what is
//! right: behind a proxy all callers have one address, and whoever guesses must
//! not be able to lock the others out. A secret is too long to be guessed at any
//! pace; the budget keeps guessing cheap for us and quiet in the log.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::protocol::Moment;

/// At some sixty bytes each, beside all other limits on memory.
const MOST: usize = 1024;

/// Who presents what is wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    /// For whom nothing is proven.
    Address(IpAddr),
    /// A user by a digest: whom a token names whose signature holds, and which is refused
    /// all the same.
    User(u64),
}

/// The budgets of those that have presented something wrong.
#[derive(Debug)]
pub struct AuthThrottle {
    /// For each, the moment at which all that it was let get wrong is
    /// paid off (the generic cell rate algorithm); who has paid is forgotten when
    /// the place is needed.
    paid: BTreeMap<Who, Moment>,
    per_minute: u32,
}

impl AuthThrottle {
    /// Lets each be wrong so often in a minute, all at once or spread.
    pub fn new(per_minute: u32) -> Self {
        Self { paid: BTreeMap::new(), per_minute: per_minute.max(1) }
    }

    /// Goes on with what an earlier guard knows of who owes how much.
    pub fn remember(&mut self, before: &Self) {
        self.paid.clone_from(&before.paid);
    }

    /// Somebody presented what is wrong. How much is to be paid off for what was wrong
    /// before: it grows with each, up to a minute.
    ///
    /// # Errors
    /// The time after which it is worth trying again, when that was too often.
    pub fn wrong(&mut self, who: Who, now: Moment) -> Result<Duration, Duration> {
        let who = if let Who::Address(address) = who { Who::Address(network(address)) } else { who };
        let before = self.paid.get(&who).copied().unwrap_or(now).max(now);
        let paid = before + WINDOW / self.per_minute;
        let ahead = paid.since(now);
        if ahead > WINDOW {
            return Err(ahead - WINDOW);
        }
        if self.paid.len() >= MOST && !self.paid.contains_key(&who) {
            self.make_room(now);
        }
        self.paid.insert(who, paid);
        Ok(before.since(now))
    }

    /// Forgets all who have paid, or else the one who owes least.
    fn make_room(&mut self, now: Moment) {
        self.paid.retain(|_, paid| *paid > now);
        if self.paid.len() >= MOST {
            let least = self.paid.iter().min_by_key(|(_, paid)| **paid).map(|(who, _)| *who);
            least.and_then(|who| self.paid.remove(&who));
        }
    }
}

/// What is looked at: a budget is paid off in as long.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Whom an address stands for: of IPv6 a whole network is one subscriber's, to
/// choose addresses in as it likes (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(guard: &mut AuthThrottle, from: &str, millis: u64) -> Result<Duration, Duration> {
        guard.wrong(Who::Address(from.parse().unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST))), Moment(millis))
    }

    #[test]
    fn an_address_that_is_wrong_too_often_waits_until_its_budget_grows_again() {
        let mut guard = AuthThrottle::new(10);
        for n in 0..10 {
            assert_eq!(wrong(&mut guard, "192.0.2.1", 5), Ok(Duration::from_secs(6 * n)));
        }
        for _ in 0..1000 {
            assert_eq!(wrong(&mut guard, "192.0.2.1", 5), Err(Duration::from_secs(6)));
        }
        assert_eq!(wrong(&mut guard, "192.0.2.2", 5), Ok(Duration::ZERO), "nobody pays for another");
        assert_eq!(guard.wrong(Who::User(7), Moment(5)), Ok(Duration::ZERO), "nor a user for an address");
        assert_eq!(wrong(&mut guard, "::ffff:192.0.2.1", 5), Err(Duration::from_secs(6)), "it is the same");
        assert_eq!(wrong(&mut guard, "192.0.2.1", 6005), Ok(Duration::from_secs(54)));
        assert_eq!(wrong(&mut guard, "192.0.2.1", 6005), Err(Duration::from_secs(6)));
    }

    #[test]
    fn a_network_of_ipv6_has_one_budget() {
        let mut guard = AuthThrottle::new(1);
        assert!(wrong(&mut guard, "2001:db8::1", 0).is_ok());
        assert!(wrong(&mut guard, "2001:db8::ffff:1", 0).is_err());
        assert!(wrong(&mut guard, "2001:db8:0:1::1", 0).is_ok());
    }

    #[test]
    fn a_crowd_of_addresses_takes_no_more_than_its_place_and_frees_nobody_who_owes() {
        let mut guard = AuthThrottle::new(10);
        for _ in 0..11 {
            let _ = wrong(&mut guard, "192.0.2.1", 0);
        }
        for n in 0..5000_u32 {
            assert!(guard.wrong(Who::Address(IpAddr::V4((0x0a00_0000 + n).into())), Moment(1)).is_ok());
        }
        assert_eq!(guard.paid.len(), MOST);
        assert!(wrong(&mut guard, "192.0.2.1", 1).is_err(), "who owes most is remembered longest");
    }
}
