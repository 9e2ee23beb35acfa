//! Errors of tokens: every way in which one fails.
//!
//! The message of a [`TokenFault`] goes to the bearer, so nothing of the configuration and
//! nothing unproven stands in it; [`explain`](super::explain) has the one for administrators.

use std::fmt;
use std::time::Duration;

use super::claims::{ClaimExcess, LONGEST_TOKEN, MOST_INFO, MOST_PATTERN_BYTES, MOST_PATTERNS};
use super::revocation::RevocationCause;
use crate::hub::TokenFault;
use crate::protocol::worker::DEEPEST_INFO;
use crate::protocol::{Reason, Refusal, UnixTime};

/// Why a token is refused: the first reason, in the order of the checks.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::edge) enum TokenError {
    /// Its length in bytes.
    TooLong(usize),
    /// Not three parts in base64url.
    Malformed,
    /// The header is no JSON object of its kind.
    Header(String),
    /// The header requires an extension (`crit`).
    Critical,
    /// No key is configured for what the header names.
    NoKey { alg: String, kid: Option<String> },
    /// It names no key, and more fit its algorithm than are tried.
    AmbiguousKey { alg: String, fitting: usize },
    /// The signature holds with none of the keys that may have made it.
    BadSignature { alg: String, kid: Option<String> },
    /// The claims are no JSON object of their kind.
    Claims(String),
    /// There is no `exp`.
    NoExpiry,
    /// Its `exp` is over.
    Expired(UnixTime),
    /// Its `nbf` lies ahead.
    NotYet(UnixTime),
    /// Its `iss`, if it has one, is none of those that are wanted.
    Issuer(Option<String>),
    /// Nothing in its `aud` is wanted.
    Audience(Vec<String>),
    /// It names no user in the claim that counts; these are the claims that it has.
    NoUser(Vec<String>),
    /// Its user is not a valid id.
    BadUser(Refusal),
    /// Its claims exceed a bound.
    OutOfBounds(ClaimExcess),
    /// It is revoked, or cannot be distinguished from one that was.
    Revoked(RevocationCause),
}

impl TokenError {
    /// The code on the wire.
    pub(in crate::edge) fn code(&self) -> &'static str {
        match self {
            Self::Expired(_) => "token_expired",
            Self::NotYet(_) => "token_not_yet",
            Self::Revoked(_) => "token_revoked",
            _ => "token_invalid",
        }
    }

    /// The reason that the refusal is counted by.
    pub(in crate::edge) fn reason(&self) -> Reason {
        match self {
            Self::TooLong(_) | Self::Malformed | Self::Header(_) | Self::Critical | Self::Claims(_) => {
                Reason::TokenMalformed
            }
            Self::NoKey { .. } | Self::AmbiguousKey { .. } => Reason::TokenKey,
            Self::BadSignature { .. } => Reason::TokenSignature,
            Self::Expired(_) => Reason::TokenExpired,
            Self::NotYet(_) => Reason::TokenNotYet,
            Self::Issuer(_) => Reason::TokenIssuer,
            Self::Audience(_) => Reason::TokenAudience,
            Self::Revoked(_) => Reason::TokenRevoked,
            Self::NoExpiry | Self::NoUser(_) | Self::BadUser(_) | Self::OutOfBounds(_) => Reason::TokenClaims,
        }
    }

    /// The fault as the bearer of the token receives it.
    pub(in crate::edge) fn fault(&self) -> TokenFault {
        let message = match self {
            Self::TooLong(_) => format!("the token is longer than {LONGEST_TOKEN} bytes"),
            Self::Malformed => "this is not a token: header.payload.signature".into(),
            Self::Header(error) => format!("the header cannot be read: {error}"),
            Self::Critical => "the header has `crit`, of which nothing is understood".into(),
            Self::NoKey { .. } => "no key is configured for the token's `alg` and `kid`".into(),
            Self::AmbiguousKey { .. } => {
                "the header has no `kid`, and more keys fit the token's `alg` than are tried".into()
            }
            Self::BadSignature { .. } => "the signature does not hold".into(),
            Self::Claims(error) => format!("the claims cannot be read: {error}"),
            Self::NoExpiry => "the claims have no `exp`, in seconds since 1970".into(),
            Self::Expired(end) => format!("the token ended at {end}"),
            Self::NotYet(begin) => format!("the token begins at {begin}"),
            Self::Issuer(None) => "the claims have no `iss`, and one is wanted".into(),
            Self::Issuer(Some(_)) => "the `iss` of the token is none that is taken".into(),
            Self::Audience(has) if has.is_empty() => "the claims have no `aud`, and one is wanted".into(),
            Self::Audience(_) => "the `aud` of the token is none that is taken".into(),
            Self::NoUser(_) => "the claims name no user".into(),
            Self::BadUser(refusal) => refusal.message.to_string(),
            Self::OutOfBounds(ClaimExcess::Patterns(_)) => {
                format!("the wshub claim has more than {MOST_PATTERNS} patterns")
            }
            Self::OutOfBounds(ClaimExcess::Bytes(_)) => {
                format!("the patterns of the wshub claim have more than {MOST_PATTERN_BYTES} bytes")
            }
            Self::OutOfBounds(excess @ (ClaimExcess::Info(_) | ClaimExcess::Nesting)) => excess.to_string(),
            Self::Revoked(cause) => cause.to_string(),
        };
        TokenFault { code: self.code(), message, reason: self.reason(), wait: Duration::ZERO }
    }
}

impl fmt::Display for ClaimExcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Patterns(count) => {
                write!(f, "the wshub claim has {count} patterns, at most {MOST_PATTERNS} are taken")
            }
            Self::Bytes(bytes) => write!(
                f,
                "the patterns of the wshub claim have {bytes} bytes, at most {MOST_PATTERN_BYTES} are taken"
            ),
            Self::Info(bytes) => {
                write!(f, "the wshub_info claim has {bytes} bytes, at most {MOST_INFO} are taken")
            }
            Self::Nesting => write!(f, "the wshub_info claim nests deeper than {DEEPEST_INFO}"),
        }
    }
}
