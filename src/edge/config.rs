//! Configuration of the whole edge, split into what each part reads.

use std::path::PathBuf;
use std::rc::Rc;

use super::driver::Driver;
use super::driver::config::{DriverConfig, changed_files};
use super::http::config::HttpConfig;
use super::http::conn::{CONNECTION_MEMORY, HttpContext};
use super::net::listeners::AcceptConfig;
use super::net::peer_credentials::Peers;
use crate::config::{ConfigError, Loaded};

/// All of it, before it is in use.
pub struct EdgeConfig {
    pub accept: AcceptConfig,
    pub driver: DriverConfig,
    pub http: HttpConfig,
}

/// What another configuration takes the place of.
#[derive(Clone)]
pub struct ActiveConfig {
    driver: Rc<DriverConfig>,
    http: Rc<HttpConfig>,
}

impl ActiveConfig {
    /// What is in use.
    pub fn of(driver: &Driver, http: &HttpContext) -> Self {
        Self { driver: driver.config().clone(), http: http.config() }
    }

    pub fn driver(&self) -> &DriverConfig {
        &self.driver
    }
}

impl EdgeConfig {
    /// Reads the files that a configuration names, and leaves no trace.
    ///
    /// # Errors
    /// All that cannot be used, each by its name.
    pub fn open(loaded: &Loaded) -> Result<Self, ConfigError> {
        let config = &loaded.config;
        let (driver, http) = (DriverConfig::open(config), HttpConfig::open(config));
        let (driver, http, peers) = match (driver, http, Peers::new(loaded)) {
            (Ok(driver), Ok(http), Ok(peers)) => (driver, http, peers),
            (driver, http, peers) => {
                let errors = [driver.err(), http.err(), peers.err()];
                let problems = errors.into_iter().flatten().flat_map(|error| error.problems);
                return Err(ConfigError { problems: problems.collect() });
            }
        };
        let accept = AcceptConfig {
            peers,
            most_pending: config.limits.http_connections,
            // No more than fit into a quarter of the ceiling on memory, or open requests would
            // push out the connections of those that have a token.
            most_served: (config.limits.hub.memory / 4 / CONNECTION_MEMORY).max(1),
            patience: config.limits.handshake,
        };
        Ok(Self { accept, driver, http })
    }

    /// What is allowed, and may be none of what was meant.
    pub fn warnings(&self) -> Vec<String> {
        self.accept.peers.warning().into_iter().chain(self.driver.verifier.warnings()).collect()
    }

    /// Takes over what an earlier configuration has learnt of those that connect.
    pub fn inherit(&mut self, before: &ActiveConfig) {
        self.driver.inherit(before.driver());
        self.http.inherit(&before.http);
    }

    /// Files of keys and secrets that hold something else than an earlier configuration has
    /// read in them.
    pub fn files_changed(&self, before: &ActiveConfig) -> Vec<PathBuf> {
        let was = before.driver.verifier.files().iter().chain(before.http.secrets.files());
        changed_files(was, self.driver.verifier.files().iter().chain(self.http.secrets.files()))
    }
}
