//! Errors of the start, each with the next step, and exit codes.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::config::file_owner::{Purpose, explained};
use crate::config::paths::LONGEST_SOCKET;
use crate::config::{ConfigError, Problem};

/// Why the daemon did not start.
#[derive(Debug)]
pub enum Error {
    /// The configuration, a key or a secret.
    Config(ConfigError),
    /// A directory or file of the daemon's own.
    State(PathBuf, io::Error),
    /// Directories, keys, secrets and revocations that are to be made or used there.
    Unusable(ConfigError),
    /// Another daemon has the state directory.
    Running(PathBuf),
    /// A socket that systemd has passed, by name.
    Passed(&'static str, io::Error),
    /// A TCP address.
    Listen(SocketAddr, io::Error),
    /// The workers' socket.
    Worker(PathBuf, io::Error),
    /// epoll.
    Wait(io::Error),
    /// The signals of the process.
    Signals(io::Error),
    /// The file of the program.
    Program(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) | Self::Unusable(error) => error.fmt(f),
            Self::State(path, error) => write!(
                f,
                "{}: {} (`[state] directory` sets the path)",
                path.display(),
                explained(error, path, Purpose::State)
            ),
            Self::Running(path) => write!(
                f,
                "another wshubd is already running with the state directory {}; give this one another \
                 (`[state] directory`), or stop that one",
                path.display()
            ),
            Self::Passed(name, error) => {
                write!(f, "systemd has passed {name:?}, which cannot be used: {error}")
            }
            Self::Listen(address, error) if is_sandboxed(error) => write!(
                f,
                "cannot listen on {address}: this unit may open no such socket; start wshubd.socket, whose \
                 `ListenStream=` sets the address"
            ),
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {error} (`[listen] http` sets the address)")
            }
            // The text of the system names a constant of C.
            Self::Worker(path, error) if error.kind() == io::ErrorKind::InvalidInput => write!(
                f,
                "cannot open the worker socket {}: the path has {} bytes, and that of a socket may have \
                 {LONGEST_SOCKET} (`[listen] worker` sets the path)",
                path.display(),
                path.as_os_str().len()
            ),
            Self::Worker(path, error) => {
                // Without permission it is the directory that matters, and what sets it.
                let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
                let directory = path.parent().filter(|_| is_denied).unwrap_or(path);
                let why = explained(error, directory, Purpose::Listening);
                let setting = if is_denied { "" } else { " (`[listen] worker` sets the path)" };
                write!(f, "cannot open the worker socket {}: {why}{setting}", path.display())
            }
            Self::Wait(error) => write!(f, "cannot wait for sockets: {error}"),
            Self::Signals(error) => write!(f, "cannot receive signals: {error}"),
            Self::Program(error) => write!(f, "cannot find out which program this is: {error}"),
        }
    }
}

/// Whether it is the unit that allows nothing (`RestrictAddressFamilies=`), not the
/// address that is wrong.
fn is_sandboxed(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
}

impl std::error::Error for Error {}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<Problem> for Error {
    /// Of a file or directory that was to be made or used.
    fn from(problem: Problem) -> Self {
        Self::Unusable(problem.into())
    }
}

impl Error {
    /// Keys and secrets that cannot be used. Where all of them lie in the state directory,
    /// no configuration is wrong.
    pub(crate) fn of_site(error: ConfigError, state: &Path) -> Self {
        match error.problems.iter().all(|problem| problem.is_in(state)) {
            true => Self::Unusable(error),
            false => Self::Config(error),
        }
    }

    /// The exit status of the process, after `sysexits.h`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Passed(..) => ConfigError::EXIT,
            Self::State(..) | Self::Unusable(_) => 73,
            Self::Running(_) | Self::Listen(..) | Self::Worker(..) => 69,
            Self::Wait(_) | Self::Signals(_) | Self::Program(_) => 71,
        }
    }
}
