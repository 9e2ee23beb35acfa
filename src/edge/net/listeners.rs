//! The doors: sockets that others connect to, and who stands in them.
//!
//! Knows how to open them, who may come through the workers' one, and how to go
//! on when descriptors run out. Does not know what is said inside.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, accept_with, sockopt};
use smol::{Async, LocalExecutor};
use socket2::{Domain, SockAddr, Socket, Type};

use super::epoll::{Epoll, Interest, Ready};
use super::fd_limit;
use super::fd_limit::Use;
use super::peer_credentials;
use super::peer_credentials::Standing;
use super::pending_conns::{ConnGuard, PendingConns, SentAway, TimedOutConn};
use super::socket::PeerSocket;
use crate::edge::driver::anomaly_log::{Kind, about};
use crate::edge::driver::{Driver, Shared};
use crate::edge::handover::format;
use crate::edge::http::conn;
use crate::edge::http::denial::Denial;
use crate::hub::{Peer, Rejection};
use crate::protocol::{Code, Frame, Moment, Reason, Refusal};

/// How long a door stays shut when no descriptor is left for one more guest.
/// Asking again at once would only burn a processor.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// How many are let in through one door in one turn.
const AT_ONCE: usize = 64;

/// How many connections may wait to be taken; the kernel has a limit of its own below that.
pub(in crate::edge) const BACKLOG: i32 = 4096;

/// The names of sockets for WebSocket and HTTP, and of those for workers:
/// `FileDescriptorName=` of a socket unit.
pub const HTTP: &str = "http";
pub const WORKER: &str = "worker";

/// Keys of doors and newcomers, beside those of links.
const LISTENER_KEY: u64 = 1 << 63;
pub(in crate::edge) const PENDING_KEY: u64 = LISTENER_KEY | 1 << 62;

/// Whether an event is about a door, or somebody standing in it.
pub fn is_meant(ready: Ready) -> bool {
    ready.key & LISTENER_KEY != 0
}

pub(in crate::edge) enum Listener {
    Clients(TcpListener),
    Workers(UnixListener),
}

impl Listener {
    fn is_for(&self) -> Use {
        match self {
            Self::Clients(_) => Use::Client,
            Self::Workers(_) => Use::Worker,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Clients(listener) => listener.as_fd(),
            Self::Workers(listener) => listener.as_fd(),
        }
    }
}

/// All doors, and those who came through one; at first there is none.
#[derive(Default)]
pub struct Listeners {
    pub(in crate::edge) doors: Vec<Listener>,
    /// As what each of them was opened.
    pub(in crate::edge) names: Vec<format::Door>,
    /// Opened by a process before this one, and not asked for yet.
    pub(in crate::edge) inherited: Vec<(format::Door, OwnedFd)>,
    /// Opened for the process after this one, which is to have other addresses.
    pub(in crate::edge) for_next: Vec<(format::Door, OwnedFd)>,
    /// Shared with the tasks that speak with them.
    pub(in crate::edge) guests: Rc<RefCell<PendingConns>>,
    /// No descriptors are left; until then nobody is let in.
    shut_until: Option<Moment>,
    /// That has been said, and nobody was let in since.
    is_shut: bool,
    /// The workers' socket, and which one it is.
    socket: Option<(PathBuf, (u64, u64))>,
}

/// Why somebody gives way where no descriptor is left.
const DESCRIPTORS: &str = "no descriptors left (`LimitNOFILE=` of the unit)";

/// Refuses whoever cannot be served for want of room.
fn crowded(why: &str) -> Box<Denial> {
    let denial = Denial::new(Reason::Overloaded, "too many HTTP connections are open");
    denial.line(why.to_owned()).counted(Rejection::HandshakeTimeout)
}

/// Tells somebody at the clients' door that there is no room.
fn refuse(stream: TcpStream, why: &str, driver: &Shared) {
    let refused = TimedOutConn::new(stream);
    if let Some(from) = refused.from() {
        driver.borrow_mut().dismiss(&crowded(why), &refused.stream, from, Some(&refused.said));
    }
}

/// Somebody gives way to another.
fn gives_way(driver: &Shared, sent: &SentAway, why: &str) {
    let mut driver = driver.borrow_mut();
    if let SentAway::Silent(silent) = sent
        && let Some(from) = silent.from()
    {
        return driver.dismiss(&crowded(why), &silent.stream, from, Some(&silent.said));
    }
    let line = format_args!("{why}: the oldest that waits for no answer is closed");
    driver.turned_away(Rejection::HandshakeTimeout, Some((Kind::GaveWay, line)));
}

/// Who listens at a socket that cannot be opened.
const RUNNING: &str = "another wshubd is already running there";

/// What tells a file from another that took its name.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = path.symlink_metadata()?;
    Ok((meta.dev(), meta.ino()))
}

/// A socket that has its address and takes no connection yet; `all` are the addresses that
/// are listened at together.
pub(crate) fn bind_tcp(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of a daemon before this one may still be closing.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(is_only_v6(address, all))?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Whether `[::]` takes no connections of IPv4: it takes them, whatever the default of the
/// system is, unless an address of IPv4 has the same port.
pub(in crate::edge) fn is_only_v6(address: SocketAddr, all: &[SocketAddr]) -> bool {
    all.iter().any(|other| other.is_ipv4() && other.port() == address.port())
}

/// Opens a socket in the file system, in the place of a dead one.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if is_dead_socket(path)? {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

/// Whether a socket is there at which nobody listens any more; nothing at all is none.
///
/// # Errors
/// `AddrInUse` when somebody does, or it is something else.
pub(in crate::edge) fn is_dead_socket(path: &Path) -> io::Result<bool> {
    let Ok(meta) = path.symlink_metadata() else { return Ok(false) };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "there is something else in its place"));
    }
    let in_use = |why| Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let Err(error) = socket.connect(&SockAddr::unix(path)?) else { return in_use(RUNNING) };
    match Errno::from_io_error(&error) {
        // Only that tells that nobody listens: whatever else is wrong, it is not ours to
        // take away.
        Some(Errno::CONNREFUSED) => Ok(true),
        // It is gone meanwhile.
        Some(Errno::NOENT) => Ok(false),
        // One whose queue is full takes nobody now, and lives.
        Some(Errno::AGAIN) => in_use(RUNNING),
        Some(Errno::PROTOTYPE) => in_use("a socket of another type is in its place"),
        _ => Err(error),
    }
}

/// Whether it is a stream socket of one of these families that waits for
/// connections.
fn listens(socket: &OwnedFd, families: &[AddressFamily]) -> io::Result<()> {
    let is_meant = sockopt::socket_type(socket)? == SocketType::STREAM
        && families.contains(&sockopt::socket_domain(socket)?)
        && sockopt::socket_acceptconn(socket)?;
    let wanted = if families.contains(&AddressFamily::UNIX) { "Unix" } else { "TCP" };
    let error = || io::Error::other(format!("it is no {wanted} socket that listens"));
    is_meant.then_some(()).ok_or_else(error)
}

impl Listeners {
    /// Opens a door for HTTP callers and WebSocket clients, one of `all`; tells its address,
    /// which the kernel chose where port 0 was asked for.
    ///
    /// # Errors
    /// Those of `bind`; the caller names the address.
    pub fn open_tcp(
        &mut self,
        address: SocketAddr,
        all: &[SocketAddr],
        epoll: &Epoll,
    ) -> io::Result<SocketAddr> {
        let name = format::Door::Clients(address);
        let listener = match self.inherited(&name) {
            Some(listener) => listener.into(),
            None => bind_tcp(address, all)?,
        };
        let address = listener.local_addr()?;
        self.add(Listener::Clients(listener), name, epoll)?;
        Ok(address)
    }

    /// Lets callers and clients come to the addresses that were opened, now that there is all
    /// that they need.
    ///
    /// # Errors
    /// Somebody else has listened at that address meanwhile.
    pub fn begin_listening(&self) -> Result<(), (SocketAddr, io::Error)> {
        for (door, name) in self.doors.iter().zip(&self.names) {
            if let (Listener::Clients(listener), format::Door::Clients(address)) = (door, name) {
                rustix::net::listen(listener, BACKLOG).map_err(|error| (*address, error.into()))?;
            }
        }
        Ok(())
    }

    /// Opens the workers' door. A dead socket that an earlier daemon left is
    /// taken away; anything else in that place is left alone.
    ///
    /// # Errors
    /// `AddrInUse` when a daemon listens there, or something that is no socket is
    /// in the way; else those of the file system.
    pub fn open_unix(&mut self, path: &Path, mode: u32, epoll: &Epoll) -> io::Result<()> {
        let name = format::Door::Workers(path.to_owned());
        let listener = match self.inherited(&name) {
            // Whoever took the file away took the door away.
            Some(listener) if path.exists() => listener.into(),
            _ => bind_unix(path)?,
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        self.socket = Some((path.to_owned(), identity(path)?));
        self.add(Listener::Workers(listener), name, epoll)
    }

    /// Others may wait only so long from now on as whoever comes next.
    pub fn hurry(&mut self, until: Moment) {
        self.guests.borrow_mut().hurry(until);
    }

    /// Takes a door for HTTP callers and WebSocket clients over that somebody else has
    /// opened, and will open again; tells its address.
    ///
    /// # Errors
    /// It is none.
    pub fn adopt_tcp(&mut self, socket: OwnedFd, epoll: &Epoll) -> io::Result<SocketAddr> {
        listens(&socket, &[AddressFamily::INET, AddressFamily::INET6])?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        self.add(Listener::Clients(listener), format::Door::Passed(HTTP.into()), epoll)?;
        Ok(address)
    }

    /// The same for workers; tells its path. It is not ours to take away.
    ///
    /// # Errors
    /// It is none.
    pub fn adopt_unix(&mut self, socket: OwnedFd, epoll: &Epoll) -> io::Result<String> {
        listens(&socket, &[AddressFamily::UNIX])?;
        let listener = UnixListener::from(socket);
        let address = listener.local_addr()?;
        let path = address.as_pathname().map_or("a socket without a path".into(), Path::to_string_lossy);
        let path = path.into_owned();
        self.add(Listener::Workers(listener), format::Door::Passed(WORKER.into()), epoll)?;
        Ok(path)
    }

    fn add(&mut self, door: Listener, name: format::Door, epoll: &Epoll) -> io::Result<()> {
        match &door {
            Listener::Clients(listener) => listener.set_nonblocking(true)?,
            Listener::Workers(listener) => listener.set_nonblocking(true)?,
        }
        epoll.add(&door, LISTENER_KEY | self.doors.len() as u64, Interest::READ)?;
        self.doors.push(door);
        self.names.push(name);
        Ok(())
    }

    /// Shuts all doors; who stands in one is sent away. The workers' socket is
    /// taken away, so that whoever starts next finds no dead one.
    pub fn close(&mut self) {
        if let Some((path, socket)) = self.socket.take()
            && identity(&path).is_ok_and(|found| found == socket)
        {
            // Whether it was still there is nobody's concern any more.
            let _ = std::fs::remove_file(path);
        }
        self.doors.clear();
        self.names.clear();
        self.for_next.clear();
        self.close_inherited();
        self.guests.borrow_mut().close();
    }

    /// Does what is due; tells for how long nothing will be.
    pub fn tick(&mut self, driver: &mut Driver) -> Option<Duration> {
        let now = driver.moment();
        if self.shut_until.is_some_and(|until| until <= now) {
            self.shut_until = None;
            self.wait_for_guests(Interest::READ, &driver.links.epoll);
        }
        let mut guests = self.guests.borrow_mut();
        while let Some(late) = guests.give_up(now) {
            match late.from() {
                Some(from) if !late.said.is_empty() => {
                    let denial = conn::half_a_head(&driver.site);
                    driver.dismiss(&denial, &late.stream, from, Some(&late.said));
                }
                // Browsers open connections in advance, for requests that may never come.
                _ => driver.turned_away(Rejection::HandshakeTimeout, None),
            }
        }
        let patience = guests.patience();
        [patience, self.shut_until].into_iter().flatten().min().map(|due| due.since(now))
    }

    pub(in crate::edge) fn wait_for_guests(&self, interest: Interest, epoll: &Epoll) {
        for (place, door) in self.doors.iter().enumerate() {
            epoll.modify(door, LISTENER_KEY | place as u64, interest);
        }
    }

    /// Somebody is at a door, or has begun to speak.
    pub fn ready(&mut self, ready: Ready, driver: &Shared, executor: &Rc<LocalExecutor<'static>>) {
        if ready.key & PENDING_KEY == PENDING_KEY {
            return self.start_http(ready, driver, executor);
        }
        let limit = fd_limit::limit();
        for _ in 0..AT_ONCE {
            let Some(door) = self.doors.get((ready.key & !LISTENER_KEY) as usize) else { return };
            let is_for = door.is_for();
            let first_kept_back = fd_limit::first_kept_back(limit, is_for);
            if self.is_shut && fd_limit::next(door).is_none_or(|next| next >= first_kept_back) {
                return self.is_short(limit, is_for, driver);
            }
            match accept_with(door, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(guest) => {
                    let is_last = fd_limit::number(&guest) >= first_kept_back;
                    self.is_shut &= is_last;
                    if is_last {
                        self.is_short(limit, is_for, driver);
                    }
                    match is_for {
                        Use::Client => self.park(guest.into(), driver),
                        Use::Worker => self.accept_worker(guest, driver),
                    }
                    if is_last {
                        return;
                    }
                }
                Err(Errno::AGAIN) => return,
                // A guest that left again costs nothing.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                // Who waits for nothing makes room; its descriptor is free in the
                // next turn.
                Err(Errno::MFILE | Errno::NFILE) if self.makes_room(driver, DESCRIPTORS) => return,
                Err(error) => {
                    let error = io::Error::from(error);
                    self.shut(format_args!("cannot accept connections: {error}"), driver);
                    return self.wait_for_guests(Interest::default(), &driver.borrow().links.epoll);
                }
            }
        }
    }

    /// Only those descriptors are left that are kept back from such a use.
    fn is_short(&mut self, limit: u64, is_for: Use, driver: &Shared) {
        // Its descriptor is free in the next turn.
        if self.makes_room(driver, DESCRIPTORS) {
            return;
        }
        self.shut(
            format_args!(
                "cannot accept connections: of {limit} descriptors none is left but for the store and a \
                 hand-over; the limit of open files (`LimitNOFILE=` of the unit) allows no more"
            ),
            driver,
        );
        let epoll = &driver.borrow().links.epoll;
        for (place, door) in self.doors.iter().enumerate().filter(|(_, door)| door.is_for() == is_for) {
            epoll.modify(door, LISTENER_KEY | place as u64, Interest::default());
        }
    }

    /// Nobody is accepted for a moment. One connection that gets in between is no reason
    /// to say it again.
    fn shut(&mut self, line: std::fmt::Arguments<'_>, driver: &Shared) {
        let mut driver = driver.borrow_mut();
        let now = driver.moment();
        if !std::mem::replace(&mut self.is_shut, true) {
            driver.reports.say(now, Kind::Shut, line, &[]);
        }
        self.shut_until = Some(now + OUT_OF_DESCRIPTORS);
    }

    /// Sends the oldest away that waits for nothing. Whether there was one.
    fn makes_room(&self, driver: &Shared, why: &str) -> bool {
        let sent = self.guests.borrow_mut().send_one_away();
        if let Some(sent) = &sent {
            gives_way(driver, sent, why);
        }
        sent.is_some()
    }

    /// A client waits in the door until it speaks.
    fn park(&mut self, stream: TcpStream, driver: &Shared) {
        let site = driver.borrow().site.clone();
        if self.guests.borrow().is_full(site.guests) {
            let why = "as many HTTP connections as `[limits] http_connections` allows";
            if !self.makes_room(driver, why) {
                return refuse(stream, why, driver);
            }
        }
        let mut guests = self.guests.borrow_mut();
        let driver = driver.borrow();
        let number = guests.number();
        if driver.links.epoll.add_for_news(&stream, PENDING_KEY | number).is_ok() {
            guests.wait(number, driver.moment() + site.patience, stream);
        }
    }

    /// It has said something: HTTP, and once the head is whole it is answered.
    fn start_http(&mut self, ready: Ready, driver: &Shared, executor: &Rc<LocalExecutor<'static>>) {
        let number = ready.key & !PENDING_KEY;
        let Some(stream) = self.guests.borrow_mut().hear(number, ready.has_ended) else { return };
        driver.borrow().links.epoll.remove(&stream);
        let most = driver.borrow().site.conversations;
        if self.guests.borrow().are_too_many_served(most) {
            let why = "as many HTTP connections in use as `[limits] memory` has room for";
            let sent = self.guests.borrow_mut().send_speaker_away();
            match sent {
                Some(sent) => gives_way(driver, &sent, why),
                None => return refuse(stream, why, driver),
            }
        }
        if let Ok(stream) = Async::new_nonblocking(stream) {
            let stay = ConnGuard::new(&self.guests, number);
            let stage = stay.stage();
            let serving = conn::serve(driver.clone(), stream, stay);
            self.guests.borrow_mut().serve(number, stage, executor.spawn(serving));
        }
    }

    /// A worker speaks its lines at once.
    fn accept_worker(&self, guest: OwnedFd, driver: &Shared) {
        // The kernel's word; a peer that is gone already has none.
        let Ok(peer) = sockopt::socket_peercred(&guest) else { return };
        let site = driver.borrow().site.clone();
        let Some(standing) = site.peers.admit(peer) else {
            let (uid, gid, pid) = (peer.uid.as_raw(), peer.gid.as_raw(), peer.pid.as_raw_nonzero());
            // One that comes back by itself must know that it need not. A socket
            // that is new takes this much.
            let why =
                format!("uid {uid} may not speak to this socket: `[worker] allow` names nothing that it is");
            let refusal = Refusal::new(Code::Forbidden, why);
            let mut line = Vec::new();
            Frame::from(&refusal).encode(None, &mut line);
            line.push(b'\n');
            let _ = rustix::net::send(&guest, &line, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            let unit = peer_credentials::unit_of(peer).unwrap_or_else(|| "no unit that is known".to_owned());
            let line = format_args!(
                "worker of uid {uid}, gid {gid}, pid {pid}, {unit}: neither `[worker] allow` nor `[worker] \
                 admins` names it"
            );
            let about = [about("uid", &uid), about("pid", &pid)];
            let mut driver = driver.borrow_mut();
            let now = driver.moment();
            driver.reports.refused(now, Reason::Worker, line, &about);
            return driver.turned_away(Rejection::Refused(Reason::Worker), None);
        };
        let peer = Peer::Worker { uid: peer.uid.as_raw(), admin: standing == Standing::Administrator };
        driver.borrow_mut().open(PeerSocket::worker(guest), peer, &[]);
    }
}
