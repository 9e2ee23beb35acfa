//! `[limits]`: limits on the requests and the memory of peers.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{DAY, GIB, HOUR, KIB, MANY, MAX_MEMORY, MIB, seconds};
use crate::config::pass::Section;
use crate::hub::settings;

/// The time of each is held for its connection.
const MANY_ERRORS: RangeInclusive<u64> = 1..=100;

/// Limits: those that the hub applies, and those of the edges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitsConfig {
    /// `kept_bytes` among them comes from `[store] bytes`.
    pub hub: settings::Limits,
    /// Messages that may wait for one connection.
    pub queue_messages: usize,
    /// Bytes that may wait for one connection.
    pub queue_bytes: usize,
    /// Clients at the same time.
    pub connections: usize,
    /// TCP connections that are no WebSockets, at the same time.
    pub http_connections: usize,
    /// Wrong secrets that one address may present in a minute.
    pub wrong_secrets: u32,
    /// Tokens that never held.
    pub wrong_tokens: u32,
    /// How long a request's head and body may take.
    pub handshake: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            hub: settings::Limits::default(),
            queue_messages: 256,
            queue_bytes: 256 << 10,
            connections: 10_000,
            http_connections: 2048,
            wrong_secrets: 30,
            // After a key was changed all users of a proxy bring theirs once more.
            wrong_tokens: 100,
            handshake: Duration::from_secs(10),
        }
    }
}

impl LimitsConfig {
    pub(super) fn options(&mut self, section: &mut Section<'_>) {
        let hub = &mut self.hub;
        section.number("requests_per_second", &mut hub.requests_per_second, MANY);
        section.number("burst", &mut hub.burst, MANY);
        // A multiple of the limit of a connection, so that raising that raises both.
        let of_user = |one: u32| one.saturating_mul(settings::OF_USER).min(*MANY.end() as u32);
        section.default_to(&mut hub.user_requests_per_second, of_user(hub.requests_per_second));
        section.number("user_requests_per_second", &mut hub.user_requests_per_second, MANY);
        section.default_to(&mut hub.user_burst, of_user(hub.burst));
        section.number("user_burst", &mut hub.user_burst, MANY);
        section.number("token_rate", &mut hub.token_rate, MANY);
        section.number("interrupts_per_second", &mut hub.interrupts_per_second, MANY);
        section.number("interrupt_burst", &mut hub.interrupt_burst, MANY);
        section.number("whispers_per_second", &mut hub.whispers_per_second, MANY);
        section.number("whisper_burst", &mut hub.whisper_burst, MANY);
        // Below 1 KiB a token would not fit into an `auth` request of any use.
        section.size("message_bytes", &mut hub.message_bytes, KIB..=64 * MIB);
        section.number("queue_messages", &mut self.queue_messages, MANY);
        section.size("queue_bytes", &mut self.queue_bytes, KIB..=GIB);
        section.number("subscriptions", &mut hub.subscriptions, MANY);
        section.number("connections", &mut self.connections, MANY);
        section.number("connections_per_user", &mut hub.connections_per_user, MANY);
        section.number("http_connections", &mut self.http_connections, MANY);
        section.number("errors", &mut hub.errors, MANY_ERRORS);
        section.duration("errors_window", &mut hub.errors_window, seconds(1, DAY));
        section.number("operations", &mut hub.operations, MANY);
        section.number("wrong_secrets_per_minute", &mut self.wrong_secrets, MANY);
        section.number("wrong_tokens_per_minute", &mut self.wrong_tokens, MANY);
        // Below 1 MiB a few requests would fill it.
        section.size("memory", &mut hub.memory, MIB..=MAX_MEMORY);
        section.duration("handshake_timeout", &mut self.handshake, seconds(1, HOUR));
        section.duration("auth_timeout", &mut hub.auth, seconds(1, HOUR));
        section.duration("stall_timeout", &mut hub.stall, seconds(1, HOUR));
    }
}
