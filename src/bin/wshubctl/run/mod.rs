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

/// Run a command as an operation that can be stopped through wshubd
///
/// Each line that the command prints is published at once, with the event
/// `operation:output`, and printed here too. An unfinished line, such as a
/// progress bar or a prompt, is published in its present state, at most five times
/// a second, with `partial: true` and the number of the finished line; it is never
/// kept. An interrupt sends SIGINT to the command and all its children, then
/// SIGTERM, then SIGKILL, until no process is left; once the command itself has
/// exited, its remaining children get SIGTERM at once. Ctrl-C and SIGTERM do the
/// same; a second one, at least half a second later, starts the next step.
///
/// The command runs with or without wshubd. It waits at most 1 s for an answer of
/// wshubd, and not at all if no wshubd is running; only a refusal in that time
/// prevents the start. While wshubd is not connected, up to 1 MiB of output waits;
/// the next line after a loss has the number of lost lines in `lost`. As soon as
/// wshubd is connected, it has the operation and can stop it. With --need-hub the
/// command does not start without wshubd.
///
/// The command gets a session of its own. Processes that it leaves in this session
/// when it exits by itself have --term-after to finish; processes in another
/// session (setsid), such as daemons, are not stopped. The command goes on if the
/// reader of its output, such as head, exits. Ctrl-Z does not suspend the command,
/// because it could not be stopped then. With nohup it outlives the terminal; as a
/// background job of a script it does not receive Ctrl-C.
#[derive(clap::Args, Debug)]
#[command(
    override_usage = "wshubctl run [OPTIONS] CHANNEL -- COMMAND...",
    after_help = "Example:\n  wshubctl run --user alice --label 'nightly build' logs -- make all"
)]
pub(crate) struct RunArgs {
    /// The id of the operation [default: run- and random characters]
    #[arg(long, value_name = "ID")]
    operation: Option<String>,
    /// The user of the operation, who may stop it
    #[arg(long)]
    user: Option<String>,
    /// The label of the operation [default: the name of the command, or of the script that it runs]
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Stop the command after this time, as in 1h
    #[arg(long, value_parser = parse_duration)]
    deadline: Option<Duration>,
    /// Connect the output to a terminal, for programs that buffer it in a pipe
    #[arg(long)]
    pty: bool,
    /// Time from SIGINT to SIGTERM
    #[arg(long, value_name = "WAIT", default_value = "5s", value_parser = parse_duration)]
    term_after: Duration,
    /// Time from SIGTERM to SIGKILL
    #[arg(long, value_name = "WAIT", default_value = "5s", value_parser = parse_duration)]
    kill_after: Duration,
    /// How long to wait at the end for a wshubd that is not connected, to send it the rest
    /// [default: 10s, or 1s if none was ever connected]
    #[arg(long, value_name = "WAIT", value_parser = parse_duration)]
    linger: Option<Duration>,
    /// Do not run the command unless wshubd accepts it within this time; with WAIT, also wait for
    /// a wshubd that is not running yet [default: 10s]
    #[arg(
        long, value_name = "WAIT", num_args = 0..=1, require_equals = true, value_parser = parse_duration
    )]
    need_hub: Option<Option<Duration>>,
    /// Do not print how to stop the operation
    #[arg(short, long)]
    quiet: bool,
    /// The channel of the operation and its output
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
