//! Why a door refuses somebody.
//!
//! Knows the closed list and its words, which stand in statistics, metrics and the log.
//! Does not know what a request looks like that is refused so.

/// A reason for a refusal at a door: of HTTP, of WebSockets, or of local processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// `Host` is missing, unreadable, or names nobody that we are.
    Host,
    /// `Origin` is that of a page from elsewhere.
    Origin,
    /// Nobody said who it is: no token where one is needed, or not in time.
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
    /// It is another issuer's, or says none.
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
    /// Whoever has been refused many times is slowed down: 429.
    TooManyRefusals,
    /// A WebSocket endpoint was asked for something else: 426.
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
}

impl Reason {
    /// All, by their words.
    pub const NAMES: [(&'static str, Self); 28] = [
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
    ];
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
}
