//! `wshubctl run` while its hub is absent, silent or late.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, listen, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::fake_hub::{Place, end, program, stderr};
use crate::run::{NEVER, ended, interrupt, line, pid, said};

/// Runs a shell script as operation `op`, while nobody has answered.
fn script(place: &Place, options: &[&str], script: &str) -> (Child, impl BufRead + use<>) {
    let words = [&["run", "-q", "--operation", "op"], options, &["logs", "--", "sh", "-c", script]].concat();
    let mut child = place.start(words);
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
    let place = Place::new().closed();
    // Nothing at the path, and then a socket at which nobody listens.
    for is_left in [false, true] {
        if is_left {
            drop(UnixListener::bind(place.path()).unwrap());
        }
        let (child, mut errors) = script(&place, &[], "echo ran; exit 7");
        said(&mut errors, "the command runs all the same");
        // It is said once, and nobody waits for long.
        assert_eq!(rest(errors), "wshubctl: no wshubd has heard of this command\n");
        let output = end(child);
        assert_eq!((output.status.code(), &*output.stdout), (Some(7), &b"ran\n"[..]));
    }
}

#[test]
fn a_hub_that_says_nothing_is_not_waited_for() {
    let place = Place::new();
    let (child, mut errors) = script(&place, &[], "exit 7");
    said(&mut errors, "does not answer; the command runs all the same");
    assert_eq!(rest(errors), "wshubctl: no wshubd has heard of this command\n");
    assert_eq!(end(child).status.code(), Some(7));
}

#[test]
fn a_hub_that_takes_no_connection_is_not_waited_for() {
    let place = Place::new().closed();
    let listener = UnixListener::bind(place.path()).unwrap();
    listen(&listener, 0).unwrap();
    let address = SocketAddrUnix::new(place.path()).unwrap();
    let queued = || {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        connect(&socket, &address).map(|()| socket)
    };
    let queue: Vec<_> = std::iter::from_fn(|| queued().ok()).collect();
    assert!(!queue.is_empty());
    let (child, mut errors) = script(&place, &[], "exit 7");
    said(&mut errors, "the command runs all the same");
    assert_eq!(end(child).status.code(), Some(7));
}

#[test]
fn a_hub_that_comes_later_hears_what_was_printed_and_can_stop_it() {
    let place = Place::new().closed();
    let (mut child, mut errors) = script(&place, &NEVER, "echo $$; echo two; sleep 3600");
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    said(&mut errors, "the command runs all the same");
    assert_eq!(output.nth(1).unwrap().unwrap(), "two");

    let place = place.opened();
    let mut peer = place.welcome();
    let start = peer.expects(json!({"action": "operation_start", "operation_id": "op"}));
    let shell = pid(&line(&mut peer)["text"]);
    assert_eq!(line(&mut peer)["text"], "two");
    peer.grants(&start, json!({}));
    said(&mut errors, "wshubd is there");
    interrupt(&mut peer);
    assert_eq!(ended(&mut peer)["state"], "interrupted");
    assert!(!crate::fake_hub::exists(shell));
    assert_eq!(end(child).status.code(), Some(130));
}

#[test]
fn how_to_stop_it_is_said_when_the_hub_has_it() {
    let place = Place::new();
    let mut child = place.start(["run", "--operation", "op", "logs", "--", "sh", "-c", "read go"]);
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    said(&mut errors, "does not answer");
    let mut peer = place.welcome();
    let start = peer.expects(json!({"action": "operation_start"}));
    peer.grants(&start, json!({}));
    said(&mut errors, "wshubd is there");
    said(&mut errors, "stop it with: wshubctl interrupt op");
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(ended(&mut peer)["state"], "completed");
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn a_hub_that_comes_after_the_end_hears_all_of_it() {
    let place = Place::new().closed();
    let (child, mut errors) = script(&place, &["--linger", "1h"], "echo one; exit 3");
    said(&mut errors, "the command runs all the same");
    said(&mut errors, "waiting 1h");
    let place = place.opened();
    let mut peer = place.welcome();
    let start = peer.expects(json!({"action": "operation_start", "operation_id": "op"}));
    peer.grants(&start, json!({}));
    assert_eq!(line(&mut peer)["text"], "one");
    assert_eq!(ended(&mut peer), json!({"state": "failed", "data": {"exit_code": 3, "lines": 1}}));
    assert!(!rest(errors).contains("heard"));
    assert_eq!(end(child).status.code(), Some(3));
}

#[test]
fn the_socket_may_come_into_being_at_any_of_its_places() {
    let places = [Place::new().closed(), Place::new().closed(), Place::new().closed()];
    for late in 0..places.len() {
        let mut command = program();
        let [named, runtime, user] = [0, 1, 2].map(|place| places[place].path());
        fs::create_dir_all(user.with_file_name("wshubd")).unwrap();
        let in_runtime = user.with_file_name("wshubd").join("worker.sock");
        command.env("WSHUBD_LISTEN__WORKER", &named);
        command.env("RUNTIME_DIRECTORY", runtime.parent().unwrap());
        command.env("XDG_RUNTIME_DIR", user.parent().unwrap());
        command.args(["run", "-q", "--operation", "op", "logs", "--", "sh", "-c", "read go"]);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        said(&mut errors, "the command runs all the same");
        let hub = Place::new();
        let path = [named, runtime, in_runtime][late].clone();
        fs::rename(hub.path(), &path).unwrap();
        let mut peer = hub.welcome();
        let start = peer.expects(json!({"action": "operation_start", "operation_id": "op"}));
        peer.grants(&start, json!({}));
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        ended(&mut peer);
        end(child);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_refusal_that_comes_late_leaves_the_command_alone() {
    let place = Place::new();
    let (mut child, mut errors) = script(&place, &[], "read go; echo on");
    said(&mut errors, "does not answer");
    let mut peer = place.welcome();
    let start = peer.expects(json!({"action": "operation_start"}));
    peer.refuses(&start, "conflict", "it runs already");
    said(&mut errors, "it runs already (conflict); the command goes on, and can only be stopped here");
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    // What it prints would be taken for the output of the other one.
    peer.has_left();
    let output = end(child);
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"on\n"[..]));
}

#[test]
fn a_refusal_that_comes_after_the_end_is_told_as_what_it_is() {
    let place = Place::new().closed();
    let (child, mut errors) = script(&place, &["--linger", "1h"], "exit 3");
    said(&mut errors, "waiting 1h");
    let place = place.opened();
    let mut peer = place.welcome();
    let start = peer.expects(json!({"action": "operation_start"}));
    let told = peer.expects(json!({"action": "operation_end"}));
    peer.refuses(&start, "conflict", "it runs already");
    peer.refuses(&told, "unknown_operation", "it is not yours");
    said(&mut errors, "did not hear of the end: it runs already (conflict)");
    assert_eq!(rest(errors), "");
    assert_eq!(end(child).status.code(), Some(3));
}

#[test]
fn a_hub_that_turns_a_command_away_at_once_keeps_it_from_running() {
    let place = Place::new();
    let witness = place.file("ran");
    let child = place.start(["run", "logs", "--", "touch", witness.to_str().unwrap()]);
    let mut peer = place.accept();
    peer.says(json!({"type": "error", "code": "forbidden", "message": "uid 7 may not speak here"}));
    drop(peer);
    let output = end(child);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(!witness.exists());
}

#[test]
fn what_is_no_hub_keeps_no_command_from_running() {
    let place = Place::new();
    let (child, mut errors) = script(&place, &[], "read go; exit 7");
    place.accept().says_text("220 mail.example.com ESMTP");
    said(&mut errors, "the command goes on, and can only be stopped here");
    assert_eq!(end(child).status.code(), Some(7));
}

#[test]
fn where_the_hub_is_needed_the_command_does_not_run_without_it() {
    let place = Place::new().closed();
    let witness = place.file("ran");
    let words = ["run", "--need-hub=10ms", "logs", "--", "touch", witness.to_str().unwrap()];
    let output = end(place.start(words));
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    // Here it is, and says nothing.
    let place = place.opened();
    let output = end(place.start(words));
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(stderr(&output).contains("has not answered within 10ms"), "{}", stderr(&output));
    assert!(!witness.exists());
}

#[test]
fn ctrl_c_stops_a_command_that_no_hub_knows() {
    let place = Place::new().closed();
    let (mut child, mut errors) = script(&place, &NEVER, "echo up; sleep 3600");
    said(&mut errors, "the command runs all the same");
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(output.next().unwrap().unwrap(), "up");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(end(child).status.signal(), Some(Signal::INT.as_raw()));
}

#[test]
fn a_hub_that_dies_before_it_answers_is_asked_again() {
    let place = Place::new();
    let (mut child, mut errors) = script(&place, &[], "read go");
    let mut peer = place.welcome();
    peer.expects(json!({"action": "operation_start"}));
    drop(peer);
    said(&mut errors, "the command runs all the same");
    let mut peer = place.welcome();
    let start = peer.expects(json!({"action": "operation_start", "operation_id": "op"}));
    peer.grants(&start, json!({}));
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(ended(&mut peer)["state"], "completed");
    assert_eq!(end(child).status.code(), Some(0));
}
