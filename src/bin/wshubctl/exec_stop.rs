//! What `ExecStop=` of the daemon's unit runs: whether it is a stop or a restart, and
//! whether anybody will be there after it.
//!
//! Knows that systemd shows the former only in the type of its job, that the next
//! program itself knows the latter, and how the daemon is told: by a signal before the
//! one that ends it, so that no moment is lost in which it could be heard. Does not
//! know what the daemon makes of it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

use log::Level;
use rustix::process::{Pid, Signal, kill_process};
use wshubd::config::ConfigError;
use wshubd::logging;

use crate::args::Stopping;

/// Where systemd has the credentials of a unit, which it does not tell every process
/// of that unit.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What a program exits with that would not start: with what is configured, or where it is
/// to keep its state.
const REFUSALS: [i32; 2] = [ConfigError::EXIT as i32, 73];

/// Tells the daemon of a restart that another process survives; of an end there is
/// nothing to tell.
pub(crate) fn tell(stopping: &Stopping) -> ExitCode {
    // It has ended by itself: nobody is left to be told.
    let Some(pid) = stopping.pid.and_then(Pid::from_raw) else { return ExitCode::SUCCESS };
    let told = is_restart(&stopping.unit).and_then(|restarts| {
        if !restarts {
            return Ok(());
        }
        if let Some(why) = refusal(&stopping.unit) {
            complain("this restart closes all connections, for the next process would not start:");
            complain(&why);
            return Ok(());
        }
        kill_process(pid, Signal::USR1).map_err(|error| error.to_string())
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&format!("whether this is a restart is not known: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// To whoever reads the journal, where these are errors.
fn complain(text: &str) {
    let priority = if logging::is_for_journal() { logging::prefix(Level::Error) } else { String::new() };
    for line in text.lines() {
        // Nobody is left to tell if that fails.
        let _ = writeln!(std::io::stderr(), "{priority}wshubctl: {line}");
    }
}

/// What systemd says, asked with these words.
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

/// What the program says that the unit starts next, if it would not take its
/// configuration. Asked is what systemd has read of the unit, and in the environment
/// that this process has from it; of the daemon that runs nothing is believed, for this
/// runs as root. Nothing, where it has no opinion, or where it cannot be asked.
fn refusal(unit: &str) -> Option<String> {
    let started = systemctl(&["show", "--property=ExecStart", "--value", unit]).ok()?;
    let (program, arguments) = program_of(&started)?;
    let mut next = Command::new(program);
    next.args(arguments).arg("--check");
    // Also where there is none yet: what is not in it the next process will not have.
    if std::env::var_os(CREDENTIALS).is_none() {
        next.env(CREDENTIALS, Path::new("/run/credentials").join(unit));
    }
    let said = next.output().ok()?;
    let refuses = said.status.code().is_some_and(|code| REFUSALS.contains(&code));
    refuses.then(|| String::from_utf8_lossy(&said.stderr).trim().to_owned())
}

/// Out of `{ path=/usr/bin/wshubd ; argv[]=/usr/bin/wshubd --config /x ; …`. Nothing,
/// where systemd will put something in place of a word.
fn program_of(started: &str) -> Option<(&str, impl Iterator<Item = &str>)> {
    let rest = started.strip_prefix("{ path=")?;
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
