//! `wshubctl pub`: a text, the standard input, or each of its lines.
//!
//! Knows what becomes a message and how many may be on their way at once.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::value::RawValue;
use smol::Unblock;
use smol::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use wshubd::client::{Client, Lines, Pending, Publication, Published};

use crate::args;
use crate::ask::patiently;
use crate::failure::{Exit, Failure, exit_of};
use crate::figures::count;
use crate::receipts::Receipts;
use crate::screen::say;

/// Messages on their way before one answer is waited for: enough that neither
/// side waits for the other.
const IN_FLIGHT: usize = 1024;

/// More than any hub takes in one message; so that endless input without a line
/// end does not fill the memory.
const LONGEST: u64 = 64 << 20;

/// Refusals that are shown one by one.
const SHOWN: u64 = 5;

/// What is to be sent.
enum Source {
    Text(String),
    Whole,
    Lines,
}

pub(crate) async fn publish(
    client: &Client,
    lines: &Lines,
    asked: args::Publish,
) -> Result<ExitCode, Failure> {
    let (channel, source) = understand(&asked)?;
    let mut publisher = Publisher {
        client,
        asked: &asked,
        channel,
        answers: VecDeque::new(),
        tally: Tally::default(),
        receipts: asked.wait_read.then(|| Receipts::new(lines, asked.verbose)),
    };
    match source {
        Source::Text(text) => publisher.send(&text).await?,
        Source::Whole => publisher.send(&whole_input().await?).await?,
        Source::Lines => publisher.send_lines().await?,
    }
    while publisher.take_answer().await? {}
    let exit = publisher.tally.report(&asked);
    if let Some(receipts) = publisher.receipts {
        receipts.wait(client, asked.timeout).await?;
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
        (_, Some(_)) => usage("two texts: with --to, --connection and --all there is no CHANNEL"),
        (Some(_), None) if asked.lines => usage("--lines sends the standard input, not a TEXT"),
        (Some(text), None) if text == "-" => Ok((channel, Source::Whole)),
        (Some(text), None) => Ok((channel, Source::Text(text))),
        (None, _) => Ok((channel, Source::Lines)),
    }
}

async fn whole_input() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let input = Unblock::new(std::io::stdin());
    input
        .take(LONGEST)
        .read_to_end(&mut bytes)
        .await
        .map_err(|error| Failure::of("standard input", error))?;
    text(bytes)
}

/// The text without its last line end, which is the terminal's and not the
/// message's.
fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    if bytes.len() as u64 >= LONGEST {
        return Err(Failure::new(Exit::Failed, "standard input: more than any message may be"));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| Failure::of("standard input", error))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

struct Publisher<'a> {
    client: &'a Client,
    asked: &'a args::Publish,
    channel: Option<String>,
    answers: VecDeque<Pending>,
    tally: Tally,
    /// While it matters who has read what.
    receipts: Option<Receipts<'a>>,
}

impl Publisher<'_> {
    async fn send(&mut self, text: &str) -> Result<(), Failure> {
        let data = if self.asked.json {
            RawValue::from_string(text.trim().to_owned())
                .map_err(|error| Failure::new(Exit::Usage, format!("not JSON: {error}: {text}")))?
        } else {
            serde_json::value::to_raw_value(text).map_err(|error| Failure::of("the text", error))?
        };
        let message = Publication {
            channel: self.channel.as_deref(),
            user_id: self.asked.to.as_deref(),
            connection_id: self.asked.connection.as_deref(),
            all: self.asked.all,
            ttl: self.asked.ttl,
            durable: self.asked.durable,
            receipt: self.asked.wait_read,
            ..Publication::new(&self.asked.event, &*data)
        };
        self.answers.push_back(self.client.request(&message).await?);
        if self.answers.len() >= IN_FLIGHT {
            self.take_answer().await?;
        }
        Ok(())
    }

    async fn send_lines(&mut self) -> Result<(), Failure> {
        if std::io::stdin().is_terminal() {
            say("each line is a message; Ctrl-D ends");
        }
        let mut input = BufReader::new(Unblock::new(std::io::stdin()));
        loop {
            let mut line = Vec::new();
            let read = (&mut input).take(LONGEST).read_until(b'\n', &mut line).await;
            if read.map_err(|error| Failure::of("standard input", error))? == 0 {
                return Ok(());
            }
            self.send(&text(line)?).await?;
        }
    }

    /// Waits for the oldest answer, if one is due. A message that is refused
    /// does not keep the next ones from being sent.
    async fn take_answer(&mut self) -> Result<bool, Failure> {
        let Some(pending) = self.answers.pop_front() else { return Ok(false) };
        match patiently(pending.answer()).await.and_then(|answer| answer.read::<Taken>()) {
            Ok(taken) => self.taken(taken)?,
            // What must not be lost is not sent on into a store that takes nothing.
            Err(error) if error.code() == Some("store_unavailable") => {
                let before = match self.tally.taken {
                    0 => String::new(),
                    taken => format!(", after {} that wshubd took", count(taken, "message")),
                };
                return Err(Failure::new(Exit::Failed, format!("not stored: {error}{before}")));
            }
            Err(error) if error.code().is_some() => self.tally.refuse(exit_of(&error), &error.to_string()),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
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

impl Publisher<'_> {
    fn taken(&mut self, Taken { published, message_id }: Taken) -> Result<(), Failure> {
        self.tally.count(&published);
        let Some(receipts) = &mut self.receipts else { return Ok(()) };
        if !published.kept {
            let why = "nobody can acknowledge it: wshubd is configured to keep no messages to users (`@me`)";
            return Err(Failure::new(Exit::Failed, why));
        }
        receipts.expect(message_id);
        Ok(())
    }
}

/// What became of all of them.
#[derive(Default)]
struct Tally {
    taken: u64,
    sent: u64,
    failed: u64,
    kept: u64,
    stored: u64,
    refused: u64,
    exit: Option<Exit>,
}

impl Tally {
    fn count(&mut self, published: &Published) {
        self.taken += 1;
        self.sent += published.sent;
        self.failed += published.failed;
        self.kept += u64::from(published.kept);
        self.stored += u64::from(published.stored);
    }

    fn refuse(&mut self, exit: Exit, message: &str) {
        self.refused += 1;
        // The first refusal decides; the others are most often the same.
        self.exit.get_or_insert(exit);
        if self.refused <= SHOWN {
            say(&format!("refused: {message}"));
        }
    }

    fn report(&self, asked: &args::Publish) -> ExitCode {
        if self.refused > SHOWN {
            say(&format!("{} messages were refused", self.refused));
        }
        if asked.verbose {
            // Only who asked for it wants to know what the disk has.
            let stored = if asked.durable { format!(", {} stored", self.stored) } else { String::new() };
            say(&format!(
                "{} published, {} delivered, {} shed, {} kept{stored}, {} refused",
                self.taken, self.sent, self.failed, self.kept, self.refused
            ));
        }
        self.exit.map_or(ExitCode::SUCCESS, ExitCode::from)
    }
}
