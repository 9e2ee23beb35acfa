//! Failures of a command, and the documented exit codes.

use std::fmt;
use std::io;
use std::process::ExitCode;

use wshubd::client::Error;

use crate::socket_access;
use crate::terminal::escape;

/// The documented exit codes but 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    Denied = 4,
    TimedOut = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// One line for people, and the exit code for scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Adds something to its first line.
    pub(crate) fn with_remark(mut self, more: &str) -> Self {
        let first = self.message.lines().next().unwrap_or_default().trim_end_matches(':').len();
        self.message.insert_str(first, &format!("; {more}"));
        self
    }

    /// Adds something at its end.
    pub(crate) fn with_summary(mut self, more: &str) -> Self {
        self.message.push_str("; ");
        self.message.push_str(more);
        self
    }

    /// A standard stream or a process of ours failed.
    pub(crate) fn of(what: &str, error: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The exit code for an error.
pub(crate) fn exit_of(error: &Error) -> Exit {
    match error {
        Error::Unreachable { why, .. } if why.kind() == io::ErrorKind::PermissionDenied => Exit::Denied,
        Error::Rejected { .. } | Error::Untrusted { .. } => Exit::Denied,
        Error::Unreachable { .. } | Error::Lost { .. } | Error::Unavailable { .. } => Exit::Unreachable,
        Error::Refused(refused) => match &*refused.code {
            "forbidden" | "auth_required" => Exit::Denied,
            _ => Exit::Failed,
        },
        Error::Malformed(_) | Error::InvalidRequest(_) | Error::QueueFull { .. } | Error::Expired => {
            Exit::Failed
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut message = error.to_string();
        match &error {
            Error::Unreachable { path, why } if why.kind() == io::ErrorKind::PermissionDenied => {
                if let Some(denial) = socket_access::denial(path) {
                    message = format!("cannot connect to {}: {why}: {denial}", path.display());
                }
            }
            Error::Untrusted { path, part, owner } => {
                let (path, part, owner) = (path.display(), part.display(), socket_access::user(*owner));
                message = format!(
                    "{path} is not used: {part} belongs to {owner}, so the socket may not be wshubd's; \
                     `--socket {path}` uses it without this check"
                );
            }
            _ => {}
        }
        Self::new(exit_of(&error), escape(&message))
    }
}
