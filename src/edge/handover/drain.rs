//! Before a hand-over: HTTP is drained, and the next program is checked.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use smol::Timer;

use crate::edge::clock;
use crate::edge::driver::Shared;
use crate::edge::net::inherited_fd::HANDOVER_VARIABLE;
use crate::edge::net::listeners::SharedListeners;

/// How long requests over HTTP that are under way may take. Meanwhile connections
/// are served as always, and new ones wait in the kernel.
const ANSWERS: Duration = Duration::from_secs(3);

/// How long the next program may take to read its configuration.
const CHECK: Duration = Duration::from_secs(10);

/// How long it may take to end when it is killed.
const KILLED: Duration = Duration::from_secs(1);

/// So often is looked whether something that is waited for is over.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Accepts no connection any more, and waits until no request over HTTP and no
/// revocation is under way, or for as long as that may take.
pub async fn drain(driver: &Shared, listeners: &SharedListeners) {
    listeners.borrow_mut().pause(driver.borrow().epoll());
    let deadline = clock::now().moment + ANSWERS;
    let is_drained = || !listeners.borrow().pending().borrow().is_serving() && !driver.borrow().is_revoking();
    while !is_drained() && clock::now().moment < deadline {
        Timer::after(LOOK_AGAIN).await;
    }
}

/// Has the next program check whether it would start with the configuration that
/// is there now: after the hand-over nothing could be taken back.
///
/// # Errors
/// What it reports, or that it reports nothing.
pub async fn check(program: &Path) -> Result<(), String> {
    let (status, output) = run_check(program).await?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{} --check: {status} {output}", program.display()).trim_end().to_owned())
}

/// Runs the check of the next program; returns how it ends, and its output.
async fn run_check(program: &Path) -> Result<(ExitStatus, String), String> {
    let deadline = clock::now().moment + CHECK;
    let cannot = |error: std::io::Error| format!("cannot run {}: {error}", program.display());
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--check")
        .env_remove(HANDOVER_VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    let status = loop {
        match child.try_wait().map_err(cannot)? {
            Some(status) => break status,
            None if clock::now().moment < deadline => drop(Timer::after(LOOK_AGAIN).await),
            None => {
                let _ = child.kill();
                // It is waited for, or it would stay in the table of processes; not for
                // long, for on a file system that does not answer it stays in its call.
                let deadline = clock::now().moment + KILLED;
                while matches!(child.try_wait(), Ok(None)) && clock::now().moment < deadline {
                    Timer::after(LOOK_AGAIN).await;
                }
                return Err(format!("{} --check takes too long", program.display()));
            }
        }
    };
    let mut output = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What is no text is not worth a line.
        let _ = std::io::Read::read_to_string(&mut stderr, &mut output);
    }
    Ok((status, output.trim().to_owned()))
}
