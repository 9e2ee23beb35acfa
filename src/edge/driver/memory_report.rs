//! Tells the hub how much is held for its peers, whom the doors turned away, and that
//! somebody waits for a place.
//!
//! Knows when the hub wants to know. Does not know what it makes of it.

use std::fmt::Arguments;

use super::Driver;
use super::anomaly_log::Kind;
use crate::hub::{Input, Level, MemoryQuery, Rejection};
use crate::protocol::{ConnectionId, HubRequest};

/// A part of the ceiling on memory that is worth looking at it.
const GROWTH: usize = 64;

impl Driver {
    /// Tells the hub what is held for the links, where it wants to know.
    pub(in crate::edge) fn weigh(&mut self) {
        self.weighed = self.links.held();
        let links = self.weighed as u64;
        let holders = match self.hub.asks_for_memory(self.now, links) {
            MemoryQuery::Nothing => return,
            MemoryQuery::Total => Vec::new(),
            MemoryQuery::Holders => self.links.holders(),
        };
        self.tell_held(links, holders, false);
    }

    /// Tells it as soon as much more is held than at the end of the last turn: what is asked
    /// for in one turn may be more than there is room for.
    pub(in crate::edge) fn weigh_growth(&mut self) {
        if self.links.held() >= self.weighed + self.site.memory / GROWTH {
            self.weigh();
        }
    }

    /// Who asks for the numbers is told those of this moment.
    pub(in crate::edge) fn weigh_for(&mut self, say: &HubRequest) {
        if matches!(say, HubRequest::Stats) {
            let (links, holders) = (self.links.held() as u64, self.links.holders());
            self.tell_held(links, holders, false);
        }
    }

    /// The level may change with it, and who is read with the level. Those who were told
    /// goodbye and do not take it hold nothing any more while memory is short.
    fn tell_held(&mut self, links: u64, holders: Vec<(ConnectionId, u64)>, is_waited_for: bool) {
        self.tell(Input::Memory { links, holders, is_waited_for });
        let level = self.hub.memory_level();
        self.links.be_strict(level >= Level::Critical);
        if level >= Level::High && self.links.lose_blocked_leaving() {
            self.pump();
        }
    }

    /// How near the ceiling on memory is.
    pub fn memory_level(&self) -> Level {
        self.hub.memory_level()
    }

    /// Whether there is memory for one more client. While it is short there is only for one
    /// who has said who it is, where somebody else gives way.
    pub fn make_memory(&mut self, has_proven: bool) -> bool {
        self.look_at_the_clock();
        if self.memory_level() < Level::High {
            return true;
        }
        if !has_proven {
            return false;
        }
        let (links, holders) = (self.links.held() as u64, self.links.holders());
        self.tell_held(links, holders, true);
        self.memory_level() < Level::High || self.hub.has_made_room()
    }

    /// Whether there is a place for one more client. Where all are taken, somebody who was
    /// told goodbye gives way, else the oldest who has not said who it is.
    pub fn make_place(&mut self) -> bool {
        self.look_at_the_clock();
        if self.links.len() < self.site.connections || self.cut_first_lingering() {
            return true;
        }
        self.tell(Input::NoCapacity);
        self.cut_first_lingering()
    }

    /// Cuts the connection off that was told goodbye before all others.
    fn cut_first_lingering(&mut self) -> bool {
        let permit = self.permit_to_write();
        let Some(conn) = self.links.first_there(&mut self.lingering) else { return false };
        // The goodbye may not have left yet.
        self.links.flush(conn.slot, permit);
        self.links.lose(conn);
        self.pump();
        true
    }

    /// Somebody was turned away, with a line in the log about it where there is
    /// something to say.
    pub fn turned_away(&mut self, why: Rejection, line: Option<(Kind, Arguments<'_>)>) {
        self.look_at_the_clock();
        if let Some((kind, line)) = line {
            self.reports.say(self.now.moment, kind, line, &[]);
        }
        self.tell(Input::Rejected(why));
    }
}
