//! What starts, in which order; it stops in reverse.
//!
//! Knows all rooms of the house and the signals. Does not know what goes on in
//! the rooms.

mod open;

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use async_signal::{Signal, Signals};
use rustix::fs::{Access, FlockOperation, flock};
use rustix::io::Errno;
use smol::future::FutureExt;
use smol::stream::StreamExt;
use smol::{LocalExecutor, Timer};

use crate::config::{Config, ConfigError, Loaded, StoreKind, places};
use crate::edge::doors::Doors;
use crate::edge::driver::{Driver, Shared};
use crate::edge::epoll::Epoll;
use crate::edge::secret::Absent;
use crate::edge::site::Site;
use crate::edge::store::remains::{self, Remains};
use crate::edge::store::{self, Store};
use crate::edge::systemd::{Bulletin, Notify, Passed};
use crate::edge::{clock, serve};
use crate::hub::{Hub, Input, Settings};
use crate::protocol::Close;
use crate::reload::{Reloader, Source, Wish};

/// Why the daemon did not start.
#[derive(Debug)]
pub enum Error {
    /// The configuration, a key or a secret.
    Config(ConfigError),
    /// A directory or file of the daemon's own.
    State(PathBuf, io::Error),
    /// Another daemon has the state directory.
    Running(PathBuf),
    /// What systemd has passed, by name.
    Passed(&'static str, io::Error),
    /// A TCP address.
    Listen(SocketAddr, io::Error),
    /// The workers' socket.
    Worker(PathBuf, io::Error),
    /// The kernel's word about what is ready.
    Wait(io::Error),
    /// The signals of the process.
    Signals(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::State(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Running(path) => write!(
                f,
                "another wshubd is already running with the state directory {}; give this one another \
                 (`[state] directory`), or stop that one",
                path.display()
            ),
            Self::Passed(name, error) => {
                write!(f, "systemd has passed {name:?}, which cannot be used: {error}")
            }
            Self::Listen(address, error) if is_sandboxed(error) => write!(
                f,
                "cannot listen on {address}: this unit may open no such socket; start wshubd.socket, whose \
                 `ListenStream=` sets the address"
            ),
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {error} (`[listen] http` sets the address)")
            }
            Self::Worker(path, error) => {
                write!(
                    f,
                    "cannot open the worker socket {}: {error} (`[listen] worker` sets the path)",
                    path.display()
                )
            }
            Self::Wait(error) => write!(f, "cannot wait for sockets: {error}"),
            Self::Signals(error) => write!(f, "cannot receive signals: {error}"),
        }
    }
}

/// Whether it is the unit that allows nothing (`RestrictAddressFamilies=`), not the
/// address that is wrong.
fn is_sandboxed(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
}

impl std::error::Error for Error {}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl Error {
    /// What the process exits with, after `sysexits.h`. systemd does not start
    /// again what ended with 78.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Passed(..) => 78,
            Self::State(..) => 73,
            Self::Running(_) | Self::Listen(..) | Self::Worker(..) => 69,
            Self::Wait(_) | Self::Signals(_) => 71,
        }
    }
}

/// How long peers may take to read what they are owed when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long the disk may take at the start; what it has comes later then.
const LOADING: Duration = Duration::from_secs(30);

/// How long it may take at the end. systemd kills after 90 s.
const SAVING: Duration = Duration::from_secs(30);

/// Runs until a signal ends it.
///
/// # Errors
/// Whatever keeps it from starting; once it runs, nothing does.
pub fn run(source: Source, loaded: Loaded) -> Result<(), Error> {
    // Before anything else is opened.
    let passed = Passed::of_process().map_err(|error| Error::Passed("LISTEN_FDS", error))?;
    let config = &loaded.config.clone();
    let directory = &config.state.directory;
    places::create_directory(directory).map_err(ConfigError::from)?;
    let _lock = lock(directory)?;
    let site = Rc::new(Site::open(&loaded, Absent::Generate)?);
    if let Some(warning) = site.peers.warning() {
        log::warn!("{warning}");
    }
    let mut store = store(config);
    let left = left(directory);
    let hub = hub(config.hub_settings(), &mut store, left.as_ref());
    let epoll = Epoll::new().map_err(Error::Wait)?;
    let mut driver = Driver::new(hub, store, site, epoll);
    if let Some(notify) = Notify::of_process() {
        driver.report_to(Bulletin::new(notify));
    }
    driver.load(LOADING, &config.positions());
    let driver = Rc::new(RefCell::new(driver));
    let doors = Rc::new(RefCell::new(Doors::default()));
    // Before anybody is told that it runs: whoever stops it then is heard.
    let signals = Signals::new([Signal::Term, Signal::Int, Signal::Hup]).map_err(Error::Signals)?;
    // With another store, or none, it would not be true the next time: so it goes
    // in any case.
    match remains::remove(directory) {
        // Where nothing can be written nothing was taken from there either.
        Err(error) if left.is_some() => return Err(Error::State(directory.clone(), error)),
        _ => {}
    }
    let addresses = open::open(config, passed, &mut doors.borrow_mut(), &driver.borrow().links.epoll)?;
    driver.borrow_mut().is_ready();
    let executor = Rc::new(LocalExecutor::new());
    let reloader = Reloader::new(source, loaded, addresses);
    // As a task of its own it is polled when a signal comes, not at every turn.
    let stopping = executor.spawn(obey(signals, reloader, driver.clone(), doors.clone()));
    let cause = serve::run(&driver, &doors, &executor, stopping);
    if config.state.store == StoreKind::Sled {
        leave(&mut driver.borrow_mut(), directory);
    }
    log::info!("stopped by {cause}");
    Ok(())
}

/// What a clean stop has left, where it can be taken away before anybody is let in:
/// it is true once.
fn left(directory: &Path) -> Option<Remains> {
    let left = remains::read(directory).unwrap_or_else(|error| {
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

/// A hub that goes on from what a clean stop has left, or begins anew.
fn hub(settings: Settings, store: &mut Store, left: Option<&Remains>) -> Hub {
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
fn leave(driver: &mut Driver, directory: &Path) {
    let lost = driver.save(SAVING);
    if lost > 0 {
        let why = driver.trouble().unwrap_or("the disk is too slow");
        log::error!("{lost} messages are lost with this process: {why}");
    }
    let Some((stamp, hub)) = driver.remains() else { return };
    if let Err(error) = remains::write(directory, stamp, &hub) {
        log::error!("{}: positions are lost: {error}", directory.display());
    }
}

/// Where messages are kept.
fn store(config: &Config) -> Store {
    match config.state.store {
        StoreKind::Memory => Store::in_memory(),
        StoreKind::Sled => Store::on_disk(store_options(config), clock::now()),
    }
}

/// How the disk is used.
pub(crate) fn store_options(config: &Config) -> store::Options {
    store::Options {
        // The file may have been replaced by a newer one; this one is what runs.
        program: "/proc/self/exe".into(),
        directory: config.state.directory.join("store"),
        write_delay: config.store.write_delay,
        bytes: config.limits.hub.kept_bytes as u64,
        flash_budget: config.store.flash_budget,
        memory: config.limits.hub.memory / 4,
    }
}

/// Does what signals and administrators want, until one of them wants the end.
async fn obey(
    mut signals: Signals,
    mut reloader: Reloader,
    driver: Shared,
    doors: Rc<RefCell<Doors>>,
) -> &'static str {
    let bell = driver.borrow().reload_bell();
    let had_terminal = io::stderr().is_terminal();
    let cause = loop {
        let signal = async { Some(signals.next().await) };
        // The driver holds the other end: this does not fail while there is one.
        let asked = async { bell.recv().await.ok().and(None) };
        let wish = match signal.or(asked).await {
            None => Wish::Asked,
            // What a terminal sends that goes away, with whoever sat there.
            Some(Some(Ok(Signal::Hup))) if had_terminal && !io::stderr().is_terminal() => break "SIGHUP",
            Some(Some(Ok(Signal::Hup))) => Wish::Signal,
            Some(Some(Ok(Signal::Int))) => break "SIGINT",
            Some(_) => break "SIGTERM",
        };
        reloader.reload(wish, &driver, &mut doors.borrow_mut());
    };
    doors.borrow_mut().close();
    driver.borrow_mut().is_stopping(FAREWELL);
    driver.borrow_mut().told(Input::Stopping { close: Close::ShuttingDown });
    let deadline = clock::now().moment + FAREWELL;
    while !driver.borrow().is_idle() && clock::now().moment < deadline {
        /// Short beside what a peer takes to hang up; only a stop waits like this.
        const LOOK_AGAIN: Duration = Duration::from_millis(10);
        Timer::after(LOOK_AGAIN).await;
    }
    cause
}

/// Takes the state directory for this process; the lock ends with it. It is the
/// directory that is locked: nothing has to be written for that.
fn lock(directory: &Path) -> Result<File, Error> {
    let file = File::open(directory).map_err(|error| Error::State(directory.to_owned(), error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::Running(directory.to_owned())),
    }
}
