//! Default paths: from systemd's variables, the XDG base directories, or fixed ones.
//!
//! The daemon and its companion look in the same places. Nothing is created unless
//! [`create_directory`] is called.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::error::Problem;
use super::file_owner::{Purpose, explained};
use super::shell_quoting;

/// How many bytes the path of a socket may have (`sun_path` of `unix(7)`, with a zero at its end).
pub const LONGEST_SOCKET: usize = 107;

/// The name of the directory of kept messages in that of the state.
pub const STORE: &str = "store";

/// The name of the worker socket in its directory.
const SOCKET: &str = "worker.sock";

/// Where the configuration is: `CONFIGURATION_DIRECTORY`, else that of the user where
/// there is one, else `/etc/wshubd`.
pub fn configuration_directory(environment: &Environment) -> PathBuf {
    let systemds = environment.directory("CONFIGURATION_DIRECTORY");
    systemds.or_else(|| own_configuration(environment)).unwrap_or_else(|| "/etc/wshubd".into())
}

/// Where a user other than root has a configuration: `$XDG_CONFIG_HOME/wshubd`, else
/// `~/.config/wshubd`. It stands in for the machine's as a whole, for that may name keys
/// and directories that are not for users. A service has that of the machine, whatever
/// is in the home directory of its user.
fn own_configuration(environment: &Environment) -> Option<PathBuf> {
    let is_service =
        ["STATE_DIRECTORY", "RUNTIME_DIRECTORY"].iter().any(|name| environment.directory(name).is_some());
    if environment.uid == 0 || is_service {
        return None;
    }
    let home = || environment.directory("HOME").map(|home| home.join(".config"));
    let directory = environment.directory("XDG_CONFIG_HOME").or_else(home)?.join("wshubd");
    // What cannot be looked at is complained about, not passed over: it may be there, and
    // the machine's is not what was asked for.
    let is_there = |name: &str| match directory.join(name).try_exists() {
        Ok(is_there) => is_there,
        Err(_) => !is_in_home_of_another(&directory, environment),
    };
    (is_there("wshubd.toml") || is_there("conf.d")).then_some(directory)
}

/// Whether a directory would be in the home of another user, which we may not enter:
/// `HOME` is still that of the calling user if a program such as `su` has changed our own.
fn is_in_home_of_another(directory: &Path, environment: &Environment) -> bool {
    let Some(home) = environment.directory("HOME") else { return false };
    if environment.directory("XDG_CONFIG_HOME").is_some() {
        return false;
    }
    let found = directory.ancestors().find_map(|part| Some((part, part.symlink_metadata().ok()?)));
    found.is_some_and(|(part, found)| home.starts_with(part) && found.uid() != environment.uid)
}

/// What must survive a reboot: `STATE_DIRECTORY`, else
/// `$XDG_STATE_HOME/wshubd`, else for root the system's own place, else
/// `~/.local/state/wshubd`, else a directory of the user's own among the temporary
/// ones that a reboot leaves alone.
pub fn state_directory(environment: &Environment) -> PathBuf {
    let state = environment.directory("STATE_DIRECTORY");
    let xdg = || environment.directory("XDG_STATE_HOME").map(|home| home.join("wshubd"));
    let system = || (environment.uid == 0).then(|| "/var/lib/wshubd".into());
    let home = || environment.directory("HOME").map(|home| home.join(".local/state/wshubd"));
    state
        .or_else(xdg)
        .or_else(system)
        .or_else(home)
        .unwrap_or_else(|| format!("/var/tmp/wshubd-{}", environment.uid).into())
}

/// Where the daemon makes its worker socket: the first of
/// [`worker_socket_candidates`] whose directory is there or can be made.
pub fn worker_socket(environment: &Environment) -> PathBuf {
    let mut candidates = worker_socket_candidates(environment).into_iter();
    let last = candidates.next_back().unwrap_or_default();
    candidates.find(|socket| can_hold(socket.parent().unwrap_or(socket), environment)).unwrap_or(last)
}

/// Where a daemon's worker socket may be, the nearest first: our own daemon's,
/// then the machine's.
pub fn worker_socket_candidates(environment: &Environment) -> Vec<PathBuf> {
    let uid = environment.uid;
    let directories = [
        environment.directory("RUNTIME_DIRECTORY"),
        environment.directory("XDG_RUNTIME_DIR").map(|run| run.join("wshubd")),
        Some(format!("/run/user/{uid}/wshubd").into()),
        Some("/run/wshubd".into()),
        Some(format!("/tmp/wshubd-{uid}").into()),
    ];
    let mut sockets: Vec<PathBuf> = directories.into_iter().flatten().map(|dir| dir.join(SOCKET)).collect();
    // $XDG_RUNTIME_DIR is /run/user/UID nearly everywhere.
    sockets.dedup();
    sockets
}

/// Whether a socket of ours could be in `directory`. A directory from a variable is always
/// used: if it cannot be, that must be an error, not ignored.
fn can_hold(directory: &Path, environment: &Environment) -> bool {
    let named = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].map(|name| environment.directory(name));
    if named.iter().flatten().any(|run| directory == run || directory.parent() == Some(run)) {
        return true;
    }
    // The system's directory is for root; a user who may write there by chance would take
    // the place of the system's daemon.
    if directory == Path::new("/run/wshubd") && environment.uid != 0 {
        return false;
    }
    let parent = directory.parent().unwrap_or(directory);
    rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Makes a directory, and those above it, for us alone; one that is there is used as it is.
///
/// # Errors
/// It cannot be made, or lies where all users may create things and is not ours alone:
/// another user may have made it as a trap.
pub fn create_directory(path: &Path, purpose: Purpose) -> Result<(), Problem> {
    let failed = |error: io::Error| {
        Problem::in_file(path, format!("cannot be used: {}", explained(&error, path, purpose)))
    };
    // On a frozen file system, making even a directory that exists waits for its thaw.
    if !path.is_dir() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    }
    check_ours_alone(path, purpose)
}

/// Checks that no other user can have made a directory as a trap.
///
/// # Errors
/// It lies where all users may create things, and is not ours alone.
pub fn check_ours_alone(path: &Path, purpose: Purpose) -> Result<(), Problem> {
    let failed = |error: io::Error| Problem::in_file(path, format!("cannot be used: {error}"));
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if parent.metadata().map_err(failed)?.mode() & 0o002 == 0 {
        return Ok(());
    }
    let found = path.symlink_metadata().map_err(failed)?;
    let is_ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    if is_ours && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let option = if purpose == Purpose::Listening { "[listen] worker" } else { "[state] directory" };
    let cure = match is_ours {
        true => format!("`chmod 0700 {}`", shell_quoting::quoted(path)),
        false => format!("name one in `{option}` that lies elsewhere"),
    };
    let why = "lies where everybody may write, and is not a directory of our own with mode 0700";
    Err(Problem::in_file(path, format!("{why}; {cure}")))
}
