//! Entries of lists, statistics and words in frames.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::ids::{Channel, ConnectionId, OperationId, TokenId, UserId};
use super::message::Payload;
use super::rejection::RejectionCounts;
use super::request::RateLimit;
use super::time::{UnixTime, rfc3339, rfc3339_if_any, seconds_if_any};

/// The limits of a connection, as its client learns them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ClientLimits {
    pub message_bytes: u64,
    #[serde(serialize_with = "rate")]
    pub requests_per_second: RateLimit,
    pub burst: u32,
    pub subscriptions: u32,
}

/// Where a user's inbox stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct InboxState {
    pub epoch: String,
    pub seq: u64,
    pub waiting: u64,
}

/// Why messages are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    Expired,
    Evicted,
    Slow,
    NotKept,
    Epoch,
}

/// What became of an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its owner is notified.
    Delivered,
    /// It has no owner yet; a second answer follows.
    Pending,
    /// It is over.
    AlreadyEnded,
    /// It got no owner in time.
    NoOwner,
}

/// Where an operation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    Started,
    Interrupting,
    Ended,
}

/// One running operation in a list.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct OperationEntry {
    pub operation_id: OperationId,
    pub channel: Channel,
    pub state: OperationState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(serialize_with = "rfc3339")]
    pub started_at: UnixTime,
}

/// One user on a channel.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Present {
    pub user_id: UserId,
    pub connections: u64,
    /// What the token of the newest connection has in `wshub_info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Payload>,
}

/// One connection in a list.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ConnectionEntry {
    #[serde(serialize_with = "as_text")]
    pub connection_id: ConnectionId,
    /// `client` or `worker`.
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The user of the machine that a worker runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(flatten)]
    pub link: LinkEntry,
    #[serde(serialize_with = "rfc3339")]
    pub connected_at: UnixTime,
    /// When it last gave a sign of life.
    #[serde(serialize_with = "rfc3339")]
    pub heard_at: UnixTime,
    /// When its token ends.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339_if_any")]
    pub expires_at: Option<UnixTime>,
    /// The id of its token, by which that can be revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<TokenId>,
    pub subscriptions: u64,
    /// That it owns.
    pub operations: u64,
    /// How long it has taken nothing, while something waits for it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds_if_any")]
    pub stalled: Option<Duration>,
    /// Lost messages that no `gap` has reported to it yet.
    pub missed: u64,
}

/// What only the socket knows of a connection: its peer, and what waits to be sent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct LinkEntry {
    /// Of a client, as far as the socket knows: behind a proxy it is the proxy's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Of a worker: the process that connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Frames or lines that wait, and their bytes.
    pub queued: u64,
    pub queued_bytes: u64,
}

/// One channel in a list.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ChannelEntry {
    pub channel: Channel,
    pub subscribers: u64,
    /// Of those: subscribers that still read what is kept.
    pub behind: u64,
    pub epoch: String,
    pub seq: u64,
    /// By which policy: `undelivered`, `history` or `never`.
    pub keep: &'static str,
    /// Messages that are kept, and their bytes.
    pub kept: u64,
    pub bytes: u64,
    /// Since when the oldest of them is kept.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339_if_any")]
    pub oldest_at: Option<UnixTime>,
}

/// The inbox of a user.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct InboxEntry {
    pub user_id: UserId,
    /// Of that user, whether they receive the inbox or not.
    pub connections: u64,
    /// None where there is no inbox: without connections, and with nothing that waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    pub seq: u64,
    /// Messages that wait, and their bytes.
    pub waiting: u64,
    pub bytes: u64,
    /// Since when the oldest of them waits.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339_if_any")]
    pub oldest_at: Option<UnixTime>,
}

/// What the daemon makes of a token.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct TokenCheck {
    pub valid: bool,
    /// What is wrong with it: `token_invalid`, `token_expired`, `token_not_yet` or
    /// `token_revoked`, and in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The user that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339_if_any")]
    pub expires_at: Option<UnixTime>,
    /// The key that its signature holds with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alg: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rights: Option<RightsEntry>,
    /// The request limits in the token, before `[limits] token_rate` is applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<RateLimitEntry>,
    /// The same after that, if it is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted: Option<RateLimitEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<TokenId>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339_if_any")]
    pub issued_at: Option<UnixTime>,
    /// Unusual claims of a valid token, for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl TokenCheck {
    /// Adds the granted limits if those of the token are above `token_rate`.
    pub fn cap(&mut self, token_rate: u32) {
        let Some(RateLimitEntry { rate: asked, .. }) = self.limits else { return };
        let granted = asked.capped(token_rate);
        if granted == asked {
            return;
        }
        self.granted = Some(granted.into());
        self.warnings.push(format!(
            "its `wshub_limits` ask for {} requests a second and {} at once, and it gets {} and {}: `[limits] \
             token_rate` is {token_rate}",
            asked.rate(),
            asked.burst(),
            granted.rate(),
            granted.burst()
        ));
    }
}

/// The claim `wshub_limits`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RateLimitEntry {
    #[serde(serialize_with = "rate")]
    pub rate: RateLimit,
    pub burst: u32,
}

impl From<RateLimit> for RateLimitEntry {
    fn from(allowance: RateLimit) -> Self {
        Self { rate: allowance, burst: allowance.burst() }
    }
}

/// Requests per second: a whole number where it is one.
fn rate<S: Serializer>(allowance: &RateLimit, to: S) -> Result<S::Ok, S::Error> {
    match allowance.millirate() {
        whole if whole.is_multiple_of(1000) => to.serialize_u32(whole / 1000),
        _ => to.serialize_f64(allowance.rate()),
    }
}

/// One revocation in a list: of all tokens of a user until then, or of one token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RevocationEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<TokenId>,
    #[serde(serialize_with = "rfc3339")]
    pub revoked_at: UnixTime,
    /// When it is forgotten, if it ever is.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339_if_any")]
    pub until: Option<UnixTime>,
}

/// Rights, as patterns.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RightsEntry {
    /// Where they come from: `token` or `configuration`.
    pub from: &'static str,
    pub subscribe: Vec<String>,
    pub publish: Vec<String>,
    pub interrupt: Vec<String>,
    pub admin: bool,
}

/// What a reload has changed, and what is allowed but seldom wise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Reloaded {
    pub changed: Vec<ChangeEntry>,
    pub warnings: Vec<String>,
}

/// One thing that is not what it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum ChangeEntry {
    /// A setting, with its values as a file spells them.
    Setting { setting: String, from: String, to: String },
    /// A file of a key or secret that holds something else.
    File { file: String },
}

fn as_text<S: Serializer>(id: &ConnectionId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

/// The numbers of the daemon. Counters count since it started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Statistics {
    /// Users with at least one connection.
    pub connected_users: u64,
    /// WebSocket connections.
    pub total_connections: u64,
    pub workers: u64,
    pub channels: u64,
    pub subscriptions: u64,
    pub operations: u64,
    /// Users and tokens whose revocation is kept.
    pub revocations: u64,
    /// Kept and not yet delivered.
    pub kept_messages: u64,
    pub kept_bytes: u64,
    /// Of that: what is in memory alone.
    pub unstored_bytes: u64,
    /// 1 while there is a disk and it cannot be used.
    pub store_failed: u64,
    /// What the store takes on the disk.
    pub disk_bytes: u64,
    /// What was written to it and is not forgiven yet; a day's budget is, in a day.
    pub flash_spent_bytes: u64,
    /// 0 while there is plenty of that budget, 1 while what may wait waits longer, 2
    /// while only durable messages are written.
    pub flash_level: u64,
    /// Held for all peers, kept messages included.
    pub memory_bytes: u64,
    /// 0 below 80 % of the ceiling, 1 from there, 2 from 90 %, 3 at the ceiling.
    pub memory_level: u64,
    pub uptime_seconds: u64,
    /// Rejected connections and requests, by reason.
    pub refused: RejectionCounts,
    #[serde(flatten)]
    pub counters: Counters,
}

/// What has happened since the daemon started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, serde::Deserialize)]
pub struct Counters {
    pub connections_opened: u64,
    pub connections_closed: u64,
    /// Messages taken from publishers.
    pub messages_received: u64,
    /// Messages queued for a recipient, once for each.
    pub messages_delivered: u64,
    /// Messages not queued because a recipient was slow.
    pub messages_shed: u64,
    pub whispers_dropped: u64,
    pub messages_expired: u64,
    pub messages_evicted: u64,
    /// Messages that were written to the disk.
    pub messages_stored: u64,
    /// Durable messages that were answered with `store_unavailable`.
    pub durable_refused: u64,
    pub interrupts: u64,
    pub requests_refused: u64,
    pub rate_limited: u64,
    pub closed_slow: u64,
    pub closed_no_pong: u64,
    pub closed_errors: u64,
    /// Closed because memory was short.
    pub closed_overloaded: u64,
    /// Closed because they did not authenticate in time.
    pub closed_unauthenticated: u64,
    /// Closed because a frame was none, or too large.
    pub closed_malformed: u64,
    /// WebSockets that were refused because there were too many, of all or of
    /// one user, or because memory was short.
    pub connections_refused: u64,
    /// Other TCP connections of clients that were dropped: without a request in time, or to
    /// make room for another.
    pub newcomers_dropped: u64,
    /// Wrong secrets, and tokens that never held, that were presented.
    pub wrong_secrets: u64,
}
