//! Owns the hub. Turns what happens into facts and effects into deeds.
//!
//! Knows both the hub and the links, and the clock. Does not decide anything.
//! What arrives is handled at once, in the task that read it; what is to be
//! written waits for the end of the turn, when everybody who was ready has been
//! read once, and leaves in one write for each link.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_channel::{Receiver, Sender};

use super::links::{Links, Side, Worker};
use super::outbox::{Bounds, Piece};
use super::store::{Memory, Store};
use super::token::Verifier;
use super::wire::{Moved, Wire};
use super::ws::{Decoder, Heard, Packet};
use super::{clock, lines};
use crate::hub::{Anomaly, Asker, Effect, Effects, Hub, Input, Now, Peer, Recipients};
use crate::protocol::frame::Outcome;
use crate::protocol::{
    Close, Code, ConnectionId, Delivery, Frame, Message, Misspoken, Moment, OperationId, Refusal, RequestId,
    Return, Said, Say, worker,
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

/// How a link's reader goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// When there is more to read.
    Read,
    /// When the link's own queue has room: who asks and does not listen waits.
    Wait,
    /// Not at all.
    End,
}

/// What reading needs, for all links in turn.
struct Ears {
    block: Box<[u8]>,
    decoder: Decoder,
}

/// How much is read from one link in one turn: enough for a burst, little
/// enough that everybody gets a turn soon.
const BLOCK: usize = 16 << 10;

/// How long a peer that was told goodbye may take to hang up.
const LINGER: Duration = Duration::from_secs(2);

pub struct Driver {
    hub: Hub,
    effects: Effects,
    pub links: Links,
    store: Memory,
    verifier: Rc<Verifier>,
    /// One per running operation, held by this end; the other end is the
    /// worker's writer. Full: somebody asked already. Closed: it is over.
    latches: HashMap<OperationId, (Sender<Piece>, ConnectionId)>,
    /// HTTP requests that wait for an answer.
    tickets: HashMap<u64, Sender<HttpAnswer>>,
    next_ticket: u64,
    /// Away while something is being read.
    ears: Option<Ears>,
    scratch: Vec<u8>,
    /// The time of this call.
    now: Now,
    /// What the timer task waits for, and how to tell it of something earlier.
    armed: Option<Moment>,
    timer: Option<Waker>,
    /// Links that were told goodbye, and when they are cut off; oldest first.
    lingering: VecDeque<(Moment, ConnectionId)>,
    message_bytes: usize,
    ping: Packet,
}

impl Driver {
    /// A driver around a hub.
    pub fn new(hub: Hub, verifier: Rc<Verifier>, bounds: Bounds, message_bytes: usize) -> Self {
        Self {
            hub,
            effects: Effects::default(),
            links: Links::new(bounds),
            store: Memory::default(),
            verifier,
            latches: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            ears: Some(Ears { block: vec![0; BLOCK].into(), decoder: Decoder::new(message_bytes) }),
            scratch: Vec::new(),
            now: clock::now(),
            armed: None,
            timer: None,
            lingering: VecDeque::new(),
            message_bytes,
            ping: Packet::ping(),
        }
    }

    /// A link is up. `early` is what the peer said before anybody listened.
    pub fn open(&mut self, wire: Rc<Wire>, peer: Peer, early: &[u8]) -> ConnectionId {
        let side = match &peer {
            Peer::Client { .. } => Side::Client { held: None },
            Peer::Worker { admin, .. } => {
                Side::Worker(Box::new(Worker { admin: *admin, ..Worker::default() }))
            }
        };
        self.look_at_the_clock();
        let conn = self.links.open(wire, side, clock::random());
        self.tell(Input::Opened { conn, peer });
        if !early.is_empty() {
            self.heard(conn, early);
        }
        self.arm();
        conn
    }

    /// Reads once from a link that has something.
    pub fn read(&mut self, conn: ConnectionId) -> Next {
        let Some(link) = self.links.get(conn) else { return Next::End };
        let wire = link.wire.clone();
        let Some(mut ears) = self.ears.take() else { return Next::Read };
        let moved = wire.read(&mut ears.block);
        let next = match moved {
            Moved::NotNow => Next::Read,
            Moved::Bytes(0) | Moved::Broken => {
                self.ears = Some(ears);
                self.hung_up(conn);
                return Next::End;
            }
            Moved::Bytes(bytes) => {
                let block = ears.block.get(..bytes).unwrap_or_default();
                self.listen(conn, block, &mut ears.decoder);
                if self.links.has_room(conn, Waker::noop()) { Next::Read } else { Next::Wait }
            }
        };
        self.ears = Some(ears);
        next
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
        self.look_at_the_clock();
        let Some(link) = self.links.get(conn) else { return };
        if link.leaving {
            return;
        }
        match &mut link.side {
            Side::Client { held } => {
                let mut held = held.take();
                decoder.decode(&mut held, bytes, |heard| self.hear(conn, heard));
                if let Some(Side::Client { held: place }) = self.links.get(conn).map(|link| &mut link.side) {
                    *place = held;
                }
            }
            Side::Worker(worker) => {
                let (mut held, limit) = (worker.held.take(), self.message_bytes);
                lines::split(&mut held, bytes, limit, |line| self.hear_line(conn, line));
                if let Some(Side::Worker(worker)) = self.links.get(conn).map(|link| &mut link.side) {
                    worker.held = held;
                }
            }
        }
        self.arm();
    }

    fn hear(&mut self, conn: ConnectionId, heard: Heard<'_>) {
        if self.links.get(conn).is_none_or(|link| link.leaving) {
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
        let too_long = || format!("a line may be {} bytes long", self.message_bytes);
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
        let from = Asker::Connection(conn);
        let input = match said {
            Ok(Said { id, say: Say::Auth { token, inbox } }) => {
                let claim = self.verifier.verify(token.reveal(), self.now.wall);
                Input::Identified { conn, id, inbox, claim }
            }
            Ok(Said { id, say: Say::MintToken { user_id, ttl } }) => {
                return self.mint(conn, id.as_ref(), &user_id, ttl);
            }
            Ok(said) => Input::Said { from, said },
            Err(misspoken) => Input::Misspoke { from, misspoken },
        };
        self.tell(input);
    }

    fn mint(
        &mut self,
        conn: ConnectionId,
        id: Option<&RequestId>,
        user: &crate::protocol::UserId,
        ttl: Duration,
    ) {
        let is_admin =
            matches!(self.links.get(conn).map(|link| &link.side), Some(Side::Worker(w)) if w.admin);
        if !is_admin {
            let refusal = Refusal::new(Code::Forbidden, "minting tokens needs an administrator").of("token");
            return self.answer(Asker::Connection(conn), id, &Frame::from(&refusal), None);
        }
        match self.verifier.mint(user, ttl, self.now.wall) {
            Ok((token, expires_at)) => {
                let frame = Frame::Token { token: &token, user_id: user.clone(), expires_at };
                self.answer(Asker::Connection(conn), id, &frame, None);
            }
            Err(why) => {
                let refusal = Refusal::new(Code::BadRequest, why.to_string()).of("token");
                self.answer(Asker::Connection(conn), id, &Frame::from(&refusal), None);
            }
        }
    }

    /// The peer broke the protocol of the wire itself: no business of the hub's.
    fn refuse_to_go_on(&mut self, conn: ConnectionId, close: Close) {
        self.links.leave(conn, [Piece::frame(&Packet::close(close))], false);
        self.part(conn);
    }

    /// The socket gives no more.
    fn hung_up(&mut self, conn: ConnectionId) {
        self.look_at_the_clock();
        let held = match self.links.get(conn).map(|link| &mut link.side) {
            Some(Side::Worker(worker)) => worker.held.take(),
            _ => None,
        };
        lines::end(held, |line| self.hear_line(conn, line));
        self.links.flush(conn.slot);
        self.links.lose(conn);
        self.pump();
        self.arm();
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
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, sender);
        let from = Asker::Http(self.next_ticket);
        self.tell(Input::Said { from, said: Said { id: None, say } });
        self.arm();
        receiver
    }

    /// Something that happened outside of the links.
    pub fn told(&mut self, input: Input) {
        self.look_at_the_clock();
        self.tell(input);
        self.arm();
    }

    /// Every call from outside begins with it; within one call it stays the same
    /// time.
    fn look_at_the_clock(&mut self) {
        self.now = clock::now();
        self.links.now = self.now.moment;
    }

    fn tell(&mut self, input: Input) {
        self.links.facts.push_back(input);
        self.pump();
    }

    /// Lets the hub decide until nothing is left to be told.
    fn pump(&mut self) {
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

    fn perform(&mut self, effect: Effect, recipients: &[u32]) {
        match effect {
            Effect::Deliver { message, to } => {
                let packet = self.seal_message(&message, Delivery::Live);
                self.push_all(&packet, recipients, &to);
            }
            Effect::Replay { message, conn, log } => {
                let packet = self.seal_message(&message, Delivery::Replayed);
                let piece = self.piece(&packet, conn.slot).marked(log, message.seq.unwrap_or_default());
                self.links.push(conn.slot, piece);
            }
            Effect::Tell { frame, to } => {
                let packet = self.seal(|scratch| frame.encode(None, scratch));
                self.push_all(&packet, recipients, &to);
            }
            Effect::Answer { to, id, frame } => self.answer(to, id.as_ref(), &frame, None),
            Effect::Refuse { to, id, refusal } => {
                self.answer(to, id.as_ref(), &Frame::from(&*refusal), Some(&refusal));
            }
            Effect::Latch { operation, worker } => self.latch(operation, worker),
            Effect::Interrupt { line } => {
                let packet = self.seal(|scratch| line.encode(scratch));
                if let Some((latch, owner)) = self.latches.get(&line.operation_id) {
                    // Full or closed, the asker has what it wanted.
                    let _ = latch.try_send(Piece::line(&packet));
                    self.links.touch(owner.slot);
                }
            }
            Effect::Unlatch { operation } => drop(self.latches.remove(&operation)),
            Effect::Ping { conn } => self.links.push(conn.slot, Piece::frame(&self.ping)),
            Effect::Close { conn, close, after_ms } => self.close(conn, close, after_ms),
            Effect::Keep { log, message } => self.store.keep(&log, message),
            Effect::Fetch { conn, log, after, count, bytes } => {
                let messages = self.store.fetch(&log, after, count, bytes);
                self.links.facts.push_back(Input::Fetched { conn, log, messages });
            }
            Effect::Forget { log, from, to } => self.store.forget(&log, from, to),
            Effect::Report(anomaly) => report(&anomaly),
        }
    }

    fn latch(&mut self, operation: OperationId, conn: ConnectionId) {
        let (sender, receiver) = async_channel::bounded(1);
        if let Some(Side::Worker(worker)) = self.links.get(conn).map(|link| &mut link.side) {
            worker.latches.push(receiver);
            self.latches.insert(operation, (sender, conn));
        }
    }

    fn close(&mut self, conn: ConnectionId, close: Close, after_ms: u64) {
        let bye = close.says_bye().then(|| {
            let reconnect = close.returning() != Return::No;
            let frame = Frame::Bye { code: close.code(), reason: close.reason(), reconnect, after_ms };
            self.seal(|scratch| frame.encode(None, scratch))
        });
        let is_worker = matches!(self.links.get(conn).map(|link| &link.side), Some(Side::Worker(_)));
        let pieces: Vec<Piece> = if is_worker {
            bye.iter().map(Piece::line).collect()
        } else {
            bye.iter().chain([&Packet::close(close)]).map(Piece::frame).collect()
        };
        self.links.leave(conn, pieces, close == Close::TooSlow);
        self.lingering.push_back((self.now.moment + LINGER, conn));
    }

    fn answer(&mut self, to: Asker, id: Option<&RequestId>, frame: &Frame<'_>, refusal: Option<&Refusal>) {
        match to {
            Asker::Connection(conn) => {
                let is_worker = matches!(self.links.get(conn).map(|link| &link.side), Some(Side::Worker(_)));
                let mut is_said = true;
                let packet = self.seal(|scratch| {
                    if is_worker {
                        is_said = worker::encode(frame, id, scratch);
                    } else {
                        frame.encode(id, scratch);
                    }
                });
                if is_said && self.links.get(conn).is_some() {
                    let piece = self.piece(&packet, conn.slot);
                    self.links.push(conn.slot, piece);
                }
            }
            Asker::Http(ticket) => {
                if matches!(frame, Frame::InterruptResult { outcome: Outcome::Pending, .. }) {
                    return;
                }
                let mut body = Vec::new();
                frame.encode(None, &mut body);
                let refused = refusal.map(|refusal| refusal.code);
                let retry_after = refusal.and_then(|refusal| refusal.retry_after);
                if let Some(waiting) = self.tickets.remove(&ticket) {
                    // Whoever asked may have hung up.
                    let _ = waiting.try_send(HttpAnswer { refused, retry_after, body });
                }
            }
        }
    }

    fn seal(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Packet {
        Packet::room(&mut self.scratch);
        write(&mut self.scratch);
        let packet = Packet::seal(&mut self.scratch);
        // One large message must not cost its size for ever.
        self.scratch.clear();
        self.scratch.shrink_to(BLOCK);
        packet
    }

    fn seal_message(&mut self, message: &Message, delivery: Delivery) -> Packet {
        self.seal(|scratch| message.encode(delivery, scratch))
    }

    fn piece(&self, packet: &Packet, slot: u32) -> Piece {
        match self.links.at(slot).map(|link| &link.side) {
            Some(Side::Worker(_)) => Piece::line(packet),
            _ => Piece::frame(packet),
        }
    }

    fn push_all(&mut self, packet: &Packet, recipients: &[u32], to: &Recipients) {
        for &slot in recipients.get(to.start as usize..to.end as usize).unwrap_or_default() {
            let piece = self.piece(packet, slot);
            self.links.push(slot, piece);
        }
    }

    /// Whether the turn may end: when everybody who was ready has been read.
    pub fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.links.has_turn() {
            return Poll::Ready(());
        }
        self.links.turn = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends the turn: every link that was given something is written to once.
    /// Returns those whose kernel buffer is full.
    pub fn end_turn(&mut self) -> Vec<ConnectionId> {
        self.look_at_the_clock();
        self.links.end_turn();
        self.pump();
        self.arm();
        std::mem::take(&mut self.links.to_drain)
    }

    /// The kernel takes more of a link; whether there is still some left.
    pub fn drain(&mut self, conn: ConnectionId) -> bool {
        self.look_at_the_clock();
        let goes_on = self.links.drain(conn);
        self.pump();
        self.arm();
        goes_on
    }

    /// The next moment at which something is due.
    fn due(&self) -> Option<Moment> {
        let cut_off = self.lingering.front().map(|(moment, _)| *moment);
        [self.hub.deadline(), cut_off].into_iter().flatten().min()
    }

    /// Tells the timer task where something is due earlier than it knows.
    fn arm(&mut self) {
        let due = self.due();
        if due.is_some() && (self.armed.is_none() || due < self.armed) {
            self.armed = due;
            if let Some(waker) = self.timer.take() {
                waker.wake();
            }
        }
    }

    /// Does what is due; returns how long nothing will be.
    pub fn tick(&mut self, waker: &Waker) -> Option<Duration> {
        self.look_at_the_clock();
        while let Some(&(moment, conn)) = self.lingering.front() {
            if moment > self.now.moment {
                break;
            }
            self.lingering.pop_front();
            self.links.lose(conn);
        }
        if self.hub.deadline().is_some_and(|due| due <= self.now.moment) {
            self.tell(Input::Due);
        }
        self.pump();
        self.armed = self.due();
        self.timer = Some(waker.clone());
        self.armed.map(|due| due.since(self.now.moment))
    }

    /// How many links there are, leaving ones too.
    pub fn connections(&self) -> usize {
        self.links.len()
    }

    /// Whether every link has what it was owed, or is gone.
    pub fn is_idle(&self) -> bool {
        self.links.is_empty()
    }

    /// Whether a full link has room again.
    pub fn poll_room(&mut self, conn: ConnectionId, cx: &mut Context<'_>) -> Poll<()> {
        if self.links.has_room(conn, cx.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The closed list of what is worth a line.
fn report(anomaly: &Anomaly) {
    match anomaly {
        Anomaly::Stalled { conn, user } => log::warn!("closed {conn} of {user:?}: it took nothing"),
        Anomaly::Misbehaved { conn, user, close } => {
            log::warn!("closed {conn} of {user:?}: {}", close.reason());
        }
        Anomaly::OwnerLost { operation, channel } => {
            log::warn!("operation {operation:?} on {channel:?}: its worker is gone");
        }
        Anomaly::Overran { operation, channel } => {
            log::warn!("operation {operation:?} on {channel:?} did not end in time");
        }
        Anomaly::KeptLimit => log::warn!("kept messages are at their limit; the oldest are dropped"),
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
