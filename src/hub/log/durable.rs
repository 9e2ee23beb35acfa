//! Publishers that wait until their message is on the disk: their answers, by message, and
//! how much each connection may have waiting.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::position::SeqRange;
use super::usage::LogUsage;
use crate::hub::RequestContext;
use crate::hub::channel::delivery::DeliveryCounts;
use crate::hub::event::Requester;
use crate::hub::optional_list::List;
use crate::hub::settings::Limits;
use crate::protocol::{ConnectionId, Frame, MessageId, Target};

/// So many publishers may wait for the disk. What comes while something is being
/// written goes with the next writing, so this is the most that one of those
/// takes: some seconds of a slow card's. At half a kilobyte each, two megabytes.
const MAX_ANSWERS: usize = 4096;

/// What an answer that waits takes, with the names in it.
pub(in crate::hub) const ANSWER: usize = 512;

/// They may wait for this part of the memory: on its way to the disk a message is
/// there twice, as it is kept and as it is written.
const PART: usize = 8;

/// One connection may have this part waiting of what is left for all, in answers and in
/// bytes: so one that does not wait for its answers leaves room for the others, and many
/// of those share it.
const SHARE: usize = 8;

/// This part of the room is not shared out: it is for those who wait for each answer, of
/// whom each has one, however many do not.
const RESERVE: usize = 4;

/// Most answers that one connection waits for: as many as a commit writes in a few milliseconds.
/// Beyond that the connection is read no faster than the disk writes.
const MAX_ANSWERS_PER_CONNECTION: usize = 256;

/// What each connection has waiting.
#[derive(Default, Debug)]
pub(in crate::hub) struct DurableWaiters {
    /// Of those that have something.
    each: HashMap<ConnectionId, WaitingAnswers>,
}

#[derive(Default, Debug)]
struct WaitingAnswers {
    answers: usize,
    bytes: usize,
    is_paused: bool,
}

/// What one connection may have waiting.
struct WaitingLimit {
    answers: usize,
    bytes: usize,
}

impl WaitingLimit {
    /// Of what is left for all.
    fn new(usage: &LogUsage, limits: &Limits) -> Self {
        let share = |most: usize, taken: usize| (most - most / RESERVE).saturating_sub(taken) / SHARE;
        let answers = share(MAX_ANSWERS, usage.answers());
        let bytes = share(limits.memory / PART, usage.awaited());
        Self { answers: answers.clamp(1, MAX_ANSWERS_PER_CONNECTION), bytes: bytes.max(1) }
    }
}

/// Whether too many wait already for one more to be promised anything.
pub(super) fn is_crowded(usage: &LogUsage, limits: &Limits) -> bool {
    usage.answers() >= MAX_ANSWERS || usage.awaited() > limits.memory / PART
}

impl DurableWaiters {
    /// Whether a connection is not read.
    pub(in crate::hub) fn is_paused(&self, conn: ConnectionId) -> bool {
        self.each.get(&conn).is_some_and(|share| share.is_paused)
    }

    /// Whether a connection has an answer waiting.
    pub(in crate::hub) fn has(&self, conn: ConnectionId) -> bool {
        self.each.contains_key(&conn)
    }

    /// A connection is gone. What it waits for is written all the same.
    pub(in crate::hub) fn forget(&mut self, conn: ConnectionId) {
        self.each.remove(&conn);
    }

    /// A connection has one more answer waiting. Whether it is to be read no more for now.
    pub(super) fn add(&mut self, conn: ConnectionId, size: u32, usage: &LogUsage, limits: &Limits) -> bool {
        let limit = WaitingLimit::new(usage, limits);
        let waiting = self.each.entry(conn).or_default();
        waiting.answers += 1;
        waiting.bytes += size as usize;
        let is_full = waiting.answers >= limit.answers || waiting.bytes >= limit.bytes;
        is_full && !std::mem::replace(&mut waiting.is_paused, true)
    }

    /// A connection has one answer less waiting. Whether it is to be read again: some time
    /// before it has nothing waiting, and at the latest then.
    pub(super) fn remove(
        &mut self,
        conn: ConnectionId,
        size: u32,
        usage: &LogUsage,
        limits: &Limits,
    ) -> bool {
        let limit = WaitingLimit::new(usage, limits);
        let Some(waiting) = self.each.get_mut(&conn) else { return false };
        waiting.answers = waiting.answers.saturating_sub(1);
        waiting.bytes = waiting.bytes.saturating_sub(size as usize);
        let is_empty = waiting.answers == 0;
        let goes_on = is_empty || (waiting.answers <= limit.answers / 2 && waiting.bytes <= limit.bytes / 2);
        let resumes = goes_on && std::mem::replace(&mut waiting.is_paused, false);
        if is_empty {
            self.each.remove(&conn);
        }
        resumes
    }
}

/// An answer that waits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Answer {
    seq: u64,
    ask: RequestContext,
    message_id: MessageId,
    counts: DeliveryCounts,
    /// Of its message, where it is the first that waits for it.
    size: u32,
}

impl Answer {
    pub(in crate::hub) fn new(
        seq: u64,
        ask: &RequestContext,
        message_id: MessageId,
        counts: DeliveryCounts,
    ) -> Self {
        Self { seq, ask: ask.clone(), message_id, counts, size: 0 }
    }

    /// The same; it is the first that waits for a message of such a size.
    pub(super) fn of_size(self, size: u32) -> Self {
        Self { size, ..self }
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    pub(super) fn from(&self) -> Requester {
        self.ask.from
    }

    /// The size of its message, where it is the first that waits for it.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    pub(super) fn into_request(self) -> RequestContext {
        self.ask
    }

    /// Its message is on the disk: the request, and the answer to it.
    pub(super) fn into_success(self, target: Target) -> (RequestContext, Frame<'static>) {
        (self.ask, self.counts.stored().frame(target, self.message_id))
    }
}

/// The answers that wait for the messages of one log.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct Answers {
    /// By position, and for one position as they came.
    list: VecDeque<Answer>,
    bytes: usize,
}

impl List for Answers {
    const EMPTY: &'static Self = &Self { list: VecDeque::new(), bytes: 0 };

    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl Answers {
    pub(in crate::hub) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Of the messages that they wait for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one of them waits for a message.
    pub(in crate::hub) fn await_seq(&self, seq: u64) -> bool {
        self.list.binary_search_by_key(&seq, |answer| answer.seq).is_ok()
    }

    pub(super) fn push(&mut self, answer: Answer) {
        let at = self.list.partition_point(|other| other.seq <= answer.seq);
        self.bytes += answer.size as usize;
        self.list.insert(at, answer);
    }

    /// Takes out those that wait for a range of messages.
    pub(super) fn take(&mut self, range: SeqRange) -> Vec<Answer> {
        let first = self.list.partition_point(|answer| answer.seq < range.from());
        let end = self.list.partition_point(|answer| answer.seq <= range.to());
        let taken: Vec<Answer> = self.list.drain(first..end).collect();
        self.bytes -= taken.iter().map(|answer| answer.size as usize).sum::<usize>();
        taken
    }

    /// A message is lost before any recipient had it: that it was kept is true no longer.
    pub(super) fn lose(&mut self, seq: u64) {
        let first = self.list.partition_point(|answer| answer.seq < seq);
        for answer in self.list.iter_mut().skip(first).take_while(|answer| answer.seq == seq) {
            answer.counts.lose();
        }
    }
}
