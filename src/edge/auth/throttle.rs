//! Throttle of failed authentication: wrong secrets and tokens of one address or one user.
//!
//! Only failures are counted, and a right secret is never refused: behind a proxy all requests
//! come from one address, and an attacker must not lock the others out. A secret is too long
//! to be guessed at any rate; the throttle keeps guessing cheap for the daemon and quiet in
//! the log.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::protocol::Moment;
use crate::rate_limiter::Bucket;

/// Most addresses and users that are remembered, at some sixty bytes each, which no other
/// limit on memory counts.
const MAX_DEBTS: usize = 1024;

/// The key that failures are counted by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FailureKey {
    /// Without any proof of identity.
    Address(IpAddr),
    /// The digest of the user of a token whose signature holds, and which is refused all the
    /// same.
    User(u64),
}

/// The failures of the last minute.
#[derive(Debug)]
pub struct AuthThrottle {
    /// Paid-off ones are dropped when the space is needed.
    debts: BTreeMap<FailureKey, Bucket>,
    /// What one failure costs. Whole milliseconds: that is the precision of the waits.
    cost: Duration,
}

impl AuthThrottle {
    /// Allows so many failures in a minute, all at once or spread.
    pub fn new(per_minute: u32) -> Self {
        let cost = Moment(0) + WINDOW / per_minute.max(1);
        Self { debts: BTreeMap::new(), cost: cost.since(Moment(0)) }
    }

    /// Takes over the debts that an earlier throttle has recorded.
    pub fn remember(&mut self, before: &Self) {
        self.debts.clone_from(&before.debts);
    }

    /// Records a failure. Returns how long the earlier ones take to be paid off: it grows with
    /// each, up to a minute.
    ///
    /// # Errors
    /// The time until the next attempt is worth it, where there were too many.
    pub fn wrong(&mut self, key: FailureKey, now: Moment) -> Result<Duration, Duration> {
        let key =
            if let FailureKey::Address(address) = key { FailureKey::Address(network(address)) } else { key };
        let mut debt = self.debts.get(&key).copied().unwrap_or_default();
        let earlier = debt.owes(now);
        debt.take_within(now, self.cost, WINDOW)?;
        if self.debts.len() >= MAX_DEBTS && !self.debts.contains_key(&key) {
            self.make_room(now);
        }
        self.debts.insert(key, debt);
        Ok(earlier)
    }

    /// Drops all that is paid off, or else the smallest debt.
    fn make_room(&mut self, now: Moment) {
        self.debts.retain(|_, debt| !debt.owes(now).is_zero());
        if self.debts.len() >= MAX_DEBTS {
            let smallest = self.debts.iter().min_by_key(|(_, debt)| debt.owes(now)).map(|(key, _)| *key);
            smallest.and_then(|key| self.debts.remove(&key));
        }
    }
}

/// The time in which the largest debt is paid off.
pub const WINDOW: Duration = Duration::from_secs(60);

/// The part of an address that counts: of IPv6 a whole network belongs to one subscriber, who
/// chooses addresses in it at will (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(throttle: &mut AuthThrottle, from: &str, millis: u64) -> Result<Duration, Duration> {
        throttle.wrong(
            FailureKey::Address(from.parse().unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST))),
            Moment(millis),
        )
    }

    #[test]
    fn an_address_that_is_wrong_too_often_waits_until_its_budget_grows_again() {
        let mut throttle = AuthThrottle::new(10);
        for n in 0..10 {
            assert_eq!(wrong(&mut throttle, "192.0.2.1", 5), Ok(Duration::from_secs(6 * n)));
        }
        for _ in 0..1000 {
            assert_eq!(wrong(&mut throttle, "192.0.2.1", 5), Err(Duration::from_secs(6)));
        }
        assert_eq!(
            wrong(&mut throttle, "192.0.2.2", 5),
            Ok(Duration::ZERO),
            "each address has its own budget"
        );
        assert_eq!(
            throttle.wrong(FailureKey::User(7), Moment(5)),
            Ok(Duration::ZERO),
            "a user has another than the address"
        );
        assert_eq!(
            wrong(&mut throttle, "::ffff:192.0.2.1", 5),
            Err(Duration::from_secs(6)),
            "it is the same"
        );
        assert_eq!(wrong(&mut throttle, "192.0.2.1", 6005), Ok(Duration::from_secs(54)));
        assert_eq!(wrong(&mut throttle, "192.0.2.1", 6005), Err(Duration::from_secs(6)));
    }

    #[test]
    fn a_network_of_ipv6_has_one_budget() {
        let mut throttle = AuthThrottle::new(1);
        assert!(wrong(&mut throttle, "2001:db8::1", 0).is_ok());
        assert!(wrong(&mut throttle, "2001:db8::ffff:1", 0).is_err());
        assert!(wrong(&mut throttle, "2001:db8:0:1::1", 0).is_ok());
    }

    #[test]
    fn a_crowd_of_addresses_takes_no_more_than_its_place_and_frees_nobody_who_owes() {
        let mut throttle = AuthThrottle::new(10);
        for _ in 0..11 {
            let _ = wrong(&mut throttle, "192.0.2.1", 0);
        }
        for n in 0..5000_u32 {
            assert!(
                throttle.wrong(FailureKey::Address(IpAddr::V4((0x0a00_0000 + n).into())), Moment(1)).is_ok()
            );
        }
        assert_eq!(throttle.debts.len(), MAX_DEBTS);
        assert!(wrong(&mut throttle, "192.0.2.1", 1).is_err(), "the largest debt is remembered longest");
    }
}
