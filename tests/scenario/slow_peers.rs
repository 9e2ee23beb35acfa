//! Slow and stalled peers.

use serde_json::json;
use wshubd::hub::{Anomaly, Effect, Input, SendQueueState};

use super::bench::Bench;

#[test]
fn messages_shed_for_a_full_connection_are_one_gap_in_place() {
    let mut bench = Bench::new();
    let (worker, alice, bob) = (bench.worker(), bench.client("alice"), bench.client("bob"));
    bench.subscribe(alice, "logs");
    bench.subscribe(bob, "logs");
    bench.hush(bob);
    bench.outbound(bob, SendQueueState::Full);
    for n in 1..=3 {
        let line = json!({"channel": "logs", "event": "log", "data": n, "id": 1});
        bench.say(worker, line);
    }
    bench.outbound(bob, SendQueueState::Backlogged);
    bench.say(worker, json!({"channel": "logs", "event": "log", "data": 4}));
    assert!(bench.story(bob).is_empty());
    bench.outbound(bob, SendQueueState::Empty);
    bench.say(worker, json!({"channel": "logs", "event": "log", "data": 5}));
    assert_eq!(bench.story(bob), ["gap 1 4 4 slow", "log 5"]);
    assert_eq!(bench.stats()["messages_shed"], 4);
}

#[test]
fn a_gap_comes_before_the_end_of_an_operation() {
    let mut bench = Bench::new();
    let (worker, alice, bob) = (bench.worker(), bench.client("alice"), bench.client("bob"));
    bench.subscribe(alice, "logs");
    bench.subscribe(bob, "logs");
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "logs"}));
    bench.hush(bob);
    bench.outbound(bob, SendQueueState::Full);
    bench.say(worker, json!({"channel": "logs", "event": "log", "data": 1}));
    bench.say(worker, json!({"action": "operation_end", "operation_id": "op", "state": "completed"}));
    assert_eq!(bench.story(bob), ["gap 1 1 1 slow", "operation op ended completed"]);
}

#[test]
fn a_sender_learns_for_how_many_a_message_was_shed() {
    let mut bench = Bench::new();
    let (alice, bob, carol) = (bench.client("alice"), bench.client("bob"), bench.client("carol"));
    for seat in [alice, bob, carol] {
        bench.subscribe(seat, "room");
    }
    bench.outbound(bob, SendQueueState::Full);
    assert_eq!(bench.publish(alice, "room", 1).last().unwrap(), "send_success 2 1 false");
}

#[test]
fn a_message_only_for_a_full_connection_is_kept_for_it() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.subscribe(bob, "room");
    bench.hush(bob);
    bench.outbound(bob, SendQueueState::Full);
    assert_eq!(bench.publish(alice, "room", 1), ["send_success 1 0 kept"]);
    bench.publish(alice, "room", 2);
    bench.outbound(bob, SendQueueState::Empty);
    assert_eq!(bench.story(bob), ["say 1 replayed", "say 2 replayed"]);
    bench.publish(alice, "room", 3);
    assert_eq!(bench.story(bob), ["say 3"]);
}

#[test]
fn a_page_read_while_the_connection_was_full_is_read_again() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.slow_store = true;
    bench.publish(alice, "room", 1);
    bench.subscribe(bob, "room");
    bench.hush(bob);
    bench.outbound(bob, SendQueueState::Full);
    bench.store_answers();
    assert!(bench.story(bob).is_empty());
    bench.outbound(bob, SendQueueState::Empty);
    bench.store_answers();
    assert_eq!(bench.story(bob), ["say 1 replayed"]);
}

#[test]
fn answers_and_operations_reach_a_full_connection() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.subscribe(alice, "jobs");
    bench.hush(alice);
    bench.outbound(alice, SendQueueState::Full);
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    assert_eq!(bench.say(alice, json!({"action": "ping"})), ["operation op started", "pong"]);
}

#[test]
fn a_connection_that_accepts_no_byte_for_ten_seconds_is_closed() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    bench.outbound(alice, SendQueueState::Backlogged);
    bench.wait(8.0);
    bench.handle(Input::WriteProgress { conn: alice });
    bench.outbound(alice, SendQueueState::Full);
    bench.wait(9.0);
    assert!(bench.story(alice).is_empty(), "it took something");
    bench.wait(2.0);
    assert_eq!(bench.story(alice), ["closed 4202"]);
    let stats = bench.stats();
    assert_eq!((&stats["closed_slow"], &stats["total_connections"]), (&json!(1), &json!(0)));
}

#[test]
fn a_connection_that_takes_all_in_time_is_not_closed() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    bench.outbound(alice, SendQueueState::Full);
    bench.wait(9.0);
    bench.outbound(alice, SendQueueState::Empty);
    bench.wait(20.0);
    assert!(bench.story(alice).is_empty());
}

#[test]
fn the_owner_of_an_operation_is_not_closed_and_gets_a_gap() {
    let mut bench = Bench::new();
    let (worker, idle, alice) = (bench.worker(), bench.worker(), bench.client("alice"));
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    bench.subscribe(worker, "jobs");
    let bob = bench.client("bob");
    bench.subscribe(alice, "jobs");
    bench.subscribe(bob, "jobs");
    bench.outbound(worker, SendQueueState::Full);
    bench.outbound(idle, SendQueueState::Full);
    bench.publish(alice, "jobs", 1);
    bench.wait(40.0);
    assert_eq!(bench.story(idle), ["closed 4202"]);
    assert!(bench.story(worker).is_empty());
    bench.outbound(worker, SendQueueState::Empty);
    assert_eq!(bench.story(worker), ["gap 1 1 1 slow"]);
}

#[test]
fn a_stalled_connection_is_logged() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    bench.outbound(alice, SendQueueState::Full);
    bench.now.moment = bench.hub.deadline().unwrap();
    bench.handle(Input::Timeout);
    let said = |effect: &Effect| matches!(effect, Effect::LogAnomaly(Anomaly::Stalled { conn, .. }) if *conn == alice);
    assert!(bench.last.list.iter().any(said));
}

#[test]
fn a_gap_of_shed_messages_precedes_one_of_later_expiry() {
    let mut bench = Bench::new();
    let (worker, alice, bob) = (bench.worker(), bench.client("alice"), bench.client("bob"));
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    bench.subscribe(worker, "room");
    bench.subscribe(alice, "room");
    bench.outbound(worker, SendQueueState::Full);
    bench.publish(bob, "room", 1);
    bench.say(alice, json!({"action": "send", "channel": "room", "event": "say", "ttl": 5}));
    bench.wait(6.0);
    assert_eq!(bench.story(worker), ["gap 1 1 1 slow", "gap 2 2 1 expired"]);
}
