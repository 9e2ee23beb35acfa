//! Readers: subscribers that read what is kept of a topic, and how far each has come.

use std::ops::Range;
use std::rc::Rc;

use serde::{Deserialize, Deserializer, Serialize};

use super::entries::{Entries, LogEntry};
use super::gap::Gaps;
use super::position::{LogPosition, SeqRange};
use crate::hub::event::{Effect, Effects, LogKey};
use crate::hub::operation::OperationSummary;
use crate::hub::optional_list::List;
use crate::protocol::frame::GapCause;
use crate::protocol::{Channel, ConnectionId, Frame, Message};
use crate::sort::sort_by;

/// A subscriber that reads what is kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Reader {
    slot: u32,
    tag: u64,
    /// Up to here messages were delivered live, if the socket has taken them, or passed over.
    began: u64,
    /// The last position that was queued for it, or passed over.
    sent: u64,
    /// The last position that its socket has taken.
    written: u64,
    /// How many are queued and not taken.
    in_flight: u32,
    /// The last position there was when the store was asked; none while it is not.
    fetching: Option<u64>,
    /// Once it has caught up, it reads what was passed over for it.
    rereads: bool,
    /// It is a subscriber no longer; only what is on its way counts.
    left: bool,
    /// What was lost in front of it.
    gaps: Gaps,
    /// What is kept for other readers alone, ascending.
    #[serde(default)]
    skipped: Vec<u64>,
    /// What follows the messages up to a position.
    deferred: Vec<Deferred>,
}

/// A frame that waits, and the position behind which it goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Deferred {
    after: u64,
    frame: DeferredFrame,
}

impl Deferred {
    pub(in crate::hub) fn into_frame(self) -> Frame<'static> {
        self.frame.frame()
    }
}

/// A frame that must not overtake the backlog: a client learns of the end of an operation
/// behind its last lines.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::hub) enum DeferredFrame {
    /// The state of an operation.
    Operation(Box<OperationSummary>),
    /// Its channel has ended with it.
    Unsubscribed(Channel),
}

impl DeferredFrame {
    /// Whether nothing that was published before may come after it.
    fn is_last(&self) -> bool {
        matches!(self, Self::Operation(summary) if summary.is_over())
    }

    pub(in crate::hub) fn frame(self) -> Frame<'static> {
        match self {
            Self::Operation(summary) => summary.frame(),
            Self::Unsubscribed(channel) => Frame::Unsubscribed { channel, reason: "ended" },
        }
    }
}

/// What lies before a reader that begins.
#[derive(Default)]
pub(in crate::hub) struct Backlog {
    /// The last position that counts as delivered.
    after: u64,
    gaps: Gaps,
    /// What is kept there for others alone, ascending.
    skipped: Vec<u64>,
}

impl Backlog {
    /// All that is kept after a position.
    pub(in crate::hub) fn new(after: u64) -> Self {
        Self { after, ..Self::default() }
    }

    /// With what is missing there.
    pub(in crate::hub) fn with_gaps(self, gaps: Gaps) -> Self {
        Self { gaps, ..self }
    }

    /// Without what is kept for others alone, ascending.
    pub(in crate::hub) fn skipping(self, skipped: Vec<u64>) -> Self {
        Self { skipped, ..self }
    }

    /// The last position that counts as delivered.
    pub(in crate::hub) fn after(&self) -> u64 {
        self.after
    }

    /// Its first message that a connection is to get.
    pub(super) fn first_for(&self, tag: u64, entries: &Entries) -> Option<u64> {
        let is_for_it = |entry: &&LogEntry| {
            !entry.is_withheld_from(tag) && self.skipped.binary_search(&entry.seq()).is_err()
        };
        entries.after(self.after).find(is_for_it).map(LogEntry::seq)
    }
}

/// A page that the store has read.
pub(super) struct ReplayPage<'a> {
    conn: ConnectionId,
    key: &'a LogKey,
    /// How frames call the topic, and its epoch.
    name: Channel,
    epoch: u64,
    messages: Vec<Rc<Message>>,
    /// Up to where the store has been read.
    last: u64,
}

impl<'a> ReplayPage<'a> {
    /// A page of a topic, for the connection that has asked for it.
    pub(super) fn new(conn: ConnectionId, topic: &'a LogKey, name: Channel, epoch: u64) -> Self {
        Self { conn, key: topic, name, epoch, messages: Vec::new(), last: 0 }
    }

    /// With what was read, up to a position.
    pub(super) fn with_messages(self, messages: Vec<Rc<Message>>, last: u64) -> Self {
        Self { messages, last, ..self }
    }

    pub(super) fn conn(&self) -> ConnectionId {
        self.conn
    }
}

/// What the socket of a reader has taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::hub) enum PageProgress {
    /// Part of a page: one message.
    Message,
    /// The last message of a page.
    Page,
}

/// A reader that has caught up.
pub(in crate::hub) struct CaughtUp {
    began: u64,
    rereads: bool,
    gaps: Gaps,
    deferred: Vec<Deferred>,
}

impl CaughtUp {
    /// Up to where messages were delivered live before it began to read.
    pub(in crate::hub) fn began(&self) -> u64 {
        self.began
    }

    /// Whether it is to read again what was passed over for it.
    pub(in crate::hub) fn rereads(&self) -> bool {
        self.rereads
    }

    pub(in crate::hub) fn has_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Sends what follows the backlog: what is missing at its end, and what waited for it.
    pub(in crate::hub) fn send_rest(
        &mut self,
        conn: ConnectionId,
        position: LogPosition,
        name: &Channel,
        out: &mut Effects,
    ) {
        for gap in self.gaps.iter() {
            out.push(gap.notice(conn, name.clone(), position.epoch));
        }
        for deferred in std::mem::take(&mut self.deferred) {
            out.notify(conn, deferred.into_frame());
        }
    }
}

impl Reader {
    /// One that has everything up to where its backlog begins.
    pub(super) fn new(conn: ConnectionId, backlog: Backlog) -> Self {
        let Backlog { after, gaps, skipped } = backlog;
        Self {
            slot: conn.slot,
            tag: conn.tag,
            began: after,
            sent: after,
            written: after,
            in_flight: 0,
            fetching: None,
            rereads: false,
            left: false,
            gaps,
            skipped,
            deferred: Vec::new(),
        }
    }

    /// The last position that was queued for it, or passed over.
    pub(in crate::hub) fn sent(&self) -> u64 {
        self.sent
    }

    /// What lies before it still.
    pub(in crate::hub) fn backlog(&self) -> Backlog {
        Backlog { after: self.sent, gaps: self.gaps.clone(), skipped: self.skipped.clone() }
    }

    pub(in crate::hub) fn is_fetching(&self) -> bool {
        self.fetching.is_some()
    }

    /// Whether nothing is on its way to it.
    pub(in crate::hub) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.fetching.is_none()
    }

    /// Whether it is a subscriber no longer, and nothing is on its way.
    fn is_over(&self) -> bool {
        self.left && self.is_idle()
    }

    /// Whether `seq` is still to reach it.
    fn wants(&self, seq: u64) -> bool {
        self.written < seq && (!self.left || (self.in_flight > 0 && seq <= self.sent)) && !self.skips(seq)
    }

    /// Whether `seq` is for others alone.
    fn skips(&self, seq: u64) -> bool {
        self.skipped.binary_search(&seq).is_ok()
    }

    /// The store is asked for a page; `last` is the last position there is.
    pub(in crate::hub) fn start_fetch(&mut self, last: u64) {
        self.fetching = Some(last);
    }

    /// The store has answered: the last position there was when it was asked, if the reader
    /// still is a subscriber.
    pub(in crate::hub) fn end_fetch(&mut self) -> Option<u64> {
        self.fetching.take().filter(|_| !self.left)
    }

    /// Puts a frame behind what is published so far, up to `last`, if it would overtake
    /// something of that; whether it does.
    pub(in crate::hub) fn defer(&mut self, last: u64, frame: &DeferredFrame) -> bool {
        let waits = !self.deferred.is_empty() || (frame.is_last() && self.sent < last);
        if waits {
            self.deferred.push(Deferred { after: last, frame: frame.clone() });
        }
        waits
    }

    /// That the channel of an operation has ended is not announced any more.
    pub(in crate::hub) fn forget_end_of(&mut self, channel: &Channel) {
        let is_end =
            |frame: &DeferredFrame| matches!(frame, DeferredFrame::Unsubscribed(ended) if ended == channel);
        self.deferred.retain(|deferred| !is_end(&deferred.frame));
    }

    /// What it was still to read is given up, and what is on its way arrives.
    fn leave(&mut self) -> Vec<Deferred> {
        self.left = true;
        self.gaps.clear();
        std::mem::take(&mut self.deferred)
    }

    /// Once it has caught up, it is to read from `first`, if it began behind that.
    pub(super) fn reread_from(&mut self, first: u64) {
        self.rereads |= self.began >= first;
    }

    /// Queues a page that it has asked for.
    pub(super) fn queue(&mut self, page: ReplayPage<'_>, entries: &Entries, out: &mut Effects) {
        let ReplayPage { conn, key, name, epoch, messages, last } = page;
        for message in messages {
            let Some(seq) = message.seq.filter(|seq| *seq > self.sent) else { continue };
            // What was evicted since the store was asked is in a gap already.
            let Some(entry) = entries.find(seq) else { continue };
            for gap in self.gaps.take_before(seq) {
                out.push(gap.notice(conn, name.clone(), epoch));
            }
            for deferred in self.deferred.extract_if(.., |deferred| deferred.after < seq) {
                out.notify(conn, deferred.into_frame());
            }
            self.sent = seq;
            if entry.is_withheld_from(self.tag) || self.skips(seq) {
                continue;
            }
            self.in_flight += 1;
            out.push(Effect::Replay { message, conn, log: key.clone() });
        }
        self.sent = self.sent.max(last);
        if self.in_flight == 0 {
            self.written = self.sent;
        }
    }

    /// Its socket has taken a message whole.
    fn flushed(&mut self, seq: u64) -> PageProgress {
        self.in_flight -= 1;
        if self.in_flight > 0 {
            self.written = seq;
            return PageProgress::Message;
        }
        // Past what was skipped as well.
        self.written = self.sent;
        PageProgress::Page
    }

    /// Passes over the messages before it that are on the disk, at least one, as lost to it:
    /// from the first to the last of them. They stay for others.
    pub(super) fn pass_over(&mut self, entries: &Entries) -> Option<SeqRange> {
        let mut lost: Option<SeqRange> = None;
        for (passed, entry) in entries.after(self.sent).enumerate() {
            if passed > 0 && !entry.is_stored() {
                break;
            }
            (self.sent, self.written) = (entry.seq(), entry.seq());
            if entry.is_withheld_from(self.tag) || self.skips(entry.seq()) {
                continue;
            }
            self.gaps.add(entry.seq(), GapCause::Evicted, entries);
            SeqRange::extend(&mut lost, entry.seq());
        }
        self.began = self.began.max(self.sent);
        lost
    }
}

/// The readers of one log, by slot: what happens to one is found among very many. Of a
/// connection that is here again, the one that has left comes before the current one.
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

impl Readers {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn insert(&mut self, reader: Reader) {
        let at = self.0.partition_point(|other| other.slot <= reader.slot);
        self.0.insert(at, reader);
    }

    /// The slots of those that are subscribers.
    pub(super) fn slots(&self) -> Vec<u32> {
        self.0.iter().filter(|reader| !reader.left).map(|reader| reader.slot).collect()
    }

    /// Where those of a slot are.
    fn span(&self, slot: u32) -> Range<usize> {
        let from = self.0.partition_point(|reader| reader.slot < slot);
        let theirs = self.0.iter().skip(from).take_while(|reader| reader.slot == slot);
        from..from + theirs.count()
    }

    fn of(&self, slot: u32) -> &[Reader] {
        self.0.get(self.span(slot)).unwrap_or_default()
    }

    fn of_mut(&mut self, slot: u32) -> &mut [Reader] {
        let span = self.span(slot);
        self.0.get_mut(span).unwrap_or_default()
    }

    /// The reader that a subscriber is now.
    pub(super) fn current(&self, slot: u32) -> Option<&Reader> {
        self.of(slot).iter().find(|reader| !reader.left)
    }

    pub(super) fn current_mut(&mut self, slot: u32) -> Option<&mut Reader> {
        self.of_mut(slot).iter_mut().find(|reader| !reader.left)
    }

    /// The reader that waits for the store, of a connection.
    pub(super) fn fetching_mut(&mut self, conn: ConnectionId) -> Option<&mut Reader> {
        self.of_mut(conn.slot).iter_mut().find(|reader| reader.tag == conn.tag && reader.is_fetching())
    }

    /// Whether a connection has begun to read before a position.
    pub(super) fn has_begun_before(&self, conn: ConnectionId, seq: u64) -> bool {
        self.of(conn.slot).iter().any(|reader| reader.tag == conn.tag && reader.began < seq)
    }

    /// The socket of a connection has taken a message that was replayed.
    pub(super) fn flushed(&mut self, conn: ConnectionId, seq: u64) -> Option<PageProgress> {
        let waits = |reader: &&mut Reader| reader.tag == conn.tag && reader.in_flight > 0;
        self.of_mut(conn.slot).iter_mut().find(waits).map(|reader| reader.flushed(seq))
    }

    /// Takes out the reader that a subscriber is, which has caught up.
    pub(super) fn take_current(&mut self, slot: u32) -> Option<CaughtUp> {
        let at = self.span(slot).find(|at| self.0.get(*at).is_some_and(|reader| !reader.left))?;
        let Reader { began, rereads, gaps, deferred, .. } = self.0.remove(at);
        Some(CaughtUp { began, rereads, gaps, deferred })
    }

    /// A subscriber reads no more: what waits for its backlog, if it was a reader.
    pub(super) fn leave(&mut self, slot: u32) -> Option<Vec<Deferred>> {
        let deferred = self.current_mut(slot)?.leave();
        self.drop_over(slot);
        Some(deferred)
    }

    /// Reads anew: what waits for the backlog waits for it as it is read now.
    pub(super) fn take_deferred(&mut self, slot: u32) -> Vec<Deferred> {
        self.current_mut(slot).map(|reader| std::mem::take(&mut reader.deferred)).unwrap_or_default()
    }

    pub(super) fn set_deferred(&mut self, slot: u32, deferred: Vec<Deferred>) {
        if let Some(reader) = self.current_mut(slot) {
            reader.deferred = deferred;
        }
    }

    /// A message is lost in front of those that were to get it.
    pub(super) fn lose(&mut self, seq: u64, cause: GapCause, entries: &Entries) {
        let is_in_front = |reader: &&mut Reader| !reader.left && reader.sent < seq && !reader.skips(seq);
        for reader in self.0.iter_mut().filter(is_in_front) {
            reader.gaps.add(seq, cause, entries);
        }
    }

    /// Drops those of a slot that have nothing on its way any more.
    pub(super) fn drop_over(&mut self, slot: u32) {
        self.drop_of(slot, Reader::is_over);
    }

    /// Drops those of a connection.
    pub(super) fn drop_all_of(&mut self, conn: ConnectionId) {
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

    /// The store will not answer what it was asked.
    pub(super) fn forget_fetches(&mut self) {
        for reader in &mut self.0 {
            reader.fetching = None;
        }
        self.0.retain(|reader| !reader.is_over());
    }

    /// Whether a message is still to reach one of them.
    pub(super) fn want(&self, seq: u64) -> bool {
        self.0.iter().any(|reader| reader.wants(seq))
    }

    /// Up to where all of them have what there is for them.
    pub(super) fn written(&self) -> u64 {
        let waits = |reader: &&Reader| !reader.left || reader.in_flight > 0;
        self.0.iter().filter(waits).map(|reader| reader.written).min().unwrap_or(u64::MAX)
    }
}
