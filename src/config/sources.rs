//! Sources of the configuration: files, drop-ins and variables, in the order in which they count.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::error::{ConfigError, Location, Problem};
use super::file_owner::{Purpose, explained};
use super::merge::TableEntries;
use super::variables;
use super::variables::Meaning;
use super::{Config, Loaded, merge, paths};
use crate::sort::sort;

/// Where the configuration of a process comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigSource {
    /// The file that was named; none: the usual ones.
    file: Option<PathBuf>,
    /// That of the start: the environment of a process cannot be changed from outside.
    environment: Environment,
}

impl ConfigSource {
    /// The named file, or the usual ones, and the variables.
    pub fn new(file: Option<PathBuf>, environment: Environment) -> Self {
        Self { file, environment }
    }

    /// Reads it for the first time.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        Config::load(self.file.as_deref(), &self.environment)
    }

    /// Reads it again in a running daemon.
    ///
    /// # Errors
    /// As [`Config::load_again`].
    pub fn load_again(&self) -> Result<Loaded, ConfigError> {
        Config::load_again(self.file.as_deref(), &self.environment)
    }

    /// Reads it for another program.
    ///
    /// # Errors
    /// As [`Config::load_for_next`].
    pub fn load_for_next(&self) -> Result<Loaded, ConfigError> {
        Config::load_for_next(self.file.as_deref(), &self.environment)
    }
}

/// The files that count: the one that is named, or else the usual ones.
pub(super) fn of(file: Option<&Path>, environment: &Environment) -> Result<Vec<PathBuf>, Problem> {
    match file {
        Some(file) => Ok(vec![file.to_owned()]),
        None => usual_files(&paths::configuration_directory(environment)),
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
    sort(&mut files);
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

/// Checks that all can be read more than once.
pub(super) fn check_regular_files(files: &[PathBuf]) -> Result<(), Problem> {
    for file in files {
        let meta = std::fs::metadata(file).map_err(|error| unreadable(file, &error))?;
        if !meta.is_file() {
            return Err(Problem::in_file(file, "is not a file, and can be read only once"));
        }
    }
    Ok(())
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::in_file(path, format!("cannot be read: {}", explained(error, path, Purpose::Readable)))
}

pub(super) fn read(file: &Path) -> Result<TableEntries, Problem> {
    let text = std::fs::read(file).map_err(|error| unreadable(file, &error))?;
    match std::str::from_utf8(&text) {
        Ok(text) => merge::parse(text, file),
        Err(error) => {
            let before = text.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(Problem::new(
                Location::Line { file: file.into(), line },
                "is not UTF-8; save the file as that",
            ))
        }
    }
}

/// Lays the values of our variables over `entries`; returns the names of variables that only
/// look like ours.
pub(super) fn overlay_variables(
    entries: &mut TableEntries,
    environment: &Environment,
    problems: &mut Vec<Problem>,
) -> Vec<String> {
    let mut foreign = Vec::new();
    for (name, text) in environment.variables() {
        let Some(name) = name.to_str() else { continue };
        let meaning = variables::meaning(name, &text.to_string_lossy());
        let read = match (meaning, text.to_str()) {
            (None, _) => continue,
            (Some(Meaning::Foreign), _) => {
                foreign.push(name.to_owned());
                continue;
            }
            (Some(Meaning::Mistyped(option)), _) => {
                let message = format!("sets nothing, did you mean {option}?");
                Err(Problem::new(Location::Variable(name.into()), message))
            }
            (Some(Meaning::Option(_)), None) => {
                Err(Problem::new(Location::Variable(name.into()), "is not UTF-8"))
            }
            (Some(Meaning::Option(keys)), Some(text)) => variables::parse(name, keys, text),
        };
        match read {
            Ok(over) => merge::overlay(entries, over),
            Err(problem) => problems.push(problem),
        }
    }
    foreign
}
