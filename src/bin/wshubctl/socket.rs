//! Where the worker socket of wshubd is looked for.
//!
//! Knows the places. Does not know whether anybody listens there.

use std::env;
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure};

/// The socket that was named, else the first of the usual ones that exists.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return Ok(path.to_path_buf());
    }
    let places = places();
    places.iter().find(|place| place.exists()).cloned().ok_or_else(|| {
        let tried: Vec<_> = places.iter().map(|place| format!("\n  {}", place.display())).collect();
        let message = format!(
            "wshubd's worker socket is at none of its places (is wshubd running? \
             --socket names another):{}",
            tried.concat()
        );
        Failure::new(Exit::Unreachable, message)
    })
}

fn places() -> Vec<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let uid = rustix::process::getuid().as_raw();
    [
        variable("WSHUBD_LISTEN__WORKER"),
        variable("RUNTIME_DIRECTORY").map(|directory| directory.join("worker.sock")),
        variable("XDG_RUNTIME_DIR").map(|directory| directory.join("wshubd/worker.sock")),
        Some(format!("/run/user/{uid}/wshubd/worker.sock").into()),
        Some("/run/wshubd/worker.sock".into()),
        Some(format!("/tmp/wshubd-{uid}/worker.sock").into()),
    ]
    .into_iter()
    .flatten()
    .fold(Vec::new(), |mut places, place| {
        // Two of them are often the same directory.
        if !places.contains(&place) {
            places.push(place);
        }
        places
    })
}
