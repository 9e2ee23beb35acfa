//! The daemon's end of the process that owns the disk.
//!
//! Knows how that process is started, spoken to and ended. Does not know what is
//! ordered, or what an answer means.
//!
//! sled's threads never end once it was opened, it keeps memory after a scan, and a
//! panic on one of its threads ends a process; so the process is not ours.

use std::fs;
use std::io;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde::{Deserialize, Serialize};

use super::ipc::{StoreRequest, StoreResponse};
use crate::edge::clock;
use crate::edge::net::epoll::{Epoll, Interest, Ready};
use crate::edge::net::inherited_fd::HANDOVER_VARIABLE;
use crate::protocol::Moment;

/// The key of the socket; neither a door nor a link has it.
const STORE: u64 = u64::MAX - 1;

/// Whether an event is about the process that owns the disk.
pub fn is_meant(ready: Ready) -> bool {
    ready.key == STORE
}

/// The argument that makes a daemon the process that owns the disk.
pub(in crate::edge::store) const ARGUMENT: &str = "--store";

/// How much is read at a time.
const BLOCK: usize = 16 << 10;

/// A longer order is no usual one, nor is a longer word.
const USUAL: usize = 128 << 10;

/// A process that owns the disk.
pub(super) struct StoreProcess {
    child: Child,
    socket: UnixStream,
    orders: Vec<u8>,
    /// How much of that was written.
    written: usize,
    /// What is read into.
    block: Box<[u8]>,
    /// Read, and not a whole line yet.
    words: Vec<u8>,
    /// What epoll was asked to tell of it, if it was.
    interest: Option<Interest>,
}

impl StoreProcess {
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
            .env_remove(HANDOVER_VARIABLE)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        let interest = epoll.map(|_| Interest::READ);
        let block = vec![0; BLOCK].into();
        Ok(Self { child, socket, orders: Vec::new(), written: 0, block, words: Vec::new(), interest })
    }

    /// Gives an order.
    pub(super) fn order(&mut self, order: &StoreRequest<'_>, epoll: Option<&Epoll>) -> io::Result<()> {
        serde_json::to_writer(&mut self.orders, order)?;
        self.orders.push(b'\n');
        self.flush(epoll)
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self, epoll: Option<&Epoll>) -> io::Result<()> {
        while self.written < self.orders.len() {
            match self.socket.write(self.orders.get(self.written..).unwrap_or_default()) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let is_written = self.written == self.orders.len();
        if is_written {
            self.orders.clear();
            self.written = 0;
            // One large commit must not cost its size for ever.
            self.orders.shrink_to(USUAL);
        }
        if let Some(epoll) = epoll {
            let interest = Interest { read: true, write: !is_written };
            match self.interest {
                Some(told) if told == interest => {}
                Some(_) => epoll.modify(&self.socket, STORE, interest),
                None => epoll.add(&self.socket, STORE, interest)?,
            }
            self.interest = Some(interest);
        }
        Ok(())
    }

    /// Waits until there is something to read, or room to write, or the time is
    /// over: for the start and the end of the daemon, when nobody else waits.
    pub(super) fn wait(&self, time: Duration) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let write = if self.written == self.orders.len() { PollFlags::empty() } else { PollFlags::OUT };
        let mut sockets = [PollFd::new(&self.socket, PollFlags::IN | write)];
        let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
        // A signal ends it early, which is no harm: whoever waits looks again.
        let _ = poll(&mut sockets, Some(&time));
    }

    /// Hands each whole line that has come to `heard`; the end of the process is
    /// an error.
    pub(super) fn read(&mut self, mut heard: impl FnMut(StoreResponse<'_>)) -> io::Result<()> {
        // As much as is there, within a bound: others want a turn as well.
        for _ in 0..64 {
            let read = match self.socket.read(&mut self.block) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut rest = self.block.get(..read).unwrap_or_default();
            while let Some(end) = memchr::memchr(b'\n', rest) {
                let (line, next) = rest.split_at(end);
                rest = next.get(1..).unwrap_or_default();
                self.words.extend_from_slice(line);
                let word = serde_json::from_slice(&self.words);
                heard(word?);
                self.words.clear();
                self.words.shrink_to(USUAL);
            }
            self.words.extend_from_slice(rest);
            if read < self.block.len() {
                // There was no more. What comes now is told of once more.
                return Ok(());
            }
        }
        Ok(())
    }

    /// What it has had written to disks, where the kernel counts that; also after its
    /// end.
    pub(super) fn written(&self) -> Option<u64> {
        written_by(&self.child.id().to_string())
    }

    /// Ends it at once.
    pub(super) fn kill(mut self) -> EndedChild {
        // Without a right to signal it, or after its end, there is nothing to do.
        let _ = self.child.kill();
        EndedChild { number: self.child.id(), until: None, killed_at: clock::now().moment }
    }

    /// Lets it end by itself: it finishes what it does, for which it has until then.
    pub(super) fn dismiss(self, until: Moment) -> EndedChild {
        EndedChild { number: self.child.id(), until: Some(until), killed_at: Moment(0) }
    }
}

/// What a process of ours has had written to disks, by its name below `/proc`.
pub(super) fn written_by(process: &str) -> Option<u64> {
    let counts = fs::read_to_string(format!("/proc/{process}/io")).ok()?;
    counts.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}

/// A process that ends, and has to be waited for; on a disk that hangs this may
/// take for ever. By its number, for it stays ours where the daemon becomes another
/// program in place; where another process takes over, it is none of ours.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub(super) struct EndedChild {
    number: u32,
    /// Until when it may end by itself. None, where it was killed: in a call that the
    /// kernel does not interrupt it ends when that returns.
    until: Option<Moment>,
    /// By the clock of the machine: how fast the kernel ends it depends on no other.
    killed_at: Moment,
}

/// A process that was killed is gone after this time, unless its disk hangs.
const GOING: Duration = Duration::from_millis(500);

impl EndedChild {
    /// The same, with time until then.
    pub(super) fn until(self, until: Moment) -> Self {
        Self { until: Some(until), ..self }
    }

    /// Whether it was killed.
    pub(super) fn is_killed(self) -> bool {
        self.until.is_none()
    }

    /// Whether it was killed a while ago. If it is still there it hangs.
    pub(super) fn is_overdue(self) -> bool {
        self.is_killed() && self.killed_at + GOING <= clock::now().moment
    }

    /// Whether it is gone.
    pub(super) fn is_gone(self) -> bool {
        !matches!(waitpid(self.pid(), WaitOptions::NOHANG), Ok(None))
    }

    /// Kills it if its time is over. It must not be gone: while nobody has waited for
    /// it, its number is its own.
    pub(super) fn hurry(&mut self, now: Moment) {
        if self.until.is_some_and(|until| until <= now)
            && let Some(pid) = self.pid()
        {
            (self.until, self.killed_at) = (None, clock::now().moment);
            // Without a right to signal it there is nothing to do.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn pid(self) -> Option<Pid> {
        i32::try_from(self.number).ok().and_then(Pid::from_raw)
    }
}

impl From<u32> for EndedChild {
    fn from(number: u32) -> Self {
        Self { number, until: None, killed_at: Moment(0) }
    }
}

impl From<EndedChild> for u32 {
    fn from(ended: EndedChild) -> Self {
        ended.number
    }
}
