//! Settings of the hub: limits, heartbeat and policies, with their defaults.
//!
//! Does not know files: the configuration fills this in.

use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::connection::rate_limit::OF_USER;
use super::connection::rights::{Pattern, Rights};
use super::event::LogKey;
use crate::protocol::Channel;

/// All that an administrator can configure of the hub.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Whether connections without a token are admitted, without a user.
    pub anonymous: bool,
    /// Whether there is a disk; without one, messages are kept in memory alone.
    pub has_disk: bool,
    /// Bytes that may be written to the disk in a day; none: as many as it takes.
    pub flash_budget: Option<u64>,
    /// The rights of anonymous connections, and of tokens that name none.
    pub rights: Rc<Rights>,
    pub limits: Limits,
    pub heartbeat: Heartbeat,
    /// First match wins.
    pub policies: Vec<(Pattern, Policy)>,
    /// What applies to channels that no pattern names.
    pub policy: Policy,
    /// What applies to the inboxes of users.
    pub inbox: Policy,
    /// The uid that the kernel shows for users without one here: of another user namespace,
    /// each could be any user.
    pub overflow_uid: u32,
}

/// Limits on peers, on what is kept and on memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub requests_per_second: u32,
    pub burst: u32,
    /// Of all connections of a user together, or of an address without one.
    pub user_requests_per_second: u32,
    pub user_burst: u32,
    /// The most that a token may allow, of either number.
    pub token_rate: u32,
    pub interrupts_per_second: u32,
    pub interrupt_burst: u32,
    pub whispers_per_second: u32,
    pub whisper_burst: u32,
    /// Only shown to clients; the edge enforces it.
    pub message_bytes: usize,
    pub subscriptions: usize,
    pub connections_per_user: usize,
    /// So many mistakes within that time end a connection.
    pub errors: usize,
    pub errors_window: Duration,
    /// Operations that run at the same time.
    pub operations: usize,
    /// Bytes that may be held for all peers together.
    pub memory: usize,
    /// Bytes that all logs may hold together.
    pub kept_bytes: usize,
    /// How long in-band authentication may take.
    pub auth: Duration,
    /// How long a peer may accept no byte.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_second: 10,
            burst: 20,
            user_requests_per_second: 10 * OF_USER,
            user_burst: 20 * OF_USER,
            // As fast as a back end needs it; more goes over the worker socket.
            token_rate: 1000,
            // No user stops operations faster than this.
            interrupts_per_second: 10,
            interrupt_burst: 20,
            // Typing indicators and cursors: as smooth as a screen is, for a moment.
            whispers_per_second: 20,
            whisper_burst: 40,
            message_bytes: 512 << 10,
            subscriptions: 128,
            connections_per_user: 1000,
            // A program that is wrong five times will be wrong again.
            errors: 5,
            errors_window: Duration::from_secs(600),
            // More than any machine works on at once; a worker in a loop stops here.
            operations: 10_000,
            memory: 128 << 20,
            kept_bytes: 64 << 20,
            auth: Duration::from_secs(10),
            stall: Duration::from_secs(10),
        }
    }
}

/// After which silence a ping is sent, and after which a connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    pub ping_interval: Duration,
    pub pong_timeout: Duration,
}

impl Default for Heartbeat {
    /// Below the 60 s after which proxies give an idle connection up.
    fn default() -> Self {
        Self { ping_interval: Duration::from_secs(54), pong_timeout: Duration::from_secs(60) }
    }
}

/// What is kept of a channel's messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    pub keep: Keep,
    /// At most so many messages.
    pub count: usize,
    /// At most so many bytes.
    pub bytes: usize,
    /// For at most so long.
    pub ttl: Duration,
    pub disk: WriteThrough,
}

/// When a kept message goes to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WriteThrough {
    /// Not at all.
    Never,
    /// When the daemon stops or hands over.
    Stop,
    /// A little later, if it is still owed then.
    Behind,
    /// At once; its publisher waits for that.
    Now,
}

impl WriteThrough {
    /// Unless the configuration says otherwise: what is gone soon anyway is worth
    /// no flash before the end.
    pub fn for_keep(keep: Keep) -> Self {
        match keep {
            Keep::Undelivered | Keep::Unacknowledged => Self::Behind,
            Keep::History => Self::Stop,
            Keep::Never => Self::Never,
        }
    }
}

/// Which messages are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Those that reached nobody, until they do.
    Undelivered,
    /// The last ones, delivered or not.
    History,
    /// Those that their user has not acknowledged: for inboxes.
    Unacknowledged,
    /// None.
    Never,
}

impl Keep {
    /// How the configuration spells it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Undelivered => "undelivered",
            Self::History => "history",
            Self::Unacknowledged => "unacknowledged",
            Self::Never => "never",
        }
    }

    /// Whether a message is kept although all subscribers received it live, so that one that
    /// was too slow for that can read it.
    pub fn keeps_all(self) -> bool {
        matches!(self, Self::History | Self::Unacknowledged)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            keep: Keep::Undelivered,
            count: 1000,
            bytes: 1 << 20,
            ttl: Duration::from_secs(24 * 3600),
            disk: WriteThrough::Behind,
        }
    }
}

/// The default of Linux, which calls it `nobody`.
pub const OVERFLOW_UID: u32 = 65534;

impl Default for Settings {
    fn default() -> Self {
        let rights = Rights {
            subscribe: vec![Pattern::new("*")],
            publish: vec![Pattern::new("*"), Pattern::new("@connection:*")],
            ..Rights::default()
        };
        Self {
            anonymous: false,
            has_disk: false,
            flash_budget: None,
            rights: Rc::new(rights),
            limits: Limits::default(),
            heartbeat: Heartbeat::default(),
            policies: Vec::new(),
            policy: Policy::default(),
            inbox: Policy { keep: Keep::Unacknowledged, ..Policy::default() },
            overflow_uid: OVERFLOW_UID,
        }
    }
}

impl Settings {
    /// The policy of a channel: the first that names it.
    pub fn policy_of(&self, channel: &Channel) -> Policy {
        let named = self.policies.iter().find(|(pattern, _)| pattern.matches(channel.as_str(), None));
        named.map_or(self.policy, |(_, policy)| *policy)
    }

    /// The policy of a channel or an inbox.
    pub(super) fn log_policy(&self, key: &LogKey) -> Policy {
        match key {
            LogKey::Inbox(_) => self.inbox,
            // Its state goes to later subscribers; its messages are for those who watch.
            LogKey::Channel(channel) if channel.operation().is_some() => {
                Policy { keep: Keep::Never, ..Policy::default() }
            }
            LogKey::Channel(channel) => self.policy_of(channel),
        }
    }

    /// Whether the numbers of a log go on although the process is killed.
    pub(super) fn keeps_numbers(&self, policy: &Policy) -> bool {
        self.has_disk && policy.keep == Keep::History && policy.disk == WriteThrough::Behind
    }
}
