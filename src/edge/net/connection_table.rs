//! Table of all connections by slot: opening, queueing, writing, teardown.
//!
//! What happens to a connection (flushed, queue full, closed) is noted as an event; the driver
//! takes the events and passes them to the hub in the same order.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;

use super::connection::{ConnectionEvent, ConnectionState, DisconnectCause, PeerConnection, WriteOutcome};
use super::epoll::{Epoll, Interest, Ready};
use super::epoll_watch::{InterestChange, WatchState};
use super::latch::{Latch, Latches};
use super::mem_accounting;
use super::peer_side::PeerSide;
use super::read_side::{ReadPolicy, Reading};
use super::send_queue::{DeliveryTag, QueueLimits, QueuePool, QueuedFrame};
use super::socket::{IoOutcome, PeerSocket};
use super::write_permit::WritePermit;
use crate::hub::SendQueueState;
use crate::protocol::{ConnectionId, Moment};

/// The place of a connection in the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Slot(pub u32);

impl Slot {
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl From<ConnectionId> for Slot {
    fn from(id: ConnectionId) -> Self {
        Self(id.slot)
    }
}

/// The key of a connection in epoll: its slot, and enough of its tag to tell it from those
/// that had the slot before.
fn key(id: ConnectionId) -> u64 {
    (id.tag << 33 >> 1) | u64::from(id.slot)
}

/// All connections, by slot.
pub struct ConnectionTable {
    table: Slab<PeerConnection>,
    /// Connections that were given something since the last turn. A first frame waits
    /// here: most turns give a connection one, and that needs no queue.
    dirty: Vec<DirtyEntry>,
    epoll: Epoll,
    /// The time of this call.
    now: Moment,
    /// What has happened and was not taken yet.
    events: VecDeque<ConnectionEvent>,
    queues: QueuePool,
    limits: QueueLimits,
    read_policy: ReadPolicy,
    /// Those whose undecoded input is looked at in the next turn.
    resumed: Vec<ConnectionId>,
    scratch: Vec<u8>,
    flushed: Vec<Rc<DeliveryTag>>,
}

/// A connection to be written to at the end of the turn.
struct DirtyEntry {
    id: ConnectionId,
    frame: Option<QueuedFrame>,
}

/// Whether a connection has to be written to before the end of the turn.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    EndOfTurn,
    /// Only what the kernel refuses counts as full, so it is asked at once rather than at the
    /// end of a long turn.
    Now,
}

/// What becomes of the queue of a connection that is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsent {
    Keep,
    Drop,
}

/// How often the progress of a slow peer is reported.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);

/// So many events are more than almost any turn has.
const USUAL_EVENTS: usize = 1024;

fn flushed(conn: ConnectionId, tag: &DeliveryTag) -> Option<ConnectionEvent> {
    let DeliveryTag::Kept(position) = tag else { return None };
    Some(ConnectionEvent::Flushed { conn, position: position.clone() })
}

impl ConnectionTable {
    /// No connections, with these limits for each.
    pub fn new(limits: QueueLimits, epoll: Epoll) -> Self {
        Self {
            table: Slab::new(),
            dirty: Vec::new(),
            epoll,
            now: Moment::default(),
            events: VecDeque::new(),
            queues: QueuePool::default(),
            limits,
            read_policy: ReadPolicy::WhileRoom,
            resumed: Vec::new(),
            scratch: Vec::new(),
            flushed: Vec::new(),
        }
    }

    /// Adds a connection under a new id.
    ///
    /// # Errors
    /// When the kernel cannot wait for one more.
    pub fn open(&mut self, socket: PeerSocket, side: PeerSide, tag: u64) -> io::Result<ConnectionId> {
        let entry = self.table.vacant_entry();
        let id = ConnectionId { slot: entry.key() as u32, tag };
        self.epoll.add(&socket, key(id), Interest::READ)?;
        entry.insert(PeerConnection::new(id, socket, side));
        Ok(id)
    }

    /// The time of this call from outside.
    pub fn set_now(&mut self, now: Moment) {
        self.now = now;
    }

    /// What has happened since the last time, the oldest first.
    pub fn take_event(&mut self) -> Option<ConnectionEvent> {
        let event = self.events.pop_front();
        // Cut short the list would stay where it is, above all that is free by then.
        if event.is_none() && self.events.capacity() > USUAL_EVENTS {
            self.events = VecDeque::new();
        }
        event
    }

    /// Where descriptors are waited for.
    pub fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// Waits until something is ready.
    pub fn wait(&mut self, time: Option<Duration>, ready: &mut Vec<Ready>) {
        self.epoll.wait(time, ready);
    }

    /// The connection that an event of epoll is about, unless it is gone meanwhile.
    pub fn ready(&self, ready: Ready) -> Option<ConnectionId> {
        let connection = self.table.get((ready.key & u64::from(u32::MAX)) as usize)?;
        (key(connection.id()) == ready.key).then_some(connection.id())
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The connection, unless it is gone.
    pub fn get(&self, id: ConnectionId) -> Option<&PeerConnection> {
        self.table.get(id.slot as usize).filter(|connection| connection.id() == id)
    }

    /// The same, to be read from.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut PeerConnection> {
        self.table.get_mut(id.slot as usize).filter(|connection| connection.id() == id)
    }

    /// Whether a worker is at a slot; at an empty one there is none.
    pub fn is_worker(&self, slot: Slot) -> bool {
        self.table.get(slot.index()).is_some_and(PeerConnection::is_worker)
    }

    /// Bytes that are held for all of them together.
    pub fn held(&self) -> usize {
        mem_accounting::held() + self.table.len() * PeerConnection::SIZE
    }

    /// Those for which something is held alone, and how much.
    pub fn holders(&self) -> Vec<(ConnectionId, u64)> {
        let open = self.table.iter().map(|(_, connection)| connection).filter(|one| one.is_open());
        open.map(|one| (one.id(), one.held() as u64)).filter(|(_, held)| *held > 0).collect()
    }
}

/// Writing.
impl ConnectionTable {
    /// Queues a frame for the end of the turn.
    pub fn push(&mut self, slot: Slot, frame: QueuedFrame) -> Urgency {
        let Some(connection) = self.table.get_mut(slot.index()) else { return Urgency::EndOfTurn };
        // Nothing follows a close.
        if !connection.accepts_frames() {
            return Urgency::EndOfTurn;
        }
        if !connection.has_queue() && connection.dirty_at().is_none() {
            connection.set_dirty_at(Some(self.dirty.len() as u32));
            self.dirty.push(DirtyEntry { id: connection.id(), frame: Some(frame) });
            return Urgency::EndOfTurn;
        }
        self.mark_dirty(slot);
        let Some(connection) = self.table.get_mut(slot.index()) else { return Urgency::EndOfTurn };
        match (connection.enqueue(frame, &mut self.queues, self.limits), connection.is_blocked()) {
            (false, _) => Urgency::EndOfTurn,
            (true, false) => Urgency::Now,
            (true, true) => {
                self.report_queue(slot);
                Urgency::EndOfTurn
            }
        }
    }

    /// Has the queue and the latches of a connection looked at, at the end of the turn.
    pub fn mark_dirty(&mut self, slot: Slot) {
        self.enqueue_first(slot);
        let Some(connection) = self.table.get_mut(slot.index()) else { return };
        if connection.dirty_at().is_none() {
            connection.set_dirty_at(Some(self.dirty.len() as u32));
            self.dirty.push(DirtyEntry { id: connection.id(), frame: None });
        }
    }

    /// Moves a first frame into the queue, for it is not the only one.
    fn enqueue_first(&mut self, slot: Slot) {
        let Some(connection) = self.table.get_mut(slot.index()) else { return };
        let entry = connection.dirty_at().and_then(|at| self.dirty.get_mut(at as usize));
        if let Some(frame) = entry.and_then(|entry| entry.frame.take()) {
            // Only frames behind it make the queue full.
            let _ = connection.enqueue(frame, &mut self.queues, self.limits);
        }
    }

    /// Whether a connection was given something since the last turn ended, or is to be read.
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty() || !self.resumed.is_empty()
    }

    /// Writes to each connection that was given something, once.
    pub fn end_turn(&mut self, _: WritePermit) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for DirtyEntry { id, frame } in dirty.drain(..) {
            let Some(connection) = self.get_mut(id) else { continue };
            connection.set_dirty_at(None);
            match frame {
                Some(frame) => self.write_one(id, frame),
                None if connection.is_blocked() => {}
                None => self.write_out(Slot::from(id)),
            }
        }
        // The list keeps its memory: writing adds events, and no frames.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// Writes the only frame of a turn; what the kernel does not take of it goes
    /// into a queue.
    fn write_one(&mut self, id: ConnectionId, frame: QueuedFrame) {
        let Some(connection) = self.get_mut(id) else { return };
        match connection.write_frame(&frame) {
            IoOutcome::Bytes(bytes) if bytes == frame.bytes().len() => {
                let is_done = connection.is_done();
                self.events.extend(frame.tag().and_then(|tag| flushed(id, tag)));
                if is_done {
                    self.fail(id);
                }
            }
            IoOutcome::Broken => self.fail_writing(id),
            part => {
                let taken = if let IoOutcome::Bytes(bytes) = part { bytes } else { 0 };
                if let Some(connection) = self.table.get_mut(Slot::from(id).index()) {
                    connection.enqueue_rest(frame, taken, &mut self.queues);
                }
                self.write_out(Slot::from(id));
            }
        }
    }

    /// Writes what waits for one connection, interrupts first.
    pub fn flush(&mut self, slot: Slot, _: WritePermit) {
        self.write_out(slot);
    }

    fn write_out(&mut self, slot: Slot) {
        self.enqueue_first(slot);
        let Some(connection) = self.table.get_mut(slot.index()) else { return };
        let id = connection.id();
        let outcome = connection.write(&mut self.queues, &mut self.scratch, &mut self.flushed);
        self.events.extend(self.flushed.drain(..).filter_map(|tag| flushed(id, &tag)));
        match outcome {
            WriteOutcome::Nothing { is_done } => {
                if is_done {
                    self.fail(id);
                }
            }
            WriteOutcome::All { is_done } => {
                self.report_queue(slot);
                if is_done {
                    self.fail(id);
                }
            }
            WriteOutcome::Part { moved } => {
                if moved
                    && let Some(connection) = self.table.get_mut(slot.index())
                    && connection.note_progress(self.now, PROGRESS_PAUSE)
                {
                    self.events.push_back(ConnectionEvent::WriteProgress { conn: id });
                }
                self.report_queue(slot);
            }
            WriteOutcome::Broken => self.fail_writing(id),
        }
    }

    /// Reports a queue that has changed its state, and what follows for reading.
    fn report_queue(&mut self, slot: Slot) {
        let Some(connection) = self.table.get_mut(slot.index()).filter(|one| one.has_queue()) else { return };
        if let Some(state) = connection.queue_change(self.limits) {
            self.events.push_back(ConnectionEvent::QueueChanged { conn: connection.id(), state });
        }
        self.update_interest(slot);
        if let Some(connection) = self.table.get_mut(slot.index()) {
            connection.give_back_queue(&mut self.queues);
        }
    }

    /// Reports all for which something waits.
    fn report_queues(&mut self) {
        let waiting = self.table.iter().filter(|(_, connection)| connection.has_queue());
        let slots: Vec<Slot> = waiting.map(|(_, connection)| Slot::from(connection.id())).collect();
        for slot in slots {
            self.report_queue(slot);
        }
    }

    /// Lets so much wait for each connection from now on.
    pub fn set_limits(&mut self, limits: QueueLimits) {
        self.limits = limits;
        self.report_queues();
    }

    /// Whether the peer has taken part of a frame, and not the rest.
    pub fn has_begun(&self, id: ConnectionId) -> bool {
        self.get(id).is_some_and(PeerConnection::has_begun)
    }

    /// Adds the latch of an operation to the connection of its worker; false if there is none.
    pub fn add_latch(&mut self, id: ConnectionId, make: impl FnOnce() -> Latch) -> bool {
        self.get_mut(id).is_some_and(|connection| connection.add_latch(make))
    }
}

/// Reading.
impl ConnectionTable {
    /// Whether the input of a connection is decoded now.
    pub fn is_read(&self, id: ConnectionId) -> bool {
        let connection = self.table.get(id.slot as usize);
        connection.is_some_and(|connection| connection.is_read(self.limits, self.read_policy))
    }

    /// Has epoll report what is of use of a connection now, and its undecoded input looked at.
    fn update_interest(&mut self, slot: Slot) {
        let (limits, policy) = (self.limits, self.read_policy);
        let Some(connection) = self.table.get_mut(slot.index()) else { return };
        let (id, is_read) = (connection.id(), connection.is_read(limits, policy));
        if is_read && connection.has_undecoded() && !connection.is_closing() && connection.mark_resumed() {
            self.resumed.push(id);
        }
        match connection.update_interest(is_read) {
            InterestChange::None => {}
            InterestChange::Modify(interest) => self.epoll.modify(&*connection, key(id), interest),
            InterestChange::Add(interest) => {
                if self.epoll.add(&*connection, key(id), interest).is_ok() {
                    connection.set_watch_state(WatchState::Watched);
                }
            }
        }
    }

    /// Has the undecoded input of a connection looked at in the next turn.
    pub fn resume_later(&mut self, id: ConnectionId) {
        if self.get_mut(id).is_some_and(PeerConnection::mark_resumed) {
            self.resumed.push(id);
        }
    }

    /// Those whose undecoded input is to be looked at now.
    pub fn take_resumed(&mut self) -> Vec<ConnectionId> {
        let resumed = std::mem::take(&mut self.resumed);
        for id in &resumed {
            if let Some(connection) = self.get_mut(*id) {
                connection.clear_resumed();
            }
        }
        resumed
    }

    /// Stops to read from a connection, or reads from it again once its undecoded input is
    /// decoded.
    pub fn set_reading(&mut self, id: ConnectionId, reading: Reading) {
        let Some(connection) = self.get_mut(id) else { return };
        connection.set_reading(reading);
        self.update_interest(Slot::from(id));
    }

    /// Has epoll watch a connection no longer that is not read and has closed: that can wait.
    pub fn unwatch(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id.slot as usize).filter(|one| one.id() == id) else {
            return;
        };
        if connection.can_be_unwatched() {
            connection.set_watch_state(WatchState::Unwatched);
            self.epoll.remove(&*connection);
        }
    }

    /// Reads from those that have something queued in another way from now on.
    pub fn set_read_policy(&mut self, policy: ReadPolicy) {
        if std::mem::replace(&mut self.read_policy, policy) != policy {
            self.report_queues();
        }
    }
}

/// Teardown.
impl ConnectionTable {
    /// Queues the last frames and ignores what comes; once they are out, the sending side is
    /// shut.
    pub fn close(&mut self, id: ConnectionId, last: impl IntoIterator<Item = QueuedFrame>, unsent: Unsent) {
        self.enqueue_first(Slot::from(id));
        let Some(connection) = self.get_mut(id) else { return };
        if unsent == Unsent::Drop {
            connection.clear_unsent();
        }
        for frame in last {
            // It leaves at the end of the turn, whatever else waits.
            let _ = self.push(Slot::from(id), frame);
        }
        // Not before: nothing follows a close, and a flush in between would shut
        // the connection too early.
        if let Some(connection) = self.get_mut(id) {
            connection.begin_closing();
        }
        self.mark_dirty(Slot::from(id));
    }

    /// Notes how a connection ends, for the access log.
    pub fn set_cause(&mut self, id: ConnectionId, cause: DisconnectCause) {
        if let Some(connection) = self.get_mut(id) {
            connection.set_cause(cause);
        }
    }

    /// The peer has shut its sending side. Whether it may still read; then the connection stays
    /// until it has all that it is owed.
    pub fn close_read_side(&mut self, id: ConnectionId) -> bool {
        let stays = self.get_mut(id).is_some_and(PeerConnection::close_read_side);
        if stays {
            self.update_interest(Slot::from(id));
        }
        stays
    }

    /// A peer that sends no more is owed no more than what is queued: the connection ends once
    /// that has left.
    pub fn finish(&mut self, id: ConnectionId) {
        let Some(connection) = self.get_mut(id) else { return };
        connection.finish();
        self.mark_dirty(Slot::from(id));
    }

    /// Writing has failed.
    fn fail_writing(&mut self, id: ConnectionId) {
        // Only a connection of this table fails, so its slot is its own.
        let Some(connection) = self.table.get_mut(id.slot as usize) else { return };
        if !connection.fail_writing() {
            return self.fail(id);
        }
        // It is read on, and counts for one to which nothing can be given.
        self.update_interest(Slot::from(id));
        self.events.push_back(ConnectionEvent::QueueChanged { conn: id, state: SendQueueState::Full });
    }

    /// The connection is down as far as the hub is concerned; that is reported once.
    pub fn report_close(&mut self, id: ConnectionId) {
        if self.get_mut(id).is_some_and(PeerConnection::report_close) {
            self.events.push_back(ConnectionEvent::Closed { conn: id });
        }
    }

    /// The hub does not know the connection, so its close is not reported.
    pub fn skip_close_report(&mut self, id: ConnectionId) {
        let was_unknown = self.get_mut(id).is_none_or(PeerConnection::report_close);
        debug_assert!(was_unknown, "the hub was notified of its close");
    }

    /// The socket is dead, or is given up. Once the hub knows, the slot is free.
    pub fn fail(&mut self, id: ConnectionId) {
        let Some(connection) = self.get_mut(id) else { return };
        if !connection.fail() {
            return;
        }
        if connection.is_close_reported() {
            self.table.remove(id.slot as usize);
        } else {
            self.report_close(id);
        }
    }

    /// The hub knows that a connection is closed: frees the slot, unless the
    /// peer has still to read what was written last.
    pub fn release(&mut self, id: ConnectionId) {
        if self.get(id).is_some_and(PeerConnection::is_failed) {
            self.table.remove(id.slot as usize);
        }
    }

    /// Gives up those that are closing and whose peers take nothing; whether there were any.
    pub fn fail_blocked_closing(&mut self) -> bool {
        let closing = self.table.iter().map(|(_, connection)| connection).filter(|one| one.is_closing());
        let blocked: Vec<ConnectionId> =
            closing.filter(|one| one.is_blocked()).map(PeerConnection::id).collect();
        blocked.iter().for_each(|conn| self.fail(*conn));
        !blocked.is_empty()
    }
}

/// Hand-over.
impl ConnectionTable {
    /// Has all frames that wait in queues; they leave at the end of the turn.
    pub fn enqueue_all(&mut self) {
        let slots: Vec<Slot> = self.dirty.iter().map(|entry| Slot::from(entry.id)).collect();
        for slot in slots {
            self.enqueue_first(slot);
        }
    }

    /// Their states, in the order of the table.
    pub fn export<'a>(&'a mut self, latches: &'a Latches) -> impl Iterator<Item = ConnectionState> + 'a {
        self.table.iter_mut().map(|(_, connection)| connection.export(latches))
    }

    /// Their sockets, in the same order.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.table.iter().map(|(_, connection)| connection.as_fd())
    }

    /// Takes connections in as they were in another process, each in its own slot. Those that
    /// the kernel cannot wait for are reported as closed.
    pub fn import(&mut self, connections: Vec<(ConnectionState, OwnedFd)>, latches: &mut Latches) {
        let connections = connections.into_iter();
        self.table = connections
            .map(|(state, socket)| (state.id.slot as usize, PeerConnection::import(state, socket, latches)))
            .collect();
        let mut lost = Vec::new();
        let ids: Vec<ConnectionId> = self.table.iter().map(|(_, connection)| connection.id()).collect();
        for id in ids {
            let Some(connection) = self.table.get_mut(id.slot as usize) else { continue };
            let interest = connection.imported_interest();
            if self.epoll.add(&*connection, key(id), interest).is_err() {
                lost.push(id);
                self.table.remove(id.slot as usize);
                continue;
            }
            let (may_owe, is_half_closed) = (connection.may_owe(), connection.is_half_closed());
            if connection.has_undecoded() {
                self.resume_later(id);
            }
            if may_owe {
                self.mark_dirty(Slot::from(id));
            }
            if is_half_closed {
                self.events.push_back(ConnectionEvent::ReadClosed { conn: id });
            }
        }
        self.events.extend(lost.into_iter().map(|conn| ConnectionEvent::Closed { conn }));
    }
}
