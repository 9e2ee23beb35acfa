//! What starts, in which order; it stops in reverse.
//!
//! Knows all rooms of the house and the signals. Does not know what goes on in
//! the rooms.

pub mod check;
mod error;
mod lifecycle;
mod listeners;
pub(crate) mod ownership;
pub mod reload;
mod unused_state;

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use async_signal::{Signal, Signals};
use rustix::fs::{Access, FlockOperation, flock};

use crate::config::file_owner::Purpose;
use crate::config::{Config, Loaded, StoreKind, paths};
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
use crate::edge::store::checkpoint;
use crate::edge::store::checkpoint::CheckpointFile;
use crate::edge::store::{Engine, Store};
use crate::edge::systemd::{ListenFds, Notify, StatusReporter};
use crate::hub::{Hub, Settings};
use crate::protocol::Close;
pub use error::Error;
use lifecycle::{Terminal, Wishes, work};
use listeners::Opened;
pub(crate) use listeners::{HTTP_SETTING, overruling};
use reload::{Reloader, Source};

/// How long peers may take to read what they are owed when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long the disk may take at the start; what it has comes later then.
const LOADING: Duration = Duration::from_secs(30);

/// How long it may take at the end. systemd kills after 90 s.
const SAVING: Duration = Duration::from_secs(30);

/// How long the state directory may belong to another process. One that was killed
/// while it started the process that owns the disk leaves a copy of itself behind,
/// which holds it until it has become that: mostly less than a millisecond.
const LETTING_GO: Duration = Duration::from_secs(1);

/// So often is looked whether it was let go.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Runs until a signal ends it.
///
/// Everything that another process might have comes first; what counts once is read,
/// removed and written after that. So who does not become the daemon leaves no trace.
///
/// # Errors
/// Whatever keeps it from starting; once it runs, nothing does.
pub fn run(source: Source, loaded: Loaded) -> Result<(), Error> {
    fd_limit::raise_limit();
    let terminal = Terminal::of_process();
    let (passed, mut received) = receive()?;
    let config = &loaded.config.clone();
    let secured = secure(&loaded, passed, &mut received);
    let Secured { program, lock, epoll, listeners, opened, signals, edge_config, revocations } =
        secured.inspect_err(|_| give_back(&mut received, store_options(config)))?;
    tell_doubts(&loaded, &edge_config);
    let Begun { hub, store, uses_remains } = begin(config, &lock, &mut received);
    let EdgeConfig { accept, driver: driver_config, http } = edge_config;
    let mut driver = Driver::new(hub, store, Rc::new(driver_config), epoll);
    let status = StatusReporter::new(Notify::of_process());
    driver.keep_revocations(revocations);
    let taken_over = received.take_over(&mut driver);
    if taken_over.is_none() {
        driver.load(LOADING, &config.positions(), &mut |now| {
            status.takes_longer(now, "reading what is kept");
        });
    }
    received.close_unusable(&mut driver, Close::Restarting);
    let edge = Edge::new(driver, listeners, http, accept, status);
    // The last that may fail.
    forget(&config.state.directory, uses_remains).inspect_err(|_| {
        lifecycle::close_all(&edge);
        if taken_over.is_some() {
            leave(&edge, &config.state.directory);
        }
    })?;
    // Before any peer receives a new position.
    edge.driver.borrow_mut().begin_recording(&config.positions());
    if taken_over.is_some() {
        edge.driver.borrow_mut().expel_revoked();
        edge.driver.borrow_mut().go_on();
    }
    // Now that all is open that the daemon needs.
    let open = edge.driver.borrow().connections() + received.pending();
    if let Some(warning) = fd_limit::warning(config.limits.connections, open) {
        log::warn!("{warning}");
    }
    // Before it is reported that it runs: a signal that stops it then is handled.
    signal_mask::let_in();
    log::info!("started: {}", opened.told);
    edge.import_pending(received.take_pending());
    if let Some(TakenOver { count, since }) = taken_over {
        let silence = clock::now().moment.since(since).as_millis();
        log::info!("took over {count} connections, which waited for {silence} ms");
    }
    edge.notify_ready();
    let reloader = Reloader::new(source, loaded, opened.addresses, opened.overruled);
    let reloads = edge.driver.borrow().reload_trigger();
    let wishes = Wishes::new(signals, reloads, reloader, terminal);
    let Some(cause) = work(wishes, &program, &lock, &edge) else { return Ok(()) };
    if config.state.store == StoreKind::Sled {
        leave(&edge, &config.state.directory);
    }
    log::info!("stopped by {cause}");
    Ok(())
}

/// Says what keeps nobody from starting, and is seldom meant.
fn tell_doubts(loaded: &Loaded, edge_config: &EdgeConfig) {
    for warning in edge_config.warnings().into_iter().chain(loaded.foreign_variables()) {
        log::warn!("{warning}");
    }
    for problem in ownership::denied(&loaded.config) {
        log::error!("{problem}");
    }
}

/// For a process that will not become a daemon: those who were handed over to it are
/// told to come back, and what was handed over goes to the disk.
pub fn turn_away() {
    if let Ok((_, mut received)) = receive() {
        give_back(&mut received, None);
    }
}

/// What systemd has passed, and what the process before this one has left. To be asked
/// for once.
fn receive() -> Result<(ListenFds, ReceivedHandover), Error> {
    let mut passed = ListenFds::of_process().map_err(|error| Error::Passed("LISTEN_FDS", error))?;
    let received = exec::receive().or_else(|| handover::fd_store::receive(&mut passed));
    Ok((passed, received.unwrap_or_default()))
}

/// What a process has that may become the daemon: nobody else has any of it.
struct Secured {
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
fn secure(loaded: &Loaded, passed: ListenFds, received: &mut ReceivedHandover) -> Result<Secured, Error> {
    let Config { auth, state, .. } = &loaded.config;
    let mut passed = passed;
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
        // A disk that is full for a moment is no mistake of whoever configures.
        secret_file::generate_missing(auth, &state.directory)?;
        let mut edge_config =
            EdgeConfig::open(loaded).map_err(|error| Error::of_site(error, &state.directory))?;
        let (revoked, revocations) = revocation::file::open(&state.directory)?;
        edge_config.driver.verifier.heed(Rc::new(RefCell::new(revoked)));
        // A client that connects as soon as that is possible finds keys and secrets.
        listeners.begin_listening().map_err(|(address, error)| Error::Listen(address, error))?;
        Ok((opened, edge_config, revocations))
    });
    let (opened, edge_config, revocations) = ready.inspect_err(|_| listeners.close())?;
    received.release_lock();
    Ok(Secured { program, lock, epoll, listeners, opened, signals, edge_config, revocations })
}

/// What the daemon begins with.
struct Begun {
    hub: Hub,
    store: Store,
    /// They go on from what a clean stop has left, which is true once.
    uses_remains: bool,
}

/// A hub and a store that go on where those of another process were, or from what a
/// clean stop has left, or anew.
fn begin(config: &Config, lock: &File, received: &mut ReceivedHandover) -> Begun {
    let settings = config.hub_settings();
    if let Some((hub, store)) = received.revive(&settings, store_options(config)) {
        return Begun { hub, store, uses_remains: false };
    }
    if let Some(unused) = received.take_unused() {
        unused_state::save(unused, store_options(config), Some(lock));
    }
    let left = left(&config.state.directory);
    let mut store = store(config);
    if left.is_none() && !received.has_come() && store.is_left_behind(&config.positions()) {
        log::warn!(
            "the daemon before this one has not stopped but ended, and handed nothing over: its connections \
             are lost, and what no disk had"
        );
    }
    Begun { hub: hub(settings, &mut store, left.as_ref()), store, uses_remains: left.is_some() }
}

/// For a process that does not become the daemon.
fn give_back(received: &mut ReceivedHandover, options: Option<store::Options>) {
    received.close_all(Close::Restarting);
    if let Some(unused) = received.take_unused() {
        unused_state::save(unused, options, received.lock());
    }
}

/// What a clean stop has left, where it can be taken away before anybody is let in:
/// it is true once.
fn left(directory: &Path) -> Option<CheckpointFile> {
    let left = checkpoint::read(directory).unwrap_or_else(|error| {
        log::error!("{}: what the last stop has left cannot be read: {error}", directory.display());
        None
    });
    let is_writable = || rustix::fs::access(directory, Access::WRITE_OK);
    left.filter(|_| match is_writable() {
        Ok(()) => true,
        Err(error) => {
            log::error!("{}: channels begin anew: {}", directory.display(), io::Error::from(error));
            false
        }
    })
}

/// Takes away what the last stop has left. With another store, or none, it would not be
/// true the next time: so it goes in any case.
fn forget(directory: &Path, uses_remains: bool) -> Result<(), Error> {
    match checkpoint::remove(directory) {
        // Where nothing can be written nothing was taken from there either.
        Err(error) if uses_remains => Err(Error::State(directory.to_owned(), error)),
        _ => Ok(()),
    }
}

/// A hub that goes on from what a clean stop has left, or begins anew.
fn hub(settings: Settings, store: &mut Store, left: Option<&CheckpointFile>) -> Hub {
    let seed = clock::random();
    let Some(left) = left else { return Hub::new(settings, seed) };
    let Some(shift) = store.go_on(&left.stamp) else { return Hub::new(settings, seed) };
    match Hub::revive(settings.clone(), seed, clock::now(), &left.hub, shift) {
        Ok(hub) => hub,
        Err(error) => {
            log::error!("the last stop has left what cannot be used: {error}");
            Hub::new(settings, seed)
        }
    }
}

/// Writes what is to outlive the daemon.
fn leave(edge: &Edge, directory: &Path) {
    let mut driver = edge.driver.borrow_mut();
    let lost = driver.save(SAVING, &mut |now| edge.status.takes_longer(now, "writing what is kept"));
    if lost > 0 {
        let why = driver.trouble().unwrap_or("the disk is too slow");
        log::error!("{lost} messages are lost with this process: {why}");
    }
    let Some((stamp, hub)) = driver.remains() else { return };
    if let Err(error) = checkpoint::write(directory, stamp, &hub) {
        log::error!("{}: positions are lost: {error}", directory.display());
    }
}

/// Where messages are kept.
fn store(config: &Config) -> Store {
    store_options(config).map_or_else(Store::in_memory, |options| Store::on_disk(options, clock::now()))
}

/// How the disk is to be used, if it is.
pub(crate) fn store_options(config: &Config) -> Option<store::Options> {
    let engine = Engine::built_in().filter(|_| config.state.store == StoreKind::Sled);
    engine.map(|engine| store::Options {
        engine,
        // The file may have been replaced by a newer one; this one is what runs.
        program: "/proc/self/exe".into(),
        directory: config.state.directory.join(paths::STORE),
        write_delay: config.store.write_delay,
        bytes: config.limits.hub.kept_bytes as u64,
        flash_budget: config.store.flash_budget,
        memory: config.limits.hub.memory / 4,
    })
}

/// Takes the state directory for this process; the lock ends with it. It is the
/// directory that is locked: nothing has to be written for that.
///
/// Where a process before this one has kept it for us, nobody gets in between.
fn lock(directory: &Path, kept: Option<&File>) -> Result<File, Error> {
    let wrong = |error| Error::State(directory.to_owned(), error);
    let file = File::open(directory).map_err(wrong)?;
    let is_it = |kept: &File| -> io::Result<bool> {
        let (kept, found) = (kept.metadata()?, file.metadata()?);
        Ok((kept.dev(), kept.ino()) == (found.dev(), found.ino()))
    };
    let kept = kept.filter(|kept| is_it(kept).unwrap_or(false));
    let file = kept.map_or(Ok(file), File::try_clone).map_err(wrong)?;
    let deadline = clock::now().moment + LETTING_GO;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if clock::now().moment >= deadline {
            return Err(Error::Running(directory.to_owned()));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(file)
}
