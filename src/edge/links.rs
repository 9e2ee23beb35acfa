//! The table of links: sockets and what they are owed.
//!
//! Knows which links there are and writes to them. What it notices about them
//! (full, drained, gone) it notes down as facts for the hub. Does not know what
//! is said on them.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;

use super::epoll::{Epoll, Interest, Ready};
use super::link::{Link, Side};
use super::meter;
use super::outbox::{Bounds, Flushed, Mark, Outbox, Piece};
use super::wire::{Moved, Wire};
use crate::hub::{Input, Outbound};
use crate::protocol::{ConnectionId, Moment};

/// What events call a link: its slot, and enough of its tag to tell it from those
/// that had the slot before.
pub(super) fn key(id: ConnectionId) -> u64 {
    (id.tag << 33 >> 1) | u64::from(id.slot)
}

/// All links, by slot.
pub struct Links {
    pub(super) table: Slab<Link>,
    /// Links that were given something since the last turn. A first piece waits
    /// here: most turns give a link one, and that needs no outbox.
    given: Vec<Given>,
    pub epoll: Epoll,
    /// The time of this call.
    pub now: Moment,
    /// What the hub is to be told next.
    pub facts: VecDeque<Input>,
    /// Outboxes that are not in use.
    #[expect(clippy::vec_box, reason = "they move between here and the links as boxes")]
    spare: Vec<Box<Outbox>>,
    bounds: Bounds,
    /// Whoever has anything queued is not read.
    strict: bool,
    scratch: Vec<u8>,
    gone: Vec<Rc<Mark>>,
}

/// A link to be written to at the end of the turn.
struct Given {
    id: ConnectionId,
    piece: Option<Piece>,
}

fn written(conn: ConnectionId, mark: &Mark) -> Input {
    Input::Written { conn, log: mark.log.clone(), seq: mark.seq, how: mark.how }
}

/// Enough for the turns of a usual day; a burst allocates, and frees again.
const SPARE_OUTBOXES: usize = 64;

/// How often a slow peer's progress is worth telling.
const TELL_PROGRESS: Duration = Duration::from_secs(1);

impl Links {
    /// No links, with these bounds for each.
    pub fn new(bounds: Bounds, epoll: Epoll) -> Self {
        Self {
            table: Slab::new(),
            given: Vec::new(),
            epoll,
            now: Moment::default(),
            facts: VecDeque::new(),
            spare: Vec::new(),
            bounds,
            strict: false,
            scratch: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Adds a link under a new id.
    ///
    /// # Errors
    /// When the kernel cannot wait for one more.
    pub fn open(&mut self, wire: Wire, side: Side, tag: u64) -> io::Result<ConnectionId> {
        let place = self.table.vacant_entry();
        let id = ConnectionId { slot: place.key() as u32, tag };
        self.epoll.add(&wire, key(id), Interest::READ)?;
        place.insert(Link {
            id,
            wire,
            side,
            interest: Interest::READ,
            outbox: None,
            given_at: None,
            leaving: false,
            broken: false,
            deaf: false,
            ended: false,
            parted: false,
            took: Moment::default(),
        });
        Ok(id)
    }

    /// Lets so much wait for each link from now on.
    pub fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        self.tell_waiting();
    }

    /// The link that an event is about, unless it is gone meanwhile.
    pub fn meant(&self, ready: Ready) -> Option<ConnectionId> {
        let link = self.table.get((ready.key & u64::from(u32::MAX)) as usize)?;
        (key(link.id) == ready.key).then_some(link.id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Their sockets, in the order of the table.
    pub(super) fn wires(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.table.iter().map(|(_, link)| link.wire.as_fd())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The link, unless it is gone.
    pub fn get(&mut self, id: ConnectionId) -> Option<&mut Link> {
        self.table.get_mut(id.slot as usize).filter(|link| link.id.tag == id.tag)
    }

    /// The link at a slot that the hub named.
    pub fn at(&self, slot: u32) -> Option<&Link> {
        self.table.get(slot as usize)
    }

    /// Queues a piece for the end of the turn.
    pub fn push(&mut self, slot: u32, piece: Piece) {
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        // Nothing follows a goodbye.
        if link.broken || link.deaf || link.leaving {
            return;
        }
        if link.outbox.is_none() && link.given_at.is_none() {
            link.given_at = Some(self.given.len() as u32);
            self.given.push(Given { id: link.id, piece: Some(piece) });
            return;
        }
        self.touch(slot);
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        let outbox = link.outbox.get_or_insert_with(|| self.spare.pop().unwrap_or_default());
        outbox.push(piece);
        let is_over = outbox.told != Outbound::Full && outbox.state(self.bounds) == Outbound::Full;
        let is_blocked = outbox.blocked;
        // Only what the kernel refuses counts as full, so it is asked at once
        // rather than at the end of a long turn.
        if is_over && !is_blocked {
            self.flush(slot);
        } else if is_over {
            self.tell(slot);
        }
    }

    /// Has the link's outbox and latches looked at, at the end of the turn.
    pub fn touch(&mut self, slot: u32) {
        self.gather(slot);
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        if link.given_at.is_none() {
            link.given_at = Some(self.given.len() as u32);
            self.given.push(Given { id: link.id, piece: None });
        }
    }

    /// Moves a first piece into the outbox, for it is not the only one.
    pub(super) fn gather(&mut self, slot: u32) {
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        let given = link.given_at.and_then(|at| self.given.get_mut(at as usize));
        if let Some(piece) = given.and_then(|given| given.piece.take()) {
            link.outbox.get_or_insert_with(|| self.spare.pop().unwrap_or_default()).push(piece);
        }
    }

    /// Has everything that is owed in an outbox; it leaves at the end of the turn.
    pub(super) fn gather_all(&mut self) {
        let slots: Vec<u32> = self.given.iter().map(|given| given.id.slot).collect();
        for slot in slots {
            self.gather(slot);
        }
    }

    /// Whether a link was given something since the last turn ended.
    pub fn is_dirty(&self) -> bool {
        !self.given.is_empty()
    }

    /// Writes to each link that was given something, once.
    pub fn end_turn(&mut self) {
        let mut given = std::mem::take(&mut self.given);
        for Given { id, piece } in given.drain(..) {
            let Some(link) = self.get(id) else { continue };
            link.given_at = None;
            match piece {
                Some(piece) => self.write_one(id, piece),
                None if link.outbox.as_ref().is_some_and(|outbox| outbox.blocked) => {}
                None => self.flush(id.slot),
            }
        }
        // The list keeps its memory: writing adds facts, and no pieces.
        if self.given.is_empty() {
            self.given = given;
        }
    }

    /// Writes the only piece of a turn; what the kernel does not take of it goes
    /// into an outbox.
    fn write_one(&mut self, id: ConnectionId, piece: Piece) {
        let Some(link) = self.get(id) else { return };
        match link.wire.write(piece.bytes()) {
            Moved::Bytes(bytes) if bytes == piece.bytes().len() => {
                if link.leaving {
                    link.wire.shutdown(Shutdown::Write);
                }
                self.facts.extend(piece.mark().map(|mark| written(id, mark)));
            }
            Moved::Broken => self.broke(id),
            moved => {
                let taken = if let Moved::Bytes(bytes) = moved { bytes } else { 0 };
                let mut outbox = self.spare.pop().unwrap_or_default();
                outbox.begin(piece, taken);
                if let Some(link) = self.get(id) {
                    link.outbox = Some(outbox);
                }
                self.flush(id.slot);
            }
        }
    }

    /// Writes what waits for one link, interrupts first.
    pub fn flush(&mut self, slot: u32) {
        self.gather(slot);
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        if let Side::Worker(worker) = &mut link.side {
            for latch in &worker.latches {
                while let Ok(piece) = latch.pieces.try_recv() {
                    link.outbox.get_or_insert_with(|| self.spare.pop().unwrap_or_default()).push_ahead(piece);
                }
            }
            worker.latches.retain(|latch| !latch.is_over());
        }
        let Some(outbox) = &mut link.outbox else {
            if link.leaving {
                link.wire.shutdown(Shutdown::Write);
            }
            return;
        };
        let result = outbox.flush(&link.wire, &mut self.scratch, &mut self.gone);
        let id = link.id;
        self.facts.extend(self.gone.drain(..).map(|mark| written(id, &mark)));
        match result {
            Flushed::All => {
                outbox.blocked = false;
                if link.leaving {
                    link.wire.shutdown(Shutdown::Write);
                }
                self.tell(slot);
            }
            Flushed::Part { moved } => {
                if moved && self.now.since(link.took) >= TELL_PROGRESS {
                    link.took = self.now;
                    self.facts.push_back(Input::Took { conn: id });
                }
                outbox.blocked = true;
                self.tell(slot);
            }
            Flushed::Broken => self.broke(id),
        }
    }

    /// Notes down what has changed about a link's outbox.
    pub(super) fn tell(&mut self, slot: u32) {
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        let Some(outbox) = &mut link.outbox else { return };
        let state = outbox.state(self.bounds);
        if state != outbox.told {
            outbox.told = state;
            self.facts.push_back(Input::Outbound { conn: link.id, state });
        }
        // Who asks and does not listen is not heard until it does.
        let listens = match state {
            Outbound::Clear => true,
            Outbound::Waiting => !self.strict,
            Outbound::Full => false,
        };
        let hears = !link.ended && (listens || link.leaving);
        let interest = Interest { read: hears, write: outbox.blocked };
        if interest != std::mem::replace(&mut link.interest, interest) {
            self.epoll.modify(&link.wire, key(link.id), interest);
        }
        if outbox.is_empty()
            && let Some(mut outbox) = link.outbox.take()
            && self.spare.len() < SPARE_OUTBOXES
            && outbox.is_small()
        {
            outbox.told = Outbound::Clear;
            outbox.blocked = false;
            self.spare.push(outbox);
        }
    }

    /// Whether the peer has taken part of a piece, and not the rest.
    pub fn has_begun(&mut self, id: ConnectionId) -> bool {
        self.get(id).and_then(|link| link.outbox.as_ref()).is_some_and(|outbox| outbox.has_begun())
    }

    /// Whether those who have something queued are read only once they have taken
    /// it, or as long as they have room.
    pub fn be_strict(&mut self, strict: bool) {
        if std::mem::replace(&mut self.strict, strict) == strict {
            return;
        }
        self.tell_waiting();
    }

    /// Looks again at all for whom something waits.
    fn tell_waiting(&mut self) {
        let waiting = self.table.iter().filter(|(_, link)| link.outbox.is_some());
        let slots: Vec<u32> = waiting.map(|(slot, _)| slot as u32).collect();
        for slot in slots {
            self.tell(slot);
        }
    }

    /// How much is held for all of them together.
    pub fn held(&self) -> usize {
        meter::held() + self.table.len() * Link::SIZE
    }

    /// All for whom something is held alone, and how much.
    pub fn holders(&self) -> Vec<(ConnectionId, u64)> {
        let staying = self.table.iter().map(|(_, link)| link).filter(|link| !link.leaving && !link.broken);
        staying.map(|link| (link.id, link.held() as u64)).filter(|(_, held)| *held > 0).collect()
    }
}
