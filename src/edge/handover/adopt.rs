//! Links of another process, taken into the table of this one.
//!
//! Knows how they come to be waited for again. Does not know what was handed over.

use super::format::Table;
use super::{Arrival, ReceivedState};
use crate::edge::driver::Driver;
use crate::edge::net::connection::{Link, Side};
use crate::edge::net::connection_table::{Links, key};
use crate::edge::net::epoll::Interest;
use crate::hub::{Input, SendQueueState};
use crate::protocol::{ConnectionId, Moment};

impl Driver {
    /// Goes on with the links that have come. How many those are, and since when
    /// nobody listened to them.
    pub fn adopt(&mut self, arrival: &mut Arrival) -> Option<(usize, Moment)> {
        self.look_at_the_clock();
        let ReceivedState { table, whole, .. } = arrival.legacy.take()?;
        let Table { since, lingering, last_ticket, .. } = table;
        let count = whole.links.len();
        self.latches = whole.latches;
        self.lingering = lingering.into();
        self.last_ticket = last_ticket;
        for lost in self.links.adopt(whole.links) {
            self.links.inputs.push_back(Input::Closed { conn: lost });
        }
        Some((count, since))
    }
}

impl Links {
    /// Takes links in as they were, each in its own slot; those of which the
    /// kernel has nothing to tell are lost, and named.
    fn adopt(&mut self, links: Vec<Link>) -> Vec<ConnectionId> {
        let ids: Vec<ConnectionId> = links.iter().map(|link| link.id).collect();
        self.table = links.into_iter().map(|link| (link.id.slot as usize, link)).collect();
        let (told, lost): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| self.waits_for(*id));
        for id in told {
            // What was pulled or shut last may not have left.
            let has_more = self.get(id).is_some_and(|link| match &link.side {
                Side::Worker(worker) => link.leaving || !worker.latches.is_empty(),
                Side::Client { .. } => link.leaving,
            });
            if self.get(id).is_some_and(|link| link.has_unsaid()) {
                self.resume_later(id);
            }
            if has_more {
                self.touch(id.slot);
            }
            if self.get(id).is_some_and(|link| link.ended && !link.leaving) {
                self.inputs.push_back(Input::ReadClosed { conn: id });
            }
        }
        for id in &lost {
            self.table.remove(id.slot as usize);
        }
        lost
    }

    /// Has the kernel tell of a link what it told before.
    fn waits_for(&mut self, id: ConnectionId) -> bool {
        let Some(link) = self.table.get_mut(id.slot as usize) else { return false };
        let told = link.outbox.as_ref().map_or(SendQueueState::Empty, |outbox| outbox.reported);
        let read = !link.ended && (told != SendQueueState::Full || link.leaving);
        link.interest = Interest { read, write: link.outbox.is_some() };
        self.epoll.add(&link.wire, key(id), link.interest).is_ok()
    }
}
