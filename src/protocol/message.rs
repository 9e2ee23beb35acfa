//! Messages: one encoding for all recipients.

use std::fmt;
use std::rc::Rc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::ids::{Channel, ConnectionId, Event, MessageId, UserId};
use super::time::{UnixTime, rfc3339};
use crate::json;

/// The `data` of a message: the JSON text that came, shared, never read.
#[derive(Clone)]
pub struct Payload(Rc<RawValue>);

/// In JSON it stands as it is, elsewhere as a text.
impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { self.0.serialize(to) } else { to.serialize_str(self.json()) }
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if from.is_human_readable() {
            return Box::<RawValue>::deserialize(from).map(Self::new);
        }
        RawValue::from_string(String::deserialize(from)?).map(Self::new).map_err(D::Error::custom)
    }
}

impl Payload {
    /// Takes JSON text over.
    pub fn new(raw: Box<RawValue>) -> Self {
        Self(raw.into())
    }

    /// What stands for no data.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }

    /// Any value that has a JSON form; one without becomes null.
    pub fn of(value: &impl Serialize) -> Self {
        serde_json::value::to_raw_value(value).map_or_else(|_| Self::null(), Self::new)
    }

    /// The JSON text.
    pub fn json(&self) -> &str {
        self.0.get()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.json())
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.json() == other.json()
    }
}

/// The sender of a message: `from` on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub enum Sender {
    /// A WebSocket client.
    Connection(ConnectionId),
    /// A local worker.
    Worker,
    /// An HTTP caller.
    Http,
    /// The daemon itself.
    Hub,
}

impl Sender {
    /// The kind of sender: `source` on the wire.
    pub fn source(self) -> &'static str {
        match self {
            Self::Connection(_) => "client",
            Self::Worker => "worker",
            Self::Http => "http",
            Self::Hub => "hub",
        }
    }
}

/// The connection's id, or the kind of sender where there is none.
pub fn spelled<S: Serializer>(sender: &Sender, to: S) -> Result<S::Ok, S::Error> {
    match sender {
        Sender::Connection(id) => to.serialize_str(std::str::from_utf8(&id.text()).unwrap_or_default()),
        other => to.serialize_str(other.source()),
    }
}

impl Serialize for Sender {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // The state of the hub keeps senders too: the same form as derive would
        // write, so that the derived `Deserialize` reads it back.
        match self {
            Self::Connection(id) => to.serialize_newtype_variant("Sender", 0, "Connection", id),
            Self::Worker => to.serialize_unit_variant("Sender", 1, "Worker"),
            Self::Http => to.serialize_unit_variant("Sender", 2, "Http"),
            Self::Hub => to.serialize_unit_variant("Sender", 3, "Hub"),
        }
    }
}

/// One message, the same for all recipients.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Message {
    /// The channel; none for what goes to one connection, one user or all.
    pub channel: Option<Channel>,
    /// What kind of message it is.
    pub event: Event,
    /// Passed on as it came.
    pub data: Payload,
    /// Its sender.
    pub from: Sender,
    /// The user who sent it, if it was one.
    pub user_id: Option<UserId>,
    /// Given by its publisher, else by the hub.
    pub message_id: MessageId,
    /// When the hub took it.
    pub timestamp: UnixTime,
    /// Its position in the channel; none with `ttl: 0`, for whispers, and for
    /// what goes to a connection or to all.
    pub seq: Option<u64>,
}

/// A message as a `message` frame spells it.
#[derive(Serialize)]
struct MessageFrame<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: &'a Option<Channel>,
    event: &'a Event,
    data: &'a Payload,
    #[serde(serialize_with = "spelled")]
    from: Sender,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: &'a Option<UserId>,
    source: &'static str,
    message_id: &'a MessageId,
    #[serde(serialize_with = "rfc3339")]
    timestamp: UnixTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
}

/// Whether a message comes as it is published or later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Delivery {
    /// Now.
    Live,
    /// From what was kept: `replayed: true`.
    Replayed,
}

impl Message {
    /// Appends the JSON of the `message` frame; for workers it is the line.
    pub fn encode(&self, delivery: Delivery, to: &mut Vec<u8>) {
        let frame = MessageFrame {
            kind: "message",
            channel: &self.channel,
            event: &self.event,
            data: &self.data,
            from: self.from,
            user_id: &self.user_id,
            source: self.from.source(),
            message_id: &self.message_id,
            timestamp: self.timestamp,
            seq: self.seq,
            replayed: delivery == Delivery::Replayed,
        };
        json::write(&frame, to);
    }

    /// What it counts against the limits on bytes: its own, and those of the frame around
    /// them.
    pub fn size(&self) -> usize {
        let names = self.channel.as_ref().map_or(0, |c| c.as_str().len()) + self.event.as_str().len();
        let user = self.user_id.as_ref().map_or(0, |user| user.as_str().len());
        // An id that its publisher gave is kept a second time, to know it again.
        let id = 2 * self.message_id.as_str().len().saturating_sub(OWN_ID);
        /// Sender, an id of ours, time, seq and the field names around all of it.
        const ENVELOPE: usize = 160;
        const OWN_ID: usize = 36;
        names + user + id + self.data.json().len() + ENVELOPE
    }
}
