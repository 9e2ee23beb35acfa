//! Who is connected.
//!
//! Knows each link, who it belongs to and what it still owes its peer. Does not
//! know what is said over it.

use std::collections::HashSet;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::rate_limit::{Bucket, Mistakes, Refusals};
use super::rights::{Rights, Terms};
use crate::hub::channel::topics::TopicId;
use crate::hub::event::SendQueueState;
use crate::hub::timers::NEVER;
use crate::protocol::{
    ConnectionId, InboxMode, Moment, Payload, RateLimit, Sender, TokenId, UnixTime, UserId,
};

/// What a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) enum Kind {
    /// A WebSocket client that has to say who it is.
    Waiting,
    /// A WebSocket client that is let in.
    Client,
    /// A local process.
    Worker { uid: u32, admin: bool },
}

/// One link. There are thousands of these: what few of them need is in
/// [`ConnectionExt`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Connection {
    pub(in crate::hub) tag: u64,
    pub(in crate::hub) user: Option<UserId>,
    /// Where a client comes from, where that counts.
    #[serde(default)]
    pub(in crate::hub) network: Option<u128>,
    /// Its own, shared by all who have the same; none: what the settings say.
    pub(in crate::hub) rights: Option<Rc<Rights>>,
    /// What it hears, by place in the table of topics; with a user, the first
    /// is that user's inbox. A usual page has four.
    pub(in crate::hub) topics: SmallVec<[TopicId; 4]>,
    /// When it began.
    pub(in crate::hub) opened: Moment,
    /// When the peer last gave a sign of life.
    pub(in crate::hub) heard: Moment,
    /// For which moment its one deadline is set.
    pub(in crate::hub) armed: Moment,
    /// When its token ends; never without one.
    pub(in crate::hub) expires: Moment,
    /// The same, as it is told where there is such a token. The moment was
    /// computed once, so that a clock that is set neither kills nor extends.
    expires_at: UnixTime,
    /// When its token was issued, 0 where that is not known; and what else the token says.
    /// Both go behind the rest of a state.
    #[serde(skip)]
    pub(in crate::hub) issued_at: UnixTime,
    #[serde(skip)]
    pub(in crate::hub) terms: Option<Rc<Terms>>,
    pub(in crate::hub) requests: Bucket,
    #[serde(default)]
    pub(in crate::hub) controls: Bucket,
    pub(in crate::hub) kind: Kind,
    pub(in crate::hub) outbound: SendQueueState,
    /// Was full and is not clear yet: what it misses meanwhile makes one gap.
    pub(in crate::hub) full: bool,
    /// Was asked for a sign of life, and gave none since.
    pub(in crate::hub) pinged: bool,
    /// Was told that its token ends.
    pub(in crate::hub) warned: bool,
    /// Was told its id, as the first `subscribe` does.
    pub(in crate::hub) introduced: bool,
    pub(in crate::hub) inbox: InboxMode,
    pub(in crate::hub) rare: Option<Box<ConnectionExt>>,
}

/// What few connections need.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct ConnectionExt {
    /// Until when it has to say who it is.
    pub(in crate::hub) auth_by: Moment,
    /// When it last accepted a byte, while something waits.
    pub(in crate::hub) stuck_since: Moment,
    /// When it was last spared for being stuck, as the owner of an operation.
    pub(in crate::hub) spared: Moment,
    pub(in crate::hub) whispers: Bucket,
    pub(in crate::hub) interrupts: Bucket,
    pub(in crate::hub) refusals: Refusals,
    pub(in crate::hub) mistakes: Mistakes,
    /// What was shed since it is full, once for each topic.
    pub(in crate::hub) missed: Vec<Missed>,
    /// Topics it has left while part of a replay was on its way.
    pub(in crate::hub) lingering: Vec<TopicId>,
    /// How many of its interrupts wait for their operation.
    pub(in crate::hub) pending: u32,
    /// How many operations it owns.
    pub(in crate::hub) operations: u32,
}

impl Default for ConnectionExt {
    fn default() -> Self {
        Self {
            auth_by: NEVER,
            stuck_since: NEVER,
            spared: Moment::default(),
            whispers: Bucket::default(),
            interrupts: Bucket::default(),
            refusals: Refusals::default(),
            mistakes: Mistakes::default(),
            missed: Vec::new(),
            lingering: Vec::new(),
            pending: 0,
            operations: 0,
        }
    }
}

/// Messages of one topic that were shed, told as one gap.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Missed {
    pub(in crate::hub) topic: TopicId,
    pub(in crate::hub) from: u64,
    pub(in crate::hub) to: u64,
    pub(in crate::hub) lost: u64,
}

impl Connection {
    pub(in crate::hub) fn new(tag: u64, kind: Kind, now: Moment) -> Self {
        Self {
            tag,
            user: None,
            network: None,
            rights: None,
            topics: SmallVec::new(),
            opened: now,
            heard: now,
            armed: NEVER,
            expires: NEVER,
            expires_at: UnixTime::default(),
            issued_at: UnixTime::default(),
            terms: None,
            requests: Bucket::default(),
            controls: Bucket::default(),
            kind,
            outbound: SendQueueState::Empty,
            full: false,
            pinged: false,
            warned: false,
            introduced: false,
            inbox: InboxMode::Auto,
            rare: None,
        }
    }

    pub(in crate::hub) fn rare(&mut self) -> &mut ConnectionExt {
        self.rare.get_or_insert_default()
    }

    /// Notes when its token ends, and at which moment that is.
    pub(in crate::hub) fn expire(&mut self, expires: Moment, expires_at: Option<UnixTime>) {
        self.expires = expires;
        self.expires_at = expires_at.unwrap_or_default();
        self.warned = false;
    }

    /// When its token ends, if it has one that does.
    pub(in crate::hub) fn expires_at(&self) -> Option<UnixTime> {
        (self.expires != NEVER).then_some(self.expires_at)
    }

    /// How often it may ask, where its token says so.
    pub(in crate::hub) fn own_limits(&self) -> Option<RateLimit> {
        self.terms.as_ref()?.limits
    }

    /// What others see of its user.
    pub(in crate::hub) fn info(&self) -> Option<&Payload> {
        self.terms.as_ref()?.info.as_ref()
    }

    /// The id of its token.
    pub(in crate::hub) fn jti(&self) -> Option<&TokenId> {
        self.terms.as_ref()?.jti.as_ref()
    }

    pub(in crate::hub) fn is_worker(&self) -> bool {
        matches!(self.kind, Kind::Worker { .. })
    }

    /// Whether it may hear and say more than `auth`.
    pub(in crate::hub) fn is_let_in(&self) -> bool {
        self.kind != Kind::Waiting
    }

    pub(in crate::hub) fn owns_operations(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.operations > 0)
    }

    /// Its user's inbox, by place in the table of topics.
    pub(in crate::hub) fn inbox_at(&self) -> Option<TopicId> {
        self.topics.first().copied().filter(|_| self.user.is_some())
    }

    /// How many channels it hears; one's own inbox is none.
    pub(in crate::hub) fn subscriptions(&self) -> usize {
        self.topics.len().saturating_sub(usize::from(self.user.is_some()))
    }

    /// As what its messages come: `from` on the wire.
    pub(in crate::hub) fn sender(&self, slot: u32) -> Sender {
        match self.kind {
            Kind::Worker { .. } => Sender::Worker,
            Kind::Client | Kind::Waiting => Sender::Connection(ConnectionId { slot, tag: self.tag }),
        }
    }
}

/// A table of fewer is not worth shrinking.
const MANY: usize = 64;

/// All links, by slot. What was told to close is gone from here: what its link
/// still says finds nobody.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::hub) struct Connections(Vec<Option<Connection>>);

impl Connections {
    pub(in crate::hub) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.at(id.slot).filter(|connection| connection.tag == id.tag)
    }

    pub(in crate::hub) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.at_mut(id.slot).filter(|connection| connection.tag == id.tag)
    }

    pub(in crate::hub) fn at(&self, slot: u32) -> Option<&Connection> {
        self.0.get(slot as usize)?.as_ref()
    }

    pub(in crate::hub) fn at_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.0.get_mut(slot as usize)?.as_mut()
    }

    pub(in crate::hub) fn insert(&mut self, slot: u32, connection: Connection) {
        let place = slot as usize;
        if place >= self.0.len() {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place] = Some(connection);
    }

    pub(in crate::hub) fn remove(&mut self, slot: u32) -> Option<Connection> {
        let gone = self.0.get_mut(slot as usize)?.take();
        while self.0.last().is_some_and(Option::is_none) {
            self.0.pop();
        }
        if self.0.capacity() > 8 * self.0.len().max(MANY) {
            self.0.shrink_to(2 * self.0.len());
        }
        gone
    }

    /// With their slots, in their order.
    pub(in crate::hub) fn iter(&self) -> impl Iterator<Item = (u32, &Connection)> {
        (0..).zip(&self.0).filter_map(|(slot, place)| Some((slot, place.as_ref()?)))
    }

    /// Those whose place is not before one.
    pub(in crate::hub) fn iter_from(&self, from: usize) -> impl Iterator<Item = (u32, &Connection)> {
        let rest = self.0.get(from..).unwrap_or_default();
        (from as u32..).zip(rest).filter_map(|(slot, place)| Some((slot, place.as_ref()?)))
    }

    /// The places of all.
    pub(in crate::hub) fn slots(&self) -> Vec<u32> {
        self.iter().map(|(slot, _)| slot).collect()
    }

    /// The ids of all that satisfy a condition.
    pub(in crate::hub) fn ids(&self, wanted: impl Fn(&Connection) -> bool) -> Vec<ConnectionId> {
        let wanted = self.iter().filter(|(_, connection)| wanted(connection));
        wanted.map(|(slot, connection)| ConnectionId { slot, tag: connection.tag }).collect()
    }

    /// Lets equal rights be one again, after they were read back one by one.
    pub(in crate::hub) fn share_rights(&mut self) {
        let mut known: HashSet<Rc<Rights>> = HashSet::new();
        for own in self.0.iter_mut().flatten().filter_map(|connection| connection.rights.as_mut()) {
            match known.get(own) {
                Some(rights) => *own = rights.clone(),
                None => drop(known.insert(own.clone())),
            }
        }
    }

    /// What of their tokens goes behind the rest of a state, by slot.
    pub(in crate::hub) fn bearers(&self) -> Vec<(u32, UnixTime, Option<Rc<Terms>>)> {
        let says = |connection: &Connection| connection.issued_at.0 > 0 || connection.terms.is_some();
        let bearers = self.iter().filter(|(_, connection)| says(connection));
        bearers.map(|(slot, connection)| (slot, connection.issued_at, connection.terms.clone())).collect()
    }

    /// The same, read back.
    pub(in crate::hub) fn restore_bearers(&mut self, bearers: Vec<(u32, UnixTime, Option<Rc<Terms>>)>) {
        for (slot, issued_at, terms) in bearers {
            if let Some(connection) = self.at_mut(slot) {
                (connection.issued_at, connection.terms) = (issued_at, terms);
            }
        }
    }

    pub(in crate::hub) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.0.iter_mut().flatten()
    }
}
