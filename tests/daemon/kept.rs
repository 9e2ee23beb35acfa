//! What is kept outlives the daemon: its stop, and its death.

use serde_json::{Value, json};

use crate::bench::{Client, Daemon};

/// Publishes one after the other to a user who is away, and waits for each answer.
fn publish(daemon: &Daemon, texts: &[&str], durable: bool) {
    let mut worker = daemon.worker();
    for text in texts {
        worker.say(json!({"user_id": "ada", "event": "note", "data": text, "durable": durable, "id": 1}));
        let answer = worker.hear();
        assert_eq!((&answer["kept"], &answer["stored"]), (&json!(true), &json!(durable)), "{answer}");
    }
}

fn hears(client: &mut Client, texts: &[&str]) {
    let heard: Vec<Value> = texts.iter().map(|_| client.hear_type("message")["data"].clone()).collect();
    assert_eq!(heard, texts);
}

#[test]
fn what_was_answered_as_stored_is_there_after_the_daemon_was_killed() {
    let mut daemon = Daemon::start();
    publish(&daemon, &["a", "b", "c"], true);
    daemon.kill();
    daemon.ended();
    daemon.start_again();
    hears(&mut daemon.client("ada"), &["a", "b", "c"]);
}

#[test]
fn a_clean_stop_keeps_what_nobody_was_promised() {
    let mut daemon = Daemon::start();
    publish(&daemon, &["a", "b"], false);
    daemon.stop();
    assert_eq!(daemon.ended().0, Some(0));
    daemon.start_again();
    hears(&mut daemon.client("ada"), &["a", "b"]);
}

#[test]
fn who_comes_back_after_a_stop_learns_that_nothing_was_missed() {
    let mut daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.say(json!({"action": "subscribe", "channel": "news"}));
    ada.hear_type("connection_id");
    let position = ada.hear_type("subscription_succeeded");
    daemon.worker().say(json!({"channel": "news", "event": "e", "data": 1}));
    assert_eq!(ada.hear_type("message")["seq"], 1);
    daemon.stop();
    daemon.ended();
    daemon.start_again();
    let mut ada = daemon.client("ada");
    let since = json!({"epoch": position["epoch"], "seq": 1});
    ada.say(json!({"action": "subscribe", "channel": "news", "since": since}));
    ada.hear_type("connection_id");
    let answer = ada.hear_type("subscription_succeeded");
    assert_eq!((&answer["recovered"], &answer["seq"]), (&json!(true), &json!(1)));
}

#[test]
fn what_was_heard_before_a_stop_does_not_come_again() {
    let mut daemon = Daemon::start();
    publish(&daemon, &["a"], true);
    let mut ada = daemon.client("ada");
    hears(&mut ada, &["a"]);
    // Once it is answered, the hub knows that the socket has taken all before it.
    ada.say(json!({"action": "ping"}));
    ada.hear_type("pong");
    daemon.stop();
    daemon.ended();
    daemon.start_again();
    let mut ada = daemon.client_at(&format!("/ws?token={}", daemon.token("ada")));
    let inbox = ada.hear_type("connection_established")["inbox"].clone();
    assert_eq!((&inbox["seq"], &inbox["waiting"]), (&json!(1), &json!(0)));
}

#[test]
fn a_message_repeated_after_the_daemon_was_killed_is_known() {
    let mut daemon = Daemon::start();
    let line = json!({"user_id": "ada", "event": "e", "message_id": "m1", "durable": true, "id": 1});
    let mut worker = daemon.worker();
    worker.say(line.clone());
    assert_eq!(worker.hear()["stored"], true);
    daemon.kill();
    daemon.ended();
    daemon.start_again();
    let mut worker = daemon.worker();
    worker.say(line);
    let answer = worker.hear();
    assert_eq!((&answer["duplicate"], &answer["stored"]), (&json!(true), &json!(true)), "{answer}");
}

#[test]
fn a_disk_that_cannot_be_used_is_told_and_stops_nothing_else() {
    let mut daemon = Daemon::start();
    daemon.stop();
    daemon.ended();
    // A file where the directory of the store should be hinders root as well.
    let store = daemon.directory.join("wshubd/store");
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::write(&store, "in the way").unwrap();
    daemon.start_again();
    let (status, body) = daemon.http("GET /healthz", &[], "");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("degraded") && body.contains("store"), "{body}");
    let mut ada = daemon.client("ada");
    ada.subscribe("news");
    let mut worker = daemon.worker();
    worker.say(json!({"channel": "news", "event": "e", "data": 1, "id": 1}));
    assert_eq!((&worker.hear()["sent"], &ada.hear_type("message")["data"]), (&json!(1), &json!(1)));
    worker.say(json!({"user_id": "ben", "event": "e", "durable": true, "id": 2}));
    assert_eq!(worker.hear()["code"], "store_unavailable");
}
