//! Who has come through the clients' door and is no link yet: those who have not asked
//! yet, and those who speak HTTP.
//!
//! What somebody has said of a head is only looked at, and stays in the kernel until the
//! head is whole: so it takes no memory here, and no state that a hand-over would need.
//!
//! Knows how many there may be, and who has to leave for one more: the oldest
//! that waits for nothing. Whoever asks at once has an answer long before it is
//! the oldest; whoever holds a socket open and says nothing, or says it one byte
//! at a time, keeps nobody out. Does not know what is asked.

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
use crate::edge::http::conn::{LARGEST_HEAD, MOST_HEADERS};
use crate::protocol::Moment;

/// All guests, by number: the oldest have the lowest.
pub struct PendingConns {
    /// Who has not asked yet. All have the same patience, so the first is given up first.
    silent: BTreeMap<u64, PendingHead>,
    speaking: BTreeMap<u64, HttpTask>,
    last: u64,
    /// Whoever speaks waits for the end of this, which tells it to finish.
    finish: (Sender<Infallible>, Receiver<Infallible>),
}

/// Somebody who has said nothing yet, or not all of a head.
struct PendingHead {
    /// For so long.
    until: Moment,
    stream: TcpStream,
    /// It is counted.
    #[expect(dead_code, reason = "held for what its end does")]
    load: MemCharge,
}

/// What it takes: its place in the table, and the kernel's tables as far as they are ours to
/// pay for; 68 bytes measured with 2000.
const WAITING: usize = 72;

/// A task that speaks HTTP with one guest.
struct HttpTask {
    /// Dropping it hangs up.
    #[expect(dead_code, reason = "held for what its end does")]
    task: Task<()>,
    stage: Rc<Cell<Stage>>,
}

/// What a conversation is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stage {
    /// It may be asked something.
    #[default]
    Waits,
    /// Something is being done for the guest, and it is not sent away meanwhile.
    Awaited,
    /// All is said: the guest has a while to read it.
    Lingers,
}

/// What a guest's own task knows of its stay; the end of it ends the stay.
pub struct ConnGuard {
    guests: Weak<RefCell<PendingConns>>,
    number: u64,
    stage: Rc<Cell<Stage>>,
    /// Ends when the guest is to have its answer and no more.
    finish: Receiver<Infallible>,
}

/// One who was sent away.
pub enum SentAway {
    /// It has not asked yet, and is to be told why.
    Silent(TimedOutConn),
    /// It has had all its answers, and is hung up on.
    Speaker,
}

/// One who is waited for no longer, and not hung up on yet.
pub struct TimedOutConn {
    pub stream: TcpStream,
    /// What it has said of a head.
    pub said: Vec<u8>,
}

impl Default for PendingConns {
    /// Nobody.
    fn default() -> Self {
        let (silent, speaking) = (BTreeMap::new(), BTreeMap::new());
        Self { silent, speaking, last: 0, finish: async_channel::bounded(1) }
    }
}

impl PendingConns {
    /// Those who have not asked yet, the oldest first, and until when that may
    /// be so.
    pub fn silent(&self) -> impl Iterator<Item = (Moment, &TcpStream)> {
        self.silent.values().map(|silent| (silent.until, &silent.stream))
    }

    /// The same, by number.
    pub fn numbered(&self) -> impl Iterator<Item = (u64, &TcpStream)> {
        self.silent.iter().map(|(number, silent)| (*number, &silent.stream))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.silent.len() + self.speaking.len()
    }

    /// Whether anybody is spoken to who has not heard all.
    pub fn are_served(&self) -> bool {
        self.speaking.values().any(|speaker| speaker.stage.get() != Stage::Lingers)
    }

    /// Lets nobody who is spoken to now ask once more.
    pub fn finish(&mut self) {
        self.finish = async_channel::bounded(1);
    }

    /// The number of the next guest.
    pub fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether somebody has to leave before one more may come, where there may be so
    /// many.
    pub fn is_full(&self, most: usize) -> bool {
        self.silent.len() + self.speaking.len() >= most
    }

    /// Whether somebody who has asked has to leave before one more is served.
    pub fn are_too_many_served(&self, most: usize) -> bool {
        self.speaking.len() >= most
    }

    /// Lets a guest wait until it asks something.
    pub fn wait(&mut self, number: u64, until: Moment, stream: TcpStream) {
        self.silent.insert(number, PendingHead { until, stream, load: MemCharge::of(WAITING) });
    }

    /// A silent guest has something to say. It is silent no more once that is a whole head,
    /// or can become none; nothing is taken from its socket. One that `has_ended` says no more.
    pub fn hear(&mut self, number: u64, has_ended: bool) -> Option<TcpStream> {
        let silent = self.silent.get(&number)?;
        let mut block = [0; LARGEST_HEAD];
        let asks = match recv(&silent.stream, &mut block, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, said)) => {
                has_ended || said == LARGEST_HEAD || !is_part(block.get(..said).unwrap_or_default())
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => true,
        };
        if !asks {
            return None;
        }
        self.silent.remove(&number).map(|silent| silent.stream)
    }

    /// Notes who speaks with a guest from now on.
    pub fn serve(&mut self, number: u64, stage: Rc<Cell<Stage>>, task: Task<()>) {
        self.speaking.insert(number, HttpTask { task, stage });
    }

    /// When the first silent guest is given up.
    pub fn patience(&self) -> Option<Moment> {
        self.silent.first_key_value().map(|(_, silent)| silent.until)
    }

    /// Nobody's patience lasts longer than that, so that who came first is still the
    /// first to be given up.
    pub fn hurry(&mut self, until: Moment) {
        for silent in self.silent.values_mut() {
            silent.until = silent.until.min(until);
        }
    }

    /// Takes out the first of those whose patience has ended.
    pub fn give_up(&mut self, now: Moment) -> Option<TimedOutConn> {
        let first = self.silent.first_entry().filter(|first| first.get().until <= now)?;
        Some(TimedOutConn::new(first.remove().stream))
    }

    /// Sends the oldest away that waits for nothing, if there is one.
    pub fn send_one_away(&mut self) -> Option<SentAway> {
        let silent = self.silent.first_key_value().map(|(number, _)| *number);
        match (silent, self.first_who_waits()) {
            (Some(silent), speaking) if speaking.is_none_or(|speaking| silent < speaking) => {
                let PendingHead { stream, .. } = self.silent.remove(&silent)?;
                Some(SentAway::Silent(TimedOutConn::new(stream)))
            }
            _ => self.send_speaker_away(),
        }
    }

    /// The same among those who are served.
    pub fn send_speaker_away(&mut self) -> Option<SentAway> {
        let speaking = self.first_who_waits()?;
        drop(self.speaking.remove(&speaking));
        Some(SentAway::Speaker)
    }

    /// The oldest of those who are served for whom nothing is being done.
    fn first_who_waits(&self) -> Option<u64> {
        let first = self.speaking.iter().find(|(_, speaker)| speaker.stage.get() != Stage::Awaited);
        first.map(|(number, _)| *number)
    }

    /// Sends the silent ones away; those who speak have one answer still to
    /// hear.
    pub fn close(&mut self) {
        self.silent.clear();
        self.finish();
    }
}

impl TimedOutConn {
    /// Takes from a socket what was only looked at: closed with that in it, it would break off,
    /// and the peer would not hear why.
    pub fn new(stream: TcpStream) -> Self {
        let mut block = [0; LARGEST_HEAD];
        let said = recv(&stream, &mut block, RecvFlags::DONTWAIT).map_or(0, |(_, said)| said);
        Self { stream, said: block.get(..said).unwrap_or_default().to_vec() }
    }

    /// Where it came from, as long as that is known.
    pub fn from(&self) -> Option<IpAddr> {
        address(&self.stream)
    }
}

/// Where somebody comes from.
pub fn address(stream: &TcpStream) -> Option<IpAddr> {
    stream.peer_addr().ok().map(|address| address.ip().to_canonical())
}

/// Whether more may make a head of this. The rest of what there is to say about it is
/// hyper's word, which reads it in the same way.
pub fn is_part(said: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    httparse::Request::new(&mut headers).parse(said).is_ok_and(|status| status.is_partial())
}

/// Tells somebody why the connection ends, as far as the socket takes it at once.
pub fn tell(stream: &TcpStream, words: &[u8]) {
    // It is a courtesy: whoever does not get it sees the end of the connection.
    let _ = send(stream, words, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

impl ConnGuard {
    /// The stay of a guest that has begun to speak.
    pub fn new(guests: &Rc<RefCell<PendingConns>>, number: u64) -> Self {
        let finish = guests.borrow().finish.1.clone();
        Self { guests: Rc::downgrade(guests), number, stage: Rc::default(), finish }
    }

    /// Until the guest is to have its answer and no more.
    pub async fn is_over(&self) {
        let _ = self.finish.recv().await;
    }

    /// What the conversation is at, for who looks from outside.
    pub fn stage(&self) -> Rc<Cell<Stage>> {
        self.stage.clone()
    }

    /// All is said.
    pub fn linger(&self) {
        self.stage.set(Stage::Lingers);
    }

    /// Something is being done for the guest until what this returns is dropped.
    pub fn awaited(&self) -> Awaited {
        self.stage.set(Stage::Awaited);
        Awaited(self.stage.clone())
    }
}

/// For as long as this lives, the guest is not sent away.
pub struct Awaited(Rc<Cell<Stage>>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.set(Stage::Waits);
    }
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        // Nobody is in the middle of something with the guests when a task ends:
        // one that is sent away is ended by the executor, later.
        let speaker = self.guests.upgrade().and_then(|guests| {
            guests.try_borrow_mut().ok().and_then(|mut guests| guests.speaking.remove(&self.number))
        });
        drop(speaker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_reads_its_last_answer_is_not_waited_for() {
        let guests = Rc::new(RefCell::new(PendingConns::default()));
        let stay = ConnGuard::new(&guests, 1);
        let executor = smol::LocalExecutor::new();
        guests.borrow_mut().serve(1, stay.stage(), executor.spawn(async {}));
        assert!(guests.borrow().are_served());
        drop(stay.awaited());
        assert!(guests.borrow().are_served());
        stay.linger();
        assert!(!guests.borrow().are_served());
    }
}
