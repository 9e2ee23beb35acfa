//! Settings that change under connected peers.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use wshubd::hub::settings::{Heartbeat, Keep, Policy, WriteThrough};
use wshubd::hub::{Input, MemoryQuery, Pattern, Rights, SendQueueState, Settings};

use super::harness::{ConnectionId, Harness, rights};
use super::replay::{all, client, harness, publish, replayed, since};

/// Changes the policy of `orders`.
fn orders(harness: &mut Harness, change: impl FnOnce(&mut Policy)) {
    harness.configure(|settings| change(&mut settings.policies[0].1));
}

#[test]
fn a_smaller_count_evicts_the_oldest_at_once() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=5);
    orders(&mut harness, |policy| policy.count = 2);
    assert_eq!((harness.stored(), &harness.stats()["messages_evicted"]), (2, &json!(3)));
    let bob = client(&mut harness, "bob");
    let received = since(&mut harness, bob, "orders", 1);
    assert_eq!(received[..2], ["subscription_succeeded orders 5 false", "gap 2 3 2 evicted"]);
    assert_eq!(received[2..], replayed(4..=5));
}

#[test]
fn a_smaller_byte_limit_evicts_the_oldest_at_once() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=5);
    let each = usize::try_from(harness.stats()["kept_bytes"].as_u64().unwrap()).unwrap() / 5;
    orders(&mut harness, |policy| policy.bytes = 3 * each);
    assert_eq!(harness.stored(), 3);
}

#[test]
fn a_reader_of_evicted_messages_gets_a_gap() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=5);
    let bob = client(&mut harness, "bob");
    harness.send_queue(bob, SendQueueState::Full);
    assert_eq!(all(&mut harness, bob, "orders").len(), 1, "the rest waits for the socket");
    orders(&mut harness, |policy| policy.count = 2);
    harness.send_queue(bob, SendQueueState::Empty);
    let received = harness.received(bob);
    assert_eq!((&*received[0], &received[1..]), ("gap 1 3 3 evicted", &replayed(4..=5)[..]));
}

#[test]
fn a_reader_of_only_evicted_messages_gets_a_gap_then_live() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=5);
    let bob = client(&mut harness, "bob");
    harness.send_queue(bob, SendQueueState::Full);
    all(&mut harness, bob, "orders");
    orders(&mut harness, |policy| policy.keep = Keep::Never);
    assert_eq!((harness.stored(), &*harness.received(bob)), (0, &["gap 1 5 5 evicted".to_owned()][..]));
    harness.send_queue(bob, SendQueueState::Empty);
    publish(&mut harness, "orders", 6..=6);
    assert_eq!(harness.received(bob), ["new 6"]);
}

#[test]
fn a_shorter_age_counts_from_when_a_message_was_kept() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=1);
    harness.wait(60.0);
    publish(&mut harness, "orders", 2..=2);
    orders(&mut harness, |policy| policy.ttl = Duration::from_secs(30));
    assert_eq!(harness.stored(), 1, "the first is too old by now");
    harness.wait(29.0);
    assert_eq!(harness.stored(), 1);
    harness.wait(2.0);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn a_message_lives_no_longer_than_announced_when_kept() {
    let mut harness = harness();
    publish(&mut harness, "brief", 1..=1);
    harness.configure(|settings| settings.policies[1].1.ttl = Duration::from_secs(3600));
    publish(&mut harness, "brief", 2..=2);
    harness.wait(12.0);
    assert_eq!(harness.stored(), 1, "what is kept from now on lives for an hour");
}

#[test]
fn a_history_that_ends_keeps_undelivered_messages() {
    let mut harness = harness();
    let bob = client(&mut harness, "bob");
    harness.subscribe(bob, "orders");
    publish(&mut harness, "orders", 1..=2);
    harness.disconnect(bob);
    publish(&mut harness, "orders", 3..=4);
    orders(&mut harness, |policy| policy.keep = Keep::Undelivered);
    let carol = client(&mut harness, "carol");
    let received = harness.subscribe(carol, "orders");
    assert_eq!(received[1..], replayed(3..=4));
    assert_eq!(harness.stored(), 0, "and what was heard goes as everywhere");
}

#[test]
fn a_new_history_begins_with_kept_messages() {
    let mut harness = harness();
    publish(&mut harness, "elsewhere", 1..=2);
    harness.configure(|settings| {
        let history = settings.policies[0].1;
        settings.policies.push((Pattern::new("elsewhere"), history));
    });
    for user in ["bob", "carol"] {
        let conn = harness.client(user);
        assert_eq!(all(&mut harness, conn, "elsewhere")[2..], replayed(1..=2), "{user}");
    }
}

#[test]
fn inboxes_follow_their_policy_too() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    for n in 1..=3 {
        harness.send(worker, json!({"user_id": "alice", "event": "e", "data": n}));
    }
    harness.configure(|settings| settings.inbox.count = 1);
    let alice = harness.new_client("alice", None);
    let received = harness.received(alice);
    assert_eq!(received.last().unwrap(), "e 3 replayed");
    assert_eq!(received.iter().filter(|word| word.ends_with("replayed")).count(), 1, "{received:?}");
}

#[test]
fn a_smaller_store_evicts_from_the_largest_log() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=8);
    publish(&mut harness, "elsewhere", 1..=2);
    let each = usize::try_from(harness.stats()["kept_bytes"].as_u64().unwrap()).unwrap() / 10;
    harness.configure(|settings| settings.limits.kept_bytes = 5 * each);
    let bob = harness.client("bob");
    assert_eq!(harness.subscribe(bob, "elsewhere").len(), 4, "both are there");
    assert!(harness.stats()["kept_bytes"].as_u64().unwrap() <= 5 * each as u64);
}

#[test]
fn a_new_crash_safe_log_is_recorded_from_its_position() {
    let mut harness = Harness::with(Settings { has_disk: true, ..harness().settings });
    publish(&mut harness, "orders", 1..=3);
    orders(&mut harness, |policy| policy.disk = WriteThrough::Stop);
    assert!(harness.hub.lasting_positions().is_empty());
    publish(&mut harness, "orders", 4..=4);
    orders(&mut harness, |policy| policy.disk = WriteThrough::Behind);
    let seqs: Vec<u64> = harness.hub.lasting_positions().iter().map(|(_, last)| last.seq).collect();
    assert_eq!(seqs, [4]);
}

#[test]
fn subscriptions_over_a_new_limit_stay_without_new_ones() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    for channel in ["a", "b", "c"] {
        harness.subscribe(alice, channel);
    }
    harness.configure(|settings| settings.limits.subscriptions = 2);
    publish(&mut harness, "c", 1..=1);
    assert_eq!(harness.received(alice), ["new 1"]);
    assert_eq!(harness.subscribe(alice, "d"), ["error too_many_subscriptions d"]);
    assert_eq!(
        harness.subscribe(alice, "a"),
        ["subscription_succeeded a 0"],
        "one that is there is none more"
    );
}

#[test]
fn connections_over_a_new_limit_stay_without_new_ones() {
    let mut harness = Harness::new();
    let (one, two) = (harness.client("alice"), harness.client("alice"));
    harness.configure(|settings| settings.limits.connections_per_user = 1);
    assert!(harness.received(one).is_empty() && harness.received(two).is_empty());
    let three = harness.new_client("alice", None);
    assert_eq!(harness.received(three), ["closed 4008"]);
}

#[test]
fn a_new_rate_applies_to_the_next_request() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    let refused = |harness: &mut Harness, alice: ConnectionId| {
        let answers: Vec<_> = (0..30).flat_map(|_| harness.send(alice, json!({"action": "ping"}))).collect();
        answers.iter().filter(|answer| *answer == "error rate_limited").count()
    };
    assert_eq!(refused(&mut harness, alice), 10);
    harness.configure(|settings| settings.limits.burst = 1000);
    assert_eq!(refused(&mut harness, alice), 0);
}

#[test]
fn anonymous_connections_stay_when_newcomers_need_a_token() {
    let mut harness = Harness::open();
    let nobody = harness.anonymous_client();
    harness.discard_frames(nobody);
    harness.configure(|settings| settings.anonymous = false);
    assert_eq!(harness.send(nobody, json!({"action": "ping"})), ["pong"]);
    let next = harness.anonymous_client();
    assert_eq!(harness.received(next), ["auth_required"]);
}

fn usual(subscribe: &str) -> Rc<Rights> {
    rights(&[subscribe], &["*"], &[])
}

#[test]
fn default_rights_change_for_tokens_without_rights() {
    let mut harness = Harness::open();
    let (bare, nobody) = (harness.client("alice"), harness.anonymous_client());
    let own = harness.client_with("bob", rights(&["*"], &["*"], &[]));
    let worker = harness.worker();
    harness.discard_frames(nobody);
    for conn in [bare, nobody, own, worker] {
        harness.subscribe(conn, "secret");
        harness.subscribe(conn, "open");
    }
    harness.configure(|settings| settings.rights = usual("open"));
    for conn in [bare, nobody] {
        assert_eq!(harness.received(conn), ["unsubscribed secret forbidden"]);
        assert_eq!(harness.subscribe(conn, "secret"), ["error forbidden secret"]);
    }
    for conn in [own, worker] {
        assert!(harness.received(conn).is_empty());
    }
    harness.configure(|settings| settings.rights = usual("*"));
    assert_eq!(harness.subscribe(bare, "secret"), ["subscription_succeeded secret 0"]);
}

fn beat(harness: &mut Harness, ping: u64, pong: u64) {
    let (ping_interval, pong_timeout) = (Duration::from_secs(ping), Duration::from_secs(pong));
    harness.configure(|settings| settings.heartbeat = Heartbeat { ping_interval, pong_timeout });
}

#[test]
fn a_faster_heartbeat_pings_before_it_closes() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.wait(40.0);
    beat(&mut harness, 10, 15);
    harness.wait(0.0);
    assert_eq!(harness.received(alice), ["ping"]);
    harness.wait(4.9);
    assert!(harness.received(alice).is_empty());
    harness.wait(0.1);
    assert_eq!(harness.received(alice), ["closed 4203"]);
}

#[test]
fn a_slower_heartbeat_pings_later() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.wait(50.0);
    beat(&mut harness, 100, 120);
    harness.wait(49.9);
    assert!(harness.received(alice).is_empty());
    harness.wait(0.1);
    assert_eq!(harness.received(alice), ["ping"]);
}

#[test]
fn a_pinged_peer_has_the_new_time_to_answer() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.wait(55.0);
    assert_eq!(harness.received(alice), ["ping"]);
    beat(&mut harness, 10, 20);
    harness.wait(9.9);
    assert!(harness.received(alice).is_empty());
    harness.handle(Input::KeepAlive { conn: alice, controls: 1 });
    harness.wait(9.9);
    assert!(harness.received(alice).is_empty(), "it lives");
}

#[test]
fn a_lower_memory_ceiling_applies_at_the_next_report() {
    let mut harness = Harness::new();
    harness.client("alice");
    assert_eq!(harness.hub.memory_query(harness.now, 1 << 20), MemoryQuery::Nothing);
    harness.configure(|settings| settings.limits.memory = 1 << 20);
    assert_ne!(harness.hub.memory_query(harness.now, 1 << 20), MemoryQuery::Nothing);
    harness.handle(Input::Memory { links: 1 << 20, holders: Vec::new(), is_waited_for: false });
    assert_eq!(harness.stats()["memory_level"], 3);
}

#[test]
fn a_new_process_uses_the_policies_of_its_own_settings() {
    let mut harness = harness();
    publish(&mut harness, "orders", 1..=5);
    harness.settings.policies[0].1.count = 2;
    harness.hand_over();
    assert_eq!(harness.stored(), 2);
}
