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
use crate::edge::driver::config::EdgeConfig;
use crate::edge::driver::{Driver, Shared};
use crate::edge::handover;
use crate::edge::handover::{Arrival, exec};
use crate::edge::net::epoll::Epoll;
use crate::edge::net::listeners::Listeners;
use crate::edge::net::{fd_limit, signal_mask};
use crate::edge::store;
use crate::edge::systemd::{ListenFds, Notify, StatusNotifier};
use crate::protocol::{Close, Moment};
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
    let (passed, mut arrival) = passed()?;
    let config = &loaded.config.clone();
    let resources = acquire(&loaded, passed, &mut arrival);
    let Resources { program, lock, epoll, listeners, opened, signals, edge, revocations } =
        resources.inspect_err(|_| give_back(&mut arrival, store_options(config)))?;
    log_doubts(&loaded, &edge);
    let begun = kept_state::begin(config, &lock, &mut arrival);
    let uses_checkpoint = begun.uses_checkpoint();
    let mut driver = begun.into_driver(edge, epoll);
    driver.keep_revocations(revocations);
    let taken_over = take_over(&mut driver, config, &mut arrival);
    let driver: Shared = Rc::new(RefCell::new(driver));
    let listeners = Rc::new(RefCell::new(listeners));
    // The last that may fail.
    kept_state::remove_checkpoint(&config.state.directory, uses_checkpoint).inspect_err(|_| {
        lifecycle::close_connections(&driver, &listeners);
        if taken_over.is_some() {
            kept_state::save(&mut driver.borrow_mut(), &config.state.directory);
        }
    })?;
    go_on(&mut driver.borrow_mut(), config, taken_over.as_ref());
    announce(&driver, &listeners, config, &opened, &mut arrival, taken_over);
    let reloader = Reloader::new(source, loaded, opened);
    let events = ControlEvents::new(signals, driver.borrow().reload_bell(), reloader, terminal);
    let Some(cause) = lifecycle::run(events, &program, &lock, &driver, &listeners) else { return Ok(()) };
    if config.state.store == StoreKind::Sled {
        kept_state::save(&mut driver.borrow_mut(), &config.state.directory);
    }
    log::info!("stopped by {cause}");
    Ok(())
}

/// For a process that will not become a daemon: the connections that were handed over to it
/// are closed so that they come back, and the state goes to the disk.
pub fn turn_away() {
    if let Ok((_, mut arrival)) = passed() {
        give_back(&mut arrival, None);
    }
}

/// What systemd has passed, and what the process before this one has handed over. It can be
/// taken once.
fn passed() -> Result<(ListenFds, Arrival), Error> {
    let mut passed = ListenFds::of_process().map_err(|error| Error::Passed("LISTEN_FDS", error))?;
    let arrival = exec::arrival().or_else(|| handover::fd_store::arrival(&mut passed));
    Ok((passed, arrival.unwrap_or_default()))
}

/// For a process that does not become the daemon.
fn give_back(arrival: &mut Arrival, options: Option<store::Options>) {
    arrival.turn_away(Close::Restarting);
    if let Some(unused) = arrival.unused() {
        unused_state::save(unused, options, arrival.lock.as_ref());
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
    edge: EdgeConfig,
    revocations: RevocationFile,
}

/// Takes the state directory and opens all listeners; then makes sure that keys and
/// secrets are there.
///
/// What another process might have comes first; keys, secrets and revocations are read, made
/// and written after that. So a process that does not become the daemon leaves no trace.
fn acquire(loaded: &Loaded, mut passed: ListenFds, arrival: &mut Arrival) -> Result<Resources, Error> {
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

/// Logs what prevents no start, and is seldom meant.
fn log_doubts(loaded: &Loaded, edge: &EdgeConfig) {
    for warning in edge.warnings().chain(loaded.foreign_variables()) {
        log::warn!("{warning}");
    }
    for problem in ownership::denied(&loaded.config) {
        log::error!("{problem}");
    }
}

/// Takes over the connections of the process before this one, how many and since when they
/// wait; else loads the store. Those that cannot be taken over are closed.
fn take_over(driver: &mut Driver, config: &Config, arrival: &mut Arrival) -> Option<(usize, Moment)> {
    if let Some(notify) = Notify::of_process() {
        driver.report_to(StatusNotifier::new(notify));
    }
    let taken_over = driver.adopt(arrival);
    if taken_over.is_none() {
        driver.load(LOAD_TIMEOUT, &config.positions());
    }
    driver.send_away(arrival, Close::Restarting);
    taken_over
}

/// Begins to write positions, before a client gets a new one, and serves the connections that
/// were taken over.
fn go_on(driver: &mut Driver, config: &Config, taken_over: Option<&(usize, Moment)>) {
    driver.follow_from(&config.positions());
    if taken_over.is_some() {
        driver.expel_revoked();
        driver.go_on();
    }
}

/// Logs and notifies that the daemon runs, and takes over the HTTP connections of the process
/// before this one.
fn announce(
    driver: &Shared,
    listeners: &Rc<RefCell<Listeners>>,
    config: &Config,
    opened: &Opened,
    arrival: &mut Arrival,
    taken_over: Option<(usize, Moment)>,
) {
    // Now that all is open that the daemon needs.
    let open = driver.borrow().connections() + arrival.guests.len();
    if let Some(warning) = fd_limit::warning(config.limits.connections, open) {
        log::warn!("{warning}");
    }
    // Before systemd is notified that the daemon runs: a stop after that must be received.
    signal_mask::let_in();
    log::info!("started: {}", opened.description());
    listeners.borrow_mut().settle_in(arrival, &driver.borrow());
    if let Some((count, since)) = taken_over {
        let silence = clock::now().moment.since(since).as_millis();
        log::info!("took over {count} connections, which waited for {silence} ms");
    }
    driver.borrow_mut().notify_ready();
}
