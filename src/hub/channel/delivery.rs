//! A publisher, what it wants of a message, and what becomes of that.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::dedup::Scope;
use crate::protocol::request::Target;
use crate::protocol::{ConnectionId, Frame, MessageId, Sender, UserId};

/// The publisher of a message.
#[derive(Clone, Debug)]
pub(in crate::hub) struct Publisher {
    /// Where it is connected, if it is.
    conn: Option<ConnectionId>,
    sender: Sender,
    user: Option<UserId>,
    echo: Echo,
}

/// Whether a publisher is a recipient of its own messages, where it is subscribed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::hub) enum Echo {
    Yes,
    No,
}

impl Publisher {
    /// The hub itself.
    pub(in crate::hub) fn hub() -> Self {
        Self { conn: None, sender: Sender::Hub, user: None, echo: Echo::No }
    }

    pub(in crate::hub) fn http() -> Self {
        Self { sender: Sender::Http, ..Self::hub() }
    }

    pub(in crate::hub) fn connection(
        conn: ConnectionId,
        sender: Sender,
        user: Option<UserId>,
        echo: Echo,
    ) -> Self {
        Self { conn: Some(conn), sender, user, echo }
    }

    /// A connection that is here no longer.
    pub(in crate::hub) fn gone(conn: ConnectionId) -> Self {
        Self { conn: Some(conn), ..Self::hub() }
    }

    pub(in crate::hub) fn conn(&self) -> Option<ConnectionId> {
        self.conn
    }

    pub(in crate::hub) fn sender(&self) -> Sender {
        self.sender
    }

    pub(in crate::hub) fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    pub(in crate::hub) fn is_hub(&self) -> bool {
        self.sender == Sender::Hub
    }

    /// The tag of its connection; zero where it has none.
    pub(in crate::hub) fn tag(&self) -> u64 {
        self.conn.map_or(0, |conn| conn.tag)
    }

    /// Whether it gets its own messages too.
    pub(in crate::hub) fn is_recipient(&self) -> bool {
        self.echo == Echo::Yes
    }

    /// Whether a slot is its own.
    pub(in crate::hub) fn is_at(&self, slot: u32) -> bool {
        self.conn.is_some_and(|conn| conn.slot == slot)
    }

    /// Whether what it publishes is not for the connection at a slot: its own, without echo.
    pub(in crate::hub) fn excludes(&self, slot: u32) -> bool {
        self.is_at(slot) && !self.is_recipient()
    }
}

/// What its publisher wants of a message beside its delivery.
#[derive(Clone, Debug, Default)]
pub(in crate::hub) struct PublishOptions {
    /// No longer than the policy says.
    ttl: Option<Duration>,
    durable: bool,
    /// Among whose messages the id is unique that its publisher gave it.
    scope: Option<Scope>,
}

impl PublishOptions {
    pub(in crate::hub) fn new(ttl: Option<Duration>, scope: Option<Scope>) -> Self {
        Self { ttl, scope, durable: false }
    }

    pub(in crate::hub) fn durable(self, durable: bool) -> Self {
        Self { durable, ..self }
    }

    /// For those who are here now alone.
    pub(in crate::hub) fn fleeting() -> Self {
        Self { ttl: Some(Duration::ZERO), ..Self::default() }
    }

    pub(in crate::hub) fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    pub(in crate::hub) fn is_durable(&self) -> bool {
        self.durable
    }

    pub(in crate::hub) fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// Whether the message is for those who are here now alone.
    pub(in crate::hub) fn is_fleeting(&self) -> bool {
        self.ttl.is_some_and(|ttl| ttl.is_zero())
    }
}

/// Where a message is that comes again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::hub) enum DuplicatePlace {
    /// It is kept no longer, or never was.
    Gone,
    Kept,
    /// It is kept, and on the disk, where its publisher asks for that.
    Stored,
}

/// What becomes of a message, as its publisher is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct DeliveryCounts {
    sent: u64,
    failed: u64,
    kept: bool,
    stored: bool,
    /// It came before, and nothing was done.
    duplicate: bool,
}

impl DeliveryCounts {
    /// To so many it was sent, or will be; for so many there was no room.
    pub(in crate::hub) fn new(sent: u64, failed: u64) -> Self {
        Self { sent, failed, ..Self::default() }
    }

    /// It came before.
    pub(in crate::hub) fn duplicate(place: DuplicatePlace) -> Self {
        let (kept, stored) = match place {
            DuplicatePlace::Gone => (false, false),
            DuplicatePlace::Kept => (true, false),
            DuplicatePlace::Stored => (true, true),
        };
        Self { kept, stored, duplicate: true, ..Self::default() }
    }

    /// It is kept.
    pub(in crate::hub) fn kept(self) -> Self {
        Self { kept: true, ..self }
    }

    /// It was sent to so many more.
    pub(in crate::hub) fn add_sent(self, sent: u64) -> Self {
        Self { sent: self.sent + sent, ..self }
    }

    /// It is on the disk.
    pub(in crate::hub) fn stored(self) -> Self {
        Self { stored: true, ..self }
    }

    pub(in crate::hub) fn is_kept(&self) -> bool {
        self.kept
    }

    /// It is lost before any recipient had it.
    pub(in crate::hub) fn lose(&mut self) {
        self.kept = false;
    }

    /// The answer to its publisher.
    pub(in crate::hub) fn frame(self, target: Target, message_id: MessageId) -> Frame<'static> {
        let (channel, connection_id, user_id) = match target {
            Target::Channel(channel) => (Some(channel), None, None),
            Target::Connection(id) => (None, Some(id), None),
            Target::User(user) => (None, None, Some(user)),
            Target::All => (None, None, None),
        };
        Frame::SendSuccess {
            channel,
            connection_id,
            user_id,
            sent: self.sent,
            failed: self.failed,
            kept: self.kept,
            stored: self.stored,
            message_id,
            duplicate: self.duplicate,
            partial: false,
        }
    }
}
