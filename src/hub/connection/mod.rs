//! Connections: table, authentication, rights, heartbeat, rate limits, closing.
//!
//! `Connection` is the state of one open socket; its fields are private to this folder.
//! `table` owns all of them, `lifecycle` combines them with topics and operations.

pub(super) mod account;
pub(super) mod auth;
mod deadlines;
pub(super) mod half_closed;
mod heartbeat;
mod lifecycle;
pub(super) mod rate_limit;
pub mod rights;
pub(super) mod table;
mod token_expiry;
mod write_stall;

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::event::SendQueueState;
use super::timers::NEVER;
use crate::hub::channel::topics::TopicId;
use crate::protocol::{
    ConnectionId, InboxMode, Moment, Payload, RateLimit, Sender, TokenId, UnixTime, UserId,
};
use crate::rate_limiter::Bucket;
use rate_limit::{Mistakes, Refusals};
use rights::{Rights, Terms};

/// What a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum ConnectionKind {
    /// A WebSocket client that has to authenticate first.
    Unauthenticated,
    /// A WebSocket client with a verified token, or an anonymous one where those are allowed.
    Client,
    /// A local process.
    Worker { uid: u32, admin: bool },
}

/// One open connection. There are thousands of these: what few of them need is in
/// [`ConnectionExt`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Connection {
    tag: u64,
    user: Option<UserId>,
    /// The network from which clients without a user share their limits; none for this
    /// machine.
    #[serde(default)]
    network: Option<u128>,
    /// Its own, shared by all that have the same; none: those of the settings.
    rights: Option<Rc<Rights>>,
    /// Its subscriptions, by id of the topic; with a user, the first is that user's inbox. A
    /// usual page has four.
    topics: SmallVec<[TopicId; 4]>,
    opened: Moment,
    /// When the peer last sent anything.
    last_activity: Moment,
    /// For which moment its one timer is set.
    armed: Moment,
    /// When its token expires; never without one.
    expires: Moment,
    /// The same as wall-clock time, where there is such a token. The moment was computed
    /// once, so that a clock that is set neither kills nor extends.
    expires_at: UnixTime,
    /// When its token was issued, 0 where that is not known; and what else the token says.
    /// Both go behind the rest of a state.
    #[serde(skip)]
    issued_at: UnixTime,
    #[serde(skip)]
    terms: Option<Rc<Terms>>,
    requests: Bucket,
    /// Pings and pongs.
    #[serde(default)]
    controls: Bucket,
    kind: ConnectionKind,
    send_queue: SendQueueState,
    /// Its send queue was full and is not empty yet: what is shed meanwhile makes one gap.
    is_shedding: bool,
    /// A ping was sent, and nothing came since.
    pinged: bool,
    /// It was notified that its token expires.
    warned: bool,
    /// It was sent its id, as the first `subscribe` does.
    introduced: bool,
    inbox: InboxMode,
    ext: Option<Box<ConnectionExt>>,
}

/// What few connections need.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct ConnectionExt {
    /// Until when it has to authenticate.
    auth_deadline: Moment,
    /// When it last accepted a byte, while something is queued.
    stalled_since: Moment,
    /// When it was last not closed although stalled, as the owner of an operation.
    spared: Moment,
    whispers: Bucket,
    interrupts: Bucket,
    refusals: Refusals,
    mistakes: Mistakes,
    /// What was shed since its queue was full, once for each topic.
    missed: Vec<Missed>,
    /// Topics it has unsubscribed from while part of a replay was on its way.
    lingering: Vec<TopicId>,
    /// How many of its interrupts wait for their operation.
    pending_interrupts: u32,
    /// How many operations it owns.
    operations: u32,
}

impl Default for ConnectionExt {
    fn default() -> Self {
        Self {
            auth_deadline: NEVER,
            stalled_since: NEVER,
            spared: Moment::default(),
            whispers: Bucket::default(),
            interrupts: Bucket::default(),
            refusals: Refusals::default(),
            mistakes: Mistakes::default(),
            missed: Vec::new(),
            lingering: Vec::new(),
            pending_interrupts: 0,
            operations: 0,
        }
    }
}

/// Messages of one topic that were shed, reported as one gap.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Missed {
    topic: TopicId,
    from: u64,
    to: u64,
    lost: u64,
}

impl Missed {
    pub(super) fn topic(&self) -> TopicId {
        self.topic
    }

    /// The first position.
    pub(super) fn from(&self) -> u64 {
        self.from
    }

    /// The last position.
    pub(super) fn to(&self) -> u64 {
        self.to
    }

    /// How many messages were shed between them.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}

/// The subscriptions that a connection gives up because its peer is gone or sends no more.
struct Subscriptions {
    user: Option<UserId>,
    topics: SmallVec<[TopicId; 4]>,
    /// Those of which only part of a replay is on its way.
    lingering: Vec<TopicId>,
}

impl Connection {
    /// A connection that was just opened.
    fn new(tag: u64, kind: ConnectionKind, now: Moment) -> Self {
        Self {
            tag,
            user: None,
            network: None,
            rights: None,
            topics: SmallVec::new(),
            opened: now,
            last_activity: now,
            armed: NEVER,
            expires: NEVER,
            expires_at: UnixTime::default(),
            issued_at: UnixTime::default(),
            terms: None,
            requests: Bucket::default(),
            controls: Bucket::default(),
            kind,
            send_queue: SendQueueState::Empty,
            is_shedding: false,
            pinged: false,
            warned: false,
            introduced: false,
            inbox: InboxMode::Auto,
            ext: None,
        }
    }

    fn ext_mut(&mut self) -> &mut ConnectionExt {
        self.ext.get_or_insert_default()
    }

    /// Its id, at a slot of the table.
    pub(super) fn id(&self, slot: u32) -> ConnectionId {
        ConnectionId { slot, tag: self.tag }
    }

    pub(super) fn kind(&self) -> ConnectionKind {
        self.kind
    }

    pub(super) fn is_worker(&self) -> bool {
        matches!(self.kind, ConnectionKind::Worker { .. })
    }

    /// Whether it is a client that may subscribe and publish.
    pub(super) fn is_client(&self) -> bool {
        self.kind == ConnectionKind::Client
    }

    /// Whether it may request more than `auth`.
    pub(super) fn is_admitted(&self) -> bool {
        self.kind != ConnectionKind::Unauthenticated
    }

    /// As which user of the machine a worker runs.
    pub(super) fn worker_uid(&self) -> Option<u32> {
        match self.kind {
            ConnectionKind::Worker { uid, .. } => Some(uid),
            ConnectionKind::Client | ConnectionKind::Unauthenticated => None,
        }
    }

    /// What stands as `from` in its messages.
    pub(super) fn sender(&self, slot: u32) -> Sender {
        if self.is_worker() { Sender::Worker } else { Sender::Connection(self.id(slot)) }
    }

    pub(super) fn opened(&self) -> Moment {
        self.opened
    }

    /// When its peer last sent anything.
    pub(super) fn last_activity(&self) -> Moment {
        self.last_activity
    }

    /// When its token expires, if it has one that does.
    pub(super) fn expires_at(&self) -> Option<UnixTime> {
        (self.expires != NEVER).then_some(self.expires_at)
    }

    /// When its token was issued; 0 where that is not known.
    pub(super) fn issued_at(&self) -> UnixTime {
        self.issued_at
    }

    /// Its own request rate, where its token says one.
    pub(super) fn own_limits(&self) -> Option<RateLimit> {
        self.terms.as_ref()?.limits
    }

    /// What others see of its user.
    pub(super) fn info(&self) -> Option<&Payload> {
        self.terms.as_ref()?.info.as_ref()
    }

    /// The id of its token.
    pub(super) fn jti(&self) -> Option<&TokenId> {
        self.terms.as_ref()?.jti.as_ref()
    }

    pub(super) fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// Whether it is one of a user's.
    pub(super) fn is_of(&self, user: &UserId) -> bool {
        self.user.as_ref() == Some(user)
    }

    pub(super) fn inbox_mode(&self) -> InboxMode {
        self.inbox
    }

    /// Marks that it is sent its id; whether that still had to be done.
    pub(super) fn mark_introduced(&mut self) -> bool {
        !std::mem::replace(&mut self.introduced, true)
    }
}

/// Subscriptions.
impl Connection {
    /// What it is subscribed to, by id of the topic; the inbox of its user first.
    pub(super) fn topics(&self) -> &SmallVec<[TopicId; 4]> {
        &self.topics
    }

    pub(super) fn is_subscribed(&self, topic: TopicId) -> bool {
        self.topics.contains(&topic)
    }

    /// Notes a subscription to a channel.
    pub(super) fn add_channel(&mut self, topic: TopicId) {
        self.topics.push(topic);
    }

    /// Notes that it belongs to an inbox, that of its user.
    pub(super) fn add_inbox(&mut self, topic: TopicId) {
        self.topics.insert(0, topic);
    }

    /// Removes a subscription; whether there was one.
    pub(super) fn remove_topic(&mut self, topic: TopicId) -> bool {
        let at = self.topics.iter().position(|other| *other == topic);
        at.map(|at| self.topics.remove(at)).is_some()
    }

    /// The inbox of its user, by id of the topic.
    pub(super) fn inbox_topic(&self) -> Option<TopicId> {
        self.topics.first().copied().filter(|_| self.user.is_some())
    }

    /// How many channels it is subscribed to; the inbox is none.
    pub(super) fn subscriptions(&self) -> usize {
        self.topics.len().saturating_sub(usize::from(self.user.is_some()))
    }

    /// Notes a topic that it has unsubscribed from while part of a replay was on its way,
    /// and forgets those of which nothing is any more.
    pub(super) fn add_lingering(&mut self, topic: TopicId, is_read: impl Fn(TopicId) -> bool) {
        let lingering = &mut self.ext_mut().lingering;
        lingering.retain(|topic| is_read(*topic));
        if !lingering.contains(&topic) {
            lingering.push(topic);
        }
    }

    /// Takes all subscriptions out; what was shed of them is of no interest any more.
    fn take_subscriptions(&mut self) -> Subscriptions {
        let lingering = self.ext.as_mut().map(|ext| {
            ext.missed.clear();
            std::mem::take(&mut ext.lingering)
        });
        Subscriptions {
            user: self.user.clone(),
            topics: std::mem::take(&mut self.topics),
            lingering: lingering.unwrap_or_default(),
        }
    }
}

/// Messages that were shed.
impl Connection {
    /// Whether messages to it are shed, until its send queue is empty.
    pub(super) fn is_full(&self) -> bool {
        self.is_shedding
    }

    /// Whether nothing waits in its send queue.
    pub(super) fn has_empty_queue(&self) -> bool {
        self.send_queue == SendQueueState::Empty
    }

    /// Sheds from now on where something is queued, as if the queue was full.
    fn shed_if_backlogged(&mut self) {
        self.is_shedding |= !self.has_empty_queue();
    }

    /// Notes a message that was shed.
    pub(super) fn note_missed(&mut self, topic: TopicId, seq: u64) {
        let missed = &mut self.ext_mut().missed;
        match missed.iter_mut().find(|missed| missed.topic == topic) {
            Some(known) => {
                known.to = seq;
                known.lost += 1;
            }
            None => missed.push(Missed { topic, from: seq, to: seq, lost: 1 }),
        }
    }

    /// Takes out what was shed of one topic, or of all.
    pub(super) fn take_missed(&mut self, only: Option<TopicId>) -> impl Iterator<Item = Missed> {
        let all = self.ext.as_mut().map(|ext| &mut ext.missed);
        all.into_iter().flat_map(move |all| {
            all.extract_if(.., move |missed| only.is_none_or(|only| only == missed.topic))
        })
    }

    /// What was shed of a topic is of no interest any more.
    pub(super) fn forget_missed(&mut self, topic: TopicId) {
        if let Some(ext) = &mut self.ext {
            ext.missed.retain(|missed| missed.topic != topic);
        }
    }

    /// How many messages were shed that it was not notified of yet.
    pub(super) fn missed(&self) -> u64 {
        self.ext.iter().flat_map(|ext| &ext.missed).map(|missed| missed.lost).sum()
    }
}

/// Operations, and interrupts that wait for one.
impl Connection {
    pub(super) fn operations(&self) -> u32 {
        self.ext.as_ref().map_or(0, |ext| ext.operations)
    }

    pub(super) fn owns_operations(&self) -> bool {
        self.operations() > 0
    }

    pub(super) fn add_operation(&mut self) {
        self.ext_mut().operations += 1;
    }

    pub(super) fn remove_operation(&mut self) {
        let ext = self.ext_mut();
        ext.operations = ext.operations.saturating_sub(1);
    }

    /// How many of its interrupts wait for their operation.
    pub(super) fn pending_interrupts(&self) -> u32 {
        self.ext.as_ref().map_or(0, |ext| ext.pending_interrupts)
    }

    pub(super) fn add_pending_interrupt(&mut self) {
        self.ext_mut().pending_interrupts += 1;
    }

    pub(super) fn remove_pending_interrupt(&mut self) {
        let ext = self.ext_mut();
        ext.pending_interrupts = ext.pending_interrupts.saturating_sub(1);
    }
}
