//! State to restore on a new connection: running operations, and subscriptions with
//! their positions.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::error::Error;
use super::event_queue::HubLine;
use super::operation::{Interrupt, LatchSender};
use super::request;
use super::request::StartRequest;
use crate::edge::clock;
use crate::protocol::{Moment, Position};

/// All that an operation is registered with.
#[derive(Debug)]
pub(super) struct Registration {
    channel: Box<str>,
    user_id: Option<Box<str>>,
    label: Option<Box<str>>,
    deadline: Option<Moment>,
    interrupt_grace: Option<Duration>,
    latch: LatchSender,
}

impl Registration {
    pub(super) fn new(start: &StartRequest<'_>, latch: LatchSender) -> Self {
        Self {
            channel: start.channel.into(),
            user_id: start.user_id.map(Into::into),
            label: start.label.map(Into::into),
            deadline: start.deadline.map(|deadline| clock::now().moment + deadline),
            interrupt_grace: start.interrupt_grace,
            latch,
        }
    }
}

#[derive(Debug)]
struct RegisteredOperation {
    registration: Registration,
    /// Whether the hub has confirmed it.
    is_confirmed: bool,
}

/// The position at which a subscription begins, from the hub's answer.
#[derive(Debug, Deserialize)]
struct ResumePoint {
    epoch: String,
    /// The channel's last.
    seq: u64,
    /// The position before the first message that follows. An older hub does not send it.
    after_seq: Option<u64>,
}

/// One operation or subscription to restore.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Restoration {
    Operation(Box<str>),
    Channel(Box<str>),
}

#[derive(Debug, Default)]
pub(super) struct Registrations {
    operations: BTreeMap<Box<str>, RegisteredOperation>,
    /// The position of the last message, where the hub gave one.
    channels: BTreeMap<Box<str>, Option<Position>>,
}

impl Registrations {
    /// Adds an operation that is about to be registered; false where one of
    /// that id runs already. From now on its latch can be pulled: the interrupt
    /// may come with the answer.
    pub(super) fn begin(&mut self, id: &str, registration: Registration) -> bool {
        let is_free = !self.operations.contains_key(id);
        if is_free {
            self.operations.insert(id.into(), RegisteredOperation { registration, is_confirmed: false });
        }
        is_free
    }

    /// The hub has registered an operation.
    pub(super) fn confirm(&mut self, id: &str) {
        if let Some(operation) = self.operations.get_mut(id) {
            operation.is_confirmed = true;
        }
    }

    pub(super) fn forget(&mut self, id: &str) {
        self.operations.remove(id);
    }

    /// The hub refuses an operation, at first or after a reconnect: it can no longer be
    /// stopped through the hub, and its owner gets the error.
    pub(super) fn disown(&mut self, id: &str, error: Error) {
        if let Some(operation) = self.operations.remove(id) {
            operation.registration.latch.close(error);
        }
    }

    pub(super) fn interrupt(&self, id: &str, interrupt: Interrupt) {
        if let Some(operation) = self.operations.get(id) {
            operation.registration.latch.pull(interrupt);
        }
    }

    pub(super) fn has_operations(&self) -> bool {
        !self.operations.is_empty()
    }

    /// The hub has granted a subscription.
    pub(super) fn subscribe(&mut self, channel: &str, answer: &HubLine) {
        let start: Option<ResumePoint> = answer.parse().ok();
        let known = self.channels.entry(channel.into()).or_default();
        *known = match (known.take(), start) {
            (_, Some(ResumePoint { epoch, after_seq: Some(seq), .. })) => Some(Position { epoch, seq }),
            // Within one epoch the position that the channel had before holds.
            (Some(known), Some(start)) if known.epoch == start.epoch => Some(known),
            (_, start) => start.map(|ResumePoint { epoch, seq, .. }| Position { epoch, seq }),
        };
    }

    pub(super) fn unsubscribe(&mut self, channel: &str) {
        self.channels.remove(channel);
    }

    /// All of a channel up to here was received, or is known to be lost. A channel comes
    /// in order, so the last is the highest.
    pub(super) fn advance(&mut self, channel: &str, seq: u64) {
        if let Some(Some(position)) = self.channels.get_mut(channel) {
            position.seq = seq;
        }
    }

    /// All that a new connection has to restore.
    pub(super) fn restorations(&self) -> Vec<Restoration> {
        let confirmed = self.operations.iter().filter(|(_, operation)| operation.is_confirmed);
        let operations = confirmed.map(|(id, _)| Restoration::Operation(id.clone()));
        operations.chain(self.channels.keys().cloned().map(Restoration::Channel)).collect()
    }

    /// The line that restores one of them; none where it is over.
    pub(super) fn line(&self, restoration: &Restoration, now: Moment) -> Option<Vec<u8>> {
        match restoration {
            Restoration::Operation(id) => self.start_line(id, now),
            Restoration::Channel(channel) => {
                request::subscribe(channel, self.channels.get(channel)?.as_ref()).ok()
            }
        }
    }

    /// The line with which an operation starts, or starts again.
    pub(super) fn start_line(&self, id: &str, now: Moment) -> Option<Vec<u8>> {
        let Registration { channel, user_id, label, deadline, interrupt_grace, .. } =
            &self.operations.get(id)?.registration;
        let start = StartRequest {
            user_id: user_id.as_deref(),
            label: label.as_deref(),
            // Past it, the hub interrupts at once.
            deadline: deadline.map(|deadline| deadline.since(now)),
            interrupt_grace: *interrupt_grace,
            ..StartRequest::new(id, channel)
        };
        request::encode(&start).ok()
    }
}
