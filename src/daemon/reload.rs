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
use std::rc::Rc;

use crate::config::{Config, ConfigError, ConfigSource, Loaded, OptionChange, Problem};
use crate::daemon;
use crate::edge::auth::secret_file;
use crate::edge::clock;
use crate::edge::driver::Shared;
use crate::edge::driver::config::EdgeConfig;
use crate::edge::handover::Unavailable;
use crate::edge::net::fd_limit;
use crate::edge::net::listeners::Listeners;
use crate::logging;
use crate::protocol::frame::{ChangeEntry, Reloaded};

/// Reads it again when it is asked to.
pub(crate) struct Reloader {
    source: ConfigSource,
    /// What is in use.
    loaded: Loaded,
    /// Where clients come in.
    addresses: Vec<SocketAddr>,
    /// The settings in whose place systemd has passed sockets.
    overruled: Vec<&'static str>,
}

impl Reloader {
    pub(crate) fn new(
        source: ConfigSource,
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
        let next = self.source.load_for_next()?;
        ConfigError::unless_empty(next.losses(&self.loaded))
    }

    /// Opens the listeners of another process that would begin with what is written now.
    /// What this program cannot read the next one may.
    pub(crate) fn open_for_next(&self, doors: &mut Listeners) -> Result<(), Unavailable> {
        match self.source.load_again() {
            Ok(Loaded { config, .. }) => doors.open_for_next(&config.listen.http, &config.listen.worker),
            Err(_) => Ok(()),
        }
    }

    /// Reloads, writes a line about it, and answers those who have asked.
    pub(crate) fn reload(&mut self, driver: &Shared, doors: &mut Listeners) {
        let outcome = self.take_over(driver, doors);
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
        driver.borrow_mut().answer_reload(&outcome.map_err(|error| error.to_string()));
    }

    fn take_over(&mut self, driver: &Shared, doors: &mut Listeners) -> Result<Reloaded, ConfigError> {
        let mut next = self.source.load_again()?;
        let (changes, mut problems) = match next.succeed(&self.loaded, &self.overruled) {
            Ok(changes) => (changes, Vec::new()),
            Err(problems) => (Vec::new(), problems),
        };
        // One attempt shows all that is wrong, and leaves no trace if anything is.
        problems.extend(EdgeConfig::open(&next).err().into_iter().flat_map(|error| error.problems));
        ConfigError::unless_empty(problems)?;
        let Config { auth, state, .. } = &next.config;
        secret_file::generate_missing(auth, &state.directory)?;
        let mut site = EdgeConfig::open(&next)?;
        let before = driver.borrow().site.clone();
        site.succeed(&before);
        let files = site.files_changed(&before);
        let shortened = site.revocations_shortened(&before, clock::now().wall);
        let patience = site.patience;
        let config = &next.config;
        let mut working = driver.borrow_mut();
        working.configure(Rc::new(site), config.hub_settings(), daemon::store_options(config));
        doors.hurry(working.moment() + patience);
        logging::set_level(config.log.level);
        let entry = |OptionChange { setting, from, to }| ChangeEntry::Setting { setting, from, to };
        let file = |file: PathBuf| ChangeEntry::File { file: file.display().to_string() };
        let changed = changes.into_iter().map(entry).chain(files.into_iter().map(file)).collect();
        let is_passed = self.overruled.contains(&daemon::HTTP_SETTING);
        let inert = is_passed.then(|| daemon::overruling(&config.listen.http, &self.addresses)).flatten();
        let open = working.connections() + doors.guests().borrow().count();
        let limits = fd_limit::warning(config.limits.connections, open);
        let warnings = config.warnings_at(&self.addresses).into_iter().chain(working.site.warnings());
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
