//! Event loop: the order of everything within a turn.
//!
//! A turn first lets the tasks of HTTP run, then does what is due, then writes
//! once to every connection that was given something; then it waits, and reads once
//! from every one that is ready. So a burst leaves in one write for each connection, and
//! none is read twice before all others were read.

use std::cell::RefCell;
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::net::{SendFlags, UCred};
use smol::{Async, LocalExecutor};

use super::config::{ActiveConfig, EdgeConfig};
use super::driver::anomaly_log::{AnomalyKind, field};
use super::driver::{Driver, Shared};
use super::http::config::HttpConfig;
use super::http::conn;
use super::http::conn::HttpContext;
use super::http::denial::dismiss;
use super::net::epoll::Ready;
use super::net::listeners;
use super::net::listeners::{AcceptConfig, AcceptContext, ListenerEvent, Listeners, SharedListeners};
use super::net::peer_credentials;
use super::net::peer_credentials::WorkerRank;
use super::net::pending_conns::{ConnGuard, EvictedConn, UnreadConn};
use super::net::socket::PeerSocket;
use super::store;
use super::systemd::StatusReporter;
use crate::hub::{Peer, Rejection, Settings};
use crate::protocol::{Code, Frame, Moment, Reason, Refusal};

/// All parts of the edge that the loop drives, as every task of the thread shares them.
#[derive(Clone)]
pub struct Edge {
    pub driver: Shared,
    pub listeners: SharedListeners,
    pub http: Rc<HttpContext>,
    pub status: StatusReporter,
    pub accept: Rc<RefCell<AcceptConfig>>,
}

impl Edge {
    /// All parts, in the form in which tasks share them.
    pub fn new(
        driver: Driver,
        listeners: Listeners,
        http: HttpConfig,
        accept: AcceptConfig,
        status: StatusReporter,
    ) -> Self {
        let driver = Rc::new(RefCell::new(driver));
        Self {
            http: Rc::new(HttpContext::new(driver.clone(), http)),
            driver,
            listeners: Rc::new(RefCell::new(listeners)),
            status,
            accept: Rc::new(RefCell::new(accept)),
        }
    }

    /// Notifies systemd that connections are accepted.
    pub fn notify_ready(&self) {
        self.status.ready(self.driver.borrow_mut().refreshed_status());
    }

    /// The configuration in use, which another may take the place of.
    pub fn config(&self) -> ActiveConfig {
        ActiveConfig::of(&self.driver.borrow(), &self.http)
    }

    /// Goes on with another configuration. Every connection stays.
    pub fn configure(&self, config: EdgeConfig, settings: Settings, disk: Option<store::StoreOptions>) {
        let EdgeConfig { accept, driver: driver_config, http } = config;
        let mut driver = self.driver.borrow_mut();
        driver.configure(Rc::new(driver_config), settings, disk);
        self.http.configure(http);
        self.listeners.borrow_mut().shorten_patience(driver.moment() + accept.patience);
        *self.accept.borrow_mut() = accept;
    }

    /// How many connections there are, pending ones too.
    pub fn connections(&self) -> usize {
        self.driver.borrow().connections() + self.listeners.borrow().pending().borrow().count()
    }

    /// Lets the pending connections of another process wait on.
    pub fn import_pending(&self, pending: Vec<(Option<Moment>, TcpStream)>) {
        let (driver, accept) = (self.driver.borrow(), self.accept.borrow());
        let cx = AcceptContext { now: driver.moment(), epoll: driver.epoll(), config: &accept };
        self.listeners.borrow_mut().import_pending(pending, cx);
    }

    /// Runs until `main` is done; its tasks and those of `executor` run in between.
    pub fn run<T>(&self, executor: &Rc<LocalExecutor<'static>>, main: impl Future<Output = T>) -> T {
        let bell = self.driver.borrow().epoll().bell();
        let waker = Waker::from(bell.clone());
        let mut tasks = pin!(executor.run(main));
        let (mut ready, mut events) = (Vec::new(), Vec::new());
        let mut is_rung = true;
        loop {
            if is_rung && let Poll::Ready(result) = tasks.as_mut().poll(&mut Context::from_waker(&waker)) {
                return result;
            }
            let wait = self.end_turn(&mut events);
            self.driver.borrow_mut().wait(wait, &mut ready);
            for one in ready.drain(..) {
                if store::is_store_event(one) {
                    self.driver.borrow_mut().store_ready();
                } else if listeners::is_meant(one) {
                    self.accept(one, executor, &mut events);
                } else {
                    self.driver.borrow_mut().ready(one);
                }
            }
            is_rung = bell.was_rung();
        }
    }

    /// Does what is due; returns how long nothing will be.
    fn end_turn(&self, events: &mut Vec<ListenerEvent>) -> Option<Duration> {
        let mut driver = self.driver.borrow_mut();
        let wait = driver.end_turn();
        let report = self.status.tick(|| driver.status());
        let accept = self.accept.borrow();
        let cx = AcceptContext { now: driver.moment(), epoll: driver.epoll(), config: &accept };
        let listeners = self.listeners.borrow_mut().tick(cx, events);
        for event in events.drain(..) {
            if let ListenerEvent::TimedOut { conn } = event {
                self.time_out(&mut driver, &conn);
            }
        }
        let due = [report, listeners].into_iter().flatten().map(|due| due.since(driver.moment()));
        wait.into_iter().chain(due).min()
    }

    /// Accepts what waits at a listener, or what a pending connection has sent.
    fn accept(&self, ready: Ready, executor: &Rc<LocalExecutor<'static>>, events: &mut Vec<ListenerEvent>) {
        for _ in 0..listeners::AT_ONCE {
            let flow = {
                let (driver, accept) = (self.driver.borrow(), self.accept.borrow());
                let cx = AcceptContext { now: driver.moment(), epoll: driver.epoll(), config: &accept };
                self.listeners.borrow_mut().accept(ready, cx, events)
            };
            // At once, so that descriptors of evicted connections are free for the next.
            for event in events.drain(..) {
                self.handle(event, executor);
            }
            if flow == ControlFlow::Break(()) {
                return;
            }
        }
    }

    fn handle(&self, event: ListenerEvent, executor: &Rc<LocalExecutor<'static>>) {
        let mut driver = self.driver.borrow_mut();
        match event {
            ListenerEvent::Http { number, stream } => {
                drop(driver);
                let Ok(stream) = Async::new_nonblocking(stream) else { return };
                let pending = self.listeners.borrow().pending().clone();
                let guard = ConnGuard::new(&pending, number);
                let stage = guard.stage();
                let serving = conn::serve(self.http.clone(), stream, guard);
                pending.borrow_mut().serve(number, stage, executor.spawn(serving));
            }
            ListenerEvent::Worker { socket, uid, rank } => {
                let peer = Peer::Worker { uid, admin: rank == WorkerRank::Administrator };
                driver.open(PeerSocket::worker(socket), peer, &[]);
            }
            ListenerEvent::WorkerRefused { socket, peer } => refuse_worker(&mut driver, &socket, peer),
            ListenerEvent::Refused { conn, why } => self.refuse(&mut driver, &conn, why),
            ListenerEvent::Evicted { conn: EvictedConn::Unread(conn), why } if conn.address().is_some() => {
                self.refuse(&mut driver, &conn, why);
            }
            ListenerEvent::Evicted { why, .. } => {
                let line = format_args!("{why}: the oldest that waits for no answer is closed");
                driver.log_anomaly(AnomalyKind::Evicted, line);
                driver.count_rejection(Rejection::HandshakeTimeout);
            }
            ListenerEvent::TimedOut { conn } => self.time_out(&mut driver, &conn),
            ListenerEvent::Paused { why } => driver.log_anomaly(AnomalyKind::NotAccepting, why),
        }
    }

    /// Answers a connection that cannot be served for want of room.
    fn refuse(&self, driver: &mut Driver, conn: &UnreadConn, why: &str) {
        if let Some(from) = conn.address() {
            let denial = conn::crowded(why);
            dismiss(driver, &self.http.config(), &denial, conn.stream(), from, Some(conn.head()));
        }
    }

    fn time_out(&self, driver: &mut Driver, conn: &UnreadConn) {
        match conn.address() {
            Some(from) if !conn.head().is_empty() => {
                let config = self.http.config();
                let denial = conn::half_a_head(&config);
                dismiss(driver, &config, &denial, conn.stream(), from, Some(conn.head()));
            }
            // Browsers open connections in advance, for requests that may never come.
            _ => driver.count_rejection(Rejection::HandshakeTimeout),
        }
    }
}

/// Answers a process that may not connect as a worker.
fn refuse_worker(driver: &mut Driver, socket: &impl std::os::fd::AsFd, peer: UCred) {
    let (uid, gid, pid) = (peer.uid.as_raw(), peer.gid.as_raw(), peer.pid.as_raw_nonzero());
    // One that comes back by itself must know that it need not. A socket
    // that is new takes this much.
    let why = format!("uid {uid} may not speak to this socket: `[worker] allow` names nothing that it is");
    let refusal = Refusal::new(Code::Forbidden, why);
    let mut line = Vec::new();
    Frame::from(&refusal).encode(None, &mut line);
    line.push(b'\n');
    let _ = rustix::net::send(socket, &line, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    let unit = peer_credentials::unit_of(peer).unwrap_or_else(|| "no unit that is known".to_owned());
    let line = format_args!(
        "worker of uid {uid}, gid {gid}, pid {pid}, {unit}: neither `[worker] allow` nor `[worker] \
         admins` names it"
    );
    driver.note_other_refusal(Reason::Worker, line, &[field("uid", &uid), field("pid", &pid)]);
}
