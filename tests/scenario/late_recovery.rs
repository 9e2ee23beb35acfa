//! Recovery of a disk that cannot be read when the daemon starts, and can be later.
//!
//! Meanwhile the hub serves, and assigns numbers; what is found then was sent
//! before, and is still to be delivered.

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy, WriteThrough};
use wshubd::hub::{Pattern, Settings};
use wshubd::protocol::InboxMode::{Ack, Auto};

use super::bench::{Bench, Seat};
use super::inbox::{send_all, waits};
use super::replay::{all, client, publish, replayed, zero};

/// Numbers that clients can count with are below this.
const MOST: u64 = 1 << 53;

fn bench() -> Bench {
    let history = Policy { keep: Keep::History, disk: WriteThrough::Behind, ..Policy::default() };
    let policies = vec![(Pattern::new("orders"), history)];
    Bench::with(Settings { has_disk: true, policies, ..Settings::default() })
}

/// What was said is on the disk; the daemon is killed, and starts on a disk that
/// cannot be read.
fn crash_into_the_dark(bench: &mut Bench) {
    bench.disk_writes_behind();
    bench.disk_fails();
    bench.crash();
}

/// Bob, in a greeting's words.
fn come(bench: &mut Bench, mode: wshubd::protocol::InboxMode) -> (Seat, Value) {
    let seat = bench.client_in("bob", mode);
    let greeting = bench.frames(seat).remove(0);
    (seat, greeting["inbox"].clone())
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
    let mut bench = bench();
    publish(&mut bench, "room", 1..=3);
    crash_into_the_dark(&mut bench);
    let alice = client(&mut bench, "alice");
    let seq = bench.ask(alice, json!({"action": "subscribe", "channel": "room"}))[0]["seq"].as_u64().unwrap();
    assert!((1 << 32..MOST / 2).contains(&seq), "{seq}");
    publish(&mut bench, "room", 4..=4);
    assert_eq!(seqs(&bench.frames(alice)), [seq + 1]);
}

#[test]
fn since_of_everything_is_answered_as_not_recovered() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=3);
    crash_into_the_dark(&mut bench);
    publish(&mut bench, "orders", 4..=4);
    let alice = client(&mut bench, "alice");
    let heard = all(&mut bench, alice, "orders");
    assert!(heard[0].ends_with(" false"), "{heard:?}");
    assert_eq!(heard[1..], ["gap epoch", "new 4 replayed"]);
}

#[test]
fn a_history_gains_its_older_part_without_a_gap() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=3);
    crash_into_the_dark(&mut bench);
    publish(&mut bench, "orders", 4..=5);
    let alice = client(&mut bench, "alice");
    bench.subscribe(alice, "orders");
    bench.disk_works();
    assert!(bench.story(alice).is_empty(), "who hears it live hears nothing of it");
    let carol = client(&mut bench, "carol");
    let heard = all(&mut bench, carol, "orders");
    assert!(heard[0].ends_with(" recovered"), "{heard:?}");
    assert_eq!(heard[1..], replayed(1..=5));
}

#[test]
fn a_position_in_the_older_part_belongs_to_the_same_epoch() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=3);
    crash_into_the_dark(&mut bench);
    publish(&mut bench, "orders", 4..=4);
    bench.disk_works();
    let alice = client(&mut bench, "alice");
    let heard = bench.ask(alice, json!({"action": "subscribe", "channel": "orders", "since": zero()}));
    let (epoch, second) = (heard[0]["epoch"].clone(), seqs(&heard)[1]);
    let since = json!({"epoch": epoch, "seq": second});
    let heard = bench.say(alice, json!({"action": "subscribe", "channel": "orders", "since": since}));
    assert!(heard[0].ends_with(" recovered"), "{heard:?}");
    assert_eq!(heard[1..], replayed(3..=4));
}

#[test]
fn a_reader_loses_nothing_when_the_older_part_is_found() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=3);
    crash_into_the_dark(&mut bench);
    publish(&mut bench, "orders", 4..=5);
    bench.slow_store = true;
    let alice = client(&mut bench, "alice");
    all(&mut bench, alice, "orders");
    bench.disk_works();
    bench.slow_store = false;
    bench.store_answers();
    assert_eq!(bench.story(alice), replayed(1..=5));
}

#[test]
fn subscribers_get_undelivered_messages_when_found() {
    let mut bench = bench();
    publish(&mut bench, "room", 1..=2);
    crash_into_the_dark(&mut bench);
    let (alice, carol) = (client(&mut bench, "alice"), client(&mut bench, "carol"));
    bench.subscribe(alice, "room");
    bench.subscribe(carol, "room");
    publish(&mut bench, "room", 3..=3);
    bench.disk_works();
    publish(&mut bench, "room", 4..=4);
    let wanted = ["new 3", "new 1 replayed", "new 2 replayed", "new 4"];
    assert_eq!(
        (bench.story(alice), bench.story(carol)),
        (wanted.map(str::to_owned).into(), wanted.map(str::to_owned).into())
    );
    assert_eq!(bench.stored(), 0);
}

#[test]
fn messages_during_the_late_replay_follow_it() {
    let mut bench = bench();
    publish(&mut bench, "room", 1..=2);
    crash_into_the_dark(&mut bench);
    let alice = client(&mut bench, "alice");
    bench.subscribe(alice, "room");
    publish(&mut bench, "room", 3..=3);
    bench.clog(alice);
    bench.disk_works();
    publish(&mut bench, "room", 4..=4);
    assert_eq!(bench.story(alice), ["new 3", "new 1 replayed", "new 2 replayed"]);
    bench.unclog(alice);
    assert_eq!(bench.story(alice), ["new 4 replayed"]);
}

#[test]
fn a_backlog_reader_goes_back_for_older_ones_without_doubles() {
    let mut bench = bench();
    publish(&mut bench, "room", 1..=2);
    crash_into_the_dark(&mut bench);
    publish(&mut bench, "room", 3..=100);
    let alice = client(&mut bench, "alice");
    bench.clog(alice);
    assert_eq!(bench.subscribe(alice, "room")[1..], replayed(3..=66));
    bench.drain(alice, 10);
    bench.disk_works();
    bench.unclog(alice);
    assert_eq!(bench.story(alice), [replayed(1..=2), replayed(67..=100)].concat());
    assert_eq!(bench.stored(), 0);
}

#[test]
fn a_channel_without_subscribers_keeps_its_backlog_in_order() {
    let mut bench = bench();
    publish(&mut bench, "room", 1..=2);
    crash_into_the_dark(&mut bench);
    publish(&mut bench, "room", 3..=4);
    bench.disk_works();
    let alice = client(&mut bench, "alice");
    assert_eq!(bench.subscribe(alice, "room")[1..], replayed(1..=4));
}

#[test]
fn a_connected_user_gets_the_inbox_when_it_is_found() {
    for mode in [Auto, Ack] {
        let mut bench = bench();
        send_all(&mut bench, 1..=2);
        crash_into_the_dark(&mut bench);
        let (bob, inbox) = come(&mut bench, mode);
        assert_eq!(inbox["waiting"], 0);
        send_all(&mut bench, 3..=3);
        assert_eq!(bench.story(bob), ["say 3"]);
        let seq = inbox["seq"].as_u64().unwrap() + 1;
        bench.ack(bob, seq);
        bench.disk_works();
        assert_eq!(bench.story(bob), ["say 1 replayed", "say 2 replayed"], "{mode:?}");
        bench.ack(bob, 2);
        assert!(waits(&mut bench).is_empty(), "{mode:?}");
        assert_eq!(bench.stored(), 0);
    }
}

#[test]
fn a_newer_ack_does_not_cover_older_messages_found_later() {
    let mut bench = bench();
    send_all(&mut bench, 1..=2);
    crash_into_the_dark(&mut bench);
    let (bob, inbox) = come(&mut bench, Ack);
    send_all(&mut bench, 3..=3);
    let third = inbox["seq"].as_u64().unwrap() + 1;
    bench.disk_works();
    // On its way when the older ones were queued.
    bench.ack(bob, third);
    bench.leave(bob);
    assert_eq!(waits(&mut bench), ["say 1 replayed", "say 2 replayed", "say 3 replayed"]);
    let (bob, _) = come(&mut bench, Ack);
    send_all(&mut bench, 4..=4);
    bench.ack(bob, third + 1);
    assert!(waits(&mut bench).is_empty(), "of all this it has heard everything");
}

#[test]
fn a_live_frame_taken_late_does_not_hide_older_messages() {
    let mut bench = bench();
    send_all(&mut bench, 1..=2);
    crash_into_the_dark(&mut bench);
    let (bob, _) = come(&mut bench, Auto);
    bench.slow(bob);
    send_all(&mut bench, 3..=3);
    bench.disk_works();
    bench.carry(bob, 1);
    assert_eq!(bench.story(bob), ["say 3"]);
    bench.cut(bob, 0);
    assert_eq!(waits(&mut bench), ["say 1 replayed", "say 2 replayed", "say 3 replayed"]);
}

#[test]
fn the_inbox_of_an_absent_user_is_complete_and_in_order() {
    let mut bench = bench();
    send_all(&mut bench, 1..=2);
    crash_into_the_dark(&mut bench);
    send_all(&mut bench, 3..=4);
    bench.disk_works();
    let wanted = ["say 1 replayed", "say 2 replayed", "say 3 replayed", "say 4 replayed"];
    assert_eq!(waits(&mut bench), wanted);
    bench.restart();
    assert_eq!(waits(&mut bench), wanted, "and has it after a restart");
    bench.crash();
    assert_eq!(waits(&mut bench), wanted, "and after a crash");
}

#[test]
fn an_unreadable_inbox_is_not_skipped_after_a_clean_stop() {
    for mode in [Auto, Ack] {
        let mut bench = bench();
        send_all(&mut bench, 1..=3);
        let (bob, before) = come(&mut bench, Ack);
        bench.ack(bob, 1);
        let remains = bench.end();
        bench.disk_fails();
        bench.begin(Some(&remains), 0);
        let (bob, inbox) = come(&mut bench, mode);
        assert_eq!((&inbox["epoch"], &inbox["waiting"]), (&before["epoch"], &json!(0)));
        send_all(&mut bench, 4..=4);
        bench.ack(bob, 4);
        assert_eq!(bench.story(bob), ["say 4"]);
        bench.disk_works();
        assert_eq!(bench.story(bob), ["say 2 replayed", "say 3 replayed"]);
        bench.ack(bob, 3);
        assert!(waits(&mut bench).is_empty());
        assert_eq!(bench.stored(), 0);
    }
}

#[test]
fn an_unreadable_history_is_a_gap_only_until_it_is_read() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=3);
    let probe = client(&mut bench, "probe");
    let epoch = bench.ask(probe, json!({"action": "subscribe", "channel": "orders"}))[0]["epoch"].clone();
    let remains = bench.end();
    bench.disk_fails();
    bench.begin(Some(&remains), 0);
    let subscribe = json!({"action": "subscribe", "channel": "orders", "since": {"epoch": epoch, "seq": 1}});
    let bob = client(&mut bench, "bob");
    let told = ["subscription_succeeded orders 3 false", "gap 2 3 2 not_kept"];
    assert_eq!(bench.say(bob, subscribe.clone()), told);
    publish(&mut bench, "orders", 4..=4);
    assert_eq!(bench.story(bob), ["new 4"]);
    bench.disk_works();
    let heard = bench.say(bob, subscribe);
    assert_eq!(heard[0], "subscription_succeeded orders 4 recovered");
    assert_eq!(heard[1..], replayed(2..=4));
}

#[test]
fn a_kill_while_unreadable_does_not_reuse_numbers() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=3);
    bench.disk_writes_behind();
    bench.disk_fails();
    bench.kill();
    let alice = client(&mut bench, "alice");
    let seq = |heard: &[Value]| heard[0]["seq"].as_u64().unwrap();
    let subscribe = |channel: &str| json!({"action": "subscribe", "channel": channel});
    assert_eq!(seq(&bench.ask(alice, subscribe("orders"))), 3, "of this one it is known");
    assert!(seq(&bench.ask(alice, subscribe("room"))) >= 1 << 32);
    publish(&mut bench, "orders", 4..=4);
    bench.disk_works();
    assert_eq!(all(&mut bench, alice, "orders")[2..], replayed(1..=4));
}

#[test]
fn new_channels_begin_at_one_once_all_is_found() {
    let mut bench = bench();
    crash_into_the_dark(&mut bench);
    publish(&mut bench, "room", 1..=1);
    bench.disk_works();
    let alice = client(&mut bench, "alice");
    assert_eq!(bench.subscribe(alice, "other"), ["subscription_succeeded other 0"]);
    let heard = all(&mut bench, alice, "room");
    assert!(heard[0].ends_with(" recovered"), "{heard:?}");
    assert_eq!(heard[1..], replayed(1..=1), "nothing is missing below");
}

#[test]
fn a_second_start_while_unreadable_hides_nothing() {
    let mut bench = bench();
    publish(&mut bench, "room", 1..=2);
    crash_into_the_dark(&mut bench);
    publish(&mut bench, "room", 3..=4);
    bench.disk_works();
    bench.wait(1.0);
    crash_into_the_dark(&mut bench);
    publish(&mut bench, "room", 5..=6);
    bench.disk_works();
    let alice = client(&mut bench, "alice");
    assert_eq!(bench.subscribe(alice, "room")[1..], replayed(1..=6));
}

#[test]
fn unreadable_starts_with_the_clock_set_back_lose_order_only() {
    let mut bench = bench();
    send_all(&mut bench, 1..=2);
    publish(&mut bench, "room", 1..=2);
    bench.disk_fails();
    bench.crash();
    send_all(&mut bench, 3..=4);
    publish(&mut bench, "room", 3..=4);
    bench.disk_works();
    bench.disk_writes_behind();
    bench.now.wall.0 = 0;
    bench.disk_fails();
    bench.crash();
    let alice = client(&mut bench, "alice");
    let (bob, _) = come(&mut bench, Auto);
    bench.subscribe(alice, "room");
    send_all(&mut bench, 5..=5);
    publish(&mut bench, "room", 5..=5);
    bench.disk_works();
    let heard = bench.story(alice);
    assert_eq!(heard, ["new 5", "gap epoch", "new 3 replayed", "new 4 replayed"]);
    assert_eq!(bench.story(bob), ["say 5", "gap epoch", "say 3 replayed", "say 4 replayed"]);
    send_all(&mut bench, 6..=6);
    assert_eq!(bench.story(bob), ["say 6"]);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn a_handover_while_unreadable_still_finds_everything() {
    let mut bench = bench();
    send_all(&mut bench, 1..=2);
    publish(&mut bench, "room", 1..=2);
    crash_into_the_dark(&mut bench);
    publish(&mut bench, "room", 3..=3);
    let (bob, _) = come(&mut bench, Auto);
    bench.hand_over();
    bench.disk_works();
    assert_eq!(bench.story(bob), ["say 1 replayed", "say 2 replayed"]);
    let alice = client(&mut bench, "alice");
    assert_eq!(bench.subscribe(alice, "room")[1..], replayed(1..=3));
}

#[test]
fn messages_that_expired_while_unreadable_are_not_delivered() {
    let mut bench = bench();
    let worker = bench.worker();
    bench.say(worker, json!({"user_id": "bob", "event": "say", "data": 1, "ttl": 10}));
    send_all(&mut bench, 2..=2);
    crash_into_the_dark(&mut bench);
    let (bob, _) = come(&mut bench, Ack);
    bench.live(11);
    bench.hush(bob);
    bench.disk_works();
    assert_eq!(bench.story(bob), ["gap 1 1 1 expired", "say 2 replayed"]);
}
