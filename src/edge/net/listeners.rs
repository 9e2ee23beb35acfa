//! Listening sockets: opening them, accepting connections, and going on when descriptors run
//! out.
//!
//! What is accepted, refused or evicted comes back as a [`ListenerEvent`]; the event loop
//! answers, counts and logs it. A listener stays open in the kernel over a hand-over, so that
//! no peer that connects meanwhile is refused.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, UCred, accept_with, sockopt};
use serde::{Deserialize, Serialize};

use super::bind;
use super::bind::{
    FileIdentity, Unavailable, bind_tcp, bind_unix, check_listening, is_dead_socket, is_wanted,
};
use super::epoll::{Epoll, Interest, Ready};
use super::fd_limit;
use super::fd_limit::Use;
use super::peer_credentials::{Peers, WorkerRank};
use super::pending_conns::{EvictedConn, PendingConns, UnreadConn};
use crate::protocol::Moment;

/// How long nothing is accepted when no descriptor is left for one more connection.
/// Asking again at once would only burn a processor.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// How many connections of one listener are accepted in one turn.
pub const AT_ONCE: usize = 64;

/// The names of sockets for WebSocket and HTTP, and of those for workers:
/// `FileDescriptorName=` of a socket unit.
pub const HTTP: &str = "http";
pub const WORKER: &str = "worker";

/// Keys in epoll of listeners and pending connections, beside those of connections.
const LISTENER_KEY: u64 = 1 << 63;
const PENDING_KEY: u64 = LISTENER_KEY | 1 << 62;

/// Whether an event is about a listener, or a pending connection.
pub fn is_meant(ready: Ready) -> bool {
    ready.key & LISTENER_KEY != 0
}

/// As what a listening socket was opened. The form is that of a hand-over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ListenerName {
    /// As it was configured: the kernel may have chosen the port.
    Clients(SocketAddr),
    Workers(PathBuf),
    /// systemd's, which has it open and passes it to each process that it starts; by
    /// its name there.
    Passed(String),
}

enum ListeningSocket {
    Clients(TcpListener),
    Workers(UnixListener),
}

impl ListeningSocket {
    fn is_for(&self) -> Use {
        match self {
            Self::Clients(_) => Use::Client,
            Self::Workers(_) => Use::Worker,
        }
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Clients(listener) => listener.as_fd(),
            Self::Workers(listener) => listener.as_fd(),
        }
    }
}

struct OpenListener {
    name: ListenerName,
    listener: ListeningSocket,
}

/// A listening socket in which nothing is accepted here.
#[derive(Debug)]
pub struct NamedSocket {
    pub name: ListenerName,
    pub socket: OwnedFd,
}

/// Limits on connections that speak no WebSocket yet, and who may connect as a worker.
#[derive(Debug)]
pub struct AcceptConfig {
    pub peers: Peers,
    /// Most HTTP connections, those that have sent nothing yet among them.
    pub most_pending: usize,
    /// Most of those that have sent a request.
    pub most_served: usize,
    /// A request head that takes longer is given up.
    pub patience: Duration,
}

/// What accepting needs for the length of one call.
#[derive(Clone, Copy)]
pub struct AcceptContext<'a> {
    pub now: Moment,
    pub epoll: &'a Epoll,
    pub config: &'a AcceptConfig,
}

/// What came of accepting.
pub enum ListenerEvent {
    /// A pending connection has sent the head of a request.
    Http { number: u64, stream: TcpStream },
    /// A worker that may connect.
    Worker { socket: OwnedFd, uid: u32, rank: WorkerRank },
    /// A process that may not connect as a worker.
    WorkerRefused { socket: OwnedFd, peer: UCred },
    /// There is no room for a connection.
    Refused { conn: UnreadConn, why: &'static str },
    /// A connection makes room for another.
    Evicted { conn: EvictedConn, why: &'static str },
    /// The head of a request did not come in time.
    TimedOut { conn: UnreadConn },
    /// Nothing is accepted for a moment.
    Paused { why: String },
}

/// All listeners, and the connections that came through one and are pending; at first there is
/// none.
#[derive(Default)]
pub struct Listeners {
    open: Vec<OpenListener>,
    /// Opened by a process before this one, and not asked for yet.
    inherited: Vec<NamedSocket>,
    /// Opened for the process after this one, which is to have other addresses.
    for_next: Vec<NamedSocket>,
    /// Shared with the tasks that serve them.
    pending: Rc<RefCell<PendingConns>>,
    /// No descriptors are left; until then nothing is accepted.
    paused_until: Option<Moment>,
    /// That was reported, and nothing was accepted since.
    is_pause_reported: bool,
    /// The workers' socket that this process has made.
    made: Option<MadeSocket>,
}

/// As every task of the thread shares them.
pub type SharedListeners = Rc<RefCell<Listeners>>;

struct MadeSocket {
    path: PathBuf,
    identity: FileIdentity,
}

/// Why a connection gives way where no descriptor is left.
const DESCRIPTORS: &str = "no descriptors left (`LimitNOFILE=` of the unit)";

/// Opening and closing.
impl Listeners {
    /// Opens a listener for HTTP and WebSocket clients, one of `all`; returns its address,
    /// which the kernel chose where port 0 was configured.
    ///
    /// # Errors
    /// Those of `bind`; the caller names the address.
    pub fn open_tcp(
        &mut self,
        address: SocketAddr,
        all: &[SocketAddr],
        epoll: &Epoll,
    ) -> io::Result<SocketAddr> {
        let name = ListenerName::Clients(address);
        let listener = match self.take_inherited(&name) {
            Some(listener) => listener.into(),
            None => bind_tcp(address, all)?,
        };
        let address = listener.local_addr()?;
        self.add(ListeningSocket::Clients(listener), name, epoll)?;
        Ok(address)
    }

    /// Lets clients connect to the addresses that were opened, now that all is there that they
    /// need.
    ///
    /// # Errors
    /// Another process has listened at that address meanwhile.
    pub fn begin_listening(&self) -> Result<(), (SocketAddr, io::Error)> {
        for OpenListener { name, listener } in &self.open {
            if let (ListeningSocket::Clients(listener), ListenerName::Clients(address)) = (listener, name) {
                bind::listen(listener).map_err(|error| (*address, error))?;
            }
        }
        Ok(())
    }

    /// Opens the workers' listener. A dead socket that an earlier daemon left is
    /// taken away; anything else in that place is left alone.
    ///
    /// # Errors
    /// `AddrInUse` when a daemon listens there, or something that is no socket is
    /// in the way; else those of the file system.
    pub fn open_unix(&mut self, path: &Path, mode: u32, epoll: &Epoll) -> io::Result<()> {
        let name = ListenerName::Workers(path.to_owned());
        let listener = match self.take_inherited(&name) {
            // Without its file no worker can connect to it.
            Some(listener) if path.exists() => listener.into(),
            _ => bind_unix(path)?,
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        self.made = Some(MadeSocket { path: path.to_owned(), identity: FileIdentity::of(path)? });
        self.add(ListeningSocket::Workers(listener), name, epoll)
    }

    /// Takes a listener for HTTP and WebSocket clients over that systemd has opened, and will
    /// open again; returns its address.
    ///
    /// # Errors
    /// It is none.
    pub fn adopt_tcp(&mut self, socket: OwnedFd, epoll: &Epoll) -> io::Result<SocketAddr> {
        check_listening(&socket, &[AddressFamily::INET, AddressFamily::INET6])?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        self.add(ListeningSocket::Clients(listener), ListenerName::Passed(HTTP.into()), epoll)?;
        Ok(address)
    }

    /// The same for workers; returns its path. It is not ours to take away.
    ///
    /// # Errors
    /// It is none.
    pub fn adopt_unix(&mut self, socket: OwnedFd, epoll: &Epoll) -> io::Result<String> {
        check_listening(&socket, &[AddressFamily::UNIX])?;
        let listener = UnixListener::from(socket);
        let address = listener.local_addr()?;
        let path = address.as_pathname().map_or("a socket without a path".into(), Path::to_string_lossy);
        let path = path.into_owned();
        self.add(ListeningSocket::Workers(listener), ListenerName::Passed(WORKER.into()), epoll)?;
        Ok(path)
    }

    fn add(&mut self, listener: ListeningSocket, name: ListenerName, epoll: &Epoll) -> io::Result<()> {
        match &listener {
            ListeningSocket::Clients(listener) => listener.set_nonblocking(true)?,
            ListeningSocket::Workers(listener) => listener.set_nonblocking(true)?,
        }
        epoll.add(&listener, LISTENER_KEY | self.open.len() as u64, Interest::READ)?;
        self.open.push(OpenListener { name, listener });
        Ok(())
    }

    /// Closes all listeners and pending connections. The workers' socket is
    /// taken away, so that the daemon that starts next finds no dead one.
    pub fn close(&mut self) {
        if let Some(MadeSocket { path, identity }) = self.made.take()
            && FileIdentity::of(&path).is_ok_and(|found| found == identity)
        {
            // Whether it was still there is of no interest any more.
            let _ = std::fs::remove_file(path);
        }
        self.open.clear();
        self.for_next.clear();
        self.close_inherited();
        self.pending.borrow_mut().close();
    }

    /// The connections that came through a listener and are no WebSockets yet.
    pub fn pending(&self) -> &Rc<RefCell<PendingConns>> {
        &self.pending
    }

    /// Pending connections wait only until then, as new ones do from now on.
    pub fn shorten_patience(&mut self, until: Moment) {
        self.pending.borrow_mut().shorten_patience(until);
    }
}

/// Accepting.
impl Listeners {
    /// Does what is due; returns when something will be due next.
    pub fn tick(&mut self, cx: AcceptContext<'_>, events: &mut Vec<ListenerEvent>) -> Option<Moment> {
        if self.paused_until.is_some_and(|until| until <= cx.now) {
            self.paused_until = None;
            self.set_interest(Interest::READ, cx.epoll);
        }
        let mut pending = self.pending.borrow_mut();
        while let Some(conn) = pending.take_timed_out(cx.now) {
            events.push(ListenerEvent::TimedOut { conn });
        }
        [pending.deadline(), self.paused_until].into_iter().flatten().min()
    }

    /// Accepts one connection, or looks at what a pending one has sent; what comes of it is
    /// added to `events`. Whether there may be one more to accept.
    pub fn accept(
        &mut self,
        ready: Ready,
        cx: AcceptContext<'_>,
        events: &mut Vec<ListenerEvent>,
    ) -> ControlFlow<()> {
        if ready.key & PENDING_KEY == PENDING_KEY {
            self.begin_http(ready, cx, events);
            return ControlFlow::Break(());
        }
        let Some(open) = self.open.get((ready.key & !LISTENER_KEY) as usize) else {
            return ControlFlow::Break(());
        };
        let is_for = open.listener.is_for();
        let limit = fd_limit::limit();
        let first_kept_back = fd_limit::first_kept_back(limit, is_for);
        let has_free = || fd_limit::next(&open.listener).is_some_and(|next| next < first_kept_back);
        if self.is_pause_reported && !has_free() {
            self.run_short(limit, is_for, cx, events);
            return ControlFlow::Break(());
        }
        match accept_with(&open.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => {
                let is_last = fd_limit::number(&socket) >= first_kept_back;
                self.is_pause_reported &= is_last;
                if is_last {
                    self.run_short(limit, is_for, cx, events);
                }
                match is_for {
                    Use::Client => self.add_pending(socket.into(), cx, events),
                    Use::Worker => events.extend(admit_worker(socket, cx.config)),
                }
                if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            Err(Errno::AGAIN) => ControlFlow::Break(()),
            // A peer that is gone again costs nothing.
            Err(Errno::CONNABORTED | Errno::INTR) => ControlFlow::Continue(()),
            // An idle connection makes room; its descriptor is free in the next turn.
            Err(Errno::MFILE | Errno::NFILE) if self.evict(DESCRIPTORS, events) => ControlFlow::Break(()),
            Err(error) => {
                let error = io::Error::from(error);
                self.pause_accepting(cx.now, events, || format!("cannot accept connections: {error}"));
                self.set_interest(Interest::default(), cx.epoll);
                ControlFlow::Break(())
            }
        }
    }

    /// Only those descriptors are left that are kept back from such a use.
    fn run_short(&mut self, limit: u64, is_for: Use, cx: AcceptContext<'_>, events: &mut Vec<ListenerEvent>) {
        // Its descriptor is free in the next turn.
        if self.evict(DESCRIPTORS, events) {
            return;
        }
        self.pause_accepting(cx.now, events, || {
            format!(
                "cannot accept connections: of {limit} descriptors none is left but for the store and a \
                 hand-over; the limit of open files (`LimitNOFILE=` of the unit) allows no more"
            )
        });
        for (place, open) in self.open.iter().enumerate() {
            if open.listener.is_for() == is_for {
                cx.epoll.modify(&open.listener, LISTENER_KEY | place as u64, Interest::default());
            }
        }
    }

    /// Nothing is accepted for a moment. One connection that gets in between is no reason
    /// to report it again.
    fn pause_accepting(
        &mut self,
        now: Moment,
        events: &mut Vec<ListenerEvent>,
        why: impl FnOnce() -> String,
    ) {
        if !std::mem::replace(&mut self.is_pause_reported, true) {
            events.push(ListenerEvent::Paused { why: why() });
        }
        self.paused_until = Some(now + OUT_OF_DESCRIPTORS);
    }

    /// Evicts the oldest connection that waits for no answer. Whether there was one.
    fn evict(&self, why: &'static str, events: &mut Vec<ListenerEvent>) -> bool {
        let evicted = self.pending.borrow_mut().evict();
        let has_evicted = evicted.is_some();
        events.extend(evicted.map(|conn| ListenerEvent::Evicted { conn, why }));
        has_evicted
    }

    /// A connection is pending until it sends something.
    fn add_pending(&mut self, stream: TcpStream, cx: AcceptContext<'_>, events: &mut Vec<ListenerEvent>) {
        if self.pending.borrow().is_full(cx.config.most_pending) {
            let why = "as many HTTP connections as `[limits] http_connections` allows";
            if !self.evict(why, events) {
                return events.push(ListenerEvent::Refused { conn: UnreadConn::new(stream), why });
            }
        }
        self.wait_for_head(stream, cx.now + cx.config.patience, cx.epoll);
    }

    fn wait_for_head(&mut self, stream: TcpStream, until: Moment, epoll: &Epoll) {
        let mut pending = self.pending.borrow_mut();
        let number = pending.next_number();
        if epoll.add_for_news(&stream, PENDING_KEY | number).is_ok() {
            pending.add(number, until, stream);
        }
    }

    /// A pending connection has sent something: HTTP, once the head is whole.
    fn begin_http(&mut self, ready: Ready, cx: AcceptContext<'_>, events: &mut Vec<ListenerEvent>) {
        let number = ready.key & !PENDING_KEY;
        let mut pending = self.pending.borrow_mut();
        let Some(stream) = pending.take_with_head(number, ready.has_ended) else { return };
        cx.epoll.remove(&stream);
        if pending.is_serving_most(cx.config.most_served) {
            let why = "as many HTTP connections in use as `[limits] memory` has room for";
            match pending.evict_served() {
                Some(conn) => events.push(ListenerEvent::Evicted { conn, why }),
                None => return events.push(ListenerEvent::Refused { conn: UnreadConn::new(stream), why }),
            }
        }
        events.push(ListenerEvent::Http { number, stream });
    }

    fn set_interest(&self, interest: Interest, epoll: &Epoll) {
        for (place, open) in self.open.iter().enumerate() {
            epoll.modify(&open.listener, LISTENER_KEY | place as u64, interest);
        }
    }

    /// Accepts nothing for now: new connections, and what pending ones send, wait in the
    /// kernel. A connection that is served has one answer still to receive.
    pub fn pause(&mut self, epoll: &Epoll) {
        self.watch(epoll, Interest::default());
        self.pending.borrow_mut().finish();
    }

    /// Accepts connections again.
    pub fn resume(&mut self, epoll: &Epoll) {
        self.for_next.clear();
        self.watch(epoll, Interest::READ);
    }

    fn watch(&self, epoll: &Epoll, interest: Interest) {
        self.set_interest(interest, epoll);
        for (number, stream) in self.pending.borrow().numbered() {
            epoll.modify_for_news(stream, PENDING_KEY | number, interest);
        }
    }
}

fn admit_worker(socket: OwnedFd, config: &AcceptConfig) -> Option<ListenerEvent> {
    // From the kernel; a peer that is gone already has no credentials.
    let peer = sockopt::socket_peercred(&socket).ok()?;
    Some(match config.peers.admit(peer) {
        Some(rank) => ListenerEvent::Worker { socket, uid: peer.uid.as_raw(), rank },
        None => ListenerEvent::WorkerRefused { socket, peer },
    })
}

/// Hand-over.
impl Listeners {
    /// The listening sockets, by name; `passed` decides on those of systemd.
    pub fn sockets(&self, passed: Passed) -> impl Iterator<Item = (&ListenerName, BorrowedFd<'_>)> {
        let goes =
            move |name: &ListenerName| passed == Passed::Included || !matches!(name, ListenerName::Passed(_));
        let open = self.open.iter().filter(move |open| goes(&open.name));
        let open = open.map(|open| (&open.name, open.listener.as_fd()));
        open.chain(self.for_next.iter().map(|next| (&next.name, next.socket.as_fd())))
    }

    /// Opens the addresses of the next process that are not open yet: one that another process
    /// has taken could not be taken back after the hand-over. They go along with the others.
    /// The workers' socket is only looked at, for opening it takes the place of another.
    ///
    /// # Errors
    /// The first that cannot be opened, and why.
    pub fn open_for_next(&mut self, clients: &[SocketAddr], workers: &Path) -> Result<(), Unavailable> {
        self.for_next.clear();
        let is_open = |name: &ListenerName| self.open.iter().any(|open| open.name == *name);
        let is_passed = |name: &str| is_open(&ListenerName::Passed(name.to_owned()));
        let has_wanted = |address: SocketAddr| {
            let mut open = self.open.iter();
            open.any(|open| {
                open.name == ListenerName::Clients(address) && is_wanted(address, &open.listener, clients)
            })
        };
        let mut opened = Vec::new();
        for &address in clients.iter().filter(|_| !is_passed(HTTP)) {
            if has_wanted(address) {
                continue;
            }
            match bind_tcp(address, clients).and_then(listening) {
                Ok(socket) => opened.push(NamedSocket {
                    name: ListenerName::Clients(address),
                    socket: OwnedFd::from(socket),
                }),
                // The next process closes what it has no use for first.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && self.is_in_the_way(address, clients) => {}
                Err(error) => {
                    let what = format_args!("cannot listen on {address}");
                    return Err(Unavailable::new(what, &error, "`[listen] http` sets the address"));
                }
            }
        }
        if !is_passed(WORKER) && !is_open(&ListenerName::Workers(workers.to_owned())) {
            let what = format_args!("cannot open the worker socket {}", workers.display());
            bind::check_unix(workers)
                .map_err(|error| Unavailable::new(what, &error, "`[listen] worker` sets the path"))?;
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
        self.open.iter().any(|open| match &open.name {
            ListenerName::Clients(other) => !is_wanted(*other, &open.listener, wanted) && overlaps(other),
            _ => false,
        })
    }

    /// Takes sockets that another process had open, to be found when they are asked for.
    pub fn inherit(&mut self, sockets: Vec<NamedSocket>) {
        self.inherited = sockets;
    }

    fn take_inherited(&mut self, name: &ListenerName) -> Option<OwnedFd> {
        let at = self.inherited.iter().position(|inherited| inherited.name == *name)?;
        Some(self.inherited.swap_remove(at).socket)
    }

    /// Closes the addresses that another process had open and this one does not want:
    /// they may be in the way of what is wanted.
    pub fn keep_wanted(&mut self, clients: &[SocketAddr]) {
        self.inherited.retain(|inherited| match &inherited.name {
            ListenerName::Clients(address) => is_wanted(*address, &inherited.socket, clients),
            _ => true,
        });
    }

    /// Closes what another process had open and this one has not asked for. A socket in the
    /// file system at which no process listens then is in the way of those that connect.
    fn close_inherited(&mut self) {
        for NamedSocket { name, socket } in self.inherited.drain(..) {
            drop(socket);
            if let ListenerName::Workers(path) = name
                && is_dead_socket(&path).is_ok_and(|is_dead| is_dead)
            {
                // A process that opens another one there takes it away as well.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// All listeners are open that are to be: closes those that are not asked for any
    /// more, and lets the pending connections of another process wait on.
    pub fn import_pending(
        &mut self,
        pending: impl IntoIterator<Item = (Option<Moment>, TcpStream)>,
        cx: AcceptContext<'_>,
    ) {
        self.close_inherited();
        for (until, stream) in pending {
            self.wait_for_head(stream, until.unwrap_or(cx.now + cx.config.patience), cx.epoll);
        }
    }
}

/// Whether sockets that systemd has opened are included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passed {
    Included,
    /// systemd passes them on itself.
    Excluded,
}

/// Takes connections from now on.
fn listening(listener: TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    bind::listen(&listener)?;
    Ok(listener)
}
