//! Who reads what is kept of a topic, and how far each has come.
//!
//! Knows what lies before a reader, and what it is told in which place. Does not
//! know what is kept; that is in [`log`](crate::hub::log).

use std::ops::{Deref, DerefMut, Range};

use serde::{Deserialize, Deserializer, Serialize};

use super::entry::LogEntry;
use crate::hub::operation::OperationSummary;
use crate::hub::optional_list::List;
use crate::protocol::frame::GapCause;
use crate::protocol::{Channel, ConnectionId};
use crate::small_queue::SmallQueue;
use crate::sort::sort_by;

/// A subscriber that reads what is kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Reader {
    pub(in crate::hub) slot: u32,
    pub(in crate::hub) tag: u64,
    /// What lies up to here it heard live, if its socket has taken that, or it was
    /// passed over.
    pub(in crate::hub) began: u64,
    /// The last position that was queued for it, or passed over.
    pub(in crate::hub) sent: u64,
    /// The last position that its socket has taken.
    pub(in crate::hub) written: u64,
    /// How many are queued and not taken.
    pub(in crate::hub) in_flight: u32,
    /// The last position there was when the store was asked; none while it is not.
    pub(in crate::hub) asked: Option<u64>,
    /// Once through, it reads what was passed over for it.
    pub(in crate::hub) again: bool,
    /// It hears the topic no longer; only what is on its way counts.
    pub(in crate::hub) left: bool,
    /// What was lost in front of it, and is told in its place.
    pub(in crate::hub) holes: Vec<Gap>,
    /// What is kept for other readers alone, ascending.
    #[serde(default)]
    pub(in crate::hub) others: Vec<u64>,
    /// What is told behind the messages up to a position.
    pub(in crate::hub) words: Vec<(u64, DeferredFrame)>,
}

/// The readers of one log, by slot: what happens to one is found among very many. Of a
/// connection that is here again, what it has left comes before what it hears now.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(transparent)]
pub(in crate::hub) struct Readers(Vec<Reader>);

impl<'de> Deserialize<'de> for Readers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // A process of an older version had them in the order of their coming.
        let mut readers = Vec::<Reader>::deserialize(from)?;
        sort_by(&mut readers, |one, other| one.slot.cmp(&other.slot));
        Ok(Self(readers))
    }
}

impl List for Readers {
    const EMPTY: &'static Self = &Self(Vec::new());

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Deref for Readers {
    type Target = [Reader];

    fn deref(&self) -> &[Reader] {
        &self.0
    }
}

impl DerefMut for Readers {
    fn deref_mut(&mut self) -> &mut [Reader] {
        &mut self.0
    }
}

impl Readers {
    pub(in crate::hub) fn insert(&mut self, reader: Reader) {
        let at = self.0.partition_point(|other| other.slot <= reader.slot);
        self.0.insert(at, reader);
    }

    /// Where those of a slot are.
    fn span(&self, slot: u32) -> Range<usize> {
        let from = self.0.partition_point(|reader| reader.slot < slot);
        let theirs = self.0.iter().skip(from).take_while(|reader| reader.slot == slot);
        from..from + theirs.count()
    }

    /// Those of a slot.
    pub(in crate::hub) fn of(&self, slot: u32) -> &[Reader] {
        self.0.get(self.span(slot)).unwrap_or_default()
    }

    /// The same, to be changed.
    pub(in crate::hub) fn of_mut(&mut self, slot: u32) -> &mut [Reader] {
        let span = self.span(slot);
        self.0.get_mut(span).unwrap_or_default()
    }

    /// What a connection is now, no reader any more.
    pub(in crate::hub) fn take_current(&mut self, slot: u32) -> Option<Reader> {
        let at = self.span(slot).find(|at| self.0.get(*at).is_some_and(|reader| !reader.left))?;
        Some(self.0.remove(at))
    }

    /// Drops those of a slot that have nothing on its way any more.
    pub(in crate::hub) fn drop_over(&mut self, slot: u32) {
        self.drop_of(slot, Reader::is_over);
    }

    /// Drops those of a connection.
    pub(in crate::hub) fn drop_all_of(&mut self, conn: ConnectionId) {
        self.drop_of(conn.slot, |reader| reader.tag == conn.tag);
    }

    fn drop_of(&mut self, slot: u32, goes: impl Fn(&Reader) -> bool) {
        let span = self.span(slot);
        for at in span.rev() {
            if self.0.get(at).is_some_and(&goes) {
                self.0.remove(at);
            }
        }
    }

    /// Drops all that have nothing on its way any more.
    pub(in crate::hub) fn drop_all_over(&mut self) {
        self.0.retain(|reader| !reader.is_over());
    }

    /// Whether somebody is still to hear a message.
    pub(in crate::hub) fn want(&self, seq: u64) -> bool {
        self.0.iter().any(|reader| reader.wants(seq))
    }

    /// Up to where everybody has had all there is for it.
    pub(in crate::hub) fn written(&self) -> u64 {
        let waits = |reader: &&Reader| !reader.left || reader.in_flight > 0;
        self.0.iter().filter(waits).map(|reader| reader.written).min().unwrap_or(u64::MAX)
    }
}

/// What has to wait for the backlog: nobody is told of the end before the lines.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::hub) enum DeferredFrame {
    /// How an operation stands.
    Operation(Box<OperationSummary>),
    /// Its channel has ended with it.
    Unsubscribed(Channel),
}

/// Messages that were lost before a reader came to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Gap {
    pub(in crate::hub) from: u64,
    pub(in crate::hub) to: u64,
    pub(in crate::hub) lost: u64,
    pub(in crate::hub) cause: GapCause,
}

/// What lies before a reader that begins.
#[derive(Default)]
pub(in crate::hub) struct Backlog {
    /// The last position that counts as heard.
    pub(in crate::hub) after: u64,
    /// What is missing behind that, and told in its place.
    pub(in crate::hub) holes: Vec<Gap>,
    /// What is kept there for others alone, ascending.
    pub(in crate::hub) others: Vec<u64>,
}

impl Backlog {
    /// All that is kept after a position.
    pub(in crate::hub) fn after(after: u64) -> Self {
        Self { after, ..Self::default() }
    }
}

impl Reader {
    /// One that has everything up to where its backlog begins.
    pub(in crate::hub) fn new(slot: u32, tag: u64, backlog: Backlog) -> Self {
        let Backlog { after, holes, others } = backlog;
        Self {
            slot,
            tag,
            began: after,
            sent: after,
            written: after,
            in_flight: 0,
            asked: None,
            again: false,
            left: false,
            holes,
            others,
            words: Vec::new(),
        }
    }

    /// What lies before it still.
    pub(in crate::hub) fn backlog(&self) -> Backlog {
        Backlog { after: self.sent, holes: self.holes.clone(), others: self.others.clone() }
    }

    /// Whether a connection is this reader, and waits for the store.
    pub(in crate::hub) fn asks(&self, conn: ConnectionId) -> bool {
        self.slot == conn.slot && self.tag == conn.tag && self.asked.is_some()
    }

    /// Whether `seq` is still to reach it.
    pub(in crate::hub) fn wants(&self, seq: u64) -> bool {
        self.written < seq
            && (!self.left || (self.in_flight > 0 && seq <= self.sent))
            && !self.passes_over(seq)
    }

    /// Whether `seq` is for others alone.
    pub(in crate::hub) fn passes_over(&self, seq: u64) -> bool {
        self.others.binary_search(&seq).is_ok()
    }

    /// Notes that a message is lost in front of it; where.
    pub(in crate::hub) fn note_lost(&mut self, seq: u64, cause: GapCause) -> usize {
        let at = self.holes.partition_point(|hole| hole.to < seq);
        match self.holes.get_mut(at) {
            Some(hole) if hole.from <= seq => hole.lost += 1,
            _ => self.holes.insert(at, Gap { from: seq, to: seq, lost: 1, cause }),
        }
        at
    }

    pub(in crate::hub) fn is_over(&self) -> bool {
        self.left && self.in_flight == 0 && self.asked.is_none()
    }
}

/// Makes one of two neighbouring holes of one cause with nothing kept between
/// them; `at` is the second.
pub(in crate::hub) fn join(holes: &mut Vec<Gap>, at: usize, kept: &SmallQueue<LogEntry>) {
    let (Some(before), Some(next)) = (at.checked_sub(1).and_then(|at| holes.get(at)), holes.get(at)) else {
        return;
    };
    let place = kept.partition_point(|kept| kept.seq <= before.to);
    let is_apart = kept.get(place).is_some_and(|kept| kept.seq < next.from);
    if before.cause != next.cause || is_apart {
        return;
    }
    let next = holes.remove(at);
    if let Some(before) = holes.get_mut(at - 1) {
        before.to = next.to;
        before.lost += next.lost;
    }
}
