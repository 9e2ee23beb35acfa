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
    Anomaly, Asker, Claim, Effect, Effects, Fate, Found, FoundMessage, Input, Keeping, LogKey, Now, Outbound,
    Peer, Purpose, Recipients, StoreFact, TokenFault, TurnedAway,
};
pub use memory_pressure::{Asks, Level};
pub use settings::Settings;
pub use snapshot::StateError;

use serde::{Deserialize, Serialize};

use super::protocol::frame::Counters;
use super::protocol::{Close, Code, Frame, Moment, Refusal, Refused, RequestId};
use timers::Task;

/// All state worth reasoning about.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hub {
    #[serde(skip)]
    settings: Settings,
    random: rng::Random,
    connections: connection::table::Connections,
    channels: channel::topics::Channels,
    operations: operation::Operations,
    pending: operation::interrupt::Pending,
    recent: channel::dedup::Recent,
    departures: channel::system_channels::Departures,
    #[serde(default)]
    accounts: connection::account::Accounts,
    #[serde(default)]
    flash: log::publisher_quota::Flash,
    /// Found again by another process.
    #[serde(skip)]
    excess: log::publisher_quota::Excess,
    deadlines: timers::Deadlines,
    counters: Counters,
    /// Goes behind all the rest, where a daemon of before ends.
    #[serde(skip)]
    refused: Refused,
    /// Told again by whoever holds it; another process holds something else.
    #[serde(skip)]
    memory: memory_pressure::Memory,
    /// The disk cannot be used. Told again by the store of another process.
    #[serde(skip)]
    disk_failed: bool,
    /// How much the disk takes of what is kept. Told again by the store of another
    /// process.
    #[serde(skip)]
    store_room: log::eviction::StoreRoom,
    /// Counted again by another process, from the answers that wait.
    #[serde(skip)]
    waiting: log::durable::Waiting,
    /// Told again by the edge of another process.
    #[serde(skip)]
    half_closed: connection::half_closed::HalfClosed,
    /// Found again by another process.
    #[serde(skip)]
    strangers: connection::auth::Strangers,
    /// When the first thing happened that is not about the disk.
    started: Option<Moment>,
    /// Above which number topics begin, while nobody has told what is on the disk.
    numbers_above: Option<u64>,
    /// What was found on the disk and is not looked after yet.
    unsorted: Vec<log::recovery::Unsorted>,
    /// It was read back, and has not gone on yet.
    #[serde(skip)]
    resumes: bool,
    /// How everybody is sent away, once the daemon ends.
    stopping: Option<Close>,
}

/// A request as far as answering it goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Ask {
    from: Asker,
    id: Option<RequestId>,
}

/// So many accounts are looked at where something is due.
const ACCOUNTS_AT_ONCE: usize = 64;

/// And so many things that are due are done, with so many orders: what one user has sent to
/// very many grows old at once.
const TASKS_AT_ONCE: usize = 1000;
const ORDERS_AT_ONCE: usize = 4096;

/// A request is carried out, or refused.
type Done = Result<(), Refusal>;

impl Hub {
    /// An empty hub. `seed` makes its ids and epochs unlike those of any other.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            random: rng::Random::new(seed),
            connections: connection::table::Connections::default(),
            channels: channel::topics::Channels::default(),
            operations: operation::Operations::default(),
            pending: operation::interrupt::Pending::default(),
            recent: channel::dedup::Recent::default(),
            departures: channel::system_channels::Departures::default(),
            accounts: connection::account::Accounts::default(),
            flash: log::publisher_quota::Flash::default(),
            excess: log::publisher_quota::Excess::default(),
            deadlines: timers::Deadlines::default(),
            counters: Counters::default(),
            refused: Refused::default(),
            memory: memory_pressure::Memory::default(),
            disk_failed: false,
            store_room: log::eviction::StoreRoom::default(),
            waiting: log::durable::Waiting::default(),
            half_closed: connection::half_closed::HalfClosed::default(),
            strangers: connection::auth::Strangers::default(),
            started: None,
            numbers_above: None,
            unsorted: Vec::new(),
            resumes: false,
            stopping: None,
        }
    }

    /// Takes one fact in and pushes the orders that follow onto `out`.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Effects) {
        self.note_disk(now, &input, out);
        if !matches!(input, Input::Store(_)) {
            self.started.get_or_insert(now.moment);
        }
        if std::mem::take(&mut self.resumes) {
            self.resume(now, out);
        }
        match input {
            Input::Opened { conn, peer } => self.opened(now, conn, peer, out),
            Input::Identified { conn, id, inbox, claim } => {
                let ask = Ask { from: Asker::Connection(conn), id };
                self.identified(now, &ask, conn, connection::auth::Proof { inbox, claim }, out);
            }
            Input::Said { from, said } => self.said(now, from, said, out),
            Input::Misspoke { from, misspoken } => self.misspoke(now, from, misspoken, out),
            Input::Revoked { from, id, revoked, outcome } => {
                self.revoked(now, &Ask { from, id }, &revoked, outcome, out);
            }
            Input::Expelled { conn } => self.expel(now, conn, out),
            Input::Heard { conn, controls } => self.control(now, conn, controls, out),
            Input::Outbound { conn, state } => self.outbound(now, conn, state, out),
            Input::Took { conn } => self.took(now, conn),
            Input::Written { conn, log, seq, how } => self.written(now, conn, &log, (seq, how), out),
            Input::Fetched { fetch: Purpose::Replay(conn), log, messages } => {
                self.fetched(now, conn, &log, messages, out);
            }
            Input::Fetched { fetch: Purpose::Notice(fate), log, messages } => {
                self.tell_fate(now, &log, &messages, fate, out);
            }
            Input::Store(StoreFact::Stored { log, from, to }) => self.stored(now, &log, (from, to), out),
            Input::Store(StoreFact::NotStored { log, seq }) => self.not_stored(now, &log, seq, out),
            Input::Store(StoreFact::Failed) => self.disk_fails(now, out),
            Input::Store(StoreFact::Works) => self.disk_works(now, out),
            Input::Store(StoreFact::Capacity { bytes }) => self.capacity(now, bytes, out),
            Input::Store(StoreFact::Flash { is_scarce }) => self.flash.is_scarce = is_scarce,
            Input::Store(StoreFact::Unread { fetch: Purpose::Replay(conn), log }) => {
                self.unread(now, conn, &log, out);
            }
            Input::Store(StoreFact::Found(found)) => self.found(now, *found),
            Input::Store(StoreFact::Reached { log, epoch, seq }) => self.reached(now, log, epoch, seq),
            // Of what cannot be read nothing can be told.
            Input::Store(StoreFact::Unread { fetch: Purpose::Notice(_), .. }) => {}
            Input::Ended { conn } => self.ended(now, conn, out),
            Input::Closed { conn } => self.closed(now, conn, out),
            Input::Memory { links, holders, is_waited_for } => {
                self.weighed(now, links, holders, is_waited_for, out);
            }
            Input::Crowded => self.crowded(now, out),
            Input::TurnedAway(why) => self.turned_away(why),
            Input::Due => self.due(now, out),
            Input::Configured { settings } => self.configured(now, *settings, out),
            Input::Stopping { close } => self.stop(now, close, out),
        }
        self.hang_up(out);
    }

    /// The next moment at which something is due, if anything is.
    pub fn deadline(&self) -> Option<Moment> {
        if !self.unsorted.is_empty() || self.store_room.is_over {
            return Some(Moment::default());
        }
        let first = [
            self.deadlines.first(),
            self.channels.deadline(),
            self.operations.deadline(),
            self.recent.deadline(),
            self.departures.deadline(),
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
            let Some(task) = self.deadlines.pop(now.moment) else { break };
            match task {
                Task::Connection(slot) => self.attend(now, slot, out),
                Task::Operation(place) => self.attend_operation(now, place, out),
                Task::Pending(number) => self.give_up(number, out),
                Task::Expiry(place) => self.grow_old(now, place, out),
                Task::Absence(place) => self.absent(now, place, out),
            }
        }
        self.channels.forget(now.moment);
        self.operations.forget(now.moment);
        self.recent.forget(now.moment);
        self.accounts.forget(now.moment, ACCOUNTS_AT_ONCE);
        self.take_leave(now, out);
    }

    fn answer(&self, ask: &Ask, frame: Frame<'static>, out: &mut Effects) {
        out.push(Effect::Answer { to: ask.from, id: ask.id.clone(), frame: Box::new(frame) });
    }

    fn refuse(&mut self, now: Now, ask: &Ask, refusal: Refusal, out: &mut Effects) {
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
