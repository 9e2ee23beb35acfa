//! Replay with `since`: the messages that follow, and the losses announced.
//!
//! Channels `orders` keep a history, `brief` for ten seconds, `never` nothing;
//! others keep undelivered messages.

use std::time::Duration;

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{Pattern, Settings};

use super::bench::{Bench, Seat};

/// How many messages `orders` keeps.
pub(crate) const COUNT: usize = 100;

pub(crate) fn bench() -> Bench {
    let history = Policy { keep: Keep::History, count: COUNT, bytes: 50_000, ..Policy::default() };
    let policies = vec![
        (Pattern::new("orders"), history),
        (Pattern::new("brief"), Policy { ttl: Duration::from_secs(10), ..history }),
        (Pattern::new("never"), Policy { keep: Keep::Never, ..history }),
    ];
    Bench::with(Settings { policies, ..Settings::default() })
}

/// A client that has received its connection id already.
pub(crate) fn client(bench: &mut Bench, user: &str) -> Seat {
    let seat = bench.client(user);
    bench.say(seat, json!({"action": "subscribe", "channel": "elsewhere"}));
    seat
}

pub(crate) fn publish(bench: &mut Bench, channel: &str, numbers: std::ops::RangeInclusive<usize>) {
    let worker = bench.worker();
    for n in numbers {
        bench.say(worker, json!({"channel": channel, "event": "new", "data": n}));
    }
    bench.leave(worker);
}

pub(crate) fn epoch(bench: &mut Bench, channel: &str) -> String {
    let probe = client(bench, "probe");
    let heard = bench.ask(probe, json!({"action": "subscribe", "channel": channel, "since": zero()}));
    bench.leave(probe);
    heard[0]["epoch"].as_str().unwrap().to_owned()
}

pub(crate) fn zero() -> Value {
    json!({"epoch": "", "seq": 0})
}

pub(crate) fn since(bench: &mut Bench, seat: Seat, channel: &str, seq: u64) -> Vec<String> {
    let epoch = epoch(bench, channel);
    let since = json!({"epoch": epoch, "seq": seq});
    bench.say(seat, json!({"action": "subscribe", "channel": channel, "since": since}))
}

pub(crate) fn all(bench: &mut Bench, seat: Seat, channel: &str) -> Vec<String> {
    bench.say(seat, json!({"action": "subscribe", "channel": channel, "since": zero()}))
}

/// `new N replayed` for each number.
pub(crate) fn replayed(numbers: std::ops::RangeInclusive<usize>) -> Vec<String> {
    numbers.map(|n| format!("new {n} replayed")).collect()
}

#[test]
fn recovered_means_replay_after_since_and_then_live() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    publish(&mut bench, "orders", 1..=5);
    let heard = since(&mut bench, bob, "orders", 3);
    assert_eq!(heard[0], "subscription_succeeded orders 5 recovered");
    assert_eq!(heard[1..], replayed(4..=5));
    publish(&mut bench, "orders", 6..=6);
    assert_eq!(bench.story(bob), ["new 6"]);
}

#[test]
fn a_reader_at_the_end_is_recovered_and_live() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    publish(&mut bench, "orders", 1..=5);
    assert_eq!(since(&mut bench, bob, "orders", 5), ["subscription_succeeded orders 5 recovered"]);
    publish(&mut bench, "orders", 6..=6);
    assert_eq!(bench.story(bob), ["new 6"]);
}

#[test]
fn an_empty_epoch_and_zero_request_all_that_is_kept() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    assert_eq!(all(&mut bench, bob, "orders"), ["subscription_succeeded orders 0 recovered"]);
    publish(&mut bench, "orders", 1..=3);
    let carol = client(&mut bench, "carol");
    let heard = all(&mut bench, carol, "orders");
    assert_eq!(heard[0], "subscription_succeeded orders 3 recovered");
    assert_eq!(heard[1..], replayed(1..=3));
    publish(&mut bench, "room", 1..=2);
    let heard = all(&mut bench, carol, "room");
    assert_eq!(heard[0], "subscription_succeeded room 2 recovered", "under any policy");
    assert_eq!(heard[1..], replayed(1..=2));
}

#[test]
fn an_empty_epoch_with_a_position_is_another_epoch() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    publish(&mut bench, "orders", 1..=2);
    let request = json!({"action": "subscribe", "channel": "orders", "since": {"epoch": "", "seq": 1}});
    let heard = bench.say(bob, request);
    assert_eq!(heard[..2], ["subscription_succeeded orders 2 false", "gap epoch"]);
}

#[test]
fn without_since_a_history_is_live_only() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    publish(&mut bench, "orders", 1..=3);
    assert_eq!(bench.subscribe(bob, "orders"), ["subscription_succeeded orders 3"]);
    publish(&mut bench, "orders", 4..=4);
    assert_eq!(bench.story(bob), ["new 4"]);
}

#[test]
fn evicted_messages_are_a_gap_before_the_kept_ones() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    publish(&mut bench, "orders", 1..=COUNT + 2);
    let heard = since(&mut bench, bob, "orders", 1);
    assert_eq!(heard[..2], ["subscription_succeeded orders 102 false", "gap 2 2 1 evicted"]);
    assert_eq!(heard[2..], replayed(3..=COUNT + 2));
    assert_eq!(since(&mut bench, bob, "orders", 2)[0], "subscription_succeeded orders 102 recovered");
}

#[test]
fn expired_messages_are_a_gap_before_the_kept_ones() {
    let mut bench = bench();
    publish(&mut bench, "brief", 1..=2);
    bench.wait(6.0);
    publish(&mut bench, "brief", 3..=3);
    bench.wait(5.0);
    let bob = client(&mut bench, "bob");
    let heard = all(&mut bench, bob, "brief");
    assert_eq!(heard, ["subscription_succeeded brief 3 false", "gap 1 2 2 expired", "new 3 replayed"]);
}

#[test]
fn messages_expired_in_the_middle_are_a_counted_gap() {
    let mut bench = bench();
    let worker = bench.worker();
    for (n, ttl) in [(1, 5), (2, 100), (3, 5), (4, 100)] {
        bench.say(worker, json!({"channel": "orders", "event": "new", "data": n, "ttl": ttl}));
    }
    bench.wait(6.0);
    let bob = client(&mut bench, "bob");
    let heard = all(&mut bench, bob, "orders");
    let told = ["subscription_succeeded orders 4 false", "gap 1 3 2 expired"];
    assert_eq!(heard, [&told[..], &["new 2 replayed", "new 4 replayed"]].concat());
}

#[test]
fn messages_no_policy_keeps_are_a_gap() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    publish(&mut bench, "never", 1..=3);
    let told = ["subscription_succeeded never 3 false", "gap 2 3 2 not_kept"];
    assert_eq!(since(&mut bench, bob, "never", 1), told);
    assert_eq!(since(&mut bench, bob, "never", 3), ["subscription_succeeded never 3 recovered"]);
}

#[test]
fn a_message_too_big_for_its_log_is_a_not_kept_gap() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=1);
    let worker = bench.worker();
    bench.say(worker, json!({"channel": "orders", "event": "new", "data": "x".repeat(60_000)}));
    publish(&mut bench, "orders", 3..=3);
    let bob = client(&mut bench, "bob");
    let told = ["subscription_succeeded orders 3 false", "gap 2 2 1 not_kept"];
    assert_eq!(all(&mut bench, bob, "orders"), [&told[..], &["new 1 replayed", "new 3 replayed"]].concat());
}

#[test]
fn a_position_of_another_epoch_gets_all_kept_without_a_gap() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=2);
    let bob = client(&mut bench, "bob");
    let request = json!({"action": "subscribe", "channel": "orders", "since": {"epoch": "other", "seq": 7}});
    let heard = bench.ask(bob, request);
    assert_eq!((&heard[0]["recovered"], &heard[1]["cause"]), (&json!(false), &json!("epoch")));
    assert_eq!(heard[0]["epoch"], heard[1]["epoch"]);
    for field in ["from_seq", "to_seq", "lost"] {
        assert_eq!(heard[1].get(field), None);
    }
    let rest: Vec<_> = heard[2..].iter().map(super::bench::brief).collect();
    assert_eq!(rest, replayed(1..=2));
}

#[test]
fn a_forgotten_channel_has_a_new_epoch() {
    let mut bench = bench();
    let was = {
        publish(&mut bench, "brief", 1..=1);
        epoch(&mut bench, "brief")
    };
    bench.wait(1000.0);
    let bob = client(&mut bench, "bob");
    let request = json!({"action": "subscribe", "channel": "brief", "since": {"epoch": was, "seq": 1}});
    assert_eq!(bench.say(bob, request), ["subscription_succeeded brief 0 false", "gap epoch"]);
}

#[test]
fn with_the_default_policy_since_recovers_the_undelivered() {
    let mut bench = bench();
    let (bob, carol) = (client(&mut bench, "bob"), client(&mut bench, "carol"));
    bench.subscribe(bob, "room");
    publish(&mut bench, "room", 1..=2);
    bench.say(bob, json!({"action": "unsubscribe", "channel": "room"}));
    publish(&mut bench, "room", 3..=4);
    bench.hush(bob);
    let was = bench.ask(bob, json!({"action": "subscribe", "channel": "room", "since": zero()}));
    let epoch = was[0]["epoch"].clone();
    let told: Vec<_> = was.iter().map(super::bench::brief).collect();
    assert_eq!(
        told,
        ["subscription_succeeded room 4 false", "gap 1 2 2 not_kept", "new 3 replayed", "new 4 replayed"]
    );
    let request = json!({"action": "subscribe", "channel": "room", "since": {"epoch": epoch, "seq": 4}});
    assert_eq!(bench.say(carol, request), ["subscription_succeeded room 4 recovered"]);
}

#[test]
fn a_fleeting_message_takes_no_position() {
    let mut bench = bench();
    let worker = bench.worker();
    publish(&mut bench, "orders", 1..=1);
    bench.say(worker, json!({"channel": "orders", "event": "new", "data": 0, "ttl": 0}));
    publish(&mut bench, "orders", 2..=2);
    let bob = client(&mut bench, "bob");
    let heard = all(&mut bench, bob, "orders");
    assert_eq!(heard[0], "subscription_succeeded orders 2 recovered");
    assert_eq!(heard[1..], replayed(1..=2));
}

#[test]
fn a_reconnecting_publisher_gets_its_own_messages() {
    let mut bench = bench();
    let alice = client(&mut bench, "alice");
    bench.subscribe(alice, "orders");
    assert_eq!(bench.publish(alice, "orders", 1), ["say 1", "send_success 1 0 kept"]);
    bench.leave(alice);
    let alice = client(&mut bench, "alice");
    assert_eq!(all(&mut bench, alice, "orders")[1..], ["say 1 replayed"]);
}

#[test]
fn a_history_is_handed_over() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=3);
    let was = epoch(&mut bench, "orders");
    bench.hand_over();
    publish(&mut bench, "orders", 4..=4);
    let bob = client(&mut bench, "bob");
    let request = json!({"action": "subscribe", "channel": "orders", "since": {"epoch": was, "seq": 2}});
    let heard = bench.say(bob, request);
    assert_eq!(heard[0], "subscription_succeeded orders 4 recovered");
    assert_eq!(heard[1..], replayed(3..=4));
}

#[test]
fn in_a_list_each_channel_has_its_own_since_and_replay() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=2);
    publish(&mut bench, "never", 1..=2);
    let bob = client(&mut bench, "bob");
    let list = json!([{"channel": "never", "since": zero()}, {"channel": "orders", "since": zero()}]);
    let heard = bench.say(bob, json!({"action": "subscribe", "channels": list}));
    let first = ["subscription_succeeded never 2 false", "gap 1 2 2 not_kept"];
    let second = ["subscription_succeeded orders 2 recovered", "new 1 replayed", "new 2 replayed"];
    for part in [&first[..], &second[..]] {
        let at: Vec<_> = part.iter().map(|line| heard.iter().position(|heard| heard == line)).collect();
        assert!(at.is_sorted() && at[0].is_some(), "{heard:?}");
    }
    assert_eq!(heard.len(), 5);
}

#[test]
fn a_message_that_just_expired_is_not_recovered() {
    let mut bench = bench();
    let (worker, bob) = (bench.worker(), client(&mut bench, "bob"));
    publish(&mut bench, "orders", 1..=1);
    bench.say(worker, json!({"channel": "orders", "event": "new", "data": 2, "ttl": 0.2}));
    bench.wait(0.3);
    let told = ["subscription_succeeded orders 2 false", "gap 2 2 1 expired", "new 1 replayed"];
    assert_eq!(all(&mut bench, bob, "orders"), told);
}
