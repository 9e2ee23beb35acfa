//! Publishers that wait until their message is on the disk.
//!
//! Knows who waits for which message, and what each is answered. Does not know
//! when anything is written; that is the store's affair.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::SeqRange;
use crate::hub::channel::fanout::DeliveryCounts;
use crate::hub::channel::publish::send_success;
use crate::hub::event::{Cx, Effect, Effects, LogKey, Requester};
use crate::hub::optional_list::List;
use crate::hub::{Hub, RequestContext, RequestResult};
use crate::protocol::{Code, ConnectionId, MessageId, Refusal, Target};

/// So many publishers may wait for the disk. What comes while something is being
/// written goes with the next writing, so this is the most that one of those
/// takes: some seconds of a slow card's. At half a kilobyte each, two megabytes.
const MOST: usize = 4096;

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

/// And not more answers than this: what a commit takes in a few milliseconds. It is slowed
/// down by its own answers then, and they by the disk.
const MOST_EACH: usize = 256;

/// What each connection has waiting.
#[derive(Default, Debug)]
pub(in crate::hub) struct DurableWaiters {
    /// Of those that have something.
    each: HashMap<ConnectionId, Share>,
}

#[derive(Default, Debug)]
struct Share {
    answers: usize,
    bytes: usize,
    is_paused: bool,
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

    /// One more answer waits. Whether the connection is not to be read any more.
    fn add(&mut self, conn: ConnectionId, bytes: usize, (answers, most): (usize, usize)) -> bool {
        let share = self.each.entry(conn).or_default();
        share.answers += 1;
        share.bytes += bytes;
        let is_full = share.answers >= answers || share.bytes >= most;
        is_full && !std::mem::replace(&mut share.is_paused, true)
    }

    /// One answer less waits. Whether the connection is to be read again: some time before
    /// it has nothing waiting, and at the latest then.
    fn remove(&mut self, conn: ConnectionId, bytes: usize, (answers, most): (usize, usize)) -> bool {
        let Some(share) = self.each.get_mut(&conn) else { return false };
        share.answers = share.answers.saturating_sub(1);
        share.bytes = share.bytes.saturating_sub(bytes);
        let is_empty = share.answers == 0;
        let goes_on = is_empty || (share.answers <= answers / 2 && share.bytes <= most / 2);
        let resumes = goes_on && std::mem::replace(&mut share.is_paused, false);
        if is_empty {
            self.each.remove(&conn);
        }
        resumes
    }
}

/// An answer that waits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Answer {
    pub(in crate::hub) seq: u64,
    pub(in crate::hub) ask: RequestContext,
    pub(in crate::hub) message_id: MessageId,
    pub(in crate::hub) reach: DeliveryCounts,
    /// Of its message, where it is the first that waits for it.
    size: u32,
}

impl Answer {
    pub(in crate::hub) fn new(
        seq: u64,
        ask: &RequestContext,
        message_id: MessageId,
        reach: DeliveryCounts,
    ) -> Self {
        Self { seq, ask: ask.clone(), message_id, reach, size: 0 }
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

    pub(in crate::hub) fn len(&self) -> usize {
        self.list.len()
    }

    /// Of the messages that they wait for.
    pub(in crate::hub) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(in crate::hub) fn awaits(&self, seq: u64) -> bool {
        self.list.binary_search_by_key(&seq, |answer| answer.seq).is_ok()
    }

    fn push(&mut self, answer: Answer) {
        let at = self.list.partition_point(|other| other.seq <= answer.seq);
        self.bytes += answer.size as usize;
        self.list.insert(at, answer);
    }

    /// Takes out those that wait for a run of messages.
    fn take(&mut self, (from, to): SeqRange) -> Vec<Answer> {
        let first = self.list.partition_point(|answer| answer.seq < from);
        let end = self.list.partition_point(|answer| answer.seq <= to);
        let taken: Vec<Answer> = self.list.drain(first..end).collect();
        self.bytes -= taken.iter().map(|answer| answer.size as usize).sum::<usize>();
        taken
    }

    /// A message is lost before anybody had it: that it was kept is true no longer.
    pub(in crate::hub) fn lose(&mut self, seq: u64) {
        let first = self.list.partition_point(|answer| answer.seq < seq);
        for answer in self.list.iter_mut().skip(first).take_while(|answer| answer.seq == seq) {
            answer.reach.kept = false;
        }
    }
}

impl Hub {
    /// Whether it can be promised of one more message that it will be on the disk.
    pub(in crate::hub) fn may_store(&self) -> RequestResult {
        let sum = &self.channels.weights.sum;
        let is_much = sum.awaited > self.settings.limits.memory / PART;
        let why = match () {
            () if !self.settings.has_disk => "the store is in memory: nothing in it outlives a power cut",
            () if self.disk_failed => "the disk cannot be used",
            () if sum.answers as usize >= MOST || is_much => "too many wait for the disk already",
            () => return Ok(()),
        };
        Err(Refusal::new(Code::StoreUnavailable, why))
    }

    /// What one connection may have waiting now: answers, and bytes.
    fn share(&self) -> (usize, usize) {
        let sum = &self.channels.weights.sum;
        let share = |most: usize, taken: usize| (most - most / RESERVE).saturating_sub(taken) / SHARE;
        let answers = share(MOST, sum.answers as usize);
        let bytes = share(self.settings.limits.memory / PART, sum.awaited);
        (answers.clamp(1, MOST_EACH), bytes.max(1))
    }

    /// A connection has one more answer waiting.
    fn waits(&mut self, from: Requester, size: u32, out: &mut Effects) {
        let Requester::Connection(conn) = from else { return };
        let share = self.share();
        if self.waiting.add(conn, size as usize, share) {
            out.push(Effect::PauseReading { conn });
        }
    }

    /// A connection has one answer less waiting.
    fn waits_no_longer(&mut self, cx: &mut Cx<'_>, from: Requester, size: u32) {
        let Requester::Connection(conn) = from else { return };
        let share = self.share();
        if self.waiting.remove(conn, size as usize, share) {
            if let Some(connection) = self.connections.get_mut(conn) {
                connection.touch(cx.now.moment);
            }
            cx.out.push(Effect::ResumeReading { conn });
        }
        self.half_closed.note_answered(conn);
    }

    /// Lets a publisher wait until a message is on the disk.
    pub(in crate::hub) fn await_disk(&mut self, cx: &mut Cx<'_>, place: u32, answer: Answer) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        let log = topic.log.get_or_insert_default();
        let is_first = !log.answers.awaits(answer.seq);
        let size = log.find(answer.seq).filter(|_| is_first).map_or(0, |kept| kept.size);
        let from = answer.ask.from;
        log.answers.push(Answer { size, ..answer });
        self.settle(cx.now, place);
        self.waits(from, size, cx.out);
    }

    /// Has a message written that is in memory only.
    pub(in crate::hub) fn store_now(&mut self, place: u32, seq: u64, out: &mut Effects) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(log) = &mut topic.log else { return };
        log.promise(seq);
        out.push(Effect::SyncNow { log: topic.key.clone(), seq });
    }

    /// A run of messages is on the disk.
    pub(in crate::hub) fn stored(&mut self, cx: &mut Cx<'_>, key: &LogKey, run: SeqRange) {
        let Some(place) = self.channels.find(key) else { return };
        let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) else { return };
        let (flash, settings) = (&mut self.flash, &self.settings);
        let mut count = log.store(run, |kept| {
            flash.charge(cx.now.moment, kept.author, kept.size, kept.durable, settings);
        });
        let answers = log.answers.take(run);
        // What was delivered meanwhile was written for who waits for that.
        let delivered = answers.iter().filter(|answer| answer.size > 0 && !log.contains(answer.seq));
        let delivered: Vec<(Requester, u32)> =
            delivered.map(|answer| (answer.ask.from, answer.size)).collect();
        count += delivered.len() as u64;
        self.counters.messages_stored += count;
        for (from, size) in delivered {
            let author = self.author(&self.publisher(from, false));
            self.flash.charge(cx.now.moment, author, size, true, &self.settings);
        }
        self.settle(cx.now, place);
        for Answer { ask, message_id, reach, size, .. } in answers {
            self.waits_no_longer(cx, ask.from, size);
            if self.hears_answers(ask.from) {
                let frame = send_success(target(key), message_id, DeliveryCounts { stored: true, ..reach });
                self.answer(&ask, frame, cx.out);
            }
        }
    }

    /// A message is not on the disk, and its publisher waits no longer. It is kept
    /// as any other, and written when that can be done.
    pub(in crate::hub) fn not_stored(&mut self, cx: &mut Cx<'_>, key: &LogKey, seq: u64) {
        if let Some(place) = self.channels.find(key) {
            if let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) {
                log.release(seq);
            }
            self.answer_in_vain(cx, place, (seq, seq));
        }
    }

    /// Nothing can be written or read: nobody waits for that.
    pub(in crate::hub) fn disk_fails(&mut self, cx: &mut Cx<'_>) {
        self.disk_failed = true;
        for place in self.channels.with(|log| !log.answers.is_empty()) {
            self.answer_in_vain(cx, place, (0, u64::MAX));
        }
    }

    /// The disk can be used again.
    pub(in crate::hub) fn disk_works(&mut self, cx: &mut Cx<'_>) {
        self.disk_failed = false;
        self.read_again(cx);
    }

    fn answer_in_vain(&mut self, cx: &mut Cx<'_>, place: u32, run: SeqRange) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(log) = &mut topic.log else { return };
        let answers = log.answers.take(run);
        for answer in &answers {
            log.release(answer.seq);
        }
        let channel = match &topic.key {
            LogKey::Channel(channel) => Some(channel.clone()),
            LogKey::Inbox(_) => None,
        };
        self.settle(cx.now, place);
        for Answer { ask, size, .. } in answers {
            self.waits_no_longer(cx, ask.from, size);
            if self.hears_answers(ask.from) {
                let why = "the disk did not take it; who is here may have heard it";
                let refusal = Refusal::new(Code::StoreUnavailable, why).of("send");
                self.refuse(cx, &ask, Refusal { channel: channel.clone(), ..refusal });
            }
        }
    }

    /// Whoever disconnected while waiting is simply not answered.
    fn hears_answers(&self, from: Requester) -> bool {
        match from {
            Requester::Connection(conn) => self.connections.contains(conn),
            Requester::Http(_) => true,
        }
    }

    /// Goes on where another process was: its store may have been told nothing of
    /// what that one had promised. A request over HTTP ended with it.
    pub(in crate::hub) fn promise_again(&mut self, cx: &mut Cx<'_>) {
        let mut waiting = Vec::new();
        for place in self.channels.with(|log| !log.answers.is_empty()) {
            let Some(topic) = self.channels.at_mut(place) else { continue };
            let Some(log) = &mut topic.log else { continue };
            let answers = log.answers.take((0, u64::MAX));
            for answer in
                answers.into_iter().filter(|answer| matches!(answer.ask.from, Requester::Connection(_)))
            {
                if !log.answers.awaits(answer.seq) {
                    cx.out.push(Effect::SyncNow { log: topic.key.clone(), seq: answer.seq });
                }
                waiting.push((answer.ask.from, answer.size));
                log.answers.push(answer);
            }
            self.settle(cx.now, place);
        }
        for (from, size) in waiting {
            self.waits(from, size, cx.out);
        }
    }
}

/// To whom the messages of a log are sent.
fn target(key: &LogKey) -> Target {
    match key {
        LogKey::Channel(channel) => Target::Channel(channel.clone()),
        LogKey::Inbox(user) => Target::User(user.clone()),
    }
}
