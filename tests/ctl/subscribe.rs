//! `wshubctl sub`.

use std::fs::File;
use std::io::{BufRead, BufReader};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::{Value, json};

use crate::fake_hub::{HubSocket, Peer, end, program, stderr, stdout};

fn message(data: Value) -> Value {
    json!({
        "type": "message", "channel": "logs", "event": "log", "data": data, "from": "worker",
        "source": "worker", "message_id": "m", "timestamp": "2024-05-06T07:08:09.123Z"
    })
}

fn subscribed(peer: &mut Peer, channel: &str) {
    let request = peer.expect_line(json!({"action": "subscribe", "channel": channel}));
    // Some hubs say this first, under the same id; it is not the answer.
    peer.send(json!({"type": "connection_id", "id": request["id"], "connection_id": "c"}));
    peer.grant(&request, json!({"channel": channel, "epoch": "e", "seq": 0}));
}

#[test]
fn in_a_pipe_each_line_is_the_hubs_json_up_to_the_count() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["sub", "-n", "2", "logs"]);
    subscribed(&mut peer, "logs");
    let gap = json!({"type": "gap", "channel": "logs", "epoch": "e", "lost": 1, "cause": "slow"});
    let said = [message(json!("a")), gap, message(json!({"n": 1.5}))];
    said.iter().for_each(|line| peer.send(line.clone()));
    let output = end(child);
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, said);
}

#[test]
fn each_line_is_there_before_the_next_one_comes() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["sub", "-n", "2", "logs"]);
    subscribed(&mut peer, "logs");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    peer.send(message(json!("a")));
    assert!(lines.next().unwrap().unwrap().contains("\"a\""));
    peer.send(message(json!("b")));
    assert!(lines.next().unwrap().unwrap().contains("\"b\""));
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn kept_messages_may_come_before_the_next_channels_answer() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["sub", "-n", "3000", "a", "b"]);
    let first = peer.expect_line(json!({"channel": "a"}));
    let second = peer.expect_line(json!({"channel": "b"}));
    peer.grant(&first, json!({}));
    // On a thread of its own: the pipe that nobody reads yet takes less.
    std::thread::spawn(move || {
        (0..3000).for_each(|number| peer.send(message(json!(number))));
        peer.grant(&second, json!({}));
    });
    let output = end(child);
    assert_eq!((output.status.code(), stdout(&output).lines().count()), (Some(0), 3000));
}

#[test]
fn a_reader_that_goes_away_ends_it_in_silence() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["sub", "logs"]);
    subscribed(&mut peer, "logs");
    // Without another message that would find the pipe broken.
    drop(child.stdout.take());
    let output = end(child);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[test]
fn a_timeout_has_an_exit_code_of_its_own() {
    let socket = HubSocket::new();
    let (child, _peer) = socket.start_connected(["sub", "--timeout", "1ms", "logs"]);
    assert_eq!(end(child).status.code(), Some(5));
}

#[test]
fn a_refused_channel_ends_it() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["sub", "@me"]);
    let request = peer.receive();
    peer.refuse(&request, "forbidden", "no right to hear @me");
    let output = end(child);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(stderr(&output), "wshubctl: no right to hear @me (forbidden)\n");
}

#[test]
fn the_channel_of_an_operation_ends_with_it() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["sub", "operation:x"]);
    subscribed(&mut peer, "operation:x");
    peer.send(json!({"type": "unsubscribed", "channel": "operation:x", "reason": "ended"}));
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn a_subscription_resumes_when_the_hub_is_started_again() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["sub", "-n", "2", "logs"]);
    subscribed(&mut peer, "logs");
    let mut first = message(json!("a"));
    first["seq"] = json!(7);
    peer.send(first);
    drop(peer);

    let mut peer = socket.accept_probed();
    let again = peer.expect_line(json!({"action": "subscribe", "since": {"epoch": "e", "seq": 7}}));
    peer.grant(&again, json!({"channel": "logs", "epoch": "e", "seq": 8, "recovered": true}));
    peer.send(message(json!("b")));

    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().contains("wshubd closed it; reconnecting"));
    assert_eq!(said.next().unwrap().unwrap(), "wshubctl: reconnected to wshubd");
    let output = end(child);
    assert_eq!((output.status.code(), stdout(&output).lines().count()), (Some(0), 2));
}

#[test]
fn a_hub_that_forbids_reconnecting_ends_it() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["sub", "logs"]);
    subscribed(&mut peer, "logs");
    peer.send(json!({"type": "bye", "code": 4003, "reason": "disconnected", "reconnect": false}));
    drop(peer);
    let output = end(child);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("wshubd closed it: disconnected"));
}

#[test]
fn a_channel_that_is_not_granted_again_ends_it() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["sub", "logs"]);
    subscribed(&mut peer, "logs");
    drop(peer);
    let mut peer = socket.accept_probed();
    let again = peer.expect_line(json!({"action": "subscribe"}));
    peer.send(
        json!({"type": "error", "id": again["id"], "code": "forbidden", "message": "no", "channel": "logs"}),
    );
    assert_eq!(end(child).status.code(), Some(4));
}

#[test]
fn on_a_terminal_lines_are_text_and_move_no_cursor() {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&ours).unwrap();
    let terminal = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    let socket = HubSocket::new();
    let mut command = program();
    command.arg("--socket").arg(socket.path()).args(["sub", "-n", "3", "logs"]).stdout(terminal);
    let mut child = command.spawn().unwrap();
    // Its end of the terminal closes with it.
    drop(command);
    let mut peer = socket.accept();
    subscribed(&mut peer, "logs");
    peer.send(message(json!("red: \u{1b}[31m\u{202e}")));
    peer.send(json!({"type": "operation", "operation_id": "op", "channel": "logs", "state": "started"}));
    let mut output =
        message(json!({"operation_id": "op", "stream": "stdout", "line": 1, "text": "ten files"}));
    output["event"] = json!("operation:output");
    peer.send(output);
    peer.send(message(json!({"n": 1})));
    assert!(child.wait().unwrap().success());
    let shown: Vec<_> = BufReader::new(File::from(ours)).lines().map_while(Result::ok).collect();
    assert_eq!(
        shown,
        [
            r"07:08:09.123Z logs log worker: red: \u{1b}[31m\u{202e}",
            "* logs operation op started",
            "07:08:09.123Z logs stdout: ten files",
            r#"07:08:09.123Z logs log worker: {"n":1}"#,
        ]
    );
}

#[test]
fn a_subscription_resumes_from_where_it_began() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["sub", "logs"]);
    let asked = peer.expect_line(json!({"action": "subscribe", "channel": "logs"}));
    assert!(asked.get("since").is_none());
    // Two messages are to follow, and the hub ends before them.
    peer.grant(&asked, json!({"epoch": "e", "seq": 5, "after_seq": 3}));
    drop(peer);
    let mut peer = socket.accept_probed();
    let asked = peer.expect_line(json!({"action": "subscribe", "since": {"epoch": "e", "seq": 3}}));
    peer.grant(&asked, json!({"epoch": "e", "seq": 5, "after_seq": 3, "recovered": true}));
    let message =
        |seq: u64| json!({"type": "message", "channel": "logs", "event": "e", "data": seq, "seq": seq});
    peer.send(message(4));
    drop(peer);
    let mut peer = socket.accept_probed();
    let asked = peer.expect_line(json!({"action": "subscribe", "since": {"epoch": "e", "seq": 4}}));
    // All that was kept has gone meanwhile.
    peer.grant(&asked, json!({"epoch": "e", "seq": 9, "after_seq": 7, "recovered": false}));
    drop(peer);
    let mut peer = socket.accept_probed();
    peer.expect_line(json!({"action": "subscribe", "since": {"epoch": "e", "seq": 7}}));
    child.kill().unwrap();
    child.wait().unwrap();
}
