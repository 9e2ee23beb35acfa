//! What can be asked on the command line.
//!
//! Knows options and the help beside them. Does not know how any of it is done.

mod admin;
mod duration;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser, Subcommand};
use wshubd::features::VERSION;

use duration::duration;

pub(crate) use admin::{
    Channels, CheckToken, Connections, Disconnect, Inbox, NewToken, Operations, Purge, Reload, Status,
    TokenCommand,
};

/// Publish, listen, and stop long-running jobs through wshubd.
#[derive(Parser, Debug)]
#[command(name = "wshubctl", version = VERSION.as_str(), after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Args {
    /// The worker socket of wshubd [default: where wshubd makes it]
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) socket: Option<PathBuf>,
    /// How long wshubd is waited for, 0 for as long as it takes [default: 10s]
    #[arg(long, value_name = "DURATION", global = true, value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed, or refused by wshubd
  2  the command line is wrong
  3  wshubd is not reachable
  4  not allowed
  5  timed out, or wshubd gave no answer within --wait
`wshubctl run` exits as its command does: with its code, or 128 and the number
of the signal that killed it.

The worker socket is the first that exists of $WSHUBD_LISTEN__WORKER,
worker.sock in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/wshubd,
/run/user/UID/wshubd, /run/wshubd and /tmp/wshubd-UID. But for the first, which
is taken as it is, like --socket, it is used only if nobody else can have put it
there, or if wshubd runs as root or as the user who asks.

--wait limits what needs nobody but wshubd: connections and answers. Waiting for
messages, for input or for a person is not limited, and `run` has waits of its
own. Where wshubd is not there at all a command fails at once, unless --wait is
given.

Example, in two terminals:
  wshubctl sub logs
  wshubctl run logs -- make test";

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Pub(Publish),
    Sub(Subscribe),
    Interrupt(Interrupt),
    Run(Run),
    Operations(Operations),
    Status(Status),
    Channels(Channels),
    Connections(Connections),
    Inbox(Inbox),
    Disconnect(Disconnect),
    Purge(Purge),
    Reload(Reload),
    #[command(subcommand)]
    Token(TokenCommand),
    Completions(Completions),
    #[command(hide = true)]
    Stopping(Stopping),
    #[command(name = "--in-session", hide = true)]
    Session(Session),
}

/// Publish messages
///
/// A text is sent as a JSON string, or with --json as the JSON that it is.
/// Without TEXT, each line of the standard input is one message; with `-`, all
/// of it is one, without its last line end.
///
/// A line that is not UTF-8, or with --json not JSON, is told by its number and not
/// sent; the others are, and the exit code is 1 at the end. With --json, blank lines
/// are skipped and counted.
#[derive(clap::Args, Debug)]
#[command(
    override_usage = "wshubctl pub [OPTIONS] CHANNEL [TEXT|-]\n       \
                      wshubctl pub [OPTIONS] <--to USER|--connection ID|--all> [TEXT|-]",
    group = ArgGroup::new("target"),
    after_help = "Examples:\n  wshubctl pub logs 'the backup is done'\n  \
                  journalctl -f -o json | wshubctl pub --json --event journal logs\n  \
                  wshubctl pub --to alice --wait-read --timeout 15m 'the disk is full' || page-somebody"
)]
pub(crate) struct Publish {
    /// What kind of message it is
    #[arg(long, value_name = "NAME", default_value = "message")]
    pub(crate) event: String,
    /// Send to all connections of a user, now or when one comes
    #[arg(long, value_name = "USER", group = "target")]
    pub(crate) to: Option<String>,
    /// Send to one connection
    #[arg(long, value_name = "ID", group = "target")]
    pub(crate) connection: Option<String>,
    /// Send to every connection
    #[arg(long, group = "target")]
    pub(crate) all: bool,
    /// How long it is worth keeping, as in 90s, 1h or 90 (seconds)
    #[arg(long, value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Wait until it is on the disk, and fail if it cannot be
    #[arg(long)]
    pub(crate) durable: bool,
    /// Wait until the user has read it, as that user's client says (`ack` with `read`)
    #[arg(long, requires = "to")]
    pub(crate) wait_read: bool,
    /// With --wait-read: exit with 5 when it is not read so long after it was sent
    #[arg(long, requires = "wait_read", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// The text is JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Send each line of the standard input, as without TEXT
    #[arg(long)]
    pub(crate) lines: bool,
    /// End at the first line that cannot be sent, after all before it were answered;
    /// with --json, a blank one is such a line
    #[arg(long)]
    pub(crate) strict: bool,
    /// Say what became of the messages, and with --wait-read when each was delivered
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// CHANNEL, unless an option says to whom, and TEXT or `-`
    #[arg(value_name = "CHANNEL [TEXT|-]", num_args = 0..=2)]
    pub(crate) words: Vec<String>,
}

/// Hear channels
///
/// On a terminal, a line a message for people to read; else one JSON object a
/// line, as wshubd says it: messages, and what happens to operations. When wshubd
/// is started again it goes on; a `gap` says where something was missed.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  wshubctl sub -n 1 --timeout 10s orders:new | jq .data")]
pub(crate) struct Subscribe {
    /// Exit after so many messages
    #[arg(short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Exit with 5 after so long, as in 10s
    #[arg(long, value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// JSON on a terminal too
    #[arg(long)]
    pub(crate) json: bool,
    /// What to hear; `operation:ID` until that operation ends
    #[arg(required = true, value_name = "CHANNEL")]
    pub(crate) channels: Vec<String>,
}

/// Stop an operation
///
/// Prints what became of it: delivered, already_ended or no_owner, the last
/// with exit code 1. An operation that has not registered yet is waited for.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  wshubctl interrupt --reason 'wrong branch' run-6k2t0h")]
pub(crate) struct Interrupt {
    /// Its id, as `wshubctl operations` lists it
    #[arg(value_name = "OPERATION")]
    pub(crate) operation: String,
    /// The channel it must run on
    #[arg(long)]
    pub(crate) channel: Option<String>,
    /// Why, for its worker and for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

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
pub(crate) struct Run {
    /// The operation's id [default: run- and something that nobody guesses]
    #[arg(long, value_name = "ID")]
    pub(crate) operation: Option<String>,
    /// The user for whom it runs, who may stop it
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// What people call it [default: the name of the command, or of the script that it runs]
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
    /// Stop it by itself after so long, as in 1h
    #[arg(long, value_parser = duration)]
    pub(crate) deadline: Option<Duration>,
    /// Give its output a terminal, for programs that hold it back in a pipe
    #[arg(long)]
    pub(crate) pty: bool,
    /// From SIGINT to SIGTERM
    #[arg(long, value_name = "WAIT", default_value = "5s", value_parser = duration)]
    pub(crate) term_after: Duration,
    /// From SIGTERM to SIGKILL
    #[arg(long, value_name = "WAIT", default_value = "5s", value_parser = duration)]
    pub(crate) kill_after: Duration,
    /// How long to wait at its end for a wshubd that is away, to tell it the rest
    /// [default: 10s, or 1s where none was ever there]
    #[arg(long, value_name = "WAIT", value_parser = duration)]
    pub(crate) linger: Option<Duration>,
    /// Do not run the command unless wshubd takes it, within so long; with WAIT, one that is not
    /// there yet is waited for [default: 10s]
    #[arg(
        long, value_name = "WAIT", num_args = 0..=1, require_equals = true, value_parser = duration
    )]
    pub(crate) need_hub: Option<Option<Duration>>,
    /// Do not say how to stop it
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Where its output goes
    #[arg(value_name = "CHANNEL")]
    pub(crate) channel: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Print what a shell completes of wshubctl's words
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  wshubctl completions bash > ~/.local/share/bash-completion/completions/wshubctl"
)]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// The shells that are known.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// How `run` starts its command: this program again, which becomes it.
#[derive(clap::Args, Debug)]
pub(crate) struct Session {
    #[arg(long)]
    pub(crate) terminal: bool,
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// Tell wshubd that the stop which follows is part of a restart, if it is
///
/// For `ExecStop=` of its unit: systemd shows the difference only in the type of its
/// job, which `systemctl list-jobs` lists. At a restart the program that comes next is
/// asked to check its configuration, and where it agrees SIGUSR1 is sent to wshubd; the
/// SIGTERM that follows within ten seconds then leaves all connections to the next
/// process instead of closing them.
#[derive(clap::Args, Debug)]
pub(crate) struct Stopping {
    /// Its unit
    #[arg(long, value_name = "UNIT", default_value = "wshubd.service")]
    pub(crate) unit: String,
    /// Its process, as systemd says in $MAINPID; nobody is told without one
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pid: Option<i32>,
}
