//! Carries out the effects of the hub.

use std::rc::Rc;

use serde_json::{Value, json};
use wshubd::hub::{Effect, Effects, FetchPurpose, Input, LogKey, Requester, StoreEvent};
use wshubd::protocol::message::Delivery;
use wshubd::protocol::{Frame, Message, RequestId, worker};

use super::connections::{ConnectionEvent, Mark};
use super::{ConnectionId, Harness};

impl Harness {
    pub(crate) fn handle(&mut self, input: Input) {
        if let Input::Flushed { conn, log, seq, .. } = &input {
            self.record(*conn, || ConnectionEvent::Flushed(log.clone(), *seq));
        }
        let mut out = Effects::default();
        self.hub.handle(self.now, input, &mut out);
        let mut taken = Vec::new();
        for effect in &out.list {
            self.carry_out(effect, &out, &mut taken);
        }
        self.last = out;
        for input in taken {
            self.handle(input);
        }
        if !self.slow_store {
            self.store_answers();
        }
        self.disk_goes_on();
    }

    fn carry_out(&mut self, effect: &Effect, out: &Effects, taken: &mut Vec<Input>) {
        match effect {
            Effect::Deliver { message, to, log } => {
                self.note(message, None);
                self.is_noted(message);
                let json = encoded(|to| message.encode(Delivery::Live, to));
                let mark = log.as_ref().map(|log| (log.clone(), message.seq.unwrap(), Delivery::Live));
                self.deliver(out.slots(to), &json, mark.as_ref(), taken);
            }
            Effect::Broadcast { frame, to } => {
                let json = encoded(|to| frame.encode(None, to));
                self.deliver(out.slots(to), &json, None, taken);
            }
            Effect::Replay { message, conn, log } => {
                self.is_noted(message);
                let json = encoded(|to| message.encode(Delivery::Replayed, to));
                let mark = (log.clone(), message.seq.unwrap(), Delivery::Replayed);
                self.queue(*conn, json, Some(&mark), taken);
            }
            Effect::Reply { to, id, frame } => self.answer_with(*to, id.as_ref(), frame),
            Effect::Refuse { to, id, refusal } => {
                let frame = Frame::from(&**refusal);
                let json = encoded(|to| frame.encode(id.as_ref(), to));
                self.answer(*to, json);
            }
            Effect::Ping { conn } => self.answer(Requester::Connection(*conn), json!({"type": "ping"})),
            Effect::Close { conn, close, after_ms } => {
                let json = json!({"type": "closed", "code": close.code(), "after_ms": after_ms});
                self.answer(Requester::Connection(*conn), json);
            }
            Effect::HangUp { conn } => self.answer(Requester::Connection(*conn), json!({"type": "hung up"})),
            Effect::Revoke { to, id, revoked } => {
                self.revocations.push_back((*to, id.clone(), revoked.clone()));
            }
            Effect::PauseReading { conn } => assert!(self.paused.insert(*conn), "it is read until then"),
            Effect::ResumeReading { conn } => assert!(self.paused.remove(conn), "it was paused"),
            Effect::LogAnomaly(_) | Effect::LogDisconnect { .. } => {}
            Effect::PersistSeq { log, epoch, seq } => self.reach(log, *epoch, *seq),
            Effect::Latch { .. } | Effect::Interrupt { .. } | Effect::Unlatch { .. } => self.latch(effect),
            Effect::Append { .. } | Effect::Fetch { .. } | Effect::Truncate { .. } => {
                self.carry_out_in_store(effect)
            }
            Effect::SyncNow { .. } => self.write_now(effect),
        }
    }

    /// A worker gets only the answers that it asked for.
    fn answer_with(&mut self, to: Requester, id: Option<&RequestId>, frame: &Frame<'_>) {
        let worker = matches!(to, Requester::Connection(conn) if self.is_worker(conn));
        let mut bytes = Vec::new();
        let is_encoded = match worker {
            true => worker::encode(frame, id, &mut bytes),
            false => {
                frame.encode(id, &mut bytes);
                true
            }
        };
        if is_encoded {
            self.answer(to, serde_json::from_slice(&bytes).unwrap());
        }
    }

    fn latch(&mut self, effect: &Effect) {
        match effect {
            Effect::Latch { operation, worker, id } => {
                assert!(self.is_worker(*worker));
                let known = self.latches.insert(operation.clone(), *worker);
                assert!(known.is_none(), "one latch for an operation");
                self.answer_with(Requester::Connection(*worker), id.as_ref(), &Frame::Done {});
            }
            Effect::Interrupt { line } => {
                let owner =
                    self.latches.get(&line.operation_id).expect("a latch is pulled while it is there");
                let json = encoded(|to| line.encode(to));
                self.answer(Requester::Connection(*owner), json);
            }
            Effect::Unlatch { operation } => {
                assert!(self.latches.remove(operation).is_some(), "a latch is dropped once");
            }
            _ => {}
        }
    }

    fn carry_out_in_store(&mut self, effect: &Effect) {
        match effect {
            Effect::Append { log, message, meta: keeping } => {
                self.note(message, Some(log));
                let seq = message.seq.unwrap();
                let known = self.store.entry(log.clone()).or_default().insert(seq, message.clone());
                assert!(known.is_none(), "a position is given out once");
                self.disk.keep(log, seq, keeping);
            }
            Effect::Fetch { fetch, log, after, count, bytes } => {
                let input = self.read(*fetch, log, *after, *count, *bytes);
                self.waiting.push_back(input);
            }
            Effect::Truncate { log, from, to } => {
                self.remove(log, *from, *to);
                self.disk.forget(log, *from, *to);
                if let Some(kept) = self.store.get_mut(log) {
                    kept.retain(|seq, _| seq < from || seq > to);
                    if kept.is_empty() {
                        self.store.remove(log);
                    }
                }
            }
            _ => {}
        }
    }

    fn note(&mut self, message: &Rc<Message>, log: Option<&LogKey>) {
        let channel = message.channel.clone().filter(|channel| channel.as_str() != "@me");
        let key = log.cloned().or_else(|| channel.map(LogKey::Channel));
        if let (Some(key), Some(seq)) = (key, message.seq) {
            self.seen.insert((key, seq), message.clone());
        }
    }

    fn read(&mut self, fetch: FetchPurpose, log: &LogKey, after: u64, count: usize, bytes: usize) -> Input {
        let mut left = bytes;
        let kept = self.store.get(log).into_iter().flat_map(|kept| kept.range(after + 1..));
        let fits = |(_, message): &(&u64, &Rc<Message>)| {
            let first = left == bytes;
            let room = left.checked_sub(message.size());
            left = room.unwrap_or(0);
            first || room.is_some()
        };
        let mut page = kept.take(count).peekable();
        if page.peek().is_some_and(|(seq, _)| self.disk.hides(log, **seq)) {
            self.disk.was_unread = true;
            return Input::Store(StoreEvent::ReadFailed { fetch, log: log.clone() });
        }
        let page = page.take_while(|(seq, _)| !self.disk.hides(log, **seq)).take_while(fits);
        let messages = page.map(|(_, message)| message.clone()).collect();
        Input::Fetched { fetch, log: log.clone(), messages }
    }

    fn is_worker(&self, conn: ConnectionId) -> bool {
        self.connections.get(&conn).is_some_and(|connection| connection.is_worker)
    }

    fn answer(&mut self, to: Requester, json: Value) {
        match to {
            Requester::Connection(conn) => {
                let connection = self.connections.get_mut(&conn).expect("an answer goes to somebody");
                if let Some(epoch) = json["inbox"]["epoch"].as_str() {
                    connection.inbox = Some(epoch.to_owned());
                }
                self.queue(conn, json, None, &mut Vec::new());
            }
            Requester::Http(number) => self.http.push((number, json)),
        }
    }

    fn deliver(&mut self, slots: &[u32], json: &Value, mark: Option<&Mark>, taken: &mut Vec<Input>) {
        for slot in slots {
            let first = ConnectionId { slot: *slot, tag: 0 };
            let there = self.connections.range(first..).next().map(|(conn, _)| *conn);
            let conn = there.filter(|conn| conn.slot == *slot).expect("only open connections are recipients");
            self.queue(conn, json.clone(), mark, taken);
        }
    }

    /// Puts a frame into the queue of a link, which carries it at once unless it
    /// is slow; the socket takes it at once unless it is clogged.
    fn queue(&mut self, conn: ConnectionId, json: Value, mark: Option<&Mark>, taken: &mut Vec<Input>) {
        self.record(conn, || ConnectionEvent::Queued(json.clone()));
        let connection = self.connections.get_mut(&conn).expect("a frame goes to somebody");
        if let Some(waiting) = &mut connection.slow {
            waiting.push_back((json, mark.cloned()));
            return;
        }
        if let Some((log, seq, how)) = mark.cloned() {
            if connection.is_blocked {
                connection.unwritten.push_back((log, seq, how));
            } else {
                taken.push(Input::Flushed { conn, log, seq, how });
            }
        }
        self.receive(conn, json);
    }
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    serde_json::from_slice(&bytes).unwrap()
}
