//! Restarts of the daemon after a stop or a kill.
//!
//! Channels `orders` keep a history that goes to the disk at a clean stop,
//! `behind` one that goes there within a second, `never` nothing; others keep
//! undelivered messages. Nobody is connected when a hub begins.

use std::time::Duration;

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy, WriteThrough};
use wshubd::hub::{Hub, Pattern, Settings, StateError};
use wshubd::protocol::InboxMode::{Ack, Auto};

use super::bench::{Bench, Seat};
use super::inbox::{send, send_all, sender, waits};
use super::replay::{all, client, publish, replayed, since};

fn settings() -> Settings {
    let history = Policy { keep: Keep::History, count: 100, disk: WriteThrough::Stop, ..Policy::default() };
    let policies = vec![
        (Pattern::new("orders"), history),
        (Pattern::new("behind"), Policy { disk: WriteThrough::Behind, ..history }),
        (Pattern::new("memory"), Policy { disk: WriteThrough::Never, ..history }),
        (Pattern::new("never"), Policy { keep: Keep::Never, ..history }),
    ];
    Settings { has_disk: true, policies, ..Settings::default() }
}

fn bench() -> Bench {
    Bench::with(settings())
}

fn epoch(bench: &mut Bench, channel: &str) -> String {
    let probe = client(bench, "probe");
    let heard = bench.ask(probe, json!({"action": "subscribe", "channel": channel}));
    bench.leave(probe);
    heard[0]["epoch"].as_str().unwrap().to_owned()
}

fn since_epoch(bench: &mut Bench, channel: &str, epoch: &str, seq: u64) -> Vec<String> {
    let probe = client(bench, "probe");
    let since = json!({"epoch": epoch, "seq": seq});
    let heard = bench.say(probe, json!({"action": "subscribe", "channel": channel, "since": since}));
    bench.leave(probe);
    heard
}

fn inbox(bench: &mut Bench, user: &str) -> (Seat, Value) {
    let seat = bench.client_in(user, Ack);
    let greeting = bench.frames(seat).remove(0);
    (seat, greeting["inbox"].clone())
}

#[test]
fn a_history_replays_what_was_missed_across_a_clean_restart() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=5);
    let before = epoch(&mut bench, "orders");
    bench.restart();
    let heard = since_epoch(&mut bench, "orders", &before, 3);
    assert_eq!(heard[0], "subscription_succeeded orders 5 recovered");
    assert_eq!(heard[1..], replayed(4..=5));
    publish(&mut bench, "orders", 6..=6);
    assert_eq!(since_epoch(&mut bench, "orders", &before, 5)[1..], replayed(6..=6));
}

#[test]
fn a_reader_at_the_end_is_recovered_after_a_clean_restart() {
    let mut bench = bench();
    let (alice, channels) = (bench.client("alice"), ["orders", "never", "room", "empty"]);
    for channel in channels {
        bench.subscribe(alice, channel);
    }
    for channel in &channels[..3] {
        publish(&mut bench, channel, 1..=2);
    }
    let epochs = channels.map(|channel| epoch(&mut bench, channel));
    bench.restart();
    for ((channel, epoch), seq) in channels.iter().zip(&epochs).zip([2, 2, 2, 0]) {
        let heard = since_epoch(&mut bench, channel, epoch, seq);
        assert_eq!(heard, [format!("subscription_succeeded {channel} {seq} recovered")]);
    }
}

#[test]
fn losses_of_a_clean_restart_are_not_kept_gaps() {
    let mut bench = bench();
    publish(&mut bench, "memory", 1..=3);
    let before = epoch(&mut bench, "memory");
    bench.restart();
    let heard = since_epoch(&mut bench, "memory", &before, 1);
    assert_eq!(heard, ["subscription_succeeded memory 3 false", "gap 2 3 2 not_kept"]);
}

#[test]
fn a_channel_unused_for_five_minutes_after_a_start_is_dropped() {
    let mut bench = bench();
    publish(&mut bench, "never", 1..=2);
    let before = epoch(&mut bench, "never");
    bench.reboot(Duration::from_secs(100_000));
    bench.wait(299.0);
    let heard = since_epoch(&mut bench, "never", &before, 2);
    assert_eq!(heard, ["subscription_succeeded never 2 recovered"]);
    bench.wait(302.0);
    let heard = since_epoch(&mut bench, "never", &before, 2);
    assert_eq!(heard, ["subscription_succeeded never 0 false", "gap epoch"]);
}

#[test]
fn all_channels_with_subscribers_at_a_stop_are_restored() {
    let mut settings = settings();
    settings.limits.subscriptions = 10_000;
    let mut bench = Bench::with(settings);
    let worker = bench.worker();
    for n in 0..5000 {
        bench.tell(worker, &json!({"action": "subscribe", "channel": format!("room:{n}")}));
    }
    let epochs = [0, 4999].map(|n| epoch(&mut bench, &format!("room:{n}")));
    bench.restart();
    for (n, epoch) in [0, 4999].into_iter().zip(&epochs) {
        let channel = format!("room:{n}");
        let heard = since_epoch(&mut bench, &channel, epoch, 0);
        assert_eq!(heard, [format!("subscription_succeeded {channel} 0 recovered")]);
    }
}

#[test]
fn undelivered_messages_wait_for_a_subscriber_after_any_end() {
    for end in [Bench::restart, Bench::crash] {
        let mut bench = bench();
        publish(&mut bench, "room", 1..=2);
        bench.disk_writes_behind();
        end(&mut bench);
        let (alice, bob) = (client(&mut bench, "alice"), client(&mut bench, "bob"));
        assert_eq!(bench.subscribe(alice, "room")[1..], replayed(1..=2));
        assert_eq!(bench.subscribe(bob, "room"), ["subscription_succeeded room 2"]);
        assert_eq!(bench.stored(), 0);
        end(&mut bench);
        let carol = client(&mut bench, "carol");
        assert_eq!(bench.subscribe(carol, "room").len(), 1, "and never again");
    }
}

#[test]
fn after_a_crash_every_channel_has_a_new_epoch_and_higher_seq() {
    let mut bench = bench();
    publish(&mut bench, "behind", 1..=5);
    bench.disk_writes_behind();
    let before = epoch(&mut bench, "behind");
    publish(&mut bench, "behind", 6..=7);
    bench.crash();
    let heard = since_epoch(&mut bench, "behind", &before, 5);
    assert_eq!(heard[..2], ["subscription_succeeded behind 5 false", "gap epoch"]);
    assert_eq!(heard[2..], replayed(1..=5));
    assert_ne!(epoch(&mut bench, "behind"), before);
    publish(&mut bench, "behind", 8..=8);
    let bob = client(&mut bench, "bob");
    let heard = since(&mut bench, bob, "behind", 4);
    assert_eq!(heard[0], "subscription_succeeded behind 6 recovered");
    assert_eq!(heard[1..], [replayed(5..=5), replayed(8..=8)].concat());
}

#[test]
fn a_history_written_behind_goes_on_after_a_kill() {
    let mut bench = bench();
    publish(&mut bench, "behind", 1..=3);
    bench.disk_writes_behind();
    publish(&mut bench, "behind", 4..=5);
    let before = epoch(&mut bench, "behind");
    bench.kill();
    let heard = since_epoch(&mut bench, "behind", &before, 3);
    assert_eq!(heard, ["subscription_succeeded behind 5 false", "gap 4 5 2 not_kept"]);
    publish(&mut bench, "behind", 6..=6);
    let heard = since_epoch(&mut bench, "behind", &before, 5);
    assert_eq!(heard, ["subscription_succeeded behind 6 recovered", "new 6 replayed"]);
}

#[test]
fn a_history_written_at_a_stop_does_not_survive_a_crash() {
    let mut bench = bench();
    publish(&mut bench, "behind", 1..=3);
    publish(&mut bench, "orders", 1..=3);
    bench.disk_writes_behind();
    bench.crash();
    let bob = client(&mut bench, "bob");
    assert_eq!(all(&mut bench, bob, "behind")[1..], replayed(1..=3));
    assert_eq!(all(&mut bench, bob, "orders"), ["subscription_succeeded orders 0 recovered"]);
}

#[test]
fn a_removal_lost_in_a_crash_doubles_and_never_loses() {
    let mut bench = bench();
    bench.past.forgets_removals = true;
    send_all(&mut bench, 1..=3);
    bench.disk_writes_behind();
    let bob = bench.client_in("bob", Auto);
    assert_eq!(bench.story(bob).len(), 4);
    assert_eq!(bench.stored(), 0);
    bench.crash();
    assert_eq!(waits(&mut bench), ["say 1 replayed", "say 2 replayed", "say 3 replayed"]);
}

#[test]
fn an_inbox_goes_on_at_its_cursor_after_a_clean_restart() {
    let mut bench = bench();
    send_all(&mut bench, 1..=4);
    let (bob, before) = inbox(&mut bench, "bob");
    bench.ack(bob, 2);
    bench.restart();
    let (bob, after) = inbox(&mut bench, "bob");
    assert_eq!(after, json!({"epoch": before["epoch"], "seq": 4, "waiting": 2}));
    assert_eq!(waits(&mut bench), ["say 3 replayed", "say 4 replayed"]);
    bench.ack(bob, 4);
    assert_eq!(bench.stored(), 0);
    bench.restart();
    assert!(waits(&mut bench).is_empty());
}

#[test]
fn an_ack_across_a_clean_restart_counts() {
    let mut bench = bench();
    bench.slow_store = true;
    send_all(&mut bench, 1..=2);
    let (bob, _) = inbox(&mut bench, "bob");
    bench.store_answers();
    assert_eq!(bench.story(bob), ["say 1 replayed", "say 2 replayed"]);
    bench.restart();
    let (bob, _) = inbox(&mut bench, "bob");
    bench.ack(bob, 2);
    assert_eq!(inbox(&mut bench, "bob").1["waiting"], 0, "nothing was read to it yet");
}

#[test]
fn an_inbox_has_a_new_epoch_after_a_crash_old_acks_are_void() {
    let mut bench = bench();
    send_all(&mut bench, 1..=2);
    bench.disk_writes_behind();
    let (_, before) = inbox(&mut bench, "bob");
    bench.crash();
    let (bob, after) = inbox(&mut bench, "bob");
    assert_eq!((&after["seq"], &after["waiting"]), (&json!(2), &json!(2)));
    assert_ne!(after["epoch"], before["epoch"]);
    bench.tell(bob, &json!({"action": "ack", "epoch": before["epoch"], "seq": 2}));
    assert_eq!(bench.stored(), 2);
    bench.ack(bob, 2);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn inbox_losses_before_the_kept_part_are_a_gap_in_place() {
    let mut bench = bench();
    send_all(&mut bench, 1..=1);
    let worker = bench.worker();
    bench.say(worker, json!({"user_id": "bob", "event": "say", "data": 2, "ttl": 1}));
    send_all(&mut bench, 3..=3);
    bench.restart();
    bench.wait(3.0);
    assert_eq!(waits(&mut bench), ["say 1 replayed", "gap 2 2 1 expired", "say 3 replayed"]);
}

#[test]
fn messages_expired_while_off_are_dropped_counted_and_a_gap() {
    for end in [Bench::restart, Bench::crash] {
        let mut bench = bench();
        let (listener, worker) = (bench.worker(), bench.worker());
        bench.subscribe(listener, "system:undelivered");
        // So that this channel is there after a crash as well.
        bench.leave(listener);
        bench.say(worker, json!({"user_id": "carol", "event": "say", "message_id": "c"}));
        for (id, ttl) in [("m1", 10), ("m2", 1000)] {
            bench.say(worker, json!({"channel": "room", "event": "say", "message_id": id, "ttl": ttl}));
        }
        bench.disk_writes_behind();
        bench.now.moment = bench.now.moment + Duration::from_secs(60);
        end(&mut bench);
        let listener = bench.worker();
        let heard = bench.ask(listener, json!({"action": "subscribe", "channel": "system:undelivered"}));
        let told = heard.into_iter().filter(|frame| frame["data"]["state"] == "expired");
        let told: Vec<Value> = told.map(|frame| frame["data"]["message_id"].clone()).collect();
        assert_eq!(told, ["m1"]);
        assert_eq!(bench.stats()["messages_expired"], 1);
        let alice = client(&mut bench, "alice");
        let heard = bench.subscribe(alice, "room");
        assert_eq!(heard, ["subscription_succeeded room 2", "say replayed"]);
    }
}

#[test]
fn nothing_expires_early_or_late_on_another_clock() {
    let mut bench = bench();
    let worker = bench.worker();
    bench.say(worker, json!({"channel": "room", "event": "say", "data": 1, "ttl": 100}));
    bench.wait(10.0);
    bench.reboot(Duration::from_secs(50));
    bench.wait(38.0);
    assert_eq!(bench.stored(), 1);
    bench.wait(3.0);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn workers_get_no_second_notice_of_what_waits_for_a_user() {
    let mut bench = bench();
    let listener = bench.worker();
    bench.subscribe(listener, "system:undelivered");
    send_all(&mut bench, 1..=2);
    assert_eq!(bench.story(listener).len(), 2);
    bench.restart();
    let listener = bench.worker();
    bench.subscribe(listener, "system:undelivered");
    let (bob, _) = inbox(&mut bench, "bob");
    bench.leave(bob);
    bench.live(20);
    assert!(bench.story(listener).is_empty());
}

#[test]
fn a_stricter_policy_applies_to_messages_kept_before() {
    let mut bench = bench();
    for channel in ["behind", "room", "other"] {
        publish(&mut bench, channel, 1..=3);
    }
    bench.disk_writes_behind();
    let mut today = settings();
    let fewer = Policy { count: 2, ..Policy::default() };
    let none = Policy { keep: Keep::Never, ..Policy::default() };
    today.policies = vec![(Pattern::new("room"), fewer), (Pattern::new("other"), none)];
    bench.crash_into(today);
    let alice = client(&mut bench, "alice");
    assert_eq!(bench.subscribe(alice, "behind")[1..], replayed(1..=3), "now it is a backlog");
    assert_eq!(bench.subscribe(alice, "room")[1..], replayed(2..=3));
    assert_eq!(bench.subscribe(alice, "other"), ["subscription_succeeded other 3"]);
    assert_eq!((bench.stored(), &bench.stats()["messages_evicted"]), (0, &json!(4)));
}

#[test]
fn a_delivered_message_is_no_backlog_after_a_crash() {
    let mut bench = bench();
    publish(&mut bench, "room", 1..=1);
    let (alice, bob) = (client(&mut bench, "alice"), client(&mut bench, "bob"));
    bench.clog(alice);
    bench.subscribe(alice, "room");
    bench.subscribe(bob, "room");
    // Kept for alice, who still reads; bob has received it.
    publish(&mut bench, "room", 2..=2);
    bench.disk_writes_behind();
    bench.crash();
    let carol = client(&mut bench, "carol");
    assert_eq!(bench.subscribe(carol, "room")[1..], replayed(1..=1));
    assert_eq!(bench.stored(), 0);
}

#[test]
fn restored_logs_obey_their_common_limit() {
    let mut bench = bench();
    publish(&mut bench, "small", 1..=1);
    publish(&mut bench, "room", 1..=40);
    bench.disk_writes_behind();
    let mut today = settings();
    today.limits.kept_bytes = 2000;
    bench.crash_into(today);
    assert!(bench.stats()["kept_bytes"].as_u64().unwrap() <= 2000);
    let alice = client(&mut bench, "alice");
    assert_eq!(bench.subscribe(alice, "small")[1..], replayed(1..=1), "the biggest pays");
    assert_eq!(bench.subscribe(alice, "room").last(), replayed(40..=40).last());
}

#[test]
fn a_receipt_pending_at_a_clean_stop_is_sent_after_it() {
    let mut bench = bench();
    let alice = sender(&mut bench);
    bench.say(
        alice,
        json!({"action": "send", "user_id": "bob", "event": "say", "message_id": "m1", "receipt": true}),
    );
    bench.reboot(Duration::from_secs(3600));
    let (alice, (bob, inbox)) = (sender(&mut bench), inbox(&mut bench, "bob"));
    bench.ack(bob, inbox["seq"].as_u64().unwrap());
    let receipt = bench.frames(alice).remove(0);
    assert_eq!(receipt["data"], json!({"message_id": "m1", "user_id": "bob", "state": "delivered"}));
}

#[test]
fn an_unclaimed_receipt_expires_on_the_old_clock() {
    let mut bench = bench();
    let alice = sender(&mut bench);
    bench.say(alice, json!({"action": "send", "user_id": "bob", "event": "say", "receipt": true}));
    bench.reboot(Duration::from_secs(24 * 3600 + 1));
    assert_eq!(bench.stored(), 0);
    bench.wait(302.0);
    assert_eq!(bench.hub.deadline(), None, "nothing is left");
}

#[test]
fn message_ids_survive_a_clean_restart_and_age_meanwhile() {
    let mut bench = bench();
    let worker = bench.worker();
    let line = json!({"channel": "never", "event": "say", "message_id": "m1", "id": 1});
    bench.say(worker, line.clone());
    bench.reboot(Duration::from_secs(300));
    let worker = bench.worker();
    assert_eq!(bench.ask(worker, line.clone())[0]["duplicate"], true);
    bench.reboot(Duration::from_secs(800));
    let worker = bench.worker();
    bench.wait(601.0);
    assert_eq!(bench.ask(worker, line)[0].get("duplicate"), None);
}

#[test]
fn message_ids_on_the_disk_survive_a_crash() {
    let mut bench = bench();
    let worker = bench.worker();
    let line = |id: &str| json!({"channel": "room", "event": "say", "message_id": id, "id": 1});
    bench.say(worker, line("m1"));
    bench.disk_writes_behind();
    bench.say(worker, line("m2"));
    bench.wait(300.0);
    bench.crash();
    let worker = bench.worker();
    let answer = bench.ask(worker, line("m1")).remove(0);
    assert_eq!((&answer["duplicate"], &answer["kept"]), (&json!(true), &json!(true)));
    assert_eq!(bench.ask(worker, line("m2"))[0].get("duplicate"), None, "this one was lost");
    bench.wait(301.0);
    assert_eq!(bench.ask(worker, line("m1"))[0].get("duplicate"), None, "ten minutes from the first");
}

#[test]
fn a_durable_repetition_after_a_crash_is_answered_stored() {
    let mut bench = bench();
    let worker = bench.worker();
    let line = json!({"channel": "room", "event": "say", "message_id": "m1", "durable": true, "id": 1});
    assert_eq!(bench.ask(worker, line.clone())[0]["stored"], true);
    bench.crash();
    let worker = bench.worker();
    let answer = bench.ask(worker, line).remove(0);
    assert_eq!((&answer["duplicate"], &answer["stored"]), (&json!(true), &json!(true)));
    let alice = client(&mut bench, "alice");
    assert_eq!(bench.subscribe(alice, "room").len(), 2, "and is there once");
}

#[test]
fn a_durable_history_message_survives_a_crash() {
    let mut bench = bench();
    let worker = bench.worker();
    for (n, durable) in [(1, false), (2, true), (3, false)] {
        bench.say(worker, json!({"channel": "orders", "event": "new", "data": n, "durable": durable}));
    }
    bench.crash();
    let bob = client(&mut bench, "bob");
    let heard = all(&mut bench, bob, "orders");
    let told = ["subscription_succeeded orders 2 false", "gap 1 1 1 not_kept", "new 2 replayed"];
    assert_eq!(heard, told);
}

#[test]
fn a_message_only_its_publisher_got_waits_after_a_restart() {
    let mut bench = bench();
    let alice = client(&mut bench, "alice");
    bench.subscribe(alice, "room");
    bench.publish(alice, "room", 1);
    bench.restart();
    let alice = client(&mut bench, "alice");
    assert_eq!(bench.subscribe(alice, "room")[1..], ["say 1 replayed"]);
}

#[test]
fn operations_and_connections_end_with_the_hub() {
    let mut bench = bench();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "room"}));
    bench.subscribe(alice, "room");
    bench.restart();
    let stats = bench.stats();
    for number in ["operations", "workers", "total_connections", "subscriptions"] {
        assert_eq!(stats[number], 0, "{number}");
    }
    let worker = bench.worker();
    let start = json!({"action": "operation_start", "operation_id": "op", "channel": "room", "id": 1});
    assert_eq!(bench.say(worker, start), ["ok"]);
}

#[test]
fn a_checkpoint_older_than_the_disk_is_ignored() {
    let mut bench = bench();
    publish(&mut bench, "behind", 1..=2);
    let before = epoch(&mut bench, "behind");
    let remains = bench.end();
    bench.begin(Some(&remains), 0);
    publish(&mut bench, "behind", 3..=4);
    bench.disk_writes_behind();
    bench.begin(Some(&remains), 0);
    assert_ne!(epoch(&mut bench, "behind"), before);
    let bob = client(&mut bench, "bob");
    assert_eq!(since(&mut bench, bob, "behind", 1)[1..], replayed(2..=4));
}

#[test]
fn two_restarts_in_a_row_lose_nothing() {
    let mut bench = bench();
    let alice = sender(&mut bench);
    publish(&mut bench, "orders", 1..=3);
    send(&mut bench, alice, 1);
    let before = epoch(&mut bench, "orders");
    bench.restart();
    bench.restart();
    let heard = since_epoch(&mut bench, "orders", &before, 0);
    assert_eq!(heard[0], "subscription_succeeded orders 3 recovered");
    assert_eq!(waits(&mut bench), ["say 1 replayed"]);
}

#[test]
fn a_hand_over_between_two_restarts_changes_nothing() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=3);
    let before = epoch(&mut bench, "orders");
    bench.restart();
    bench.hand_over();
    publish(&mut bench, "orders", 4..=4);
    bench.restart();
    let heard = since_epoch(&mut bench, "orders", &before, 2);
    assert_eq!(heard[0], "subscription_succeeded orders 4 recovered");
    assert_eq!(heard[1..], replayed(3..=4));
}

#[test]
fn a_checkpoint_of_this_version_is_restored() {
    let bytes = include_bytes!("remains-of-version-2");
    let now = bench().now;
    let hub = Hub::revive(settings(), 1, now, bytes, 0).unwrap();
    let state = serde_json::to_value(&hub).unwrap();
    let topics = state["channels"].as_object().unwrap().values();
    let seqs = topics.map(|topic| (topic["key"].to_string(), topic["seq"].as_u64().unwrap()));
    let expected = [
        (r#"{"Inbox":"alice"}"#, 0),
        (r#"{"Channel":"room"}"#, 0),
        (r#"{"Channel":"orders"}"#, 2),
        (r#"{"Channel":"never"}"#, 1),
        (r#"{"Inbox":"carol"}"#, 1),
    ];
    assert_eq!(seqs.collect::<Vec<_>>(), expected.map(|(key, seq)| (key.to_owned(), seq)));
    assert_eq!(state["dedup"].as_array().unwrap().len(), 1);
}

#[test]
fn a_checkpoint_of_another_version_is_an_error() {
    let now = bench().now;
    let revive = |bytes: &[u8]| Hub::revive(Settings::default(), 1, now, bytes, 0);
    let mut other = bench().end();
    // Behind the mark.
    other[1] = 0;
    let error = revive(&other).unwrap_err();
    assert!(matches!(error, StateError::Version { found: 0, .. }), "{error}");
    assert!(matches!(revive(b"{"), Err(StateError::Form(_))));
    assert!(matches!(revive(br#"{"version":1}"#), Err(StateError::Form(_))));
    assert!(revive(&bench().end()).is_ok());
}
