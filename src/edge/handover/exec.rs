//! Exec in place: the next process is this one, with another program in it.
//!
//! Knows which program that is, and how it is told where everything waits. Does
//! not know what is in the parcel.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::{FdFlags, fcntl_setfd};

use super::{Arrival, Package};
use crate::edge::net::inherited_fd;

/// Where the next process finds the parcel: its own number, so that nobody takes
/// it who was only given the same environment, and those of two descriptors. It
/// is kept from programs that the daemon starts.
pub const VARIABLE: &str = "WSHUB_HANDOVER";

/// What systemd passes is open no more, or goes along under other numbers.
const NOT_FOR_IT: [&str; 4] = [VARIABLE, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The file of the program that runs. Asked for at the start: later another one
/// may be in its place, which is then the one to go on with.
///
/// # Errors
/// Where `/proc` is not to be read.
pub fn program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// Becomes the program in that file, which is told of the parcel. Returns only
/// if that failed.
pub fn become_next(program: &Path, parcel: &Package) -> io::Error {
    let descriptors = [parcel.state.as_fd(), parcel.pouch.as_fd()];
    let why = descriptors
        .iter()
        .try_for_each(|descriptor| fcntl_setfd(descriptor, FdFlags::empty()))
        .map_err(io::Error::from)
        .and_then(|()| exec(program, parcel));
    for descriptor in descriptors {
        // Nothing but this process may have it; it was open a moment ago.
        let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
    }
    why.err().unwrap_or_else(|| io::Error::other("the program ended"))
}

fn exec(program: &Path, parcel: &Package) -> io::Result<()> {
    let text = |text: OsString| CString::new(text.into_vec()).map_err(io::Error::from);
    let arguments = std::env::args_os().map(text).collect::<io::Result<Vec<_>>>()?;
    let kept = std::env::vars_os().filter(|(name, _)| !NOT_FOR_IT.iter().any(|not| name == not));
    let (pid, state, pouch) = (std::process::id(), parcel.state.as_raw_fd(), parcel.pouch.as_raw_fd());
    let told = (OsString::from(VARIABLE), OsString::from(format!("{pid}:{state}:{pouch}")));
    let pair = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        text(name)
    };
    let variables = kept.chain([told]).map(pair).collect::<io::Result<Vec<_>>>()?;
    let program = text(program.into())?;
    // Not the standard library's: that changes what signals do, and this process
    // may have to go on.
    let Err(error) = nix::unistd::execve(&program, &arguments, &variables);
    Err(error.into())
}

/// What this process was before, if it was one and has passed something on. To
/// be asked for before anything else is opened.
pub fn arrival() -> Option<Arrival> {
    let told = std::env::var(VARIABLE).ok()?;
    let mut numbers = told.split(':').map(str::parse::<RawFd>);
    let (Some(Ok(pid)), Some(Ok(state)), Some(Ok(pouch))) = (numbers.next(), numbers.next(), numbers.next())
    else {
        return None;
    };
    if u32::try_from(pid).is_ok_and(|pid| pid != std::process::id()) {
        return None;
    }
    let parcel = Package { state: inherited_fd::take(state)?, pouch: inherited_fd::take(pouch)? };
    Some(Arrival::unpack(parcel))
}
