//! IPC between the daemon and the process that owns the disk: requests and responses.
//!
//! Each is one line of JSON on a socket between the two. To the process that owns the disk a
//! record is a place and two texts, so that the form of messages can change without it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What the daemon requests. Requests are carried out one after the other, and responses
/// come in the same order.
#[derive(Serialize, Deserialize, Debug)]
pub enum StoreRequest<'a> {
    /// Send all that a generation holds: a `Record` for each message, a `Mark` for each
    /// log, a `Gone` for each range of messages, then `Loaded`. What was put once more may
    /// come once more: the last one counts. What is not there holds nothing.
    Load { generation: u32 },
    /// Write all of it, sync it, and respond with `Committed`. The first commit to a
    /// generation makes it. One that fails, or whose response never comes, may be
    /// there in part: whole messages, the first of them first.
    Commit {
        generation: u32,
        #[serde(borrow)]
        puts: Vec<NewRecord<'a>>,
        /// The last state of logs: a new one takes the place of the old.
        #[serde(borrow)]
        marks: Vec<LogHeader<'a>>,
        /// Messages that are kept no longer, here or in older generations.
        #[serde(borrow)]
        gone: Vec<Tombstone<'a>>,
    },
    /// Send the records of a log from one position to another, both included, up
    /// to `count` or `bytes`, at least one if there is one, then `Read`.
    Read { generation: u32, log: Cow<'a, str>, from: u64, to: u64, count: usize, bytes: usize },
    /// Copy so much of a generation's write-ahead log into its database, then
    /// `Checkpointed`.
    Checkpoint { generation: u32, bytes: u64 },
    /// Delete a whole generation, then `Dropped`.
    Drop { generation: u32 },
}

/// A message to be written.
#[derive(Serialize, Deserialize, Debug)]
pub struct NewRecord<'a> {
    pub log: Cow<'a, str>,
    pub seq: u64,
    /// What the daemon has to know of it when it starts.
    #[serde(borrow)]
    pub head: Cow<'a, RawValue>,
    /// What is read only to be replayed.
    #[serde(borrow)]
    pub body: Cow<'a, RawValue>,
}

/// The state of a log, as the daemon encodes it. The log without a name is the
/// store itself.
#[derive(Serialize, Deserialize, Debug)]
pub struct LogHeader<'a> {
    pub log: Cow<'a, str>,
    #[serde(borrow)]
    pub state: Cow<'a, RawValue>,
}

/// A range of messages that are kept no longer, both ends included.
#[derive(Serialize, Deserialize, Debug)]
pub struct Tombstone<'a> {
    pub log: Cow<'a, str>,
    pub from: u64,
    pub to: u64,
}

/// What the process that owns the disk sends.
#[derive(Serialize, Deserialize, Debug)]
pub enum StoreResponse<'a> {
    /// The first response: what is there. Nothing is open yet.
    Ready {
        /// Ascending by number.
        generations: Vec<GenerationSize>,
        room: SpaceReport,
        /// What an administrator should know: what was set aside, and why. It is not among
        /// the generations any more. Before that it is tried again, each time by
        /// another process: three may end in `Failed`, or without a response.
        notes: Vec<String>,
    },
    /// One record; `body` only where it was asked for with `Read`.
    Record {
        log: Cow<'a, str>,
        seq: u64,
        #[serde(borrow)]
        head: Cow<'a, RawValue>,
        #[serde(borrow)]
        body: Option<Cow<'a, RawValue>>,
    },
    Mark(#[serde(borrow)] LogHeader<'a>),
    Gone(#[serde(borrow)] Tombstone<'a>),
    /// All of a generation was sent.
    Loaded {
        /// Records whose checksum is wrong, which are not whole, or which were
        /// committed and are not there.
        damaged: u64,
        notes: Vec<String>,
    },
    /// It is on the disk.
    Committed {
        room: SpaceReport,
    },
    Read {
        damaged: u64,
    },
    /// What was asked for is copied, or all of it, and there is no log any more.
    Checkpointed {
        room: SpaceReport,
        is_done: bool,
    },
    Dropped {
        room: SpaceReport,
    },
    /// The request could not be carried out. The process ends after this: another
    /// one begins anew.
    Failed {
        why: String,
    },
}

/// How much a generation takes on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct GenerationSize {
    pub generation: u32,
    pub bytes: u64,
    /// How long its write-ahead log is.
    pub wal: u64,
    /// It is of a format that is not written to any more.
    pub is_only_read: bool,
}

/// How much room there is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct SpaceReport {
    /// What the whole store takes on the disk, but what was set aside.
    pub used: u64,
    /// What the generation that was written takes.
    pub newest: u64,
    /// How long the write-ahead log of that is.
    #[serde(default)]
    pub wal: u64,
    /// What is free for it, its reserve not counted. A commit is refused where
    /// there is none.
    pub free: u64,
    /// What was written to the disk since the process began.
    pub written: u64,
}
