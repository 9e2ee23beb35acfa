//! Recovery of a disk that cannot be read when the daemon starts, and can be later.
//!
//! Meanwhile the hub serves, and assigns numbers; what is found then was sent
//! before, and is still to be delivered.

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy, WriteThrough};
use wshubd::hub::{Pattern, Settings};
use wshubd::protocol::InboxMode::{Ack, Auto};

use super::harness::{ConnectionId, Harness};
use super::inbox::{send_all, waits};
use super::replay::{all, client, publish, replayed, zero};

/// Numbers that clients can count with are below this.
const MOST: u64 = 1 << 53;

fn harness() -> Harness {
    let history = Policy { keep: Keep::History, disk: WriteThrough::Behind, ..Policy::default() };
    let policies = vec![(Pattern::new("orders"), history)];
    Harness::with(Settings { has_disk: true, policies, ..Settings::default() })
}

/// What was said is on the disk; the daemon is killed, and starts on a disk that
/// cannot be read.
fn crash_into_the_dark(harness: &mut Harness) {
    harness.disk_writes_behind();
    harness.disk_fails();
    harness.crash();
}

/// Bob, in a greeting's words.
fn come(harness: &mut Harness, mode: wshubd::protocol::InboxMode) -> (ConnectionId, Value) {
    let conn = harness.client_in("bob", mode);
    let greeting = harness.frames(conn).remove(0);
    (conn, greeting["inbox"].clone())
}

fn seqs(frames: &[Value]) -> Vec<u64> {
    frames
        .iter()
        .filter(|frame| frame["type"] == "message")
        .map(|frame| frame["seq"].as_u64().unwrap())
        .collect()
}

#[test]
fn live_messages_get_numbers_that_the_disk_cannot_have() {
    let mut harness = harness();
    publish(&mut harness, "room", 1..=3);
    crash_into_the_dark(&mut harness);
    let alice = client(&mut harness, "alice");
    let seq =
        harness.request(alice, json!({"action": "subscribe", "channel": "room"}))[0]["seq"].as_u64().unwrap();
    assert!((1 << 32..MOST / 2).contains(&seq), "{seq}");
    publish(&mut harness, "room", 4..=4);
    assert_eq!(seqs(&harness.frames(alice)), [seq + 1]);
}

#[test]
fn since_of_everything_is_answered_as_not_recovered() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=3);
    crash_into_the_dark(&mut harness);
    publish(&mut harness, "orders", 4..=4);
    let alice = client(&mut harness, "alice");
    let received = all(&mut harness, alice, "orders");
    assert!(received[0].ends_with(" false"), "{received:?}");
    assert_eq!(received[1..], ["gap epoch", "new 4 replayed"]);
}

#[test]
fn a_history_gains_its_older_part_without_a_gap() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=3);
    crash_into_the_dark(&mut harness);
    publish(&mut harness, "orders", 4..=5);
    let alice = client(&mut harness, "alice");
    harness.subscribe(alice, "orders");
    harness.disk_works();
    assert!(harness.received(alice).is_empty(), "who hears it live hears nothing of it");
    let carol = client(&mut harness, "carol");
    let received = all(&mut harness, carol, "orders");
    assert!(received[0].ends_with(" recovered"), "{received:?}");
    assert_eq!(received[1..], replayed(1..=5));
}

#[test]
fn a_position_in_the_older_part_belongs_to_the_same_epoch() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=3);
    crash_into_the_dark(&mut harness);
    publish(&mut harness, "orders", 4..=4);
    harness.disk_works();
    let alice = client(&mut harness, "alice");
    let received =
        harness.request(alice, json!({"action": "subscribe", "channel": "orders", "since": zero()}));
    let (epoch, second) = (received[0]["epoch"].clone(), seqs(&received)[1]);
    let since = json!({"epoch": epoch, "seq": second});
    let received = harness.send(alice, json!({"action": "subscribe", "channel": "orders", "since": since}));
    assert!(received[0].ends_with(" recovered"), "{received:?}");
    assert_eq!(received[1..], replayed(3..=4));
}

#[test]
fn a_reader_loses_nothing_when_the_older_part_is_found() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=3);
    crash_into_the_dark(&mut harness);
    publish(&mut harness, "orders", 4..=5);
    harness.slow_store = true;
    let alice = client(&mut harness, "alice");
    all(&mut harness, alice, "orders");
    harness.disk_works();
    harness.slow_store = false;
    harness.store_answers();
    assert_eq!(harness.received(alice), replayed(1..=5));
}

#[test]
fn subscribers_get_undelivered_messages_when_found() {
    let mut harness = harness();
    publish(&mut harness, "room", 1..=2);
    crash_into_the_dark(&mut harness);
    let (alice, carol) = (client(&mut harness, "alice"), client(&mut harness, "carol"));
    harness.subscribe(alice, "room");
    harness.subscribe(carol, "room");
    publish(&mut harness, "room", 3..=3);
    harness.disk_works();
    publish(&mut harness, "room", 4..=4);
    let wanted = ["new 3", "new 1 replayed", "new 2 replayed", "new 4"];
    assert_eq!(
        (harness.received(alice), harness.received(carol)),
        (wanted.map(str::to_owned).into(), wanted.map(str::to_owned).into())
    );
    assert_eq!(harness.stored(), 0);
}

#[test]
fn messages_during_the_late_replay_follow_it() {
    let mut harness = harness();
    publish(&mut harness, "room", 1..=2);
    crash_into_the_dark(&mut harness);
    let alice = client(&mut harness, "alice");
    harness.subscribe(alice, "room");
    publish(&mut harness, "room", 3..=3);
    harness.block_socket(alice);
    harness.disk_works();
    publish(&mut harness, "room", 4..=4);
    assert_eq!(harness.received(alice), ["new 3", "new 1 replayed", "new 2 replayed"]);
    harness.unblock_socket(alice);
    assert_eq!(harness.received(alice), ["new 4 replayed"]);
}

#[test]
fn a_backlog_reader_goes_back_for_older_ones_without_doubles() {
    let mut harness = harness();
    publish(&mut harness, "room", 1..=2);
    crash_into_the_dark(&mut harness);
    publish(&mut harness, "room", 3..=100);
    let alice = client(&mut harness, "alice");
    harness.block_socket(alice);
    assert_eq!(harness.subscribe(alice, "room")[1..], replayed(3..=66));
    harness.drain(alice, 10);
    harness.disk_works();
    harness.unblock_socket(alice);
    assert_eq!(harness.received(alice), [replayed(1..=2), replayed(67..=100)].concat());
    assert_eq!(harness.stored(), 0);
}

#[test]
fn a_channel_without_subscribers_keeps_its_backlog_in_order() {
    let mut harness = harness();
    publish(&mut harness, "room", 1..=2);
    crash_into_the_dark(&mut harness);
    publish(&mut harness, "room", 3..=4);
    harness.disk_works();
    let alice = client(&mut harness, "alice");
    assert_eq!(harness.subscribe(alice, "room")[1..], replayed(1..=4));
}

#[test]
fn a_connected_user_gets_the_inbox_when_it_is_found() {
    for mode in [Auto, Ack] {
        let mut harness = harness();
        send_all(&mut harness, 1..=2);
        crash_into_the_dark(&mut harness);
        let (bob, inbox) = come(&mut harness, mode);
        assert_eq!(inbox["waiting"], 0);
        send_all(&mut harness, 3..=3);
        assert_eq!(harness.received(bob), ["say 3"]);
        let seq = inbox["seq"].as_u64().unwrap() + 1;
        harness.ack(bob, seq);
        harness.disk_works();
        assert_eq!(harness.received(bob), ["say 1 replayed", "say 2 replayed"], "{mode:?}");
        harness.ack(bob, 2);
        assert!(waits(&mut harness).is_empty(), "{mode:?}");
        assert_eq!(harness.stored(), 0);
    }
}

#[test]
fn a_newer_ack_does_not_cover_older_messages_found_later() {
    let mut harness = harness();
    send_all(&mut harness, 1..=2);
    crash_into_the_dark(&mut harness);
    let (bob, inbox) = come(&mut harness, Ack);
    send_all(&mut harness, 3..=3);
    let third = inbox["seq"].as_u64().unwrap() + 1;
    harness.disk_works();
    // On its way when the older ones were queued.
    harness.ack(bob, third);
    harness.disconnect(bob);
    assert_eq!(waits(&mut harness), ["say 1 replayed", "say 2 replayed", "say 3 replayed"]);
    let (bob, _) = come(&mut harness, Ack);
    send_all(&mut harness, 4..=4);
    harness.ack(bob, third + 1);
    assert!(waits(&mut harness).is_empty(), "of all this it has heard everything");
}

#[test]
fn a_live_frame_taken_late_does_not_hide_older_messages() {
    let mut harness = harness();
    send_all(&mut harness, 1..=2);
    crash_into_the_dark(&mut harness);
    let (bob, _) = come(&mut harness, Auto);
    harness.slow(bob);
    send_all(&mut harness, 3..=3);
    harness.disk_works();
    harness.carry(bob, 1);
    assert_eq!(harness.received(bob), ["say 3"]);
    harness.cut(bob, 0);
    assert_eq!(waits(&mut harness), ["say 1 replayed", "say 2 replayed", "say 3 replayed"]);
}

#[test]
fn the_inbox_of_an_absent_user_is_complete_and_in_order() {
    let mut harness = harness();
    send_all(&mut harness, 1..=2);
    crash_into_the_dark(&mut harness);
    send_all(&mut harness, 3..=4);
    harness.disk_works();
    let wanted = ["say 1 replayed", "say 2 replayed", "say 3 replayed", "say 4 replayed"];
    assert_eq!(waits(&mut harness), wanted);
    harness.restart();
    assert_eq!(waits(&mut harness), wanted, "and has it after a restart");
    harness.crash();
    assert_eq!(waits(&mut harness), wanted, "and after a crash");
}

#[test]
fn an_unreadable_inbox_is_not_skipped_after_a_clean_stop() {
    for mode in [Auto, Ack] {
        let mut harness = harness();
        send_all(&mut harness, 1..=3);
        let (bob, before) = come(&mut harness, Ack);
        harness.ack(bob, 1);
        let remains = harness.end();
        harness.disk_fails();
        harness.begin(Some(&remains), 0);
        let (bob, inbox) = come(&mut harness, mode);
        assert_eq!((&inbox["epoch"], &inbox["waiting"]), (&before["epoch"], &json!(0)));
        send_all(&mut harness, 4..=4);
        harness.ack(bob, 4);
        assert_eq!(harness.received(bob), ["say 4"]);
        harness.disk_works();
        assert_eq!(harness.received(bob), ["say 2 replayed", "say 3 replayed"]);
        harness.ack(bob, 3);
        assert!(waits(&mut harness).is_empty());
        assert_eq!(harness.stored(), 0);
    }
}

#[test]
fn an_unreadable_history_is_a_gap_only_until_it_is_read() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=3);
    let probe = client(&mut harness, "probe");
    let epoch =
        harness.request(probe, json!({"action": "subscribe", "channel": "orders"}))[0]["epoch"].clone();
    let remains = harness.end();
    harness.disk_fails();
    harness.begin(Some(&remains), 0);
    let subscribe = json!({"action": "subscribe", "channel": "orders", "since": {"epoch": epoch, "seq": 1}});
    let bob = client(&mut harness, "bob");
    let expected = ["subscription_succeeded orders 3 false", "gap 2 3 2 not_kept"];
    assert_eq!(harness.send(bob, subscribe.clone()), expected);
    publish(&mut harness, "orders", 4..=4);
    assert_eq!(harness.received(bob), ["new 4"]);
    harness.disk_works();
    let received = harness.send(bob, subscribe);
    assert_eq!(received[0], "subscription_succeeded orders 4 recovered");
    assert_eq!(received[1..], replayed(2..=4));
}

#[test]
fn a_kill_while_unreadable_does_not_reuse_numbers() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=3);
    harness.disk_writes_behind();
    harness.disk_fails();
    harness.kill();
    let alice = client(&mut harness, "alice");
    let seq = |received: &[Value]| received[0]["seq"].as_u64().unwrap();
    let subscribe = |channel: &str| json!({"action": "subscribe", "channel": channel});
    assert_eq!(seq(&harness.request(alice, subscribe("orders"))), 3, "of this one it is known");
    assert!(seq(&harness.request(alice, subscribe("room"))) >= 1 << 32);
    publish(&mut harness, "orders", 4..=4);
    harness.disk_works();
    assert_eq!(all(&mut harness, alice, "orders")[2..], replayed(1..=4));
}

#[test]
fn new_channels_begin_at_one_once_all_is_found() {
    let mut harness = harness();
    crash_into_the_dark(&mut harness);
    publish(&mut harness, "room", 1..=1);
    harness.disk_works();
    let alice = client(&mut harness, "alice");
    assert_eq!(harness.subscribe(alice, "other"), ["subscription_succeeded other 0"]);
    let received = all(&mut harness, alice, "room");
    assert!(received[0].ends_with(" recovered"), "{received:?}");
    assert_eq!(received[1..], replayed(1..=1), "nothing is missing below");
}

#[test]
fn a_second_start_while_unreadable_hides_nothing() {
    let mut harness = harness();
    publish(&mut harness, "room", 1..=2);
    crash_into_the_dark(&mut harness);
    publish(&mut harness, "room", 3..=4);
    harness.disk_works();
    harness.wait(1.0);
    crash_into_the_dark(&mut harness);
    publish(&mut harness, "room", 5..=6);
    harness.disk_works();
    let alice = client(&mut harness, "alice");
    assert_eq!(harness.subscribe(alice, "room")[1..], replayed(1..=6));
}

#[test]
fn unreadable_starts_with_the_clock_set_back_lose_order_only() {
    let mut harness = harness();
    send_all(&mut harness, 1..=2);
    publish(&mut harness, "room", 1..=2);
    harness.disk_fails();
    harness.crash();
    send_all(&mut harness, 3..=4);
    publish(&mut harness, "room", 3..=4);
    harness.disk_works();
    harness.disk_writes_behind();
    harness.now.wall.0 = 0;
    harness.disk_fails();
    harness.crash();
    let alice = client(&mut harness, "alice");
    let (bob, _) = come(&mut harness, Auto);
    harness.subscribe(alice, "room");
    send_all(&mut harness, 5..=5);
    publish(&mut harness, "room", 5..=5);
    harness.disk_works();
    let received = harness.received(alice);
    assert_eq!(received, ["new 5", "gap epoch", "new 3 replayed", "new 4 replayed"]);
    assert_eq!(harness.received(bob), ["say 5", "gap epoch", "say 3 replayed", "say 4 replayed"]);
    send_all(&mut harness, 6..=6);
    assert_eq!(harness.received(bob), ["say 6"]);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn a_handover_while_unreadable_still_finds_everything() {
    let mut harness = harness();
    send_all(&mut harness, 1..=2);
    publish(&mut harness, "room", 1..=2);
    crash_into_the_dark(&mut harness);
    publish(&mut harness, "room", 3..=3);
    let (bob, _) = come(&mut harness, Auto);
    harness.hand_over();
    harness.disk_works();
    assert_eq!(harness.received(bob), ["say 1 replayed", "say 2 replayed"]);
    let alice = client(&mut harness, "alice");
    assert_eq!(harness.subscribe(alice, "room")[1..], replayed(1..=3));
}

#[test]
fn messages_that_expired_while_unreadable_are_not_delivered() {
    let mut harness = harness();
    let worker = harness.worker();
    harness.send(worker, json!({"user_id": "bob", "event": "say", "data": 1, "ttl": 10}));
    send_all(&mut harness, 2..=2);
    crash_into_the_dark(&mut harness);
    let (bob, _) = come(&mut harness, Ack);
    harness.keep_alive(11);
    harness.discard_frames(bob);
    harness.disk_works();
    assert_eq!(harness.received(bob), ["gap 1 1 1 expired", "say 2 replayed"]);
}
