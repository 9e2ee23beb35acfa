//! Telling a sender that its message has arrived, and was read.
//!
//! Knows who is to be told of which message. Does not know what moves a cursor;
//! that is in [`inbox`](super::inbox).

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::fanout::PublishOptions;
use super::publish::Publisher;
use crate::hub::Hub;
use crate::hub::event::{Cx, LogKey, Now};
use crate::protocol::{ConnectionId, Event, Message, MessageId, Moment, Payload, Sender, UserId};

/// Who wants a receipt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) enum Wants {
    /// A user, in the inbox.
    User(UserId),
    /// A worker, which has none: on its connection, while that is there.
    Worker(ConnectionId),
}

/// A receipt that is still to be told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct Owed {
    pub(in crate::hub) seq: u64,
    pub(in crate::hub) expires: Moment,
    to: Wants,
    message_id: MessageId,
    /// `delivered` was told; `read` is not.
    pub(in crate::hub) is_delivered: bool,
}

impl Owed {
    /// Whether nobody could be told any more when all connections are gone.
    pub(in crate::hub) fn is_for_worker(&self) -> bool {
        matches!(self.to, Wants::Worker(_))
    }
}

/// How far a message has come.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Delivered,
    Read,
}

/// The data of a receipt.
#[derive(Serialize)]
struct About<'a> {
    message_id: &'a MessageId,
    /// Who has it.
    user_id: &'a UserId,
    state: State,
}

impl Hub {
    /// Notes that somebody wants a receipt for the message that was just kept for
    /// a user.
    pub(in crate::hub) fn owe_receipt(&mut self, now: Now, user: &UserId, message_id: &MessageId, to: Wants) {
        let most = self.settings.inbox.count;
        // It may be read long after it was delivered.
        let expires = now.moment + self.settings.inbox.ttl;
        let Some(place) = self.channels.find_inbox(user) else { return };
        let Some(topic) = self.channels.at_mut(place) else { return };
        let (seq, Some(log)) = (topic.seq, &mut topic.log) else { return };
        if log.receipts.len() >= most {
            log.receipts.pop_front();
        }
        if log.receipts.is_empty() {
            // Most inboxes owe one; a list would take room for four.
            log.receipts.reserve_exact(1);
        }
        let message_id = message_id.clone();
        log.receipts.push_back(Owed { seq, expires, to, message_id, is_delivered: false });
        self.settle(now, place);
    }

    /// A user has acknowledged up to a position.
    pub(in crate::hub) fn tell_receipts(&mut self, cx: &mut Cx<'_>, place: u32, seq: u64, read: bool) {
        let Some(topic) = self.channels.at_mut(place) else { return };
        let (LogKey::Inbox(user), Some(log)) = (&topic.key, &mut topic.log) else { return };
        let user = user.clone();
        let passed = log.receipts.partition_point(|owed| owed.seq <= seq);
        let due: Vec<Owed> = if read {
            log.receipts.drain(..passed).collect()
        } else {
            let due = log.receipts.iter_mut().take(passed).filter(|owed| !owed.is_delivered);
            due.map(|owed| {
                owed.is_delivered = true;
                owed.clone()
            })
            .collect()
        };
        let state = if read { State::Read } else { State::Delivered };
        for owed in &due {
            self.tell_receipt(cx, owed, &user, state);
        }
        self.settle(cx.now, place);
    }

    fn tell_receipt(&mut self, cx: &mut Cx<'_>, owed: &Owed, user_id: &UserId, state: State) {
        let about = About { message_id: &owed.message_id, user_id, state };
        let message = self.own_message(cx.now, Event::receipt(), Payload::of(&about));
        match &owed.to {
            Wants::User(user) => {
                // It must not push out what somebody said: where there is no room
                // for it, it is for those who are here.
                let terms = if self.is_full_for(user, &message) {
                    PublishOptions::fleeting()
                } else {
                    PublishOptions::default()
                };
                self.publish_on(cx, LogKey::Inbox(user.clone()), message, &Publisher::hub(), terms);
            }
            Wants::Worker(conn) => {
                // As an answer, it is never shed.
                if self.connections.get(*conn).is_some() {
                    let start = cx.out.recipients.len();
                    cx.out.recipients.push(conn.slot);
                    self.deliver(Rc::new(message), start, None, cx.out);
                }
            }
        }
    }

    /// Whether an inbox has room for one more message only if another goes.
    fn is_full_for(&self, user: &UserId, message: &Message) -> bool {
        let topic = self.channels.find_inbox(user).and_then(|place| self.channels.at(place));
        let Some(log) = topic.and_then(|topic| topic.log.as_ref()) else { return false };
        let policy = &self.settings.inbox;
        log.kept.len() >= policy.count || log.sums.bytes + message.size() > policy.bytes
    }

    /// What the hub itself says.
    pub(in crate::hub) fn own_message(&mut self, now: Now, event: Event, data: Payload) -> Message {
        Message {
            channel: None,
            event,
            data,
            from: Sender::Hub,
            user_id: None,
            message_id: MessageId::made(self.random.next()),
            timestamp: now.wall,
            seq: None,
        }
    }
}
