//! Slow and stalled peers.

use serde_json::json;
use wshubd::hub::{Anomaly, Effect, Input, SendQueueState};

use super::harness::Harness;

#[test]
fn messages_shed_for_a_full_connection_are_one_gap_in_place() {
    let mut harness = Harness::new();
    let (worker, alice, bob) = (harness.worker(), harness.client("alice"), harness.client("bob"));
    harness.subscribe(alice, "logs");
    harness.subscribe(bob, "logs");
    harness.discard_frames(bob);
    harness.send_queue(bob, SendQueueState::Full);
    for n in 1..=3 {
        let line = json!({"channel": "logs", "event": "log", "data": n, "id": 1});
        harness.send(worker, line);
    }
    harness.send_queue(bob, SendQueueState::Backlogged);
    harness.send(worker, json!({"channel": "logs", "event": "log", "data": 4}));
    assert!(harness.received(bob).is_empty());
    harness.send_queue(bob, SendQueueState::Empty);
    harness.send(worker, json!({"channel": "logs", "event": "log", "data": 5}));
    assert_eq!(harness.received(bob), ["gap 1 4 4 slow", "log 5"]);
    assert_eq!(harness.stats()["messages_shed"], 4);
}

#[test]
fn a_gap_comes_before_the_end_of_an_operation() {
    let mut harness = Harness::new();
    let (worker, alice, bob) = (harness.worker(), harness.client("alice"), harness.client("bob"));
    harness.subscribe(alice, "logs");
    harness.subscribe(bob, "logs");
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "logs"}));
    harness.discard_frames(bob);
    harness.send_queue(bob, SendQueueState::Full);
    harness.send(worker, json!({"channel": "logs", "event": "log", "data": 1}));
    harness.send(worker, json!({"action": "operation_end", "operation_id": "op", "state": "completed"}));
    assert_eq!(harness.received(bob), ["gap 1 1 1 slow", "operation op ended completed"]);
}

#[test]
fn a_sender_learns_for_how_many_a_message_was_shed() {
    let mut harness = Harness::new();
    let (alice, bob, carol) = (harness.client("alice"), harness.client("bob"), harness.client("carol"));
    for conn in [alice, bob, carol] {
        harness.subscribe(conn, "room");
    }
    harness.send_queue(bob, SendQueueState::Full);
    assert_eq!(harness.publish(alice, "room", 1).last().unwrap(), "send_success 2 1 false");
}

#[test]
fn a_message_only_for_a_full_connection_is_kept_for_it() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(bob, "room");
    harness.discard_frames(bob);
    harness.send_queue(bob, SendQueueState::Full);
    assert_eq!(harness.publish(alice, "room", 1), ["send_success 1 0 kept"]);
    harness.publish(alice, "room", 2);
    harness.send_queue(bob, SendQueueState::Empty);
    assert_eq!(harness.received(bob), ["say 1 replayed", "say 2 replayed"]);
    harness.publish(alice, "room", 3);
    assert_eq!(harness.received(bob), ["say 3"]);
}

#[test]
fn a_page_read_while_the_connection_was_full_is_read_again() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.slow_store = true;
    harness.publish(alice, "room", 1);
    harness.subscribe(bob, "room");
    harness.discard_frames(bob);
    harness.send_queue(bob, SendQueueState::Full);
    harness.store_answers();
    assert!(harness.received(bob).is_empty());
    harness.send_queue(bob, SendQueueState::Empty);
    harness.store_answers();
    assert_eq!(harness.received(bob), ["say 1 replayed"]);
}

#[test]
fn answers_and_operations_reach_a_full_connection() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.subscribe(alice, "jobs");
    harness.discard_frames(alice);
    harness.send_queue(alice, SendQueueState::Full);
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    assert_eq!(harness.send(alice, json!({"action": "ping"})), ["operation op started", "pong"]);
}

#[test]
fn a_connection_that_accepts_no_byte_for_ten_seconds_is_closed() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.send_queue(alice, SendQueueState::Backlogged);
    harness.wait(8.0);
    harness.handle(Input::WriteProgress { conn: alice });
    harness.send_queue(alice, SendQueueState::Full);
    harness.wait(9.0);
    assert!(harness.received(alice).is_empty(), "it took something");
    harness.wait(2.0);
    assert_eq!(harness.received(alice), ["closed 4202"]);
    let stats = harness.stats();
    assert_eq!((&stats["closed_slow"], &stats["total_connections"]), (&json!(1), &json!(0)));
}

#[test]
fn a_connection_that_takes_all_in_time_is_not_closed() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.send_queue(alice, SendQueueState::Full);
    harness.wait(9.0);
    harness.send_queue(alice, SendQueueState::Empty);
    harness.wait(20.0);
    assert!(harness.received(alice).is_empty());
}

#[test]
fn the_owner_of_an_operation_is_not_closed_and_gets_a_gap() {
    let mut harness = Harness::new();
    let (worker, idle, alice) = (harness.worker(), harness.worker(), harness.client("alice"));
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    harness.subscribe(worker, "jobs");
    let bob = harness.client("bob");
    harness.subscribe(alice, "jobs");
    harness.subscribe(bob, "jobs");
    harness.send_queue(worker, SendQueueState::Full);
    harness.send_queue(idle, SendQueueState::Full);
    harness.publish(alice, "jobs", 1);
    harness.wait(40.0);
    assert_eq!(harness.received(idle), ["closed 4202"]);
    assert!(harness.received(worker).is_empty());
    harness.send_queue(worker, SendQueueState::Empty);
    assert_eq!(harness.received(worker), ["gap 1 1 1 slow"]);
}

#[test]
fn a_stalled_connection_is_logged() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.send_queue(alice, SendQueueState::Full);
    harness.now.moment = harness.hub.deadline().unwrap();
    harness.handle(Input::Timeout);
    let is_stalled = |effect: &Effect| matches!(effect, Effect::LogAnomaly(Anomaly::Stalled { conn, .. }) if *conn == alice);
    assert!(harness.last.list.iter().any(is_stalled));
}

#[test]
fn a_gap_of_shed_messages_precedes_one_of_later_expiry() {
    let mut harness = Harness::new();
    let (worker, alice, bob) = (harness.worker(), harness.client("alice"), harness.client("bob"));
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    harness.subscribe(worker, "room");
    harness.subscribe(alice, "room");
    harness.send_queue(worker, SendQueueState::Full);
    harness.publish(bob, "room", 1);
    harness.send(alice, json!({"action": "send", "channel": "room", "event": "say", "ttl": 5}));
    harness.wait(6.0);
    assert_eq!(harness.received(worker), ["gap 1 1 1 slow", "gap 2 2 1 expired"]);
}
