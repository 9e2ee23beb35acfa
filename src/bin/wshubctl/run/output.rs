//! Output of the command: published line by line, and copied to our own streams.
//!
//! The state of an unfinished line is published too, while the hub is connected: it is
//! never kept, and of several states only the newest waits.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::rc::Rc;
use std::time::Duration;

use async_channel::Receiver;
use rustix::process::WaitStatus;
use serde::Serialize;
use smol::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use smol::{Async, Timer, future};
use wshubd::client::{Client, Error, PendingAnswer, PublishRequest};
use wshubd::edge::clock;
use wshubd::protocol::Moment;

use super::hub_link::HubPresence;
use super::line_splitter::{LONGEST, LinePiece, LineSplitter};
use super::messages::{CommandOutcome, RunReport};

/// The event under which output is published.
const EVENT: &str = "operation:output";

/// One line of output, as it is published.
#[derive(Serialize)]
struct OutputLine<'a> {
    operation_id: &'a str,
    stream: &'static str,
    line: u64,
    text: &'a str,
    /// Whether the next line of this stream continues this one, which was too
    /// long for one message.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continues: bool,
    /// Whether the line is unfinished: another of its number follows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
    /// How many lines before this one are lost, because the hub was disconnected for so
    /// long.
    #[serde(skip_serializing_if = "is_zero")]
    lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Publishes and copies the output of one command.
pub(super) struct OutputPublisher {
    client: Client,
    channel: String,
    operation_id: String,
    /// Lines so far: numbered through both streams, which shows their order.
    lines: Cell<u64>,
    /// Lines that were dropped because too much waited for the hub: in all, and since the last
    /// line that was not.
    lost: Cell<u64>,
    lost_before: Cell<u64>,
    /// Cleared when the hub does not come back; the command goes on without it.
    is_publishing: Cell<bool>,
    presence: Rc<Cell<HubPresence>>,
    report: RunReport,
}

/// One of the two streams.
struct OutputStream {
    name: &'static str,
    splitter: LineSplitter,
    /// The number of the unfinished line, where its state was published.
    number: Option<u64>,
    /// A state that the hub has not taken yet.
    pending: Option<PendingAnswer>,
}

impl OutputPublisher {
    pub(super) fn new(
        client: Client,
        channel: String,
        operation_id: String,
        presence: Rc<Cell<HubPresence>>,
        report: RunReport,
    ) -> Self {
        Self {
            client,
            channel,
            operation_id,
            lines: Cell::new(0),
            lost: Cell::new(0),
            lost_before: Cell::new(0),
            is_publishing: Cell::new(true),
            presence,
            report,
        }
    }

    pub(super) fn presence(&self) -> &Rc<Cell<HubPresence>> {
        &self.presence
    }

    pub(super) fn report(&self) -> RunReport {
        self.report
    }

    pub(super) fn report_started(&self) {
        self.report.started(&self.operation_id, &self.channel);
    }

    /// Publishes nothing any more. The output is copied still.
    pub(super) fn stop_publishing(&self) {
        self.is_publishing.set(false);
    }

    /// The outcome of the command, with the counts of its lines.
    pub(super) fn outcome(&self, status: Option<WaitStatus>) -> CommandOutcome {
        CommandOutcome::new(status, self.lines.get(), self.lost.get())
    }

    /// Copies and publishes one stream until its end, or until `ended` closes and nothing is
    /// left in it: a process that outlives the command may hold it open for ever.
    pub(super) async fn copy(
        &self,
        from: Async<File>,
        name: &'static str,
        mut to: impl AsyncWrite + Unpin,
        ended: Receiver<()>,
    ) {
        let mut is_copying = true;
        let mut stream =
            OutputStream { name, splitter: LineSplitter::default(), number: None, pending: None };
        let mut chunk = vec![0; LONGEST];
        while let Some(read) = read(&from, &mut chunk, &ended, stream.splitter.due()).await {
            let publish = self.publish(&mut stream, read);
            let copy = async {
                if is_copying && !read.is_empty() {
                    let copied = async {
                        to.write_all(read).await?;
                        to.flush().await
                    };
                    // An error ends the copy, not the command: subscribers get its output through
                    // the hub. A reader that has gone has read enough.
                    if let Err(error) = copied.await {
                        is_copying = false;
                        // The thread that writes has ended; the next flush has its error.
                        let error = match error.kind() {
                            ErrorKind::WriteZero => to.flush().await.err().unwrap_or(error),
                            _ => error,
                        };
                        if error.kind() != ErrorKind::BrokenPipe {
                            self.report.copy_failed(name, &error);
                        }
                    }
                }
            };
            future::zip(publish, copy).await;
        }
        if let Some(piece) = std::mem::take(&mut stream.splitter).last() {
            self.publish_line(&mut stream, piece).await;
        }
    }

    /// Publishes the lines that are complete, and the state of the next one.
    async fn publish(&self, stream: &mut OutputStream, read: &[u8]) {
        let now = clock::now().moment;
        let mut rest = read;
        while let Some(piece) = stream.splitter.next(now, &mut rest) {
            self.publish_line(stream, piece).await;
        }
        self.publish_state(stream).await;
    }

    async fn publish_line(&self, stream: &mut OutputStream, piece: LinePiece) {
        let number = stream.number.take().unwrap_or_else(|| self.count_line());
        if !self.is_publishing.get() {
            return;
        }
        let (text, continues) = match &piece {
            LinePiece::End(text) => (text, false),
            LinePiece::Part(text) => (text, true),
        };
        let text = String::from_utf8_lossy(text);
        let lost = self.lost_before.get();
        let line = OutputLine { continues, lost, ..self.line(stream, number, &text) };
        match self.client.send(&PublishRequest::to_channel(&self.channel, EVENT, &line)).await {
            Ok(()) => self.lost_before.set(0),
            Err(Error::QueueFull { .. }) => {
                if self.lost_before.get() == 0 {
                    self.report.output_lost();
                }
                self.lost_before.set(self.lost_before.get() + 1);
                self.lost.set(self.lost.get() + 1);
            }
            // The end of the connection is reported where interrupts are awaited, once.
            Err(_) => self.stop_publishing(),
        }
    }

    /// Publishes the state of the unfinished line where it is due. One that the hub
    /// has not taken holds back those that follow.
    async fn publish_state(&self, stream: &mut OutputStream) {
        let now = clock::now().moment;
        if stream.splitter.due().is_none_or(|due| due > now) {
            return;
        }
        let is_taken = match &stream.pending {
            Some(pending) => future::poll_once(pending.answer()).await.is_some(),
            None => true,
        };
        if !is_taken || self.presence.get() != HubPresence::Connected || !self.is_publishing.get() {
            return stream.splitter.postpone(now);
        }
        let number = *stream.number.get_or_insert_with(|| self.count_line());
        let Some(text) =
            stream.splitter.take_state(now).map(|text| String::from_utf8_lossy(text).into_owned())
        else {
            return;
        };
        let line = OutputLine { partial: true, ..self.line(stream, number, &text) };
        let message = PublishRequest {
            ttl: Some(Duration::ZERO),
            ..PublishRequest::to_channel(&self.channel, EVENT, &line)
        };
        // Where it is dropped nothing is lost: the whole line is to come.
        stream.pending = self.client.begin_publish(&message).await.ok();
    }

    fn line<'a>(&'a self, stream: &OutputStream, line: u64, text: &'a str) -> OutputLine<'a> {
        OutputLine {
            operation_id: &self.operation_id,
            stream: stream.name,
            line,
            text,
            continues: false,
            partial: false,
            lost: 0,
        }
    }

    /// The number of one more line.
    fn count_line(&self) -> u64 {
        self.lines.set(self.lines.get() + 1);
        self.lines.get()
    }
}

/// The next chunk of output, an empty one where a state is due before it comes;
/// none at its end.
async fn read<'a>(
    from: &Async<File>,
    chunk: &'a mut [u8],
    ended: &Receiver<()>,
    due: Option<Moment>,
) -> Option<&'a [u8]> {
    let wait = async {
        match due {
            Some(due) => drop(Timer::after(due.since(clock::now().moment)).await),
            None => future::pending().await,
        }
        Some(Ok(None))
    };
    let closed = async {
        // Nothing is ever sent: it closes.
        let _ = ended.recv().await;
        // All writers are dead, so that what is in the pipe is the rest.
        None
    };
    let mut reader = from;
    // Waits for readiness first: reads without a pause, from a pipe that
    // is always full, would keep signals, timers and the hub from being handled.
    let reads = async {
        let ready = from.readable().await;
        let read = async { ready.and(Ok(reader.read(chunk).await?)) };
        Some(read.await.map(Some))
    };
    let read = match future::or(future::or(reads, wait), closed).await {
        Some(Ok(None)) => return Some(&[]),
        Some(Ok(Some(count))) => Ok(count),
        Some(Err(error)) => Err(error),
        None => from.get_ref().read(chunk),
    };
    match read {
        Ok(0) => None,
        Ok(count) => chunk.get(..count),
        Err(error) if error.kind() == ErrorKind::Interrupted => Some(&[]),
        // A pseudo-terminal without any other user fails with EIO.
        Err(_) => None,
    }
}
