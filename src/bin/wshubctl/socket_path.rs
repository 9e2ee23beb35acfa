//! Paths where the worker socket of wshubd may be.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use wshubd::client::ConnectOptions;
use wshubd::config::Environment;
use wshubd::config::paths::worker_socket_candidates;

use crate::error::{Exit, Failure};
use crate::terminal::escape;

/// A path where the socket may be.
pub(crate) struct SocketPath {
    path: PathBuf,
    /// By an option or a variable: then it is wshubd's. At a path that was only found
    /// another user may have put a socket.
    is_named: bool,
}

impl SocketPath {
    fn named(path: &Path) -> Self {
        Self { path: path.to_path_buf(), is_named: true }
    }

    /// How to connect to it.
    pub(crate) fn options(&self) -> ConnectOptions {
        let options = ConnectOptions::new(&self.path);
        if self.is_named { options } else { options.trusted_only() }
    }

    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    pub(crate) fn into_path(self) -> PathBuf {
        self.path
    }
}

/// The socket that was named, else the first of the usual ones that exists.
pub(crate) fn find(named: Option<&Path>) -> Result<SocketPath, Failure> {
    if let Some(path) = named {
        return Ok(SocketPath::named(path));
    }
    let paths = usual();
    let first = paths.iter().find(|candidate| candidate.exists());
    // The error of connecting to one in a directory that denies access names that directory.
    let hidden = || paths.iter().find(|candidate| is_hidden(&candidate.path));
    if let Some(SocketPath { path, is_named }) = first.or_else(hidden) {
        return Ok(SocketPath { path: path.clone(), is_named: *is_named });
    }
    Err(Failure::new(Exit::Unreachable, not_found(&paths, "\n  ")))
}

/// Message that it is at none of these paths, each of which follows a separator.
pub(crate) fn not_found(paths: &[SocketPath], separator: &str) -> String {
    let tried: Vec<_> = paths
        .iter()
        .map(|candidate| format!("{separator}{}", escape(&candidate.path.to_string_lossy())))
        .collect();
    format!(
        "the worker socket of wshubd is at none of its usual paths (is wshubd running? \
         --socket names another path):{}",
        tried.concat()
    )
}

/// Whether the directories on the way deny access.
fn is_hidden(path: &Path) -> bool {
    path.try_exists().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Paths where it may come into being: the one that was named, else the usual ones.
pub(crate) fn candidates(named: Option<&Path>) -> Vec<SocketPath> {
    named.map_or_else(usual, |path| vec![SocketPath::named(path)])
}

/// How to connect to whichever of these paths has it.
pub(crate) fn options(paths: &[SocketPath]) -> ConnectOptions {
    let Some((first, others)) = paths.split_first() else { return ConnectOptions::new("") };
    first.options().or_at(others.iter().map(|candidate| candidate.path.clone()))
}

/// The paths of the daemon, and before them the one that its configuration in our
/// own environment names.
fn usual() -> Vec<SocketPath> {
    let environment = Environment::of_process();
    let named = environment.directory("WSHUBD_LISTEN__WORKER");
    let named = named.into_iter().map(|path| SocketPath { path, is_named: true });
    let found = worker_socket_candidates(&environment).into_iter();
    named.chain(found.map(|path| SocketPath { path, is_named: false })).collect()
}
