//! What stands in a token.
//!
//! Knows the header and the claims as JSON, their types and bounds. Does not
//! know whether any of it is true: signatures and clocks are next door.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use serde::de;
use serde::de::{DeserializeSeed, IgnoredAny, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::hub::{Pattern, Rights, Terms};
use crate::protocol::frame::RateLimitEntry;
use crate::protocol::worker::DEEPEST_INFO;
use crate::protocol::{Grant, Payload, RateLimit, TokenId, UnixTime, whole};

/// The last second of the year 9999, the last that a frame can spell.
pub(in crate::edge) const LAST_SECOND: u64 = 253_402_300_799;

/// Most patterns that a token may carry, and most bytes of them: they are
/// matched at every request, and held as long as the connection.
pub(in crate::edge) const MOST_PATTERNS: usize = 32;
pub(in crate::edge) const MOST_PATTERN_BYTES: usize = 1024;

/// Reads a JSON object in UTF-8 (RFC 7519, section 3). Of what is not looked at serde alone
/// would not see whether it is.
pub(in crate::edge) fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
    let json = std::str::from_utf8(json).map_err(|_| "not UTF-8".to_owned())?;
    let object: serde_json::Result<Object<T>> = serde_json::from_str(json);
    object.map(|object| object.0).map_err(|error| plain(&error))
}

fn plain(error: &serde_json::Error) -> String {
    // Where in a text that nobody has in front of them: who makes tokens sees
    // names and values.
    let said = error.to_string();
    let what = said.rsplit_once(" at line ").map_or(&*said, |(what, _)| what);
    // JSON's words for what serde names otherwise.
    what.replace("type: map", "type: object")
        .replace("type: sequence", "type: list")
        .replace("a sequence", "a list")
}

/// A structure that is spelled as an object. serde alone would take an array of
/// its fields as well.
pub(in crate::edge) struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ObjectReader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for ObjectReader<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
                let fields = Unique { fields, seen: BTreeSet::new(), name: String::new() };
                T::deserialize(de::value::MapAccessDeserializer::new(fields)).map(Object)
            }
        }
        from.deserialize_map(ObjectReader(PhantomData))
    }
}

/// Fields of which each comes once, those that are not looked at too: names of claims are
/// unique (RFC 7519, section 4). One that cannot be read is named.
struct Unique<A> {
    fields: A,
    seen: BTreeSet<String>,
    /// Of the field whose value comes next.
    name: String,
}

impl<'de, A: de::MapAccess<'de>> de::MapAccess<'de> for Unique<A> {
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
pub(in crate::edge) struct Header {
    pub(in crate::edge) alg: String,
    pub(in crate::edge) kid: Option<String>,
    #[serde(default)]
    pub(in crate::edge) crit: Presence,
}

/// Whether a field is there, whatever it holds, `null` included.
#[derive(Default)]
pub(in crate::edge) struct Presence(bool);

impl Presence {
    pub(in crate::edge) fn is_present(&self) -> bool {
        self.0
    }
}

impl<'de> Deserialize<'de> for Presence {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Self(true))
    }
}

/// The claims that are looked at. Those that the configuration may leave out are read when
/// they are asked for: whatever else they hold is nobody's mistake.
#[derive(Deserialize)]
pub(in crate::edge) struct Claims {
    pub(in crate::edge) exp: Option<NumericDate>,
    pub(in crate::edge) nbf: Option<NumericDate>,
    #[serde(default)]
    iat: Unless<NumericDate>,
    #[serde(default)]
    jti: Unless<Name>,
    wshub_limits: Option<Object<Limits>>,
    wshub_info: Option<Box<RawValue>>,
    iss: Option<Box<RawValue>>,
    aud: Option<Box<RawValue>>,
    #[serde(alias = "userId")]
    user_id: Option<Box<RawValue>>,
    sub: Option<Box<RawValue>>,
    // `null` would be the rights of the configuration, where somebody meant none.
    #[serde(default, deserialize_with = "there")]
    wshub: Option<Object<Grant>>,
}

/// The members of the claim `wshub` that mean nothing here, with their names as JSON.
pub(in crate::edge) fn unknown_members(json: &[u8]) -> Vec<String> {
    let claim = all(json).remove("wshub");
    let members: Members<'_> = claim.and_then(|raw| value("wshub", raw).ok()).unwrap_or_default();
    members.into_keys().filter(|name| !Grant::MEMBERS.contains(&&**name)).collect()
}

/// What is there counts, `null` too.
fn there<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl Claims {
    /// The user that the token names by `user_id`, or else `sub`, and which it was.
    pub(in crate::edge) fn user(&self) -> Result<Option<(&'static str, String)>, String> {
        let by = |name, raw: &Option<Box<RawValue>>| {
            raw.as_deref().map(|raw| named(name, raw).map(|user| (name, user)))
        };
        by("user_id", &self.user_id).or_else(|| by("sub", &self.sub)).transpose()
    }

    /// Who made the token.
    pub(in crate::edge) fn issuer(&self) -> Result<Option<String>, String> {
        self.iss.as_deref().map(|raw| value("iss", raw)).transpose()
    }

    /// Whom it was made for, which is text or a list.
    pub(in crate::edge) fn audience(&self) -> Result<Vec<String>, String> {
        match self.aud.as_deref() {
            None => Ok(Vec::new()),
            Some(raw) if raw.get().starts_with('[') => value("aud", raw),
            Some(raw) => value("aud", raw).map(|one| vec![one]),
        }
    }

    /// When it was issued, where it says so in a form that can be read.
    pub(in crate::edge) fn issued_at(&self) -> Option<UnixTime> {
        self.iat.0.map(NumericDate::time)
    }

    /// What it says of its bearer, if it does.
    pub(in crate::edge) fn terms(&self) -> Result<Option<Rc<Terms>>, Excess> {
        let terms = Terms {
            limits: self.wshub_limits.as_ref().map(|limits| limits.0.allowance()),
            info: self.wshub_info.as_ref().map(|info| Ok(shown(&passed_on(info)?)?.clone())).transpose()?,
            // One that nobody could name in a revocation is none.
            jti: self.jti.0.as_ref().and_then(|name| TokenId::new(&name.0).ok()),
        };
        let says_nothing = terms == Terms::default();
        Ok((!says_nothing).then(|| Rc::new(terms)))
    }

    /// What the token itself allows, if it says anything of that.
    pub(in crate::edge) fn grant(self) -> Option<Grant> {
        self.wshub.map(|object| object.0)
    }
}

/// The claims of a token that is minted here, without those whose names the configuration
/// says.
#[derive(Serialize)]
pub(in crate::edge) struct Minted<'a> {
    pub(in crate::edge) iat: u64,
    pub(in crate::edge) exp: u64,
    pub(in crate::edge) jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::edge) wshub: Option<&'a Grant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::edge) wshub_limits: Option<RateLimitEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::edge) wshub_info: Option<&'a Payload>,
}

/// Most bytes of what others see of a bearer: it goes into every list.
pub(in crate::edge) const MOST_INFO: usize = 256;

/// What others are to see of a bearer, if it is not more than that.
pub(in crate::edge) fn shown(info: &Payload) -> Result<&Payload, Excess> {
    let bytes = info.json().len();
    if bytes > MOST_INFO { Err(Excess::Info(bytes)) } else { Ok(info) }
}

/// JSON as it came, in one line.
fn passed_on(info: &RawValue) -> Result<Payload, Excess> {
    // Its length is judged as it came: so nothing long is copied.
    if info.get().len() > MOST_INFO {
        return Err(Excess::Info(info.get().len()));
    }
    crate::protocol::passed_on("wshub_info", info, DEEPEST_INFO).map_err(|_| Excess::Nesting)
}

/// A claim that tokens have carried unread: one of another form says nothing.
struct Unless<T>(Option<T>);

impl<T> Default for Unless<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unless<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(from)?;
        Ok(Self(serde_json::from_str(text.get()).ok()))
    }
}

/// `wshub_limits`.
#[derive(Deserialize)]
struct Limits {
    rate: Amount,
    burst: Amount,
}

impl Limits {
    fn allowance(&self) -> RateLimit {
        RateLimit::asked_for(self.rate.0, self.burst.0)
    }
}

/// A number above 0.
struct Amount(f64);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wanted = "`rate` and `burst` of wshub_limits must be numbers above 0";
        let number = from.deserialize_any(Number).map_err(|_| de::Error::custom(wanted))?;
        if number > 0.0 { Ok(Self(number)) } else { Err(de::Error::custom(wanted)) }
    }
}

/// What to say of members that mean nothing: as a rule one is mistyped, and what it was
/// to allow is not allowed.
pub(in crate::edge) fn told(unknown: &[String]) -> String {
    let known = Grant::MEMBERS.join(", ");
    format!("its claim `wshub` has members that mean nothing: {unknown:?}; known are {known}")
}

/// What stands in an object, by its names, unread.
pub(in crate::edge) type Members<'a> = BTreeMap<String, &'a RawValue>;

/// All claims, by their names.
pub(in crate::edge) fn all(json: &[u8]) -> Members<'_> {
    read(json).unwrap_or_default()
}

/// The user that one claim names, if it is there.
pub(in crate::edge) fn user_by(claim: &str, json: &[u8]) -> Result<Option<String>, String> {
    let found = all(json).remove(claim).filter(|raw| raw.get() != "null");
    found.map(|raw| named(claim, raw)).transpose()
}

fn named(claim: &str, raw: &RawValue) -> Result<String, String> {
    value(claim, raw).map(|Name(user)| user)
}

/// What one of them holds.
pub(in crate::edge) fn value<'a, T: Deserialize<'a>>(claim: &str, raw: &'a RawValue) -> Result<T, String> {
    serde_json::from_str(raw.get()).map_err(|error| format!("`{claim}`: {}", plain(&error)))
}

/// Seconds since 1970 that a calendar can show, with a fraction where there is
/// one (RFC 7519, section 2).
#[derive(Clone, Copy)]
pub(in crate::edge) struct NumericDate(UnixTime);

impl NumericDate {
    pub(in crate::edge) fn time(self) -> UnixTime {
        self.0
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let seconds = from.deserialize_f64(Number)?;
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
struct Number;

impl de::Visitor<'_> for Number {
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
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl de::Visitor<'_> for Reader {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a whole number")
            }

            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                Ok(Name(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Name, E> {
                Ok(Name(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Name, E> {
                Ok(Name(number.to_string()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Name, E> {
                let digits = whole(&number.to_string()).map(|whole| Name(whole.to_string()));
                digits.ok_or_else(|| de::Error::invalid_type(de::Unexpected::Float(number), &self))
            }
        }
        from.deserialize_any(Reader)
    }
}

/// More than will be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excess {
    Patterns(usize),
    Bytes(usize),
    /// What others are to see.
    Info(usize),
    /// The same, too deep in brackets.
    Nesting,
}

/// What the `wshub` claim allows, if it is not more than will be looked at.
pub(in crate::edge) fn rights(grant: &Grant) -> Result<Rights, Excess> {
    let all = || [&grant.subscribe, &grant.publish, &grant.interrupt].into_iter().flatten();
    let (count, bytes) = (all().count(), all().map(String::len).sum::<usize>());
    if count > MOST_PATTERNS {
        return Err(Excess::Patterns(count));
    }
    if bytes > MOST_PATTERN_BYTES {
        return Err(Excess::Bytes(bytes));
    }
    let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
    Ok(Rights {
        subscribe: patterns(&grant.subscribe),
        publish: patterns(&grant.publish),
        interrupt: patterns(&grant.interrupt),
        admin: grant.admin,
    })
}
