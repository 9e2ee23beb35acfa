//! The check of `--check`: what a start reads, makes and opens is tried as the user that the
//! daemon runs as, and without a trace.
//!
//! Root may do all of that where the daemon may not, so root becomes that user first. What
//! only a start can find out is reported as not tried.

use std::fs;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::{Error, ownership};
use crate::config::file_owner::{PasswdEntry, Purpose, User, explained};
use crate::config::{Config, ConfigError, ConfigSource, Loaded, Problem, paths};
use crate::edge::auth::revocation;
use crate::edge::auth::secret_file;
use crate::edge::config::EdgeConfig;
use crate::edge::net::bind;

/// The user that packages make for the daemon.
const USER: &str = "wshubd";

/// Where systemd has the credentials of units.
const CREDENTIALS: &str = "/run/credentials";

/// What was tried, where nothing is wrong.
#[derive(Debug)]
pub struct CheckReport {
    pub files: Vec<PathBuf>,
    /// What is allowed, and seldom wise.
    pub warnings: Vec<String>,
    /// The user as which all of it was tried.
    pub tried_as: String,
    /// What only a start can find out.
    pub untried: Vec<String>,
}

/// Tries what a start needs.
///
/// # Errors
/// All that would keep the daemon from starting, in its own words.
pub fn check(source: &ConfigSource) -> Result<CheckReport, Error> {
    let mut loaded = source.load()?;
    let mut trial = Trial::default();
    let other = PasswdEntry::of_daemon(&loaded.config.state.directory);
    if let Some(account) = &other {
        let directory = loaded.config.state.directory.clone();
        if is_for_unit_alone(&directory) {
            // What the daemon has made there it can read; this process cannot after the change
            // of the user.
            trial.state_is_read = true;
            trial.leave_out_credentials(&mut loaded.config);
            trial.read(&loaded);
            trial.revocations(&loaded.config.state.directory);
            trial.finish()?;
            let why = "which systemd opens to the unit alone";
            trial.untried.push(format!("writing to the state directory {}, {why}", directory.display()));
        }
        match become_user(account) {
            Ok(()) => loaded = source.load()?,
            Err(error) => {
                let error = io::Error::from(error);
                trial.warnings.push(format!("cannot try it as {}: {error}", User(account.uid)));
            }
        }
    }
    trial.is_for_other = other.is_some();
    trial.everything(&mut loaded);
    trial.finish()?;
    let Loaded { config, files, .. } = &loaded;
    let warnings = config.warnings().into_iter().chain(loaded.foreign_variables()).chain(trial.warnings);
    Ok(CheckReport {
        files: files.clone(),
        warnings: warnings.collect(),
        tried_as: User(rustix::process::geteuid().as_raw()).to_string(),
        untried: trial.untried,
    })
}

impl PasswdEntry {
    /// The user that the daemon runs as, where that is another one and root can find out
    /// which: the owner of its state, else the user that packages make.
    fn of_daemon(state: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        match state.metadata() {
            Ok(found) if found.uid() != 0 => Some(Self::owning(&found)),
            // Root's own daemon has been here.
            Ok(_) if fs::read_dir(state).is_ok_and(|mut entries| entries.next().is_some()) => None,
            _ => Self::named(USER),
        }
    }
}

/// Whether a directory lies where only its unit can enter (`DynamicUser=` of systemd).
fn is_for_unit_alone(directory: &Path) -> bool {
    let real = directory.canonicalize().unwrap_or_default();
    let parent = real.parent().and_then(|parent| Some((parent, parent.metadata().ok()?)));
    parent.is_some_and(|(parent, found)| parent.ends_with("private") && found.mode() & 0o077 == 0)
}

/// Goes on as another user, for good.
fn become_user(account: &PasswdEntry) -> nix::Result<()> {
    let groups: Vec<Gid> = account.groups().into_iter().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    setgid(Gid::from_raw(account.gid))?;
    setuid(Uid::from_raw(account.uid))
}

/// The findings so far.
#[derive(Default)]
struct Trial {
    /// Of the configuration and what it names.
    mistakes: Vec<Problem>,
    /// Of directories and files that the daemon makes.
    unusable: Vec<Problem>,
    warnings: Vec<String>,
    untried: Vec<String>,
    /// Others may make for the daemon what it could not make itself.
    is_for_other: bool,
    state_is_read: bool,
}

impl Trial {
    fn everything(&mut self, loaded: &mut Loaded) {
        self.leave_out_credentials(&mut loaded.config);
        if !self.state_is_read {
            self.state(&loaded.config);
            // In a directory that cannot be used they are not the mistake.
            if self.unusable.is_empty() {
                self.revocations(&loaded.config.state.directory);
            }
        }
        self.read(loaded);
        self.worker_socket(&loaded.config.listen.worker);
        self.addresses(&loaded.config);
    }

    fn finish(&mut self) -> Result<(), Error> {
        let (mut mistakes, unusable) =
            (std::mem::take(&mut self.mistakes), std::mem::take(&mut self.unusable));
        if mistakes.is_empty() {
            return ConfigError::unless_empty(unusable).map_err(Error::Unusable);
        }
        mistakes.extend(unusable);
        Ok(ConfigError::unless_empty(mistakes)?)
    }

    /// Keys, secrets, groups.
    fn read(&mut self, loaded: &Loaded) {
        match EdgeConfig::open(loaded) {
            Ok(edge) => self.warnings.extend(edge.warnings()),
            Err(error) => {
                let state = &loaded.config.state.directory;
                let (of_state, others): (Vec<_>, Vec<_>) =
                    error.problems.into_iter().partition(|problem| problem.is_in(state));
                self.unusable.extend(of_state);
                self.mistakes.extend(others);
            }
        }
    }

    /// Revocations: a start without them would accept revoked tokens.
    fn revocations(&mut self, directory: &Path) {
        self.unusable.extend(revocation::file::open(directory).err());
    }

    /// Outside of its unit a credential is not there, or has another mode than a secret.
    fn leave_out_credentials(&mut self, config: &mut Config) {
        if config.auth.credentials.is_some() {
            return;
        }
        let mut is_there = |file: &Path| {
            let is_there = !file.starts_with(CREDENTIALS);
            let line = format!("{}, which systemd passes when the unit starts", file.display());
            if !is_there && !self.untried.contains(&line) {
                self.untried.push(line);
            }
            is_there
        };
        config.auth.keys.retain(|key| is_there(&key.file));
        config.auth.broadcast_secrets.retain(|file| is_there(file));
    }

    fn state(&mut self, config: &Config) {
        let directory = &config.state.directory;
        let problem = |what: &str, error: &io::Error| {
            let why = explained(error, directory, Purpose::State);
            Problem::in_file(directory, format!("{what}: {why}"))
        };
        match directory.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.missing_directory(directory, Purpose::State, "the state directory");
            }
            Err(error) => return self.unusable.push(problem("cannot be used", &error)),
            Ok(_) if !directory.is_dir() => {
                let message = "is no directory, and is to hold the state; `[state] directory` names another";
                return self.unusable.push(Problem::in_file(directory, message));
            }
            Ok(_) => {}
        }
        if let Err(error) = paths::check_ours_alone(directory, Purpose::State) {
            return self.unusable.push(error);
        }
        if let Err(error) = access(directory, Access::READ_OK | Access::EXEC_OK) {
            return self.unusable.push(problem("cannot be used", &error.into()));
        }
        self.unusable.extend(ownership::denied(config));
        let Err(error) = access(directory, Access::WRITE_OK) else { return };
        let error = io::Error::from(error);
        match secret_file::missing(&config.auth, directory).first() {
            Some(name) => self.unusable.push(problem(&format!("{name} cannot be created"), &error)),
            None => self.warnings.push(problem("nothing will be kept on the disk", &error).to_string()),
        }
    }

    /// A directory that is not there.
    fn missing_directory(&mut self, directory: &Path, purpose: Purpose, what: &str) {
        let above = directory.ancestors().skip(1).find(|above| above.exists());
        let above = above.filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let error = match access(above, Access::WRITE_OK | Access::EXEC_OK) {
            _ if !above.is_dir() => Errno::NOTDIR,
            Ok(()) => return,
            Err(error) => error,
        };
        if self.is_for_other {
            let why = "which is not there; a unit or a package makes it";
            return self.untried.push(format!("{what} {}, {why}", directory.display()));
        }
        let why = explained(&error.into(), directory, purpose);
        self.unusable.push(Problem::in_file(directory, format!("cannot be made: {why}")));
    }

    fn worker_socket(&mut self, path: &Path) {
        let setting = "`[listen] worker` names its path";
        let length = path.as_os_str().len();
        if length > paths::LONGEST_SOCKET {
            let most = paths::LONGEST_SOCKET;
            let message = format!("has {length} bytes, and the path of a socket may have {most}; {setting}");
            return self.mistakes.push(Problem::in_file(path, message));
        }
        let found: io::Result<Metadata> = path.symlink_metadata();
        let message = match &found {
            Ok(found) if found.file_type().is_socket() => {
                return self
                    .untried
                    .push(format!("the worker socket {}, which is there already", path.display()));
            }
            Ok(found) if found.is_dir() => {
                format!("is a directory, and is to be the worker socket; {setting}")
            }
            Ok(_) => format!("is something else, and is to be the worker socket; {setting}"),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                format!("cannot be the worker socket: {error}; {setting}")
            }
            Err(_) => return self.directory_of(path),
        };
        self.mistakes.push(Problem::in_file(path, message));
    }

    /// Where the worker socket is to be made.
    fn directory_of(&mut self, socket: &Path) {
        let directory = socket.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        if !directory.exists() {
            return self.missing_directory(
                directory,
                Purpose::Listening,
                "the directory of the worker socket",
            );
        }
        let Err(error) = access(directory, Access::WRITE_OK | Access::EXEC_OK) else { return };
        if self.is_for_other {
            let what = "the worker socket";
            return self
                .untried
                .push(format!("{what} {}, which a unit may have systemd make", socket.display()));
        }
        let why = explained(&error.into(), directory, Purpose::Listening);
        self.unusable.push(Problem::in_file(socket, format!("cannot be made: {why}")));
    }

    /// A daemon to which systemd passes sockets needs none of these, so an address that
    /// cannot be listened at is no mistake.
    fn addresses(&mut self, config: &Config) {
        for &address in &config.listen.http {
            match bind::bind_tcp(address, &config.listen.http) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    self.untried
                        .push(format!("{address}, which is in use, by a wshubd that runs or another"));
                }
                // In the sandbox of a unit, all that it needs is passed.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) => {}
                Err(error) => self.warnings.push(Error::Listen(address, error).to_string()),
            }
        }
    }
}
