//! Readers of a history: at different positions, slow, restarted, and disconnected.

use serde_json::json;
use wshubd::hub::SendQueueState;

use super::replay::{COUNT, all, bench, client, publish, replayed, since};

#[test]
fn a_second_subscribe_restarts_the_channel() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    publish(&mut bench, "orders", 1..=3);
    for _ in 0..2 {
        let heard = all(&mut bench, bob, "orders");
        assert_eq!(heard[0], "subscription_succeeded orders 3 recovered");
        assert_eq!(heard[1..], replayed(1..=3));
    }
    publish(&mut bench, "orders", 4..=4);
    assert_eq!(bench.story(bob), ["new 4"], "and is heard once");
}

#[test]
fn a_second_subscribe_during_replay_restarts_at_its_since() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    publish(&mut bench, "orders", 1..=COUNT);
    bench.clog(bob);
    assert_eq!(all(&mut bench, bob, "orders").len(), 1 + 64);
    let heard = since(&mut bench, bob, "orders", 90);
    assert_eq!(heard[0], "subscription_succeeded orders 100 recovered");
    bench.unclog(bob);
    assert_eq!([&heard[1..], &bench.story(bob)[..]].concat(), replayed(91..=100));
}

#[test]
fn a_second_subscribe_without_since_during_replay_is_live() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    publish(&mut bench, "orders", 1..=COUNT);
    bench.clog(bob);
    all(&mut bench, bob, "orders");
    assert_eq!(bench.subscribe(bob, "orders"), ["subscription_succeeded orders 100"]);
    publish(&mut bench, "orders", 101..=101);
    bench.unclog(bob);
    assert_eq!(bench.story(bob), ["new 101"]);
}

#[test]
fn unsubscribing_during_replay_ends_it() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    publish(&mut bench, "orders", 1..=COUNT);
    bench.clog(bob);
    all(&mut bench, bob, "orders");
    let request = json!({"action": "unsubscribe", "channel": "orders"});
    assert_eq!(bench.say(bob, request), ["unsubscribe_succeeded"]);
    bench.unclog(bob);
    publish(&mut bench, "orders", 101..=101);
    assert!(bench.story(bob).is_empty());
    assert_eq!(bench.stored(), COUNT, "a history stays");
}

#[test]
fn two_readers_at_different_positions_each_get_their_own() {
    let mut bench = bench();
    let (bob, carol) = (client(&mut bench, "bob"), client(&mut bench, "carol"));
    publish(&mut bench, "orders", 1..=COUNT);
    bench.clog(bob);
    let mut slow = all(&mut bench, bob, "orders");
    let fast = since(&mut bench, carol, "orders", 50);
    assert_eq!(fast[1..], replayed(51..=100));
    bench.unclog(bob);
    slow.extend(bench.story(bob));
    assert_eq!(slow[1..], replayed(1..=100));
    publish(&mut bench, "orders", 101..=101);
    assert_eq!((bench.story(bob), bench.story(carol)), (vec!["new 101".into()], vec!["new 101".into()]));
}

#[test]
fn a_reader_that_dies_removes_nothing() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    publish(&mut bench, "orders", 1..=COUNT);
    bench.clog(bob);
    all(&mut bench, bob, "orders");
    bench.drain(bob, 30);
    bench.leave(bob);
    let bob = client(&mut bench, "bob");
    assert_eq!(all(&mut bench, bob, "orders")[1..], replayed(1..=100));
}

#[test]
fn losses_during_a_replay_show_in_their_place() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    publish(&mut bench, "orders", 1..=COUNT);
    bench.clog(bob);
    let mut heard = all(&mut bench, bob, "orders");
    publish(&mut bench, "orders", 101..=170);
    bench.unclog(bob);
    heard.extend(bench.story(bob));
    assert_eq!(heard[1..65], replayed(1..=64));
    assert_eq!(heard[65], "gap 65 70 6 evicted");
    assert_eq!(heard[66..], replayed(71..=170));
}

#[test]
fn a_reader_too_slow_for_live_falls_back_to_replay() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    bench.subscribe(bob, "orders");
    publish(&mut bench, "orders", 1..=1);
    bench.outbound(bob, SendQueueState::Full);
    publish(&mut bench, "orders", 2..=4);
    bench.outbound(bob, SendQueueState::Backlogged);
    publish(&mut bench, "orders", 5..=5);
    bench.hush(bob);
    bench.outbound(bob, SendQueueState::Empty);
    assert_eq!(bench.story(bob), replayed(2..=5));
    publish(&mut bench, "orders", 6..=6);
    assert_eq!(bench.story(bob), ["new 6"]);
    assert_eq!(bench.stats()["messages_shed"], 0);
}

#[test]
fn a_reader_too_slow_for_the_history_gets_a_gap() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    bench.subscribe(bob, "orders");
    publish(&mut bench, "orders", 1..=1);
    bench.hush(bob);
    bench.outbound(bob, SendQueueState::Full);
    publish(&mut bench, "orders", 2..=COUNT + 3);
    bench.outbound(bob, SendQueueState::Empty);
    let heard = bench.story(bob);
    assert_eq!(heard[0], "gap 2 3 2 evicted");
    assert_eq!(heard[1..], replayed(4..=COUNT + 3));
}

#[test]
fn without_retention_a_slow_reader_gets_a_count() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    bench.subscribe(bob, "never");
    bench.outbound(bob, SendQueueState::Full);
    publish(&mut bench, "never", 1..=3);
    bench.outbound(bob, SendQueueState::Empty);
    publish(&mut bench, "never", 4..=4);
    assert_eq!(bench.story(bob), ["gap 1 3 3 slow", "new 4"]);
    assert_eq!(since(&mut bench, bob, "never", 4), ["subscription_succeeded never 4 recovered"]);
}
