//! Requests of administrators, and the right to make them.

use serde_json::{Value, json};
use wshubd::hub::{Input, SendQueueState, Settings};
use wshubd::protocol::UnixTime;

use super::harness::{ConnectionId, Harness};

/// The only answer to an administrator's question.
fn reply_to(harness: &mut Harness, admin: ConnectionId, request: Value) -> Value {
    harness.request(admin, request).pop().unwrap()
}

/// The entry of one connection.
fn seen(harness: &mut Harness, admin: ConnectionId, conn: ConnectionId) -> Value {
    let list = reply_to(harness, admin, json!({"action": "connections"}));
    let own = |entry: &&Value| entry["connection_id"] == conn.to_string();
    list["connections"].as_array().unwrap().iter().find(own).unwrap().clone()
}

/// A time so many seconds before now.
fn ago(harness: &Harness, seconds: u64) -> String {
    UnixTime(harness.now.wall.0 - seconds * 1000).to_string()
}

#[test]
fn a_connection_lists_its_age_and_last_activity() {
    let mut harness = Harness::new();
    let (admin, alice, worker) = (harness.admin(), harness.client("alice"), harness.worker());
    harness.subscribe(alice, "logs");
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "logs"}));
    harness.wait(30.0);
    harness.handle(Input::KeepAlive { conn: alice, controls: 1 });
    harness.wait(7.0);

    let client = seen(&mut harness, admin, alice);
    assert_eq!((&client["kind"], &client["user_id"]), (&json!("client"), &json!("alice")));
    assert_eq!(client["connected_at"], ago(&harness, 37));
    assert_eq!(client["heard_at"], ago(&harness, 7));
    assert_eq!((&client["subscriptions"], &client["operations"]), (&json!(1), &json!(0)));
    assert_eq!(
        (&client["uid"], &client["stalled"], &client["missed"]),
        (&json!(null), &json!(null), &json!(0))
    );
    let local = seen(&mut harness, admin, worker);
    assert_eq!((&local["kind"], &local["uid"]), (&json!("worker"), &json!(1000)));
    assert_eq!((&local["operations"], &local["user_id"]), (&json!(1), &json!(null)));
}

#[test]
fn setting_the_clock_does_not_change_a_connections_age() {
    let mut harness = Harness::new();
    let (admin, alice) = (harness.admin(), harness.client("alice"));
    harness.wait(5.0);
    harness.now.wall.0 += 1_000_000_000;
    assert_eq!(seen(&mut harness, admin, alice)["connected_at"], ago(&harness, 5));
}

#[test]
fn a_stalled_connection_lists_since_when_and_what_it_lost() {
    let mut harness = Harness::new();
    let (admin, alice, bob) = (harness.admin(), harness.client("alice"), harness.client("bob"));
    for conn in [alice, bob] {
        harness.subscribe(conn, "logs");
    }
    harness.send_queue(alice, SendQueueState::Full);
    for n in 1..=2 {
        harness.send(admin, json!({"channel": "logs", "event": "log", "data": n}));
    }
    harness.wait(4.0);
    let slow = seen(&mut harness, admin, alice);
    assert_eq!((&slow["stalled"], &slow["missed"]), (&json!(4), &json!(2)));
    harness.handle(Input::WriteProgress { conn: alice });
    harness.wait(1.5);
    assert_eq!(seen(&mut harness, admin, alice)["stalled"], 1.5);
    harness.send_queue(alice, SendQueueState::Empty);
    let clear = seen(&mut harness, admin, alice);
    assert_eq!((&clear["stalled"], &clear["missed"]), (&json!(null), &json!(0)));
}

#[test]
fn a_stalled_owner_of_an_operation_lists_since_when() {
    let mut harness = Harness::new();
    let (admin, worker) = (harness.admin(), harness.worker());
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "logs"}));
    harness.send_queue(worker, SendQueueState::Full);
    harness.wait(3600.0);
    assert_eq!(seen(&mut harness, admin, worker)["stalled"], 3600);
    harness.send(worker, json!({"action": "operation_end", "operation_id": "op", "state": "completed"}));
    harness.discard_frames(worker);
    harness.wait(10.0);
    assert_eq!(harness.received(worker), ["closed 4202"]);
}

#[test]
fn a_channel_lists_policy_lagging_readers_and_oldest_message() {
    let mut harness = Harness::new();
    let (admin, worker, alice, bob) =
        (harness.admin(), harness.worker(), harness.client("alice"), harness.client("bob"));
    for n in 1..=100 {
        harness.send(worker, json!({"channel": "logs", "event": "log", "data": n}));
        harness.wait(0.1);
    }
    harness.subscribe(bob, "room");
    harness.block_socket(alice);
    harness.subscribe(alice, "logs");

    let list = reply_to(&mut harness, admin, json!({"action": "channels"}));
    let (logs, room) = (&list["channels"][0], &list["channels"][1]);
    assert_eq!((&logs["channel"], &logs["keep"]), (&json!("logs"), &json!("undelivered")));
    assert_eq!((&logs["subscribers"], &logs["behind"]), (&json!(1), &json!(1)));
    assert_eq!((&logs["kept"], &logs["oldest_at"]), (&json!(100), &json!(ago(&harness, 10))));
    assert_eq!(
        (&room["channel"], &room["behind"], &room["oldest_at"]),
        (&json!("room"), &json!(0), &json!(null))
    );

    harness.drain(alice, 30);
    let list = reply_to(&mut harness, admin, json!({"action": "channels"}));
    assert_eq!(list["channels"][0]["oldest_at"], ago(&harness, 7));
}

#[test]
fn an_inbox_lists_what_waits_and_all_inboxes_without_a_user() {
    let mut harness = Harness::new();
    let (admin, _bob) = (harness.admin(), harness.client("bob"));
    harness.send(admin, json!({"user_id": "carol", "event": "e"}));
    harness.send(admin, json!({"user_id": "alice", "event": "e"}));
    harness.wait(90.0);
    harness.send(admin, json!({"user_id": "alice", "event": "e"}));

    let alice = reply_to(&mut harness, admin, json!({"action": "inbox", "user_id": "alice"}));
    assert_eq!((&alice["user_id"], &alice["connections"]), (&json!("alice"), &json!(0)));
    assert_eq!(alice["waiting"], 2);
    assert_eq!(alice["oldest_at"], ago(&harness, 90));
    let nobody = reply_to(&mut harness, admin, json!({"action": "inbox", "user_id": "dave"}));
    assert_eq!((&nobody["waiting"], &nobody["epoch"]), (&json!(0), &json!(null)));
    let all = reply_to(&mut harness, admin, json!({"action": "inbox"}));
    let waiting: Vec<_> = all["inboxes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|inbox| (&inbox["user_id"], &inbox["waiting"]))
        .collect();
    assert_eq!(waiting, [(&json!("alice"), &json!(2)), (&json!("carol"), &json!(1))]);
}

#[test]
fn a_refused_administrator_learns_the_rule() {
    let mut harness = Harness::with(Settings::default());
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.subscribe(alice, "logs");
    for request in [
        json!({"action": "connections"}),
        json!({"action": "channels"}),
        json!({"action": "inbox"}),
        json!({"action": "purge", "channel": "logs"}),
        json!({"action": "disconnect", "user_id": "alice"}),
    ] {
        let answer = reply_to(&mut harness, worker, request.clone());
        assert_eq!((&answer["code"], &answer["action"]), (&json!("forbidden"), &request["action"]));
        assert!(answer["message"].as_str().unwrap().contains("root, the daemon's own user"), "{answer}");
    }
    assert_eq!(harness.send(alice, json!({"action": "ping"})).last().unwrap(), "pong", "she is still there");
}
