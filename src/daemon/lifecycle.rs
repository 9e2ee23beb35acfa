//! The daemon's life after the start: signals and reloads, until it stops or goes on in
//! another program or process.

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

use super::reload::Reloader;
use crate::edge::clock;
use crate::edge::driver::{Shared, revocations};
use crate::edge::event_loop::Edge;
use crate::edge::handover;
use crate::edge::handover::{SentPackage, Transport, drain, exec};
use crate::edge::net::bind::Unavailable;
use crate::edge::net::listeners::SharedListeners;
use crate::edge::net::signal_mask;
use crate::edge::systemd::Notify;
use crate::hub::Input;
use crate::protocol::{Close, Moment};

/// How long peers may take to read what is queued for them when the daemon stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the disk may take to write what is not written yet, before systemd starts
/// another process that goes on with that: all connections are served meanwhile.
const WRITE_OUT_TIMEOUT: Duration = Duration::from_secs(3);

/// The time between two looks at either; only the end of a process waits like this.
const POLL: Duration = Duration::from_millis(10);

/// What follows the loop.
enum AfterLoop {
    /// Nothing; this signal ended it.
    End(&'static str),
    /// The program that is in our file now. Signals wait until it receives them.
    Program,
    /// Another process, which systemd starts.
    Process,
}

/// How long an announcement holds that the next SIGTERM is that of a restart: systemd sends
/// the one right after the other.
const ANNOUNCEMENT: Duration = Duration::from_secs(10);

/// Events that concern the daemon as a whole: signals, and requests of administrators for a
/// reload.
pub(super) struct ControlEvents {
    signals: Signals,
    reloads: Receiver<()>,
    reloader: Reloader,
    /// At the start: that it went away since may still have to be noticed.
    terminal: Terminal,
}

/// Whether standard error is a terminal.
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

impl ControlEvents {
    pub(super) fn new(
        signals: Signals,
        reloads: Receiver<()>,
        reloader: Reloader,
        terminal: Terminal,
    ) -> Self {
        Self { signals, reloads, reloader, terminal }
    }

    /// The next signal; none for a request for a reload.
    async fn next(&mut self) -> Option<Signal> {
        // No signal is left out: one that cannot be read ends the daemon, as SIGTERM.
        let signal = async { Some(self.signals.next().await.and_then(Result::ok).unwrap_or(Signal::Term)) };
        // The driver holds the other end: this does not fail while there is one.
        let reload = async { self.reloads.recv().await.ok().and(None) };
        signal.or(reload).await
    }

    /// Whether a SIGHUP is that of a terminal that went away.
    fn has_lost_terminal(&self) -> bool {
        self.terminal == Terminal::There && Terminal::of_process() == Terminal::None
    }
}

/// Runs until something ends this program. Returns why it stops, or nothing where another
/// process has everything.
pub(super) fn run(
    mut events: ControlEvents,
    program: &Rc<Path>,
    lock: &File,
    edge: &Edge,
) -> Option<&'static str> {
    let executor = Rc::new(LocalExecutor::new());
    let _writer = executor.spawn(revocations::serve(edge.driver.clone()));
    loop {
        // As a task of its own it is polled when a signal comes, not at every turn.
        let next = handle_events(events, program.clone(), edge.clone());
        events = match edge.run(&executor, executor.spawn(next)) {
            (_, AfterLoop::End(cause)) => return Some(cause),
            (_, AfterLoop::Process) if hand_over_to_systemd(edge) => return None,
            (_, AfterLoop::Process) => {
                edge.run(&executor, stop(edge, Close::Restarting));
                return Some("SIGTERM");
            }
            (events, AfterLoop::Program) => events,
        };
        become_next(program, edge, lock);
    }
}

/// Handles events until one ends this program, and then does what has to be done while the
/// loop still turns.
async fn handle_events(
    mut events: ControlEvents,
    program: Rc<Path>,
    edge: Edge,
) -> (ControlEvents, AfterLoop) {
    let Edge { driver, listeners, status, .. } = &edge;
    let mut restarts_until = Moment::default();
    let mut waiting = VecDeque::new();
    loop {
        let signal = match waiting.pop_front() {
            Some(signal) => Some(signal),
            None => events.next().await,
        };
        // Of two that wait the kernel runs the handler of the later one first: what
        // announces a SIGTERM may stand behind it.
        waiting.extend(pending_signals(&mut events.signals).await);
        let is_announced = |waiting: &VecDeque<Signal>| waiting.contains(&Signal::Usr1);
        match signal {
            None => events.reloader.reload(&edge),
            Some(Signal::Hup) if !events.has_lost_terminal() => {
                events.reloader.reload(&edge);
            }
            Some(Signal::Usr1) => restarts_until = clock::now().moment + ANNOUNCEMENT,
            Some(Signal::Usr2) => match prepare_next(&program, &events.reloader, listeners).await {
                Ok(()) => {
                    drain::drain(driver, listeners).await;
                    signal_mask::hold();
                    // What came meanwhile was for this program.
                    waiting.extend(pending_signals(&mut events.signals).await);
                    // The next one reads the configuration and our file anyway.
                    if !waiting.iter().any(|signal| matches!(signal, Signal::Term | Signal::Int)) {
                        return (events, AfterLoop::Program);
                    }
                    signal_mask::let_in();
                    listeners.borrow_mut().resume(driver.borrow().epoll());
                }
                Err(why) => log::error!("SIGUSR2: nothing is handed over: {why}"),
            },
            Some(Signal::Term) if clock::now().moment < restarts_until || is_announced(&waiting) => {
                let opened = events.reloader.open_for_next(&mut listeners.borrow_mut());
                if let Err(Unavailable { why, is_taken: true }) = opened {
                    log::error!(
                        "the next process would not start, so this restart ends all connections: {why}"
                    );
                    stop(&edge, Close::Restarting).await;
                    return (events, AfterLoop::End(cause(Signal::Term)));
                }
                status.restarting();
                write_out(driver).await;
                drain::drain(driver, listeners).await;
                return (events, AfterLoop::Process);
            }
            Some(signal) => {
                stop(&edge, Close::ShuttingDown).await;
                return (events, AfterLoop::End(cause(signal)));
            }
        }
    }
}

/// Makes sure that the next program would start and go on with what this one has, and opens
/// the listeners for it: what is handed over to one that does not start is lost.
async fn prepare_next(
    program: &Path,
    reloader: &Reloader,
    listeners: &SharedListeners,
) -> Result<(), String> {
    // This error says more than that of a program which reads the same.
    reloader.check_successor().map_err(|error| error.to_string().replace('\n', "; "))?;
    drain::check(program).await?;
    reloader.open_for_next(&mut listeners.borrow_mut()).map_err(|unavailable| unavailable.why)
}

/// Has the disk write what is not written yet, for as long as that may take. A process that
/// is still at it then is killed: systemd waits until no process of the unit is left, and the
/// next one has all of it written once more.
async fn write_out(driver: &Shared) {
    driver.borrow_mut().begin_write_out();
    let deadline = clock::now().moment + WRITE_OUT_TIMEOUT;
    while !driver.borrow().has_written_out() && clock::now().moment < deadline {
        Timer::after(POLL).await;
    }
    driver.borrow_mut().end_write_out();
}

/// The signals that were received and not handled.
async fn pending_signals(signals: &mut Signals) -> Vec<Signal> {
    let mut waiting = Vec::new();
    while let Some(Some(Ok(signal))) = smol::future::poll_once(signals.next()).await {
        waiting.push(signal);
    }
    waiting
}

/// The name of a signal that ends the daemon.
fn cause(signal: Signal) -> &'static str {
    match signal {
        Signal::Int => "SIGINT",
        Signal::Hup => "SIGHUP",
        _ => "SIGTERM",
    }
}

/// For a daemon that has connections and does not start: they are closed so that they come
/// back.
pub(super) fn close_connections(edge: &Edge) {
    let executor = Rc::new(LocalExecutor::new());
    edge.run(&executor, stop(edge, Close::Restarting));
}

/// Closes all connections, and waits until their peers have read that.
async fn stop(edge: &Edge, close: Close) {
    let Edge { driver, listeners, status, .. } = edge;
    listeners.borrow_mut().close();
    status.stopping(clock::now().moment, CLOSE_TIMEOUT);
    driver.borrow_mut().handle(Input::Stopping { close });
    let deadline = clock::now().moment + CLOSE_TIMEOUT;
    let is_done = || driver.borrow().is_idle() && !listeners.borrow().pending().borrow().is_serving();
    while !is_done() && clock::now().moment < deadline {
        Timer::after(POLL).await;
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

/// Hands everything over to the process that systemd starts next. False if systemd does not
/// take it: then this one has to close the connections.
fn hand_over_to_systemd(edge: &Edge) -> bool {
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
