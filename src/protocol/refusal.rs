//! Refusals of requests, with the error codes of the wire.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::Channel;

/// The error codes of the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Not a JSON object.
    BadJson,
    /// A field is missing, of the wrong type or out of range; the message names it.
    BadRequest,
    /// No such action.
    UnknownAction,
    /// The connection is not authenticated yet.
    AuthRequired,
    /// The message names the right that is missing.
    Forbidden,
    /// A whisper needs a subscription.
    NotSubscribed,
    /// No such connection.
    UnknownConnection,
    /// No such operation, or not on that channel.
    UnknownOperation,
    /// The operation runs already.
    Conflict,
    /// Too many requests; `retry_after` says when.
    RateLimited,
    /// A name, id, event, line or body over its limit.
    TooLarge,
    /// The connection has as many subscriptions as it may.
    TooManySubscriptions,
    /// As many revocations are kept as may be.
    TooManyRevocations,
    /// What must be stored cannot be: a durable message, or a revocation.
    StoreUnavailable,
    /// The configuration cannot be used; the message has a line for each mistake.
    BadConfiguration,
    /// The daemon is about to end.
    ShuttingDown,
    /// The daemon's own fault.
    Internal,
}

impl Code {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::BadRequest => "bad_request",
            Self::UnknownAction => "unknown_action",
            Self::AuthRequired => "auth_required",
            Self::Forbidden => "forbidden",
            Self::NotSubscribed => "not_subscribed",
            Self::UnknownConnection => "unknown_connection",
            Self::UnknownOperation => "unknown_operation",
            Self::Conflict => "conflict",
            Self::RateLimited => "rate_limited",
            Self::TooLarge => "too_large",
            Self::TooManySubscriptions => "too_many_subscriptions",
            Self::TooManyRevocations => "too_many_revocations",
            Self::StoreUnavailable => "store_unavailable",
            Self::BadConfiguration => "bad_configuration",
            Self::ShuttingDown => "shutting_down",
            Self::Internal => "internal",
        }
    }

    /// Whether it counts against the error budget of a connection: what a
    /// correct program never causes.
    pub fn is_a_mistake(self) -> bool {
        matches!(self, Self::BadJson | Self::BadRequest | Self::UnknownAction)
    }
}

/// A request that was not carried out, and why.
#[derive(Clone, PartialEq, Debug)]
pub struct Refusal {
    /// The code on the wire.
    pub code: Code,
    /// For people; names the field, the right or the limit.
    pub message: Cow<'static, str>,
    /// The action that was asked for, where it could be read.
    pub action: Option<Cow<'static, str>>,
    /// The channel that was asked for, where it could be read.
    pub channel: Option<Channel>,
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal without action and channel.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), action: None, channel: None, retry_after: None }
    }

    /// For requests that only administrators may make; the message names them.
    pub fn for_administrators() -> Self {
        let who = "this is for administrators: root, the daemon's own user, those in `[worker] admins`, and \
                   on a WebSocket users whose token has `admin`";
        Self::new(Code::Forbidden, who)
    }

    /// Adds the action that was refused.
    #[must_use]
    pub fn of(mut self, action: impl Into<Cow<'static, str>>) -> Self {
        self.action = Some(action.into());
        self
    }

    /// Adds the channel that it was about.
    #[must_use]
    pub fn on(mut self, channel: &Channel) -> Self {
        self.channel = Some(channel.clone());
        self
    }

    /// Adds when to try again.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}
