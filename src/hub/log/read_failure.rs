//! What is kept on a disk that cannot be read.
//!
//! Knows what was passed over for whom, and when it is read after all. Does not
//! know how it is read; that is in [`replay`](super::replay).
//!
//! Live traffic goes on for who waits for such a page: it is told of a gap, and
//! what it did not get stays for whoever reads later. The cursor of an inbox waits
//! for that.

use super::cursor::{Backlog, Reader, join};
use super::{Log, SeqRange};
use crate::hub::Hub;
use crate::hub::channel::topics::DeliveryMode;
use crate::hub::event::{Cx, LogKey};
use crate::protocol::ConnectionId;
use crate::protocol::frame::GapCause;

impl Hub {
    /// The page that a reader asked for cannot be read.
    pub(in crate::hub) fn unread(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, key: &LogKey) {
        let Some(connection) = self.connections.get(conn) else { return };
        let full = connection.is_full();
        let Some(place) = self.channels.find(key) else { return };
        let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) else { return };
        let Some(reader) = log.readers.of_mut(conn.slot).iter_mut().find(|reader| reader.asks(conn)) else {
            return;
        };
        reader.asked = None;
        if reader.left || full {
            log.drop_over(conn.slot);
            self.sweep(cx, place);
            return;
        }
        let passed = log.pass_over(conn.slot);
        if let (LogKey::Inbox(_), Some((first, last))) = (key, passed) {
            let (before, after) = log.unread().unwrap_or((first, last));
            log.set_unread(Some((before.min(first), after.max(last))));
        }
        self.advance_all(cx, place);
        self.settle(cx.now, place);
    }

    /// Has those who hear an inbox read from what was passed over for them. What
    /// they had already comes twice, as it may there.
    pub(in crate::hub) fn read_again(&mut self, cx: &mut Cx<'_>) {
        for place in self.channels.with(|log| log.unread().is_some()) {
            let Some(topic) = self.channels.at_mut(place) else { continue };
            let slots: Vec<u32> = topic.subscribers.iter().map(|subscriber| subscriber.slot).collect();
            for slot in slots {
                self.begin_again(cx, place, slot);
            }
            self.settle(cx.now, place);
        }
    }

    /// Who still reads what lies behind that begins again when it is through.
    fn begin_again(&mut self, cx: &mut Cx<'_>, place: u32, slot: u32) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(hearing) = topic.subscriber_mut(slot).map(|subscriber| subscriber.hearing) else { return };
        let Some(log) = &mut topic.log else { return };
        let Some(first) = log.first_unread() else {
            log.set_unread(None);
            return;
        };
        match (hearing, log.reader_mut(slot)) {
            (DeliveryMode::Live, _) => {
                self.read_from(place, slot, Backlog::after(first - 1));
                self.advance(cx, place, slot);
            }
            (_, Some(reader)) => reader.again |= reader.began >= first,
            _ => {}
        }
    }

    /// A connection has read an inbox to its end, and is to hear what was passed
    /// over before.
    pub(in crate::hub) fn is_through(&mut self, cx: &mut Cx<'_>, place: u32, reader: &Reader) {
        if reader.again {
            self.begin_again(cx, place, reader.slot);
        }
    }

    /// A reader's socket has taken a message of an inbox, and so what was passed
    /// over for another.
    pub(in crate::hub) fn has_read(&mut self, place: u32, conn: ConnectionId, seq: u64) {
        let Some(log) = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut()) else { return };
        let Some((first, last)) = log.unread().filter(|(first, _)| *first <= seq) else { return };
        let reads = |reader: &Reader| reader.tag == conn.tag && reader.began < first;
        if log.readers.of(conn.slot).iter().any(reads) {
            log.set_unread((seq < last).then_some((seq + 1, last)));
        }
    }
}

impl Log {
    /// Passes the messages over that lie before a reader on the disk, at least one,
    /// and notes that they are lost to it: between which two. They stay for others.
    pub(in crate::hub) fn pass_over(&mut self, slot: u32) -> Option<SeqRange> {
        let reader = self.readers.of_mut(slot).iter_mut().find(|reader| !reader.left)?;
        let from = self.kept.partition_point(|kept| kept.seq <= reader.sent);
        let mut lost: Option<SeqRange> = None;
        for (passed, kept) in self.kept.range(from..).enumerate() {
            if passed > 0 && !kept.stored {
                break;
            }
            (reader.sent, reader.written) = (kept.seq, kept.seq);
            if (kept.by == reader.tag && !kept.echo) || reader.passes_over(kept.seq) {
                continue;
            }
            let at = reader.note_lost(kept.seq, GapCause::Evicted);
            join(&mut reader.holes, at + 1, &self.kept);
            join(&mut reader.holes, at, &self.kept);
            lost = Some((lost.map_or(kept.seq, |(first, _)| first), kept.seq));
        }
        reader.began = reader.began.max(reader.sent);
        lost
    }

    /// The first message that was passed over and not read since.
    pub(in crate::hub) fn first_unread(&self) -> Option<u64> {
        let (first, last) = self.unread()?;
        self.first_after(first - 1).map(|kept| kept.seq).filter(|seq| *seq <= last)
    }

    /// Whether a message may be among those that were passed over.
    pub(in crate::hub) fn is_unread(&self, seq: u64) -> bool {
        self.unread().is_some_and(|(first, last)| (first..=last).contains(&seq))
    }
}
