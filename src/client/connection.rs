//! The one task that owns the socket, and looks for another when it is lost.
//!
//! Knows when to write, read, wait and come back. Does not know what is asked;
//! what the hub says is understood in [`dispatch`](super::dispatch).

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use bytes::Buf;
use smol::net::unix::UnixStream;
use smol::{Timer, future};

use super::backoff::{Backoff, SETTLED};
use super::backpressure::{Flow, SendBudget};
use super::error::Error;
use super::event::Heard;
use super::framed::{Bye, FramedStream};
use super::incoming::{News, Unasked};
use super::options::Places;
use super::select::{Wakeup, impatient, next_order, turn};
use super::session::{Registration, Resubscribe, SessionState};
use super::unacked::{Kind, Memory, Unacked};
use crate::edge::clock;
use crate::protocol::Moment;

/// Bytes that wait for the socket before no more lines are taken from the
/// journal; what one write to a Unix socket takes is not much more.
const FULL: usize = 64 << 10;

/// What one read takes.
const CHUNK: usize = 64 << 10;

/// After so many refusals by permission, one after another, nobody comes back:
/// a hub that starts makes its socket first and says who may use it then.
const DENIED: u32 = 3;

/// What a request is answered with.
pub(super) type Answer = Result<Heard, Error>;

/// One line to be sent.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) kind: Kind,
    /// A JSON object without its id.
    pub(super) line: Vec<u8>,
    /// The room it has taken.
    pub(super) weight: usize,
    /// Where the answers go, if any are wanted.
    pub(super) answer: Option<Sender<Answer>>,
    /// What begins with it.
    pub(super) begins: Option<Registration>,
}

/// Owns the socket; [`ConnectionTask::run`] does all there is to do.
#[derive(Debug)]
pub struct ConnectionTask {
    pub(super) path: Arc<Path>,
    pub(super) orders: Receiver<Order>,
    pub(super) unasked: Unasked,
    pub(super) room: SendBudget,
    pub(super) journal: Unacked,
    pub(super) standing: SessionState,
    pub(super) here: Connected,
    /// Where the socket may be; `path` is where it was last.
    places: Places,
    memory: Memory,
    stream: Option<UnixStream>,
    over: Arc<OnceLock<Error>>,
    /// How long an answer is waited for while the hub is away.
    patience: Duration,
    impatience: Option<Timer>,
    backoff: Backoff,
    denied: u32,
    denial_ends: bool,
    /// Whether the listener knows that the hub is not there.
    is_told: bool,
    /// Nobody is left who could give an order.
    orphaned: bool,
}

/// Whether the hub is there, as far as we know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Connected {
    Since(Moment),
    /// For a short while, in which it may be back before anybody minds.
    Away,
    /// For so long that nobody is kept waiting any more.
    LongGone,
}

/// How a connection ended.
pub(super) struct Loss {
    pub(super) error: Error,
    pub(super) is_final: bool,
    pub(super) after: Option<Duration>,
}

/// What the client and its link share, and what the link is told to do.
pub(super) struct Parts {
    pub(super) places: Places,
    pub(super) orders: Receiver<Order>,
    pub(super) unasked: Unasked,
    pub(super) room: SendBudget,
    pub(super) memory: Memory,
    pub(super) over: Arc<OnceLock<Error>>,
    pub(super) patience: Duration,
    pub(super) denial_ends: bool,
}

impl ConnectionTask {
    /// Without a stream it looks for the hub first.
    pub(super) fn new(parts: Parts, stream: Option<UnixStream>) -> Self {
        let Parts { places, orders, unasked, room, memory, over, patience, denial_ends } = parts;
        let here = if stream.is_some() { Connected::Since(clock::now().moment) } else { Connected::Away };
        if here == Connected::Away {
            room.set(Flow::Away);
        }
        let journal = Unacked::new(memory, room.clone());
        let standing = SessionState::default();
        let impatience = (here == Connected::Away).then(|| Timer::after(patience));
        let backoff = Backoff::default();
        Self {
            path: places.present().path.clone(),
            places,
            orders,
            unasked,
            room,
            journal,
            standing,
            here,
            memory,
            stream,
            over,
            patience,
            impatience,
            backoff,
            denied: 0,
            denial_ends,
            is_told: false,
            orphaned: false,
        }
    }

    /// Carries lines both ways, over as many connections as it takes, until all
    /// clients, operations and pending answers are dropped and all they said is
    /// taken, or, for a client that connects once, written.
    ///
    /// # Errors
    /// Why it does not come back: [`Error::Lost`] where it connects once,
    /// [`Error::TurnedAway`], [`Error::Unreachable`] where it may not connect,
    /// [`Error::Untrusted`] where somebody else has taken the socket's place,
    /// [`Error::Away`] where nobody is left to wait for the hub, and
    /// [`Error::Garbled`]. Whoever still waits for an answer gets the same.
    pub async fn run(mut self) -> Result<(), Error> {
        let end = self.live().await;
        if let Err(error) = &end {
            // Before the queues close, so that whoever finds one closed finds why.
            let _ = self.over.set(error.clone());
        }
        end
    }

    async fn live(&mut self) -> Result<(), Error> {
        let mut after = None;
        loop {
            let stream = match self.stream.take() {
                Some(stream) => stream,
                None => match self.come_back(after).await? {
                    Some(stream) => stream,
                    None => return Ok(()),
                },
            };
            let mut talk = FramedStream::new(stream);
            if !self.is_here() {
                talk.greet();
            }
            let Err(loss) = self.carry(&mut talk).await else { return Ok(()) };
            if loss.is_final || self.memory == Memory::UntilWritten {
                return Err(loss.error);
            }
            after = loss.after;
            self.lose(loss.error);
        }
    }

    async fn carry(&mut self, talk: &mut FramedStream) -> Result<(), Loss> {
        let mut chunk = vec![0; CHUNK];
        loop {
            // Whoever listens at the socket may not be a hub yet: until it has
            // answered, what waits can still be given up.
            if self.is_here() && !talk.unheard {
                self.journal.write(&mut talk.outgoing, FULL);
            }
            if self.orphaned && self.journal.is_empty() && talk.outgoing.is_empty() && !talk.unheard {
                return Ok(());
            }
            if self.orphaned && self.here == Connected::LongGone {
                return Err(Loss { error: self.away(), is_final: true, after: None });
            }
            let listens = !self.unasked.is_full()
                || self.journal.is_unanswered()
                || self.standing.has_operations()
                || talk.unheard
                || !self.is_here();
            let read = listens.then_some(&mut *chunk);
            let orders = (!self.orphaned).then_some(&self.orders);
            let next = turn(talk, orders, read, &self.unasked, &mut self.impatience).await;
            match next.map_err(|error| self.loss(talk, &error.to_string()))? {
                Wakeup::Read(0) => return Err(self.loss(talk, "wshubd closed it")),
                Wakeup::Read(count) => self.hear(talk, chunk.get(..count).unwrap_or_default())?,
                Wakeup::Room => {}
                Wakeup::Wrote(count) => talk.outgoing.advance(count),
                Wakeup::Unheard => {
                    talk.unheard = true;
                    talk.outgoing.clear();
                }
                Wakeup::Ordered(order) => self.take_all(order),
                Wakeup::Retry => talk.retry(&self.standing, clock::now().moment),
                Wakeup::Impatient => self.lose_patience(),
                Wakeup::Orphaned => self.orphaned = true,
                Wakeup::Due => {}
            }
        }
    }

    /// Waits until the hub is there again; none where nobody is left who wants
    /// it.
    async fn come_back(&mut self, mut after: Option<Duration>) -> Result<Option<UnixStream>, Error> {
        loop {
            let pause = self.backoff.pause(after.take(), clock::random());
            if !self.pause(pause).await? {
                return Ok(None);
            }
            // The listener, who has just heard of the loss, gives its orders before the hub
            // is back; neither a pause of zero nor an attempt lets it run.
            future::yield_now().await;
            let place = self.places.present();
            self.path = place.path.clone();
            let error = match place.connect() {
                Ok(stream) => {
                    self.denied = 0;
                    return Ok(Some(stream));
                }
                // Another user's socket does not give way to wshubd's again.
                Err(error @ Error::Untrusted { .. }) => return Err(error),
                Err(error) => error,
            };
            self.denied = if is_denial(&error) { self.denied + 1 } else { 0 };
            if self.denial_ends && self.denied == DENIED {
                return Err(error);
            }
            if !std::mem::replace(&mut self.is_told, true) {
                self.unasked.push(News::Away(error));
            }
        }
    }

    /// Waits, and takes orders meanwhile; false where nobody is left to wait for.
    async fn pause(&mut self, pause: Duration) -> Result<bool, Error> {
        let mut due = Timer::after(pause);
        loop {
            if self.orphaned && self.journal.is_empty() {
                return Ok(false);
            }
            if self.orphaned && self.here == Connected::LongGone {
                return Err(self.away());
            }
            let over = async {
                (&mut due).await;
                Wakeup::Due
            };
            let order = next_order((!self.orphaned).then_some(&self.orders));
            match future::or(over, future::or(impatient(&mut self.impatience), order)).await {
                Wakeup::Ordered(order) => {
                    // Whoever says that all is over will not wait for long.
                    let is_end = matches!(order.kind, Kind::End(_));
                    self.take_all(order);
                    if is_end {
                        self.backoff.reset();
                        return Ok(true);
                    }
                }
                Wakeup::Orphaned => self.orphaned = true,
                Wakeup::Impatient => self.lose_patience(),
                _ => return Ok(true),
            }
        }
    }

    /// The connection is gone, and another is looked for.
    fn lose(&mut self, error: Error) {
        if let Connected::Since(then) = self.here {
            if clock::now().moment.since(then) >= SETTLED {
                self.backoff.reset();
            }
            self.here = Connected::Away;
            self.impatience = Some(Timer::after(self.patience));
            self.room.set(Flow::Away);
            self.is_told = true;
            self.unasked.push(News::Away(error.clone()));
        }
        for answer in self.journal.lose() {
            let _ = answer.try_send(Err(error.clone()));
        }
    }

    /// The hub has answered, after it was away: first it is told how things stand.
    pub(super) fn is_back(&mut self, talk: &mut FramedStream) {
        let now = clock::now().moment;
        // What was said until now was said while it was away.
        self.take_waiting();
        for answer in self.journal.expire(now) {
            let _ = answer.try_send(Err(Error::Expired));
        }
        let mut again = self.standing.all();
        self.journal.restate(|kind| match kind {
            Kind::Start(id) => self.standing.start(id, now),
            Kind::Subscribe(channel) => self.standing.line(&Resubscribe::Channel(channel.clone()), now),
            _ => None,
        });
        // Asked for twice it would begin twice, and the second time from now.
        again.retain(
            |thing| !matches!(thing, Resubscribe::Channel(channel) if self.journal.subscribes(channel)),
        );
        talk.say_again(again, &self.standing, now);
        self.here = Connected::Since(now);
        self.impatience = None;
        self.room.set(Flow::Flows);
        self.unasked.push(News::Back);
    }

    fn is_here(&self) -> bool {
        matches!(self.here, Connected::Since(_))
    }

    pub(super) fn away(&self) -> Error {
        Error::Away { path: self.path.clone() }
    }

    /// Nobody is kept waiting any longer.
    fn lose_patience(&mut self) {
        self.impatience = None;
        self.here = Connected::LongGone;
        for (kind, answer) in self.journal.give_up() {
            if let Kind::Start(id) = &kind {
                self.standing.forget(id);
            }
            let _ = answer.try_send(Err(self.away()));
        }
    }

    /// How a connection has ended, as far as it is known.
    fn loss(&self, talk: &FramedStream, why: &str) -> Loss {
        if let Some(why) = talk.turned_away.clone() {
            return Loss {
                error: Error::TurnedAway { path: self.path.clone(), why },
                is_final: true,
                after: None,
            };
        }
        let why = talk.parting.as_ref().map_or_else(|| why.to_owned(), |said| format!("{why}: {said}"));
        Loss {
            error: Error::Lost { path: self.path.clone(), why },
            is_final: talk.bye.as_ref().is_some_and(Bye::is_final),
            after: talk.bye.as_ref().and_then(Bye::after),
        }
    }
}

fn is_denial(error: &Error) -> bool {
    matches!(error, Error::Unreachable { why, .. } if why.kind() == ErrorKind::PermissionDenied)
}

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        // First this, so that whoever finds no room finds why.
        self.orders.close();
        self.room.set(Flow::Over);
        // A queue lives as long as any of its ends, and who waits for an answer
        // holds the other one: what was not taken any more must not stay in it.
        while self.orders.try_recv().is_ok() {}
    }
}
