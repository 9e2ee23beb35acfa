//! Reader of one connection: reads its socket, decodes what it has sent, and passes each request on.
//!
//! A request is decided on before the next one is decoded, for what it leads to decides whether
//! more is read of its peer.

use super::read_buffer::{PeerTrust, ReadBlock};
use super::{Driver, user_turn_share};
use crate::edge::net::connection::{DisconnectCause, PeerConnection};
use crate::edge::net::connection_table::{Slot, Unsent};
use crate::edge::net::encoded_frame::EncodedFrame;
use crate::edge::net::line_decoder;
use crate::edge::net::line_decoder::{DecodeFlow, WorkerLine};
use crate::edge::net::peer_side::PartialInput;
use crate::edge::net::send_queue::QueuedFrame;
use crate::edge::net::socket::IoOutcome;
use crate::edge::net::ws_decoder::{Decoded, Decoder};
use crate::hub::{Input, Rejection};
use crate::protocol::{Close, Code, ConnectionId, MalformedRequest, Refusal, worker};

/// How much undecoded input is held of a peer that may send nothing but `auth`:
/// the largest token, twice that for JSON around it, and what the allocator rounds up.
const LONGEST_UNAUTHENTICATED: usize = 32 << 10;

/// Reads one connection for the driver.
pub(super) struct ConnectionReader<'a> {
    driver: &'a mut Driver,
    conn: ConnectionId,
}

impl<'a> ConnectionReader<'a> {
    pub(super) fn new(driver: &'a mut Driver, conn: ConnectionId) -> Self {
        Self { driver, conn }
    }

    /// Reads once from a connection that has something.
    pub(super) fn read(&mut self) {
        // What is undecoded comes before what comes now, and before the end.
        self.decode_rest();
        let Some(connection) = self.connection() else { return };
        // Nothing is read of one that is paused; that it has closed is reported all the same.
        if connection.is_paused() {
            return self.driver.connections.unwatch(self.conn);
        }
        // It is ready in the next turn, too.
        if (connection.has_undecoded() && !connection.is_closing()) || !self.has_share() {
            return;
        }
        let Some(mut read) = self.driver.read.take() else { return };
        let is_admitted = self.driver.hub.is_admitted(self.conn);
        let trust = if is_admitted { PeerTrust::Admitted } else { PeerTrust::Unauthenticated };
        let outcome = self.connection_mut().map(|connection| read.read(connection, trust));
        if let Some(IoOutcome::Bytes(length @ 1..)) = outcome {
            let ReadBlock { bytes, decoder } = read.block(length);
            self.decode_with(bytes, decoder);
        }
        self.driver.read = Some(read);
        if let Some(IoOutcome::Bytes(0) | IoOutcome::Broken) = outcome {
            self.end_input();
        }
    }

    /// Decodes what was left undecoded in the last turn, now or in the next one.
    pub(super) fn resume(&mut self) {
        if self.has_share() {
            self.decode_rest();
        } else {
            self.driver.connections.resume_later(self.conn);
        }
    }

    /// Decodes what a connection has sent, behind what is undecoded of it.
    pub(super) fn decode(&mut self, bytes: &[u8]) {
        if let Some(mut read) = self.driver.read.take() {
            self.decode_with(bytes, read.decoder());
            self.driver.read = Some(read);
        }
    }

    fn connection(&self) -> Option<&PeerConnection> {
        self.driver.connections.get(self.conn)
    }

    fn connection_mut(&mut self) -> Option<&mut PeerConnection> {
        self.driver.connections.get_mut(self.conn)
    }

    fn has_undecoded(&self) -> bool {
        self.connection().is_some_and(PeerConnection::has_undecoded)
    }

    /// Whether the connection is there and not being closed.
    fn is_staying(&self) -> bool {
        self.connection().is_some_and(|connection| !connection.is_closing())
    }

    /// Whether the account of the connection may request more in this turn.
    fn has_share(&self) -> bool {
        self.driver.shares.rest_of(self.driver.hub.account(self.conn)) > 0
    }
}

/// Decoding.
impl ConnectionReader<'_> {
    fn decode_rest(&mut self) {
        if self.has_share() && self.driver.connections.is_read(self.conn) && self.has_undecoded() {
            self.decode(&[]);
        }
    }

    /// The undecoded input is taken from the connection for that long, and put back.
    fn decode_with(&mut self, bytes: &[u8], decoder: &mut Decoder) {
        let account = self.driver.hub.account(self.conn);
        let Some(connection) = self.connection_mut() else { return };
        if connection.is_closing() {
            return;
        }
        let partial = connection.take_partial();
        let mut rest = self.driver.shares.rest_of(account);
        match partial {
            PartialInput::Message(mut partial) => {
                decoder.decode(&mut partial, bytes, |decoded| {
                    rest = rest.saturating_sub(self.receive(decoded));
                    self.flow(rest)
                });
                let is_long = partial.as_ref().is_some_and(|held| held.bytes() > LONGEST_UNAUTHENTICATED);
                if is_long && self.is_staying() && !self.driver.hub.is_admitted(self.conn) {
                    return self.close_malformed(Close::TooBig);
                }
                self.put_back(PartialInput::Message(partial));
            }
            PartialInput::Line(mut partial) => {
                let longest = self.driver.config.message_bytes;
                line_decoder::split(&mut partial, bytes, longest, |line| {
                    self.receive_line(line);
                    self.flow(rest)
                });
                self.put_back(PartialInput::Line(partial));
            }
        }
        self.driver.shares.leave(account, rest);
        if rest == 0 && self.has_undecoded() {
            self.driver.connections.resume_later(self.conn);
        }
    }

    fn put_back(&mut self, input: PartialInput) {
        if let Some(connection) = self.connection_mut()
            && !connection.is_closing()
        {
            connection.put_partial(input);
        }
    }

    /// Whether more of the connection is decoded in this turn: the answers are queued for it, and
    /// a short request may have a long one. `rest` is what is left to its account.
    fn flow(&mut self, rest: u32) -> DecodeFlow {
        let driver = &mut *self.driver;
        if driver.memory.has_grown(&driver.connections, driver.config.memory) {
            driver.report_memory();
        }
        if rest > 0 && self.is_staying() && self.driver.connections.is_read(self.conn) {
            DecodeFlow::Continue
        } else {
            DecodeFlow::Pause
        }
    }

    /// Handles one frame of a client; returns what that costs the client.
    fn receive(&mut self, decoded: Decoded<'_>) -> u32 {
        if !self.is_staying() {
            return 0;
        }
        let mut cost = 1;
        let conn = self.conn;
        match decoded {
            Decoded::Text(text) => {
                let parsed = crate::protocol::parse(text);
                cost = parsed.as_ref().map_or(1, |parsed| user_turn_share::cost(&parsed.request));
                self.driver.handle_request(conn, parsed);
            }
            Decoded::Binary(_) => self.close_malformed(Close::NotText),
            Decoded::Alive { controls } => {
                cost = controls.max(1);
                self.driver.decide(Input::KeepAlive { conn, controls });
            }
            Decoded::Reply(frame) => {
                let reply = QueuedFrame::for_client(&EncodedFrame::raw(frame));
                self.driver.writer().push(Slot::from(conn), reply);
            }
            Decoded::Closed => {
                self.driver.connections.close(conn, [], Unsent::Keep);
                self.linger(DisconnectCause::ByPeer);
            }
            Decoded::Broken(close) => self.close_malformed(close),
        }
        cost
    }

    /// Handles one line of a worker.
    fn receive_line(&mut self, line: WorkerLine<'_>) {
        if !self.is_staying() {
            return;
        }
        let malformed = |code, why: String| MalformedRequest { id: None, refusal: Refusal::new(code, why) };
        let parsed = match line {
            WorkerLine::Whole(line) => worker::parse(line),
            WorkerLine::TooLong => {
                let why = format!("a line may be {} bytes long", self.driver.config.message_bytes);
                Err(malformed(Code::TooLarge, why))
            }
            WorkerLine::Half => {
                Err(malformed(Code::BadJson, "the socket closed in the middle of a line".into()))
            }
        };
        self.driver.handle_request(self.conn, parsed);
    }
}

/// End of the input.
impl ConnectionReader<'_> {
    /// Closes a connection whose peer broke the protocol of the transport; the hub is not asked.
    fn close_malformed(&mut self, close: Close) {
        let last = QueuedFrame::for_client(&EncodedFrame::close(close));
        self.driver.connections.close(self.conn, [last], Unsent::Keep);
        if close == Close::TooBig
            && let Some(connection) = self.connection_mut()
        {
            connection.read_refused_frame();
        }
        self.linger(DisconnectCause::Malformed(close));
        self.driver.decide(Input::Rejected(Rejection::ProtocolViolation));
    }

    /// Reports a connection as closed to the hub, and lets the peer close first for a while, so
    /// that it reads what was written last.
    fn linger(&mut self, cause: DisconnectCause) {
        let Self { driver, conn } = self;
        driver.connections.set_cause(*conn, cause);
        driver.closing.push(driver.now.moment, *conn);
        driver.connections.report_close(*conn);
        driver.pump();
    }

    /// The peer sends no more, or the socket is broken.
    fn end_input(&mut self) {
        let conn = self.conn;
        let is_worker = self.connection().is_some_and(PeerConnection::is_worker);
        if is_worker
            && let Some(PartialInput::Line(partial)) = self.connection_mut().map(PeerConnection::take_partial)
        {
            line_decoder::end(partial, |line| self.receive_line(line));
        }
        // What was replayed to it and leaves now is not owed to the next connection of its user.
        self.driver.writer().flush(Slot::from(conn));
        // A program that pipes lines in and waits for answers has shut one direction only. A
        // WebSocket ends by a close frame: one that is cut off is over in both (RFC 6455, section
        // 7.1.1).
        if is_worker && self.driver.connections.close_read_side(conn) {
            return self.driver.decide(Input::ReadClosed { conn });
        }
        self.driver.connections.fail(conn);
        self.driver.pump();
    }
}
