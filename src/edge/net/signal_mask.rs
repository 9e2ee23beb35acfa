//! Signal mask around exec, so that no signal gets lost between two programs in one process.
//!
//! Signals wait from the beginning of a program until it handles them, and again before
//! another program takes its place: exec keeps what waits, and by default most
//! of them end the process.

use nix::sys::signal::{SigSet, Signal};

fn handled() -> SigSet {
    let handled = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];
    handled.into_iter().collect()
}

/// Blocks signals. Threads that begin after this never get one, so all come to
/// this thread, once they are unblocked.
pub fn hold() {
    // The set is a valid one, and that is all that could be wrong.
    let _ = handled().thread_block();
}

/// Unblocks those that wait, and all that come from now on.
pub fn let_in() {
    let _ = handled().thread_unblock();
}
