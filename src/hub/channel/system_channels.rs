//! The daemon's own channels: who comes and goes, and what reached nobody.
//!
//! Knows what a worker needs that cares for users who are away, and says it to
//! those that have asked. Does not know who they are: they subscribe as to any
//! other channel.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::fanout::PublishOptions;
use super::presence::GRACE;
use super::publish::Publisher;
use crate::hub::Hub;
use crate::hub::event::{Cx, DeliveryOutcome, Effect, Effects, FetchPurpose, LogKey, Now};
use crate::hub::log::replay::PAGE_MESSAGES;
use crate::hub::timers::round_up;
use crate::protocol::ids::spelled;
use crate::protocol::{Channel, Event, Message, MessageId, Moment, Payload, Sender, UserId};

/// The users who lost their last connection and may be back in a moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct PendingLeaves {
    /// When each of them is taken for gone.
    until: BTreeMap<UserId, Moment>,
    /// The same, oldest first, with those who came back meanwhile.
    order: VecDeque<(Moment, UserId)>,
}

impl PendingLeaves {
    /// When the first of them may be gone.
    pub(in crate::hub) fn deadline(&self) -> Option<Moment> {
        self.order.front().map(|(until, _)| *until)
    }

    /// The next who has been away for long enough.
    fn next(&mut self, now: Moment) -> Option<UserId> {
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
struct Undelivered<'a> {
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
struct About<'a> {
    user_id: &'a UserId,
}

impl Hub {
    /// A user's first connection is here.
    pub(in crate::hub) fn user_came(&mut self, cx: &mut Cx<'_>, user: UserId) {
        if self.pending_leaves.until.remove(&user).is_none() {
            self.tell_presence(cx, Event::user_joined(), &user);
        }
    }

    /// A user's last connection is gone; a page that is reloaded is back soon.
    pub(in crate::hub) fn user_went(&mut self, now: Now, user: UserId) {
        let asked = |channel| self.channels.find_channel(&channel).is_some();
        if self.stopping.is_some() || !(asked(Channel::presence()) || asked(Channel::undelivered())) {
            return;
        }
        let until = round_up(now.moment + GRACE);
        self.pending_leaves.order.push_back((until, user.clone()));
        self.pending_leaves.until.insert(user, until);
    }

    /// Tells of those who did not come back.
    pub(in crate::hub) fn take_leave(&mut self, cx: &mut Cx<'_>) {
        while let Some(user) = self.pending_leaves.next(cx.now.moment) {
            self.tell_presence(cx, Event::user_left(), &user);
            if let Some(place) = self.channels.find_inbox(&user) {
                self.tell_waiting(place, cx.out);
            }
        }
    }

    fn tell_presence(&mut self, cx: &mut Cx<'_>, event: Event, user_id: &UserId) {
        // It is about now: not kept, and without a position.
        let terms = PublishOptions::fleeting();
        self.tell_workers(cx, Channel::presence(), event, &About { user_id }, terms);
    }

    /// Says something on a channel of the daemon's own, if anybody has ever asked
    /// for it: what nobody wants to know is not worth keeping.
    fn tell_workers(
        &mut self,
        cx: &mut Cx<'_>,
        channel: Channel,
        event: Event,
        about: &impl Serialize,
        terms: PublishOptions,
    ) {
        if self.channels.find_channel(&channel).is_some() {
            let message = self.own_message(cx.now, event, Payload::of(about));
            self.publish_on(cx, LogKey::Channel(channel), message, &Publisher::hub(), terms);
        }
    }

    /// A message waits for a user none of whose connections hears the inbox.
    pub(in crate::hub) fn tell_kept(&mut self, cx: &mut Cx<'_>, place: u32, message: &Message) {
        let log = self.channels.at_mut(place).and_then(|topic| topic.log.as_mut());
        if let Some(kept) = log.and_then(|log| log.find_mut(message.seq.unwrap_or_default())) {
            kept.told = true;
        }
        self.tell_undelivered(cx, place, message, DeliveryOutcome::Kept);
    }

    /// What was on its way to the last connection of a user that heard the inbox
    /// waits now, and is told once.
    pub(in crate::hub) fn tell_waiting(&mut self, place: u32, out: &mut Effects) {
        let Some(topic) = self.channels.at_mut(place).filter(|topic| topic.is_unheard()) else { return };
        let cursor = topic.cursor;
        let Some(log) = &mut topic.log else { return };
        let waiting = log.runs(PAGE_MESSAGES, |kept| kept.seq > cursor && !kept.told);
        log.kept.iter_mut().for_each(|kept| kept.told = true);
        self.look_up(place, &waiting, DeliveryOutcome::Kept, out);
    }

    fn tell_undelivered(&mut self, cx: &mut Cx<'_>, place: u32, message: &Message, state: DeliveryOutcome) {
        let Some(topic) = self.channels.at(place) else { return };
        let (channel, user_id) = match topic.key.clone() {
            LogKey::Channel(channel) => (Some(channel), None),
            LogKey::Inbox(user) => (None, Some(user)),
        };
        let about = Undelivered {
            state,
            message_id: &message.message_id,
            event: &message.event,
            channel: channel.as_ref(),
            user_id: user_id.as_ref(),
            epoch: spelled(topic.epoch),
            seq: message.seq.unwrap_or_default(),
        };
        self.tell_workers(
            cx,
            Channel::undelivered(),
            Event::undelivered(),
            &about,
            PublishOptions::default(),
        );
    }

    /// Reads messages that reached nobody, each run by its first position and its
    /// length, so that this can be told.
    pub(in crate::hub) fn look_up(
        &self,
        place: u32,
        runs: &[(u64, usize)],
        fate: DeliveryOutcome,
        out: &mut Effects,
    ) {
        let Some(topic) = self.channels.at(place) else { return };
        if topic.tells_of_others() || self.channels.find_channel(&Channel::undelivered()).is_none() {
            return;
        }
        for (first, count) in runs {
            let (fetch, log) = (FetchPurpose::Notice(fate), topic.key.clone());
            out.push(Effect::Fetch { fetch, log, after: first - 1, count: *count, bytes: usize::MAX });
        }
    }

    /// Tells what became of messages that reached nobody. Where the store has a
    /// hole, what it found instead is not meant.
    pub(in crate::hub) fn tell_fate(
        &mut self,
        cx: &mut Cx<'_>,
        key: &LogKey,
        messages: &[Rc<Message>],
        fate: DeliveryOutcome,
    ) {
        let Some(place) = self.channels.find(key) else { return };
        for message in messages {
            let log = self.channels.at(place).and_then(|topic| topic.log.as_ref());
            let waits = log.is_some_and(|log| log.contains(message.seq.unwrap_or_default()));
            // That somebody has a message is worth no push to anybody.
            if waits == (fate == DeliveryOutcome::Kept) && message.from != Sender::Hub {
                self.tell_undelivered(cx, place, message, fate);
            }
        }
    }
}
