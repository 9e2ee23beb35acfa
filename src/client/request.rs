//! Request lines of a worker.
//!
//! They have no `id` yet: the connection's task adds it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::error::Error;
use crate::edge::clock;
use crate::protocol::{EndState, Position};

/// A message to be published; exactly one field names the target.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PublishRequest<'a, T: ?Sized> {
    /// The subscribers of a channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<&'a str>,
    /// All connections of a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<&'a str>,
    /// One connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<&'a str>,
    /// Every connection.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// What kind of message it is.
    pub event: &'a str,
    /// Passed on as it is spelled here.
    pub data: &'a T,
    /// How long it is worth keeping; the hub's policy can only be shortened.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds_if_any")]
    pub ttl: Option<Duration>,
    /// Answered only when it is on the disk, if it is kept at all.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub durable: bool,
    /// Whether the user's acknowledgement comes back, as a `system:receipt`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub receipt: bool,
    /// By which a repetition is known. A client that reconnects gives each
    /// message one itself where this is missing, and repeats what it may repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<&'a str>,
}

impl<'a, T: ?Sized> PublishRequest<'a, T> {
    /// A message without a target: the caller names one.
    pub fn new(event: &'a str, data: &'a T) -> Self {
        Self {
            channel: None,
            user_id: None,
            connection_id: None,
            all: false,
            event,
            data,
            ttl: None,
            durable: false,
            receipt: false,
            message_id: None,
        }
    }

    /// A message to the subscribers of a channel.
    pub fn to_channel(channel: &'a str, event: &'a str, data: &'a T) -> Self {
        Self { channel: Some(channel), ..Self::new(event, data) }
    }
}

/// The outcome of a publication.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Published {
    /// How many connections and workers have it or will have it.
    #[serde(default)]
    pub sent: u64,
    /// For how many it was shed.
    #[serde(default)]
    pub failed: u64,
    /// Whether it is in the log.
    #[serde(default)]
    pub kept: bool,
    /// Whether it was on the disk before this answer.
    #[serde(default)]
    pub stored: bool,
    /// Whether it had been sent before.
    #[serde(default)]
    pub duplicate: bool,
}

/// An operation to be started.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "action", rename = "operation_start")]
pub struct StartRequest<'a> {
    /// Unique in the hub.
    pub operation_id: &'a str,
    /// The channel that it reports to.
    pub channel: &'a str,
    /// For whom; that user may interrupt it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<&'a str>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<&'a str>,
    /// When it is interrupted by itself, counted from now.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds_if_any")]
    pub deadline: Option<Duration>,
    /// How long it may take to end after an interrupt.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds_if_any")]
    pub interrupt_grace: Option<Duration>,
}

impl<'a> StartRequest<'a> {
    /// An operation without any options.
    pub fn new(operation_id: &'a str, channel: &'a str) -> Self {
        Self { operation_id, channel, user_id: None, label: None, deadline: None, interrupt_grace: None }
    }
}

#[derive(Serialize)]
#[serde(tag = "action", rename = "operation_end")]
struct EndRequest<'a, T> {
    operation_id: &'a str,
    state: EndState,
    data: &'a T,
}

/// Ends an operation.
pub(super) fn end(operation_id: &str, state: EndState, data: &impl Serialize) -> Result<Vec<u8>, Error> {
    encode(&EndRequest { operation_id, state, data })
}

#[derive(Serialize)]
#[serde(tag = "action", rename = "subscribe")]
struct SubscribeRequest<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<&'a Position>,
}

/// Subscribes to a channel, from a position on or from now.
pub(super) fn subscribe(channel: &str, since: Option<&Position>) -> Result<Vec<u8>, Error> {
    encode(&SubscribeRequest { channel, since })
}

#[derive(Serialize)]
#[serde(tag = "action", rename = "unsubscribe")]
struct UnsubscribeRequest<'a> {
    channel: &'a str,
}

pub(super) fn unsubscribe(channel: &str) -> Result<Vec<u8>, Error> {
    encode(&UnsubscribeRequest { channel })
}

#[derive(Serialize)]
#[serde(tag = "action", rename = "ping")]
struct PingRequest {}

pub(super) fn ping() -> Result<Vec<u8>, Error> {
    encode(&PingRequest {})
}

/// A request as one line of JSON, without its end.
pub(super) fn encode(request: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(request).map_err(|error| Error::InvalidRequest(error.to_string()))?;
    if line.len() < 3 || line.first() != Some(&b'{') {
        return Err(Error::InvalidRequest("a request is an object with at least one field".into()));
    }
    // JSON that is passed on as it is spelled may go over several lines; what is
    // within its strings cannot.
    for byte in line.iter_mut().filter(|byte| **byte == b'\n') {
        *byte = b' ';
    }
    Ok(line)
}

/// Source of message ids, by which the hub knows a repetition, and which no other client
/// has.
#[derive(Debug)]
pub(super) struct MessageIds {
    /// Sixteen random digits: workers of one user share the hub's memory of ids.
    prefix: String,
    next: AtomicU64,
}

impl MessageIds {
    pub(super) fn new() -> Self {
        Self { prefix: format!("{:016x}", clock::random()), next: AtomicU64::new(1) }
    }

    /// Adds a `message_id` to a request.
    pub(super) fn add_to(&self, line: &mut Vec<u8>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        line.pop();
        line.extend_from_slice(format!(",\"message_id\":\"{}-{number:x}\"}}", self.prefix).as_bytes());
    }
}

fn seconds_if_any<S: Serializer>(wait: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match wait {
        Some(wait) => crate::protocol::time::seconds(wait, to),
        None => to.serialize_none(),
    }
}
