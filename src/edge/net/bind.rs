//! Opening sockets that listen, and whether that would succeed.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// How many connections may wait to be taken; the kernel has a limit of its own below that.
const BACKLOG: i32 = 4096;

/// An address or path at which the next process would listen and cannot.
#[derive(Debug)]
pub struct Unavailable {
    pub why: String,
    /// Another process has it; otherwise another process may be allowed what this one is
    /// not.
    pub is_taken: bool,
}

impl Unavailable {
    /// Of what the option `option` sets.
    pub(super) fn new(what: std::fmt::Arguments<'_>, error: &io::Error, option: &str) -> Self {
        Self {
            why: format!("{what}: {error} ({option})"),
            is_taken: error.kind() == io::ErrorKind::AddrInUse,
        }
    }
}

/// A socket that has its address and takes no connection yet; `all` are the addresses that
/// are listened at together.
pub(crate) fn bind_tcp(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of a daemon before this one may still be closing.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(is_only_v6(address, all))?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Takes connections from now on.
pub(super) fn listen(listener: &TcpListener) -> io::Result<()> {
    Ok(rustix::net::listen(listener, BACKLOG)?)
}

/// Whether `[::]` takes no connections of IPv4: it takes them, whatever the default of the
/// system is, unless an address of IPv4 has the same port.
fn is_only_v6(address: SocketAddr, all: &[SocketAddr]) -> bool {
    all.iter().any(|other| other.is_ipv4() && other.port() == address.port())
}

/// Whether an open socket is what is wanted at an address: one that takes connections of
/// IPv4 as well is in the way of those that have an address of their own, and cannot change.
pub(super) fn is_wanted(address: SocketAddr, socket: &impl AsFd, wanted: &[SocketAddr]) -> bool {
    let takes_same = || {
        let only_v6 = SockRef::from(&socket.as_fd()).only_v6();
        let is_all_of_v6 = address.is_ipv6() && address.ip().is_unspecified();
        !is_all_of_v6 || only_v6.is_ok_and(|only| only == is_only_v6(address, wanted))
    };
    wanted.contains(&address) && takes_same()
}

/// Opens a socket in the file system, in the place of a dead one.
pub(super) fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if is_dead_socket(path)? {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

/// Why a socket cannot be opened where another daemon listens.
const RUNNING: &str = "another wshubd is already running there";

/// Whether a socket is there at which no process listens any more; nothing at all is none.
///
/// # Errors
/// `AddrInUse` when a process does, or it is something else.
pub(crate) fn is_dead_socket(path: &Path) -> io::Result<bool> {
    let Ok(meta) = path.symlink_metadata() else { return Ok(false) };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "there is something else in its place"));
    }
    let in_use = |why| Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let Err(error) = socket.connect(&SockAddr::unix(path)?) else { return in_use(RUNNING) };
    match Errno::from_io_error(&error) {
        // Only that shows that no process listens: whatever else is wrong, it is not ours to
        // take away.
        Some(Errno::CONNREFUSED) => Ok(true),
        // It is gone meanwhile.
        Some(Errno::NOENT) => Ok(false),
        // One whose queue is full takes no connection now, and lives.
        Some(Errno::AGAIN) => in_use(RUNNING),
        Some(Errno::PROTOTYPE) => in_use("a socket of another type is in its place"),
        _ => Err(error),
    }
}

/// Checks that a socket could be opened in the file system. Nothing is made for that.
pub(super) fn check_unix(path: &Path) -> io::Result<()> {
    SockAddr::unix(path)?;
    is_dead_socket(path)?;
    // The directories that are missing are made.
    let directory = path.ancestors().skip(1).find(|directory| directory.exists());
    access(directory.unwrap_or(Path::new(".")), Access::WRITE_OK | Access::EXEC_OK)?;
    Ok(())
}

/// Checks that a descriptor is a stream socket of one of these families that waits for
/// connections.
pub(super) fn check_listening(socket: &OwnedFd, families: &[AddressFamily]) -> io::Result<()> {
    let is_meant = sockopt::socket_type(socket)? == SocketType::STREAM
        && families.contains(&sockopt::socket_domain(socket)?)
        && sockopt::socket_acceptconn(socket)?;
    let wanted = if families.contains(&AddressFamily::UNIX) { "Unix" } else { "TCP" };
    let error = || io::Error::other(format!("it is no {wanted} socket that listens"));
    is_meant.then_some(()).ok_or_else(error)
}

/// A file, whatever its name: another may take its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let meta = path.symlink_metadata()?;
        Ok(Self { device: meta.dev(), inode: meta.ino() })
    }
}
