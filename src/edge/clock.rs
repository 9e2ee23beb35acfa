//! Clocks and random numbers: the only place that asks the kernel for either.

use rustix::time::{ClockId, clock_gettime};

use crate::hub::Now;
use crate::protocol::{Moment, UnixTime};

/// Both clocks. The monotonic one goes on while the machine sleeps.
pub fn now() -> Now {
    Now { moment: Moment(millis(ClockId::Boottime)), wall: UnixTime(millis(ClockId::Realtime)) }
}

fn millis(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let millis = time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000);
    // A clock set to before 1970 counts as 1970.
    u64::try_from(millis).unwrap_or_default()
}

/// A random number that no peer can guess.
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    let mut filled = 0;
    // Eight bytes come whole as soon as the kernel's pool is ready; only a
    // signal during early boot makes it ask again.
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        if let Ok(got) = rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            filled += got;
        }
    }
    u64::from_ne_bytes(bytes)
}
