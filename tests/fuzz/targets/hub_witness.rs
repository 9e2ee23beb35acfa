//! The frames of one connection, judged from them alone, as a client would.

use std::collections::BTreeMap;

use serde_json::Value;

/// How ids begin of requests that have one answer each.
pub(crate) const ANSWERED_ONCE: &str = "asked-";

/// One subscription.
struct Subscription {
    /// Where the channel was when it began.
    start: u64,
    /// The last position received, or in a gap.
    last: u64,
    /// Nothing was received yet: a gap now may cover what lies before all that follows.
    is_fresh: bool,
}

/// One connection.
#[derive(Default)]
pub(crate) struct Witness {
    pub(crate) is_worker: bool,
    subscriptions: BTreeMap<String, Subscription>,
    /// The last position received of the inbox.
    inbox: u64,
    /// The actions of requests that have no final answer, by id.
    pending: BTreeMap<String, String>,
    /// It has shut its sending direction.
    pub(crate) has_ended: bool,
    /// The hub has sent `bye`: nothing follows.
    pub(crate) is_closed: bool,
}

impl Witness {
    pub(crate) fn new(is_worker: bool) -> Self {
        Self { is_worker, ..Self::default() }
    }

    /// The number of its subscriptions.
    pub(crate) fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// It is half-closed, and has no subscription.
    pub(crate) fn ends(&mut self) {
        self.has_ended = true;
        self.subscriptions.clear();
    }

    /// A request is made under an id of its own.
    pub(crate) fn record_request(&mut self, id: &str, request: &Value) {
        let action = request["action"].as_str().unwrap_or_default();
        self.pending.insert(id.to_owned(), action.to_owned());
    }

    /// What has no answer that must have one. Those with another kind of id may have none,
    /// or several.
    pub(crate) fn unanswered(&self) -> Vec<&String> {
        self.pending.keys().filter(|id| id.starts_with(ANSWERED_ONCE)).collect()
    }

    /// Takes one frame. After a disk that could not be read, an inbox is replayed again from
    /// there on.
    pub(crate) fn receive(&mut self, frame: &Value, was_unread: bool) {
        assert!(!self.is_closed, "{frame} after the end");
        let channel = frame["channel"].as_str().unwrap_or_default();
        let kind = match frame["type"].as_str().expect("a frame has a type") {
            // A worker's, with the fields of what it stands for.
            "ok" => match frame["id"].as_str().and_then(|id| self.pending.get(id)).map(String::as_str) {
                Some("subscribe") => "subscription_succeeded",
                Some("unsubscribe") => "unsubscribe_succeeded",
                _ => "ok",
            },
            kind => kind,
        };
        match kind {
            "closed" | "hung up" => self.is_closed = true,
            "subscription_succeeded" => {
                // With `since` it begins with what lies behind that, else with what was
                // not received yet.
                let goes_on = frame["recovered"].is_null() && self.subscriptions.contains_key(channel);
                if !goes_on {
                    let start = frame["seq"].as_u64().expect("a position");
                    let subscription = Subscription { start, last: 0, is_fresh: true };
                    self.subscriptions.insert(channel.to_owned(), subscription);
                }
            }
            "unsubscribe_succeeded" | "unsubscribed" => {
                self.subscriptions.remove(channel);
            }
            "message" => self.message(channel, frame, was_unread),
            "gap" if channel != "@me" => self.gap(channel, frame),
            _ => {}
        }
        self.answer(frame);
    }

    /// Within a subscription each position comes once, and they ascend.
    fn message(&mut self, channel: &str, frame: &Value, was_unread: bool) {
        let Some(seq) = frame["seq"].as_u64() else { return };
        if channel == "@me" {
            let may_come_again = frame["replayed"] == true && was_unread;
            assert!(seq > self.inbox || may_come_again, "{frame} after {}", self.inbox);
            self.inbox = seq;
            return;
        }
        let subscription = self.subscriptions.get_mut(channel).expect("only subscribers receive");
        assert!(seq > subscription.last, "{frame} after {}", subscription.last);
        (subscription.last, subscription.is_fresh) = (seq, false);
    }

    fn gap(&mut self, channel: &str, frame: &Value) {
        let subscription = self.subscriptions.get_mut(channel).expect("only subscribers miss something");
        let is_fresh = std::mem::take(&mut subscription.is_fresh);
        let (Some(from), Some(to)) = (frame["from_seq"].as_u64(), frame["to_seq"].as_u64()) else { return };
        assert!(from <= to, "{frame}");
        let is_of_the_past = is_fresh && to <= subscription.start;
        if !is_of_the_past {
            assert!(from > subscription.last, "{frame} after {}", subscription.last);
            subscription.last = to;
        }
    }

    /// Each request has one final answer.
    fn answer(&mut self, frame: &Value) {
        let Some(id) = frame["id"].as_str().filter(|id| id.starts_with(ANSWERED_ONCE)) else { return };
        assert!(self.pending.contains_key(id), "{frame} answers again");
        if frame["outcome"] != "pending" {
            self.pending.remove(id);
        }
    }
}
