//! `wshubctl pub`.

use std::io::Write;

use serde_json::json;

use crate::fake_hub::{HubSocket, end, program, stderr, stdout};

fn taken() -> serde_json::Value {
    json!({"channel": "logs", "sent": 2, "failed": 0, "kept": false, "stored": false, "message_id": "m"})
}

#[test]
fn a_text_is_published_as_a_string_and_success_is_silent() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["pub", "logs", "say \"hi\""]);
    let request = peer.expect_line(json!({"channel": "logs", "event": "message", "data": "say \"hi\""}));
    peer.grant(&request, taken());
    let output = end(child);
    assert_eq!(
        (output.status.code(), stdout(&output), stderr(&output)),
        (Some(0), String::new(), String::new())
    );
}

#[test]
fn json_is_passed_on_as_it_is_spelled() {
    let socket = HubSocket::new();
    let (child, mut peer) =
        socket.start_connected(["pub", "--json", "--event", "n", "--ttl", "90s", "logs", "{\"n\": 1}"]);
    let request = peer.expect_line(json!({"event": "n", "data": {"n": 1}, "ttl": 90}));
    peer.grant(&request, taken());
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn json_of_several_lines_is_sent_as_one_message() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected([
        "pub",
        "--json",
        "logs",
        "[\n{\"action\":\"purge\",\"channel\":\"logs\"}\n]",
    ]);
    let request = peer.expect_line(json!({"data": [{"action": "purge", "channel": "logs"}]}));
    peer.grant(&request, taken());
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn invalid_json_is_an_error_of_the_caller() {
    let socket = HubSocket::new();
    let output = end(socket.start(["pub", "--json", "logs", "{n: 1}"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("not JSON"));
}

#[test]
fn a_user_a_connection_or_all_take_the_place_of_the_channel() {
    let socket = HubSocket::new();
    for (words, fields) in [
        (vec!["pub", "--to", "alice", "hi"], json!({"user_id": "alice", "data": "hi", "channel": null})),
        (vec!["pub", "--connection", "c1", "hi"], json!({"connection_id": "c1", "channel": null})),
        (vec!["pub", "--all", "hi"], json!({"all": true, "channel": null})),
    ] {
        let (child, mut peer) = socket.start_connected(words);
        let request = peer.expect_line(fields);
        peer.grant(&request, taken());
        assert_eq!(end(child).status.code(), Some(0));
    }
}

#[test]
fn a_dash_sends_the_whole_input_without_its_last_line_end() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["pub", "logs", "-"]);
    child.stdin.take().unwrap().write_all(b"one\ntwo\n").unwrap();
    let request = peer.expect_line(json!({"data": "one\ntwo"}));
    peer.grant(&request, taken());
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn lines_are_on_their_way_together_and_summed_up() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["pub", "-v", "logs"]);
    let mut input = child.stdin.take().unwrap();
    for number in 0..500 {
        writeln!(input, "line {number}").unwrap();
    }
    drop(input);
    // None is answered before all have come.
    let requests: Vec<_> =
        (0..500).map(|number| peer.expect_line(json!({"data": format!("line {number}")}))).collect();
    for request in &requests {
        peer.grant(request, taken());
    }
    let output = end(child);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "wshubctl: 500 published, 1000 delivered, 0 shed, 0 kept, 0 refused\n");
}

#[test]
fn a_refused_line_changes_the_exit_code_and_not_the_other_lines() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["pub", "logs"]);
    child.stdin.take().unwrap().write_all(b"a\nb\n").unwrap();
    let (first, second) = (peer.receive(), peer.receive());
    peer.refuse(&first, "rate_limited", "too fast");
    peer.grant(&second, taken());
    let output = end(child);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "wshubctl: refused: too fast (rate_limited)\n");
}

#[test]
fn a_missing_right_has_an_exit_code_of_its_own() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["pub", "system:x", "hi"]);
    let request = peer.receive();
    peer.refuse(&request, "forbidden", "the channel is the daemon's own");
    assert_eq!(end(child).status.code(), Some(4));
}

#[test]
fn a_hub_that_rejects_the_connection_is_a_missing_right_too() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["pub", "logs", "hi"]);
    peer.send(json!({"type": "error", "code": "forbidden", "message": "uid 7 may not speak to this socket"}));
    drop(peer);
    let output = end(child);
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("rejected at "), "{}", stderr(&output));
    assert!(stderr(&output).contains("uid 7 may not speak to this socket"));
}

#[test]
fn a_line_too_long_for_the_hub_is_refused_without_an_id() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["pub", "logs"]);
    let long = "x".repeat(5000);
    child.stdin.take().unwrap().write_all(format!("short\n{long}\nend\n").as_bytes()).unwrap();
    let (first, _, last) = (peer.receive(), peer.receive(), peer.receive());
    peer.grant(&first, taken());
    peer.send(json!({"type": "error", "code": "too_large", "message": "the line is over 4096 bytes"}));
    peer.grant(&last, taken());
    let output = end(child);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("over 4096 bytes"));
}

#[test]
fn a_lost_connection_is_reported_with_the_last_error_of_the_hub() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["pub", "logs", "hi"]);
    peer.receive();
    peer.send(
        json!({"type": "bye", "code": 4101, "reason": "shutting down", "reconnect": true, "after_ms": 9}),
    );
    drop(peer);
    let output = end(child);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("shutting down"), "{}", stderr(&output));
}

#[test]
fn durable_messages_are_marked_and_counted() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["pub", "--durable", "-v", "logs", "hi"]);
    let request = peer.expect_line(json!({"durable": true, "receipt": null}));
    let stored = json!({"sent": 1, "failed": 0, "kept": true, "stored": true, "message_id": "m"});
    peer.grant(&request, stored);
    let output = end(child);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "wshubctl: 1 published, 1 delivered, 0 shed, 1 kept, 1 stored, 0 refused\n");
}

#[test]
fn a_message_that_cannot_be_stored_ends_it_with_a_summary() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["pub", "--durable", "logs"]);
    child.stdin.take().unwrap().write_all(b"a\nb\nc\n").unwrap();
    let [first, second, third] = [(); 3].map(|()| peer.expect_line(json!({"durable": true})));
    peer.grant(&first, taken());
    peer.refuse(&second, "store_unavailable", "the disk is full");
    // It is not left unread.
    peer.grant(&third, taken());
    let output = end(child);
    assert_eq!(output.status.code(), Some(1));
    let said = "wshubctl: not stored: the disk is full (store_unavailable); wshubd accepted 2 messages and refused 1\n";
    assert_eq!(stderr(&output), said);
}

#[test]
fn the_exit_code_is_the_same_where_nobody_reads_the_errors() {
    let mut lonely = program();
    lonely.args(["--socket", "/nowhere/worker.sock", "pub", "logs", "hi"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(lonely.stderr(writer).status().unwrap().code(), Some(3));
}
