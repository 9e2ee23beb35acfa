//! What outlives all connections, from a clean stop to the next start.
//!
//! Knows positions, receipts that are owed and ids of messages, as bytes. Does
//! not know the messages: those come from the disk, in [`recovery`](super::log::recovery).
//!
//! The bytes are bounded as the hub is: by its ceiling on memory for what has
//! subscribers or keeps something, by a number for what is idle, and for ids.

use super::channel::dedup::DedupWindow;
use super::channel::topic::TopicCheckpoint;
use super::event::Now;
use super::timers::NEVER;
use super::{Hub, Settings, StateError};
use crate::binary_codec;
use crate::binary_codec::{Output, Source};
use crate::protocol::Moment;

/// Raised when a hub could not go on with what an older one left, as that of the whole
/// state is.
const VERSION: u32 = 2;

impl Hub {
    /// What the next hub needs to go on, whoever is connected then. Asked for
    /// after `Input::Stopping`, when nobody is, and after the store has told what it
    /// wrote.
    pub fn remains(&self) -> Vec<u8> {
        binary_codec::collect(|to| {
            let mut output = Output::new(VERSION, to);
            output.add(&self.channels.len());
            for topic in self.channels.iter() {
                output.add(&topic.checkpoint());
            }
            output.add(&self.dedup.of_others());
            output.end()
        })
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
                hub.channels.expect_back(count);
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

    fn take_up(&mut self, now: Now, topic: TopicCheckpoint, shift: i64) {
        let id = self.channels.insert(topic.restore(shift));
        self.settle(now, id);
    }
}

/// The same moment on another clock, as near as that has one.
pub(super) fn shifted(moment: Moment, shift: i64) -> Moment {
    if moment == NEVER { NEVER } else { Moment(moment.0.saturating_add_signed(shift)) }
}
