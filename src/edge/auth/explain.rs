//! Explanations of refused and of unusual tokens, for administrators.
//!
//! They name keys and options of the configuration, so they go into the log and to
//! `wshubctl token check`, and never to the bearer.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::claims;
use super::claims::LONGEST_TOKEN;
use super::error::TokenError;
use super::keys::{Key, KeyRing, MOST_TRIED};
use super::quote::{all_of, cut, key_name, one_of, short, some_of};
use crate::config::RequiredClaims;
use crate::protocol::UnixTime;

/// The keys and claims that tokens are checked against. Those of the moment: a refusal is
/// explained at once, before a reload could change them.
pub(super) struct Requirements<'a> {
    keys: &'a KeyRing,
    claims: &'a RequiredClaims,
}

impl<'a> Requirements<'a> {
    pub(super) fn new(keys: &'a KeyRing, claims: &'a RequiredClaims) -> Self {
        Self { keys, claims }
    }

    /// Why a token is refused, and the option that decides.
    pub(super) fn explain(&self, error: &TokenError, token: &str, now: UnixTime) -> String {
        match error {
            TokenError::TooLong(bytes) => {
                format!("the token has {bytes} bytes, at most {LONGEST_TOKEN} are looked at")
            }
            TokenError::Malformed => format!(
                "this is not a token: three parts of base64url with dots between them are wanted, \
                 header.payload.signature; {}",
                misshapen(token)
            ),
            TokenError::NoKey { alg, kid } => self.keyless(alg, kid.as_deref()),
            TokenError::AmbiguousKey { alg, fitting } => format!(
                "the header has no `kid`, and {fitting} keys of {} may have made the token, of which at most \
                 {MOST_TRIED} are tried: have its maker put the `kid` of its key into the header, or configure \
                 fewer keys",
                short(alg)
            ),
            TokenError::BadSignature { alg, kid } => self.forged(alg, kid.as_deref(), token),
            TokenError::NoExpiry => {
                format!("{}; `[auth] require_exp = false` takes tokens without", error.fault().message)
            }
            // A time of that kind would have been in 1973 at the latest.
            TokenError::Expired(end) if end.0 < 100_000_000_000 => format!(
                "the token ended at {end}: `exp` is a time, in seconds since 1970, and this looks like a \
                 duration"
            ),
            TokenError::Expired(end) => format!("the token ended at {end}, {} ago", between(*end, now)),
            TokenError::NotYet(begin) => {
                format!(
                    "the token begins at {begin} (`nbf`), in {}: do the clocks differ?",
                    between(now, *begin)
                )
            }
            TokenError::Issuer(has) => {
                let has = has.as_ref().map_or("no `iss`".to_owned(), |has| format!("the `iss` {}", cut(has)));
                format!("the token has {has}, and `[auth] issuer` wants {}", one_of(&self.claims.issuers))
            }
            TokenError::Audience(has) => {
                let has =
                    if has.is_empty() { "no `aud`".to_owned() } else { format!("the `aud` {}", all_of(has)) };
                format!("the token has {has}, and `[auth] audience` wants {}", one_of(&self.claims.audiences))
            }
            TokenError::NoUser(has) => {
                let wanted = match &self.claims.user {
                    Some(claim) => format!("the claims have no {claim:?}, which `[auth] user_claim` wants"),
                    None => "the claims name no user: `user_id` or `sub`".to_owned(),
                };
                format!("{wanted}; there is {}", all_of(has))
            }
            TokenError::BadUser(refusal) => format!(
                "{}: a user is 1 to 128 bytes without control characters; `[auth] user_claim` takes another \
                 claim",
                refusal.message
            ),
            TokenError::OutOfBounds(excess) => excess.to_string(),
            TokenError::Header(_) | TokenError::Critical | TokenError::Claims(_) | TokenError::Revoked(_) => {
                error.fault().message
            }
        }
    }

    /// Why no key fits a header.
    fn keyless(&self, alg: &str, kid: Option<&str>) -> String {
        if alg.eq_ignore_ascii_case("none") {
            return "the token is not signed: its `alg` is none".into();
        }
        if let Some(kid) = kid {
            if let Some(key) = self.keys.keys().iter().find(|key| key.kid() == Some(kid)) {
                let (alg, kid) = (short(alg), cut(kid));
                return format!(
                    "the key with the `kid` {kid} is for {}, and the token says {alg}",
                    key.alg().name()
                );
            }
            if let Some(skipped) = self.keys.skipped().iter().find(|skipped| skipped.kid() == Some(kid)) {
                return format!("no key is configured for {}; {skipped}", key_name(alg, Some(kid)));
            }
        }
        let wanted = key_name(alg, kid);
        let is_old = kid.is_some() && self.keys.keys().iter().any(Key::is_of_set);
        let old = if is_old { "; is the JWK set older than the key?" } else { "" };
        format!("no key is configured for {wanted}; there is {}{old}", self.key_names())
    }

    /// Why a signature does not hold, as far as that can be found out.
    fn forged(&self, alg: &str, kid: Option<&str>, token: &str) -> String {
        if token.ends_with('.') {
            return "the token has no signature: its last part is empty".into();
        }
        if let Some(mistake) = self.keys.keys().iter().find_map(|key| key.material().find_mistake(token)) {
            return format!("the signature of {alg} was made with {mistake}");
        }
        match (kid, self.keys.keys()) {
            (_, [only]) => format!(
                "the signature of {alg} does not hold with the key that is configured, {}: another key made \
                 it, or the token was altered",
                key_name(only.alg().name(), only.kid())
            ),
            (Some(kid), _) => format!(
                "the signature does not hold with the key that its `kid` {} chooses: another key of {alg} \
                 made it, or the token was altered",
                cut(kid)
            ),
            (None, _) => format!(
                "the signature of {alg} holds with none of the configured keys: another key made it, or the \
                 token was altered; there is {}",
                self.key_names()
            ),
        }
    }

    /// The configured keys by their names.
    fn key_names(&self) -> String {
        let names: Vec<_> =
            self.keys.keys().iter().map(|key| key_name(key.alg().name(), key.kid())).collect();
        match &*names {
            [] => "no key at all".to_owned(),
            names => some_of(names),
        }
    }
}

/// Warnings about a token that holds.
pub(super) fn warnings(token: &str, payload: &[u8], key: &Key, now: UnixTime) -> Vec<String> {
    let unknown = claims::unknown_members(payload);
    let mut warnings: Vec<String> =
        (!unknown.is_empty()).then(|| claims::unknown_members_warning(&unknown)).into_iter().collect();
    let issued = claims::all(payload).get("iat").and_then(|raw| raw.get().parse::<f64>().ok());
    // `nbf` may be ahead by less than a minute where clocks differ.
    if let Some(ahead) = issued.map(|issued| issued - now.0 as f64 / 1000.0).filter(|ahead| *ahead > 60.0) {
        let ahead = if ahead < 1e9 { format!("{ahead:.0} s") } else { "very far".to_owned() };
        warnings.push(format!(
            "`iat` lies {ahead} ahead, and revocations go by it: none that is made before then counts for this \
             token; do the clocks differ?"
        ));
    }
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let header = header.and_then(|header| claims::read::<claims::Header>(&header).ok());
    if let (Some(kid), None) = (header.as_ref().and_then(|header| header.kid()), key.kid()) {
        let kid = cut(kid);
        warnings.push(format!("its `kid` {kid} is not looked at: one key is configured, without a `kid`"));
    }
    warnings
}

/// Why a text is not three parts of base64url.
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

/// From one time to a later one, in whole seconds.
fn between(from: UnixTime, to: UnixTime) -> humantime::FormattedDuration {
    let seconds = to.0.saturating_sub(from.0).div_ceil(1000);
    humantime::format_duration(std::time::Duration::from_secs(seconds))
}
