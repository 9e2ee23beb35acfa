//! Undelivered messages, which wait for the first subscriber.

use serde_json::json;
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{Pattern, SendQueueState, Settings};

use super::harness::{Harness, rights};

fn with_policy(policy: Policy) -> Harness {
    Harness::with(Settings { policy, ..Settings::default() })
}

#[test]
fn the_backlog_goes_in_order_to_the_first_subscriber_only() {
    let mut harness = Harness::new();
    let (worker, alice, bob) = (harness.worker(), harness.client("alice"), harness.client("bob"));
    for n in 1..=3 {
        harness.send(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    let received = harness.subscribe(alice, "logs");
    let replay = ["log 1 replayed", "log 2 replayed", "log 3 replayed"];
    assert_eq!(received[1..], [&["subscription_succeeded logs 3"], &replay[..]].concat());
    assert_eq!(harness.subscribe(bob, "logs")[1..], ["subscription_succeeded logs 3"]);
    assert_eq!(harness.stored(), 0, "it is forgotten");
}

#[test]
fn a_message_only_its_publisher_got_waits_for_another() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(alice, "room");
    assert_eq!(harness.publish(alice, "room", 1), ["say 1", "send_success 1 0 kept"]);
    assert_eq!(harness.subscribe(bob, "room").last().unwrap(), "say 1 replayed");
}

#[test]
fn messages_of_a_dying_subscriber_wait_for_the_next() {
    let mut harness = Harness::new();
    let (alice, bob, carol) = (harness.client("alice"), harness.client("bob"), harness.client("carol"));
    for n in 1..=3 {
        harness.publish(alice, "room", n);
    }
    harness.block_socket(bob);
    harness.subscribe(bob, "room");
    harness.drain(bob, 1);
    harness.disconnect(bob);
    let received = harness.subscribe(carol, "room");
    assert_eq!(received[1..], ["subscription_succeeded room 3", "say 2 replayed", "say 3 replayed"]);
}

#[test]
fn a_message_is_dropped_once_the_socket_has_taken_it() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.publish(alice, "room", 1);
    harness.block_socket(bob);
    harness.subscribe(bob, "room");
    assert_eq!(harness.stored(), 1);
    harness.drain(bob, 1);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn messages_during_a_replay_follow_it_and_are_live_for_others() {
    let mut harness = Harness::new();
    let (alice, bob, carol) = (harness.client("alice"), harness.client("bob"), harness.client("carol"));
    harness.publish(alice, "room", 1);
    harness.block_socket(bob);
    harness.subscribe(bob, "room");
    harness.subscribe(carol, "room");
    harness.discard_frames(bob);
    harness.discard_frames(carol);
    assert_eq!(harness.publish(alice, "room", 2), ["send_success 2 0 kept"]);
    assert_eq!(harness.received(carol), ["say 2"]);
    assert!(harness.received(bob).is_empty());
    harness.unblock_socket(bob);
    assert_eq!(harness.received(bob), ["say 2 replayed"]);
    assert_eq!(harness.stored(), 0);
    harness.publish(alice, "room", 3);
    assert_eq!(harness.received(bob), ["say 3"], "then it is live");
}

#[test]
fn a_long_backlog_comes_whole_and_page_by_page() {
    let mut harness = Harness::new();
    let (worker, bob) = (harness.worker(), harness.client("bob"));
    for n in 0..300 {
        harness.send(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    harness.block_socket(bob);
    assert_eq!(harness.subscribe(bob, "logs").len(), 2 + 64, "the next page waits for the socket");
    harness.drain(bob, 63);
    assert!(harness.received(bob).is_empty());
    harness.unblock_socket(bob);
    assert_eq!(harness.received(bob).len(), 300 - 64);
}

#[test]
fn a_slow_store_changes_nothing_but_the_time() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.slow_store = true;
    harness.publish(alice, "room", 1);
    harness.subscribe(bob, "room");
    harness.publish(alice, "room", 2);
    harness.discard_frames(bob);
    harness.store_answers();
    assert_eq!(harness.received(bob), ["say 1 replayed", "say 2 replayed"]);
    harness.publish(alice, "room", 3);
    assert_eq!(harness.received(bob), ["say 3"]);
}

#[test]
fn subscribing_again_during_a_replay_does_not_double_it() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.slow_store = true;
    harness.publish(alice, "room", 1);
    harness.subscribe(bob, "room");
    harness.subscribe(bob, "room");
    harness.store_answers();
    assert_eq!(harness.received(bob), ["say 1 replayed"]);
}

#[test]
fn resubscribing_during_a_fetch_replays_once() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.slow_store = true;
    harness.publish(alice, "room", 1);
    harness.subscribe(bob, "room");
    harness.send(bob, json!({"action": "unsubscribe", "channel": "room"}));
    harness.store_answers();
    assert!(harness.received(bob).is_empty(), "nothing comes after unsubscribing");
    harness.subscribe(bob, "room");
    harness.send(bob, json!({"action": "unsubscribe", "channel": "room"}));
    harness.subscribe(bob, "room");
    harness.store_answers();
    assert_eq!(harness.received(bob), ["say 1 replayed"]);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn a_message_is_kept_for_its_ttl_within_the_policy() {
    let mut harness = with_policy(Policy { ttl: std::time::Duration::from_secs(100), ..Policy::default() });
    let worker = harness.worker();
    for (n, ttl) in [(1, 10), (2, 1000), (3, 50)] {
        harness.send(worker, json!({"channel": "logs", "event": "log", "data": n, "ttl": ttl}));
    }
    harness.wait(9.0);
    assert_eq!(harness.stored(), 3);
    harness.wait(2.0);
    assert_eq!(harness.stored(), 2);
    harness.wait(50.0);
    let alice = harness.client("alice");
    assert_eq!(harness.subscribe(alice, "logs")[1..], ["subscription_succeeded logs 3", "log 2 replayed"]);
    harness.send(worker, json!({"channel": "other", "event": "log", "ttl": 1000}));
    harness.wait(101.0);
    assert_eq!(harness.stored(), 0);
    assert_eq!(harness.stats()["messages_expired"], 3);
}

#[test]
fn a_fleeting_message_is_not_kept() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    harness.send(worker, json!({"channel": "logs", "event": "log", "ttl": 0}));
    assert_eq!(harness.stored(), 0);
}

#[test]
fn a_full_log_evicts_its_oldest() {
    let mut harness = with_policy(Policy { count: 3, ..Policy::default() });
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    for n in 1..=5 {
        harness.send(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    assert_eq!(harness.stored(), 3);
    let received = harness.subscribe(alice, "logs");
    assert_eq!(received[2..], ["log 3 replayed", "log 4 replayed", "log 5 replayed"]);
    assert_eq!(harness.stats()["messages_evicted"], 2);
}

#[test]
fn messages_evicted_ahead_of_a_reader_show_as_a_gap() {
    let mut harness = with_policy(Policy { count: 70, ..Policy::default() });
    let (worker, bob) = (harness.worker(), harness.client("bob"));
    for n in 1..=70 {
        harness.send(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    harness.block_socket(bob);
    harness.subscribe(bob, "logs");
    for n in 71..=136 {
        harness.send(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    harness.discard_frames(bob);
    harness.unblock_socket(bob);
    let received = harness.received(bob);
    assert_eq!(received[..2], ["gap 65 66 2 evicted", "log 67 replayed"]);
    assert_eq!(received.last().unwrap(), "log 136 replayed");
    assert_eq!(received.len(), 71);
}

#[test]
fn messages_the_store_lost_show_as_a_gap() {
    let mut harness = Harness::new();
    let (worker, bob) = (harness.worker(), harness.client("bob"));
    for n in 1..=3 {
        harness.send(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    harness.lose_store();
    assert_eq!(harness.subscribe(bob, "logs")[2..], ["gap 1 3 3 evicted"]);
    harness.send(worker, json!({"channel": "logs", "event": "log", "data": 4}));
    assert_eq!(harness.received(bob), ["log 4"]);
}

#[test]
fn all_logs_share_a_limit_and_the_largest_is_evicted() {
    let mut settings = Settings::default();
    settings.limits.kept_bytes = 2000;
    let mut harness = Harness::with(settings);
    let worker = harness.worker();
    harness.send(worker, json!({"channel": "small", "event": "log", "data": 1}));
    for n in 1..=20 {
        harness.send(worker, json!({"channel": "big", "event": "log", "data": n}));
    }
    assert!(harness.stats()["kept_bytes"].as_u64().unwrap() <= 2000);
    let alice = harness.client("alice");
    assert_eq!(harness.subscribe(alice, "small")[2..], ["log 1 replayed"]);
    assert_eq!(harness.subscribe(alice, "big").last().unwrap(), "log 20 replayed");
}

#[test]
fn a_policy_of_never_keeps_nothing() {
    let mut harness = with_policy(Policy { keep: Keep::Never, ..Policy::default() });
    let alice = harness.client("alice");
    assert_eq!(harness.publish(alice, "room", 1), ["send_success 0 0 false"]);
    assert_eq!(harness.subscribe(alice, "room")[1..], ["subscription_succeeded room 1"]);
}

#[test]
fn a_history_replays_what_was_missed_and_stays() {
    let history = Policy { keep: Keep::History, count: 3, ..Policy::default() };
    let policies = vec![(Pattern::new("orders:*"), history)];
    let mut harness = Harness::with(Settings { policies, ..Settings::default() });
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    for n in 1..=5 {
        harness.send(worker, json!({"channel": "orders:1", "event": "new", "data": n}));
    }
    harness.subscribe(alice, "x");
    let since = |epoch: &str, seq: u64| json!({"action": "subscribe", "channel": "orders:1", "since": {"epoch": epoch, "seq": seq}});
    let received = harness.send(alice, since("", 0));
    let kept = ["new 3 replayed", "new 4 replayed", "new 5 replayed"];
    let greeting = ["subscription_succeeded orders:1 5 false", "gap 1 2 2 evicted"];
    assert_eq!(received, [&greeting[..], &kept[..]].concat());
    harness.send(alice, json!({"action": "subscribe", "channel": "orders:1"}));
    harness.send(worker, json!({"channel": "orders:1", "event": "new", "data": 6}));
    assert_eq!(harness.received(alice), ["new 6"]);
    harness.send(alice, json!({"action": "subscribe", "channel": "orders:1"}));
    let bob = harness.client("bob");
    let received = harness.request(bob, json!({"action": "subscribe", "channel": "orders:1"}));
    assert_eq!(received.len(), 2, "without `since` it is live");
    let epoch = received[1]["epoch"].as_str().unwrap().to_owned();
    let received = harness.send(bob, since(&epoch, 4));
    assert_eq!(received, ["subscription_succeeded orders:1 6 recovered", "new 5 replayed", "new 6 replayed"]);
}

#[test]
fn a_reader_too_slow_for_a_live_history_falls_back_to_replay() {
    let history = Policy { keep: Keep::History, ..Policy::default() };
    let mut harness = with_policy(history);
    let (worker, alice, bob) = (harness.worker(), harness.client("alice"), harness.client("bob"));
    harness.subscribe(alice, "orders");
    harness.subscribe(bob, "orders");
    harness.discard_frames(alice);
    harness.send_queue(alice, SendQueueState::Full);
    for n in 1..=2 {
        harness.send(worker, json!({"channel": "orders", "event": "new", "data": n}));
    }
    assert!(harness.received(alice).is_empty());
    harness.send_queue(alice, SendQueueState::Empty);
    assert_eq!(harness.received(alice), ["new 1 replayed", "new 2 replayed"]);
}

#[test]
fn a_message_for_an_absent_user_waits_for_a_connection() {
    let mut harness = Harness::new();
    let sender = harness.client_with("alice", rights(&[], &["@user:bob"], &[]));
    let request = json!({"action": "send", "user_id": "bob", "event": "say", "data": 1});
    assert_eq!(harness.send(sender, request), ["send_success 0 0 kept"]);
    let bob = harness.new_client("bob", rights(&[], &[], &[]));
    assert_eq!(harness.received(bob), ["connection_established", "say 1 replayed"]);
    let bob_too = harness.client("bob");
    assert!(harness.received(bob_too).is_empty());
    assert_eq!(harness.stored(), 0);
}

#[test]
fn frames_in_flight_at_an_unsubscribe_go_to_nobody_else() {
    let mut harness = Harness::new();
    let (alice, bob, carol) = (harness.client("alice"), harness.client("bob"), harness.client("carol"));
    harness.publish(alice, "room", 1);
    harness.block_socket(bob);
    harness.subscribe(bob, "room");
    harness.send(bob, json!({"action": "unsubscribe", "channel": "room"}));
    assert_eq!(harness.subscribe(carol, "room")[1..], ["subscription_succeeded room 1"]);
    harness.drain(bob, 1);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn frames_in_flight_at_an_unsubscribe_and_death_wait() {
    let mut harness = Harness::new();
    let (alice, bob, carol) = (harness.client("alice"), harness.client("bob"), harness.client("carol"));
    harness.publish(alice, "room", 1);
    harness.block_socket(bob);
    harness.subscribe(bob, "room");
    harness.send(bob, json!({"action": "unsubscribe", "channel": "room"}));
    harness.disconnect(bob);
    assert_eq!(harness.subscribe(carol, "room").last().unwrap(), "say 1 replayed");
}

#[test]
fn many_readers_of_one_backlog_all_get_it_then_it_is_dropped() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    for n in 0..200 {
        harness.send(worker, json!({"channel": "jobs", "event": "e", "data": n}));
    }
    // All of them are asked for before the store gives anything.
    harness.slow_store = true;
    let readers: Vec<_> = (0..40).map(|n| harness.client(&format!("user{n}"))).collect();
    for reader in &readers {
        let since = json!({"epoch": "", "seq": 0});
        harness.send(*reader, json!({"action": "subscribe", "channel": "jobs", "since": since}));
    }
    assert_eq!(harness.stats()["kept_messages"], 200);
    harness.slow_store = false;
    let mut received = vec![0; readers.len()];
    for _ in 0..20 {
        harness.store_answers();
        for (reader, received) in readers.iter().zip(&mut received) {
            *received += harness.frames(*reader).iter().filter(|frame| frame["type"] == "message").count();
        }
    }
    assert_eq!(received, vec![200; readers.len()]);
    assert_eq!(harness.stats()["kept_messages"], 0);
}
