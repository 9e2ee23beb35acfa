//! Checkpoint: positions, receipts that are owed and ids of messages, from a clean stop to the
//! next start.
//!
//! The messages themselves come from the disk, in [`recovery`](super::log::recovery).
//!
//! The bytes are bounded as the hub is: by its ceiling on memory for what has
//! subscribers or keeps something, by a number for what is idle, and for ids.

use super::StateError;
use super::channel::dedup::DedupWindow;
use super::channel::topic::{Topic, TopicCheckpoint};
use super::channel::topics::Topics;
use super::timers::NEVER;
use crate::binary_codec;
use crate::binary_codec::{Output, Source};
use crate::protocol::Moment;

/// Raised when a hub could not go on with the checkpoint of an older one, as that of the whole
/// state is.
const VERSION: u32 = 2;

/// A checkpoint that is read topic by topic.
pub(super) struct CheckpointReader<'a> {
    from: Source<'a>,
    /// How many topics are still to be read.
    left: usize,
    shift: i64,
}

/// Writes what the next hub needs to go on, whichever connections it has then.
pub(super) fn write(topics: &Topics, dedup: &DedupWindow) -> Vec<u8> {
    binary_codec::collect(|to| {
        let mut output = Output::new(VERSION, to);
        output.add(&topics.len());
        for topic in topics.iter() {
            output.add(&topic.to_checkpoint());
        }
        output.add(&dedup.of_others());
        output.end()
    })
}

impl<'a> CheckpointReader<'a> {
    /// Begins to read. `shift` is added to every moment: another boot has another clock.
    pub(super) fn open(mut from: Source<'a>, shift: i64) -> Result<Self, StateError> {
        match from.version()? {
            VERSION => Ok(Self { left: from.next()?, from, shift }),
            found => Err(StateError::Version { found, known: VERSION }),
        }
    }

    /// How many topics are still to be read, as the checkpoint says.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    pub(super) fn next_topic(&mut self) -> Result<Option<Topic>, StateError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        Ok(Some(self.from.next::<TopicCheckpoint>()?.restore(self.shift)))
    }

    /// Reads what stands behind the topics.
    pub(super) fn finish(mut self) -> Result<DedupWindow, StateError> {
        let dedup = self.from.next::<DedupWindow>()?.shifted(self.shift);
        self.from.end()?;
        Ok(dedup)
    }
}

/// The same moment on another clock, as near as that has one.
pub(super) fn shifted(moment: Moment, shift: i64) -> Moment {
    if moment == NEVER { NEVER } else { Moment(moment.0.saturating_add_signed(shift)) }
}
