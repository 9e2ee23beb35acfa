//! What becomes of the daemon when a signal comes: it stops, or goes on in
//! another program.
//!
//! Knows what has to be done before either. Does not know how it is done.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use async_signal::{Signal, Signals};
use smol::Timer;
use smol::stream::StreamExt;

use super::FAREWELL;
use crate::edge::doors::Doors;
use crate::edge::driver::{Driver, Shared};
use crate::edge::handover::{self, Sent, Way, exec, moment};
use crate::edge::systemd::Notify;
use crate::edge::{clock, signals};
use crate::hub::Input;
use crate::protocol::{Close, Moment};

/// What comes after the loop.
pub(super) enum Next {
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

/// Waits for a signal that ends this program, and does what has to be done while
/// the loop still turns.
pub(super) async fn await_signal(
    mut signals: Signals,
    program: Rc<Path>,
    driver: Shared,
    doors: Rc<RefCell<Doors>>,
) -> (Signals, Next) {
    let mut restarts_until = Moment::default();
    let mut waiting = VecDeque::new();
    loop {
        let signal = match waiting.pop_front() {
            Some(signal) => Some(signal),
            None => signals.next().await.and_then(Result::ok),
        };
        // Of two that wait the kernel runs the handler of the later one first: what
        // announces a SIGTERM may stand behind it.
        waiting.extend(all_that_wait(&mut signals).await);
        let is_announced = |waiting: &VecDeque<Signal>| waiting.contains(&Signal::Usr1);
        match signal {
            Some(Signal::Usr1) => restarts_until = clock::now().moment + ANNOUNCED,
            Some(Signal::Usr2) => match moment::check(&program).await {
                Ok(()) => {
                    moment::clear_doors(&driver, &doors).await;
                    signals::hold();
                    // What came meanwhile was for this program.
                    waiting.extend(all_that_wait(&mut signals).await);
                    waiting.retain(|signal| *signal != Signal::Usr2);
                    if waiting.is_empty() {
                        return (signals, Next::Program);
                    }
                    signals::let_in();
                    doors.borrow_mut().resume(&driver.borrow().links.epoll);
                }
                Err(why) => log::error!("SIGUSR2: nothing is handed over: {why}"),
            },
            Some(Signal::Term) if clock::now().moment < restarts_until || is_announced(&waiting) => {
                driver.borrow_mut().is_restarting();
                moment::clear_doors(&driver, &doors).await;
                return (signals, Next::Process);
            }
            signal => {
                stop(&driver, &doors, Close::ShuttingDown).await;
                return (signals, Next::End(if signal == Some(Signal::Int) { "SIGINT" } else { "SIGTERM" }));
            }
        }
    }
}

/// The signals that were received and not looked at.
async fn all_that_wait(signals: &mut Signals) -> Vec<Signal> {
    let mut waiting = Vec::new();
    while let Some(Some(Ok(signal))) = smol::future::poll_once(signals.next()).await {
        waiting.push(signal);
    }
    waiting
}

/// Says goodbye to everybody, and lets them read it.
pub(super) async fn stop(driver: &Shared, doors: &Rc<RefCell<Doors>>, close: Close) {
    doors.borrow_mut().close();
    driver.borrow_mut().is_stopping(FAREWELL);
    driver.borrow_mut().told(Input::Stopping { close });
    let deadline = clock::now().moment + FAREWELL;
    while !driver.borrow().is_idle() && clock::now().moment < deadline {
        /// Short beside what a peer takes to hang up; only a stop waits like this.
        const LOOK_AGAIN: Duration = Duration::from_millis(10);
        Timer::after(LOOK_AGAIN).await;
    }
}

/// Goes on in the program that is in our file now. Returns only if that fails;
/// then this one goes on as if nothing had happened.
pub(super) fn become_next(program: &Path, driver: &mut Driver, doors: &mut Doors, lock: &File) {
    let error = match handover::pack(driver, doors, Way::InPlace(lock)) {
        Ok(Sent { parcel, .. }) => exec::become_next(program, &parcel),
        Err(error) => error,
    };
    log::error!("nothing is handed over to {}: {error}; this daemon goes on", program.display());
    doors.resume(&driver.links.epoll);
    signals::let_in();
}

/// Leaves everything to the process that systemd starts next. False if it does not
/// take it: then this one has to say goodbye.
pub(super) fn leave_to_systemd(driver: &mut Driver, doors: &Doors) -> bool {
    let Some(notify) = Notify::of_process() else { return false };
    let count = driver.connections();
    let given = handover::pack(driver, doors, Way::Systemd);
    match given.and_then(|sent| handover::systemd::give(notify, sent)) {
        Ok(()) => log::info!("handed {count} connections over to the next process"),
        Err(error) => {
            log::error!("nothing is handed over: {error}; connections are told to come back");
            return false;
        }
    }
    true
}
