//! What becomes of the daemon when a signal comes: it stops, or goes on in
//! another program.
//!
//! Knows what has to be done before either. Does not know how it is done.

use std::cell::RefCell;
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
use crate::edge::handover::{self, Way, exec, moment};
use crate::edge::{clock, signals};
use crate::hub::Input;
use crate::protocol::Close;

/// What comes after the loop.
pub(super) enum Next {
    /// Nothing; this signal ended it.
    End(&'static str),
    /// The program that is in our file now. Signals wait until it hears them.
    Program,
}

/// Waits for a signal that ends this program, and does what has to be done while
/// the loop still turns.
pub(super) async fn await_signal(
    mut signals: Signals,
    program: Rc<Path>,
    driver: Shared,
    doors: Rc<RefCell<Doors>>,
) -> (Signals, Next) {
    let mut signal = signals.next().await;
    while matches!(signal, Some(Ok(Signal::Usr2))) {
        match moment::check(&program).await {
            Ok(()) => {
                moment::clear_doors(&driver, &doors).await;
                signals::hold();
                // What came meanwhile was for this program.
                signal = match smol::future::poll_once(signals.next()).await {
                    None | Some(Some(Ok(Signal::Usr2))) => return (signals, Next::Program),
                    Some(other) => other,
                };
                signals::let_in();
            }
            Err(why) => {
                log::error!("SIGUSR2: nothing is handed over: {why}");
                signal = signals.next().await;
            }
        }
    }
    stop(&driver, &doors).await;
    (signals, Next::End(if matches!(signal, Some(Ok(Signal::Int))) { "SIGINT" } else { "SIGTERM" }))
}

async fn stop(driver: &Shared, doors: &Rc<RefCell<Doors>>) {
    doors.borrow_mut().close();
    driver.borrow_mut().is_stopping(FAREWELL);
    driver.borrow_mut().told(Input::Stopping { close: Close::ShuttingDown });
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
    let packed = handover::pack(driver, doors, Way::InPlace(lock));
    let error = match packed {
        Ok(parcel) => exec::become_next(program, &parcel),
        Err(error) => error,
    };
    log::error!("nothing is handed over to {}: {error}; this daemon goes on", program.display());
    doors.resume(&driver.links.epoll);
    signals::let_in();
}
