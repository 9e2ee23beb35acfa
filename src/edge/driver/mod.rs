//! Owns the hub. Makes facts of what happens.
//!
//! Knows the hub, the links and the clock. Does not decide anything, and leaves
//! what arrives to `inbound`, and what the hub orders to [`effects`].
//! The former is decided on at once; what is to be written waits for the end of the
//! turn.

pub(super) mod admin;
pub mod anomaly_log;
pub mod config;
pub mod effects;
pub mod event_loop;
pub(super) mod inbound;
pub mod malloc_trim;
pub mod memory_report;
pub mod reload;
pub(super) mod replay_pages;
pub mod revocations;
pub(super) mod startup;
pub(super) mod turn_share;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use async_channel::{Receiver, Sender};

use super::clock;
use super::net::connection::{Side, Worker};
use super::net::connection_table::Links;
use super::net::encoded_frame::EncodedFrame;
use super::net::epoll::{Epoll, Ready};
use super::net::send_queue::QueuedFrame;
use super::net::socket::PeerSocket;
use super::store::seq_file::SeqFile;
use super::store::{Store, StoreContext};
use super::systemd::StatusNotifier;
use crate::hub::{Effects, Hub, Input, Now, Peer, Requester};
use crate::protocol::frame::Statistics;
use crate::protocol::{ConnectionId, Frame, Moment, OperationId, Refusal, Request, RequestEnvelope};
use anomaly_log::AnomalyLog;
use config::EdgeConfig;
use inbound::{LINGER, ReadContext};
use reload::Reloads;
use replay_pages::ReplayPages;
use revocations::RevocationQueue;
use turn_share::TurnShares;

/// The driver, as every task of the thread shares it. It is borrowed for the
/// length of one call and never across an await.
pub type Shared = Rc<RefCell<Driver>>;

/// The hub's answer to an HTTP request.
#[derive(Debug)]
pub enum HttpAnswer {
    /// The statistics, which each endpoint renders in its own form.
    Statistics(Box<Statistics>),
    /// The JSON of the frame.
    Done(Vec<u8>),
    /// The same of a refusal.
    Refused { refusal: Refusal, body: Vec<u8> },
}

impl HttpAnswer {
    fn new(frame: &Frame<'_>, refusal: Option<&Refusal>) -> Self {
        if let Frame::Stats(statistics) = frame {
            return Self::Statistics(statistics.clone());
        }
        let mut body = Vec::new();
        frame.encode(None, &mut body);
        match refusal {
            None => Self::Done(body),
            Some(refusal) => Self::Refused { refusal: refusal.clone(), body },
        }
    }
}

/// The hub's ends of latches, and whose the other ends are.
pub(super) type Latches = HashMap<OperationId, (Sender<QueuedFrame>, ConnectionId)>;

/// So many facts are more than almost any turn has.
const USUAL_FACTS: usize = 1024;

pub struct Driver {
    pub(super) hub: Hub,
    effects: Effects,
    pub links: Links,
    pub(super) store: Store,
    /// What is known of the configuration, until another takes its place.
    pub site: Rc<EdgeConfig>,
    /// One per running operation, held by this end; the other end is the
    /// worker's writer. Full: somebody asked already. Closed: it is over.
    pub(super) latches: Latches,
    pub(super) pages: ReplayPages,
    /// What users have had done in this turn.
    pub(super) turn: TurnShares,
    /// What was held for the links when the hub was told last.
    pub(super) weighed: usize,
    /// HTTP requests that wait for an answer.
    pub(super) tickets: HashMap<u64, Sender<HttpAnswer>>,
    pub(super) last_ticket: u64,
    /// Away while something is being read.
    pub(super) ears: Option<ReadContext>,
    pub(super) scratch: Vec<u8>,
    /// The time of this call.
    pub(super) now: Now,
    /// Links that were told goodbye, and when they are cut off; oldest first.
    pub(super) lingering: VecDeque<(Moment, ConnectionId)>,
    pub(super) ping: EncodedFrame,
    pub(super) reports: AnomalyLog,
    pub(super) reloads: Reloads,
    pub(super) revoking: RevocationQueue,
    /// Where numbers go on if the process is killed, for the logs that have it so.
    pub(super) positions: Option<SeqFile>,
    /// Where systemd wants to hear how it goes.
    pub(super) bulletin: Option<StatusNotifier>,
}

impl Driver {
    /// A driver around a hub.
    pub fn new(hub: Hub, store: Store, site: Rc<EdgeConfig>, epoll: Epoll) -> Self {
        let ears = ReadContext::new(site.message_bytes);
        Self {
            hub,
            effects: Effects::default(),
            links: Links::new(site.bounds, epoll),
            store,
            site,
            latches: HashMap::new(),
            pages: ReplayPages::default(),
            turn: TurnShares::default(),
            weighed: 0,
            tickets: HashMap::new(),
            last_ticket: 0,
            ears: Some(ears),
            scratch: Vec::new(),
            now: clock::now(),
            lingering: VecDeque::new(),
            ping: EncodedFrame::ping(),
            reports: AnomalyLog::default(),
            reloads: Reloads::default(),
            revoking: RevocationQueue::default(),
            positions: None,
            bulletin: None,
        }
    }

    /// A link is up. `early` is what the peer said before anybody listened.
    pub fn open(&mut self, wire: PeerSocket, peer: Peer, early: &[u8]) {
        self.look_at_the_clock();
        let peer = self.look_again(peer);
        let side = match &peer {
            Peer::Client { .. } => Side::Client { held: None },
            Peer::Worker { admin, .. } => {
                Side::Worker(Box::new(Worker { admin: *admin, ..Worker::default() }))
            }
        };
        // Without memory in the kernel for one more, the socket closes.
        let Ok(conn) = self.links.open(wire, side, clock::random()) else { return };
        self.tell(Input::Opened { conn, peer });
        if !early.is_empty() {
            self.heard(conn, early);
        }
    }

    /// Waits until something is ready, and sees how late it has become.
    pub fn wait(&mut self, time: Option<Duration>, ready: &mut Vec<Ready>) {
        self.links.epoll.wait(time, ready);
        self.look_at_the_clock();
    }

    /// The kernel has something to tell of a link.
    pub fn ready(&mut self, ready: Ready) {
        let Some(conn) = self.links.meant(ready) else { return };
        if ready.write {
            let permit = self.permit_to_write();
            self.links.flush(conn.slot, permit);
            self.pump();
        }
        if ready.read {
            self.read(conn);
        }
    }

    /// Asks the hub something for an HTTP request; the answer comes through the
    /// receiver.
    pub fn ask(&mut self, say: Request) -> Receiver<HttpAnswer> {
        self.look_at_the_clock();
        // An interrupt may be answered twice, `pending` first.
        let (sender, receiver) = async_channel::bounded(1);
        self.last_ticket += 1;
        self.tickets.insert(self.last_ticket, sender);
        let from = Requester::Http(self.last_ticket);
        self.weigh_for(&say);
        self.tell(Input::Request { from, request: RequestEnvelope { id: None, request: say } });
        receiver
    }

    /// Something that happened outside of the links.
    pub fn told(&mut self, input: Input) {
        self.look_at_the_clock();
        self.tell(input);
    }

    /// Every call from outside begins with it; within one call it stays the same
    /// time.
    pub(super) fn look_at_the_clock(&mut self) {
        self.now = clock::now();
        self.links.now = self.now.moment;
    }

    pub(super) fn tell(&mut self, input: Input) {
        self.links.inputs.push_back(input);
        self.pump();
    }

    /// Lets the hub decide until nothing is left to be told.
    pub(super) fn pump(&mut self) {
        while let Some(input) = self.links.inputs.pop_front() {
            let closed = match &input {
                Input::Closed { conn } => Some(*conn),
                _ => None,
            };
            let mut effects = std::mem::take(&mut self.effects);
            effects.clear();
            self.hub.handle(self.now, input, &mut effects);
            for effect in effects.list.drain(..) {
                self.perform(effect, &effects.recipients);
            }
            self.effects = effects;
            if let Some(conn) = closed {
                self.links.settle(conn);
            }
        }
        // At the start all that is kept is told. Cut short the list would stay where it is,
        // above all that is free by then.
        if self.links.inputs.capacity() > USUAL_FACTS {
            self.links.inputs = VecDeque::new();
        }
    }

    /// Ends the turn: does what is due, and writes once to every link that was
    /// given something. Returns how long nothing will be due.
    pub fn end_turn(&mut self) -> Option<Duration> {
        self.look_at_the_clock();
        while let Some(&(moment, conn)) = self.lingering.front() {
            if moment > self.now.moment {
                break;
            }
            // A peer that does not hang up is hung up on, unless it is not done with a frame.
            self.lingering.pop_front();
            if self.links.get(conn).is_some_and(|link| link.leaving && link.rest.waits_again()) {
                self.lingering.push_back((self.now.moment + LINGER, conn));
            } else {
                self.links.lose(conn);
            }
        }
        self.go_on_listening();
        if self.hub.deadline().is_some_and(|due| due <= self.now.moment) {
            self.tell(Input::Timeout);
        }
        self.with_store(Store::tick);
        self.pump();
        self.serve_pages();
        let permit = self.permit_to_write();
        self.links.end_turn(permit);
        self.pump();
        self.weigh();
        let report = self.report();
        // What was replayed or closed just now leaves in the next turn.
        if self.links.is_dirty() || !self.links.resumed.is_empty() || !self.pages.is_empty() {
            return Some(Duration::ZERO);
        }
        let cut_off = self.lingering.front().map(|(moment, _)| *moment);
        let store = self.store.deadline(self.now.moment);
        let due = [self.hub.deadline(), cut_off, store, report].into_iter().flatten().min();
        due.map(|due| due.since(self.now.moment))
    }

    /// The process that owns the disk has something to say.
    pub fn store_ready(&mut self) {
        self.with_store(Store::ready);
        self.pump();
    }

    pub(super) fn with_store(&mut self, act: impl FnOnce(&mut Store, &mut StoreContext<'_>)) {
        let Links { epoll, inputs: facts, .. } = &mut self.links;
        let mut around = StoreContext { now: self.now, hub: &self.hub, epoll: Some(epoll), inputs: facts };
        act(&mut self.store, &mut around);
    }

    /// The time of this turn.
    pub fn moment(&self) -> Moment {
        self.now.moment
    }

    /// How many links there are, leaving ones too.
    pub fn connections(&self) -> usize {
        self.links.len()
    }

    /// Whether every link has what it was owed, or is gone.
    pub fn is_idle(&self) -> bool {
        self.links.is_empty()
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("links", &self.links.len())
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}
