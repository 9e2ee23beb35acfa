//! The daemon: what starts, in which order; it stops in reverse.

pub mod check;
mod error;
mod kept_state;
mod lifecycle;
mod listeners;
mod lock;
pub(crate) mod ownership;
mod reload;
mod store_options;
mod unused_state;

use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use async_signal::{Signal, Signals};

use crate::config::file_owner::Purpose;
use crate::config::{Config, ConfigSource, Loaded, StoreKind, paths};
use crate::edge::auth::revocation;
use crate::edge::auth::revocation::file::RevocationFile;
use crate::edge::auth::secret_file;
use crate::edge::clock;
use crate::edge::config::EdgeConfig;
use crate::edge::driver::Driver;
use crate::edge::event_loop::Edge;
use crate::edge::handover;
use crate::edge::handover::{ReceivedHandover, TakenOver, exec};
use crate::edge::net::epoll::Epoll;
use crate::edge::net::listeners::Listeners;
use crate::edge::net::{fd_limit, signal_mask};
use crate::edge::store;
use crate::edge::systemd::{ListenFds, Notify, StatusReporter};
use crate::protocol::Close;
pub use error::Error;
use lifecycle::{ControlEvents, Terminal};
use listeners::Opened;
use lock::lock;
use reload::Reloader;
use store_options::store_options;

/// How long the disk may take at the start; what it has comes later then.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs until a signal ends it.
///
/// # Errors
/// Whatever keeps it from starting; once it runs, nothing does.
pub fn run(source: ConfigSource, loaded: Loaded) -> Result<(), Error> {
    fd_limit::raise_limit();
    let terminal = Terminal::of_process();
    let (passed, mut received) = receive()?;
    let config = &loaded.config.clone();
    let resources = acquire(&loaded, passed, &mut received);
    let Resources { program, lock, epoll, listeners, opened, signals, edge_config, revocations } =
        resources.inspect_err(|_| give_back(&mut received, store_options(config)))?;
    log_doubts(&loaded, &edge_config);
    let begun = kept_state::begin(config, &lock, &mut received);
    let uses_hub_checkpoint = begun.uses_hub_checkpoint();
    let (hub, store) = begun.into_parts();
    let EdgeConfig { accept, driver: driver_config, http } = edge_config;
    let mut driver = Driver::new(hub, store, Rc::new(driver_config), epoll);
    driver.keep_revocations(revocations);
    let status = StatusReporter::new(Notify::of_process());
    let taken_over = take_over(&mut driver, &status, config, &mut received);
    let edge = Edge::new(driver, listeners, http, accept, status);
    // The last that may fail.
    kept_state::remove_hub_checkpoint(&config.state.directory, uses_hub_checkpoint).inspect_err(|_| {
        lifecycle::close_connections(&edge);
        if taken_over.is_some() {
            kept_state::save(&edge, &config.state.directory);
        }
    })?;
    go_on(&mut edge.driver.borrow_mut(), config, taken_over.as_ref());
    announce(&edge, config, &opened, &mut received, taken_over);
    let reloader = Reloader::new(source, loaded, opened);
    let reloads = edge.driver.borrow().reload_trigger();
    let events = ControlEvents::new(signals, reloads, reloader, terminal);
    let Some(cause) = lifecycle::run(events, &program, &lock, &edge) else { return Ok(()) };
    if config.state.store == StoreKind::Sled {
        kept_state::save(&edge, &config.state.directory);
    }
    log::info!("stopped by {cause}");
    Ok(())
}

/// For a process that will not become a daemon: the connections that were handed over to it
/// are closed so that they come back, and the state goes to the disk.
pub fn turn_away() {
    if let Ok((_, mut received)) = receive() {
        give_back(&mut received, None);
    }
}

/// What systemd has passed, and what the process before this one has handed over. It can be
/// taken once.
fn receive() -> Result<(ListenFds, ReceivedHandover), Error> {
    let mut passed = ListenFds::of_process().map_err(|error| Error::Passed("LISTEN_FDS", error))?;
    let received = exec::receive().or_else(|| handover::fd_store::receive(&mut passed));
    Ok((passed, received.unwrap_or_default()))
}

/// For a process that does not become the daemon.
fn give_back(received: &mut ReceivedHandover, options: Option<store::StoreOptions>) {
    received.close_all(Close::Restarting);
    if let Some(unused) = received.take_unused() {
        unused_state::save(unused, options, received.lock());
    }
}

/// What a process must have before it becomes the daemon, and what no two can have.
struct Resources {
    program: Rc<Path>,
    lock: File,
    epoll: Epoll,
    listeners: Listeners,
    opened: Opened,
    signals: Signals,
    edge_config: EdgeConfig,
    revocations: RevocationFile,
}

/// Takes the state directory and opens all listeners; then makes sure that keys and
/// secrets are there.
///
/// What another process might have comes first; keys, secrets and revocations are read, made
/// and written after that. So a process that does not become the daemon leaves no trace.
fn acquire(
    loaded: &Loaded,
    mut passed: ListenFds,
    received: &mut ReceivedHandover,
) -> Result<Resources, Error> {
    let Config { auth, state, .. } = &loaded.config;
    passed.extend(received.take_passed());
    let program = exec::program().map_err(Error::Program)?.into();
    let signals = [Signal::Term, Signal::Int, Signal::Hup, Signal::Usr1, Signal::Usr2];
    let signals = Signals::new(signals).map_err(Error::Signals)?;
    paths::create_directory(&state.directory, Purpose::State)?;
    let lock = lock(&state.directory, received.lock())?;
    let epoll = Epoll::new().map_err(Error::Wait)?;
    let mut listeners = Listeners::default();
    listeners.inherit(received.take_listeners());
    let opened = listeners::open(&loaded.config, passed, &mut listeners, &epoll);
    let ready = opened.and_then(|opened| {
        // A disk that is full for a moment is no mistake in the configuration.
        secret_file::generate_missing(auth, &state.directory)?;
        let mut edge_config =
            EdgeConfig::open(loaded).map_err(|error| Error::of_site(error, &state.directory))?;
        let (revoked, revocations) = revocation::file::open(&state.directory)?;
        edge_config.driver.verifier.heed(Rc::new(RefCell::new(revoked)));
        // A peer that connects as soon as that is possible finds keys and secrets.
        listeners.begin_listening().map_err(|(address, error)| Error::Listen(address, error))?;
        Ok((opened, edge_config, revocations))
    });
    let (opened, edge_config, revocations) = ready.inspect_err(|_| listeners.close())?;
    received.release_lock();
    Ok(Resources { program, lock, epoll, listeners, opened, signals, edge_config, revocations })
}

/// Logs what prevents no start, and is seldom meant.
fn log_doubts(loaded: &Loaded, edge_config: &EdgeConfig) {
    for warning in edge_config.warnings().into_iter().chain(loaded.foreign_variables()) {
        log::warn!("{warning}");
    }
    for problem in ownership::denied(&loaded.config) {
        log::error!("{problem}");
    }
}

/// Takes over the connections of the process before this one, how many and since when they
/// wait; else loads the store. Those that cannot be taken over are closed.
fn take_over(
    driver: &mut Driver,
    status: &StatusReporter,
    config: &Config,
    received: &mut ReceivedHandover,
) -> Option<TakenOver> {
    let taken_over = received.take_over(driver);
    if taken_over.is_none() {
        driver.load(LOAD_TIMEOUT, &config.positions(), &mut |now| {
            status.takes_longer(now, "reading what is kept");
        });
    }
    received.close_unusable(driver, Close::Restarting);
    taken_over
}

/// Begins to write positions, before a client gets a new one, and serves the connections that
/// were taken over.
fn go_on(driver: &mut Driver, config: &Config, taken_over: Option<&TakenOver>) {
    driver.begin_recording(&config.positions());
    if taken_over.is_some() {
        driver.expel_revoked();
        driver.go_on();
    }
}

/// Logs and notifies that the daemon runs, and takes over the HTTP connections of the process
/// before this one.
fn announce(
    edge: &Edge,
    config: &Config,
    opened: &Opened,
    received: &mut ReceivedHandover,
    taken_over: Option<TakenOver>,
) {
    // Now that all is open that the daemon needs.
    let open = edge.driver.borrow().connections() + received.pending();
    if let Some(warning) = fd_limit::warning(config.limits.connections, open) {
        log::warn!("{warning}");
    }
    // Before systemd is notified that the daemon runs: a stop after that must be received.
    signal_mask::let_in();
    log::info!("started: {}", opened.description());
    edge.import_pending(received.take_pending());
    if let Some(TakenOver { count, since }) = taken_over {
        let silence = clock::now().moment.since(since).as_millis();
        log::info!("took over {count} connections, which waited for {silence} ms");
    }
    edge.notify_ready();
}
