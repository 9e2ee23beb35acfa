//! One attempt to connect to a worker socket.

use std::path::Path;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use smol::net::unix::UnixStream;

use super::error::Error;
use super::socket_trust::{objection, way};

/// Which sockets are connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trust {
    /// Any: somebody has named it.
    Named,
    /// Only one that nobody but root and we can have put there, or behind which such a
    /// process listens.
    Found,
}

/// Connects, or says at once why that cannot be done. A Unix socket takes a connection
/// at once or, where its queue of connections is full, not at all; there is nothing to
/// wait for, which is why this is not what `smol` does: there a full queue looks like a
/// connection without a peer.
pub(super) fn connect(path: &Arc<Path>, trust: Trust) -> Result<UnixStream, Error> {
    let unreachable = |why: std::io::Error| Error::Unreachable { path: path.clone(), why: Arc::new(why) };
    let stream = open(path).map_err(unreachable)?;
    if trust == Trust::Found {
        let peer = sockopt::socket_peercred(&stream).ok().map(|peer| peer.uid.as_raw());
        let own = rustix::process::geteuid().as_raw();
        let way = way(path).map_err(unreachable)?;
        if let Some(step) = objection(peer, own, &way) {
            return Err(Error::Untrusted {
                path: path.clone(),
                part: step.path.as_path().into(),
                owner: step.owner,
            });
        }
    }
    Ok(stream)
}

fn open(path: &Path) -> std::io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    UnixStream::try_from(socket)
}
