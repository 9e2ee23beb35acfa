//! Deduplication: the ids that publishers gave their messages within the last minutes.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::hub::checkpoint::shifted;
use crate::hub::log::position::LogPosition;
use crate::hub::timers::round_up;
use crate::protocol::request::Target;
use crate::protocol::{ConnectionId, MessageId, Moment, UserId};

/// How long an id is remembered: a message with the same id after that is a new one.
const REMEMBERED: Duration = Duration::from_secs(600);

/// At a few hundred bytes each, a few megabytes at worst.
const MAX_IDS: usize = 10_000;

/// Among whose messages an id is unique.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Scope {
    User(UserId),
    Connection(ConnectionId),
    Worker(u32),
    Http,
}

/// One message, as its publisher named it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct DedupKey {
    scope: Scope,
    target: Target,
    id: MessageId,
}

impl DedupKey {
    pub(in crate::hub) fn new(scope: Scope, target: Target, id: MessageId) -> Self {
        Self { scope, target, id }
    }

    pub(in crate::hub) fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// One message, when it was seen and where it was put.
type DedupEntry = (Moment, Rc<DedupKey>, Option<LogPosition>);

/// The messages seen within the last minutes, oldest first.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "VecDeque<DedupEntry>", into = "VecDeque<DedupEntry>")]
pub(in crate::hub) struct DedupWindow {
    order: VecDeque<DedupEntry>,
    seen: HashMap<Rc<DedupKey>, Option<LogPosition>>,
}

impl From<VecDeque<DedupEntry>> for DedupWindow {
    fn from(order: VecDeque<DedupEntry>) -> Self {
        Self { seen: order.iter().map(|(_, key, place)| (key.clone(), *place)).collect(), order }
    }
}

impl From<DedupWindow> for VecDeque<DedupEntry> {
    fn from(recent: DedupWindow) -> Self {
        recent.order
    }
}

impl DedupWindow {
    /// Where a message was put that was seen before.
    pub(in crate::hub) fn find(&self, key: &DedupKey) -> Option<Option<LogPosition>> {
        self.seen.get(key).copied()
    }

    pub(in crate::hub) fn insert(&mut self, now: Moment, key: DedupKey, place: Option<LogPosition>) {
        let key = Rc::new(key);
        if self.seen.insert(key.clone(), place).is_none() {
            self.order.push_back((now, key, place));
        }
        if self.order.len() > MAX_IDS {
            self.forget_first();
        }
    }

    /// Puts one back that was seen earlier, in its place.
    pub(in crate::hub) fn restore(&mut self, now: Moment, at: Moment, key: DedupKey, place: LogPosition) {
        let key = Rc::new(key);
        let is_full =
            self.order.len() >= MAX_IDS && self.order.front().is_some_and(|(first, ..)| at <= *first);
        if is_full || now.since(at) >= REMEMBERED || self.seen.contains_key(&key) {
            return;
        }
        self.seen.insert(key.clone(), Some(place));
        let after = self.order.partition_point(|(other, ..)| *other <= at);
        self.order.insert(after, (at, key, Some(place)));
        if self.order.len() > MAX_IDS {
            self.forget_first();
        }
    }

    /// Those whose publisher and target outlive their connections.
    pub(in crate::hub) fn of_others(&self) -> Self {
        let outlives = |(_, key, _): &&DedupEntry| {
            !matches!(key.scope, Scope::Connection(_)) && !matches!(key.target, Target::Connection(_))
        };
        self.order.iter().filter(outlives).cloned().collect::<VecDeque<_>>().into()
    }

    /// The same on another clock.
    pub(in crate::hub) fn shifted(mut self, shift: i64) -> Self {
        for (at, ..) in &mut self.order {
            *at = shifted(*at, shift);
        }
        self
    }

    /// When the oldest is to be forgotten.
    pub(in crate::hub) fn deadline(&self) -> Option<Moment> {
        self.order.front().map(|(at, ..)| round_up(*at + REMEMBERED))
    }

    /// Forgets what is old enough.
    pub(in crate::hub) fn forget(&mut self, now: Moment) {
        while self.order.front().is_some_and(|(at, ..)| now.since(*at) >= REMEMBERED) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, key, _)) = self.order.pop_front() {
            self.seen.remove(&key);
        }
    }
}
