//! The disk cannot be read when the daemon starts, and can be later.
//!
//! Meanwhile the hub serves, and gives out numbers; what is found then was said
//! before, and is owed as before.

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
fn live_traffic_goes_on_with_numbers_that_nothing_on_the_disk_can_have() {
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
fn whoever_asks_for_all_is_told_that_nobody_knows_what_is_missing() {
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
fn a_history_gains_its_older_part_and_has_no_gap_where_its_numbers_jump() {
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
fn a_position_in_the_older_part_is_one_of_the_epoch_that_goes_on() {
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
fn somebody_who_reads_a_history_when_its_older_part_is_found_loses_nothing() {
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
fn subscribers_of_a_channel_hear_now_what_nobody_had_heard() {
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
fn what_comes_while_older_messages_are_read_goes_behind_them() {
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
fn who_reads_a_backlog_goes_back_for_what_is_older_and_hears_nothing_twice() {
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
fn a_channel_that_nobody_heard_meanwhile_has_its_backlog_in_order() {
    let mut bench = bench();
    publish(&mut bench, "room", 1..=2);
    crash_into_the_dark(&mut bench);
    publish(&mut bench, "room", 3..=4);
    bench.disk_works();
    let alice = client(&mut bench, "alice");
    assert_eq!(bench.subscribe(alice, "room")[1..], replayed(1..=4));
}

#[test]
fn a_user_who_is_here_hears_now_what_waited_in_the_inbox() {
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
fn that_a_user_has_what_came_later_says_nothing_of_what_was_found() {
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
fn a_socket_that_takes_live_messages_only_now_does_not_hide_older_ones() {
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
fn an_inbox_of_a_user_who_is_away_has_everything_in_order() {
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
fn after_a_clean_stop_an_inbox_does_not_pass_over_what_cannot_be_read_yet() {
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
fn after_a_clean_stop_a_history_that_cannot_be_read_tells_a_gap_and_has_none_later() {
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
fn a_killed_process_in_the_dark_does_not_give_its_numbers_out_again() {
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
fn when_all_is_found_new_channels_begin_at_one_again() {
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
fn a_second_start_in_the_dark_hides_nothing_of_the_first() {
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
fn where_the_clock_went_back_between_two_dark_starts_nothing_is_lost_but_the_order() {
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
fn a_hand_over_in_the_dark_still_finds_everything_below() {
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
fn what_grew_too_old_in_the_dark_is_not_heard_when_it_is_found() {
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
