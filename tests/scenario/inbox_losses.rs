//! Expiry and eviction in an inbox, and the gaps that its user receives.

use std::time::Duration;

use serde_json::json;
use wshubd::hub::settings::Policy;
use wshubd::hub::{SendQueueState, Settings};
use wshubd::protocol::InboxMode::Ack;

use super::harness::Harness;
use super::inbox::{send, send_all, sender, waits, with_inbox};

#[test]
fn a_fleeting_message_reaches_connected_clients_only() {
    let mut harness = Harness::new();
    let alice = sender(&mut harness);
    let fleeting = json!({"action": "send", "user_id": "bob", "event": "say", "data": 1, "ttl": 0});
    assert_eq!(harness.send(alice, fleeting.clone()), ["send_success 0 0 false"]);
    let bob = harness.client_in("bob", Ack);
    harness.discard_frames(bob);
    assert_eq!(harness.send(alice, fleeting), ["send_success 1 0 false"]);
    let received = harness.frames(bob);
    assert_eq!((received.len(), received[0].get("seq"), received[0].get("replayed")), (1, None, None));
    assert!(waits(&mut harness).is_empty());
}

#[test]
fn a_ttl_shortens_the_retention_of_the_policy() {
    let mut harness = with_inbox(Policy { ttl: Duration::from_secs(100), ..Settings::default().inbox });
    let worker = harness.worker();
    for (n, ttl) in [(1, 10), (2, 1000), (3, 50)] {
        harness.send(worker, json!({"user_id": "bob", "event": "say", "data": n, "ttl": ttl}));
    }
    harness.wait(11.0);
    assert_eq!(waits(&mut harness), ["gap 1 1 1 expired", "say 2 replayed", "say 3 replayed"]);
    harness.wait(40.0);
    assert_eq!(harness.stored(), 1);
    harness.wait(50.0);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn messages_expired_in_absence_show_as_a_gap_in_place() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    for (n, ttl) in [(1, 1000), (2, 10), (3, 10), (4, 1000)] {
        harness.send(worker, json!({"user_id": "bob", "event": "say", "data": n, "ttl": ttl}));
    }
    harness.wait(11.0);
    let bob = harness.client_in("bob", Ack);
    let received = harness.frames(bob);
    assert_eq!(received[0]["inbox"]["waiting"], 2, "what is gone does not wait");
    assert_eq!(
        (&received[2]["channel"], &received[2]["epoch"]),
        (&json!("@me"), &received[0]["inbox"]["epoch"])
    );
    let received: Vec<_> = received[1..].iter().map(super::harness::summary).collect();
    assert_eq!(received, ["say 1 replayed", "gap 2 3 2 expired", "say 4 replayed"]);
}

#[test]
fn a_full_inbox_evicts_its_oldest_with_a_gap() {
    let mut harness = with_inbox(Policy { count: 3, ..Settings::default().inbox });
    send_all(&mut harness, 1..=5);
    let kept = ["gap 1 2 2 evicted", "say 3 replayed", "say 4 replayed", "say 5 replayed"];
    assert_eq!(waits(&mut harness), kept);
}

#[test]
fn messages_evicted_during_replay_show_as_a_gap_in_place() {
    let mut harness = with_inbox(Policy { count: 70, ..Settings::default().inbox });
    send_all(&mut harness, 1..=70);
    harness.slow_store = true;
    let bob = harness.client_in("bob", Ack);
    harness.block_socket(bob);
    harness.store_answers();
    harness.discard_frames(bob);
    send_all(&mut harness, 71..=136);
    harness.slow_store = false;
    harness.unblock_socket(bob);
    let received = harness.received(bob);
    assert_eq!(received[..2], ["gap 65 66 2 evicted", "say 67 replayed"]);
    assert_eq!((received.len(), received.last().unwrap().as_str()), (71, "say 136 replayed"));
}

#[test]
fn messages_expired_during_replay_show_as_a_gap_in_place() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    for (n, ttl) in [(1, 1000), (2, 10), (3, 1000)] {
        harness.send(worker, json!({"user_id": "bob", "event": "say", "data": n, "ttl": ttl}));
    }
    let bob = harness.client_in("bob", Ack);
    harness.disconnect(bob);
    harness.slow_store = true;
    let bob = harness.client_in("bob", Ack);
    harness.discard_frames(bob);
    harness.send_queue(bob, SendQueueState::Full);
    harness.store_answers();
    harness.wait(8.0);
    harness.send_queue(bob, SendQueueState::Backlogged);
    harness.wait(3.0);
    harness.slow_store = false;
    harness.send_queue(bob, SendQueueState::Empty);
    assert_eq!(harness.received(bob), ["say 1 replayed", "gap 2 2 1 expired", "say 3 replayed"]);
}

#[test]
fn when_all_logs_are_full_the_largest_inbox_is_evicted() {
    let mut settings = Settings::default();
    settings.limits.kept_bytes = 2000;
    let mut harness = Harness::with(settings);
    let worker = harness.worker();
    harness.send(worker, json!({"user_id": "carol", "event": "say", "data": 1}));
    send_all(&mut harness, 1..=20);
    assert!(harness.stats()["kept_bytes"].as_u64().unwrap() <= 2000);
    let carol = harness.client_in("carol", Ack);
    assert_eq!(harness.received(carol)[1..], ["say 1 replayed"]);
    let received = waits(&mut harness);
    assert!(received[0].starts_with("gap 1 ") && received[0].ends_with(" evicted"), "{received:?}");
    assert_eq!(received.last().unwrap(), "say 20 replayed");
}

#[test]
fn a_message_too_big_for_an_inbox_is_live_only() {
    let mut harness = with_inbox(Policy { bytes: 400, ..Settings::default().inbox });
    let alice = sender(&mut harness);
    let bob = harness.client_in("bob", Ack);
    harness.discard_frames(bob);
    let answer = send(&mut harness, alice, "x".repeat(500));
    assert_eq!(answer, ["send_success 1 0 false"]);
    assert_eq!(harness.frames(bob).len(), 1);
    assert_eq!(send(&mut harness, alice, 2), ["send_success 1 0 kept"]);
    assert_eq!(waits(&mut harness), ["gap 1 1 1 not_kept", "say 2 replayed"]);
}

#[test]
fn a_message_that_just_expired_does_not_wait() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    harness.send(worker, json!({"user_id": "bob", "event": "say", "data": 1, "ttl": 0.2}));
    harness.send(worker, json!({"user_id": "bob", "event": "say", "data": 2}));
    harness.wait(0.3);
    let bob = harness.client_in("bob", Ack);
    let received = harness.frames(bob);
    assert_eq!(received[0]["inbox"]["waiting"], 1);
    let summaries: Vec<_> = received[1..].iter().map(super::harness::summary).collect();
    assert_eq!(summaries, ["gap 1 1 1 expired", "say 2 replayed"]);
}

#[test]
fn a_gap_comes_after_unacknowledged_messages_before_it() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    for (n, ttl) in [(1, 1000), (2, 5)] {
        harness.send(worker, json!({"user_id": "bob", "event": "say", "data": n, "ttl": ttl}));
    }
    harness.wait(5.0);
    let bob = harness.client_in("bob", Ack);
    assert_eq!(harness.received(bob)[1..], ["say 1 replayed", "gap 2 2 1 expired"]);
    harness.ack(bob, 1);
    assert_eq!(waits(&mut harness), ["gap 2 2 1 expired"]);
}
