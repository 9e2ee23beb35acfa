//! Doors over a hand-over: which are passed on, and who stands in them.
//!
//! Knows that a door stays open in the kernel while nobody looks after it, so
//! that nobody who comes is turned away. Does not know how one is opened.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{Access, access};
use socket2::{SockAddr, SockRef};

use super::format::Door as Name;
use super::{Arrival, Unavailable, Way};
use crate::edge::driver::Driver;
use crate::edge::net::epoll::{Epoll, Interest};
use crate::edge::net::listeners::{
    BACKLOG, HTTP, Listeners, PENDING_KEY, WORKER, bind_tcp, is_dead_socket, is_only_v6,
};
use crate::edge::net::pending_conns::PendingConns;

/// A socket that has its address, and takes connections from now on.
fn listening(socket: TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether an open socket is what is wanted at an address: one that takes connections of
/// IPv4 as well is in the way of those who have an address of their own, and cannot change.
fn is_wanted(address: SocketAddr, socket: &impl AsFd, wanted: &[SocketAddr]) -> bool {
    let takes_same = || {
        let only_v6 = SockRef::from(&socket.as_fd()).only_v6();
        let is_all_of_v6 = address.is_ipv6() && address.ip().is_unspecified();
        !is_all_of_v6 || only_v6.is_ok_and(|only| only == is_only_v6(address, wanted))
    };
    wanted.contains(&address) && takes_same()
}

impl Listeners {
    /// The doors that go along, by name and with their sockets.
    pub(super) fn going(&self, way: Way<'_>) -> impl Iterator<Item = (&Name, BorrowedFd<'_>)> {
        // What systemd has open it passes on itself.
        let goes = move |name: &Name| matches!(way, Way::InPlace(_)) || !matches!(name, Name::Passed(_));
        let all = self.names.iter().zip(&self.doors);
        let open = all.filter(move |(name, _)| goes(name)).map(|(name, door)| (name, door.as_fd()));
        open.chain(self.for_next.iter().map(|(name, socket)| (name, socket.as_fd())))
    }

    /// Opens the addresses of the next process that are not open yet: what is taken by
    /// somebody else nobody could take back after the hand-over. They go along with the
    /// others. The workers' socket is only looked at, for opening it takes the place of
    /// another.
    ///
    /// # Errors
    /// The first that cannot be had, and why.
    pub fn open_for_next(&mut self, clients: &[SocketAddr], workers: &Path) -> Result<(), Unavailable> {
        self.for_next.clear();
        let is_passed = |name: &str| self.names.iter().any(|known| *known == Name::Passed(name.to_owned()));
        let open = || self.names.iter().zip(&self.doors);
        let is_open = |name: &Name| match name {
            Name::Clients(address) => {
                open().any(|(known, door)| known == name && is_wanted(*address, door, clients))
            }
            _ => self.names.contains(name),
        };
        let mut opened = Vec::new();
        for &address in clients.iter().filter(|_| !is_passed(HTTP)) {
            let name = Name::Clients(address);
            if is_open(&name) {
                continue;
            }
            match bind_tcp(address, clients).and_then(listening) {
                Ok(socket) => opened.push((name, OwnedFd::from(socket))),
                // The next process closes what it has no use for first.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && self.is_in_the_way(address, clients) => {}
                Err(error) => {
                    let what = format_args!("cannot listen on {address}");
                    return Err(unavailable(what, &error, "`[listen] http` sets the address"));
                }
            }
        }
        if !is_passed(WORKER) && !is_open(&Name::Workers(workers.to_owned())) {
            let what = format_args!("cannot open the worker socket {}", workers.display());
            can_open(workers)
                .map_err(|error| unavailable(what, &error, "`[listen] worker` sets the path"))?;
        }
        self.for_next = opened;
        Ok(())
    }

    /// Whether a listener of our own that is to be closed may be what has the port.
    fn is_in_the_way(&self, address: SocketAddr, wanted: &[SocketAddr]) -> bool {
        let overlaps = |other: &SocketAddr| {
            let (ip, other_ip) = (address.ip(), other.ip());
            address.port() == other.port()
                && (ip.is_unspecified() || other_ip.is_unspecified() || ip == other_ip)
        };
        self.names.iter().zip(&self.doors).any(|(name, door)| match name {
            Name::Clients(other) => !is_wanted(*other, door, wanted) && overlaps(other),
            _ => false,
        })
    }

    /// Closes the addresses that another process had open and this one does not want:
    /// they may be in the way of what is wanted.
    pub fn keep_wanted(&mut self, clients: &[SocketAddr]) {
        self.inherited.retain(|(name, socket)| match name {
            Name::Clients(address) => is_wanted(*address, socket, clients),
            _ => true,
        });
    }

    /// Closes what another process had open and nobody has asked for. A socket in the
    /// file system that nobody listens at then is in the way of whoever connects.
    pub(in crate::edge) fn close_inherited(&mut self) {
        for (name, socket) in self.inherited.drain(..) {
            drop(socket);
            if let Name::Workers(path) = name
                && is_dead_socket(&path).is_ok_and(|is_dead| is_dead)
            {
                // Whoever opens another one there takes it away as well.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Who stands in the clients' doors.
    pub(crate) fn guests(&self) -> &Rc<RefCell<PendingConns>> {
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
        self.close_inherited();
        let mut guests = self.guests.borrow_mut();
        for (until, stream) in arrival.guests.drain(..) {
            let number = guests.number();
            if driver.links.epoll.add_for_news(&stream, PENDING_KEY | number).is_ok() {
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
        self.for_next.clear();
        self.listen(epoll, Interest::READ);
    }

    fn listen(&self, epoll: &Epoll, interest: Interest) {
        self.wait_for_guests(interest, epoll);
        for (number, stream) in self.guests.borrow().numbered() {
            epoll.modify_for_news(stream, PENDING_KEY | number, interest.read);
        }
    }
}

fn unavailable(what: std::fmt::Arguments<'_>, error: &io::Error, option: &str) -> Unavailable {
    Unavailable {
        why: format!("{what}: {error} ({option})"),
        is_taken: error.kind() == io::ErrorKind::AddrInUse,
    }
}

/// Whether a socket could be opened in the file system. Nothing is made for that.
fn can_open(path: &Path) -> io::Result<()> {
    SockAddr::unix(path)?;
    is_dead_socket(path)?;
    // The directories that are missing are made.
    let directory = path.ancestors().skip(1).find(|directory| directory.exists());
    access(directory.unwrap_or(Path::new(".")), Access::WRITE_OK | Access::EXEC_OK)?;
    Ok(())
}
