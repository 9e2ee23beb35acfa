//! What links say, made facts of.
//!
//! Knows how bytes become frames, lines and requests, and what a link that hangs up
//! leaves half said. Does not know what a request is good for.

use std::time::Duration;

use super::Driver;
use super::turn_share;
use crate::edge::net::connection::{End, Link, PartialFrame, Side};
use crate::edge::net::encoded_frame::EncodedFrame;
use crate::edge::net::line_decoder;
use crate::edge::net::line_decoder::Next;
use crate::edge::net::send_queue::QueuedFrame;
use crate::edge::net::socket::IoOutcome;
use crate::edge::net::ws_decoder::{Decoded, Decoder};
use crate::hub::{Input, Rejection, Requester};
use crate::protocol::{
    Close, Code, ConnectionId, EdgeRequest, MalformedRequest, Refusal, Request, RequestEnvelope, RequestId,
    worker,
};

/// What reading needs, for all links in turn.
pub(in crate::edge) struct ReadContext {
    block: Box<[u8]>,
    decoder: Decoder,
}

impl ReadContext {
    pub(in crate::edge) fn new(message_bytes: usize) -> Self {
        Self { block: vec![0; BLOCK].into(), decoder: Decoder::new(message_bytes) }
    }
}

/// How much is read from one link in one turn: enough for a burst, little
/// enough that everybody gets a turn soon.
pub(in crate::edge) const BLOCK: usize = 16 << 10;

/// The same of one who may say nothing but `auth`.
const BLOCK_OF_STRANGERS: usize = 2 << 10;

/// How much is held of what somebody has half said who may say nothing but `auth`:
/// the largest token, twice that for JSON around it, and what the allocator rounds up.
const LONGEST_FROM_STRANGERS: usize = 32 << 10;

/// How long a peer that was told goodbye may take to hang up.
pub(in crate::edge) const LINGER: Duration = Duration::from_secs(2);

impl Driver {
    /// Takes frames and lines of up to so many bytes from now on.
    pub(in crate::edge) fn limit_messages(&mut self, bytes: usize) {
        if let Some(ears) = &mut self.ears {
            ears.decoder.limit(bytes);
        }
    }

    /// Reads once from a link that has something.
    pub(in crate::edge) fn read(&mut self, conn: ConnectionId) {
        // What was left unsaid comes before what comes now, and before the end.
        self.hear_unsaid(conn);
        // Nothing is read of one that is paused; that it has hung up is told all the same.
        if self.links.get(conn).is_some_and(|link| link.paused && !link.leaving) {
            return self.links.mute(conn);
        }
        // It is ready in the next turn, too.
        let has_unsaid = self.links.get(conn).is_some_and(|link| link.has_unsaid() && !link.leaving);
        if has_unsaid || !self.may_ask(conn) {
            return;
        }
        let Some(mut ears) = self.ears.take() else { return };
        let most = if self.hub.lets_in(conn) { BLOCK } else { BLOCK_OF_STRANGERS };
        let moved = self.links.get(conn).map(|link| {
            let block = ears.block.get_mut(..most).unwrap_or_default();
            link.wire.read(block)
        });
        if let Some(IoOutcome::Bytes(bytes @ 1..)) = moved {
            if let Some(link) = self.links.get(conn) {
                link.rest.comes();
            }
            let block = ears.block.get(..bytes).unwrap_or_default();
            self.listen(conn, block, &mut ears.decoder);
        }
        self.ears = Some(ears);
        if let Some(IoOutcome::Bytes(0) | IoOutcome::Broken) = moved {
            self.hung_up(conn);
        }
    }

    /// Whether the account of a link may ask for more in this turn.
    fn may_ask(&self, conn: ConnectionId) -> bool {
        self.turn.rest_of(self.hub.account(conn)) > 0
    }

    /// Hears what was left unsaid by those who were not read and are again.
    pub(in crate::edge) fn go_on_listening(&mut self) {
        self.turn.end();
        for conn in self.links.take_resumed() {
            if self.may_ask(conn) {
                self.hear_unsaid(conn);
            } else {
                self.links.resume_later(conn);
            }
        }
    }

    fn hear_unsaid(&mut self, conn: ConnectionId) {
        if self.may_ask(conn)
            && self.links.hears(conn.slot)
            && self.links.get(conn).is_some_and(|link| link.has_unsaid())
        {
            self.heard(conn, &[]);
        }
    }

    pub(in crate::edge) fn heard(&mut self, conn: ConnectionId, bytes: &[u8]) {
        if let Some(mut ears) = self.ears.take() {
            self.listen(conn, bytes, &mut ears.decoder);
            self.ears = Some(ears);
        }
    }

    /// Makes requests of bytes. What a link has begun to say is taken from it
    /// for that long, and put back.
    fn listen(&mut self, conn: ConnectionId, bytes: &[u8], decoder: &mut Decoder) {
        let account = self.hub.account(conn);
        let Some(link) = self.links.get(conn) else { return };
        if link.leaving {
            return;
        }
        let mut rest = self.turn.rest_of(account);
        match &mut link.side {
            Side::Client { held } => {
                let mut held = held.take();
                decoder.decode(&mut held, bytes, |heard| {
                    rest = rest.saturating_sub(self.hear(conn, heard));
                    self.next(conn, rest)
                });
                let is_long = held.as_ref().is_some_and(|held| held.bytes() > LONGEST_FROM_STRANGERS);
                if is_long && self.staying(conn).is_some() && !self.hub.lets_in(conn) {
                    return self.refuse_to_go_on(conn, Close::TooBig);
                }
                if let Some(Side::Client { held: place }) = self.staying(conn).map(|link| &mut link.side) {
                    *place = held;
                }
            }
            Side::Worker(worker) => {
                let (mut held, limit) = (worker.held.take(), self.site.message_bytes);
                line_decoder::split(&mut held, bytes, limit, |line| {
                    self.hear_line(conn, line);
                    self.next(conn, rest)
                });
                if let Some(Side::Worker(worker)) = self.staying(conn).map(|link| &mut link.side) {
                    worker.held = held;
                }
            }
        }
        self.turn.leave(account, rest);
        if rest == 0 && self.links.get(conn).is_some_and(|link| link.has_unsaid()) {
            self.links.resume_later(conn);
        }
    }

    /// Whether more is heard of a link in this turn: what it asks for is queued for it, and
    /// somebody may ask for much with little. `rest` is what its account may ask still.
    fn next(&mut self, conn: ConnectionId, rest: u32) -> Next {
        self.weigh_growth();
        if rest > 0 && self.staying(conn).is_some() && self.links.hears(conn.slot) {
            Next::More
        } else {
            Next::Wait
        }
    }

    /// The link, unless it was told goodbye.
    fn staying(&mut self, conn: ConnectionId) -> Option<&mut Link> {
        self.links.get(conn).filter(|link| !link.leaving)
    }

    /// What that costs the one who said it.
    fn hear(&mut self, conn: ConnectionId, heard: Decoded<'_>) -> u32 {
        if self.staying(conn).is_none() {
            return 0;
        }
        let mut cost = 1;
        match heard {
            Decoded::Text(text) => {
                let said = crate::protocol::parse(text);
                cost = said.as_ref().map_or(1, |said| turn_share::cost(&said.request));
                self.said(conn, said);
            }
            Decoded::Binary(_) => self.refuse_to_go_on(conn, Close::NotText),
            Decoded::Alive { controls } => {
                cost = controls.max(1);
                self.tell(Input::KeepAlive { conn, controls });
            }
            Decoded::Reply(frame) => self.push(conn.slot, QueuedFrame::frame(&EncodedFrame::raw(frame))),
            Decoded::Closed => {
                self.links.leave(conn, [], false);
                self.links.note_end(conn, End::ByPeer);
                self.part(conn);
            }
            Decoded::Broken(close) => self.refuse_to_go_on(conn, close),
        }
        cost
    }

    fn hear_line(&mut self, conn: ConnectionId, line: line_decoder::Line<'_>) {
        let too_long = || format!("a line may be {} bytes long", self.site.message_bytes);
        let said = match line {
            line_decoder::Line::Whole(line) => worker::parse(line),
            line_decoder::Line::TooLong => {
                Err(MalformedRequest { id: None, refusal: Refusal::new(Code::TooLarge, too_long()) })
            }
            line_decoder::Line::Half => {
                let refusal = Refusal::new(Code::BadJson, "the socket closed in the middle of a line");
                Err(MalformedRequest { id: None, refusal })
            }
        };
        self.said(conn, said);
    }

    /// Passes a request on to the floor that answers it.
    fn said(&mut self, conn: ConnectionId, said: Result<RequestEnvelope, MalformedRequest>) {
        if self.staying(conn).is_none() {
            return;
        }
        let from = Requester::Connection(conn);
        match said {
            Ok(RequestEnvelope { id, request: Request::Hub(request) }) => {
                self.weigh_for(&request);
                self.tell(Input::Request { from, request: RequestEnvelope { id, request } });
            }
            Ok(RequestEnvelope { id, request: Request::Edge(request) }) => {
                self.answer_edge_request(conn, id, request);
            }
            Err(misspoken) => self.tell(Input::Malformed { from, request: misspoken }),
        }
    }

    /// Answers a request about tokens and files, or has the hub answer it with what was found
    /// out about them.
    fn answer_edge_request(&mut self, conn: ConnectionId, id: Option<RequestId>, request: EdgeRequest) {
        match request {
            EdgeRequest::Auth { token, inbox } => {
                let claim = self.site.verifier.examine(token.reveal(), self.now.wall);
                self.report_oddity(&self.site.clone());
                let claim = claim.map_err(|flaw| self.refuse_auth(conn, token.reveal(), &flaw));
                self.tell(Input::TokenChecked { conn, id, inbox, claim });
            }
            EdgeRequest::MintToken { user_id, ttl, wanted } => {
                self.mint(conn, id.as_ref(), &user_id, (ttl, &wanted));
            }
            EdgeRequest::CheckToken(token) => self.check_token(conn, id.as_ref(), &token),
            EdgeRequest::Lift(revoked) => self.lift(conn, id, revoked),
            EdgeRequest::Revocations { after } => self.list_revocations(conn, id.as_ref(), &after),
            EdgeRequest::Reload => self.ask_for_reload(conn, id),
        }
    }

    /// The peer broke the protocol of the wire itself: no business of the hub's.
    fn refuse_to_go_on(&mut self, conn: ConnectionId, close: Close) {
        self.links.leave(conn, [QueuedFrame::frame(&EncodedFrame::close(close))], false);
        if close == Close::TooBig
            && let Some(link) = self.links.get(conn)
        {
            link.rest = PartialFrame::Coming { waited: 0, has_come: false };
        }
        self.links.note_end(conn, End::Malformed(close));
        self.part(conn);
        self.tell(Input::Rejected(Rejection::ProtocolViolation));
    }

    /// The socket gives no more.
    fn hung_up(&mut self, conn: ConnectionId) {
        let held = match self.links.get(conn).map(|link| &mut link.side) {
            Some(Side::Worker(worker)) => worker.held.take(),
            _ => None,
        };
        line_decoder::end(held, |line| self.hear_line(conn, line));
        let is_worker = matches!(self.links.get(conn).map(|link| &link.side), Some(Side::Worker(_)));
        // What was replayed to it and leaves now is not owed to the next one.
        let permit = self.permit_to_write();
        self.links.flush(conn.slot, permit);
        // Who pipes lines in and waits for answers has shut one direction only. A WebSocket
        // ends by a close frame: one that is cut off is over in both (RFC 6455, section
        // 7.1.1).
        if is_worker && self.links.end(conn) {
            return self.tell(Input::ReadClosed { conn });
        }
        self.links.lose(conn);
        self.pump();
    }

    /// Tells the hub that nothing more will come, and lets the peer hang up
    /// first for a while, so that it reads what was said last.
    pub(in crate::edge) fn part(&mut self, conn: ConnectionId) {
        self.lingering.push_back((self.now.moment + LINGER, conn));
        self.links.part(conn);
        self.pump();
    }
}
