//! One program goes, the next one comes, in the same process: to whoever is
//! connected nothing happens.

use std::io::{Read, Write};
use std::net::TcpStream;

use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::protocol::frame::Frame;
use async_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::bench::{Client, Daemon, Worker};

impl Daemon {
    /// Has the daemon go on in another program, and waits until it does.
    fn hand_over(&mut self) -> String {
        self.signal(Signal::USR2);
        self.hear_line("took over")
    }
}

impl Client {
    /// Sends bytes that may be anything.
    fn write(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).unwrap();
    }

    /// Answers with `pong`: the daemon has read all that was said before.
    fn is_heard(&mut self) {
        self.say(json!({"action": "ping", "id": "heard"}));
        loop {
            let frame = self.hear();
            if frame["id"] == "heard" {
                return assert_eq!(frame["type"], "pong", "{frame}");
            }
        }
    }
}

impl Worker {
    fn ok(&mut self, line: Value) {
        self.say(line);
        assert_eq!(self.hear()["type"], "ok");
    }
}

/// Room for all that a story does not read.
const ROOM: (&str, &str) = ("WSHUBD_LIMITS__QUEUE_BYTES", "16MiB");

/// One masked frame of a client.
fn frame(text: &str, opcode: Data, is_final: bool) -> Vec<u8> {
    let mut frame = Frame::message(text.to_owned(), OpCode::Data(opcode), is_final);
    frame.header_mut().mask = Some([1, 2, 3, 4]);
    let mut bytes = Vec::new();
    frame.format(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_client_and_a_worker_go_on_as_if_nothing_had_happened() {
    let mut daemon = Daemon::start();
    let (mut ada, mut worker) = (daemon.client("ada"), daemon.worker());
    ada.subscribe("news");
    let (pid, silent) = (daemon.pid(), TcpStream::connect(daemon.address).unwrap());

    let told = daemon.hand_over();

    assert!(told.contains("took over 2 connections"), "{told}");
    assert_eq!(daemon.pid(), pid);
    worker.ok(json!({"channel": "news", "event": "tick", "data": 1, "id": 1}));
    assert_eq!(ada.hear_type("message")["data"], 1);
    ada.is_heard();
    ada.say(json!({"action": "send", "channel": "news", "event": "tock", "id": 2}));
    while ada.hear()["type"] != "send_success" {}
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200, "the door is the same");
    let mut later = daemon.client("ben");
    later.is_heard();
    daemon.worker().ok(json!({"action": "subscribe", "channel": "news", "id": 1}));
    let mut guest = silent;
    guest.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    guest.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "who stood in the door still does: {answer}");
}

#[test]
fn half_a_frame_half_a_message_and_half_a_line_are_finished_on_the_other_side() {
    let mut daemon = Daemon::start();
    let (mut ada, mut ben, mut worker) = (daemon.client("ada"), daemon.client("ben"), daemon.worker());
    let whole = frame(r#"{"action":"ping","id":"one"}"#, Data::Text, true);
    for cut in [1, 3, whole.len() - 1] {
        ada.write(&whole[..cut]);
        ben.write(&frame(r#"{"action":"#, Data::Text, false));
        ben.write(&frame(r#""ping","#, Data::Continue, false)[..7]);
        worker.write(r#"{"action":"stats","#);
        daemon.hand_over();
        ada.write(&whole[cut..]);
        assert_eq!(ada.hear_type("pong")["id"], "one");
        ben.write(&frame(r#""ping","#, Data::Continue, false)[7..]);
        // A control frame may stand in between.
        ben.socket.send(Message::Ping(b"still there".to_vec().into())).unwrap();
        assert_eq!(ben.socket.read().unwrap(), Message::Pong(b"still there".to_vec().into()));
        daemon.hand_over();
        ben.write(&frame(r#""id":"two"}"#, Data::Continue, true));
        assert_eq!(ben.hear_type("pong")["id"], "two");
        worker.write("\"id\":3}\n");
        assert_eq!(worker.hear()["id"], 3);
    }
}

#[test]
fn a_line_over_the_limit_is_skipped_to_its_end_by_both() {
    let mut daemon = Daemon::start();
    let mut worker = daemon.worker();
    worker.write(&"x".repeat(2 << 20));
    assert_eq!(worker.hear()["code"], "too_large");
    daemon.hand_over();
    worker.write("the rest of it\n{\"action\":\"stats\",\"id\":4}\n");
    assert_eq!(worker.hear()["id"], 4);
}

#[test]
fn what_a_peer_has_not_read_comes_whole_and_in_order_and_before_what_is_new() {
    let mut daemon = Daemon::with(&[ROOM]);
    let (mut slow, mut worker) = (daemon.client("slow"), daemon.worker());
    slow.subscribe("flood");
    let data = "x".repeat(16 << 10);
    let send = |worker: &mut Worker, n: u64| {
        worker.ok(json!({"channel": "flood", "event": "line", "data": [n, data], "id": n}));
    };
    // More than the kernel takes.
    for n in 0..200 {
        send(&mut worker, n);
    }
    daemon.hand_over();
    for n in 200..210 {
        send(&mut worker, n);
    }
    daemon.hand_over();
    for n in 0..210 {
        let message = slow.hear_type("message");
        assert_eq!(message["data"][0], n, "{}", message["seq"]);
    }
    slow.is_heard();
}

#[test]
fn an_operation_goes_on_and_can_be_interrupted_ahead_of_what_its_worker_does_not_read() {
    let mut daemon = Daemon::with(&[ROOM]);
    let (mut ada, mut owner, mut other) = (daemon.client("ada"), daemon.worker(), daemon.worker());
    ada.subscribe("jobs");
    for operation in ["one", "two"] {
        owner.ok(json!({"action": "operation_start", "operation_id": operation, "channel": "jobs", "user_id": "ada", "id": 1}));
        assert_eq!(ada.hear_type("operation")["state"], "started");
    }
    owner.ok(json!({"action": "subscribe", "channel": "noise", "id": 2}));
    let data = "x".repeat(16 << 10);
    for n in 0..200 {
        other.ok(json!({"channel": "noise", "event": "line", "data": [n, data], "id": n}));
    }
    // Pulled before, and after; and nobody asks twice.
    ada.say(json!({"action": "interrupt", "data": {"operation_id": "one"}, "id": 1}));
    while ada.hear()["type"] != "interrupt_result" {}
    daemon.hand_over();
    ada.say(json!({"action": "interrupt", "data": {"operation_id": "two"}, "id": 2}));
    while ada.hear()["type"] != "interrupt_result" {}

    let heard: Vec<Value> = (0..202).map(|_| owner.hear()).collect();

    let at = |operation: &str| heard.iter().position(|line| line["operation_id"] == operation).unwrap();
    assert!(at("one") < 150 && at("two") < 150, "{} {}", at("one"), at("two"));
    let noise = heard.iter().filter(|line| line["type"] == "message").map(|line| line["data"][0].clone());
    assert!(noise.eq((0..200).map(Value::from)), "nothing is lost or moved");
    for operation in ["one", "two"] {
        owner.say(json!({"action": "operation_end", "operation_id": operation, "state": "interrupted"}));
        while ada.hear()["state"] != "ended" {}
    }
}
