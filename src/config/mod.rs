//! What the daemon was told, made into one [`Config`].
//!
//! Knows every option, where it may stand (files, drop-ins, the environment)
//! and what is laid over what. Does not know what any option leads to, and opens
//! no key, socket or store: whoever uses those does.
//!
//! Drop-ins and variables are laid over the file key by key. Lists are replaced
//! as a whole, `[[channel]]` among them: the order of its entries has a meaning
//! that two files could not share.

mod absolute_path;
mod diff;
pub mod environment;
pub mod error;
mod file_name;
pub mod file_owner;
mod merge;
pub mod paths;
mod reader;
mod render;
mod schema;
pub(crate) mod shell_quoting;
mod sources;
mod syntax_hints;
mod variables;
mod warnings;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

use crate::features;
use crate::hub::settings::{Heartbeat, Policy};
use crate::hub::{Pattern, Rights, Settings, settings};

pub use diff::{Change, Places};
pub use environment::Environment;
pub use error::{ConfigError, Place, Problem};
pub(crate) use schema::DEFAULT_HTTP;

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
    /// Whether a line is logged for each request and each end of a connection.
    pub log_access: bool,
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
    /// Each as [`crate::protocol::origin::AllowedOrigin`] reads it.
    pub allowed_origins: Vec<String>,
    /// Names that requests may be addressed to, beside our own.
    pub allowed_hosts: Vec<String>,
    /// Whether anybody may read the metrics.
    pub metrics_open: bool,
    /// Whose word counts about where a request comes from.
    pub trusted_proxies: Vec<IpNet>,
    /// Where they say it.
    pub forwarded: Forwarded,
}

/// The header in which a trusted proxy names the peers before it; the other is ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Forwarded {
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

impl Forwarded {
    /// Both, by their names.
    pub const NAMES: [(&'static str, Self); 2] =
        [("x-forwarded-for", Self::XForwardedFor), ("forwarded", Self::Forwarded)];
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
    pub claims: WantedClaims,
    /// Files of secrets; none: one is generated.
    pub broadcast_secrets: Vec<PathBuf>,
    /// Of anonymous connections, and of tokens that do not say.
    pub rights: Rc<Rights>,
    /// For how long a revocation is kept: no token that lives longer is taken while one is.
    pub revocation_ttl: Duration,
    /// systemd's credentials, which go before generating anything.
    pub credentials: Option<PathBuf>,
}

/// What a token must say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedClaims {
    /// The claim that names the user; none: `user_id`, else `sub`.
    pub user: Option<String>,
    /// One of these as `iss`; none: whatever it is.
    pub issuers: Vec<String>,
    /// One of these in `aud`; none: whatever it is.
    pub audiences: Vec<String>,
    /// Whether there must be an end.
    pub end: bool,
}

/// A file of keys that tokens are verified with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyFile {
    /// Of each key in it.
    pub alg: Alg,
    pub file: PathBuf,
    /// Of a key that has none of its own.
    pub kid: Option<String>,
}

/// The algorithms that tokens can be signed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alg {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Alg {
    /// All, by the names that RFC 7518 and RFC 8037 give them.
    pub const NAMES: [(&'static str, Self); 12] = [
        ("HS256", Self::Hs256),
        ("HS384", Self::Hs384),
        ("HS512", Self::Hs512),
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("EdDSA", Self::EdDsa),
    ];

    /// Whether what verifies cannot sign, and everybody may know it.
    pub fn is_public(self) -> bool {
        !matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }

    /// Whether a token's header or a JWK means it by this: EdDSA is `Ed25519` as well since
    /// RFC 9864.
    pub fn is_named(self, name: &str) -> bool {
        name == self.name() || (self == Self::EdDsa && name == "Ed25519")
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

/// How much of what the disk may take can be messages, in hundredths, at most. Beside
/// them it holds what was written around each of them, what is forgotten there and not
/// dropped yet, and copies of what outlives that. Of small messages it takes fewer: how
/// many, the store finds out and tells.
const KEPT_OF_DISK: usize = 50;

/// A configuration, and the files that it came from.
#[derive(Clone, PartialEq, Debug)]
pub struct Loaded {
    pub config: Config,
    /// In the order in which they were laid over one another.
    pub files: Vec<PathBuf>,
    pub places: Places,
    /// Variables with our prefix that set nothing.
    pub foreign: Vec<String>,
}

impl Config {
    /// The same for a daemon that runs: of what is no file, such as a pipe, nothing
    /// is left to be read, and waiting for more would stop everybody.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_again(file: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigError> {
        sources::are_files(&sources::of(file, environment)?)?;
        Self::load(file, environment)
    }

    /// The same for another program, which may know options that this one does not: what
    /// is wrong with one of them is for that one to say.
    ///
    /// # Errors
    /// Files that cannot be read, or only once.
    pub fn load_for_next(file: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigError> {
        sources::are_files(&sources::of(file, environment)?)?;
        let (loaded, unreadable, _) = Self::read(file, environment)?;
        ConfigError::unless_empty(unreadable).map(|()| loaded)
    }

    /// Reads `file`, or else the usual ones where they exist; the environment
    /// wins over both.
    ///
    /// # Errors
    /// All that is wrong with any of it.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigError> {
        let (loaded, mut problems, wrong) = Self::read(file, environment)?;
        problems.extend(wrong);
        ConfigError::unless_empty(problems).map(|()| loaded)
    }

    /// What is written, which of it cannot be read, and what is wrong with the rest.
    fn read(
        file: Option<&Path>,
        environment: &Environment,
    ) -> Result<(Loaded, Vec<Problem>, Vec<Problem>), ConfigError> {
        let files = sources::of(file, environment)?;
        let mut unreadable = Vec::new();
        let mut entries = merge::Entries::new();
        for file in &files {
            match sources::read(file) {
                Ok(over) => merge::overlay(&mut entries, over),
                Err(problem) => unreadable.push(problem),
            }
        }
        let mut problems = Vec::new();
        let foreign = sources::overlay_variables(&mut entries, environment, &mut problems);
        let places = diff::places(&entries);
        let problems = Rc::new(RefCell::new(problems));
        let config = schema::config(entries, environment, &problems);
        Ok((Loaded { config, files, places, foreign }, unreadable, problems.take()))
    }

    /// The configuration as a file, which read again gives the same. It names
    /// secrets by their files and never shows them.
    pub fn show(&self) -> String {
        render::config(self)
    }

    /// What the hub has to know.
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
    /// the kernel keeps files in memory, as a rule; else where the state is.
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

/// As which user the kernel shows one who has none in this user namespace.
fn overflow_uid() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?.trim().parse().ok()
}
