//! The frames of the daemon: one JSON object each, with a `type`.
//!
//! Only `message` is elsewhere, in [`message`](super::message).

use std::time::Duration;

use serde::Serialize;

use super::fields::RequestId;
use super::ids::{Channel, ConnectionId, MessageId, OperationId, UserId};
pub use super::listings::*;
use super::message::Payload;
use super::refusal::Refusal;
use super::request::EndState;
use super::time::{UnixTime, rfc3339, rfc3339_if_any, seconds, seconds_if_any};
use crate::json;

/// A frame or line of the daemon. Absent fields are left out.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Frame<'a> {
    /// The first frame of an accepted connection.
    ConnectionEstablished {
        connection_id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<UserId>,
        protocol: u32,
        #[serde(serialize_with = "rfc3339")]
        server_time: UnixTime,
        #[serde(serialize_with = "seconds")]
        ping_interval: Duration,
        #[serde(serialize_with = "seconds")]
        pong_timeout: Duration,
        limits: ClientLimits,
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339_if_any")]
        expires_at: Option<UnixTime>,
        #[serde(skip_serializing_if = "Option::is_none")]
        inbox: Option<InboxState>,
    },
    /// Answers the first `subscribe` of a connection.
    ConnectionId { connection_id: String },
    /// Only `auth` is understood until it succeeds.
    AuthRequired,
    /// The token was taken.
    AuthSuccess {
        user_id: UserId,
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339_if_any")]
        expires_at: Option<UnixTime>,
        /// What holds from now on.
        limits: ClientLimits,
        /// Where no `connection_established` with it follows.
        #[serde(skip_serializing_if = "Option::is_none")]
        inbox: Option<InboxState>,
    },
    /// It was not; `code` is `token_invalid`, `token_expired`, `token_not_yet` or
    /// `token_revoked`.
    AuthFailed { code: &'static str, message: String },
    /// A new token is due before this time.
    TokenExpiring {
        #[serde(serialize_with = "rfc3339")]
        expires_at: UnixTime,
    },
    /// Messages of the channel follow from now on.
    SubscriptionSucceeded {
        channel: Channel,
        epoch: String,
        seq: u64,
        /// Where the subscription begins: what a client may store at this moment.
        after_seq: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        presence: Option<Vec<Present>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        operations: Vec<OperationEntry>,
        /// How many run, where those are not all.
        #[serde(skip_serializing_if = "Option::is_none")]
        operations_running: Option<u64>,
    },
    /// Nothing of that channel comes after this.
    UnsubscribeSucceeded { channel: Channel },
    /// A subscription ended without a request: `forbidden`, `ended` or `admin`.
    Unsubscribed { channel: Channel, reason: &'static str },
    /// Messages that this peer will not see.
    Gap {
        channel: Channel,
        epoch: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        from_seq: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        to_seq: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        lost: Option<u64>,
        cause: GapCause,
    },
    /// What became of a message.
    SendSuccess {
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<Channel>,
        #[serde(skip_serializing_if = "Option::is_none")]
        connection_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<UserId>,
        sent: u64,
        failed: u64,
        kept: bool,
        stored: bool,
        message_id: MessageId,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        duplicate: bool,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        partial: bool,
    },
    /// What became of an interrupt.
    InterruptResult {
        operation_id: OperationId,
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<Channel>,
        outcome: Outcome,
    },
    /// An operation starts, is asked to stop, or has ended.
    Operation {
        operation_id: OperationId,
        channel: Channel,
        state: OperationState,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<EndState>,
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<String>,
        /// The user, connection or kind of peer that asked it to stop.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<Payload>,
    },
    /// The operations that run.
    Operations {
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<Channel>,
        operations: Vec<OperationEntry>,
        /// How many run, where those are not all.
        #[serde(skip_serializing_if = "Option::is_none")]
        operations_running: Option<u64>,
        /// After which the rest comes, where there is more.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<OperationId>,
    },
    /// The users on a channel.
    Presence {
        channel: Channel,
        /// Missing where there are more than a thousand, or it would be over 64 KiB.
        #[serde(skip_serializing_if = "Option::is_none")]
        presence: Option<Vec<Present>>,
        count: u64,
    },
    /// A user is there.
    UserJoined {
        channel: Channel,
        user_id: UserId,
        /// What its token has in `wshub_info`.
        #[serde(skip_serializing_if = "Option::is_none")]
        info: Option<Payload>,
    },
    /// A user is there no longer.
    UserLeft { channel: Channel, user_id: UserId },
    /// Here.
    Pong {
        #[serde(serialize_with = "rfc3339")]
        server_time: UnixTime,
    },
    /// A request was not carried out.
    Error {
        code: &'static str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        action: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<&'a Channel>,
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds_if_any")]
        retry_after: Option<Duration>,
    },
    /// The connection is about to be closed.
    Bye { code: u16, reason: &'static str, reconnect: bool, after_ms: u64 },
    /// The numbers of the daemon (administration).
    Stats(Box<Statistics>),
    /// The connections that there are (administration).
    Connections {
        connections: Vec<ConnectionEntry>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<ConnectionId>,
    },
    /// The channels that there are (administration).
    Channels {
        channels: Vec<ChannelEntry>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<Channel>,
    },
    /// What waits for a user (administration).
    Inbox(Box<InboxEntry>),
    /// The inboxes in which something waits (administration).
    Inboxes {
        inboxes: Vec<InboxEntry>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<UserId>,
    },
    /// How many kept messages were dropped (administration).
    Purged { purged: u64 },
    /// How many connections were ended (administration).
    Disconnected { disconnected: u64 },
    /// Tokens are taken no longer; so many connections were ended (administration).
    Revoked {
        disconnected: u64,
        /// Tokens of a user that were issued in this second are refused, too.
        #[serde(serialize_with = "rfc3339")]
        revoked_at: UnixTime,
        /// How many of those connections had a token with an `iat` after that second, which is
        /// still accepted.
        #[serde(skip_serializing_if = "none_at_all")]
        ahead: u64,
    },
    /// Which tokens are taken no longer (administration).
    Revocations {
        revocations: Vec<RevocationEntry>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
    /// Whether there was such a revocation (administration).
    Lifted { lifted: bool },
    /// A minted token (administration).
    Token {
        token: &'a str,
        user_id: UserId,
        #[serde(serialize_with = "rfc3339")]
        expires_at: UnixTime,
    },
    /// Whether a token holds (administration).
    TokenCheck(Box<TokenCheck>),
    /// What a reload has changed (administration).
    Reloaded(Reloaded),
    /// Confirms a request that has no result.
    Done {},
}

/// A number that is left out.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn none_at_all(count: &u64) -> bool {
    *count == 0
}

impl<'a> From<&'a Refusal> for Frame<'a> {
    fn from(refusal: &'a Refusal) -> Self {
        Self::Error {
            code: refusal.code.word(),
            message: &refusal.message,
            action: refusal.action.as_deref(),
            channel: refusal.channel.as_ref(),
            retry_after: refusal.retry_after,
        }
    }
}

impl Frame<'_> {
    /// Appends the JSON, with the `id` of the request that it answers.
    pub fn encode(&self, id: Option<&RequestId>, to: &mut Vec<u8>) {
        json::write(self, to);
        if let Some(id) = id {
            to.pop();
            to.extend_from_slice(b",\"id\":");
            to.extend_from_slice(id.json().as_bytes());
            to.push(b'}');
        }
    }

    /// The same under another `type`, as the answers to workers have it.
    pub(super) fn encode_as(&self, kind: &str, id: Option<&RequestId>, to: &mut Vec<u8>) {
        let from = to.len();
        self.encode(id, to);
        // Every frame begins `{"type":"…"`, the type a plain word.
        const BEFORE: usize = r#"{"type":""#.len();
        let word = from + BEFORE;
        let end = to.iter().skip(word).position(|&b| b == b'"').map_or(word, |at| word + at);
        to.splice(word..end, kind.bytes());
    }

    /// Whether it confirms a request, or has what was asked for.
    pub(super) fn is_answer(&self) -> bool {
        let has_result = matches!(
            self,
            Self::Operations { .. }
                | Self::Presence { .. }
                | Self::Pong { .. }
                | Self::Stats(_)
                | Self::Connections { .. }
                | Self::Channels { .. }
                | Self::Inbox(_)
                | Self::Inboxes { .. }
                | Self::Revocations { .. }
                | Self::Token { .. }
                | Self::TokenCheck(_)
                | Self::Reloaded(_)
        );
        has_result || self.is_confirmation()
    }

    /// Whether it only confirms that a request was carried out; a worker that gave no id
    /// does not get that.
    pub(super) fn is_confirmation(&self) -> bool {
        matches!(
            self,
            Self::SubscriptionSucceeded { .. }
                | Self::UnsubscribeSucceeded { .. }
                | Self::SendSuccess { .. }
                | Self::InterruptResult { .. }
                | Self::Purged { .. }
                | Self::Disconnected { .. }
                | Self::Revoked { .. }
                | Self::Lifted { .. }
                | Self::Done {}
        )
    }
}
