//! Bounded queue of requests between the clients of a connection and its task.
//!
//! A publisher is slowed down by a slow hub, but never stopped by one that is away or
//! takes nothing: then what does not fit is dropped, and its publisher gets an error at
//! once. A request that was accepted is never dropped for a newer one, so that a
//! publisher need not look at a message again.

use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use bytes::BytesMut;
use smol::{Timer, future};

use super::error::Error;
use super::event_queue::HubLine;
use super::registrations::Registration;
use crate::protocol::Moment;

/// For how long a publisher waits on a hub that takes nothing at all: longer
/// than any hub is busy, and short enough for a person who waits for the worker.
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(5);

/// What each request takes beside its text.
const ENVELOPE: usize = 128;

/// The answer to a request.
pub(super) type RequestAnswer = Result<HubLine, Error>;

/// Kind of a request, as far as a lost connection is concerned.
#[derive(Debug)]
pub(super) enum RequestKind {
    /// A message, written again until the hub has it.
    Publish {
        expires: Option<Moment>,
        /// Its answer waits for the disk, and no later answer confirms it.
        durable: bool,
    },
    /// Start of an operation; its line is made anew, for its deadline comes closer.
    Start(Box<str>),
    /// End of an operation; it is sent whenever the hub comes back.
    End(Box<str>),
    Subscribe(Box<str>),
    Unsubscribe(Box<str>),
    /// Confirms all before it.
    Flush,
    /// Anything else. It may not be safe to do twice, so it is never written again.
    Other,
}

/// One request line on its way to the hub. It holds its share of the queue's bound
/// until it is dropped.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    kind: RequestKind,
    /// A JSON object without its id.
    line: Vec<u8>,
    /// Receives the answers, if any are wanted.
    answers: Option<Sender<RequestAnswer>>,
    /// The operation that starts with it.
    registration: Option<Registration>,
    _reservation: Reservation,
}

impl QueuedRequest {
    pub(super) fn kind(&self) -> &RequestKind {
        &self.kind
    }

    pub(super) fn take_registration(&mut self) -> Option<Registration> {
        self.registration.take()
    }

    /// Length of its line, in bytes.
    pub(super) fn len(&self) -> usize {
        self.line.len()
    }

    /// Whether a caller waits for its answer.
    pub(super) fn has_caller(&self) -> bool {
        self.answers.is_some()
    }

    /// Whether its own answer is needed, and no later one will do.
    pub(super) fn needs_own_answer(&self) -> bool {
        self.has_caller() || !matches!(self.kind, RequestKind::Publish { durable: false, .. })
    }

    pub(super) fn has_expired(&self, now: Moment) -> bool {
        matches!(self.kind, RequestKind::Publish { expires: Some(at), .. } if at <= now)
    }

    /// Passes an answer on; false where the caller does not wait any more.
    pub(super) fn answer(&self, answer: RequestAnswer) -> bool {
        self.answers.as_ref().is_some_and(|answers| answers.try_send(answer).is_ok())
    }

    /// As [`QueuedRequest::answer`], for the last one; the request itself may go on.
    pub(super) fn answer_finally(&mut self, answer: RequestAnswer) {
        if let Some(answers) = self.answers.take() {
            let _ = answers.try_send(answer);
        }
    }

    pub(super) fn replace_line(&mut self, line: Vec<u8>) {
        self.line = line;
    }

    pub(super) fn write_to(&self, out: &mut BytesMut, id: Option<u64>) {
        match (self.line.split_last(), id) {
            (Some((bracket, fields)), Some(id)) => {
                out.extend_from_slice(fields);
                out.extend_from_slice(format!(",\"id\":{id}").as_bytes());
                out.extend_from_slice(&[*bracket]);
            }
            _ => out.extend_from_slice(&self.line),
        }
        out.extend_from_slice(b"\n");
    }
}

/// The queue of a new connection.
pub(super) fn request_queue(
    path: Arc<Path>,
    bound: usize,
    stall_limit: Option<Duration>,
) -> (RequestSender, RequestQueue) {
    let budget = SendBudget::new(bound, stall_limit);
    // The budget bounds it.
    let (sender, receiver) = async_channel::unbounded();
    let end_reason = Arc::new(OnceLock::new());
    let queue = RequestQueue { requests: receiver, budget: budget.clone(), end_reason: end_reason.clone() };
    (RequestSender { requests: sender, budget, end_reason, path }, queue)
}

/// The clients' end.
#[derive(Clone, Debug)]
pub(super) struct RequestSender {
    requests: Sender<QueuedRequest>,
    budget: SendBudget,
    end_reason: Arc<OnceLock<Error>>,
    path: Arc<Path>,
}

impl RequestSender {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many requests were dropped so far because the queue was full.
    pub(super) fn dropped(&self) -> u64 {
        self.budget.0.dropped.load(Ordering::Relaxed)
    }

    /// Queues a request, and waits for room as long as the hub takes anything.
    pub(super) async fn send(
        &self,
        kind: RequestKind,
        line: Vec<u8>,
        answers: Option<Sender<RequestAnswer>>,
        registration: Option<Registration>,
    ) -> Result<(), Error> {
        let reservation = match kind {
            // The end of an operation is never dropped.
            RequestKind::End(_) => Some(self.budget.reserve_unconditionally(line.len())),
            _ => self.budget.reserve(line.len()).await,
        };
        let Some(reservation) = reservation else {
            let is_over = self.requests.is_closed();
            return Err(if is_over {
                self.end_reason()
            } else {
                Error::QueueFull { bound: self.budget.0.bound }
            });
        };
        let request = QueuedRequest { kind, line, answers, registration, _reservation: reservation };
        self.requests.try_send(request).map_err(|_| self.end_reason())
    }

    /// Queues a request that is never dropped, and has no caller.
    pub(super) fn send_unconditionally(&self, kind: RequestKind, line: Vec<u8>) {
        // It only fails where the task has ended.
        let _ = self.requests.try_send(self.budget.unconditional(kind, line));
    }

    /// Why the task has ended.
    pub(super) fn end_reason(&self) -> Error {
        let unknown = || Error::Lost { path: self.path.clone(), why: "the connection has ended".into() };
        self.end_reason.get().cloned().unwrap_or_else(unknown)
    }
}

/// The task's end.
#[derive(Debug)]
pub(super) struct RequestQueue {
    requests: Receiver<QueuedRequest>,
    budget: SendBudget,
    end_reason: Arc<OnceLock<Error>>,
}

impl RequestQueue {
    /// The next request; none where no sender is left.
    pub(super) async fn recv(&self) -> Option<QueuedRequest> {
        self.requests.recv().await.ok()
    }

    pub(super) fn try_recv(&self) -> Option<QueuedRequest> {
        self.requests.try_recv().ok()
    }

    /// A request of the task's own.
    pub(super) fn own_request(&self, kind: RequestKind, line: Vec<u8>) -> QueuedRequest {
        self.budget.unconditional(kind, line)
    }

    pub(super) fn set_flow(&self, flow: Flow) {
        self.budget.set_flow(flow);
    }

    /// To be called before the queue is dropped: senders that find it closed get the reason.
    pub(super) fn set_end_reason(&self, error: Error) {
        let _ = self.end_reason.set(error);
    }
}

impl Drop for RequestQueue {
    fn drop(&mut self) {
        // First this, so that a publisher that gets no room gets the reason.
        self.requests.close();
        self.budget.set_flow(Flow::Closed);
        // A queue lives as long as any of its ends, and a caller that waits for an answer
        // holds the other one: what was not taken any more must not stay in it.
        while self.requests.try_recv().is_ok() {}
    }
}

/// Whether waiting for room makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Flow {
    /// The hub takes what is sent.
    Moving,
    /// It is connected and takes nothing.
    Stalled,
    /// It is not connected.
    Disconnected,
    /// It will not be connected again.
    Closed,
}

/// How many bytes may be queued, and how many are.
#[derive(Clone, Debug)]
struct SendBudget(Arc<BudgetState>);

#[derive(Debug)]
struct BudgetState {
    bound: usize,
    /// For how long a hub that takes nothing is waited on, if not for ever.
    stall_limit: Option<Duration>,
    reserved: AtomicUsize,
    /// Bytes that were ever released, by which a stall is known.
    released: AtomicU64,
    /// Requests for which there was no room.
    dropped: AtomicU64,
    flow: AtomicU8,
    /// A baton: the publisher that takes it looks for room, and passes it on when done.
    baton: (Sender<()>, Receiver<()>),
}

/// The share of one request; released when dropped.
#[derive(Debug)]
struct Reservation {
    budget: SendBudget,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

impl SendBudget {
    fn new(bound: usize, stall_limit: Option<Duration>) -> Self {
        Self(Arc::new(BudgetState {
            bound,
            stall_limit,
            reserved: AtomicUsize::new(0),
            released: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            flow: AtomicU8::new(Flow::Moving as u8),
            baton: async_channel::bounded(1),
        }))
    }

    /// Reserves room for a line, and waits for it as long as the hub takes anything;
    /// none where the line is to be dropped.
    async fn reserve(&self, length: usize) -> Option<Reservation> {
        loop {
            if let Some(reservation) = self.try_reserve(length) {
                self.wake_next();
                return Some(reservation);
            }
            if !self.has_flow(Flow::Moving) {
                self.0.dropped.fetch_add(1, Ordering::Relaxed);
                self.wake_next();
                return None;
            }
            let before = self.0.released.load(Ordering::Acquire);
            let released = async {
                // It cannot close: this holds both of its ends.
                let _ = self.0.baton.1.recv().await;
            };
            let stalled = async {
                match self.0.stall_limit {
                    Some(limit) => Timer::after(limit).await,
                    None => future::pending().await,
                };
                if self.0.released.load(Ordering::Acquire) == before {
                    self.change_flow(Flow::Moving, Flow::Stalled);
                }
            };
            future::or(released, stalled).await;
        }
    }

    fn reserve_unconditionally(&self, length: usize) -> Reservation {
        let bytes = length + ENVELOPE;
        self.0.reserved.fetch_add(bytes, Ordering::AcqRel);
        Reservation { budget: self.clone(), bytes }
    }

    fn unconditional(&self, kind: RequestKind, line: Vec<u8>) -> QueuedRequest {
        let reservation = self.reserve_unconditionally(line.len());
        QueuedRequest { kind, line, answers: None, registration: None, _reservation: reservation }
    }

    fn release(&self, bytes: usize) {
        self.0.reserved.fetch_sub(bytes, Ordering::AcqRel);
        self.0.released.fetch_add(bytes as u64, Ordering::AcqRel);
        self.change_flow(Flow::Stalled, Flow::Moving);
        self.wake_next();
    }

    fn set_flow(&self, flow: Flow) {
        self.0.flow.store(flow as u8, Ordering::Release);
        self.wake_next();
    }

    /// Below the bound there is room for one more of any size.
    fn try_reserve(&self, length: usize) -> Option<Reservation> {
        let bytes = length.saturating_add(ENVELOPE);
        let room = |reserved: usize| (reserved < self.0.bound).then(|| reserved.saturating_add(bytes));
        let reserved = self.0.reserved.fetch_update(Ordering::AcqRel, Ordering::Acquire, room);
        reserved.ok().map(|_| Reservation { budget: self.clone(), bytes })
    }

    fn has_flow(&self, flow: Flow) -> bool {
        self.0.flow.load(Ordering::Acquire) == flow as u8
    }

    fn change_flow(&self, from: Flow, to: Flow) {
        // It only fails where the task has set a stronger one meanwhile.
        let _ = self.0.flow.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire);
    }

    fn wake_next(&self) {
        // Full means that a publisher is about to look.
        let _ = self.0.baton.0.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::{Flow, SendBudget};

    #[test]
    fn below_the_bound_there_is_room_for_one_more_of_any_size() {
        smol::block_on(async {
            let budget = SendBudget::new(138, None);
            let small = budget.reserve(9).await;
            let large = budget.reserve(1000).await;
            assert!(small.is_some() && large.is_some());
            budget.set_flow(Flow::Disconnected);
            assert!(budget.reserve(1).await.is_none());
            assert_eq!(budget.0.dropped.load(Ordering::Relaxed), 1);
            drop(large);
            assert!(budget.reserve(1).await.is_some());
            assert_eq!(budget.0.dropped.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn all_publishers_that_wait_get_room_one_after_another() {
        smol::block_on(async {
            let budget = SendBudget::new(1, None);
            let first = budget.reserve(1).await;
            let turn = async || assert!(budget.reserve(1).await.is_some());
            let release = async { drop(first) };
            smol::future::zip(smol::future::zip(turn(), turn()), smol::future::zip(turn(), release)).await;
        });
    }

    #[test]
    fn a_stalled_hub_is_waited_for_once() {
        smol::block_on(async {
            let budget = SendBudget::new(1, Some(Duration::from_millis(1)));
            let first = budget.reserve(1).await;
            assert!(first.is_some() && budget.reserve(1).await.is_none());
            assert!(budget.has_flow(Flow::Stalled));
            drop(first);
            assert!(budget.has_flow(Flow::Moving));
        });
    }

    #[test]
    fn a_hub_that_disconnects_ends_all_waits_for_room() {
        smol::block_on(async {
            let budget = SendBudget::new(1, None);
            let _first = budget.reserve(1).await;
            let gone = async { budget.set_flow(Flow::Disconnected) };
            let both = smol::future::zip(budget.reserve(1), budget.reserve(1));
            let ((one, other), ()) = smol::future::zip(both, gone).await;
            assert!(one.is_none() && other.is_none());
        });
    }
}
