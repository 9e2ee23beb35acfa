//! The inbox of a user: one log, one cursor, many connections.
//!
//! Bob is the recipient. The movements of the cursor are in `cursor.rs`.

use serde_json::{Value, json};
use wshubd::hub::settings::Policy;
use wshubd::hub::{SendQueueState, Settings};
use wshubd::protocol::InboxMode::{Ack, Auto, Off};

use super::bench::{Bench, Seat, rights};

/// Somebody who may send to every user.
pub(crate) fn sender(bench: &mut Bench) -> Seat {
    bench.client_with("alice", rights(&["*"], &["*", "@user:*"], &[]))
}

/// Sends `data` to Bob.
pub(crate) fn send(bench: &mut Bench, from: Seat, data: impl Into<Value>) -> Vec<String> {
    bench.say(from, json!({"action": "send", "user_id": "bob", "event": "say", "data": data.into()}))
}

/// Sends the numbers of a range to Bob; a worker is not limited.
pub(crate) fn send_all(bench: &mut Bench, numbers: std::ops::RangeInclusive<u32>) {
    let worker = bench.worker();
    for n in numbers {
        bench.say(worker, json!({"user_id": "bob", "event": "say", "data": n}));
    }
    bench.leave(worker);
}

/// What the next connection of Bob's hears after its greeting. It acknowledges
/// nothing.
pub(crate) fn waits(bench: &mut Bench) -> Vec<String> {
    let probe = bench.client_in("bob", Ack);
    let heard = bench.story(probe);
    bench.leave(probe);
    assert_eq!(heard[0], "connection_established");
    heard[1..].to_vec()
}

pub(crate) fn with_inbox(inbox: Policy) -> Bench {
    Bench::with(Settings { inbox, ..Settings::default() })
}

#[test]
fn connection_established_has_the_epoch_and_what_waits() {
    let mut bench = Bench::open();
    send_all(&mut bench, 1..=3);
    let bob = bench.client_in("bob", Ack);
    let inbox = bench.frames(bob).remove(0)["inbox"].clone();
    assert_eq!(inbox["waiting"], 3);
    assert!(matches!(inbox["epoch"].as_str().unwrap().len(), 1..=16), "{inbox}");
    assert!(inbox["seq"].is_u64(), "{inbox}");
    bench.ack(bob, 2);
    for mode in [Auto, Ack, Off] {
        let next = bench.client_in("bob", mode);
        let told = bench.frames(next).remove(0)["inbox"].clone();
        assert_eq!((&told["waiting"], &told["epoch"]), (&json!(1), &inbox["epoch"]), "{mode:?}");
        bench.leave(next);
    }
    let nobody = bench.stranger();
    assert_eq!(bench.frames(nobody).remove(0).get("inbox"), None);
}

#[test]
fn an_inbox_that_was_never_used_is_empty() {
    let mut bench = Bench::new();
    let bob = bench.client_in("bob", Ack);
    let inbox = bench.frames(bob).remove(0)["inbox"].clone();
    assert_eq!((&inbox["seq"], &inbox["waiting"]), (&json!(0), &json!(0)));
    assert_eq!(bench.inbox_epoch(bob), inbox["epoch"].as_str().unwrap());
}

#[test]
fn every_message_to_a_user_takes_a_position_and_is_kept() {
    let mut bench = Bench::new();
    let alice = sender(&mut bench);
    assert_eq!(send(&mut bench, alice, 1), ["send_success 0 0 kept"]);
    let bob = bench.client_in("bob", Ack);
    bench.hush(bob);
    assert_eq!(send(&mut bench, alice, 2), ["send_success 1 0 kept"]);
    let heard = bench.frames(bob);
    assert_eq!((&heard[0]["seq"], &heard[0]["channel"]), (&json!(2), &json!("@me")));
    assert_eq!(waits(&mut bench), ["say 1 replayed", "say 2 replayed"]);
}

#[test]
fn the_inbox_is_replayed_in_order_and_marked_and_then_live() {
    for mode in [Auto, Ack] {
        let mut bench = Bench::new();
        send_all(&mut bench, 1..=2);
        let bob = bench.client_in("bob", mode);
        send_all(&mut bench, 3..=3);
        let heard = bench.story(bob);
        assert_eq!(heard, ["connection_established", "say 1 replayed", "say 2 replayed", "say 3"]);
    }
}

#[test]
fn a_message_during_the_replay_follows_it() {
    for mode in [Auto, Ack] {
        let mut bench = Bench::new();
        send_all(&mut bench, 1..=2);
        bench.slow_store = true;
        let bob = bench.client_in("bob", mode);
        send_all(&mut bench, 3..=3);
        assert_eq!(bench.story(bob), ["connection_established"]);
        bench.store_answers();
        assert_eq!(bench.story(bob), ["say 1 replayed", "say 2 replayed", "say 3 replayed"]);
        send_all(&mut bench, 4..=4);
        assert_eq!(bench.story(bob), ["say 4"]);
    }
}

#[test]
fn each_connection_of_a_user_receives_all_of_it() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=100);
    let (slow, fast) = (bench.client_in("bob", Ack), bench.client_in("bob", Ack));
    assert_eq!((bench.story(slow).len(), bench.story(fast).len()), (101, 101));
    send_all(&mut bench, 101..=101);
    assert_eq!((bench.story(slow), bench.story(fast)), (vec!["say 101".into()], vec!["say 101".into()]));
}

#[test]
fn a_second_reader_at_another_position_takes_nothing() {
    for mode in [Auto, Ack] {
        let mut bench = Bench::new();
        send_all(&mut bench, 1..=200);
        bench.slow_store = true;
        let slow = bench.client_in("bob", mode);
        bench.clog(slow);
        bench.store_answers();
        bench.drain(slow, 10);
        bench.slow_store = false;
        let fast = bench.client_in("bob", mode);
        assert_eq!(bench.story(fast).last().unwrap(), "say 200 replayed");
        if mode == Ack {
            bench.ack(fast, 200);
        }
        bench.unclog(slow);
        let heard = bench.story(slow);
        assert_eq!((heard.len(), heard.last().unwrap().as_str()), (201, "say 200 replayed"), "{mode:?}");
        assert_eq!(bench.stored(), 0, "and then nobody needs it");
    }
}

#[test]
fn a_connection_slow_for_live_gets_a_replay_and_sheds_nothing() {
    for mode in [Auto, Ack] {
        let mut bench = Bench::new();
        let alice = sender(&mut bench);
        let (slow, fast) = (bench.client_in("bob", mode), bench.client_in("bob", mode));
        bench.hush(slow);
        bench.hush(fast);
        bench.outbound(slow, SendQueueState::Full);
        assert_eq!(send(&mut bench, alice, 1), ["send_success 2 0 kept"]);
        send(&mut bench, alice, 2);
        assert_eq!(bench.story(fast), ["say 1", "say 2"]);
        assert!(bench.story(slow).is_empty());
        bench.outbound(slow, SendQueueState::Empty);
        assert_eq!(bench.story(slow), ["say 1 replayed", "say 2 replayed"]);
        send(&mut bench, alice, 3);
        assert_eq!(bench.story(slow), ["say 3"]);
        assert_eq!(bench.stats()["messages_shed"], 0);
    }
}

#[test]
fn a_connection_full_at_its_replay_gets_it_later() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=3);
    bench.slow_store = true;
    let bob = bench.client_in("bob", Ack);
    bench.hush(bob);
    bench.outbound(bob, SendQueueState::Full);
    bench.store_answers();
    assert!(bench.story(bob).is_empty());
    bench.outbound(bob, SendQueueState::Empty);
    bench.store_answers();
    assert_eq!(bench.story(bob), ["say 1 replayed", "say 2 replayed", "say 3 replayed"]);
}

#[test]
fn with_the_inbox_off_messages_wait() {
    let mut bench = Bench::new();
    let alice = sender(&mut bench);
    let bob = bench.client_in("bob", Off);
    assert_eq!(bench.story(bob), ["connection_established"]);
    assert_eq!(send(&mut bench, alice, 1), ["send_success 0 0 kept"]);
    assert!(bench.story(bob).is_empty());
    assert_eq!(waits(&mut bench), ["say 1 replayed"]);
    assert_eq!(bench.auth(bob, "bob", Some("ack")), ["auth_success bob", "say 1 replayed"]);
    assert_eq!(bench.auth(bob, "bob", Some("off")), ["auth_success bob"]);
    send(&mut bench, alice, 2);
    assert!(bench.story(bob).is_empty());
    assert_eq!(waits(&mut bench), ["say 1 replayed", "say 2 replayed"]);
}

#[test]
fn turning_the_inbox_off_ends_its_replay() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=100);
    bench.slow_store = true;
    let bob = bench.client_in("bob", Ack);
    bench.clog(bob);
    bench.store_answers();
    bench.hush(bob);
    bench.auth(bob, "bob", Some("off"));
    bench.slow_store = false;
    bench.unclog(bob);
    assert!(bench.story(bob).is_empty());
    assert_eq!(waits(&mut bench).len(), 100);
}

#[test]
fn a_newer_token_does_not_replay_the_inbox_again() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=2);
    let bob = bench.client_in("bob", Ack);
    bench.hush(bob);
    assert_eq!(bench.auth(bob, "bob", None), ["auth_success bob"]);
    assert_eq!(bench.auth(bob, "bob", Some("ack")), ["auth_success bob"]);
    assert_eq!(bench.auth(bob, "bob", Some("auto")), ["auth_success bob"]);
}

#[test]
fn an_anonymous_connection_gets_the_inbox_of_its_new_user() {
    let mut bench = Bench::open();
    send_all(&mut bench, 1..=1);
    let bob = bench.stranger();
    bench.hush(bob);
    assert_eq!(bench.auth(bob, "bob", None), ["auth_success bob", "say 1 replayed"]);
    send_all(&mut bench, 2..=2);
    assert_eq!(bench.story(bob), ["say 2"]);
}

#[test]
fn a_message_to_oneself_reaches_every_connection() {
    let mut bench = Bench::new();
    let bob = bench.client_with("bob", rights(&[], &["@user:{user_id}"], &[]));
    let other = bench.client_in("bob", Auto);
    bench.hush(other);
    assert_eq!(send(&mut bench, bob, 1), ["say 1", "send_success 2 0 kept"]);
    assert_eq!(bench.story(other), ["say 1"]);
    let quiet = json!({"action": "send", "user_id": "bob", "event": "say", "data": 2, "echo": false});
    assert_eq!(bench.say(bob, quiet), ["send_success 1 0 kept"]);
    assert_eq!(bench.story(other), ["say 2"]);
}

#[test]
fn an_inbox_is_handed_over() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=3);
    let bob = bench.client_in("bob", Ack);
    let epoch = bench.inbox_epoch(bob);
    bench.ack(bob, 1);
    bench.hush(bob);
    bench.hand_over();
    assert_eq!(waits(&mut bench), ["say 2 replayed", "say 3 replayed"]);
    bench.ack(bob, 2);
    send_all(&mut bench, 4..=4);
    assert_eq!(bench.story(bob), ["say 4"]);
    assert_eq!(waits(&mut bench), ["say 3 replayed", "say 4 replayed"]);
    let next = bench.client_in("bob", Ack);
    assert_eq!(bench.inbox_epoch(next), epoch, "it is the same inbox");
}

#[test]
fn a_durable_message_is_refused_without_a_store() {
    let mut bench = Bench::new();
    let alice = sender(&mut bench);
    let request = json!({"action": "send", "user_id": "bob", "event": "say", "durable": true});
    assert_eq!(bench.say(alice, request), ["error store_unavailable"]);
    assert!(waits(&mut bench).is_empty());
}
