//! Epoll: the one place where the thread waits. Other threads can wake it.
//!
//! smol's reactor lives on a thread of its own as soon as a turn takes longer
//! than it likes to wait, and each event would then cross threads. Connections are
//! many and busy, so they are waited for here; what is rare (requests in the
//! middle of a body, timers of HTTP, signals) stays with smol, and wakes this
//! thread.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::event::epoll::{CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

/// What a descriptor is waited for. Its end and its errors are always reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interest {
    pub read: bool,
    pub write: bool,
}

impl Interest {
    /// To be read.
    pub const READ: Self = Self { read: true, write: false };

    fn flags(self) -> EventFlags {
        let read = if self.read { EventFlags::IN } else { EventFlags::empty() };
        let write = if self.write { EventFlags::OUT } else { EventFlags::empty() };
        read | write
    }
}

/// More to read, edge-triggered. Of bytes and the end in one event, only a flag of its own
/// shows the end.
const NEWS: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

/// A descriptor that is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    pub key: u64,
    /// There is something to read, or the end, or an error to be found by reading.
    pub read: bool,
    pub write: bool,
    /// Nothing more will come. Only what is waited for by its news reports that.
    pub has_ended: bool,
}

/// The set of descriptors that are waited for, level-triggered: what is not
/// taken is reported again. But for those that are only looked at.
pub struct Epoll {
    set: OwnedFd,
    bell: Arc<Bell>,
    events: Vec<Event>,
}

/// The key of the bell; no other descriptor has it.
const BELL: u64 = u64::MAX;

/// As many as are worth fetching at once.
const BATCH: usize = 256;

/// Wakes the thread from others.
pub struct Bell {
    descriptor: OwnedFd,
    /// Rung since the last look.
    rung: AtomicBool,
    /// The thread waits, or is about to.
    sleeps: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Most wakes come from the thread itself while it is awake: no call.
        self.rung.store(true, Ordering::SeqCst);
        if self.sleeps.load(Ordering::SeqCst) {
            // Full means that it rings already.
            let _ = rustix::io::write(&self.descriptor, &1u64.to_ne_bytes());
        }
    }
}

impl Bell {
    /// Whether it was rung since the last time.
    pub fn was_rung(&self) -> bool {
        self.rung.swap(false, Ordering::SeqCst)
    }
}

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// Those of the kernel, which has no descriptors left.
    pub fn new() -> std::io::Result<Self> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&set, &descriptor, EventData::new_u64(BELL), EventFlags::IN)?;
        let bell = Bell { descriptor, rung: AtomicBool::new(false), sleeps: AtomicBool::new(false) };
        Ok(Self { set, bell: Arc::new(bell), events: Vec::with_capacity(BATCH) })
    }

    /// What wakes the thread.
    pub fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    /// Waits for a descriptor from now on. Closing it ends that.
    ///
    /// # Errors
    /// Those of the kernel, which has no memory left.
    pub fn add(&self, descriptor: impl AsFd, key: u64, interest: Interest) -> std::io::Result<()> {
        Ok(epoll::add(&self.set, descriptor, EventData::new_u64(key), interest.flags())?)
    }

    /// Waits for something else of it.
    pub fn modify(&self, descriptor: impl AsFd, key: u64, interest: Interest) {
        // It is in the set, so there is nothing that could fail.
        let _ = epoll::modify(&self.set, descriptor, EventData::new_u64(key), interest.flags());
    }

    /// Waits for more to read of a descriptor from which nothing is taken: reported once each
    /// time that some has come, or the end.
    ///
    /// # Errors
    /// As [`Epoll::add`].
    pub fn add_for_news(&self, descriptor: impl AsFd, key: u64) -> std::io::Result<()> {
        Ok(epoll::add(&self.set, descriptor, EventData::new_u64(key), NEWS)?)
    }

    /// Waits for that where there is an interest in reading. What is there is reported again then.
    pub fn modify_for_news(&self, descriptor: impl AsFd, key: u64, interest: Interest) {
        let flags = if interest.read { NEWS } else { EventFlags::empty() };
        let _ = epoll::modify(&self.set, descriptor, EventData::new_u64(key), flags);
    }

    /// Waits for it no longer, before it is handed on.
    pub fn remove(&self, descriptor: impl AsFd) {
        let _ = epoll::delete(&self.set, descriptor);
    }

    /// Waits until something is ready, the bell rings, or the time is over. Adds
    /// what is ready to `ready`.
    pub fn wait(&mut self, time: Option<Duration>, ready: &mut Vec<Ready>) {
        self.bell.sleeps.store(true, Ordering::SeqCst);
        let time = if self.bell.rung.load(Ordering::SeqCst) { Some(Duration::ZERO) } else { time };
        let time = time.map(|time| Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i32::MAX.into()),
            tv_nsec: time.subsec_nanos().into(),
        });
        self.events.clear();
        let waited = epoll::wait(&self.set, spare_capacity(&mut self.events), time.as_ref());
        self.bell.sleeps.store(false, Ordering::SeqCst);
        // A signal ends the wait early, with nothing ready.
        debug_assert!(matches!(waited, Ok(_) | Err(Errno::INTR)), "{waited:?}");
        for event in &self.events {
            let key = event.data.u64();
            if key == BELL {
                let _ = rustix::io::read(&self.bell.descriptor, &mut [0; 8]);
                continue;
            }
            let flags = event.flags;
            let over = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            ready.push(Ready {
                key,
                read: flags.contains(EventFlags::IN) || over,
                write: flags.contains(EventFlags::OUT) || over,
                has_ended: flags.contains(EventFlags::RDHUP) || over,
            });
        }
    }
}
