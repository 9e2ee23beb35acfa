//! Pages of what is kept, for those who catch up.
//!
//! Knows whose turn it is, and how much is served in one. Does not know who reads what,
//! nor where it is kept.
//!
//! After a restart very many come back at once and ask for the same: it is read and
//! encoded once for all who have come to the same place in a turn.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::Driver;
use crate::edge::net::encoded_frame::EncodedFrame;
use crate::edge::store::Fetch;
use crate::hub::{Account, FetchPurpose, Input, LogKey};
use crate::protocol::{ConnectionId, Delivery, Message};

/// So much is served in one turn: each message counts one, and one more for each of
/// these bytes.
const A_TURN: usize = 4096;
const BYTES: usize = 1 << 10;

/// So much of that is served at once: whoever comes back alone has what it missed before
/// the answer to what it asks next.
const AT_ONCE: usize = 256;

/// Pages that were asked for, by whose they are.
#[derive(Default)]
pub(in crate::edge) struct ReplayPages {
    waiting: HashMap<Account, VecDeque<Fetch>>,
    /// One has a page, then the next.
    turns: VecDeque<Account>,
    /// What was served in this turn, by log and position.
    served: HashMap<(LogKey, u64), Vec<Rc<Message>>>,
    /// Messages of that, encoded, by their place in memory: they live as long.
    packets: HashMap<*const Message, (Rc<Message>, EncodedFrame)>,
    is_serving: bool,
    /// What was served at once since the last turn ended.
    at_once: usize,
}

impl ReplayPages {
    pub(in crate::edge) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    fn push(&mut self, account: Account, fetch: Fetch) {
        let pages = self.waiting.entry(account).or_default();
        if pages.is_empty() {
            self.turns.push_back(account);
        }
        pages.push_back(fetch);
    }

    /// The next page. Whoever waits for another one goes behind all others.
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
fn cost(facts: &[Input]) -> usize {
    let of_page = |fact: &Input| match fact {
        Input::Fetched { messages, .. } => messages.iter().map(|message| 1 + message.size() / BYTES).sum(),
        _ => 0,
    };
    // What is asked of the disk costs something, too.
    1 + facts.iter().map(of_page).sum::<usize>()
}

impl Driver {
    /// Serves a page, at once or in its turn.
    pub(in crate::edge) fn serve_page(&mut self, conn: ConnectionId, fetch: Fetch) {
        if self.pages.is_empty() && self.pages.at_once < AT_ONCE {
            let facts = self.store.fetch(fetch);
            self.pages.at_once += cost(&facts);
            self.links.inputs.extend(facts);
        } else {
            self.pages.push(self.hub.account(conn), fetch);
        }
    }

    /// Serves some of the pages that were asked for.
    pub(in crate::edge) fn serve_pages(&mut self) {
        self.pages.at_once = 0;
        if self.pages.is_empty() {
            return;
        }
        self.pages.is_serving = true;
        let mut served = 0;
        while served < A_TURN
            && let Some(fetch) = self.pages.pop()
        {
            let place = (fetch.log.clone(), fetch.after);
            let facts = match self.pages.served.get(&place) {
                Some(messages) => vec![fetch.found(messages.clone())],
                None => self.store.fetch(fetch),
            };
            served += cost(&facts);
            for fact in &facts {
                if let Input::Fetched { fetch: FetchPurpose::Replay(_), messages, .. } = fact {
                    self.pages.served.entry(place.clone()).or_insert_with(|| messages.clone());
                }
            }
            self.links.inputs.extend(facts);
            self.pump();
        }
        self.pages.is_serving = false;
        self.pages.packets.clear();
        self.pages.served.clear();
    }

    /// A message as those hear it who catch up.
    pub(in crate::edge) fn seal_replayed(&mut self, message: &Rc<Message>) -> EncodedFrame {
        if let Some((_, packet)) = self.pages.packets.get(&Rc::as_ptr(message)) {
            return packet.clone();
        }
        let packet = self.seal_message(message, Delivery::Replayed);
        if self.pages.is_serving {
            self.pages.packets.insert(Rc::as_ptr(message), (message.clone(), packet.clone()));
        }
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::{Account, ConnectionId, Fetch, FetchPurpose, LogKey, ReplayPages};
    use crate::protocol::UserId;

    fn account(digest: u64) -> Account {
        serde_json::from_value(serde_json::json!({"digest": digest, "pays": true}))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn page(slot: u32) -> Fetch {
        let user = UserId::new("ada").unwrap_or_else(|refusal| panic!("{refusal:?}"));
        let purpose = FetchPurpose::Replay(ConnectionId { slot, tag: 1 });
        Fetch { purpose, log: LogKey::Inbox(user), after: 0, count: 1, bytes: 1 }
    }

    #[test]
    fn users_have_their_pages_in_turns_however_many_each_waits_for() {
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
