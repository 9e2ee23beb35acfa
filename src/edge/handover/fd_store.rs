//! Hand-over through systemd's store of descriptors: one process of a unit ends, and the next one
//! begins.

use std::os::fd::AsFd;
use std::time::Duration;

use super::{Package, ReceivedHandover, SentPackage};
use crate::edge::systemd::{ListenFds, Notify};

/// The names of the two descriptors.
const STATE: &str = "wshubd-state";
const DESCRIPTORS: &str = "wshubd-links";

/// How long systemd may take to close what it does not keep: newer versions reply first
/// that they are done, and have it closed by another process.
const CLOSING: Duration = Duration::from_millis(30);

/// Gives systemd what was packed, and waits until it has looked at it.
///
/// # Errors
/// It does not listen, or keeps nothing: `FileDescriptorStoreMax=` of the unit may
/// be too small.
pub fn give(notify: Notify, sent: SentPackage) -> std::io::Result<()> {
    // What is left of a hand-over that was not taken would be in the way.
    forget(notify);
    notify.keep(STATE, &[sent.package.state.as_fd()])?;
    notify.keep(DESCRIPTORS, &[sent.package.descriptors.as_fd()])?;
    notify.wait()?;
    // Where it has promised to keep some, connections do not wait in vain.
    let patience = if Notify::keeps_descriptors() { Duration::ZERO } else { CLOSING };
    let is_held = sent.release(patience);
    let why = "systemd does not keep it: the unit needs `FileDescriptorStoreMax=8`";
    is_held.then_some(()).ok_or_else(|| std::io::Error::other(why))
}

/// What the process before this one has given to systemd, which keeps it no longer.
pub fn receive(passed: &mut ListenFds) -> Option<ReceivedHandover> {
    let (state, descriptors) = (passed.take(STATE).pop(), passed.take(DESCRIPTORS).pop());
    if let Some(notify) = Notify::of_process().filter(|_| state.is_some() || descriptors.is_some()) {
        forget(notify);
    }
    Some(ReceivedHandover::unpack(Package { state: state?, descriptors: descriptors? }))
}

fn forget(notify: Notify) {
    notify.forget(STATE);
    notify.forget(DESCRIPTORS);
}
