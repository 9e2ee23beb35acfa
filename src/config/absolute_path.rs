//! Paths that options name: absolute, or the daemon would look elsewhere the next time it
//! is started elsewhere.
//!
//! An error about another path names the absolute one that was probably meant.

use std::path::{Component, Path, PathBuf};

use super::Environment;
use super::error::Location;

/// Reads a path that was written there.
///
/// # Errors
/// What is wanted in its stead, with the absolute path that was probably meant.
pub(super) fn parse(
    text: &str,
    location: Option<&Location>,
    environment: &Environment,
) -> Result<PathBuf, String> {
    if text.starts_with('/') {
        return Ok(text.into());
    }
    let meant = meant(text, location, environment);
    let meant = meant.map_or_else(String::new, |path| format!(", probably \"{}\"", path.display()));
    Err(format!("an absolute path{meant}"))
}

fn meant(text: &str, location: Option<&Location>, environment: &Environment) -> Option<PathBuf> {
    match text.split_once('/').unwrap_or((text, "")) {
        ("", _) => None,
        ("~" | "$HOME" | "${HOME}", rest) => {
            environment.directory("HOME").map(|home| plain(&home.join(rest)))
        }
        // Of another user, or of another variable.
        (first, _) if first.starts_with(['~', '$']) => None,
        _ => Some(beside(Path::new(text), location)),
    }
}

/// Beside the file in which it stands, unless it is in the working directory alone; a
/// variable means the latter.
fn beside(path: &Path, location: Option<&Location>) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default().join(path);
    let beside = match location {
        Some(Location::Line { file, .. } | Location::File(file)) => {
            std::path::absolute(file).ok().and_then(|file| Some(file.parent()?.join(path)))
        }
        _ => None,
    };
    let meant = beside.filter(|beside| beside.exists() || !here.exists()).unwrap_or(here);
    plain(&meant)
}

/// The same without `.` and `..`, as it would be written.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            component => plain.push(component),
        }
    }
    plain
}
