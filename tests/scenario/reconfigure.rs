//! Settings that change under connected peers.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use wshubd::hub::settings::{Heartbeat, Keep, Policy, WriteThrough};
use wshubd::hub::{Input, MemoryQuery, Pattern, Rights, SendQueueState, Settings};

use super::bench::{Bench, Seat, rights};
use super::replay::{all, bench, client, publish, replayed, since};

/// Changes the policy of `orders`.
fn orders(bench: &mut Bench, change: impl FnOnce(&mut Policy)) {
    bench.configure(|settings| change(&mut settings.policies[0].1));
}

#[test]
fn a_smaller_count_evicts_the_oldest_at_once() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=5);
    orders(&mut bench, |policy| policy.count = 2);
    assert_eq!((bench.stored(), &bench.stats()["messages_evicted"]), (2, &json!(3)));
    let bob = client(&mut bench, "bob");
    let heard = since(&mut bench, bob, "orders", 1);
    assert_eq!(heard[..2], ["subscription_succeeded orders 5 false", "gap 2 3 2 evicted"]);
    assert_eq!(heard[2..], replayed(4..=5));
}

#[test]
fn a_smaller_byte_limit_evicts_the_oldest_at_once() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=5);
    let each = usize::try_from(bench.stats()["kept_bytes"].as_u64().unwrap()).unwrap() / 5;
    orders(&mut bench, |policy| policy.bytes = 3 * each);
    assert_eq!(bench.stored(), 3);
}

#[test]
fn a_reader_of_evicted_messages_gets_a_gap() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=5);
    let bob = client(&mut bench, "bob");
    bench.outbound(bob, SendQueueState::Full);
    assert_eq!(all(&mut bench, bob, "orders").len(), 1, "the rest waits for the socket");
    orders(&mut bench, |policy| policy.count = 2);
    bench.outbound(bob, SendQueueState::Empty);
    let heard = bench.story(bob);
    assert_eq!((&*heard[0], &heard[1..]), ("gap 1 3 3 evicted", &replayed(4..=5)[..]));
}

#[test]
fn a_reader_of_only_evicted_messages_gets_a_gap_then_live() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=5);
    let bob = client(&mut bench, "bob");
    bench.outbound(bob, SendQueueState::Full);
    all(&mut bench, bob, "orders");
    orders(&mut bench, |policy| policy.keep = Keep::Never);
    assert_eq!((bench.stored(), &*bench.story(bob)), (0, &["gap 1 5 5 evicted".to_owned()][..]));
    bench.outbound(bob, SendQueueState::Empty);
    publish(&mut bench, "orders", 6..=6);
    assert_eq!(bench.story(bob), ["new 6"]);
}

#[test]
fn a_shorter_age_counts_from_when_a_message_was_kept() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=1);
    bench.wait(60.0);
    publish(&mut bench, "orders", 2..=2);
    orders(&mut bench, |policy| policy.ttl = Duration::from_secs(30));
    assert_eq!(bench.stored(), 1, "the first is too old by now");
    bench.wait(29.0);
    assert_eq!(bench.stored(), 1);
    bench.wait(2.0);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn a_message_lives_no_longer_than_announced_when_kept() {
    let mut bench = bench();
    publish(&mut bench, "brief", 1..=1);
    bench.configure(|settings| settings.policies[1].1.ttl = Duration::from_secs(3600));
    publish(&mut bench, "brief", 2..=2);
    bench.wait(12.0);
    assert_eq!(bench.stored(), 1, "what is kept from now on lives for an hour");
}

#[test]
fn a_history_that_ends_keeps_undelivered_messages() {
    let mut bench = bench();
    let bob = client(&mut bench, "bob");
    bench.subscribe(bob, "orders");
    publish(&mut bench, "orders", 1..=2);
    bench.leave(bob);
    publish(&mut bench, "orders", 3..=4);
    orders(&mut bench, |policy| policy.keep = Keep::Undelivered);
    let carol = client(&mut bench, "carol");
    let heard = bench.subscribe(carol, "orders");
    assert_eq!(heard[1..], replayed(3..=4));
    assert_eq!(bench.stored(), 0, "and what was heard goes as everywhere");
}

#[test]
fn a_new_history_begins_with_kept_messages() {
    let mut bench = bench();
    publish(&mut bench, "elsewhere", 1..=2);
    bench.configure(|settings| {
        let history = settings.policies[0].1;
        settings.policies.push((Pattern::new("elsewhere"), history));
    });
    for user in ["bob", "carol"] {
        let seat = bench.client(user);
        assert_eq!(all(&mut bench, seat, "elsewhere")[2..], replayed(1..=2), "{user}");
    }
}

#[test]
fn inboxes_follow_their_policy_too() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    for n in 1..=3 {
        bench.say(worker, json!({"user_id": "alice", "event": "e", "data": n}));
    }
    bench.configure(|settings| settings.inbox.count = 1);
    let alice = bench.newcomer("alice", None);
    let heard = bench.story(alice);
    assert_eq!(heard.last().unwrap(), "e 3 replayed");
    assert_eq!(heard.iter().filter(|word| word.ends_with("replayed")).count(), 1, "{heard:?}");
}

#[test]
fn a_smaller_store_evicts_from_the_largest_log() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=8);
    publish(&mut bench, "elsewhere", 1..=2);
    let each = usize::try_from(bench.stats()["kept_bytes"].as_u64().unwrap()).unwrap() / 10;
    bench.configure(|settings| settings.limits.kept_bytes = 5 * each);
    let bob = bench.client("bob");
    assert_eq!(bench.subscribe(bob, "elsewhere").len(), 4, "both are there");
    assert!(bench.stats()["kept_bytes"].as_u64().unwrap() <= 5 * each as u64);
}

#[test]
fn a_new_crash_safe_log_is_recorded_from_its_position() {
    let mut bench = Bench::with(Settings { has_disk: true, ..bench().settings });
    publish(&mut bench, "orders", 1..=3);
    orders(&mut bench, |policy| policy.disk = WriteThrough::Stop);
    assert!(bench.hub.lasting_positions().is_empty());
    publish(&mut bench, "orders", 4..=4);
    orders(&mut bench, |policy| policy.disk = WriteThrough::Behind);
    let seqs: Vec<u64> = bench.hub.lasting_positions().iter().map(|(_, last)| last.seq).collect();
    assert_eq!(seqs, [4]);
}

#[test]
fn subscriptions_over_a_new_limit_stay_without_new_ones() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    for channel in ["a", "b", "c"] {
        bench.subscribe(alice, channel);
    }
    bench.configure(|settings| settings.limits.subscriptions = 2);
    publish(&mut bench, "c", 1..=1);
    assert_eq!(bench.story(alice), ["new 1"]);
    assert_eq!(bench.subscribe(alice, "d"), ["error too_many_subscriptions d"]);
    assert_eq!(bench.subscribe(alice, "a"), ["subscription_succeeded a 0"], "one that is there is none more");
}

#[test]
fn connections_over_a_new_limit_stay_without_new_ones() {
    let mut bench = Bench::new();
    let (one, two) = (bench.client("alice"), bench.client("alice"));
    bench.configure(|settings| settings.limits.connections_per_user = 1);
    assert!(bench.story(one).is_empty() && bench.story(two).is_empty());
    let three = bench.newcomer("alice", None);
    assert_eq!(bench.story(three), ["closed 4008"]);
}

#[test]
fn a_new_rate_applies_to_the_next_request() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    let refused = |bench: &mut Bench, alice: Seat| {
        let answers: Vec<_> = (0..30).flat_map(|_| bench.say(alice, json!({"action": "ping"}))).collect();
        answers.iter().filter(|answer| *answer == "error rate_limited").count()
    };
    assert_eq!(refused(&mut bench, alice), 10);
    bench.configure(|settings| settings.limits.burst = 1000);
    assert_eq!(refused(&mut bench, alice), 0);
}

#[test]
fn anonymous_connections_stay_when_newcomers_need_a_token() {
    let mut bench = Bench::open();
    let nobody = bench.stranger();
    bench.hush(nobody);
    bench.configure(|settings| settings.anonymous = false);
    assert_eq!(bench.say(nobody, json!({"action": "ping"})), ["pong"]);
    let next = bench.stranger();
    assert_eq!(bench.story(next), ["auth_required"]);
}

fn usual(subscribe: &str) -> Rc<Rights> {
    rights(&[subscribe], &["*"], &[])
}

#[test]
fn default_rights_change_for_tokens_without_rights() {
    let mut bench = Bench::open();
    let (bare, nobody) = (bench.client("alice"), bench.stranger());
    let own = bench.client_with("bob", rights(&["*"], &["*"], &[]));
    let worker = bench.worker();
    bench.hush(nobody);
    for seat in [bare, nobody, own, worker] {
        bench.subscribe(seat, "secret");
        bench.subscribe(seat, "open");
    }
    bench.configure(|settings| settings.rights = usual("open"));
    for seat in [bare, nobody] {
        assert_eq!(bench.story(seat), ["unsubscribed secret forbidden"]);
        assert_eq!(bench.subscribe(seat, "secret"), ["error forbidden secret"]);
    }
    for seat in [own, worker] {
        assert!(bench.story(seat).is_empty());
    }
    bench.configure(|settings| settings.rights = usual("*"));
    assert_eq!(bench.subscribe(bare, "secret"), ["subscription_succeeded secret 0"]);
}

fn beat(bench: &mut Bench, ping: u64, pong: u64) {
    let (ping_interval, pong_timeout) = (Duration::from_secs(ping), Duration::from_secs(pong));
    bench.configure(|settings| settings.heartbeat = Heartbeat { ping_interval, pong_timeout });
}

#[test]
fn a_faster_heartbeat_pings_before_it_closes() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    bench.wait(40.0);
    beat(&mut bench, 10, 15);
    bench.wait(0.0);
    assert_eq!(bench.story(alice), ["ping"]);
    bench.wait(4.9);
    assert!(bench.story(alice).is_empty());
    bench.wait(0.1);
    assert_eq!(bench.story(alice), ["closed 4203"]);
}

#[test]
fn a_slower_heartbeat_pings_later() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    bench.wait(50.0);
    beat(&mut bench, 100, 120);
    bench.wait(49.9);
    assert!(bench.story(alice).is_empty());
    bench.wait(0.1);
    assert_eq!(bench.story(alice), ["ping"]);
}

#[test]
fn a_pinged_peer_has_the_new_time_to_answer() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    bench.wait(55.0);
    assert_eq!(bench.story(alice), ["ping"]);
    beat(&mut bench, 10, 20);
    bench.wait(9.9);
    assert!(bench.story(alice).is_empty());
    bench.handle(Input::KeepAlive { conn: alice, controls: 1 });
    bench.wait(9.9);
    assert!(bench.story(alice).is_empty(), "it lives");
}

#[test]
fn a_lower_memory_ceiling_applies_at_the_next_report() {
    let mut bench = Bench::new();
    bench.client("alice");
    assert_eq!(bench.hub.memory_query(bench.now, 1 << 20), MemoryQuery::Nothing);
    bench.configure(|settings| settings.limits.memory = 1 << 20);
    assert_ne!(bench.hub.memory_query(bench.now, 1 << 20), MemoryQuery::Nothing);
    bench.handle(Input::Memory { links: 1 << 20, holders: Vec::new(), is_waited_for: false });
    assert_eq!(bench.stats()["memory_level"], 3);
}

#[test]
fn a_new_process_uses_the_policies_of_its_own_settings() {
    let mut bench = bench();
    publish(&mut bench, "orders", 1..=5);
    bench.settings.policies[0].1.count = 2;
    bench.hand_over();
    assert_eq!(bench.stored(), 2);
}
