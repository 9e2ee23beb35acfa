//! Who is on a channel.
//!
//! Knows users and how many of their connections are there. Does not know
//! anonymous connections, which are nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::channels::Topic;
use super::deadlines::{NEVER, Task, round_up};
use super::event::{Effect, Effects, Now};
use super::leaving::Leaving;
use super::limits::ListSpace;
use super::{Ask, Done, Hub};
use crate::protocol::frame::Present;
use crate::protocol::{Channel, Frame, Moment, UserId};

/// A page that is reloaded is back before this.
pub(super) const GRACE: Duration = Duration::from_secs(15);

/// Above this, a list says nothing to people and costs every join.
const MOST_LISTED: usize = 1000;

/// What an entry in a list takes beside the name.
const ENTRY: usize = 48;

/// Who is on a channel that somebody watches.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Presence {
    users: BTreeMap<UserId, Here>,
    /// For which moment the deadline of those who lost a connection is set.
    armed: Moment,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Here {
    connections: u64,
    /// When a user without connections is taken for gone.
    until: Moment,
}

impl Presence {
    /// What it takes: its own block (48 bytes), and leaves of a tree with eleven places each,
    /// of which a tree of more than one uses seven (384).
    pub(super) fn held(&self) -> usize {
        let leaves = if self.users.len() <= 11 { 1 } else { self.users.len().div_ceil(7) };
        48 + leaves * 384
    }
}

impl Hub {
    /// How many users are on a channel, and who, where they are not too many.
    pub(super) fn present(&self, topic: &Topic, room: &mut ListSpace) -> (u64, Option<Vec<Present>>) {
        let counted;
        let users = match &topic.presence {
            Some(presence) => &presence.users,
            None => {
                counted = self.count_users(topic);
                &counted
            }
        };
        let list =
            |(user, here): (&UserId, &Here)| Present { user_id: user.clone(), connections: here.connections };
        let bytes = || users.keys().map(|user| ENTRY + user.as_str().len()).sum();
        let is_listed = users.len() <= MOST_LISTED && room.takes(bytes());
        let listed = is_listed.then(|| users.iter().map(list).collect());
        (users.len() as u64, listed)
    }

    fn count_users(&self, topic: &Topic) -> BTreeMap<UserId, Here> {
        let mut users = BTreeMap::new();
        for subscriber in &topic.subscribers {
            let Some(user) = self.connections.at(subscriber.slot).and_then(|c| c.user.as_ref()) else {
                continue;
            };
            let here = users.entry(user.clone()).or_insert(Here { connections: 0, until: NEVER });
            here.connections += 1;
        }
        users
    }

    pub(super) fn presence(&self, ask: &Ask, channel: Channel, out: &mut Effects) -> Done {
        self.may_look(ask.from, &channel)?;
        let topic = self.channels.find_channel(&channel).and_then(|place| self.channels.at(place));
        let (count, presence) =
            topic.map_or((0, Some(Vec::new())), |topic| self.present(topic, &mut ListSpace::default()));
        self.answer(ask, Frame::Presence { channel, presence, count }, out);
        Ok(())
    }

    /// Begins to keep count where somebody watches, and ceases where nobody does.
    pub(super) fn watch(&mut self, place: u32) {
        let Some(topic) = self.channels.at(place) else { return };
        let watched = topic.subscribers.iter().any(|subscriber| subscriber.watches);
        let users = (watched && topic.presence.is_none()).then(|| self.count_users(topic));
        let Some(topic) = self.channels.at_mut(place) else { return };
        if let Some(users) = users {
            let presence = Presence { users, armed: NEVER };
            let held = presence.held();
            topic.presence = Some(Box::new(presence));
            self.channels.watched += held;
        } else if !watched && let Some(mut presence) = topic.presence.take() {
            self.channels.watched -= presence.held();
            self.deadlines.rearm(Task::Absence(place), &mut presence.armed, NEVER);
        }
    }

    /// A connection of a user subscribes.
    pub(super) fn arrived(&mut self, place: u32, user: &UserId, out: &mut Effects) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(presence) = &mut topic.presence else { return };
        let mut joins = false;
        let was = presence.held();
        let here = presence.users.entry(user.clone()).or_insert_with(|| {
            joins = true;
            Here { connections: 0, until: NEVER }
        });
        here.connections += 1;
        here.until = NEVER;
        let (held, is_told) = (presence.held(), joins && presence.users.len() <= MOST_LISTED);
        let channel = topic.name();
        self.channels.watched = self.channels.watched - was + held;
        if is_told {
            let frame = Frame::UserJoined { channel, user_id: user.clone() };
            self.tell_watchers(place, user, frame, out);
        }
    }

    /// A connection of a user is on a channel no longer.
    pub(super) fn departed(&mut self, now: Now, place: u32, user: &UserId, how: Leaving, out: &mut Effects) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(presence) = &mut topic.presence else { return };
        let Some(here) = presence.users.get_mut(user) else { return };
        here.connections = here.connections.saturating_sub(1);
        if here.connections > 0 {
            return;
        }
        if how == Leaving::Unsubscribed {
            self.gone(place, user, out);
            return;
        }
        here.until = round_up(now.moment + GRACE);
        let due = presence.armed.min(here.until);
        self.deadlines.rearm(Task::Absence(place), &mut presence.armed, due);
    }

    /// Some who lost a connection may have been away for too long.
    pub(super) fn absent(&mut self, now: Now, place: u32, out: &mut Effects) {
        let Some(presence) = self.channels.at_mut(place).and_then(|topic| topic.presence.as_mut()) else {
            return;
        };
        presence.armed = NEVER;
        let away = presence.users.iter().filter(|(_, here)| here.until <= now.moment);
        let away: Vec<UserId> = away.map(|(user, _)| user.clone()).collect();
        let due = presence.users.values().map(|here| here.until).filter(|until| *until > now.moment).min();
        self.deadlines.rearm(Task::Absence(place), &mut presence.armed, due.unwrap_or(NEVER));
        for user in away {
            self.gone(place, &user, out);
        }
    }

    fn gone(&mut self, place: u32, user: &UserId, out: &mut Effects) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(presence) = &mut topic.presence else { return };
        let crowd = presence.users.len() > MOST_LISTED;
        let was = presence.held();
        let is_told = presence.users.remove(user).is_some() && !crowd;
        let (held, channel) = (presence.held(), topic.name());
        self.channels.watched = self.channels.watched - was + held;
        if is_told {
            let frame = Frame::UserLeft { channel, user_id: user.clone() };
            self.tell_watchers(place, user, frame, out);
        }
    }

    /// Tells those who watch, but not the user it is about.
    fn tell_watchers(&self, place: u32, about: &UserId, frame: Frame<'static>, out: &mut Effects) {
        let Some(topic) = self.channels.at(place) else { return };
        let start = out.recipients.len();
        for subscriber in topic.subscribers.iter().filter(|subscriber| subscriber.watches) {
            let user = self.connections.at(subscriber.slot).and_then(|connection| connection.user.as_ref());
            if user != Some(about) {
                out.recipients.push(subscriber.slot);
            }
        }
        let to = out.noted(start);
        if !to.is_empty() {
            out.push(Effect::Tell { frame: Box::new(frame), to });
        }
    }
}
