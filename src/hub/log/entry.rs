//! One kept message as the hub knows it, and what such messages come to.
//!
//! Knows size, age and whereabouts. Does not know what a message says, or who
//! reads it.

use serde::{Deserialize, Serialize};

use super::publisher_quota::Author;
use crate::protocol::Moment;

/// One kept message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct LogEntry {
    pub(in crate::hub) seq: u64,
    pub(in crate::hub) expires: Moment,
    /// When it was kept; told to administrators.
    pub(in crate::hub) since: Moment,
    /// The tag of the connection that published it, which does not count as
    /// somebody who heard it; zero for an HTTP caller.
    pub(in crate::hub) by: u64,
    pub(in crate::hub) size: u32,
    /// Who published it, over whatever connection.
    #[serde(default)]
    pub(in crate::hub) author: Author,
    /// Somebody other than its publisher has it.
    pub(in crate::hub) heard: bool,
    /// Its publisher wants to hear it too.
    pub(in crate::hub) echo: bool,
    /// Workers were told that it waits for a user who is away.
    pub(in crate::hub) told: bool,
    /// Its publisher was promised that it is on the disk, or waits for that: no
    /// other log pushes it out.
    pub(in crate::hub) durable: bool,
    /// It is on the disk.
    pub(in crate::hub) stored: bool,
}

/// What the entry of a message takes that is on the disk. Of one that is not it
/// is in the size.
pub(in crate::hub) const ENTRY: usize = 64;

const _: () = assert!(size_of::<LogEntry>() <= ENTRY, "an entry is as large as it is counted");

/// What the kept messages of one log come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct Totals {
    /// Bytes of all of them.
    pub(in crate::hub) bytes: usize,
    /// Of those which only the memory has, and which may be given up.
    pub(in crate::hub) loose: usize,
    /// Of those which only the memory has, and whose publisher waits for the disk.
    pub(in crate::hub) promised: usize,
    /// How many are on the disk.
    pub(in crate::hub) stored: usize,
}

impl Totals {
    pub(in crate::hub) fn add(&mut self, kept: &LogEntry) {
        self.bytes += kept.size as usize;
        *self.place_of(kept) += Self::counted(kept);
    }

    pub(in crate::hub) fn take(&mut self, kept: &LogEntry) {
        self.bytes -= kept.size as usize;
        *self.place_of(kept) -= Self::counted(kept);
    }

    fn place_of(&mut self, kept: &LogEntry) -> &mut usize {
        match kept {
            LogEntry { stored: true, .. } => &mut self.stored,
            LogEntry { durable: true, .. } => &mut self.promised,
            _ => &mut self.loose,
        }
    }

    fn counted(kept: &LogEntry) -> usize {
        if kept.stored { 1 } else { kept.size as usize }
    }
}
