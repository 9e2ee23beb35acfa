//! What orders and the hub's lines mean to a link.
//!
//! Knows which answer belongs to which request and which interrupt to which
//! latch. Does not know sockets, or what anybody does about an interrupt.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::backpressure;
use super::connection::{Answer, Connected, ConnectionTask, Loss, Order};
use super::error::{Error, Refused};
use super::event::Heard;
use super::framed::{About, FramedStream};
use super::incoming::News;
use super::request::End;
use super::session::Resubscribe;
use super::unacked::Kind;
use crate::protocol::EndState;

/// No hub's limit for a line is below this; that for a name or an id is.
const SHORTEST_LIMIT: usize = 1024;

impl ConnectionTask {
    pub(super) fn take_all(&mut self, first: Order) {
        self.take(first);
        self.take_waiting();
    }

    pub(super) fn take_waiting(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            self.take(order);
        }
    }

    fn take(&mut self, order: Order) {
        let Order { kind, line, weight, answer, begins } = order;
        if let (Kind::Start(id), Some(registration)) = (&kind, begins)
            && !self.standing.begin(id, registration)
        {
            // The hub would say ok to its owner, and one latch would be lost.
            let message = format!("operation {id:?} runs on this connection already");
            let refused = Error::Refused(Refused { code: "conflict".into(), message });
            self.room.free(weight);
            let _ = answer.map(|answer| answer.try_send(Err(refused)));
            return;
        }
        if let Kind::Unsubscribe(channel) = &kind {
            self.standing.unsubscribed(channel);
        }
        let answer = match answer {
            Some(waiting) if self.here == Connected::LongGone => {
                let _ = waiting.try_send(Err(self.away()));
                if !matches!(kind, Kind::End(_)) {
                    if let Kind::Start(id) = &kind {
                        self.standing.forget(id);
                    }
                    return self.room.free(weight);
                }
                None
            }
            answer => answer,
        };
        self.journal.push(kind, line, weight, answer);
    }

    pub(super) fn hear(&mut self, talk: &mut FramedStream, chunk: &[u8]) -> Result<(), Loss> {
        let mut searched = talk.unfinished();
        talk.received(chunk);
        while let Some(line) = talk.next_line(&mut searched) {
            self.line(talk, &line).map_err(|what| self.garbled(what))?;
        }
        if talk.is_endless() {
            return Err(self.garbled("a line without an end"));
        }
        Ok(())
    }

    fn line(&mut self, talk: &mut FramedStream, line: &[u8]) -> Result<(), &'static str> {
        let text = std::str::from_utf8(line).map_err(|_| "a line that is not UTF-8")?;
        let head: Head<'_> =
            serde_json::from_str(text).map_err(|_| "a line that is no JSON object with a type")?;
        let heard = Heard::new(&head.kind, text);
        let about = head.id.and_then(|id| About::read(id.get()));
        // Who hears anything else was let in.
        talk.turned_away = None;
        match (&*head.kind, about) {
            ("interrupt", _) => {
                if let (Some(id), Ok(interrupt)) = (&head.operation_id, heard.read()) {
                    self.standing.interrupt(id, interrupt);
                }
            }
            // Tells a worker what only a client needs; it answers nothing, though
            // it may carry the id of the request that caused it.
            ("connection_id", _) => {}
            (_, Some(About::Greeting)) => self.is_back(talk),
            (_, Some(About::Again(number))) => self.said_again(talk, number, heard),
            (_, Some(About::Entry(id))) if head.outcome.as_deref() == Some("pending") => {
                // The final outcome comes under the same id.
                if let Some(waiting) = self.journal.half_answered(id) {
                    let _ = waiting.try_send(Ok(heard));
                }
            }
            (_, Some(About::Entry(id))) => self.answered(id, heard),
            ("error", None) => self.complaint(talk, heard, head.action.is_some()),
            ("bye", None) => {
                talk.parting = head.reason.map(Cow::into_owned);
                talk.bye = heard.read().ok();
                self.unasked.push(News::Line(heard));
            }
            (kind, None) => {
                match (kind, head.channel, head.to_seq.or(head.seq)) {
                    ("message" | "gap", Some(channel), Some(seq)) => self.standing.heard(&channel, seq),
                    ("unsubscribed", Some(channel), _) => self.standing.unsubscribed(&channel),
                    _ => {}
                }
                self.unasked.push(News::Line(heard));
            }
        }
        Ok(())
    }

    fn answered(&mut self, id: u64, heard: Heard) {
        let Some((kind, waiting)) = self.journal.answered(id) else { return };
        let complaint = (heard.kind() == "error").then(|| heard.clone());
        let answer = told(heard);
        match (&kind, &answer) {
            (Kind::Start(id), Ok(_)) => self.standing.registered(id),
            (Kind::Start(id), Err(error)) => self.standing.disown(id, error.clone()),
            (Kind::End(id), _) => self.standing.forget(id),
            // It may have been granted only after it was to be left.
            (Kind::Unsubscribe(channel), Ok(_)) => self.standing.unsubscribed(channel),
            (Kind::Subscribe(channel), Ok(heard)) => self.standing.subscribed(channel, heard.read().ok()),
            _ => {}
        }
        match (waiting, complaint) {
            (Some(waiting), _) => {
                let runs = answer.is_ok();
                if let (Err(_), true, Kind::Start(id)) = (waiting.try_send(answer), runs, &kind) {
                    self.abandon(id);
                }
            }
            // Nobody asked, but somebody should know.
            (None, Some(complaint)) => self.unasked.push(News::Line(complaint)),
            (None, None) => {}
        }
    }

    /// Whoever began an operation has not waited for the answer.
    fn abandon(&mut self, id: &str) {
        self.take_waiting();
        if self.journal.ends(id) {
            return;
        }
        let end = End { operation_id: id, state: EndState::Failed, data: &() };
        if let Ok(line) = serde_json::to_vec(&end) {
            let weight = backpressure::weight(&line);
            self.room.take_anyway(weight);
            self.journal.push(Kind::End(id.into()), line, weight, None);
        }
    }

    fn said_again(&mut self, talk: &mut FramedStream, number: usize, heard: Heard) {
        let Some(thing) = talk.said_again(number).cloned() else { return };
        match (&thing, told(heard.clone())) {
            (Resubscribe::Operation(_), Ok(_)) => {}
            (Resubscribe::Channel(channel), Ok(heard)) => {
                self.standing.subscribed(channel, heard.read().ok())
            }
            (_, Err(error)) => {
                let passes = matches!(error.code(), Some("conflict" | "unknown_operation" | "rate_limited"));
                if passes && talk.try_later(thing.clone()) {
                    return;
                }
                match &thing {
                    Resubscribe::Operation(id) => self.standing.disown(id, error),
                    Resubscribe::Channel(channel) => self.standing.unsubscribed(channel),
                }
                self.unasked.push(News::Line(heard));
            }
        }
    }

    /// An error without an id. Of a line over the limit the hub has seen no id.
    fn complaint(&mut self, talk: &mut FramedStream, heard: Heard, is_about_a_request: bool) {
        let refused: Option<Refused> = heard.read().ok();
        let code = refused.as_ref().map(|refused| &*refused.code);
        let is_about_us = talk.has_just_begun() && code == Some("forbidden") && !is_about_a_request;
        talk.turned_away = refused.as_ref().filter(|_| is_about_us).map(|refused| refused.message.clone());
        // Of one that is too long in some field it has seen which action it was.
        let is_unread = code == Some("too_large") && !is_about_a_request;
        if let (true, Some(id)) = (is_unread, self.journal.longest(SHORTEST_LIMIT)) {
            return self.answered(id, heard);
        }
        talk.parting = refused.map(|refused| refused.message);
        self.unasked.push(News::Line(heard));
    }

    fn garbled(&self, what: &str) -> Loss {
        let error = Error::Garbled(format!("{} speaks no wshubd: {what}", self.path.display()));
        Loss { error, is_final: true, after: None }
    }
}

fn told(heard: Heard) -> Answer {
    match heard.kind() {
        "error" => heard.read().and_then(|refused| Err(Error::Refused(refused))),
        _ => Ok(heard),
    }
}

/// What the link must know of a line.
#[derive(Deserialize)]
struct Head<'a> {
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
