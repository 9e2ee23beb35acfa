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
pub use log::position::LogPosition;
pub use memory_pressure::{Level, MemoryQuery};
pub use settings::Settings;
pub use snapshot::StateError;

use serde::{Deserialize, Serialize};

use crate::protocol::frame::Counters;
use crate::protocol::{Close, Code, Frame, Moment, Refusal, Refused, RequestId};
use channel::topics::TopicId;
use event::Cx;
use log::position::SeqRange;
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
    timers: timers::Timers,
    counters: Counters,
    /// Goes behind all the rest, where a daemon of before ends.
    #[serde(skip)]
    refused: Refused,
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
            timers: timers::Timers::default(),
            counters: Counters::default(),
            refused: Refused::default(),
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
        let cx = &mut Cx { now, out };
        self.note_disk(cx, &input);
        if !matches!(input, Input::Store(_)) {
            self.started.get_or_insert(cx.now.moment);
        }
        if std::mem::take(&mut self.resume_pending) {
            self.resume(cx);
        }
        match input {
            Input::Opened { conn, peer } => self.opened(cx, conn, peer),
            Input::TokenChecked { conn, id, inbox, claim } => {
                let ask = RequestContext { from: Requester::Connection(conn), id };
                self.identified(cx, &ask, conn, connection::auth::AuthAttempt { inbox, claim });
            }
            Input::Request { from, request: said } => self.handle_request(cx, from, said),
            Input::Malformed { from, request: misspoken } => self.handle_malformed(cx, from, misspoken),
            Input::RevocationSaved { from, id, revoked, outcome } => {
                self.revoked(cx, &RequestContext { from, id }, &revoked, outcome);
            }
            Input::TokenRevoked { conn } => self.expel(cx, conn),
            Input::KeepAlive { conn, controls } => self.control(cx, conn, controls),
            Input::SendQueue { conn, state } => self.outbound(cx, conn, state),
            Input::WriteProgress { conn } => self.took(cx.now, conn),
            Input::Flushed { conn, log, seq, how } => self.message_flushed(cx, conn, &log, seq, how),
            Input::Fetched { fetch: FetchPurpose::Replay(conn), log, messages } => {
                self.page_fetched(cx, conn, &log, messages);
            }
            Input::Fetched { fetch: FetchPurpose::Notice(fate), log, messages } => {
                self.undelivered_fetched(cx, &log, &messages, fate);
            }
            Input::Store(StoreEvent::Stored { log, from, to }) => {
                self.messages_stored(cx, &log, SeqRange::new(from, to));
            }
            Input::Store(StoreEvent::NotStored { log, seq }) => self.message_not_stored(cx, &log, seq),
            Input::Store(StoreEvent::Failed) => self.disk_fails(cx),
            Input::Store(StoreEvent::Recovered) => self.disk_works(cx),
            Input::Store(StoreEvent::Capacity { bytes }) => self.set_store_capacity(cx, bytes),
            Input::Store(StoreEvent::WriteBudget { is_scarce }) => self.flash.set_scarce(is_scarce),
            Input::Store(StoreEvent::ReadFailed { fetch: FetchPurpose::Replay(conn), log }) => {
                self.page_unreadable(cx, conn, &log);
            }
            Input::Store(StoreEvent::RecoveredLog(found)) => self.log_recovered(cx.now, *found),
            Input::Store(StoreEvent::LastSeq { log, epoch, seq }) => {
                self.restore_position(cx.now, log, LogPosition { epoch, seq });
            }
            // Of what cannot be read nothing can be told.
            Input::Store(StoreEvent::ReadFailed { fetch: FetchPurpose::Notice(_), .. }) => {}
            Input::ReadClosed { conn } => self.ended(cx, conn),
            Input::Closed { conn } => self.closed(cx, conn),
            Input::Memory { links, holders, is_waited_for } => {
                self.weighed(cx, links, holders, is_waited_for);
            }
            Input::NoCapacity => self.crowded(cx),
            Input::Rejected(why) => self.turned_away(why),
            Input::Timeout => self.due(cx),
            Input::Reconfigured { settings } => self.configured(cx, *settings),
            Input::Stopping { close } => self.stop(cx, close),
        }
        self.hang_up(cx.out);
    }

    /// The next moment at which something is due, if anything is.
    pub fn deadline(&self) -> Option<Moment> {
        if !self.recovering.is_empty() || self.store_room.is_over() {
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
        Some((topic.numbers().cursor(), topic.position().seq))
    }

    /// Where a log is among those that the hub knows: whoever tells it of very many does so
    /// in this order, in which they lie in memory.
    pub fn place(&self, key: &LogKey) -> Option<u32> {
        self.channels.find(key).map(TopicId::number)
    }

    /// The same key, with the text of its name shared if the hub knows it.
    pub fn shared(&self, key: LogKey) -> LogKey {
        let topic = self.channels.find(&key).and_then(|place| self.channels.at(place));
        topic.map_or(key, |topic| topic.key().clone())
    }

    fn due(&mut self, cx: &mut Cx<'_>) {
        if self.store_room.is_over() {
            self.fit_into_store(cx);
        }
        for _ in 0..TASKS_AT_ONCE {
            if cx.out.list.len() >= ORDERS_AT_ONCE {
                break;
            }
            let Some(task) = self.timers.pop(cx.now.moment) else { break };
            match task {
                Timer::Connection(slot) => self.attend(cx, slot),
                Timer::Operation(place) => self.attend_operation(cx, place),
                Timer::Pending(number) => self.give_up(number, cx.out),
                Timer::Expiry(id) => self.expiry_due(cx, id),
                Timer::Absence(id) => {
                    self.channels.expire_absent(cx, &self.connections, &mut self.timers, id);
                }
            }
        }
        self.channels.forget(cx.now.moment);
        self.operations.forget(cx.now.moment);
        self.dedup.forget(cx.now.moment);
        self.accounts.forget(cx.now.moment, ACCOUNTS_AT_ONCE);
        self.end_pending_leaves(cx);
    }

    fn answer(&self, ask: &RequestContext, frame: Frame<'static>, out: &mut Effects) {
        out.push(Effect::Reply { to: ask.from, id: ask.id.clone(), frame: Box::new(frame) });
    }

    fn refuse(&mut self, cx: &mut Cx<'_>, ask: &RequestContext, refusal: Refusal) {
        self.counters.requests_refused += 1;
        self.counters.durable_refused += u64::from(refusal.code == Code::StoreUnavailable);
        let mistake = refusal.code.is_a_mistake();
        let refusal = Box::new(refusal);
        cx.out.push(Effect::Refuse { to: ask.from, id: ask.id.clone(), refusal });
        if mistake {
            self.count_mistake(cx, ask.from);
        }
    }
}
