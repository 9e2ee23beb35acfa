//! Writes what shells complete of wshubctl's words: `completions DIRECTORY`.
//!
//! Knows the command line of wshubctl, and which file a shell looks for. Leaves out
//! what is not for people. Not part of wshubctl: there it would be in every build, for
//! a file that changes with the version alone.

#[path = "../src/bin/wshubctl/args.rs"]
#[expect(unused_imports, reason = "some of its names are for other files of wshubctl")]
mod args;

use std::io::{self, Error};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).ok_or_else(|| Error::other("usage: completions DIRECTORY"))?;
    std::fs::create_dir_all(&directory)?;
    let mut command = for_people(&args::Args::command());
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let written = generate_to(shell, &mut command, "wshubctl", &directory)?;
        // Debian and most others name the file of bash after the command.
        if shell == Shell::Bash {
            std::fs::rename(written, Path::new(&directory).join("wshubctl"))?;
        }
    }
    Ok(())
}

/// The same without commands that only units and wshubctl itself use.
fn for_people(all: &Command) -> Command {
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new("wshubctl")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(shown)
}
