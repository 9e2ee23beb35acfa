//! The configuration: files, drop-ins and the environment, made into one [`Config`].
//!
//! The options stand in `options`, a file for each section. Nothing here opens a key, a
//! socket or a store: that is for the parts that use them.
//!
//! Drop-ins and variables are laid over the file key by key. Lists are replaced
//! as a whole, `[[channel]]` among them: the order of its entries has a meaning
//! that two files could not share.

mod absolute_path;
pub mod environment;
pub mod error;
mod file_name;
pub mod file_owner;
mod merge;
mod options;
mod pass;
pub mod paths;
mod reader;
mod reload_diff;
pub(crate) mod shell_quoting;
mod sources;
mod spelling;
mod syntax_hints;
mod variables;
mod warnings;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::hub::settings::{self, Heartbeat, Settings};

pub use environment::Environment;
pub use error::{ConfigError, Location, Problem};
pub(crate) use options::DEFAULT_HTTP;
pub use options::{
    Alg, AuthConfig, ChannelPolicy, Forwarded, INBOX, KeyFile, LimitsConfig, ListenConfig, LogConfig,
    Principal, RequiredClaims, StateConfig, StoreConfig, StoreKind, WorkerConfig,
};
pub use reload_diff::{Locations, OptionChange};
pub use sources::ConfigSource;

/// All that can be configured.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub listen: ListenConfig,
    pub state: StateConfig,
    pub auth: AuthConfig,
    pub worker: WorkerConfig,
    pub limits: LimitsConfig,
    pub heartbeat: Heartbeat,
    /// First match wins; `@me` stands for the inboxes of users.
    pub channels: Vec<ChannelPolicy>,
    pub store: StoreConfig,
    pub log: LogConfig,
}

/// How much of what the disk may take can be messages, in hundredths, at most. Beside
/// them it holds what was written around each of them, what is forgotten there and not
/// dropped yet, and copies of what outlives that. Of small messages it takes fewer: how
/// many, the store finds out and reports.
const KEPT_OF_DISK: usize = 50;

/// A configuration, and the files that it came from.
#[derive(Clone, PartialEq, Debug)]
pub struct Loaded {
    pub config: Config,
    /// In the order in which they were laid over one another.
    pub files: Vec<PathBuf>,
    pub locations: Locations,
    /// Variables with our prefix that set nothing.
    pub foreign: Vec<String>,
}

impl Config {
    /// Reads it again in a running daemon: of what is no file, such as a pipe, nothing
    /// is left to be read, and waiting for more would stop all connections.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_again(file: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigError> {
        sources::check_regular_files(&sources::of(file, environment)?)?;
        Self::load(file, environment)
    }

    /// Reads it for another program, which may know options that this one does not: a mistake
    /// in an option is for that program to report.
    ///
    /// # Errors
    /// Files that cannot be read, or only once.
    pub fn load_for_next(file: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigError> {
        sources::check_regular_files(&sources::of(file, environment)?)?;
        let (loaded, unreadable, _) = Self::read_sources(file, environment)?;
        ConfigError::unless_empty(unreadable).map(|()| loaded)
    }

    /// Reads `file`, or else the usual ones where they exist; the environment
    /// wins over both.
    ///
    /// # Errors
    /// All that is wrong with any of it.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigError> {
        let (loaded, mut problems, wrong) = Self::read_sources(file, environment)?;
        problems.extend(wrong);
        ConfigError::unless_empty(problems).map(|()| loaded)
    }

    /// What is written, the problems of sources that cannot be read, and the problems of
    /// what they say.
    fn read_sources(
        file: Option<&Path>,
        environment: &Environment,
    ) -> Result<(Loaded, Vec<Problem>, Vec<Problem>), ConfigError> {
        let files = sources::of(file, environment)?;
        let mut unreadable = Vec::new();
        let mut entries = merge::TableEntries::new();
        for file in &files {
            match sources::read(file) {
                Ok(over) => merge::overlay(&mut entries, over),
                Err(problem) => unreadable.push(problem),
            }
        }
        let mut problems = Vec::new();
        let foreign = sources::overlay_variables(&mut entries, environment, &mut problems);
        let locations = reload_diff::locations(&entries);
        let problems = Rc::new(RefCell::new(problems));
        let config = Self::read(entries, environment, &problems);
        Ok((Loaded { config, files, locations, foreign }, unreadable, problems.take()))
    }

    /// The settings of the hub.
    pub fn hub_settings(&self) -> Settings {
        let (inboxes, channels): (Vec<_>, Vec<_>) =
            self.channels.iter().partition(|channel| channel.pattern.as_str() == INBOX);
        let usual = Settings::default();
        Settings {
            anonymous: self.auth.anonymous,
            has_disk: self.state.store == StoreKind::Sled,
            flash_budget: self.store.flash_budget,
            rights: Rc::clone(&self.auth.rights),
            limits: settings::Limits { kept_bytes: self.kept_bytes(), ..self.limits.hub },
            heartbeat: self.heartbeat,
            policies: channels.iter().map(|channel| (channel.pattern.clone(), channel.policy)).collect(),
            policy: usual.policy,
            inbox: inboxes.first().map_or(usual.inbox, |inbox| inbox.policy),
            overflow_uid: overflow_uid().unwrap_or(usual.overflow_uid),
        }
    }

    /// What all logs may hold together. In memory, half of the ceiling is for connections,
    /// or messages without a recipient would take it from them.
    fn kept_bytes(&self) -> usize {
        let bytes = self.limits.hub.kept_bytes;
        match self.state.store {
            StoreKind::Memory => bytes.min(self.limits.hub.memory / 2),
            StoreKind::Sled => bytes / 100 * KEPT_OF_DISK,
        }
    }

    /// The files of the positions that logs have come to, in case the process is killed: one
    /// where the kernel keeps files in memory, as a rule, else one where the state is.
    pub fn positions(&self) -> [PathBuf; 2] {
        let mut socket = self.listen.worker.clone();
        // systemd's own socket lies where we may not write.
        if let (Some(runtime), Some(name)) = (&self.state.runtime, self.listen.worker.file_name()) {
            socket = runtime.join(name);
        }
        let mut positions = socket.into_os_string();
        positions.push(".positions");
        [positions.into(), self.state.directory.join("positions")]
    }
}

/// The user that the kernel shows for one that has no number in this user namespace.
fn overflow_uid() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?.trim().parse().ok()
}
