//! Table of all open connections, by slot.

use std::collections::HashSet;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::Connection;
use super::rights::{Rights, Terms};
use crate::hub::channel::topic::Topic;
use crate::hub::channel::topics::Topics;
use crate::hub::event::LogKey;
use crate::protocol::{ConnectionId, UnixTime};

/// A table of fewer is not worth shrinking.
const MANY: usize = 64;

/// All connections, by slot. One that was ordered to close is not here any more: what its
/// socket still delivers finds nothing.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::hub) struct Connections(Vec<Option<Connection>>);

/// What the token of a connection says, as it goes behind the rest of a state.
#[derive(Serialize, Deserialize)]
pub(in crate::hub) struct SavedBearer {
    slot: u32,
    issued_at: UnixTime,
    terms: Option<Rc<Terms>>,
}

impl Connections {
    pub(in crate::hub) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.at(id.slot).filter(|connection| connection.tag == id.tag)
    }

    pub(in crate::hub) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.at_mut(id.slot).filter(|connection| connection.tag == id.tag)
    }

    pub(in crate::hub) fn contains(&self, id: ConnectionId) -> bool {
        self.get(id).is_some()
    }

    pub(in crate::hub) fn at(&self, slot: u32) -> Option<&Connection> {
        self.0.get(slot as usize)?.as_ref()
    }

    pub(in crate::hub) fn at_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.0.get_mut(slot as usize)?.as_mut()
    }

    /// A connection that cannot be gone: it was found since any was closed.
    #[track_caller]
    pub(in crate::hub) fn existing(&self, id: ConnectionId) -> Option<&Connection> {
        let connection = self.get(id);
        debug_assert!(connection.is_some(), "a connection in use is in the table");
        connection
    }

    #[track_caller]
    pub(in crate::hub) fn existing_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.get_mut(id);
        debug_assert!(connection.is_some(), "a connection in use is in the table");
        connection
    }

    /// The same, at the slot of a subscriber or a reader: a connection takes those with it.
    #[track_caller]
    pub(in crate::hub) fn existing_at(&self, slot: u32) -> Option<&Connection> {
        let connection = self.at(slot);
        debug_assert!(connection.is_some(), "a subscriber is a connection in the table");
        connection
    }

    /// The id of the connection at a slot.
    pub(in crate::hub) fn id(&self, slot: u32) -> Option<ConnectionId> {
        self.at(slot).map(|connection| connection.id(slot))
    }

    pub(super) fn insert(&mut self, slot: u32, connection: Connection) {
        let at = slot as usize;
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at] = Some(connection);
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let gone = self.0.get_mut(id.slot as usize)?.take_if(|connection| connection.tag == id.tag)?;
        while self.0.last().is_some_and(Option::is_none) {
            self.0.pop();
        }
        if self.0.capacity() > 8 * self.0.len().max(MANY) {
            self.0.shrink_to(2 * self.0.len());
        }
        Some(gone)
    }

    /// With their slots, in their order.
    pub(in crate::hub) fn iter(&self) -> impl Iterator<Item = (u32, &Connection)> {
        self.iter_from(0)
    }

    /// Those whose slot is not before one.
    pub(in crate::hub) fn iter_from(&self, from: usize) -> impl Iterator<Item = (u32, &Connection)> {
        let rest = self.0.get(from..).unwrap_or_default();
        (from as u32..).zip(rest).filter_map(|(slot, at)| Some((slot, at.as_ref()?)))
    }

    /// The slots of all.
    pub(in crate::hub) fn slots(&self) -> Vec<u32> {
        self.iter().map(|(slot, _)| slot).collect()
    }

    /// The ids of all that satisfy a condition.
    pub(in crate::hub) fn ids(&self, wanted: impl Fn(&Connection) -> bool) -> Vec<ConnectionId> {
        let wanted = self.iter().filter(|(_, connection)| wanted(connection));
        wanted.map(|(slot, connection)| connection.id(slot)).collect()
    }

    pub(in crate::hub) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.0.iter_mut().flatten()
    }

    /// Sheds messages to all that have something queued, until they have taken it: what each
    /// misses makes one gap, reported once it has taken the rest.
    pub(in crate::hub) fn shed_backlogged(&mut self) {
        self.iter_mut().for_each(Connection::shed_if_backlogged);
    }

    /// Lets equal rights be one again, after they were read back one by one.
    pub(in crate::hub) fn share_rights(&mut self) {
        let mut known: HashSet<Rc<Rights>> = HashSet::new();
        for own in self.iter_mut().filter_map(|connection| connection.rights.as_mut()) {
            match known.get(own) {
                Some(rights) => *own = rights.clone(),
                None => drop(known.insert(own.clone())),
            }
        }
    }

    /// Lets the id of a user be one text again, after it was read back many times.
    pub(in crate::hub) fn share_users(&mut self, topics: &Topics) {
        for connection in self.iter_mut() {
            let topic = connection.inbox_topic().and_then(|topic_id| topics.at(topic_id));
            if let Some(LogKey::Inbox(user)) = topic.map(Topic::key) {
                connection.user = Some(user.clone());
            }
        }
    }

    /// What the tokens of connections say, where they say anything.
    pub(in crate::hub) fn saved_bearers(&self) -> Vec<SavedBearer> {
        let says = |connection: &Connection| connection.issued_at.0 > 0 || connection.terms.is_some();
        let bearers = self.iter().filter(|(_, connection)| says(connection));
        bearers
            .map(|(slot, connection)| SavedBearer {
                slot,
                issued_at: connection.issued_at,
                terms: connection.terms.clone(),
            })
            .collect()
    }

    /// The same, read back.
    pub(in crate::hub) fn restore_bearers(&mut self, bearers: Vec<SavedBearer>) {
        for SavedBearer { slot, issued_at, terms } in bearers {
            if let Some(connection) = self.at_mut(slot) {
                (connection.issued_at, connection.terms) = (issued_at, terms);
            }
        }
    }
}
