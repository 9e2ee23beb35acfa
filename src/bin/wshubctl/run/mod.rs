//! `wshubctl run`: any command as an operation that can be stopped.
//!
//! Supervision does not stop the job: the command runs whether a hub is connected or
//! not. Only a refusal before the command has begun is an error.

mod escalation;
mod hub_link;
mod line_splitter;
mod messages;
mod operation_label;
mod output;
mod process_tree;
mod pty;
mod signals;
mod supervise;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::Duration;

use smol::{Async, LocalExecutor, Task, Timer, Unblock, future};
use wshubd::client::{Client, OperationHandle, PendingAnswer, StartRequest};
use wshubd::protocol::EndState;

use crate::duration::parse_duration;
use crate::error::{Exit, Failure};
use escalation::Escalation;
use hub_link::{HubLink, HubPolicy, RegistrationState};
use messages::RunReport;
use output::OutputPublisher;
use process_tree::ProcessTree;
use signals::SignalQueue;
use supervise::{LAST_OUTPUT, Supervisor};

/// Run a command that anybody who may can stop
///
/// Each line that it prints is published as it comes, as event
/// `operation:output`, and printed here too. A line that is not finished, of a
/// progress bar or a prompt, is published as it stands, five times a second at
/// most, with `partial: true` and the number that it will have; those are never
/// kept. An interrupt sends SIGINT to the command and all its children, then
/// SIGTERM, then SIGKILL, until none is left; when the command itself has gone,
/// what it left behind gets SIGTERM at once. Ctrl-C and SIGTERM do the same, and
/// the next step when they come again half a second later or more.
///
/// The command runs whether wshubd is there or not. It waits for an answer for
/// 1 s at most, and not where nobody listens; only a refusal in that time keeps
/// it from running. While wshubd is away 1 MiB of its output waits; the next
/// line after a loss says in `lost` how many lines went before it. When wshubd
/// comes, or is back, it has the operation and can stop it. With --need-hub the
/// command does not begin without it.
///
/// The command gets a session of its own. What it leaves running in it when it
/// exits unasked is given --term-after to finish; what has gone into another one
/// (setsid), as daemons do, is left alone. A reader of its output that goes, such
/// as head, does not end it. Ctrl-Z does not suspend it: nobody could
/// stop it then. Below nohup it outlives the terminal; as a background job of a
/// script it does not hear Ctrl-C.
#[derive(clap::Args, Debug)]
#[command(
    override_usage = "wshubctl run [OPTIONS] CHANNEL -- COMMAND...",
    after_help = "Example:\n  wshubctl run --user alice --label 'nightly build' logs -- make all"
)]
pub(crate) struct RunArgs {
    /// The operation's id [default: run- and something that nobody guesses]
    #[arg(long, value_name = "ID")]
    operation: Option<String>,
    /// The user for whom it runs, who may stop it
    #[arg(long)]
    user: Option<String>,
    /// What people call it [default: the name of the command, or of the script that it runs]
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Stop it by itself after so long, as in 1h
    #[arg(long, value_parser = parse_duration)]
    deadline: Option<Duration>,
    /// Give its output a terminal, for programs that hold it back in a pipe
    #[arg(long)]
    pty: bool,
    /// From SIGINT to SIGTERM
    #[arg(long, value_name = "WAIT", default_value = "5s", value_parser = parse_duration)]
    term_after: Duration,
    /// From SIGTERM to SIGKILL
    #[arg(long, value_name = "WAIT", default_value = "5s", value_parser = parse_duration)]
    kill_after: Duration,
    /// How long to wait at its end for a wshubd that is away, to tell it the rest
    /// [default: 10s, or 1s where none was ever there]
    #[arg(long, value_name = "WAIT", value_parser = parse_duration)]
    linger: Option<Duration>,
    /// Do not run the command unless wshubd takes it, within so long; with WAIT, one that is not
    /// there yet is waited for [default: 10s]
    #[arg(
        long, value_name = "WAIT", num_args = 0..=1, require_equals = true, value_parser = parse_duration
    )]
    need_hub: Option<Option<Duration>>,
    /// Do not say how to stop it
    #[arg(short, long)]
    quiet: bool,
    /// Where its output goes
    #[arg(value_name = "CHANNEL")]
    channel: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) async fn run(
    executor: &LocalExecutor<'_>,
    socket: Option<&Path>,
    args: RunArgs,
) -> Result<ExitCode, Failure> {
    let mut signals = SignalQueue::new().map_err(|error| Failure::of("signals", error))?;
    let report = RunReport::new(args.quiet);
    let hub = HubLink::new(executor, socket, HubPolicy::new(args.need_hub), report).await?;
    let (operation, start) = begin(hub.client(), &args).await?;
    let registered = async { Some(hub.wait_for_registration(&start).await) };
    let given_up = async {
        signals.wait_for_stop().await;
        None
    };
    let Some(registration) = future::or(registered, given_up).await else {
        return Ok(match signals.was_interrupted() {
            true => messages::end_by_interrupt(),
            false => messages::given_up(),
        });
    };
    let registration = registration?;

    let spawned = spawn(&args);
    let output = Rc::new(OutputPublisher::new(
        hub.client().clone(),
        args.channel,
        operation.id().to_owned(),
        hub.presence().clone(),
        report,
    ));
    let start = match registration {
        RegistrationState::Registered => {
            output.report_started();
            None
        }
        RegistrationState::Unanswered => Some(start),
    };
    executor.spawn(hub.watch()).detach();
    let (processes, streams) = match spawned {
        Ok(spawned) => spawned,
        Err(error) => return Err(fail_start(operation, &error).await),
    };
    let (over, ended) = async_channel::bounded(1);
    let copying = copy_streams(executor, &output, streams, ended);

    let escalation = Escalation::new(args.term_after, args.kill_after);
    let mut supervisor = Supervisor::new(processes, escalation, signals, output, start, args.linger);
    let status = supervisor.run(&operation, args.deadline).await;
    drop(over);
    Ok(supervisor.finish(operation, copying, status).await)
}

/// Ends the operation of a command that could not be started.
async fn fail_start(operation: OperationHandle, error: &io::Error) -> Failure {
    let message = format!("cannot start the command: {error}");
    let data = serde_json::json!({"error": message, "lines": 0});
    let late = async {
        Timer::after(LAST_OUTPUT).await;
        Ok(())
    };
    // Whether the hub takes it changes nothing for the caller.
    drop(future::or(operation.end(EndState::Failed, &data), late).await);
    Failure::new(Exit::Failed, message)
}

async fn begin(client: &Client, args: &RunArgs) -> Result<(OperationHandle, PendingAnswer), Failure> {
    let id = match &args.operation {
        Some(id) => id.clone(),
        None => random_id().map_err(|error| Failure::of("no random bytes", error))?,
    };
    let label = args.label.clone().or_else(|| operation_label::label(&args.command));
    let start = StartRequest {
        user_id: args.user.as_deref(),
        label: label.as_deref(),
        deadline: args.deadline,
        // Long enough for all steps; the hub would call it a timeout before.
        interrupt_grace: Some(
            args.term_after
                .saturating_add(args.kill_after)
                .saturating_add(escalation::LAST_STEP + LAST_OUTPUT),
        ),
        ..StartRequest::new(&id, &args.channel)
    };
    Ok(client.begin(start).await?)
}

/// An id that cannot be guessed.
fn random_id() -> rustix::io::Result<String> {
    /// Letters and digits that are not mistaken for one another.
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

/// The streams of a command; on a terminal they are one.
struct CommandStreams {
    stdout: Async<File>,
    stderr: Option<Async<File>>,
}

fn spawn(args: &RunArgs) -> io::Result<(ProcessTree, CommandStreams)> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--in-session");
    if args.pty {
        command.arg("--terminal");
    }
    command.arg("--").args(&args.command);
    // A terminal is ours to read; a command in a session of its own would only
    // get errors from it.
    command.stdin(if io::stdin().is_terminal() { Stdio::null() } else { Stdio::inherit() });
    let ours = |end: OwnedFd| Async::new(File::from(end));
    if args.pty {
        let (master, terminal) = pty::open()?;
        command.stdout(terminal.try_clone()?).stderr(terminal);
        let processes = ProcessTree::start(&mut command)?;
        return Ok((processes, CommandStreams { stdout: ours(master)?, stderr: None }));
    }
    let (stdout, its_stdout) = io::pipe()?;
    let (stderr, its_stderr) = io::pipe()?;
    command.stdout(its_stdout).stderr(its_stderr);
    let processes = ProcessTree::start(&mut command)?;
    Ok((processes, CommandStreams { stdout: ours(stdout.into())?, stderr: Some(ours(stderr.into())?) }))
}

/// Starts to copy both streams; the task ends with them, or after `ended` closes.
fn copy_streams(
    executor: &LocalExecutor<'_>,
    output: &Rc<OutputPublisher>,
    streams: CommandStreams,
    ended: async_channel::Receiver<()>,
) -> Task<()> {
    let output = output.clone();
    executor.spawn(async move {
        let stdout = output.copy(streams.stdout, "stdout", Unblock::new(io::stdout()), ended.clone());
        let stderr = async {
            if let Some(errors) = streams.stderr {
                output.copy(errors, "stderr", Unblock::new(io::stderr()), ended).await;
            }
        };
        future::zip(stdout, stderr).await;
    })
}
