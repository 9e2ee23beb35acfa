//! The inbox of a user: one log, one cursor, many connections.
//!
//! Bob is the recipient. The movements of the cursor are in `cursor.rs`.

use serde_json::{Value, json};
use wshubd::hub::settings::Policy;
use wshubd::hub::{SendQueueState, Settings};
use wshubd::protocol::InboxMode::{Ack, Auto, Off};

use super::harness::{ConnectionId, Harness, rights};

/// Somebody who may send to every user.
pub(crate) fn sender(harness: &mut Harness) -> ConnectionId {
    harness.client_with("alice", rights(&["*"], &["*", "@user:*"], &[]))
}

/// Sends `data` to Bob.
pub(crate) fn send(harness: &mut Harness, from: ConnectionId, data: impl Into<Value>) -> Vec<String> {
    harness.send(from, json!({"action": "send", "user_id": "bob", "event": "say", "data": data.into()}))
}

/// Sends the numbers of a range to Bob; a worker is not limited.
pub(crate) fn send_all(harness: &mut Harness, numbers: std::ops::RangeInclusive<u32>) {
    let worker = harness.worker();
    for n in numbers {
        harness.send(worker, json!({"user_id": "bob", "event": "say", "data": n}));
    }
    harness.disconnect(worker);
}

/// What the next connection of Bob's hears after its greeting. It acknowledges
/// nothing.
pub(crate) fn waits(harness: &mut Harness) -> Vec<String> {
    let probe = harness.client_in("bob", Ack);
    let received = harness.received(probe);
    harness.disconnect(probe);
    assert_eq!(received[0], "connection_established");
    received[1..].to_vec()
}

pub(crate) fn with_inbox(inbox: Policy) -> Harness {
    Harness::with(Settings { inbox, ..Settings::default() })
}

#[test]
fn connection_established_has_the_epoch_and_what_waits() {
    let mut harness = Harness::open();
    send_all(&mut harness, 1..=3);
    let bob = harness.client_in("bob", Ack);
    let inbox = harness.frames(bob).remove(0)["inbox"].clone();
    assert_eq!(inbox["waiting"], 3);
    assert!(matches!(inbox["epoch"].as_str().unwrap().len(), 1..=16), "{inbox}");
    assert!(inbox["seq"].is_u64(), "{inbox}");
    harness.ack(bob, 2);
    for mode in [Auto, Ack, Off] {
        let next = harness.client_in("bob", mode);
        let greeting = harness.frames(next).remove(0)["inbox"].clone();
        assert_eq!((&greeting["waiting"], &greeting["epoch"]), (&json!(1), &inbox["epoch"]), "{mode:?}");
        harness.disconnect(next);
    }
    let nobody = harness.anonymous_client();
    assert_eq!(harness.frames(nobody).remove(0).get("inbox"), None);
}

#[test]
fn an_inbox_that_was_never_used_is_empty() {
    let mut harness = Harness::new();
    let bob = harness.client_in("bob", Ack);
    let inbox = harness.frames(bob).remove(0)["inbox"].clone();
    assert_eq!((&inbox["seq"], &inbox["waiting"]), (&json!(0), &json!(0)));
    assert_eq!(harness.inbox_epoch(bob), inbox["epoch"].as_str().unwrap());
}

#[test]
fn every_message_to_a_user_takes_a_position_and_is_kept() {
    let mut harness = Harness::new();
    let alice = sender(&mut harness);
    assert_eq!(send(&mut harness, alice, 1), ["send_success 0 0 kept"]);
    let bob = harness.client_in("bob", Ack);
    harness.discard_frames(bob);
    assert_eq!(send(&mut harness, alice, 2), ["send_success 1 0 kept"]);
    let received = harness.frames(bob);
    assert_eq!((&received[0]["seq"], &received[0]["channel"]), (&json!(2), &json!("@me")));
    assert_eq!(waits(&mut harness), ["say 1 replayed", "say 2 replayed"]);
}

#[test]
fn the_inbox_is_replayed_in_order_and_marked_and_then_live() {
    for mode in [Auto, Ack] {
        let mut harness = Harness::new();
        send_all(&mut harness, 1..=2);
        let bob = harness.client_in("bob", mode);
        send_all(&mut harness, 3..=3);
        let received = harness.received(bob);
        assert_eq!(received, ["connection_established", "say 1 replayed", "say 2 replayed", "say 3"]);
    }
}

#[test]
fn a_message_during_the_replay_follows_it() {
    for mode in [Auto, Ack] {
        let mut harness = Harness::new();
        send_all(&mut harness, 1..=2);
        harness.slow_store = true;
        let bob = harness.client_in("bob", mode);
        send_all(&mut harness, 3..=3);
        assert_eq!(harness.received(bob), ["connection_established"]);
        harness.store_answers();
        assert_eq!(harness.received(bob), ["say 1 replayed", "say 2 replayed", "say 3 replayed"]);
        send_all(&mut harness, 4..=4);
        assert_eq!(harness.received(bob), ["say 4"]);
    }
}

#[test]
fn each_connection_of_a_user_receives_all_of_it() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=100);
    let (slow, fast) = (harness.client_in("bob", Ack), harness.client_in("bob", Ack));
    assert_eq!((harness.received(slow).len(), harness.received(fast).len()), (101, 101));
    send_all(&mut harness, 101..=101);
    assert_eq!(
        (harness.received(slow), harness.received(fast)),
        (vec!["say 101".into()], vec!["say 101".into()])
    );
}

#[test]
fn a_second_reader_at_another_position_takes_nothing() {
    for mode in [Auto, Ack] {
        let mut harness = Harness::new();
        send_all(&mut harness, 1..=200);
        harness.slow_store = true;
        let slow = harness.client_in("bob", mode);
        harness.block_socket(slow);
        harness.store_answers();
        harness.drain(slow, 10);
        harness.slow_store = false;
        let fast = harness.client_in("bob", mode);
        assert_eq!(harness.received(fast).last().unwrap(), "say 200 replayed");
        if mode == Ack {
            harness.ack(fast, 200);
        }
        harness.unblock_socket(slow);
        let received = harness.received(slow);
        assert_eq!(
            (received.len(), received.last().unwrap().as_str()),
            (201, "say 200 replayed"),
            "{mode:?}"
        );
        assert_eq!(harness.stored(), 0, "and then nobody needs it");
    }
}

#[test]
fn a_connection_slow_for_live_gets_a_replay_and_sheds_nothing() {
    for mode in [Auto, Ack] {
        let mut harness = Harness::new();
        let alice = sender(&mut harness);
        let (slow, fast) = (harness.client_in("bob", mode), harness.client_in("bob", mode));
        harness.discard_frames(slow);
        harness.discard_frames(fast);
        harness.send_queue(slow, SendQueueState::Full);
        assert_eq!(send(&mut harness, alice, 1), ["send_success 2 0 kept"]);
        send(&mut harness, alice, 2);
        assert_eq!(harness.received(fast), ["say 1", "say 2"]);
        assert!(harness.received(slow).is_empty());
        harness.send_queue(slow, SendQueueState::Empty);
        assert_eq!(harness.received(slow), ["say 1 replayed", "say 2 replayed"]);
        send(&mut harness, alice, 3);
        assert_eq!(harness.received(slow), ["say 3"]);
        assert_eq!(harness.stats()["messages_shed"], 0);
    }
}

#[test]
fn a_connection_full_at_its_replay_gets_it_later() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=3);
    harness.slow_store = true;
    let bob = harness.client_in("bob", Ack);
    harness.discard_frames(bob);
    harness.send_queue(bob, SendQueueState::Full);
    harness.store_answers();
    assert!(harness.received(bob).is_empty());
    harness.send_queue(bob, SendQueueState::Empty);
    harness.store_answers();
    assert_eq!(harness.received(bob), ["say 1 replayed", "say 2 replayed", "say 3 replayed"]);
}

#[test]
fn with_the_inbox_off_messages_wait() {
    let mut harness = Harness::new();
    let alice = sender(&mut harness);
    let bob = harness.client_in("bob", Off);
    assert_eq!(harness.received(bob), ["connection_established"]);
    assert_eq!(send(&mut harness, alice, 1), ["send_success 0 0 kept"]);
    assert!(harness.received(bob).is_empty());
    assert_eq!(waits(&mut harness), ["say 1 replayed"]);
    assert_eq!(harness.auth(bob, "bob", Some("ack")), ["auth_success bob", "say 1 replayed"]);
    assert_eq!(harness.auth(bob, "bob", Some("off")), ["auth_success bob"]);
    send(&mut harness, alice, 2);
    assert!(harness.received(bob).is_empty());
    assert_eq!(waits(&mut harness), ["say 1 replayed", "say 2 replayed"]);
}

#[test]
fn turning_the_inbox_off_ends_its_replay() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=100);
    harness.slow_store = true;
    let bob = harness.client_in("bob", Ack);
    harness.block_socket(bob);
    harness.store_answers();
    harness.discard_frames(bob);
    harness.auth(bob, "bob", Some("off"));
    harness.slow_store = false;
    harness.unblock_socket(bob);
    assert!(harness.received(bob).is_empty());
    assert_eq!(waits(&mut harness).len(), 100);
}

#[test]
fn a_newer_token_does_not_replay_the_inbox_again() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=2);
    let bob = harness.client_in("bob", Ack);
    harness.discard_frames(bob);
    assert_eq!(harness.auth(bob, "bob", None), ["auth_success bob"]);
    assert_eq!(harness.auth(bob, "bob", Some("ack")), ["auth_success bob"]);
    assert_eq!(harness.auth(bob, "bob", Some("auto")), ["auth_success bob"]);
}

#[test]
fn an_anonymous_connection_gets_the_inbox_of_its_new_user() {
    let mut harness = Harness::open();
    send_all(&mut harness, 1..=1);
    let bob = harness.anonymous_client();
    harness.discard_frames(bob);
    assert_eq!(harness.auth(bob, "bob", None), ["auth_success bob", "say 1 replayed"]);
    send_all(&mut harness, 2..=2);
    assert_eq!(harness.received(bob), ["say 2"]);
}

#[test]
fn a_message_to_oneself_reaches_every_connection() {
    let mut harness = Harness::new();
    let bob = harness.client_with("bob", rights(&[], &["@user:{user_id}"], &[]));
    let other = harness.client_in("bob", Auto);
    harness.discard_frames(other);
    assert_eq!(send(&mut harness, bob, 1), ["say 1", "send_success 2 0 kept"]);
    assert_eq!(harness.received(other), ["say 1"]);
    let quiet = json!({"action": "send", "user_id": "bob", "event": "say", "data": 2, "echo": false});
    assert_eq!(harness.send(bob, quiet), ["send_success 1 0 kept"]);
    assert_eq!(harness.received(other), ["say 2"]);
}

#[test]
fn an_inbox_is_handed_over() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=3);
    let bob = harness.client_in("bob", Ack);
    let epoch = harness.inbox_epoch(bob);
    harness.ack(bob, 1);
    harness.discard_frames(bob);
    harness.hand_over();
    assert_eq!(waits(&mut harness), ["say 2 replayed", "say 3 replayed"]);
    harness.ack(bob, 2);
    send_all(&mut harness, 4..=4);
    assert_eq!(harness.received(bob), ["say 4"]);
    assert_eq!(waits(&mut harness), ["say 3 replayed", "say 4 replayed"]);
    let next = harness.client_in("bob", Ack);
    assert_eq!(harness.inbox_epoch(next), epoch, "it is the same inbox");
}

#[test]
fn a_durable_message_is_refused_without_a_store() {
    let mut harness = Harness::new();
    let alice = sender(&mut harness);
    let request = json!({"action": "send", "user_id": "bob", "event": "say", "durable": true});
    assert_eq!(harness.send(alice, request), ["error store_unavailable"]);
    assert!(waits(&mut harness).is_empty());
}
