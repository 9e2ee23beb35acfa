//! Links that were handed over and cannot be gone on with: they are told to come back.
//!
//! Knows what is said to whom. Does not know what is wrong.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::Arrival;
use crate::edge::clock;
use crate::edge::driver::Driver;
use crate::edge::driver::inbound::LINGER;
use crate::edge::net::connection::Side;
use crate::edge::net::encoded_frame::{EncodedFrame, SharedBytes};
use crate::edge::net::send_queue::QueuedFrame;
use crate::edge::net::socket::PeerSocket;
use crate::protocol::{Close, Frame};

/// How long a process that ends waits for peers to hang up: closing before they have
/// read what was said may take it from them.
const PATIENCE: Duration = Duration::from_secs(1);

/// So often it looks whether they have.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Driver {
    /// Says goodbye to links of which nothing is known, and lets them read it.
    pub fn send_away(&mut self, arrival: &mut Arrival, close: Close) {
        self.look_at_the_clock();
        let bye = self.seal(|scratch| bye(close).encode(None, scratch));
        for socket in std::mem::take(&mut arrival.strangers) {
            let (side, pieces) = match is_worker(&socket) {
                true => (Side::Worker(Box::default()), vec![QueuedFrame::line(&bye)]),
                false => {
                    let last = EncodedFrame::close(close);
                    (Side::Client { held: None }, vec![QueuedFrame::frame(&bye), QueuedFrame::frame(&last)])
                }
            };
            let Ok(conn) = self.links.open(PeerSocket::again(socket, None), side, clock::random()) else {
                continue;
            };
            self.links.leave(conn, pieces, false);
            // The hub of this process has never heard of it.
            if let Some(link) = self.links.get(conn) {
                link.parted = true;
            }
            self.lingering.push_back((self.now.moment + LINGER, conn));
        }
    }
}

impl Arrival {
    /// Says goodbye to all links, for a process that cannot start, has no loop, and
    /// ends after this: nobody else has them. What else was handed over is unused then.
    pub fn turn_away(&mut self, close: Close) {
        let mut links = self.let_go();
        if links.is_empty() {
            return;
        }
        log::warn!("{} connections that were handed over are told to come back", links.len());
        let mut scratch = Vec::new();
        EncodedFrame::room(&mut scratch);
        bye(close).encode(None, &mut scratch);
        let (bye, last) = (EncodedFrame::seal(&mut scratch), EncodedFrame::close(close));
        let line = part(bye.line());
        let frames = [part(bye.frame()), part(last.frame())].concat();
        for link in &links {
            let words = if is_worker(link) { line } else { &frames };
            // Where it does not fit, nobody has read for long.
            let _ = rustix::net::send(link, words, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            let _ = rustix::net::shutdown(link, Shutdown::Write);
        }
        let deadline = clock::now().moment + PATIENCE;
        while !links.is_empty() && clock::now().moment < deadline {
            std::thread::sleep(LOOK_AGAIN);
            links.retain(|link| !has_hung_up(link));
        }
    }
}

fn bye(close: Close) -> Frame<'static> {
    Frame::Bye { code: close.code(), reason: close.reason(), reconnect: true, after_ms: 0 }
}

fn part((bytes, from, to): (&SharedBytes, u32, u32)) -> &[u8] {
    bytes.get(from as usize..to as usize).unwrap_or_default()
}

fn is_worker(socket: &OwnedFd) -> bool {
    let domain = rustix::net::sockopt::socket_domain(socket);
    domain.is_ok_and(|domain| domain == rustix::net::AddressFamily::UNIX)
}

/// Whether its peer is gone; what it still says is for nobody.
fn has_hung_up(link: &OwnedFd) -> bool {
    /// One that never stops talking must not keep the others waiting.
    const READS: usize = 16;
    let mut unheard = [0; 4096];
    for _ in 0..READS {
        match rustix::net::recv(link, &mut unheard, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return true,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        }
    }
    false
}
