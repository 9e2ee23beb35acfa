//! Hand-over by exec in place: the next process is this one, with another program in it.
//!
//! The program finds the package by an environment variable: the number of the process, so that
//! no other takes it that was only given the same environment, and those of two descriptors.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::{FdFlags, fcntl_setfd};

use super::{Package, ReceivedHandover};
use crate::edge::net::inherited_fd;
use crate::edge::net::inherited_fd::HANDOVER_VARIABLE;

/// What systemd passes is open no more, or goes along under other numbers.
const NOT_FOR_IT: [&str; 4] = [HANDOVER_VARIABLE, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The file of the program that runs. Asked for at the start: later another one
/// may be in its place, which is then the one to go on with.
///
/// # Errors
/// Where `/proc` is not to be read.
pub fn program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// Becomes the program in that file, which finds the package. Returns only
/// if that failed.
pub fn become_next(program: &Path, package: &Package) -> io::Error {
    let descriptors = [package.state.as_fd(), package.descriptors.as_fd()];
    let why = descriptors
        .iter()
        .try_for_each(|descriptor| fcntl_setfd(descriptor, FdFlags::empty()))
        .map_err(io::Error::from)
        .and_then(|()| exec(program, package));
    for descriptor in descriptors {
        // No program that is started later may have it; it was open a moment ago.
        let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
    }
    why.err().unwrap_or_else(|| io::Error::other("the program ended"))
}

fn exec(program: &Path, package: &Package) -> io::Result<()> {
    let text = |text: OsString| CString::new(text.into_vec()).map_err(io::Error::from);
    let arguments = std::env::args_os().map(text).collect::<io::Result<Vec<_>>>()?;
    let kept = std::env::vars_os().filter(|(name, _)| !NOT_FOR_IT.iter().any(|not| name == not));
    let (pid, state, descriptors) =
        (std::process::id(), package.state.as_raw_fd(), package.descriptors.as_raw_fd());
    let variable =
        (OsString::from(HANDOVER_VARIABLE), OsString::from(format!("{pid}:{state}:{descriptors}")));
    let pair = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        text(name)
    };
    let variables = kept.chain([variable]).map(pair).collect::<io::Result<Vec<_>>>()?;
    let program = text(program.into())?;
    // Not the standard library's: that changes what signals do, and this process
    // may have to go on.
    let Err(error) = nix::unistd::execve(&program, &arguments, &variables);
    Err(error.into())
}

/// What this process has handed over when another program ran in it. To
/// be asked for before anything else is opened.
pub fn receive() -> Option<ReceivedHandover> {
    let value = std::env::var(HANDOVER_VARIABLE).ok()?;
    let mut numbers = value.split(':').map(str::parse::<RawFd>);
    let (Some(Ok(pid)), Some(Ok(state)), Some(Ok(descriptors))) =
        (numbers.next(), numbers.next(), numbers.next())
    else {
        return None;
    };
    if u32::try_from(pid).is_ok_and(|pid| pid != std::process::id()) {
        return None;
    }
    let (state, descriptors) = (inherited_fd::take(state)?, inherited_fd::take(descriptors)?);
    Some(ReceivedHandover::unpack(Package { state, descriptors }))
}
