//! The hub clock: what time it is for messages that outlive the process.
//!
//! It counts how long all runs of the daemon have lasted together, and the time between them
//! where that can be trusted.
//!
//! A message must never expire early because a clock was set. A board without a
//! battery starts in 1970, or at the time of its last shutdown, and jumps when the
//! network provides a better time. So the hub clock follows the monotonic one; time while
//! the machine was off counts only where both ends of it were read from a clock that
//! is kept right. Elsewhere messages live longer by that time, which does no harm.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::hub::Now;
use crate::protocol::{Moment, UnixTime};

/// A moment as two clocks and the hub clock show it, to be read after a restart.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Stamp {
    /// Which run of the machine.
    boot: String,
    moment: Moment,
    wall: UnixTime,
    /// The wall clock was kept right by the network, or a battery.
    is_trusted: bool,
    /// The hub clock then, in milliseconds.
    elapsed: u64,
}

/// The hub clock.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct HubClock {
    boot: String,
    is_trusted: bool,
    /// What it showed when the monotonic clock showed nothing; earlier boots are
    /// in it, so it may be less than nothing.
    base: i128,
}

/// What is known of the machine's clocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clocks {
    /// Which run of the machine.
    pub boot: String,
    /// The wall clock is kept right by the network, or a battery.
    pub is_trusted: bool,
}

/// A day off the network with a wrong clock must not cost a year of messages.
const LONGEST_AWAY: u64 = 366 * 24 * 3600 * 1000;

/// No machine that runs this lives before the year in which it was written.
const YEAR_2026: UnixTime = UnixTime(1_767_225_600_000);

impl Clocks {
    /// Of this machine.
    pub fn of_machine(now: Now) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        // Made by systemd-timesyncd, and visible in a sandbox.
        let is_synced = Path::new("/run/systemd/timesync/synchronized").exists();
        // A clock with a battery that was the kernel's source at boot.
        let has_set = |clock: &str| {
            let text = std::fs::read_to_string(format!("/sys/class/rtc/{clock}/hctosys"));
            text.is_ok_and(|text| text.trim() == "1")
        };
        let is_kept = is_synced || ["rtc0", "rtc1"].into_iter().any(has_set);
        Self { boot: boot.trim().to_owned(), is_trusted: is_kept && now.wall >= YEAR_2026 }
    }
}

impl HubClock {
    /// A clock that begins now, or goes on from a stamp of an earlier life.
    pub fn new(now: Now, clocks: Clocks, stamp: Option<&Stamp>) -> Self {
        let shown = stamp.map_or(0, |stamp| stamp.elapsed.saturating_add(stamp.until(now, &clocks)));
        let base = i128::from(shown) - i128::from(now.moment.0);
        Self { boot: clocks.boot, is_trusted: clocks.is_trusted, base }
    }

    /// The same clock, or a later one that shows no less than that now: what was
    /// kept was not kept in the future.
    pub(super) fn not_before(self, now: Now, shown: u64) -> Self {
        let base = self.base.max(i128::from(shown) - i128::from(now.moment.0));
        Self { base, ..self }
    }

    /// The same clock in another process; none in another run of the machine, whose
    /// moments are others.
    pub(super) fn taken_over(self, clocks: &Clocks) -> Option<Self> {
        (self.boot == clocks.boot).then_some(Self { is_trusted: clocks.is_trusted, ..self })
    }

    /// What it shows at a moment.
    pub fn at(&self, moment: Moment) -> u64 {
        let shown = self.base + i128::from(moment.0);
        u64::try_from(shown.max(0)).unwrap_or(u64::MAX)
    }

    /// The moment at which it shows that; what was before this run of the machine
    /// is its first moment.
    pub fn moment(&self, shown: u64) -> Moment {
        Moment(u64::try_from((i128::from(shown) - self.base).max(0)).unwrap_or(u64::MAX))
    }

    /// What has to be added to moments of the run that wrote a stamp to make them
    /// moments of this one.
    pub fn shift(&self, stamp: &Stamp) -> i64 {
        let then = i128::from(stamp.elapsed) - i128::from(stamp.moment.0);
        i64::try_from(then - self.base).unwrap_or_default()
    }

    /// To be read after a restart.
    pub fn stamp(&self, now: Now) -> Stamp {
        Stamp {
            boot: self.boot.clone(),
            moment: now.moment,
            wall: now.wall,
            is_trusted: self.is_trusted,
            elapsed: self.at(now.moment),
        }
    }
}

/// The hub clock of a store, once it is known, and the clocks of the machine.
pub(super) struct StoreClock {
    clocks: Clocks,
    hub_clock: Option<HubClock>,
}

impl StoreClock {
    pub(super) fn new(now: Now) -> Self {
        Self { clocks: Clocks::of_machine(now), hub_clock: None }
    }

    /// Which run of the machine this is.
    pub(super) fn boot(&self) -> &str {
        &self.clocks.boot
    }

    pub(super) fn hub_clock(&self) -> Option<&HubClock> {
        self.hub_clock.as_ref()
    }

    /// Goes on with the hub clock of a clean stop: what has to be added to the moments of
    /// that time.
    pub(super) fn restore(&mut self, now: Now, stamp: &Stamp) -> i64 {
        let hub_clock = HubClock::new(now, self.clocks.clone(), Some(stamp));
        let shift = hub_clock.shift(stamp);
        self.hub_clock = Some(hub_clock);
        shift
    }

    /// All that is on the disk is known: the hub clock goes on from the last commit, if it is
    /// not known yet, and shows no less than what was kept last.
    pub(super) fn recover(&mut self, now: Now, stamp: Option<&Stamp>, latest: u64) -> &HubClock {
        let clocks = self.clocks.clone();
        let known = self.hub_clock.take().unwrap_or_else(|| HubClock::new(now, clocks, stamp));
        self.hub_clock.insert(known.not_before(now, latest))
    }

    /// That of another process; none, if that was in another run of the machine.
    pub(super) fn resume(known: Option<HubClock>, now: Now) -> Option<Self> {
        let mut clock = Self::new(now);
        if let Some(known) = known {
            clock.hub_clock = Some(known.taken_over(&clock.clocks)?);
        }
        Some(clock)
    }
}

impl Stamp {
    /// How long ago it was, as far as that is certain, in milliseconds.
    fn until(&self, now: Now, clocks: &Clocks) -> u64 {
        if self.boot == clocks.boot && !self.boot.is_empty() {
            return now.moment.0.saturating_sub(self.moment.0);
        }
        if self.is_trusted && clocks.is_trusted {
            return now.wall.0.saturating_sub(self.wall.0).min(LONGEST_AWAY);
        }
        0
    }
}
