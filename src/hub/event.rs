//! Inputs and effects: the whole contract of the hub on one page.
//!
//! An input is a fact, something that happened; an effect is an order, something to be done.

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

/// What time it is; comes with every input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// For deadlines.
    pub moment: Moment,
    /// For what is shown and for what must survive a reboot.
    pub wall: UnixTime,
}

/// What one input is handled with: the time that came with it, and where its effects go.
pub(super) struct Cx<'a> {
    pub(super) now: Now,
    pub(super) out: &'a mut Effects,
}

/// Something that happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// A connection is open; for a client, the upgrade is done.
    Opened { conn: ConnectionId, peer: Peer },
    /// The token of an `auth` request was checked.
    TokenChecked {
        conn: ConnectionId,
        id: Option<RequestId>,
        inbox: Option<InboxMode>,
        claim: Result<Identity, TokenFault>,
    },
    /// A well-formed request.
    Request { from: Requester, request: RequestEnvelope<HubRequest> },
    /// A request that cannot be parsed.
    Malformed { from: Requester, request: MalformedRequest },
    /// A revocation that was ordered is on the disk and counts since then, or it could not
    /// be written and does not.
    RevocationSaved {
        from: Requester,
        id: Option<RequestId>,
        revoked: RevocationTarget,
        outcome: Result<UnixTime, Refusal>,
    },
    /// The token of a connection is revoked.
    TokenRevoked { conn: ConnectionId },
    /// Activity without a request: part of a message, or so many pings and pongs.
    KeepAlive { conn: ConnectionId, controls: u32 },
    /// The send queue of a connection is in another state.
    SendQueue { conn: ConnectionId, state: SendQueueState },
    /// The peer, for which something is queued, accepted some of it. Reported at most once
    /// a second.
    WriteProgress { conn: ConnectionId },
    /// The kernel has taken the whole frame of a message that waits for that.
    Flushed { conn: ConnectionId, log: LogKey, seq: u64, how: Delivery },
    /// What the store has of a log after a position, oldest first; empty when
    /// there is nothing more.
    Fetched { fetch: FetchPurpose, log: LogKey, messages: Vec<Rc<Message>> },
    /// The store reports something about the disk.
    Store(StoreEvent),
    /// A worker sends no more, and still reads: it has shut one direction of its socket.
    ReadClosed { conn: ConnectionId },
    /// A connection is closed; nothing of its send queue will arrive any more.
    Closed { conn: ConnectionId },
    /// What the sockets hold in bytes, and, where the hub asks for that, how much would be free
    /// without each of those that hold something of their own. Whether an authenticated client
    /// waits to be admitted.
    Memory { links: u64, holders: Vec<(ConnectionId, u64)>, is_waited_for: bool },
    /// All slots are taken, and a client waits for one.
    NoCapacity,
    /// The edge has rejected a peer or a request by itself.
    Rejected(Rejection),
    /// The moment that `Hub::deadline` named has come.
    Timeout,
    /// An administrator has changed the settings.
    Reconfigured { settings: Box<Settings> },
    /// The daemon stops, or restarts.
    Stopping { close: Close },
}

/// What a store reports unasked.
#[derive(Clone, PartialEq, Debug)]
pub enum StoreEvent {
    /// Messages of a log are on the disk now, both ends included.
    Stored { log: LogKey, from: u64, to: u64 },
    /// A message whose publisher waits for the disk is not there. It is tried
    /// again as long as it is kept.
    NotStored { log: LogKey, seq: u64 },
    /// The disk cannot be used: nothing can be written or read. As the first input of all but
    /// `LastSeq`, it means that it is not known what is there: positions are provisional until
    /// it is recovered.
    Failed,
    /// It can be used again. What is there was reported before this.
    Recovered,
    /// So much may be kept, as messages count: more the disk would not take. None, where
    /// there is too little to estimate it.
    Capacity { bytes: Option<u64> },
    /// Whether half of what may be written to the flash in a day is spent.
    WriteBudget { is_scarce: bool },
    /// What is asked for is on a disk that cannot be read.
    ReadFailed { fetch: FetchPurpose, log: LogKey },
    /// How far a log had come when the process before this one was killed. Reported
    /// before anything else.
    LastSeq { log: LogKey, epoch: u64, seq: u64 },
    /// What a log has on the disk, reported when the disk is first read: before any
    /// connection is accepted, or later, if it could not be read then.
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
    /// As its publisher gave it; goes with the scope in `meta`.
    pub id: Option<MessageId>,
}

/// Metadata of a kept message, as a hub that starts anew needs it too.
#[derive(Clone, PartialEq, Debug)]
pub struct EntryMeta {
    pub expires: Moment,
    /// When it was kept.
    pub since: Moment,
    /// What it counts against the limits on bytes.
    pub size: u32,
    /// A client other than its publisher has it.
    pub delivered: bool,
    /// Its publisher was promised that it is on the disk, or waits for that.
    pub durable: bool,
    /// When it goes to the disk.
    pub disk: WriteThrough,
    /// Where its publisher gave it an id: among whose messages that is unique.
    pub scope: Option<Scope>,
}

/// What the edge rejects before the hub gets to know of it, or without asking it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejection {
    /// A request for a WebSocket, for which there is no room.
    NoCapacity,
    /// A peer that connected and requested nothing, or not in time.
    HandshakeTimeout,
    /// A wrong secret or token.
    WrongSecret,
    /// A request over HTTP whose body was no JSON, too long, or not there in time.
    BadHttpBody,
    /// A peer that violated the wire protocol, or its limit on sizes.
    ProtocolViolation,
    /// A peer at any listener, for this reason.
    Refused(Reason),
}

/// The sender of a request, to which the answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Requester {
    /// A WebSocket client or a worker.
    Connection(ConnectionId),
    /// One HTTP request, by a number of its own. Its secret was verified.
    Http(u64),
}

impl Requester {
    /// The connection that the request came over, if it came over one.
    pub fn connection(self) -> Option<ConnectionId> {
        match self {
            Self::Connection(conn) => Some(conn),
            Self::Http(_) => None,
        }
    }
}

/// What is at the other end of a new connection.
#[derive(Clone, PartialEq, Debug)]
pub enum Peer {
    /// A WebSocket client, and the network from which those without a user share their limits;
    /// none for this machine.
    Client { credentials: Credentials, inbox: InboxMode, network: Option<u128> },
    /// A local process. Whether it may connect at all was decided before.
    Worker { uid: u32, admin: bool },
}

/// The credentials in the upgrade request of a client.
#[derive(Clone, PartialEq, Debug)]
pub enum Credentials {
    Nothing,
    /// A token, and it is valid.
    Verified(Identity),
    /// A token that is not, from a client that cannot see a 401.
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
    /// How long its client, which has sent such before, is asked to wait.
    pub wait: Duration,
}

/// How much is queued for a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum SendQueueState {
    /// Nothing: the kernel has it all.
    #[default]
    Empty,
    /// Something is queued, within the limits.
    Backlogged,
    /// As much as may be queued; messages to it are shed, answers are not.
    Full,
}

/// The channel or user of a log. An inbox is no channel that a client could name.
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
    /// To notify workers of what reached nobody.
    Notice(DeliveryOutcome),
}

/// What became of a message that did not reach its user, or any subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryOutcome {
    /// It waits for a user who is away.
    Kept,
    /// It is past its expiry.
    Expired,
    /// Newer ones pushed it out.
    Evicted,
}

/// Places in the table of connections, beside the effects.
pub type Recipients = Range<u32>;

/// Something to be done. All are carried out in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Queue a message for many; full queues were left out already. With a log,
    /// report when the kernel has taken it for each.
    Deliver { message: Rc<Message>, to: Recipients, log: Option<LogKey> },
    /// Queue a kept message for one, and report when the kernel has taken it.
    Replay { message: Rc<Message>, conn: ConnectionId, log: LogKey },
    /// Queue a frame for many; never shed.
    Broadcast { frame: Box<Frame<'static>>, to: Recipients },
    /// Answer a request, or greet; never shed.
    Reply { to: Requester, id: Option<RequestId>, frame: Box<Frame<'static>> },
    /// Refuse a request; never shed.
    Refuse { to: Requester, id: Option<RequestId>, refusal: Box<Refusal> },
    /// Make the latch between an operation and the worker that owns it, and confirm the
    /// request that has started it, where that has an id. As long as the confirmation
    /// waits, an interrupt goes directly behind it: many a worker discards what it receives
    /// before.
    Latch { operation: OperationId, worker: ConnectionId, id: Option<RequestId> },
    /// Pull it: ahead of everything else that is queued for the worker.
    Interrupt { line: Box<InterruptLine> },
    /// Drop it: the operation is over.
    Unlatch { operation: OperationId },
    /// Refuse such tokens from now on, and write that to the disk; answered by
    /// `Input::RevocationSaved`.
    Revoke { to: Requester, id: Option<RequestId>, revoked: RevocationTarget },
    /// Send a ping.
    Ping { conn: ConnectionId },
    /// Send a close frame behind what is queued, and close. `after_ms` says when to
    /// reconnect, where the code asks for that.
    Close { conn: ConnectionId, close: Close, after_ms: u64 },
    /// Close without a close frame, once all that is queued has left: the peer sends no more,
    /// and has its answers.
    HangUp { conn: ConnectionId },
    /// Keep a message; its `seq` is its position.
    Append { log: LogKey, message: Rc<Message>, meta: Box<EntryMeta> },
    /// Write a kept message at once, whatever its metadata said when it was kept: its
    /// publisher waits for that now. Answered by `Stored` or `NotStored`, also where it is on
    /// the disk already, or is here no longer.
    SyncNow { log: LogKey, seq: u64 },
    /// Read no more from a connection until `ResumeReading`, and hold back what was read of it:
    /// as many of its messages wait for the disk as may.
    PauseReading { conn: ConnectionId },
    /// Go on with what was held back, and read again.
    ResumeReading { conn: ConnectionId },
    /// Write, before any peer can see it, how far a log has come: if the process is
    /// killed its positions go on from there.
    PersistSeq { log: LogKey, epoch: u64, seq: u64 },
    /// Read from a log what lies after `after`, up to `count` messages or
    /// `bytes`, at least one if there is one; answered by `Input::Fetched`.
    Fetch { fetch: FetchPurpose, log: LogKey, after: u64, count: usize, bytes: usize },
    /// Drop messages of a log, both ends included.
    Truncate { log: LogKey, from: u64, to: u64 },
    /// A connection is gone: whose it was, how long it lasted, and why it ended where that
    /// was the hub's decision.
    LogDisconnect { conn: ConnectionId, user: Option<UserId>, lasted: Duration, close: Option<Close> },
    /// Log what is out of the ordinary.
    LogAnomaly(Anomaly),
}

/// What is worth a line in the log: the closed list of all that is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Anomaly {
    /// A connection was closed because its peer accepted nothing.
    Stalled { conn: ConnectionId, user: Option<UserId> },
    /// A connection was closed for mistakes, or for requests over the rate.
    Misbehaved { conn: ConnectionId, user: Option<UserId>, close: Close },
    /// A connection was refused once it was open, for a reason that is counted.
    Refused { conn: ConnectionId, user: Option<UserId>, reason: Reason },
    /// A worker disconnected with operations running.
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

/// So many effects or recipients are more than almost any input has.
const USUAL: usize = 4096;

/// Effects, and the recipients that they point to. Owned by the caller and used
/// again for every input.
#[derive(Default, Debug)]
pub struct Effects {
    /// In the order in which they are to be carried out.
    pub list: Vec<Effect>,
    /// Slots of connections, for [`Effect::Deliver`] and [`Effect::Broadcast`].
    pub recipients: Vec<u32>,
}

impl Effects {
    /// Removes all, and keeps the memory of a usual input.
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

    /// Adds one effect.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// The recipients noted since there were `start` of them.
    pub(super) fn noted(&self, start: usize) -> Recipients {
        start as u32..self.recipients.len() as u32
    }

    /// Removes doubles from the recipients noted since there were `start` of them.
    pub(super) fn dedup_noted(&mut self, start: usize) -> Recipients {
        self.recipients[start..].sort_unstable();
        let mut last = None;
        self.retain_noted(start, |slot| last.replace(slot) != Some(slot))
    }

    /// Keeps those of them that satisfy a condition.
    pub(super) fn retain_noted(&mut self, start: usize, mut keeps: impl FnMut(u32) -> bool) -> Recipients {
        let mut kept = start;
        for at in start..self.recipients.len() {
            let slot = self.recipients[at];
            if keeps(slot) {
                self.recipients[kept] = slot;
                kept += 1;
            }
        }
        self.recipients.truncate(kept);
        self.noted(start)
    }

    /// Sends one connection something that it did not ask for.
    pub(super) fn notify(&mut self, conn: ConnectionId, frame: Frame<'static>) {
        self.push(Effect::Reply { to: Requester::Connection(conn), id: None, frame: Box::new(frame) });
    }

    /// The slots that a range stands for.
    pub fn slots(&self, to: &Recipients) -> &[u32] {
        self.recipients.get(to.start as usize..to.end as usize).unwrap_or_default()
    }
}
