//! A disk that cannot be read: live traffic goes on, and nothing is lost for good.

use serde_json::json;
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{Effect, Pattern, Settings};
use wshubd::protocol::InboxMode;

use super::harness::{ConnectionId, Harness};

fn harness() -> Harness {
    let history = Policy { keep: Keep::History, ..Policy::default() };
    let policies = vec![(Pattern::new("orders"), history)];
    Harness::with(Settings { has_disk: true, policies, ..Settings::default() })
}

/// Publishes numbers on a channel.
fn publish(harness: &mut Harness, channel: &str, numbers: std::ops::RangeInclusive<u64>) {
    let worker = harness.worker();
    for n in numbers {
        harness.send(worker, json!({"channel": channel, "event": "log", "data": n}));
    }
    harness.disconnect(worker);
}

/// Sends numbers to a user.
fn send(harness: &mut Harness, numbers: std::ops::RangeInclusive<u64>) {
    let worker = harness.worker();
    for n in numbers {
        harness.send(worker, json!({"user_id": "bob", "event": "say", "data": n}));
    }
    harness.disconnect(worker);
}

fn all(harness: &mut Harness, conn: ConnectionId, channel: &str) -> Vec<String> {
    let request = json!({"action": "subscribe", "channel": channel, "since": {"epoch": "", "seq": 0}});
    let received = harness.send(conn, request);
    received
        .into_iter()
        .filter(|frame| !frame.starts_with("subscription") && frame != "connection_id")
        .collect()
}

/// The first frames of a new connection of bob's.
fn waits(harness: &mut Harness, mode: InboxMode) -> (ConnectionId, Vec<String>) {
    let conn = harness.client_in("bob", mode);
    (conn, harness.received(conn).split_off(1))
}

fn log(numbers: std::ops::RangeInclusive<u64>) -> Vec<String> {
    numbers.map(|n| format!("log {n} replayed")).collect()
}

#[test]
fn unreadable_messages_are_a_gap_and_stay_for_the_next_reader() {
    let mut harness = harness();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    publish(&mut harness, "orders", 1..=3);
    harness.disk_writes_all();
    harness.disk.unreadable = true;
    publish(&mut harness, "orders", 4..=5);
    assert_eq!(all(&mut harness, alice, "orders"), ["gap 1 3 3 evicted", "log 4 replayed", "log 5 replayed"]);
    publish(&mut harness, "orders", 6..=6);
    assert_eq!(harness.received(alice), ["log 6"]);
    harness.disk.unreadable = false;
    assert_eq!(all(&mut harness, bob, "orders"), log(1..=6));
}

#[test]
fn unreadable_undelivered_messages_wait_for_the_next_reader() {
    let mut harness = harness();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    publish(&mut harness, "logs", 1..=2);
    harness.disk_writes_all();
    harness.disk.unreadable = true;
    publish(&mut harness, "logs", 3..=3);
    let received = harness.subscribe(alice, "logs").split_off(2);
    assert_eq!(received, ["gap 1 2 2 evicted", "log 3 replayed"]);
    harness.disk.unreadable = false;
    assert_eq!(harness.subscribe(bob, "logs").split_off(2), log(1..=2));
    assert_eq!(harness.stored(), 0);
}

#[test]
fn unreadable_messages_in_the_middle_are_a_gap_in_place() {
    let mut harness = harness();
    let alice = harness.client("alice");
    publish(&mut harness, "orders", 1..=2);
    let worker = harness.worker();
    harness.send(worker, json!({"channel": "orders", "event": "log", "data": 3, "durable": true}));
    publish(&mut harness, "orders", 4..=4);
    harness.disk.unreadable = true;
    let received = all(&mut harness, alice, "orders");
    assert_eq!(received, ["log 1 replayed", "log 2 replayed", "gap 3 3 1 evicted", "log 4 replayed"]);
}

#[test]
fn a_message_without_echo_is_not_lost_for_its_sender() {
    let mut harness = harness();
    let alice = harness.client("alice");
    for n in 1..=3 {
        let echo = n != 2;
        harness.send(
            alice,
            json!({"action": "send", "channel": "orders", "event": "log", "data": n, "echo": echo}),
        );
    }
    harness.disk_writes_all();
    harness.disk.unreadable = true;
    assert_eq!(all(&mut harness, alice, "orders"), ["gap 1 1 1 evicted", "gap 3 3 1 evicted"]);
}

#[test]
fn lost_and_unreadable_messages_are_gaps_in_order() {
    let mut harness = harness();
    let alice = harness.client("alice");
    publish(&mut harness, "orders", 1..=1);
    let worker = harness.worker();
    harness.send(worker, json!({"channel": "orders", "event": "log", "data": 2, "ttl": 5}));
    publish(&mut harness, "orders", 3..=3);
    harness.disk_writes_all();
    harness.disk.unreadable = true;
    harness.slow_store = true;
    all(&mut harness, alice, "orders");
    harness.wait(6.0);
    harness.slow_store = false;
    harness.store_answers();
    assert_eq!(harness.received(alice), ["gap 1 1 1 evicted", "gap 2 2 1 expired", "gap 3 3 1 evicted"]);
}

#[test]
fn a_reader_without_room_gets_its_gap_later() {
    let mut harness = harness();
    let alice = harness.client("alice");
    publish(&mut harness, "orders", 1..=2);
    harness.disk_writes_all();
    harness.slow_store = true;
    all(&mut harness, alice, "orders");
    harness.disk.unreadable = true;
    harness.store_answers();
    assert_eq!(harness.received(alice), log(1..=2), "it was asked before");
    harness.slow_store = false;
    harness.send_queue(alice, wshubd::hub::SendQueueState::Full);
    assert!(all(&mut harness, alice, "orders").is_empty());
    harness.send_queue(alice, wshubd::hub::SendQueueState::Empty);
    assert_eq!(harness.received(alice), ["gap 1 2 2 evicted"]);
}

#[test]
fn the_cursor_waits_for_messages_that_were_skipped() {
    for mode in [InboxMode::Auto, InboxMode::Ack] {
        let mut harness = harness();
        send(&mut harness, 1..=2);
        harness.disk_writes_all();
        harness.disk.unreadable = true;
        send(&mut harness, 3..=3);
        let (bob, received) = waits(&mut harness, mode);
        assert_eq!(received, ["gap 1 2 2 evicted", "say 3 replayed"]);
        send(&mut harness, 4..=4);
        assert_eq!(harness.received(bob), ["say 4"]);
        harness.ack(bob, 4);
        harness.disconnect(bob);
        assert_eq!(harness.stored(), 4, "{mode:?}: nobody has had the first");
        harness.disk.unreadable = false;
        let (bob, received) = waits(&mut harness, mode);
        assert_eq!(received, ["say 1 replayed", "say 2 replayed", "say 3 replayed", "say 4 replayed"]);
        harness.ack(bob, 4);
        assert_eq!(harness.stored(), 0, "{mode:?}: it was read after all");
    }
}

#[test]
fn an_inbox_is_read_again_when_the_disk_is_back() {
    for mode in [InboxMode::Auto, InboxMode::Ack] {
        let mut harness = harness();
        send(&mut harness, 1..=2);
        harness.disk_writes_all();
        harness.disk_fails();
        send(&mut harness, 3..=3);
        let (bob, received) = waits(&mut harness, mode);
        assert_eq!(received, ["gap 1 2 2 evicted", "say 3 replayed"]);
        harness.ack(bob, 3);
        harness.disk_works();
        assert_eq!(harness.received(bob), ["say 1 replayed", "say 2 replayed", "say 3 replayed"]);
        harness.ack(bob, 3);
        assert_eq!(harness.stored(), 0, "{mode:?}");
        send(&mut harness, 4..=4);
        assert_eq!(harness.received(bob), ["say 4"], "and hears on");
        harness.disk_works();
        assert!(harness.received(bob).is_empty(), "nothing is left to be read again");
    }
}

#[test]
fn a_busy_reader_starts_over_after_its_present_page() {
    let mut harness = harness();
    send(&mut harness, 1..=2);
    harness.disk_writes_all();
    harness.disk_fails();
    send(&mut harness, 3..=4);
    let bob = harness.anonymous_client();
    harness.block_socket(bob);
    let received = harness.auth(bob, "bob", None);
    assert_eq!(received[received.len() - 3..], ["gap 1 2 2 evicted", "say 3 replayed", "say 4 replayed"]);
    harness.disk_works();
    assert!(harness.received(bob).is_empty(), "its socket has not taken that");
    harness.unblock_socket(bob);
    let received = harness.received(bob);
    assert_eq!(received, ["say 1 replayed", "say 2 replayed", "say 3 replayed", "say 4 replayed"]);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn the_cursor_waits_until_a_socket_took_what_was_skipped() {
    let mut harness = harness();
    send(&mut harness, 1..=3);
    harness.disk_writes_all();
    harness.disk_fails();
    let (bob, _) = waits(&mut harness, InboxMode::Auto);
    harness.block_socket(bob);
    harness.disk_works();
    send(&mut harness, 4..=4);
    assert_eq!(harness.stored(), 4);
    harness.drain(bob, 2);
    assert_eq!(harness.stored(), 2, "as far as it has come");
    harness.disconnect(bob);
    let (_, received) = waits(&mut harness, InboxMode::Auto);
    assert_eq!(received, ["say 3 replayed", "say 4 replayed"]);
}

#[test]
fn an_ack_makes_no_receipt_for_skipped_messages() {
    let mut harness = harness();
    let worker = harness.worker();
    let note = |n: u64| json!({"user_id": "bob", "event": "say", "data": n, "receipt": true});
    harness.send(worker, note(1));
    harness.disk_writes_all();
    harness.disk_fails();
    harness.send(worker, note(2));
    let (bob, _) = waits(&mut harness, InboxMode::Ack);
    harness.ack_read(bob, 2);
    assert!(harness.received(worker).is_empty());
    harness.disk_works();
    harness.ack_read(bob, 2);
    assert_eq!(harness.received(worker).len(), 2);
}

#[test]
fn an_unreadable_disk_holds_the_cursor_until_expiry() {
    let mut harness = harness();
    let worker = harness.worker();
    harness.send(worker, json!({"user_id": "bob", "event": "say", "data": 1, "ttl": 5}));
    harness.disk_writes_all();
    harness.disk_fails();
    send(&mut harness, 2..=2);
    let (bob, _) = waits(&mut harness, InboxMode::Auto);
    assert_eq!(harness.stored(), 2);
    harness.wait(6.0);
    assert_eq!(harness.stored(), 1);
    send(&mut harness, 3..=3);
    assert_eq!(harness.stored(), 0, "nothing is left to wait for");
    harness.disk_works();
    assert_eq!(harness.received(bob), ["say 3"]);
}

#[test]
fn messages_expired_unread_are_announced_to_workers() {
    let mut harness = harness();
    let watcher = harness.worker();
    harness.send(watcher, json!({"action": "subscribe", "channel": "system:undelivered"}));
    let worker = harness.worker();
    harness.send(worker, json!({"user_id": "bob", "event": "say", "data": 1, "ttl": 5}));
    harness.disk_writes_all();
    harness.disk_fails();
    waits(&mut harness, InboxMode::Auto);
    harness.discard_frames(watcher);
    // Its gap can be read again by then.
    harness.disk.unreadable = false;
    harness.wait(6.0);
    let received = harness.frames(watcher);
    assert_eq!((received.len(), &received[0]["data"]["state"]), (1, &json!("expired")));
}

#[test]
fn another_process_reads_skipped_messages_again() {
    let mut harness = harness();
    send(&mut harness, 1..=2);
    harness.disk_writes_all();
    harness.disk_fails();
    let (bob, _) = waits(&mut harness, InboxMode::Auto);
    harness.disk.unreadable = false;
    harness.hand_over();
    assert_eq!(harness.received(bob), ["say 1 replayed", "say 2 replayed"]);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn an_unreadable_disk_is_retried_with_backoff() {
    let mut harness = harness();
    send(&mut harness, 1..=2);
    harness.disk_writes_all();
    harness.disk.unreadable = true;
    let (bob, received) = waits(&mut harness, InboxMode::Auto);
    assert_eq!(received, ["gap 1 2 2 evicted"]);
    send(&mut harness, 3..=3);
    let is_fetch = |effect: &Effect| matches!(effect, Effect::Fetch { .. });
    assert!(!harness.last.list.iter().any(is_fetch));
    assert_eq!(harness.received(bob), ["say 3"]);
}
