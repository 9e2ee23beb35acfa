//! `wshubctl sub`: subscribe to channels, on a terminal or in a pipe.

use std::io;
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::FileType;
use serde::Deserialize;
use smol::{Async, Timer, future};
use wshubd::client::{Client, ClientEvent, Error, ErrorLine, Events, HubLine};

use crate::connection::HubConnection;
use crate::duration::parse_duration;
use crate::error::{Exit, Failure};
use crate::terminal;
use crate::terminal::{escape, notice};

/// Subscribe to channels and print their messages
///
/// On a terminal, each message is one readable line; in a pipe, each line is one JSON
/// object as wshubd sends it: messages, and states of operations. The subscription
/// continues after a restart of wshubd; a `gap` marks missed messages.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  wshubctl sub -n 1 --timeout 10s orders:new | jq .data")]
pub(crate) struct SubscribeArgs {
    /// Exit after this number of messages
    #[arg(short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Exit with 5 after this time, as in 10s
    #[arg(long, value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// JSON on a terminal too
    #[arg(long)]
    json: bool,
    /// The channels; `operation:ID` is the channel of an operation, until its end
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<String>,
}

impl SubscribeArgs {
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }
}

pub(crate) async fn subscribe(hub: &HubConnection, args: SubscribeArgs) -> Result<ExitCode, Failure> {
    let is_terminal = io::stdout().is_terminal();
    let mut subscription = ChannelSubscription {
        json: args.json || !is_terminal,
        is_terminal,
        left: args.count,
        // A channel that was named twice is subscribed to, and ends, once.
        channels: args.channels.iter().fold(Vec::new(), |mut once, channel| {
            if !once.contains(channel) {
                once.push(channel.clone());
            }
            once
        }),
    };
    let channels = subscription.channels.clone();
    // Beside each other: what a channel has kept may come before the answer about the
    // next one.
    let granted = async {
        match subscribe_all(hub, &channels).await {
            Err(failure) => Err(failure),
            Ok(()) => future::pending().await,
        }
    };
    let printed = future::or(subscription.print_events(hub.client(), hub.events()), granted);
    future::or(printed, reader_gone()).await
}

/// Subscribes to all channels, and waits until all are granted.
async fn subscribe_all(hub: &HubConnection, channels: &[String]) -> Result<(), Failure> {
    let mut answers = Vec::new();
    for channel in channels {
        answers.push(hub.answer(hub.client().begin_subscribe(channel)).await??);
    }
    for pending in answers {
        hub.answer(pending.answer()).await??;
    }
    if io::stdout().is_terminal() {
        notice(&format!("subscribed to {}; Ctrl-C ends", escape(&channels.join(", "))));
    }
    Ok(())
}

/// Waits for `--timeout`, whether wshubd was reached or not.
pub(crate) async fn expired(timeout: Option<Duration>) -> Result<ExitCode, Failure> {
    match timeout {
        Some(timeout) => Timer::after(timeout).await,
        None => future::pending().await,
    };
    Ok(Exit::TimedOut.into())
}

/// Waits until the reader of our output has gone, so that `sub | head -1` ends
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

struct ChannelSubscription {
    json: bool,
    is_terminal: bool,
    /// Messages still wanted, if there is a number.
    left: Option<u64>,
    /// Channels that are still subscribed to.
    channels: Vec<String>,
}

impl ChannelSubscription {
    async fn print_events(&mut self, client: &Client, events: &Events) -> Result<ExitCode, Failure> {
        while let Some(first) = events.next_event().await {
            // All that has come is printed in one write, and at once.
            let mut text = String::new();
            let mut end = self.handle_event(&first, &mut text);
            while end.is_none() && text.len() < 64 << 10 {
                let Some(news) = events.try_next_event() else { break };
                end = self.handle_event(&news, &mut text);
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
        Err(client.end_reason().into())
    }

    /// Changes of the connection are reported to people. A loss of messages follows as
    /// `gap` lines, for programs too.
    fn handle_event(&mut self, news: &ClientEvent, text: &mut String) -> Option<Result<ExitCode, Failure>> {
        match news {
            ClientEvent::Line(line) => return self.handle_line(line, text),
            ClientEvent::Disconnected(why) => notice(&escape(&format!("{why}; reconnecting"))),
            ClientEvent::Reconnected => notice("reconnected to wshubd"),
        }
        None
    }

    /// Adds a line to the output; gives back the result where that was the last.
    fn handle_line(&mut self, line: &HubLine, text: &mut String) -> Option<Result<ExitCode, Failure>> {
        match (self.json, self.is_terminal) {
            (true, false) => text.push_str(line.json()),
            (true, true) => text.push_str(&terminal::escape_json(line.json())),
            (false, _) => text.push_str(&terminal::format_line(line)),
        }
        text.push('\n');
        match line.kind() {
            "message" => {
                let left = self.left.as_mut()?;
                *left -= 1;
                (*left == 0).then_some(Ok(ExitCode::SUCCESS))
            }
            "unsubscribed" => self.on_unsubscribed(line),
            "error" => self.on_error(line),
            _ => None,
        }
    }

    /// The hub does not grant a channel again after a reconnect.
    fn on_error(&mut self, line: &HubLine) -> Option<Result<ExitCode, Failure>> {
        #[derive(Deserialize)]
        struct ErrorChannel {
            channel: String,
        }
        let ErrorChannel { channel } = line.parse().ok()?;
        let error: ErrorLine = line.parse().ok()?;
        self.channels.retain(|other| *other != channel);
        self.channels.is_empty().then(|| Err(Failure::from(Error::Refused(error))))
    }

    /// The channel of an operation ends with it; any other end is none of ours.
    fn on_unsubscribed(&mut self, line: &HubLine) -> Option<Result<ExitCode, Failure>> {
        #[derive(Deserialize)]
        struct Unsubscribed {
            channel: String,
            reason: String,
        }
        let Unsubscribed { channel, reason } = line.parse().ok()?;
        self.channels.retain(|other| *other != channel);
        let all_gone = self.channels.is_empty();
        all_gone.then(|| match &*reason {
            "ended" => Ok(ExitCode::SUCCESS),
            "forbidden" => Err(Failure::new(
                Exit::Denied,
                escape(&format!("no longer allowed to subscribe to {channel}")),
            )),
            _ => Err(Failure::new(
                Exit::Failed,
                escape(&format!("wshubd has ended the subscription to {channel} ({reason})")),
            )),
        })
    }
}
