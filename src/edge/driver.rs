//! Owns the hub. Makes facts of what happens.
//!
//! Knows the hub, the links and the clock. Does not decide anything, and leaves
//! what the hub orders to [`deeds`](super::deeds). What arrives is decided on at
//! once; what is to be written waits for the end of the turn.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use async_channel::{Receiver, Sender};

use super::epoll::{Epoll, Ready};
use super::link::{Link, Side, Worker};
use super::links::Links;
use super::outbox::Piece;
use super::packet::Packet;
use super::reload::Reloads;
use super::report::Reports;
use super::site::Site;
use super::store::positions::Positions;
use super::store::{Around, Store};
use super::systemd::Bulletin;
use super::wire::{Moved, Wire};
use super::ws::{Decoder, Heard};
use super::{clock, lines};
use crate::hub::{Asker, Effects, Hub, Input, Now, Peer, TurnedAway};
use crate::protocol::{
    Close, Code, ConnectionId, Misspoken, Moment, OperationId, Refusal, Said, Say, worker,
};

/// The driver, as every task of the thread shares it. It is borrowed for the
/// length of one call and never across an await.
pub type Shared = Rc<RefCell<Driver>>;

/// What an HTTP request gets for an answer.
#[derive(Debug)]
pub struct HttpAnswer {
    /// Why not, if not.
    pub refused: Option<Code>,
    /// Seconds, for `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The JSON of the frame.
    pub body: Vec<u8>,
}

/// The hub's ends of latches, and whose the other ends are.
pub(super) type Latches = HashMap<OperationId, (Sender<Piece>, ConnectionId)>;

/// What reading needs, for all links in turn.
struct Ears {
    block: Box<[u8]>,
    decoder: Decoder,
}

/// How much is read from one link in one turn: enough for a burst, little
/// enough that everybody gets a turn soon.
pub(super) const BLOCK: usize = 16 << 10;

/// How much is held of what somebody has half said who may say nothing but `auth`:
/// the largest token, twice that for JSON around it, and what the allocator rounds up.
const LONGEST_FROM_STRANGERS: usize = 32 << 10;

/// How long a peer that was told goodbye may take to hang up.
pub(super) const LINGER: Duration = Duration::from_secs(2);

pub struct Driver {
    pub(super) hub: Hub,
    effects: Effects,
    pub links: Links,
    pub(super) store: Store,
    /// What is known of the configuration, until another takes its place.
    pub site: Rc<Site>,
    /// One per running operation, held by this end; the other end is the
    /// worker's writer. Full: somebody asked already. Closed: it is over.
    pub(super) latches: Latches,
    /// HTTP requests that wait for an answer.
    pub(super) tickets: HashMap<u64, Sender<HttpAnswer>>,
    pub(super) last_ticket: u64,
    /// Away while something is being read.
    ears: Option<Ears>,
    pub(super) scratch: Vec<u8>,
    /// The time of this call.
    pub(super) now: Now,
    /// Links that were told goodbye, and when they are cut off; oldest first.
    pub(super) lingering: VecDeque<(Moment, ConnectionId)>,
    pub(super) ping: Packet,
    pub(super) reports: Reports,
    pub(super) reloads: Reloads,
    /// Where numbers go on if the process is killed, for the logs that have it so.
    pub(super) positions: Option<Positions>,
    /// Where systemd wants to hear how it goes.
    pub(super) bulletin: Option<Bulletin>,
}

impl Driver {
    /// A driver around a hub.
    pub fn new(hub: Hub, store: Store, site: Rc<Site>, epoll: Epoll) -> Self {
        let decoder = Decoder::new(site.message_bytes);
        Self {
            hub,
            effects: Effects::default(),
            links: Links::new(site.bounds, epoll),
            store,
            site,
            latches: HashMap::new(),
            tickets: HashMap::new(),
            last_ticket: 0,
            ears: Some(Ears { block: vec![0; BLOCK].into(), decoder }),
            scratch: Vec::new(),
            now: clock::now(),
            lingering: VecDeque::new(),
            ping: Packet::ping(),
            reports: Reports::default(),
            reloads: Reloads::default(),
            positions: None,
            bulletin: None,
        }
    }

    /// A link is up. `early` is what the peer said before anybody listened.
    pub fn open(&mut self, wire: Wire, peer: Peer, early: &[u8]) {
        self.look_at_the_clock();
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

    /// Takes frames and lines of up to so many bytes from now on.
    pub(super) fn limit_messages(&mut self, bytes: usize) {
        if let Some(ears) = &mut self.ears {
            ears.decoder.limit(bytes);
        }
    }

    /// The kernel has something to tell of a link.
    pub fn ready(&mut self, ready: Ready) {
        let Some(conn) = self.links.meant(ready) else { return };
        if ready.write {
            self.links.flush(conn.slot);
            self.pump();
        }
        if ready.read {
            self.read(conn);
        }
    }

    /// Reads once from a link that has something.
    fn read(&mut self, conn: ConnectionId) {
        let Some(mut ears) = self.ears.take() else { return };
        let moved = self.links.get(conn).map(|link| link.wire.read(&mut ears.block));
        if let Some(Moved::Bytes(bytes @ 1..)) = moved {
            let block = ears.block.get(..bytes).unwrap_or_default();
            self.listen(conn, block, &mut ears.decoder);
        }
        self.ears = Some(ears);
        if let Some(Moved::Bytes(0) | Moved::Broken) = moved {
            self.hung_up(conn);
        }
    }

    fn heard(&mut self, conn: ConnectionId, bytes: &[u8]) {
        if let Some(mut ears) = self.ears.take() {
            self.listen(conn, bytes, &mut ears.decoder);
            self.ears = Some(ears);
        }
    }

    /// Makes requests of bytes. What a link has begun to say is taken from it
    /// for that long, and put back.
    fn listen(&mut self, conn: ConnectionId, bytes: &[u8], decoder: &mut Decoder) {
        let Some(link) = self.links.get(conn) else { return };
        if link.leaving {
            return;
        }
        match &mut link.side {
            Side::Client { held } => {
                let mut held = held.take();
                decoder.decode(&mut held, bytes, |heard| self.hear(conn, heard));
                let is_long = held.as_ref().is_some_and(|held| held.bytes() > LONGEST_FROM_STRANGERS);
                if is_long && self.staying(conn).is_some() && !self.hub.lets_in(conn) {
                    return self.refuse_to_go_on(conn, Close::TooBig);
                }
                if let Some(Side::Client { held: place }) = self.staying(conn).map(|link| &mut link.side) {
                    *place = held;
                }
            }
            Side::Worker(worker) => {
                let (mut held, limit) = (worker.held.take(), self.site.message_bytes);
                lines::split(&mut held, bytes, limit, |line| self.hear_line(conn, line));
                if let Some(Side::Worker(worker)) = self.staying(conn).map(|link| &mut link.side) {
                    worker.held = held;
                }
            }
        }
    }

    /// The link, unless it was told goodbye.
    fn staying(&mut self, conn: ConnectionId) -> Option<&mut Link> {
        self.links.get(conn).filter(|link| !link.leaving)
    }

    fn hear(&mut self, conn: ConnectionId, heard: Heard<'_>) {
        if self.staying(conn).is_none() {
            return;
        }
        match heard {
            Heard::Text(text) => self.said(conn, crate::protocol::parse(text)),
            Heard::Binary(_) => self.refuse_to_go_on(conn, Close::NotText),
            Heard::Alive => self.tell(Input::Heard { conn }),
            Heard::Reply(frame) => self.links.push(conn.slot, Piece::frame(&Packet::raw(frame))),
            Heard::Closed => {
                self.links.leave(conn, [], false);
                self.part(conn);
            }
            Heard::Broken(close) => self.refuse_to_go_on(conn, close),
        }
    }

    fn hear_line(&mut self, conn: ConnectionId, line: lines::Line<'_>) {
        let too_long = || format!("a line may be {} bytes long", self.site.message_bytes);
        let said = match line {
            lines::Line::Whole(line) => worker::parse(line),
            lines::Line::TooLong => {
                Err(Misspoken { id: None, refusal: Refusal::new(Code::TooLarge, too_long()) })
            }
            lines::Line::Half => {
                let refusal = Refusal::new(Code::BadJson, "the socket closed in the middle of a line");
                Err(Misspoken { id: None, refusal })
            }
        };
        self.said(conn, said);
    }

    /// Passes a request on; what concerns tokens is looked at here, for the hub
    /// knows none.
    fn said(&mut self, conn: ConnectionId, said: Result<Said, Misspoken>) {
        if self.staying(conn).is_none() {
            return;
        }
        let from = Asker::Connection(conn);
        let input = match said {
            Ok(Said { id, say: Say::Auth { token, inbox } }) => {
                let claim = self.site.verifier.verify(token.reveal(), self.now.wall);
                Input::Identified { conn, id, inbox, claim }
            }
            Ok(Said { id, say: Say::MintToken { user_id, ttl } }) => {
                return self.mint(conn, id.as_ref(), &user_id, ttl);
            }
            Ok(Said { id, say: Say::CheckToken(token) }) => {
                return self.check_token(conn, id.as_ref(), &token);
            }
            Ok(Said { id, say: Say::Reload }) => return self.ask_for_reload(conn, id),
            Ok(said) => {
                self.weigh_for(&said.say);
                Input::Said { from, said }
            }
            Err(misspoken) => Input::Misspoke { from, misspoken },
        };
        self.tell(input);
    }

    /// The peer broke the protocol of the wire itself: no business of the hub's.
    fn refuse_to_go_on(&mut self, conn: ConnectionId, close: Close) {
        self.links.leave(conn, [Piece::frame(&Packet::close(close))], false);
        self.part(conn);
        self.tell(Input::TurnedAway(TurnedAway::Malformed));
    }

    /// The socket gives no more.
    fn hung_up(&mut self, conn: ConnectionId) {
        let held = match self.links.get(conn).map(|link| &mut link.side) {
            Some(Side::Worker(worker)) => worker.held.take(),
            _ => None,
        };
        lines::end(held, |line| self.hear_line(conn, line));
        let is_worker = matches!(self.links.get(conn).map(|link| &link.side), Some(Side::Worker(_)));
        // Who pipes lines in and waits for answers has shut one direction only.
        if is_worker && self.links.get(conn).is_some_and(|link| !link.leaving) && self.links.end(conn) {
            return self.part(conn);
        }
        self.links.flush(conn.slot);
        self.links.lose(conn);
        self.pump();
    }

    /// Tells the hub that nothing more will come, and lets the peer hang up
    /// first for a while, so that it reads what was said last.
    fn part(&mut self, conn: ConnectionId) {
        self.lingering.push_back((self.now.moment + LINGER, conn));
        self.links.part(conn);
        self.pump();
    }

    /// Asks the hub something for an HTTP request; the answer comes through the
    /// receiver.
    pub fn ask(&mut self, say: Say) -> Receiver<HttpAnswer> {
        self.look_at_the_clock();
        // An interrupt may be answered twice, `pending` first.
        let (sender, receiver) = async_channel::bounded(1);
        self.last_ticket += 1;
        self.tickets.insert(self.last_ticket, sender);
        let from = Asker::Http(self.last_ticket);
        self.weigh_for(&say);
        self.tell(Input::Said { from, said: Said { id: None, say } });
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
        self.links.facts.push_back(input);
        self.pump();
    }

    /// Lets the hub decide until nothing is left to be told.
    pub(super) fn pump(&mut self) {
        while let Some(input) = self.links.facts.pop_front() {
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
    }

    /// Ends the turn: does what is due, and writes once to every link that was
    /// given something. Returns how long nothing will be due.
    pub fn end_turn(&mut self) -> Option<Duration> {
        self.look_at_the_clock();
        while let Some(&(moment, conn)) = self.lingering.front() {
            if moment > self.now.moment {
                break;
            }
            // A peer that does not hang up is hung up on.
            self.lingering.pop_front();
            self.links.lose(conn);
        }
        if self.hub.deadline().is_some_and(|due| due <= self.now.moment) {
            self.tell(Input::Due);
        }
        self.with_store(Store::tick);
        self.pump();
        self.write_positions();
        self.links.end_turn();
        self.pump();
        self.weigh();
        let report = self.report();
        // What was replayed or closed just now leaves in the next turn.
        if self.links.is_dirty() {
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

    pub(super) fn with_store(&mut self, act: impl FnOnce(&mut Store, &mut Around<'_>)) {
        let Links { epoll, facts, .. } = &mut self.links;
        let mut around = Around { now: self.now, hub: &self.hub, epoll: Some(epoll), facts };
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
