//! Signals, kept from getting lost between two programs in one process.
//!
//! Knows which signals the daemon hears, and how they wait. Does not know what
//! they lead to.
//!
//! They wait from the beginning of a program until it hears them, and again before
//! another program takes its place: exec keeps what waits, and the default of most
//! of them is the end.

use nix::sys::signal::{SigSet, Signal};

fn heard() -> SigSet {
    let heard = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];
    heard.into_iter().collect()
}

/// Lets signals wait. Threads that begin after this never get one, so all come to
/// this thread, once they are let in.
pub fn hold() {
    // The set is a valid one, and that is all that could be wrong.
    let _ = heard().thread_block();
}

/// Lets in what waits, and all that comes from now on.
pub fn let_in() {
    let _ = heard().thread_unblock();
}
