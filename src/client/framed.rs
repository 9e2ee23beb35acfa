//! One connection as lines: its buffers in both directions, what it has restored, and
//! what is known of its end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde::Deserialize;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::unix::UnixStream;
use smol::{Timer, future};

use super::error::{Error, ErrorLine};
use super::event_queue::HubLine;
use super::registrations::{Registrations, Restoration};
use super::unacked::Unacked;
use crate::protocol::{Moment, Return};

/// No hub sends more on one line: a hundred times its default limit. Beyond it,
/// the peer is no hub.
const LONGEST_LINE: usize = 64 << 20;

/// Bytes that wait for the socket before no more requests are added; what one write to a
/// Unix socket takes is not much more.
const FULL: usize = 64 << 10;

/// What one read takes.
const CHUNK: usize = 64 << 10;

/// A restoration that the hub refuses to a new connection is sent again: it may not have
/// noticed yet that the old connection has ended, or the worker of an operation whose
/// channel is subscribed to may not be back. As long as an interrupt waits for its operation.
const RETRY: Duration = Duration::from_secs(1);
const RETRIES: u32 = 10;

/// The ids of restorations begin so; those of requests are numbers.
const RESTORATION: &str = "again:";

#[derive(Debug)]
pub(super) struct FramedStream {
    stream: UnixStream,
    outgoing: BytesMut,
    incoming: BytesMut,
    /// Where a read puts its bytes first.
    chunk: Vec<u8>,
    /// Bytes of `incoming` in which there is no line end.
    searched: usize,
    /// Lines received.
    lines: u64,
    /// What was restored, by number.
    restorations: Vec<Restoration>,
    /// What was refused and is to be restored once more.
    refused: Vec<Restoration>,
    retries: u32,
    retry: Option<Timer>,
    /// The last words of the hub that might explain why it closed the connection.
    parting: Option<String>,
    bye: Option<ByeLine>,
    /// Nothing more can be written: the hub has closed its end.
    is_write_closed: bool,
    /// The message of the hub's first line, if that was that we may not connect.
    rejection: Option<String>,
}

/// The hub is about to close the connection.
#[derive(Debug, Deserialize)]
struct ByeLine {
    code: u16,
    reconnect: Option<bool>,
    after_ms: Option<u64>,
}

impl ByeLine {
    fn is_final(&self) -> bool {
        !self.reconnect.unwrap_or_else(|| Return::after(self.code) != Return::No)
    }
}

/// How a connection ended.
pub(super) enum Loss {
    /// There is no reconnecting.
    Final(Error),
    /// `after` is the pause that the hub requests before the next connection.
    Temporary { error: Error, after: Option<Duration> },
}

/// The line of ours that is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LineId {
    Request(u64),
    /// The ping that opens a new connection.
    Probe,
    /// By number.
    Restoration(usize),
}

impl LineId {
    /// Reads an `id`, as JSON text.
    pub(super) fn parse(id: &str) -> Option<Self> {
        match id.strip_prefix('"') {
            None => id.parse().ok().map(Self::Request),
            Some(text) => {
                let number = text.strip_suffix('"')?.strip_prefix(RESTORATION)?;
                if number.is_empty() { Some(Self::Probe) } else { number.parse().ok().map(Self::Restoration) }
            }
        }
    }
}

/// What happened on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    Received,
    /// The hub has closed it.
    Closed,
    Written,
    RetryDue,
}

impl FramedStream {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            outgoing: BytesMut::new(),
            incoming: BytesMut::new(),
            chunk: vec![0; CHUNK],
            searched: 0,
            lines: 0,
            restorations: Vec::new(),
            refused: Vec::new(),
            retries: 0,
            retry: None,
            parting: None,
            bye: None,
            is_write_closed: false,
            rejection: None,
        }
    }

    /// Waits for the next thing that happens. May be dropped half way without losing
    /// anything; `race` keeps no branch waiting for ever.
    pub(super) async fn progress(&mut self, reads: bool) -> io::Result<Progress> {
        enum StreamEvent {
            Read(usize),
            Write(io::Result<usize>),
            Retry,
        }
        let (mut reader, mut writer) = (self.stream.clone(), self.stream.clone());
        let Self { chunk, outgoing, retry, .. } = self;
        let read = async {
            if !reads {
                return future::pending().await;
            }
            reader.read(chunk).await.map(StreamEvent::Read)
        };
        let write = async {
            if outgoing.is_empty() {
                return future::pending().await;
            }
            Ok(StreamEvent::Write(writer.write(outgoing).await))
        };
        let retry = async {
            match retry {
                Some(retry) => drop(retry.await),
                None => future::pending().await,
            }
            Ok(StreamEvent::Retry)
        };
        match future::race(future::race(read, write), retry).await? {
            StreamEvent::Read(0) => return Ok(Progress::Closed),
            StreamEvent::Read(count) => {
                self.incoming.extend_from_slice(self.chunk.get(..count).unwrap_or_default());
                return Ok(Progress::Received);
            }
            StreamEvent::Write(Ok(count)) => self.outgoing.advance(count),
            StreamEvent::Write(Err(_)) => {
                // The hub's last lines are still to be read.
                self.is_write_closed = true;
                self.outgoing.clear();
            }
            StreamEvent::Retry => {
                self.retry = None;
                self.retries += 1;
                return Ok(Progress::RetryDue);
            }
        }
        Ok(Progress::Written)
    }

    /// The next whole line.
    pub(super) fn next_line(&mut self) -> Option<BytesMut> {
        let unsearched = self.incoming.get(self.searched..).unwrap_or_default();
        let Some(end) = memchr::memchr(b'\n', unsearched) else {
            self.searched = self.incoming.len();
            return None;
        };
        let line = self.incoming.split_to(self.searched + end);
        self.incoming.advance(1);
        self.searched = 0;
        self.lines += 1;
        Some(line)
    }

    pub(super) fn is_line_too_long(&self) -> bool {
        self.incoming.len() > LONGEST_LINE
    }

    /// Whether the line that is being handled is the first.
    pub(super) fn is_at_first_line(&self) -> bool {
        self.lines <= 1
    }

    pub(super) fn is_write_closed(&self) -> bool {
        self.is_write_closed
    }

    /// Whether all is written, and more could be.
    pub(super) fn is_flushed(&self) -> bool {
        self.outgoing.is_empty() && !self.is_write_closed
    }

    /// Adds requests, as many as one write takes.
    pub(super) fn write_requests(&mut self, unacked: &mut Unacked) {
        if !self.is_write_closed {
            unacked.write(&mut self.outgoing, FULL);
        }
    }

    /// Requests an answer, before all else: a peer that gives it is a hub.
    pub(super) fn write_probe(&mut self) {
        let line = format!("{{\"action\":\"ping\",\"id\":\"{RESTORATION}\"}}\n");
        self.outgoing.extend_from_slice(line.as_bytes());
    }

    pub(super) fn restore(&mut self, all: Vec<Restoration>, registrations: &Registrations, now: Moment) {
        if self.is_write_closed {
            return;
        }
        for restoration in all {
            let Some(mut line) = registrations.line(&restoration, now) else { continue };
            line.pop();
            let number = self.restorations.len();
            line.extend_from_slice(format!(",\"id\":\"{RESTORATION}{number}\"}}\n").as_bytes());
            self.outgoing.extend_from_slice(&line);
            self.restorations.push(restoration);
        }
    }

    pub(super) fn restoration(&self, number: usize) -> Option<&Restoration> {
        self.restorations.get(number)
    }

    /// Schedules a refused restoration for another attempt; false where there were enough.
    pub(super) fn try_later(&mut self, restoration: Restoration) -> bool {
        let has_retries = self.retries < RETRIES;
        if has_retries {
            self.refused.push(restoration);
            self.retry.get_or_insert_with(|| Timer::after(RETRY));
        }
        has_retries
    }

    /// Restores once more what was refused.
    pub(super) fn retry_refused(&mut self, registrations: &Registrations, now: Moment) {
        let refused = std::mem::take(&mut self.refused);
        self.restore(refused, registrations, now);
    }

    /// The hub has announced the end of the connection.
    pub(super) fn on_bye(&mut self, line: &HubLine, reason: Option<String>) {
        self.bye = line.parse().ok();
        self.parting = reason;
    }

    /// The hub's first line rejects us.
    pub(super) fn on_rejection(&mut self, error: &ErrorLine) {
        self.rejection = Some(error.message.clone());
    }

    /// A hub that sends anything else has not rejected us.
    pub(super) fn clear_rejection(&mut self) {
        self.rejection = None;
    }

    /// The hub has sent an error about the connection.
    pub(super) fn on_connection_error(&mut self, error: Option<ErrorLine>) {
        self.parting = error.map(|error| error.message);
    }

    /// How the connection has ended, as far as it is known.
    pub(super) fn loss(&self, path: &Arc<Path>, why: &str) -> Loss {
        let path = path.clone();
        if let Some(why) = self.rejection.clone() {
            return Loss::Final(Error::Rejected { path, why });
        }
        let why = self.parting.as_ref().map_or_else(|| why.to_owned(), |parting| format!("{why}: {parting}"));
        let error = Error::Lost { path, why };
        match &self.bye {
            Some(bye) if bye.is_final() => Loss::Final(error),
            bye => {
                let after = bye.as_ref().and_then(|bye| bye.after_ms).map(Duration::from_millis);
                Loss::Temporary { error, after }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LineId;

    #[test]
    fn an_id_names_the_line_that_is_answered() {
        assert_eq!(LineId::parse("7"), Some(LineId::Request(7)));
        assert_eq!(LineId::parse("\"again:\""), Some(LineId::Probe));
        assert_eq!(LineId::parse("\"again:3\""), Some(LineId::Restoration(3)));
        assert_eq!(LineId::parse("\"7\""), None);
        assert_eq!(LineId::parse("-1"), None);
    }
}
