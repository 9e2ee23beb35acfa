//! What is wrong with a token.
//!
//! Knows every way in which one fails, and two ways to tell it: briefly, to
//! whoever presents it, and with what the configuration has to do with it, to
//! administrators. Does not know how it was found out: that is in
//! [`token`](super::token).

use std::fmt;

use super::claims::{Excess, MOST_PATTERN_BYTES, MOST_PATTERNS};
use super::token::{LONGEST_TOKEN, Verifier};
use crate::hub::TokenFault;
use crate::protocol::{Reason, Refusal, UnixTime};

/// Why a token does not hold: the first reason that there is, in the order in
/// which a verifier looks.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Flaw {
    /// So many bytes.
    TooLong(usize),
    /// Not three parts in base64url.
    Shapeless,
    /// The header is no JSON object of its kind.
    Header(String),
    /// The header wants to be understood in ways that are not known here.
    Critical,
    /// No key is configured for what the header names.
    Keyless { alg: String, kid: Option<String> },
    /// The signature holds with none of the keys that may have made it.
    Forged { alg: String, kid: Option<String> },
    /// The claims are no JSON object of their kind.
    Claims(String),
    /// There is no `exp`.
    Endless,
    /// It ended then.
    Ended(UnixTime),
    /// It begins then.
    Early(UnixTime),
    /// It names no user.
    Nobody,
    /// It names a user by what is no id.
    Misnamed(Refusal),
    /// More rights than are looked at.
    Excessive(Excess),
}

impl Flaw {
    /// The word on the wire.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Ended(_) => "token_expired",
            Self::Early(_) => "token_not_yet",
            _ => "token_invalid",
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::TooLong(_) | Self::Shapeless | Self::Header(_) | Self::Critical | Self::Claims(_) => {
                Reason::TokenMalformed
            }
            Self::Keyless { .. } => Reason::TokenKey,
            Self::Forged { .. } => Reason::TokenSignature,
            Self::Ended(_) => Reason::TokenExpired,
            Self::Early(_) => Reason::TokenNotYet,
            Self::Endless | Self::Nobody | Self::Misnamed(_) | Self::Excessive(_) => Reason::TokenClaims,
        }
    }

    /// For whoever presents the token: nothing in it that was not proven, and
    /// nothing of the configuration.
    pub(super) fn told(&self) -> TokenFault {
        let message = match self {
            Self::TooLong(_) => format!("the token is longer than {LONGEST_TOKEN} bytes"),
            Self::Shapeless => "this is not a token: header.payload.signature".into(),
            Self::Header(error) => format!("the header cannot be read: {error}"),
            Self::Critical => "the header has `crit`, of which nothing is understood".into(),
            Self::Keyless { .. } => "no key is configured for the token's `alg` and `kid`".into(),
            Self::Forged { .. } => "the signature does not hold".into(),
            Self::Claims(error) => format!("the claims cannot be read: {error}"),
            Self::Endless => "the claims have no `exp`, in seconds since 1970".into(),
            Self::Ended(end) => format!("the token ended at {end}"),
            Self::Early(begin) => format!("the token begins at {begin}"),
            Self::Nobody => "the claims name no user: `user_id` or `sub`".into(),
            Self::Misnamed(refusal) => refusal.message.to_string(),
            Self::Excessive(Excess::Patterns(_)) => {
                format!("the wshub claim has more than {MOST_PATTERNS} patterns")
            }
            Self::Excessive(Excess::Bytes(_)) => {
                format!("the patterns of the wshub claim have more than {MOST_PATTERN_BYTES} bytes")
            }
        };
        TokenFault { code: self.code(), message, reason: self.reason(), wait: std::time::Duration::ZERO }
    }

    /// For administrators, who may know what there is and what it should be.
    pub(super) fn explained(&self, verifier: &Verifier, now: UnixTime) -> String {
        match self {
            Self::TooLong(bytes) => {
                format!("the token has {bytes} bytes, at most {LONGEST_TOKEN} are looked at")
            }
            Self::Shapeless => {
                "this is not a token: three parts of base64url with dots between them are wanted, \
                 header.payload.signature"
                    .into()
            }
            Self::Keyless { alg, .. } if alg.eq_ignore_ascii_case("none") => {
                "the token is not signed: its `alg` is none".into()
            }
            Self::Keyless { alg, kid } => {
                let wanted = named(alg, kid.as_deref());
                format!("no key is configured for {wanted}; there is {}", verifier.keys())
            }
            Self::Forged { alg, kid: Some(kid) } => format!(
                "the signature does not hold with the key that its `kid` {} chooses: another key of \
                 {alg} made it, or the token was altered",
                cut(kid)
            ),
            Self::Forged { alg, kid: None } => format!(
                "the signature of {alg} holds with none of the configured keys: another key made it, or \
                 the token was altered; there is {}",
                verifier.keys()
            ),
            Self::Ended(end) => format!("the token ended at {end}, {} ago", between(*end, now)),
            Self::Early(begin) => format!("the token begins at {begin}, in {}", between(now, *begin)),
            Self::Excessive(excess) => excess.to_string(),
            _ => self.told().message,
        }
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Patterns(count) => {
                write!(f, "the wshub claim has {count} patterns, at most {MOST_PATTERNS} are taken")
            }
            Self::Bytes(bytes) => write!(
                f,
                "the patterns of the wshub claim have {bytes} bytes, at most {MOST_PATTERN_BYTES} are taken"
            ),
        }
    }
}

/// A key as people name it.
pub(super) fn named(alg: &str, kid: Option<&str>) -> String {
    let alg = alg.chars().take(SHOWN).collect::<String>();
    match kid {
        Some(kid) => format!("{alg} with the `kid` {}", cut(kid)),
        None => format!("{alg} without a `kid`"),
    }
}

/// As much as fits a sentence; a header may be longer than any key's name.
const SHOWN: usize = 40;

fn cut(kid: &str) -> String {
    format!("{:?}", kid.chars().take(SHOWN).collect::<String>())
}

/// From one time to a later one, in whole seconds.
fn between(from: UnixTime, to: UnixTime) -> humantime::FormattedDuration {
    let seconds = to.0.saturating_sub(from.0).div_ceil(1000);
    humantime::format_duration(std::time::Duration::from_secs(seconds))
}
