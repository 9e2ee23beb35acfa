//! Where the worker socket of wshubd is looked for.
//!
//! Knows the places. Does not know whether anybody listens there.

use std::path::{Path, PathBuf};

use wshubd::config::Environment;
use wshubd::config::places::worker_socket_candidates;

use crate::failure::{Exit, Failure};

/// The socket that was named, else the first of the usual ones that exists.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return Ok(path.to_path_buf());
    }
    let places = usual();
    places
        .iter()
        .find(|place| place.exists())
        .cloned()
        .ok_or_else(|| Failure::new(Exit::Unreachable, nowhere(&places, "\n  ")))
}

/// Says that it is at none of these places, each of which follows a separator.
pub(crate) fn nowhere(places: &[PathBuf], separator: &str) -> String {
    let tried: Vec<_> = places.iter().map(|place| format!("{separator}{}", place.display())).collect();
    format!(
        "wshubd's worker socket is at none of its places (is wshubd running? \
         --socket names another):{}",
        tried.concat()
    )
}

/// Where it may come into being: the place that was named, else the usual ones.
pub(crate) fn places(named: Option<&Path>) -> Vec<PathBuf> {
    named.map_or_else(usual, |path| vec![path.to_path_buf()])
}

/// Where the daemon makes it, and before that where its configuration in our
/// own environment says.
fn usual() -> Vec<PathBuf> {
    let environment = Environment::of_process();
    let named = environment.directory("WSHUBD_LISTEN__WORKER");
    named.into_iter().chain(worker_socket_candidates(&environment)).collect()
}
