//! The fields of requests, each still the JSON text that came, and their types.
//!
//! All fields that any request has stand in one table. An error names its field.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::ids::LONGEST_NAME;
use super::message::Payload;
use super::refusal::{Code, Refusal};

/// How deep `data` may nest: what parsers of clients follow without trouble.
const DEEPEST: usize = 128;

/// Declares the fields: each with its name on the wire, and one more that is understood.
macro_rules! fields {
    ($($field:ident: $name:literal $(| $also:literal)?,)*) => {
        /// A field that some request has.
        #[derive(Clone, Copy)]
        pub(super) enum Field {
            $($field,)*
        }

        impl Field {
            const NAMES: &[&str] = &[$($name,)*];

            /// The field of a name, if any request has one of that name.
            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name $(| $also)? => Some(Self::$field),)*
                    _ => None,
                }
            }
        }
    };
}

fields! {
    Id: "id",
    Action: "action",
    Channel: "channel",
    Channels: "channels",
    Since: "since",
    Presence: "presence",
    Event: "event",
    Type: "type",
    Data: "data",
    ConnectionId: "connection_id" | "connectionId",
    UserId: "user_id" | "userId",
    All: "all",
    Ttl: "ttl",
    Durable: "durable",
    Echo: "echo",
    MessageId: "message_id",
    Receipt: "receipt",
    OperationId: "operation_id",
    Reason: "reason",
    Epoch: "epoch",
    Seq: "seq",
    Read: "read",
    Token: "token",
    Inbox: "inbox",
    Label: "label",
    Deadline: "deadline",
    InterruptGrace: "interrupt_grace",
    State: "state",
    After: "after",
    Subscribe: "subscribe",
    Publish: "publish",
    Interrupt: "interrupt",
    Admin: "admin",
    Limits: "limits",
    Rate: "rate",
    Burst: "burst",
    Info: "info",
    Jti: "jti",
    Revoke: "revoke",
}

impl Field {
    /// The name of the field on the wire.
    pub(super) fn name(self) -> &'static str {
        Self::NAMES.get(self as usize).copied().unwrap_or_default()
    }
}

/// The text of one value, if there is one.
type Raw<'a> = Option<&'a RawValue>;

/// One request as it came. `null` counts as missing, unknown fields are
/// ignored, a field that comes twice is an error.
pub(super) struct Fields<'a>([Raw<'a>; Field::NAMES.len()]);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        const { assert!(Field::NAMES.len() <= 64, "as many as `seen` has bits") };
        let mut fields = Fields([None; Field::NAMES.len()]);
        // One that is `null` was there as well.
        let mut seen = 0u64;
        while let Some(FieldKey(key)) = map.next_key()? {
            let Some(field) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let bit = 1 << field as u32;
            if seen & bit != 0 {
                return Err(A::Error::duplicate_field(field.name()));
            }
            seen |= bit;
            let value = map.next_value()?;
            if let Some(place) = fields.0.get_mut(field as usize) {
                *place = value;
            }
        }
        Ok(fields)
    }
}

/// A key of an object, if it is that of a field.
struct FieldKey(Option<Field>);

impl<'de> Deserialize<'de> for FieldKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = FieldKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<FieldKey, E> {
                Ok(FieldKey(Field::named(name)))
            }
        }
        from.deserialize_identifier(KeyVisitor)
    }
}

fn wrong(field: &str, wanted: &str) -> Refusal {
    Refusal::new(Code::BadRequest, format!("`{field}` must be {wanted}"))
}

pub(super) fn missing(field: &str) -> Refusal {
    Refusal::new(Code::BadRequest, format!("`{field}` is missing"))
}

impl<'a> Fields<'a> {
    /// Reads one object.
    ///
    /// # Errors
    /// `bad_json` for what is no JSON object, `bad_request` for a field that
    /// comes twice.
    pub(super) fn read(text: &'a str) -> Result<Self, Refusal> {
        if is_list_or_string(text) {
            return Err(Refusal::new(
                Code::BadJson,
                "a JSON object is wanted, and this is a list or a string",
            ));
        }
        serde_json::from_str(text).map_err(|error| {
            let message = error.to_string();
            let is_duplicate = message.starts_with("duplicate field");
            Refusal::new(if is_duplicate { Code::BadRequest } else { Code::BadJson }, message)
        })
    }

    fn raw(&self, field: Field) -> Raw<'a> {
        self.0.get(field as usize).copied().flatten()
    }

    fn text(&self, field: Field) -> Option<&'a str> {
        self.raw(field).map(RawValue::get)
    }

    /// Whether the field has a value.
    pub(super) fn has(&self, field: Field) -> bool {
        self.raw(field).is_some()
    }

    /// A string; without escapes it is not copied.
    pub(super) fn string(&self, field: Field) -> Result<Option<Cow<'a, str>>, Refusal> {
        string(field.name(), self.raw(field))
    }

    pub(super) fn boolean(&self, field: Field) -> Result<Option<bool>, Refusal> {
        match self.text(field) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(wrong(field.name(), "true or false")),
        }
    }

    /// An id: a string, or a whole number by its digits, as back ends have them that number
    /// their users.
    pub(super) fn id(&self, field: Field) -> Result<Option<Cow<'a, str>>, Refusal> {
        match self.text(field) {
            Some(text) if !text.starts_with('"') => {
                let digits = whole(text).map(|number| Cow::Owned(number.to_string()));
                digits.map(Some).ok_or_else(|| wrong(field.name(), "a string or a whole number"))
            }
            _ => self.string(field),
        }
    }

    /// Whole numbers from 0, below 2^53.
    pub(super) fn number(&self, field: Field) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.text(field) else { return Ok(None) };
        let number =
            whole(text).and_then(|number| u64::try_from(number).ok()).filter(|number| *number < EXACT);
        number.map(Some).ok_or_else(|| wrong(field.name(), "a whole number from 0 to 2^53 - 1"))
    }

    /// Any number above 0.
    pub(super) fn positive(&self, field: Field) -> Result<Option<f64>, Refusal> {
        let Some(text) = self.text(field) else { return Ok(None) };
        let number = serde_json::from_str::<f64>(text).ok().filter(|number| *number > 0.0);
        number.map(Some).ok_or_else(|| wrong(field.name(), "a number above 0"))
    }

    /// A list of strings.
    pub(super) fn strings(&self, field: Field) -> Result<Option<Vec<String>>, Refusal> {
        let Some(text) = self.text(field) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|_| wrong(field.name(), "a list of strings"))
    }

    /// Seconds, with or without a fraction.
    pub(super) fn duration(&self, field: Field) -> Result<Option<Duration>, Refusal> {
        let Some(text) = self.text(field) else { return Ok(None) };
        let seconds =
            serde_json::from_str::<f64>(text).map_err(|_| wrong(field.name(), "a number of seconds"))?;
        Duration::try_from_secs_f64(seconds)
            .map(Some)
            .map_err(|_| wrong(field.name(), "a number of seconds, not below 0"))
    }

    /// An object inside the request.
    pub(super) fn object(&self, field: Field) -> Result<Option<Self>, Refusal> {
        self.text(field).map(|text| object(field.name(), text)).transpose()
    }

    /// A list of objects inside the request.
    pub(super) fn objects(&self, field: Field) -> Result<Option<Vec<Self>>, Refusal> {
        let Some(text) = self.text(field) else { return Ok(None) };
        let list: Vec<&RawValue> =
            serde_json::from_str(text).map_err(|_| wrong(field.name(), "a list of objects"))?;
        list.into_iter().map(|raw| object(field.name(), raw.get())).collect::<Result<_, _>>().map(Some)
    }

    /// `data`, as the text that came; missing means null.
    pub(super) fn payload(&self) -> Result<Payload, Refusal> {
        Ok(self.passed_on(Field::Data, DEEPEST)?.unwrap_or_else(Payload::null))
    }

    /// JSON that is passed on as the text that came; it may nest so deep.
    pub(super) fn passed_on(&self, field: Field, deepest: usize) -> Result<Option<Payload>, Refusal> {
        self.raw(field).map(|raw| passed_on(field.name(), raw, deepest)).transpose()
    }
}

/// serde would take a list for an object, as its fields in their order, and repeat all of a
/// string in its error, escaped: an answer several times as long as the request.
fn is_list_or_string(text: &str) -> bool {
    text.trim_ascii_start().starts_with(['[', '"'])
}

fn object<'a>(name: &str, text: &'a str) -> Result<Fields<'a>, Refusal> {
    if !text.starts_with('{') {
        return Err(wrong(name, "an object"));
    }
    Fields::read(text)
        .map_err(|refusal| Refusal::new(Code::BadRequest, format!("`{name}`: {}", refusal.message)))
}

/// A string; without escapes it is not copied.
fn string<'a>(field: &str, raw: Raw<'a>) -> Result<Option<Cow<'a, str>>, Refusal> {
    let Some(text) = raw.map(RawValue::get) else { return Ok(None) };
    let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else {
        return Err(wrong(field, "a string"));
    };
    if inner.contains('\\') {
        // The only strings that are valid JSON and no Rust string: lone surrogates.
        let whole = serde_json::from_str(text).map_err(|_| wrong(field, "a string of Unicode characters"))?;
        return Ok(Some(Cow::Owned(whole)));
    }
    Ok(Some(Cow::Borrowed(inner)))
}

/// Whole numbers below this are exact as floats as well.
const EXACT: u64 = 1 << 53;

/// A whole number of up to 64 bits, however it is spelled: some libraries have floats only,
/// and write `42.0`.
pub(crate) fn whole(text: &str) -> Option<i128> {
    let digits = text.parse::<i128>().ok();
    let number = digits.or_else(|| {
        let float: f64 = text.parse().ok()?;
        (float.fract() == 0.0 && float.abs() < EXACT as f64).then_some(float as i128)
    });
    number.filter(|number| (i64::MIN.into()..=u64::MAX.into()).contains(number))
}

/// JSON that is passed on as the text that came, in one line; it may nest so deep.
pub(crate) fn passed_on(field: &str, raw: &RawValue, deepest: usize) -> Result<Payload, Refusal> {
    let text = raw.get();
    // Depth cannot exceed the number of opening brackets, which costs next to
    // nothing to count; only what has many of them is looked at closely.
    if memchr::memchr2_iter(b'[', b'{', text.as_bytes()).count() >= deepest && depth(text) > deepest {
        return Err(Refusal::new(Code::BadRequest, format!("`{field}` nests deeper than {deepest}")));
    }
    if memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_none() {
        return Ok(Payload::new(raw.to_owned()));
    }
    // A raw line break is white space in JSON, and the end of a worker's line.
    let one_line = text.replace(['\n', '\r'], " ");
    let raw = RawValue::from_string(one_line).map_err(|_| wrong(field, "JSON"))?;
    Ok(Payload::new(raw))
}

/// How deep the brackets nest outside of strings.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What a request's answer echoes: a string or a number, as the text that came.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(Rc<str>);

impl RequestId {
    /// The id of a request, if it has one.
    pub(super) fn of(fields: &Fields<'_>) -> Result<Option<Self>, Refusal> {
        Self::read(fields.raw(Field::Id))
    }

    fn read(raw: Raw<'_>) -> Result<Option<Self>, Refusal> {
        let Some(text) = raw.map(RawValue::get) else { return Ok(None) };
        if let Some(string) = string("id", raw).ok().flatten() {
            if string.len() > LONGEST_NAME {
                return Err(Refusal::new(Code::TooLarge, format!("`id` is over {LONGEST_NAME} bytes")));
            }
            if string.is_empty() || string.chars().any(char::is_control) {
                return Err(wrong("id", "a string or number without control characters"));
            }
        } else if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) || text.len() > LONGEST_NAME {
            return Err(wrong("id", "a string or a number"));
        }
        Ok(Some(Self(text.into())))
    }

    /// The id of a request that is an object and yet cannot be read, so that its answer
    /// reaches the caller that waits for it.
    pub(super) fn of_unreadable(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct IdOnly<'a> {
            #[serde(borrow)]
            id: Raw<'a>,
        }
        if is_list_or_string(text) {
            return None;
        }
        let only: IdOnly<'_> = serde_json::from_str(text).ok()?;
        Self::read(only.id).ok().flatten()
    }

    /// The JSON text of the id.
    pub fn json(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use crate::protocol::refusal::Code;
    use crate::protocol::{HubRequest, Publication, Request, Target, client, http, worker};

    #[test]
    fn a_list_is_no_request_and_has_no_id() {
        let whole = format!("[1,\"ping\"{}]", ",null".repeat(27));
        for text in [r#"["id"]"#, " [1]", "[]", whole.as_str()] {
            for parsed in [client::parse(text), worker::parse(text.as_bytes())] {
                let wrong = parsed.unwrap_err();
                assert_eq!((wrong.id, wrong.refusal.code), (None, Code::BadJson), "{text}");
            }
        }
    }

    #[test]
    fn nothing_but_an_object_is_taken_for_one_inside_a_request() {
        for text in [
            r#"{"action":"subscribe","channel":"c","since":["",0]}"#,
            r#"{"action":"subscribe","channels":[["c"]]}"#,
            r#"{"action":"subscribe","channels":{"channel":"c"}}"#,
            r#"{"action":"interrupt","data":["op"]}"#,
        ] {
            for parsed in [client::parse(text), worker::parse(text.as_bytes())] {
                assert_eq!(parsed.unwrap_err().refusal.code, Code::BadRequest, "{text}");
            }
        }
        for text in ["[\"logs\",\"e\"]", "7", "null", "\"x\""] {
            assert_eq!(http::broadcast(text.as_bytes()).unwrap_err().code, Code::BadJson, "{text}");
        }
    }

    #[test]
    fn ids_and_positions_may_be_whole_numbers_in_any_spelling() {
        let user = |number: &str| {
            let text = format!(r#"{{"action":"send","user_id":{number},"event":"e"}}"#);
            match client::parse(&text).map(|said| said.request) {
                Ok(Request::Hub(HubRequest::Publish(Publication { target: Target::User(user), .. }))) => {
                    user.to_string()
                }
                other => format!("{other:?}"),
            }
        };
        let longest = u64::MAX.to_string();
        for (number, digits) in
            [("42", "42"), ("42.0", "42"), ("4.2e1", "42"), ("-7", "-7"), ("0", "0"), (&*longest, &*longest)]
        {
            assert_eq!(user(number), digits);
        }
        let seq = |number: &str| {
            let text =
                format!(r#"{{"action":"subscribe","channel":"c","since":{{"epoch":"","seq":{number}}}}}"#);
            match client::parse(&text).map(|said| said.request) {
                Ok(Request::Hub(HubRequest::Subscribe(list))) => {
                    list[0].since.as_ref().map(|since| since.seq)
                }
                _ => None,
            }
        };
        for (number, position) in
            [("7", 7), ("7.0", 7), ("0.0", 0), ("1e3", 1000), ("9007199254740991", (1 << 53) - 1)]
        {
            assert_eq!(seq(number), Some(position), "{number}");
        }
        for number in ["-1", "0.5", "9007199254740992", "9007199254740992.0", "1e400", "true", "\"7\"", "[7]"]
        {
            assert_eq!(seq(number), None, "{number}");
        }
        for number in ["0.5", "1e400", "true", "[42]", "{}", "99999999999999999999999"] {
            assert!(user(number).contains("`user_id` must be a string or a whole number"), "{number}");
        }
    }

    #[test]
    fn an_error_does_not_grow_with_the_request() {
        for text in [format!("\"{}\"", "\u{7f}".repeat(10_000)), "x".repeat(10_000), "7".repeat(10_000)] {
            let wrong = client::parse(&text).unwrap_err();
            assert!(wrong.refusal.message.len() < 200, "{}", wrong.refusal.message.len());
        }
    }
}
