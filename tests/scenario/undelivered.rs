//! Undelivered messages, which wait for the first subscriber.

use serde_json::json;
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{Pattern, SendQueueState, Settings};

use super::bench::{Bench, rights};

fn with_policy(policy: Policy) -> Bench {
    Bench::with(Settings { policy, ..Settings::default() })
}

#[test]
fn the_backlog_goes_in_order_to_the_first_subscriber_only() {
    let mut bench = Bench::new();
    let (worker, alice, bob) = (bench.worker(), bench.client("alice"), bench.client("bob"));
    for n in 1..=3 {
        bench.say(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    let heard = bench.subscribe(alice, "logs");
    let replay = ["log 1 replayed", "log 2 replayed", "log 3 replayed"];
    assert_eq!(heard[1..], [&["subscription_succeeded logs 3"], &replay[..]].concat());
    assert_eq!(bench.subscribe(bob, "logs")[1..], ["subscription_succeeded logs 3"]);
    assert_eq!(bench.stored(), 0, "it is forgotten");
}

#[test]
fn a_message_only_its_publisher_got_waits_for_another() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.subscribe(alice, "room");
    assert_eq!(bench.publish(alice, "room", 1), ["say 1", "send_success 1 0 kept"]);
    assert_eq!(bench.subscribe(bob, "room").last().unwrap(), "say 1 replayed");
}

#[test]
fn messages_of_a_dying_subscriber_wait_for_the_next() {
    let mut bench = Bench::new();
    let (alice, bob, carol) = (bench.client("alice"), bench.client("bob"), bench.client("carol"));
    for n in 1..=3 {
        bench.publish(alice, "room", n);
    }
    bench.clog(bob);
    bench.subscribe(bob, "room");
    bench.drain(bob, 1);
    bench.leave(bob);
    let heard = bench.subscribe(carol, "room");
    assert_eq!(heard[1..], ["subscription_succeeded room 3", "say 2 replayed", "say 3 replayed"]);
}

#[test]
fn a_message_is_dropped_once_the_socket_has_taken_it() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.publish(alice, "room", 1);
    bench.clog(bob);
    bench.subscribe(bob, "room");
    assert_eq!(bench.stored(), 1);
    bench.drain(bob, 1);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn messages_during_a_replay_follow_it_and_are_live_for_others() {
    let mut bench = Bench::new();
    let (alice, bob, carol) = (bench.client("alice"), bench.client("bob"), bench.client("carol"));
    bench.publish(alice, "room", 1);
    bench.clog(bob);
    bench.subscribe(bob, "room");
    bench.subscribe(carol, "room");
    bench.hush(bob);
    bench.hush(carol);
    assert_eq!(bench.publish(alice, "room", 2), ["send_success 2 0 kept"]);
    assert_eq!(bench.story(carol), ["say 2"]);
    assert!(bench.story(bob).is_empty());
    bench.unclog(bob);
    assert_eq!(bench.story(bob), ["say 2 replayed"]);
    assert_eq!(bench.stored(), 0);
    bench.publish(alice, "room", 3);
    assert_eq!(bench.story(bob), ["say 3"], "then it is live");
}

#[test]
fn a_long_backlog_comes_whole_and_page_by_page() {
    let mut bench = Bench::new();
    let (worker, bob) = (bench.worker(), bench.client("bob"));
    for n in 0..300 {
        bench.say(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    bench.clog(bob);
    assert_eq!(bench.subscribe(bob, "logs").len(), 2 + 64, "the next page waits for the socket");
    bench.drain(bob, 63);
    assert!(bench.story(bob).is_empty());
    bench.unclog(bob);
    assert_eq!(bench.story(bob).len(), 300 - 64);
}

#[test]
fn a_slow_store_changes_nothing_but_the_time() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.slow_store = true;
    bench.publish(alice, "room", 1);
    bench.subscribe(bob, "room");
    bench.publish(alice, "room", 2);
    bench.hush(bob);
    bench.store_answers();
    assert_eq!(bench.story(bob), ["say 1 replayed", "say 2 replayed"]);
    bench.publish(alice, "room", 3);
    assert_eq!(bench.story(bob), ["say 3"]);
}

#[test]
fn subscribing_again_during_a_replay_does_not_double_it() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.slow_store = true;
    bench.publish(alice, "room", 1);
    bench.subscribe(bob, "room");
    bench.subscribe(bob, "room");
    bench.store_answers();
    assert_eq!(bench.story(bob), ["say 1 replayed"]);
}

#[test]
fn resubscribing_during_a_fetch_replays_once() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.slow_store = true;
    bench.publish(alice, "room", 1);
    bench.subscribe(bob, "room");
    bench.say(bob, json!({"action": "unsubscribe", "channel": "room"}));
    bench.store_answers();
    assert!(bench.story(bob).is_empty(), "nothing comes after unsubscribing");
    bench.subscribe(bob, "room");
    bench.say(bob, json!({"action": "unsubscribe", "channel": "room"}));
    bench.subscribe(bob, "room");
    bench.store_answers();
    assert_eq!(bench.story(bob), ["say 1 replayed"]);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn a_message_is_kept_for_its_ttl_within_the_policy() {
    let mut bench = with_policy(Policy { ttl: std::time::Duration::from_secs(100), ..Policy::default() });
    let worker = bench.worker();
    for (n, ttl) in [(1, 10), (2, 1000), (3, 50)] {
        bench.say(worker, json!({"channel": "logs", "event": "log", "data": n, "ttl": ttl}));
    }
    bench.wait(9.0);
    assert_eq!(bench.stored(), 3);
    bench.wait(2.0);
    assert_eq!(bench.stored(), 2);
    bench.wait(50.0);
    let alice = bench.client("alice");
    assert_eq!(bench.subscribe(alice, "logs")[1..], ["subscription_succeeded logs 3", "log 2 replayed"]);
    bench.say(worker, json!({"channel": "other", "event": "log", "ttl": 1000}));
    bench.wait(101.0);
    assert_eq!(bench.stored(), 0);
    assert_eq!(bench.stats()["messages_expired"], 3);
}

#[test]
fn a_fleeting_message_is_not_kept() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    bench.say(worker, json!({"channel": "logs", "event": "log", "ttl": 0}));
    assert_eq!(bench.stored(), 0);
}

#[test]
fn a_full_log_evicts_its_oldest() {
    let mut bench = with_policy(Policy { count: 3, ..Policy::default() });
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    for n in 1..=5 {
        bench.say(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    assert_eq!(bench.stored(), 3);
    let heard = bench.subscribe(alice, "logs");
    assert_eq!(heard[2..], ["log 3 replayed", "log 4 replayed", "log 5 replayed"]);
    assert_eq!(bench.stats()["messages_evicted"], 2);
}

#[test]
fn messages_evicted_ahead_of_a_reader_show_as_a_gap() {
    let mut bench = with_policy(Policy { count: 70, ..Policy::default() });
    let (worker, bob) = (bench.worker(), bench.client("bob"));
    for n in 1..=70 {
        bench.say(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    bench.clog(bob);
    bench.subscribe(bob, "logs");
    for n in 71..=136 {
        bench.say(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    bench.hush(bob);
    bench.unclog(bob);
    let heard = bench.story(bob);
    assert_eq!(heard[..2], ["gap 65 66 2 evicted", "log 67 replayed"]);
    assert_eq!(heard.last().unwrap(), "log 136 replayed");
    assert_eq!(heard.len(), 71);
}

#[test]
fn messages_the_store_lost_show_as_a_gap() {
    let mut bench = Bench::new();
    let (worker, bob) = (bench.worker(), bench.client("bob"));
    for n in 1..=3 {
        bench.say(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    bench.lose_store();
    assert_eq!(bench.subscribe(bob, "logs")[2..], ["gap 1 3 3 evicted"]);
    bench.say(worker, json!({"channel": "logs", "event": "log", "data": 4}));
    assert_eq!(bench.story(bob), ["log 4"]);
}

#[test]
fn all_logs_share_a_limit_and_the_largest_is_evicted() {
    let mut settings = Settings::default();
    settings.limits.kept_bytes = 2000;
    let mut bench = Bench::with(settings);
    let worker = bench.worker();
    bench.say(worker, json!({"channel": "small", "event": "log", "data": 1}));
    for n in 1..=20 {
        bench.say(worker, json!({"channel": "big", "event": "log", "data": n}));
    }
    assert!(bench.stats()["kept_bytes"].as_u64().unwrap() <= 2000);
    let alice = bench.client("alice");
    assert_eq!(bench.subscribe(alice, "small")[2..], ["log 1 replayed"]);
    assert_eq!(bench.subscribe(alice, "big").last().unwrap(), "log 20 replayed");
}

#[test]
fn a_policy_of_never_keeps_nothing() {
    let mut bench = with_policy(Policy { keep: Keep::Never, ..Policy::default() });
    let alice = bench.client("alice");
    assert_eq!(bench.publish(alice, "room", 1), ["send_success 0 0 false"]);
    assert_eq!(bench.subscribe(alice, "room")[1..], ["subscription_succeeded room 1"]);
}

#[test]
fn a_history_replays_what_was_missed_and_stays() {
    let history = Policy { keep: Keep::History, count: 3, ..Policy::default() };
    let policies = vec![(Pattern::new("orders:*"), history)];
    let mut bench = Bench::with(Settings { policies, ..Settings::default() });
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    for n in 1..=5 {
        bench.say(worker, json!({"channel": "orders:1", "event": "new", "data": n}));
    }
    bench.subscribe(alice, "x");
    let since = |epoch: &str, seq: u64| json!({"action": "subscribe", "channel": "orders:1", "since": {"epoch": epoch, "seq": seq}});
    let heard = bench.say(alice, since("", 0));
    let kept = ["new 3 replayed", "new 4 replayed", "new 5 replayed"];
    let greeting = ["subscription_succeeded orders:1 5 false", "gap 1 2 2 evicted"];
    assert_eq!(heard, [&greeting[..], &kept[..]].concat());
    bench.say(alice, json!({"action": "subscribe", "channel": "orders:1"}));
    bench.say(worker, json!({"channel": "orders:1", "event": "new", "data": 6}));
    assert_eq!(bench.story(alice), ["new 6"]);
    bench.say(alice, json!({"action": "subscribe", "channel": "orders:1"}));
    let bob = bench.client("bob");
    let heard = bench.ask(bob, json!({"action": "subscribe", "channel": "orders:1"}));
    assert_eq!(heard.len(), 2, "without `since` it is live");
    let epoch = heard[1]["epoch"].as_str().unwrap().to_owned();
    let heard = bench.say(bob, since(&epoch, 4));
    assert_eq!(heard, ["subscription_succeeded orders:1 6 recovered", "new 5 replayed", "new 6 replayed"]);
}

#[test]
fn a_reader_too_slow_for_a_live_history_falls_back_to_replay() {
    let history = Policy { keep: Keep::History, ..Policy::default() };
    let mut bench = with_policy(history);
    let (worker, alice, bob) = (bench.worker(), bench.client("alice"), bench.client("bob"));
    bench.subscribe(alice, "orders");
    bench.subscribe(bob, "orders");
    bench.hush(alice);
    bench.outbound(alice, SendQueueState::Full);
    for n in 1..=2 {
        bench.say(worker, json!({"channel": "orders", "event": "new", "data": n}));
    }
    assert!(bench.story(alice).is_empty());
    bench.outbound(alice, SendQueueState::Empty);
    assert_eq!(bench.story(alice), ["new 1 replayed", "new 2 replayed"]);
}

#[test]
fn a_message_for_an_absent_user_waits_for_a_connection() {
    let mut bench = Bench::new();
    let sender = bench.client_with("alice", rights(&[], &["@user:bob"], &[]));
    let request = json!({"action": "send", "user_id": "bob", "event": "say", "data": 1});
    assert_eq!(bench.say(sender, request), ["send_success 0 0 kept"]);
    let bob = bench.newcomer("bob", rights(&[], &[], &[]));
    assert_eq!(bench.story(bob), ["connection_established", "say 1 replayed"]);
    let bob_too = bench.client("bob");
    assert!(bench.story(bob_too).is_empty());
    assert_eq!(bench.stored(), 0);
}

#[test]
fn frames_in_flight_at_an_unsubscribe_go_to_nobody_else() {
    let mut bench = Bench::new();
    let (alice, bob, carol) = (bench.client("alice"), bench.client("bob"), bench.client("carol"));
    bench.publish(alice, "room", 1);
    bench.clog(bob);
    bench.subscribe(bob, "room");
    bench.say(bob, json!({"action": "unsubscribe", "channel": "room"}));
    assert_eq!(bench.subscribe(carol, "room")[1..], ["subscription_succeeded room 1"]);
    bench.drain(bob, 1);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn frames_in_flight_at_an_unsubscribe_and_death_wait() {
    let mut bench = Bench::new();
    let (alice, bob, carol) = (bench.client("alice"), bench.client("bob"), bench.client("carol"));
    bench.publish(alice, "room", 1);
    bench.clog(bob);
    bench.subscribe(bob, "room");
    bench.say(bob, json!({"action": "unsubscribe", "channel": "room"}));
    bench.leave(bob);
    assert_eq!(bench.subscribe(carol, "room").last().unwrap(), "say 1 replayed");
}

#[test]
fn many_readers_of_one_backlog_all_get_it_then_it_is_dropped() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    for n in 0..200 {
        bench.say(worker, json!({"channel": "jobs", "event": "e", "data": n}));
    }
    // All of them are asked for before the store gives anything.
    bench.slow_store = true;
    let readers: Vec<_> = (0..40).map(|n| bench.client(&format!("user{n}"))).collect();
    for reader in &readers {
        let since = json!({"epoch": "", "seq": 0});
        bench.say(*reader, json!({"action": "subscribe", "channel": "jobs", "since": since}));
    }
    assert_eq!(bench.stats()["kept_messages"], 200);
    bench.slow_store = false;
    let mut heard = vec![0; readers.len()];
    for _ in 0..20 {
        bench.store_answers();
        for (reader, heard) in readers.iter().zip(&mut heard) {
            *heard += bench.frames(*reader).iter().filter(|frame| frame["type"] == "message").count();
        }
    }
    assert_eq!(heard, vec![200; readers.len()]);
    assert_eq!(bench.stats()["kept_messages"], 0);
}
