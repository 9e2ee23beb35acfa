//! Channels and inboxes: topics, subscribing, publishing, presence, receipts.
//!
//! | file | owns |
//! |---|---|
//! | [`topic`] | `Topic`: subscribers, numbers and log of one channel or inbox |
//! | [`topics`] | `Topics`: the table, the sums over it, those that are idle |
//! | [`presence`] | `Presence`: the users on one channel |
//! | [`receipts`] | `Receipts` that are owed for one inbox |
//! | [`dedup`] | `DedupWindow`: the ids of recent messages |
//! | [`system_channels`] | `PendingLeaves`: users who may be back in a moment |
//! | [`delivery`] | `Publisher`, `PublishOptions`, `DeliveryCounts` of one message |
//! | [`subscription_start`] | where one subscription begins |
//!
//! Three more files put these, connections and logs together, as methods of the hub:
//! [`publish`], [`fanout`] and [`subscribe`].

pub(super) mod dedup;
pub(super) mod delivery;
pub(super) mod fanout;
pub(super) mod presence;
pub(super) mod publish;
pub(super) mod receipts;
pub(super) mod subscribe;
pub(super) mod subscription_start;
pub(super) mod system_channels;
pub(super) mod topic;
pub(super) mod topics;
