//! Configuration of HTTP: origins, proxies, secrets, paths and times.

use std::cell::RefCell;
use std::time::Duration;

use super::conn::LIFETIME;
use super::forwarded::Proxies;
use super::origin::OriginPolicy;
use crate::config::{Config, ConfigError};
use crate::edge::auth::secret_file::Secrets;
use crate::edge::auth::throttle::AuthThrottle;

/// What HTTP reads of the configuration. It is replaced as a whole on a reload; each request is
/// answered by the one that holds when it comes.
pub struct HttpConfig {
    pub gate: OriginPolicy,
    pub proxies: Proxies,
    pub secrets: Secrets,
    /// Where a WebSocket can be had.
    pub paths: Vec<String>,
    pub query_token: bool,
    pub metrics_open: bool,
    /// Whether each request is logged.
    pub logs_access: bool,
    /// Largest body.
    pub message_bytes: usize,
    /// A request head or body that takes longer is given up.
    pub patience: Duration,
    /// A connection that lasts longer has its last answer next.
    pub lifetime: Duration,
    /// How many wrong secrets come from where; borrowed for the length of one call.
    pub wrong_secrets: RefCell<AuthThrottle>,
}

impl HttpConfig {
    /// Reads the secrets that a configuration names.
    ///
    /// # Errors
    /// All of them that cannot be used, each by its name.
    pub fn open(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self {
            gate: OriginPolicy::new(&config.listen, &hostname()),
            proxies: Proxies::new(&config.listen),
            secrets: Secrets::open(&config.auth, &config.state.directory)?,
            paths: config.listen.paths.clone(),
            query_token: config.auth.query_token,
            metrics_open: config.listen.metrics_open,
            logs_access: config.log.access,
            message_bytes: config.limits.hub.message_bytes,
            patience: config.limits.handshake,
            lifetime: LIFETIME,
            wrong_secrets: RefCell::new(AuthThrottle::new(config.limits.wrong_secrets)),
        })
    }

    /// Takes over what an earlier configuration has learnt of those that connect.
    pub fn inherit(&mut self, before: &Self) {
        self.proxies.remember(&before.proxies);
        self.wrong_secrets.get_mut().remember(&before.wrong_secrets.borrow());
    }
}

/// The machine's own name, by which it may be called.
fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
