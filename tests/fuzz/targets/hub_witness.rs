//! What one connection hears of a hub, judged from its frames alone, as a client would.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// One connection.
#[derive(Default)]
pub(crate) struct Witness {
    pub(crate) is_worker: bool,
    /// Of each subscription the last position that was heard, or told as lost.
    last: BTreeMap<String, u64>,
    /// The same of the inbox.
    inbox: u64,
    /// Requests that have no final answer, by id.
    pub(crate) asked: BTreeSet<String>,
    /// The hub has said goodbye: nothing follows.
    pub(crate) is_closed: bool,
}

impl Witness {
    pub(crate) fn new(is_worker: bool) -> Self {
        Self { is_worker, ..Self::default() }
    }

    /// How many channels it hears.
    pub(crate) fn subscriptions(&self) -> usize {
        self.last.len()
    }

    /// Hears one frame. After a disk that could not be read, an inbox is told again from
    /// there on.
    pub(crate) fn hear(&mut self, frame: &Value, was_unread: bool) {
        assert!(!self.is_closed, "{frame} after the end");
        let channel = frame["channel"].as_str().unwrap_or_default();
        match frame["type"].as_str().expect("a frame has a type") {
            "closed" | "hung up" => self.is_closed = true,
            "subscription_succeeded" | "ok" if frame["epoch"].is_string() => {
                // With `since` it begins with what lies behind that, else with what was
                // not heard yet.
                let goes_on = frame["recovered"].is_null() && self.last.contains_key(channel);
                if !goes_on {
                    self.last.insert(channel.to_owned(), 0);
                }
            }
            "unsubscribe_succeeded" | "unsubscribed" => {
                self.last.remove(channel);
            }
            "ok" if frame["channel"].is_string() && frame["message_id"].is_null() => {
                // Of a worker; that of `operations` and `presence` has a list.
                let is_list = frame["operations"].is_array() || frame["users"].is_array();
                if !is_list && frame["outcome"].is_null() {
                    self.last.remove(channel);
                }
            }
            "message" => self.message(channel, frame, was_unread),
            "gap" if channel != "@me" => {
                let last = self.last.get_mut(channel).expect("only subscribers miss something");
                if let (Some(from), Some(to)) = (frame["from_seq"].as_u64(), frame["to_seq"].as_u64()) {
                    assert!(from <= to, "{frame}");
                    *last = (*last).max(to);
                }
            }
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
        let last = self.last.get_mut(channel).expect("only subscribers hear");
        assert!(seq > *last, "{frame} after {last}");
        *last = seq;
    }

    /// Each request has one final answer.
    fn answer(&mut self, frame: &Value) {
        let Some(id) = frame["id"].as_str().filter(|id| id.starts_with("asked-")) else { return };
        let is_final = frame["outcome"] != "pending";
        assert!(self.asked.contains(id), "{frame} answers again");
        if is_final {
            self.asked.remove(id);
        }
    }
}
