//! Deduplication: a repeated message is sent once.
//!
//! A key is the publisher, the target and the `message_id` together.

use serde_json::{Value, json};
use wshubd::hub::Settings;
use wshubd::protocol::InboxMode;

use super::harness::{ConnectionId, Harness, rights};

fn request(target: &str, name: &str, id: &str) -> Value {
    json!({"action": "send", target: name, "event": "say", "data": 1, "message_id": id})
}

/// Whether a message was taken for one that came before.
fn is_duplicate(harness: &mut Harness, conn: ConnectionId, mut request: Value) -> bool {
    request["id"] = json!(1);
    let answer = harness.request(conn, request).pop().unwrap();
    assert!(answer["type"] == "ok" || answer["type"] == "send_success", "{answer}");
    answer["duplicate"] == true
}

#[test]
fn a_repetition_is_answered_as_duplicate_and_not_delivered() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(bob, "room");
    harness.discard_frames(bob);
    let first = harness.request(alice, request("channel", "room", "m1")).remove(0);
    let second = harness.request(alice, request("channel", "room", "m1")).remove(0);
    assert_eq!((&first["sent"], first.get("duplicate")), (&json!(1), None));
    assert_eq!((&second["duplicate"], &second["sent"]), (&json!(true), &json!(0)));
    assert_eq!((&second["message_id"], &second["channel"]), (&json!("m1"), &json!("room")));
    assert_eq!(harness.received(bob), ["say 1"]);
    harness.publish(alice, "room", 2);
    assert_eq!(harness.frames(bob)[0]["seq"], 2, "a repetition takes no position");
}

#[test]
fn a_message_keeps_the_id_of_its_publisher() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(bob, "room");
    harness.discard_frames(bob);
    harness.send(alice, request("channel", "room", "m1"));
    assert_eq!(harness.frames(bob)[0]["message_id"], "m1");
}

#[test]
fn every_kind_of_target_has_its_own_ids() {
    let mut harness = Harness::new();
    let alice = harness.client_with("alice", rights(&["*"], &["*", "@user:*", "@connection:*"], &[]));
    let bob = harness.client("bob");
    let targets = [
        request("channel", "room", "m1"),
        request("channel", "hall", "m1"),
        request("user_id", "bob", "m1"),
        request("user_id", "carol", "m1"),
        request("connection_id", &bob.to_string(), "m1"),
    ];
    for request in &targets {
        assert!(!is_duplicate(&mut harness, alice, request.clone()), "{request}");
    }
    for request in targets {
        assert!(is_duplicate(&mut harness, alice, request.clone()), "{request}");
    }
}

#[test]
fn a_user_is_one_publisher_on_all_connections() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    assert!(!is_duplicate(&mut harness, alice, request("channel", "room", "m1")));
    assert!(!is_duplicate(&mut harness, bob, request("channel", "room", "m1")), "another user is another");
    harness.disconnect(alice);
    let alice = harness.client("alice");
    assert!(is_duplicate(&mut harness, alice, request("channel", "room", "m1")), "across a reconnection");
}

#[test]
fn an_anonymous_publisher_is_known_by_its_connection() {
    let mut harness = Harness::open();
    let (one, other) = (harness.anonymous_client(), harness.anonymous_client());
    assert!(!is_duplicate(&mut harness, one, request("channel", "room", "m1")));
    assert!(!is_duplicate(&mut harness, other, request("channel", "room", "m1")));
    assert!(is_duplicate(&mut harness, one, request("channel", "room", "m1")));
}

#[test]
fn workers_of_one_system_user_are_one_publisher() {
    let mut harness = Harness::new();
    let (one, other, root) = (harness.worker(), harness.worker(), harness.admin());
    assert!(!is_duplicate(&mut harness, one, request("channel", "room", "m1")));
    assert!(is_duplicate(&mut harness, other, request("channel", "room", "m1")));
    assert!(!is_duplicate(&mut harness, root, request("channel", "room", "m1")));
}

#[test]
fn all_http_callers_are_one_publisher() {
    let mut harness = Harness::new();
    let body = json!({"channel": "room", "event": "say", "message_id": "m1"});
    assert_eq!(harness.post(1, &body), ["send_success 0 0 kept"]);
    assert_eq!(harness.post(2, &body), ["send_success 0 0 kept duplicate"]);
}

#[test]
fn an_id_is_forgotten_after_ten_minutes() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    assert!(!is_duplicate(&mut harness, worker, request("channel", "room", "m1")));
    harness.wait(599.0);
    assert!(is_duplicate(&mut harness, worker, request("channel", "room", "m1")));
    harness.wait(2.0);
    assert!(!is_duplicate(&mut harness, worker, request("channel", "room", "m1")), "counted from the first");
}

#[test]
fn the_last_ten_thousand_are_remembered() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    for n in 0..=10_000 {
        let line = json!({"channel": "room", "event": "say", "ttl": 0, "message_id": format!("m{n}")});
        harness.send(worker, line);
    }
    assert!(is_duplicate(&mut harness, worker, request("channel", "room", "m1")));
    assert!(!is_duplicate(&mut harness, worker, request("channel", "room", "m0")));
}

#[test]
fn a_refused_message_id_is_not_remembered() {
    let mut harness = Harness::new();
    let alice = harness.client_with("alice", rights(&["*"], &["room"], &[]));
    let durable =
        json!({"action": "send", "channel": "room", "event": "say", "durable": true, "message_id": "m1"});
    assert_eq!(harness.send(alice, durable), ["error store_unavailable"]);
    assert!(!is_duplicate(&mut harness, alice, request("channel", "room", "m1")));
    assert_eq!(harness.send(alice, request("channel", "hall", "m2")), ["error forbidden hall"]);
    let wide = harness.token("alice", rights(&["*"], &["*"], &[]), 3600);
    harness.auth(alice, &wide, None);
    assert!(!is_duplicate(&mut harness, alice, request("channel", "hall", "m2")));
}

#[test]
fn a_repeated_message_to_a_user_waits_once() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    for _ in 0..2 {
        harness.send(worker, json!({"user_id": "bob", "event": "say", "data": 1, "message_id": "m1"}));
    }
    let bob = harness.client_in("bob", InboxMode::Ack);
    assert_eq!(harness.received(bob), ["connection_established", "say 1 replayed"]);
}

#[test]
fn ids_made_by_the_hub_are_unique() {
    let mut harness = Harness::with(Settings::default());
    let worker = harness.worker();
    let mut made = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        let line = json!({"channel": "room", "event": "say", "id": 1});
        let answer = harness.request(worker, line).remove(0);
        assert!(made.insert(answer["message_id"].as_str().unwrap().to_owned()));
    }
}

#[test]
fn ids_are_handed_over() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    harness.send(worker, request("channel", "room", "m1"));
    harness.hand_over();
    assert!(is_duplicate(&mut harness, worker, request("channel", "room", "m1")));
}
