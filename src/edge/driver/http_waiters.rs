//! HTTP requests that wait for an answer of the hub.

use std::collections::HashMap;

use async_channel::{Receiver, Sender};

use crate::hub::Requester;
use crate::protocol::frame::{Outcome, Statistics};
use crate::protocol::{Frame, Refusal};

/// The hub's answer to an HTTP request.
#[derive(Debug)]
pub enum HttpAnswer {
    /// The statistics, which each endpoint renders in its own form.
    Statistics(Box<Statistics>),
    /// The JSON of the frame.
    Done(Vec<u8>),
    /// The same of a refusal.
    Refused { refusal: Refusal, body: Vec<u8> },
}

impl HttpAnswer {
    fn new(frame: &Frame<'_>, refusal: Option<&Refusal>) -> Self {
        if let Frame::Stats(statistics) = frame {
            return Self::Statistics(statistics.clone());
        }
        let mut body = Vec::new();
        frame.encode(None, &mut body);
        match refusal {
            None => Self::Done(body),
            Some(refusal) => Self::Refused { refusal: refusal.clone(), body },
        }
    }
}

/// All of them, by number.
#[derive(Default)]
pub(super) struct HttpWaiters {
    waiting: HashMap<u64, Sender<HttpAnswer>>,
    last: u64,
}

/// A request that waits from now on.
pub(super) struct HttpWaiter {
    pub requester: Requester,
    pub answer: Receiver<HttpAnswer>,
}

impl HttpWaiters {
    /// Numbers a request.
    pub(super) fn open(&mut self) -> HttpWaiter {
        // An interrupt may be answered twice, `pending` first.
        let (sender, answer) = async_channel::bounded(1);
        self.last += 1;
        self.waiting.insert(self.last, sender);
        HttpWaiter { requester: Requester::Http(self.last), answer }
    }

    /// Answers a request; does nothing if the peer has closed.
    pub(super) fn answer(&mut self, number: u64, frame: &Frame<'_>, refusal: Option<&Refusal>) {
        if matches!(frame, Frame::InterruptResult { outcome: Outcome::Pending, .. }) {
            return;
        }
        if let Some(waiter) = self.waiting.remove(&number) {
            // The peer may have closed.
            let _ = waiter.try_send(HttpAnswer::new(frame, refusal));
        }
    }

    /// The number of the last request.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Goes on after the last request of another process: what the hub still knows of one is
    /// not to be taken for another.
    pub(super) fn go_on_after(&mut self, last: u64) {
        self.last = last;
    }
}
