//! Files of earlier daemons that this process may not use, since it runs as another user.
//!
//! Keys, secrets and revocations are not among them: a start reads those, and fails.

use std::io;
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::config::file_owner::{Purpose, explained, explained_within, first_denied};
use crate::config::{Config, Problem, StoreKind, paths};
use crate::edge::store::hub_checkpoint;

/// What of the state directory may not be used, with its owner and what helps.
pub(crate) fn denied(config: &Config) -> Vec<Problem> {
    let directory = &config.state.directory;
    let error = io::Error::from(Errno::ACCESS);
    let problem = |path: &Path, why: String| Problem::in_file(path, format!("cannot be used: {why}"));
    let mut problems = Vec::new();
    let store = directory.join(paths::STORE);
    if config.state.store == StoreKind::Sled
        && let Some(denied) = first_denied(&store)
    {
        problems.push(problem(&store, explained_within(&error, &denied, &store)));
    }
    let [_, positions] = config.positions();
    for path in [hub_checkpoint::path(directory), positions] {
        if access(&path, Access::READ_OK) == Err(Errno::ACCESS) {
            problems.push(problem(&path, explained(&error, &path, Purpose::State)));
        }
    }
    problems
}
