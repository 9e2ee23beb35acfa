//! Queue of lines from the hub that answer no request, bounded in bytes.
//!
//! While only such lines can come, a full queue pauses reading, and the hub then slows
//! down or sheds as it does for any slow reader. Where an answer or an interrupt may
//! come behind them, reading cannot pause; lines above a second, higher bound are then
//! shed and counted.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_channel::{Receiver, Sender};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::Error;

/// Where reading pauses, if nothing but more of this can come: the hub then
/// follows its reader's pace, and decides what to shed.
const PAUSE: usize = 256 << 10;

/// Where lines are shed, if reading cannot pause because an answer or an
/// interrupt may come behind them. A log is replayed whole, 1 MiB by default;
/// this holds several.
const SHED: usize = 16 << 20;

/// What each line takes beside its text.
const ENVELOPE: usize = 64;

/// A line of the hub, kept as it came: fields and kinds of a later hub pass through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HubLine {
    kind: Box<str>,
    json: Box<str>,
}

impl HubLine {
    pub(super) fn new(kind: &str, json: &str) -> Self {
        Self { kind: kind.into(), json: json.into() }
    }

    /// Its `type`: `message`, `operation`, `gap` and so on.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The JSON object, on one line.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Reads the fields that the caller needs.
    ///
    /// # Errors
    /// [`Error::Malformed`] where they are missing or of another type.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_json::from_str(&self.json)
            .map_err(|error| Error::Malformed(format!("{error} in {}", self.json)))
    }

    /// The message, if it is one.
    pub fn message(&self) -> Option<MessageLine<'_>> {
        if &*self.kind == "message" { self.parse().ok() } else { None }
    }

    /// The line as an answer: an `error` line is an [`Error::Refused`].
    pub(super) fn into_answer(self) -> Result<Self, Error> {
        match &*self.kind {
            "error" => self.parse().and_then(|refused| Err(Error::Refused(refused))),
            _ => Ok(self),
        }
    }
}

/// A `message` line.
#[derive(Debug, Deserialize)]
pub struct MessageLine<'a> {
    /// Missing for what goes to one connection, one user or all.
    #[serde(borrow)]
    pub channel: Option<Cow<'a, str>>,
    /// What kind of message it is.
    #[serde(borrow)]
    pub event: Cow<'a, str>,
    /// The payload, as JSON text.
    #[serde(borrow)]
    pub data: &'a RawValue,
    /// A connection's id, `worker`, `http` or `hub`.
    #[serde(borrow)]
    pub from: Cow<'a, str>,
    /// The user who sent it, if it was one.
    #[serde(borrow)]
    pub user_id: Option<Cow<'a, str>>,
    /// Its own id.
    #[serde(borrow)]
    pub message_id: Cow<'a, str>,
    /// When the hub took it, in RFC 3339.
    #[serde(borrow)]
    pub timestamp: Cow<'a, str>,
    /// Its position in the channel, if it has one.
    pub seq: Option<u64>,
    /// Whether it is replayed from a log.
    #[serde(default)]
    pub replayed: bool,
}

/// A line that answers no request, or a change of the connection.
#[derive(Clone, Debug)]
pub enum ClientEvent {
    /// A line of the hub.
    Line(HubLine),
    /// The connection is lost, and why; the task reconnects.
    Disconnected(Error),
    /// The hub has answered again. Subscriptions go on from where they were: what was
    /// kept of the meantime follows, and a `gap` line for each channel of which
    /// something was not.
    Reconnected,
}

impl ClientEvent {
    fn weight(&self) -> usize {
        match self {
            Self::Line(line) => line.json().len() + ENVELOPE,
            Self::Disconnected(_) | Self::Reconnected => ENVELOPE,
        }
    }
}

pub(super) fn event_queue() -> (EventQueue, Events) {
    let (sender, receiver) = async_channel::unbounded();
    let (room, wakeup) = async_channel::bounded(1);
    let bytes = Arc::new(AtomicUsize::new(0));
    let queue = EventQueue { events: sender, bytes: bytes.clone(), room: wakeup, shed: 0 };
    (queue, Events { events: receiver, bytes, room })
}

/// The sending end, which belongs to the connection's task.
#[derive(Debug)]
pub(super) struct EventQueue {
    events: Sender<ClientEvent>,
    bytes: Arc<AtomicUsize>,
    room: Receiver<()>,
    /// Lines shed since the last one that was queued.
    shed: u64,
}

impl EventQueue {
    pub(super) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Acquire) >= PAUSE
    }

    /// Waits until the reader has taken something off a full queue. May wake
    /// for an earlier time; the caller checks again.
    pub(super) async fn wait_for_room(&self) {
        if self.room.recv().await.is_err() {
            // The reader is dropped, and what it left counts no more.
            self.bytes.store(0, Ordering::Release);
        }
    }

    pub(super) fn push(&mut self, event: ClientEvent) {
        if self.events.is_closed() {
            return;
        }
        let is_line = matches!(event, ClientEvent::Line(_));
        if is_line && self.bytes.load(Ordering::Acquire) + event.weight() > SHED {
            self.shed += 1;
            return;
        }
        if self.shed > 0 {
            let lost = std::mem::take(&mut self.shed);
            let gap = format!(r#"{{"type":"gap","lost":{lost},"cause":"slow"}}"#);
            self.push_unconditionally(ClientEvent::Line(HubLine::new("gap", &gap)));
        }
        self.push_unconditionally(event);
    }

    fn push_unconditionally(&self, event: ClientEvent) {
        self.bytes.fetch_add(event.weight(), Ordering::AcqRel);
        // It only fails when the reader is dropped.
        let _ = self.events.try_send(event);
    }
}

/// Lines that answer no request: messages, and what happens to channels and
/// operations. A slow reader slows the hub down. While an operation
/// runs or an answer is awaited, lines are read on, and above 16 MiB they are
/// shed and counted in a `gap` that has no channel.
#[derive(Debug)]
pub struct Events {
    events: Receiver<ClientEvent>,
    bytes: Arc<AtomicUsize>,
    room: Sender<()>,
}

impl Events {
    /// The next line or change of the connection; none when that has
    /// ended for good and all is read.
    pub async fn next_event(&self) -> Option<ClientEvent> {
        let event = self.events.recv().await.ok()?;
        self.release(&event);
        Some(event)
    }

    /// As [`Events::next_event`], if something is queued.
    pub fn try_next_event(&self) -> Option<ClientEvent> {
        let event = self.events.try_recv().ok()?;
        self.release(&event);
        Some(event)
    }

    /// The next line, on whichever connection it came.
    pub async fn next_line(&self) -> Option<HubLine> {
        loop {
            if let ClientEvent::Line(line) = self.next_event().await? {
                return Some(line);
            }
        }
    }

    /// As [`Events::next_line`], if one is queued.
    pub fn try_next_line(&self) -> Option<HubLine> {
        loop {
            if let ClientEvent::Line(line) = self.try_next_event()? {
                return Some(line);
            }
        }
    }

    fn release(&self, event: &ClientEvent) {
        let before = self.bytes.fetch_sub(event.weight(), Ordering::AcqRel);
        if before >= PAUSE {
            // Full means that the task is woken already.
            let _ = self.room.try_send(());
        }
    }
}
