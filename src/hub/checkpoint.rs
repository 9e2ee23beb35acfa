//! What outlives all connections, from a clean stop to the next start.
//!
//! Knows positions, receipts that are owed and ids of messages, as bytes. Does
//! not know the messages: those come from the disk, in [`recovery`](super::log::recovery).
//!
//! The bytes are bounded as the hub is: by its ceiling on memory for what has
//! subscribers or keeps something, by a number for what is idle, and for ids.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::channel::dedup::DedupWindow;
use super::channel::receipts::Owed;
use super::channel::topics::Topic;
use super::event::{LogKey, Now};
use super::log::provisional_seq::ProvisionalRange;
use super::timers::NEVER;
use super::{Hub, Settings, StateError};
use crate::binary_codec;
use crate::binary_codec::{Output, Source};
use crate::protocol::Moment;
use crate::protocol::frame::GapCause;

/// Raised when a hub could not go on with what an older one left, as that of the whole
/// state is.
const VERSION: u32 = 2;

/// What is left of one topic.
#[derive(Serialize, Deserialize)]
struct Position {
    key: LogKey,
    epoch: u64,
    seq: u64,
    cursor: u64,
    offered: u64,
    last_loss: GapCause,
    jump: Option<ProvisionalRange>,
    receipts: Vec<Owed>,
}

impl Hub {
    /// What the next hub needs to go on, whoever is connected then. Asked for
    /// after `Input::Stopping`, when nobody is, and after the store has told what it
    /// wrote.
    pub fn remains(&self) -> Vec<u8> {
        binary_codec::collect(|to| {
            let mut output = Output::new(VERSION, to);
            output.add(&self.channels.iter().count());
            for topic in self.channels.iter() {
                output.add(&self.position(topic));
            }
            output.add(&self.dedup.of_others());
            output.end()
        })
    }

    fn position(&self, topic: &Topic) -> Position {
        let log = topic.log.as_deref();
        // What no disk has is lost with this process.
        let loses = log.is_some_and(|log| log.kept.iter().any(|kept| !kept.stored));
        let receipts = log.map(|log| log.receipts.iter().filter(|owed| !owed.is_for_worker()));
        Position {
            key: topic.key.clone(),
            epoch: topic.epoch,
            seq: topic.seq,
            cursor: topic.cursor,
            offered: topic.offered,
            last_loss: if loses { GapCause::NotKept } else { topic.last_loss },
            jump: topic.jump.as_deref().copied(),
            receipts: receipts.into_iter().flatten().cloned().collect(),
        }
    }

    /// A hub that goes on where another one stopped. `shift` is added to every
    /// moment that the other one wrote: another boot has another clock. A topic
    /// that nobody needs is idle from now on, however long the stop was: whoever
    /// heard it needs time to come back.
    ///
    /// # Errors
    /// When the bytes are no remains, or those of another version: then a hub
    /// starts as after an unclean end.
    pub fn revive(
        settings: Settings,
        seed: u64,
        now: Now,
        mut remains: &[u8],
        shift: i64,
    ) -> Result<Self, StateError> {
        let mut hub = Self::new(settings, seed);
        let mut from = Source::new(&mut remains);
        match from.version()? {
            VERSION => {
                let count: usize = from.next()?;
                hub.expect_back(count);
                for _ in 0..count {
                    hub.take_up(now, from.next()?, shift);
                }
                hub.dedup = from.next::<DedupWindow>()?.shifted(shift);
                from.end()?;
            }
            found => return Err(StateError::Version { found, known: VERSION }),
        }
        Ok(hub)
    }

    /// So many topics were heard or kept something when the last hub stopped.
    fn expect_back(&mut self, count: usize) {
        // A file that says more than can be has no bytes for it either.
        const MOST: usize = 1 << 20;
        self.channels.reserve(count.min(MOST));
        self.channels.returning = count;
    }

    fn take_up(&mut self, now: Now, position: Position, shift: i64) {
        let place = self.channels.insert(position.revive(shift));
        self.settle(now, place);
    }
}

impl Position {
    fn revive(mut self, shift: i64) -> Topic {
        let mut topic = Topic::new(self.key, self.epoch);
        topic.seq = self.seq;
        topic.cursor = self.cursor;
        topic.offered = self.offered;
        topic.last_loss = self.last_loss;
        topic.jump = self.jump.map(|jump| Box::new(ProvisionalRange { reach: self.seq, ..jump }));
        if !self.receipts.is_empty() {
            for owed in &mut self.receipts {
                owed.expires = shifted(owed.expires, shift);
            }
            topic.log.get_or_insert_default().receipts = VecDeque::from(self.receipts).into();
        }
        topic
    }
}

/// The same moment on another clock, as near as that has one.
pub(super) fn shifted(moment: Moment, shift: i64) -> Moment {
    if moment == NEVER { NEVER } else { Moment(moment.0.saturating_add_signed(shift)) }
}
