//! What is wrong with a token.
//!
//! Knows every way in which one fails, and two ways to tell it: briefly, to
//! whoever presents it, and with what the configuration has to do with it, to
//! administrators. Does not know how it was found out: that is in
//! [`jwt`](super::jwt).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;

use super::claims;
use super::claims::{Excess, MOST_INFO, MOST_PATTERN_BYTES, MOST_PATTERNS};
use super::crypto;
use super::jwt::{LONGEST_TOKEN, MOST_TRIED, Verifier};
use super::keys::{Key, algorithm};
use super::revocation::Cause;
use crate::hub::TokenFault;
use crate::protocol::worker::DEEPEST_INFO;
use crate::protocol::{Reason, Refusal, UnixTime};

/// Why a token does not hold: the first reason that there is, in the order in
/// which a verifier looks.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::edge) enum TokenError {
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
    /// It names no key, and more fit its algorithm than are tried.
    Nameless { alg: String, fitting: usize },
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
    /// Its `iss`, if it has one, is none of those that are wanted.
    Issuer(Option<String>),
    /// Nothing in its `aud` is wanted.
    Audience(Vec<String>),
    /// It names no user by the claim that is looked at; these are those that it has.
    Nobody(Vec<String>),
    /// It names a user by what is no id.
    Misnamed(Refusal),
    /// More rights than are looked at, or more to show of its bearer.
    Excessive(Excess),
    /// It is revoked, or one that was may not be told from it.
    Revoked(Cause),
}

impl TokenError {
    /// The word on the wire.
    pub(in crate::edge) fn code(&self) -> &'static str {
        match self {
            Self::Ended(_) => "token_expired",
            Self::Early(_) => "token_not_yet",
            Self::Revoked(_) => "token_revoked",
            _ => "token_invalid",
        }
    }

    pub(in crate::edge) fn reason(&self) -> Reason {
        match self {
            Self::TooLong(_) | Self::Shapeless | Self::Header(_) | Self::Critical | Self::Claims(_) => {
                Reason::TokenMalformed
            }
            Self::Keyless { .. } | Self::Nameless { .. } => Reason::TokenKey,
            Self::Forged { .. } => Reason::TokenSignature,
            Self::Ended(_) => Reason::TokenExpired,
            Self::Early(_) => Reason::TokenNotYet,
            Self::Issuer(_) => Reason::TokenIssuer,
            Self::Audience(_) => Reason::TokenAudience,
            Self::Revoked(_) => Reason::TokenRevoked,
            Self::Endless | Self::Nobody(_) | Self::Misnamed(_) | Self::Excessive(_) => Reason::TokenClaims,
        }
    }

    /// For whoever presents the token: nothing in it that was not proven, and
    /// nothing of the configuration.
    pub(in crate::edge) fn told(&self) -> TokenFault {
        let message = match self {
            Self::TooLong(_) => format!("the token is longer than {LONGEST_TOKEN} bytes"),
            Self::Shapeless => "this is not a token: header.payload.signature".into(),
            Self::Header(error) => format!("the header cannot be read: {error}"),
            Self::Critical => "the header has `crit`, of which nothing is understood".into(),
            Self::Keyless { .. } => "no key is configured for the token's `alg` and `kid`".into(),
            Self::Nameless { .. } => {
                "the header has no `kid`, and more keys fit the token's `alg` than are tried".into()
            }
            Self::Forged { .. } => "the signature does not hold".into(),
            Self::Claims(error) => format!("the claims cannot be read: {error}"),
            Self::Endless => "the claims have no `exp`, in seconds since 1970".into(),
            Self::Ended(end) => format!("the token ended at {end}"),
            Self::Early(begin) => format!("the token begins at {begin}"),
            Self::Issuer(None) => "the claims have no `iss`, and one is wanted".into(),
            Self::Issuer(Some(_)) => "the `iss` of the token is none that is taken".into(),
            Self::Audience(has) if has.is_empty() => "the claims have no `aud`, and one is wanted".into(),
            Self::Audience(_) => "the `aud` of the token is none that is taken".into(),
            Self::Nobody(_) => "the claims name no user".into(),
            Self::Misnamed(refusal) => refusal.message.to_string(),
            Self::Excessive(Excess::Patterns(_)) => {
                format!("the wshub claim has more than {MOST_PATTERNS} patterns")
            }
            Self::Excessive(Excess::Bytes(_)) => {
                format!("the patterns of the wshub claim have more than {MOST_PATTERN_BYTES} bytes")
            }
            Self::Excessive(excess @ (Excess::Info(_) | Excess::Nesting)) => excess.to_string(),
            Self::Revoked(cause) => cause.to_string(),
        };
        TokenFault { code: self.code(), message, reason: self.reason(), wait: std::time::Duration::ZERO }
    }

    /// For administrators, who may know what there is and what it should be.
    pub(in crate::edge) fn explained(&self, verifier: &Verifier, token: &str, now: UnixTime) -> String {
        let wanted = verifier.wanted();
        match self {
            Self::TooLong(bytes) => {
                format!("the token has {bytes} bytes, at most {LONGEST_TOKEN} are looked at")
            }
            Self::Shapeless => format!(
                "this is not a token: three parts of base64url with dots between them are wanted, \
                 header.payload.signature; {}",
                misshapen(token)
            ),
            Self::Keyless { alg, kid } => keyless(alg, kid.as_deref(), verifier),
            Self::Nameless { alg, fitting } => format!(
                "the header has no `kid`, and {fitting} keys of {} may have made the token, of which at most \
                 {MOST_TRIED} are tried: have its maker put the `kid` of its key into the header, or configure \
                 fewer keys",
                short(alg)
            ),
            Self::Forged { alg, kid } => forged(alg, kid.as_deref(), verifier, token),
            Self::Endless => {
                format!("{}; `[auth] require_exp = false` takes tokens without", self.told().message)
            }
            // A time of that kind would have been in 1973 at the latest.
            Self::Ended(end) if end.0 < 100_000_000_000 => format!(
                "the token ended at {end}: `exp` is a time, in seconds since 1970, and this looks like a \
                 duration"
            ),
            Self::Ended(end) => format!("the token ended at {end}, {} ago", between(*end, now)),
            Self::Early(begin) => {
                format!(
                    "the token begins at {begin} (`nbf`), in {}: do the clocks differ?",
                    between(now, *begin)
                )
            }
            Self::Issuer(has) => {
                let has = has.as_ref().map_or("no `iss`".to_owned(), |has| format!("the `iss` {}", cut(has)));
                format!("the token has {has}, and `[auth] issuer` wants {}", one_of(&wanted.issuers))
            }
            Self::Audience(has) => {
                let has =
                    if has.is_empty() { "no `aud`".to_owned() } else { format!("the `aud` {}", all_of(has)) };
                format!("the token has {has}, and `[auth] audience` wants {}", one_of(&wanted.audiences))
            }
            Self::Nobody(has) => {
                let wanted = match &wanted.user {
                    Some(claim) => format!("the claims have no {claim:?}, which `[auth] user_claim` wants"),
                    None => "the claims name no user: `user_id` or `sub`".to_owned(),
                };
                format!("{wanted}; there is {}", all_of(has))
            }
            Self::Misnamed(refusal) => format!(
                "{}: a user is 1 to 128 bytes without control characters; `[auth] user_claim` takes another \
                 claim",
                refusal.message
            ),
            Self::Excessive(excess) => excess.to_string(),
            Self::Header(_) | Self::Critical | Self::Claims(_) | Self::Revoked(_) => self.told().message,
        }
    }
}

/// What is unusual about a token that holds.
pub(in crate::edge) fn warnings(token: &str, payload: &[u8], key: &Key, now: UnixTime) -> Vec<String> {
    let unknown = claims::unknown_members(payload);
    let mut warnings: Vec<String> =
        (!unknown.is_empty()).then(|| claims::told(&unknown)).into_iter().collect();
    let made = claims::all(payload).get("iat").and_then(|raw| raw.get().parse::<f64>().ok());
    // `nbf` may be ahead by less than a minute where clocks differ.
    if let Some(ahead) = made.map(|made| made - now.0 as f64 / 1000.0).filter(|ahead| *ahead > 60.0) {
        let ahead = if ahead < 1e9 { format!("{ahead:.0} s") } else { "very far".to_owned() };
        warnings.push(format!(
            "`iat` lies {ahead} ahead, and revocations go by it: none that is made before then counts for this \
             token; do the clocks differ?"
        ));
    }
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let kid =
        header.and_then(|header| claims::read::<claims::Header>(&header).ok()).and_then(|header| header.kid);
    if let (Some(kid), None) = (kid, &key.kid) {
        let kid = cut(&kid);
        warnings.push(format!("its `kid` {kid} is not looked at: one key is configured, without a `kid`"));
    }
    warnings
}

/// What keeps a text from being a token.
fn misshapen(token: &str) -> String {
    let bare = token.trim();
    let parts = bare.split('.').count();
    let begins = |with: &str| bare.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with));
    let what = if begins("bearer ") {
        "it begins with `Bearer`, which belongs to the header of HTTP and not to the token"
    } else if bare.starts_with(['"', '\'']) || bare.ends_with(['"', '\'']) {
        "it stands in quotes"
    } else if token.contains(char::is_whitespace) {
        "there are spaces or line breaks in it: was it wrapped when it was copied?"
    } else if parts == 5 {
        "it has five parts, as encrypted ones have (JWE): one that is signed only is wanted (JWS)"
    } else if parts == 1 {
        "it has no dots: one that is opaque, for whoever made it alone? A JWT is wanted"
    } else if parts != 3 {
        return format!("it has {parts} parts");
    } else if bare.contains('=') {
        "it has base64's padding, `=`, which base64url of tokens has not"
    } else if bare.contains(['+', '/']) {
        "it has `+` or `/` of base64, where base64url has `-` and `_`"
    } else {
        "a part of it is not base64url: was it cut?"
    };
    what.to_owned()
}

/// Why there is no key for what a header says.
fn keyless(alg: &str, kid: Option<&str>, verifier: &Verifier) -> String {
    if alg.eq_ignore_ascii_case("none") {
        return "the token is not signed: its `alg` is none".into();
    }
    if let Some(kid) = kid {
        let has_it = |other: &Option<String>| other.as_deref() == Some(kid);
        if let Some(key) = verifier.known_keys().iter().find(|key| has_it(&key.kid)) {
            let (alg, kid) = (short(alg), cut(kid));
            return format!(
                "the key with the `kid` {kid} is for {}, and the token says {alg}",
                key.alg.name()
            );
        }
        if let Some(skipped) = verifier.skipped().iter().find(|skipped| has_it(&skipped.kid)) {
            return format!("no key is configured for {}; {skipped}", named(alg, Some(kid)));
        }
    }
    let wanted = named(alg, kid);
    let is_old = kid.is_some() && verifier.known_keys().iter().any(Key::is_of_set);
    let old = if is_old { "; is the JWK set older than the key?" } else { "" };
    format!("no key is configured for {wanted}; there is {}{old}", keys(verifier))
}

/// Why a signature does not hold, as far as can be found out.
fn forged(alg: &str, kid: Option<&str>, verifier: &Verifier, token: &str) -> String {
    if token.ends_with('.') {
        return "the token has no signature: its last part is empty".into();
    }
    if let Some(mistake) = verifier.known_keys().iter().find_map(|key| mistaken_secret(key, token)) {
        return format!("the signature of {alg} was made with {mistake}");
    }
    match (kid, verifier.known_keys()) {
        (_, [only]) => format!(
            "the signature of {alg} does not hold with the key that is configured, {}: another key made \
             it, or the token was altered",
            named(only.alg.name(), only.kid.as_deref())
        ),
        (Some(kid), _) => format!(
            "the signature does not hold with the key that its `kid` {} chooses: another key of {alg} \
             made it, or the token was altered",
            cut(kid)
        ),
        (None, _) => format!(
            "the signature of {alg} holds with none of the configured keys: another key made it, or the \
             token was altered; there is {}",
            keys(verifier)
        ),
    }
}

/// What else than the bytes of a key of HMAC a token was signed with, as happens.
fn mistaken_secret(key: &Key, token: &str) -> Option<&'static str> {
    let secret = key.signs.as_ref()?.as_bytes();
    let (message, signature) = token.rsplit_once('.')?;
    // Both alphabets, with and without padding, as one.
    let text = str::from_utf8(secret).unwrap_or_default();
    let base64 = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let pairs = |digits: &str| {
        let pair = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
        (0..digits.len()).step_by(2).map(pair).collect::<Option<Vec<u8>>>()
    };
    let candidates = [
        (
            Some([secret, b"\n"].concat()),
            "the key and the line break at the end of its file, which is no part of it",
        ),
        (
            URL_SAFE_NO_PAD.decode(base64).ok(),
            "what the text of the key is in base64: the key is that text itself, not decoded",
        ),
        (pairs(text), "what the text of the key is in hexadecimal: the key is that text itself, not decoded"),
    ];
    candidates.into_iter().find_map(|(secret, mistake)| {
        let key_of = DecodingKey::from_secret(&secret?);
        let holds = crypto::verifies(signature, message.as_bytes(), &key_of, algorithm(key.alg));
        holds.then_some(mistake)
    })
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
            Self::Info(bytes) => {
                write!(f, "the wshub_info claim has {bytes} bytes, at most {MOST_INFO} are taken")
            }
            Self::Nesting => write!(f, "the wshub_info claim nests deeper than {DEEPEST_INFO}"),
        }
    }
}

/// The keys by their names, for administrators.
fn keys(verifier: &Verifier) -> String {
    let names: Vec<_> =
        verifier.known_keys().iter().map(|key| named(key.alg.name(), key.kid.as_deref())).collect();
    match &*names {
        [] => "no key at all".to_owned(),
        names => some_of(names),
    }
}

/// A key as people name it.
fn named(alg: &str, kid: Option<&str>) -> String {
    let alg = short(alg);
    match kid {
        Some(kid) => format!("{alg} with the `kid` {}", cut(kid)),
        None => format!("{alg} without a `kid`"),
    }
}

/// As much as fits a sentence; a header may be longer than any key's name.
const SHOWN: usize = 40;

/// An issuer is an address.
const SHOWN_OF_CLAIM: usize = 100;

fn short(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

pub(in crate::edge) fn cut(kid: &str) -> String {
    format!("{:?}", kid.chars().take(SHOWN).collect::<String>())
}

/// So many of a list are named.
const NAMED: usize = 8;

fn some_of(texts: &[String]) -> String {
    let shown = texts[..texts.len().min(NAMED)].join(", ");
    match texts.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn quoted(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| format!("{:?}", text.chars().take(SHOWN_OF_CLAIM).collect::<String>())).collect()
}

/// Texts that are all there.
fn all_of(texts: &[String]) -> String {
    if texts.is_empty() { "nothing".to_owned() } else { some_of(&quoted(texts)) }
}

/// Texts of which one is wanted.
fn one_of(texts: &[String]) -> String {
    quoted(texts).join(" or ")
}

/// From one time to a later one, in whole seconds.
fn between(from: UnixTime, to: UnixTime) -> humantime::FormattedDuration {
    let seconds = to.0.saturating_sub(from.0).div_ceil(1000);
    humantime::format_duration(std::time::Duration::from_secs(seconds))
}
