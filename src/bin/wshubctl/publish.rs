//! `wshubctl pub`: a text, the standard input, or each of its lines.
//!
//! Knows how many messages may be on their way at once. However the sending ends, each
//! message that was sent is counted: taken, refused, or without an answer.

mod input;
mod outcome_counts;

use std::collections::VecDeque;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::value::RawValue;
use smol::future;
use wshubd::client::{Error, Heard, Pending, Publication, Published};

use crate::args;
use crate::connection::Hub;
use crate::error::{Exit, Failure, exit_of};
use crate::receipts::Receipts;
use crate::terminal::{plain, say};
use crate::wait_limit::Silence;
use input::{Input, Line};
use outcome_counts::OutcomeCounts;

/// Messages on their way before one answer is waited for: enough that neither
/// side waits for the other.
const IN_FLIGHT: usize = 1024;

/// So much of a text that is wrong is shown.
const SHOWN: usize = 200;

/// What is to be sent.
enum Source {
    Text(String),
    Whole,
    Lines,
}

pub(crate) async fn publish(hub: &Hub, asked: args::Publish) -> Result<ExitCode, Failure> {
    let (channel, source) = understand(&asked)?;
    let mut publisher = Publisher {
        hub,
        asked: &asked,
        channel,
        answers: VecDeque::new(),
        ahead: 0,
        silence: Silence::begin(),
        tally: OutcomeCounts::default(),
        receipts: asked.wait_read.then(|| Receipts::new(&hub.lines, asked.verbose)),
    };
    let is_lines = matches!(source, Source::Lines);
    let sent = match source {
        Source::Text(text) => publisher.send_text(&text).await,
        Source::Whole => publisher.send_whole().await,
        Source::Lines => publisher.send_lines().await,
    };
    let settled = publisher.settle(sent).await;
    let tally = &publisher.tally;
    tally.report_rest();
    if asked.verbose {
        tally.report(asked.durable);
    }
    // Of a single text its failure says it all.
    settled.map_err(|failure| if is_lines { failure.then(&tally.so_far()) } else { failure })?;
    if is_lines && tally.is_empty() {
        say("nothing was published: there was no message on the standard input");
    }
    let exit = tally.exit();
    if let Some(receipts) = publisher.receipts {
        receipts.wait(&hub.client, asked.timeout).await?;
    }
    Ok(exit)
}

/// Which word is what: the channel comes first unless an option says to whom.
fn understand(asked: &args::Publish) -> Result<(Option<String>, Source), Failure> {
    let usage = |message: &str| Err(Failure::new(Exit::Usage, format!("{message}; see wshubctl pub --help")));
    let elsewhere = asked.to.is_some() || asked.connection.is_some() || asked.all;
    if asked.wait_read && asked.ttl.is_some_and(|ttl| ttl.is_zero()) {
        return usage("--wait-read waits for nothing with --ttl 0s: what is not kept is not acknowledged");
    }
    let mut words = asked.words.iter().cloned();
    let channel = if elsewhere { None } else { words.next() };
    if !elsewhere && channel.is_none() {
        return usage("to whom? name a CHANNEL, --to USER, --connection ID or --all");
    }
    match (words.next(), words.next()) {
        (_, Some(_)) => usage(
            "two texts: a text with spaces needs quotes, and with --to, --connection and --all there is no CHANNEL",
        ),
        (Some(_), None) if asked.lines => usage("--lines sends the standard input, not a TEXT"),
        (Some(_), None) if asked.strict => usage("--strict is about lines of the standard input, not a TEXT"),
        (Some(text), None) if text == "-" => Ok((channel, Source::Whole)),
        (Some(text), None) => Ok((channel, Source::Text(text))),
        (None, _) => Ok((channel, Source::Lines)),
    }
}

struct Publisher<'a> {
    hub: &'a Hub,
    asked: &'a args::Publish,
    channel: Option<String>,
    /// The messages on their way, in the order in which they were sent.
    answers: VecDeque<Pending>,
    /// How many of them were answered when the oldest was last given up on: those that
    /// wait for the disk are overtaken by others.
    ahead: usize,
    /// Since the last answer, while one is due.
    silence: Silence,
    tally: OutcomeCounts,
    /// While it matters who has read what.
    receipts: Option<Receipts<'a>>,
}

/// What comes next while lines are sent.
enum Next {
    Line(Option<Line>),
    Answer(Result<Heard, Error>),
}

impl Publisher<'_> {
    async fn send_text(&mut self, text: &str) -> Result<(), Failure> {
        match input::data(text, self.asked.json) {
            Ok(data) => self.send(&data).await,
            Err(why) => {
                let shown: String = text.chars().take(SHOWN).collect();
                let more = if shown.len() < text.len() { "…" } else { "" };
                let message = plain(&format!("the text {why}: {shown}{more}"));
                Err(Failure::new(Exit::Usage, message))
            }
        }
    }

    async fn send_whole(&mut self) -> Result<(), Failure> {
        let text = input::whole().await?;
        if self.asked.json && text.trim().is_empty() {
            say("nothing was published: there was no message on the standard input");
            return Ok(());
        }
        self.send_text(&text).await
    }

    async fn send_lines(&mut self) -> Result<(), Failure> {
        let mut input = Input::new(self.asked.json);
        loop {
            match self.next(&mut input).await? {
                Next::Answer(answer) => self.answered(answer)?,
                Next::Line(None) => return Ok(()),
                Next::Line(Some(Line::Message(data))) => self.send(&data).await?,
                Next::Line(Some(Line::Blank)) if !self.asked.strict => self.tally.blank_line(),
                Next::Line(Some(Line::Bad(why))) if !self.asked.strict => {
                    self.tally.bad_line(input.number(), &why);
                }
                Next::Line(Some(line)) => {
                    let why = if let Line::Bad(why) = line { why } else { "is blank".to_owned() };
                    let number = input.number();
                    let message =
                        format!("line {number} of the standard input {why}: ended, as --strict says");
                    return Err(Failure::new(Exit::Failed, plain(&message)));
                }
            }
        }
    }

    /// The next line, or the oldest answer: while the input is idle, refusals of earlier
    /// lines are told.
    async fn next(&mut self, input: &mut Input) -> Result<Next, Failure> {
        let is_full = self.answers.len() >= IN_FLIGHT;
        let line = async {
            if is_full {
                return future::pending().await;
            }
            input.next().await.map(Next::Line)
        };
        let answer = async {
            if self.answers.is_empty() {
                return future::pending().await;
            }
            self.answer().await.map(Next::Answer)
        };
        future::or(line, answer).await
    }

    async fn send(&mut self, data: &RawValue) -> Result<(), Failure> {
        let message = Publication {
            channel: self.channel.as_deref(),
            user_id: self.asked.to.as_deref(),
            connection_id: self.asked.connection.as_deref(),
            all: self.asked.all,
            ttl: self.asked.ttl,
            durable: self.asked.durable,
            receipt: self.asked.wait_read,
            ..Publication::new(&self.asked.event, data)
        };
        // Where there is no room, an answer makes some.
        let sent = self.hub.answer(self.hub.client.request(&message)).await;
        let sent = sent.and_then(|sent| Ok(sent?)).inspect_err(|_| self.tally.unanswered += 1)?;
        if self.answers.is_empty() {
            self.silence = Silence::begin();
        }
        self.answers.push_back(sent);
        Ok(())
    }

    /// Waits for the oldest answer, as long as any comes. May be dropped half way.
    async fn answer(&mut self) -> Result<Result<Heard, Error>, Failure> {
        let Self { hub, answers, silence, .. } = self;
        loop {
            let Some(oldest) = answers.front() else { return future::pending().await };
            let failure = match hub.answer_in(silence, oldest.answer()).await {
                Ok(answer) => {
                    answers.pop_front();
                    self.ahead = self.ahead.saturating_sub(1);
                    *silence = Silence::begin();
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let answered = answers.iter().filter(|pending| pending.is_answered()).count();
            if answered <= self.ahead {
                return Err(failure);
            }
            self.ahead = answered;
            *silence = Silence::begin();
        }
    }

    /// Takes all answers that are still due, after a failure too; gives back the first
    /// failure.
    async fn settle(&mut self, mut sent: Result<(), Failure>) -> Result<(), Failure> {
        let timed_out = |result: &Result<(), Failure>| {
            result.as_ref().is_err_and(|failure| failure.exit == Exit::TimedOut)
        };
        let mut is_late = timed_out(&sent);
        while !self.answers.is_empty() {
            if is_late && !self.answers.front().is_some_and(Pending::is_answered) {
                self.answers.pop_front();
                self.tally.unanswered += 1;
                continue;
            }
            let taken = self.answer().await.and_then(|answer| self.answered(answer));
            is_late |= timed_out(&taken);
            sent = sent.and(taken);
        }
        sent
    }

    /// A message that is refused does not keep the next ones from being sent.
    fn answered(&mut self, answer: Result<Heard, Error>) -> Result<(), Failure> {
        match answer.and_then(|answer| answer.read::<Taken>()) {
            Ok(taken) => self.taken(taken),
            Err(error) if error.code().is_some() => {
                // What must not be lost is not sent on into a store that takes nothing.
                let is_end = error.code() == Some("store_unavailable");
                self.tally.refuse(exit_of(&error), (!is_end).then(|| error.to_string()).as_deref());
                if is_end {
                    Err(Failure::new(Exit::Failed, plain(&format!("not stored: {error}"))))
                } else {
                    Ok(())
                }
            }
            Err(error) => {
                self.tally.unanswered += 1;
                Err(error.into())
            }
        }
    }

    fn taken(&mut self, Taken { published, message_id }: Taken) -> Result<(), Failure> {
        self.tally.take(&published);
        let Some(receipts) = &mut self.receipts else { return Ok(()) };
        if !published.kept {
            let why = "nobody can acknowledge it: wshubd is configured to keep no messages to users (`@me`)";
            return Err(Failure::new(Exit::Failed, why));
        }
        receipts.expect(message_id);
        Ok(())
    }
}

/// What the hub made of a message, and how it calls it.
#[derive(Deserialize)]
struct Taken {
    #[serde(flatten)]
    published: Published,
    #[serde(default)]
    message_id: String,
}
