//! The daemon's end of the process that owns the disk.
//!
//! Knows how that process is started, spoken to and ended. Does not know what is
//! ordered, or what an answer means.
//!
//! sled's threads never end once it was opened, it keeps memory after a scan, and a
//! panic on one of its threads ends a process; so the process is not ours.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, WaitOptions, waitpid};
use serde::{Deserialize, Serialize};

use super::words::{Order, Word};
use crate::edge::epoll::{Epoll, Interest, Ready};
use crate::edge::handover;

/// The key of the socket; neither a door nor a link has it.
const STORE: u64 = u64::MAX - 1;

/// Whether an event is about the process that owns the disk.
pub fn is_meant(ready: Ready) -> bool {
    ready.key == STORE
}

/// The argument that makes a daemon the process that owns the disk.
pub(super) const ARGUMENT: &str = "--store";

/// How much is read at a time.
const BLOCK: usize = 64 << 10;

/// A process that owns the disk.
pub(super) struct Process {
    child: Child,
    socket: UnixStream,
    /// Not written yet.
    orders: VecDeque<u8>,
    /// Read, and not a whole line yet.
    words: Vec<u8>,
    is_waited_for: bool,
}

impl Process {
    /// Starts one on a directory.
    pub(super) fn start(program: &Path, directory: &Path, epoll: Option<&Epoll>) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        // First, for there would be nobody to wait for a process if this failed.
        if let Some(epoll) = epoll {
            epoll.add(&socket, STORE, Interest::READ)?;
        }
        let child = Command::new(program)
            // As administrators see it in a list of processes.
            .arg0("wshubd")
            .arg(ARGUMENT)
            .arg(directory)
            .env_remove(handover::exec::VARIABLE)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        let is_waited_for = epoll.is_some();
        Ok(Self { child, socket, orders: VecDeque::new(), words: Vec::new(), is_waited_for })
    }

    /// Gives an order.
    pub(super) fn order(&mut self, order: &Order<'_>, epoll: Option<&Epoll>) -> io::Result<()> {
        serde_json::to_writer(&mut self.orders, order)?;
        self.orders.push_back(b'\n');
        self.flush(epoll)
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self, epoll: Option<&Epoll>) -> io::Result<()> {
        while !self.orders.is_empty() {
            match self.socket.write(self.orders.as_slices().0) {
                Ok(written) => drop(self.orders.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.orders.is_empty() {
            // One large commit must not cost its size for ever.
            self.orders.shrink_to(BLOCK);
        }
        if let Some(epoll) = epoll {
            let interest = Interest { read: true, write: !self.orders.is_empty() };
            if self.is_waited_for {
                epoll.modify(&self.socket, STORE, interest);
            } else {
                epoll.add(&self.socket, STORE, interest)?;
                self.is_waited_for = true;
            }
        }
        Ok(())
    }

    /// Waits until there is something to read, or room to write, or the time is
    /// over: for the start and the end of the daemon, when nobody else waits.
    pub(super) fn wait(&self, time: std::time::Duration) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let write = if self.orders.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut sockets = [PollFd::new(&self.socket, PollFlags::IN | write)];
        let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
        // A signal ends it early, which is no harm: whoever waits looks again.
        let _ = poll(&mut sockets, Some(&time));
    }

    /// Hands each whole line that has come to `heard`; the end of the process is
    /// an error.
    pub(super) fn read(&mut self, mut heard: impl FnMut(Word<'_>)) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        // As much as is there, within a bound: others want a turn as well.
        for _ in 0..16 {
            let read = match self.socket.read(&mut block) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut rest = block.get(..read).unwrap_or_default();
            while let Some(end) = memchr::memchr(b'\n', rest) {
                let (line, next) = rest.split_at(end);
                rest = next.get(1..).unwrap_or_default();
                self.words.extend_from_slice(line);
                let word = serde_json::from_slice(&self.words);
                heard(word?);
                self.words.clear();
                self.words.shrink_to(BLOCK);
            }
            self.words.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Ends it at once.
    pub(super) fn kill(mut self) -> Ended {
        // Without a right to signal it, or after its end, there is nothing to do.
        let _ = self.child.kill();
        Ended(self.child.id())
    }

    /// Lets it end by itself: it finishes what it does.
    pub(super) fn dismiss(self) -> Ended {
        Ended(self.child.id())
    }
}

/// A process that ends, and has to be waited for; on a disk that hangs this may
/// take for ever. By its number, for it stays ours where the daemon becomes another
/// program in place; where another process takes over, it is none of ours.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Ended(u32);

impl Ended {
    /// Whether it is gone.
    pub(super) fn is_gone(self) -> bool {
        let number = i32::try_from(self.0).ok().and_then(Pid::from_raw);
        !matches!(waitpid(number, WaitOptions::NOHANG), Ok(None))
    }
}
