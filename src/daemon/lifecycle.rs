//! What becomes of the daemon when a signal comes: it stops, takes over another
//! configuration, or goes on in another program.
//!
//! Knows what has to be done before either. Does not know how it is done.

use std::collections::VecDeque;
use std::fs::File;
use std::io::IsTerminal;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use async_channel::Receiver;
use async_signal::{Signal, Signals};
use smol::future::FutureExt;
use smol::stream::StreamExt;
use smol::{LocalExecutor, Timer};

use super::FAREWELL;
use super::reload::Reloader;
use crate::edge::clock;
use crate::edge::driver::{Shared, revocations};
use crate::edge::event_loop::Edge;
use crate::edge::handover;
use crate::edge::handover::drain;
use crate::edge::handover::{SentPackage, Transport, exec};
use crate::edge::net::bind::Unavailable;
use crate::edge::net::listeners::SharedListeners;
use crate::edge::net::signal_mask;
use crate::edge::systemd::Notify;
use crate::hub::Input;
use crate::protocol::{Close, Moment};

/// How long the disk may take to write what it is still owed, before systemd starts
/// another process that goes on with that: everybody is served meanwhile.
const WRITING: Duration = Duration::from_secs(3);

/// So often is looked whether it has; only the end of a process waits like this.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What comes after the loop.
enum Next {
    /// Nothing; this signal ended it.
    End(&'static str),
    /// The program that is in our file now. Signals wait until it hears them.
    Program,
    /// Another process, which systemd starts.
    Process,
}

/// How long an announcement that the next SIGTERM is a restart's holds: systemd
/// sends the one right after the other.
const ANNOUNCED: Duration = Duration::from_secs(10);

/// Those who want something of the daemon as a whole: signals, and administrators
/// who ask for a reload.
pub(super) struct Wishes {
    signals: Signals,
    asked: Receiver<()>,
    reloader: Reloader,
    /// At the start: one that went away since may still have to be noticed.
    terminal: Terminal,
}

/// Whether somebody sits at the other end of what the daemon says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Terminal {
    None,
    There,
}

impl Terminal {
    pub(super) fn of_process() -> Self {
        if std::io::stderr().is_terminal() { Self::There } else { Self::None }
    }
}

impl Wishes {
    pub(super) fn new(signals: Signals, asked: Receiver<()>, reloader: Reloader, terminal: Terminal) -> Self {
        Self { signals, asked, reloader, terminal }
    }

    /// The next signal; none, where somebody asks for a reload.
    async fn next(&mut self) -> Option<Signal> {
        // No signal is left out: one that cannot be read ends the daemon, as SIGTERM.
        let signal = async { Some(self.signals.next().await.and_then(Result::ok).unwrap_or(Signal::Term)) };
        // The driver holds the other end: this does not fail while there is one.
        let asked = async { self.asked.recv().await.ok().and(None) };
        signal.or(asked).await
    }

    /// What a terminal sends that goes away, with whoever sat there.
    fn has_lost_terminal(&self) -> bool {
        self.terminal == Terminal::There && Terminal::of_process() == Terminal::None
    }
}

/// Runs until something ends this program: why it stops, or nothing where another
/// process has everything.
pub(super) fn work(mut wishes: Wishes, program: &Rc<Path>, lock: &File, edge: &Edge) -> Option<&'static str> {
    let executor = Rc::new(LocalExecutor::new());
    let _writer = executor.spawn(revocations::serve(edge.driver.clone()));
    loop {
        // As a task of its own it is polled when a signal comes, not at every turn.
        let next = await_wish(wishes, program.clone(), edge.clone());
        wishes = match edge.run(&executor, executor.spawn(next)) {
            (_, Next::End(cause)) => return Some(cause),
            (_, Next::Process) if leave_to_systemd(edge) => return None,
            (_, Next::Process) => {
                edge.run(&executor, stop(edge, Close::Restarting));
                return Some("SIGTERM");
            }
            (wishes, Next::Program) => wishes,
        };
        become_next(program, edge, lock);
    }
}

/// Does what is wanted until it ends this program, and then what has to be done
/// while the loop still turns.
async fn await_wish(mut wishes: Wishes, program: Rc<Path>, edge: Edge) -> (Wishes, Next) {
    let Edge { driver, listeners, status, .. } = &edge;
    let mut restarts_until = Moment::default();
    let mut waiting = VecDeque::new();
    loop {
        let signal = match waiting.pop_front() {
            Some(signal) => Some(signal),
            None => wishes.next().await,
        };
        // Of two that wait the kernel runs the handler of the later one first: what
        // announces a SIGTERM may stand behind it.
        waiting.extend(all_that_wait(&mut wishes.signals).await);
        let is_announced = |waiting: &VecDeque<Signal>| waiting.contains(&Signal::Usr1);
        match signal {
            None => wishes.reloader.reload(&edge),
            Some(Signal::Hup) if !wishes.has_lost_terminal() => {
                wishes.reloader.reload(&edge);
            }
            Some(Signal::Usr1) => restarts_until = clock::now().moment + ANNOUNCED,
            Some(Signal::Usr2) => match may_go_on(&program, &wishes.reloader, listeners).await {
                Ok(()) => {
                    drain::drain(driver, listeners).await;
                    signal_mask::hold();
                    // What came meanwhile was for this program.
                    waiting.extend(all_that_wait(&mut wishes.signals).await);
                    // The next one reads the configuration and our file anyway.
                    if !waiting.iter().any(|signal| matches!(signal, Signal::Term | Signal::Int)) {
                        return (wishes, Next::Program);
                    }
                    signal_mask::let_in();
                    listeners.borrow_mut().resume(driver.borrow().epoll());
                }
                Err(why) => log::error!("SIGUSR2: nothing is handed over: {why}"),
            },
            Some(Signal::Term) if clock::now().moment < restarts_until || is_announced(&waiting) => {
                let opened = wishes.reloader.open_for_next(&mut listeners.borrow_mut());
                if let Err(Unavailable { why, is_taken: true }) = opened {
                    log::error!(
                        "the next process would not start, so this restart ends all connections: {why}"
                    );
                    stop(&edge, Close::Restarting).await;
                    return (wishes, Next::End(cause(Signal::Term)));
                }
                status.restarting();
                write_out(driver).await;
                drain::drain(driver, listeners).await;
                return (wishes, Next::Process);
            }
            Some(signal) => {
                stop(&edge, Close::ShuttingDown).await;
                return (wishes, Next::End(cause(signal)));
            }
        }
    }
}

/// Makes sure that the next program would start and go on with what this one has, and opens
/// for it what it listens at: nobody could take back what is handed over to one that does not.
async fn may_go_on(program: &Path, reloader: &Reloader, listeners: &SharedListeners) -> Result<(), String> {
    // Its line says more than that of a program which reads the same.
    reloader.may_be_succeeded().map_err(|error| error.to_string().replace('\n', "; "))?;
    drain::check(program).await?;
    reloader.open_for_next(&mut listeners.borrow_mut()).map_err(|unavailable| unavailable.why)
}

/// Has the disk write what it is owed, for as long as that may take. Who is still at it
/// then is killed: systemd waits until no process of the unit is left, and the next one
/// has all of it written once more.
async fn write_out(driver: &Shared) {
    driver.borrow_mut().begin_write_out();
    let deadline = clock::now().moment + WRITING;
    while !driver.borrow().has_written_out() && clock::now().moment < deadline {
        Timer::after(LOOK_AGAIN).await;
    }
    driver.borrow_mut().end_write_out();
}

/// The signals that were received and not looked at.
async fn all_that_wait(signals: &mut Signals) -> Vec<Signal> {
    let mut waiting = Vec::new();
    while let Some(Some(Ok(signal))) = smol::future::poll_once(signals.next()).await {
        waiting.push(signal);
    }
    waiting
}

/// How a signal that ends the daemon is called.
fn cause(signal: Signal) -> &'static str {
    match signal {
        Signal::Int => "SIGINT",
        Signal::Hup => "SIGHUP",
        _ => "SIGTERM",
    }
}

/// For a daemon that has connections and no listeners: they are closed, and asked to come back.
pub(super) fn close_all(edge: &Edge) {
    let executor = Rc::new(LocalExecutor::new());
    edge.run(&executor, stop(edge, Close::Restarting));
}

/// Closes all connections, and lets their peers read that.
async fn stop(edge: &Edge, close: Close) {
    let Edge { driver, listeners, status, .. } = edge;
    listeners.borrow_mut().close();
    status.stopping(clock::now().moment, FAREWELL);
    driver.borrow_mut().handle(Input::Stopping { close });
    let deadline = clock::now().moment + FAREWELL;
    let is_done = || driver.borrow().is_idle() && !listeners.borrow().pending().borrow().is_serving();
    while !is_done() && clock::now().moment < deadline {
        Timer::after(LOOK_AGAIN).await;
    }
}

/// Goes on in the program that is in our file now. Returns only if that fails;
/// then this one goes on as if nothing had happened.
fn become_next(program: &Path, edge: &Edge, lock: &File) {
    let (mut driver, mut listeners) = (edge.driver.borrow_mut(), edge.listeners.borrow_mut());
    let error = match handover::pack(&mut driver, &listeners, Transport::Exec(lock)) {
        Ok(SentPackage { package, .. }) => exec::become_next(program, &package),
        Err(error) => error,
    };
    log::error!("nothing is handed over to {}: {error}; this daemon goes on", program.display());
    listeners.resume(driver.epoll());
    signal_mask::let_in();
}

/// Leaves everything to the process that systemd starts next. False if it does not
/// take it: then this one has to say goodbye.
fn leave_to_systemd(edge: &Edge) -> bool {
    let Some(notify) = Notify::of_process() else { return false };
    let mut driver = edge.driver.borrow_mut();
    let count = driver.connections();
    let packed = handover::pack(&mut driver, &edge.listeners.borrow(), Transport::Systemd);
    match packed.and_then(|sent| handover::fd_store::give(notify, sent)) {
        Ok(()) => log::info!("handed {count} connections over to the next process"),
        Err(error) => {
            log::error!("nothing is handed over: {error}; connections are told to come back");
            return false;
        }
    }
    true
}
