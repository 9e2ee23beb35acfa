//! Pages of kept messages for connections that catch up, shared fairly between accounts.
//!
//! After a restart very many come back at once and want the same: it is read and
//! encoded once for all that have come to the same position in a turn.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::edge::net::encoded_frame::{EncodedFrame, FrameEncoder};
use crate::edge::store::{Fetch, Store};
use crate::hub::{Account, FetchPurpose, Input, LogKey};
use crate::protocol::{Delivery, Message};

/// So much is served in one turn: each message counts one, and one more for each of
/// these bytes.
const A_TURN: usize = 4096;
const BYTES: usize = 1 << 10;

/// So much of that is served at once: a user who comes back alone has what was missed before
/// the answer to the next request.
const AT_ONCE: usize = 256;

/// Pages that are wanted, by account.
#[derive(Default)]
pub(super) struct ReplayPages {
    waiting: HashMap<Account, VecDeque<Fetch>>,
    /// One has a page, then the next.
    turns: VecDeque<Account>,
    /// What was served in this turn, by log and position.
    served: HashMap<(LogKey, u64), Vec<Rc<Message>>>,
    /// Messages of that, encoded, by their address: they live as long.
    encoded: HashMap<*const Message, (Rc<Message>, EncodedFrame)>,
    is_serving: bool,
    /// The cost of what was served in this turn.
    spent: usize,
    /// The cost of what was served at once since the last turn ended.
    at_once: usize,
}

impl ReplayPages {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Serves a page at once, or in its turn; returns what the store has answered.
    pub(super) fn fetch(
        &mut self,
        fetch: Fetch,
        account: impl FnOnce() -> Account,
        store: &mut Store,
    ) -> Vec<Input> {
        if self.is_empty() && self.at_once < AT_ONCE {
            let inputs = store.fetch(fetch);
            self.at_once += cost(&inputs);
            inputs
        } else {
            self.push(account(), fetch);
            Vec::new()
        }
    }

    /// Begins to serve the pages that wait.
    pub(super) fn begin_turn(&mut self) {
        self.at_once = 0;
        self.spent = 0;
        self.is_serving = !self.is_empty();
    }

    /// Serves the next page, as long as there is one in this turn.
    pub(super) fn serve_next(&mut self, store: &mut Store) -> Option<Vec<Input>> {
        if self.spent >= A_TURN {
            return None;
        }
        let fetch = self.pop()?;
        let position = (fetch.log.clone(), fetch.after);
        let inputs = match self.served.get(&position) {
            Some(messages) => vec![fetch.found(messages.clone())],
            None => store.fetch(fetch),
        };
        self.spent += cost(&inputs);
        for input in &inputs {
            if let Input::Fetched { fetch: FetchPurpose::Replay(_), messages, .. } = input {
                self.served.entry(position.clone()).or_insert_with(|| messages.clone());
            }
        }
        Some(inputs)
    }

    /// Forgets what was served.
    pub(super) fn end_turn(&mut self) {
        if self.is_serving {
            self.is_serving = false;
            self.encoded.clear();
            self.served.clear();
        }
    }

    /// A message as a connection receives it that catches up.
    pub(super) fn encode(&mut self, message: &Rc<Message>, encoder: &mut FrameEncoder) -> EncodedFrame {
        if let Some((_, encoded)) = self.encoded.get(&Rc::as_ptr(message)) {
            return encoded.clone();
        }
        let encoded = encoder.encode(|scratch| message.encode(Delivery::Replayed, scratch));
        if self.is_serving {
            self.encoded.insert(Rc::as_ptr(message), (message.clone(), encoded.clone()));
        }
        encoded
    }

    fn push(&mut self, account: Account, fetch: Fetch) {
        let pages = self.waiting.entry(account).or_default();
        if pages.is_empty() {
            self.turns.push_back(account);
        }
        pages.push_back(fetch);
    }

    /// The next page. An account that waits for another one goes behind all others.
    fn pop(&mut self) -> Option<Fetch> {
        let account = self.turns.pop_front()?;
        let pages = self.waiting.get_mut(&account)?;
        let next = pages.pop_front();
        if pages.is_empty() {
            self.waiting.remove(&account);
        } else {
            self.turns.push_back(account);
        }
        next
    }
}

/// What a page counts.
fn cost(inputs: &[Input]) -> usize {
    let of_page = |input: &Input| match input {
        Input::Fetched { messages, .. } => messages.iter().map(|message| 1 + message.size() / BYTES).sum(),
        _ => 0,
    };
    // What is read from the disk costs something, too.
    1 + inputs.iter().map(of_page).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::{Account, Fetch, FetchPurpose, LogKey, ReplayPages};
    use crate::protocol::{ConnectionId, UserId};

    fn account(digest: u64) -> Account {
        serde_json::from_value(serde_json::json!({"digest": digest, "is_limited": true}))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn page(slot: u32) -> Fetch {
        let user = UserId::new("ada").unwrap_or_else(|refusal| panic!("{refusal:?}"));
        let purpose = FetchPurpose::Replay(ConnectionId { slot, tag: 1 });
        Fetch { purpose, log: LogKey::Inbox(user), after: 0, count: 1, bytes: 1 }
    }

    #[test]
    fn users_have_their_pages_in_turns_however_many_each_wants() {
        let mut pages = ReplayPages::default();
        (0..100).for_each(|slot| pages.push(account(1), page(slot)));
        (100..103).for_each(|slot| pages.push(account(2), page(slot)));
        pages.push(account(3), page(200));
        let order = std::iter::from_fn(|| pages.pop()).map(|fetch| match fetch.purpose {
            FetchPurpose::Replay(conn) => conn.slot,
            FetchPurpose::Notice(_) => u32::MAX,
        });
        let order: Vec<u32> = order.collect();
        assert_eq!(order.get(..8), Some(&[0, 100, 200, 1, 101, 2, 102, 3][..]));
        assert_eq!((order.len(), pages.is_empty()), (104, true));
    }
}
