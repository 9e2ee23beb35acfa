//! Non-blocking socket of a client (TCP) or worker (Unix).

use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags};

/// How much of what was sent may lie unsent in the kernel. The kernel's buffer
/// is a queue too: without a bound a peer that never reads holds megabytes.
const UNSENT_IN_KERNEL: u32 = 64 << 10;

/// The socket of one peer.
#[derive(Debug)]
pub struct PeerSocket {
    socket: OwnedFd,
    /// Where the client is, if proxies have named it: few have one.
    named: Option<Box<IpAddr>>,
}

/// What a non-blocking read or write came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoOutcome {
    /// So many bytes; none means the end of what the peer sends.
    Bytes(usize),
    /// Nothing now.
    NotNow,
    /// The connection is broken.
    Broken,
}

impl From<rustix::io::Result<usize>> for IoOutcome {
    fn from(result: rustix::io::Result<usize>) -> Self {
        match result {
            Ok(bytes) => Self::Bytes(bytes),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Self::NotNow,
            Err(_) => Self::Broken,
        }
    }
}

impl AsFd for PeerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<PeerSocket> for OwnedFd {
    fn from(peer: PeerSocket) -> Self {
        peer.socket
    }
}

impl PeerSocket {
    /// Takes a worker's socket over.
    pub fn worker(stream: impl Into<OwnedFd>) -> Self {
        Self { socket: stream.into(), named: None }
    }

    /// Takes a client's socket over from the handshake; and where the client is, if the
    /// peer is a proxy.
    pub fn client(stream: TcpStream, named: Option<IpAddr>) -> Self {
        // Both only tune; a kernel without them serves as well.
        let _ = stream.set_nodelay(true);
        let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_IN_KERNEL);
        Self { socket: stream.into(), named: named.map(Box::new) }
    }

    /// Takes the socket of a connection over that was another process's.
    pub fn again(socket: OwnedFd, named: Option<IpAddr>) -> Self {
        Self { socket, named: named.map(Box::new) }
    }

    /// Where the client is, if a proxy has named it.
    pub(super) fn named(&self) -> Option<IpAddr> {
        self.named.as_deref().copied()
    }

    /// Reads what is there, up to the block's length.
    pub fn read(&self, block: &mut [u8]) -> IoOutcome {
        rustix::net::recv(self, block, RecvFlags::DONTWAIT).map(|(_, bytes)| bytes).into()
    }

    /// Writes what fits.
    pub fn write(&self, bytes: &[u8]) -> IoOutcome {
        rustix::net::send(self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).into()
    }

    /// Address of a client, as far as the network and trusted proxies tell.
    pub fn address(&self) -> Option<String> {
        if let Some(named) = &self.named {
            return Some(named.to_string());
        }
        let peer = socket2::SockRef::from(&self.socket).peer_addr().ok()?.as_socket()?;
        // A listener of IPv6 shows those of IPv4 as mapped ones.
        Some(SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string())
    }

    /// The same without the port.
    pub fn ip(&self) -> Option<IpAddr> {
        let peer = || socket2::SockRef::from(&self.socket).peer_addr().ok()?.as_socket();
        self.named.as_deref().copied().or_else(|| Some(peer()?.ip().to_canonical()))
    }

    /// Which process a worker was when it connected.
    pub fn pid(&self) -> Option<u32> {
        let peer = rustix::net::sockopt::socket_peercred(self).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }

    /// Shuts one direction or both; a connection that is gone already is no error.
    pub fn shutdown(&self, how: Shutdown) {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        let _ = rustix::net::shutdown(self, how);
    }
}
