//! State of a client that outlives connections: its requests, answers, events and
//! registrations.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use smol::{Timer, future};

use super::error::{Error, ErrorLine};
use super::event_queue::{ClientEvent, EventQueue, HubLine};
use super::framed::{FramedStream, LineId, Loss, Progress};
use super::registrations::{Registrations, Restoration};
use super::request;
use super::request_queue::{Flow, QueuedRequest, RequestKind, RequestQueue};
use super::unacked::{ResendPolicy, Unacked};
use crate::edge::clock;
use crate::protocol::{EndState, Moment};

/// No hub's limit for a line is below this; that for a name or an id is.
const SHORTEST_LIMIT: usize = 1024;

/// Whether the hub is connected, as far as we know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Connectivity {
    Since(Moment),
    /// For a short while, in which callers wait for it.
    Reconnecting,
    /// For so long that no caller is kept waiting any more.
    Unavailable,
}

#[derive(Debug)]
pub(super) struct Session {
    /// Where the socket was last.
    path: Arc<Path>,
    requests: RequestQueue,
    events: EventQueue,
    unacked: Unacked,
    registrations: Registrations,
    connectivity: Connectivity,
    /// How long an answer is waited for while the hub is not connected.
    patience: Duration,
    /// Ends the wait while reconnecting.
    unavailable_at: Option<Timer>,
    /// Whether the reader of the events knows that the hub is not connected.
    has_reported_loss: bool,
    /// No sender of requests is left.
    is_orphaned: bool,
}

enum Wakeup {
    Stream(Progress),
    /// The event queue may have room.
    Room,
    Request(QueuedRequest),
    Orphaned,
    Unavailable,
}

/// Why a pause between two connections is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PauseEnd {
    Due,
    /// An operation has ended: a worker that ends it will not wait for long.
    OperationEnded,
    /// No sender is left, and nothing to send.
    NothingLeft,
}

impl Session {
    pub(super) fn new(
        path: Arc<Path>,
        requests: RequestQueue,
        events: EventQueue,
        resend: ResendPolicy,
        patience: Duration,
    ) -> Self {
        Self {
            path,
            requests,
            events,
            unacked: Unacked::new(resend),
            registrations: Registrations::default(),
            connectivity: Connectivity::Since(clock::now().moment),
            patience,
            unavailable_at: None,
            has_reported_loss: false,
            is_orphaned: false,
        }
    }

    /// Requests wait for a hub that was never connected so far.
    pub(super) fn start_disconnected(&mut self) {
        self.set_disconnected();
    }

    pub(super) fn set_path(&mut self, path: &Arc<Path>) {
        self.path = path.clone();
    }

    /// To be called before the session is dropped: callers that still wait get the error.
    pub(super) fn set_end_reason(&self, error: Error) {
        self.requests.set_end_reason(error);
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(self.connectivity, Connectivity::Since(_))
    }

    fn is_unavailable(&self) -> bool {
        self.connectivity == Connectivity::Unavailable
    }

    fn unavailable(&self) -> Error {
        Error::Unavailable { path: self.path.clone() }
    }

    /// Carries lines both ways until the connection is lost, or no sender is left and all
    /// is sent.
    pub(super) async fn carry(&mut self, stream: &mut FramedStream) -> Result<(), Loss> {
        loop {
            // The peer may not be a hub yet: until it has answered, requests can still be
            // given up.
            if self.is_connected() {
                stream.write_requests(&mut self.unacked);
            }
            if self.is_orphaned && self.unacked.is_empty() && stream.is_flushed() {
                return Ok(());
            }
            if self.is_orphaned && self.is_unavailable() {
                return Err(Loss::Final(self.unavailable()));
            }
            let wakeup = self.next(stream).await;
            match wakeup.map_err(|error| stream.loss(&self.path, &error.to_string()))? {
                Wakeup::Stream(Progress::Closed) => {
                    return Err(stream.loss(&self.path, "wshubd closed it"));
                }
                Wakeup::Stream(Progress::Received) => self.receive(stream)?,
                Wakeup::Stream(Progress::RetryDue) => {
                    stream.retry_refused(&self.registrations, clock::now().moment);
                }
                Wakeup::Request(request) => {
                    self.accept(request);
                    self.accept_queued();
                }
                Wakeup::Unavailable => self.on_unavailable(),
                Wakeup::Orphaned => self.is_orphaned = true,
                Wakeup::Stream(Progress::Written) | Wakeup::Room => {}
            }
        }
    }

    /// Waits for the next thing that happens. Each branch may be
    /// dropped half way without losing anything; `race` keeps none of them waiting
    /// for ever. Nothing is read before the reader of the events has room, unless an
    /// answer or an interrupt may come.
    async fn next(&mut self, stream: &mut FramedStream) -> std::io::Result<Wakeup> {
        let reads = !self.events.is_full()
            || self.unacked.is_unanswered()
            || self.registrations.has_operations()
            || stream.is_write_closed()
            || !self.is_connected();
        let Self { requests, events, unavailable_at, is_orphaned, .. } = self;
        let progress = async { stream.progress(reads).await.map(Wakeup::Stream) };
        let room = async {
            if reads {
                return future::pending().await;
            }
            events.wait_for_room().await;
            Ok(Wakeup::Room)
        };
        let request = async { Ok(next_request(requests, *is_orphaned).await) };
        let unavailable = async { Ok(unavailable(unavailable_at).await) };
        future::race(future::race(progress, room), future::race(request, unavailable)).await
    }

    /// Waits between two connections, and takes requests meanwhile.
    pub(super) async fn pause(&mut self, pause: Duration) -> Result<PauseEnd, Error> {
        let mut due = Timer::after(pause);
        loop {
            if self.is_orphaned && self.unacked.is_empty() {
                return Ok(PauseEnd::NothingLeft);
            }
            if self.is_orphaned && self.is_unavailable() {
                return Err(self.unavailable());
            }
            let Self { requests, unavailable_at, is_orphaned, .. } = self;
            let over = async {
                (&mut due).await;
                None
            };
            let request = next_request(requests, *is_orphaned);
            let wakeup = async { Some(future::or(unavailable(unavailable_at), request).await) };
            match future::or(over, wakeup).await {
                Some(Wakeup::Request(request)) => {
                    let is_end = matches!(request.kind(), RequestKind::End(_));
                    self.accept(request);
                    self.accept_queued();
                    if is_end {
                        return Ok(PauseEnd::OperationEnded);
                    }
                }
                Some(Wakeup::Orphaned) => self.is_orphaned = true,
                Some(Wakeup::Unavailable) => self.on_unavailable(),
                Some(Wakeup::Stream(_) | Wakeup::Room) | None => return Ok(PauseEnd::Due),
            }
        }
    }

    /// The connection is lost, and another is made. Gives back how long it had lasted;
    /// nothing where the hub had not answered on it.
    pub(super) fn on_disconnect(&mut self, error: &Error) -> Option<Duration> {
        let mut lasted = None;
        if let Connectivity::Since(then) = self.connectivity {
            lasted = Some(clock::now().moment.since(then));
            self.set_disconnected();
            self.report_loss(error);
        }
        self.unacked.on_disconnect(error);
        lasted
    }

    fn set_disconnected(&mut self) {
        self.connectivity = Connectivity::Reconnecting;
        self.unavailable_at = Some(Timer::after(self.patience));
        self.requests.set_flow(Flow::Disconnected);
    }

    /// Reports the loss to the reader of the events, once.
    pub(super) fn report_loss(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.has_reported_loss, true) {
            self.events.push(ClientEvent::Disconnected(error.clone()));
        }
    }

    /// No caller is kept waiting any longer.
    fn on_unavailable(&mut self) {
        self.unavailable_at = None;
        self.connectivity = Connectivity::Unavailable;
        for id in self.unacked.give_up(&self.unavailable()) {
            self.registrations.forget(&id);
        }
    }

    /// The hub has answered on a new connection: operations and subscriptions are restored
    /// before anything else is sent.
    fn on_reconnect(&mut self, stream: &mut FramedStream) {
        let now = clock::now().moment;
        // What was sent until now was sent while it was not connected.
        self.accept_queued();
        self.unacked.expire(now);
        let mut all = self.registrations.restorations();
        self.unacked.renew_lines(|kind| match kind {
            RequestKind::Start(id) => self.registrations.start_line(id, now),
            RequestKind::Subscribe(channel) => {
                self.registrations.line(&Restoration::Channel(channel.clone()), now)
            }
            _ => None,
        });
        // Asked for twice it would begin twice, and the second time from now.
        all.retain(|it| !matches!(it, Restoration::Channel(channel) if self.unacked.subscribes_to(channel)));
        stream.restore(all, &self.registrations, now);
        self.connectivity = Connectivity::Since(now);
        self.has_reported_loss = false;
        self.unavailable_at = None;
        self.requests.set_flow(Flow::Moving);
        self.events.push(ClientEvent::Reconnected);
    }

    fn accept_queued(&mut self) {
        while let Some(request) = self.requests.try_recv() {
            self.accept(request);
        }
    }

    fn accept(&mut self, mut request: QueuedRequest) {
        let registration = request.take_registration();
        if let (RequestKind::Start(id), Some(registration)) = (request.kind(), registration)
            && !self.registrations.begin(id, registration)
        {
            // The hub would answer ok to its owner, and one latch would be lost.
            let message = format!("operation {id:?} runs on this connection already");
            let refused = ErrorLine { code: "conflict".into(), message };
            request.answer(Err(Error::Refused(refused)));
            return;
        }
        if let RequestKind::Unsubscribe(channel) = request.kind() {
            self.registrations.unsubscribe(channel);
        }
        if self.is_unavailable() && request.has_caller() {
            request.answer_finally(Err(self.unavailable()));
            match request.kind() {
                // It is still sent when that is possible.
                RequestKind::End(_) => {}
                RequestKind::Start(id) => return self.registrations.forget(id),
                _ => return,
            }
        }
        self.unacked.push(request);
    }

    /// Handles all whole lines that have come.
    fn receive(&mut self, stream: &mut FramedStream) -> Result<(), Loss> {
        while let Some(line) = stream.next_line() {
            self.handle(stream, &line).map_err(|what| self.malformed(what))?;
        }
        if stream.is_line_too_long() {
            return Err(self.malformed("a line without an end"));
        }
        Ok(())
    }

    fn malformed(&self, what: &str) -> Loss {
        Loss::Final(Error::Malformed(format!("the peer at {} is not wshubd: {what}", self.path.display())))
    }

    fn handle(&mut self, stream: &mut FramedStream, line: &[u8]) -> Result<(), &'static str> {
        let text = std::str::from_utf8(line).map_err(|_| "a line that is not UTF-8")?;
        let head: LineHead<'_> =
            serde_json::from_str(text).map_err(|_| "a line that is no JSON object with a type")?;
        let line = HubLine::new(&head.kind, text);
        let id = head.id.and_then(|id| LineId::parse(id.get()));
        stream.clear_rejection();
        match (&*head.kind, id) {
            ("interrupt", _) => {
                if let (Some(id), Ok(interrupt)) = (&head.operation_id, line.parse()) {
                    self.registrations.interrupt(id, interrupt);
                }
            }
            // It is for clients of the hub and not for workers; it answers nothing, though
            // it may carry the id of the request that caused it.
            ("connection_id", _) => {}
            (_, Some(LineId::Probe)) => self.on_reconnect(stream),
            (_, Some(LineId::Restoration(number))) => self.on_restoration_answer(stream, number, line),
            // The final outcome comes under the same id.
            (_, Some(LineId::Request(id))) if head.outcome.as_deref() == Some("pending") => {
                self.unacked.answer_provisionally(id, Ok(line));
            }
            (_, Some(LineId::Request(id))) => self.on_answer(id, line),
            ("error", None) => self.on_error_without_id(stream, line, head.action.is_some()),
            ("bye", None) => {
                stream.on_bye(&line, head.reason.map(Cow::into_owned));
                self.events.push(ClientEvent::Line(line));
            }
            (kind, None) => {
                match (kind, head.channel, head.to_seq.or(head.seq)) {
                    ("message" | "gap", Some(channel), Some(seq)) => {
                        self.registrations.advance(&channel, seq);
                    }
                    ("unsubscribed", Some(channel), _) => self.registrations.unsubscribe(&channel),
                    _ => {}
                }
                self.events.push(ClientEvent::Line(line));
            }
        }
        Ok(())
    }

    fn on_answer(&mut self, id: u64, line: HubLine) {
        let Some(request) = self.unacked.take_answered(id) else { return };
        let answer = line.clone().into_answer();
        match (request.kind(), &answer) {
            (RequestKind::Start(id), Ok(_)) => self.registrations.confirm(id),
            (RequestKind::Start(id), Err(error)) => self.registrations.disown(id, error.clone()),
            (RequestKind::End(id), _) => self.registrations.forget(id),
            // It may have been granted only after it was to be left.
            (RequestKind::Unsubscribe(channel), Ok(_)) => self.registrations.unsubscribe(channel),
            (RequestKind::Subscribe(channel), Ok(line)) => self.registrations.subscribe(channel, line),
            _ => {}
        }
        let is_ok = answer.is_ok();
        if !request.has_caller() {
            // It has no caller, but an error must not get lost.
            if line.kind() == "error" {
                self.events.push(ClientEvent::Line(line));
            }
        } else if !request.answer(answer)
            && is_ok
            && let RequestKind::Start(id) = request.kind()
        {
            self.abandon(id);
        }
    }

    /// The caller that started an operation has not waited for the answer.
    fn abandon(&mut self, id: &str) {
        self.accept_queued();
        if self.unacked.ends(id) {
            return;
        }
        if let Ok(line) = request::end(id, EndState::Failed, &()) {
            self.unacked.push(self.requests.own_request(RequestKind::End(id.into()), line));
        }
    }

    fn on_restoration_answer(&mut self, stream: &mut FramedStream, number: usize, line: HubLine) {
        let Some(restoration) = stream.restoration(number).cloned() else { return };
        match (&restoration, line.clone().into_answer()) {
            (Restoration::Operation(_), Ok(_)) => {}
            (Restoration::Channel(channel), Ok(line)) => self.registrations.subscribe(channel, &line),
            (_, Err(error)) => {
                let is_passing =
                    matches!(error.code(), Some("conflict" | "unknown_operation" | "rate_limited"));
                if is_passing && stream.try_later(restoration.clone()) {
                    return;
                }
                match &restoration {
                    Restoration::Operation(id) => self.registrations.disown(id, error),
                    Restoration::Channel(channel) => self.registrations.unsubscribe(channel),
                }
                self.events.push(ClientEvent::Line(line));
            }
        }
    }

    /// An error without an id is about the connection, or about a line over the limit, of
    /// which the hub has read no id.
    fn on_error_without_id(&mut self, stream: &mut FramedStream, line: HubLine, has_action: bool) {
        let error: Option<ErrorLine> = line.parse().ok();
        let code = error.as_ref().map(|error| &*error.code);
        if let (Some("forbidden"), Some(error)) = (code, &error)
            && stream.is_at_first_line()
            && !has_action
        {
            stream.on_rejection(error);
        }
        // Of a request that is too long in one field the hub has read the action.
        let is_unread = code == Some("too_large") && !has_action;
        if let (true, Some(id)) = (is_unread, self.unacked.longest(SHORTEST_LIMIT)) {
            return self.on_answer(id, line);
        }
        stream.on_connection_error(error);
        self.events.push(ClientEvent::Line(line));
    }
}

async fn next_request(requests: &RequestQueue, is_orphaned: bool) -> Wakeup {
    if is_orphaned {
        return future::pending().await;
    }
    requests.recv().await.map_or(Wakeup::Orphaned, Wakeup::Request)
}

/// Waits until no caller is kept waiting any more.
async fn unavailable(at: &mut Option<Timer>) -> Wakeup {
    match at {
        Some(timer) => drop(timer.await),
        None => future::pending().await,
    }
    Wakeup::Unavailable
}

/// The fields of a line that the session reads.
#[derive(Deserialize)]
struct LineHead<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    action: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    operation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    outcome: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    seq: Option<u64>,
    to_seq: Option<u64>,
}
