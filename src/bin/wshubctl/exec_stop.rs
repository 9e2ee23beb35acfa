//! `ExecStop=` of the daemon's unit: announces a restart to the daemon, if the stop is
//! part of one and the next process would start.
//!
//! systemd shows a restart only in the type of its job; the program that comes next
//! checks its configuration itself. The daemon gets a signal before the SIGTERM that
//! ends it, and hands its connections over then.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

use log::Level;
use rustix::process::{Pid, Signal, kill_process};
use wshubd::config::ConfigError;
use wshubd::logging;

/// The variable with the directory of a unit's credentials, which systemd does not set for
/// every process of that unit.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Exit codes of a daemon that would not start: with its configuration, or with its state
/// directory.
const REFUSALS: [i32; 2] = [ConfigError::EXIT as i32, 73];

/// Announce to wshubd that the stop which follows is part of a restart, if it is
///
/// For `ExecStop=` of its unit: systemd shows the difference only in the type of its
/// job, which `systemctl list-jobs` lists. At a restart this command runs the program
/// that comes next with --check. If the check succeeds, it sends SIGUSR1 to wshubd; the
/// SIGTERM that follows within ten seconds then leaves all connections to the next
/// process instead of closing them.
#[derive(clap::Args, Debug)]
pub(crate) struct ExecStopArgs {
    /// The unit of wshubd
    #[arg(long, value_name = "UNIT", default_value = "wshubd.service")]
    unit: String,
    /// The process of wshubd, as in $MAINPID; without one no signal is sent
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
}

/// Signals the daemon at a restart that hands its connections over; not at a stop.
pub(crate) fn announce_restart(args: &ExecStopArgs) -> ExitCode {
    // It has ended by itself.
    let Some(pid) = args.pid.and_then(Pid::from_raw) else { return ExitCode::SUCCESS };
    let announced = is_restart(&args.unit).and_then(|restarts| {
        if !restarts {
            return Ok(());
        }
        if let Some(why) = refusal(&args.unit) {
            journal_error("this restart closes all connections, because the next process would not start:");
            journal_error(&why);
            return Ok(());
        }
        kill_process(pid, Signal::USR1).map_err(|error| error.to_string())
    });
    match announced {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            journal_error(&format!("cannot determine whether this is a restart: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes an error to the journal, or to the standard error.
fn journal_error(text: &str) {
    let priority = if logging::is_for_journal() { logging::prefix(Level::Error) } else { String::new() };
    for line in text.lines() {
        // There is nowhere to report it if that fails.
        let _ = writeln!(std::io::stderr(), "{priority}wshubctl: {line}");
    }
}

/// The output of systemctl.
fn systemctl(words: &[&str]) -> Result<String, String> {
    let Output { status, stdout, stderr } =
        Command::new("systemctl").args(words).output().map_err(|error| format!("systemctl: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if status.success() { Ok(text(&stdout)) } else { Err(text(&stderr)) }
}

/// Whether the job that systemd has for a unit starts it again.
fn is_restart(unit: &str) -> Result<bool, String> {
    let jobs = systemctl(&["list-jobs", "--no-legend", "--no-pager", "--full"])?;
    Ok(type_of(unit, &jobs) == Some("restart"))
}

/// Out of lines such as `123 wshubd.service restart running`.
fn type_of<'a>(unit: &str, jobs: &'a str) -> Option<&'a str> {
    jobs.lines().find_map(|line| line.split_whitespace().skip_while(|word| *word != unit).nth(1))
}

/// The errors of the program that the unit starts next, if it does not accept its
/// configuration. It is run as systemd has read the unit, and in the environment
/// that this process has from it; of the daemon that runs nothing is believed, for this
/// runs as root. None where it has none, or where it cannot be run.
fn refusal(unit: &str) -> Option<String> {
    let exec_start = systemctl(&["show", "--property=ExecStart", "--value", unit]).ok()?;
    let (program, arguments) = program_of(&exec_start)?;
    let mut next = Command::new(program);
    next.args(arguments).arg("--check");
    // Also where there is none yet: what is not in it the next process will not have.
    if std::env::var_os(CREDENTIALS).is_none() {
        next.env(CREDENTIALS, Path::new("/run/credentials").join(unit));
    }
    let output = next.output().ok()?;
    let refuses = output.status.code().is_some_and(|code| REFUSALS.contains(&code));
    refuses.then(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Out of `{ path=/usr/bin/wshubd ; argv[]=/usr/bin/wshubd --config /x ; …`. Nothing,
/// where systemd will put something in place of a word.
fn program_of(exec_start: &str) -> Option<(&str, impl Iterator<Item = &str>)> {
    let rest = exec_start.strip_prefix("{ path=")?;
    let (program, rest) = rest.split_once(" ; argv[]=")?;
    let (words, _) = rest.split_once(" ; ")?;
    (!words.contains('$')).then(|| (program, words.split_whitespace().skip(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_job_stands_behind_its_unit() {
        let jobs = "241 wshubd.service restart running\n240 other.service start waiting\n";
        assert_eq!(type_of("wshubd.service", jobs), Some("restart"));
        assert_eq!(type_of("other.service", jobs), Some("start"));
        assert_eq!(type_of("third.service", jobs), None);
        assert_eq!(type_of("wshubd.service", "No jobs running.\n"), None);
    }

    #[test]
    fn what_a_unit_starts_is_read_with_its_arguments() {
        let read = |words: &str| {
            let shown = format!("{{ path=/usr/bin/wshubd ; argv[]={words} ; ignore_errors=no ; pid=0 }}");
            program_of(&shown).map(|(program, arguments)| {
                (program.to_owned(), arguments.map(str::to_owned).collect::<Vec<_>>())
            })
        };
        let program = || "/usr/bin/wshubd".to_owned();
        assert_eq!(read("/usr/bin/wshubd"), Some((program(), vec![])));
        let arguments = vec!["--config".to_owned(), "/x".to_owned()];
        assert_eq!(read("hub --config /x"), Some((program(), arguments)));
        assert_eq!(read("/usr/bin/wshubd --config $FILE"), None);
        assert!(program_of("").is_none());
    }
}
