//! `wshubctl run`: any command as an operation that can be stopped.
//!
//! The watcher does not stop the job: the command runs whether a hub is there or
//! not. Only one that says no before the command has begun is an error.
//!
//! Knows the order: the hub first, but not for long, then the command, then its
//! output and its end. Does not know how a hub is looked for ([`hub_connection`]), how
//! processes are found and signalled ([`process_tree`], [`escalation`]), whom it listens to
//! ([`supervise`], [`signals`]) or how lines are made ([`output`], [`line_splitter`]).

mod escalation;
mod hub_connection;
mod line_splitter;
mod messages;
mod operation_name;
mod output;
mod process_tree;
mod pty;
mod sigint_timing;
mod signals;
mod supervise;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::WaitStatus;
use smol::{Async, LocalExecutor, Task, Timer, Unblock, future};
use wshubd::client::{Client, Operation, Pending, Start};
use wshubd::protocol::EndState;

use crate::args;
use crate::error::{Exit, Failure};
use escalation::Stop;
use hub_connection::{Hub, Registration};
use messages::{Outcome, Report};
use output::Output;
use process_tree::ProcessTree;
use signals::SignalQueue;
use supervise::Supervisor;

/// How long the last output may take to leave after an interrupt, before the
/// end is told without it: a reader of ours that stands still must not keep
/// everybody else waiting for the word that it is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(crate) async fn run(
    executor: &LocalExecutor<'_>,
    socket: Option<&Path>,
    asked: args::Run,
) -> Result<ExitCode, Failure> {
    let mut attention = SignalQueue::new().map_err(|error| Failure::of("signals", error))?;
    let report = Report::new(asked.quiet);
    let hub = Hub::new(executor, socket, asked.need_hub, report).await?;
    let (operation, beginning) = begin(&hub.client, &asked).await?;
    let begins = async { Some(hub.registers(&beginning).await) };
    let given_up = async {
        attention.end().await;
        None
    };
    let Some(registration) = future::or(begins, given_up).await else {
        return Ok(match attention.was_interrupted() {
            true => messages::end_by_interrupt(),
            false => messages::given_up(),
        });
    };
    let registration = registration?;

    let spawned = spawn(&asked);
    let output = Rc::new(Output {
        client: hub.client.clone(),
        channel: asked.channel,
        operation_id: operation.id().to_owned(),
        lines: Cell::new(0),
        lost: Cell::new(0),
        lost_before: Cell::new(0),
        publishing: Cell::new(true),
        presence: hub.presence.clone(),
        report,
    });
    let beginning = match registration {
        Registration::Registered => {
            report.started(operation.id(), &output.channel);
            None
        }
        Registration::Open => Some(beginning),
    };
    executor.spawn(hub.watch()).detach();
    let (family, streams) = match spawned {
        Ok(started) => started,
        Err(error) => return Err(unstarted(operation, &error).await),
    };
    let (over, told) = async_channel::bounded(1);
    let carrying = carry(executor, &output, streams, told);

    let stop = Stop::new(asked.term_after, asked.kill_after);
    let mut watch =
        Supervisor { family, stop, attention, output, beginning, hub: true, linger: asked.linger };
    let status = watch.until_over(&operation, asked.deadline).await;
    drop(over);
    end(watch, operation, carrying, status).await
}

/// Nothing could be started, not even what becomes the command.
async fn unstarted(operation: Operation, error: &io::Error) -> Failure {
    let message = format!("cannot start the command: {error}");
    let data = serde_json::json!({"error": message, "lines": 0});
    let late = async {
        Timer::after(LAST_WORDS).await;
        Ok(())
    };
    let told = future::or(operation.end(EndState::Failed, &data), late).await;
    // Whether anybody hears of it changes nothing for the caller.
    drop(told);
    Failure::new(Exit::Failed, message)
}

/// Tells the hub, the readers and the caller.
async fn end(
    mut watch: Supervisor,
    operation: Operation,
    mut carrying: Task<()>,
    status: Option<WaitStatus>,
) -> Result<ExitCode, Failure> {
    let asked = watch.stop.was_asked();
    let patience = async {
        if asked {
            Timer::after(LAST_WORDS).await;
        } else {
            watch.attention.end().await;
        }
        false
    };
    let carried = future::or(async { carry_on(&mut carrying).await }, patience).await;
    let output = watch.output.clone();
    // What comes after this is for our own reader alone: nothing is said of an
    // operation behind its end.
    output.publishing.set(false);

    let outcome = Outcome::of(status, output.lines.get(), output.lost.get());
    watch.tell_the_end(operation, outcome.ending(asked), &outcome).await;
    if !carried && asked {
        // Who presses Ctrl-C now has no use for the rest either.
        future::or(carrying, watch.attention.end()).await;
    }
    if watch.attention.was_interrupted() && outcome.is_interrupted() {
        return Ok(messages::end_by_interrupt());
    }
    Ok(outcome.exit_code())
}

async fn carry_on(carrying: &mut Task<()>) -> bool {
    carrying.await;
    true
}

async fn begin(client: &Client, asked: &args::Run) -> Result<(Operation, Pending), Failure> {
    let id = match &asked.operation {
        Some(id) => id.clone(),
        None => unguessable().map_err(|error| Failure::of("no random bytes", error))?,
    };
    let label = asked.label.clone().or_else(|| operation_name::label(&asked.command));
    let start = Start {
        user_id: asked.user.as_deref(),
        label: label.as_deref(),
        deadline: asked.deadline,
        // Long enough for all steps; the hub would call it a timeout before.
        interrupt_grace: Some(
            asked
                .term_after
                .saturating_add(asked.kill_after)
                .saturating_add(escalation::LAST_STEP + LAST_WORDS),
        ),
        ..Start::new(&id, &asked.channel)
    };
    Ok(client.begin(start).await?)
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

fn spawn(asked: &args::Run) -> io::Result<(ProcessTree, Streams)> {
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
        let family = ProcessTree::start(&mut command)?;
        return Ok((family, Streams { output: ours(master)?, errors: None }));
    }
    let (output, its_output) = io::pipe()?;
    let (errors, its_errors) = io::pipe()?;
    command.stdout(its_output).stderr(its_errors);
    let family = ProcessTree::start(&mut command)?;
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
