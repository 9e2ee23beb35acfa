//! The whole contract of the hub on one page: facts in, orders out.
//!
//! Knows what can happen and what can be ordered. Does not know why one leads
//! to the other.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::channel::dedup::Scope;
use super::connection::rights::Identity;
use super::memory_pressure::Level;
use super::settings::{Settings, WriteThrough};
use crate::protocol::worker::InterruptLine;
use crate::protocol::{
    Channel, Close, ConnectionId, Delivery, Frame, HubRequest, InboxMode, MalformedRequest, Message,
    MessageId, Moment, OperationId, Reason, Refusal, RequestEnvelope, RequestId, RevocationTarget, UnixTime,
    UserId,
};

/// What time it is, told with every fact.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// For deadlines.
    pub moment: Moment,
    /// For what is shown and for what must survive a reboot.
    pub wall: UnixTime,
}

/// Something that happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// A link is up; for a client, the upgrade is done.
    Opened { conn: ConnectionId, peer: Peer },
    /// An `auth` request's token was looked at.
    TokenChecked {
        conn: ConnectionId,
        id: Option<RequestId>,
        inbox: Option<InboxMode>,
        claim: Result<Identity, TokenFault>,
    },
    /// A well-formed request.
    Request { from: Requester, request: RequestEnvelope<HubRequest> },
    /// A request that could not be read.
    Malformed { from: Requester, request: MalformedRequest },
    /// A revocation that was ordered is on the disk and counts since then, or it could not
    /// be written and does not.
    RevocationSaved {
        from: Requester,
        id: Option<RequestId>,
        revoked: RevocationTarget,
        outcome: Result<UnixTime, Refusal>,
    },
    /// A connection came with a token that is revoked.
    TokenRevoked { conn: ConnectionId },
    /// A sign of life that says nothing: part of a message, or so many pings and pongs.
    KeepAlive { conn: ConnectionId, controls: u32 },
    /// What the link still owes its peer has changed its kind.
    SendQueue { conn: ConnectionId, state: SendQueueState },
    /// The peer, which has something queued, took some of it. Told at most once
    /// a second.
    WriteProgress { conn: ConnectionId },
    /// The kernel has taken the whole frame of a message that waits for that.
    Flushed { conn: ConnectionId, log: LogKey, seq: u64, how: Delivery },
    /// What the store has of a log after a position, oldest first; empty when
    /// there is nothing more.
    Fetched { fetch: FetchPurpose, log: LogKey, messages: Vec<Rc<Message>> },
    /// The store has something to tell of the disk.
    Store(StoreEvent),
    /// A worker says no more, and still reads: it has shut one direction of its socket.
    ReadClosed { conn: ConnectionId },
    /// The link is down; nothing of its queue will arrive any more.
    Closed { conn: ConnectionId },
    /// What the links hold in bytes, and, where the hub asks for that, how much
    /// would be free without each of those that hold something of their own. Whether
    /// somebody who has said who it is waits to be let in.
    Memory { links: u64, holders: Vec<(ConnectionId, u64)>, is_waited_for: bool },
    /// All places are taken, and somebody waits for one.
    NoCapacity,
    /// The edge has turned somebody away by itself.
    Rejected(Rejection),
    /// The moment that `Hub::deadline` named has come.
    Timeout,
    /// An administrator has changed the settings.
    Reconfigured { settings: Box<Settings> },
    /// The daemon ends, or starts again.
    Stopping { close: Close },
}

/// What a store tells unasked.
#[derive(Clone, PartialEq, Debug)]
pub enum StoreEvent {
    /// Messages of a log are on the disk now, both ends included.
    Stored { log: LogKey, from: u64, to: u64 },
    /// A message whose publisher waits for the disk is not there. It is tried
    /// again as long as it is kept.
    NotStored { log: LogKey, seq: u64 },
    /// The disk cannot be used: nothing can be written or read. Told first of all,
    /// but for what was reached, it means that nobody knows what is there: numbers
    /// begin apart until it is found.
    Failed,
    /// It can be used again. What was not told yet of what is there was told before
    /// this.
    Recovered,
    /// So much may be kept, as messages count: more the disk would not take. None, where
    /// too little is there to tell.
    Capacity { bytes: Option<u64> },
    /// Whether half of what may be written to the flash in a day is spent.
    WriteBudget { is_scarce: bool },
    /// What is asked for is on a disk that cannot be read.
    ReadFailed { fetch: FetchPurpose, log: LogKey },
    /// How far a log had come when the process before this one was killed. Told
    /// before anything else.
    LastSeq { log: LogKey, epoch: u64, seq: u64 },
    /// What a log has on the disk, told when the disk is first read: before
    /// anybody is let in, or later, if it could not be read then.
    RecoveredLog(Box<RecoveredLog>),
}

/// What is on the disk of one log.
#[derive(Clone, PartialEq, Debug)]
pub struct RecoveredLog {
    pub log: LogKey,
    /// Of an inbox, the last position that its user has.
    pub cursor: u64,
    /// The highest position that the disk knows of.
    pub last: u64,
    /// Ascending by position.
    pub kept: Vec<RecoveredMessage>,
}

/// One message on the disk.
#[derive(Clone, PartialEq, Debug)]
pub struct RecoveredMessage {
    pub seq: u64,
    pub meta: EntryMeta,
    /// As its publisher gave it; goes with the scope in `keeping`.
    pub id: Option<MessageId>,
}

/// What is to be known of a kept message beside what it says, by a hub that
/// starts anew too.
#[derive(Clone, PartialEq, Debug)]
pub struct EntryMeta {
    pub expires: Moment,
    /// When it was kept.
    pub since: Moment,
    /// What it counts against the limits on bytes.
    pub size: u32,
    /// Somebody other than its publisher has it.
    pub delivered: bool,
    /// Its publisher was promised that it is on the disk, or waits for that.
    pub durable: bool,
    /// When it goes to the disk.
    pub disk: WriteThrough,
    /// Where its publisher gave it an id: among whose messages that is unique.
    pub scope: Option<Scope>,
}

/// Whom the edge turns away before the hub hears of them, or without asking it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejection {
    /// A request for a WebSocket, for which there is no room.
    NoCapacity,
    /// Somebody who came and asked nothing, or not in time.
    HandshakeTimeout,
    /// Who presented a wrong secret or token.
    WrongSecret,
    /// A request over HTTP whose body was no JSON, too long, or not there in time.
    BadHttpBody,
    /// A peer that broke the protocol of the wire, or its limit on sizes.
    ProtocolViolation,
    /// Anybody at a door, for this reason.
    Refused(Reason),
}

/// Who asks, and is answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Requester {
    /// A WebSocket client or a worker.
    Connection(ConnectionId),
    /// One HTTP request, by a number of its own. Its secret was verified.
    Http(u64),
}

/// What is at the other end of a new link.
#[derive(Clone, PartialEq, Debug)]
pub enum Peer {
    /// A WebSocket client, and the network from which those without a name ask together;
    /// none for this machine.
    Client { credentials: Credentials, inbox: InboxMode, network: Option<u128> },
    /// A local process. Who may connect at all was decided before.
    Worker { uid: u32, admin: bool },
}

/// What a client's upgrade request said about who it is.
#[derive(Clone, PartialEq, Debug)]
pub enum Credentials {
    /// Nothing.
    Nothing,
    /// A token, and it holds.
    Verified(Identity),
    /// A token that does not hold, from a client that cannot see a 401.
    Refused(TokenFault),
}

/// What is wrong with a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenFault {
    /// `token_invalid`, `token_expired`, `token_not_yet` or `token_revoked`.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// What is counted.
    pub reason: Reason,
    /// How long its bearer, who has brought such before, is asked to stay away.
    pub wait: Duration,
}

/// How much a link still owes its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum SendQueueState {
    /// Nothing: the kernel has it all.
    #[default]
    Empty,
    /// Something waits for the kernel, within the limits.
    Backlogged,
    /// As much as may wait; messages to it are shed, answers are not.
    Full,
}

/// Whose log it is. An inbox is no channel that somebody could spell.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum LogKey {
    Channel(Channel),
    Inbox(UserId),
}

/// What a log is read for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FetchPurpose {
    /// To replay it to a connection.
    Replay(ConnectionId),
    /// To tell workers what nobody heard.
    Notice(DeliveryOutcome),
}

/// What became of a message that did not reach its user, or anybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryOutcome {
    /// It waits for a user who is away.
    Kept,
    /// It grew too old.
    Expired,
    /// Newer ones pushed it out.
    Evicted,
}

/// Places in the table of connections, beside the effects.
pub type Recipients = Range<u32>;

/// Something to be done. All are carried out in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Queue a message for many; what is full was left out already. With a log,
    /// tell when each kernel has taken it.
    Deliver { message: Rc<Message>, to: Recipients, log: Option<LogKey> },
    /// Queue a kept message for one, and tell when the kernel has taken it.
    Replay { message: Rc<Message>, conn: ConnectionId, log: LogKey },
    /// Queue a frame for many; never shed.
    Broadcast { frame: Box<Frame<'static>>, to: Recipients },
    /// Answer a request, or greet; never shed.
    Reply { to: Requester, id: Option<RequestId>, frame: Box<Frame<'static>> },
    /// Refuse a request; never shed.
    Refuse { to: Requester, id: Option<RequestId>, refusal: Box<Refusal> },
    /// Make the latch between an operation and the worker that owns it, and confirm the
    /// request that has started it, where that has an id. As long as the confirmation
    /// waits, an interrupt goes directly behind it: many a worker throws away what it
    /// hears before.
    Latch { operation: OperationId, worker: ConnectionId, id: Option<RequestId> },
    /// Pull it: ahead of everything else that is queued for the worker.
    Interrupt { line: Box<InterruptLine> },
    /// Drop it: the operation is over.
    Unlatch { operation: OperationId },
    /// Take such tokens no longer, and note that on the disk; answered by
    /// `Input::Revoked`.
    Revoke { to: Requester, id: Option<RequestId>, revoked: RevocationTarget },
    /// Ask the peer for a sign of life.
    Ping { conn: ConnectionId },
    /// Say goodbye after what is queued, and close. `after_ms` tells when to
    /// come back, where the code says to.
    Close { conn: ConnectionId, close: Close, after_ms: u64 },
    /// Close without a goodbye, once all that is queued has left: the peer has ended, and
    /// has its answers.
    HangUp { conn: ConnectionId },
    /// Keep a message; its `seq` is its place.
    Append { log: LogKey, message: Rc<Message>, meta: Box<EntryMeta> },
    /// Write a kept message at once, whatever was said when it was kept: somebody
    /// waits for that now. Answered by `Stored` or `NotStored`, also where it is on
    /// the disk already, or is here no longer.
    SyncNow { log: LogKey, seq: u64 },
    /// Read no more from a connection until `ResumeReading`, and leave unsaid what was read of
    /// it: as many of its messages wait for the disk as may.
    PauseReading { conn: ConnectionId },
    /// Go on with what was left unsaid, and read again.
    ResumeReading { conn: ConnectionId },
    /// Note, before anybody hears of it, how far a log has come: if the process is
    /// killed its numbers go on from there.
    PersistSeq { log: LogKey, epoch: u64, seq: u64 },
    /// Read from a log what lies after `after`, up to `count` messages or
    /// `bytes`, at least one if there is one; answered by `Input::Fetched`.
    Fetch { fetch: FetchPurpose, log: LogKey, after: u64, count: usize, bytes: usize },
    /// Drop messages of a log, both ends included.
    Truncate { log: LogKey, from: u64, to: u64 },
    /// A connection is gone: whose it was, how long it lasted, and why it ended where that
    /// was the hub's decision.
    LogDisconnect { conn: ConnectionId, user: Option<UserId>, lasted: Duration, close: Option<Close> },
    /// Say in the log what is out of the ordinary.
    LogAnomaly(Anomaly),
}

/// What is worth a line in the log: the closed list of all that is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Anomaly {
    /// A connection was closed because its peer took nothing.
    Stalled { conn: ConnectionId, user: Option<UserId> },
    /// A connection was closed for mistakes or for asking too much.
    Misbehaved { conn: ConnectionId, user: Option<UserId>, close: Close },
    /// A connection was refused once it was there, for a reason that is counted.
    Refused { conn: ConnectionId, user: Option<UserId>, reason: Reason },
    /// A worker went away with operations running.
    OwnerLost { operation: OperationId, channel: Channel },
    /// An operation did not end in time.
    Overran { operation: OperationId, channel: Channel },
    /// All logs together are at their limit: older messages gave way, or a new one was
    /// not kept.
    KeptLimit { is_newcomer_lost: bool },
    /// What is held for peers, in bytes, comes near the ceiling.
    Memory { level: Level, held: u64, ceiling: u64 },
    /// A connection was closed because it held so many bytes.
    Overloaded { conn: ConnectionId, user: Option<UserId>, held: u64 },
}

/// So many orders or recipients are more than almost any input has.
const USUAL: usize = 4096;

/// Orders, and the recipients that they point to. Owned by the caller and used
/// again for every input.
#[derive(Default, Debug)]
pub struct Effects {
    /// In the order in which they are to be carried out.
    pub list: Vec<Effect>,
    /// Slots of connections, for [`Effect::Deliver`] and [`Effect::Broadcast`].
    pub recipients: Vec<u32>,
}

impl Effects {
    /// Forgets what was ordered, and keeps the memory of a usual input.
    pub fn clear(&mut self) {
        self.list.clear();
        self.recipients.clear();
        // Cut short it would stay where it is, above all that is free by then.
        if self.list.capacity() > USUAL {
            self.list = Vec::new();
        }
        if self.recipients.capacity() > USUAL {
            self.recipients = Vec::new();
        }
    }

    /// Adds one order.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// The recipients noted since there were `start` of them.
    pub(super) fn noted(&self, start: usize) -> Recipients {
        start as u32..self.recipients.len() as u32
    }

    /// The slots that a range stands for.
    pub fn slots(&self, to: &Recipients) -> &[u32] {
        self.recipients.get(to.start as usize..to.end as usize).unwrap_or_default()
    }
}
