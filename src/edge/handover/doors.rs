//! Doors over a hand-over: which are passed on, and who stands in them.
//!
//! Knows that a door stays open in the kernel while nobody looks after it, so
//! that nobody who comes is turned away. Does not know how one is opened.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use super::words::Door as Name;
use super::{Arrival, Way};
use crate::edge::doors::{Doors, NEWCOMER};
use crate::edge::driver::Driver;
use crate::edge::epoll::{Epoll, Interest};
use crate::edge::guests::Guests;

impl Doors {
    /// The doors that go along, by name and with their sockets.
    pub(super) fn going(&self, way: Way<'_>) -> impl Iterator<Item = (&Name, BorrowedFd<'_>)> {
        // What systemd has open it passes on itself.
        let goes = move |name: &Name| matches!(way, Way::InPlace(_)) || !matches!(name, Name::Passed(_));
        let all = self.names.iter().zip(&self.doors);
        all.filter(move |(name, _)| goes(name)).map(|(name, door)| (name, door.as_fd()))
    }

    /// Who stands in the clients' doors.
    pub(super) fn guests(&self) -> &Rc<RefCell<Guests>> {
        &self.guests
    }

    /// Takes what another process had open, to be found when it is asked for.
    pub fn inherit(&mut self, arrival: &mut Arrival) {
        self.inherited = std::mem::take(&mut arrival.doors);
    }

    /// A door that another process had open under that name.
    pub(in crate::edge) fn inherited(&mut self, name: &Name) -> Option<OwnedFd> {
        let at = self.inherited.iter().position(|(known, _)| known == name)?;
        Some(self.inherited.swap_remove(at).1)
    }

    /// All doors are open that are to be: closes those that nobody asks for any
    /// more, and lets those wait on who stood in them.
    pub fn settle_in(&mut self, arrival: &mut Arrival, driver: &Driver) {
        self.inherited = Vec::new();
        let mut guests = self.guests.borrow_mut();
        for (until, stream) in arrival.guests.drain(..) {
            let number = guests.number();
            if driver.links.epoll.add(&stream, NEWCOMER | number, Interest::READ).is_ok() {
                guests.wait(number, until.unwrap_or(driver.moment() + driver.site.patience), stream);
            }
        }
    }

    /// Lets nobody in for now: who comes, or begins to speak, waits in the kernel.
    /// Who is spoken to has one answer still to hear.
    pub(super) fn pause(&mut self, epoll: &Epoll) {
        self.listen(epoll, Interest::default());
        self.guests.borrow_mut().finish();
    }

    /// Lets in again who comes.
    pub fn resume(&mut self, epoll: &Epoll) {
        self.listen(epoll, Interest::READ);
    }

    fn listen(&self, epoll: &Epoll, interest: Interest) {
        self.wait_for_guests(interest, epoll);
        for (number, stream) in self.guests.borrow().numbered() {
            epoll.modify(stream, NEWCOMER | number, interest);
        }
    }
}
