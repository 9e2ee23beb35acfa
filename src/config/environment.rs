//! The environment of a process: variables and the user. It is passed as a value, so that
//! tests can set all of it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// The environment of a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    /// The effective user id.
    pub uid: u32,
}

impl Environment {
    /// That of this process. `HOME` comes from the list of users where it is not set.
    pub fn of_process() -> Self {
        let mut this = Self::new(rustix::process::geteuid().as_raw(), std::env::vars_os());
        if let Some(home) = std::env::home_dir() {
            this.variables.insert("HOME".into(), home.into());
        }
        this
    }

    /// One made of the given variables alone.
    pub fn new<N: Into<OsString>, T: Into<OsString>>(
        uid: u32,
        variables: impl IntoIterator<Item = (N, T)>,
    ) -> Self {
        let pairs = variables.into_iter().map(|(name, text)| (name.into(), text.into()));
        // `collect` would sort first, which takes code that is not needed here.
        let mut variables = BTreeMap::new();
        variables.extend(pairs);
        Self { variables, uid }
    }

    /// All variables, by name.
    pub fn variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables.iter().map(|(name, text)| (name.as_os_str(), text.as_os_str()))
    }

    /// The directory that a variable names: absolute, as both systemd and the
    /// XDG base directories have it; of systemd's lists the first.
    pub fn directory(&self, name: &str) -> Option<PathBuf> {
        let text = self.variables.get(OsStr::new(name))?;
        std::env::split_paths(text).next().filter(|path| path.is_absolute())
    }
}
