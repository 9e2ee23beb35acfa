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

use super::harness::{ConnectionId, Harness};
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

fn harness() -> Harness {
    Harness::with(settings())
}

fn epoch(harness: &mut Harness, channel: &str) -> String {
    let probe = client(harness, "probe");
    let received = harness.request(probe, json!({"action": "subscribe", "channel": channel}));
    harness.disconnect(probe);
    received[0]["epoch"].as_str().unwrap().to_owned()
}

fn since_epoch(harness: &mut Harness, channel: &str, epoch: &str, seq: u64) -> Vec<String> {
    let probe = client(harness, "probe");
    let since = json!({"epoch": epoch, "seq": seq});
    let received = harness.send(probe, json!({"action": "subscribe", "channel": channel, "since": since}));
    harness.disconnect(probe);
    received
}

fn inbox(harness: &mut Harness, user: &str) -> (ConnectionId, Value) {
    let conn = harness.client_in(user, Ack);
    let greeting = harness.frames(conn).remove(0);
    (conn, greeting["inbox"].clone())
}

#[test]
fn a_history_replays_what_was_missed_across_a_clean_restart() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=5);
    let before = epoch(&mut harness, "orders");
    harness.restart();
    let received = since_epoch(&mut harness, "orders", &before, 3);
    assert_eq!(received[0], "subscription_succeeded orders 5 recovered");
    assert_eq!(received[1..], replayed(4..=5));
    publish(&mut harness, "orders", 6..=6);
    assert_eq!(since_epoch(&mut harness, "orders", &before, 5)[1..], replayed(6..=6));
}

#[test]
fn a_reader_at_the_end_is_recovered_after_a_clean_restart() {
    let mut harness = harness();
    let (alice, channels) = (harness.client("alice"), ["orders", "never", "room", "empty"]);
    for channel in channels {
        harness.subscribe(alice, channel);
    }
    for channel in &channels[..3] {
        publish(&mut harness, channel, 1..=2);
    }
    let epochs = channels.map(|channel| epoch(&mut harness, channel));
    harness.restart();
    for ((channel, epoch), seq) in channels.iter().zip(&epochs).zip([2, 2, 2, 0]) {
        let received = since_epoch(&mut harness, channel, epoch, seq);
        assert_eq!(received, [format!("subscription_succeeded {channel} {seq} recovered")]);
    }
}

#[test]
fn losses_of_a_clean_restart_are_not_kept_gaps() {
    let mut harness = harness();
    publish(&mut harness, "memory", 1..=3);
    let before = epoch(&mut harness, "memory");
    harness.restart();
    let received = since_epoch(&mut harness, "memory", &before, 1);
    assert_eq!(received, ["subscription_succeeded memory 3 false", "gap 2 3 2 not_kept"]);
}

#[test]
fn a_channel_unused_for_five_minutes_after_a_start_is_dropped() {
    let mut harness = harness();
    publish(&mut harness, "never", 1..=2);
    let before = epoch(&mut harness, "never");
    harness.reboot(Duration::from_secs(100_000));
    harness.wait(299.0);
    let received = since_epoch(&mut harness, "never", &before, 2);
    assert_eq!(received, ["subscription_succeeded never 2 recovered"]);
    harness.wait(302.0);
    let received = since_epoch(&mut harness, "never", &before, 2);
    assert_eq!(received, ["subscription_succeeded never 0 false", "gap epoch"]);
}

#[test]
fn all_channels_with_subscribers_at_a_stop_are_restored() {
    let mut settings = settings();
    settings.limits.subscriptions = 10_000;
    let mut harness = Harness::with(settings);
    let worker = harness.worker();
    for n in 0..5000 {
        harness.send_unread(worker, &json!({"action": "subscribe", "channel": format!("room:{n}")}));
    }
    let epochs = [0, 4999].map(|n| epoch(&mut harness, &format!("room:{n}")));
    harness.restart();
    for (n, epoch) in [0, 4999].into_iter().zip(&epochs) {
        let channel = format!("room:{n}");
        let received = since_epoch(&mut harness, &channel, epoch, 0);
        assert_eq!(received, [format!("subscription_succeeded {channel} 0 recovered")]);
    }
}

#[test]
fn undelivered_messages_wait_for_a_subscriber_after_any_end() {
    for end in [Harness::restart, Harness::crash] {
        let mut harness = harness();
        publish(&mut harness, "room", 1..=2);
        harness.disk_writes_behind();
        end(&mut harness);
        let (alice, bob) = (client(&mut harness, "alice"), client(&mut harness, "bob"));
        assert_eq!(harness.subscribe(alice, "room")[1..], replayed(1..=2));
        assert_eq!(harness.subscribe(bob, "room"), ["subscription_succeeded room 2"]);
        assert_eq!(harness.stored(), 0);
        end(&mut harness);
        let carol = client(&mut harness, "carol");
        assert_eq!(harness.subscribe(carol, "room").len(), 1, "and never again");
    }
}

#[test]
fn after_a_crash_every_channel_has_a_new_epoch_and_higher_seq() {
    let mut harness = harness();
    publish(&mut harness, "behind", 1..=5);
    harness.disk_writes_behind();
    let before = epoch(&mut harness, "behind");
    publish(&mut harness, "behind", 6..=7);
    harness.crash();
    let received = since_epoch(&mut harness, "behind", &before, 5);
    assert_eq!(received[..2], ["subscription_succeeded behind 5 false", "gap epoch"]);
    assert_eq!(received[2..], replayed(1..=5));
    assert_ne!(epoch(&mut harness, "behind"), before);
    publish(&mut harness, "behind", 8..=8);
    let bob = client(&mut harness, "bob");
    let received = since(&mut harness, bob, "behind", 4);
    assert_eq!(received[0], "subscription_succeeded behind 6 recovered");
    assert_eq!(received[1..], [replayed(5..=5), replayed(8..=8)].concat());
}

#[test]
fn a_history_written_behind_goes_on_after_a_kill() {
    let mut harness = harness();
    publish(&mut harness, "behind", 1..=3);
    harness.disk_writes_behind();
    publish(&mut harness, "behind", 4..=5);
    let before = epoch(&mut harness, "behind");
    harness.kill();
    let received = since_epoch(&mut harness, "behind", &before, 3);
    assert_eq!(received, ["subscription_succeeded behind 5 false", "gap 4 5 2 not_kept"]);
    publish(&mut harness, "behind", 6..=6);
    let received = since_epoch(&mut harness, "behind", &before, 5);
    assert_eq!(received, ["subscription_succeeded behind 6 recovered", "new 6 replayed"]);
}

#[test]
fn a_history_written_at_a_stop_does_not_survive_a_crash() {
    let mut harness = harness();
    publish(&mut harness, "behind", 1..=3);
    publish(&mut harness, "orders", 1..=3);
    harness.disk_writes_behind();
    harness.crash();
    let bob = client(&mut harness, "bob");
    assert_eq!(all(&mut harness, bob, "behind")[1..], replayed(1..=3));
    assert_eq!(all(&mut harness, bob, "orders"), ["subscription_succeeded orders 0 recovered"]);
}

#[test]
fn a_removal_lost_in_a_crash_doubles_and_never_loses() {
    let mut harness = harness();
    harness.past.forgets_removals = true;
    send_all(&mut harness, 1..=3);
    harness.disk_writes_behind();
    let bob = harness.client_in("bob", Auto);
    assert_eq!(harness.received(bob).len(), 4);
    assert_eq!(harness.stored(), 0);
    harness.crash();
    assert_eq!(waits(&mut harness), ["say 1 replayed", "say 2 replayed", "say 3 replayed"]);
}

#[test]
fn an_inbox_goes_on_at_its_cursor_after_a_clean_restart() {
    let mut harness = harness();
    send_all(&mut harness, 1..=4);
    let (bob, before) = inbox(&mut harness, "bob");
    harness.ack(bob, 2);
    harness.restart();
    let (bob, after) = inbox(&mut harness, "bob");
    assert_eq!(after, json!({"epoch": before["epoch"], "seq": 4, "waiting": 2}));
    assert_eq!(waits(&mut harness), ["say 3 replayed", "say 4 replayed"]);
    harness.ack(bob, 4);
    assert_eq!(harness.stored(), 0);
    harness.restart();
    assert!(waits(&mut harness).is_empty());
}

#[test]
fn an_ack_across_a_clean_restart_counts() {
    let mut harness = harness();
    harness.slow_store = true;
    send_all(&mut harness, 1..=2);
    let (bob, _) = inbox(&mut harness, "bob");
    harness.store_answers();
    assert_eq!(harness.received(bob), ["say 1 replayed", "say 2 replayed"]);
    harness.restart();
    let (bob, _) = inbox(&mut harness, "bob");
    harness.ack(bob, 2);
    assert_eq!(inbox(&mut harness, "bob").1["waiting"], 0, "nothing was read to it yet");
}

#[test]
fn an_inbox_has_a_new_epoch_after_a_crash_old_acks_are_void() {
    let mut harness = harness();
    send_all(&mut harness, 1..=2);
    harness.disk_writes_behind();
    let (_, before) = inbox(&mut harness, "bob");
    harness.crash();
    let (bob, after) = inbox(&mut harness, "bob");
    assert_eq!((&after["seq"], &after["waiting"]), (&json!(2), &json!(2)));
    assert_ne!(after["epoch"], before["epoch"]);
    harness.send_unread(bob, &json!({"action": "ack", "epoch": before["epoch"], "seq": 2}));
    assert_eq!(harness.stored(), 2);
    harness.ack(bob, 2);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn inbox_losses_before_the_kept_part_are_a_gap_in_place() {
    let mut harness = harness();
    send_all(&mut harness, 1..=1);
    let worker = harness.worker();
    harness.send(worker, json!({"user_id": "bob", "event": "say", "data": 2, "ttl": 1}));
    send_all(&mut harness, 3..=3);
    harness.restart();
    harness.wait(3.0);
    assert_eq!(waits(&mut harness), ["say 1 replayed", "gap 2 2 1 expired", "say 3 replayed"]);
}

#[test]
fn messages_expired_while_off_are_dropped_counted_and_a_gap() {
    for end in [Harness::restart, Harness::crash] {
        let mut harness = harness();
        let (listener, worker) = (harness.worker(), harness.worker());
        harness.subscribe(listener, "system:undelivered");
        // So that this channel is there after a crash as well.
        harness.disconnect(listener);
        harness.send(worker, json!({"user_id": "carol", "event": "say", "message_id": "c"}));
        for (id, ttl) in [("m1", 10), ("m2", 1000)] {
            harness.send(worker, json!({"channel": "room", "event": "say", "message_id": id, "ttl": ttl}));
        }
        harness.disk_writes_behind();
        harness.now.moment = harness.now.moment + Duration::from_secs(60);
        end(&mut harness);
        let listener = harness.worker();
        let received =
            harness.request(listener, json!({"action": "subscribe", "channel": "system:undelivered"}));
        let expected = received.into_iter().filter(|frame| frame["data"]["state"] == "expired");
        let expected: Vec<Value> = expected.map(|frame| frame["data"]["message_id"].clone()).collect();
        assert_eq!(expected, ["m1"]);
        assert_eq!(harness.stats()["messages_expired"], 1);
        let alice = client(&mut harness, "alice");
        let received = harness.subscribe(alice, "room");
        assert_eq!(received, ["subscription_succeeded room 2", "say replayed"]);
    }
}

#[test]
fn nothing_expires_early_or_late_on_another_clock() {
    let mut harness = harness();
    let worker = harness.worker();
    harness.send(worker, json!({"channel": "room", "event": "say", "data": 1, "ttl": 100}));
    harness.wait(10.0);
    harness.reboot(Duration::from_secs(50));
    harness.wait(38.0);
    assert_eq!(harness.stored(), 1);
    harness.wait(3.0);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn workers_get_no_second_notice_of_what_waits_for_a_user() {
    let mut harness = harness();
    let listener = harness.worker();
    harness.subscribe(listener, "system:undelivered");
    send_all(&mut harness, 1..=2);
    assert_eq!(harness.received(listener).len(), 2);
    harness.restart();
    let listener = harness.worker();
    harness.subscribe(listener, "system:undelivered");
    let (bob, _) = inbox(&mut harness, "bob");
    harness.disconnect(bob);
    harness.keep_alive(20);
    assert!(harness.received(listener).is_empty());
}

#[test]
fn a_stricter_policy_applies_to_messages_kept_before() {
    let mut harness = harness();
    for channel in ["behind", "room", "other"] {
        publish(&mut harness, channel, 1..=3);
    }
    harness.disk_writes_behind();
    let mut today = settings();
    let fewer = Policy { count: 2, ..Policy::default() };
    let none = Policy { keep: Keep::Never, ..Policy::default() };
    today.policies = vec![(Pattern::new("room"), fewer), (Pattern::new("other"), none)];
    harness.crash_into(today);
    let alice = client(&mut harness, "alice");
    assert_eq!(harness.subscribe(alice, "behind")[1..], replayed(1..=3), "now it is a backlog");
    assert_eq!(harness.subscribe(alice, "room")[1..], replayed(2..=3));
    assert_eq!(harness.subscribe(alice, "other"), ["subscription_succeeded other 3"]);
    assert_eq!((harness.stored(), &harness.stats()["messages_evicted"]), (0, &json!(4)));
}

#[test]
fn a_delivered_message_is_no_backlog_after_a_crash() {
    let mut harness = harness();
    publish(&mut harness, "room", 1..=1);
    let (alice, bob) = (client(&mut harness, "alice"), client(&mut harness, "bob"));
    harness.block_socket(alice);
    harness.subscribe(alice, "room");
    harness.subscribe(bob, "room");
    // Kept for alice, who still reads; bob has received it.
    publish(&mut harness, "room", 2..=2);
    harness.disk_writes_behind();
    harness.crash();
    let carol = client(&mut harness, "carol");
    assert_eq!(harness.subscribe(carol, "room")[1..], replayed(1..=1));
    assert_eq!(harness.stored(), 0);
}

#[test]
fn restored_logs_obey_their_common_limit() {
    let mut harness = harness();
    publish(&mut harness, "small", 1..=1);
    publish(&mut harness, "room", 1..=40);
    harness.disk_writes_behind();
    let mut today = settings();
    today.limits.kept_bytes = 2000;
    harness.crash_into(today);
    assert!(harness.stats()["kept_bytes"].as_u64().unwrap() <= 2000);
    let alice = client(&mut harness, "alice");
    assert_eq!(harness.subscribe(alice, "small")[1..], replayed(1..=1), "the biggest pays");
    assert_eq!(harness.subscribe(alice, "room").last(), replayed(40..=40).last());
}

#[test]
fn a_receipt_pending_at_a_clean_stop_is_sent_after_it() {
    let mut harness = harness();
    let alice = sender(&mut harness);
    harness.send(
        alice,
        json!({"action": "send", "user_id": "bob", "event": "say", "message_id": "m1", "receipt": true}),
    );
    harness.reboot(Duration::from_secs(3600));
    let (alice, (bob, inbox)) = (sender(&mut harness), inbox(&mut harness, "bob"));
    harness.ack(bob, inbox["seq"].as_u64().unwrap());
    let receipt = harness.frames(alice).remove(0);
    assert_eq!(receipt["data"], json!({"message_id": "m1", "user_id": "bob", "state": "delivered"}));
}

#[test]
fn an_unclaimed_receipt_expires_on_the_old_clock() {
    let mut harness = harness();
    let alice = sender(&mut harness);
    harness.send(alice, json!({"action": "send", "user_id": "bob", "event": "say", "receipt": true}));
    harness.reboot(Duration::from_secs(24 * 3600 + 1));
    assert_eq!(harness.stored(), 0);
    harness.wait(302.0);
    assert_eq!(harness.hub.deadline(), None, "nothing is left");
}

#[test]
fn message_ids_survive_a_clean_restart_and_age_meanwhile() {
    let mut harness = harness();
    let worker = harness.worker();
    let line = json!({"channel": "never", "event": "say", "message_id": "m1", "id": 1});
    harness.send(worker, line.clone());
    harness.reboot(Duration::from_secs(300));
    let worker = harness.worker();
    assert_eq!(harness.request(worker, line.clone())[0]["duplicate"], true);
    harness.reboot(Duration::from_secs(800));
    let worker = harness.worker();
    harness.wait(601.0);
    assert_eq!(harness.request(worker, line)[0].get("duplicate"), None);
}

#[test]
fn message_ids_on_the_disk_survive_a_crash() {
    let mut harness = harness();
    let worker = harness.worker();
    let line = |id: &str| json!({"channel": "room", "event": "say", "message_id": id, "id": 1});
    harness.send(worker, line("m1"));
    harness.disk_writes_behind();
    harness.send(worker, line("m2"));
    harness.wait(300.0);
    harness.crash();
    let worker = harness.worker();
    let answer = harness.request(worker, line("m1")).remove(0);
    assert_eq!((&answer["duplicate"], &answer["kept"]), (&json!(true), &json!(true)));
    assert_eq!(harness.request(worker, line("m2"))[0].get("duplicate"), None, "this one was lost");
    harness.wait(301.0);
    assert_eq!(harness.request(worker, line("m1"))[0].get("duplicate"), None, "ten minutes from the first");
}

#[test]
fn a_durable_repetition_after_a_crash_is_answered_stored() {
    let mut harness = harness();
    let worker = harness.worker();
    let line = json!({"channel": "room", "event": "say", "message_id": "m1", "durable": true, "id": 1});
    assert_eq!(harness.request(worker, line.clone())[0]["stored"], true);
    harness.crash();
    let worker = harness.worker();
    let answer = harness.request(worker, line).remove(0);
    assert_eq!((&answer["duplicate"], &answer["stored"]), (&json!(true), &json!(true)));
    let alice = client(&mut harness, "alice");
    assert_eq!(harness.subscribe(alice, "room").len(), 2, "and is there once");
}

#[test]
fn a_durable_history_message_survives_a_crash() {
    let mut harness = harness();
    let worker = harness.worker();
    for (n, durable) in [(1, false), (2, true), (3, false)] {
        harness.send(worker, json!({"channel": "orders", "event": "new", "data": n, "durable": durable}));
    }
    harness.crash();
    let bob = client(&mut harness, "bob");
    let received = all(&mut harness, bob, "orders");
    let expected = ["subscription_succeeded orders 2 false", "gap 1 1 1 not_kept", "new 2 replayed"];
    assert_eq!(received, expected);
}

#[test]
fn a_message_only_its_publisher_got_waits_after_a_restart() {
    let mut harness = harness();
    let alice = client(&mut harness, "alice");
    harness.subscribe(alice, "room");
    harness.publish(alice, "room", 1);
    harness.restart();
    let alice = client(&mut harness, "alice");
    assert_eq!(harness.subscribe(alice, "room")[1..], ["say 1 replayed"]);
}

#[test]
fn operations_and_connections_end_with_the_hub() {
    let mut harness = harness();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "room"}));
    harness.subscribe(alice, "room");
    harness.restart();
    let stats = harness.stats();
    for number in ["operations", "workers", "total_connections", "subscriptions"] {
        assert_eq!(stats[number], 0, "{number}");
    }
    let worker = harness.worker();
    let start = json!({"action": "operation_start", "operation_id": "op", "channel": "room", "id": 1});
    assert_eq!(harness.send(worker, start), ["ok"]);
}

#[test]
fn a_checkpoint_older_than_the_disk_is_ignored() {
    let mut harness = harness();
    publish(&mut harness, "behind", 1..=2);
    let before = epoch(&mut harness, "behind");
    let remains = harness.end();
    harness.begin(Some(&remains), 0);
    publish(&mut harness, "behind", 3..=4);
    harness.disk_writes_behind();
    harness.begin(Some(&remains), 0);
    assert_ne!(epoch(&mut harness, "behind"), before);
    let bob = client(&mut harness, "bob");
    assert_eq!(since(&mut harness, bob, "behind", 1)[1..], replayed(2..=4));
}

#[test]
fn two_restarts_in_a_row_lose_nothing() {
    let mut harness = harness();
    let alice = sender(&mut harness);
    publish(&mut harness, "orders", 1..=3);
    send(&mut harness, alice, 1);
    let before = epoch(&mut harness, "orders");
    harness.restart();
    harness.restart();
    let received = since_epoch(&mut harness, "orders", &before, 0);
    assert_eq!(received[0], "subscription_succeeded orders 3 recovered");
    assert_eq!(waits(&mut harness), ["say 1 replayed"]);
}

#[test]
fn a_hand_over_between_two_restarts_changes_nothing() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=3);
    let before = epoch(&mut harness, "orders");
    harness.restart();
    harness.hand_over();
    publish(&mut harness, "orders", 4..=4);
    harness.restart();
    let received = since_epoch(&mut harness, "orders", &before, 2);
    assert_eq!(received[0], "subscription_succeeded orders 4 recovered");
    assert_eq!(received[1..], replayed(3..=4));
}

#[test]
fn a_checkpoint_of_this_version_is_restored() {
    let bytes = include_bytes!("remains-of-version-2");
    let now = harness().now;
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
    let now = harness().now;
    let revive = |bytes: &[u8]| Hub::revive(Settings::default(), 1, now, bytes, 0);
    let mut other = harness().end();
    // Behind the mark.
    other[1] = 0;
    let error = revive(&other).unwrap_err();
    assert!(matches!(error, StateError::Version { found: 0, .. }), "{error}");
    assert!(matches!(revive(b"{"), Err(StateError::Form(_))));
    assert!(matches!(revive(br#"{"version":1}"#), Err(StateError::Form(_))));
    assert!(revive(&harness().end()).is_ok());
}
