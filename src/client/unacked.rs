//! Requests that the hub has not confirmed yet, in the order in which they were sent.
//!
//! The position of a request is the `id` of its line. A publication without
//! a caller has none on the wire, but the last one of a write: the hub
//! takes the lines of a connection in their order, so that the answer to one
//! confirms all before it. An answer for each would cost the hub as much as the
//! message.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::error::Error;
use super::request_queue::{QueuedRequest, RequestAnswer, RequestKind};
use crate::protocol::Moment;

/// After so many bytes without an id the next line has one, so that room is
/// freed while a long write is under way.
const CONFIRM: usize = 16 << 10;

/// Whether lines are written again after a loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ResendPolicy {
    UntilConfirmed,
    /// A request is finished once it is written.
    Never,
}

#[derive(Debug)]
pub(super) struct Unacked {
    /// None is confirmed or given up, and waits only to be first. The first is never so.
    requests: VecDeque<Option<QueuedRequest>>,
    /// The id of the first request.
    first: u64,
    /// The id of the first that is not written to the present connection.
    next: u64,
    /// Below this no publication waits for a later answer.
    confirmed: u64,
    /// Bytes written since the last line with an id.
    without_id: usize,
    resend: ResendPolicy,
}

impl Unacked {
    pub(super) fn new(resend: ResendPolicy) -> Self {
        Self { requests: VecDeque::new(), first: 0, next: 0, confirmed: 0, without_id: 0, resend }
    }

    pub(super) fn push(&mut self, request: QueuedRequest) {
        self.requests.push_back(Some(request));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether an answer is on its way.
    pub(super) fn is_unanswered(&self) -> bool {
        self.next > self.first
    }

    /// Writes what is not written yet, until so many bytes wait for the socket.
    pub(super) fn write(&mut self, out: &mut BytesMut, until: usize) {
        while out.len() < until {
            let index = self.index(self.next);
            // What was given up is not written, so its answer confirms nothing.
            let is_last = self.requests.iter().skip(index + 1).all(Option::is_none);
            let Some(request) = self.requests.get(index) else { break };
            let id = self.next;
            self.next += 1;
            let Some(request) = request else { continue };
            self.without_id += request.len();
            let confirms =
                self.resend == ResendPolicy::UntilConfirmed && (is_last || self.without_id >= CONFIRM);
            if confirms || request.needs_own_answer() {
                self.without_id = 0;
                request.write_to(out, Some(id));
            } else {
                request.write_to(out, None);
                if self.resend == ResendPolicy::Never {
                    self.finish(index);
                }
            }
        }
        self.trim();
    }

    /// Takes out the request with this id, whose last answer has come. None
    /// where there is no such request, or it was given up.
    pub(super) fn take_answered(&mut self, id: u64) -> Option<QueuedRequest> {
        if id >= self.next {
            return None;
        }
        self.confirm(id);
        let index = usize::try_from(id.checked_sub(self.first)?).ok()?;
        let request = self.finish(index);
        self.trim();
        request
    }

    /// Passes on an answer that is not the last one to `id`.
    pub(super) fn answer_provisionally(&self, id: u64, answer: RequestAnswer) {
        let index = id.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some(Some(request)) = index.and_then(|index| self.requests.get(index)) {
            request.answer(answer);
        }
    }

    /// The longest line on its way, where it is longer than `least`: the one that
    /// an error without an id is about, if its code is `too_large`.
    pub(super) fn longest(&self, least: usize) -> Option<u64> {
        let written = self.requests.iter().zip(self.first..self.next);
        let lengths = written.filter_map(|(request, id)| Some((request.as_ref()?.len(), id)));
        let longest = lengths.max_by_key(|(length, _)| *length);
        longest.filter(|(length, _)| *length > least).map(|(_, id)| id)
    }

    /// The connection is lost. All is to be written again, but requests that may not be
    /// safe to do twice: those are answered with the error.
    pub(super) fn on_disconnect(&mut self, error: &Error) {
        for index in 0..self.index(self.next) {
            if let Some(request) = self.finish_if(index, |it| matches!(it.kind(), RequestKind::Other)) {
                request.answer(Err(error.clone()));
            }
        }
        self.without_id = 0;
        self.next = self.first;
        self.trim();
    }

    /// Gives up each request that a caller waits for, and answers with the error. The
    /// end of an operation is still sent when that is possible. Gives back the
    /// operations whose start was given up.
    pub(super) fn give_up(&mut self, error: &Error) -> Vec<Box<str>> {
        let mut starts = Vec::new();
        for index in 0..self.requests.len() {
            if let Some(Some(end)) = self.requests.get_mut(index)
                && matches!(end.kind(), RequestKind::End(_))
            {
                end.answer_finally(Err(error.clone()));
            } else if let Some(request) = self.finish_if(index, QueuedRequest::has_caller) {
                request.answer(Err(error.clone()));
                if let RequestKind::Start(id) = request.kind() {
                    starts.push(id.clone());
                }
            }
        }
        self.trim();
        starts
    }

    /// Gives up messages that have outlived their `ttl`.
    pub(super) fn expire(&mut self, now: Moment) {
        for index in 0..self.requests.len() {
            if let Some(request) = self.finish_if(index, |request| request.has_expired(now)) {
                request.answer(Err(Error::Expired));
            }
        }
        self.trim();
    }

    /// Makes those lines anew that depend on when they are sent.
    pub(super) fn renew_lines(&mut self, line: impl Fn(&RequestKind) -> Option<Vec<u8>>) {
        for request in self.requests.iter_mut().flatten() {
            if let Some(line) = line(request.kind()) {
                request.replace_line(line);
            }
        }
    }

    /// Whether a request to subscribe to a channel is among them.
    pub(super) fn subscribes_to(&self, channel: &str) -> bool {
        self.has_kind(|kind| matches!(kind, RequestKind::Subscribe(asked) if **asked == *channel))
    }

    /// Whether the end of an operation is among them.
    pub(super) fn ends(&self, id: &str) -> bool {
        self.has_kind(|kind| matches!(kind, RequestKind::End(ended) if **ended == *id))
    }

    fn has_kind(&self, kind: impl Fn(&RequestKind) -> bool) -> bool {
        self.requests.iter().flatten().any(|request| kind(request.kind()))
    }

    /// All publications before `id` without a caller are taken.
    fn confirm(&mut self, id: u64) {
        for id in self.confirmed.max(self.first)..id {
            self.finish_if(self.index(id), |request| !request.needs_own_answer());
        }
        self.confirmed = self.confirmed.max(id);
    }

    fn index(&self, id: u64) -> usize {
        usize::try_from(id.saturating_sub(self.first)).unwrap_or(usize::MAX)
    }

    /// None where it was finished before.
    fn finish(&mut self, index: usize) -> Option<QueuedRequest> {
        self.requests.get_mut(index)?.take()
    }

    fn finish_if(
        &mut self,
        index: usize,
        condition: impl Fn(&QueuedRequest) -> bool,
    ) -> Option<QueuedRequest> {
        let request = self.requests.get_mut(index)?;
        if request.as_ref().is_some_and(condition) { request.take() } else { None }
    }

    fn trim(&mut self) {
        while self.requests.front().is_some_and(Option::is_none) {
            self.requests.pop_front();
            self.first += 1;
        }
        self.next = self.next.max(self.first);
    }
}
