//! What `run` says: to people on the standard error, to the hub at the end.
//!
//! Knows words, exit codes and the names of signals.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Signal, WaitStatus};
use serde::Serialize;
use wshubd::client::{Error, Heard, Interrupt, Refused};
use wshubd::protocol::EndState;

use crate::terminal::{plain, say};

/// How it ended, as it is told to everybody who watches.
#[derive(Serialize)]
pub(super) struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// The name of the signal that killed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    #[serde(skip)]
    killed_by: Option<i32>,
    /// How many lines it printed.
    lines: u64,
    /// How many of them were lost while the hub was away.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

impl Outcome {
    /// Without a status nothing could end it.
    pub(super) fn of(status: Option<WaitStatus>, lines: u64, lost: u64) -> Self {
        let killed_by = status.and_then(WaitStatus::terminating_signal);
        let exit_code = status.and_then(WaitStatus::exit_status);
        Self { exit_code, signal: killed_by.map(name), killed_by, lines, lost: (lost > 0).then_some(lost) }
    }

    pub(super) fn ending(&self, asked: bool) -> EndState {
        match (asked, self.exit_code) {
            (true, _) => EndState::Interrupted,
            (false, Some(0)) => EndState::Completed,
            (false, _) => EndState::Failed,
        }
    }

    /// Whether SIGINT has killed it.
    pub(super) fn is_interrupted(&self) -> bool {
        self.killed_by == Some(Signal::INT.as_raw())
    }

    /// As a shell has it.
    pub(super) fn exit_code(&self) -> ExitCode {
        /// What a shell adds to the number of the signal.
        const KILLED: i32 = 128;
        let code = self.exit_code.or(self.killed_by.map(|signal| KILLED + signal));
        code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

/// As a shell has it where Ctrl-C was pressed before anything ran.
pub(super) fn given_up() -> ExitCode {
    ExitCode::from(130)
}

/// Ends this process by SIGINT, as the command has ended: a shell that runs a script takes
/// any exit status, 130 too, for a Ctrl-C that was dealt with, and goes on.
pub(super) fn end_by_interrupt() -> ExitCode {
    // It fails for no signal but those that nobody can handle.
    let _ = signal_hook::low_level::emulate_default_handler(Signal::INT.as_raw());
    given_up()
}

/// The name of a signal; its number where it has none that is common.
fn name(signal: i32) -> String {
    const NAMES: [(Signal, &str); 18] = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::TERM, "SIGTERM"),
        (Signal::SYS, "SIGSYS"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::XFSZ, "SIGXFSZ"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
    ];
    let named = NAMES.iter().find(|(known, _)| known.as_raw() == signal);
    named.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

/// The lines that `run` itself adds to the standard error.
#[derive(Clone, Copy)]
pub(super) struct Report {
    quiet: bool,
}

impl Report {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    pub(super) fn started(self, operation: &str, channel: &str) {
        if !self.quiet {
            let operation = plain(operation);
            let channel = plain(channel);
            say(&format!("operation {operation} on {channel}; stop it with: wshubctl interrupt {operation}"));
        }
    }

    pub(super) fn interrupted(self, interrupt: &Interrupt) {
        if !self.quiet {
            let by = interrupt.user_id.as_deref().unwrap_or(&interrupt.from);
            let why = interrupt.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            say(&plain(&format!("interrupted by {by}{why}")));
        }
    }

    /// Who relies on the hub must know that it is not there: it is said whatever
    /// else is not.
    pub(super) fn hub_absent(self, why: &str) {
        say(&plain(&format!("{why}; the command runs all the same, and its output waits for wshubd")));
    }

    pub(super) fn hub_silent(self, path: &Path) {
        let path = path.display();
        say(&plain(&format!(
            "wshubd at {path} does not answer; the command runs all the same, and its output waits for wshubd"
        )));
    }

    /// It has come for the first time.
    pub(super) fn hub_here(self) {
        say("wshubd is there");
    }

    pub(super) fn hub_away(self, error: &Error) {
        say(&plain(&format!("{error}; the command goes on, and its output waits for wshubd")));
    }

    pub(super) fn hub_back(self) {
        say("wshubd is back");
    }

    /// It will not come back, or will not have the operation again.
    pub(super) fn hub_lost(self, error: &Error) {
        say(&plain(&format!("{error}; the command goes on, and can only be stopped here")));
    }

    pub(super) fn not_passed_on(self, stream: &str, error: &io::Error) {
        say(&format!("cannot write to {stream}: {error}; the rest of it is for others alone"));
    }

    pub(super) fn output_lost(self) {
        say("too much output waits for wshubd; what follows is lost to others until it takes some");
    }

    pub(super) fn lingers(self, linger: Duration) {
        let linger = humantime::format_duration(linger);
        say(&format!("it is over; waiting {linger} for wshubd to hear of it, Ctrl-C gives up"));
    }

    pub(super) fn complaint(self, heard: &Heard) {
        match heard.read::<Refused>() {
            Ok(Refused { code, message }) => {
                say(&plain(&format!("wshubd does not take this: {message} ({code})")))
            }
            Err(_) => say(&plain(heard.json())),
        }
    }

    /// No hub has ever been there.
    pub(super) fn unheard(self) {
        say("no wshubd has heard of this command");
    }

    /// Where this process stood still for longer than the hub waits, for one.
    pub(super) fn end_unknown(self) {
        say("wshubd had told everybody that it was over before it was");
    }

    pub(super) fn not_suspended(self) {
        say(
            "the command goes on, so that it can be stopped from elsewhere; for a prompt beside it start it with &",
        );
    }

    pub(super) fn end_untold(self, why: &str) {
        say(&plain(&format!("wshubd did not hear of the end: {why}")));
    }

    /// Nothing more can be done about what is left after SIGKILL.
    pub(super) fn left(self, count: usize, asked: bool) {
        if asked && count > 0 {
            say(&format!("{count} processes cannot be killed: they wait in the kernel, or are not ours"));
        }
    }
}
