//! Where the worker socket of wshubd is looked for.
//!
//! Knows the places. Does not know whether anybody listens there.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use wshubd::client::Options;
use wshubd::config::Environment;
use wshubd::config::places::worker_socket_candidates;

use crate::failure::{Exit, Failure};
use crate::screen::plain;

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

    pub(crate) fn into_path(self) -> PathBuf {
        self.path
    }
}

/// The socket that was named, else the first of the usual ones that exists.
pub(crate) fn find(named: Option<&Path>) -> Result<Place, Failure> {
    if let Some(path) = named {
        return Ok(Place { path: path.to_path_buf(), is_named: true });
    }
    let places = places();
    let first = places.iter().find(|place| place.path.exists());
    // The error of connecting to one in a directory that denies access names that directory.
    let hidden = || places.iter().find(|place| is_hidden(&place.path));
    if let Some(Place { path, is_named }) = first.or_else(hidden) {
        return Ok(Place { path: path.clone(), is_named: *is_named });
    }
    let tried: Vec<_> =
        places.iter().map(|place| format!("\n  {}", plain(&place.path.to_string_lossy()))).collect();
    let message = format!(
        "wshubd's worker socket is at none of its places (is wshubd running? \
         --socket names another):{}",
        tried.concat()
    );
    Err(Failure::new(Exit::Unreachable, message))
}

fn is_hidden(path: &Path) -> bool {
    path.try_exists().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Where the daemon makes it, and before that where its configuration in our
/// own environment says.
fn places() -> Vec<Place> {
    let environment = Environment::of_process();
    let named = environment.directory("WSHUBD_LISTEN__WORKER");
    let named = named.into_iter().map(|path| Place { path, is_named: true });
    let found = worker_socket_candidates(&environment).into_iter();
    named.chain(found.map(|path| Place { path, is_named: false })).collect()
}
