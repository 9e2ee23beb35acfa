//! A socket, whichever kind it is.
//!
//! Knows how to read and write without waiting. Does not know what the bytes
//! mean.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll};

use rustix::net::{RecvFlags, SendFlags};
use smol::Async;

/// How much of what was sent may lie unsent in the kernel. The kernel's buffer
/// is a queue too: without a bound a peer that never reads holds megabytes.
const UNSENT_IN_KERNEL: u32 = 64 << 10;

/// One link of a client (TCP) or a worker (Unix).
#[derive(Debug)]
pub enum Wire {
    /// A WebSocket client.
    Tcp(Async<TcpStream>),
    /// A local process.
    Unix(Async<UnixStream>),
}

/// What a non-blocking read or write came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moved {
    /// So many bytes; none means the end of what the peer sends.
    Bytes(usize),
    /// Nothing now.
    NotNow,
    /// The link is broken.
    Broken,
}

impl From<rustix::io::Result<usize>> for Moved {
    fn from(result: rustix::io::Result<usize>) -> Self {
        match result {
            Ok(bytes) => Self::Bytes(bytes),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Self::NotNow,
            Err(_) => Self::Broken,
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Wire {
    /// Takes a client's socket over from the handshake.
    pub fn client(stream: Async<TcpStream>) -> Self {
        // Both only tune; a kernel without them serves as well.
        let _ = stream.get_ref().set_nodelay(true);
        let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_IN_KERNEL);
        Self::Tcp(stream)
    }

    /// Reads what is there, up to the block's length.
    pub fn read(&self, block: &mut [u8]) -> Moved {
        rustix::net::recv(self, block, RecvFlags::DONTWAIT).map(|(_, bytes)| bytes).into()
    }

    /// Writes what fits.
    pub fn write(&self, bytes: &[u8]) -> Moved {
        rustix::net::send(self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).into()
    }

    /// Waits until there is something to read.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_readable(cx),
            Self::Unix(stream) => stream.poll_readable(cx),
        }
    }

    /// Waits until something fits.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_writable(cx),
            Self::Unix(stream) => stream.poll_writable(cx),
        }
    }

    /// Ends one direction or both; a link that is gone already is no error.
    pub fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Self::Tcp(stream) => stream.get_ref().shutdown(how),
            Self::Unix(stream) => stream.get_ref().shutdown(how),
        };
    }
}
