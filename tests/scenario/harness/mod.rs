//! One hub in a test harness: a virtual clock, a store in memory, and peers that send
//! and receive JSON.
//!
//! Connects the peers, and records what they send and receive. The expectations are
//! those of the tests.

mod connections;
mod disk;
mod effects;
mod frame_summary;
mod restarts;

pub(crate) use connections::ConnectionEvent;
pub(crate) use frame_summary::summary;
pub(crate) use restarts::Written;
pub(crate) use wshubd::protocol::ConnectionId;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use wshubd::hub::{
    Credentials, Effects, FetchPurpose, Hub, Identity, Input, LogKey, Now, Pattern, Peer, Requester, Rights,
    Settings, Terms, TokenFault,
};
use wshubd::protocol;
use wshubd::protocol::{
    Close, Code, EdgeRequest, HubRequest, InboxMode, Message, Moment, OperationId, Reason, Refusal, Request,
    RequestEnvelope, RequestId, RevocationTarget, UnixTime, UserId, worker,
};

use connections::Connection;

pub(crate) struct Harness {
    pub(crate) hub: Hub,
    pub(crate) now: Now,
    pub(crate) settings: Settings,
    connections: BTreeMap<ConnectionId, Connection>,
    next_tag: u64,
    /// What the store gives back, from memory or from the disk.
    store: BTreeMap<LogKey, BTreeMap<u64, Rc<Message>>>,
    /// Whether the store answers only on demand.
    pub(crate) slow_store: bool,
    pub(crate) disk: disk::Disk,
    pub(crate) past: restarts::Past,
    waiting: VecDeque<Input>,
    http: Vec<(u64, Value)>,
    /// Connections whose reading is paused.
    pub(crate) paused: BTreeSet<ConnectionId>,
    latches: BTreeMap<OperationId, ConnectionId>,
    /// Revocations that wait for the disk.
    pub(crate) revocations: VecDeque<(Requester, Option<RequestId>, RevocationTarget)>,
    /// The tokens that tests made.
    tokens: BTreeMap<String, Identity>,
    /// Everything that was delivered or kept, by channel and position.
    pub(crate) seen: BTreeMap<(LogKey, u64), Rc<Message>>,
    /// The effects of the last input.
    pub(crate) last: Effects,
    /// The events of all connections, in order, where a test records them.
    pub(crate) journal: Option<Vec<(ConnectionId, ConnectionEvent)>>,
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    /// A hub in which nobody needs a token.
    pub(crate) fn open() -> Self {
        Self::with(Settings { anonymous: true, ..Settings::default() })
    }

    pub(crate) fn with(settings: Settings) -> Self {
        Self {
            hub: Hub::new(settings.clone(), 7),
            now: Now { moment: Moment(1_000_000), wall: UnixTime(1_800_000_000_000) },
            settings,
            connections: BTreeMap::new(),
            next_tag: 0,
            store: BTreeMap::new(),
            slow_store: false,
            disk: disk::Disk::default(),
            past: restarts::Past::default(),
            waiting: VecDeque::new(),
            http: Vec::new(),
            paused: BTreeSet::new(),
            latches: BTreeMap::new(),
            revocations: VecDeque::new(),
            tokens: BTreeMap::new(),
            seen: BTreeMap::new(),
            last: Effects::default(),
            journal: None,
        }
    }

    // ---- connections ----

    pub(crate) fn connect(&mut self, peer: Peer) -> ConnectionId {
        // As the daemon does: the first place that is free, and a new tag.
        let taken = (0..).zip(self.connections.keys()).take_while(|(place, conn)| conn.slot == *place);
        let slot = u32::try_from(taken.count()).unwrap();
        self.next_tag += 1;
        let conn = ConnectionId { slot, tag: 1000 + self.next_tag };
        let is_worker = matches!(peer, Peer::Worker { .. });
        self.connections.insert(conn, Connection { is_worker, ..Connection::default() });
        self.handle(Input::Opened { conn, peer });
        conn
    }

    /// A client with a token for `user` and the usual rights.
    pub(crate) fn client(&mut self, user: &str) -> ConnectionId {
        self.client_with(user, None)
    }

    pub(crate) fn client_with(&mut self, user: &str, rights: impl Into<Option<Rc<Rights>>>) -> ConnectionId {
        let conn = self.new_client(user, rights);
        self.discard_frames(conn);
        conn
    }

    /// The same, with its first frames still to be read.
    pub(crate) fn new_client(&mut self, user: &str, rights: impl Into<Option<Rc<Rights>>>) -> ConnectionId {
        let rights = rights.into();
        let claim = Credentials::Verified(Identity { rights, ..Identity::new(user_id(user)) });
        self.connect(Peer::Client { credentials: claim, inbox: InboxMode::Auto, network: None })
    }

    /// The same in an inbox mode, which decides what moves the cursor.
    pub(crate) fn client_in(&mut self, user: &str, inbox: InboxMode) -> ConnectionId {
        let claim = Credentials::Verified(Identity::new(user_id(user)));
        self.connect(Peer::Client { credentials: claim, inbox, network: None })
    }

    /// A client without a token.
    pub(crate) fn anonymous_client(&mut self) -> ConnectionId {
        self.connect(Peer::Client {
            credentials: Credentials::Nothing,
            inbox: InboxMode::Auto,
            network: None,
        })
    }

    pub(crate) fn worker(&mut self) -> ConnectionId {
        self.connect(Peer::Worker { uid: 1000, admin: false })
    }

    pub(crate) fn admin(&mut self) -> ConnectionId {
        self.connect(Peer::Worker { uid: 0, admin: true })
    }

    pub(crate) fn disconnect(&mut self, conn: ConnectionId) {
        self.connections.remove(&conn);
        self.handle(Input::Closed { conn });
    }

    /// A client whose token has rare claims.
    pub(crate) fn client_with_terms(&mut self, user: &str, terms: Terms) -> ConnectionId {
        let conn = self.new_client_with_terms(user, terms);
        self.discard_frames(conn);
        conn
    }

    /// The same, with its first frames still to be read.
    pub(crate) fn new_client_with_terms(&mut self, user: &str, terms: Terms) -> ConnectionId {
        let identity = Identity { terms: Some(Rc::new(terms)), ..Identity::new(user_id(user)) };
        let claim = Credentials::Verified(identity);
        self.connect(Peer::Client { credentials: claim, inbox: InboxMode::Auto, network: None })
    }

    // ---- requests and frames ----

    /// Sends a request, and returns a summary of each frame that its sender has
    /// received.
    pub(crate) fn send(&mut self, conn: ConnectionId, request: Value) -> Vec<String> {
        self.request(conn, request).iter().map(summary).collect()
    }

    /// The same with the frames whole.
    pub(crate) fn request(&mut self, conn: ConnectionId, request: Value) -> Vec<Value> {
        self.send_unread(conn, &request);
        self.frames(conn)
    }

    /// Sends a request; the frames are left for later.
    pub(crate) fn send_unread(&mut self, conn: ConnectionId, request: &Value) {
        let text = request.to_string();
        let is_worker = self.connections.get(&conn).is_some_and(|connection| connection.is_worker);
        let parsed = if is_worker { worker::parse(text.as_bytes()) } else { protocol::parse(&text) };
        let from = Requester::Connection(conn);
        match parsed {
            Ok(RequestEnvelope { id, request: Request::Edge(EdgeRequest::Auth { token, inbox }) }) => {
                let claim = self.verify(token.reveal());
                self.handle(Input::TokenChecked { conn, id, inbox, claim });
            }
            Ok(request) => self.handle(Input::Request { from, request: for_hub(request) }),
            Err(malformed) => self.handle(Input::Malformed { from, request: malformed }),
        }
    }

    /// Makes a token that `auth` takes: with rights of its own, for so many
    /// seconds from now.
    pub(crate) fn token(&mut self, user: &str, rights: Rc<Rights>, seconds: u64) -> String {
        let expires_at = Some(UnixTime(self.now.wall.0 + seconds * 1000));
        let token = format!("{user}.{}", self.tokens.len());
        self.tokens.insert(
            token.clone(),
            Identity { rights: Some(rights), expires_at, ..Identity::new(user_id(user)) },
        );
        token
    }

    /// The same, without rights of its own, and with rare claims.
    pub(crate) fn token_with_terms(&mut self, user: &str, terms: Terms) -> String {
        let token = format!("{user}.{}", self.tokens.len());
        let identity = Identity { terms: Some(Rc::new(terms)), ..Identity::new(user_id(user)) };
        self.tokens.insert(token.clone(), identity);
        token
    }

    /// The first revocation that waits is on the disk, or cannot be.
    pub(crate) fn revocation_is_written(&mut self, is_written: bool) {
        let (from, id, revoked) = self.revocations.pop_front().expect("one was ordered");
        let failed = || Refusal::new(Code::StoreUnavailable, "the disk is full");
        let outcome = if is_written { Ok(self.now.wall) } else { Err(failed()) };
        self.handle(Input::RevocationSaved { from, id, revoked, outcome });
    }

    /// A token that no test made is the name of its user; `bad` is invalid.
    fn verify(&self, token: &str) -> Result<Identity, TokenFault> {
        let fault = |code| {
            let message = "not a token that holds".into();
            Err(TokenFault { code, message, reason: Reason::TokenSignature, wait: Duration::ZERO })
        };
        match self.tokens.get(token) {
            Some(made) if made.expires_at.is_some_and(|end| end <= self.now.wall) => fault("token_expired"),
            Some(made) => Ok(made.clone()),
            None if token == "bad" => fault("token_invalid"),
            None => Ok(Identity::new(user_id(token))),
        }
    }

    /// Sends `auth`.
    pub(crate) fn auth(&mut self, conn: ConnectionId, token: &str, inbox: Option<&str>) -> Vec<String> {
        self.send(conn, json!({"action": "auth", "token": token, "inbox": inbox}))
    }

    /// Acknowledges the inbox up to a position, in the epoch of
    /// `connection_established`. It has no reply.
    pub(crate) fn ack(&mut self, conn: ConnectionId, seq: u64) {
        let epoch = self.inbox_epoch(conn);
        self.send_unread(conn, &json!({"action": "ack", "epoch": epoch, "seq": seq}));
    }

    /// The same as read by the user.
    pub(crate) fn ack_read(&mut self, conn: ConnectionId, seq: u64) {
        let epoch = self.inbox_epoch(conn);
        self.send_unread(conn, &json!({"action": "ack", "epoch": epoch, "seq": seq, "read": true}));
    }

    pub(crate) fn inbox_epoch(&self, conn: ConnectionId) -> String {
        self.connections
            .get(&conn)
            .and_then(|connection| connection.inbox.clone())
            .expect("a greeting tells the inbox's epoch")
    }

    pub(crate) fn subscribe(&mut self, conn: ConnectionId, channel: &str) -> Vec<String> {
        self.send(conn, json!({"action": "subscribe", "channel": channel}))
    }

    /// Publishes `data` as event `say`.
    pub(crate) fn publish(
        &mut self,
        conn: ConnectionId,
        channel: &str,
        data: impl Into<Value>,
    ) -> Vec<String> {
        self.send(conn, json!({"action": "send", "channel": channel, "event": "say", "data": data.into()}))
    }

    pub(crate) fn request_http(&mut self, number: u64, request: HubRequest) -> Vec<String> {
        self.handle(Input::Request {
            from: Requester::Http(number),
            request: RequestEnvelope { id: None, request },
        });
        self.answers(number)
    }

    /// What `POST /broadcast` is answered.
    pub(crate) fn post(&mut self, number: u64, body: &Value) -> Vec<String> {
        match protocol::http::broadcast(body.to_string().as_bytes()) {
            Ok(publication) => self.request_http(number, HubRequest::Publish(publication)),
            Err(refusal) => vec![format!("error {}", refusal.code.word())],
        }
    }

    /// What an HTTP caller was answered.
    pub(crate) fn answers(&mut self, number: u64) -> Vec<String> {
        let (his, others) = std::mem::take(&mut self.http).into_iter().partition(|(to, _)| *to == number);
        self.http = others;
        let his: Vec<(u64, Value)> = his;
        his.iter().map(|(_, frame)| summary(frame)).collect()
    }

    pub(crate) fn stats(&mut self) -> Value {
        let number = u64::MAX;
        let from = Requester::Http(number);
        self.handle(Input::Request {
            from,
            request: RequestEnvelope { id: None, request: HubRequest::Stats },
        });
        // The disk may have answered others meanwhile.
        let at = self.http.iter().rposition(|(to, _)| *to == number).unwrap();
        self.http.remove(at).1
    }

    /// The frames of a peer since the last call, whole.
    pub(crate) fn frames(&mut self, conn: ConnectionId) -> Vec<Value> {
        self.connections
            .get_mut(&conn)
            .map(|connection| std::mem::take(&mut connection.received))
            .unwrap_or_default()
    }

    /// The same, summarized.
    pub(crate) fn received(&mut self, conn: ConnectionId) -> Vec<String> {
        self.frames(conn).iter().map(summary).collect()
    }

    /// Discards the frames received so far.
    pub(crate) fn discard_frames(&mut self, conn: ConnectionId) {
        self.frames(conn);
    }

    // ---- store and time ----

    /// The store answers what it was asked.
    pub(crate) fn store_answers(&mut self) {
        while let Some(input) = self.waiting.pop_front() {
            self.handle(input);
        }
    }

    /// The store forgets everything, as a broken disk does.
    pub(crate) fn lose_store(&mut self) {
        self.store.clear();
    }

    pub(crate) fn stored(&self) -> usize {
        self.store.values().map(BTreeMap::len).sum()
    }

    /// Lets time pass, with everything that falls due in it.
    pub(crate) fn wait(&mut self, seconds: f64) {
        let until = self.now.moment + Duration::from_secs_f64(seconds);
        let mut again = 0;
        while let Some(due) = self.hub.deadline().filter(|due| *due <= until) {
            let ahead = due.since(self.now.moment);
            self.pass(ahead);
            self.handle(Input::Timeout);
            // Very much that is due goes in parts.
            let next = self.hub.deadline().filter(|next| *next <= self.now.moment);
            again = if next.is_some() { again + 1 } else { 0 };
            assert!(again < 20, "due again and again: {next:?}");
        }
        self.pass(until.since(self.now.moment));
    }

    /// Lets time pass in which every client gives signs of life.
    pub(crate) fn keep_alive(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.wait(1.0);
            let clients = self
                .connections
                .iter()
                .filter(|(_, connection)| !connection.is_worker)
                .map(|(conn, _)| *conn);
            for conn in clients.collect::<Vec<_>>() {
                self.handle(Input::KeepAlive { conn, controls: 1 });
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.moment = self.now.moment + time;
        self.now.wall.0 += time.as_millis() as u64;
    }

    pub(crate) fn stop(&mut self, close: Close) {
        self.handle(Input::Stopping { close });
    }

    /// An administrator changes the settings while connections are open.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        let settings = Box::new(self.settings.clone());
        self.handle(Input::Reconfigured { settings });
        self.note_reaches();
    }

    /// Another process takes over.
    pub(crate) fn hand_over(&mut self) {
        // A notice cannot be fetched again, so its page is waited for.
        let waiting = std::mem::take(&mut self.waiting);
        let is_notice =
            |input: &Input| matches!(input, Input::Fetched { fetch: FetchPurpose::Notice(_), .. });
        for input in waiting.into_iter().filter(is_notice) {
            self.handle(input);
        }
        self.forget_orders();
        let (before, bytes) = (serde_json::to_value(&self.hub).unwrap(), self.hub.export());
        self.paused.clear();
        self.hub = Hub::import(self.settings.clone(), &bytes).unwrap();
        assert_eq!(serde_json::to_value(&self.hub).unwrap(), before, "nothing is lost on the way");
        assert!(self.hub.export() == bytes, "nor spelled otherwise");
        // The next hub repeats the other fetches.
        self.waiting.clear();
        self.note_reaches();
        self.report_failed_disk();
        self.handle(Input::Timeout);
    }
}

/// A request that the hub answers; there is no edge here.
pub(crate) fn for_hub(RequestEnvelope { id, request }: RequestEnvelope) -> RequestEnvelope<HubRequest> {
    match request {
        Request::Hub(request) => RequestEnvelope { id, request },
        Request::Edge(request) => panic!("{request:?} is answered by the edge"),
    }
}

pub(crate) fn user_id(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// Rights to subscribe, to publish and to interrupt.
pub(crate) fn rights(subscribe: &[&str], publish: &[&str], interrupt: &[&str]) -> Rc<Rights> {
    let patterns = |list: &[&str]| list.iter().map(|text| Pattern::new(text)).collect();
    Rc::new(Rights {
        subscribe: patterns(subscribe),
        publish: patterns(publish),
        interrupt: patterns(interrupt),
        admin: false,
    })
}
