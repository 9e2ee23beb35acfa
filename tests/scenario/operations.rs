//! Operations, from start to their one end.

use serde_json::json;
use wshubd::hub::Settings;

use super::harness::{ConnectionId, Harness, rights};

fn start(harness: &mut Harness, worker: ConnectionId, id: &str) -> Vec<String> {
    harness.send(worker, json!({"action": "operation_start", "operation_id": id, "channel": "jobs", "id": 1}))
}

fn end(harness: &mut Harness, worker: ConnectionId, id: &str) -> Vec<String> {
    let line =
        json!({"action": "operation_end", "operation_id": id, "state": "completed", "data": 7, "id": 2});
    harness.send(worker, line)
}

#[test]
fn the_channel_gets_the_start_and_end_of_an_operation() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.subscribe(alice, "jobs");
    harness.discard_frames(alice);
    assert_eq!(start(&mut harness, worker, "op"), ["ok"]);
    assert_eq!(end(&mut harness, worker, "op"), ["ok"]);
    assert_eq!(harness.received(alice), ["operation op started", "operation op ended completed"]);
}

#[test]
fn a_connection_on_both_channels_gets_each_state_once() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    start(&mut harness, worker, "op");
    harness.subscribe(alice, "jobs");
    assert_eq!(
        harness.subscribe(alice, "operation:op"),
        ["subscription_succeeded operation:op 0", "operation op started"]
    );
    end(&mut harness, worker, "op");
    assert_eq!(harness.received(alice), ["operation op ended completed", "unsubscribed operation:op ended"]);
}

#[test]
fn a_running_id_is_a_conflict_except_for_its_own_connection() {
    let mut harness = Harness::new();
    let (worker, other) = (harness.worker(), harness.worker());
    start(&mut harness, worker, "op");
    assert_eq!(start(&mut harness, worker, "op"), ["ok"]);
    assert_eq!(start(&mut harness, other, "op"), ["error conflict"]);
    assert_eq!(end(&mut harness, other, "op"), ["error forbidden"]);
    end(&mut harness, worker, "op");
    assert_eq!(end(&mut harness, worker, "op"), ["error unknown_operation"]);
    assert_eq!(start(&mut harness, other, "op"), ["ok"], "its name is free again");
}

#[test]
fn a_reloaded_page_finds_running_operations() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    start(&mut harness, worker, "a");
    start(&mut harness, worker, "b");
    end(&mut harness, worker, "a");
    let received = harness.request(alice, json!({"action": "subscribe", "channel": "jobs"}));
    assert_eq!(received[1]["operations"][0]["operation_id"], "b");
    let frame = harness.request(alice, json!({"action": "operations", "channel": "jobs"})).remove(0);
    let running = frame["operations"].as_array().unwrap();
    assert_eq!((running.len(), &running[0]["operation_id"]), (1, &json!("b")));
}

#[test]
fn a_lost_owner_ends_its_operations_at_once() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.subscribe(alice, "jobs");
    start(&mut harness, worker, "op");
    harness.discard_frames(alice);
    harness.disconnect(worker);
    assert_eq!(harness.received(alice), ["operation op ended owner_lost"]);
    assert_eq!(harness.stats()["operations"], 0);
}

#[test]
fn an_ended_operation_is_remembered_for_ten_minutes() {
    let mut harness = Harness::with(Settings::default());
    let worker = harness.worker();
    start(&mut harness, worker, "op");
    end(&mut harness, worker, "op");
    harness.wait(590.0);
    let alice = harness.client("alice");
    let expected = ["subscription_succeeded operation:op 0", "operation op ended completed"];
    assert_eq!(
        harness.subscribe(alice, "operation:op")[1..],
        [&expected[..], &["unsubscribed operation:op ended"]].concat()
    );
    harness.wait(12.0);
    assert_eq!(harness.subscribe(alice, "operation:op"), ["error unknown_operation operation:op"]);
}

#[test]
fn an_operation_channel_is_for_its_user_and_subscribers() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    let line =
        json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "user_id": "alice"});
    harness.send(worker, line);
    let alice = harness.client_with("alice", rights(&[], &[], &[]));
    let bob = harness.client_with("bob", rights(&["jobs"], &[], &[]));
    let carol = harness.client_with("carol", rights(&["*"], &[], &[]));
    let mallory = harness.client_with("mallory", rights(&["other"], &[], &[]));
    for conn in [alice, bob, carol] {
        assert_eq!(harness.subscribe(conn, "operation:op")[2], "operation op started");
    }
    assert_eq!(harness.subscribe(mallory, "operation:op")[1..], ["error forbidden operation:op"]);
}

#[test]
fn only_its_worker_publishes_on_the_channel_of_an_operation() {
    let mut harness = Harness::new();
    let (worker, other, alice) = (harness.worker(), harness.worker(), harness.client("alice"));
    start(&mut harness, worker, "op");
    harness.subscribe(alice, "operation:op");
    harness.discard_frames(alice);
    let line = json!({"channel": "operation:op", "event": "step", "data": 1});
    assert!(harness.send(worker, line.clone()).is_empty());
    assert_eq!(harness.send(other, line), ["error forbidden"]);
    assert_eq!(harness.publish(alice, "operation:op", 1), ["step 1", "error forbidden"]);
    let line = json!({"channel": "operation:none", "event": "step"});
    assert_eq!(harness.send(worker, line), ["error unknown_operation"]);
}

#[test]
fn all_operations_are_listed_for_administrators_only() {
    let mut harness = Harness::new();
    let (worker, admin, alice) = (harness.worker(), harness.admin(), harness.client("alice"));
    start(&mut harness, worker, "op");
    let refused = harness.request(alice, json!({"action": "operations"})).remove(0);
    assert_eq!(refused["code"], "forbidden");
    assert!(refused["message"].as_str().unwrap().contains("without `channel`"), "{refused}");
    let listed = harness.request(admin, json!({"action": "operations"})).remove(0);
    assert_eq!(listed["operations"][0]["operation_id"], "op");
    assert_eq!(harness.request(admin, json!({"action": "stats"}))[0]["operations"], 1);
    assert_eq!(harness.send(worker, json!({"action": "stats"})), ["error forbidden"]);
}

/// A subscriber that comes back to a backlog of `count` lines and reads it slowly.
fn reader(harness: &mut Harness, worker: ConnectionId, count: u32) -> ConnectionId {
    for n in 1..=count {
        harness.send(worker, json!({"channel": "jobs", "event": "line", "data": n}));
    }
    let alice = harness.client("alice");
    harness.block_socket(alice);
    harness.subscribe(alice, "jobs");
    harness.discard_frames(alice);
    alice
}

#[test]
fn the_end_comes_after_all_lines() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    start(&mut harness, worker, "op");
    let alice = reader(&mut harness, worker, 70);
    end(&mut harness, worker, "op");
    assert!(harness.received(alice).is_empty(), "the end waits behind the backlog");
    harness.unblock_socket(alice);
    let received = harness.received(alice);
    assert_eq!(received[..2], ["line 65 replayed", "line 66 replayed"]);
    assert_eq!(received[5..], ["line 70 replayed", "operation op ended completed"]);
}

#[test]
fn lines_after_the_end_follow_it_in_the_backlog_too() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    start(&mut harness, worker, "op");
    let alice = reader(&mut harness, worker, 65);
    end(&mut harness, worker, "op");
    harness.send(worker, json!({"channel": "jobs", "event": "line", "data": "next"}));
    start(&mut harness, worker, "other");
    harness.unblock_socket(alice);
    let received = harness.received(alice);
    let place = |what: &str| received.iter().position(|line| line == what).unwrap();
    assert_eq!(place("line 65 replayed"), 0);
    assert!(place("operation op ended completed") < place("line next replayed"), "{received:?}");
    assert!(place("operation op ended completed") < place("operation other started"), "{received:?}");
    assert_eq!(received.len(), 4);
}

#[test]
fn a_delayed_end_is_followed_by_the_end_of_its_channel() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    start(&mut harness, worker, "op");
    let alice = reader(&mut harness, worker, 65);
    harness.subscribe(alice, "operation:op");
    harness.discard_frames(alice);
    end(&mut harness, worker, "op");
    harness.unblock_socket(alice);
    let received = harness.received(alice);
    let ends = ["operation op ended completed", "unsubscribed operation:op ended"];
    assert_eq!(received, [&["line 65 replayed"], &ends[..]].concat());
}

#[test]
fn a_subscriber_without_backlog_gets_the_end_at_once() {
    let mut harness = Harness::new();
    let (worker, bob, carol) = (harness.worker(), harness.client("bob"), harness.client("carol"));
    start(&mut harness, worker, "op");
    let alice = reader(&mut harness, worker, 65);
    harness.subscribe(bob, "jobs");
    harness.subscribe(carol, "operation:op");
    harness.discard_frames(bob);
    harness.discard_frames(carol);
    end(&mut harness, worker, "op");
    assert_eq!(harness.received(bob), ["operation op ended completed"]);
    assert_eq!(harness.received(carol), ["operation op ended completed", "unsubscribed operation:op ended"]);
    assert!(harness.received(alice).is_empty());
}

#[test]
fn a_delayed_end_is_handed_over() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    start(&mut harness, worker, "op");
    let alice = reader(&mut harness, worker, 65);
    end(&mut harness, worker, "op");
    harness.hand_over();
    harness.unblock_socket(alice);
    assert_eq!(harness.received(alice), ["line 65 replayed", "operation op ended completed"]);
}

#[test]
fn a_delayed_end_is_dropped_with_its_reader() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    start(&mut harness, worker, "op");
    let alice = reader(&mut harness, worker, 70);
    end(&mut harness, worker, "op");
    harness.send(alice, json!({"action": "unsubscribe", "channel": "jobs"}));
    harness.unblock_socket(alice);
    assert!(harness.received(alice).is_empty(), "nothing of that channel comes after unsubscribing");
}

#[test]
fn each_kind_of_end_carries_what_the_worker_sent() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.subscribe(alice, "jobs");
    for state in ["completed", "failed", "interrupted"] {
        start(&mut harness, worker, "op");
        harness.discard_frames(alice);
        let line =
            json!({"action": "operation_end", "operation_id": "op", "state": state, "data": [1, state]});
        harness.send(worker, line);
        let frame = harness.frames(alice).remove(0);
        assert_eq!((&frame["reason"], &frame["data"]), (&json!(state), &json!([1, state])));
    }
}

#[test]
fn the_last_1024_ended_operations_are_remembered() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    for n in 0..=1024 {
        start(&mut harness, worker, &format!("op{n}"));
        end(&mut harness, worker, &format!("op{n}"));
    }
    let interrupt = |id: &str| json!({"action": "interrupt", "data": {"operation_id": id}});
    assert_eq!(harness.send(alice, interrupt("op1")), ["interrupt_result already_ended"]);
    assert_eq!(harness.send(alice, interrupt("op0")), ["interrupt_result pending"], "the first is forgotten");
}
