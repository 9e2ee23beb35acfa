//! What the store reports: messages on the disk, a disk that fails or works again, and what was
//! found on it.

use super::durable::{Answer, is_crowded};
use super::gap;
use super::numbering::{Known, Numbering, provisional_floor};
use super::position::{LogPosition, SeqRange};
use super::publisher_quota::Synced;
use super::recovery::{PendingRecovery, RecoveredPlace};
use crate::hub::channel::dedup::DedupKey;
use crate::hub::channel::delivery::Echo;
use crate::hub::channel::topic::{Subscriber, Topic};
use crate::hub::channel::topics::TopicId;
use crate::hub::event::{Cx, Effect, Effects, Input, LogKey, Now, RecoveredLog, Requester, StoreEvent};
use crate::hub::{Hub, RequestResult};
use crate::protocol::request::Target;
use crate::protocol::{Code, Refusal};
use crate::sort::sort_by;

/// Publishers that wait for the disk.
impl Hub {
    /// Whether it can be promised of one more message that it will be on the disk.
    pub(in crate::hub) fn may_store(&self) -> RequestResult {
        let why = match () {
            () if !self.settings.has_disk => "the store is in memory: nothing in it outlives a power cut",
            () if self.disk_failed => "the disk cannot be used",
            () if is_crowded(self.channels.usage().sum(), &self.settings.limits) => {
                "too many wait for the disk already"
            }
            () => return Ok(()),
        };
        Err(Refusal::new(Code::StoreUnavailable, why))
    }

    /// A connection has one more answer waiting.
    fn add_waiting(&mut self, from: Requester, size: u32, out: &mut Effects) {
        let Requester::Connection(conn) = from else { return };
        if self.waiting.add(conn, size, self.channels.usage().sum(), &self.settings.limits) {
            out.push(Effect::PauseReading { conn });
        }
    }

    /// A connection has one answer less waiting.
    fn remove_waiting(&mut self, cx: &mut Cx<'_>, from: Requester, size: u32) {
        let Requester::Connection(conn) = from else { return };
        if self.waiting.remove(conn, size, self.channels.usage().sum(), &self.settings.limits) {
            if let Some(connection) = self.connections.get_mut(conn) {
                connection.touch(cx.now.moment);
            }
            cx.out.push(Effect::ResumeReading { conn });
        }
        self.half_closed.note_answered(conn);
    }

    /// Lets a publisher wait until a message is on the disk.
    pub(in crate::hub) fn await_disk(&mut self, cx: &mut Cx<'_>, id: TopicId, answer: Answer) {
        let Some(topic) = self.channels.existing_mut(id) else { return };
        let log = topic.log_or_new();
        let is_first = !log.answers().await_seq(answer.seq());
        let size = log.entries().find(answer.seq()).filter(|_| is_first).map_or(0, |entry| entry.size());
        let from = answer.from();
        log.await_answer(answer.of_size(size));
        self.refresh_topic(cx.now, id);
        self.add_waiting(from, size, cx.out);
    }

    /// Has a message written that is in memory only.
    pub(in crate::hub) fn store_now(&mut self, id: TopicId, seq: u64, out: &mut Effects) {
        let Some(topic) = self.channels.existing_mut(id) else { return };
        if let Some(log) = topic.log_mut() {
            log.promise(seq);
            out.push(Effect::SyncNow { log: topic.key().clone(), seq });
        }
    }

    /// A range of messages is on the disk.
    pub(in crate::hub) fn messages_stored(&mut self, cx: &mut Cx<'_>, key: &LogKey, range: SeqRange) {
        let Some(id) = self.channels.find(key) else { return };
        let Some(log) = self.channels.log_mut(id) else { return };
        let (flash, settings) = (&mut self.flash, &self.settings);
        let mut count = log.mark_stored(range, |entry| {
            let synced = if entry.is_durable() { Synced::Yes } else { Synced::No };
            flash.charge(cx.now.moment, entry.author(), entry.size(), synced, settings);
        });
        let answers = log.take_answers(range);
        // What was delivered meanwhile was written for its publisher.
        let is_gone = |answer: &&Answer| answer.size() > 0 && !log.entries().contains(answer.seq());
        let gone = answers.iter().filter(is_gone).map(|answer| (answer.from(), answer.size()));
        let gone: Vec<(Requester, u32)> = gone.collect();
        count += gone.len() as u64;
        self.counters.messages_stored += count;
        for (from, size) in gone {
            let author = self.author(&self.publisher(from, Echo::No));
            self.flash.charge(cx.now.moment, author, size, Synced::Yes, &self.settings);
        }
        self.refresh_topic(cx.now, id);
        for answer in answers {
            self.remove_waiting(cx, answer.from(), answer.size());
            if self.can_answer(answer.from()) {
                let (ask, frame) = answer.into_success(target(key));
                self.answer(&ask, frame, cx.out);
            }
        }
    }

    /// A message is not on the disk, and its publisher waits no longer. It is kept
    /// as any other, and written when that can be done.
    pub(in crate::hub) fn message_not_stored(&mut self, cx: &mut Cx<'_>, key: &LogKey, seq: u64) {
        if let Some(id) = self.channels.find(key) {
            if let Some(log) = self.channels.log_mut(id) {
                log.release(seq);
            }
            self.refuse_waiting(cx, id, SeqRange::one(seq));
        }
    }

    fn refuse_waiting(&mut self, cx: &mut Cx<'_>, id: TopicId, range: SeqRange) {
        let Some(topic) = self.channels.existing_mut(id) else { return };
        let channel = match topic.key() {
            LogKey::Channel(channel) => Some(channel.clone()),
            LogKey::Inbox(_) => None,
        };
        let Some(log) = topic.log_mut() else { return };
        let answers = log.take_answers(range);
        for answer in &answers {
            log.release(answer.seq());
        }
        self.refresh_topic(cx.now, id);
        for answer in answers {
            self.remove_waiting(cx, answer.from(), answer.size());
            if self.can_answer(answer.from()) {
                let why = "the disk did not take it; who is here may have heard it";
                let refusal = Refusal::new(Code::StoreUnavailable, why).of("send");
                let refusal = Refusal { channel: channel.clone(), ..refusal };
                self.refuse(cx, &answer.into_request(), refusal);
            }
        }
    }

    /// A connection that has ended while it waited is simply not answered.
    fn can_answer(&self, from: Requester) -> bool {
        match from {
            Requester::Connection(conn) => self.connections.get(conn).is_some(),
            Requester::Http(_) => true,
        }
    }

    /// Goes on where another process was: its store may not have got all orders for what that
    /// one had promised. A request over HTTP ended with it.
    pub(in crate::hub) fn sync_again(&mut self, cx: &mut Cx<'_>) {
        let mut waiting = Vec::new();
        for id in self.channels.with_log(|log| !log.answers().is_empty()) {
            let Some(topic) = self.channels.existing_mut(id) else { continue };
            let key = topic.key().clone();
            let Some(log) = topic.log_mut() else { continue };
            for answer in log.take_answers(SeqRange::ALL) {
                if matches!(answer.from(), Requester::Http(_)) {
                    continue;
                }
                if !log.answers().await_seq(answer.seq()) {
                    cx.out.push(Effect::SyncNow { log: key.clone(), seq: answer.seq() });
                }
                waiting.push((answer.from(), answer.size()));
                log.await_answer(answer);
            }
            self.refresh_topic(cx.now, id);
        }
        for (from, size) in waiting {
            self.add_waiting(from, size, cx.out);
        }
    }
}

/// A disk that fails, and works again.
impl Hub {
    /// Takes note of what an input says about the disk, before it is dealt with.
    pub(in crate::hub) fn note_disk(&mut self, cx: &mut Cx<'_>, input: &Input) {
        match input {
            Input::Store(StoreEvent::RecoveredLog(_)) => return,
            // The first of all inputs: what is on the disk is not known.
            Input::Store(StoreEvent::Failed) if self.started.is_none() => {
                self.seq_floor = Some(provisional_floor(cx.now, &mut self.random));
                self.channels.detach_all_from_disk();
            }
            Input::Store(StoreEvent::Recovered) => self.seq_floor = None,
            _ => {}
        }
        if !self.recovering.is_empty() {
            self.end_recovery(cx);
        }
    }

    /// Nothing can be written or read: publishers that wait for that are refused.
    pub(in crate::hub) fn disk_fails(&mut self, cx: &mut Cx<'_>) {
        self.disk_failed = true;
        for id in self.channels.with_log(|log| !log.answers().is_empty()) {
            self.refuse_waiting(cx, id, SeqRange::ALL);
        }
    }

    /// The disk can be used again.
    pub(in crate::hub) fn disk_works(&mut self, cx: &mut Cx<'_>) {
        self.disk_failed = false;
        self.reread_all(cx);
    }
}

/// Recovery.
impl Hub {
    /// The numbers of a log go on where a process was killed. What of it no disk
    /// has is lost, and known to be.
    pub(in crate::hub) fn restore_position(&mut self, now: Now, log: LogKey, position: LogPosition) {
        // What a clean stop has left is no older.
        if self.channels.find(&log).is_none() {
            let numbers = Numbering::restored(position, 0, 0, None);
            let id = self.channels.insert(Topic::numbered(log, numbers));
            self.refresh_topic(now, id);
        }
    }

    /// The last positions of the logs whose numbers are to go on although the process
    /// is killed: those of which the disk has all but the last moment.
    pub fn lasting_positions(&self) -> Vec<(LogKey, LogPosition)> {
        let is_one = |topic: &&Topic| {
            topic.position().seq > 0 && self.settings.keeps_numbers(&self.settings.log_policy(topic.key()))
        };
        let topics = self.channels.iter().filter(is_one);
        topics.map(|topic| (topic.key().clone(), topic.position())).collect()
    }

    /// Takes what was found of one log into the index. What follows from it waits
    /// until all is reported, so that it does not depend on the order of that.
    pub(in crate::hub) fn log_recovered(&mut self, now: Now, mut found: RecoveredLog) {
        // From here on it is known what is there.
        self.started.get_or_insert(now.moment);
        sort_by(&mut found.kept, |one, other| one.seq.cmp(&other.seq));
        let known = self.channels.find(&found.log);
        let id = known.unwrap_or_else(|| {
            let topic = Topic::new(found.log.clone(), self.random.next());
            self.channels.insert(topic)
        });
        let new_epoch = self.random.next();
        let Some(topic) = self.channels.existing_mut(id) else { return };
        let known = if known.is_some() { Known::Yes } else { Known::No };
        let recovered = topic.recover(id, &found, known, new_epoch);
        let epoch = topic.position().epoch;
        self.counters.messages_evicted += recovered.doubles();
        self.restore_message_ids(now, epoch, &found);
        self.recovering.push(recovered.pending());
    }

    /// The ids of messages that were found are those of messages seen.
    fn restore_message_ids(&mut self, now: Now, epoch: u64, found: &RecoveredLog) {
        let target = target(&found.log);
        for message in &found.kept {
            if let (Some(scope), Some(id)) = (&message.meta.scope, &message.id) {
                let key = DedupKey::new(scope.clone(), target.clone(), id.clone());
                let position = LogPosition { epoch, seq: message.seq };
                self.dedup.restore(now.moment, message.meta.since, key, position);
            }
        }
    }

    /// Drops what is too old or too much of what was found, and has the rest read by
    /// subscribers.
    fn end_recovery(&mut self, cx: &mut Cx<'_>) {
        let recovering = std::mem::take(&mut self.recovering);
        for pending in &recovering {
            self.conform(cx, pending.id());
        }
        for pending in recovering {
            self.trim(cx, pending.id());
            self.read_recovered(cx, pending);
        }
    }

    /// The subscribers of a topic read now what was found of it, where it is owed.
    fn read_recovered(&mut self, cx: &mut Cx<'_>, pending: PendingRecovery) {
        let id = pending.id();
        let Some(topic) = self.channels.at(id) else { return };
        let keep = self.settings.log_policy(topic.key()).keep;
        let recipients = topic.subscribers().iter().filter(|subscriber| subscriber.is_recipient());
        let slots: Vec<u32> = recipients.map(Subscriber::slot).collect();
        for slot in slots {
            let Some(connection) = self.connections.existing_at(slot) else { continue };
            let conn = connection.id(slot);
            let Some(topic) = self.channels.existing(id) else { return };
            if pending.place() == RecoveredPlace::Among {
                cx.out.push(gap::new_epoch(conn, topic.name(), topic.position().epoch));
            }
            if let Some(backlog) = topic.backlog_found(slot, keep) {
                self.restart_reading(cx, id, conn, backlog);
            }
        }
        self.refresh_topic(cx.now, id);
    }
}

/// To whom the messages of a log are sent.
fn target(key: &LogKey) -> Target {
    match key {
        LogKey::Channel(channel) => Target::Channel(channel.clone()),
        LogKey::Inbox(user) => Target::User(user.clone()),
    }
}
