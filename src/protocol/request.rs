//! Requests of clients, workers and HTTP callers, once they are read and well-formed.
//!
//! Whether a peer may make one is decided where it is answered.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::RequestId;
use super::ids::{Channel, Event, MessageId, OperationId, TokenId, UserId};
use super::message::Payload;
use super::refusal::Refusal;

/// A request and the id that its answer echoes.
#[derive(Clone, PartialEq, Debug)]
pub struct RequestEnvelope<R = Request> {
    /// Echoed by the answer.
    pub id: Option<RequestId>,
    /// What is asked.
    pub request: R,
}

/// A request that could not be read.
#[derive(Clone, PartialEq, Debug)]
pub struct MalformedRequest {
    /// Echoed by the error, where it could be read.
    pub id: Option<RequestId>,
    /// What was wrong.
    pub refusal: Refusal,
}

/// Where a list goes on: the `next` of the answer before, or its beginning.
pub type After = Option<String>;

/// One request, by the floor that answers it.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    /// About channels, messages, operations and connections.
    Hub(HubRequest),
    /// About tokens and files, which the hub does not know.
    Edge(EdgeRequest),
}

/// A request that the hub answers.
#[derive(Clone, PartialEq, Debug)]
pub enum HubRequest {
    /// Receive what is published on channels.
    Subscribe(Vec<Subscription>),
    /// Receive it no longer.
    Unsubscribe(Channel),
    /// Send a message that is answered, kept and counted.
    Publish(Publication),
    /// Send to the other subscribers, unanswered and never kept.
    Whisper { channel: Channel, event: Event, data: Payload },
    /// Stop an operation.
    Interrupt(InterruptRequest),
    /// Which operations run; all of them without a channel (administration).
    Operations { channel: Option<Channel>, after: After },
    /// The users on a channel.
    Presence(Channel),
    /// What of the inbox has arrived.
    Ack { position: Position, read: bool },
    /// Is the hub there?
    Ping,
    /// A worker's long work begins.
    Start(OperationStart),
    /// And ends.
    End(OperationEnd),
    /// Administration: the numbers of the daemon.
    Stats,
    /// Administration: the connections that there are.
    Connections { after: After },
    /// Administration: the channels that there are.
    Channels { after: After },
    /// Administration: what waits for a user.
    Inbox(UserId),
    /// Administration: what waits for all users.
    Inboxes { after: After },
    /// Administration: drop what is kept of a channel, or for a user.
    Purge(Target),
    /// Administration: end a connection, or all of a user.
    Disconnect(Target),
    /// Administration: take tokens no longer, and end the connections that came with them.
    Revoke(RevocationTarget),
}

/// A request that the edge answers.
#[derive(Clone, PartialEq, Debug)]
pub enum EdgeRequest {
    /// Authenticate a connection, or bring a newer token.
    Auth { token: Token, inbox: Option<InboxMode> },
    /// Administration: which tokens are taken no longer.
    Revocations { after: After },
    /// Administration: take tokens again.
    Lift(RevocationTarget),
    /// Administration: mint a token.
    MintToken { user_id: UserId, ttl: Duration, wanted: Box<MintTerms> },
    /// Administration: whether a token holds.
    CheckToken(Token),
    /// Administration: read the configuration again.
    Reload,
}

impl Request {
    /// The action's word on the wire.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Hub(request) => request.action(),
            Self::Edge(request) => request.action(),
        }
    }
}

impl HubRequest {
    /// The action's word on the wire.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Subscribe(_) => "subscribe",
            Self::Unsubscribe(_) => "unsubscribe",
            Self::Publish(_) => "send",
            Self::Whisper { .. } => "whisper",
            Self::Interrupt(_) => "interrupt",
            Self::Operations { .. } => "operations",
            Self::Presence(_) => "presence",
            Self::Ack { .. } => "ack",
            Self::Ping => "ping",
            Self::Start(_) => "operation_start",
            Self::End(_) => "operation_end",
            Self::Stats => "stats",
            Self::Connections { .. } => "connections",
            Self::Channels { .. } => "channels",
            Self::Inbox(_) | Self::Inboxes { .. } => "inbox",
            Self::Purge(_) => "purge",
            Self::Disconnect(_) | Self::Revoke(_) => "disconnect",
        }
    }
}

impl EdgeRequest {
    /// The action's word on the wire.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Auth { .. } => "auth",
            Self::Revocations { .. } => "revocations",
            Self::Lift(_) => "lift",
            Self::MintToken { .. } | Self::CheckToken(_) => "token",
            Self::Reload => "reload",
        }
    }
}

/// One channel to subscribe to.
#[derive(Clone, PartialEq, Debug)]
pub struct Subscription {
    /// Which.
    pub channel: Channel,
    /// The last message that was received; none means live only.
    pub since: Option<Position>,
    /// Whether users that come and go are reported.
    pub presence: bool,
}

/// A place in a channel's history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Position {
    /// Which run of numbers; opaque.
    pub epoch: String,
    /// The last message received.
    pub seq: u64,
}

/// The recipients of a message.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Target {
    /// The subscribers of a channel.
    Channel(Channel),
    /// One connection, by its id as it was spelled.
    Connection(String),
    /// All connections of one user.
    User(UserId),
    /// Every authenticated connection (workers and HTTP only).
    All,
}

/// Which tokens are revoked.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum RevocationTarget {
    /// All that name a user and were issued by then.
    User(UserId),
    /// The one with this `jti`.
    Token(TokenId),
}

/// A message to be sent.
#[derive(Clone, PartialEq, Debug)]
pub struct Publication {
    /// Its recipients.
    pub target: Target,
    /// What kind of message it is.
    pub event: Event,
    /// Passed on as it came.
    pub data: Payload,
    /// How long it is worth keeping; can only shorten the policy's `ttl`.
    pub ttl: Option<Duration>,
    /// Answer only when it is on the disk.
    pub durable: bool,
    /// Whether a sender that subscribes receives its own message.
    pub echo: bool,
    /// A key by which a repetition is known.
    pub message_id: Option<MessageId>,
    /// Whether the sender is notified when the recipient has it.
    pub receipt: bool,
}

/// A request that an operation stops.
#[derive(Clone, PartialEq, Debug)]
pub struct InterruptRequest {
    /// Which.
    pub operation_id: OperationId,
    /// Where it runs; must be the operation's. Workers that only subscribe receive an
    /// interrupt of an id without an owner by it.
    pub channel: Option<Channel>,
    /// For the worker, and for people; at most 1 KiB.
    pub reason: Option<String>,
}

/// A worker's long work begins.
#[derive(Clone, PartialEq, Debug)]
pub struct OperationStart {
    /// Unique in the hub.
    pub operation_id: OperationId,
    /// The channel that it reports to.
    pub channel: Channel,
    /// The user that it is for, who may interrupt it.
    pub user_id: Option<UserId>,
    /// For people; at most 1 KiB.
    pub label: Option<String>,
    /// When it is interrupted by itself, counted from now.
    pub deadline: Option<Duration>,
    /// How long it may take to end after an interrupt.
    pub interrupt_grace: Option<Duration>,
}

/// A worker's long work is over.
#[derive(Clone, PartialEq, Debug)]
pub struct OperationEnd {
    /// Which.
    pub operation_id: OperationId,
    /// How.
    pub state: EndState,
    /// Passed on to subscribers.
    pub data: Option<Payload>,
}

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndState {
    /// It succeeded, as its worker reports.
    Completed,
    /// It failed, as its worker reports.
    Failed,
    /// It stopped as asked, as its worker reports.
    Interrupted,
    /// The worker's socket closed.
    OwnerLost,
    /// It did not end in time after an interrupt.
    Timeout,
}

/// What moves the cursor of a user's inbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InboxMode {
    /// The hub, when a socket has taken the frame.
    #[default]
    Auto,
    /// The client, by `ack`.
    Ack,
    /// This connection does not receive the inbox.
    Off,
}

/// A token as it came. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

impl Token {
    /// Takes it over.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text, for verifying it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What a token itself allows. What it does not mention, it does not allow.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// Patterns of channels.
    pub subscribe: Vec<String>,
    /// Patterns of channels, and of `@user:` and `@connection:` with an id.
    pub publish: Vec<String>,
    /// Patterns of channels whose operations may be stopped.
    pub interrupt: Vec<String>,
    /// Whether its user administers the hub.
    pub admin: bool,
}

impl Grant {
    /// The names of its members.
    pub const MEMBERS: [&str; 4] = ["subscribe", "publish", "interrupt", "admin"];
}

/// The claims of a new token beside its user and its end.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MintTerms {
    /// What it allows; none: the default rights of the configuration.
    pub grant: Option<Grant>,
    /// The request limits of its bearer; none: those of the configuration.
    pub limits: Option<RateLimit>,
    /// What presence shows of its bearer.
    pub info: Option<Payload>,
}

/// The request limits of a peer: a rate, and how many requests at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct RateLimit {
    /// In thousandths of a request per second, so that it may be below one.
    millirate: u32,
    burst: u32,
}

impl RateLimit {
    /// So many requests per second.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { millirate: per_second.saturating_mul(1000), burst }
    }

    /// Numbers above 0, as a token spells them: of a burst the whole part counts, one
    /// request at least; of a rate whatever is more than a thousandth.
    pub fn asked_for(rate: f64, burst: f64) -> Self {
        // What is too large for the type is cut to its largest, and no limit allows that.
        Self { millirate: ((rate * 1000.0) as u32).max(1), burst: (burst as u32).max(1) }
    }

    /// No more than so many of either.
    #[must_use]
    pub fn capped(self, most: u32) -> Self {
        Self { millirate: self.millirate.min(most.saturating_mul(1000)), burst: self.burst.min(most) }
    }

    /// In thousandths of a request per second.
    pub fn millirate(self) -> u32 {
        self.millirate
    }

    /// Requests per second, as a number that may have a fraction.
    pub fn rate(self) -> f64 {
        f64::from(self.millirate) / 1000.0
    }

    /// How many at once.
    pub fn burst(self) -> u32 {
        self.burst
    }
}
