//! Where the worker socket of wshubd is looked for.
//!
//! Knows the places. Does not know whether anybody listens there.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use wshubd::client::Options;
use wshubd::config::Environment;
use wshubd::config::paths::worker_socket_candidates;

use crate::error::{Exit, Failure};
use crate::terminal::plain;

/// A place where the socket is.
pub(crate) struct Place {
    path: PathBuf,
    /// By an option or a variable: then it is wshubd's. One that was only found may be
    /// anybody's.
    is_named: bool,
}

impl Place {
    /// How to connect to it.
    pub(crate) fn options(&self) -> Options {
        let options = Options::new(&self.path);
        if self.is_named { options } else { options.trusted_only() }
    }

    pub(crate) fn is_there(&self) -> bool {
        self.path.exists()
    }

    pub(crate) fn into_path(self) -> PathBuf {
        self.path
    }
}

/// The socket that was named, else the first of the usual ones that exists.
pub(crate) fn find(named: Option<&Path>) -> Result<Place, Failure> {
    if let Some(path) = named {
        return Ok(Place { path: path.to_path_buf(), is_named: true });
    }
    let places = usual();
    let first = places.iter().find(|place| place.is_there());
    // The error of connecting to one in a directory that denies access names that directory.
    let hidden = || places.iter().find(|place| is_hidden(&place.path));
    if let Some(Place { path, is_named }) = first.or_else(hidden) {
        return Ok(Place { path: path.clone(), is_named: *is_named });
    }
    Err(Failure::new(Exit::Unreachable, nowhere(&places, "\n  ")))
}

/// Says that it is at none of these places, each of which follows a separator.
pub(crate) fn nowhere(places: &[Place], separator: &str) -> String {
    let tried: Vec<_> =
        places.iter().map(|place| format!("{separator}{}", plain(&place.path.to_string_lossy()))).collect();
    format!(
        "wshubd's worker socket is at none of its places (is wshubd running? \
         --socket names another):{}",
        tried.concat()
    )
}

fn is_hidden(path: &Path) -> bool {
    path.try_exists().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Where it may come into being: the place that was named, else the usual ones.
pub(crate) fn places(named: Option<&Path>) -> Vec<Place> {
    named.map_or_else(usual, |path| vec![Place { path: path.to_path_buf(), is_named: true }])
}

/// How to connect to whichever of these places has it.
pub(crate) fn options(places: &[Place]) -> Options {
    let Some((first, others)) = places.split_first() else { return Options::new("") };
    first.options().or_at(others.iter().map(|place| place.path.clone()))
}

/// Where the daemon makes it, and before that where its configuration in our
/// own environment says.
fn usual() -> Vec<Place> {
    let environment = Environment::of_process();
    let named = environment.directory("WSHUBD_LISTEN__WORKER");
    let named = named.into_iter().map(|path| Place { path, is_named: true });
    let found = worker_socket_candidates(&environment).into_iter();
    named.chain(found.map(|path| Place { path, is_named: false })).collect()
}
