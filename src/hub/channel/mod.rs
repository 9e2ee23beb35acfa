//! Channels and inboxes: topics, subscribing, publishing, presence, receipts.

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
