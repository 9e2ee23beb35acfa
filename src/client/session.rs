//! What a new connection must be told first: which operations run, and which
//! channels are heard from where.
//!
//! Knows their present state. Does not know when a connection is new.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_channel::Sender;
use serde::Deserialize;

use super::error::Error;
use super::operation::Interrupt;
use super::request::{Start, Subscribe};
use crate::protocol::{Moment, Position};

/// An operation, with all that its registration takes.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) channel: Box<str>,
    pub(super) user_id: Option<Box<str>>,
    pub(super) label: Option<Box<str>>,
    pub(super) deadline: Option<Moment>,
    pub(super) interrupt_grace: Option<Duration>,
    /// Full means already asked, closed means already over; both are as good as
    /// pulled.
    pub(super) latch: Sender<Interrupt>,
    /// Why the hub does not know it any more, where it will not.
    pub(super) fate: Arc<OnceLock<Error>>,
}

/// One that the hub knows, or is about to.
#[derive(Debug)]
struct Running {
    registration: Registration,
    registered: bool,
}

/// Where a subscription begins, as the hub says.
#[derive(Debug, Deserialize)]
pub(super) struct Beginning {
    epoch: String,
    /// The channel's last.
    seq: u64,
    /// The position before the first message that follows. An older hub does not tell it.
    after_seq: Option<u64>,
}

/// A thing to be said again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Resubscribe {
    Operation(Box<str>),
    Channel(Box<str>),
}

#[derive(Debug, Default)]
pub(super) struct SessionState {
    operations: BTreeMap<Box<str>, Running>,
    /// Where the hub gave a position, what was heard last.
    channels: BTreeMap<Box<str>, Option<Position>>,
}

impl SessionState {
    /// Notes an operation that is about to be registered; false where one of
    /// that id runs already. From now on its latch can be pulled: the interrupt
    /// may come with the answer.
    pub(super) fn begin(&mut self, id: &str, registration: Registration) -> bool {
        let free = !self.operations.contains_key(id);
        if free {
            self.operations.insert(id.into(), Running { registration, registered: false });
        }
        free
    }

    /// The hub has registered an operation.
    pub(super) fn registered(&mut self, id: &str) {
        if let Some(running) = self.operations.get_mut(id) {
            running.registered = true;
        }
    }

    pub(super) fn forget(&mut self, id: &str) {
        self.operations.remove(id);
    }

    /// The hub will not have an operation, or not again; nobody can stop it through the
    /// hub any more, and its owner learns that.
    pub(super) fn disown(&mut self, id: &str, why: Error) {
        if let Some(running) = self.operations.remove(id) {
            // Before the latch closes, so that whoever finds it closed finds why.
            let _ = running.registration.fate.set(why);
        }
    }

    pub(super) fn interrupt(&self, id: &str, interrupt: Interrupt) {
        if let Some(running) = self.operations.get(id) {
            let _ = running.registration.latch.try_send(interrupt);
        }
    }

    pub(super) fn has_operations(&self) -> bool {
        !self.operations.is_empty()
    }

    /// The hub has granted a subscription.
    pub(super) fn subscribed(&mut self, channel: &str, beginning: Option<Beginning>) {
        let known = self.channels.entry(channel.into()).or_default();
        *known = match (known.take(), beginning) {
            (_, Some(Beginning { epoch, after_seq: Some(seq), .. })) => Some(Position { epoch, seq }),
            // What was heard of the channel before counts on, within one epoch.
            (Some(known), Some(beginning)) if known.epoch == beginning.epoch => Some(known),
            (_, beginning) => beginning.map(|Beginning { epoch, seq, .. }| Position { epoch, seq }),
        };
    }

    pub(super) fn unsubscribed(&mut self, channel: &str) {
        self.channels.remove(channel);
    }

    /// All of a channel up to here was heard, or is known to be lost. Channels
    /// are heard in their order, so the last is the highest.
    pub(super) fn heard(&mut self, channel: &str, seq: u64) {
        if let Some(Some(position)) = self.channels.get_mut(channel) {
            position.seq = seq;
        }
    }

    /// All that must be said again.
    pub(super) fn all(&self) -> Vec<Resubscribe> {
        let running = self.operations.iter().filter(|(_, running)| running.registered);
        let operations = running.map(|(id, _)| Resubscribe::Operation(id.clone()));
        operations.chain(self.channels.keys().cloned().map(Resubscribe::Channel)).collect()
    }

    /// How one of them is said; none where it is over.
    pub(super) fn line(&self, again: &Resubscribe, now: Moment) -> Option<Vec<u8>> {
        match again {
            Resubscribe::Operation(id) => self.start(id, now),
            Resubscribe::Channel(channel) => {
                let since = self.channels.get(channel)?.as_ref();
                serde_json::to_vec(&Subscribe { channel, since }).ok()
            }
        }
    }

    /// The line with which an operation begins, or begins again.
    pub(super) fn start(&self, id: &str, now: Moment) -> Option<Vec<u8>> {
        let Registration { channel, user_id, label, deadline, interrupt_grace, .. } =
            &self.operations.get(id)?.registration;
        let start = Start {
            user_id: user_id.as_deref(),
            label: label.as_deref(),
            // Past it, the hub interrupts at once.
            deadline: deadline.map(|deadline| deadline.since(now)),
            interrupt_grace: *interrupt_grace,
            ..Start::new(id, channel)
        };
        serde_json::to_vec(&start).ok()
    }
}
