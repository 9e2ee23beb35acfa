//! A reload of the configuration, while all connections stay.
//!
//! It is read and checked as a whole before anything of it is used. A reload changes all
//! settings that are written or none. One that would take a restart is an error and no
//! warning: `systemctl reload` shows no warnings, and a daemon that runs half of what is
//! written would be noticed at its next start.

use std::fmt::Write;
use std::path::PathBuf;

use super::listeners::Opened;
use super::store_options::store_options;
use crate::config::{Config, ConfigError, ConfigSource, Loaded, OptionChange, Problem};
use crate::edge::auth::secret_file;
use crate::edge::clock;
use crate::edge::config::EdgeConfig;
use crate::edge::event_loop::Edge;
use crate::edge::net::bind::Unavailable;
use crate::edge::net::fd_limit;
use crate::edge::net::listeners::Listeners;
use crate::logging;
use crate::protocol::frame::{ChangeEntry, Reloaded};

/// Reads the configuration again when that is asked for.
pub(super) struct Reloader {
    source: ConfigSource,
    /// What is in use.
    loaded: Loaded,
    opened: Opened,
}

impl Reloader {
    pub(super) fn new(source: ConfigSource, loaded: Loaded, opened: Opened) -> Self {
        Self { source, loaded, opened }
    }

    /// Makes sure that another program that goes on from here would find what this one has
    /// left: one that begins with another store has nothing to go on with.
    ///
    /// # Errors
    /// Settings that are written now and take a restart.
    pub(super) fn check_successor(&self) -> Result<(), ConfigError> {
        let next = self.source.load_for_next()?;
        ConfigError::unless_empty(next.losses(&self.loaded))
    }

    /// Opens the listeners of another process that would begin with what is written now.
    /// What this program cannot read the next one may.
    pub(super) fn open_for_next(&self, listeners: &mut Listeners) -> Result<(), Unavailable> {
        match self.source.load_again() {
            Ok(Loaded { config, .. }) => listeners.open_for_next(&config.listen.http, &config.listen.worker),
            Err(_) => Ok(()),
        }
    }

    /// Reloads, writes a line about it, and answers the connections that have asked for it.
    pub(super) fn reload(&mut self, edge: &Edge) {
        let outcome = self.take_over(edge);
        match &outcome {
            Ok(reloaded) => log::info!("reloaded: {}", summary(&reloaded.changed)),
            Err(error) => {
                let problems: Vec<String> = error.problems.iter().map(Problem::to_string).collect();
                log::error!("not reloaded, and nothing is changed: {}", problems.join("; "));
            }
        }
        // The answer has them too, and does not reach those who read the log later.
        for warning in outcome.iter().flat_map(|reloaded| &reloaded.warnings) {
            log::warn!("{warning}");
        }
        edge.driver.borrow_mut().answer_reload(&outcome.map_err(|error| error.to_string()));
    }

    fn take_over(&mut self, edge: &Edge) -> Result<Reloaded, ConfigError> {
        let mut next = self.source.load_again()?;
        let (changes, mut problems) = match next.succeed(&self.loaded, self.opened.overruled()) {
            Ok(changes) => (changes, Vec::new()),
            Err(problems) => (Vec::new(), problems),
        };
        // One attempt shows all that is wrong, and leaves no trace if anything is.
        problems.extend(EdgeConfig::open(&next).err().into_iter().flat_map(|error| error.problems));
        ConfigError::unless_empty(problems)?;
        let Config { auth, state, .. } = &next.config;
        secret_file::generate_missing(auth, &state.directory)?;
        // Once more, with the secrets that were made now.
        let mut edge_config = EdgeConfig::open(&next)?;
        let before = edge.config();
        edge_config.inherit(&before);
        let files = edge_config.files_changed(&before);
        let shortened = edge_config.driver.revocations_shortened(before.driver(), clock::now().wall);
        let edge_warnings = edge_config.warnings();
        let config = &next.config;
        edge.configure(edge_config, config.hub_settings(), store_options(config));
        logging::set_level(config.log.level);
        let entry = |OptionChange { setting, from, to }| ChangeEntry::Setting { setting, from, to };
        let file = |file: PathBuf| ChangeEntry::File { file: file.display().to_string() };
        let changed = changes.into_iter().map(entry).chain(files.into_iter().map(file)).collect();
        let limits = fd_limit::warning(config.limits.connections, edge.connections());
        let warnings = self.opened.warnings(config).into_iter().chain(edge_warnings);
        let warnings =
            warnings.chain(shortened).chain(self.opened.overruled_addresses(config)).chain(limits).collect();
        self.loaded = next;
        Ok(Reloaded { changed, warnings })
    }
}

/// The names of what has changed.
fn summary(changed: &[ChangeEntry]) -> String {
    let mut text = String::new();
    for entry in changed {
        let (ChangeEntry::Setting { setting: name, .. } | ChangeEntry::File { file: name }) = entry;
        let gap = if text.is_empty() { "" } else { ", " };
        let written = write!(text, "{gap}{name}");
        debug_assert!(written.is_ok(), "writing to memory cannot fail");
    }
    if text.is_empty() { "nothing has changed".to_owned() } else { text }
}
