//! Driver: owns the hub, feeds it inputs and carries out its effects.
//!
//! An input is decided on at once; what is to be written waits for the end of the turn. Each of
//! the parts below owns its state; only this file, `inbound` and `connection_reader` see all of
//! them.

mod admin;
pub mod anomaly_log;
mod closing_queue;
pub mod config;
mod connection_reader;
mod disconnect_log;
mod events;
mod frame_writer;
mod http_waiters;
mod inbound;
pub mod malloc_trim;
mod memory_report;
mod read_buffer;
pub mod reload;
mod replay_pages;
pub mod revocations;
mod seq_recorder;
pub mod state;
mod status;
mod token_refusal;
mod trigger;
mod user_turn_share;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use async_channel::Receiver;

use super::clock;
use super::net::connection::ConnectionState;
use super::net::connection_table::{ConnectionTable, Slot};
use super::net::encoded_frame::{EncodedFrame, FrameEncoder};
use super::net::epoll::{Epoll, Ready};
use super::net::latch::Latches;
use super::net::mem_accounting;
use super::net::peer_credentials::WorkerRank;
use super::net::peer_side::PeerSide;
use super::net::read_side::Reading;
use super::net::send_queue::QueuedFrame;
use super::net::socket::PeerSocket;
use super::store::seq_file::{SeqFile, SeqFileEntry};
use super::store::{Fetch, Stamp, Store, StoreContext};
use crate::hub::{
    Anomaly, Effect, Effects, FetchPurpose, Hub, Input, Now, Peer, Recipients, Requester, StoreEvent,
};
use crate::protocol::{Close, Frame, HubRequest, Moment, Refusal, RequestEnvelope, RequestId};
use anomaly_log::AnomalyLog;
use closing_queue::ClosingQueue;
use config::DriverConfig;
use frame_writer::{Closed, FrameWriter};
pub use http_waiters::HttpAnswer;
use http_waiters::{HttpWaiter, HttpWaiters};
use memory_report::MemoryReport;
use read_buffer::ReadBuffer;
use reload::Reloads;
use replay_pages::ReplayPages;
use revocations::RevocationQueue;
use seq_recorder::SeqRecorder;
use state::{DriverExport, DriverImport};
pub use status::{DriverStatus, StatusCounts};
pub use token_refusal::{CountedFor, RefusedToken};
use user_turn_share::TurnShares;

/// The driver, as every task of the thread shares it. It is borrowed for the
/// length of one call and never across an await.
pub type Shared = Rc<RefCell<Driver>>;

/// So many inputs are more than almost any turn has.
const USUAL_INPUTS: usize = 1024;

pub struct Driver {
    hub: Hub,
    effects: Effects,
    /// What the hub decides on next.
    inputs: VecDeque<Input>,
    connections: ConnectionTable,
    /// One per running operation.
    latches: Latches,
    closing: ClosingQueue,
    encoder: FrameEncoder,
    ping: EncodedFrame,
    seqs: SeqRecorder,
    store: Store,
    pages: ReplayPages,
    /// Away while something is being decoded.
    read: Option<ReadBuffer>,
    shares: TurnShares,
    memory: MemoryReport,
    http: HttpWaiters,
    reloads: Reloads,
    revocations: RevocationQueue,
    anomalies: AnomalyLog,
    config: Rc<DriverConfig>,
    /// The time of this call.
    now: Now,
}

impl Driver {
    /// A driver around a hub.
    pub fn new(hub: Hub, store: Store, config: Rc<DriverConfig>, epoll: Epoll) -> Self {
        Self {
            hub,
            effects: Effects::default(),
            inputs: VecDeque::new(),
            connections: ConnectionTable::new(config.queue_limits, epoll),
            latches: Latches::default(),
            closing: ClosingQueue::default(),
            encoder: FrameEncoder::default(),
            ping: EncodedFrame::ping(),
            seqs: SeqRecorder::default(),
            store,
            pages: ReplayPages::default(),
            read: Some(ReadBuffer::new(config.message_bytes)),
            shares: TurnShares::default(),
            memory: MemoryReport::default(),
            http: HttpWaiters::default(),
            reloads: Reloads::default(),
            revocations: RevocationQueue::default(),
            anomalies: AnomalyLog::default(),
            config,
            now: clock::now(),
        }
    }

    /// Sets the time of a call from outside; within it it stays the same.
    fn refresh_now(&mut self) {
        self.now = clock::now();
        self.connections.set_now(self.now.moment);
    }

    /// The time of this turn.
    pub fn moment(&self) -> Moment {
        self.now.moment
    }

    /// Where descriptors are waited for.
    pub fn epoll(&self) -> &Epoll {
        self.connections.epoll()
    }

    pub fn config(&self) -> &Rc<DriverConfig> {
        &self.config
    }

    /// How many connections there are, closing ones too.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Whether every connection has what it was owed, or is gone.
    pub fn is_idle(&self) -> bool {
        self.connections.is_empty()
    }

    /// The status between two turns.
    pub fn refreshed_status(&mut self) -> DriverStatus<'_> {
        self.refresh_now();
        self.status()
    }

    /// The status at the time of this turn.
    pub fn status(&self) -> DriverStatus<'_> {
        let workers = mem_accounting::workers();
        let (operations, messages) = self.hub.at_a_glance();
        let counts = StatusCounts {
            connections: self.connections.len().saturating_sub(workers),
            workers,
            operations,
            messages,
            store: self.store.state(self.now.moment),
        };
        DriverStatus {
            now: self.now.moment,
            counts,
            store_error: self.store.failure(),
            is_stuck: self.store.is_stuck(self.now.moment),
        }
    }
}

/// Inputs and effects.
impl Driver {
    /// Handles something that happened outside of the connections.
    pub fn handle(&mut self, input: Input) {
        self.refresh_now();
        self.decide(input);
    }

    /// Passes a request over HTTP to the hub; the answer comes through the receiver.
    pub fn ask(&mut self, request: HubRequest) -> Receiver<HttpAnswer> {
        self.refresh_now();
        let HttpWaiter { requester: from, answer } = self.http.open();
        self.report_memory_for(&request);
        self.decide(Input::Request { from, request: RequestEnvelope { id: None, request } });
        answer
    }

    /// Lets the hub decide on one more input.
    fn decide(&mut self, input: Input) {
        self.enqueue([input]);
        self.pump();
    }

    /// Adds inputs behind all that has happened to connections before.
    fn enqueue(&mut self, inputs: impl IntoIterator<Item = Input>) {
        self.collect_events();
        self.inputs.extend(inputs);
    }

    fn collect_events(&mut self) {
        while let Some(event) = self.connections.take_event() {
            self.inputs.push_back(event.into());
        }
    }

    /// Lets the hub decide until no input is left.
    fn pump(&mut self) {
        loop {
            self.collect_events();
            let Some(input) = self.inputs.pop_front() else { break };
            let closed = match &input {
                Input::Closed { conn } => Some(*conn),
                _ => None,
            };
            let mut effects = std::mem::take(&mut self.effects);
            effects.clear();
            self.hub.handle(self.now, input, &mut effects);
            for effect in effects.list.drain(..) {
                self.perform(effect, &effects.recipients);
            }
            self.effects = effects;
            if let Some(conn) = closed {
                self.connections.release(conn);
            }
        }
        // At the start all that is kept becomes an input. Cut short the list would stay where it
        // is, above all that is free by then.
        if self.inputs.capacity() > USUAL_INPUTS {
            self.inputs = VecDeque::new();
        }
    }

    fn writer(&mut self) -> FrameWriter<'_> {
        let Self { hub, connections, latches, encoder, seqs, .. } = self;
        FrameWriter::new(hub, connections, latches, encoder, seqs)
    }

    /// Carries out one effect.
    fn perform(&mut self, effect: Effect, recipients: &[u32]) {
        let recipients =
            |to: &Recipients| recipients.get(to.start as usize..to.end as usize).unwrap_or_default();
        match effect {
            Effect::Deliver { message, to, log } => self.writer().deliver(&message, recipients(&to), log),
            Effect::Replay { message, conn, log } => {
                let encoded = self.pages.encode(&message, &mut self.encoder);
                self.writer().replay(&message, &encoded, conn, log);
            }
            Effect::Broadcast { frame, to } => self.writer().broadcast(&frame, recipients(&to)),
            Effect::Reply { to, id, mut frame } => {
                admin::complete(&mut frame, &self.config, &self.connections, &self.store, self.now);
                self.reply(to, id.as_ref(), &frame);
            }
            Effect::Refuse { to, id, refusal } => self.refuse(to, id.as_ref(), &refusal),
            Effect::Latch { operation, worker, id } => {
                self.writer().open_latch(operation, worker, id.as_ref());
            }
            Effect::Interrupt { line } => self.writer().interrupt(&line),
            Effect::Unlatch { operation } => self.latches.close(&operation),
            Effect::Ping { conn } => {
                let ping = QueuedFrame::for_client(&self.ping);
                self.writer().push(Slot::from(conn), ping);
            }
            Effect::Close { conn, close, after_ms } => {
                if self.writer().close(conn, close, after_ms) == Closed::Lingers {
                    self.closing.push(self.now.moment, conn);
                }
            }
            Effect::HangUp { conn } => {
                // The hub owes it nothing; a reload or a revocation may still be under way.
                if !self.reloads.is_awaited_by(conn) && !self.revocations.is_awaited_by(conn) {
                    self.connections.finish(conn);
                }
            }
            Effect::PauseReading { conn } => self.connections.set_reading(conn, Reading::Paused),
            Effect::ResumeReading { conn } => self.connections.set_reading(conn, Reading::Resumed),
            Effect::Revoke { to, id, revoked } => self.revocations.revoke(to, id, revoked, self.now.wall),
            Effect::Append { log, message, meta } => {
                self.store.keep(self.now.moment, &log, &message, &meta);
            }
            Effect::SyncNow { log, seq } => {
                let known = self.store.sync_now(log, seq);
                self.enqueue(known);
            }
            Effect::PersistSeq { log, epoch, seq } => self.seqs.record(&log, epoch, seq),
            Effect::Fetch { fetch: purpose, log, after, count, bytes } => {
                self.fetch(Fetch { purpose, log, after, count, bytes });
            }
            Effect::Truncate { log, from, to } => self.store.forget(self.now.moment, &log, from, to),
            effect @ (Effect::LogDisconnect { .. } | Effect::LogAnomaly(_)) => self.log(effect),
        }
    }

    fn fetch(&mut self, fetch: Fetch) {
        let inputs = match fetch.purpose {
            FetchPurpose::Replay(conn) => self.pages.fetch(fetch, || self.hub.account(conn), &mut self.store),
            // It is about to be forgotten.
            FetchPurpose::Notice(_) => self.store.fetch(fetch),
        };
        self.enqueue(inputs);
    }

    /// Writes to the log what the hub has for it.
    fn log(&mut self, effect: Effect) {
        let now = self.now.moment;
        match effect {
            Effect::LogDisconnect { conn, user, lasted, close } => {
                if self.config.logs_access
                    && let Some(connection) = self.connections.get(conn)
                {
                    disconnect_log::write(connection, user.as_ref(), lasted, close);
                }
            }
            Effect::LogAnomaly(Anomaly::Refused { conn, user, reason }) => {
                let from = self.peer_ip(conn);
                self.anomalies.refused_by_hub(now, conn, user.as_ref(), reason, from);
            }
            Effect::LogAnomaly(anomaly) => self.anomalies.anomaly(now, &anomaly),
            _ => debug_assert!(false, "it is to be carried out"),
        }
    }

    /// Answers a request; does nothing if the requester is gone.
    fn reply(&mut self, to: Requester, id: Option<&RequestId>, frame: &Frame<'_>) {
        self.answer(to, id, frame, None);
    }

    fn refuse(&mut self, to: Requester, id: Option<&RequestId>, refusal: &Refusal) {
        self.answer(to, id, &Frame::from(refusal), Some(refusal));
    }

    fn answer(
        &mut self,
        to: Requester,
        id: Option<&RequestId>,
        frame: &Frame<'_>,
        refusal: Option<&Refusal>,
    ) {
        match to {
            Requester::Connection(conn) => self.writer().reply(conn, id, frame),
            Requester::Http(number) => self.http.answer(number, frame, refusal),
        }
    }
}

/// The turn.
impl Driver {
    /// Adds a connection. `early` is what the peer has sent already.
    pub fn open(&mut self, socket: PeerSocket, peer: Peer, early: &[u8]) {
        self.refresh_now();
        let peer = self.check_again(peer);
        let side = match &peer {
            Peer::Client { .. } => PeerSide::client(),
            Peer::Worker { admin: true, .. } => PeerSide::worker(WorkerRank::Administrator),
            Peer::Worker { admin: false, .. } => PeerSide::worker(WorkerRank::Worker),
        };
        // Without memory in the kernel for one more, the socket closes.
        let Ok(conn) = self.connections.open(socket, side, clock::random()) else { return };
        self.decide(Input::Opened { conn, peer });
        if !early.is_empty() {
            self.decode(conn, early);
        }
    }

    /// Waits until something is ready.
    pub fn wait(&mut self, time: Option<Duration>, ready: &mut Vec<Ready>) {
        self.connections.wait(time, ready);
        self.refresh_now();
    }

    /// A connection can be read from or written to.
    pub fn ready(&mut self, ready: Ready) {
        let Some(conn) = self.connections.ready(ready) else { return };
        if ready.write {
            self.writer().flush(Slot::from(conn));
            self.pump();
        }
        if ready.read {
            self.read(conn);
        }
    }

    /// Ends the turn: does what is due, and writes once to every connection that was
    /// given something. Returns how long nothing will be due.
    pub fn end_turn(&mut self) -> Option<Duration> {
        self.refresh_now();
        self.cut_lingering();
        self.decode_resumed();
        if self.hub.deadline().is_some_and(|due| due <= self.now.moment) {
            self.decide(Input::Timeout);
        }
        self.with_store(Store::tick);
        self.pump();
        self.serve_pages();
        self.writer().end_turn();
        self.pump();
        self.report_memory();
        // What was replayed or closed just now leaves in the next turn.
        if self.connections.has_work() || !self.pages.is_empty() {
            return Some(Duration::ZERO);
        }
        let store = self.store.deadline(self.now.moment);
        let due = [self.hub.deadline(), self.closing.deadline(), store].into_iter().flatten().min();
        due.map(|due| due.since(self.now.moment))
    }

    /// Cuts off the peers that have not closed in time, unless they are not done with a frame.
    fn cut_lingering(&mut self) {
        while let Some(conn) = self.closing.pop_due(self.now.moment) {
            if self.connections.get_mut(conn).is_some_and(|connection| connection.wait_for_refused_frame()) {
                self.closing.push(self.now.moment, conn);
            } else {
                self.connections.fail(conn);
            }
        }
    }

    /// Serves some of the pages that wait.
    fn serve_pages(&mut self) {
        self.pages.begin_turn();
        while let Some(inputs) = self.pages.serve_next(&mut self.store) {
            self.enqueue(inputs);
            self.pump();
        }
        self.pages.end_turn();
    }

    /// The process that owns the disk has written something.
    pub fn store_ready(&mut self) {
        self.with_store(Store::ready);
        self.pump();
    }

    fn with_store(&mut self, act: impl FnOnce(&mut Store, &mut StoreContext<'_>)) {
        self.collect_events();
        let epoll = Some(self.connections.epoll());
        let mut cx = StoreContext { now: self.now, hub: &self.hub, epoll, inputs: &mut self.inputs };
        act(&mut self.store, &mut cx);
    }
}

/// Start and stop.
impl Driver {
    /// Reads what is on the disk, before any connection is accepted; `progress` is called while
    /// that takes longer. After `patience` it is read while the daemon runs. `places` are those
    /// where a daemon that was killed may have left its numbers; they stay there until
    /// [`Self::begin_recording`].
    pub fn load(&mut self, patience: Duration, places: &[PathBuf], progress: &mut dyn FnMut(Moment)) {
        self.refresh_now();
        if let Some(owner) = self.store.owner() {
            let entries = places.iter().flat_map(|place| SeqFile::read(place, &owner));
            let reached = |SeqFileEntry { log, epoch, seq }| StoreEvent::LastSeq { log, epoch, seq };
            self.enqueue(entries.map(reached).map(Input::Store));
        }
        self.wait_for_store(patience, progress, Store::is_open);
        if !self.store.is_open() {
            self.with_store(Store::abandon_recovery);
        }
        // Else the first input of the hub is the time at which it began.
        self.decide(Input::Timeout);
    }

    /// Begins with a hub and a store that go on where those of another process were:
    /// what that one has recorded is no news.
    pub fn go_on(&mut self) {
        self.refresh_now();
        if self.store.is_failure_reported() {
            self.enqueue([Input::Store(StoreEvent::Failed)]);
        }
        self.decide(Input::Timeout);
    }

    /// Records from now on how far logs have come, in the place of what a daemon before
    /// this one has recorded: nothing may keep this one from running after that.
    pub fn begin_recording(&mut self, places: &[PathBuf]) {
        if let Some(owner) = self.store.owner() {
            self.seqs.begin(places, &owner, &self.hub);
        }
    }

    /// Writes what is to outlive the daemon; returns how many messages could not be written.
    pub fn save(&mut self, patience: Duration, progress: &mut dyn FnMut(Moment)) -> usize {
        self.store.finish();
        self.wait_for_store(patience, progress, Store::is_finished);
        self.seqs.remove();
        self.store.unwritten_len()
    }

    fn wait_for_store(
        &mut self,
        patience: Duration,
        progress: &mut dyn FnMut(Moment),
        is_done: impl Fn(&Store) -> bool,
    ) {
        /// Its deadlines are looked at so often.
        const LOOK_AGAIN: Duration = Duration::from_millis(100);
        self.refresh_now();
        let deadline = self.now.moment + patience;
        self.with_store(Store::tick);
        while !is_done(&self.store) && self.now.moment < deadline {
            progress(self.now.moment);
            self.store.wait(LOOK_AGAIN);
            self.refresh_now();
            self.with_store(Store::ready);
            self.with_store(Store::tick);
        }
        self.pump();
    }

    /// Begins to write what is to outlive the daemon, while the loop goes on.
    pub fn begin_write_out(&mut self) {
        self.store.finish();
    }

    /// Whether that is done, or cannot be done.
    pub fn has_written_out(&self) -> bool {
        self.store.is_finished()
    }

    /// What is not written by now is not waited for.
    pub fn end_write_out(&mut self) {
        self.store.interrupt(self.now.moment);
    }

    /// What the next daemon needs to go on, and when that was true.
    pub fn remains(&self) -> Option<(Stamp, Vec<u8>)> {
        Some((self.store.hub_clock()?.stamp(self.now), self.hub.checkpoint_bytes()))
    }

    /// Why the disk cannot be used, if that is so.
    pub fn trouble(&self) -> Option<&str> {
        self.store.failure()
    }
}

/// Hand-over.
impl Driver {
    /// All that another process needs to go on. If none does, this one goes on as if nothing had
    /// happened.
    pub fn export(&mut self) -> DriverExport<'_, impl Iterator<Item = ConnectionState>> {
        self.refresh_now();
        // The other process writes to the same connections.
        let _ = self.seqs.permit(&self.hub);
        self.connections.enqueue_all();
        DriverExport {
            now: self.now,
            connections: self.connections.export(&self.latches),
            closing: self.closing.export(),
            last_http_request: self.http.last(),
            hub: &self.hub,
            store: &mut self.store,
        }
    }

    /// The sockets of all connections.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.connections.sockets()
    }

    /// Goes on with the connections of another process, whose hub and store are here already.
    pub fn import(&mut self, state: DriverImport) {
        self.refresh_now();
        let DriverImport { connections, closing, last_http_request } = state;
        self.closing.import(closing);
        self.http.go_on_after(last_http_request);
        self.connections.import(connections, &mut self.latches);
    }

    /// Closes a connection of another process of which nothing else is known, and lets its peer
    /// read that.
    pub fn turn_away(&mut self, socket: PeerSocket, side: PeerSide, close: Close) {
        self.refresh_now();
        // Without memory in the kernel for one more, the socket closes.
        let Ok(conn) = self.connections.open(socket, side, clock::random()) else { return };
        let closed = self.writer().close(conn, close, 0);
        debug_assert!(closed == Closed::Lingers, "nothing was written to it");
        // The hub of this process does not know it.
        self.connections.skip_close_report(conn);
        self.closing.push(self.now.moment, conn);
    }
}
