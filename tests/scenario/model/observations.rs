//! Observed frames, compared with the reference.
//!
//! Holds the meaning of each frame for its recipient, and what a client does with it.

use serde_json::{Value, json};
use wshubd::hub::LogKey;
use wshubd::protocol::InboxMode;

use super::reference::{Check, Line, Since};
use super::shutdown::same_epoch;
use super::{CHANNELS, DEVICES, Model, PEERS, Peer, inbox_of};
use crate::harness::{ConnectionEvent, ConnectionId, summary};

impl Model {
    /// Compares the events of all connections with the reference.
    pub(super) fn listen(&mut self) -> Check {
        loop {
            let journal = self.harness.journal.replace(Vec::new()).unwrap_or_default();
            if journal.is_empty() {
                break;
            }
            if self.harness.disk.was_unread {
                self.logs.values_mut().for_each(|log| log.was_unread = true);
            }
            for (conn, seen) in journal {
                let Some(who) = self.peers.iter().position(|peer| peer.conn == Some(conn)) else { continue };
                let check = match seen {
                    ConnectionEvent::Queued(frame) => {
                        self.never_goes_back(who, &frame).and_then(|()| self.queued(who, conn, &frame))
                    }
                    ConnectionEvent::Flushed(log, seq) => self.taken(who, conn, &log, seq),
                    ConnectionEvent::Received(frame) => {
                        self.remember(who, &frame).and_then(|()| self.keep_position(who, &frame))
                    }
                };
                check.map_err(|why| format!("{}: {why}", PEERS[who]))?;
            }
        }
        for frame in self.harness.frames(self.listener) {
            let data = &frame["data"];
            if data["event"] == "say" {
                let (state, id) = (data["state"].as_str(), data["message_id"].as_str());
                self.reported.push(format!("{} {}", state.unwrap(), id.unwrap()));
            }
        }
        self.observed.listen(&mut self.harness)
    }

    /// The log, the epoch and the position in a frame.
    fn position(&self, who: usize, frame: &Value) -> Option<((String, String), u64)> {
        let channel = frame["channel"].as_str().unwrap_or_default();
        let name = match channel {
            "@me" => Self::user(who).map(inbox_of).unwrap_or_default(),
            _ => channel.to_owned(),
        };
        let (log, seq) = (self.logs.get(&name)?, frame["seq"].as_u64()?);
        let epoch = frame.get("epoch").or(log.epoch.as_ref()).and_then(Value::as_str).unwrap_or_default();
        Some(((name, epoch.to_owned()), seq))
    }

    /// A position once received stands for one message for ever.
    fn remember(&mut self, who: usize, frame: &Value) -> Check {
        let Some((log, seq)) = self.position(who, frame).filter(|_| frame["type"] == "message") else {
            return Ok(());
        };
        let id = message_key(frame);
        let (name, epoch) = log.clone();
        let first = self.received.entry(log).or_default().entry(seq).or_insert_with(|| id.clone());
        match *first == id {
            true => Ok(()),
            false => {
                Err(format!("{name} {seq} of epoch {epoch} was {first} when it was received, and is {id}"))
            }
        }
    }

    /// No frame names a position of a log below one that was received before the frame was
    /// queued. A slow connection receives it later.
    fn never_goes_back(&self, who: usize, frame: &Value) -> Check {
        let position = self.position(who, frame);
        let Some((log, seq)) =
            position.filter(|_| frame["type"] != "message" && frame.get("epoch").is_some())
        else {
            return Ok(());
        };
        let last = self.received.get(&log).and_then(|received| received.keys().next_back());
        match last {
            Some(last) if seq < *last => {
                let (name, epoch) = log;
                Err(format!("{name} is at {seq} of epoch {epoch}, and {last} of it was received"))
            }
            _ => Ok(()),
        }
    }

    fn queued(&mut self, who: usize, conn: ConnectionId, frame: &Value) -> Check {
        let channel = frame["channel"].as_str().unwrap_or_default();
        let known = CHANNELS.iter().position(|name| *name == channel);
        let inbox = Self::user(who).map(inbox_of).unwrap_or_default();
        let name = if channel == "@me" { inbox.clone() } else { channel.to_owned() };
        match frame["type"].as_str().unwrap() {
            "connection_established" => self.greeted(who, conn, &inbox, frame),
            "auth_success" => {
                let is_reader = self.log(&inbox).session(conn).is_some();
                match self.peers[who].mode {
                    InboxMode::Off => {
                        self.log(&inbox).leave(conn);
                        self.desert(Self::user(who).unwrap_or_default());
                    }
                    _ if is_reader => {}
                    _ => self.log(&inbox).join_inbox(conn),
                }
                Ok(())
            }
            "subscription_succeeded" | "ok" if frame.get("epoch").is_some() => {
                let since = self.peers[who].asked.last().unwrap().1;
                same_epoch(self.log(&name), &frame["epoch"])?;
                self.log(&name).join(conn, since, frame["recovered"].as_bool())
            }
            "send_success" | "ok" if frame["stored"] == true => {
                self.stored.insert(frame["message_id"].as_str().unwrap().to_owned());
                Ok(())
            }
            "unsubscribe_succeeded" | "ok" if known.is_some() && frame.get("message_id").is_none() => {
                self.log(&name).leave(conn);
                Ok(())
            }
            "message" if frame["seq"].is_u64() => {
                let seq = frame["seq"].as_u64().unwrap();
                let log = self.log(&name);
                is_the_same(&log.line(seq)?.id, frame)?;
                log.check_message(conn, seq, frame)
            }
            "gap" => {
                let is_automatic = self.is_automatic(who);
                let log = self.log(&name);
                log.check_gap(conn, frame)?;
                let is_in_gap = |line: &&mut Line| {
                    (frame["from_seq"].as_u64()..=frame["to_seq"].as_u64()).contains(&Some(line.seq))
                };
                log.lines.iter_mut().filter(is_in_gap).for_each(|line| line.is_told |= is_automatic);
                Ok(())
            }
            "closed" => Err(format!("sent away at the wrong time: {}", summary(frame))),
            "error" if ["internal", "bad_request"].contains(&frame["code"].as_str().unwrap()) => {
                Err(summary(frame))
            }
            "error" | "interrupt_result" => self.peers[who].answered(frame),
            _ => Ok(()),
        }
    }

    fn greeted(&mut self, who: usize, conn: ConnectionId, inbox: &str, frame: &Value) -> Check {
        let mode = self.peers[who].mode;
        let log = self.log(inbox);
        same_epoch(log, &frame["inbox"]["epoch"])?;
        let state = json!({"epoch": frame["inbox"]["epoch"], "seq": log.seq(), "waiting": log.kept().len()});
        if frame["inbox"] != state && !log.was_unread {
            return Err(format!("greeted with {}, where it is {state}", frame["inbox"]));
        }
        match mode {
            InboxMode::Off => self.desert(Self::user(who).unwrap_or_default()),
            InboxMode::Auto | InboxMode::Ack => log.join_inbox(conn),
        }
        Ok(())
    }

    fn taken(&mut self, who: usize, conn: ConnectionId, log: &LogKey, seq: u64) -> Check {
        match log {
            LogKey::Channel(channel) => self.log(channel.as_str()).takes(conn, seq),
            LogKey::Inbox(user) => {
                if self.is_automatic(who) {
                    self.log(&inbox_of(user.as_str())).pass(seq);
                }
                Ok(())
            }
        }
    }

    /// Whether what the socket of a peer takes moves the cursor of its user.
    fn is_automatic(&self, who: usize) -> bool {
        let theirs = (0..DEVICES).filter(|other| Self::user(*other) == Self::user(who));
        let here = theirs.map(|other| &self.peers[other]).filter(|peer| peer.conn.is_some());
        let acknowledges = here.map(|peer| peer.mode).any(|mode| mode == InboxMode::Ack);
        self.peers[who].mode == InboxMode::Auto && !acknowledges
    }

    /// What a client keeps of a frame: a position to reconnect with.
    fn keep_position(&mut self, who: usize, frame: &Value) -> Check {
        let channel = frame["channel"].as_str().unwrap_or_default();
        let (seq, epoch) = (frame["seq"].as_u64(), frame["epoch"].clone());
        let peer = &mut self.peers[who];
        match (frame["type"].as_str().unwrap(), seq) {
            ("message", Some(seq)) if channel == "@me" => peer.inbox = peer.inbox.max(seq),
            ("subscription_succeeded" | "ok", Some(seq)) => {
                let (channel, since) = peer.asked.remove(0);
                let last = match since {
                    Some(Since::Seq(seq)) => seq,
                    Some(Since::Stale) => 0,
                    None => seq,
                };
                peer.positions.insert(channel, (epoch, last));
                if CHANNELS[channel] == "history" {
                    peer.gaps.clear();
                }
            }
            ("message", Some(seq)) => {
                let place = CHANNELS.iter().position(|name| *name == channel).unwrap();
                let Some((_, last)) = peer.positions.get_mut(&place) else { return Ok(()) };
                let before = std::mem::replace(last, seq);
                if channel == "history" {
                    let gaps = peer.gaps.clone();
                    return self.is_next(before, seq, &gaps);
                }
            }
            ("gap", _) if channel == "history" => {
                let end = |field: &str| frame[field].as_u64();
                peer.gaps.extend(end("from_seq").zip(end("to_seq")));
            }
            _ => {}
        }
        Ok(())
    }

    /// From one message of a history to the next, nothing is missing but what was
    /// lost, or lies in a gap received, and nothing comes twice.
    fn is_next(&mut self, before: u64, seq: u64, gaps: &[(u64, u64)]) -> Check {
        if seq <= before {
            return Err(format!("history {seq} is heard after {before}"));
        }
        let log = self.log("history");
        for missed in before + 1..seq {
            let was_unread = log.was_unread;
            let line = log.line(missed)?;
            let is_told = was_unread && gaps.iter().any(|(from, to)| (*from..=*to).contains(&missed));
            if line.gone.is_none() && !line.is_quiet && !is_told {
                return Err(format!("history {missed} was never heard, and {seq} is"));
            }
        }
        Ok(())
    }
}

impl Peer {
    fn answered(&mut self, frame: &Value) -> Check {
        let request = frame["id"].as_u64().filter(|request| *request > 0);
        if frame["outcome"] == "pending" {
            return Ok(());
        }
        match request {
            Some(request) if !self.interrupts.remove(&request) => {
                Err(format!("a second final answer: {}", summary(frame)))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a message is the one sent at its position.
fn is_the_same(id: &str, frame: &Value) -> Check {
    let is = message_key(frame);
    if is == id { Ok(()) } else { Err(format!("heard {is} where {id} was said")) }
}

/// The key of a message: its id; of a receipt, its contents.
fn message_key(frame: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let data = &frame["data"];
    match frame["event"].as_str() {
        Some("system:receipt") => format!("{} {}", text(&data["message_id"]), text(&data["state"])),
        _ => text(&frame["message_id"]),
    }
}
