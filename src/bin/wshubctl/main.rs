//! wshubctl: the companion command of wshubd, for people and for scripts.

mod admin;
mod child_setup;
mod completions;
mod connection;
mod duration;
mod error;
mod exec_stop;
mod format;
mod hints;
mod interrupt;
mod list;
mod publish;
mod query;
mod receipts;
mod reload;
mod run;
mod socket_access;
mod socket_path;
mod status;
mod subscribe;
mod terminal;
mod token;
mod wait_limit;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use smol::{LocalExecutor, future};
use wshubd::features::VERSION;

use connection::HubConnection;
use duration::parse_duration;
use error::{Exit, Failure};
use wait_limit::WaitLimit;

/// Publish, subscribe, and stop long-running jobs through wshubd.
#[derive(Parser, Debug)]
#[command(name = "wshubctl", version = VERSION.as_str(), after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    /// The worker socket of wshubd [default: the first usual path that exists]
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// How long to wait for wshubd; 0 is no limit [default: 10s]
    #[arg(long, value_name = "DURATION", global = true, value_parser = parse_duration)]
    wait: Option<Duration>,
    #[command(subcommand)]
    command: CliCommand,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed, or refused by wshubd
  2  the command line is wrong
  3  wshubd is not reachable
  4  not allowed
  5  timed out, or wshubd gave no answer within --wait
`wshubctl run` exits with the exit code of its command, or with 128 plus the
number of the signal that killed it.

The worker socket is the first that exists of $WSHUBD_LISTEN__WORKER,
worker.sock in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/wshubd,
/run/user/UID/wshubd, /run/wshubd and /tmp/wshubd-UID. The paths from --socket
and $WSHUBD_LISTEN__WORKER are used without a check. Another one is used only if
no other user can have created it, or if wshubd runs as root or as the calling
user.

--wait limits connection attempts and the answers of wshubd. It does not limit
the wait for messages, for input or for a reader, and `run` has limits of its
own. If no wshubd is running, a command fails at once, unless --wait is given.

Example, in two terminals:
  wshubctl sub logs
  wshubctl run logs -- make test";

#[derive(Subcommand, Debug)]
enum CliCommand {
    Pub(publish::PublishArgs),
    Sub(subscribe::SubscribeArgs),
    Interrupt(interrupt::InterruptArgs),
    Run(run::RunArgs),
    Operations(list::OperationsArgs),
    Status(status::StatusArgs),
    Channels(list::ChannelsArgs),
    Connections(list::ConnectionsArgs),
    Inbox(list::InboxArgs),
    Disconnect(admin::DisconnectArgs),
    Purge(admin::PurgeArgs),
    Reload(reload::ReloadArgs),
    #[command(subcommand)]
    Token(token::TokenCommand),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Stopping(exec_stop::ExecStopArgs),
    #[command(name = "--in-session", hide = true)]
    Session(child_setup::ChildSetupArgs),
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|mut error| {
        hints::explain(&mut error, &std::env::args_os().collect::<Vec<_>>());
        error.exit()
    });
    if let CliCommand::Session(command) = cli.command {
        return child_setup::exec(&command);
    }
    if let CliCommand::Stopping(stopping) = &cli.command {
        return exec_stop::announce_restart(stopping);
    }
    let done = match &cli.command {
        CliCommand::Completions(args) => completions::print_script(args),
        _ => {
            let executor = LocalExecutor::new();
            smol::block_on(executor.run(carry_out(&executor, cli)))
        }
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            terminal::notice(&failure.to_string());
            failure.exit().into()
        }
    }
}

async fn carry_out(executor: &LocalExecutor<'_>, cli: Cli) -> Result<ExitCode, Failure> {
    match cli {
        Cli { wait: Some(_), command: CliCommand::Run(_), .. } => {
            let why = "run has no --wait: --need-hub=30s waits for wshubd at its start, --linger at its end";
            Err(Failure::new(Exit::Usage, why))
        }
        // It does not need a hub.
        Cli { socket, command: CliCommand::Run(command), .. } => {
            run::run(executor, socket.as_deref(), command).await
        }
        cli => {
            let timeout = match &cli.command {
                CliCommand::Sub(subscribe) => subscribe.timeout(),
                _ => None,
            };
            future::or(query_hub(executor, cli), subscribe::expired(timeout)).await
        }
    }
}

/// Commands that need a hub.
async fn query_hub(executor: &LocalExecutor<'_>, cli: Cli) -> Result<ExitCode, Failure> {
    let hub = connect(executor, &cli).await?;
    match cli.command {
        CliCommand::Pub(publish) => publish::publish(&hub, publish).await,
        CliCommand::Sub(subscribe) => subscribe::subscribe(&hub, subscribe).await,
        CliCommand::Interrupt(interrupt) => interrupt::interrupt(&hub, interrupt).await,
        CliCommand::Operations(operations) => list::operations(&hub, operations).await,
        CliCommand::Status(status) => status::status(&hub, status).await,
        CliCommand::Channels(channels) => list::channels(&hub, channels).await,
        CliCommand::Connections(connections) => list::connections(&hub, connections).await,
        CliCommand::Inbox(inbox) => list::inbox(&hub, inbox).await,
        CliCommand::Disconnect(disconnect) => admin::disconnect(&hub, disconnect).await,
        CliCommand::Purge(purge) => admin::purge(&hub, purge).await,
        CliCommand::Reload(reload) => reload::reload(&hub, reload).await,
        CliCommand::Token(token::TokenCommand::New(new)) => token::new(&hub, new).await,
        CliCommand::Token(token::TokenCommand::Check(check)) => token::check(&hub, check).await,
        // These are done before there is a connection.
        CliCommand::Run(_)
        | CliCommand::Session(_)
        | CliCommand::Stopping(_)
        | CliCommand::Completions(_) => Ok(ExitCode::SUCCESS),
    }
}

/// A subscription reconnects to a hub that starts again; a request that cannot be
/// answered now fails now.
async fn connect(executor: &LocalExecutor<'_>, cli: &Cli) -> Result<HubConnection, Failure> {
    let wait = WaitLimit::new(cli.wait);
    let patience = wait.patience();
    HubConnection::connect(executor, cli.socket.as_deref(), wait, async |options| match &cli.command {
        CliCommand::Sub(_) => options.patience(patience).connect().await,
        _ => options.connect_once().await,
    })
    .await
}
