//! `wshubctl completions`: completion scripts for shells.
//!
//! They leave out the commands that only units and wshubctl itself use.

use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};

use crate::Cli;
use crate::error::Failure;
use crate::terminal::print;

/// The supported shells.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub(crate) enum CompletedShell {
    Bash,
    Zsh,
    Fish,
}

/// Print the completion script of wshubctl for a shell
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  wshubctl completions bash > ~/.local/share/bash-completion/completions/wshubctl"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: CompletedShell,
}

pub(crate) fn print_script(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let shell = match args.shell {
        CompletedShell::Bash => Shell::Bash,
        CompletedShell::Zsh => Shell::Zsh,
        CompletedShell::Fish => Shell::Fish,
    };
    // To memory first: the library panics where a write fails.
    let mut script = Vec::new();
    generate(shell, &mut without_hidden(&Cli::command()), "wshubctl", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// The same without hidden commands.
fn without_hidden(all: &Command) -> Command {
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new("wshubctl")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(shown)
}
