//! The socket to the daemon.
//!
//! Knows lines of JSON, in both directions. Does not know what they are about.

use std::io;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, fstat};

use super::error::{StoreError, StoreResult};
use crate::edge::store::ipc::{StoreRequest, StoreResponse};

/// A line longer than this is not kept in memory for the next one.
const LINE: usize = 64 * 1024;

pub(super) struct DaemonConnection {
    from: BufReader<UnixStream>,
    to: BufWriter<UnixStream>,
}

impl DaemonConnection {
    /// Whoever starts this by hand has no socket there.
    pub(super) fn over_standard_input() -> Option<Self> {
        let input = io::stdin();
        let is_socket = fstat(&input).is_ok_and(|input| FileType::from_raw_mode(input.st_mode).is_socket());
        if !is_socket {
            return None;
        }
        let socket = UnixStream::from(input.as_fd().try_clone_to_owned().ok()?);
        socket.set_nonblocking(false).ok()?;
        Some(Self { from: BufReader::new(socket.try_clone().ok()?), to: BufWriter::new(socket) })
    }

    /// Waits for a line. There is none when the daemon has closed its end, or has
    /// gone in the middle of one.
    pub(super) fn hear(&mut self, line: &mut Vec<u8>) -> bool {
        line.clear();
        line.shrink_to(LINE);
        if self.from.buffer().is_empty() {
            // Who waits in a read is woken as well when the daemon takes an answer.
            let mut socket = [PollFd::new(self.from.get_ref(), PollFlags::IN)];
            let _ = poll(&mut socket, None);
        }
        self.from.read_until(b'\n', line).is_ok() && line.ends_with(b"\n")
    }

    /// Says a word, some time before `flush` returns.
    pub(super) fn say(&mut self, word: &StoreResponse<'_>) -> StoreResult {
        let said = serde_json::to_writer(&mut self.to, word).map_err(io::Error::from);
        said.and_then(|()| self.to.write_all(b"\n")).map_err(gone)
    }

    pub(super) fn flush(&mut self) -> StoreResult {
        self.to.flush().map_err(gone)
    }
}

pub(super) fn read_order(line: &[u8]) -> StoreResult<StoreRequest<'_>> {
    serde_json::from_slice(line)
        .map_err(|error| StoreError::Hindered(format!("an order cannot be read: {error}")))
}

/// Nobody is left to be told.
fn gone(error: io::Error) -> StoreError {
    StoreError::Hindered(format!("the daemon is gone: {error}"))
}
