//! Floor 2: the decisions. No I/O, no clock, no async, no log, no lock, no JSON.
//!
//! Knows who is connected, who hears what, what is kept and what runs. Does not
//! know how any of it travels.

pub mod event;
pub mod rights;
pub mod settings;

pub use event::{
    Anomaly, Asker, Claim, Effect, Effects, Input, LogKey, Now, Outbound, Peer, Recipients, TokenFault,
};
pub use rights::{Identity, Pattern, Rights};
pub use settings::Settings;

use crate::protocol::Moment;

/// All state worth reasoning about.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
}

impl Hub {
    /// An empty hub. `seed` makes its ids and epochs unlike those of any other.
    pub fn new(settings: Settings, seed: u64) -> Self {
        let _ = seed;
        Self { settings }
    }

    /// Takes one fact in and pushes the orders that follow onto `out`.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Effects) {
        let _ = (now, input, out, &self.settings);
    }

    /// The next moment at which something is due, if anything is.
    pub fn deadline(&self) -> Option<Moment> {
        None
    }
}
