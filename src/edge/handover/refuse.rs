//! Refusal of connections that were handed over and cannot be gone on with: their peers are asked
//! to come back.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::ReceivedHandover;
use crate::edge::clock;
use crate::edge::driver::Driver;
use crate::edge::net::encoded_frame::{EncodedFrame, FrameEncoder};
use crate::edge::net::peer_credentials::WorkerRank;
use crate::edge::net::peer_side::PeerSide;
use crate::edge::net::socket::PeerSocket;
use crate::protocol::{Close, Frame};

/// How long a process that ends waits for peers to close: closing before they have
/// read what was written may take it from them.
const PATIENCE: Duration = Duration::from_secs(1);

/// So often it looks whether they have.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl ReceivedHandover {
    /// Closes connections of which nothing is known, and lets their peers read that.
    pub fn close_unusable(&mut self, driver: &mut Driver, close: Close) {
        for socket in std::mem::take(&mut self.unusable) {
            let side = match is_worker(&socket) {
                true => PeerSide::worker(WorkerRank::Worker),
                false => PeerSide::client(),
            };
            driver.turn_away(PeerSocket::again(socket, None), side, close);
        }
    }

    /// Closes all connections, for a process that cannot start, has no loop, and
    /// ends after this: no other process has them. What else was handed over is unused then.
    pub fn close_all(&mut self, close: Close) {
        let mut sockets = self.give_up();
        if sockets.is_empty() {
            return;
        }
        log::warn!("{} connections that were handed over are told to come back", sockets.len());
        let bye = Frame::Bye { code: close.code(), reason: close.reason(), reconnect: true, after_ms: 0 };
        let bye = FrameEncoder::default().encode(|scratch| bye.encode(None, scratch));
        let line = bye.for_worker();
        let frames = [&*bye.for_client(), &*EncodedFrame::close(close).for_client()].concat();
        for socket in &sockets {
            let last = if is_worker(socket) { &*line } else { &*frames };
            // Where it does not fit, the peer has read nothing for long.
            let _ = rustix::net::send(socket, last, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            let _ = rustix::net::shutdown(socket, Shutdown::Write);
        }
        let deadline = clock::now().moment + PATIENCE;
        while !sockets.is_empty() && clock::now().moment < deadline {
            std::thread::sleep(LOOK_AGAIN);
            sockets.retain(|socket| !is_closed_by_peer(socket));
        }
    }
}

fn is_worker(socket: &OwnedFd) -> bool {
    let domain = rustix::net::sockopt::socket_domain(socket);
    domain.is_ok_and(|domain| domain == rustix::net::AddressFamily::UNIX)
}

/// Reads what a peer still sends, which is ignored; whether it has closed.
fn is_closed_by_peer(socket: &OwnedFd) -> bool {
    /// One that never stops sending must not keep the others waiting.
    const READS: usize = 16;
    let mut ignored = [0; 4096];
    for _ in 0..READS {
        match rustix::net::recv(socket, &mut ignored, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return true,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        }
    }
    false
}
