//! Errors of a worker's connection, with the advice that belongs to each.

use std::fmt;
use std::io;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::config::paths::LONGEST_SOCKET;

/// Why a request or a connection failed.
#[derive(Clone, Debug)]
pub enum Error {
    /// Nothing accepts connections at the socket.
    Unreachable {
        /// The socket.
        path: Arc<Path>,
        /// The system's error.
        why: Arc<io::Error>,
    },
    /// The socket was found rather than named, and another user may have put it there.
    Untrusted {
        /// The socket.
        path: Arc<Path>,
        /// What on the way to it can be another user's work: the socket itself or a
        /// directory.
        part: Arc<Path>,
        /// The uid to which that belongs.
        owner: u32,
    },
    /// The connection is lost.
    Lost {
        /// The socket.
        path: Arc<Path>,
        /// What is known of the reason.
        why: String,
    },
    /// The hub's first line was that this process may not connect.
    Rejected {
        /// The socket.
        path: Arc<Path>,
        /// The hub's reason.
        why: String,
    },
    /// The hub has been disconnected for longer than an answer is waited for.
    Unavailable {
        /// The socket.
        path: Arc<Path>,
    },
    /// So much waits for the hub already that this was dropped.
    QueueFull {
        /// The bound, in bytes.
        bound: usize,
    },
    /// The hub was disconnected for longer than the message was worth keeping.
    Expired,
    /// The hub refuses the request.
    Refused(ErrorLine),
    /// A line of the hub cannot be understood.
    Malformed(String),
    /// The request has no JSON form, or is no object.
    InvalidRequest(String),
}

/// The hub's `error` line.
#[derive(Clone, PartialEq, Eq, Debug, serde::Deserialize)]
pub struct ErrorLine {
    /// One of the error codes of the protocol.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Error {
    /// The hub's error code, where it was the hub that refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(refused) => Some(&refused.code),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The system's own words name a constant of C.
            Self::Unreachable { path, why } if why.kind() == ErrorKind::InvalidInput => write!(
                f,
                "cannot connect to {}: the path has {} bytes, and that of a socket may have {LONGEST_SOCKET}",
                path.display(),
                path.as_os_str().len()
            ),
            Self::Unreachable { path, why } => {
                let advice = match why.kind() {
                    ErrorKind::PermissionDenied => "its mode and group say who may: `ls -l` shows them",
                    ErrorKind::WouldBlock => {
                        "too many connections wait for wshubd already: it is stopped or busy, \
                         `systemctl status wshubd` shows which"
                    }
                    _ => "is wshubd running? `systemctl status wshubd`, or start `wshubd`",
                };
                write!(f, "cannot connect to {}: {why} ({advice})", path.display())
            }
            Self::Untrusted { path, part, owner } => write!(
                f,
                "{} is not used: {} belongs to uid {owner}, and may not be wshubd's",
                path.display(),
                part.display()
            ),
            Self::Lost { path, why } => write!(f, "lost the connection to {}: {why}", path.display()),
            Self::Rejected { path, why } => write!(
                f,
                "turned away at {}: {why} (`[worker] allow` of wshubd says who may)",
                path.display()
            ),
            Self::Unavailable { path } => write!(f, "no wshubd has been at {} for a while", path.display()),
            Self::QueueFull { bound } => write!(f, "dropped: {bound} bytes wait for wshubd already"),
            Self::Expired => write!(f, "dropped: wshubd was away for longer than this was worth keeping"),
            Self::Refused(refused) => write!(f, "{} ({})", refused.message, refused.code),
            Self::Malformed(what) => write!(f, "cannot understand the answer: {what}"),
            Self::InvalidRequest(what) => write!(f, "cannot be said in JSON: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable { why, .. } => Some(&**why),
            _ => None,
        }
    }
}
