//! Refusal of a token: throttle and explanation.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use super::config::DriverConfig;
use crate::edge::auth::error::TokenError;
use crate::edge::auth::throttle::{FailureKey, WINDOW};
use crate::hub::TokenFault;
use crate::protocol::{Moment, Reason, UnixTime};

/// A token that was refused, and what follows.
pub struct RefusedToken {
    pub fault: TokenFault,
    /// Set after too many refusals: the time to wait.
    pub throttled: Option<Duration>,
    pub counted_for: CountedFor,
}

/// The key that a refused token is counted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CountedFor {
    /// The user that it names.
    User,
    /// The address that it came from.
    Address,
}

/// Whether a token that is refused for that has a valid signature.
pub(super) fn is_proven(reason: Reason) -> bool {
    matches!(reason, Reason::TokenExpired | Reason::TokenNotYet | Reason::TokenRevoked)
}

/// Counts a refused token, and decides how long to wait.
pub(super) fn throttle(
    config: &DriverConfig,
    mut fault: TokenFault,
    token: &str,
    from: Option<IpAddr>,
    now: Moment,
) -> RefusedToken {
    // A token that was right once, or will be, is not guessed, and no other user of that address
    // answers for it.
    let user = if is_proven(fault.reason) { config.verifier.subject(token) } else { None };
    let counted_for = if user.is_some() { CountedFor::User } else { CountedFor::Address };
    let key = match user {
        Some(user) => {
            let mut hasher = DefaultHasher::new();
            user.hash(&mut hasher);
            Some(FailureKey::User(hasher.finish()))
        }
        None => from.map(FailureKey::Address),
    };
    let owed = key.map_or(Ok(Duration::ZERO), |key| config.wrong_tokens.borrow_mut().wrong(key, now));
    let throttled = owed.err();
    fault.wait = owed.unwrap_or_else(|wait| wait.max(WINDOW));
    RefusedToken { fault, throttled, counted_for }
}

/// What is wrong with a token, for the log.
pub(super) fn explain(
    config: &DriverConfig,
    error: &TokenError,
    token: &str,
    place: &str,
    now: UnixTime,
) -> String {
    let message = config.verifier.explain(error, token, now);
    let user = if is_proven(error.reason()) { config.verifier.subject(token) } else { None };
    let user = user.map(|user| format!(" of user {user:?}")).unwrap_or_default();
    format!("the token{user} {place}: {message}")
}
