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
        /// The reason, as far as it is known.
        why: String,
    },
    /// The hub's first line refuses this process.
    Rejected {
        /// The socket.
        path: Arc<Path>,
        /// The hub's reason.
        why: String,
    },
    /// The hub was disconnected for longer than the patience for an answer.
    Unavailable {
        /// The socket.
        path: Arc<Path>,
    },
    /// The queue to the hub is full, so the request was dropped.
    QueueFull {
        /// The bound, in bytes.
        bound: usize,
    },
    /// The hub was disconnected for longer than the `ttl` of the message.
    Expired,
    /// The hub refuses the request.
    Refused(ErrorLine),
    /// A line of the hub is malformed.
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
                    ErrorKind::PermissionDenied => "its mode and group deny access: `ls -l` shows them",
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
                "{} is not used: {} belongs to uid {owner}, so the socket may not be wshubd's",
                path.display(),
                part.display()
            ),
            Self::Lost { path, why } => write!(f, "lost the connection to {}: {why}", path.display()),
            Self::Rejected { path, why } => write!(
                f,
                "rejected at {}: {why} (`[worker] allow` of wshubd lists the allowed users)",
                path.display()
            ),
            Self::Unavailable { path } => {
                write!(f, "wshubd at {} has been disconnected for too long", path.display())
            }
            Self::QueueFull { bound } => write!(f, "dropped: {bound} bytes are queued for wshubd already"),
            Self::Expired => write!(f, "dropped: wshubd was not connected within the ttl of the message"),
            Self::Refused(refused) => write!(f, "{} ({})", refused.message, refused.code),
            Self::Malformed(what) => write!(f, "malformed answer: {what}"),
            Self::InvalidRequest(what) => write!(f, "invalid request: {what}"),
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
