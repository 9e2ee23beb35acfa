//! Pending connections: accepted TCP connections that are no WebSockets yet. They have not sent a
//! request, or speak HTTP.
//!
//! What a connection has sent of a head is only looked at, and stays in the kernel until the
//! head is whole: so it takes no memory here, and no state that a hand-over would need.
//!
//! Where there is no room for one more, the oldest that waits for no answer is evicted. A client
//! that sends its request at once has an answer long before it is the oldest; one that holds a
//! socket open and sends nothing, or one byte at a time, keeps no other out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, TcpStream};
use std::rc::{Rc, Weak};

use async_channel::{Receiver, Sender};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use smol::Task;

use super::mem_accounting::MemCharge;
use crate::protocol::Moment;

/// A request line and headers with a token in them, and room to spare.
pub const LARGEST_HEAD: usize = 16 << 10;

/// More headers than any browser sends.
pub const MOST_HEADERS: usize = 64;

/// All of them, by number: the oldest have the lowest.
#[derive(Default)]
pub struct PendingConns {
    /// Those that have sent no whole head. All have the same patience, so the first times out
    /// first.
    unread: BTreeMap<u64, PendingHead>,
    served: BTreeMap<u64, HttpTask>,
    last: u64,
    finish: FinishSignal,
}

/// Its end has every connection that is served finish with the answer under way.
struct FinishSignal {
    /// Dropping it is the signal.
    #[expect(dead_code, reason = "held for what its end does")]
    sender: Sender<Infallible>,
    receiver: Receiver<Infallible>,
}

impl Default for FinishSignal {
    fn default() -> Self {
        let (sender, receiver) = async_channel::bounded(1);
        Self { sender, receiver }
    }
}

/// A connection that has sent nothing yet, or not all of a head.
struct PendingHead {
    /// Then it times out.
    until: Moment,
    stream: TcpStream,
    #[expect(dead_code, reason = "counts the memory for as long as it lives")]
    charge: MemCharge,
}

/// What it takes: its place in the table, and the kernel's tables as far as they are ours to
/// pay for; 68 bytes measured with 2000.
const WAITING: usize = 72;

/// A task that serves HTTP on one connection.
struct HttpTask {
    /// Dropping it closes the connection.
    #[expect(dead_code, reason = "held for what its end does")]
    task: Task<()>,
    stage: Rc<Cell<ServeStage>>,
}

/// What a connection that is served is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServeStage {
    /// It may send a request.
    #[default]
    Idle,
    /// A request is being answered, and the connection is not evicted meanwhile.
    Busy,
    /// Its last answer is written: the peer has a while to read it.
    Lingering,
}

/// Held by the task that serves a connection; the end of it takes the connection out of the
/// table.
pub struct ConnGuard {
    pending: Weak<RefCell<PendingConns>>,
    number: u64,
    stage: Rc<Cell<ServeStage>>,
    finish: Receiver<Infallible>,
}

/// A connection that made room for another.
pub enum EvictedConn {
    /// It has sent no request, and is to be answered why.
    Unread(UnreadConn),
    /// It has had all its answers, and is closed.
    Served,
}

/// A connection that is waited for no longer, and not closed yet.
pub struct UnreadConn {
    stream: TcpStream,
    head: Vec<u8>,
}

impl PendingConns {
    /// Those that have sent no whole head, the oldest first, and when each times out.
    pub fn unread(&self) -> impl Iterator<Item = (Moment, &TcpStream)> {
        self.unread.values().map(|pending| (pending.until, &pending.stream))
    }

    /// The same, by number.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u64, &TcpStream)> {
        self.unread.iter().map(|(number, pending)| (*number, &pending.stream))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.unread.len() + self.served.len()
    }

    /// Whether any is served that has not had its last answer.
    pub fn is_serving(&self) -> bool {
        self.served.values().any(|served| served.stage.get() != ServeStage::Lingering)
    }

    /// Lets those that are served now send no further request.
    pub fn finish(&mut self) {
        self.finish = FinishSignal::default();
    }

    /// The number of the next connection.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether one has to be evicted for another, where there may be so many.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.count() >= most
    }

    /// The same among those that are served.
    pub(super) fn is_serving_most(&self, most: usize) -> bool {
        self.served.len() >= most
    }

    /// Lets a connection wait until it sends a head, or times out.
    pub(super) fn add(&mut self, number: u64, until: Moment, stream: TcpStream) {
        self.unread.insert(number, PendingHead { until, stream, charge: MemCharge::of(WAITING) });
    }

    /// Takes out a connection that has sent something, once that is a whole head, or can become
    /// none; nothing is taken from its socket. One that `has_ended` sends no more.
    pub(super) fn take_with_head(&mut self, number: u64, has_ended: bool) -> Option<TcpStream> {
        let pending = self.unread.get(&number)?;
        let mut block = [0; LARGEST_HEAD];
        let is_ready = match recv(&pending.stream, &mut block, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, length)) => {
                has_ended || length == LARGEST_HEAD || !is_part(block.get(..length).unwrap_or_default())
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => true,
        };
        if !is_ready {
            return None;
        }
        self.unread.remove(&number).map(|pending| pending.stream)
    }

    /// Notes the task that serves a connection from now on.
    pub fn serve(&mut self, number: u64, stage: Rc<Cell<ServeStage>>, task: Task<()>) {
        self.served.insert(number, HttpTask { task, stage });
    }

    /// When the first that has sent no head times out.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.unread.first_key_value().map(|(_, pending)| pending.until)
    }

    /// None times out later than that, so that the first that came is still the
    /// first to time out.
    pub(super) fn shorten_patience(&mut self, until: Moment) {
        for pending in self.unread.values_mut() {
            pending.until = pending.until.min(until);
        }
    }

    /// Takes out the first that has timed out.
    pub(super) fn take_timed_out(&mut self, now: Moment) -> Option<UnreadConn> {
        let first = self.unread.first_entry().filter(|first| first.get().until <= now)?;
        Some(UnreadConn::new(first.remove().stream))
    }

    /// Evicts the oldest that waits for no answer, if there is one.
    pub(super) fn evict(&mut self) -> Option<EvictedConn> {
        let unread = self.unread.first_key_value().map(|(number, _)| *number);
        match (unread, self.first_idle()) {
            (Some(unread), served) if served.is_none_or(|served| unread < served) => {
                let PendingHead { stream, .. } = self.unread.remove(&unread)?;
                Some(EvictedConn::Unread(UnreadConn::new(stream)))
            }
            _ => self.evict_served(),
        }
    }

    /// The same among those that are served.
    pub(super) fn evict_served(&mut self) -> Option<EvictedConn> {
        let served = self.first_idle()?;
        drop(self.served.remove(&served));
        Some(EvictedConn::Served)
    }

    /// The oldest that is served and waits for no answer.
    fn first_idle(&self) -> Option<u64> {
        let first = self.served.iter().find(|(_, served)| served.stage.get() != ServeStage::Busy);
        first.map(|(number, _)| *number)
    }

    /// Closes those that have sent no head; those that are served have one answer still to
    /// receive.
    pub(super) fn close(&mut self) {
        self.unread.clear();
        self.finish();
    }
}

impl UnreadConn {
    /// Takes from a socket what was only looked at: closed with that in it, it would break off,
    /// and the peer would not receive the answer.
    pub(super) fn new(stream: TcpStream) -> Self {
        let mut block = [0; LARGEST_HEAD];
        let length = recv(&stream, &mut block, RecvFlags::DONTWAIT).map_or(0, |(_, length)| length);
        Self { stream, head: block.get(..length).unwrap_or_default().to_vec() }
    }

    /// Its address, as long as that is known.
    pub fn address(&self) -> Option<IpAddr> {
        self.stream.peer_addr().ok().map(|address| address.ip().to_canonical())
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// What it has sent of a head.
    pub fn head(&self) -> &[u8] {
        &self.head
    }
}

/// Whether more may make a head of this. The rest is decided by hyper, which reads it in the
/// same way.
pub fn is_part(head: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    httparse::Request::new(&mut headers).parse(head).is_ok_and(|status| status.is_partial())
}

/// Sends a last answer, as far as the socket takes it at once.
pub fn send_last(stream: &TcpStream, answer: &[u8]) {
    // It is a courtesy: a peer that does not receive it sees the end of the connection.
    let _ = send(stream, answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

impl ConnGuard {
    /// For a connection that is being served from now on.
    pub fn new(pending: &Rc<RefCell<PendingConns>>, number: u64) -> Self {
        let finish = pending.borrow().finish.receiver.clone();
        Self { pending: Rc::downgrade(pending), number, stage: Rc::default(), finish }
    }

    /// Waits until the connection is to have its answer and no more.
    pub async fn until_finish(&self) {
        let _ = self.finish.recv().await;
    }

    /// What the connection is at, shared with the table.
    pub fn stage(&self) -> Rc<Cell<ServeStage>> {
        self.stage.clone()
    }

    /// The last answer is written.
    pub fn linger(&self) {
        self.stage.set(ServeStage::Lingering);
    }

    /// A request is being answered until what this returns is dropped.
    pub fn begin_answer(&self) -> BusyGuard {
        self.stage.set(ServeStage::Busy);
        BusyGuard(self.stage.clone())
    }
}

/// For as long as this lives, the connection is not evicted.
pub struct BusyGuard(Rc<Cell<ServeStage>>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.set(ServeStage::Idle);
    }
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        // Nothing else borrows the table when a task ends: one that is evicted is ended by the
        // executor, later.
        let task = self.pending.upgrade().and_then(|pending| {
            pending.try_borrow_mut().ok().and_then(|mut pending| pending.served.remove(&self.number))
        });
        drop(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_that_only_reads_its_last_answer_is_not_waited_for() {
        let pending = Rc::new(RefCell::new(PendingConns::default()));
        let guard = ConnGuard::new(&pending, 1);
        let executor = smol::LocalExecutor::new();
        pending.borrow_mut().serve(1, guard.stage(), executor.spawn(async {}));
        assert!(pending.borrow().is_serving());
        drop(guard.begin_answer());
        assert!(pending.borrow().is_serving());
        guard.linger();
        assert!(!pending.borrow().is_serving());
    }
}
