//! What `ExecStop=` of the daemon's unit runs: whether it is a stop or a restart.
//!
//! Knows that systemd shows this only in the type of its job, and how the daemon is
//! told: by a signal before the one that ends it, so that no moment is lost in
//! which it could be heard. Does not know what the daemon makes of it.

use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal, kill_process};

use crate::args::Stopping;
use crate::screen;

/// Tells the daemon of a restart; of a stop there is nothing to tell.
pub(crate) fn tell(stopping: &Stopping) -> ExitCode {
    // It has ended by itself: nobody is left to be told.
    let Some(pid) = stopping.pid.and_then(Pid::from_raw) else { return ExitCode::SUCCESS };
    let told = job(&stopping.unit).and_then(|job| match job.as_deref() {
        Some("restart") => kill_process(pid, Signal::USR1).map_err(|error| error.to_string()),
        _ => Ok(()),
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            screen::say(&format!("wshubctl: whether this is a restart is not known: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// The type of the job that systemd has for a unit.
fn job(unit: &str) -> Result<Option<String>, String> {
    let listed =
        Command::new("systemctl").args(["list-jobs", "--no-legend", "--no-pager", "--full"]).output();
    let listed = listed.map_err(|error| format!("systemctl: {error}"))?;
    if !listed.status.success() {
        return Err(String::from_utf8_lossy(&listed.stderr).trim().to_owned());
    }
    Ok(type_of(unit, &String::from_utf8_lossy(&listed.stdout)))
}

/// Out of lines such as `123 wshubd.service restart running`.
fn type_of(unit: &str, jobs: &str) -> Option<String> {
    jobs.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != unit).skip(1);
        words.next().map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_job_stands_behind_its_unit() {
        let jobs = "241 wshubd.service restart running\n240 other.service start waiting\n";
        assert_eq!(type_of("wshubd.service", jobs).as_deref(), Some("restart"));
        assert_eq!(type_of("other.service", jobs).as_deref(), Some("start"));
        assert_eq!(type_of("third.service", jobs), None);
        assert_eq!(type_of("wshubd.service", "No jobs running.\n"), None);
    }
}
