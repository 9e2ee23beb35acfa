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

use super::connection::{End, Link, PartialFrame, Side};
use super::epoll::{Epoll, Interest, Ready};
use super::mem_accounting;
use super::send_queue::{DeliveryTag, FlushOutcome, FramePosition, QueueLimits, QueuedFrame, SendQueue};
use super::socket::{IoOutcome, PeerSocket};
use crate::hub::{Input, SendQueueState};
use crate::protocol::{ConnectionId, Moment};

/// What events call a link: its slot, and enough of its tag to tell it from those
/// that had the slot before.
pub(in crate::edge) fn key(id: ConnectionId) -> u64 {
    (id.tag << 33 >> 1) | u64::from(id.slot)
}

/// All links, by slot.
pub struct Links {
    pub(in crate::edge) table: Slab<Link>,
    /// Links that were given something since the last turn. A first piece waits
    /// here: most turns give a link one, and that needs no outbox.
    dirty: Vec<DirtyEntry>,
    pub epoll: Epoll,
    /// The time of this call.
    pub now: Moment,
    /// What the hub is to be told next.
    pub inputs: VecDeque<Input>,
    /// Outboxes that are not in use.
    #[expect(clippy::vec_box, reason = "they move between here and the links as boxes")]
    free_queues: Vec<Box<SendQueue>>,
    bounds: QueueLimits,
    /// Whoever has anything queued is not read.
    strict: bool,
    /// Those that were not read and are again, since the last turn.
    pub(in crate::edge) resumed: Vec<ConnectionId>,
    scratch: Vec<u8>,
    gone: Vec<Rc<DeliveryTag>>,
}

/// A link to be written to at the end of the turn.
struct DirtyEntry {
    id: ConnectionId,
    piece: Option<QueuedFrame>,
}

fn written(conn: ConnectionId, mark: &DeliveryTag) -> Option<Input> {
    let DeliveryTag::Kept(FramePosition { log, seq, how }) = mark else { return None };
    Some(Input::Flushed { conn, log: log.clone(), seq: *seq, how: *how })
}

/// The right to write to links once: whoever gives it has noted every number that
/// was given out, so that nobody hears one that is given out again after a crash.
#[derive(Debug)]
pub struct WritePermit(());

impl WritePermit {
    /// For the one who notes numbers, after that is done.
    pub(in crate::edge) fn numbers_are_noted() -> Self {
        Self(())
    }
}

/// Enough for the turns of a usual day; a burst allocates, and frees again.
const SPARE_OUTBOXES: usize = 64;

/// How often a slow peer's progress is worth telling.
const TELL_PROGRESS: Duration = Duration::from_secs(1);

impl Links {
    /// No links, with these bounds for each.
    pub fn new(bounds: QueueLimits, epoll: Epoll) -> Self {
        Self {
            table: Slab::new(),
            dirty: Vec::new(),
            epoll,
            now: Moment::default(),
            inputs: VecDeque::new(),
            free_queues: Vec::new(),
            bounds,
            strict: false,
            resumed: Vec::new(),
            scratch: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Adds a link under a new id.
    ///
    /// # Errors
    /// When the kernel cannot wait for one more.
    pub fn open(&mut self, wire: PeerSocket, side: Side, tag: u64) -> io::Result<ConnectionId> {
        let place = self.table.vacant_entry();
        let id = ConnectionId { slot: place.key() as u32, tag };
        self.epoll.add(&wire, key(id), Interest::READ)?;
        place.insert(Link {
            id,
            wire,
            side,
            interest: Interest::READ,
            outbox: None,
            dirty_at: None,
            leaving: false,
            broken: false,
            deaf: false,
            ended: false,
            finished: false,
            paused: false,
            resumed: false,
            muted: false,
            parted: false,
            end: End::default(),
            took: Moment::default(),
            rest: PartialFrame::default(),
        });
        Ok(id)
    }

    /// Lets so much wait for each link from now on.
    pub fn bound(&mut self, bounds: QueueLimits) {
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
    pub(in crate::edge) fn wires(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
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

    /// Queues a piece for the end of the turn. Whether the link has to be flushed
    /// before that: only what the kernel refuses counts as full, so it is asked at
    /// once rather than at the end of a long turn.
    #[must_use]
    pub fn push(&mut self, slot: u32, piece: QueuedFrame) -> bool {
        let Some(link) = self.table.get_mut(slot as usize) else { return false };
        // Nothing follows a goodbye.
        if link.broken || link.deaf || link.leaving {
            return false;
        }
        if link.outbox.is_none() && link.dirty_at.is_none() {
            link.dirty_at = Some(self.dirty.len() as u32);
            self.dirty.push(DirtyEntry { id: link.id, piece: Some(piece) });
            return false;
        }
        self.touch(slot);
        let Some(link) = self.table.get_mut(slot as usize) else { return false };
        let outbox = link.outbox.get_or_insert_with(|| self.free_queues.pop().unwrap_or_default());
        outbox.push(piece);
        let is_over =
            outbox.reported != SendQueueState::Full && outbox.state(self.bounds) == SendQueueState::Full;
        let is_blocked = outbox.blocked;
        if is_over && is_blocked {
            self.tell(slot);
        }
        is_over && !is_blocked
    }

    /// Has the link's outbox and latches looked at, at the end of the turn.
    pub fn touch(&mut self, slot: u32) {
        self.gather(slot);
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        if link.dirty_at.is_none() {
            link.dirty_at = Some(self.dirty.len() as u32);
            self.dirty.push(DirtyEntry { id: link.id, piece: None });
        }
    }

    /// Moves a first piece into the outbox, for it is not the only one.
    pub(in crate::edge) fn gather(&mut self, slot: u32) {
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        let given = link.dirty_at.and_then(|at| self.dirty.get_mut(at as usize));
        if let Some(piece) = given.and_then(|given| given.piece.take()) {
            link.outbox.get_or_insert_with(|| self.free_queues.pop().unwrap_or_default()).push(piece);
        }
    }

    /// Has everything that is owed in an outbox; it leaves at the end of the turn.
    pub(in crate::edge) fn gather_all(&mut self) {
        let slots: Vec<u32> = self.dirty.iter().map(|given| given.id.slot).collect();
        for slot in slots {
            self.gather(slot);
        }
    }

    /// Whether a link was given something since the last turn ended.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Writes to each link that was given something, once.
    pub fn end_turn(&mut self, _: WritePermit) {
        let mut given = std::mem::take(&mut self.dirty);
        for DirtyEntry { id, piece } in given.drain(..) {
            let Some(link) = self.get(id) else { continue };
            link.dirty_at = None;
            match piece {
                Some(piece) => self.write_one(id, piece),
                None if link.outbox.as_ref().is_some_and(|outbox| outbox.blocked) => {}
                None => self.write_out(id.slot),
            }
        }
        // The list keeps its memory: writing adds facts, and no pieces.
        if self.dirty.is_empty() {
            self.dirty = given;
        }
    }

    /// Writes the only piece of a turn; what the kernel does not take of it goes
    /// into an outbox.
    fn write_one(&mut self, id: ConnectionId, piece: QueuedFrame) {
        let Some(link) = self.get(id) else { return };
        match link.wire.write(piece.bytes()) {
            IoOutcome::Bytes(bytes) if bytes == piece.bytes().len() => {
                if link.leaving {
                    link.wire.shutdown(Shutdown::Write);
                }
                let is_finished = link.finished;
                self.inputs.extend(piece.mark.as_deref().and_then(|mark| written(id, mark)));
                if is_finished {
                    self.lose(id);
                }
            }
            IoOutcome::Broken => self.broke(id),
            moved => {
                let taken = if let IoOutcome::Bytes(bytes) = moved { bytes } else { 0 };
                let mut outbox = self.free_queues.pop().unwrap_or_default();
                outbox.begin(piece, taken);
                if let Some(link) = self.get(id) {
                    link.outbox = Some(outbox);
                }
                self.write_out(id.slot);
            }
        }
    }

    /// Writes what waits for one link, interrupts first.
    pub fn flush(&mut self, slot: u32, _: WritePermit) {
        self.write_out(slot);
    }

    fn write_out(&mut self, slot: u32) {
        self.gather(slot);
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        if let Side::Worker(worker) = &mut link.side {
            for latch in &worker.latches {
                while let Ok(piece) = latch.pieces.try_recv() {
                    link.outbox
                        .get_or_insert_with(|| self.free_queues.pop().unwrap_or_default())
                        .push_ahead(piece, &latch.operation);
                }
            }
            worker.latches.retain(|latch| !latch.is_over());
        }
        let id = link.id;
        let Some(outbox) = &mut link.outbox else {
            if link.leaving {
                link.wire.shutdown(Shutdown::Write);
            } else if link.finished {
                self.lose(id);
            }
            return;
        };
        let result = outbox.flush(&link.wire, &mut self.scratch, &mut self.gone);
        self.inputs.extend(self.gone.drain(..).filter_map(|mark| written(id, &mark)));
        match result {
            FlushOutcome::All => {
                outbox.blocked = false;
                let is_finished = link.finished && !link.leaving;
                if link.leaving {
                    link.wire.shutdown(Shutdown::Write);
                }
                self.tell(slot);
                if is_finished {
                    self.lose(id);
                }
            }
            FlushOutcome::Part { moved } => {
                if moved && self.now.since(link.took) >= TELL_PROGRESS {
                    link.took = self.now;
                    self.inputs.push_back(Input::WriteProgress { conn: id });
                }
                outbox.blocked = true;
                self.tell(slot);
            }
            FlushOutcome::Broken => self.broke(id),
        }
    }

    /// Notes down what has changed about a link's outbox.
    pub(in crate::edge) fn tell(&mut self, slot: u32) {
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        let Some(outbox) = &mut link.outbox else { return };
        let state = outbox.state(self.bounds);
        if state != outbox.reported {
            outbox.reported = state;
            self.inputs.push_back(Input::SendQueue { conn: link.id, state });
        }
        self.wait_for(slot);
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        let Some(outbox) = &mut link.outbox else { return };
        if outbox.is_empty()
            && let Some(mut outbox) = link.outbox.take()
            && self.free_queues.len() < SPARE_OUTBOXES
            && outbox.is_small()
        {
            outbox.reported = SendQueueState::Empty;
            outbox.blocked = false;
            self.free_queues.push(outbox);
        }
    }

    /// Whether a link is heard now: who asks and does not listen is not heard until it does.
    pub(in crate::edge) fn hears(&self, slot: u32) -> bool {
        let Some(link) = self.table.get(slot as usize) else { return false };
        let state = link.outbox.as_ref().map_or(SendQueueState::Empty, |outbox| outbox.state(self.bounds));
        let listens = match state {
            SendQueueState::Empty => true,
            SendQueueState::Backlogged => !self.strict,
            SendQueueState::Full => false,
        };
        listens && !link.paused
    }

    /// Has the kernel tell what is of use of a link now, and what it left unsaid heard.
    pub(in crate::edge) fn wait_for(&mut self, slot: u32) {
        let hears = self.hears(slot);
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        let (id, has_unsaid) = (link.id, link.has_unsaid());
        if hears && has_unsaid && !link.leaving {
            self.resume_later(id);
        }
        let Some(link) = self.table.get_mut(slot as usize) else { return };
        let hears = !link.ended && (hears || link.leaving);
        let blocked = link.outbox.as_ref().is_some_and(|outbox| outbox.blocked);
        let interest = Interest { read: hears, write: blocked };
        let was = std::mem::replace(&mut link.interest, interest);
        if link.muted && (interest.read || interest.write) {
            link.muted = self.epoll.add(&link.wire, key(link.id), interest).is_err();
        } else if !link.muted && interest != was {
            self.epoll.modify(&link.wire, key(link.id), interest);
        }
    }

    /// Has what a link left unsaid heard in the next turn.
    pub(in crate::edge) fn resume_later(&mut self, id: ConnectionId) {
        let Some(link) = self.get(id) else { return };
        if !std::mem::replace(&mut link.resumed, true) {
            self.resumed.push(id);
        }
    }

    /// Those whose unsaid requests are to be heard now.
    pub(in crate::edge) fn take_resumed(&mut self) -> Vec<ConnectionId> {
        let resumed = std::mem::take(&mut self.resumed);
        for id in &resumed {
            if let Some(link) = self.get(*id) {
                link.resumed = false;
            }
        }
        resumed
    }

    /// Reads no more from a link.
    pub(in crate::edge) fn pause(&mut self, id: ConnectionId) {
        let Some(link) = self.get(id) else { return };
        link.paused = true;
        self.wait_for(id.slot);
    }

    /// Reads from it again, once what it has said is heard.
    pub(in crate::edge) fn resume(&mut self, id: ConnectionId) {
        let Some(link) = self.get(id) else { return };
        link.paused = false;
        self.wait_for(id.slot);
    }

    /// A link that is not read has an end to tell, which can wait.
    pub(in crate::edge) fn mute(&mut self, id: ConnectionId) {
        let Some(link) = self.table.get_mut(id.slot as usize).filter(|link| link.id.tag == id.tag) else {
            return;
        };
        // Where something is to be written, that finds the end.
        if !link.muted && !link.interest.write {
            link.muted = true;
            self.epoll.remove(&link.wire);
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

    /// The first of those that was told goodbye and is still there; it and those before it are
    /// taken out.
    pub(in crate::edge) fn first_there(
        &self,
        lingering: &mut VecDeque<(Moment, ConnectionId)>,
    ) -> Option<ConnectionId> {
        loop {
            let (_, conn) = lingering.pop_front()?;
            if self.at(conn.slot).is_some_and(|link| link.id == conn && link.leaving) {
                return Some(conn);
            }
        }
    }

    /// Loses those who were told goodbye and take nothing; whether there were any.
    pub(in crate::edge) fn lose_blocked_leaving(&mut self) -> bool {
        let is_blocked = |link: &&Link| link.outbox.as_ref().is_some_and(|outbox| outbox.blocked);
        let leaving = self.table.iter().map(|(_, link)| link).filter(|link| link.leaving && !link.broken);
        let blocked: Vec<ConnectionId> = leaving.filter(is_blocked).map(|link| link.id).collect();
        blocked.iter().for_each(|conn| self.lose(*conn));
        !blocked.is_empty()
    }

    /// How much is held for all of them together.
    pub fn held(&self) -> usize {
        mem_accounting::held() + self.table.len() * Link::SIZE
    }

    /// All for whom something is held alone, and how much.
    pub fn holders(&self) -> Vec<(ConnectionId, u64)> {
        let staying = self.table.iter().map(|(_, link)| link).filter(|link| !link.leaving && !link.broken);
        staying.map(|link| (link.id, link.held() as u64)).filter(|(_, held)| *held > 0).collect()
    }
}
