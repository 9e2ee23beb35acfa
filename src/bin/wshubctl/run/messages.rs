//! Messages of `run`: to people on the standard error, to the hub at the end.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Signal, WaitStatus};
use serde::Serialize;
use wshubd::client::{Error, ErrorLine, HubLine, Interrupt};
use wshubd::protocol::EndState;

use crate::terminal::{escape, notice};

/// Outcome of the command, as it is published.
#[derive(Serialize)]
pub(super) struct CommandOutcome {
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

impl CommandOutcome {
    /// A command without a status could not be killed.
    pub(super) fn new(status: Option<WaitStatus>, lines: u64, lost: u64) -> Self {
        let killed_by = status.and_then(WaitStatus::terminating_signal);
        let exit_code = status.and_then(WaitStatus::exit_status);
        Self {
            exit_code,
            signal: killed_by.map(signal_name),
            killed_by,
            lines,
            lost: (lost > 0).then_some(lost),
        }
    }

    /// The state of a command that ends by itself.
    pub(super) fn end_state(&self) -> EndState {
        match self.exit_code {
            Some(0) => EndState::Completed,
            _ => EndState::Failed,
        }
    }

    /// Whether SIGINT has killed it.
    pub(super) fn is_interrupted(&self) -> bool {
        self.killed_by == Some(Signal::INT.as_raw())
    }

    /// The exit code that a shell has for it.
    pub(super) fn exit_code(&self) -> ExitCode {
        /// What a shell adds to the number of the signal.
        const KILLED: i32 = 128;
        let code = self.exit_code.or(self.killed_by.map(|signal| KILLED + signal));
        code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

/// The exit code of a shell where Ctrl-C was pressed before anything ran.
pub(super) fn given_up() -> ExitCode {
    ExitCode::from(130)
}

/// Ends this process by SIGINT, as the command has ended: a shell that runs a script takes
/// any exit status, 130 too, for a Ctrl-C that was handled, and goes on.
pub(super) fn end_by_interrupt() -> ExitCode {
    // It fails only for the signals that no process can handle.
    let _ = signal_hook::low_level::emulate_default_handler(Signal::INT.as_raw());
    given_up()
}

/// The name of a signal; its number where it has none that is common.
fn signal_name(signal: i32) -> String {
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

/// Notices of `run` itself on the standard error.
#[derive(Clone, Copy)]
pub(super) struct RunReport {
    quiet: bool,
}

impl RunReport {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    pub(super) fn started(self, operation: &str, channel: &str) {
        if !self.quiet {
            let operation = escape(operation);
            let channel = escape(channel);
            notice(&format!(
                "operation {operation} on {channel}; stop it with: wshubctl interrupt {operation}"
            ));
        }
    }

    pub(super) fn interrupted(self, interrupt: &Interrupt) {
        if !self.quiet {
            let by = interrupt.user_id.as_deref().unwrap_or(&interrupt.from);
            let why = interrupt.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            notice(&escape(&format!("interrupted by {by}{why}")));
        }
    }

    /// A user who relies on the hub must know that it is not connected: this is printed even
    /// with `--quiet`.
    pub(super) fn hub_absent(self, why: &str) {
        notice(&escape(&format!("{why}; the command runs without wshubd, and its output is queued")));
    }

    pub(super) fn hub_silent(self, path: &Path) {
        let path = path.display();
        notice(&escape(&format!(
            "wshubd at {path} does not answer; the command runs without wshubd, and its output is queued"
        )));
    }

    /// It is connected for the first time.
    pub(super) fn hub_connected(self) {
        notice("connected to wshubd");
    }

    pub(super) fn hub_disconnected(self, error: &Error) {
        notice(&escape(&format!("{error}; the command goes on, and its output is queued")));
    }

    pub(super) fn hub_reconnected(self) {
        notice("reconnected to wshubd");
    }

    /// It does not come back, or does not take the operation again.
    pub(super) fn hub_lost(self, error: &Error) {
        notice(&escape(&format!("{error}; the command goes on, and can only be stopped here")));
    }

    pub(super) fn copy_failed(self, stream: &str, error: &io::Error) {
        notice(&format!("cannot write to {stream}: {error}; the rest of it is only published"));
    }

    pub(super) fn output_lost(self) {
        notice("too much output is queued for wshubd; lines are dropped until wshubd accepts some");
    }

    pub(super) fn lingers(self, linger: Duration) {
        let linger = humantime::format_duration(linger);
        notice(&format!("the command has ended; waiting {linger} for wshubd, Ctrl-C ends the wait"));
    }

    pub(super) fn output_refused(self, line: &HubLine) {
        match line.parse::<ErrorLine>() {
            Ok(ErrorLine { code, message }) => {
                notice(&escape(&format!("wshubd refuses the output: {message} ({code})")))
            }
            Err(_) => notice(&escape(line.json())),
        }
    }

    /// No hub was ever connected.
    pub(super) fn never_connected(self) {
        notice("this command was not sent to any wshubd");
    }

    /// This happens, for example, where this process was stopped for longer than the hub waits.
    pub(super) fn ended_before(self) {
        notice("wshubd had ended the operation before the command ended");
    }

    pub(super) fn not_suspended(self) {
        notice(
            "the command is not suspended, because it could not be stopped then; to run it in the background, \
             start it with &",
        );
    }

    pub(super) fn end_not_delivered(self, why: &str) {
        notice(&escape(&format!("wshubd did not receive the end of the operation: {why}")));
    }

    /// Processes are left after SIGKILL.
    pub(super) fn unkillable(self, count: usize) {
        if count > 0 {
            notice(&format!(
                "{count} processes cannot be killed: they wait in the kernel, or belong to another user"
            ));
        }
    }
}
