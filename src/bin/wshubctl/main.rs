//! wshubctl: the companion command of wshubd, for people and for scripts.
//!
//! Knows which command was asked for and with which status to exit. Does not
//! know the wire: `wshubd::client` does.

mod admin;
mod args;
mod ask;
mod failure;
mod figures;
mod interrupt;
mod list;
mod publish;
mod receipts;
mod reload;
mod run;
mod screen;
mod session;
mod socket;
mod status;
mod stopping;
mod subscribe;
mod table;
mod token;

use std::process::ExitCode;

use args::{Args, Command, TokenCommand};
use clap::Parser;
use failure::Failure;
use smol::LocalExecutor;
use wshubd::client::{Client, Connection, Lines, Options};

fn main() -> ExitCode {
    let args = Args::parse();
    if let Command::Session(command) = args.command {
        return session::enter(&command);
    }
    if let Command::Stopping(stopping) = &args.command {
        return stopping::tell(stopping);
    }
    let executor = LocalExecutor::new();
    match smol::block_on(executor.run(carry_out(&executor, args))) {
        Ok(code) => code,
        Err(failure) => {
            screen::say(&failure.to_string());
            failure.exit.into()
        }
    }
}

async fn carry_out(executor: &LocalExecutor<'_>, args: Args) -> Result<ExitCode, Failure> {
    let args = match args {
        // It goes on without a hub.
        Args { socket, command: Command::Run(command) } => {
            return run::run(executor, socket.as_deref(), command).await;
        }
        args => args,
    };
    let (client, lines) = connect(executor, &args).await?;
    match args.command {
        Command::Pub(publish) => publish::publish(&client, &lines, publish).await,
        Command::Sub(subscribe) => subscribe::subscribe(&client, &lines, subscribe).await,
        Command::Interrupt(interrupt) => interrupt::interrupt(&client, interrupt).await,
        Command::Operations(operations) => list::operations(&client, operations).await,
        Command::Status(status) => status::status(&client, status).await,
        Command::Channels(channels) => list::channels(&client, channels).await,
        Command::Connections(connections) => list::connections(&client, connections).await,
        Command::Inbox(inbox) => list::inbox(&client, inbox).await,
        Command::Disconnect(disconnect) => admin::disconnect(&client, disconnect).await,
        Command::Purge(purge) => admin::purge(&client, purge).await,
        Command::Reload(reload) => reload::reload(&client, reload).await,
        Command::Token(TokenCommand::New(new)) => token::new(&client, new).await,
        Command::Token(TokenCommand::Check(check)) => token::check(&client, check).await,
        // These were done before there was a connection.
        Command::Run(_) | Command::Session(_) | Command::Stopping(_) => Ok(ExitCode::SUCCESS),
    }
}

/// What lasts comes back to a hub that starts again; a question that cannot be
/// answered now fails now.
async fn connect(executor: &LocalExecutor<'_>, args: &Args) -> Result<(Client, Lines), Failure> {
    let options = Options::new(socket::find(args.socket.as_deref())?);
    let Connection { client, lines, link } = match &args.command {
        Command::Sub(_) => options.connect().await?,
        _ => options.connect_once().await?,
    };
    // Whoever waits for an answer learns how it ended.
    executor.spawn(async { drop(link.run().await) }).detach();
    Ok((client, lines))
}
