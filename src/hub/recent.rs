//! Which messages were seen a moment ago.
//!
//! Knows the ids that publishers gave, and for how long. Does not know what the
//! messages said.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::deadlines::round_up;
use super::remains::shifted;
use crate::protocol::say::Target;
use crate::protocol::{ConnectionId, MessageId, Moment, UserId};

/// A publisher that repeats itself later than this means it.
const REMEMBERED: Duration = Duration::from_secs(600);

/// At a few hundred bytes each, a few megabytes at worst.
const MOST: usize = 10_000;

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
pub(super) struct Key {
    pub(super) scope: Scope,
    pub(super) target: Target,
    pub(super) id: MessageId,
}

/// The messages seen within the last minutes, oldest first.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "VecDeque<(Moment, Rc<Key>)>", into = "VecDeque<(Moment, Rc<Key>)>")]
pub(super) struct Recent {
    order: VecDeque<(Moment, Rc<Key>)>,
    seen: HashSet<Rc<Key>>,
}

impl From<VecDeque<(Moment, Rc<Key>)>> for Recent {
    fn from(order: VecDeque<(Moment, Rc<Key>)>) -> Self {
        Self { seen: order.iter().map(|(_, key)| key.clone()).collect(), order }
    }
}

impl From<Recent> for VecDeque<(Moment, Rc<Key>)> {
    fn from(recent: Recent) -> Self {
        recent.order
    }
}

impl Recent {
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.seen.contains(key)
    }

    pub(super) fn insert(&mut self, now: Moment, key: Key) {
        let key = Rc::new(key);
        if self.seen.insert(key.clone()) {
            self.order.push_back((now, key));
        }
        if self.order.len() > MOST {
            self.forget_first();
        }
    }

    /// Puts one back that was seen earlier, in its place.
    pub(super) fn restore(&mut self, now: Moment, at: Moment, key: Key) {
        let key = Rc::new(key);
        let is_full = self.order.len() >= MOST && self.order.front().is_some_and(|(first, _)| at <= *first);
        if is_full || now.since(at) >= REMEMBERED || !self.seen.insert(key.clone()) {
            return;
        }
        let place = self.order.partition_point(|(other, _)| *other <= at);
        self.order.insert(place, (at, key));
        if self.order.len() > MOST {
            self.forget_first();
        }
    }

    /// Those whose publisher and target outlive their connections.
    pub(super) fn of_others(&self) -> Self {
        let outlives = |(_, key): &&(Moment, Rc<Key>)| {
            !matches!(key.scope, Scope::Connection(_)) && !matches!(key.target, Target::Connection(_))
        };
        self.order.iter().filter(outlives).cloned().collect::<VecDeque<_>>().into()
    }

    /// The same on another clock.
    pub(super) fn shifted(mut self, shift: i64) -> Self {
        for (at, _) in &mut self.order {
            *at = shifted(*at, shift);
        }
        self
    }

    /// When the oldest is to be forgotten.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.order.front().map(|(at, _)| round_up(*at + REMEMBERED))
    }

    /// Forgets what is old enough.
    pub(super) fn forget(&mut self, now: Moment) {
        while self.order.front().is_some_and(|(at, _)| now.since(*at) >= REMEMBERED) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.seen.remove(&key);
        }
    }
}
