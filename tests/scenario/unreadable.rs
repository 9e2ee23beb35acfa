//! A disk that cannot be read: live traffic goes on, and nothing is lost for good.

use serde_json::json;
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{Effect, Pattern, Settings};
use wshubd::protocol::InboxMode;

use super::bench::{Bench, Seat};

fn bench() -> Bench {
    let history = Policy { keep: Keep::History, ..Policy::default() };
    let policies = vec![(Pattern::new("orders"), history)];
    Bench::with(Settings { has_disk: true, policies, ..Settings::default() })
}

/// Publishes numbers on a channel.
fn publish(bench: &mut Bench, channel: &str, numbers: std::ops::RangeInclusive<u64>) {
    let worker = bench.worker();
    for n in numbers {
        bench.say(worker, json!({"channel": channel, "event": "log", "data": n}));
    }
    bench.leave(worker);
}

/// Sends numbers to a user.
fn send(bench: &mut Bench, numbers: std::ops::RangeInclusive<u64>) {
    let worker = bench.worker();
    for n in numbers {
        bench.say(worker, json!({"user_id": "bob", "event": "say", "data": n}));
    }
    bench.leave(worker);
}

fn all(bench: &mut Bench, seat: Seat, channel: &str) -> Vec<String> {
    let request = json!({"action": "subscribe", "channel": channel, "since": {"epoch": "", "seq": 0}});
    let heard = bench.say(seat, request);
    heard.into_iter().filter(|told| !told.starts_with("subscription") && told != "connection_id").collect()
}

/// The first frames of a new connection of bob's.
fn waits(bench: &mut Bench, mode: InboxMode) -> (Seat, Vec<String>) {
    let seat = bench.client_in("bob", mode);
    (seat, bench.story(seat).split_off(1))
}

fn log(numbers: std::ops::RangeInclusive<u64>) -> Vec<String> {
    numbers.map(|n| format!("log {n} replayed")).collect()
}

#[test]
fn unreadable_messages_are_a_gap_and_stay_for_the_next_reader() {
    let mut bench = bench();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    publish(&mut bench, "orders", 1..=3);
    bench.disk_writes_all();
    bench.disk.unreadable = true;
    publish(&mut bench, "orders", 4..=5);
    assert_eq!(all(&mut bench, alice, "orders"), ["gap 1 3 3 evicted", "log 4 replayed", "log 5 replayed"]);
    publish(&mut bench, "orders", 6..=6);
    assert_eq!(bench.story(alice), ["log 6"]);
    bench.disk.unreadable = false;
    assert_eq!(all(&mut bench, bob, "orders"), log(1..=6));
}

#[test]
fn unreadable_undelivered_messages_wait_for_the_next_reader() {
    let mut bench = bench();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    publish(&mut bench, "logs", 1..=2);
    bench.disk_writes_all();
    bench.disk.unreadable = true;
    publish(&mut bench, "logs", 3..=3);
    let heard = bench.subscribe(alice, "logs").split_off(2);
    assert_eq!(heard, ["gap 1 2 2 evicted", "log 3 replayed"]);
    bench.disk.unreadable = false;
    assert_eq!(bench.subscribe(bob, "logs").split_off(2), log(1..=2));
    assert_eq!(bench.stored(), 0);
}

#[test]
fn unreadable_messages_in_the_middle_are_a_gap_in_place() {
    let mut bench = bench();
    let alice = bench.client("alice");
    publish(&mut bench, "orders", 1..=2);
    let worker = bench.worker();
    bench.say(worker, json!({"channel": "orders", "event": "log", "data": 3, "durable": true}));
    publish(&mut bench, "orders", 4..=4);
    bench.disk.unreadable = true;
    let heard = all(&mut bench, alice, "orders");
    assert_eq!(heard, ["log 1 replayed", "log 2 replayed", "gap 3 3 1 evicted", "log 4 replayed"]);
}

#[test]
fn a_message_without_echo_is_not_lost_for_its_sender() {
    let mut bench = bench();
    let alice = bench.client("alice");
    for n in 1..=3 {
        let echo = n != 2;
        bench.say(
            alice,
            json!({"action": "send", "channel": "orders", "event": "log", "data": n, "echo": echo}),
        );
    }
    bench.disk_writes_all();
    bench.disk.unreadable = true;
    assert_eq!(all(&mut bench, alice, "orders"), ["gap 1 1 1 evicted", "gap 3 3 1 evicted"]);
}

#[test]
fn lost_and_unreadable_messages_are_gaps_in_order() {
    let mut bench = bench();
    let alice = bench.client("alice");
    publish(&mut bench, "orders", 1..=1);
    let worker = bench.worker();
    bench.say(worker, json!({"channel": "orders", "event": "log", "data": 2, "ttl": 5}));
    publish(&mut bench, "orders", 3..=3);
    bench.disk_writes_all();
    bench.disk.unreadable = true;
    bench.slow_store = true;
    all(&mut bench, alice, "orders");
    bench.wait(6.0);
    bench.slow_store = false;
    bench.store_answers();
    assert_eq!(bench.story(alice), ["gap 1 1 1 evicted", "gap 2 2 1 expired", "gap 3 3 1 evicted"]);
}

#[test]
fn a_reader_without_room_gets_its_gap_later() {
    let mut bench = bench();
    let alice = bench.client("alice");
    publish(&mut bench, "orders", 1..=2);
    bench.disk_writes_all();
    bench.slow_store = true;
    all(&mut bench, alice, "orders");
    bench.disk.unreadable = true;
    bench.store_answers();
    assert_eq!(bench.story(alice), log(1..=2), "it was asked before");
    bench.slow_store = false;
    bench.outbound(alice, wshubd::hub::SendQueueState::Full);
    assert!(all(&mut bench, alice, "orders").is_empty());
    bench.outbound(alice, wshubd::hub::SendQueueState::Empty);
    assert_eq!(bench.story(alice), ["gap 1 2 2 evicted"]);
}

#[test]
fn the_cursor_waits_for_messages_that_were_skipped() {
    for mode in [InboxMode::Auto, InboxMode::Ack] {
        let mut bench = bench();
        send(&mut bench, 1..=2);
        bench.disk_writes_all();
        bench.disk.unreadable = true;
        send(&mut bench, 3..=3);
        let (bob, heard) = waits(&mut bench, mode);
        assert_eq!(heard, ["gap 1 2 2 evicted", "say 3 replayed"]);
        send(&mut bench, 4..=4);
        assert_eq!(bench.story(bob), ["say 4"]);
        bench.ack(bob, 4);
        bench.leave(bob);
        assert_eq!(bench.stored(), 4, "{mode:?}: nobody has had the first");
        bench.disk.unreadable = false;
        let (bob, heard) = waits(&mut bench, mode);
        assert_eq!(heard, ["say 1 replayed", "say 2 replayed", "say 3 replayed", "say 4 replayed"]);
        bench.ack(bob, 4);
        assert_eq!(bench.stored(), 0, "{mode:?}: it was read after all");
    }
}

#[test]
fn an_inbox_is_read_again_when_the_disk_is_back() {
    for mode in [InboxMode::Auto, InboxMode::Ack] {
        let mut bench = bench();
        send(&mut bench, 1..=2);
        bench.disk_writes_all();
        bench.disk_fails();
        send(&mut bench, 3..=3);
        let (bob, heard) = waits(&mut bench, mode);
        assert_eq!(heard, ["gap 1 2 2 evicted", "say 3 replayed"]);
        bench.ack(bob, 3);
        bench.disk_works();
        assert_eq!(bench.story(bob), ["say 1 replayed", "say 2 replayed", "say 3 replayed"]);
        bench.ack(bob, 3);
        assert_eq!(bench.stored(), 0, "{mode:?}");
        send(&mut bench, 4..=4);
        assert_eq!(bench.story(bob), ["say 4"], "and hears on");
        bench.disk_works();
        assert!(bench.story(bob).is_empty(), "nothing is left to be read again");
    }
}

#[test]
fn a_busy_reader_starts_over_after_its_present_page() {
    let mut bench = bench();
    send(&mut bench, 1..=2);
    bench.disk_writes_all();
    bench.disk_fails();
    send(&mut bench, 3..=4);
    let bob = bench.stranger();
    bench.clog(bob);
    let heard = bench.auth(bob, "bob", None);
    assert_eq!(heard[heard.len() - 3..], ["gap 1 2 2 evicted", "say 3 replayed", "say 4 replayed"]);
    bench.disk_works();
    assert!(bench.story(bob).is_empty(), "its socket has not taken that");
    bench.unclog(bob);
    let heard = bench.story(bob);
    assert_eq!(heard, ["say 1 replayed", "say 2 replayed", "say 3 replayed", "say 4 replayed"]);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn the_cursor_waits_until_a_socket_took_what_was_skipped() {
    let mut bench = bench();
    send(&mut bench, 1..=3);
    bench.disk_writes_all();
    bench.disk_fails();
    let (bob, _) = waits(&mut bench, InboxMode::Auto);
    bench.clog(bob);
    bench.disk_works();
    send(&mut bench, 4..=4);
    assert_eq!(bench.stored(), 4);
    bench.drain(bob, 2);
    assert_eq!(bench.stored(), 2, "as far as it has come");
    bench.leave(bob);
    let (_, heard) = waits(&mut bench, InboxMode::Auto);
    assert_eq!(heard, ["say 3 replayed", "say 4 replayed"]);
}

#[test]
fn an_ack_makes_no_receipt_for_skipped_messages() {
    let mut bench = bench();
    let worker = bench.worker();
    let note = |n: u64| json!({"user_id": "bob", "event": "say", "data": n, "receipt": true});
    bench.say(worker, note(1));
    bench.disk_writes_all();
    bench.disk_fails();
    bench.say(worker, note(2));
    let (bob, _) = waits(&mut bench, InboxMode::Ack);
    bench.ack_read(bob, 2);
    assert!(bench.story(worker).is_empty());
    bench.disk_works();
    bench.ack_read(bob, 2);
    assert_eq!(bench.story(worker).len(), 2);
}

#[test]
fn an_unreadable_disk_holds_the_cursor_until_expiry() {
    let mut bench = bench();
    let worker = bench.worker();
    bench.say(worker, json!({"user_id": "bob", "event": "say", "data": 1, "ttl": 5}));
    bench.disk_writes_all();
    bench.disk_fails();
    send(&mut bench, 2..=2);
    let (bob, _) = waits(&mut bench, InboxMode::Auto);
    assert_eq!(bench.stored(), 2);
    bench.wait(6.0);
    assert_eq!(bench.stored(), 1);
    send(&mut bench, 3..=3);
    assert_eq!(bench.stored(), 0, "nothing is left to wait for");
    bench.disk_works();
    assert_eq!(bench.story(bob), ["say 3"]);
}

#[test]
fn messages_expired_unread_are_announced_to_workers() {
    let mut bench = bench();
    let watcher = bench.worker();
    bench.say(watcher, json!({"action": "subscribe", "channel": "system:undelivered"}));
    let worker = bench.worker();
    bench.say(worker, json!({"user_id": "bob", "event": "say", "data": 1, "ttl": 5}));
    bench.disk_writes_all();
    bench.disk_fails();
    waits(&mut bench, InboxMode::Auto);
    bench.hush(watcher);
    // Its gap can be read again by then.
    bench.disk.unreadable = false;
    bench.wait(6.0);
    let told = bench.frames(watcher);
    assert_eq!((told.len(), &told[0]["data"]["state"]), (1, &json!("expired")));
}

#[test]
fn another_process_reads_skipped_messages_again() {
    let mut bench = bench();
    send(&mut bench, 1..=2);
    bench.disk_writes_all();
    bench.disk_fails();
    let (bob, _) = waits(&mut bench, InboxMode::Auto);
    bench.disk.unreadable = false;
    bench.hand_over();
    assert_eq!(bench.story(bob), ["say 1 replayed", "say 2 replayed"]);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn an_unreadable_disk_is_retried_with_backoff() {
    let mut bench = bench();
    send(&mut bench, 1..=2);
    bench.disk_writes_all();
    bench.disk.unreadable = true;
    let (bob, heard) = waits(&mut bench, InboxMode::Auto);
    assert_eq!(heard, ["gap 1 2 2 evicted"]);
    send(&mut bench, 3..=3);
    let is_fetch = |effect: &Effect| matches!(effect, Effect::Fetch { .. });
    assert!(!bench.last.list.iter().any(is_fetch));
    assert_eq!(bench.story(bob), ["say 3"]);
}
