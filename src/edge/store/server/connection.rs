//! The socket to the daemon: lines of JSON in both directions.

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
    reader: BufReader<UnixStream>,
    writer: BufWriter<UnixStream>,
}

impl DaemonConnection {
    /// None where a person has started this: there is no socket.
    pub(super) fn over_standard_input() -> Option<Self> {
        let input = io::stdin();
        let is_socket = fstat(&input).is_ok_and(|input| FileType::from_raw_mode(input.st_mode).is_socket());
        if !is_socket {
            return None;
        }
        let socket = UnixStream::from(input.as_fd().try_clone_to_owned().ok()?);
        socket.set_nonblocking(false).ok()?;
        Some(Self { reader: BufReader::new(socket.try_clone().ok()?), writer: BufWriter::new(socket) })
    }

    /// Waits for a line. There is none when the daemon has closed its end, or has
    /// ended in the middle of one.
    pub(super) fn read_line(&mut self, line: &mut Vec<u8>) -> bool {
        line.clear();
        line.shrink_to(LINE);
        if self.reader.buffer().is_empty() {
            // A process that waits in a read wakes as well when the daemon takes a response.
            let mut socket = [PollFd::new(self.reader.get_ref(), PollFlags::IN)];
            let _ = poll(&mut socket, None);
        }
        self.reader.read_until(b'\n', line).is_ok() && line.ends_with(b"\n")
    }

    /// Sends a response, some time before `flush` returns.
    pub(super) fn send(&mut self, response: &StoreResponse<'_>) -> StoreResult {
        let sent = serde_json::to_writer(&mut self.writer, response).map_err(io::Error::from);
        sent.and_then(|()| self.writer.write_all(b"\n")).map_err(gone)
    }

    pub(super) fn flush(&mut self) -> StoreResult {
        self.writer.flush().map_err(gone)
    }
}

pub(super) fn parse_request(line: &[u8]) -> StoreResult<StoreRequest<'_>> {
    serde_json::from_slice(line)
        .map_err(|error| StoreError::Hindered(format!("an order cannot be read: {error}")))
}

/// There is nothing to respond to any more.
fn gone(error: io::Error) -> StoreError {
    StoreError::Hindered(format!("the daemon is gone: {error}"))
}
