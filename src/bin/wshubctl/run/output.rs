//! What the command prints: published line by line, and passed on as it is.
//!
//! Knows lines and their numbers. Does not know when the command has ended: it
//! is told, and then takes what is still in the pipe.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Read};

use async_channel::Receiver;
use serde::Serialize;
use smol::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use smol::{Async, future};
use wshubd::client::{Client, Error, Publication};

use super::report::Report;

/// The event under which output is published.
const EVENT: &str = "operation:output";

/// Where a line is cut: as JSON, where a byte may take six, it stays below the
/// 512 KiB that a hub takes by default.
const LONGEST: usize = (64 << 10) - 1;

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
    pub(super) report: Report,
}

impl Output {
    /// Carries one stream until its end, or until `over` closes and nothing is
    /// left in it: what outlives the command may hold it open for ever.
    pub(super) async fn carry(
        &self,
        from: Async<File>,
        stream: &'static str,
        mut to: impl AsyncWrite + Unpin,
        over: Receiver<()>,
    ) {
        let mut passing = true;
        let mut unfinished = Vec::new();
        let mut chunk = vec![0; LONGEST];
        while let Some(read) = read(&from, &mut chunk, &over).await {
            let publish = self.publish_lines(stream, &mut unfinished, read);
            let pass = async {
                if passing {
                    // A reader that has gone ends the passing on, not the command:
                    // others hear it through the hub.
                    passing = to.write_all(read).await.is_ok() && to.flush().await.is_ok();
                }
            };
            future::zip(publish, pass).await;
        }
        if !unfinished.is_empty() {
            self.publish(stream, &unfinished, false).await;
        }
    }

    /// Publishes the lines that are complete, and keeps the rest.
    async fn publish_lines(&self, stream: &'static str, unfinished: &mut Vec<u8>, read: &[u8]) {
        unfinished.extend_from_slice(read);
        let mut rest = unfinished.as_slice();
        loop {
            if let Some(end) = memchr::memchr(b'\n', rest).filter(|&end| end <= LONGEST) {
                let (line, behind) = rest.split_at(end);
                self.publish(stream, line, false).await;
                rest = behind.get(1..).unwrap_or_default();
            } else if rest.len() > LONGEST {
                let (piece, behind) = rest.split_at(cut(rest));
                self.publish(stream, piece, true).await;
                rest = behind;
            } else {
                break;
            }
        }
        let done = unfinished.len() - rest.len();
        unfinished.drain(..done);
    }

    async fn publish(&self, stream: &'static str, line: &[u8], continues: bool) {
        self.lines.set(self.lines.get() + 1);
        if !self.publishing.get() {
            return;
        }
        let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
        let line = Line {
            operation_id: &self.operation_id,
            stream,
            line: self.lines.get(),
            text: &text,
            continues,
            lost: self.lost_before.get(),
        };
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
}

/// The next piece of output; none at its end.
async fn read<'a>(from: &Async<File>, chunk: &'a mut [u8], over: &Receiver<()>) -> Option<&'a [u8]> {
    let ended = async {
        // Nothing is ever sent: it closes.
        let _ = over.recv().await;
        // All who wrote are dead, so that what is there is all there is.
        None
    };
    let mut reader = from;
    let read = match future::or(async { Some(reader.read(chunk).await) }, ended).await {
        Some(read) => read,
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

/// Where to cut a long line: before a character that would not fit whole.
fn cut(line: &[u8]) -> usize {
    let begins = |at: &usize| line.get(*at).is_some_and(|byte| byte & 0xc0 != 0x80);
    // A character has at most four bytes; what is no UTF-8 is cut anywhere.
    (LONGEST - 3..=LONGEST).rev().find(begins).unwrap_or(LONGEST)
}
