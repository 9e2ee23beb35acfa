//! Taking over a configuration that has changed, while everybody stays connected.
//!
//! Knows where the configuration came from, and that a new one is read and checked
//! as a whole before anything of it is used. Does not know what the settings lead
//! to.
//!
//! A reload changes all that was asked for or nothing. What would take a restart is
//! an error and no warning: `systemctl reload` shows nobody a warning, and a
//! daemon that runs half of what is written would be found out at its next start.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::{Change, Config, ConfigError, Environment, Loaded, Problem};
use crate::daemon;
use crate::edge::auth::secret_file;
use crate::edge::clock;
use crate::edge::config::EdgeConfig;
use crate::edge::event_loop::Edge;
use crate::edge::net::bind::Unavailable;
use crate::edge::net::fd_limit;
use crate::edge::net::listeners::Listeners;
use crate::logging;
use crate::protocol::frame::{ChangeEntry, Reloaded};

/// Where the configuration of a process comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The file that was named; none: the usual ones.
    pub file: Option<PathBuf>,
    /// That of the start: nobody can change it from outside.
    pub environment: Environment,
}

impl Source {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        Config::load(self.file.as_deref(), &self.environment)
    }
}

/// Reads it again when it is asked to.
pub(crate) struct Reloader {
    source: Source,
    /// What is in use.
    loaded: Loaded,
    /// Where clients come in.
    addresses: Vec<SocketAddr>,
    /// The settings in whose place systemd has passed sockets.
    overruled: Vec<&'static str>,
}

impl Reloader {
    pub(crate) fn new(
        source: Source,
        loaded: Loaded,
        addresses: Vec<SocketAddr>,
        overruled: Vec<&'static str>,
    ) -> Self {
        Self { source, loaded, addresses, overruled }
    }

    /// Makes sure that another program that goes on from here would find what this one has
    /// left: who begins with another store has nothing to go on with.
    ///
    /// # Errors
    /// What is written now and takes a restart.
    pub(crate) fn may_be_succeeded(&self) -> Result<(), ConfigError> {
        let next = Config::load_for_next(self.source.file.as_deref(), &self.source.environment)?;
        ConfigError::unless_empty(next.loses(&self.loaded))
    }

    /// Opens the listeners of another process that would begin with what is written now.
    /// What this program cannot read the next one may.
    pub(crate) fn open_for_next(&self, doors: &mut Listeners) -> Result<(), Unavailable> {
        match Config::load_again(self.source.file.as_deref(), &self.source.environment) {
            Ok(Loaded { config, .. }) => doors.open_for_next(&config.listen.http, &config.listen.worker),
            Err(_) => Ok(()),
        }
    }

    /// Reloads, writes a line about it, and answers those who have asked.
    pub(crate) fn reload(&mut self, edge: &Edge) {
        let outcome = self.take_over(edge);
        match &outcome {
            Ok(reloaded) => log::info!("reloaded: {}", summary(&reloaded.changed)),
            Err(error) => {
                let problems: Vec<String> = error.problems.iter().map(Problem::to_string).collect();
                log::error!("not reloaded, and nothing is changed: {}", problems.join("; "));
            }
        }
        // Whoever has asked is told, and whoever reads the log later is not that one.
        for warning in outcome.iter().flat_map(|reloaded| &reloaded.warnings) {
            log::warn!("{warning}");
        }
        edge.driver.borrow_mut().answer_reload(&outcome.map_err(|error| error.to_string()));
    }

    fn take_over(&mut self, edge: &Edge) -> Result<Reloaded, ConfigError> {
        let (file, environment) = (self.source.file.as_deref(), &self.source.environment);
        let mut next = Config::load_again(file, environment)?;
        let (changes, mut problems) = match next.succeed(&self.loaded, &self.overruled) {
            Ok(changes) => (changes, Vec::new()),
            Err(problems) => (Vec::new(), problems),
        };
        // One attempt shows all that is wrong, and leaves no trace if anything is.
        problems.extend(EdgeConfig::open(&next).err().into_iter().flat_map(|error| error.problems));
        ConfigError::unless_empty(problems)?;
        let Config { auth, state, .. } = &next.config;
        secret_file::generate_missing(auth, &state.directory)?;
        let mut opened = EdgeConfig::open(&next)?;
        let before = edge.config();
        opened.inherit(&before);
        let files = opened.files_changed(&before);
        let shortened = opened.driver.revocations_shortened(before.driver(), clock::now().wall);
        let edge_warnings = opened.warnings();
        let config = &next.config;
        edge.configure(opened, config.hub_settings(), daemon::store_options(config));
        logging::set_level(config.log);
        let entry = |Change { setting, from, to }| ChangeEntry::Setting { setting, from, to };
        let file = |file: PathBuf| ChangeEntry::File { file: file.display().to_string() };
        let changed = changes.into_iter().map(entry).chain(files.into_iter().map(file)).collect();
        let is_passed = self.overruled.contains(&daemon::HTTP_SETTING);
        let inert = is_passed.then(|| daemon::overruling(&config.listen.http, &self.addresses)).flatten();
        let open = edge.connections();
        let limits = fd_limit::warning(config.limits.connections, open);
        let warnings = config.warnings_at(&self.addresses).into_iter().chain(edge_warnings);
        let warnings = warnings.chain(shortened).chain(inert).chain(limits).collect();
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
