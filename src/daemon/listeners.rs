//! The daemon's doors: those that systemd has opened, else our own.
//!
//! Knows which door has which name in the units, and what to say of a name that
//! nobody knows. Does not know who comes in.

use std::net::SocketAddr;
use std::path::Path;

use super::Error;
use crate::config::file_owner::Purpose;
use crate::config::{Config, DEFAULT_HTTP, paths};
use crate::edge::net::epoll::Epoll;
use crate::edge::net::listeners::{HTTP, Listeners, WORKER};
use crate::edge::systemd::ListenFds;

/// For the daemon's own user and group; the directory that it makes around the
/// socket lets in the user alone.
const WORKER_SOCKET_MODE: u32 = 0o660;

/// What stands behind the address of a door that is not ours.
const FROM_SYSTEMD: &str = " (from systemd)";

/// Where the daemon listens.
pub(super) struct Opened {
    /// For clients.
    pub(super) addresses: Vec<SocketAddr>,
    /// All of it, as it is logged.
    pub(super) told: String,
    /// The settings in whose place systemd has passed sockets.
    pub(super) overruled: Vec<&'static str>,
}

/// Opens all listeners.
pub(super) fn open(
    config: &Config,
    mut passed: ListenFds,
    doors: &mut Listeners,
    epoll: &Epoll,
) -> Result<Opened, Error> {
    let expects = !passed.is_empty();
    let (clients, workers) = (passed.take(HTTP), passed.take(WORKER));
    for name in passed.names() {
        log::warn!(
            "systemd has passed {name:?}, which is closed: sockets are called {HTTP:?} or {WORKER:?} here \
             (`FileDescriptorName=` of the socket unit)"
        );
    }
    // Closed before anything of ours is opened in its place.
    drop(passed);
    for (name, found, instead) in
        [(HTTP, &clients, "`[listen] http`"), (WORKER, &workers, "`[listen] worker`")]
    {
        if expects && found.is_empty() {
            log::warn!("systemd has passed no socket called {name:?}: opening {instead}");
        }
    }
    doors.keep_wanted(&config.listen.http);
    let unfit = |name: &'static str| move |error| Error::Passed(name, error);
    let (mut addresses, mut told) = (Vec::new(), Vec::new());
    let is_passed = !clients.is_empty();
    let source = if is_passed { FROM_SYSTEMD } else { "" };
    for &address in config.listen.http.iter().filter(|_| !is_passed) {
        let opened = doors.open_tcp(address, &config.listen.http, epoll);
        let opened = opened.map_err(|error| Error::Listen(address, error))?;
        addresses.push(opened);
    }
    for socket in clients {
        addresses.push(doors.adopt_tcp(socket, epoll).map_err(unfit(HTTP))?);
    }
    if let Some(warning) = is_passed.then(|| overruling(&config.listen.http, &addresses)).flatten() {
        log::warn!("{warning}");
    }
    let mut overruled = if is_passed { vec![HTTP_SETTING] } else { Vec::new() };
    told.push(format!("{}{source}", endpoints(config, &addresses)));
    if workers.is_empty() {
        let path = &config.listen.worker;
        create_directory_of(path)?;
        let opened = doors.open_unix(path, WORKER_SOCKET_MODE, epoll);
        opened.map_err(|error| Error::Worker(path.clone(), error))?;
        told.push(format!("workers at {}", path.display()));
    }
    for socket in workers {
        let path = doors.adopt_unix(socket, epoll).map_err(unfit(WORKER))?;
        overruled.push("listen.worker");
        told.push(format!("workers at {path}{FROM_SYSTEMD}"));
    }
    for warning in config.warnings_at(&addresses) {
        log::warn!("{warning}");
    }
    Ok(Opened { addresses, told: told.join("; "), overruled })
}

/// The setting in whose place systemd opens sockets for clients.
pub(crate) const HTTP_SETTING: &str = "listen.http";

/// What to say to somebody who has asked for an address at which systemd does not listen.
pub(crate) fn overruling(asked: &[SocketAddr], opened: &[SocketAddr]) -> Option<String> {
    let is_missing = asked != [DEFAULT_HTTP] && asked.iter().any(|address| !opened.contains(address));
    let addresses: Vec<String> = opened.iter().map(SocketAddr::to_string).collect();
    is_missing.then(|| {
        format!(
            "`[listen] http` counts for nothing: systemd listens at {}, as `ListenStream=` of its socket unit says",
            addresses.join(", ")
        )
    })
}

fn create_directory_of(socket: &Path) -> Result<(), Error> {
    if let Some(directory) = socket.parent() {
        paths::create_directory(directory, Purpose::Listening)?;
    }
    Ok(())
}

fn endpoints(config: &Config, addresses: &[SocketAddr]) -> String {
    let path = config.listen.paths.first().map_or("", String::as_str);
    let each: Vec<String> = addresses.iter().map(|address| format!("ws://{address}{path}")).collect();
    each.join(", ")
}
