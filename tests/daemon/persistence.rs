//! Kept messages after a stop or a kill of the daemon.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::harness::{Client, Daemon};

/// Publishes one after the other to a user who is away, and waits for each answer.
fn publish(daemon: &Daemon, texts: &[&str], durable: bool) {
    let mut worker = daemon.worker();
    for text in texts {
        worker.send(json!({"user_id": "ada", "event": "note", "data": text, "durable": durable, "id": 1}));
        let answer = worker.receive();
        assert_eq!((&answer["kept"], &answer["stored"]), (&json!(true), &json!(durable)), "{answer}");
    }
}

fn hears(client: &mut Client, texts: &[&str]) {
    let received: Vec<Value> = texts.iter().map(|_| client.expect_type("message")["data"].clone()).collect();
    assert_eq!(received, texts);
}

#[test]
fn a_message_answered_stored_is_there_after_a_kill() {
    let mut daemon = Daemon::start();
    publish(&daemon, &["a", "b", "c"], true);
    daemon.kill();
    daemon.ended();
    daemon.start_again();
    hears(&mut daemon.client("ada"), &["a", "b", "c"]);
}

#[test]
fn a_clean_stop_keeps_messages_that_are_not_durable() {
    let mut daemon = Daemon::start();
    publish(&daemon, &["a", "b"], false);
    daemon.stop();
    assert_eq!(daemon.ended().0, Some(0));
    daemon.start_again();
    hears(&mut daemon.client("ada"), &["a", "b"]);
}

#[test]
fn since_is_recovered_after_a_clean_stop() {
    let mut daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.send(json!({"action": "subscribe", "channel": "news"}));
    ada.expect_type("connection_id");
    let position = ada.expect_type("subscription_succeeded");
    daemon.worker().send(json!({"channel": "news", "event": "e", "data": 1}));
    assert_eq!(ada.expect_type("message")["seq"], 1);
    daemon.stop();
    daemon.ended();
    daemon.start_again();
    let mut ada = daemon.client("ada");
    let since = json!({"epoch": position["epoch"], "seq": 1});
    ada.send(json!({"action": "subscribe", "channel": "news", "since": since}));
    ada.expect_type("connection_id");
    let answer = ada.expect_type("subscription_succeeded");
    assert_eq!((&answer["recovered"], &answer["seq"]), (&json!(true), &json!(1)));
}

#[test]
fn a_delivered_message_is_not_replayed_after_a_stop() {
    let mut daemon = Daemon::start();
    publish(&daemon, &["a"], true);
    let mut ada = daemon.client("ada");
    hears(&mut ada, &["a"]);
    // Once it is answered, the hub knows that the socket has taken all before it.
    ada.send(json!({"action": "ping"}));
    ada.expect_type("pong");
    daemon.stop();
    daemon.ended();
    daemon.start_again();
    let mut ada = daemon.client_at(&format!("/ws?token={}", daemon.token("ada")));
    let inbox = ada.expect_type("connection_established")["inbox"].clone();
    assert_eq!((&inbox["seq"], &inbox["waiting"]), (&json!(1), &json!(0)));
}

#[test]
fn a_repeated_message_is_a_duplicate_after_a_kill() {
    let mut daemon = Daemon::start();
    let line = json!({"user_id": "ada", "event": "e", "message_id": "m1", "durable": true, "id": 1});
    let mut worker = daemon.worker();
    worker.send(line.clone());
    assert_eq!(worker.receive()["stored"], true);
    daemon.kill();
    daemon.ended();
    daemon.start_again();
    let mut worker = daemon.worker();
    worker.send(line);
    let answer = worker.receive();
    assert_eq!((&answer["duplicate"], &answer["stored"]), (&json!(true), &json!(true)), "{answer}");
}

#[test]
fn an_unusable_disk_is_reported_and_stops_nothing_else() {
    let mut daemon = Daemon::start();
    daemon.stop();
    daemon.ended();
    // A file where the directory of the store should be hinders root as well.
    let store = daemon.directory.join("wshubd/store");
    crate::harness::remove(&store);
    std::fs::write(&store, "in the way").unwrap();
    daemon.start_again();
    let (status, body) = daemon.http("GET /healthz", &[], "");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("degraded") && body.contains("store"), "{body}");
    let mut ada = daemon.client("ada");
    ada.subscribe("news");
    let mut worker = daemon.worker();
    worker.send(json!({"channel": "news", "event": "e", "data": 1, "id": 1}));
    assert_eq!((&worker.receive()["sent"], &ada.expect_type("message")["data"]), (&json!(1), &json!(1)));
    worker.send(json!({"user_id": "ben", "event": "e", "durable": true, "id": 2}));
    assert_eq!(worker.receive()["code"], "store_unavailable");
}

#[test]
fn a_failed_start_keeps_what_a_clean_stop_left() {
    let mut daemon = Daemon::start();
    publish(&daemon, &["a"], true);
    let mut ada = daemon.client("ada");
    hears(&mut ada, &["a"]);
    ada.send(json!({"action": "subscribe", "channel": "news"}));
    ada.expect_type("connection_id");
    let position = ada.expect_type("subscription_succeeded");
    daemon.worker().send(json!({"channel": "news", "event": "e", "data": 1}));
    assert_eq!(ada.expect_type("message")["seq"], 1);
    daemon.stop();
    daemon.ended();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("[\"{}\"]", taken.local_addr().unwrap());
    let mut failing = crate::harness::command(&daemon.directory);
    let failed = failing.env("WSHUBD_LISTEN__HTTP", address).output().unwrap();
    assert_eq!(failed.status.code(), Some(69));
    let stderr = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(stderr.contains("cannot listen on") && stderr.lines().count() == 1, "{stderr}");
    daemon.start_again();
    let mut ada = daemon.client_at(&format!("/ws?token={}", daemon.token("ada")));
    let inbox = ada.expect_type("connection_established")["inbox"].clone();
    assert_eq!((&inbox["seq"], &inbox["waiting"]), (&json!(1), &json!(0)), "the cursor is where it was");
    let since = json!({"epoch": position["epoch"], "seq": 1});
    ada.send(json!({"action": "subscribe", "channel": "news", "since": since}));
    ada.expect_type("connection_id");
    let answer = ada.expect_type("subscription_succeeded");
    assert_eq!((&answer["recovered"], &answer["seq"]), (&json!(true), &json!(1)));
}

#[test]
fn a_second_daemon_touches_no_file_of_the_running_one() {
    let mut daemon = Daemon::start();
    publish(&daemon, &["a"], true);
    let positions = daemon.directory.join("wshubd/worker.sock.positions");
    let look = || (std::fs::read(&positions).unwrap(), std::fs::metadata(&positions).unwrap().ino());
    let before = look();
    // Another state directory, as the error of a second daemon advises, and the same worker
    // socket; or the same port.
    let elsewhere = crate::harness::directory();
    let port = format!("[\"{}\"]", daemon.address);
    let (state, other) = (elsewhere.to_str().unwrap(), elsewhere.join("worker.sock"));
    let attempts = [
        vec![("XDG_STATE_HOME", state)],
        vec![("XDG_STATE_HOME", state), ("WSHUBD_LISTEN__HTTP", &port)],
        vec![("WSHUBD_LISTEN__WORKER", other.to_str().unwrap())],
    ];
    for variables in attempts {
        let second = crate::harness::command(&daemon.directory).envs(variables).output().unwrap();
        let stderr = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(69), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "it says why, and nothing of the other: {stderr}");
        assert_eq!(look(), before);
    }
    crate::harness::remove(&elsewhere);
    hears(&mut daemon.client("ada"), &["a"]);
    daemon.stop();
    assert_eq!(daemon.ended().0, Some(0));
}

#[test]
fn a_first_start_saves_positions_in_a_new_directory() {
    let mut daemon = Daemon::start();
    assert!(daemon.directory.join("wshubd/worker.sock.positions").exists());
    daemon.stop();
    let (_, log) = daemon.ended();
    assert_eq!(log.lines().count(), 1, "no warning: {log}");
}

#[test]
fn only_a_previous_kill_of_the_same_daemon_is_reported() {
    let mut daemon = Daemon::start();
    publish(&daemon, &["a"], false);
    daemon.kill();
    daemon.ended();
    // Its worker socket is used again, with another state directory.
    let elsewhere = crate::harness::directory();
    let state = [("XDG_STATE_HOME", elsewhere.to_str().unwrap())];
    let mut other = crate::harness::command(&daemon.directory).envs(state).spawn().unwrap();
    let mut log = BufReader::new(other.stderr.take().unwrap());
    let mut first = String::new();
    log.read_line(&mut first).unwrap();
    assert!(first.contains("started"), "nothing of its own was killed: {first}");
    other.kill().unwrap();
    other.wait().unwrap();
    let mut again = crate::harness::command(&daemon.directory).envs(state).spawn().unwrap();
    let mut log = BufReader::new(again.stderr.take().unwrap());
    let mut first = String::new();
    log.read_line(&mut first).unwrap();
    assert!(first.contains("has not stopped but ended"), "this time it was: {first}");
    again.kill().unwrap();
    again.wait().unwrap();
    crate::harness::remove(&elsewhere);
}
