//! What a process must have before it becomes the daemon, and what no two can have.
//!
//! What another process might have comes first; keys, secrets and revocations are read, made
//! and written after that. So a process that does not become the daemon leaves no trace.

use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::rc::Rc;

use async_signal::{Signal, Signals};

use super::listeners::Opened;
use super::lock::lock;
use super::{Error, listeners};
use crate::config::file_owner::Purpose;
use crate::config::{Config, Loaded, paths};
use crate::edge::auth::revocation;
use crate::edge::auth::revocation::file::RevocationFile;
use crate::edge::auth::secret_file;
use crate::edge::driver::config::EdgeConfig;
use crate::edge::handover::{Arrival, exec};
use crate::edge::net::epoll::Epoll;
use crate::edge::net::listeners::Listeners;
use crate::edge::systemd::ListenFds;

/// All of it, to be taken apart by the start.
pub(super) struct Resources {
    pub(super) program: Rc<Path>,
    pub(super) lock: File,
    pub(super) epoll: Epoll,
    pub(super) listeners: Listeners,
    pub(super) opened: Opened,
    pub(super) signals: Signals,
    pub(super) edge: EdgeConfig,
    pub(super) revocations: RevocationFile,
}

/// Takes the state directory and opens all listeners; then makes sure that keys and
/// secrets are there.
pub(super) fn acquire(
    loaded: &Loaded,
    mut passed: ListenFds,
    arrival: &mut Arrival,
) -> Result<Resources, Error> {
    let Config { auth, state, .. } = &loaded.config;
    passed.extend(arrival.passed());
    let program = exec::program().map_err(Error::Program)?.into();
    let signals = [Signal::Term, Signal::Int, Signal::Hup, Signal::Usr1, Signal::Usr2];
    let signals = Signals::new(signals).map_err(Error::Signals)?;
    paths::create_directory(&state.directory, Purpose::State)?;
    let lock = lock(&state.directory, arrival.lock.as_ref())?;
    let epoll = Epoll::new().map_err(Error::Wait)?;
    let mut listeners = Listeners::default();
    listeners.inherit(arrival);
    let opened = listeners::open(&loaded.config, passed, &mut listeners, &epoll);
    let ready = opened.and_then(|opened| {
        // A disk that is full for a moment is no mistake in the configuration.
        secret_file::generate_missing(auth, &state.directory)?;
        let mut edge = EdgeConfig::open(loaded).map_err(|error| Error::of_site(error, &state.directory))?;
        let (revoked, revocations) = revocation::file::open(&state.directory)?;
        edge.verifier.heed(Rc::new(RefCell::new(revoked)));
        // A peer that connects as soon as that is possible finds keys and secrets.
        listeners.begin_listening().map_err(|(address, error)| Error::Listen(address, error))?;
        Ok((opened, edge, revocations))
    });
    let (opened, edge, revocations) = ready.inspect_err(|_| listeners.close())?;
    arrival.lock = None;
    Ok(Resources { program, lock, epoll, listeners, opened, signals, edge, revocations })
}
