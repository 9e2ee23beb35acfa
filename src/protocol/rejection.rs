//! Reasons for which connections and HTTP requests are rejected: a closed list, with the words
//! in statistics, metrics and the log.

use serde::{Serialize, Serializer};

/// A reason for a rejection by HTTP, of a WebSocket, or of a local process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// `Host` is missing, unreadable, or is not one of our names.
    Host,
    /// `Origin` is that of a page from elsewhere.
    Origin,
    /// No token where one is needed, or not in time.
    TokenMissing,
    /// Not a token at all, or one with claims that cannot be read.
    TokenMalformed,
    TokenExpired,
    /// Its `nbf` lies ahead.
    TokenNotYet,
    /// No key is configured for its `alg` and `kid`.
    TokenKey,
    /// Its signature does not hold.
    TokenSignature,
    /// It is another issuer's, or names none.
    TokenIssuer,
    /// It is for another audience, or for none.
    TokenAudience,
    TokenRevoked,
    /// It names no user, or allows more than is looked at.
    TokenClaims,
    SecretMissing,
    SecretWrong,
    /// `Authorization` is there, and of another scheme than `Bearer`.
    SecretScheme,
    /// The address or user is throttled after many refusals: 429.
    TooManyRefusals,
    /// A request without an upgrade at a WebSocket endpoint: 426.
    NoUpgrade,
    /// 400.
    BadRequest,
    /// 403, for what a secret or token does not allow.
    Forbidden,
    /// 404.
    NotFound,
    /// 405.
    Method,
    /// 408.
    Timeout,
    /// 413.
    TooLarge,
    /// 415.
    MediaType,
    /// 431.
    HeadTooLarge,
    /// 503: no place, or no memory.
    Overloaded,
    /// 503: the daemon ends.
    ShuttingDown,
    /// A local process that `[worker] allow` does not name.
    Worker,
    /// A token in a URL, where `query_token = false`.
    TokenQuery,
    /// 429, for what is asked too often or too much at once.
    RateLimited,
    /// 503: what must be stored cannot be.
    StoreUnavailable,
    /// The user has as many connections as one may have.
    TooManyConnections,
}

impl Reason {
    /// All, by their words.
    pub const NAMES: [(&'static str, Self); 32] = [
        ("host", Self::Host),
        ("origin", Self::Origin),
        ("token_missing", Self::TokenMissing),
        ("token_malformed", Self::TokenMalformed),
        ("token_expired", Self::TokenExpired),
        ("token_not_yet", Self::TokenNotYet),
        ("token_key", Self::TokenKey),
        ("token_signature", Self::TokenSignature),
        ("token_issuer", Self::TokenIssuer),
        ("token_audience", Self::TokenAudience),
        ("token_revoked", Self::TokenRevoked),
        ("token_claims", Self::TokenClaims),
        ("secret_missing", Self::SecretMissing),
        ("secret_wrong", Self::SecretWrong),
        ("secret_scheme", Self::SecretScheme),
        ("too_many_refusals", Self::TooManyRefusals),
        ("no_upgrade", Self::NoUpgrade),
        ("bad_request", Self::BadRequest),
        ("forbidden", Self::Forbidden),
        ("not_found", Self::NotFound),
        ("method", Self::Method),
        ("timeout", Self::Timeout),
        ("too_large", Self::TooLarge),
        ("media_type", Self::MediaType),
        ("head_too_large", Self::HeadTooLarge),
        ("overloaded", Self::Overloaded),
        ("shutting_down", Self::ShuttingDown),
        ("worker", Self::Worker),
        ("token_query", Self::TokenQuery),
        ("rate_limited", Self::RateLimited),
        ("store_unavailable", Self::StoreUnavailable),
        ("too_many_connections", Self::TooManyConnections),
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        Self::NAMES.get(self as usize).map_or("", |(word, _)| word)
    }
}

/// How often each reason was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RejectionCounts([u64; Reason::NAMES.len()]);

impl Default for RejectionCounts {
    fn default() -> Self {
        Self([0; Reason::NAMES.len()])
    }
}

impl RejectionCounts {
    /// Counts one more.
    pub fn count(&mut self, reason: Reason) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// All, in the order of the list.
    pub fn counts(&self) -> &[u64] {
        &self.0
    }

    /// The same again; reasons that are new since have not been given.
    pub fn of_counts(counts: &[u64]) -> Self {
        let mut refused = Self::default();
        refused.0.iter_mut().zip(counts).for_each(|(count, was)| *count = *was);
        refused
    }
}

/// By name, those that were given.
impl Serialize for RejectionCounts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let given = Reason::NAMES.iter().zip(self.0).filter(|(_, count)| *count > 0);
        to.collect_map(given.map(|((word, _), count)| (word, count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_stands_in_the_list_at_its_own_place() {
        for (at, (_, reason)) in Reason::NAMES.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
    }

    #[test]
    fn each_reason_stands_on_the_page() {
        let page = include_str!("PROTOCOL.md");
        for (word, _) in Reason::NAMES {
            assert!(page.contains(&format!("`{word}`")), "{word}");
        }
    }

    #[test]
    fn counts_of_an_older_list_go_on_and_zeros_are_left_out() {
        let mut refused = RejectionCounts::of_counts(&[0, 2]);
        refused.count(Reason::StoreUnavailable);
        let spelled = serde_json::to_string(&refused).unwrap_or_default();
        assert_eq!(spelled, r#"{"origin":2,"store_unavailable":1}"#);
        assert_eq!(RejectionCounts::of_counts(refused.counts()), refused);
    }
}
