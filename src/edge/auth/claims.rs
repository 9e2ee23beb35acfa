//! Header and claims of a token as JSON: their types and bounds, its times, issuer and audience.
//!
//! Nothing here is proven: signatures are checked by `keys`, and revocations in
//! [`jwt`](super::jwt).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use serde::de;
use serde::de::{DeserializeSeed, IgnoredAny, IntoDeserializer};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::error::TokenError;
use crate::config::RequiredClaims;
use crate::hub::{Pattern, Rights, Terms};
use crate::protocol::worker::DEEPEST_INFO;
use crate::protocol::{Grant, Payload, RateLimit, TokenId, UnixTime, whole};

/// Longest token. Headers and URLs of 8 KiB hold it with room to spare.
pub const LONGEST_TOKEN: usize = 4096;

/// How long before its `nbf` a token is valid: the clocks of two machines with NTP differ by
/// less.
pub const EARLY: Duration = Duration::from_secs(5);

/// The last second of the year 9999, the last that a frame can spell.
pub(super) const LAST_SECOND: u64 = 253_402_300_799;

/// Most patterns that a token may carry, and most bytes of them: they are
/// matched at every request, and held as long as the connection.
pub(super) const MOST_PATTERNS: usize = 32;
pub(super) const MOST_PATTERN_BYTES: usize = 1024;

/// Reads a JSON object in UTF-8 (RFC 7519, section 3). In members that are ignored serde alone
/// would not check the encoding.
pub(super) fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
    let json = std::str::from_utf8(json).map_err(|_| "not UTF-8".to_owned())?;
    let object: serde_json::Result<Object<T>> = serde_json::from_str(json);
    object.map(|object| object.0).map_err(|error| plain(&error))
}

fn plain(error: &serde_json::Error) -> String {
    // Line and column would be those of a decoded text, which no log shows.
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(&*text, |(what, _)| what);
    // The names of JSON in the place of serde's.
    what.replace("type: map", "type: object")
        .replace("type: sequence", "type: list")
        .replace("a sequence", "a list")
}

/// A struct that is written as an object. serde alone would accept an array of its fields as
/// well.
pub(super) struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ObjectReader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for ObjectReader<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
                let fields = UniqueFields { fields, seen: BTreeSet::new(), name: String::new() };
                T::deserialize(de::value::MapAccessDeserializer::new(fields)).map(Object)
            }
        }
        from.deserialize_map(ObjectReader(PhantomData))
    }
}

/// Fields of which each comes once, ignored ones included: names of claims are unique
/// (RFC 7519, section 4). Errors name the field.
struct UniqueFields<A> {
    fields: A,
    seen: BTreeSet<String>,
    /// The field whose value comes next.
    name: String,
}

impl<'de, A: de::MapAccess<'de>> de::MapAccess<'de> for UniqueFields<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(name) = self.fields.next_key::<String>()? else { return Ok(None) };
        if self.seen.contains(&name) {
            return Err(de::Error::custom(format_args!("duplicate field `{name}`")));
        }
        let field = seed.deserialize(name.as_str().into_deserializer())?;
        self.name.clone_from(&name);
        self.seen.insert(name);
        Ok(Some(field))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        let name = &self.name;
        self.fields
            .next_value_seed(seed)
            .map_err(|error| de::Error::custom(format_args!("`{name}`: {error}")))
    }
}

/// The header. A field that is there twice is refused, as it is in claims: two
/// readers might not take the same one.
#[derive(Deserialize)]
pub(super) struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default)]
    crit: FieldPresence,
}

impl Header {
    pub(super) fn alg(&self) -> &str {
        &self.alg
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The `alg` and `kid` that name its key.
    pub(super) fn into_key_name(self) -> (String, Option<String>) {
        (self.alg, self.kid)
    }

    /// Whether it requires extensions (`crit`).
    pub(super) fn is_critical(&self) -> bool {
        self.crit.0
    }
}

/// Whether a field is there, whatever it holds, `null` included.
#[derive(Default)]
struct FieldPresence(bool);

impl<'de> Deserialize<'de> for FieldPresence {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Self(true))
    }
}

/// The claims that count. Those that only some configurations require are parsed on request:
/// for the others any content of them is right.
#[derive(Deserialize)]
pub(super) struct Claims {
    exp: Option<NumericDate>,
    nbf: Option<NumericDate>,
    #[serde(default)]
    iat: Lenient<NumericDate>,
    #[serde(default)]
    jti: Lenient<TextOrNumber>,
    wshub_limits: Option<Object<LimitsClaim>>,
    wshub_info: Option<Box<RawValue>>,
    iss: Option<Box<RawValue>>,
    aud: Option<Box<RawValue>>,
    #[serde(alias = "userId")]
    user_id: Option<Box<RawValue>>,
    sub: Option<Box<RawValue>>,
    // `null` is an error: as a missing claim it would mean the rights of the configuration,
    // where its maker meant none.
    #[serde(default, deserialize_with = "even_null")]
    wshub: Option<Object<Grant>>,
}

/// The members of the claim `wshub` that are unknown here.
pub(super) fn unknown_members(json: &[u8]) -> Vec<String> {
    let claim = all(json).remove("wshub");
    let members: Members<'_> = claim.and_then(|raw| value("wshub", raw).ok()).unwrap_or_default();
    members.into_keys().filter(|name| !Grant::MEMBERS.contains(&&**name)).collect()
}

/// Reads a value even where it is `null`.
fn even_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl Claims {
    /// Checks that its life has begun and not ended; its end, if it has one.
    pub(super) fn check_times(
        &self,
        wanted: &RequiredClaims,
        now: UnixTime,
    ) -> Result<Option<UnixTime>, TokenError> {
        let expires_at = self.expires_at();
        if expires_at.is_none() && wanted.end {
            return Err(TokenError::NoExpiry);
        }
        if let Some(end) = expires_at.filter(|end| now >= *end) {
            return Err(TokenError::Expired(end));
        }
        let early = u64::try_from(EARLY.as_millis()).unwrap_or(u64::MAX);
        if let Some(from) = self.not_before().filter(|from| from.0 > now.0.saturating_add(early)) {
            return Err(TokenError::NotYet(from));
        }
        Ok(expires_at)
    }

    /// Checks issuer and audience, where the configuration names some.
    pub(super) fn check_origin(&self, wanted: &RequiredClaims) -> Result<(), TokenError> {
        let RequiredClaims { issuers, audiences, .. } = wanted;
        if !issuers.is_empty() {
            let issuer = self.issuer().map_err(TokenError::Claims)?;
            if !issuer.as_ref().is_some_and(|issuer| issuers.contains(issuer)) {
                return Err(TokenError::Issuer(issuer));
            }
        }
        if !audiences.is_empty() {
            let audience = self.audience().map_err(TokenError::Claims)?;
            if !audience.iter().any(|one| audiences.contains(one)) {
                return Err(TokenError::Audience(audience));
            }
        }
        Ok(())
    }

    /// The end of its life.
    pub(super) fn expires_at(&self) -> Option<UnixTime> {
        self.exp.map(|date| date.0)
    }

    /// The begin of its life.
    pub(super) fn not_before(&self) -> Option<UnixTime> {
        self.nbf.map(|date| date.0)
    }

    /// The user that the token names by `user_id`, or else `sub`, and the name of that claim.
    pub(super) fn user(&self) -> Result<Option<(&'static str, String)>, String> {
        let by = |name, raw: &Option<Box<RawValue>>| {
            raw.as_deref().map(|raw| user_in(name, raw).map(|user| (name, user)))
        };
        by("user_id", &self.user_id).or_else(|| by("sub", &self.sub)).transpose()
    }

    /// The issuer, if it names one.
    pub(super) fn issuer(&self) -> Result<Option<String>, String> {
        self.iss.as_deref().map(|raw| value("iss", raw)).transpose()
    }

    /// The audience, which is text or a list.
    pub(super) fn audience(&self) -> Result<Vec<String>, String> {
        match self.aud.as_deref() {
            None => Ok(Vec::new()),
            Some(raw) if raw.get().starts_with('[') => value("aud", raw),
            Some(raw) => value("aud", raw).map(|one| vec![one]),
        }
    }

    /// When it was issued, if it says so in a valid form.
    pub(super) fn issued_at(&self) -> Option<UnixTime> {
        self.iat.0.map(|date| date.0)
    }

    /// The terms that it sets for its bearer, if any.
    pub(super) fn terms(&self) -> Result<Option<Rc<Terms>>, ClaimExcess> {
        let terms = Terms {
            limits: self.wshub_limits.as_ref().map(|limits| limits.0.allowance()),
            info: self.wshub_info.as_ref().map(|info| Ok(shown(&passed_on(info)?)?.clone())).transpose()?,
            // An id that no revocation could name is ignored.
            jti: self.jti.0.as_ref().and_then(|name| TokenId::new(&name.0).ok()),
        };
        let says_nothing = terms == Terms::default();
        Ok((!says_nothing).then(|| Rc::new(terms)))
    }

    /// The rights that the token itself grants, if it names any.
    pub(super) fn grant(self) -> Option<Grant> {
        self.wshub.map(|object| object.0)
    }
}

/// Most bytes of the public information about a bearer: it goes into every list.
pub(super) const MOST_INFO: usize = 256;

/// The public information about a bearer, if it is within its bound.
pub(super) fn shown(info: &Payload) -> Result<&Payload, ClaimExcess> {
    let bytes = info.json().len();
    if bytes > MOST_INFO { Err(ClaimExcess::Info(bytes)) } else { Ok(info) }
}

/// JSON as it was sent, in one line.
fn passed_on(info: &RawValue) -> Result<Payload, ClaimExcess> {
    // Checked before it is reduced to one line: so nothing long is copied.
    if info.get().len() > MOST_INFO {
        return Err(ClaimExcess::Info(info.get().len()));
    }
    crate::protocol::passed_on("wshub_info", info, DEEPEST_INFO).map_err(|_| ClaimExcess::Nesting)
}

/// A claim that earlier versions ignored: one of another form is ignored still.
struct Lenient<T>(Option<T>);

impl<T> Default for Lenient<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(from)?;
        Ok(Self(serde_json::from_str(text.get()).ok()))
    }
}

/// `wshub_limits`.
#[derive(Deserialize)]
struct LimitsClaim {
    rate: Amount,
    burst: Amount,
}

impl LimitsClaim {
    fn allowance(&self) -> RateLimit {
        RateLimit::asked_for(self.rate.0, self.burst.0)
    }
}

/// A number above 0.
struct Amount(f64);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wanted = "`rate` and `burst` of wshub_limits must be numbers above 0";
        let number = from.deserialize_any(NumberVisitor).map_err(|_| de::Error::custom(wanted))?;
        if number > 0.0 { Ok(Self(number)) } else { Err(de::Error::custom(wanted)) }
    }
}

/// The warning about unknown members: as a rule one is mistyped, and what it was to allow is
/// not allowed.
pub(super) fn unknown_members_warning(unknown: &[String]) -> String {
    let known = Grant::MEMBERS.join(", ");
    format!("its claim `wshub` has members that mean nothing: {unknown:?}; known are {known}")
}

/// The members of an object by their names, not parsed yet.
pub(super) type Members<'a> = BTreeMap<String, &'a RawValue>;

/// All claims, by their names.
pub(super) fn all(json: &[u8]) -> Members<'_> {
    read(json).unwrap_or_default()
}

/// The user that one claim names, if it is there.
pub(super) fn user_by(claim: &str, json: &[u8]) -> Result<Option<String>, String> {
    let found = all(json).remove(claim).filter(|raw| raw.get() != "null");
    found.map(|raw| user_in(claim, raw)).transpose()
}

fn user_in(claim: &str, raw: &RawValue) -> Result<String, String> {
    value(claim, raw).map(|TextOrNumber(user)| user)
}

/// The value of one of them.
pub(super) fn value<'a, T: Deserialize<'a>>(claim: &str, raw: &'a RawValue) -> Result<T, String> {
    serde_json::from_str(raw.get()).map_err(|error| format!("`{claim}`: {}", plain(&error)))
}

/// Seconds since 1970 that a calendar can show, with a fraction where there is
/// one (RFC 7519, section 2).
#[derive(Clone, Copy)]
struct NumericDate(UnixTime);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let seconds = from.deserialize_f64(NumberVisitor)?;
        if seconds.is_sign_negative() {
            return Err(de::Error::custom("a time before 1970"));
        }
        // All that a calendar can show is exact to the millisecond in an f64.
        let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| time.as_secs() <= LAST_SECOND);
        let millis = time.and_then(|time| u64::try_from(time.as_millis()).ok());
        let beyond = || {
            let milliseconds = if seconds < 1e16 { ", and these look like milliseconds" } else { "" };
            de::Error::custom(format_args!("a time beyond the year 9999; claims count seconds{milliseconds}"))
        };
        Ok(Self(UnixTime(millis.ok_or_else(beyond)?)))
    }
}

/// A number of any spelling.
struct NumberVisitor;

impl de::Visitor<'_> for NumberVisitor {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of seconds")
    }

    fn visit_u64<E>(self, number: u64) -> Result<f64, E> {
        Ok(number as f64)
    }

    fn visit_i64<E>(self, number: i64) -> Result<f64, E> {
        Ok(number as f64)
    }

    fn visit_f64<E>(self, number: f64) -> Result<f64, E> {
        Ok(number)
    }
}

/// Text, or a whole number by its digits.
struct TextOrNumber(String);

impl<'de> Deserialize<'de> for TextOrNumber {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextOrNumberVisitor;
        impl de::Visitor<'_> for TextOrNumberVisitor {
            type Value = TextOrNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a whole number")
            }

            fn visit_str<E>(self, text: &str) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(number.to_string()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<TextOrNumber, E> {
                let digits = whole(&number.to_string()).map(|whole| TextOrNumber(whole.to_string()));
                digits.ok_or_else(|| de::Error::invalid_type(de::Unexpected::Float(number), &self))
            }
        }
        from.deserialize_any(TextOrNumberVisitor)
    }
}

/// A bound on claims that a token exceeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimExcess {
    Patterns(usize),
    Bytes(usize),
    /// Bytes of the public information.
    Info(usize),
    /// Brackets in it, too deep.
    Nesting,
}

/// The rights that the `wshub` claim grants, if they are within the bounds.
pub(super) fn rights(grant: &Grant) -> Result<Rights, ClaimExcess> {
    let all = || [&grant.subscribe, &grant.publish, &grant.interrupt].into_iter().flatten();
    let (count, bytes) = (all().count(), all().map(String::len).sum::<usize>());
    if count > MOST_PATTERNS {
        return Err(ClaimExcess::Patterns(count));
    }
    if bytes > MOST_PATTERN_BYTES {
        return Err(ClaimExcess::Bytes(bytes));
    }
    let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
    Ok(Rights {
        subscribe: patterns(&grant.subscribe),
        publish: patterns(&grant.publish),
        interrupt: patterns(&grant.interrupt),
        admin: grant.admin,
    })
}
