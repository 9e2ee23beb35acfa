//! What the edges know of the configuration, in one place.
//!
//! Knows keys, secrets, origins, proxies, local peers and the limits of the edges, and is
//! replaced as a whole when they change. Does not know who is connected: whoever
//! was let in by one site stays when another takes its place.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use crate::config::{ConfigError, Loaded};
use crate::edge::auth::jwt::Verifier;
use crate::edge::auth::revocation::Shortened;
use crate::edge::auth::secret_file::{ReadFile, Secrets};
use crate::edge::http::auth_throttle::AuthThrottle;
use crate::edge::http::conn;
use crate::edge::http::forwarded::Proxies;
use crate::edge::http::origin::OriginPolicy;
use crate::edge::net::peer_credentials::Peers;
use crate::edge::net::send_queue::QueueLimits;
use crate::protocol::UnixTime;

/// All of it.
pub struct EdgeConfig {
    pub gate: OriginPolicy,
    pub proxies: Proxies,
    pub verifier: Verifier,
    pub secrets: Secrets,
    pub peers: Peers,
    /// Where a WebSocket can be had.
    pub paths: Vec<String>,
    pub query_token: bool,
    pub metrics_open: bool,
    /// Whether each request and each end of a connection is written down.
    pub logs_access: bool,
    /// The ceiling on what is held for all peers.
    pub memory: usize,
    /// Largest frame, line or body.
    pub message_bytes: usize,
    /// Most that a token may have its bearer ask for.
    pub token_rate: u32,
    /// What may wait for one link.
    pub bounds: QueueLimits,
    /// Most WebSocket connections and workers together.
    pub connections: usize,
    /// Most HTTP connections, those that have said nothing yet among them.
    pub guests: usize,
    /// Most of those that have asked something.
    pub conversations: usize,
    /// A request head or body that takes longer is given up.
    pub patience: Duration,
    /// An HTTP connection that lasts longer has its last answer next.
    pub lifetime: Duration,
    /// How many wrong secrets and tokens come from where; borrowed for the length
    /// of one call.
    pub wrong_secrets: RefCell<AuthThrottle>,
    pub wrong_tokens: RefCell<AuthThrottle>,
}

impl EdgeConfig {
    /// Reads the files that a configuration names, and leaves no trace.
    ///
    /// # Errors
    /// All that cannot be used, each by its name.
    pub fn open(loaded: &Loaded) -> Result<Self, ConfigError> {
        let config = &loaded.config;
        let state = &config.state.directory;
        let verifier = Verifier::open(&config.auth, state);
        let secrets = Secrets::open(&config.auth, state);
        let peers = Peers::new(loaded);
        let (verifier, secrets, peers) = match (verifier, secrets, peers) {
            (Ok(verifier), Ok(secrets), Ok(peers)) => (verifier, secrets, peers),
            (verifier, secrets, peers) => {
                let errors = [verifier.err(), secrets.err(), peers.err()];
                let problems = errors.into_iter().flatten().flat_map(|error| error.problems);
                return Err(ConfigError { problems: problems.collect() });
            }
        };
        Ok(Self {
            gate: OriginPolicy::new(&config.listen, &hostname()),
            proxies: Proxies::new(&config.listen),
            verifier,
            secrets,
            peers,
            paths: config.listen.paths.clone(),
            query_token: config.auth.query_token,
            metrics_open: config.listen.metrics_open,
            logs_access: config.log_access,
            memory: config.limits.hub.memory,
            message_bytes: config.limits.hub.message_bytes,
            token_rate: config.limits.hub.token_rate,
            bounds: QueueLimits { messages: config.limits.queue_messages, bytes: config.limits.queue_bytes },
            connections: config.limits.connections,
            guests: config.limits.http_connections,
            // No more than fit into a quarter of the ceiling on memory, or whoever
            // holds requests open would throw those out who are let in.
            conversations: (config.limits.hub.memory / 4 / conn::CONVERSATION).max(1),
            patience: config.limits.handshake,
            lifetime: conn::LIFETIME,
            wrong_secrets: RefCell::new(AuthThrottle::new(config.limits.wrong_secrets)),
            wrong_tokens: RefCell::new(AuthThrottle::new(config.limits.wrong_tokens)),
        })
    }

    /// What is no mistake, and may be none of what was meant.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.peers.warning().into_iter().chain(self.verifier.warnings())
    }

    /// Takes over what an earlier site has learnt of those who come.
    pub fn succeed(&mut self, before: &Self) {
        self.proxies.remember(&before.proxies);
        self.verifier.heed(Rc::clone(before.verifier.revocations().0));
        self.wrong_secrets.get_mut().remember(&before.wrong_secrets.borrow());
        self.wrong_tokens.get_mut().remember(&before.wrong_tokens.borrow());
    }

    /// What becomes of revocations that an earlier site would have kept for longer.
    pub fn revocations_shortened(&self, before: &Self, now: UnixTime) -> Vec<String> {
        let (revocations, ttl) = self.verifier.revocations();
        let (_, before) = before.verifier.revocations();
        let shortened = revocations.borrow_mut().shortened(now, before, ttl);
        shortened.iter().flat_map(Shortened::warnings).collect()
    }

    /// Files of keys and secrets that hold something else than an earlier site has
    /// read in them.
    pub fn files_changed(&self, before: &Self) -> Vec<PathBuf> {
        let earlier: Vec<&ReadFile> = before.verifier.files().iter().chain(before.secrets.files()).collect();
        let read = self.verifier.files().iter().chain(self.secrets.files());
        let changed = read.filter(|file| earlier.iter().any(|earlier| file.is_change_of(earlier)));
        changed.map(|file| file.path().to_owned()).collect()
    }
}

/// The machine's own name, by which it may be called.
fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
