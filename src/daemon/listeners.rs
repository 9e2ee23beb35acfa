//! The sockets that the daemon listens on: those that systemd has passed, else its own.
//!
//! Passed sockets are distinguished by their names in the units.

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

/// What stands behind the address of a passed socket.
const FROM_SYSTEMD: &str = " (from systemd)";

/// Where the daemon listens.
pub(super) struct Opened {
    /// For clients.
    addresses: Vec<SocketAddr>,
    /// All of it, as it is logged.
    description: String,
    /// The settings in whose place systemd has passed sockets.
    overruled: Vec<&'static str>,
}

impl Opened {
    /// All addresses and sockets, as they are logged.
    pub(super) fn description(&self) -> &str {
        &self.description
    }

    /// The settings without effect, since systemd has passed sockets in their stead.
    pub(super) fn overruled(&self) -> &[&'static str] {
        &self.overruled
    }

    /// What is allowed but seldom wise, at these addresses.
    pub(super) fn warnings(&self, config: &Config) -> Vec<String> {
        config.warnings_at(&self.addresses)
    }

    /// What to say where the configuration asks for an address at which systemd does not
    /// listen.
    pub(super) fn overruled_addresses(&self, config: &Config) -> Option<String> {
        let is_passed = self.overruled.contains(&HTTP_SETTING);
        is_passed.then(|| overruled_addresses(&config.listen.http, &self.addresses)).flatten()
    }
}

/// Opens all listeners.
pub(super) fn open(
    config: &Config,
    mut passed: ListenFds,
    listeners: &mut Listeners,
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
    listeners.keep_wanted(&config.listen.http);
    let unfit = |name: &'static str| move |error| Error::Passed(name, error);
    let (mut addresses, mut description) = (Vec::new(), Vec::new());
    let is_passed = !clients.is_empty();
    let source = if is_passed { FROM_SYSTEMD } else { "" };
    for &address in config.listen.http.iter().filter(|_| !is_passed) {
        let opened = listeners.open_tcp(address, &config.listen.http, epoll);
        let opened = opened.map_err(|error| Error::Listen(address, error))?;
        addresses.push(opened);
    }
    for socket in clients {
        addresses.push(listeners.adopt_tcp(socket, epoll).map_err(unfit(HTTP))?);
    }
    let mut overruled = if is_passed { vec![HTTP_SETTING] } else { Vec::new() };
    description.push(format!("{}{source}", endpoints(config, &addresses)));
    if workers.is_empty() {
        let path = &config.listen.worker;
        create_directory_of(path)?;
        let opened = listeners.open_unix(path, WORKER_SOCKET_MODE, epoll);
        opened.map_err(|error| Error::Worker(path.clone(), error))?;
        description.push(format!("workers at {}", path.display()));
    }
    for socket in workers {
        let path = listeners.adopt_unix(socket, epoll).map_err(unfit(WORKER))?;
        overruled.push("listen.worker");
        description.push(format!("workers at {path}{FROM_SYSTEMD}"));
    }
    let opened = Opened { addresses, description: description.join("; "), overruled };
    for warning in opened.overruled_addresses(config).into_iter().chain(opened.warnings(config)) {
        log::warn!("{warning}");
    }
    Ok(opened)
}

/// The setting in whose place systemd opens sockets for clients.
const HTTP_SETTING: &str = "listen.http";

fn overruled_addresses(asked: &[SocketAddr], opened: &[SocketAddr]) -> Option<String> {
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
