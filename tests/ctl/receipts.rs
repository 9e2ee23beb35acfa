//! `wshubctl pub --wait-read`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fake_hub::{HubSocket, Peer, end, stderr};

/// Takes the next message for a user, and calls it `id`.
fn take(peer: &mut Peer, id: &str, kept: bool) {
    let request = peer.expect_line(json!({"user_id": "alice", "receipt": true}));
    let answer = json!({"user_id": "alice", "sent": 1, "failed": 0, "kept": kept, "stored": false});
    peer.grant(&request, merged(answer, json!({"message_id": id})));
}

fn merged(mut one: Value, other: Value) -> Value {
    one.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
    one
}

/// Tells what became of a message.
fn receipt(peer: &mut Peer, id: &str, state: &str) {
    peer.send(json!({
        "type": "message", "event": "system:receipt", "from": "hub", "source": "hub",
        "data": {"message_id": id, "user_id": "alice", "state": state},
        "message_id": "r", "timestamp": "2026-03-01T12:00:00.000Z",
    }));
}

#[test]
fn wait_read_ends_at_the_read_receipt_not_at_the_delivery() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["pub", "-v", "--to", "alice", "--wait-read", "hi"]);
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    take(&mut peer, "m1", true);
    let report = said.next().unwrap().unwrap();
    assert_eq!(report, "wshubctl: 1 published, 1 delivered, 0 shed, 1 kept, 0 refused");
    receipt(&mut peer, "m1", "delivered");
    assert_eq!(said.next().unwrap().unwrap(), "wshubctl: m1: delivered to alice");
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    receipt(&mut peer, "another", "read");
    receipt(&mut peer, "m1", "read");
    assert_eq!(end(child).status.code(), Some(0));
    assert_eq!(said.map(Result::unwrap).last().unwrap(), "wshubctl: m1: read by alice");
}

#[test]
fn a_receipt_that_comes_before_the_answer_counts() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["pub", "--to", "alice", "--wait-read", "hi"]);
    let request = peer.receive();
    receipt(&mut peer, "m1", "read");
    peer.grant(&request, json!({"kept": true, "message_id": "m1"}));
    let output = end(child);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[test]
fn of_several_messages_all_are_waited_for() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["pub", "--to", "alice", "--wait-read"]);
    child.stdin.take().unwrap().write_all(b"a\nb\n").unwrap();
    take(&mut peer, "m1", true);
    take(&mut peer, "m2", true);
    receipt(&mut peer, "m2", "read");
    receipt(&mut peer, "m1", "read");
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn a_message_that_is_not_read_in_time_exits_with_five() {
    let socket = HubSocket::new();
    let words = ["pub", "--to", "alice", "--wait-read", "--timeout", "1ms"];
    let (mut child, mut peer) = socket.start_connected(words);
    child.stdin.take().unwrap().write_all(b"a\nb\n").unwrap();
    take(&mut peer, "m1", true);
    take(&mut peer, "m2", true);
    let output = end(child);
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(stderr(&output), "wshubctl: 2 of 2 messages were not read within 1ms\n");
}

#[test]
fn a_message_that_is_not_kept_is_not_waited_for() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["pub", "--to", "alice", "--wait-read", "hi"]);
    take(&mut peer, "m1", false);
    let output = end(child);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the message cannot be acknowledged"), "{}", stderr(&output));
}

#[test]
fn a_refused_message_is_not_waited_for() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["pub", "--to", "alice", "--wait-read", "hi"]);
    let request = peer.receive();
    peer.refuse(&request, "bad_request", "no receipts here");
    assert_eq!(end(child).status.code(), Some(1));
}

#[test]
fn a_hub_that_goes_away_ends_the_waiting() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["pub", "--to", "alice", "--wait-read", "hi"]);
    take(&mut peer, "m1", true);
    drop(peer);
    assert_eq!(end(child).status.code(), Some(3));
}

#[test]
fn ctrl_c_ends_the_waiting() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["pub", "-v", "--to", "alice", "--wait-read", "hi"]);
    take(&mut peer, "m1", true);
    let mut said = BufReader::new(child.stderr.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(end(child).status.signal(), Some(2));
}
