//! wshubctl: the companion command of wshubd, for people and for scripts.
//!
//! Knows which command was asked for and with which status to exit. Does not
//! know the wire: `wshubd::client` does.

mod admin;
mod args;
mod child_setup;
mod completions;
mod connection;
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
mod table;
mod terminal;
mod token;
mod wait_limit;

use std::process::ExitCode;

use args::{Args, Command, TokenCommand};
use clap::Parser;
use connection::Hub;
use error::{Exit, Failure};
use smol::{LocalExecutor, future};
use wait_limit::Wait;

fn main() -> ExitCode {
    let args = Args::try_parse().unwrap_or_else(|mut error| {
        hints::explain(&mut error, &std::env::args_os().collect::<Vec<_>>());
        error.exit()
    });
    if let Command::Session(command) = args.command {
        return child_setup::enter(&command);
    }
    if let Command::Stopping(stopping) = &args.command {
        return exec_stop::tell(stopping);
    }
    let done = match &args.command {
        Command::Completions(asked) => completions::print(asked),
        _ => {
            let executor = LocalExecutor::new();
            smol::block_on(executor.run(carry_out(&executor, args)))
        }
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            terminal::say(&failure.to_string());
            failure.exit.into()
        }
    }
}

async fn carry_out(executor: &LocalExecutor<'_>, args: Args) -> Result<ExitCode, Failure> {
    match args {
        Args { wait: Some(_), command: Command::Run(_), .. } => {
            let why =
                "run does not wait for wshubd; with --need-hub=30s it does, and with --linger at its end";
            Err(Failure::new(Exit::Usage, why))
        }
        // It goes on without a hub.
        Args { socket, command: Command::Run(command), .. } => {
            run::run(executor, socket.as_deref(), command).await
        }
        args => {
            let timeout = match &args.command {
                Command::Sub(subscribe) => subscribe.timeout,
                _ => None,
            };
            future::or(ask(executor, args), subscribe::expired(timeout)).await
        }
    }
}

/// What needs a hub.
async fn ask(executor: &LocalExecutor<'_>, args: Args) -> Result<ExitCode, Failure> {
    let hub = connect(executor, &args).await?;
    match args.command {
        Command::Pub(publish) => publish::publish(&hub, publish).await,
        Command::Sub(subscribe) => subscribe::subscribe(&hub, subscribe).await,
        Command::Interrupt(interrupt) => interrupt::interrupt(&hub, interrupt).await,
        Command::Operations(operations) => list::operations(&hub, operations).await,
        Command::Status(status) => status::status(&hub, status).await,
        Command::Channels(channels) => list::channels(&hub, channels).await,
        Command::Connections(connections) => list::connections(&hub, connections).await,
        Command::Inbox(inbox) => list::inbox(&hub, inbox).await,
        Command::Disconnect(disconnect) => admin::disconnect(&hub, disconnect).await,
        Command::Purge(purge) => admin::purge(&hub, purge).await,
        Command::Reload(reload) => reload::reload(&hub, reload).await,
        Command::Token(TokenCommand::New(new)) => token::new(&hub, new).await,
        Command::Token(TokenCommand::Check(check)) => token::check(&hub, check).await,
        // These were done before there was a connection.
        Command::Run(_) | Command::Session(_) | Command::Stopping(_) | Command::Completions(_) => {
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What lasts comes back to a hub that starts again; a question that cannot be
/// answered now fails now.
async fn connect(executor: &LocalExecutor<'_>, args: &Args) -> Result<Hub, Failure> {
    let wait = Wait::new(args.wait);
    let patience = wait.patience();
    Hub::reach(executor, args.socket.as_deref(), wait, async |options| match &args.command {
        Command::Sub(_) => options.patience(patience).connect().await,
        _ => options.connect_once().await,
    })
    .await
}
