//! Connections, and sockets that take little.
//!
//! Records the frames that a connection has carried and its socket has taken.

use std::collections::VecDeque;

use serde_json::Value;
use wshubd::hub::{Input, LogKey, SendQueueState};
use wshubd::protocol::Delivery;

use super::{Bench, Seat};

/// A message that the hub wants to know of when a socket has taken it.
pub(super) type Mark = (LogKey, u64, Delivery);

/// What is at the other end of a link.
#[derive(Default)]
pub(super) struct Link {
    pub(super) is_worker: bool,
    pub(super) heard: Vec<Value>,
    /// Its socket takes nothing of a replay.
    pub(super) stuck: bool,
    /// Replays that the socket has not taken.
    pub(super) unwritten: VecDeque<Mark>,
    /// A link that carries frames only when it is told to, with those that it
    /// has not carried.
    pub(super) slow: Option<VecDeque<(Value, Option<Mark>)>>,
    /// The state of a slow connection as the hub was notified of it.
    pub(super) state: SendQueueState,
    /// The epoch of its user's inbox, as it was greeted.
    pub(super) inbox: Option<String>,
}

/// What can be seen of one frame at a link.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Seen {
    /// The hub has queued it.
    Queued(Value),
    /// The socket has taken it, and the hub was notified.
    Taken(LogKey, u64),
    /// The peer has received it.
    Heard(Value),
}

/// From so many frames on a slow link counts as full.
const FULL: usize = 5;

impl Bench {
    pub(crate) fn outbound(&mut self, seat: Seat, state: SendQueueState) {
        self.handle(Input::SendQueue { conn: seat, state });
    }

    /// A socket that takes nothing of a replay.
    pub(crate) fn clog(&mut self, seat: Seat) {
        self.links.get_mut(&seat).unwrap().stuck = true;
    }

    /// And takes `count` more messages of it.
    pub(crate) fn drain(&mut self, seat: Seat, count: usize) {
        for _ in 0..count {
            let next = self.links.get_mut(&seat).and_then(|link| link.unwritten.pop_front());
            let Some((log, seq, how)) = next else { return };
            self.handle(Input::Flushed { conn: seat, log, seq, how });
        }
    }

    /// The positions that were queued for it and its socket has not taken.
    pub(crate) fn untaken(&self, seat: Seat) -> Vec<u64> {
        self.links[&seat].unwritten.iter().map(|(_, seq, _)| *seq).collect()
    }

    pub(crate) fn unclog(&mut self, seat: Seat) {
        self.links.get_mut(&seat).unwrap().stuck = false;
        self.drain(seat, usize::MAX);
    }

    /// Makes a connection carry nothing until it is released.
    pub(crate) fn slow(&mut self, seat: Seat) {
        self.links.get_mut(&seat).unwrap().slow.get_or_insert_default();
    }

    /// Has it carry `count` frames.
    pub(crate) fn carry(&mut self, seat: Seat, count: usize) {
        for _ in 0..count {
            let Some((frame, mark)) = self.next_frame(seat) else { break };
            self.hear(seat, frame);
            self.write(seat, mark);
            self.handle(Input::WriteProgress { conn: seat });
        }
        self.report_links();
    }

    /// The frames that it has not carried.
    pub(crate) fn waiting(&self, seat: Seat) -> Vec<Value> {
        self.links[&seat].slow.iter().flatten().map(|(frame, _)| frame.clone()).collect()
    }

    /// Has its socket take `count` frames, which are lost with it.
    pub(crate) fn cut(&mut self, seat: Seat, count: usize) {
        for _ in 0..count {
            let Some((_, mark)) = self.next_frame(seat) else { break };
            self.write(seat, mark);
        }
        self.leave(seat);
    }

    /// Has it carry everything from now on.
    pub(crate) fn fast(&mut self, seat: Seat) {
        while self.links.get(&seat).is_some_and(|link| link.slow.as_ref().is_some_and(|l| !l.is_empty())) {
            self.carry(seat, 1);
        }
        if let Some(link) = self.links.get_mut(&seat) {
            link.slow = None;
        }
    }

    fn next_frame(&mut self, seat: Seat) -> Option<(Value, Option<Mark>)> {
        self.links.get_mut(&seat)?.slow.as_mut()?.pop_front()
    }

    fn write(&mut self, seat: Seat, mark: Option<Mark>) {
        if let Some((log, seq, how)) = mark {
            self.handle(Input::Flushed { conn: seat, log, seq, how });
        }
    }

    pub(super) fn hear(&mut self, seat: Seat, frame: Value) {
        self.see(seat, || Seen::Heard(frame.clone()));
        self.links.get_mut(&seat).unwrap().heard.push(frame);
    }

    pub(super) fn see(&mut self, seat: Seat, what: impl FnOnce() -> Seen) {
        if let Some(journal) = &mut self.journal {
            journal.push((seat, what()));
        }
    }

    /// Tells the hub how slow links are doing, as at the end of a turn.
    pub(crate) fn report_links(&mut self) {
        let state = |link: &Link| match link.slow.as_ref().map_or(0, VecDeque::len) {
            0 => SendQueueState::Empty,
            FULL.. => SendQueueState::Full,
            _ => SendQueueState::Backlogged,
        };
        while let Some((seat, link)) = self.links.iter_mut().find(|(_, link)| link.state != state(link)) {
            link.state = state(link);
            let input = Input::SendQueue { conn: *seat, state: link.state };
            self.handle(input);
        }
    }
}
