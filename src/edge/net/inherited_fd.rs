//! Descriptors that were open when the process began: from systemd, or from the process before
//! this one.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// The environment variable by which a process finds what the one before it has handed over. It
/// is kept from programs that the daemon starts.
pub const HANDOVER_VARIABLE: &str = "WSHUB_HANDOVER";

/// Those that were taken: nothing else may own them.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Makes an inherited descriptor ours, and keeps it from programs that we start.
/// None if it is not open, is one of the standard three, or was taken before.
///
/// Only numbers of descriptors that another process has passed on may be given, and before
/// anything else is opened.
#[expect(unsafe_code, reason = "nothing safe makes a descriptor of a number that was inherited")]
pub fn take(number: RawFd) -> Option<OwnedFd> {
    if number <= 2 || !TAKEN.lock().ok()?.insert(number) {
        return None;
    }
    // SAFETY: it is only borrowed for as long as it takes to ask whether it is
    // open; the kernel answers that for any number.
    let asked = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(asked).ok()?;
    fcntl_setfd(asked, flags | FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open, and the set above gives it away once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
