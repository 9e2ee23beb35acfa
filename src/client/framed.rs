//! One connection: its bytes in both directions, and what is known of its end.
//!
//! Knows lines. Does not know what they mean, or what comes after this one.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde::Deserialize;
use smol::Timer;
use smol::net::unix::UnixStream;

use super::session::{Resubscribe, SessionState};
use crate::protocol::{Moment, Return};

/// No hub says more on one line: a hundred times its default limit. Beyond it,
/// whoever is at the other end is no hub.
const LONGEST_LINE: usize = 64 << 20;

/// What the hub refuses to a new connection is asked again: it may not have
/// noticed yet that the old one has gone, or the worker whose operation is heard
/// may not be back. As long as an interrupt waits for its operation.
const RETRY: Duration = Duration::from_secs(1);
const RETRIES: u32 = 10;

/// The ids of what is said again begin so; those of all else are numbers.
const AGAIN: &str = "again:";

#[derive(Debug)]
pub(super) struct FramedStream {
    pub(super) stream: UnixStream,
    pub(super) outgoing: BytesMut,
    incoming: BytesMut,
    /// What was said again, by number.
    said_again: Vec<Resubscribe>,
    /// What was refused and is to be said once more.
    refused: Vec<Resubscribe>,
    retries: u32,
    pub(super) retry: Option<Timer>,
    /// Lines heard.
    heard: u64,
    /// What the hub said last that might explain why it hung up.
    pub(super) parting: Option<String>,
    pub(super) bye: Option<Bye>,
    /// Nothing more can be written: it has hung up.
    pub(super) unheard: bool,
    /// Its first word was that this one may not speak to it.
    pub(super) turned_away: Option<String>,
}

/// The hub is about to hang up.
#[derive(Debug, Deserialize)]
pub(super) struct Bye {
    code: u16,
    reconnect: Option<bool>,
    after_ms: Option<u64>,
}

impl Bye {
    pub(super) fn is_final(&self) -> bool {
        !self.reconnect.unwrap_or_else(|| Return::after(self.code) != Return::No)
    }

    pub(super) fn after(&self) -> Option<Duration> {
        self.after_ms.map(Duration::from_millis)
    }
}

/// Which of our lines is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum About {
    /// One of the journal's.
    Entry(u64),
    /// Whether the hub is there.
    Greeting,
    /// What was said again, by number.
    Again(usize),
}

impl About {
    /// Reads an `id`, as JSON text.
    pub(super) fn read(id: &str) -> Option<Self> {
        match id.strip_prefix('"') {
            None => id.parse().ok().map(Self::Entry),
            Some(text) => {
                let number = text.strip_suffix('"')?.strip_prefix(AGAIN)?;
                if number.is_empty() { Some(Self::Greeting) } else { number.parse().ok().map(Self::Again) }
            }
        }
    }
}

impl FramedStream {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            outgoing: BytesMut::new(),
            incoming: BytesMut::new(),
            said_again: Vec::new(),
            refused: Vec::new(),
            retries: 0,
            retry: None,
            heard: 0,
            parting: None,
            bye: None,
            unheard: false,
            turned_away: None,
        }
    }

    /// Asks for a sign of life, before all else: what answers it is a hub.
    pub(super) fn greet(&mut self) {
        let line = format!("{{\"action\":\"ping\",\"id\":\"{AGAIN}\"}}\n");
        self.outgoing.extend_from_slice(line.as_bytes());
    }

    pub(super) fn say_again(&mut self, things: Vec<Resubscribe>, standing: &SessionState, now: Moment) {
        if self.unheard {
            return;
        }
        for thing in things {
            let Some(mut line) = standing.line(&thing, now) else { continue };
            line.pop();
            let id = self.said_again.len();
            line.extend_from_slice(format!(",\"id\":\"{AGAIN}{id}\"}}\n").as_bytes());
            self.outgoing.extend_from_slice(&line);
            self.said_again.push(thing);
        }
    }

    pub(super) fn said_again(&self, number: usize) -> Option<&Resubscribe> {
        self.said_again.get(number)
    }

    /// Notes that something was refused; false where it was asked often enough.
    pub(super) fn try_later(&mut self, thing: Resubscribe) -> bool {
        let again = self.retries < RETRIES;
        if again {
            self.refused.push(thing);
            self.retry.get_or_insert_with(|| Timer::after(RETRY));
        }
        again
    }

    /// The wait for the next attempt is over.
    pub(super) fn retry(&mut self, standing: &SessionState, now: Moment) {
        self.retry = None;
        self.retries += 1;
        let refused = std::mem::take(&mut self.refused);
        self.say_again(refused, standing, now);
    }

    pub(super) fn received(&mut self, chunk: &[u8]) {
        self.incoming.extend_from_slice(chunk);
    }

    /// The next whole line; `searched` is how far none was found before.
    pub(super) fn next_line(&mut self, searched: &mut usize) -> Option<BytesMut> {
        let unsearched = self.incoming.get(*searched..).unwrap_or_default();
        let Some(end) = memchr::memchr(b'\n', unsearched) else {
            *searched = self.incoming.len();
            return None;
        };
        let line = self.incoming.split_to(*searched + end);
        self.incoming.advance(1);
        *searched = 0;
        self.heard += 1;
        Some(line)
    }

    /// How much there is of a line that has not ended.
    pub(super) fn unfinished(&self) -> usize {
        self.incoming.len()
    }

    pub(super) fn is_endless(&self) -> bool {
        self.incoming.len() > LONGEST_LINE
    }

    /// Whether the hub has said anything but the line that is being read.
    pub(super) fn has_just_begun(&self) -> bool {
        self.heard <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::About;

    #[test]
    fn an_id_says_what_is_answered() {
        assert_eq!(About::read("7"), Some(About::Entry(7)));
        assert_eq!(About::read("\"again:\""), Some(About::Greeting));
        assert_eq!(About::read("\"again:3\""), Some(About::Again(3)));
        assert_eq!(About::read("\"7\""), None);
        assert_eq!(About::read("-1"), None);
    }
}
