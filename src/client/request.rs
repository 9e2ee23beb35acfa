//! What a worker asks, as the fields of a line.
//!
//! Knows the spelling. Does not know the ids that tell answers apart: the link
//! adds those.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::protocol::Position;

/// A message to be published; exactly one field says to whom.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Publication<'a, T: ?Sized> {
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
    /// Whether the user's acknowledgement is told, as a `system:receipt`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub receipt: bool,
    /// By which a repetition is known. A client that comes back names each
    /// message itself where this is missing, and repeats what it may repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<&'a str>,
}

impl<'a, T: ?Sized> Publication<'a, T> {
    /// A message to nobody yet: the caller names one target.
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

/// What became of a message.
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

/// An operation to be begun.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "action", rename = "operation_start")]
pub struct Start<'a> {
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

impl<'a> Start<'a> {
    /// An operation without any options.
    pub fn new(operation_id: &'a str, channel: &'a str) -> Self {
        Self { operation_id, channel, user_id: None, label: None, deadline: None, interrupt_grace: None }
    }
}

/// An operation is over.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename = "operation_end")]
pub(super) struct End<'a, T> {
    pub(super) operation_id: &'a str,
    pub(super) state: crate::protocol::EndState,
    pub(super) data: &'a T,
}

/// A channel is to be heard, from a position on or from now.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename = "subscribe")]
pub(super) struct Subscribe<'a> {
    pub(super) channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<&'a Position>,
}

/// A channel is to be heard no more.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename = "unsubscribe")]
pub(super) struct Unsubscribe<'a> {
    pub(super) channel: &'a str,
}

/// Is anybody there?
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename = "ping")]
pub(super) struct Ping {}

fn seconds_if_any<S: Serializer>(wait: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match wait {
        Some(wait) => crate::protocol::time::seconds(wait, to),
        None => to.serialize_none(),
    }
}
