//! Through systemd: one process of a unit ends, and the next one begins.
//!
//! Knows under which names systemd keeps a parcel in the meantime. Does not know
//! what is in it, nor whether a unit is stopped or restarted.

use std::os::fd::AsFd;
use std::time::Duration;

use super::{Arrival, Package, Sent};
use crate::edge::systemd::{ListenFds, Notify};

/// The names of the two descriptors.
const STATE: &str = "wshubd-state";
const LINKS: &str = "wshubd-links";

/// How long systemd may take to close what it does not keep: newer versions say first
/// that they are done, and have it closed by another process.
const CLOSING: Duration = Duration::from_millis(30);

/// Gives systemd what was packed, and waits until it has looked at it.
///
/// # Errors
/// It does not listen, or keeps nothing: `FileDescriptorStoreMax=` of the unit may
/// be too small.
pub fn give(notify: Notify, sent: Sent) -> std::io::Result<()> {
    // What is left of a hand-over that nobody took would be in the way.
    forget(notify);
    notify.keep(STATE, &[sent.parcel.state.as_fd()])?;
    notify.keep(LINKS, &[sent.parcel.pouch.as_fd()])?;
    notify.wait()?;
    // Where it has promised to keep some, nobody who is connected waits for nothing.
    let patience = if Notify::keeps_descriptors() { Duration::ZERO } else { CLOSING };
    let is_held = sent.is_held(patience);
    let why = "systemd does not keep it: the unit needs `FileDescriptorStoreMax=8`";
    is_held.then_some(()).ok_or_else(|| std::io::Error::other(why))
}

/// What the process before this one has given to systemd, which keeps it no longer.
pub fn arrival(passed: &mut ListenFds) -> Option<Arrival> {
    let (state, pouch) = (passed.take(STATE).pop(), passed.take(LINKS).pop());
    if let Some(notify) = Notify::of_process().filter(|_| state.is_some() || pouch.is_some()) {
        forget(notify);
    }
    Some(Arrival::unpack(Package { state: state?, pouch: pouch? }))
}

fn forget(notify: Notify) {
    notify.forget(STATE);
    notify.forget(LINKS);
}
