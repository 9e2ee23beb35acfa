//! Presence: which users are on a channel, and how many of their connections.
//!
//! Anonymous connections are no users. Counted only while some subscriber watches.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::subscribe::Leaving;
use super::topic::{Subscriber, Topic};
use super::topics::{TopicId, Topics};
use crate::hub::connection::Connection;
use crate::hub::connection::rate_limit::ListSpace;
use crate::hub::connection::table::Connections;
use crate::hub::event::{Cx, Effect, Effects};
use crate::hub::timers::{NEVER, Timer, Timers, round_up};
use crate::protocol::frame::Present;
use crate::protocol::{Frame, Moment, Payload, UserId};

/// A page that is reloaded is back before this.
pub(in crate::hub) const GRACE: Duration = Duration::from_secs(15);

/// Above this, a list is of no use to people and costs every join.
const MAX_LISTED: usize = 1000;

/// Nor does a list that is longer than this.
const LONGEST_LIST: usize = 64 << 10;

/// The users on a channel with a subscriber that watches.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Presence {
    users: BTreeMap<UserId, Member>,
    /// For which moment the deadline of those who lost a connection is set.
    armed: Moment,
    /// Bytes that their infos take.
    #[serde(skip)]
    info_bytes: usize,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Member {
    connections: u64,
    /// When a user without connections counts as gone.
    until: Moment,
    /// When the newest of the connections was opened, and the info that its token has of the
    /// user; of those who may come back, the last. Found again by another process.
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

    /// Counts the users on a topic.
    fn of(topic: &Topic, connections: &Connections) -> Self {
        let mut presence = Self { users: BTreeMap::new(), armed: NEVER, info_bytes: 0 };
        for connection in connected(topic, connections) {
            if let Some(user) = connection.user() {
                presence.users.entry(user.clone()).or_insert_with(Member::new).connections += 1;
            }
        }
        presence.describe_users(topic, connections, None);
        presence
    }

    /// Looks up the infos of all users on a topic, or of one.
    fn describe_users(&mut self, topic: &Topic, connections: &Connections, only: Option<&UserId>) {
        for connection in connected(topic, connections) {
            let user = connection.user().filter(|user| only.is_none_or(|only| *user == only));
            if let Some(user) = user {
                self.describe(user, connection.opened(), connection.info());
            }
        }
    }

    /// Takes the info of a user from a connection, where that is the newest. Of two that were
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

    /// A user has one more connection. Whether it is the first.
    fn join(&mut self, user: &UserId) -> bool {
        let mut joins = false;
        let here = self.users.entry(user.clone()).or_insert_with(|| {
            joins = true;
            Member::new()
        });
        if here.connections == 0 {
            here.opened = Moment::default();
        }
        here.connections += 1;
        here.until = NEVER;
        joins
    }

    /// How many users there are, and which, where they are not too many.
    fn listed(&self, room: &mut ListSpace) -> (u64, Option<Vec<Present>>) {
        let bytes = || self.users.iter().map(|(user, here)| entry_bytes(user, here.info.as_ref())).sum();
        let fits = |bytes: usize, room: &mut ListSpace| bytes <= LONGEST_LIST && room.take(bytes);
        let is_listed = self.users.len() <= MAX_LISTED && fits(bytes(), room);
        let entry = |(user, here): (&UserId, &Member)| Present {
            user_id: user.clone(),
            connections: here.connections,
            info: here.info.clone(),
        };
        let listed = is_listed.then(|| self.users.iter().map(entry).collect());
        (self.users.len() as u64, listed)
    }

    fn remove(&mut self, user: &UserId) -> bool {
        let gone = self.users.remove(user);
        self.info_bytes -= gone.as_ref().and_then(|here| here.info.as_ref()).map_or(0, info_held);
        gone.is_some()
    }
}

/// The info of one user takes its text, with the counters of those who share it.
fn info_held(info: &Payload) -> usize {
    16 + info.json().len()
}

/// What one user takes in a list.
fn entry_bytes(user: &UserId, info: Option<&Payload>) -> usize {
    /// Around the name.
    const ENTRY: usize = r#"{"user_id":"","connections":1000},"#.len();
    const INFO: usize = r#","info":"#.len();
    let escaped = user.as_str().bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    ENTRY + user.as_str().len() + escaped + info.map_or(0, |info| INFO + info.json().len())
}

/// The connections that are subscribed to a topic.
fn connected<'a>(topic: &'a Topic, connections: &'a Connections) -> impl Iterator<Item = &'a Connection> {
    topic.subscribers().iter().filter_map(|subscriber| connections.at(subscriber.slot()))
}

/// How many users are on a channel, and which, where they are not too many.
pub(in crate::hub) fn present(
    topic: &Topic,
    connections: &Connections,
    room: &mut ListSpace,
) -> (u64, Option<Vec<Present>>) {
    match topic.presence() {
        Some(presence) => presence.listed(room),
        None => Presence::of(topic, connections).listed(room),
    }
}

/// The info of a user without a connection, who may come back.
#[derive(Serialize, Deserialize)]
pub(in crate::hub) struct AbsentInfo {
    id: TopicId,
    user: UserId,
    info: Payload,
}

impl Topics {
    /// Changes the presence of a topic, where it is counted.
    fn change_presence<R>(
        &mut self,
        id: TopicId,
        change: impl FnOnce(&mut Presence, &Topic) -> R,
    ) -> Option<R> {
        let mut presence = self.set_presence(id, None)?;
        let result = self.at(id).map(|topic| change(&mut presence, topic));
        self.set_presence(id, Some(presence));
        result
    }

    /// The token of a connection on a channel is another one.
    pub(in crate::hub) fn update_presence_info(&mut self, connections: &Connections, id: TopicId, slot: u32) {
        let Some(connection) = connections.existing_at(slot) else { return };
        let Some(user) = connection.user() else { return };
        self.change_presence(id, |presence, _| {
            presence.describe(user, connection.opened(), connection.info());
        });
    }

    /// The infos of those without a connection who may come back.
    pub(in crate::hub) fn absent_infos(&self) -> Vec<AbsentInfo> {
        let mut absent = Vec::new();
        for id in self.with_presence() {
            let presence = self.at(id).and_then(Topic::presence);
            for (user, here) in presence.iter().flat_map(|presence| &presence.users) {
                if let (0, Some(info)) = (here.connections, &here.info) {
                    absent.push(AbsentInfo { id, user: user.clone(), info: info.clone() });
                }
            }
        }
        absent
    }

    /// Finds the infos of users again, after a state was read.
    pub(in crate::hub) fn restore_infos(&mut self, connections: &Connections, absent: Vec<AbsentInfo>) {
        for id in self.with_presence() {
            self.change_presence(id, |presence, topic| presence.describe_users(topic, connections, None));
        }
        for AbsentInfo { id, user, info } in absent {
            self.change_presence(id, |presence, _| {
                presence.describe(&user, Moment::default(), Some(&info));
            });
        }
    }

    /// Begins to count users where some subscriber watches, and ceases where none does.
    pub(in crate::hub) fn watch(&mut self, connections: &Connections, timers: &mut Timers, id: TopicId) {
        let Some(topic) = self.existing(id) else { return };
        let is_watched = topic.subscribers().iter().any(Subscriber::is_watching);
        if is_watched && topic.presence().is_none() {
            let presence = Presence::of(topic, connections);
            self.set_presence(id, Some(Box::new(presence)));
        } else if !is_watched && let Some(mut presence) = self.set_presence(id, None) {
            timers.rearm(Timer::Absence(id), &mut presence.armed, NEVER);
        }
    }

    /// A connection of a user subscribes.
    pub(in crate::hub) fn join_presence(
        &mut self,
        connections: &Connections,
        id: TopicId,
        slot: u32,
        user: &UserId,
        out: &mut Effects,
    ) {
        let connection = connections.at(slot);
        let frame = self.change_presence(id, |presence, topic| {
            let joins = presence.join(user);
            if let Some(connection) = connection {
                presence.describe(user, connection.opened(), connection.info());
            }
            let is_announced = joins && presence.users.len() <= MAX_LISTED;
            let info = connection.and_then(|connection| connection.info().cloned());
            is_announced.then(|| Frame::UserJoined { channel: topic.name(), user_id: user.clone(), info })
        });
        if let Some(frame) = frame.flatten() {
            self.notify_watchers(connections, id, user, frame, out);
        }
    }

    /// A connection of a user is on a channel no longer.
    pub(in crate::hub) fn leave_presence(
        &mut self,
        cx: &mut Cx<'_>,
        connections: &Connections,
        timers: &mut Timers,
        id: TopicId,
        user: &UserId,
        how: Leaving,
    ) {
        let is_gone = self.change_presence(id, |presence, topic| {
            let Some(here) = presence.users.get_mut(user) else { return false };
            here.connections = here.connections.saturating_sub(1);
            if here.connections > 0 {
                presence.forget_newest(user);
                presence.describe_users(topic, connections, Some(user));
                return false;
            }
            if how == Leaving::Unsubscribed {
                return true;
            }
            here.until = round_up(cx.now.moment + GRACE);
            let due = presence.armed.min(here.until);
            timers.rearm(Timer::Absence(id), &mut presence.armed, due);
            false
        });
        if is_gone == Some(true) {
            self.remove_user(connections, id, user, cx.out);
        }
    }

    /// Some who lost a connection may have been away for too long.
    pub(in crate::hub) fn expire_absent(
        &mut self,
        cx: &mut Cx<'_>,
        connections: &Connections,
        timers: &mut Timers,
        id: TopicId,
    ) {
        let now = cx.now.moment;
        let away = self.change_presence(id, |presence, _| {
            presence.armed = NEVER;
            let away = presence.users.iter().filter(|(_, here)| here.until <= now);
            let away: Vec<UserId> = away.map(|(user, _)| user.clone()).collect();
            let due = presence.users.values().map(|here| here.until).filter(|until| *until > now).min();
            timers.rearm(Timer::Absence(id), &mut presence.armed, due.unwrap_or(NEVER));
            away
        });
        for user in away.unwrap_or_default() {
            self.remove_user(connections, id, &user, cx.out);
        }
    }

    /// A user is gone.
    fn remove_user(&mut self, connections: &Connections, id: TopicId, user: &UserId, out: &mut Effects) {
        let frame = self.change_presence(id, |presence, topic| {
            let is_crowd = presence.users.len() > MAX_LISTED;
            let is_announced = presence.remove(user) && !is_crowd;
            is_announced.then(|| Frame::UserLeft { channel: topic.name(), user_id: user.clone() })
        });
        if let Some(frame) = frame.flatten() {
            self.notify_watchers(connections, id, user, frame, out);
        }
    }

    /// Notifies those who watch, but not the user it is about.
    fn notify_watchers(
        &self,
        connections: &Connections,
        id: TopicId,
        about: &UserId,
        frame: Frame<'static>,
        out: &mut Effects,
    ) {
        let Some(topic) = self.existing(id) else { return };
        let start = out.recipients.len();
        for subscriber in topic.subscribers().iter().filter(|subscriber| subscriber.is_watching()) {
            let user = connections.at(subscriber.slot()).and_then(|connection| connection.user());
            if user != Some(about) {
                out.recipients.push(subscriber.slot());
            }
        }
        let to = out.noted(start);
        if !to.is_empty() {
            out.push(Effect::Broadcast { frame: Box::new(frame), to });
        }
    }
}
