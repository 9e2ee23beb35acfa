//! Who is on a channel.
//!
//! Knows users and how many of their connections are there. Does not know
//! anonymous connections, which are nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::topics::Topic;
use super::unsubscribe::Leaving;
use crate::hub::connection::rate_limit::ListSpace;
use crate::hub::event::{Cx, Effect, Effects};
use crate::hub::timers::{NEVER, Timer, round_up};
use crate::hub::{Hub, RequestContext, RequestResult};
use crate::protocol::frame::Present;
use crate::protocol::{Channel, Frame, Moment, Payload, UserId};

/// A page that is reloaded is back before this.
pub(in crate::hub) const GRACE: Duration = Duration::from_secs(15);

/// Above this, a list says nothing to people and costs every join.
const MOST_LISTED: usize = 1000;

/// Nor does a list that is longer than this.
const LONGEST_LIST: usize = 64 << 10;

/// Who is on a channel that somebody watches.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Presence {
    users: BTreeMap<UserId, Member>,
    /// For which moment the deadline of those who lost a connection is set.
    armed: Moment,
    /// What all that is said of them takes.
    #[serde(skip)]
    info_bytes: usize,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Member {
    connections: u64,
    /// When a user without connections is taken for gone.
    until: Moment,
    /// When the newest of the connections was opened, and what its token says of the user;
    /// of those who may come back, the last. Found again by another process.
    #[serde(skip)]
    opened: Moment,
    #[serde(skip)]
    info: Option<Payload>,
}

impl Member {
    fn new() -> Self {
        Self { connections: 0, until: NEVER, opened: Moment::default(), info: None }
    }
}

impl Presence {
    /// What it takes: its own block (48 bytes), and leaves of a tree with eleven places each,
    /// of which a tree of more than one uses seven (640).
    pub(in crate::hub) fn held(&self) -> usize {
        let leaves = if self.users.len() <= 11 { 1 } else { self.users.len().div_ceil(7) };
        48 + leaves * 640 + self.info_bytes
    }

    /// The same user as its connection says, where that is the newest. Of two that were
    /// opened in one moment the later one here counts.
    fn describe(&mut self, user: &UserId, opened: Moment, info: Option<&Payload>) {
        let Some(here) = self.users.get_mut(user).filter(|here| here.opened <= opened) else { return };
        let was = std::mem::replace(&mut here.info, info.cloned());
        here.opened = opened;
        self.info_bytes = self.info_bytes + info.map_or(0, info_held) - was.as_ref().map_or(0, info_held);
    }

    /// It is to be found out anew which connection is the newest.
    fn forget_newest(&mut self, user: &UserId) {
        if let Some(here) = self.users.get_mut(user) {
            here.opened = Moment::default();
        }
    }

    fn remove(&mut self, user: &UserId) -> bool {
        let gone = self.users.remove(user);
        self.info_bytes -= gone.as_ref().and_then(|here| here.info.as_ref()).map_or(0, info_held);
        gone.is_some()
    }
}

/// What is said of one user takes its text, with the counters of those who share it.
fn info_held(info: &Payload) -> usize {
    16 + info.json().len()
}

/// One user in a list.
fn entry_bytes(user: &UserId, info: Option<&Payload>) -> usize {
    /// Around the name.
    const ENTRY: usize = r#"{"user_id":"","connections":1000},"#.len();
    const INFO: usize = r#","info":"#.len();
    let escaped = user.as_str().bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    ENTRY + user.as_str().len() + escaped + info.map_or(0, |info| INFO + info.json().len())
}

impl Hub {
    /// How many users are on a channel, and who, where they are not too many.
    pub(in crate::hub) fn present(&self, topic: &Topic, room: &mut ListSpace) -> (u64, Option<Vec<Present>>) {
        let counted;
        let presence = match &topic.presence {
            Some(presence) => presence,
            None => {
                counted = self.count_users(topic);
                &counted
            }
        };
        let users = &presence.users;
        let bytes = || users.iter().map(|(user, here)| entry_bytes(user, here.info.as_ref())).sum();
        let fits = |bytes: usize, room: &mut ListSpace| bytes <= LONGEST_LIST && room.take(bytes);
        let is_listed = users.len() <= MOST_LISTED && fits(bytes(), room);
        let entry = |(user, here): (&UserId, &Member)| Present {
            user_id: user.clone(),
            connections: here.connections,
            info: here.info.clone(),
        };
        let listed = is_listed.then(|| users.iter().map(entry).collect());
        (users.len() as u64, listed)
    }

    fn count_users(&self, topic: &Topic) -> Presence {
        let mut presence = Presence { users: BTreeMap::new(), armed: NEVER, info_bytes: 0 };
        for subscriber in &topic.subscribers {
            let Some(user) = self.connections.at(subscriber.slot).and_then(|c| c.user()) else {
                continue;
            };
            presence.users.entry(user.clone()).or_insert_with(Member::new).connections += 1;
        }
        self.describe_users(topic, &mut presence, None);
        presence
    }

    /// Looks up what the tokens of all who are on a channel say, or of one user.
    fn describe_users(&self, topic: &Topic, presence: &mut Presence, only: Option<&UserId>) {
        for connection in topic.subscribers.iter().filter_map(|s| self.connections.at(s.slot)) {
            if let Some(user) = connection.user().filter(|user| only.is_none_or(|only| *user == only)) {
                presence.describe(user, connection.opened(), connection.info());
            }
        }
    }

    /// What the token of a connection says that is on a channel is not what it was.
    pub(in crate::hub) fn redescribe(&mut self, place: u32, slot: u32) {
        let Some(connection) = self.connections.at(slot) else { return };
        let presence = self.channels.at_mut(place).and_then(|topic| topic.presence.as_mut());
        if let (Some(presence), Some(user)) = (presence, connection.user()) {
            let was = presence.held();
            presence.describe(user, connection.opened(), connection.info());
            let held = presence.held();
            self.channels.watched = self.channels.watched - was + held;
        }
    }

    /// A user has one connection less on a channel, and still some.
    fn find_newest(&mut self, place: u32, user: &UserId) {
        let Some(mut presence) = self.channels.at_mut(place).and_then(|topic| topic.presence.take()) else {
            return;
        };
        let was = presence.held();
        presence.forget_newest(user);
        if let Some(topic) = self.channels.at(place) {
            self.describe_users(topic, &mut presence, Some(user));
        }
        self.channels.watched = self.channels.watched - was + presence.held();
        if let Some(topic) = self.channels.at_mut(place) {
            topic.presence = Some(presence);
        }
    }

    /// What is said of those without a connection who may come back.
    pub(in crate::hub) fn infos_of_absent(&self) -> Vec<(u32, UserId, Payload)> {
        let mut absent = Vec::new();
        for place in self.channels.with_presence() {
            let presence = self.channels.at(place).and_then(|topic| topic.presence.as_ref());
            for (user, here) in presence.iter().flat_map(|presence| &presence.users) {
                if let (0, Some(info)) = (here.connections, &here.info) {
                    absent.push((place, user.clone(), info.clone()));
                }
            }
        }
        absent
    }

    /// Finds again what is said of those who are present, after a state was read.
    pub(in crate::hub) fn restore_infos(&mut self, absent: Vec<(u32, UserId, Payload)>) {
        for place in self.channels.with_presence() {
            let Some(mut presence) = self.channels.at_mut(place).and_then(|topic| topic.presence.take())
            else {
                continue;
            };
            if let Some(topic) = self.channels.at(place) {
                self.describe_users(topic, &mut presence, None);
            }
            self.channels.watched += presence.info_bytes;
            if let Some(topic) = self.channels.at_mut(place) {
                topic.presence = Some(presence);
            }
        }
        for (place, user, info) in absent {
            if let Some(presence) = self.channels.at_mut(place).and_then(|topic| topic.presence.as_mut()) {
                presence.describe(&user, Moment::default(), Some(&info));
                self.channels.watched += info_held(&info);
            }
        }
    }

    pub(in crate::hub) fn presence(
        &self,
        ask: &RequestContext,
        channel: Channel,
        out: &mut Effects,
    ) -> RequestResult {
        self.may_look(ask.from, &channel)?;
        let topic = self.channels.find_channel(&channel).and_then(|place| self.channels.at(place));
        let (count, presence) =
            topic.map_or((0, Some(Vec::new())), |topic| self.present(topic, &mut ListSpace::default()));
        self.answer(ask, Frame::Presence { channel, presence, count }, out);
        Ok(())
    }

    /// Begins to keep count where somebody watches, and ceases where nobody does.
    pub(in crate::hub) fn watch(&mut self, place: u32) {
        let Some(topic) = self.channels.at(place) else { return };
        let watched = topic.subscribers.iter().any(|subscriber| subscriber.watches);
        let counted = (watched && topic.presence.is_none()).then(|| self.count_users(topic));
        let Some(topic) = self.channels.at_mut(place) else { return };
        if let Some(presence) = counted {
            let held = presence.held();
            topic.presence = Some(Box::new(presence));
            self.channels.watched += held;
        } else if !watched && let Some(mut presence) = topic.presence.take() {
            self.channels.watched -= presence.held();
            self.timers.rearm(Timer::Absence(place), &mut presence.armed, NEVER);
        }
    }

    /// A connection of a user subscribes.
    pub(in crate::hub) fn arrived(&mut self, place: u32, slot: u32, user: &UserId, out: &mut Effects) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(presence) = &mut topic.presence else { return };
        let mut joins = false;
        let was = presence.held();
        let here = presence.users.entry(user.clone()).or_insert_with(|| {
            joins = true;
            Member::new()
        });
        if here.connections == 0 {
            here.opened = Moment::default();
        }
        here.connections += 1;
        here.until = NEVER;
        let info = self.connections.at(slot).and_then(|connection| {
            presence.describe(user, connection.opened(), connection.info());
            connection.info().cloned()
        });
        let (held, is_told) = (presence.held(), joins && presence.users.len() <= MOST_LISTED);
        let channel = topic.name();
        self.channels.watched = self.channels.watched - was + held;
        if is_told {
            let frame = Frame::UserJoined { channel, user_id: user.clone(), info };
            self.tell_watchers(place, user, frame, out);
        }
    }

    /// A connection of a user is on a channel no longer.
    pub(in crate::hub) fn departed(&mut self, cx: &mut Cx<'_>, place: u32, user: &UserId, how: Leaving) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(presence) = &mut topic.presence else { return };
        let Some(here) = presence.users.get_mut(user) else { return };
        here.connections = here.connections.saturating_sub(1);
        if here.connections > 0 {
            return self.find_newest(place, user);
        }
        if how == Leaving::Unsubscribed {
            self.gone(place, user, cx.out);
            return;
        }
        here.until = round_up(cx.now.moment + GRACE);
        let due = presence.armed.min(here.until);
        self.timers.rearm(Timer::Absence(place), &mut presence.armed, due);
    }

    /// Some who lost a connection may have been away for too long.
    pub(in crate::hub) fn absent(&mut self, cx: &mut Cx<'_>, place: u32) {
        let Some(presence) = self.channels.at_mut(place).and_then(|topic| topic.presence.as_mut()) else {
            return;
        };
        presence.armed = NEVER;
        let away = presence.users.iter().filter(|(_, here)| here.until <= cx.now.moment);
        let away: Vec<UserId> = away.map(|(user, _)| user.clone()).collect();
        let due = presence.users.values().map(|here| here.until).filter(|until| *until > cx.now.moment).min();
        self.timers.rearm(Timer::Absence(place), &mut presence.armed, due.unwrap_or(NEVER));
        for user in away {
            self.gone(place, &user, cx.out);
        }
    }

    fn gone(&mut self, place: u32, user: &UserId, out: &mut Effects) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        let Some(presence) = &mut topic.presence else { return };
        let crowd = presence.users.len() > MOST_LISTED;
        let was = presence.held();
        let is_told = presence.remove(user) && !crowd;
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
            let user = self.connections.at(subscriber.slot).and_then(|connection| connection.user());
            if user != Some(about) {
                out.recipients.push(subscriber.slot);
            }
        }
        let to = out.noted(start);
        if !to.is_empty() {
            out.push(Effect::Broadcast { frame: Box::new(frame), to });
        }
    }
}
