//! The one task that owns the socket.
//!
//! Knows which answer belongs to which request and which interrupt to which
//! latch. Does not know what is asked, or what anybody does about an interrupt.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_channel::{Receiver, Sender};
use bytes::{Buf, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use smol::future;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::unix::UnixStream;

use super::error::{Error, Refused};
use super::heard::Heard;
use super::lines::Unasked;
use super::operation::Interrupt;

/// Bytes that wait for the socket before no more orders are taken; what one
/// write to a Unix socket takes is not much more.
const FULL: usize = 64 << 10;

/// What one read takes.
const CHUNK: usize = 64 << 10;

/// No hub says more on one line: a hundred times its default limit. Beyond it,
/// whoever is at the other end is no hub.
const LONGEST_LINE: usize = 64 << 20;

/// What a request is answered with.
pub(super) type Answer = Result<Heard, Error>;

/// One line to be sent.
#[derive(Debug)]
pub(super) struct Order {
    /// A JSON object without its id.
    pub(super) line: Vec<u8>,
    /// Where the answers go, if any are wanted.
    pub(super) answer: Option<Sender<Answer>>,
    pub(super) latching: Latching,
}

/// What an order does to the latches.
#[derive(Debug)]
pub(super) enum Latching {
    None,
    /// From before the line is sent: the interrupt may come with the answer.
    Attach(Box<str>, Sender<Interrupt>),
    Detach(Box<str>),
}

/// A request on its way.
#[derive(Debug)]
struct Awaited {
    answer: Sender<Answer>,
    length: usize,
    /// The operation that is begun by it.
    begins: Option<Box<str>>,
}

/// Owns the socket; [`Link::run`] does all there is to do.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    path: Arc<Path>,
    orders: Receiver<Order>,
    unasked: Unasked,
    over: Arc<OnceLock<Error>>,
    outgoing: BytesMut,
    incoming: BytesMut,
    next_id: u64,
    /// By id, which is the order in which they were asked.
    awaited: BTreeMap<u64, Awaited>,
    latches: HashMap<Box<str>, Sender<Interrupt>>,
    /// What the hub said last that might explain why it hung up.
    parting: Option<String>,
}

/// What happened to the link.
enum Turn {
    Read(usize),
    Room,
    Wrote(usize),
    Ordered(Order),
    /// Nobody is left who could give an order.
    Done,
}

impl Link {
    pub(super) fn new(
        stream: UnixStream,
        path: Arc<Path>,
        orders: Receiver<Order>,
        unasked: Unasked,
        over: Arc<OnceLock<Error>>,
    ) -> Self {
        Self {
            stream,
            path,
            orders,
            unasked,
            over,
            outgoing: BytesMut::new(),
            incoming: BytesMut::new(),
            next_id: 1,
            awaited: BTreeMap::new(),
            latches: HashMap::new(),
            parting: None,
        }
    }

    /// Carries lines both ways until the hub hangs up, or until all clients,
    /// operations and pending answers are dropped and all they said is written.
    ///
    /// # Errors
    /// [`Error::Lost`] or [`Error::Garbled`]; whoever still waits gets the same.
    pub async fn run(mut self) -> Result<(), Error> {
        let end = self.carry().await;
        if let Err(error) = &end {
            // Before the queues close, so that whoever finds one closed finds why.
            let _ = self.over.set(error.clone());
        }
        end
    }

    async fn carry(&mut self) -> Result<(), Error> {
        let mut chunk = vec![0; CHUNK];
        loop {
            match self.turn(&mut chunk).await? {
                Turn::Read(0) => return Err(self.lost("wshubd closed it")),
                Turn::Read(count) => self.hear(chunk.get(..count).unwrap_or_default())?,
                Turn::Room => {}
                Turn::Wrote(count) => self.outgoing.advance(count),
                Turn::Ordered(order) => {
                    self.take(order);
                    // One write for all that waits, up to a bound.
                    while self.outgoing.len() < FULL {
                        let Ok(order) = self.orders.try_recv() else { break };
                        self.take(order);
                    }
                }
                Turn::Done => return Ok(()),
            }
        }
    }

    /// Waits for the next thing that happens. Each branch may be dropped half
    /// way without losing anything; `race` keeps none of them waiting for ever.
    async fn turn(&self, chunk: &mut [u8]) -> Result<Turn, Error> {
        let (mut reader, mut writer) = (self.stream.clone(), self.stream.clone());
        let read = async {
            if self.unasked.is_full() && self.awaited.is_empty() && self.latches.is_empty() {
                self.unasked.room().await;
                return Ok(Turn::Room);
            }
            reader.read(chunk).await.map(Turn::Read)
        };
        let write = async {
            if self.outgoing.is_empty() {
                return future::pending().await;
            }
            writer.write(&self.outgoing).await.map(Turn::Wrote)
        };
        let order = async {
            if self.outgoing.len() >= FULL {
                return future::pending().await;
            }
            match self.orders.recv().await {
                Ok(order) => Ok(Turn::Ordered(order)),
                Err(_) if self.outgoing.is_empty() => Ok(Turn::Done),
                Err(_) => future::pending().await,
            }
        };
        let turn = future::race(read, future::race(write, order)).await;
        turn.map_err(|error| self.lost(&error.to_string()))
    }

    fn take(&mut self, order: Order) {
        let Order { mut line, answer, latching } = order;
        let mut begins = None;
        match latching {
            Latching::None => {}
            Latching::Attach(operation, latch) => {
                begins = Some(operation.clone());
                if self.latches.contains_key(&operation) {
                    // The hub would say ok to its owner, and one latch would be lost.
                    let message = format!("operation {operation:?} runs on this connection already");
                    let refused = Error::Refused(Refused { code: "conflict".into(), message });
                    let _ = answer.map(|answer| answer.try_send(Err(refused)));
                    return;
                }
                self.latches.insert(operation, latch);
            }
            Latching::Detach(operation) => drop(self.latches.remove(&operation)),
        }
        if let Some(answer) = answer {
            let id = self.next_id;
            self.next_id += 1;
            // The line is an object: the id goes in front of its last bracket.
            line.pop();
            line.extend_from_slice(format!(",\"id\":{id}}}").as_bytes());
            self.awaited.insert(id, Awaited { answer, length: line.len(), begins });
        }
        self.outgoing.extend_from_slice(&line);
        self.outgoing.extend_from_slice(b"\n");
    }

    fn hear(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let searched = self.incoming.len();
        self.incoming.extend_from_slice(chunk);
        let mut from = searched;
        while let Some(end) = memchr::memchr(b'\n', self.incoming.get(from..).unwrap_or_default()) {
            let line = self.incoming.split_to(from + end);
            self.incoming.advance(1);
            from = 0;
            self.line(&line)?;
        }
        if self.incoming.len() > LONGEST_LINE {
            return Err(self.garbled("a line without an end"));
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Error> {
        let text = std::str::from_utf8(line).map_err(|_| self.garbled("a line that is not UTF-8"))?;
        let Ok(head) = serde_json::from_str::<Head>(text) else {
            return Err(self.garbled("a line that is no JSON object with a type"));
        };
        let id = head.id.and_then(|raw| raw.get().parse().ok());
        let heard = Heard::new(&head.kind, text);
        match (&*head.kind, id) {
            ("interrupt", _) => self.interrupt(&head, &heard),
            // Tells a worker what only a client needs; it answers nothing, though
            // it may carry the id of the request that caused it.
            ("connection_id", _) => {}
            (_, Some(id)) if self.awaited.contains_key(&id) => {
                self.answered(id, heard, head.outcome.as_deref() == Some("pending"));
            }
            ("error", _) => self.complaint(heard),
            ("bye", _) => {
                self.parting = head.reason.map(|reason| reason.into_owned());
                self.unasked.push(heard);
            }
            _ => self.unasked.push(heard),
        }
        Ok(())
    }

    /// Pulls the latch: full means already asked, closed means already over,
    /// and both are as good.
    fn interrupt(&self, head: &Head<'_>, heard: &Heard) {
        let latch = head.operation_id.as_deref().and_then(|id| self.latches.get(id));
        if let (Some(latch), Ok(interrupt)) = (latch, heard.read()) {
            let _ = latch.try_send(interrupt);
        }
    }

    fn answered(&mut self, id: u64, heard: Heard, more_follows: bool) {
        let answer = match heard.kind() {
            "error" => heard.read().and_then(|refused| Err(Error::Refused(refused))),
            _ => Ok(heard),
        };
        if more_follows {
            // The final outcome comes under the same id.
            let _ = self.awaited.get(&id).map(|awaited| awaited.answer.try_send(answer));
        } else if let Some(awaited) = self.awaited.remove(&id) {
            if let (Err(_), Some(operation)) = (&answer, &awaited.begins) {
                self.latches.remove(operation);
            }
            let _ = awaited.answer.try_send(answer);
        }
    }

    /// An error without an id. Of a line over the limit the hub has seen no id:
    /// it was longer than all that were not refused, so it is the longest.
    fn complaint(&mut self, heard: Heard) {
        /// No hub's limit is below this; a name's or an id's is.
        const SHORTEST_LIMIT: usize = 1024;
        let refused: Option<Refused> = heard.read().ok();
        if refused.as_ref().is_some_and(|refused| refused.code == "too_large") {
            let longest = self.awaited.iter().max_by_key(|(_, awaited)| awaited.length);
            let longest = longest.filter(|(_, awaited)| awaited.length > SHORTEST_LIMIT).map(|(&id, _)| id);
            if let Some(id) = longest {
                return self.answered(id, heard, false);
            }
        }
        self.parting = refused.map(|refused| refused.message);
        self.unasked.push(heard);
    }

    fn lost(&self, why: &str) -> Error {
        let why = self.parting.as_ref().map_or_else(|| why.to_owned(), |said| format!("{why}: {said}"));
        Error::Lost { path: self.path.clone(), why }
    }

    fn garbled(&self, what: &str) -> Error {
        Error::Garbled(format!("{} speaks no wshubd: {what}", self.path.display()))
    }
}

/// What the link must know of a line.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "type")]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    operation_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    outcome: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<std::borrow::Cow<'a, str>>,
}
