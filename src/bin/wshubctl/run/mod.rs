//! `wshubctl run`: any command as an operation that can be stopped.
//!
//! Knows the order: the hub first, then the command, then its output and its
//! end. Does not know how processes are found and signalled ([`family`],
//! [`stop`]), whom it listens to ([`watch`]) or how lines are made ([`output`]).

mod aim;
mod family;
mod output;
mod pty;
mod report;
mod stop;
mod watch;

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::Duration;

use async_signal::{Signal, Signals};
use rustix::process::WaitStatus;
use smol::{Async, LocalExecutor, Task, Timer, Unblock, future};
use wshubd::client::{Client, Lines, News, Operation, Start};
use wshubd::protocol::Ending;

use crate::args;
use crate::failure::Failure;
use family::Family;
use output::Output;
use report::{Outcome, Report};
use stop::Stop;
use watch::Watch;

/// How long the last output may take to leave after an interrupt, before the
/// end is told without it: a reader of ours that stands still must not keep
/// everybody else waiting for the word that it is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How much output waits for a hub that is away, in bytes as it is published.
pub(crate) const BUFFER: usize = 1 << 20;

pub(crate) async fn run(
    executor: &LocalExecutor<'_>,
    client: Client,
    lines: Lines,
    asked: args::Run,
) -> Result<ExitCode, Failure> {
    // Before the command is started, which then inherits none of these ignored,
    // as the jobs of a script in the background would.
    let mut signals = Signals::new([Signal::Child, Signal::Int, Signal::Term, Signal::Hup, Signal::Quit])
        .map_err(|error| Failure::of("signals", error))?;
    let Some(operation) = future::or(start(&client, &asked), impatient(&mut signals)).await? else {
        return Ok(report::given_up());
    };
    let report = Report::new(asked.quiet);
    let away = Rc::new(Cell::new(false));
    report.started(operation.id(), &asked.channel);

    let (family, streams) = match spawn(&asked) {
        Ok(started) => started,
        Err(error) => {
            let message = format!("cannot start the command: {error}");
            let data = serde_json::json!({"error": message, "lines": 0});
            let late = async {
                Timer::after(asked.linger).await;
                Ok(())
            };
            future::or(operation.end(Ending::Failed, &data), late).await?;
            return Err(Failure::new(crate::failure::Exit::Failed, message));
        }
    };
    let output = Rc::new(Output {
        client,
        channel: asked.channel.clone(),
        operation_id: operation.id().to_owned(),
        lines: Cell::new(0),
        lost: Cell::new(0),
        lost_before: Cell::new(0),
        publishing: Cell::new(true),
        report,
    });
    executor.spawn(listen(lines, report, away.clone())).detach();
    let (over, told) = async_channel::bounded(1);
    let carrying = carry(executor, &output, streams, told);

    let stop = Stop::new(asked.term_after, asked.kill_after);
    let mut watch = Watch { family, stop, signals, report, hub: true, away, linger: asked.linger };
    let status = watch.until_over(&operation, asked.deadline).await;
    drop(over);
    end(watch, operation, &output, carrying, status).await
}

/// Tells the hub, the readers and the caller.
async fn end(
    mut watch: Watch,
    operation: Operation,
    output: &Output,
    mut carrying: Task<()>,
    status: Option<WaitStatus>,
) -> Result<ExitCode, Failure> {
    let asked = watch.stop.was_asked();
    let patience = async {
        if asked {
            Timer::after(LAST_WORDS).await;
        } else {
            watch.impatient().await;
        }
        false
    };
    let carried = future::or(async { carry_on(&mut carrying).await }, patience).await;
    // What comes after this is for our own reader alone: nothing is said of an
    // operation behind its end.
    output.publishing.set(false);

    let outcome = Outcome::of(status, output.lines.get(), output.lost.get());
    watch.tell_the_end(operation, outcome.ending(asked), &outcome).await;
    if !carried && asked {
        // Who presses Ctrl-C now has no use for the rest either.
        future::or(carrying, watch.impatient()).await;
    }
    Ok(outcome.exit_code())
}

async fn carry_on(carrying: &mut Task<()>) -> bool {
    carrying.await;
    true
}

/// Somebody who presses Ctrl-C before there is anything to stop; a hub that takes
/// nothing must not keep them waiting.
async fn impatient(signals: &mut Signals) -> Result<Option<Operation>, Failure> {
    watch::impatient(signals).await;
    Ok(None)
}

async fn start(client: &Client, asked: &args::Run) -> Result<Option<Operation>, Failure> {
    let id = match &asked.operation {
        Some(id) => id.clone(),
        None => unguessable().map_err(|error| Failure::of("no random bytes", error))?,
    };
    let label = asked.label.clone().or_else(|| program(&asked.command));
    let start = Start {
        user_id: asked.user.as_deref(),
        label: label.as_deref(),
        deadline: asked.deadline,
        // Long enough for all steps; the hub would call it a timeout before.
        interrupt_grace: Some(
            asked.term_after.saturating_add(asked.kill_after).saturating_add(stop::LAST_STEP + LAST_WORDS),
        ),
        ..Start::new(&id, &asked.channel)
    };
    Ok(Some(client.start(start).await?))
}

/// The command's name, without its arguments: those may hold what is nobody
/// else's business.
fn program(command: &[OsString]) -> Option<String> {
    let name = Path::new(command.first()?).file_name()?;
    Some(name.to_string_lossy().chars().filter(|c| !c.is_control()).collect())
}

fn unguessable() -> rustix::io::Result<String> {
    /// Letters and digits that are not taken for one another.
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    // Sixteen of 32 letters: 80 bits.
    let mut random = [0u8; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let letters = random.iter().filter_map(|byte| ALPHABET.get(usize::from(byte & 31)).copied());
    Ok(letters.fold("run-".to_owned(), |mut id, letter| {
        id.push(char::from(letter));
        id
    }))
}

/// The streams of a command: its output and, where they are two, its errors.
struct Streams {
    output: Async<File>,
    errors: Option<Async<File>>,
}

fn spawn(asked: &args::Run) -> io::Result<(Family, Streams)> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--in-session");
    if asked.pty {
        command.arg("--terminal");
    }
    command.arg("--").args(&asked.command);
    // A terminal is ours to read; a command in a session of its own would only
    // get errors from it.
    command.stdin(if io::stdin().is_terminal() { Stdio::null() } else { Stdio::inherit() });
    let ours = |end: OwnedFd| Async::new(File::from(end));
    if asked.pty {
        let (master, terminal) = pty::open()?;
        command.stdout(terminal.try_clone()?).stderr(terminal);
        let family = Family::start(&mut command)?;
        return Ok((family, Streams { output: ours(master)?, errors: None }));
    }
    let (output, its_output) = io::pipe()?;
    let (errors, its_errors) = io::pipe()?;
    command.stdout(its_output).stderr(its_errors);
    let family = Family::start(&mut command)?;
    Ok((family, Streams { output: ours(output.into())?, errors: Some(ours(errors.into())?) }))
}

/// Starts to carry both streams; done when both are.
fn carry(
    executor: &LocalExecutor<'_>,
    output: &Rc<Output>,
    streams: Streams,
    told: async_channel::Receiver<()>,
) -> Task<()> {
    let output = output.clone();
    executor.spawn(async move {
        let stdout = output.carry(streams.output, "stdout", Unblock::new(io::stdout()), told.clone());
        let stderr = async {
            if let Some(errors) = streams.errors {
                output.carry(errors, "stderr", Unblock::new(io::stderr()), told).await;
            }
        };
        future::zip(stdout, stderr).await;
    })
}

/// Output is sent without waiting for answers; what is wrong with it comes by
/// itself, and most often for each line, so that the first is enough.
async fn listen(lines: Lines, report: Report, away: Rc<Cell<bool>>) {
    let mut told = false;
    while let Some(news) = lines.news().await {
        match news {
            News::Line(heard) if heard.kind() == "error" && !told => {
                told = true;
                report.complaint(&heard);
            }
            News::Line(_) => {}
            News::Away(error) => {
                away.set(true);
                report.hub_away(&error);
            }
            News::Back => {
                away.set(false);
                report.hub_back();
            }
        }
    }
}
