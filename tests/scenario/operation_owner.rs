//! The system user that started an operation: it may list and interrupt it.

use serde_json::{Value, json};
use wshubd::hub::{Peer, Settings};

use super::harness::{ConnectionId, Harness, rights};

fn process(harness: &mut Harness, uid: u32) -> ConnectionId {
    harness.connect(Peer::Worker { uid, admin: false })
}

fn start(harness: &mut Harness, worker: ConnectionId, id: &str) {
    let line = json!({"action": "operation_start", "operation_id": id, "channel": "jobs", "user_id": "bob", "id": 1});
    assert_eq!(harness.send(worker, line), ["ok"]);
}

fn interrupt(harness: &mut Harness, conn: ConnectionId, id: &str) -> Vec<String> {
    harness.send(conn, json!({"action": "interrupt", "operation_id": id, "id": 2}))
}

fn listed(harness: &mut Harness, conn: ConnectionId) -> Vec<String> {
    let received = harness.request(conn, json!({"action": "operations", "id": 3})).remove(0);
    let Some(list) = received["operations"].as_array() else { return vec![received["code"].to_string()] };
    list.iter().map(|entry| entry["operation_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_starter_lists_and_interrupts_from_another_process() {
    let mut harness = Harness::new();
    let (worker, other) = (process(&mut harness, 1000), process(&mut harness, 1001));
    start(&mut harness, worker, "build");
    start(&mut harness, other, "backup");
    let shell = process(&mut harness, 1000);
    assert_eq!(listed(&mut harness, shell), ["build"]);
    assert_eq!(interrupt(&mut harness, shell, "build"), ["ok"]);
    assert_eq!(harness.received(worker), ["interrupt build"]);
    assert_eq!(interrupt(&mut harness, shell, "backup"), ["error forbidden"]);
    assert!(harness.received(other).is_empty());
    let admin = harness.admin();
    assert_eq!(listed(&mut harness, admin), ["backup", "build"]);
    harness.hand_over();
    assert_eq!(listed(&mut harness, shell), ["build"], "after a hand-over too");
}

#[test]
fn an_early_interrupt_waits_for_an_operation_of_its_user() {
    let mut harness = Harness::new();
    let (shell, stranger) = (process(&mut harness, 1000), process(&mut harness, 1001));
    let outcome = |harness: &mut Harness, conn| {
        harness.frames(conn).last().map(|frame: &Value| frame["outcome"].clone())
    };
    for conn in [shell, stranger] {
        harness.send_unread(conn, &json!({"action": "interrupt", "operation_id": "build", "id": 2}));
        assert_eq!(outcome(&mut harness, conn), Some(json!("pending")));
    }
    let worker = process(&mut harness, 1000);
    harness.send_unread(
        worker,
        &json!({"action": "operation_start", "operation_id": "build", "channel": "jobs", "id": 1}),
    );
    assert_eq!(harness.received(worker), ["ok", "interrupt build"], "behind what confirms the start");
    assert_eq!(outcome(&mut harness, shell), Some(json!("delivered")));
    assert_eq!(outcome(&mut harness, stranger), Some(json!("no_owner")));
}

#[test]
fn the_end_of_an_operation_is_public_to_every_process() {
    let mut harness = Harness::new();
    let worker = process(&mut harness, 1000);
    start(&mut harness, worker, "build");
    harness.send(worker, json!({"action": "operation_end", "operation_id": "build", "state": "completed"}));
    for uid in [1000, 1001] {
        let conn = process(&mut harness, uid);
        harness.send_unread(conn, &json!({"action": "interrupt", "operation_id": "build", "id": 2}));
        assert_eq!(harness.frames(conn)[0]["outcome"], "already_ended");
    }
}

#[test]
fn root_and_unknown_peers_own_no_operation() {
    let mut harness = Harness::with(Settings { overflow_uid: 70000, ..Settings::default() });
    for uid in [0, 70000] {
        let id = format!("of-{uid}");
        let (worker, shell) = (process(&mut harness, uid), process(&mut harness, uid));
        start(&mut harness, worker, &id);
        assert_eq!(listed(&mut harness, shell), ["\"forbidden\""]);
        assert_eq!(interrupt(&mut harness, shell, &id), ["error forbidden"]);
    }
    let (worker, shell) = (process(&mut harness, 65534), process(&mut harness, 65534));
    start(&mut harness, worker, "named");
    assert_eq!(interrupt(&mut harness, shell, "named"), ["ok"], "here that is a user like others");
}

#[test]
fn a_client_cannot_interrupt_by_a_system_user_number() {
    let mut harness = Harness::with(Settings { rights: rights(&["*"], &[], &[]), ..Settings::default() });
    let (worker, alice) = (process(&mut harness, 1000), harness.client("1000"));
    start(&mut harness, worker, "build");
    let received = harness.send(alice, json!({"action": "interrupt", "data": {"operation_id": "build"}}));
    assert_eq!(received, ["error forbidden"]);
}
