//! Tells the hub how much is held for its peers, and whom the doors turned away.
//!
//! Knows when the hub wants to know. Does not know what it makes of it.

use std::fmt::Arguments;

use super::driver::Driver;
use super::report::Kind;
use crate::hub::{Asks, Input, Level, TurnedAway};
use crate::protocol::{ConnectionId, Say};

/// A part of the ceiling on memory that is worth looking at it.
const GROWTH: usize = 64;

impl Driver {
    /// Tells the hub what is held for the links, where it wants to know.
    pub(super) fn weigh(&mut self) {
        self.weighed = self.links.held();
        let links = self.weighed as u64;
        let holders = match self.hub.asks_for_memory(self.now, links) {
            Asks::Nothing => return,
            Asks::Total => Vec::new(),
            Asks::Holders => self.links.holders(),
        };
        self.tell_held(links, holders);
    }

    /// Tells it as soon as much more is held than at the end of the last turn: what is asked
    /// for in one turn may be more than there is room for.
    pub(super) fn weigh_growth(&mut self) {
        if self.links.held() >= self.weighed + self.site.memory / GROWTH {
            self.weigh();
        }
    }

    /// Who asks for the numbers is told those of this moment.
    pub(super) fn weigh_for(&mut self, say: &Say) {
        if matches!(say, Say::Stats) {
            let (links, holders) = (self.links.held() as u64, self.links.holders());
            self.tell_held(links, holders);
        }
    }

    /// The level may change with it, and who is read with the level.
    fn tell_held(&mut self, links: u64, holders: Vec<(ConnectionId, u64)>) {
        self.tell(Input::Memory { links, holders });
        self.links.be_strict(self.hub.memory_level() >= Level::Critical);
    }

    /// How near the ceiling on memory is.
    pub fn memory_level(&self) -> Level {
        self.hub.memory_level()
    }

    /// Somebody was turned away, with a line in the log about it where there is
    /// something to say.
    pub fn turned_away(&mut self, why: TurnedAway, line: Option<(Kind, Arguments<'_>)>) {
        self.look_at_the_clock();
        if let Some((kind, line)) = line {
            self.reports.say(self.now.moment, kind, line, &[]);
        }
        self.tell(Input::TurnedAway(why));
    }
}
