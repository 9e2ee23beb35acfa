//! How many bytes may wait for the hub, and who may wait for room among them.
//!
//! Knows how much is taken and whether the hub takes anything. Does not know
//! what waits.
//!
//! A publisher is slowed down by a slow hub, but never stopped by one that is
//! away or stands still: then what does not fit is dropped, and its publisher is
//! told at once. What has found room is never dropped for something newer, so
//! that a publisher need not look at a message again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use smol::{Timer, future};

/// For how long a publisher waits on a hub that takes nothing at all: longer
/// than any hub is busy, shorter than anybody's patience with a worker.
pub(super) const STANDSTILL: Duration = Duration::from_secs(5);

/// What each line takes beside its text.
const ENVELOPE: usize = 128;

/// Whether waiting for room makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Flow {
    /// The hub takes what it is told.
    Flows,
    /// It is there and takes nothing.
    StandsStill,
    /// It is not there.
    Away,
    /// It will not be there again.
    Over,
}

/// Whether there was room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Room,
    None,
}

/// The room of one client and its link.
#[derive(Clone, Debug)]
pub(super) struct SendBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bound: usize,
    /// For how long a hub that takes nothing is waited on, if not for ever.
    standstill: Option<Duration>,
    taken: AtomicUsize,
    /// Bytes that were ever freed, by which a standstill is known.
    freed: AtomicU64,
    /// Messages that found no room.
    dropped: AtomicU64,
    flow: AtomicU8,
    /// A baton: whoever takes it looks for room, and passes it on when done.
    baton: (Sender<()>, Receiver<()>),
}

/// How much a line takes.
pub(super) fn weight(line: &[u8]) -> usize {
    line.len() + ENVELOPE
}

impl SendBudget {
    pub(super) fn new(bound: usize, standstill: Option<Duration>) -> Self {
        Self(Arc::new(Shared {
            bound,
            standstill,
            taken: AtomicUsize::new(0),
            freed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            flow: AtomicU8::new(Flow::Flows as u8),
            baton: async_channel::bounded(1),
        }))
    }

    pub(super) fn bound(&self) -> usize {
        self.0.bound
    }

    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Takes room, and waits for it as long as the hub takes anything.
    pub(super) async fn take(&self, weight: usize) -> Found {
        loop {
            if self.try_take(weight) {
                self.pass_on();
                return Found::Room;
            }
            if !self.is(Flow::Flows) {
                self.0.dropped.fetch_add(1, Ordering::Relaxed);
                self.pass_on();
                return Found::None;
            }
            let before = self.0.freed.load(Ordering::Acquire);
            let freed = async {
                // It cannot close: this holds both of its ends.
                let _ = self.0.baton.1.recv().await;
            };
            let still = async {
                match self.0.standstill {
                    Some(standstill) => Timer::after(standstill).await,
                    None => future::pending().await,
                };
                if self.0.freed.load(Ordering::Acquire) == before {
                    self.turn(Flow::Flows, Flow::StandsStill);
                }
            };
            future::or(freed, still).await;
        }
    }

    /// Takes room for what must not be dropped.
    pub(super) fn take_anyway(&self, weight: usize) {
        self.0.taken.fetch_add(weight, Ordering::AcqRel);
    }

    /// The hub has taken so much.
    pub(super) fn free(&self, weight: usize) {
        self.0.taken.fetch_sub(weight, Ordering::AcqRel);
        self.0.freed.fetch_add(weight as u64, Ordering::AcqRel);
        self.turn(Flow::StandsStill, Flow::Flows);
        self.pass_on();
    }

    pub(super) fn set(&self, flow: Flow) {
        self.0.flow.store(flow as u8, Ordering::Release);
        self.pass_on();
    }

    /// Below the bound there is room for one more of any size.
    fn try_take(&self, weight: usize) -> bool {
        let room = |taken: usize| (taken < self.0.bound).then(|| taken.saturating_add(weight));
        self.0.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_ok()
    }

    fn is(&self, flow: Flow) -> bool {
        self.0.flow.load(Ordering::Acquire) == flow as u8
    }

    fn turn(&self, from: Flow, to: Flow) {
        // It only fails where the link has said something stronger meanwhile.
        let _ = self.0.flow.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire);
    }

    fn pass_on(&self) {
        // Full means that somebody is about to look.
        let _ = self.0.baton.0.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Flow, Found, SendBudget};

    #[test]
    fn below_the_bound_there_is_room_for_one_more_of_any_size() {
        smol::block_on(async {
            let room = SendBudget::new(10, None);
            assert_eq!(room.take(9).await, Found::Room);
            assert_eq!(room.take(1000).await, Found::Room);
            room.set(Flow::Away);
            assert_eq!((room.take(1).await, room.dropped()), (Found::None, 1));
            room.free(1000);
            assert_eq!((room.take(1).await, room.dropped()), (Found::Room, 1));
        });
    }

    #[test]
    fn all_who_wait_for_room_find_it_one_after_another() {
        smol::block_on(async {
            let room = SendBudget::new(1, None);
            assert_eq!(room.take(1).await, Found::Room);
            let turns = async || {
                assert_eq!(room.take(1).await, Found::Room);
                room.free(1);
            };
            let free = async { room.free(1) };
            smol::future::zip(smol::future::zip(turns(), turns()), smol::future::zip(turns(), free)).await;
        });
    }

    #[test]
    fn a_hub_that_stands_still_is_waited_for_once() {
        smol::block_on(async {
            let room = SendBudget::new(1, Some(Duration::from_millis(1)));
            assert_eq!(room.take(1).await, Found::Room);
            assert_eq!(room.take(1).await, Found::None);
            assert!(room.is(Flow::StandsStill));
            room.free(1);
            assert!(room.is(Flow::Flows));
        });
    }

    #[test]
    fn nobody_waits_any_longer_for_a_hub_that_has_gone() {
        smol::block_on(async {
            let room = SendBudget::new(1, None);
            assert_eq!(room.take(1).await, Found::Room);
            let gone = async { room.set(Flow::Away) };
            let (both, ()) = smol::future::zip(smol::future::zip(room.take(1), room.take(1)), gone).await;
            assert_eq!(both, (Found::None, Found::None));
        });
    }
}
