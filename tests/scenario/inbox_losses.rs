//! Expiry and eviction in an inbox, and the gaps that its user receives.

use std::time::Duration;

use serde_json::json;
use wshubd::hub::settings::Policy;
use wshubd::hub::{SendQueueState, Settings};
use wshubd::protocol::InboxMode::Ack;

use super::bench::Bench;
use super::inbox::{send, send_all, sender, waits, with_inbox};

#[test]
fn a_fleeting_message_reaches_connected_clients_only() {
    let mut bench = Bench::new();
    let alice = sender(&mut bench);
    let fleeting = json!({"action": "send", "user_id": "bob", "event": "say", "data": 1, "ttl": 0});
    assert_eq!(bench.say(alice, fleeting.clone()), ["send_success 0 0 false"]);
    let bob = bench.client_in("bob", Ack);
    bench.hush(bob);
    assert_eq!(bench.say(alice, fleeting), ["send_success 1 0 false"]);
    let heard = bench.frames(bob);
    assert_eq!((heard.len(), heard[0].get("seq"), heard[0].get("replayed")), (1, None, None));
    assert!(waits(&mut bench).is_empty());
}

#[test]
fn a_ttl_shortens_the_retention_of_the_policy() {
    let mut bench = with_inbox(Policy { ttl: Duration::from_secs(100), ..Settings::default().inbox });
    let worker = bench.worker();
    for (n, ttl) in [(1, 10), (2, 1000), (3, 50)] {
        bench.say(worker, json!({"user_id": "bob", "event": "say", "data": n, "ttl": ttl}));
    }
    bench.wait(11.0);
    assert_eq!(waits(&mut bench), ["gap 1 1 1 expired", "say 2 replayed", "say 3 replayed"]);
    bench.wait(40.0);
    assert_eq!(bench.stored(), 1);
    bench.wait(50.0);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn messages_expired_in_absence_show_as_a_gap_in_place() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    for (n, ttl) in [(1, 1000), (2, 10), (3, 10), (4, 1000)] {
        bench.say(worker, json!({"user_id": "bob", "event": "say", "data": n, "ttl": ttl}));
    }
    bench.wait(11.0);
    let bob = bench.client_in("bob", Ack);
    let heard = bench.frames(bob);
    assert_eq!(heard[0]["inbox"]["waiting"], 2, "what is gone does not wait");
    assert_eq!((&heard[2]["channel"], &heard[2]["epoch"]), (&json!("@me"), &heard[0]["inbox"]["epoch"]));
    let heard: Vec<_> = heard[1..].iter().map(super::bench::brief).collect();
    assert_eq!(heard, ["say 1 replayed", "gap 2 3 2 expired", "say 4 replayed"]);
}

#[test]
fn a_full_inbox_evicts_its_oldest_with_a_gap() {
    let mut bench = with_inbox(Policy { count: 3, ..Settings::default().inbox });
    send_all(&mut bench, 1..=5);
    let kept = ["gap 1 2 2 evicted", "say 3 replayed", "say 4 replayed", "say 5 replayed"];
    assert_eq!(waits(&mut bench), kept);
}

#[test]
fn messages_evicted_during_replay_show_as_a_gap_in_place() {
    let mut bench = with_inbox(Policy { count: 70, ..Settings::default().inbox });
    send_all(&mut bench, 1..=70);
    bench.slow_store = true;
    let bob = bench.client_in("bob", Ack);
    bench.clog(bob);
    bench.store_answers();
    bench.hush(bob);
    send_all(&mut bench, 71..=136);
    bench.slow_store = false;
    bench.unclog(bob);
    let heard = bench.story(bob);
    assert_eq!(heard[..2], ["gap 65 66 2 evicted", "say 67 replayed"]);
    assert_eq!((heard.len(), heard.last().unwrap().as_str()), (71, "say 136 replayed"));
}

#[test]
fn messages_expired_during_replay_show_as_a_gap_in_place() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    for (n, ttl) in [(1, 1000), (2, 10), (3, 1000)] {
        bench.say(worker, json!({"user_id": "bob", "event": "say", "data": n, "ttl": ttl}));
    }
    let bob = bench.client_in("bob", Ack);
    bench.leave(bob);
    bench.slow_store = true;
    let bob = bench.client_in("bob", Ack);
    bench.hush(bob);
    bench.outbound(bob, SendQueueState::Full);
    bench.store_answers();
    bench.wait(8.0);
    bench.outbound(bob, SendQueueState::Backlogged);
    bench.wait(3.0);
    bench.slow_store = false;
    bench.outbound(bob, SendQueueState::Empty);
    assert_eq!(bench.story(bob), ["say 1 replayed", "gap 2 2 1 expired", "say 3 replayed"]);
}

#[test]
fn when_all_logs_are_full_the_largest_inbox_is_evicted() {
    let mut settings = Settings::default();
    settings.limits.kept_bytes = 2000;
    let mut bench = Bench::with(settings);
    let worker = bench.worker();
    bench.say(worker, json!({"user_id": "carol", "event": "say", "data": 1}));
    send_all(&mut bench, 1..=20);
    assert!(bench.stats()["kept_bytes"].as_u64().unwrap() <= 2000);
    let carol = bench.client_in("carol", Ack);
    assert_eq!(bench.story(carol)[1..], ["say 1 replayed"]);
    let heard = waits(&mut bench);
    assert!(heard[0].starts_with("gap 1 ") && heard[0].ends_with(" evicted"), "{heard:?}");
    assert_eq!(heard.last().unwrap(), "say 20 replayed");
}

#[test]
fn a_message_too_big_for_an_inbox_is_live_only() {
    let mut bench = with_inbox(Policy { bytes: 400, ..Settings::default().inbox });
    let alice = sender(&mut bench);
    let bob = bench.client_in("bob", Ack);
    bench.hush(bob);
    let answer = send(&mut bench, alice, "x".repeat(500));
    assert_eq!(answer, ["send_success 1 0 false"]);
    assert_eq!(bench.frames(bob).len(), 1);
    assert_eq!(send(&mut bench, alice, 2), ["send_success 1 0 kept"]);
    assert_eq!(waits(&mut bench), ["gap 1 1 1 not_kept", "say 2 replayed"]);
}

#[test]
fn a_message_that_just_expired_does_not_wait() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    bench.say(worker, json!({"user_id": "bob", "event": "say", "data": 1, "ttl": 0.2}));
    bench.say(worker, json!({"user_id": "bob", "event": "say", "data": 2}));
    bench.wait(0.3);
    let bob = bench.client_in("bob", Ack);
    let heard = bench.frames(bob);
    assert_eq!(heard[0]["inbox"]["waiting"], 1);
    let told: Vec<_> = heard[1..].iter().map(super::bench::brief).collect();
    assert_eq!(told, ["gap 1 1 1 expired", "say 2 replayed"]);
}

#[test]
fn a_gap_comes_after_unacknowledged_messages_before_it() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    for (n, ttl) in [(1, 1000), (2, 5)] {
        bench.say(worker, json!({"user_id": "bob", "event": "say", "data": n, "ttl": ttl}));
    }
    bench.wait(5.0);
    let bob = bench.client_in("bob", Ack);
    assert_eq!(bench.story(bob)[1..], ["say 1 replayed", "gap 2 2 1 expired"]);
    bench.ack(bob, 1);
    assert_eq!(waits(&mut bench), ["gap 2 2 1 expired"]);
}
