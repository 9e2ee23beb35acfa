//! What administrators ask that the hub does not know: tokens, and links.
//!
//! Knows who is at the other end of a socket and what waits for it. Does not
//! know what a connection is for; the hub makes the lists.

use std::time::Duration;

use super::Driver;
use super::anomaly_log::Kind;
use super::config::EdgeConfig;
use crate::edge::net::connection::Side;
use crate::hub::Requester;
use crate::protocol::frame::{ConnectionEntry, LinkEntry};
use crate::protocol::{Code, ConnectionId, Frame, MintTerms, Refusal, RequestId, Token, UserId};

impl Driver {
    /// Makes a token for a user, which lives for so long and allows so much.
    pub(in crate::edge) fn mint(
        &mut self,
        conn: ConnectionId,
        id: Option<&RequestId>,
        user: &UserId,
        (ttl, wanted): (Duration, &MintTerms),
    ) {
        if !self.may_administer(conn) {
            return self.refuse_token(conn, id, Refusal::for_administrators());
        }
        match self.site.verifier.mint(user, ttl, wanted, self.now.wall) {
            Ok((token, expires_at)) => {
                let frame = Frame::Token { token: &token, user_id: user.clone(), expires_at };
                self.answer(Requester::Connection(conn), id, &frame, None);
            }
            Err(why) => self.refuse_token(conn, id, Refusal::new(Code::BadRequest, why.to_string())),
        }
    }

    /// Says whether a token holds, and if not, why.
    pub(in crate::edge) fn check_token(&mut self, conn: ConnectionId, id: Option<&RequestId>, token: &Token) {
        if !self.may_administer(conn) {
            return self.refuse_token(conn, id, Refusal::for_administrators());
        }
        let mut check = self.site.verifier.check(token.reveal(), self.now.wall);
        check.cap(self.site.token_rate);
        self.answer(Requester::Connection(conn), id, &Frame::TokenCheck(Box::new(check)), None);
    }

    /// Tells whoever reads the log what is odd about the token that was just verified.
    pub(in crate::edge) fn report_oddity(&mut self, site: &EdgeConfig) {
        if let Some(oddity) = site.verifier.oddity() {
            self.reports.say(self.moment(), Kind::OddToken, oddity, &[]);
        }
    }

    pub(in crate::edge) fn may_administer(&mut self, conn: ConnectionId) -> bool {
        matches!(self.links.get(conn).map(|link| &link.side), Some(Side::Worker(worker)) if worker.admin)
    }

    fn refuse_token(&mut self, conn: ConnectionId, id: Option<&RequestId>, refusal: Refusal) {
        let refusal = refusal.of("token");
        self.answer(Requester::Connection(conn), id, &Frame::from(&refusal), Some(&refusal));
    }

    /// Adds to a list of connections what their sockets say. The kernel knows who
    /// is at the other end, so nothing is held for the day on which somebody asks.
    pub(in crate::edge) fn describe_links(&mut self, connections: &mut [ConnectionEntry]) {
        for entry in connections {
            let Some(link) = self.links.get(entry.connection_id) else { continue };
            let (queued, bytes) = link.queued();
            let mut about =
                LinkEntry { queued: queued as u64, queued_bytes: bytes as u64, ..LinkEntry::default() };
            match &link.side {
                Side::Client { .. } => about.address = link.wire.address(),
                Side::Worker(_) => about.pid = link.wire.pid(),
            }
            entry.link = about;
        }
    }
}
