//! The process between `wshubctl run` and its command: it makes itself a session and
//! then execs the command.
//!
//! A process can only do this to itself, between fork and exec, where a program
//! without `unsafe` runs no code; so it is done by a program of its own.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Signal, ioctl_tiocsctty, set_parent_process_death_signal, setsid};

use crate::terminal::{escape, notice};

/// The codes of shells for a command that is not there or cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// How `run` starts its command: this program again, which becomes it.
#[derive(clap::Args, Debug)]
pub(crate) struct ChildSetupArgs {
    #[arg(long)]
    terminal: bool,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Execs the command. Returns only if that fails.
pub(crate) fn exec(args: &ChildSetupArgs) -> ExitCode {
    let Some((program, arguments)) = args.command.split_first() else { return NOT_RUN.into() };
    if let Err(error) = prepare(args) {
        notice(&format!("cannot create a session for the command: {error}"));
        return NOT_RUN.into();
    }
    let error = Command::new(program).args(arguments).exec();
    notice(&format!("cannot run {}: {error}", escape(&program.to_string_lossy())));
    if error.kind() == ErrorKind::NotFound { NOT_FOUND.into() } else { NOT_RUN.into() }
}

fn prepare(args: &ChildSetupArgs) -> rustix::io::Result<()> {
    // Its own session: the terminal's Ctrl-C reaches `run` alone, which then
    // stops everything in order, and no child can stop for want of a terminal.
    setsid()?;
    if args.terminal {
        ioctl_tiocsctty(std::io::stdout())?;
    }
    // Without `run` the command could not be stopped any more.
    set_parent_process_death_signal(Some(Signal::TERM))
}
