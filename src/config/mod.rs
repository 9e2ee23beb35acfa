//! What the daemon was told, made into one [`Config`].
//!
//! Knows every option, where it may stand (files, drop-ins, the environment)
//! and what is laid over what. Does not know what any option leads to, and opens
//! no key, socket or store: whoever uses those does.
//!
//! Drop-ins and variables are laid over the file key by key. Lists are replaced
//! as a whole, `[[channel]]` among them: the order of its entries has a meaning
//! that two files could not share.

mod changes;
pub mod environment;
pub mod error;
pub mod places;
mod sections;
mod show;
mod table;
mod tree;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use log::LevelFilter;

use crate::features;
use crate::hub::settings::{Heartbeat, Policy};
use crate::hub::{Pattern, Rights, Settings, settings};

pub use changes::{Change, Places};
pub use environment::Environment;
pub use error::{ConfigError, Place, Problem};

/// All that can be configured.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub listen: Listen,
    pub state: State,
    pub auth: Auth,
    pub worker: Worker,
    pub limits: Limits,
    pub heartbeat: Heartbeat,
    /// First match wins; `@me` stands for the inboxes of users.
    pub channels: Vec<ChannelPolicy>,
    pub store: Store,
    /// What is logged: this, and what is worse.
    pub log: LevelFilter,
}

/// Where the daemon can be reached, and from which pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    /// WebSocket and HTTP.
    pub http: Vec<SocketAddr>,
    /// The worker socket.
    pub worker: PathBuf,
    /// Of the WebSocket endpoint.
    pub paths: Vec<String>,
    /// `scheme://host[:port]`, `null`, or `*` alone.
    pub allowed_origins: Vec<String>,
    /// Names that requests may be addressed to, beside our own.
    pub allowed_hosts: Vec<String>,
    /// Whether anybody may read the metrics.
    pub metrics_open: bool,
}

/// What survives the process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub directory: PathBuf,
    /// systemd's directory for what outlives the process and not the machine.
    pub runtime: Option<PathBuf>,
    pub store: StoreKind,
}

/// What keeps messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreKind {
    Sled,
    Memory,
}

/// A disk, where this build can use one.
impl Default for StoreKind {
    fn default() -> Self {
        if features::STORE.is_built_in { Self::Sled } else { Self::Memory }
    }
}

/// Who is let in, and what for.
#[derive(Clone, PartialEq, Debug)]
pub struct Auth {
    /// Whether connections without a token are.
    pub anonymous: bool,
    /// Whether a token may stand in the URL.
    pub query_token: bool,
    /// What tokens are verified with; none: a key is generated.
    pub keys: Vec<KeyFile>,
    /// Files of secrets; none: one is generated.
    pub broadcast_secrets: Vec<PathBuf>,
    /// Of anonymous connections, and of tokens that do not say.
    pub rights: Rc<Rights>,
    /// systemd's credentials, which go before generating anything.
    pub credentials: Option<PathBuf>,
}

/// One key that tokens are verified with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyFile {
    pub alg: Alg,
    pub file: PathBuf,
    pub kid: Option<String>,
}

/// The algorithms that tokens can be signed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alg {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Es256,
    EdDsa,
}

impl Alg {
    /// All, by the names that RFC 7518 and RFC 8037 give them.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("HS256", Self::Hs256),
        ("HS384", Self::Hs384),
        ("HS512", Self::Hs512),
        ("RS256", Self::Rs256),
        ("ES256", Self::Es256),
        ("EdDSA", Self::EdDsa),
    ];

    /// Whether what verifies cannot sign, and everybody may know it.
    pub fn is_public(self) -> bool {
        match self {
            Self::Hs256 | Self::Hs384 | Self::Hs512 => false,
            Self::Rs256 | Self::Es256 | Self::EdDsa => true,
        }
    }

    /// As a token's header spells it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, alg)| *alg == self).map_or("", |(name, _)| name)
    }
}

/// Which local processes are let in, beside what the socket's mode says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Worker {
    /// Who may connect; nobody named: whoever the mode lets in.
    pub allow: Vec<Principal>,
    /// Who may administer, beside root and our own user.
    pub admins: Vec<Principal>,
}

/// A local process by its credentials.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Principal {
    /// `1000`.
    Uid(u32),
    /// `@group`.
    Group(String),
    /// `unit:name.service`.
    Unit(String),
}

/// Limits: those that the hub applies, and those of the edges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
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

/// What is kept of the channels that a pattern names.
#[derive(Clone, PartialEq, Debug)]
pub struct ChannelPolicy {
    pub pattern: Pattern,
    pub policy: Policy,
}

/// How the disk is used. How much it may hold is `limits.hub.kept_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Store {
    pub write_delay: Duration,
    /// Bytes written a day; none: as many as it takes.
    pub flash_budget: Option<u64>,
}

/// The name by which `[[channel]]` means the inboxes of users.
pub const INBOX: &str = "@me";

/// How much of what the disk may take can be messages, in hundredths. Beside them
/// it holds what was written around each of them, what is forgotten there and not
/// dropped yet, and copies of what outlives that.
const KEPT_OF_DISK: usize = 25;

/// A configuration, and the files that it came from.
#[derive(Clone, PartialEq, Debug)]
pub struct Loaded {
    pub config: Config,
    /// In the order in which they were laid over one another.
    pub files: Vec<PathBuf>,
    pub places: Places,
}

impl Config {
    /// The same for a daemon that runs: of what is no file, such as a pipe, nothing
    /// is left to be read, and waiting for more would stop everybody.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_again(file: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigError> {
        for file in files(file, environment)? {
            let meta = std::fs::metadata(&file).map_err(|error| unreadable(&file, &error))?;
            if !meta.is_file() {
                return Err(Problem::in_file(&file, "is not a file, and can be read only once").into());
            }
        }
        Self::load(file, environment)
    }

    /// Reads `file`, or else the usual ones where they exist; the environment
    /// wins over both.
    ///
    /// # Errors
    /// All that is wrong with any of it.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigError> {
        let files = files(file, environment)?;
        let mut problems = Vec::new();
        let mut entries = tree::Entries::new();
        for file in &files {
            match read(file) {
                Ok(over) => tree::overlay(&mut entries, over),
                Err(problem) => problems.push(problem),
            }
        }
        for over in variables(environment) {
            match over {
                Ok(over) => tree::overlay(&mut entries, over),
                Err(problem) => problems.push(problem),
            }
        }
        let places = changes::places(&entries);
        let problems = Rc::new(RefCell::new(problems));
        let config = sections::config(entries, environment, &problems);
        ConfigError::unless_empty(problems.take())?;
        Ok(Loaded { config, files, places })
    }

    /// The configuration as a file, which read again gives the same. It names
    /// secrets by their files and never shows them.
    pub fn show(&self) -> String {
        show::config(self)
    }

    /// What the hub has to know.
    pub fn hub_settings(&self) -> Settings {
        let (inboxes, channels): (Vec<_>, Vec<_>) =
            self.channels.iter().partition(|channel| channel.pattern.as_str() == INBOX);
        let usual = Settings::default();
        Settings {
            anonymous: self.auth.anonymous,
            has_disk: self.state.store == StoreKind::Sled,
            rights: Rc::clone(&self.auth.rights),
            limits: settings::Limits { kept_bytes: self.kept_bytes(), ..self.limits.hub },
            heartbeat: self.heartbeat,
            policies: channels.iter().map(|channel| (channel.pattern.clone(), channel.policy)).collect(),
            policy: usual.policy,
            inbox: inboxes.first().map_or(usual.inbox, |inbox| inbox.policy),
        }
    }

    /// What all logs may hold together. In memory, half of that is for those who
    /// are connected: or messages that wait for nobody would throw them out.
    fn kept_bytes(&self) -> usize {
        let bytes = self.limits.hub.kept_bytes;
        match self.state.store {
            StoreKind::Memory => bytes.min(self.limits.hub.memory / 2),
            StoreKind::Sled => bytes / 100 * KEPT_OF_DISK,
        }
    }

    /// Where it is noted how far logs have come, in case the process is killed: where
    /// the kernel keeps files in memory, as a rule.
    pub fn positions(&self) -> PathBuf {
        let mut socket = self.listen.worker.clone();
        // systemd's own socket lies where we may not write.
        if let (Some(runtime), Some(name)) = (&self.state.runtime, self.listen.worker.file_name()) {
            socket = runtime.join(name);
        }
        let mut positions = socket.into_os_string();
        positions.push(".positions");
        positions.into()
    }

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
                    "auth.anonymous lets everybody who reaches {address} in; listen on a loopback address \
                     or ask for tokens"
                ));
            }
            if self.auth.query_token {
                warnings.push(format!(
                    "auth.query_token accepts tokens in URLs on {address}, where proxies log them; set it \
                     to false if no client needs it"
                ));
            }
        }
        if self.listen.allowed_origins.iter().any(|origin| origin == "*") {
            warnings.push(
                "listen.allowed_origins = [\"*\"] lets every web page that a user visits connect".to_owned(),
            );
        }
        if self.state.store == StoreKind::Memory && self.kept_bytes() < self.limits.hub.kept_bytes {
            warnings.push(
                "store.bytes is more than half of limits.memory: messages are kept up to that half"
                    .to_owned(),
            );
        }
        warnings
    }
}

fn files(file: Option<&Path>, environment: &Environment) -> Result<Vec<PathBuf>, Problem> {
    match file {
        Some(file) => Ok(vec![file.to_owned()]),
        None => usual_files(&places::configuration_directory(environment)),
    }
}

/// The file and the drop-ins of a directory that exist, in order of name.
fn usual_files(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    let drop_ins = directory.join("conf.d");
    let mut files = Vec::new();
    match std::fs::read_dir(&drop_ins) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(|error| unreadable(&drop_ins, &error))?.path();
                let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
                    files.push(path);
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(&drop_ins, &error)),
    }
    files.sort_unstable();
    let file = directory.join("wshubd.toml");
    // Only what is known to be missing is left out; defaults in place of a
    // file that could not be looked at might open what it closes.
    match file.try_exists() {
        Ok(true) => files.insert(0, file),
        Ok(false) => {}
        Err(error) => return Err(unreadable(&file, &error)),
    }
    Ok(files)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::in_file(path, format!("cannot be read: {error}"))
}

fn read(file: &Path) -> Result<tree::Entries, Problem> {
    let text = std::fs::read(file).map_err(|error| unreadable(file, &error))?;
    let text = String::from_utf8(text).map_err(|_| Problem::in_file(file, "is not UTF-8"))?;
    tree::parse(&text, file)
}

/// What our variables say.
fn variables(environment: &Environment) -> impl Iterator<Item = Result<tree::Entries, Problem>> {
    environment.variables().filter_map(|(name, text)| {
        let name = name.to_str().filter(|name| tree::keys_of(name).is_some())?;
        Some(match text.to_str() {
            Some(text) => tree::parse_variable(name, text),
            None => Err(Problem::new(Place::Variable(name.into()), "is not UTF-8")),
        })
    })
}
