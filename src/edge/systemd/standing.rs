//! How the daemon stands, as systemd is told.
//!
//! Knows where the numbers are. Does not know when they are told.

use std::time::Duration;

use super::{StatusCounts, StatusNotifier};
use crate::edge::driver::Driver;
use crate::edge::net::mem_accounting;
use crate::protocol::Moment;

impl Driver {
    /// From now on systemd is told how it goes.
    pub fn report_to(&mut self, bulletin: StatusNotifier) {
        self.bulletin = Some(bulletin);
    }

    /// Whoever connects is served from now on.
    pub fn notify_ready(&mut self) {
        self.look_at_the_clock();
        let (now, numbers) = (self.now.moment, self.numbers());
        if let Some(bulletin) = &mut self.bulletin {
            bulletin.ready(now, numbers, self.store.failure());
        }
    }

    /// The daemon is going to end; its peers may take `time` to read what they are
    /// owed.
    pub fn notify_stopping(&mut self, time: Duration) {
        self.look_at_the_clock();
        if let Some(bulletin) = &mut self.bulletin {
            bulletin.stopping(self.now.moment, time);
        }
    }

    /// The daemon is going to end, and nobody who is connected is to notice.
    pub fn notify_restarting(&mut self) {
        self.look_at_the_clock();
        if let Some(bulletin) = &mut self.bulletin {
            bulletin.restarting();
        }
    }

    /// It starts or ends, which takes as long as the disk does.
    pub(in crate::edge) fn takes_longer(&mut self, why: &str) {
        if let Some(bulletin) = &mut self.bulletin {
            bulletin.takes_longer(self.now.moment, why);
        }
    }

    /// Ends the turn; when there will be something to tell.
    pub(in crate::edge) fn report(&mut self) -> Option<Moment> {
        self.bulletin.as_ref()?;
        let (now, numbers) = (self.now.moment, self.numbers());
        let is_stuck = self.store.is_stuck(now);
        self.bulletin.as_mut()?.turn(now, numbers, self.store.failure(), is_stuck)
    }

    fn numbers(&self) -> StatusCounts {
        let workers = mem_accounting::workers();
        let (operations, messages) = self.hub.at_a_glance();
        StatusCounts {
            connections: self.links.len().saturating_sub(workers),
            workers,
            operations,
            messages,
            store: self.store.state(self.now.moment),
        }
    }
}
