//! `wshubctl sub`: hear channels, on a terminal or in a pipe.
//!
//! Knows when it has heard enough, and says when it may have missed something.
//! Does not know what the messages mean.

use std::io;
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::FileType;
use serde::Deserialize;
use smol::{Async, Timer, future};
use wshubd::client::{Client, Error, Heard, Lines, News, Refused};

use crate::args;
use crate::connection::Hub;
use crate::error::{Exit, Failure};
use crate::terminal;
use crate::terminal::{plain, say};

pub(crate) async fn subscribe(hub: &Hub, asked: args::Subscribe) -> Result<ExitCode, Failure> {
    let is_terminal = io::stdout().is_terminal();
    let mut listener = Listener {
        json: asked.json || !is_terminal,
        is_terminal,
        left: asked.count,
        // A channel that was named twice is heard, and ends, once.
        channels: asked.channels.iter().fold(Vec::new(), |mut once, channel| {
            if !once.contains(channel) {
                once.push(channel.clone());
            }
            once
        }),
    };
    let channels = listener.channels.clone();
    // Beside each other: what a channel has kept may come before the answer about the
    // next one.
    let granted = async {
        match grants(hub, &channels).await {
            Err(failure) => Err(failure),
            Ok(()) => future::pending().await,
        }
    };
    let listen = future::or(listener.listen(&hub.client, &hub.lines), granted);
    future::or(listen, reader_gone()).await
}

/// Asks for all channels, and waits until all are granted.
async fn grants(hub: &Hub, channels: &[String]) -> Result<(), Failure> {
    let mut answers = Vec::new();
    for channel in channels {
        answers.push(hub.answer(hub.client.begin_subscribe(channel)).await??);
    }
    for pending in answers {
        hub.answer(pending.answer()).await??;
    }
    if io::stdout().is_terminal() {
        say(&format!("listening to {}; Ctrl-C ends", plain(&channels.join(", "))));
    }
    Ok(())
}

/// Waits until no more is to be heard, whether wshubd was reached or not.
pub(crate) async fn expired(timeout: Option<Duration>) -> Result<ExitCode, Failure> {
    match timeout {
        Some(timeout) => Timer::after(timeout).await,
        None => future::pending().await,
    };
    Ok(Exit::TimedOut.into())
}

/// Waits until whoever reads our output has gone, so that `sub | head -1` ends
/// with its first message and not only with the attempt to print a second one.
async fn reader_gone() -> Result<ExitCode, Failure> {
    let stdout = io::stdout();
    let is_pipe = rustix::fs::fstat(stdout.as_fd())
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    // Without switching it to non-blocking, which its other owners would notice.
    if let (true, Ok(watched)) = (is_pipe, Async::new_nonblocking(stdout.as_fd())) {
        // The writing end of a pipe is readable when it is broken, and never else.
        if watched.readable().await.is_ok() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    future::pending().await
}

struct Listener {
    json: bool,
    is_terminal: bool,
    /// Messages still wanted, if there is a number.
    left: Option<u64>,
    /// Channels that are still heard.
    channels: Vec<String>,
}

impl Listener {
    async fn listen(&mut self, client: &Client, lines: &Lines) -> Result<ExitCode, Failure> {
        while let Some(first) = lines.news().await {
            // All that has come leaves in one write, and at once.
            let mut text = String::new();
            let mut end = self.learn(&first, &mut text);
            while end.is_none() && text.len() < 64 << 10 {
                let Some(news) = lines.try_news() else { break };
                end = self.learn(&news, &mut text);
            }
            let mut stdout = io::stdout().lock();
            match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                Err(error) => return Err(Failure::of("standard output", error)),
                Ok(()) => {}
            }
            if let Some(end) = end {
                return end;
            }
        }
        Err(client.lost().into())
    }

    /// What happens to the connection is for people. What was missed follows as
    /// `gap` lines, for programs too.
    fn learn(&mut self, news: &News, text: &mut String) -> Option<Result<ExitCode, Failure>> {
        match news {
            News::Line(heard) => return self.hear(heard, text),
            News::Away(why) => say(&plain(&format!("{why}; waiting for it to come back"))),
            News::Back => say("wshubd is back"),
        }
        None
    }

    /// Adds what is to be printed, and tells whether that was all.
    fn hear(&mut self, heard: &Heard, text: &mut String) -> Option<Result<ExitCode, Failure>> {
        match (self.json, self.is_terminal) {
            (true, false) => text.push_str(heard.json()),
            (true, true) => text.push_str(&terminal::plain_json(heard.json())),
            (false, _) => text.push_str(&terminal::line(heard)),
        }
        text.push('\n');
        match heard.kind() {
            "message" => {
                let left = self.left.as_mut()?;
                *left -= 1;
                (*left == 0).then_some(Ok(ExitCode::SUCCESS))
            }
            "unsubscribed" => self.leave(heard),
            "error" => self.refused(heard),
            _ => None,
        }
    }

    /// A hub that came back does not grant a channel again.
    fn refused(&mut self, heard: &Heard) -> Option<Result<ExitCode, Failure>> {
        #[derive(Deserialize)]
        struct About {
            channel: String,
        }
        let About { channel } = heard.read().ok()?;
        let refused: Refused = heard.read().ok()?;
        self.channels.retain(|heard| *heard != channel);
        self.channels.is_empty().then(|| Err(Failure::from(Error::Refused(refused))))
    }

    /// The channel of an operation ends with it; any other end is none of ours.
    fn leave(&mut self, heard: &Heard) -> Option<Result<ExitCode, Failure>> {
        #[derive(Deserialize)]
        struct Unsubscribed {
            channel: String,
            reason: String,
        }
        let Unsubscribed { channel, reason } = heard.read().ok()?;
        self.channels.retain(|heard| *heard != channel);
        let all_gone = self.channels.is_empty();
        all_gone.then(|| match &*reason {
            "ended" => Ok(ExitCode::SUCCESS),
            "forbidden" => {
                Err(Failure::new(Exit::Denied, plain(&format!("no longer allowed to hear {channel}"))))
            }
            _ => Err(Failure::new(Exit::Failed, plain(&format!("wshubd has ended {channel} ({reason})")))),
        })
    }
}
