//! `wshubctl pub`: a text, the standard input, or each of its lines.
//!
//! However the sending ends, each message that was sent is counted: taken, refused, or
//! without an answer.

mod input;
mod outcome_counts;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgGroup;
use serde::Deserialize;
use serde_json::value::RawValue;
use smol::future;
use wshubd::client::{Error, HubLine, PendingAnswer, PublishRequest, Published};

use crate::connection::HubConnection;
use crate::duration::parse_duration;
use crate::error::{Exit, Failure, exit_of};
use crate::receipts::Receipts;
use crate::terminal::{escape, notice};
use crate::wait_limit::Silence;
use input::{InputLine, StandardInput};
use outcome_counts::OutcomeCounts;

/// Messages on their way before one answer is waited for: enough that neither
/// side waits for the other.
const IN_FLIGHT: usize = 1024;

/// So much of an invalid text is shown.
const SHOWN: usize = 200;

/// Publish messages
///
/// A text is sent as a JSON string; with --json it must be JSON and is sent as such.
/// Without TEXT, each line of the standard input is one message; with `-`, the
/// whole input is one message, without its last line end.
///
/// A line that is not UTF-8, or with --json not JSON, is reported with its number and
/// not sent. The other lines are sent, and the exit code is 1. With --json, blank lines
/// are skipped and counted.
#[derive(clap::Args, Debug)]
#[command(
    override_usage = "wshubctl pub [OPTIONS] CHANNEL [TEXT|-]\n       \
                      wshubctl pub [OPTIONS] <--to USER|--connection ID|--all> [TEXT|-]",
    group = ArgGroup::new("target"),
    after_help = "Examples:\n  wshubctl pub logs 'the backup is done'\n  \
                  journalctl -f -o json | wshubctl pub --json --event journal logs\n  \
                  wshubctl pub --to alice --wait-read --timeout 15m 'the disk is full' || page-on-call"
)]
pub(crate) struct PublishArgs {
    /// The event name of the message
    #[arg(long, value_name = "NAME", default_value = "message")]
    event: String,
    /// Send to all connections of a user; kept until one opens if there is none
    #[arg(long, value_name = "USER", group = "target")]
    to: Option<String>,
    /// Send to one connection
    #[arg(long, value_name = "ID", group = "target")]
    connection: Option<String>,
    /// Send to every connection
    #[arg(long, group = "target")]
    all: bool,
    /// Keep the message for at most this long, as in 90s, 1h or 90 (seconds)
    #[arg(long, value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Wait until the message is on the disk; fail if it cannot be stored
    #[arg(long)]
    durable: bool,
    /// Wait until the user's client reports the message as read (`ack` with `read`)
    #[arg(long, requires = "to")]
    wait_read: bool,
    /// With --wait-read: exit with 5 if the message is not read within this time
    #[arg(long, requires = "wait_read", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// The text, or each line, is JSON
    #[arg(long)]
    json: bool,
    /// Send each line of the standard input as a message, as without TEXT
    #[arg(long)]
    lines: bool,
    /// Stop at the first line that cannot be sent, after the answers to all lines before it;
    /// with --json, a blank line is such a line
    #[arg(long)]
    strict: bool,
    /// Report the outcome of the messages, and with --wait-read each delivery
    #[arg(short, long)]
    verbose: bool,
    /// CHANNEL, unless an option names the target, and TEXT or `-`
    #[arg(value_name = "CHANNEL [TEXT|-]", num_args = 0..=2)]
    words: Vec<String>,
}

/// Source of the messages.
enum MessageSource {
    Text(String),
    WholeInput,
    InputLines,
}

pub(crate) async fn publish(hub: &HubConnection, args: PublishArgs) -> Result<ExitCode, Failure> {
    let (channel, source) = assign_words(&args)?;
    let mut publisher = PublishCommand {
        hub,
        args: &args,
        channel,
        answers: VecDeque::new(),
        overtaken: 0,
        silence: Silence::begin(),
        counts: OutcomeCounts::default(),
        receipts: args.wait_read.then(|| Receipts::new(hub.events(), args.verbose)),
    };
    let is_lines = matches!(source, MessageSource::InputLines);
    let sent = match source {
        MessageSource::Text(text) => publisher.send_text(&text).await,
        MessageSource::WholeInput => publisher.send_whole().await,
        MessageSource::InputLines => publisher.send_lines().await,
    };
    let settled = publisher.settle(sent).await;
    let counts = &publisher.counts;
    counts.report_rest();
    if args.verbose {
        counts.report(args.durable);
    }
    // For a single text the failure is enough.
    settled.map_err(|failure| if is_lines { failure.with_summary(&counts.summary()) } else { failure })?;
    if is_lines && counts.is_empty() {
        notice("nothing was published: there was no message on the standard input");
    }
    let exit = counts.exit();
    if let Some(receipts) = publisher.receipts {
        receipts.wait(hub.client(), args.timeout).await?;
    }
    Ok(exit)
}

/// Assigns the words: the channel comes first unless an option names a target.
fn assign_words(args: &PublishArgs) -> Result<(Option<String>, MessageSource), Failure> {
    let usage = |message: &str| Err(Failure::new(Exit::Usage, format!("{message}; see wshubctl pub --help")));
    let has_target = args.to.is_some() || args.connection.is_some() || args.all;
    if args.wait_read && args.ttl.is_some_and(|ttl| ttl.is_zero()) {
        return usage(
            "--wait-read does not work with --ttl 0s: a message that is not kept is never acknowledged",
        );
    }
    let mut words = args.words.iter().cloned();
    let channel = if has_target { None } else { words.next() };
    if !has_target && channel.is_none() {
        return usage("the target is missing: name a CHANNEL, --to USER, --connection ID or --all");
    }
    match (words.next(), words.next()) {
        (_, Some(_)) => usage(
            "more than one TEXT: a text with spaces needs quotes, and --to, --connection and --all take no CHANNEL",
        ),
        (Some(_), None) if args.lines => usage("--lines sends the standard input, not a TEXT"),
        (Some(_), None) if args.strict => {
            usage("--strict applies to lines of the standard input, not to a TEXT")
        }
        (Some(text), None) if text == "-" => Ok((channel, MessageSource::WholeInput)),
        (Some(text), None) => Ok((channel, MessageSource::Text(text))),
        (None, _) => Ok((channel, MessageSource::InputLines)),
    }
}

struct PublishCommand<'a> {
    hub: &'a HubConnection,
    args: &'a PublishArgs,
    channel: Option<String>,
    /// The messages on their way, in the order in which they were sent.
    answers: VecDeque<PendingAnswer>,
    /// How many of them were answered when the limit for the oldest last passed: those that
    /// wait for the disk are overtaken by others.
    overtaken: usize,
    /// The time since the last answer, while one is due.
    silence: Silence,
    counts: OutcomeCounts,
    /// With --wait-read.
    receipts: Option<Receipts<'a>>,
}

/// The next event while lines are sent.
enum PublishStep {
    Line(Option<InputLine>),
    Answer(Result<HubLine, Error>),
}

impl PublishCommand<'_> {
    async fn send_text(&mut self, text: &str) -> Result<(), Failure> {
        match input::data(text, self.args.json) {
            Ok(data) => self.send(&data).await,
            Err(why) => {
                let shown: String = text.chars().take(SHOWN).collect();
                let more = if shown.len() < text.len() { "…" } else { "" };
                let message = escape(&format!("the text {why}: {shown}{more}"));
                Err(Failure::new(Exit::Usage, message))
            }
        }
    }

    async fn send_whole(&mut self) -> Result<(), Failure> {
        let text = input::whole().await?;
        if self.args.json && text.trim().is_empty() {
            notice("nothing was published: there was no message on the standard input");
            return Ok(());
        }
        self.send_text(&text).await
    }

    async fn send_lines(&mut self) -> Result<(), Failure> {
        let mut input = StandardInput::new(self.args.json);
        loop {
            match self.next(&mut input).await? {
                PublishStep::Answer(answer) => self.on_answer(answer)?,
                PublishStep::Line(None) => return Ok(()),
                PublishStep::Line(Some(InputLine::Message(data))) => self.send(&data).await?,
                PublishStep::Line(Some(InputLine::Blank)) if !self.args.strict => {
                    self.counts.add_blank_line()
                }
                PublishStep::Line(Some(InputLine::Bad(why))) if !self.args.strict => {
                    self.counts.add_bad_line(input.number(), &why);
                }
                PublishStep::Line(Some(line)) => {
                    let why = if let InputLine::Bad(why) = line { why } else { "is blank".to_owned() };
                    let number = input.number();
                    let message =
                        format!("line {number} of the standard input {why}: stopped, because of --strict");
                    return Err(Failure::new(Exit::Failed, escape(&message)));
                }
            }
        }
    }

    /// The next line, or the oldest answer: while the input is idle, refusals of earlier
    /// lines are reported.
    async fn next(&mut self, input: &mut StandardInput) -> Result<PublishStep, Failure> {
        let is_full = self.answers.len() >= IN_FLIGHT;
        let line = async {
            if is_full {
                return future::pending().await;
            }
            input.next().await.map(PublishStep::Line)
        };
        let answer = async {
            if self.answers.is_empty() {
                return future::pending().await;
            }
            self.answer().await.map(PublishStep::Answer)
        };
        future::or(line, answer).await
    }

    async fn send(&mut self, data: &RawValue) -> Result<(), Failure> {
        let message = PublishRequest {
            channel: self.channel.as_deref(),
            user_id: self.args.to.as_deref(),
            connection_id: self.args.connection.as_deref(),
            all: self.args.all,
            ttl: self.args.ttl,
            durable: self.args.durable,
            receipt: self.args.wait_read,
            ..PublishRequest::new(&self.args.event, data)
        };
        // Where there is no room, an answer makes some.
        let sent = self.hub.answer(self.hub.client().request(&message)).await;
        let sent = sent.and_then(|sent| Ok(sent?)).inspect_err(|_| self.counts.add_unanswered())?;
        if self.answers.is_empty() {
            self.silence = Silence::begin();
        }
        self.answers.push_back(sent);
        Ok(())
    }

    /// Waits for the oldest answer, as long as any answer comes. May be dropped half way.
    async fn answer(&mut self) -> Result<Result<HubLine, Error>, Failure> {
        let Self { hub, answers, silence, .. } = self;
        loop {
            let Some(oldest) = answers.front() else { return future::pending().await };
            let failure = match hub.answer_in(silence, oldest.answer()).await {
                Ok(answer) => {
                    answers.pop_front();
                    self.overtaken = self.overtaken.saturating_sub(1);
                    *silence = Silence::begin();
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let answered = answers.iter().filter(|pending| pending.is_answered()).count();
            if answered <= self.overtaken {
                return Err(failure);
            }
            self.overtaken = answered;
            *silence = Silence::begin();
        }
    }

    /// Takes all answers that are still due, after a failure too; gives back the first
    /// failure.
    async fn settle(&mut self, mut sent: Result<(), Failure>) -> Result<(), Failure> {
        let timed_out = |result: &Result<(), Failure>| {
            result.as_ref().is_err_and(|failure| failure.exit() == Exit::TimedOut)
        };
        let mut is_late = timed_out(&sent);
        while !self.answers.is_empty() {
            if is_late && !self.answers.front().is_some_and(PendingAnswer::is_answered) {
                self.answers.pop_front();
                self.counts.add_unanswered();
                continue;
            }
            let taken = self.answer().await.and_then(|answer| self.on_answer(answer));
            is_late |= timed_out(&taken);
            sent = sent.and(taken);
        }
        sent
    }

    /// A message that is refused does not keep the next ones from being sent.
    fn on_answer(&mut self, answer: Result<HubLine, Error>) -> Result<(), Failure> {
        match answer.and_then(|answer| answer.parse::<PublishAnswer>()) {
            Ok(answer) => self.on_taken(answer),
            Err(error) if error.code().is_some() => {
                // Messages that must not be lost are not sent on into a store that takes nothing.
                let is_fatal = error.code() == Some("store_unavailable");
                self.counts.add_refused(exit_of(&error), (!is_fatal).then(|| error.to_string()).as_deref());
                if is_fatal {
                    Err(Failure::new(Exit::Failed, escape(&format!("not stored: {error}"))))
                } else {
                    Ok(())
                }
            }
            Err(error) => {
                self.counts.add_unanswered();
                Err(error.into())
            }
        }
    }

    fn on_taken(&mut self, PublishAnswer { published, message_id }: PublishAnswer) -> Result<(), Failure> {
        self.counts.add_taken(&published);
        let Some(receipts) = &mut self.receipts else { return Ok(()) };
        if !published.kept {
            let why = "the message cannot be acknowledged: wshubd is configured to keep no messages to users (`@me`)";
            return Err(Failure::new(Exit::Failed, why));
        }
        receipts.expect(message_id);
        Ok(())
    }
}

/// The outcome of a message, and its id.
#[derive(Deserialize)]
struct PublishAnswer {
    #[serde(flatten)]
    published: Published,
    #[serde(default)]
    message_id: String,
}
