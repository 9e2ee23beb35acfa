//! Mistakes in a configuration, each with its location.

use std::fmt;
use std::path::Path;
use std::rc::Rc;

/// Where something was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// In a file, from line 1.
    Line { file: Rc<Path>, line: usize },
    /// In a file as a whole: it cannot be read, or holds what it should not.
    File(Rc<Path>),
    /// In a variable of the environment.
    Variable(Rc<str>),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{}:{line}", file.display()),
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Variable(name) => write!(f, "{name} in the environment"),
        }
    }
}

/// One mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub location: Location,
    /// With the key and what is wanted.
    pub message: String,
}

impl Problem {
    /// A mistake in what stands there.
    pub fn new(location: Location, message: impl Into<String>) -> Self {
        Self { location, message: message.into() }
    }

    /// Whether a file in this directory is the mistake as a whole, and no line in it.
    pub fn is_in(&self, directory: &Path) -> bool {
        matches!(&self.location, Location::File(file) if file.starts_with(directory))
    }

    /// A mistake of a file as a whole.
    pub fn in_file(file: &Path, message: impl Into<String>) -> Self {
        Self::new(Location::File(file.into()), message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.message)
    }
}

/// Everything that is wrong, so that one attempt shows it all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// At least one, in the order in which they were found.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// The exit status for it, after `sysexits.h`: systemd does not start the process again
    /// then.
    pub const EXIT: u8 = 78;

    /// `Ok` where there are no problems.
    ///
    /// # Errors
    /// All `problems`, if there are any.
    pub fn unless_empty(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

/// One line for each problem.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
