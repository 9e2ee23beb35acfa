//! Floor 2: the decisions. No I/O, no clock, no async, no log, no lock, no JSON.
//!
//! [`Hub`] owns the state in parts, each with private fields in a file of its own: connections,
//! topics with their logs, operations, interrupts that wait, accounts, timers. Its own methods
//! combine several of them: those here for timers, settings, memory and state as bytes, those
//! for requests in `dispatch` and `admin`, the others in `connection`, `operation`, `channel`
//! and `log`.

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
mod rng;
pub mod settings;
mod snapshot;
mod timers;

pub use admin::Bearer;
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

use crate::binary_codec;
use crate::binary_codec::{Destination, Source};
use crate::protocol::frame::Counters;
use crate::protocol::{Close, Code, ConnectionId, Frame, Moment, Refusal, RejectionCounts, RequestId};
use channel::topics::TopicId;
use checkpoint::CheckpointReader;
use connection::Connection;
use connection::account::ACCOUNT;
use connection::auth::AuthQueue;
use event::Cx;
use log::position::SeqRange;
use memory_pressure::{LOG, Newcomer, Ranking, SUBSCRIPTION, TOPIC};
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
    pending: operation::interrupt::PendingInterrupts,
    dedup: channel::dedup::DedupWindow,
    pending_leaves: channel::system_channels::PendingLeaves,
    #[serde(default)]
    accounts: connection::account::Accounts,
    #[serde(default)]
    flash: log::publisher_quota::Flash,
    timers: timers::Timers,
    counters: Counters,
    /// Goes behind all the rest of a snapshot, where an older daemon ends.
    #[serde(skip)]
    refused: RejectionCounts,
    /// Reported again by the edge of another process.
    #[serde(skip)]
    memory: memory_pressure::MemoryUse,
    /// The disk cannot be used. Reported again by the store of another process.
    #[serde(skip)]
    disk_failed: bool,
    /// How much the disk takes of what is kept. Reported again by the store of another
    /// process.
    #[serde(skip)]
    store_room: log::eviction::StoreRoom,
    /// Counted again by another process, from the answers that wait.
    #[serde(skip)]
    waiting: log::durable::DurableWaiters,
    /// Reported again by the edge of another process.
    #[serde(skip)]
    half_closed: connection::half_closed::HalfClosed,
    /// Derived again by another process.
    #[serde(skip)]
    unauthenticated: AuthQueue,
    /// When the first input came that is not about the disk.
    started: Option<Moment>,
    /// Above which position topics begin, while it is not known what is on the disk.
    seq_floor: Option<u64>,
    /// What was recovered from the disk and not taken care of yet.
    recovering: Vec<log::recovery::PendingRecovery>,
    /// It was read from a snapshot, and has not gone on yet.
    #[serde(skip)]
    resume_pending: bool,
    /// How all connections are closed, once the daemon stops.
    stopping: Option<Close>,
}

/// What is needed to answer a request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct RequestContext {
    from: Requester,
    id: Option<RequestId>,
}

/// So many accounts are checked where something is due.
const ACCOUNTS_AT_ONCE: usize = 64;

/// And so many timers fire, with so many effects: what one user has sent to very many expires
/// at once.
const TIMERS_AT_ONCE: usize = 1000;
const EFFECTS_AT_ONCE: usize = 4096;

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
            pending: operation::interrupt::PendingInterrupts::default(),
            dedup: channel::dedup::DedupWindow::default(),
            pending_leaves: channel::system_channels::PendingLeaves::default(),
            accounts: connection::account::Accounts::default(),
            flash: log::publisher_quota::Flash::default(),
            timers: timers::Timers::default(),
            counters: Counters::default(),
            refused: RejectionCounts::default(),
            memory: memory_pressure::MemoryUse::default(),
            disk_failed: false,
            store_room: log::eviction::StoreRoom::default(),
            waiting: log::durable::DurableWaiters::default(),
            half_closed: connection::half_closed::HalfClosed::default(),
            unauthenticated: AuthQueue::default(),
            started: None,
            seq_floor: None,
            recovering: Vec::new(),
            resume_pending: false,
            stopping: None,
        }
    }

    /// Takes one input in and pushes the effects that follow onto `out`.
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
            Input::Opened { conn, peer } => self.on_opened(cx, conn, peer),
            Input::TokenChecked { conn, id, inbox, claim } => {
                let request = RequestContext { from: Requester::Connection(conn), id };
                self.on_token_checked(cx, &request, conn, inbox, claim);
            }
            Input::Request { from, request } => self.handle_request(cx, from, request),
            Input::Malformed { from, request } => self.handle_malformed(cx, from, request),
            Input::RevocationSaved { from, id, revoked, outcome } => {
                self.on_revocation_saved(cx, &RequestContext { from, id }, &revoked, outcome);
            }
            Input::TokenRevoked { conn } => self.close(cx, conn, Close::Disconnected),
            Input::KeepAlive { conn, controls } => self.on_keep_alive(cx, conn, controls),
            Input::SendQueue { conn, state } => self.on_send_queue(cx, conn, state),
            Input::WriteProgress { conn } => self.on_write_progress(cx.now, conn),
            Input::Flushed { conn, log, seq, how } => self.message_flushed(cx, conn, &log, seq, how),
            Input::Fetched { fetch: FetchPurpose::Replay(conn), log, messages } => {
                self.page_fetched(cx, conn, &log, messages);
            }
            Input::Fetched { fetch: FetchPurpose::Notice(fate), log, messages } => {
                self.undelivered_fetched(cx, &log, &messages, fate);
            }
            Input::Store(event) => self.handle_store_event(cx, event),
            Input::ReadClosed { conn } => self.on_read_closed(cx, conn),
            Input::Closed { conn } => self.remove_connection(cx, conn, None),
            Input::Memory { links, holders, is_waited_for } => {
                let newcomer = if is_waited_for { Newcomer::Waits } else { Newcomer::None };
                self.on_memory_report(cx, links, holders, newcomer);
            }
            Input::NoCapacity => self.on_no_capacity(cx),
            Input::Rejected(rejection) => self.on_rejected(rejection),
            Input::Timeout => self.on_timeout(cx),
            Input::Reconfigured { settings } => self.reconfigure(cx, *settings),
            Input::Stopping { close } => self.on_stopping(cx, close),
        }
        self.close_half_closed(cx.out);
    }

    fn handle_store_event(&mut self, cx: &mut Cx<'_>, event: StoreEvent) {
        match event {
            StoreEvent::Stored { log, from, to } => self.messages_stored(cx, &log, SeqRange::new(from, to)),
            StoreEvent::NotStored { log, seq } => self.message_not_stored(cx, &log, seq),
            StoreEvent::Failed => self.disk_fails(cx),
            StoreEvent::Recovered => self.disk_works(cx),
            StoreEvent::Capacity { bytes } => self.set_store_capacity(cx, bytes),
            StoreEvent::WriteBudget { is_scarce } => self.flash.set_scarce(is_scarce),
            StoreEvent::ReadFailed { fetch: FetchPurpose::Replay(conn), log } => {
                self.page_unreadable(cx, conn, &log)
            }
            // Of what cannot be read nothing can be reported.
            StoreEvent::ReadFailed { fetch: FetchPurpose::Notice(_), .. } => {}
            StoreEvent::RecoveredLog(found) => self.log_recovered(cx.now, *found),
            StoreEvent::LastSeq { log, epoch, seq } => {
                self.restore_position(cx.now, log, LogPosition { epoch, seq })
            }
        }
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

    /// The positions of a log, if the hub knows it: of an inbox the last that its user has, and
    /// the last that was given out.
    pub fn cursor_and_last(&self, key: &LogKey) -> Option<(u64, u64)> {
        let topic = self.channels.at(self.channels.find(key)?)?;
        Some((topic.numbers().cursor(), topic.position().seq))
    }

    /// The place of a log among those that the hub knows: very many are reported to it in this
    /// order, in which they lie in memory.
    pub fn place(&self, key: &LogKey) -> Option<u32> {
        self.channels.find(key).map(TopicId::number)
    }

    /// The same key, with the text of its name shared if the hub knows it.
    pub fn shared(&self, key: LogKey) -> LogKey {
        let topic = self.channels.find(&key).and_then(|place| self.channels.at(place));
        topic.map_or(key, |topic| topic.key().clone())
    }

    fn on_timeout(&mut self, cx: &mut Cx<'_>) {
        if self.store_room.is_over() {
            self.fit_into_store(cx);
        }
        for _ in 0..TIMERS_AT_ONCE {
            if cx.out.list.len() >= EFFECTS_AT_ONCE {
                break;
            }
            let Some(timer) = self.timers.pop(cx.now.moment) else { break };
            match timer {
                Timer::Connection(slot) => self.on_connection_timer(cx, slot),
                Timer::Operation(slot) => self.on_operation_timer(cx, slot),
                Timer::Pending(id) => self.expire_pending_interrupt(id, cx.out),
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

    fn answer(&self, request: &RequestContext, frame: Frame<'static>, out: &mut Effects) {
        out.push(Effect::Reply { to: request.from, id: request.id.clone(), frame: Box::new(frame) });
    }

    fn refuse(&mut self, cx: &mut Cx<'_>, request: &RequestContext, refusal: Refusal) {
        self.counters.requests_refused += 1;
        self.counters.durable_refused += u64::from(refusal.code == Code::StoreUnavailable);
        let is_mistake = refusal.code.is_a_mistake();
        let refusal = Box::new(refusal);
        cx.out.push(Effect::Refuse { to: request.from, id: request.id.clone(), refusal });
        if is_mistake {
            self.count_mistake(cx, request.from);
        }
    }
}

/// Settings that change while connections are open.
///
/// No connection is closed for them: a limit on how many there may be refuses new ones, and
/// ends nothing. What a connection may do, what is kept and how much memory that takes follow
/// at once, as they would after a restart.
impl Hub {
    /// Goes on with other settings.
    fn reconfigure(&mut self, cx: &mut Cx<'_>, settings: Settings) {
        let was = std::mem::replace(&mut self.settings, settings);
        if was.heartbeat != self.settings.heartbeat {
            // No connection is closed for a silence for which no ping was sent: one that was
            // quiet for longer than is usual now gets a ping, and all the time for an answer.
            let heartbeat = self.settings.heartbeat;
            self.connections
                .iter_mut()
                .for_each(|connection| connection.forgive_silence(cx.now.moment, heartbeat));
        }
        for slot in self.connections.slots() {
            self.rearm(slot);
        }
        if was.rights != self.settings.rights {
            // Ends the subscriptions which only the old settings allowed.
            for conn in self.connections.ids(Connection::has_usual_rights) {
                self.check_subscriptions(cx, conn);
            }
        }
        self.conform_all(cx);
    }
}

/// Memory.
impl Hub {
    /// What is to be reported with [`Input::Memory`] now that the sockets hold so many bytes.
    pub fn memory_query(&self, now: Now, links: u64) -> MemoryQuery {
        self.memory.query(now.moment, links + self.own_memory(), &self.settings.limits)
    }

    /// Whether a connection was closed for want of memory at the last report: then there is room
    /// for a new one.
    pub fn has_made_room(&self) -> bool {
        self.memory.has_made_room()
    }

    /// How near the ceiling was at the last report.
    pub fn memory_level(&self) -> Level {
        self.memory.level()
    }

    /// What is held for all peers, as far as it was reported.
    fn memory_held(&self) -> u64 {
        self.memory.held(self.own_memory())
    }

    /// What the hub holds itself. What has a fixed and small bound (interrupts that wait, ids
    /// of messages, idle channels) is beside the ceiling.
    fn own_memory(&self) -> u64 {
        self.channels.usage().sum().memory() as u64
            + self.channels.needed() as u64 * TOPIC
            + self.channels.usage().logs() as u64 * LOG
            + self.channels.subscriptions() as u64 * SUBSCRIPTION
            + self.accounts.len() as u64 * ACCOUNT
            + (self.channels.held_bytes() + self.operations.held()) as u64
    }

    /// The sockets hold so much. Where an authenticated client waits for room, one that holds
    /// much gives way to it.
    fn on_memory_report(
        &mut self,
        cx: &mut Cx<'_>,
        links: u64,
        holders: Vec<(ConnectionId, u64)>,
        newcomer: Newcomer,
    ) {
        let (was, own) = (self.memory.level(), self.own_memory());
        let relief = self.memory.update(cx.now.moment, links, own, &self.settings.limits);
        let level = self.memory.level();
        if level > was {
            let (held, ceiling) = (links + own, self.settings.limits.memory as u64);
            cx.out.push(Effect::LogAnomaly(Anomaly::Memory { level, held, ceiling }));
        }
        if was < Level::Critical && level >= Level::Critical {
            self.connections.shed_backlogged();
        }
        let Some(relief) = relief else { return };
        let ranking = Ranking::of(holders, &self.connections, &self.channels);
        let chosen = ranking.choose(relief, newcomer);
        self.memory.note_closed(cx.now.moment, chosen.len());
        for holder in chosen {
            let (conn, held) = (holder.conn(), holder.bytes());
            let Some(connection) = self.connections.existing(conn) else { continue };
            let user = connection.user().cloned();
            self.counters.closed_overloaded += 1;
            cx.out.push(Effect::LogAnomaly(Anomaly::Overloaded { conn, user, held }));
            self.close(cx, conn, Close::Overloaded);
        }
    }
}

/// State as bytes: a snapshot for a process that takes over, a checkpoint for one that starts
/// after a clean stop.
impl Hub {
    /// All state, for a process that takes over.
    pub fn export(&self) -> Vec<u8> {
        binary_codec::collect(|to| self.write(to))
    }

    /// The same, without holding it.
    pub(crate) fn write(&self, to: Destination<'_>) -> binary_codec::Written {
        snapshot::write(self, to)
    }

    /// Goes on where another hub was, with settings that may be new.
    ///
    /// # Errors
    /// When the bytes are no state, or one of another version.
    pub fn import(settings: Settings, mut bytes: &[u8]) -> Result<Self, StateError> {
        Self::read(settings, Source::new(&mut bytes))
    }

    /// The same, of a stream.
    pub(crate) fn read(settings: Settings, from: Source<'_>) -> Result<Self, StateError> {
        let mut hub = Self { settings, resume_pending: true, ..snapshot::read(from)? };
        hub.connections.share_rights();
        hub.connections.share_users(&hub.channels);
        hub.operations.count_held();
        Ok(hub)
    }

    /// A hub that does not go on: it takes in what the store reports, and leaves a checkpoint.
    /// No settings count for it, so that nothing is dropped by them.
    ///
    /// # Errors
    /// As [`Hub::import`].
    pub fn import_for_checkpoint(mut bytes: &[u8]) -> Result<Self, StateError> {
        let mut hub = snapshot::read(Source::new(&mut bytes))?;
        hub.channels.keep_idle();
        Ok(hub)
    }

    /// What the next hub needs to go on, whichever connections it has then. Asked for after
    /// `Input::Stopping`, when there are none, and after the store has reported what it wrote.
    pub fn checkpoint_bytes(&self) -> Vec<u8> {
        checkpoint::write(&self.channels, &self.dedup)
    }

    /// A hub that goes on where another one stopped. `shift` is added to every
    /// moment that the other one wrote: another boot has another clock. A topic
    /// that has no use is idle from now on, however long the stop was: its subscribers
    /// need time to reconnect.
    ///
    /// # Errors
    /// When the bytes are no checkpoint, or one of another version: then a hub
    /// starts as after an unclean end.
    pub fn revive(
        settings: Settings,
        seed: u64,
        now: Now,
        mut bytes: &[u8],
        shift: i64,
    ) -> Result<Self, StateError> {
        let mut hub = Self::new(settings, seed);
        let mut reader = CheckpointReader::open(Source::new(&mut bytes), shift)?;
        hub.channels.expect_back(reader.left());
        while let Some(topic) = reader.next_topic()? {
            let id = hub.channels.insert(topic);
            hub.refresh_topic(now, id);
        }
        hub.dedup = reader.finish()?;
        Ok(hub)
    }
}
