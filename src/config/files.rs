//! Where configuration is read: files, drop-ins, variables.
//!
//! Knows which there are and in which order they count. Does not know what any of
//! them may say.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::error::{Place, Problem};
use super::tree::Entries;
use super::{places, tree};

/// The files that count: the one that is named, or else the usual ones.
pub(super) fn of(file: Option<&Path>, environment: &Environment) -> Result<Vec<PathBuf>, Problem> {
    match file {
        Some(file) => Ok(vec![file.to_owned()]),
        None => usual_files(&places::configuration_directory(environment)),
    }
}

/// The file and the drop-ins of a directory that exist, in order of name.
fn usual_files(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    let drop_ins = directory.join("conf.d");
    let mut files = Vec::new();
    match std::fs::read_dir(&drop_ins) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(|error| unreadable(&drop_ins, &error))?.path();
                let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
                    files.push(path);
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(&drop_ins, &error)),
    }
    files.sort_unstable();
    let file = directory.join("wshubd.toml");
    // Only what is known to be missing is left out; defaults in place of a
    // file that could not be looked at might open what it closes.
    match file.try_exists() {
        Ok(true) => files.insert(0, file),
        Ok(false) => {}
        Err(error) => return Err(unreadable(&file, &error)),
    }
    Ok(files)
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::in_file(path, format!("cannot be read: {error}"))
}

pub(super) fn read(file: &Path) -> Result<Entries, Problem> {
    let text = std::fs::read(file).map_err(|error| unreadable(file, &error))?;
    let text = String::from_utf8(text).map_err(|_| Problem::in_file(file, "is not UTF-8"))?;
    tree::parse(&text, file)
}

/// What our variables say.
pub(super) fn variables(environment: &Environment) -> impl Iterator<Item = Result<Entries, Problem>> {
    environment.variables().filter_map(|(name, text)| {
        let name = name.to_str().filter(|name| tree::keys_of(name).is_some())?;
        Some(match text.to_str() {
            Some(text) => tree::parse_variable(name, text),
            None => Err(Problem::new(Place::Variable(name.into()), "is not UTF-8")),
        })
    })
}
