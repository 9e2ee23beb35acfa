//! Replay with `since`: the messages that follow, and the losses announced.
//!
//! Channels `orders` keep a history, `brief` for ten seconds, `never` nothing;
//! others keep undelivered messages.

use std::time::Duration;

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{Pattern, Settings};

use super::harness::{ConnectionId, Harness};

/// How many messages `orders` keeps.
pub(crate) const COUNT: usize = 100;

pub(crate) fn harness() -> Harness {
    let history = Policy { keep: Keep::History, count: COUNT, bytes: 50_000, ..Policy::default() };
    let policies = vec![
        (Pattern::new("orders"), history),
        (Pattern::new("brief"), Policy { ttl: Duration::from_secs(10), ..history }),
        (Pattern::new("never"), Policy { keep: Keep::Never, ..history }),
    ];
    Harness::with(Settings { policies, ..Settings::default() })
}

/// A client that has received its connection id already.
pub(crate) fn client(harness: &mut Harness, user: &str) -> ConnectionId {
    let conn = harness.client(user);
    harness.send(conn, json!({"action": "subscribe", "channel": "elsewhere"}));
    conn
}

pub(crate) fn publish(harness: &mut Harness, channel: &str, numbers: std::ops::RangeInclusive<usize>) {
    let worker = harness.worker();
    for n in numbers {
        harness.send(worker, json!({"channel": channel, "event": "new", "data": n}));
    }
    harness.disconnect(worker);
}

pub(crate) fn epoch(harness: &mut Harness, channel: &str) -> String {
    let probe = client(harness, "probe");
    let received =
        harness.request(probe, json!({"action": "subscribe", "channel": channel, "since": zero()}));
    harness.disconnect(probe);
    received[0]["epoch"].as_str().unwrap().to_owned()
}

pub(crate) fn zero() -> Value {
    json!({"epoch": "", "seq": 0})
}

pub(crate) fn since(harness: &mut Harness, conn: ConnectionId, channel: &str, seq: u64) -> Vec<String> {
    let epoch = epoch(harness, channel);
    let since = json!({"epoch": epoch, "seq": seq});
    harness.send(conn, json!({"action": "subscribe", "channel": channel, "since": since}))
}

pub(crate) fn all(harness: &mut Harness, conn: ConnectionId, channel: &str) -> Vec<String> {
    harness.send(conn, json!({"action": "subscribe", "channel": channel, "since": zero()}))
}

/// `new N replayed` for each number.
pub(crate) fn replayed(numbers: std::ops::RangeInclusive<usize>) -> Vec<String> {
    numbers.map(|n| format!("new {n} replayed")).collect()
}

#[test]
fn recovered_means_replay_after_since_and_then_live() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    publish(&mut harness, "orders", 1..=5);
    let received = since(&mut harness, bob, "orders", 3);
    assert_eq!(received[0], "subscription_succeeded orders 5 recovered");
    assert_eq!(received[1..], replayed(4..=5));
    publish(&mut harness, "orders", 6..=6);
    assert_eq!(harness.received(bob), ["new 6"]);
}

#[test]
fn a_reader_at_the_end_is_recovered_and_live() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    publish(&mut harness, "orders", 1..=5);
    assert_eq!(since(&mut harness, bob, "orders", 5), ["subscription_succeeded orders 5 recovered"]);
    publish(&mut harness, "orders", 6..=6);
    assert_eq!(harness.received(bob), ["new 6"]);
}

#[test]
fn an_empty_epoch_and_zero_request_all_that_is_kept() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    assert_eq!(all(&mut harness, bob, "orders"), ["subscription_succeeded orders 0 recovered"]);
    publish(&mut harness, "orders", 1..=3);
    let carol = client(&mut harness, "carol");
    let received = all(&mut harness, carol, "orders");
    assert_eq!(received[0], "subscription_succeeded orders 3 recovered");
    assert_eq!(received[1..], replayed(1..=3));
    publish(&mut harness, "room", 1..=2);
    let received = all(&mut harness, carol, "room");
    assert_eq!(received[0], "subscription_succeeded room 2 recovered", "under any policy");
    assert_eq!(received[1..], replayed(1..=2));
}

#[test]
fn an_empty_epoch_with_a_position_is_another_epoch() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    publish(&mut harness, "orders", 1..=2);
    let request = json!({"action": "subscribe", "channel": "orders", "since": {"epoch": "", "seq": 1}});
    let received = harness.send(bob, request);
    assert_eq!(received[..2], ["subscription_succeeded orders 2 false", "gap epoch"]);
}

#[test]
fn without_since_a_history_is_live_only() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    publish(&mut harness, "orders", 1..=3);
    assert_eq!(harness.subscribe(bob, "orders"), ["subscription_succeeded orders 3"]);
    publish(&mut harness, "orders", 4..=4);
    assert_eq!(harness.received(bob), ["new 4"]);
}

#[test]
fn evicted_messages_are_a_gap_before_the_kept_ones() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    publish(&mut harness, "orders", 1..=COUNT + 2);
    let received = since(&mut harness, bob, "orders", 1);
    assert_eq!(received[..2], ["subscription_succeeded orders 102 false", "gap 2 2 1 evicted"]);
    assert_eq!(received[2..], replayed(3..=COUNT + 2));
    assert_eq!(since(&mut harness, bob, "orders", 2)[0], "subscription_succeeded orders 102 recovered");
}

#[test]
fn expired_messages_are_a_gap_before_the_kept_ones() {
    let mut harness = harness();
    publish(&mut harness, "brief", 1..=2);
    harness.wait(6.0);
    publish(&mut harness, "brief", 3..=3);
    harness.wait(5.0);
    let bob = client(&mut harness, "bob");
    let received = all(&mut harness, bob, "brief");
    assert_eq!(received, ["subscription_succeeded brief 3 false", "gap 1 2 2 expired", "new 3 replayed"]);
}

#[test]
fn messages_expired_in_the_middle_are_a_counted_gap() {
    let mut harness = harness();
    let worker = harness.worker();
    for (n, ttl) in [(1, 5), (2, 100), (3, 5), (4, 100)] {
        harness.send(worker, json!({"channel": "orders", "event": "new", "data": n, "ttl": ttl}));
    }
    harness.wait(6.0);
    let bob = client(&mut harness, "bob");
    let received = all(&mut harness, bob, "orders");
    let expected = ["subscription_succeeded orders 4 false", "gap 1 3 2 expired"];
    assert_eq!(received, [&expected[..], &["new 2 replayed", "new 4 replayed"]].concat());
}

#[test]
fn messages_no_policy_keeps_are_a_gap() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    publish(&mut harness, "never", 1..=3);
    let expected = ["subscription_succeeded never 3 false", "gap 2 3 2 not_kept"];
    assert_eq!(since(&mut harness, bob, "never", 1), expected);
    assert_eq!(since(&mut harness, bob, "never", 3), ["subscription_succeeded never 3 recovered"]);
}

#[test]
fn a_message_too_big_for_its_log_is_a_not_kept_gap() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=1);
    let worker = harness.worker();
    harness.send(worker, json!({"channel": "orders", "event": "new", "data": "x".repeat(60_000)}));
    publish(&mut harness, "orders", 3..=3);
    let bob = client(&mut harness, "bob");
    let expected = ["subscription_succeeded orders 3 false", "gap 2 2 1 not_kept"];
    assert_eq!(
        all(&mut harness, bob, "orders"),
        [&expected[..], &["new 1 replayed", "new 3 replayed"]].concat()
    );
}

#[test]
fn a_position_of_another_epoch_gets_all_kept_without_a_gap() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=2);
    let bob = client(&mut harness, "bob");
    let request = json!({"action": "subscribe", "channel": "orders", "since": {"epoch": "other", "seq": 7}});
    let received = harness.request(bob, request);
    assert_eq!((&received[0]["recovered"], &received[1]["cause"]), (&json!(false), &json!("epoch")));
    assert_eq!(received[0]["epoch"], received[1]["epoch"]);
    for field in ["from_seq", "to_seq", "lost"] {
        assert_eq!(received[1].get(field), None);
    }
    let rest: Vec<_> = received[2..].iter().map(super::harness::summary).collect();
    assert_eq!(rest, replayed(1..=2));
}

#[test]
fn a_forgotten_channel_has_a_new_epoch() {
    let mut harness = harness();
    let was = {
        publish(&mut harness, "brief", 1..=1);
        epoch(&mut harness, "brief")
    };
    harness.wait(1000.0);
    let bob = client(&mut harness, "bob");
    let request = json!({"action": "subscribe", "channel": "brief", "since": {"epoch": was, "seq": 1}});
    assert_eq!(harness.send(bob, request), ["subscription_succeeded brief 0 false", "gap epoch"]);
}

#[test]
fn with_the_default_policy_since_recovers_the_undelivered() {
    let mut harness = harness();
    let (bob, carol) = (client(&mut harness, "bob"), client(&mut harness, "carol"));
    harness.subscribe(bob, "room");
    publish(&mut harness, "room", 1..=2);
    harness.send(bob, json!({"action": "unsubscribe", "channel": "room"}));
    publish(&mut harness, "room", 3..=4);
    harness.discard_frames(bob);
    let was = harness.request(bob, json!({"action": "subscribe", "channel": "room", "since": zero()}));
    let epoch = was[0]["epoch"].clone();
    let summaries: Vec<_> = was.iter().map(super::harness::summary).collect();
    assert_eq!(
        summaries,
        ["subscription_succeeded room 4 false", "gap 1 2 2 not_kept", "new 3 replayed", "new 4 replayed"]
    );
    let request = json!({"action": "subscribe", "channel": "room", "since": {"epoch": epoch, "seq": 4}});
    assert_eq!(harness.send(carol, request), ["subscription_succeeded room 4 recovered"]);
}

#[test]
fn a_fleeting_message_takes_no_position() {
    let mut harness = harness();
    let worker = harness.worker();
    publish(&mut harness, "orders", 1..=1);
    harness.send(worker, json!({"channel": "orders", "event": "new", "data": 0, "ttl": 0}));
    publish(&mut harness, "orders", 2..=2);
    let bob = client(&mut harness, "bob");
    let received = all(&mut harness, bob, "orders");
    assert_eq!(received[0], "subscription_succeeded orders 2 recovered");
    assert_eq!(received[1..], replayed(1..=2));
}

#[test]
fn a_reconnecting_publisher_gets_its_own_messages() {
    let mut harness = harness();
    let alice = client(&mut harness, "alice");
    harness.subscribe(alice, "orders");
    assert_eq!(harness.publish(alice, "orders", 1), ["say 1", "send_success 1 0 kept"]);
    harness.disconnect(alice);
    let alice = client(&mut harness, "alice");
    assert_eq!(all(&mut harness, alice, "orders")[1..], ["say 1 replayed"]);
}

#[test]
fn a_history_is_handed_over() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=3);
    let was = epoch(&mut harness, "orders");
    harness.hand_over();
    publish(&mut harness, "orders", 4..=4);
    let bob = client(&mut harness, "bob");
    let request = json!({"action": "subscribe", "channel": "orders", "since": {"epoch": was, "seq": 2}});
    let received = harness.send(bob, request);
    assert_eq!(received[0], "subscription_succeeded orders 4 recovered");
    assert_eq!(received[1..], replayed(3..=4));
}

#[test]
fn in_a_list_each_channel_has_its_own_since_and_replay() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=2);
    publish(&mut harness, "never", 1..=2);
    let bob = client(&mut harness, "bob");
    let list = json!([{"channel": "never", "since": zero()}, {"channel": "orders", "since": zero()}]);
    let received = harness.send(bob, json!({"action": "subscribe", "channels": list}));
    let first = ["subscription_succeeded never 2 false", "gap 1 2 2 not_kept"];
    let second = ["subscription_succeeded orders 2 recovered", "new 1 replayed", "new 2 replayed"];
    for part in [&first[..], &second[..]] {
        let at: Vec<_> =
            part.iter().map(|line| received.iter().position(|received| received == line)).collect();
        assert!(at.is_sorted() && at[0].is_some(), "{received:?}");
    }
    assert_eq!(received.len(), 5);
}

#[test]
fn a_message_that_just_expired_is_not_recovered() {
    let mut harness = harness();
    let (worker, bob) = (harness.worker(), client(&mut harness, "bob"));
    publish(&mut harness, "orders", 1..=1);
    harness.send(worker, json!({"channel": "orders", "event": "new", "data": 2, "ttl": 0.2}));
    harness.wait(0.3);
    let expected = ["subscription_succeeded orders 2 false", "gap 2 2 1 expired", "new 1 replayed"];
    assert_eq!(all(&mut harness, bob, "orders"), expected);
}
