//! `wshubctl completions`: scripts for the completion of shells.
//!
//! Leaves out commands that only units and wshubctl itself use.

use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};

use crate::args;
use crate::error::Failure;
use crate::query::show;

pub(crate) fn print(asked: &args::Completions) -> Result<ExitCode, Failure> {
    let shell = match asked.shell {
        args::Shell::Bash => Shell::Bash,
        args::Shell::Zsh => Shell::Zsh,
        args::Shell::Fish => Shell::Fish,
    };
    // To memory first: the library panics where a write fails.
    let mut script = Vec::new();
    generate(shell, &mut for_people(&args::Args::command()), "wshubctl", &mut script);
    show(&String::from_utf8_lossy(&script))
}

/// The same without hidden commands.
fn for_people(all: &Command) -> Command {
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new("wshubctl")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(shown)
}
