//! Publications, to the hub and to the reference.

use std::time::Duration;

use serde_json::{Value, json};
use wshubd::protocol::InboxMode;

use super::reference::{Check, Line, ReceiptState};
use super::{BRIEF, CHANNELS, DAY, DEVICES, Model, inbox_of};
use crate::harness::ConnectionEvent;

impl Model {
    /// Has a peer publish something; whether it was there to do so, with the
    /// line that it makes.
    fn send_publication(
        &mut self,
        who: usize,
        mut request: Value,
        ttl: Option<u64>,
        most: u64,
    ) -> Option<Line> {
        let conn = self.peers[who].conn?;
        let is_refused = self.is_dark && request["durable"] == true && request["channel"] != "never";
        self.published += 1;
        let id = format!("m{}", self.published);
        request["action"] = json!("send");
        request["event"] = json!("say");
        request["message_id"] = json!(id);
        request["ttl"] = json!(ttl);
        self.harness.send_unread(conn, &request);
        self.peers[who].last_publication = Some(request.clone()).filter(|_| !is_refused);
        if is_refused {
            return None;
        }
        let line = Line {
            seq: 0,
            id,
            by: Some(conn),
            // A worker never receives its own message.
            is_quiet: request["echo"] == false || who >= DEVICES,
            expires: self.now() + Duration::from_secs(ttl.unwrap_or(most).min(most)),
            is_heard: false,
            gone: None,
            is_waiting: false,
            is_told: false,
            is_had: false,
            is_unsure: false,
            receipt: None,
        };
        (ttl != Some(0)).then_some(line)
    }

    pub(super) fn publish(
        &mut self,
        who: usize,
        channel: usize,
        ttl: Option<u64>,
        quiet: bool,
        durable: bool,
    ) {
        let most = if CHANNELS[channel] == "brief" { BRIEF } else { DAY };
        let request =
            json!({"channel": CHANNELS[channel], "echo": !quiet, "durable": durable && ttl != Some(0)});
        if let Some(line) = self.send_publication(who, request, ttl, most) {
            let notices = self.log(CHANNELS[channel]).append(line);
            self.asked.extend(notices);
            self.look_up();
        }
    }

    pub(super) fn send(&mut self, who: usize, user: &str, ttl: Option<u64>, receipt: bool, durable: bool) {
        // What is kept for no time is acknowledged by nobody.
        let asker = Self::user(who).filter(|_| receipt && ttl != Some(0));
        let request =
            json!({"user_id": user, "receipt": asker.is_some(), "durable": durable && ttl != Some(0)});
        if let Some(mut line) = self.send_publication(who, request, ttl, DAY) {
            line.is_quiet = false;
            line.receipt = asker.map(|user| (user.to_owned(), ReceiptState::Nothing));
            let kept = format!("kept {}", line.id);
            let inbox = self.log(&inbox_of(user));
            line.is_waiting = inbox.sessions.is_empty();
            let is_waiting = line.is_waiting;
            inbox.append(line);
            if is_waiting {
                self.notices.push(kept);
            }
        }
    }

    /// The same again: a duplicate, which is not delivered.
    pub(super) fn repeat(&mut self, who: usize) -> Check {
        let (Some(conn), Some(request)) = (self.peers[who].conn, self.peers[who].last_publication.clone())
        else {
            return Ok(());
        };
        let waits = request["durable"] == true && (self.is_dark || self.harness.disk.slow);
        if waits {
            return Ok(());
        }
        let mut request = request;
        request["id"] = json!(0);
        self.harness.send_unread(conn, &request);
        let seen = self.harness.journal.iter().flatten().rev();
        let answers = seen.filter_map(|(whose, seen)| match seen {
            ConnectionEvent::Queued(frame) if *whose == conn => Some(frame),
            _ => None,
        });
        let duplicate = answers.map(|frame| frame["duplicate"] == true).next();
        if duplicate == Some(true) { Ok(()) } else { Err("a repeated message is sent twice".to_owned()) }
    }

    pub(super) fn ack(&mut self, who: usize, back: u64, read: bool) {
        let seq = self.peers[who].inbox.saturating_sub(back);
        let (Some(conn), Some(user)) = (self.peers[who].conn, Self::user(who)) else { return };
        // How far an ack counts while something cannot be read is tested elsewhere.
        if seq == 0 || self.log(&inbox_of(user)).was_unread {
            return;
        }
        let state = if read { ReceiptState::Read } else { ReceiptState::Delivered };
        if read {
            self.harness.ack_read(conn, seq)
        } else {
            self.harness.ack(conn, seq)
        }
        if self.peers[who].mode == InboxMode::Off {
            return;
        }
        let now = self.now();
        let receipts = self.log(&inbox_of(user)).ack(seq, state);
        for (to, id) in receipts {
            let expires = now + Duration::from_secs(DAY);
            let line = Line {
                seq: 0,
                id,
                by: None,
                is_quiet: false,
                expires,
                is_heard: false,
                gone: None,
                is_waiting: false,
                is_told: false,
                is_had: false,
                is_unsure: false,
                receipt: None,
            };
            self.log(&inbox_of(&to)).append(line);
        }
    }

    pub(super) fn ack_nonsense(&mut self, who: usize) {
        let (Some(conn), Some(user)) = (self.peers[who].conn, Self::user(who)) else { return };
        let beyond = self.log(&inbox_of(user)).seq() + 1;
        self.harness.ack(conn, beyond);
        self.harness.send_unread(conn, &json!({"action": "ack", "epoch": "other", "seq": 1, "read": true}));
    }
}
