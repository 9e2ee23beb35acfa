//! The child process that owns the disk: its start, its socket and its end.
//!
//! What is requested of it and what a response means is of no concern here.
//!
//! sled's threads never end once it was opened, it keeps memory after a scan, and a
//! panic on one of its threads ends a process; so the process is not ours.

use std::fmt;
use std::fs;
use std::io;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde::{Deserialize, Serialize};

use super::StoreOptions;
use super::ipc::{StoreRequest, StoreResponse};
use crate::edge::clock;
use crate::edge::net::epoll::{Epoll, Interest, Ready};
use crate::edge::net::inherited_fd::HANDOVER_VARIABLE;
use crate::protocol::Moment;

/// A process that has nothing to do for so long is dismissed: its threads wake up, and
/// opening it again costs a segment of flash.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The key of the socket; no listener and no connection has it.
const STORE: u64 = u64::MAX - 1;

/// Whether an event is of the socket to the process that owns the disk.
pub fn is_store_event(ready: Ready) -> bool {
    ready.key == STORE
}

/// The argument that makes a daemon the process that owns the disk.
pub(in crate::edge::store) const ARGUMENT: &str = "--store";

/// How much is read at a time.
const BLOCK: usize = 16 << 10;

/// Buffers keep so much; a longer request or response is rare.
const USUAL: usize = 128 << 10;

/// Of processes that were killed and are not gone, there are no more: each is in a call
/// that the disk does not answer, and the next one would stand beside it.
const MOST_HUNG: usize = 2;

/// How long a process may take to finish what it does, once it is dismissed: as long as any
/// request may.
const ENDING: Duration = Duration::from_secs(10);

/// Those that are on their way out are looked after so often; nothing waits for them.
const REAP_AGAIN: Duration = Duration::from_secs(1);

/// A process that owns the disk.
pub(super) struct StoreProcess {
    child: Child,
    socket: UnixStream,
    requests: Vec<u8>,
    /// How much of that was written.
    written: usize,
    /// What is read into.
    block: Box<[u8]>,
    /// Read, and not a whole line yet.
    line: Vec<u8>,
    /// What is registered with epoll, if it is.
    interest: Option<Interest>,
}

impl StoreProcess {
    /// Starts one on a directory.
    fn start(program: &Path, directory: &Path, epoll: Option<&Epoll>) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        // First: if this failed after the start, nothing would wait for the process.
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
        Ok(Self { child, socket, requests: Vec::new(), written: 0, block, line: Vec::new(), interest })
    }

    fn send(&mut self, request: &StoreRequest<'_>, epoll: Option<&Epoll>) -> io::Result<()> {
        serde_json::to_writer(&mut self.requests, request)?;
        self.requests.push(b'\n');
        self.flush(epoll)
    }

    /// Writes what the socket takes, and hands each whole response that has come to
    /// `receive`. The end of the process is an error.
    pub(super) fn exchange(
        &mut self,
        epoll: Option<&Epoll>,
        receive: impl FnMut(StoreResponse<'_>),
    ) -> Result<(), String> {
        let flushed = self.flush(epoll);
        let read = self.read(receive);
        flushed.and(read).map_err(|error| {
            let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
            let how = if is_end { "ended".to_owned() } else { error.to_string() };
            format!("the process that owns the disk is gone: {how}")
        })
    }

    /// Writes what the socket takes.
    fn flush(&mut self, epoll: Option<&Epoll>) -> io::Result<()> {
        while self.written < self.requests.len() {
            match self.socket.write(self.requests.get(self.written..).unwrap_or_default()) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let is_written = self.written == self.requests.len();
        if is_written {
            self.requests.clear();
            self.written = 0;
            // One large commit must not cost its size for ever.
            self.requests.shrink_to(USUAL);
        }
        if let Some(epoll) = epoll {
            let interest = Interest { read: true, write: !is_written };
            match self.interest {
                Some(registered) if registered == interest => {}
                Some(_) => epoll.modify(&self.socket, STORE, interest),
                None => epoll.add(&self.socket, STORE, interest)?,
            }
            self.interest = Some(interest);
        }
        Ok(())
    }

    fn wait(&self, time: Duration) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let write = if self.written == self.requests.len() { PollFlags::empty() } else { PollFlags::OUT };
        let mut sockets = [PollFd::new(&self.socket, PollFlags::IN | write)];
        let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
        // A signal ends it early, which is no harm: the caller looks again.
        let _ = poll(&mut sockets, Some(&time));
    }

    fn read(&mut self, mut receive: impl FnMut(StoreResponse<'_>)) -> io::Result<()> {
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
                self.line.extend_from_slice(line);
                let response = serde_json::from_slice(&self.line);
                receive(response?);
                self.line.clear();
                self.line.shrink_to(USUAL);
            }
            self.line.extend_from_slice(rest);
            if read < self.block.len() {
                // There was no more. What comes now is an event of its own.
                return Ok(());
            }
        }
        Ok(())
    }

    /// What it has had written to disks, where the kernel counts that; also after its
    /// end.
    fn bytes_written(&self) -> Option<u64> {
        bytes_written_by(&self.child.id().to_string())
    }

    /// Ends it at once.
    fn kill(mut self) -> EndedChild {
        // Without a right to signal it, or after its end, there is nothing to do.
        let _ = self.child.kill();
        EndedChild { number: self.child.id(), until: None, killed_at: clock::now().moment }
    }

    /// Lets it end by itself: it finishes what it does, for which it has until then.
    fn dismiss(self, until: Moment) -> EndedChild {
        EndedChild { number: self.child.id(), until: Some(until), killed_at: Moment(0) }
    }
}

/// Why no process was started.
#[derive(Debug)]
pub(super) enum StartError {
    /// So many were killed and are not gone.
    Hung {
        directory: PathBuf,
        hung: usize,
    },
    Failed {
        program: PathBuf,
        error: io::Error,
    },
}

impl StartError {
    /// Whether no attempt was made.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Hung { .. })
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hung { directory, hung } => {
                let directory = directory.display();
                write!(f, "the disk of {directory} hangs: {hung} processes were killed and do not end")
            }
            Self::Failed { program, error } => write!(f, "cannot start {}: {error}", program.display()),
        }
    }
}

/// The process that runs, if one does, and those that are on their way out.
#[derive(Default)]
pub(super) struct Children {
    process: Option<StoreProcess>,
    ended: Vec<EndedChild>,
    /// It has grown; another one begins with fresh memory.
    ends_after_response: bool,
}

impl Children {
    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// When it is looked again after those that are on their way out, if there are some.
    pub(super) fn reap_at(&self, now: Moment) -> Option<Moment> {
        (!self.ended.is_empty()).then(|| now + REAP_AGAIN)
    }

    /// Starts one, unless too many hang.
    pub(super) fn start(&mut self, options: &StoreOptions, epoll: Option<&Epoll>) -> Result<(), StartError> {
        debug_assert!(self.process.is_none(), "a process runs already");
        let (hung, directory) = (self.hung(), &options.directory);
        if hung >= MOST_HUNG {
            return Err(StartError::Hung { directory: directory.clone(), hung });
        }
        let started = StoreProcess::start(&options.program, directory, epoll);
        let failed = |error| StartError::Failed { program: options.program.clone(), error };
        self.process = Some(started.map_err(failed)?);
        Ok(())
    }

    /// Sends a request to the one that runs.
    pub(super) fn send(&mut self, request: &StoreRequest<'_>, epoll: Option<&Epoll>) -> io::Result<()> {
        self.process.as_mut().map_or(Ok(()), |process| process.send(request, epoll))
    }

    /// Takes the one that runs out for as long as its responses are handled.
    pub(super) fn take(&mut self) -> Option<StoreProcess> {
        self.process.take()
    }

    /// Puts it back, or dismisses it if it was to end after a response.
    pub(super) fn put_back(&mut self, process: StoreProcess, now: Moment) {
        self.process = Some(process);
        if std::mem::take(&mut self.ends_after_response) {
            self.dismiss(now + ENDING);
        }
    }

    /// Lets the process end after the response that is being handled.
    pub(super) fn end_after_response(&mut self) {
        self.ends_after_response = true;
    }

    /// Lets the process end by itself.
    pub(super) fn dismiss_idle(&mut self, now: Moment) {
        self.dismiss(now + ENDING);
    }

    /// Lets the process finish what it does. It has until then, or as long as any.
    pub(super) fn dismiss_busy(&mut self, until: Option<Moment>, now: Moment) {
        self.dismiss(until.unwrap_or(now + ENDING));
    }

    fn dismiss(&mut self, until: Moment) {
        self.ended.extend(self.process.take().map(|process| process.dismiss(until)));
    }

    /// Ends the process at once: what it has written until then, if that is known.
    pub(super) fn kill(&mut self) -> Option<u64> {
        let process = self.process.take()?;
        let written = process.bytes_written();
        self.ended.push(process.kill());
        written
    }

    /// Why nothing can be sent to the process: its own reason, if it has given one.
    pub(super) fn why_gone(&mut self, error: &io::Error) -> String {
        self.last_failure().unwrap_or_else(|| format!("the process that owns the disk is gone: {error}"))
    }

    fn last_failure(&mut self) -> Option<String> {
        let mut last = None;
        let process = self.process.as_mut()?;
        // It ends in an error, for the other end of the socket is closed.
        let _ = process.read(|response| {
            if let StoreResponse::Failed { why } = response {
                last = Some(why);
            }
        });
        last
    }

    /// Looks after those that are to end, and kills what takes too long. Whether another
    /// can be started again, which could not be because of them.
    pub(super) fn reap(&mut self, now: Moment) -> bool {
        let hung = self.hung();
        self.ended.retain(|ended| !ended.is_gone());
        self.ended.iter_mut().for_each(|ended| ended.kill_if_late(now));
        hung >= MOST_HUNG && self.hung() < MOST_HUNG
    }

    fn hung(&self) -> usize {
        self.ended.iter().filter(|ended| ended.is_overdue()).count()
    }

    /// Waits until there is something to read, or room to write, or the time is
    /// over: for the start and the end of the daemon, when nothing else is waited for.
    pub(super) fn wait(&self, time: Duration) {
        match &self.process {
            Some(process) => process.wait(time),
            None => std::thread::sleep(time),
        }
    }
}

/// The processes that are on their way out, for a process that takes over.
#[derive(Serialize, Deserialize)]
pub(super) struct ChildrenSnapshot {
    dismissed: Vec<EndedChild>,
    killed: Vec<EndedChild>,
}

impl Children {
    pub(super) fn snapshot(&self) -> ChildrenSnapshot {
        let (killed, dismissed) = self.ended.iter().partition(|ended| ended.is_killed());
        ChildrenSnapshot { dismissed, killed }
    }

    /// Those of another process.
    pub(super) fn resume(snapshot: ChildrenSnapshot, now: Moment) -> Self {
        let ChildrenSnapshot { dismissed, killed } = snapshot;
        let mut ended: Vec<_> = dismissed.into_iter().map(|ended| ended.until(now + ENDING)).collect();
        ended.extend(killed);
        Self { ended, ..Self::default() }
    }
}

/// What a process of ours has had written to disks, by its name below `/proc`.
pub(super) fn bytes_written_by(process: &str) -> Option<u64> {
    let counts = fs::read_to_string(format!("/proc/{process}/io")).ok()?;
    counts.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}

/// A process that ends, and has to be waited for; on a disk that hangs this may
/// take for ever. By its number, for it stays ours where the daemon becomes another
/// program in place; where another process takes over, it is none of ours.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
struct EndedChild {
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
    fn until(self, until: Moment) -> Self {
        Self { until: Some(until), ..self }
    }

    fn is_killed(self) -> bool {
        self.until.is_none()
    }

    /// Whether it was killed a while ago. If it is still there it hangs.
    fn is_overdue(self) -> bool {
        self.is_killed() && self.killed_at + GOING <= clock::now().moment
    }

    fn is_gone(self) -> bool {
        !matches!(waitpid(self.pid(), WaitOptions::NOHANG), Ok(None))
    }

    /// Kills it if its time is over. It must not be gone: as long as it was not waited for,
    /// its number is its own.
    fn kill_if_late(&mut self, now: Moment) {
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
