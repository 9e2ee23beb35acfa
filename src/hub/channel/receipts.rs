//! Receipts: publishers that want to know when a user has a message, and has read it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::hub::checkpoint::shifted;
use crate::hub::optional_list::List;
use crate::hub::timers::NEVER;
use crate::protocol::{ConnectionId, MessageId, Moment, UserId};

/// Where a receipt goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) enum ReceiptRecipient {
    /// A user, in the inbox.
    User(UserId),
    /// A worker, which has none: on its connection, while that is there.
    Worker(ConnectionId),
}

/// How far a message has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::hub) enum ReceiptState {
    Delivered,
    Read,
}

/// A receipt that is still to be sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct OwedReceipt {
    seq: u64,
    expires: Moment,
    to: ReceiptRecipient,
    message_id: MessageId,
    /// `delivered` was sent; `read` is not.
    is_delivered: bool,
}

/// The data of a receipt.
#[derive(Serialize)]
pub(super) struct ReceiptData<'a> {
    message_id: &'a MessageId,
    /// The user of the inbox.
    user_id: &'a UserId,
    state: ReceiptState,
}

impl OwedReceipt {
    pub(super) fn new(seq: u64, expires: Moment, to: ReceiptRecipient, message_id: MessageId) -> Self {
        Self { seq, expires, to, message_id, is_delivered: false }
    }

    pub(super) fn to(&self) -> &ReceiptRecipient {
        &self.to
    }

    pub(super) fn data<'a>(&'a self, user_id: &'a UserId, state: ReceiptState) -> ReceiptData<'a> {
        ReceiptData { message_id: &self.message_id, user_id, state }
    }

    /// The same on another clock.
    pub(super) fn shifted(self, shift: i64) -> Self {
        Self { expires: shifted(self.expires, shift), ..self }
    }
}

/// The receipts that are owed for the messages of one inbox, by position.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::hub) struct Receipts(VecDeque<OwedReceipt>);

impl List for Receipts {
    const EMPTY: &'static Self = &Self(VecDeque::new());

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<VecDeque<OwedReceipt>> for Receipts {
    fn from(owed: VecDeque<OwedReceipt>) -> Self {
        Self(owed)
    }
}

impl Receipts {
    pub(in crate::hub) fn len(&self) -> usize {
        self.0.len()
    }

    /// When the first of them expires.
    pub(in crate::hub) fn first_expiry(&self) -> Moment {
        self.0.front().map_or(NEVER, |owed| owed.expires)
    }

    /// Adds one for the newest message; of more than `most` the oldest goes.
    pub(in crate::hub) fn push(&mut self, owed: OwedReceipt, most: usize) {
        if self.0.len() >= most {
            self.0.pop_front();
        }
        if self.0.is_empty() {
            // Most inboxes owe one; a list would take room for four.
            self.0.reserve_exact(1);
        }
        self.0.push_back(owed);
    }

    /// A user has all up to a position, or has read it: the receipts to send for that.
    pub(in crate::hub) fn acknowledge(&mut self, seq: u64, state: ReceiptState) -> Vec<OwedReceipt> {
        let passed = self.0.partition_point(|owed| owed.seq <= seq);
        if state == ReceiptState::Read {
            return self.0.drain(..passed).collect();
        }
        let due = self.0.iter_mut().take(passed).filter(|owed| !owed.is_delivered);
        due.map(|owed| {
            owed.is_delivered = true;
            owed.clone()
        })
        .collect()
    }

    /// A message will not be acknowledged any more.
    pub(in crate::hub) fn forget(&mut self, seq: u64) {
        if let Ok(at) = self.0.binary_search_by_key(&seq, |owed| owed.seq)
            && self.0.get(at).is_some_and(|owed| !owed.is_delivered)
        {
            self.0.remove(at);
        }
    }

    pub(in crate::hub) fn drop_first(&mut self) {
        self.0.pop_front();
    }

    pub(in crate::hub) fn expire(&mut self, now: Moment) {
        while self.0.front().is_some_and(|owed| owed.expires <= now) {
            self.0.pop_front();
        }
    }

    /// Those that can be sent when all connections are gone.
    pub(in crate::hub) fn lasting(&self) -> Vec<OwedReceipt> {
        let lasts = |owed: &&OwedReceipt| matches!(owed.to, ReceiptRecipient::User(_));
        self.0.iter().filter(lasts).cloned().collect()
    }
}
