//! Minting of tokens: their claims as JSON.
//!
//! The bounds are those of tokens that are verified: a token that would be refused is not
//! minted.

use std::fmt;

use serde::Serialize;

use super::claims;
use super::claims::ClaimExcess;
use super::revocation::RevocationCause;
use crate::config::RequiredClaims;
use crate::edge::clock;
use crate::json;
use crate::protocol::frame::RateLimitEntry;
use crate::protocol::{Grant, MintTerms, Payload, UserId};

/// Why no token was minted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MintError {
    /// All keys are public ones.
    NoSecretKey,
    /// It would have ended at once, or after the year 9999.
    Ttl,
    /// Its claims would exceed a bound.
    Excessive(ClaimExcess),
    /// It would be refused at once.
    Revoked(RevocationCause),
}

impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Excessive(excess) => return excess.fmt(f),
            Self::Revoked(RevocationCause::User(_)) => {
                "the user's tokens were revoked in this very second: ask again in the next one"
            }
            Self::Revoked(cause) => return write!(f, "it would be refused: {cause}"),
            Self::NoSecretKey => "all configured keys are public: whoever has the private one mints tokens",
            Self::Ttl => "a token must live for at least a second, and end before the year 10000",
        })
    }
}

impl std::error::Error for MintError {}

/// The claims whose names are fixed.
#[derive(Serialize)]
struct MintedClaims<'a> {
    iat: u64,
    exp: u64,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    wshub: Option<&'a Grant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wshub_limits: Option<RateLimitEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wshub_info: Option<&'a Payload>,
}

/// The life of a token, in whole seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lifetime {
    iat: u64,
    exp: u64,
}

impl Lifetime {
    /// From `iat` on, for `ttl` seconds.
    pub(super) fn new(iat: u64, ttl: u64) -> Result<Self, MintError> {
        let exp = iat.checked_add(ttl).filter(|exp| *exp > iat && *exp <= claims::LAST_SECOND);
        Ok(Self { iat, exp: exp.ok_or(MintError::Ttl)? })
    }

    pub(super) fn iat(self) -> u64 {
        self.iat
    }

    pub(super) fn exp(self) -> u64 {
        self.exp
    }
}

/// Checks the bounds of what a token is to grant and to show.
pub(super) fn check_terms(terms: &MintTerms) -> Result<(), MintError> {
    let rights = terms.grant.as_ref().map(claims::rights).transpose().map(drop);
    let shown = terms.info.as_ref().map(claims::shown).transpose().map(drop);
    rights.and(shown).map_err(MintError::Excessive)
}

/// The claims of a token for `user`, as the configuration requires them, with a `jti` of its
/// own by which it can be revoked alone.
pub(super) fn claims(
    user: &UserId,
    terms: &MintTerms,
    lifetime: Lifetime,
    wanted: &RequiredClaims,
) -> Vec<u8> {
    let (issuer, audience) = (wanted.issuers.first(), wanted.audiences.first());
    let configured = [
        (wanted.user.as_deref().unwrap_or("sub"), Some(user.as_str())),
        ("iss", issuer.map(|issuer| &**issuer)),
        ("aud", audience.map(|audience| &**audience)),
    ];
    let mut text = vec![b'{'];
    for (claim, value) in configured.into_iter().filter_map(|(claim, value)| Some((claim, value?))) {
        json::write(&claim, &mut text);
        text.push(b':');
        json::write(&value, &mut text);
        text.push(b',');
    }
    let rest = text.len();
    let Lifetime { iat, exp } = lifetime;
    let minted = MintedClaims {
        iat,
        exp,
        jti: format!("{:016x}", clock::random()),
        wshub: terms.grant.as_ref(),
        wshub_limits: terms.limits.map(RateLimitEntry::from),
        wshub_info: terms.info.as_ref(),
    };
    json::write(&minted, &mut text);
    // Its own bracket: all of it is one object.
    text.remove(rest);
    text
}
