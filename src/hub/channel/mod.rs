//! Channels and inboxes: topics, subscribing, publishing, presence, receipts.

pub(super) mod dedup;
pub(super) mod fanout;
pub(super) mod inbox;
pub(super) mod presence;
pub(super) mod publish;
pub(super) mod receipts;
pub(super) mod subscribe;
pub(super) mod system_channels;
pub(super) mod topics;
pub(super) mod unsubscribe;
pub(super) mod whisper;
