//! Inbound side of the driver: input, requests that the hub does not answer, room, refusals.

use std::fmt::Display;
use std::net::IpAddr;
use std::rc::Rc;

use async_channel::Receiver;

use super::admin::{MintedToken, RevocationPage};
use super::anomaly_log::{AnomalyKind, LogField};
use super::config::DriverConfig;
use super::connection_reader::ConnectionReader;
use super::memory_report::MemoryDemand;
use super::reload::ReloadRequest;
use super::revocations::{NextRevocations, RevocationOutcome, SettledRevocation};
use super::token_refusal::RefusedToken;
use super::{Driver, admin, memory_report, token_refusal};
use crate::edge::auth::error::TokenError;
use crate::edge::auth::revocation::file::{RevocationFile, Writing};
use crate::edge::clock;
use crate::edge::net::connection_table::Slot;
use crate::edge::net::read_side::ReadPolicy;
use crate::edge::store;
use crate::hub::{
    Bearer, Credentials, Identity, Input, Level, Peer, Rejection, Requester, Settings, TokenFault,
};
use crate::protocol::frame::Reloaded;
use crate::protocol::{
    Code, ConnectionId, EdgeRequest, Frame, HubRequest, MalformedRequest, Reason, Refusal, Request,
    RequestEnvelope, RequestId,
};

/// Reading.
impl Driver {
    /// Reads once from a connection that has something.
    pub(super) fn read(&mut self, conn: ConnectionId) {
        self.reader(conn).read();
    }

    /// Decodes what a connection has sent, behind what is undecoded of it.
    pub(super) fn decode(&mut self, conn: ConnectionId, bytes: &[u8]) {
        self.reader(conn).decode(bytes);
    }

    /// Begins a turn: decodes what was left undecoded in the last one.
    pub(super) fn decode_resumed(&mut self) {
        self.shares.end();
        for conn in self.connections.take_resumed() {
            self.reader(conn).resume();
        }
    }

    fn reader(&mut self, conn: ConnectionId) -> ConnectionReader<'_> {
        ConnectionReader::new(self, conn)
    }
}

/// Requests.
impl Driver {
    /// Passes a request on to the hub, but for those that only the driver can answer.
    pub(super) fn handle_request(
        &mut self,
        conn: ConnectionId,
        parsed: Result<RequestEnvelope, MalformedRequest>,
    ) {
        let from = Requester::Connection(conn);
        match parsed {
            Ok(RequestEnvelope { id, request: Request::Hub(request) }) => {
                self.report_memory_for(&request);
                self.decide(Input::Request { from, request: RequestEnvelope { id, request } });
            }
            Ok(RequestEnvelope { id, request: Request::Edge(EdgeRequest::Auth { token, inbox }) }) => {
                let claim = self.config.verifier.examine(token.reveal(), self.now.wall);
                self.log_oddity();
                let claim = claim.map_err(|error| self.refuse_auth(conn, token.reveal(), &error));
                self.decide(Input::TokenChecked { conn, id, inbox, claim });
            }
            Ok(RequestEnvelope { id, request: Request::Edge(request) }) => self.administer(conn, id, request),
            Err(request) => self.decide(Input::Malformed { from, request }),
        }
    }

    /// The token of an `auth` request was refused.
    fn refuse_auth(&mut self, conn: ConnectionId, token: &str, error: &TokenError) -> TokenFault {
        let from = self.peer_ip(conn);
        let line = self.explain_token(error, token, "of an `auth` request");
        let fault = self.reject(error.fault(), token, from).fault;
        self.note_refusal(fault.reason, from, line.as_ref().unwrap_or(&fault.message));
        fault
    }

    pub(super) fn peer_ip(&self, conn: ConnectionId) -> Option<IpAddr> {
        self.connections.get(conn)?.socket().ip()
    }

    /// Answers a request of an administrator, or begins what it orders.
    fn administer(&mut self, conn: ConnectionId, id: Option<RequestId>, request: EdgeRequest) {
        let (from, now, subject) = (Requester::Connection(conn), self.now.wall, request.action());
        if !self.connections.get(conn).is_some_and(|connection| connection.is_administrator()) {
            let refusal = Refusal::for_administrators().of(subject);
            return self.refuse(from, id.as_ref(), &refusal);
        }
        match request {
            EdgeRequest::MintToken { user_id: user, ttl, wanted } => {
                match admin::mint(&self.config, &user, ttl, &wanted, now) {
                    Ok(MintedToken { token, expires_at }) => {
                        let frame = Frame::Token { token: &token, user_id: user, expires_at };
                        self.reply(from, id.as_ref(), &frame);
                    }
                    Err(refusal) => self.refuse(from, id.as_ref(), &refusal.of(subject)),
                }
            }
            EdgeRequest::CheckToken(token) => {
                let mut check = self.config.verifier.check(token.reveal(), now);
                check.cap(self.config.token_rate);
                self.reply(from, id.as_ref(), &Frame::TokenCheck(Box::new(check)));
            }
            EdgeRequest::Revocations { after } => {
                let RevocationPage { revocations, next } = admin::list_revocations(&self.config, &after, now);
                self.reply(from, id.as_ref(), &Frame::Revocations { revocations, next });
            }
            EdgeRequest::Lift(revoked) => self.revocations.lift(conn, id, revoked),
            EdgeRequest::Reload => self.reloads.request(conn, id),
            EdgeRequest::Auth { .. } => debug_assert!(false, "it is no request of an administrator"),
        }
    }

    /// The hub reports once more of a peer that sends no more whether it owes that nothing
    /// either.
    fn check_half_closed(&mut self, conn: ConnectionId) {
        if self.connections.get(conn).is_some_and(|connection| connection.is_half_closed()) {
            self.decide(Input::ReadClosed { conn });
        }
    }

    /// What a reload waits for.
    pub fn reload_trigger(&self) -> Receiver<()> {
        self.reloads.trigger()
    }

    /// Goes on with another configuration. Every connection stays.
    pub fn configure(
        &mut self,
        config: Rc<DriverConfig>,
        settings: Settings,
        disk: Option<store::StoreOptions>,
    ) {
        self.refresh_now();
        self.connections.set_limits(config.queue_limits);
        if let Some(read) = &mut self.read {
            read.limit_messages(config.message_bytes);
        }
        self.config = config;
        if let Some(options) = disk {
            self.store.reconfigure(self.now.moment, options);
        }
        self.decide(Input::Reconfigured { settings: Box::new(settings) });
        self.seqs.begin_again(self.store.owner().as_ref(), &self.hub);
    }

    /// Answers all that have requested a reload.
    pub fn answer_reload(&mut self, outcome: &Result<Reloaded, String>) {
        self.refresh_now();
        for ReloadRequest { conn, id } in self.reloads.take() {
            let from = Requester::Connection(conn);
            match outcome {
                Ok(reloaded) => self.reply(from, id.as_ref(), &Frame::Reloaded(reloaded.clone())),
                Err(problems) => {
                    let refusal = Refusal::new(Code::BadConfiguration, problems.clone()).of(admin::RELOAD);
                    self.refuse(from, id.as_ref(), &refusal);
                }
            }
            self.check_half_closed(conn);
        }
    }
}

/// Revocations.
impl Driver {
    /// Refuses by what is in a file from now on, and writes to it.
    pub fn keep_revocations(&mut self, file: RevocationFile) {
        self.revocations.set_file(file);
    }

    /// Ends the connections that another process has handed over, and whose tokens are
    /// revoked.
    pub fn expel_revoked(&mut self) {
        let (revocations, _) = self.config.verifier.revocations();
        let revocations = revocations.clone();
        let revocations = revocations.borrow();
        let revoked = self.hub.bearers().filter_map(|Bearer { conn, user, jti, issued_at }| {
            revocations.of(user, jti, issued_at).map(|_| Input::TokenRevoked { conn })
        });
        let revoked: Vec<Input> = revoked.collect();
        self.enqueue(revoked);
    }

    /// Whether a revocation waits to be written.
    pub fn is_revoking(&self) -> bool {
        !self.revocations.is_empty()
    }

    /// What the writer of revocations waits for.
    pub(super) fn revocation_trigger(&self) -> Receiver<()> {
        self.revocations.trigger()
    }

    /// What is to be written next. Orders that change nothing on the disk are answered.
    pub(super) fn next_revocations(&mut self) -> Option<Writing> {
        self.refresh_now();
        let config = self.config.clone();
        let (known, ttl) = config.verifier.revocations();
        known.borrow_mut().forget(self.now.wall, ttl);
        let NextRevocations { writing, settled } = self.revocations.next(&known.borrow());
        self.settle_revocations(settled);
        writing
    }

    /// A write is over.
    pub(super) fn finish_revocations(&mut self, file: RevocationFile, outcome: &std::io::Result<()>) {
        self.refresh_now();
        let config = self.config.clone();
        let known = config.verifier.revocations().0;
        let settled = self.revocations.finish(file, outcome, &mut known.borrow_mut());
        self.settle_revocations(settled);
    }

    fn settle_revocations(&mut self, settled: Vec<SettledRevocation>) {
        let mut requesters: Vec<Requester> = settled.iter().map(|settled| settled.from).collect();
        for SettledRevocation { from, id, outcome } in settled {
            match outcome {
                RevocationOutcome::Revoked(revoked, outcome) => {
                    self.decide(Input::RevocationSaved { from, id, revoked, outcome });
                }
                RevocationOutcome::Lifted(Ok(lifted)) => {
                    self.reply(from, id.as_ref(), &Frame::Lifted { lifted });
                }
                RevocationOutcome::Lifted(Err(refusal)) => {
                    self.refuse(from, id.as_ref(), &refusal.of(admin::LIFT));
                }
            }
        }
        // Once all of their answers are given.
        requesters.dedup();
        for conn in requesters.into_iter().filter_map(Requester::connection) {
            self.check_half_closed(conn);
        }
    }
}

/// Memory and places.
impl Driver {
    /// A token that was valid when its upgrade was requested may be revoked by now.
    pub(super) fn check_again(&self, peer: Peer) -> Peer {
        match peer {
            Peer::Client { credentials: Credentials::Verified(identity), inbox, network } => {
                let credentials = match self.config.verifier.recall(&identity, self.now.wall) {
                    Ok(()) => Credentials::Verified(identity),
                    Err(fault) => Credentials::Refused(fault),
                };
                Peer::Client { credentials, inbox, network }
            }
            peer => peer,
        }
    }

    /// Reports what is held for connections, where the hub wants that.
    pub(super) fn report_memory(&mut self) {
        if let Some(report) = self.memory.due(self.now, &self.hub, &self.connections) {
            self.handle_memory(report);
        }
    }

    /// Before a request for the statistics, which are to be those of this moment.
    pub(super) fn report_memory_for(&mut self, request: &HubRequest) {
        if matches!(request, HubRequest::Stats) {
            self.handle_memory(memory_report::full(&self.connections, MemoryDemand::None));
        }
    }

    /// The level may change with a report, and with the level which peers are read. Closing
    /// connections whose peers take nothing are given up while memory is short.
    fn handle_memory(&mut self, report: Input) {
        self.decide(report);
        let level = self.hub.memory_level();
        let is_critical = level >= Level::Critical;
        self.connections.set_read_policy(if is_critical {
            ReadPolicy::OnceEmpty
        } else {
            ReadPolicy::WhileRoom
        });
        if level >= Level::High && self.connections.fail_blocked_closing() {
            self.pump();
        }
    }

    /// How near the ceiling on memory is.
    pub fn memory_level(&self) -> Level {
        self.hub.memory_level()
    }

    /// Makes memory for one more client; false if there is none. While it is short there is only
    /// for one with a valid token, where another connection gives way.
    pub fn make_memory(&mut self, credentials: &Credentials) -> bool {
        self.refresh_now();
        if self.memory_level() < Level::High {
            return true;
        }
        if !matches!(credentials, Credentials::Verified(_)) {
            return false;
        }
        self.handle_memory(memory_report::full(&self.connections, MemoryDemand::NewClient));
        self.memory_level() < Level::High || self.hub.has_made_room()
    }

    /// Makes a place for one more client; false if there is none. Where all are taken, a closing
    /// connection gives way, else the oldest that has sent no token.
    pub fn make_place(&mut self) -> bool {
        self.refresh_now();
        if self.connections.len() < self.config.connections || self.cut_first_closing() {
            return true;
        }
        self.decide(Input::NoCapacity);
        self.cut_first_closing()
    }

    /// Cuts the connection off that was closed before all others.
    fn cut_first_closing(&mut self) -> bool {
        let Some(conn) = self.closing.pop_open(&self.connections) else { return false };
        // The close frame may not have left yet.
        self.writer().flush(Slot::from(conn));
        self.connections.fail(conn);
        self.pump();
        true
    }
}

/// Refusals and the log.
impl Driver {
    /// Counts a peer that was turned away.
    pub fn count_rejection(&mut self, why: Rejection) {
        self.refresh_now();
        self.decide(Input::Rejected(why));
    }

    /// Writes a line to the log, unless one of its kind was written within the last second.
    pub fn log_anomaly(&mut self, kind: AnomalyKind, line: impl Display) {
        self.anomalies.log(self.now.moment, kind, line, &[]);
    }

    /// Counts and logs a refusal of the peer at an address.
    pub(in crate::edge) fn note_refusal(&mut self, reason: Reason, from: Option<IpAddr>, line: &dyn Display) {
        self.refresh_now();
        self.anomalies.refused_peer(self.now.moment, reason, from, line);
        self.count_rejection(Rejection::Refused(reason));
    }

    /// The same of another peer, which `fields` name.
    pub(in crate::edge) fn note_other_refusal(
        &mut self,
        reason: Reason,
        line: impl Display,
        fields: &[LogField<'_>],
    ) {
        self.anomalies.refused(self.now.moment, reason, line, fields);
        self.count_rejection(Rejection::Refused(reason));
    }

    /// Checks a token.
    ///
    /// # Errors
    /// Why it is not valid.
    pub(in crate::edge) fn examine(&self, token: &str) -> Result<Identity, TokenError> {
        self.config.verifier.examine(token, clock::now().wall)
    }

    /// Logs what is odd about the token that was just verified.
    pub fn log_oddity(&mut self) {
        if let Some(oddity) = self.config.verifier.oddity() {
            self.log_anomaly(AnomalyKind::OddToken, oddity);
        }
    }

    /// A token was refused: counts that for the user or address that presents it, and decides how
    /// long it has to wait.
    pub fn reject(&mut self, fault: TokenFault, token: &str, from: Option<IpAddr>) -> RefusedToken {
        if !token_refusal::is_proven(fault.reason) {
            self.count_rejection(Rejection::WrongSecret);
        }
        self.refresh_now();
        token_refusal::throttle(&self.config, fault, token, from, self.now.moment)
    }

    /// What the log shows of a token that was refused, if a line is due: what is wrong with it,
    /// and the user where that is proven.
    pub(in crate::edge) fn explain_token(
        &self,
        error: &TokenError,
        token: &str,
        place: &str,
    ) -> Option<String> {
        let is_due = self.anomalies.is_due(self.now.moment, error.reason());
        is_due.then(|| token_refusal::explain(&self.config, error, token, place, self.now.wall))
    }
}
