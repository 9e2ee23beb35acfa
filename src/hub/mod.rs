//! Floor 2: the decisions. No I/O, no clock, no async, no log, no lock, no JSON.
//!
//! Knows who is connected, who hears what, what is kept and what runs. Does not
//! know how any of it travels.

mod admin;
mod channel;
mod checkpoint;
pub mod connection;
mod dispatch;
pub mod event;
mod log;
pub mod memory_pressure;
mod operation;
mod optional_list;
mod reconfigure;
mod rng;
pub mod settings;
mod snapshot;
mod timers;

pub use channel::dedup::Scope;
pub use connection::account::Account;
pub use connection::rights::{Identity, Pattern, Rights, Terms};
pub use event::{
    Anomaly, Credentials, DeliveryOutcome, Effect, Effects, EntryMeta, FetchPurpose, Input, LogKey, Now,
    Peer, Recipients, RecoveredLog, RecoveredMessage, Rejection, Requester, SendQueueState, StoreEvent,
    TokenFault,
};
pub use memory_pressure::{Level, MemoryQuery};
pub use settings::Settings;
pub use snapshot::StateError;

use serde::{Deserialize, Serialize};

use crate::protocol::frame::Counters;
use crate::protocol::{Close, Code, Frame, Moment, Refusal, RejectionCounts, RequestId};
use timers::Timer;

/// All state worth reasoning about.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hub {
    #[serde(skip)]
    settings: Settings,
    random: rng::Rng,
    connections: connection::table::Connections,
    channels: channel::topics::Topics,
    operations: operation::Operations,
    pending: operation::interrupt::Pending,
    dedup: channel::dedup::DedupWindow,
    pending_leaves: channel::system_channels::PendingLeaves,
    #[serde(default)]
    accounts: connection::account::Accounts,
    #[serde(default)]
    flash: log::publisher_quota::Flash,
    /// Found again by another process.
    #[serde(skip)]
    excess: log::publisher_quota::Excess,
    timers: timers::Timers,
    counters: Counters,
    /// Goes behind all the rest, where a daemon of before ends.
    #[serde(skip)]
    refused: RejectionCounts,
    /// Told again by whoever holds it; another process holds something else.
    #[serde(skip)]
    memory: memory_pressure::MemoryUse,
    /// The disk cannot be used. Told again by the store of another process.
    #[serde(skip)]
    disk_failed: bool,
    /// How much the disk takes of what is kept. Told again by the store of another
    /// process.
    #[serde(skip)]
    store_room: log::eviction::StoreRoom,
    /// Counted again by another process, from the answers that wait.
    #[serde(skip)]
    waiting: log::durable::DurableWaiters,
    /// Told again by the edge of another process.
    #[serde(skip)]
    half_closed: connection::half_closed::HalfClosed,
    /// Found again by another process.
    #[serde(skip)]
    unauthenticated: connection::auth::Unauthenticated,
    /// When the first thing happened that is not about the disk.
    started: Option<Moment>,
    /// Above which number topics begin, while nobody has told what is on the disk.
    seq_floor: Option<u64>,
    /// What was found on the disk and is not looked after yet.
    recovering: Vec<log::recovery::PendingRecovery>,
    /// It was read back, and has not gone on yet.
    #[serde(skip)]
    resume_pending: bool,
    /// How everybody is sent away, once the daemon ends.
    stopping: Option<Close>,
}

/// A request as far as answering it goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct RequestContext {
    from: Requester,
    id: Option<RequestId>,
}

/// So many accounts are looked at where something is due.
const ACCOUNTS_AT_ONCE: usize = 64;

/// And so many things that are due are done, with so many orders: what one user has sent to
/// very many grows old at once.
const TASKS_AT_ONCE: usize = 1000;
const ORDERS_AT_ONCE: usize = 4096;

/// A request is carried out, or refused.
type RequestResult = Result<(), Refusal>;

impl Hub {
    /// An empty hub. `seed` makes its ids and epochs unlike those of any other.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            random: rng::Rng::new(seed),
            connections: connection::table::Connections::default(),
            channels: channel::topics::Topics::default(),
            operations: operation::Operations::default(),
            pending: operation::interrupt::Pending::default(),
            dedup: channel::dedup::DedupWindow::default(),
            pending_leaves: channel::system_channels::PendingLeaves::default(),
            accounts: connection::account::Accounts::default(),
            flash: log::publisher_quota::Flash::default(),
            excess: log::publisher_quota::Excess::default(),
            timers: timers::Timers::default(),
            counters: Counters::default(),
            refused: RejectionCounts::default(),
            memory: memory_pressure::MemoryUse::default(),
            disk_failed: false,
            store_room: log::eviction::StoreRoom::default(),
            waiting: log::durable::DurableWaiters::default(),
            half_closed: connection::half_closed::HalfClosed::default(),
            unauthenticated: connection::auth::Unauthenticated::default(),
            started: None,
            seq_floor: None,
            recovering: Vec::new(),
            resume_pending: false,
            stopping: None,
        }
    }

    /// Takes one fact in and pushes the orders that follow onto `out`.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Effects) {
        self.note_disk(now, &input, out);
        if !matches!(input, Input::Store(_)) {
            self.started.get_or_insert(now.moment);
        }
        if std::mem::take(&mut self.resume_pending) {
            self.resume(now, out);
        }
        match input {
            Input::Opened { conn, peer } => self.opened(now, conn, peer, out),
            Input::TokenChecked { conn, id, inbox, claim } => {
                let ask = RequestContext { from: Requester::Connection(conn), id };
                self.identified(now, &ask, conn, connection::auth::AuthAttempt { inbox, claim }, out);
            }
            Input::Request { from, request: said } => self.handle_request(now, from, said, out),
            Input::Malformed { from, request: misspoken } => self.handle_malformed(now, from, misspoken, out),
            Input::RevocationSaved { from, id, revoked, outcome } => {
                self.revoked(now, &RequestContext { from, id }, &revoked, outcome, out);
            }
            Input::TokenRevoked { conn } => self.expel(now, conn, out),
            Input::KeepAlive { conn, controls } => self.control(now, conn, controls, out),
            Input::SendQueue { conn, state } => self.outbound(now, conn, state, out),
            Input::WriteProgress { conn } => self.took(now, conn),
            Input::Flushed { conn, log, seq, how } => self.written(now, conn, &log, (seq, how), out),
            Input::Fetched { fetch: FetchPurpose::Replay(conn), log, messages } => {
                self.fetched(now, conn, &log, messages, out);
            }
            Input::Fetched { fetch: FetchPurpose::Notice(fate), log, messages } => {
                self.tell_fate(now, &log, &messages, fate, out);
            }
            Input::Store(StoreEvent::Stored { log, from, to }) => self.stored(now, &log, (from, to), out),
            Input::Store(StoreEvent::NotStored { log, seq }) => self.not_stored(now, &log, seq, out),
            Input::Store(StoreEvent::Failed) => self.disk_fails(now, out),
            Input::Store(StoreEvent::Recovered) => self.disk_works(now, out),
            Input::Store(StoreEvent::Capacity { bytes }) => self.capacity(now, bytes, out),
            Input::Store(StoreEvent::WriteBudget { is_scarce }) => self.flash.is_scarce = is_scarce,
            Input::Store(StoreEvent::ReadFailed { fetch: FetchPurpose::Replay(conn), log }) => {
                self.unread(now, conn, &log, out);
            }
            Input::Store(StoreEvent::RecoveredLog(found)) => self.found(now, *found),
            Input::Store(StoreEvent::LastSeq { log, epoch, seq }) => self.reached(now, log, epoch, seq),
            // Of what cannot be read nothing can be told.
            Input::Store(StoreEvent::ReadFailed { fetch: FetchPurpose::Notice(_), .. }) => {}
            Input::ReadClosed { conn } => self.ended(now, conn, out),
            Input::Closed { conn } => self.closed(now, conn, out),
            Input::Memory { links, holders, is_waited_for } => {
                self.weighed(now, links, holders, is_waited_for, out);
            }
            Input::NoCapacity => self.crowded(now, out),
            Input::Rejected(why) => self.turned_away(why),
            Input::Timeout => self.due(now, out),
            Input::Reconfigured { settings } => self.configured(now, *settings, out),
            Input::Stopping { close } => self.stop(now, close, out),
        }
        self.hang_up(out);
    }

    /// The next moment at which something is due, if anything is.
    pub fn deadline(&self) -> Option<Moment> {
        if !self.recovering.is_empty() || self.store_room.is_over {
            return Some(Moment::default());
        }
        let first = [
            self.timers.first(),
            self.channels.deadline(),
            self.operations.deadline(),
            self.dedup.deadline(),
            self.pending_leaves.deadline(),
        ];
        first.into_iter().flatten().min()
    }

    /// Where a log stands that the hub knows: of an inbox what its user has, and the
    /// last position that was given out.
    pub fn standing(&self, key: &LogKey) -> Option<(u64, u64)> {
        let topic = self.channels.at(self.channels.find(key)?)?;
        Some((topic.cursor, topic.seq))
    }

    /// Where a log is among those that the hub knows: whoever tells it of very many does so
    /// in this order, in which they lie in memory.
    pub fn place(&self, key: &LogKey) -> Option<u32> {
        self.channels.find(key)
    }

    /// The same key, with the text of its name shared if the hub knows it.
    pub fn shared(&self, key: LogKey) -> LogKey {
        let topic = self.channels.find(&key).and_then(|place| self.channels.at(place));
        topic.map_or(key, |topic| topic.key.clone())
    }

    fn due(&mut self, now: Now, out: &mut Effects) {
        if self.store_room.is_over {
            self.fit_into_store(now, out);
        }
        for _ in 0..TASKS_AT_ONCE {
            if out.list.len() >= ORDERS_AT_ONCE {
                break;
            }
            let Some(task) = self.timers.pop(now.moment) else { break };
            match task {
                Timer::Connection(slot) => self.attend(now, slot, out),
                Timer::Operation(place) => self.attend_operation(now, place, out),
                Timer::Pending(number) => self.give_up(number, out),
                Timer::Expiry(place) => self.grow_old(now, place, out),
                Timer::Absence(place) => self.absent(now, place, out),
            }
        }
        self.channels.forget(now.moment);
        self.operations.forget(now.moment);
        self.dedup.forget(now.moment);
        self.accounts.forget(now.moment, ACCOUNTS_AT_ONCE);
        self.take_leave(now, out);
    }

    fn answer(&self, ask: &RequestContext, frame: Frame<'static>, out: &mut Effects) {
        out.push(Effect::Reply { to: ask.from, id: ask.id.clone(), frame: Box::new(frame) });
    }

    fn refuse(&mut self, now: Now, ask: &RequestContext, refusal: Refusal, out: &mut Effects) {
        self.counters.requests_refused += 1;
        self.counters.durable_refused += u64::from(refusal.code == Code::StoreUnavailable);
        let mistake = refusal.code.is_a_mistake();
        let refusal = Box::new(refusal);
        out.push(Effect::Refuse { to: ask.from, id: ask.id.clone(), refusal });
        if mistake {
            self.count_mistake(now, ask.from, out);
        }
    }
}
