//! Readers of a history: at different positions, slow, restarted, and disconnected.

use serde_json::json;
use wshubd::hub::SendQueueState;

use super::replay::{COUNT, all, client, harness, publish, replayed, since};

#[test]
fn a_second_subscribe_restarts_the_channel() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    publish(&mut harness, "orders", 1..=3);
    for _ in 0..2 {
        let received = all(&mut harness, bob, "orders");
        assert_eq!(received[0], "subscription_succeeded orders 3 recovered");
        assert_eq!(received[1..], replayed(1..=3));
    }
    publish(&mut harness, "orders", 4..=4);
    assert_eq!(harness.received(bob), ["new 4"], "and is heard once");
}

#[test]
fn a_second_subscribe_during_replay_restarts_at_its_since() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    publish(&mut harness, "orders", 1..=COUNT);
    harness.block_socket(bob);
    assert_eq!(all(&mut harness, bob, "orders").len(), 1 + 64);
    let received = since(&mut harness, bob, "orders", 90);
    assert_eq!(received[0], "subscription_succeeded orders 100 recovered");
    harness.unblock_socket(bob);
    assert_eq!([&received[1..], &harness.received(bob)[..]].concat(), replayed(91..=100));
}

#[test]
fn a_second_subscribe_without_since_during_replay_is_live() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    publish(&mut harness, "orders", 1..=COUNT);
    harness.block_socket(bob);
    all(&mut harness, bob, "orders");
    assert_eq!(harness.subscribe(bob, "orders"), ["subscription_succeeded orders 100"]);
    publish(&mut harness, "orders", 101..=101);
    harness.unblock_socket(bob);
    assert_eq!(harness.received(bob), ["new 101"]);
}

#[test]
fn unsubscribing_during_replay_ends_it() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    publish(&mut harness, "orders", 1..=COUNT);
    harness.block_socket(bob);
    all(&mut harness, bob, "orders");
    let request = json!({"action": "unsubscribe", "channel": "orders"});
    assert_eq!(harness.send(bob, request), ["unsubscribe_succeeded"]);
    harness.unblock_socket(bob);
    publish(&mut harness, "orders", 101..=101);
    assert!(harness.received(bob).is_empty());
    assert_eq!(harness.stored(), COUNT, "a history stays");
}

#[test]
fn two_readers_at_different_positions_each_get_their_own() {
    let mut harness = harness();
    let (bob, carol) = (client(&mut harness, "bob"), client(&mut harness, "carol"));
    publish(&mut harness, "orders", 1..=COUNT);
    harness.block_socket(bob);
    let mut slow = all(&mut harness, bob, "orders");
    let fast = since(&mut harness, carol, "orders", 50);
    assert_eq!(fast[1..], replayed(51..=100));
    harness.unblock_socket(bob);
    slow.extend(harness.received(bob));
    assert_eq!(slow[1..], replayed(1..=100));
    publish(&mut harness, "orders", 101..=101);
    assert_eq!(
        (harness.received(bob), harness.received(carol)),
        (vec!["new 101".into()], vec!["new 101".into()])
    );
}

#[test]
fn a_reader_that_dies_removes_nothing() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    publish(&mut harness, "orders", 1..=COUNT);
    harness.block_socket(bob);
    all(&mut harness, bob, "orders");
    harness.drain(bob, 30);
    harness.disconnect(bob);
    let bob = client(&mut harness, "bob");
    assert_eq!(all(&mut harness, bob, "orders")[1..], replayed(1..=100));
}

#[test]
fn losses_during_a_replay_show_in_their_place() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    publish(&mut harness, "orders", 1..=COUNT);
    harness.block_socket(bob);
    let mut received = all(&mut harness, bob, "orders");
    publish(&mut harness, "orders", 101..=170);
    harness.unblock_socket(bob);
    received.extend(harness.received(bob));
    assert_eq!(received[1..65], replayed(1..=64));
    assert_eq!(received[65], "gap 65 70 6 evicted");
    assert_eq!(received[66..], replayed(71..=170));
}

#[test]
fn a_reader_too_slow_for_live_falls_back_to_replay() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    harness.subscribe(bob, "orders");
    publish(&mut harness, "orders", 1..=1);
    harness.send_queue(bob, SendQueueState::Full);
    publish(&mut harness, "orders", 2..=4);
    harness.send_queue(bob, SendQueueState::Backlogged);
    publish(&mut harness, "orders", 5..=5);
    harness.discard_frames(bob);
    harness.send_queue(bob, SendQueueState::Empty);
    assert_eq!(harness.received(bob), replayed(2..=5));
    publish(&mut harness, "orders", 6..=6);
    assert_eq!(harness.received(bob), ["new 6"]);
    assert_eq!(harness.stats()["messages_shed"], 0);
}

#[test]
fn a_reader_too_slow_for_the_history_gets_a_gap() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    harness.subscribe(bob, "orders");
    publish(&mut harness, "orders", 1..=1);
    harness.discard_frames(bob);
    harness.send_queue(bob, SendQueueState::Full);
    publish(&mut harness, "orders", 2..=COUNT + 3);
    harness.send_queue(bob, SendQueueState::Empty);
    let received = harness.received(bob);
    assert_eq!(received[0], "gap 2 3 2 evicted");
    assert_eq!(received[1..], replayed(4..=COUNT + 3));
}

#[test]
fn without_retention_a_slow_reader_gets_a_count() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    harness.subscribe(bob, "never");
    harness.send_queue(bob, SendQueueState::Full);
    publish(&mut harness, "never", 1..=3);
    harness.send_queue(bob, SendQueueState::Empty);
    publish(&mut harness, "never", 4..=4);
    assert_eq!(harness.received(bob), ["gap 1 3 3 slow", "new 4"]);
    assert_eq!(since(&mut harness, bob, "never", 4), ["subscription_succeeded never 4 recovered"]);
}
