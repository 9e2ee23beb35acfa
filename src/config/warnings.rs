//! Warnings about settings that are allowed and seldom wise.

use std::fs::Metadata;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::paths::STORE;
use super::shell_quoting::quoted;
use super::{Config, Loaded, StoreKind};

impl Config {
    /// What is allowed but seldom wise.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings_at(&self.listen.http)
    }

    /// The same where it listens elsewhere: on sockets that it was given.
    pub fn warnings_at(&self, http: &[SocketAddr]) -> Vec<String> {
        let mut warnings = Vec::new();
        let open = http.iter().find(|address| !address.ip().is_loopback());
        if let Some(address) = open {
            if self.auth.anonymous {
                warnings.push(format!(
                    "auth.anonymous admits every client that reaches {address}; listen on a loopback \
                     address or require tokens"
                ));
            }
            if self.auth.query_token {
                warnings.push(format!(
                    "auth.query_token accepts tokens in URLs on {address}, where proxies log them; set it \
                     to false if no client needs it"
                ));
            }
        }
        if !self.auth.claims.end {
            warnings.push(
                "auth.require_exp = false accepts tokens that never end; a stolen one is valid until its key \
                 is changed"
                    .to_owned(),
            );
        }
        if self.listen.allowed_origins.iter().any(|origin| origin == "*") {
            warnings.push(
                "listen.allowed_origins = [\"*\"] lets every web page that a user visits connect".to_owned(),
            );
        }
        if self.listen.trusted_proxies.iter().any(|network| network.prefix_len() == 0) {
            warnings.push(
                "listen.trusted_proxies names every address: a client without a proxy can claim any source \
                 address"
                    .to_owned(),
            );
        }
        let directory = self.listen.worker.parent().filter(|directory| is_open_to_all(directory));
        if let Some(directory) = directory {
            warnings.push(format!(
                "listen.worker is in {}, which all users may write to: another user could create a socket \
                 in its place; a directory of its own prevents that",
                directory.display()
            ));
        }
        warnings.extend(self.open_directories());
        if self.state.store == StoreKind::Memory && self.kept_bytes() < self.limits.hub.kept_bytes {
            warnings.push(
                "store.bytes is more than half of limits.memory: messages are kept up to that half"
                    .to_owned(),
            );
        }
        warnings
    }

    /// A warning about directories of the daemon's own that other users may write to.
    fn open_directories(&self) -> Option<String> {
        let state = &self.state.directory;
        let mode =
            |directory: &Path| Some(directory.metadata().ok().filter(Metadata::is_dir)?.mode() & 0o7777);
        let may_be_entered = mode(state)? & 0o011 != 0;
        let within = may_be_entered.then(|| state.join(STORE));
        let is_open = |directory: &PathBuf| mode(directory).is_some_and(|mode| mode & 0o022 != 0);
        let open: Vec<PathBuf> = [state.clone()].into_iter().chain(within).filter(is_open).collect();
        let directory = open.first()?;
        let words: Vec<String> = open.iter().map(|directory| quoted(directory)).collect();
        Some(format!(
            "state.directory: {} has mode {:04o}, so that others may replace keys and kept messages; \
             `chmod go-w {}` keeps them out",
            directory.display(),
            mode(directory)?,
            words.join(" ")
        ))
    }
}

impl Loaded {
    /// A warning about variables that look like ours and are not.
    pub fn foreign_variables(&self) -> Option<String> {
        (!self.foreign.is_empty()).then(|| {
            format!(
                "{} in the environment: ignored, for options are set by WSHUBD_SECTION__KEY",
                self.foreign.join(", ")
            )
        })
    }
}

fn is_open_to_all(directory: &Path) -> bool {
    directory.metadata().is_ok_and(|metadata| metadata.mode() & 0o002 != 0)
}
