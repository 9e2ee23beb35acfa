//! Configuration of the driver: keys of tokens, and limits on connections.
//!
//! It is replaced as a whole on a reload. A connection that one configuration has let in stays
//! when another takes its place.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use crate::config::{Config, ConfigError};
use crate::edge::auth::jwt::Verifier;
use crate::edge::auth::revocation::Shortened;
use crate::edge::auth::secret_file::ReadFile;
use crate::edge::auth::throttle::AuthThrottle;
use crate::edge::net::send_queue::QueueLimits;
use crate::protocol::UnixTime;

/// What the driver reads of the configuration.
pub struct DriverConfig {
    pub verifier: Verifier,
    /// How many wrong tokens come from where; borrowed for the length of one call.
    pub wrong_tokens: RefCell<AuthThrottle>,
    /// Whether each end of a connection is logged.
    pub logs_access: bool,
    /// The ceiling on what is held for all peers.
    pub memory: usize,
    /// Largest frame or line.
    pub message_bytes: usize,
    /// Most requests per second that a token may grant.
    pub token_rate: u32,
    /// What may wait for one connection.
    pub queue_limits: QueueLimits,
    /// Most WebSocket connections and workers together.
    pub connections: usize,
}

impl DriverConfig {
    /// Reads the keys that a configuration names.
    ///
    /// # Errors
    /// All of them that cannot be used, each by its name.
    pub fn open(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self {
            verifier: Verifier::open(&config.auth, &config.state.directory)?,
            wrong_tokens: RefCell::new(AuthThrottle::new(config.limits.wrong_tokens)),
            logs_access: config.log.access,
            memory: config.limits.hub.memory,
            message_bytes: config.limits.hub.message_bytes,
            token_rate: config.limits.hub.token_rate,
            queue_limits: QueueLimits {
                messages: config.limits.queue_messages,
                bytes: config.limits.queue_bytes,
            },
            connections: config.limits.connections,
        })
    }

    /// Takes over what an earlier configuration has learnt of those that connect.
    pub fn inherit(&mut self, before: &Self) {
        self.verifier.heed(Rc::clone(before.verifier.revocations().0));
        self.wrong_tokens.get_mut().remember(&before.wrong_tokens.borrow());
    }

    /// What becomes of revocations that an earlier configuration would have kept for longer.
    pub fn revocations_shortened(&self, before: &Self, now: UnixTime) -> Vec<String> {
        let (revocations, ttl) = self.verifier.revocations();
        let (_, before) = before.verifier.revocations();
        let shortened = revocations.borrow_mut().shortened(now, before, ttl);
        shortened.iter().flat_map(Shortened::warnings).collect()
    }

    /// How many revocations are kept.
    pub(super) fn revocation_count(&self, now: UnixTime) -> u64 {
        let (revocations, ttl) = self.verifier.revocations();
        revocations.borrow_mut().forget(now, ttl);
        revocations.borrow().len() as u64
    }
}

/// Files of which `after` has read another content than `before`.
pub(in crate::edge) fn changed_files<'a>(
    before: impl Iterator<Item = &'a ReadFile>,
    after: impl Iterator<Item = &'a ReadFile>,
) -> Vec<PathBuf> {
    let before: Vec<&ReadFile> = before.collect();
    let changed = after.filter(|file| before.iter().any(|earlier| file.is_change_of(earlier)));
    changed.map(|file| file.path().to_owned()).collect()
}
