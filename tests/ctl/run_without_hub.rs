//! `wshubctl run` while its hub is absent, silent or late.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, listen, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::fake_hub::{HubSocket, end, program, stderr};
use crate::run::{NEVER, ended, expect_notice, interrupt, line, pid};

/// Runs a shell script as operation `op`, while nobody has answered.
fn script(hub_socket: &HubSocket, options: &[&str], script: &str) -> (Child, impl BufRead + use<>) {
    let words = [&["run", "-q", "--operation", "op"], options, &["logs", "--", "sh", "-c", script]].concat();
    let mut child = hub_socket.start(words);
    let errors = BufReader::new(child.stderr.take().unwrap());
    (child, errors)
}

/// The rest of what the program says.
fn rest(mut errors: impl BufRead) -> String {
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    rest
}

#[test]
fn without_a_hub_the_command_runs_and_its_status_stays() {
    let hub_socket = HubSocket::new().closed();
    // Nothing at the path, and then a socket at which nobody listens.
    for is_left in [false, true] {
        if is_left {
            drop(UnixListener::bind(hub_socket.path()).unwrap());
        }
        let (child, mut errors) = script(&hub_socket, &[], "echo ran; exit 7");
        expect_notice(&mut errors, "the command runs without wshubd");
        // It is said once, and nobody waits for long.
        assert_eq!(rest(errors), "wshubctl: this command was not sent to any wshubd\n");
        let output = end(child);
        assert_eq!((output.status.code(), &*output.stdout), (Some(7), &b"ran\n"[..]));
    }
}

#[test]
fn a_silent_hub_is_not_waited_for() {
    let hub_socket = HubSocket::new();
    let (child, mut errors) = script(&hub_socket, &[], "exit 7");
    expect_notice(&mut errors, "does not answer; the command runs without wshubd");
    assert_eq!(rest(errors), "wshubctl: this command was not sent to any wshubd\n");
    assert_eq!(end(child).status.code(), Some(7));
}

#[test]
fn a_hub_that_takes_no_connection_is_not_waited_for() {
    let hub_socket = HubSocket::new().closed();
    let listener = UnixListener::bind(hub_socket.path()).unwrap();
    listen(&listener, 0).unwrap();
    let address = SocketAddrUnix::new(hub_socket.path()).unwrap();
    let queued = || {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        connect(&socket, &address).map(|()| socket)
    };
    let queue: Vec<_> = std::iter::from_fn(|| queued().ok()).collect();
    assert!(!queue.is_empty());
    let (child, mut errors) = script(&hub_socket, &[], "exit 7");
    expect_notice(&mut errors, "the command runs without wshubd");
    assert_eq!(end(child).status.code(), Some(7));
}

#[test]
fn a_hub_that_comes_later_gets_the_output_and_can_stop_it() {
    let hub_socket = HubSocket::new().closed();
    let (mut child, mut errors) = script(&hub_socket, &NEVER, "echo $$; echo two; sleep 3600");
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    expect_notice(&mut errors, "the command runs without wshubd");
    assert_eq!(output.nth(1).unwrap().unwrap(), "two");

    let hub_socket = hub_socket.opened();
    let mut peer = hub_socket.accept_probed();
    let start = peer.expect_line(json!({"action": "operation_start", "operation_id": "op"}));
    let shell = pid(&line(&mut peer)["text"]);
    assert_eq!(line(&mut peer)["text"], "two");
    peer.grant(&start, json!({}));
    expect_notice(&mut errors, "connected to wshubd");
    interrupt(&mut peer);
    assert_eq!(ended(&mut peer)["state"], "interrupted");
    assert!(!crate::fake_hub::exists(shell));
    assert_eq!(end(child).status.code(), Some(130));
}

#[test]
fn how_to_stop_it_is_printed_when_the_hub_has_it() {
    let hub_socket = HubSocket::new();
    let mut child = hub_socket.start(["run", "--operation", "op", "logs", "--", "sh", "-c", "read go"]);
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    expect_notice(&mut errors, "does not answer");
    let mut peer = hub_socket.accept_probed();
    let start = peer.expect_line(json!({"action": "operation_start"}));
    peer.grant(&start, json!({}));
    expect_notice(&mut errors, "connected to wshubd");
    expect_notice(&mut errors, "stop it with: wshubctl interrupt op");
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(ended(&mut peer)["state"], "completed");
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn a_hub_that_comes_after_the_end_gets_all_of_it() {
    let hub_socket = HubSocket::new().closed();
    let (child, mut errors) = script(&hub_socket, &["--linger", "1h"], "echo one; exit 3");
    expect_notice(&mut errors, "the command runs without wshubd");
    expect_notice(&mut errors, "waiting 1h");
    let hub_socket = hub_socket.opened();
    let mut peer = hub_socket.accept_probed();
    let start = peer.expect_line(json!({"action": "operation_start", "operation_id": "op"}));
    peer.grant(&start, json!({}));
    assert_eq!(line(&mut peer)["text"], "one");
    assert_eq!(ended(&mut peer), json!({"state": "failed", "data": {"exit_code": 3, "lines": 1}}));
    assert!(!rest(errors).contains("heard"));
    assert_eq!(end(child).status.code(), Some(3));
}

#[test]
fn the_socket_may_come_into_being_at_any_of_its_places() {
    let places = [HubSocket::new().closed(), HubSocket::new().closed(), HubSocket::new().closed()];
    for late in 0..places.len() {
        let mut command = program();
        let [named, runtime, user] = [0, 1, 2].map(|hub_socket| places[hub_socket].path());
        fs::create_dir_all(user.with_file_name("wshubd")).unwrap();
        let in_runtime = user.with_file_name("wshubd").join("worker.sock");
        command.env("WSHUBD_LISTEN__WORKER", &named);
        command.env("RUNTIME_DIRECTORY", runtime.parent().unwrap());
        command.env("XDG_RUNTIME_DIR", user.parent().unwrap());
        command.args(["run", "-q", "--operation", "op", "logs", "--", "sh", "-c", "read go"]);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        expect_notice(&mut errors, "the command runs without wshubd");
        let hub = HubSocket::new();
        let path = [named, runtime, in_runtime][late].clone();
        fs::rename(hub.path(), &path).unwrap();
        let mut peer = hub.accept_probed();
        let start = peer.expect_line(json!({"action": "operation_start", "operation_id": "op"}));
        peer.grant(&start, json!({}));
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        ended(&mut peer);
        end(child);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_refusal_that_comes_late_leaves_the_command_alone() {
    let hub_socket = HubSocket::new();
    let (mut child, mut errors) = script(&hub_socket, &[], "read go; echo on");
    expect_notice(&mut errors, "does not answer");
    let mut peer = hub_socket.accept_probed();
    let start = peer.expect_line(json!({"action": "operation_start"}));
    peer.refuse(&start, "conflict", "it runs already");
    expect_notice(
        &mut errors,
        "it runs already (conflict); the command goes on, and can only be stopped here",
    );
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    // What it prints would be taken for the output of the other one.
    peer.expect_end();
    let output = end(child);
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"on\n"[..]));
}

#[test]
fn a_refusal_that_comes_after_the_end_is_reported_as_one() {
    let hub_socket = HubSocket::new().closed();
    let (child, mut errors) = script(&hub_socket, &["--linger", "1h"], "exit 3");
    expect_notice(&mut errors, "waiting 1h");
    let hub_socket = hub_socket.opened();
    let mut peer = hub_socket.accept_probed();
    let start = peer.expect_line(json!({"action": "operation_start"}));
    let told = peer.expect_line(json!({"action": "operation_end"}));
    peer.refuse(&start, "conflict", "it runs already");
    peer.refuse(&told, "unknown_operation", "it is not yours");
    expect_notice(&mut errors, "did not receive the end of the operation: it runs already (conflict)");
    assert_eq!(rest(errors), "");
    assert_eq!(end(child).status.code(), Some(3));
}

#[test]
fn a_hub_that_rejects_a_command_at_once_keeps_it_from_running() {
    let hub_socket = HubSocket::new();
    let witness = hub_socket.file("ran");
    let child = hub_socket.start(["run", "logs", "--", "touch", witness.to_str().unwrap()]);
    let mut peer = hub_socket.accept();
    peer.send(json!({"type": "error", "code": "forbidden", "message": "uid 7 may not speak here"}));
    drop(peer);
    let output = end(child);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(!witness.exists());
}

#[test]
fn a_peer_that_is_no_hub_keeps_no_command_from_running() {
    let hub_socket = HubSocket::new();
    let (child, mut errors) = script(&hub_socket, &[], "read go; exit 7");
    hub_socket.accept().send_text("220 mail.example.com ESMTP");
    expect_notice(&mut errors, "the command goes on, and can only be stopped here");
    assert_eq!(end(child).status.code(), Some(7));
}

#[test]
fn where_the_hub_is_needed_the_command_does_not_run_without_it() {
    let hub_socket = HubSocket::new().closed();
    let witness = hub_socket.file("ran");
    let words = ["run", "--need-hub=10ms", "logs", "--", "touch", witness.to_str().unwrap()];
    let output = end(hub_socket.start(words));
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    // Here it is, and says nothing.
    let hub_socket = hub_socket.opened();
    let output = end(hub_socket.start(words));
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(stderr(&output).contains("has not answered within 10ms"), "{}", stderr(&output));
    assert!(!witness.exists());
}

#[test]
fn ctrl_c_stops_a_command_that_no_hub_knows() {
    let hub_socket = HubSocket::new().closed();
    let (mut child, mut errors) = script(&hub_socket, &NEVER, "echo up; sleep 3600");
    expect_notice(&mut errors, "the command runs without wshubd");
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(output.next().unwrap().unwrap(), "up");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(end(child).status.signal(), Some(Signal::INT.as_raw()));
}

#[test]
fn a_hub_that_dies_before_it_answers_is_asked_again() {
    let hub_socket = HubSocket::new();
    let (mut child, mut errors) = script(&hub_socket, &[], "read go");
    let mut peer = hub_socket.accept_probed();
    peer.expect_line(json!({"action": "operation_start"}));
    drop(peer);
    expect_notice(&mut errors, "the command runs without wshubd");
    let mut peer = hub_socket.accept_probed();
    let start = peer.expect_line(json!({"action": "operation_start", "operation_id": "op"}));
    peer.grant(&start, json!({}));
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(ended(&mut peer)["state"], "completed");
    assert_eq!(end(child).status.code(), Some(0));
}
