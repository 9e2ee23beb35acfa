//! The moment before a hand-over: who comes over HTTP is answered first.
//!
//! Knows how long that may take, and that the next program is one. Does not know
//! what is handed over.

use std::cell::RefCell;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use smol::Timer;

use super::exec::VARIABLE;
use crate::edge::clock;
use crate::edge::driver::Shared;
use crate::edge::net::listeners::Listeners;

/// How long requests over HTTP that are under way may take. Meanwhile everybody
/// else is served as always, and newcomers wait in the kernel.
const ANSWERS: Duration = Duration::from_secs(3);

/// How long the next program may take to read its configuration.
const CHECK: Duration = Duration::from_secs(10);

/// How long it may take to end when it is killed.
const KILLED: Duration = Duration::from_secs(1);

/// So often is looked whether something that is waited for is over.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Lets nobody in any more, and waits until nobody is spoken to over HTTP and no
/// revocation is being written, or for as long as that may take.
pub async fn clear_doors(driver: &Shared, doors: &Rc<RefCell<Listeners>>) {
    doors.borrow_mut().pause(&driver.borrow().links.epoll);
    let deadline = clock::now().moment + ANSWERS;
    let is_clear = || !doors.borrow().guests().borrow().are_served() && !driver.borrow().is_revoking();
    while !is_clear() && clock::now().moment < deadline {
        Timer::after(LOOK_AGAIN).await;
    }
}

/// Has the next program say whether it would start with the configuration that
/// is there now: what it refuses after the hand-over nobody could take back.
///
/// # Errors
/// What it says, or that it says nothing.
pub async fn check(program: &Path) -> Result<(), String> {
    let (status, said) = ask(program).await?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{} --check: {status} {said}", program.display()).trim_end().to_owned())
}

/// How the next program ends that is asked to check, and what it says.
async fn ask(program: &Path) -> Result<(ExitStatus, String), String> {
    let deadline = clock::now().moment + CHECK;
    let cannot = |error: std::io::Error| format!("cannot run {}: {error}", program.display());
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--check")
        .env_remove(VARIABLE)
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
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What is no text is not worth a line.
        let _ = std::io::Read::read_to_string(&mut stderr, &mut said);
    }
    Ok((status, said.trim().to_owned()))
}
