//! The daemon: what starts, in which order; it stops in reverse.

pub mod check;
mod error;
mod kept_state;
mod lifecycle;
mod listeners;
mod lock;
pub(crate) mod ownership;
mod reload;
mod resources;
mod store_options;
mod unused_state;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::config::{Config, ConfigSource, Loaded, StoreKind};
use crate::edge::clock;
use crate::edge::driver::config::EdgeConfig;
use crate::edge::driver::{Driver, Shared};
use crate::edge::handover;
use crate::edge::handover::{Arrival, exec};
use crate::edge::net::listeners::Listeners;
use crate::edge::net::{fd_limit, signal_mask};
use crate::edge::store;
use crate::edge::systemd::{ListenFds, Notify, StatusNotifier};
use crate::protocol::{Close, Moment};
pub use error::Error;
use kept_state::Begun;
use lifecycle::{ControlEvents, Terminal};
use listeners::Opened;
use reload::Reloader;
use resources::Resources;
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
    let resources = resources::acquire(&loaded, passed, &mut arrival);
    let Resources { program, lock, epoll, listeners, opened, signals, edge, revocations } =
        resources.inspect_err(|_| give_back(&mut arrival, store_options(config)))?;
    log_doubts(&loaded, &edge);
    let Begun { hub, store, uses_checkpoint } = kept_state::begin(config, &lock, &mut arrival);
    let mut driver = Driver::new(hub, store, Rc::new(edge), epoll);
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
