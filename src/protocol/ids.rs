//! Names and ids of channels, users, operations, events and messages: checked once, when they
//! are made.

use std::fmt;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::refusal::{Code, Refusal};

/// Longest name, id or event in bytes: short enough to keep thousands of, long
/// enough for two UUIDs and a prefix.
pub const LONGEST_NAME: usize = 128;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $field:literal, $check:path;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Rc<str>);

        impl $name {
            /// Takes `text` where it is a proper name of this kind.
            ///
            /// # Errors
            /// `too_large` over [`LONGEST_NAME`], else `bad_request`; both name the field.
            pub fn new(text: &str) -> Result<Self, Refusal> {
                Self::named($field, text)
            }

            /// The same for a field of another name, for the sake of the message.
            pub(crate) fn named(field: &str, text: &str) -> Result<Self, Refusal> {
                if text.len() > LONGEST_NAME {
                    return Err(Refusal::new(
                        Code::TooLarge,
                        format!("`{field}` is {} bytes long, at most {LONGEST_NAME} are allowed", text.len()),
                    ));
                }
                if text.is_empty() {
                    return Err(Refusal::new(Code::BadRequest, format!("`{field}` is empty")));
                }
                match text.chars().find(|&c| !$check(c)) {
                    Some(c) => Err(Refusal::new(
                        Code::BadRequest,
                        format!("`{field}` contains {c:?}, which is not allowed in it"),
                    )),
                    None => Ok(Self(text.into())),
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

names! {
    /// A place to publish to: printable, no spaces, no `*`; hierarchy by `:`.
    Channel, "channel", may_name_a_channel;
    /// Whom a token names.
    UserId, "user_id", may_be_in_an_id;
    /// One long piece of a worker's work.
    OperationId, "operation_id", may_be_in_an_id;
    /// What kind of message it is.
    Event, "event", may_be_in_an_id;
    /// A message's own id, given by its publisher or by the hub.
    MessageId, "message_id", may_be_in_an_id;
    /// The id of one token: its `jti`.
    TokenId, "jti", may_be_in_an_id;
}

fn may_be_in_an_id(c: char) -> bool {
    !c.is_control() && !is_invisible(c)
}

fn may_name_a_channel(c: char) -> bool {
    may_be_in_an_id(c) && !c.is_whitespace() && c != '*'
}

/// What two names may differ by and look alike: the Unicode Character Database 16.0, all
/// that is `Default_Ignorable_Code_Point` in `DerivedCoreProperties.txt`, or of the
/// categories `Cf`, `Zl` or `Zp` in `DerivedGeneralCategory.txt`. The joiners and variation
/// selectors of emoji and some scripts are among them: a name is no text.
const INVISIBLE: [(char, char); 25] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Most names have none but ASCII, which is below the first.
fn is_invisible(c: char) -> bool {
    c >= INVISIBLE[0].0 && INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

impl Channel {
    /// Whether only the daemon may publish here: `@…`, `operation:…`, `system:…`.
    pub fn is_reserved(&self) -> bool {
        let name = self.as_str();
        name.starts_with('@') || name.starts_with("operation:") || name.starts_with("system:")
    }

    /// The channel of one operation, `operation:<id>`. It may be longer than
    /// other names and carry what an id may carry: it is spelled by the hub.
    pub fn of_operation(operation: &OperationId) -> Self {
        Self(format!("operation:{operation}").into())
    }

    /// What frames call a user's own inbox. It is no channel to subscribe to.
    pub fn inbox() -> Self {
        Self("@me".into())
    }

    /// The channel on which workers receive who comes and goes.
    pub fn presence() -> Self {
        Self("system:presence".into())
    }

    /// The channel on which workers receive what was not delivered.
    pub fn undelivered() -> Self {
        Self("system:undelivered".into())
    }

    /// The operation whose channel this is.
    pub fn operation(&self) -> Option<&str> {
        self.as_str().strip_prefix("operation:")
    }

    /// What a client or worker names: as [`Channel::new`], with the channels of
    /// operations understood as well.
    ///
    /// # Errors
    /// As [`Channel::new`].
    pub fn addressed(text: &str) -> Result<Self, Refusal> {
        match text.strip_prefix("operation:") {
            Some(id) => Ok(Self::of_operation(&OperationId::named("channel", id)?)),
            None => Self::new(text),
        }
    }
}

impl Event {
    /// A request to stop an operation.
    pub fn interrupt() -> Self {
        Self("system:interrupt".into())
    }

    /// A message has arrived.
    pub fn receipt() -> Self {
        Self("system:receipt".into())
    }

    /// A message was not delivered.
    pub fn undelivered() -> Self {
        Self("system:undelivered".into())
    }

    /// A user's first connection came.
    pub fn user_joined() -> Self {
        Self("system:user_joined".into())
    }

    /// A user's last connection went.
    pub fn user_left() -> Self {
        Self("system:user_left".into())
    }

    /// Whether only the daemon emits it: `system:…`.
    pub fn is_reserved(&self) -> bool {
        self.as_str().starts_with("system:")
    }
}

/// One link of a client or worker: its place in the tables and a random tag
/// that makes it unguessable and distinguishes it from earlier links in that place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ConnectionId {
    /// Dense index, reused after a link has closed.
    pub slot: u32,
    /// Random.
    pub tag: u64,
}

/// Letters and digits that are not taken for one another when read aloud.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// 96 bits, five a character.
const CONNECTION_ID_LENGTH: usize = 20;

impl MessageId {
    /// One that the hub makes, of a number that it gives out once.
    pub fn made(number: u64) -> Self {
        Self(as_text(&letters(number)).into())
    }
}

/// A number as the thirteen letters and digits that ids and epochs are made of.
pub fn spelled(number: u64) -> String {
    as_text(&letters(number)).to_owned()
}

/// Five bits each, the highest first.
fn letters(mut number: u64) -> [u8; 13] {
    let mut text = [0; 13];
    for place in text.iter_mut().rev() {
        *place = ALPHABET[(number & 31) as usize];
        number >>= 5;
    }
    text
}

/// All letters of the alphabet are ASCII.
fn as_text(letters: &[u8]) -> &str {
    std::str::from_utf8(letters).unwrap_or_default()
}

impl ConnectionId {
    /// Reads what [`fmt::Display`] wrote; anything else names no connection.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != CONNECTION_ID_LENGTH {
            return None;
        }
        let mut bits = 0u128;
        for byte in text.bytes() {
            let digit = ALPHABET.iter().position(|&a| a == byte)?;
            bits = bits << 5 | digit as u128;
        }
        Some(Self { slot: u32::try_from(bits >> 64).ok()?, tag: bits as u64 })
    }

    /// The twenty characters, without an allocation.
    pub fn text(self) -> [u8; CONNECTION_ID_LENGTH] {
        let mut bits = u128::from(self.slot) << 64 | u128::from(self.tag);
        let mut text = [0; CONNECTION_ID_LENGTH];
        for place in text.iter_mut().rev() {
            *place = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
        text
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(as_text(&self.text()))
    }
}
