//! The share of one publisher in what belongs to others too: places in their inboxes, and
//! the flash.

use serde_json::json;
use wshubd::hub::settings::{Policy, WriteThrough};
use wshubd::hub::{Effect, Input, Settings, StoreEvent};

use super::harness::{ConnectionId, Harness, rights};
use super::inbox::waits;

fn harness(count: usize, bytes: usize) -> Harness {
    let mut settings =
        Settings { inbox: Policy { count, bytes, ..Settings::default().inbox }, ..Settings::default() };
    (settings.limits.requests_per_second, settings.limits.burst) = (1_000_000, 1_000_000);
    Harness::with(settings)
}

/// Somebody who may send to every user.
fn sender(harness: &mut Harness, user: &str) -> ConnectionId {
    harness.client_with(user, rights(&["*"], &["*", "@user:*"], &[]))
}

fn send(harness: &mut Harness, from: ConnectionId, data: &str) {
    let request = json!({"action": "send", "user_id": "bob", "event": "say", "data": data, "id": 1});
    assert_eq!(harness.send(from, request), ["send_success 0 0 kept"]);
}

#[test]
fn a_flood_evicts_messages_of_its_sender_only() {
    let mut harness = harness(6, 1 << 20);
    let (alice, mallory) = (sender(&mut harness, "alice"), sender(&mut harness, "mallory"));
    send(&mut harness, alice, "1");
    send(&mut harness, alice, "2");
    for n in 0..100 {
        send(&mut harness, mallory, &format!("flood {n}"));
    }
    let received = waits(&mut harness);
    let rest = (96..100).map(|n| format!("say flood {n} replayed"));
    let alices = ["say 1 replayed", "say 2 replayed", "gap 3 98 96 evicted"].map(String::from);
    assert_eq!(received, alices.into_iter().chain(rest).collect::<Vec<_>>());
    assert_eq!(harness.stats()["messages_evicted"], 96);
}

#[test]
fn large_messages_do_not_evict_small_ones_of_others() {
    let mut harness = harness(1000, 10_000);
    let (alice, mallory) = (sender(&mut harness, "alice"), sender(&mut harness, "mallory"));
    for n in 0..10 {
        send(&mut harness, alice, &n.to_string());
    }
    for _ in 0..50 {
        send(&mut harness, mallory, &"m".repeat(2000));
    }
    let small = waits(&mut harness).iter().filter(|received| received.len() < 20).count();
    assert_eq!(small, 10, "all of alice's");
}

#[test]
fn a_sender_within_an_even_share_loses_nothing() {
    const SENDERS: usize = 5;
    for seed in 0..40_u64 {
        let mut harness = harness(25, 1 << 20);
        let names: Vec<String> = (0..SENDERS).map(|n| format!("user{n}")).collect();
        let mut sent = [0; SENDERS];
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for turn in 0..120 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Some send much more than others, in every run another one.
            let who = ((random >> 33) as usize % 100).isqrt() / 2;
            let who = (who + seed as usize) % SENDERS;
            // Over whatever connection, and whichever process.
            let conn = sender(&mut harness, &names[who]);
            send(&mut harness, conn, &names[who]);
            harness.disconnect(conn);
            sent[who] += 1;
            if turn == 60 {
                harness.hand_over();
            }
        }
        let received = waits(&mut harness);
        for (name, sent) in names.iter().zip(sent) {
            let left = received.iter().filter(|received| received.contains(name.as_str())).count();
            assert!(left >= sent.min(25 / SENDERS), "seed {seed}: {left} of {sent} of {name}");
        }
    }
}

#[test]
fn making_room_for_a_newcomer_evicts_the_largest_senders() {
    let mut settings = Settings::default();
    settings.limits.kept_bytes = 10_000;
    (settings.limits.requests_per_second, settings.limits.burst) = (1000, 1000);
    let mut harness = Harness::with(settings);
    let (alice, mallory) = (sender(&mut harness, "alice"), sender(&mut harness, "mallory"));
    send(&mut harness, alice, "1");
    for _ in 0..40 {
        send(&mut harness, mallory, "flood");
    }
    for n in 0..20 {
        harness.publish(mallory, &format!("elsewhere:{n}"), 1);
    }
    assert_eq!(waits(&mut harness)[0], "say 1 replayed");
}

/// One that may keep a megabyte; without a disk it is the memory that is short of more.
fn small_store(has_disk: bool) -> Harness {
    let mut settings = Settings { has_disk, ..Settings::default() };
    if has_disk {
        settings.limits.kept_bytes = 1_000_000;
    } else {
        settings.limits.memory = 2_000_000;
    }
    (settings.limits.requests_per_second, settings.limits.burst) = (1_000_000, 1_000_000);
    (settings.limits.user_requests_per_second, settings.limits.user_burst) = (1_000_000, 1_000_000);
    Harness::with(settings)
}

#[test]
fn a_flood_of_small_logs_evicts_nothing_of_others() {
    for has_disk in [true, false] {
        flood(&mut small_store(has_disk));
    }
}

fn flood(harness: &mut Harness) {
    let worker = harness.worker();
    for _ in 0..20 {
        harness.send(worker, json!({"user_id": "bob", "event": "note", "data": "v".repeat(500)}));
    }
    let (alice, mallory) = (harness.client("alice"), harness.client("mallory"));
    for n in 0..20 {
        harness.publish(alice, "hers", n);
    }
    for n in 0..600 {
        harness.publish(mallory, &format!("flood:{n}"), "w".repeat(4000));
        if n == 400 {
            harness.hand_over();
        }
        assert!(harness.stats()["kept_bytes"].as_u64().unwrap() <= 1_000_000);
    }
    assert_eq!(waits(harness).len(), 20);
    let carol = harness.client("carol");
    let received = harness.subscribe(carol, "hers");
    assert_eq!(received.iter().filter(|received| received.starts_with("say")).count(), 20, "{received:?}");
    assert!(harness.stats()["messages_evicted"].as_u64().unwrap() > 300);
    // The newest of the flood are there, its oldest went.
    assert!(harness.subscribe(carol, "flood:599").iter().any(|received| received.starts_with("say")));
    assert!(!harness.subscribe(carol, "flood:0").iter().any(|received| received.starts_with("say")));
}

#[test]
fn durable_messages_of_one_user_leave_room_for_others() {
    let mut harness = small_store(true);
    let (alice, mallory) = (harness.client("alice"), harness.client("mallory"));
    let request = |channel: String| json!({"action": "send", "channel": channel, "event": "e", "data": "d".repeat(10_000), "durable": true, "id": 1});
    let mut refused = 0;
    for n in 0..300 {
        let answer = harness.send(mallory, request(format!("flood:{n}")));
        refused += usize::from(answer == ["error store_unavailable"]);
    }
    assert!((220..230).contains(&refused), "{refused} are refused: three quarters are taken");
    for n in 0..10 {
        assert_eq!(harness.send(alice, request(format!("hers:{n}"))), ["send_success 0 0 kept stored"]);
    }
    harness.publish(mallory, "loose", 1);
    assert_eq!(disk_of_last(&harness).len(), 1, "what may be pushed out is kept");
    harness.hand_over();
    assert_eq!(harness.send(mallory, request("again".into())), ["error store_unavailable"]);
}

/// One in which an eighth of the flash budget of a day is a mebibyte.
fn with_budget() -> Harness {
    let mut settings = Settings { has_disk: true, flash_budget: Some(8 << 20), ..Settings::default() };
    (settings.limits.requests_per_second, settings.limits.burst) = (1000, 1000);
    Harness::with(settings)
}

fn durable(harness: &mut Harness, from: ConnectionId, bytes: usize) -> Vec<String> {
    let data = "d".repeat(bytes);
    harness.send(
        from,
        json!({"action": "send", "channel": "jobs", "event": "e", "data": data, "durable": true, "id": 1}),
    )
}

fn disk_of_last(harness: &Harness) -> Vec<WriteThrough> {
    let disk = |effect: &Effect| match effect {
        Effect::Append { meta: keeping, .. } => Some(keeping.disk),
        _ => None,
    };
    harness.last.list.iter().filter_map(disk).collect()
}

#[test]
fn a_scarce_budget_excludes_a_user_with_an_eighth_of_it() {
    let mut harness = with_budget();
    let (alice, mallory) = (harness.client("alice"), harness.client("mallory"));
    for _ in 0..10 {
        assert_eq!(
            durable(&mut harness, mallory, 100_000),
            ["send_success 0 0 kept stored"],
            "there is plenty"
        );
    }
    harness.handle(Input::Store(StoreEvent::WriteBudget { is_scarce: true }));
    assert_eq!(durable(&mut harness, mallory, 1), ["error rate_limited"]);
    let again = harness.client("mallory");
    assert_eq!(durable(&mut harness, again, 1), ["error rate_limited"], "over whatever connection");
    harness.publish(mallory, "jobs", 1);
    assert_eq!(disk_of_last(&harness), [WriteThrough::Stop], "what was not promised waits for the end");

    assert_eq!(durable(&mut harness, alice, 1), ["send_success 0 0 kept stored"], "nobody pays for others");
    harness.publish(alice, "jobs", 1);
    assert_eq!(disk_of_last(&harness), [WriteThrough::Behind]);
    let worker = harness.worker();
    for _ in 0..4 {
        let request =
            json!({"channel": "jobs", "event": "e", "data": "w".repeat(400_000), "durable": true, "id": 1});
        assert_eq!(harness.request(worker, request).remove(0)["stored"], true, "workers are trusted");
    }

    harness.hand_over();
    harness.handle(Input::Store(StoreEvent::WriteBudget { is_scarce: true }));
    assert_eq!(durable(&mut harness, mallory, 1), ["error rate_limited"], "a hand-over changes nothing");
    harness.handle(Input::Store(StoreEvent::WriteBudget { is_scarce: false }));
    assert_eq!(durable(&mut harness, mallory, 1), ["send_success 0 0 kept stored"]);
}

#[test]
fn messages_delivered_before_the_write_are_charged_too() {
    let mut harness = with_budget();
    harness.disk.slow = true;
    let mallory = sender(&mut harness, "mallory");
    harness.client("bob");
    for _ in 0..10 {
        let request = json!({"action": "send", "user_id": "bob", "event": "e", "data": "d".repeat(100_000), "durable": true, "id": 1});
        harness.send_unread(mallory, &request);
        assert_eq!(harness.stored(), 0, "bob has it before it is written");
        harness.disk_writes();
    }
    assert_eq!(harness.received(mallory), ["send_success 1 0 kept stored"; 10]);
    harness.handle(Input::Store(StoreEvent::WriteBudget { is_scarce: true }));
    assert_eq!(durable(&mut harness, mallory, 1), ["error rate_limited"]);
}

#[test]
fn a_day_restores_the_budget_of_a_day() {
    let mut harness = with_budget();
    let mallory = harness.client("mallory");
    for _ in 0..10 {
        durable(&mut harness, mallory, 100_000);
    }
    harness.handle(Input::Store(StoreEvent::WriteBudget { is_scarce: true }));
    let refused = harness.request(
        mallory,
        json!({"action": "send", "channel": "jobs", "event": "e", "durable": true, "id": 1}),
    );
    let wait = refused[0]["retry_after"].as_f64().unwrap();
    assert!(refused[0]["message"].as_str().unwrap().contains("flash_budget"), "{refused:?}");
    harness.disconnect(mallory);
    harness.wait(wait + 1.0);
    let mallory = harness.client("mallory");
    assert_eq!(durable(&mut harness, mallory, 1), ["send_success 0 0 kept stored"], "after {wait} s");
}
