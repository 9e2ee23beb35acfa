//! The daemon's own channels: users who come and go, and messages that reached nobody.
//!
//! A worker that cares for users who are away subscribes to them as to any other channel;
//! [`fanout`](super::fanout) publishes on them.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::topic::Topic;
use super::topics::{TopicId, Topics};
use crate::hub::event::{DeliveryOutcome, Effect, Effects, FetchPurpose, LogKey};
use crate::hub::log::entries::EntryRun;
use crate::hub::log::replay::PAGE_MESSAGES;
use crate::protocol::ids::spelled;
use crate::protocol::{Channel, Event, Message, MessageId, Moment, Payload, UserId};

/// The users who lost their last connection and may be back in a moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct PendingLeaves {
    /// When each of them counts as gone.
    until: BTreeMap<UserId, Moment>,
    /// The same, oldest first, with those who came back meanwhile.
    order: VecDeque<(Moment, UserId)>,
}

impl PendingLeaves {
    /// When the first of them may be gone.
    pub(in crate::hub) fn deadline(&self) -> Option<Moment> {
        self.order.front().map(|(until, _)| *until)
    }

    /// A user is here again. Whether it was about to count as gone.
    pub(super) fn cancel(&mut self, user: &UserId) -> bool {
        self.until.remove(user).is_some()
    }

    /// A user counts as gone at `until`, unless it is back before.
    pub(super) fn add(&mut self, until: Moment, user: UserId) {
        self.order.push_back((until, user.clone()));
        self.until.insert(user, until);
    }

    /// The next who has been away for long enough.
    pub(super) fn next(&mut self, now: Moment) -> Option<UserId> {
        while self.deadline().is_some_and(|until| until <= now) {
            let (until, user) = self.order.pop_front()?;
            if self.until.get(&user) == Some(&until) {
                self.until.remove(&user);
                return Some(user);
            }
        }
        None
    }
}

/// The data of `system:undelivered`: all but the message's own data.
#[derive(Serialize)]
struct UndeliveredData<'a> {
    state: DeliveryOutcome,
    message_id: &'a MessageId,
    event: &'a Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a Channel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a UserId>,
    epoch: String,
    seq: u64,
}

/// The data of `system:user_joined` and `system:user_left`.
#[derive(Serialize)]
pub(super) struct UserData<'a> {
    user_id: &'a UserId,
}

impl<'a> UserData<'a> {
    pub(super) fn new(user_id: &'a UserId) -> Self {
        Self { user_id }
    }
}

/// The data of `system:undelivered` about a message of a topic.
pub(super) fn undelivered_data(topic: &Topic, message: &Message, state: DeliveryOutcome) -> Payload {
    let (channel, user_id) = match topic.key() {
        LogKey::Channel(channel) => (Some(channel), None),
        LogKey::Inbox(user) => (None, Some(user)),
    };
    Payload::of(&UndeliveredData {
        state,
        message_id: &message.message_id,
        event: &message.event,
        channel,
        user_id,
        epoch: spelled(topic.position().epoch),
        seq: message.seq.unwrap_or_default(),
    })
}

impl Topics {
    /// Whether any worker has ever subscribed to a channel of the daemon's own: what no
    /// worker reads is not worth keeping.
    pub(super) fn is_asked_for(&self, channel: &Channel) -> bool {
        self.find_channel(channel).is_some()
    }

    /// Has messages read that reached nobody, so that workers can be notified of them.
    pub(in crate::hub) fn fetch_undelivered(
        &self,
        id: TopicId,
        runs: &[EntryRun],
        outcome: DeliveryOutcome,
        out: &mut Effects,
    ) {
        let Some(topic) = self.existing(id) else { return };
        if topic.is_undelivered() || !self.is_asked_for(&Channel::undelivered()) {
            return;
        }
        for run in runs {
            let (fetch, log) = (FetchPurpose::Notice(outcome), topic.key().clone());
            let after = run.first() - 1;
            out.push(Effect::Fetch { fetch, log, after, count: run.count(), bytes: usize::MAX });
        }
    }

    /// What was on its way to the last connection of a user that got the inbox waits now, and
    /// workers are notified of that once.
    pub(in crate::hub) fn announce_waiting(&mut self, id: TopicId, out: &mut Effects) {
        let Some(topic) = self.at_mut(id).filter(|topic| topic.has_no_recipient()) else { return };
        let cursor = topic.numbers().cursor();
        let Some(log) = topic.log_mut() else { return };
        let waiting = log.announce_after(cursor, PAGE_MESSAGES);
        self.fetch_undelivered(id, &waiting, DeliveryOutcome::Kept, out);
    }
}
