//! What the command prints: published line by line, and passed on as it is.
//!
//! The state of an unfinished line is published too, while the hub is there: it is
//! never kept, and nothing older than the newest waits.
//!
//! Knows the numbers of lines. Does not know when the command has ended: it is
//! told, and then takes what is still in the pipe.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::rc::Rc;
use std::time::Duration;

use async_channel::Receiver;
use serde::Serialize;
use smol::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use smol::{Async, Timer, future};
use wshubd::client::{Client, Error, Pending, Publication};
use wshubd::edge::clock;
use wshubd::protocol::Moment;

use super::hub_connection::Presence;
use super::line_splitter::{LONGEST, Piece, Splitter};
use super::messages::Report;

/// The event under which output is published.
const EVENT: &str = "operation:output";

/// One line of output, as it is published.
#[derive(Serialize)]
struct Line<'a> {
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
    /// How many lines before this one are lost, because the hub was away for so
    /// long.
    #[serde(skip_serializing_if = "is_zero")]
    lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Where the output of one command goes.
pub(super) struct Output {
    pub(super) client: Client,
    pub(super) channel: String,
    pub(super) operation_id: String,
    /// Lines so far: numbered through both streams, which shows their order.
    pub(super) lines: Cell<u64>,
    /// Lines that found no room while the hub was away: in all, and since the last
    /// line that did.
    pub(super) lost: Cell<u64>,
    pub(super) lost_before: Cell<u64>,
    /// Cleared when the hub has gone for good; the command goes on without it.
    pub(super) publishing: Cell<bool>,
    pub(super) presence: Rc<Cell<Presence>>,
    pub(super) report: Report,
}

/// One of the two streams.
struct Stream {
    name: &'static str,
    splitter: Splitter,
    /// The number of the unfinished line, where its state was published.
    number: Option<u64>,
    /// A state that the hub has not taken yet.
    pending: Option<Pending>,
}

impl Output {
    /// Carries one stream until its end, or until `over` closes and nothing is
    /// left in it: what outlives the command may hold it open for ever.
    pub(super) async fn carry(
        &self,
        from: Async<File>,
        name: &'static str,
        mut to: impl AsyncWrite + Unpin,
        over: Receiver<()>,
    ) {
        let mut passing = true;
        let mut stream = Stream { name, splitter: Splitter::default(), number: None, pending: None };
        let mut chunk = vec![0; LONGEST];
        while let Some(read) = read(&from, &mut chunk, &over, stream.splitter.due()).await {
            let publish = self.publish(&mut stream, read);
            let pass = async {
                if passing && !read.is_empty() {
                    let passed = async {
                        to.write_all(read).await?;
                        to.flush().await
                    };
                    // That ends the passing on, not the command: others hear it through
                    // the hub. A reader that has gone has read enough.
                    if let Err(error) = passed.await {
                        passing = false;
                        // The thread that writes has ended; why, the next flush tells.
                        let error = match error.kind() {
                            ErrorKind::WriteZero => to.flush().await.err().unwrap_or(error),
                            _ => error,
                        };
                        if error.kind() != ErrorKind::BrokenPipe {
                            self.report.not_passed_on(name, &error);
                        }
                    }
                }
            };
            future::zip(publish, pass).await;
        }
        if let Some(piece) = std::mem::take(&mut stream.splitter).last() {
            self.publish_line(&mut stream, piece).await;
        }
    }

    /// Publishes the lines that are complete, and how the next one stands.
    async fn publish(&self, stream: &mut Stream, read: &[u8]) {
        let now = clock::now().moment;
        let mut rest = read;
        while let Some(piece) = stream.splitter.next(now, &mut rest) {
            self.publish_line(stream, piece).await;
        }
        self.publish_state(stream).await;
    }

    async fn publish_line(&self, stream: &mut Stream, Piece { text, continues }: Piece) {
        let number = stream.number.take().unwrap_or_else(|| self.count());
        if !self.publishing.get() {
            return;
        }
        let text = String::from_utf8_lossy(&text);
        let lost = self.lost_before.get();
        let line = Line { continues, lost, ..self.line(stream, number, &text) };
        match self.client.send(&Publication::to_channel(&self.channel, EVENT, &line)).await {
            Ok(()) => self.lost_before.set(0),
            Err(Error::Full { .. }) => {
                if self.lost_before.get() == 0 {
                    self.report.output_lost();
                }
                self.lost_before.set(self.lost_before.get() + 1);
                self.lost.set(self.lost.get() + 1);
            }
            // Whoever waits for an interrupt says so, once.
            Err(_) => self.publishing.set(false),
        }
    }

    /// Publishes the state of the unfinished line where it is due. One that the hub
    /// has not taken holds back those that follow.
    async fn publish_state(&self, stream: &mut Stream) {
        let now = clock::now().moment;
        if stream.splitter.due().is_none_or(|due| due > now) {
            return;
        }
        let is_taken = match &stream.pending {
            Some(pending) => future::poll_once(pending.answer()).await.is_some(),
            None => true,
        };
        if !is_taken || self.presence.get() != Presence::Here || !self.publishing.get() {
            return stream.splitter.postpone(now);
        }
        let number = *stream.number.get_or_insert_with(|| self.count());
        let Some(text) = stream.splitter.state(now).map(|text| String::from_utf8_lossy(text).into_owned())
        else {
            return;
        };
        let line = Line { partial: true, ..self.line(stream, number, &text) };
        let message =
            Publication { ttl: Some(Duration::ZERO), ..Publication::to_channel(&self.channel, EVENT, &line) };
        // Where there is no room nothing is lost: the line is to come.
        stream.pending = self.client.begin_publish(&message).await.ok();
    }

    fn line<'a>(&'a self, stream: &Stream, line: u64, text: &'a str) -> Line<'a> {
        Line {
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
    fn count(&self) -> u64 {
        self.lines.set(self.lines.get() + 1);
        self.lines.get()
    }
}

/// The next piece of output, an empty one where something is due before it comes;
/// none at its end.
async fn read<'a>(
    from: &Async<File>,
    chunk: &'a mut [u8],
    over: &Receiver<()>,
    due: Option<Moment>,
) -> Option<&'a [u8]> {
    let wait = async {
        match due {
            Some(due) => drop(Timer::after(due.since(clock::now().moment)).await),
            None => future::pending().await,
        }
        Some(Ok(None))
    };
    let ended = async {
        // Nothing is ever sent: it closes.
        let _ = over.recv().await;
        // All who wrote are dead, so that what is there is all there is.
        None
    };
    let mut reader = from;
    // Asked first whether anything is there: what reads without a pause, from a pipe that
    // is always full, would keep signals, timers and the hub from being looked at.
    let reads = async {
        let there = from.readable().await;
        let read = async { there.and(Ok(reader.read(chunk).await?)) };
        Some(read.await.map(Some))
    };
    let read = match future::or(future::or(reads, wait), ended).await {
        Some(Ok(None)) => return Some(&[]),
        Some(Ok(Some(count))) => Ok(count),
        Some(Err(error)) => Err(error),
        None => from.get_ref().read(chunk),
    };
    match read {
        Ok(0) => None,
        Ok(count) => chunk.get(..count),
        Err(error) if error.kind() == ErrorKind::Interrupted => Some(&[]),
        // A pseudo-terminal whose last user has gone says EIO.
        Err(_) => None,
    }
}
