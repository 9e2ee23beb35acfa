//! The short life between `wshubctl run` and its command: a process that gives
//! itself a session and then becomes the command.
//!
//! A process can only do this to itself, between fork and exec, where a program
//! without `unsafe` has no word; so it is done by a program of its own.

use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Signal, ioctl_tiocsctty, set_parent_process_death_signal, setsid};

use crate::args;
use crate::terminal::{plain, say};

/// The codes of shells for a command that is not there or cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// Becomes the command. Returns only if that fails.
pub(crate) fn enter(asked: &args::Session) -> ExitCode {
    let Some((program, arguments)) = asked.command.split_first() else { return NOT_RUN.into() };
    if let Err(error) = prepare(asked.terminal) {
        say(&format!("no session for the command: {error}"));
        return NOT_RUN.into();
    }
    let error = Command::new(program).args(arguments).exec();
    say(&format!("cannot run {}: {error}", plain(&program.to_string_lossy())));
    if error.kind() == ErrorKind::NotFound { NOT_FOUND.into() } else { NOT_RUN.into() }
}

fn prepare(terminal: bool) -> rustix::io::Result<()> {
    // Its own session: the terminal's Ctrl-C reaches `run` alone, which then
    // stops everything in order, and no child can stop for want of a terminal.
    setsid()?;
    if terminal {
        ioctl_tiocsctty(std::io::stdout())?;
    }
    // Should `run` be killed, nobody could stop the command any more.
    set_parent_process_death_signal(Some(Signal::TERM))
}
