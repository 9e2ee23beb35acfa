//! The doors: sockets that others connect to.
//!
//! Knows how to open them, who may come through the workers' one, and how to go
//! on when descriptors run out. Does not know what is said inside.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use smol::{Async, LocalExecutor, Timer};

use super::driver::Shared;
use super::http::{self, Site};
use super::peers::Peers;
use super::serve;
use super::wire::Wire;
use crate::hub::Peer;

/// How long a door stays shut when no descriptor is left for one more guest.
/// Asking again at once would only burn a processor.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Opens a TCP door.
///
/// # Errors
/// Those of `bind`; the caller names the address.
pub fn tcp(address: SocketAddr) -> io::Result<Async<TcpListener>> {
    Async::<TcpListener>::bind(address)
}

/// Opens the workers' door. A dead socket that an earlier daemon left is taken
/// away; anything else in that place is left alone.
///
/// # Errors
/// `AddrInUse` when a daemon listens there, or something that is no socket is in
/// the way; else those of the file system.
pub fn unix(path: &Path, mode: u32) -> io::Result<Async<UnixListener>> {
    if let Ok(meta) = path.symlink_metadata() {
        if !meta.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "there is something else in its place"));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another wshubd is already running there"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = Async::<UnixListener>::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Lets HTTP callers and WebSocket clients in, for ever.
pub async fn accept_clients(
    listener: Async<TcpListener>,
    driver: Shared,
    executor: Rc<LocalExecutor<'static>>,
    site: Rc<Site>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let serving = http::serve(driver.clone(), executor.clone(), site.clone(), stream);
                executor.spawn(serving).detach();
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// Lets workers in, for ever.
pub async fn accept_workers(
    listener: Async<UnixListener>,
    driver: Shared,
    executor: Rc<LocalExecutor<'static>>,
    peers: Peers,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // The kernel's word; a peer that is gone already has none.
                let Ok(peer) = rustix::net::sockopt::socket_peercred(stream.as_fd()) else { continue };
                if !peers.admit(peer) {
                    log::warn!(
                        "turned a worker away: uid {}, pid {}",
                        peer.uid.as_raw(),
                        peer.pid.as_raw_nonzero()
                    );
                    continue;
                }
                let wire = Rc::new(Wire::Unix(stream));
                let peer = Peer::Worker { uid: peer.uid.as_raw(), admin: peers.administers(peer) };
                let conn = driver.borrow_mut().open(wire.clone(), peer, &[]);
                executor.spawn(serve::read(driver.clone(), wire, conn)).detach();
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// After a failed accept: a guest that left again costs nothing, a lack of
/// descriptors or memory costs time.
async fn pause(error: &io::Error) {
    let is_momentary = matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted);
    if !is_momentary {
        log::warn!("cannot accept a connection: {error}");
        Timer::after(OUT_OF_DESCRIPTORS).await;
    }
}
