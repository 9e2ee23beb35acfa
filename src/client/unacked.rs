//! What was said and is not yet known to be taken, in the order in which it was
//! said.
//!
//! Knows what was written to the present connection, what an answer confirms,
//! and what is written again to the next one. Does not know what any of it does
//! to operations and subscriptions.
//!
//! The place of an entry is the `id` of its line. A publication whose answer
//! nobody awaits has none on the wire, but the last one of a write: the hub
//! takes the lines of a connection in their order, so that the answer to one
//! confirms all before it. An answer for each would cost the hub as much as the
//! message.

use std::collections::VecDeque;

use async_channel::Sender;
use bytes::BytesMut;

use super::backpressure::SendBudget;
use super::connection::Answer;
use crate::protocol::Moment;

/// After so many bytes without an id the next line has one, so that room is
/// freed while a long write is under way.
const CONFIRM: usize = 16 << 10;

/// What a line is, as far as a lost connection is concerned.
#[derive(Debug)]
pub(super) enum Kind {
    /// A message, written again until the hub has it.
    Publish {
        expires: Option<Moment>,
        /// It waits for the disk, which no later answer says anything about.
        durable: bool,
    },
    /// An operation begins; its line is made anew, for its deadline comes closer.
    Start(Box<str>),
    /// An operation ends; it must be told whenever the hub comes back.
    End(Box<str>),
    Subscribe(Box<str>),
    Unsubscribe(Box<str>),
    /// Asks only whether all before it is taken.
    Flush,
    /// Anything else. Nobody knows whether it may be done twice: it is not.
    Ask,
}

/// Whether lines are written again after a loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Memory {
    UntilTaken,
    UntilWritten,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    line: Vec<u8>,
    weight: usize,
    answer: Option<Sender<Answer>>,
    /// Taken or given up: it waits only to be first.
    done: bool,
}

impl Entry {
    /// Whether its own answer is wanted, and no later one will do.
    fn is_awaited(&self) -> bool {
        self.answer.is_some() || !matches!(self.kind, Kind::Publish { durable: false, .. })
    }
}

#[derive(Debug)]
pub(super) struct Unacked {
    entries: VecDeque<Entry>,
    /// The id of the first entry.
    first: u64,
    /// The id of the first that is not written to the present connection.
    next: u64,
    /// Below this no publication waits for a later answer.
    confirmed: u64,
    /// Bytes written since the last line with an id.
    unnamed: usize,
    memory: Memory,
    room: SendBudget,
}

impl Unacked {
    pub(super) fn new(memory: Memory, room: SendBudget) -> Self {
        Self { entries: VecDeque::new(), first: 0, next: 0, confirmed: 0, unnamed: 0, memory, room }
    }

    pub(super) fn push(&mut self, kind: Kind, line: Vec<u8>, weight: usize, answer: Option<Sender<Answer>>) {
        self.entries.push_back(Entry { kind, line, weight, answer, done: false });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether an answer is on its way.
    pub(super) fn is_unanswered(&self) -> bool {
        // What is done never stands first.
        self.next > self.first
    }

    /// Writes what is not written yet, until so many bytes wait for the socket.
    pub(super) fn write(&mut self, to: &mut BytesMut, until: usize) {
        while to.len() < until {
            let place = self.place(self.next);
            // What was given up is not written, so its answer confirms nothing.
            let is_last = self.entries.iter().skip(place + 1).all(|entry| entry.done);
            let Some(entry) = self.entries.get(place) else { break };
            let id = self.next;
            self.next += 1;
            if entry.done {
                continue;
            }
            self.unnamed += entry.line.len();
            let confirms = self.memory == Memory::UntilTaken && (is_last || self.unnamed >= CONFIRM);
            match entry.line.split_last() {
                Some((bracket, fields)) if confirms || entry.is_awaited() => {
                    self.unnamed = 0;
                    to.extend_from_slice(fields);
                    to.extend_from_slice(format!(",\"id\":{id}").as_bytes());
                    to.extend_from_slice(&[*bracket, b'\n']);
                }
                _ => {
                    to.extend_from_slice(&entry.line);
                    to.extend_from_slice(b"\n");
                    if self.memory == Memory::UntilWritten {
                        self.finish(place);
                    }
                }
            }
        }
        self.trim();
    }

    /// The answer to `id` has come: what it was, and who waits for it. None
    /// where it is not ours, or was given up.
    pub(super) fn answered(&mut self, id: u64) -> Option<(Kind, Option<Sender<Answer>>)> {
        if id >= self.next {
            return None;
        }
        self.confirm(id);
        let place = usize::try_from(id.checked_sub(self.first)?).ok()?;
        let taken = self.finish(place);
        self.trim();
        taken
    }

    /// An answer has come that is not the last to `id`.
    pub(super) fn half_answered(&mut self, id: u64) -> Option<&Sender<Answer>> {
        let place = usize::try_from(id.checked_sub(self.first)?).ok()?;
        self.entries.get(place)?.answer.as_ref()
    }

    /// The longest line on its way, where it is longer than `least`: the one that
    /// an error without an id is about, if that says that a line was too long.
    pub(super) fn longest(&self, least: usize) -> Option<u64> {
        let written = self.entries.iter().zip(self.first..self.next).filter(|(entry, _)| !entry.done);
        let longest = written.max_by_key(|(entry, _)| entry.line.len());
        longest.filter(|(entry, _)| entry.line.len() > least).map(|(_, id)| id)
    }

    /// The connection is lost. All is to be written again, but what can only be
    /// asked once; gives back who waits for an answer to that.
    pub(super) fn lose(&mut self) -> Vec<Sender<Answer>> {
        let mut forlorn = Vec::new();
        for place in 0..self.place(self.next) {
            let once = self.entries.get(place).is_some_and(|entry| matches!(entry.kind, Kind::Ask));
            if once {
                forlorn.extend(self.finish(place).and_then(|(_, answer)| answer));
            }
        }
        self.unnamed = 0;
        self.next = self.first;
        self.trim();
        forlorn
    }

    /// Nobody waits any longer. Gives up what is awaited, and gives it back; an
    /// end is still told, whenever that is possible.
    pub(super) fn give_up(&mut self) -> Vec<(Kind, Sender<Answer>)> {
        let mut given_up = Vec::new();
        for place in 0..self.entries.len() {
            let Some(entry) = self.entries.get_mut(place) else { break };
            if let Kind::End(id) = &entry.kind {
                given_up.extend(entry.answer.take().map(|answer| (Kind::End(id.clone()), answer)));
            } else if entry.answer.is_some() {
                given_up.extend(self.finish(place).and_then(|(kind, answer)| Some((kind, answer?))));
            }
        }
        self.trim();
        given_up
    }

    /// Gives up what is no longer worth being heard; gives back who waits.
    pub(super) fn expire(&mut self, now: Moment) -> Vec<Sender<Answer>> {
        let mut expired = Vec::new();
        for place in 0..self.entries.len() {
            let stale =
                |entry: &Entry| matches!(entry.kind, Kind::Publish { expires: Some(at), .. } if at <= now);
            if self.entries.get(place).is_some_and(stale) {
                expired.extend(self.finish(place).and_then(|(_, answer)| answer));
            }
        }
        self.trim();
        expired
    }

    /// Makes those lines anew that depend on when they are said.
    pub(super) fn restate(&mut self, line: impl Fn(&Kind) -> Option<Vec<u8>>) {
        for entry in &mut self.entries {
            if let Some(line) = line(&entry.kind) {
                entry.line = line;
            }
        }
    }

    /// Whether a channel is still to be asked for.
    pub(super) fn subscribes(&self, channel: &str) -> bool {
        self.entries.iter().any(|entry| matches!(&entry.kind, Kind::Subscribe(asked) if **asked == *channel))
    }

    /// Whether the end of an operation is still to be told.
    pub(super) fn ends(&self, id: &str) -> bool {
        self.entries.iter().any(|entry| matches!(&entry.kind, Kind::End(ended) if **ended == *id))
    }

    /// All publications before `id` are taken, where nobody awaits their answer.
    fn confirm(&mut self, id: u64) {
        for id in self.confirmed.max(self.first)..id {
            let place = self.place(id);
            if self.entries.get(place).is_some_and(|entry| !entry.is_awaited()) {
                self.finish(place);
            }
        }
        self.confirmed = self.confirmed.max(id);
    }

    fn place(&self, id: u64) -> usize {
        usize::try_from(id.saturating_sub(self.first)).unwrap_or(usize::MAX)
    }

    /// None where it was finished before.
    fn finish(&mut self, place: usize) -> Option<(Kind, Option<Sender<Answer>>)> {
        let entry = self.entries.get_mut(place).filter(|entry| !entry.done)?;
        entry.done = true;
        entry.line = Vec::new();
        self.room.free(entry.weight);
        Some((std::mem::replace(&mut entry.kind, Kind::Flush), entry.answer.take()))
    }

    fn trim(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.done) {
            self.entries.pop_front();
            self.first += 1;
        }
        self.next = self.next.max(self.first);
    }
}
