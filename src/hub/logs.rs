//! What is kept of one topic, and who reads it.
//!
//! Knows the position, size and age of each kept message. Does not know what it
//! says: the store has that.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::deadlines::NEVER;
use super::operations::Told;
use super::receipts::Owed;
use crate::protocol::frame::GapCause;
use crate::protocol::{Channel, Moment};

/// One kept message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) seq: u64,
    pub(super) expires: Moment,
    /// When it was kept; told to administrators.
    pub(super) since: Moment,
    /// The tag of the connection that published it, which does not count as
    /// somebody who heard it; zero for an HTTP caller.
    pub(super) by: u64,
    pub(super) size: u32,
    /// Somebody other than its publisher has it.
    pub(super) heard: bool,
    /// Its publisher wants to hear it too.
    pub(super) echo: bool,
    /// Workers were told that it waits for a user who is away.
    pub(super) told: bool,
}

/// A subscriber that reads what is kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Reader {
    pub(super) slot: u32,
    pub(super) tag: u64,
    /// What lies up to here it heard live, if its socket has taken that.
    pub(super) began: u64,
    /// The last position that was queued for it, or passed over.
    pub(super) sent: u64,
    /// The last position that its socket has taken.
    pub(super) written: u64,
    /// How many are queued and not taken.
    pub(super) in_flight: u32,
    /// The last position there was when the store was asked; none while it is not.
    pub(super) asked: Option<u64>,
    /// It hears the topic no longer; only what is on its way counts.
    pub(super) left: bool,
    /// What was lost in front of it, and is told in its place.
    pub(super) holes: Vec<Hole>,
    /// What is kept for other readers alone, ascending.
    #[serde(default)]
    pub(super) others: Vec<u64>,
    /// What is told behind the messages up to a position.
    pub(super) words: Vec<(u64, Word)>,
}

/// What has to wait for the backlog: nobody is told of the end before the lines.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// How an operation stands.
    Operation(Box<Told>),
    /// Its channel has ended with it.
    Unsubscribed(Channel),
}

/// Messages that were lost before a reader came to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Hole {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) lost: u64,
    pub(super) cause: GapCause,
}

/// What lies before a reader that begins.
#[derive(Default)]
pub(super) struct Backlog {
    /// The last position that counts as heard.
    pub(super) after: u64,
    /// What is missing behind that, and told in its place.
    pub(super) holes: Vec<Hole>,
    /// What is kept there for others alone, ascending.
    pub(super) others: Vec<u64>,
}

impl Backlog {
    /// All that is kept after a position.
    pub(super) fn after(after: u64) -> Self {
        Self { after, ..Self::default() }
    }
}

impl Reader {
    /// One that has everything up to where its backlog begins.
    pub(super) fn new(slot: u32, tag: u64, backlog: Backlog) -> Self {
        let Backlog { after, holes, others } = backlog;
        Self {
            slot,
            tag,
            began: after,
            sent: after,
            written: after,
            in_flight: 0,
            asked: None,
            left: false,
            holes,
            others,
            words: Vec::new(),
        }
    }

    /// Whether `seq` is still to reach it.
    fn wants(&self, seq: u64) -> bool {
        self.written < seq
            && (!self.left || (self.in_flight > 0 && seq <= self.sent))
            && !self.passes_over(seq)
    }

    /// Whether `seq` is for others alone.
    pub(super) fn passes_over(&self, seq: u64) -> bool {
        self.others.binary_search(&seq).is_ok()
    }

    fn is_over(&self) -> bool {
        self.left && self.in_flight == 0 && self.asked.is_none()
    }
}

/// What is kept of one topic.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Log {
    /// By position, ascending.
    pub(super) kept: VecDeque<Kept>,
    /// Of all kept messages.
    pub(super) bytes: usize,
    /// What of that is in the sum over all logs.
    pub(super) weighed: usize,
    /// Those that came first are first; one connection may be here again for
    /// what it has left, before what it hears now.
    pub(super) readers: Vec<Reader>,
    /// No kept message expires before this.
    pub(super) soonest: Moment,
    /// For which moment the deadline of its oldest is set.
    pub(super) armed: Moment,
    /// Who is to be told that a message has arrived, by position.
    pub(super) receipts: VecDeque<Owed>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            bytes: 0,
            weighed: 0,
            readers: Vec::new(),
            soonest: NEVER,
            armed: NEVER,
            receipts: VecDeque::new(),
        }
    }
}

/// Makes one of two neighbouring holes of one cause with nothing kept between
/// them; `at` is the second.
fn join(holes: &mut Vec<Hole>, at: usize, kept: &VecDeque<Kept>) {
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

/// A run of positions, both ends included.
pub(super) type Run = (u64, u64);

/// What one receipt that is owed takes, with the names in it.
pub(super) const RECEIPT: usize = 256;

impl Log {
    /// What it counts in the sum over all logs: a receipt waits longer than its
    /// message, so it is not in the bytes of those.
    pub(super) fn weight(&self) -> usize {
        self.bytes + self.receipts.len() * RECEIPT
    }

    /// Whether most of its weight is receipts.
    pub(super) fn is_mostly_receipts(&self) -> bool {
        self.weight() > 2 * self.bytes
    }

    pub(super) fn is_unused(&self) -> bool {
        self.kept.is_empty() && self.readers.is_empty() && self.receipts.is_empty()
    }

    pub(super) fn push(&mut self, kept: Kept) {
        self.bytes += kept.size as usize;
        self.soonest = self.soonest.min(kept.expires);
        self.kept.push_back(kept);
    }

    /// The place of the first message after a position.
    fn place_after(&self, seq: u64) -> usize {
        self.kept.partition_point(|kept| kept.seq <= seq)
    }

    pub(super) fn first_after(&self, seq: u64) -> Option<&Kept> {
        self.kept.get(self.place_after(seq))
    }

    pub(super) fn find_mut(&mut self, seq: u64) -> Option<&mut Kept> {
        let place = self.kept.binary_search_by_key(&seq, |kept| kept.seq).ok()?;
        self.kept.get_mut(place)
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.kept.binary_search_by_key(&seq, |kept| kept.seq).is_ok()
    }

    /// What is missing between two positions: the first, the last, how many.
    pub(super) fn missing(&self, after: u64, to: u64) -> Option<(u64, u64, u64)> {
        let (mut first, mut last, mut lost) = (None, 0, 0);
        let mut expected = after + 1;
        let kept = self.kept.range(self.place_after(after)..).map(|kept| kept.seq);
        for seq in kept.chain([to + 1]) {
            if seq > expected {
                first = first.or(Some(expected));
                last = seq - 1;
                lost += seq - expected;
            }
            expected = seq + 1;
        }
        first.map(|first| (first, last, lost))
    }

    /// Every run of positions that is missing between two.
    pub(super) fn holes(&self, after: u64, to: u64, cause: GapCause) -> Vec<Hole> {
        let mut expected = after + 1;
        let kept = self.kept.range(self.place_after(after)..).map(|kept| kept.seq);
        let hole = |seq: u64| {
            let from = std::mem::replace(&mut expected, seq + 1);
            (seq > from).then(|| Hole { from, to: seq - 1, lost: seq - from, cause })
        };
        kept.chain([to + 1]).filter_map(hole).collect()
    }

    /// The first after a position that a connection said and does not hear.
    pub(super) fn first_unheard_by(&self, tag: u64, after: u64) -> Option<u64> {
        let mut rest = self.kept.range(self.place_after(after)..);
        rest.find(|kept| kept.by == tag && !kept.echo).map(|kept| kept.seq)
    }

    /// How many are kept after a position.
    pub(super) fn waiting(&self, after: u64) -> usize {
        self.kept.len() - self.place_after(after)
    }

    /// What a newcomer hears: what nobody heard, from the first such message that
    /// no reader is on its way to. What somebody heard is kept for those who were
    /// here when it was said, and for nobody else.
    pub(super) fn unclaimed(&self) -> Option<Backlog> {
        let claimed = |kept: &Kept| self.readers.iter().any(|reader| reader.wants(kept.seq));
        let at = self.kept.iter().position(|kept| !kept.heard && !claimed(kept))?;
        let after = self.kept.get(at)?.seq - 1;
        let heard = self.kept.range(at..).filter(|kept| kept.heard);
        Some(Backlog { others: heard.map(|kept| kept.seq).collect(), ..Backlog::after(after) })
    }

    /// The reader that a connection is now.
    pub(super) fn reader_mut(&mut self, slot: u32) -> Option<&mut Reader> {
        self.readers.iter_mut().find(|reader| reader.slot == slot && !reader.left)
    }

    pub(super) fn reader(&self, slot: u32) -> Option<&Reader> {
        self.readers.iter().find(|reader| reader.slot == slot && !reader.left)
    }

    /// Drops readers that have nothing on its way any more.
    pub(super) fn drop_over(&mut self) {
        self.readers.retain(|reader| !reader.is_over());
    }

    /// Nobody will acknowledge a message any more.
    pub(super) fn owe_no_receipt(&mut self, seq: u64) {
        if let Ok(at) = self.receipts.binary_search_by_key(&seq, |owed| owed.seq)
            && self.receipts.get(at).is_some_and(|owed| !owed.is_delivered)
        {
            self.receipts.remove(at);
        }
    }

    /// Notes in front of every reader that has not passed it that a message,
    /// which is here no longer, is lost. Holes with nothing between them are one.
    pub(super) fn lose(&mut self, seq: u64, cause: GapCause) {
        let is_in_front =
            |reader: &&mut Reader| !reader.left && reader.sent < seq && !reader.passes_over(seq);
        for reader in self.readers.iter_mut().filter(is_in_front) {
            let at = reader.holes.partition_point(|hole| hole.to < seq);
            match reader.holes.get_mut(at) {
                Some(hole) if hole.from <= seq => hole.lost += 1,
                _ => reader.holes.insert(at, Hole { from: seq, to: seq, lost: 1, cause }),
            }
            join(&mut reader.holes, at + 1, &self.kept);
            join(&mut reader.holes, at, &self.kept);
        }
    }

    /// The runs of messages that satisfy a condition, each by its first position
    /// and how many it has; none is longer than `most`.
    pub(super) fn runs(&self, most: usize, wanted: impl Fn(&Kept) -> bool) -> Vec<(u64, usize)> {
        let mut runs: Vec<(u64, usize)> = Vec::new();
        let mut adjacent = false;
        for kept in &self.kept {
            let is_wanted = wanted(kept);
            match runs.last_mut() {
                Some(run) if is_wanted && adjacent && run.1 < most => run.1 += 1,
                _ if is_wanted => runs.push((kept.seq, 1)),
                _ => {}
            }
            adjacent = is_wanted;
        }
        runs
    }

    /// Takes out what satisfies a condition, and says which positions went.
    pub(super) fn remove(&mut self, mut gone: impl FnMut(&Kept) -> bool) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut adjacent = false;
        let bytes = &mut self.bytes;
        self.kept.retain(|kept| {
            let goes = gone(kept);
            if goes {
                *bytes -= kept.size as usize;
                match runs.last_mut() {
                    Some(run) if adjacent => run.1 = kept.seq,
                    _ => runs.push((kept.seq, kept.seq)),
                }
            }
            adjacent = goes;
            !goes
        });
        runs
    }

    /// Takes out of the front what somebody heard and no reader wants any more;
    /// enough where messages are heard in their order.
    pub(super) fn remove_first_delivered(&mut self) -> Option<Run> {
        let mut run: Option<Run> = None;
        while let Some(first) = self.kept.front().filter(|kept| kept.heard)
            && !self.readers.iter().any(|reader| reader.wants(first.seq))
        {
            let seq = first.seq;
            self.take(seq);
            // What is gone between is gone already.
            run = Some(run.map_or((seq, seq), |(from, _)| (from, seq)));
        }
        run
    }

    /// Takes out what somebody heard and no reader wants any more.
    pub(super) fn remove_delivered(&mut self) -> Vec<Run> {
        let readers = std::mem::take(&mut self.readers);
        let runs = self.remove(|kept| kept.heard && !readers.iter().any(|reader| reader.wants(kept.seq)));
        self.readers = readers;
        runs
    }

    /// Takes one message out, if somebody heard it and no reader wants it any
    /// more.
    pub(super) fn take_delivered(&mut self, seq: u64) -> bool {
        let is_heard = self.find_mut(seq).is_some_and(|kept| kept.heard);
        is_heard && !self.readers.iter().any(|reader| reader.wants(seq)) && self.take(seq)
    }

    /// Takes one message out, if it is there.
    pub(super) fn take(&mut self, seq: u64) -> bool {
        let Ok(place) = self.kept.binary_search_by_key(&seq, |kept| kept.seq) else { return false };
        if let Some(kept) = self.kept.remove(place) {
            self.bytes -= kept.size as usize;
        }
        true
    }
}
