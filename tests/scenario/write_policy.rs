//! Placement of messages on the disk or in memory alone, and eviction.

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy, WriteThrough};
use wshubd::hub::{Anomaly, Effect, Input, Pattern, Settings, StoreEvent};

use super::harness::{ConnectionId, Harness};

/// A message of this much data counts a thousand bytes in a channel called `a`.
const DATA: usize = 1000 - 160 - "a".len() - "log".len() - 2;

/// All logs together hold ten such messages.
fn small() -> Harness {
    let mut settings = Settings { has_disk: true, ..Settings::default() };
    settings.limits.kept_bytes = 10_000;
    Harness::with(settings)
}

/// The memory has room for ten such messages and what comes with a log or two.
fn short_of_memory() -> Harness {
    let mut settings = Settings { has_disk: true, ..Settings::default() };
    settings.limits.memory = 26_000;
    Harness::with(settings)
}

fn line(channel: &str, data: Value, durable: bool) -> Value {
    json!({"channel": channel, "event": "log", "data": data, "durable": durable, "id": 1})
}

/// Publishes a message of a thousand bytes, and gives whether it is kept and stored.
fn fill(harness: &mut Harness, worker: ConnectionId, channel: &str, durable: bool) -> (bool, bool) {
    let answer = harness.request(worker, line(channel, json!("x".repeat(DATA)), durable)).remove(0);
    (answer["kept"] == true, answer["stored"] == true)
}

/// What is kept of a channel, as its first subscriber hears it: gaps in words, and
/// the positions of messages.
fn kept(harness: &mut Harness, channel: &str) -> Vec<String> {
    let reader = harness.client("reader");
    let request = json!({"action": "subscribe", "channel": channel, "since": {"epoch": "", "seq": 0}});
    let received = harness.request(reader, request);
    let summaries = received.iter().filter_map(|frame| match frame["type"].as_str().unwrap() {
        "gap" => Some(super::harness::summary(frame)),
        "message" => Some(frame["seq"].to_string()),
        _ => None,
    });
    summaries.collect()
}

fn number(harness: &mut Harness, name: &str) -> u64 {
    harness.stats()[name].as_u64().unwrap()
}

#[test]
fn a_message_on_the_disk_counts_with_its_index_in_memory() {
    let mut harness = small();
    let worker = harness.worker();
    for _ in 0..5 {
        fill(&mut harness, worker, "a", false);
    }
    assert_eq!((number(&mut harness, "kept_bytes"), number(&mut harness, "unstored_bytes")), (5000, 5000));
    let before = number(&mut harness, "memory_bytes");
    harness.disk_writes_all();
    assert_eq!((number(&mut harness, "kept_bytes"), number(&mut harness, "unstored_bytes")), (5000, 0));
    assert_eq!(before - number(&mut harness, "memory_bytes"), 5 * (1000 - 64));
    assert_eq!(number(&mut harness, "messages_stored"), 5);
    harness.hand_over();
    assert_eq!((number(&mut harness, "kept_bytes"), number(&mut harness, "unstored_bytes")), (5000, 0));
    assert_eq!(kept(&mut harness, "a"), ["1", "2", "3", "4", "5"]);
    assert_eq!((number(&mut harness, "kept_bytes"), number(&mut harness, "unstored_bytes")), (0, 0));
}

#[test]
fn a_full_store_evicts_from_the_largest_log() {
    let mut harness = small();
    let worker = harness.worker();
    for _ in 0..3 {
        fill(&mut harness, worker, "b", false);
    }
    for _ in 0..6 {
        fill(&mut harness, worker, "a", false);
    }
    harness.disk_writes_all();
    assert_eq!(fill(&mut harness, worker, "c", true), (true, true));
    assert_eq!(fill(&mut harness, worker, "c", true), (true, true));
    assert_eq!(kept(&mut harness, "a"), ["gap 1 1 1 evicted", "2", "3", "4", "5", "6"]);
    assert_eq!(kept(&mut harness, "b"), ["1", "2", "3"]);
    assert_eq!(kept(&mut harness, "c"), ["1", "2"]);
}

/// The store reports how much of what is kept the disk takes.
fn set_capacity(harness: &mut Harness, bytes: Option<u64>) {
    harness.handle(Input::Store(StoreEvent::Capacity { bytes }));
}

#[test]
fn messages_the_disk_refuses_are_evicted_as_for_a_newcomer() {
    let mut harness = small();
    let worker = harness.worker();
    for _ in 0..4 {
        fill(&mut harness, worker, "a", false);
    }
    for _ in 0..3 {
        fill(&mut harness, worker, "b", false);
    }
    fill(&mut harness, worker, "c", true);
    harness.disk_writes_all();
    set_capacity(&mut harness, Some(5500));
    assert_eq!(number(&mut harness, "kept_bytes"), 5000);
    assert_eq!(number(&mut harness, "messages_evicted"), 3);
    assert_eq!(fill(&mut harness, worker, "d", false), (true, false), "the heaviest makes room for it");
    assert_eq!(number(&mut harness, "kept_bytes"), 5000);
    set_capacity(&mut harness, None);
    for _ in 0..5 {
        fill(&mut harness, worker, "d", false);
    }
    assert_eq!(number(&mut harness, "kept_bytes"), 10_000, "what is not known limits nothing");
    assert_eq!(kept(&mut harness, "a")[0], "gap 1 2 2 evicted");
    assert_eq!(kept(&mut harness, "c"), ["1"]);
}

#[test]
fn connected_users_get_a_gap_for_what_the_disk_evicted() {
    let mut harness = small();
    let worker = harness.worker();
    for _ in 0..4 {
        fill(&mut harness, worker, "a", false);
    }
    harness.disk_writes_all();
    harness.slow_store = true;
    let reader = harness.client("reader");
    harness.send(reader, json!({"action": "subscribe", "channel": "a"}));
    set_capacity(&mut harness, Some(2000));
    harness.store_answers();
    let received = harness.received(reader);
    assert!(received.iter().any(|frame| frame.starts_with("gap")), "{received:?}");
}

#[test]
fn large_overflows_are_evicted_in_batches() {
    let mut settings = Settings { has_disk: true, ..Settings::default() };
    settings.policy.count = 5000;
    let mut harness = Harness::with(settings);
    let worker = harness.worker();
    for number in 0..3000 {
        harness.request(worker, line(&format!("l:{}", number % 10), json!(number), false));
    }
    harness.disk_writes_all();
    set_capacity(&mut harness, Some(1000));
    assert_eq!(number(&mut harness, "messages_evicted"), 500);
    for _ in 0..10 {
        harness.handle(Input::Timeout);
    }
    assert!(number(&mut harness, "kept_bytes") <= 1000);
    assert_eq!(harness.hub.deadline().filter(|due| *due <= harness.now.moment), None, "and then no more");
}

#[test]
fn a_newcomer_makes_room_for_itself_alone_on_a_smaller_disk() {
    let mut settings = Settings { has_disk: true, ..Settings::default() };
    settings.policy.count = 5000;
    let mut harness = Harness::with(settings);
    let worker = harness.worker();
    // More than gives way at a time, in logs of one message each.
    for number in 0..2000 {
        harness.request(worker, line(&format!("l:{number}"), json!(number), false));
    }
    for _ in 0..20 {
        fill(&mut harness, worker, "promised", true);
    }
    harness.disk_writes_all();
    set_capacity(&mut harness, Some(50_000));
    assert_eq!(fill(&mut harness, worker, "promised", true), (true, true));
    let kept = kept(&mut harness, "promised");
    assert_eq!((kept.first().map(String::as_str), kept.len()), (Some("gap 1 1 1 evicted"), 21), "{kept:?}");
}

#[test]
fn a_log_of_durable_messages_shrinks_in_batches() {
    let mut harness = small();
    let worker = harness.worker();
    for _ in 0..10 {
        fill(&mut harness, worker, "a", true);
    }
    harness.disk_writes_all();
    set_capacity(&mut harness, Some(7000));
    let mut bytes = Vec::new();
    for _ in 0..5 {
        assert_eq!(fill(&mut harness, worker, "a", true), (true, true));
        bytes.push(number(&mut harness, "kept_bytes"));
    }
    assert_eq!(bytes, [9000, 8000, 7000, 7000, 7000]);
}

#[test]
fn durable_messages_stay_although_the_disk_holds_less() {
    let mut harness = small();
    let worker = harness.worker();
    for _ in 0..4 {
        fill(&mut harness, worker, "a", true);
    }
    set_capacity(&mut harness, Some(2000));
    assert_eq!(number(&mut harness, "kept_bytes"), 4000);
    assert_eq!(harness.hub.deadline().filter(|due| *due <= harness.now.moment), None);
    assert_eq!(fill(&mut harness, worker, "b", false), (false, false), "a newcomer is not kept");
}

#[test]
fn a_durable_message_is_never_evicted_by_another_log() {
    let mut harness = small();
    let worker = harness.worker();
    for _ in 0..10 {
        assert_eq!(fill(&mut harness, worker, "a", true), (true, true));
    }
    assert_eq!(fill(&mut harness, worker, "b", false), (false, false), "the newcomer is not kept instead");
    assert_eq!(fill(&mut harness, worker, "b", true), (false, false), "a durable one no more than others");
    let is_order = |effect: &&Effect| matches!(effect, Effect::Append { .. } | Effect::Truncate { .. });
    assert_eq!(harness.last.list.iter().filter(is_order).count(), 0, "nothing is written for it");
    assert!(harness.last.list.contains(&Effect::LogAnomaly(Anomaly::KeptLimit { is_newcomer_lost: true })));
    let all: Vec<String> = (1..=10).map(|seq| seq.to_string()).collect();
    assert_eq!(kept(&mut harness, "a"), all);
    assert_eq!(kept(&mut harness, "b"), ["gap 1 2 2 not_kept"]);
}

#[test]
fn nothing_is_evicted_for_a_newcomer_that_is_not_kept() {
    let mut harness = small();
    let worker = harness.worker();
    for _ in 0..8 {
        assert_eq!(fill(&mut harness, worker, "a", true), (true, true));
    }
    for _ in 0..2 {
        assert_eq!(fill(&mut harness, worker, "b", true), (true, true));
    }
    harness.request(worker, line("b", json!("x".repeat(2500)), true));
    assert!(harness.last.list.contains(&Effect::LogAnomaly(Anomaly::KeptLimit { is_newcomer_lost: true })));
    assert_eq!((number(&mut harness, "messages_evicted"), number(&mut harness, "kept_bytes")), (0, 10_000));
    assert_eq!(
        fill(&mut harness, worker, "b", true),
        (true, true),
        "what fits takes the place of its own oldest"
    );
    assert_eq!(kept(&mut harness, "a").len(), 8);
    assert_eq!(kept(&mut harness, "b"), ["gap 1 3 2 evicted", "2", "4"]);
}

#[test]
fn others_are_evicted_in_place_of_durable_messages() {
    let mut harness = small();
    let worker = harness.worker();
    for _ in 0..6 {
        fill(&mut harness, worker, "a", true);
    }
    for _ in 0..4 {
        fill(&mut harness, worker, "b", false);
    }
    for _ in 0..2 {
        assert_eq!(fill(&mut harness, worker, "c", false), (true, false));
    }
    assert_eq!(kept(&mut harness, "b"), ["gap 1 2 2 evicted", "3", "4"]);
    assert_eq!(kept(&mut harness, "a").len(), 6);
}

#[test]
fn a_durable_message_is_evicted_by_its_own_log() {
    let mut harness = small();
    let worker = harness.worker();
    for _ in 0..10 {
        fill(&mut harness, worker, "a", true);
    }
    assert_eq!(fill(&mut harness, worker, "a", false), (true, false));
    assert_eq!(kept(&mut harness, "a")[..2], ["gap 1 1 1 evicted", "2"]);
    let few = Policy { count: 2, ..Policy::default() };
    let settings = Settings { has_disk: true, policy: few, ..Settings::default() };
    let mut harness = Harness::with(settings);
    let worker = harness.worker();
    for _ in 0..3 {
        assert_eq!(fill(&mut harness, worker, "a", true), (true, true));
    }
    assert_eq!(kept(&mut harness, "a"), ["gap 1 1 1 evicted", "2", "3"]);
}

#[test]
fn a_log_full_by_itself_evicts_nothing_of_others() {
    let few = Policy { count: 5, ..Policy::default() };
    let mut settings =
        Settings { has_disk: true, policies: vec![(Pattern::new("a"), few)], ..Settings::default() };
    settings.limits.kept_bytes = 11_000;
    let mut harness = Harness::with(settings);
    let worker = harness.worker();
    for _ in 0..5 {
        fill(&mut harness, worker, "a", false);
    }
    for _ in 0..6 {
        fill(&mut harness, worker, "b", false);
    }
    for _ in 0..3 {
        fill(&mut harness, worker, "a", false);
    }
    assert_eq!(kept(&mut harness, "b").len(), 6);
    assert_eq!(kept(&mut harness, "a")[0], "gap 1 3 3 evicted");
}

#[test]
fn memory_only_messages_use_half_of_it_and_evict_the_oldest() {
    let mut harness = short_of_memory();
    let worker = harness.worker();
    for _ in 0..4 {
        fill(&mut harness, worker, "a", false);
    }
    harness.disk_writes_all();
    for _ in 0..4 {
        fill(&mut harness, worker, "b", false);
    }
    for _ in 0..10 {
        fill(&mut harness, worker, "a", false);
    }
    assert!(number(&mut harness, "unstored_bytes") <= 13_000);
    let received = kept(&mut harness, "a");
    assert!(received[0].starts_with("gap 5 ") && received[0].ends_with(" evicted"), "{received:?}");
    assert_eq!(received[1..5], ["1", "2", "3", "4"], "what is on the disk stays");
    assert_eq!(received.last().unwrap(), "14");
    assert_eq!(kept(&mut harness, "b").len(), 4, "the log that has most of it pays");
}

#[test]
fn a_message_written_in_time_is_not_lost_to_memory() {
    let mut harness = short_of_memory();
    let worker = harness.worker();
    for _ in 0..100 {
        assert_eq!(fill(&mut harness, worker, "a", false), (true, false));
        harness.disk_writes_all();
    }
    assert_eq!(number(&mut harness, "messages_evicted"), 0);
    assert_eq!(number(&mut harness, "kept_bytes"), 100_000);
}

#[test]
fn an_index_that_is_too_large_evicts_for_new_messages() {
    let mut harness = short_of_memory();
    let worker = harness.worker();
    for n in 1..=400 {
        let answer = harness.request(worker, line("a", json!(n), false)).remove(0);
        assert_eq!(answer["kept"], true, "{n}");
        harness.disk_writes_all();
    }
    assert!(number(&mut harness, "memory_bytes") <= 13_000);
    let received = kept(&mut harness, "a");
    assert!(received[0].starts_with("gap 1 ") && received[0].ends_with(" evicted"), "{received:?}");
    assert_eq!(received.last().unwrap(), "400");
}

#[test]
fn a_message_being_waited_for_is_not_lost_to_memory() {
    let mut harness = short_of_memory();
    harness.disk.slow = true;
    let worker = harness.worker();
    fill(&mut harness, worker, "a", false);
    harness.send_unread(worker, &line("a", json!("x".repeat(DATA)), true));
    for _ in 0..20 {
        fill(&mut harness, worker, "a", false);
    }
    harness.disk_writes();
    let answer = harness.frames(worker).remove(0);
    assert_eq!((&answer["kept"], &answer["stored"]), (&json!(true), &json!(true)));
    let received = kept(&mut harness, "a");
    assert!(received[0].starts_with("gap 1 ") && received[0].ends_with(" evicted"), "{received:?}");
    assert_eq!(received[1], "2", "others went before and after it");
}

#[test]
fn a_message_promised_in_vain_is_kept_like_any_other() {
    let mut harness = short_of_memory();
    harness.disk.slow = true;
    let worker = harness.worker();
    harness.send_unread(worker, &line("a", json!("x".repeat(DATA)), true));
    harness.disk_fails();
    assert_eq!(harness.received(worker), ["error store_unavailable a"]);
    for _ in 0..20 {
        fill(&mut harness, worker, "b", false);
    }
    for _ in 0..20 {
        fill(&mut harness, worker, "a", false);
    }
    assert!(kept(&mut harness, "a")[0].starts_with("gap 1 "));
}

#[test]
fn messages_no_policy_writes_are_bounded_by_memory() {
    let mut settings = Settings { has_disk: true, ..Settings::default() };
    settings.policy = Policy { keep: Keep::History, disk: WriteThrough::Never, ..Policy::default() };
    settings.limits.memory = 26_000;
    let mut harness = Harness::with(settings);
    let worker = harness.worker();
    for _ in 0..30 {
        fill(&mut harness, worker, "a", false);
    }
    harness.disk_writes_all();
    assert_eq!(number(&mut harness, "messages_stored"), 0);
    assert!(number(&mut harness, "unstored_bytes") <= 13_000);
    assert_eq!(kept(&mut harness, "a").last().unwrap(), "30");
}

#[test]
fn a_reader_gets_a_gap_for_evictions_in_the_middle() {
    let mut harness = short_of_memory();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    for _ in 0..3 {
        fill(&mut harness, worker, "a", false);
    }
    harness.disk_writes_all();
    harness.slow_store = true;
    harness.subscribe(alice, "a");
    for _ in 0..15 {
        fill(&mut harness, worker, "a", false);
    }
    harness.slow_store = false;
    harness.store_answers();
    let received: Vec<Value> = harness.frames(alice);
    let summaries = received.iter().map(|frame| match frame["type"].as_str().unwrap() {
        "message" => frame["seq"].to_string(),
        _ => super::harness::summary(frame),
    });
    let summaries: Vec<String> = summaries.collect();
    assert_eq!(summaries[..3], ["1", "2", "3"]);
    assert!(summaries[3].starts_with("gap 4 ") && summaries[3].ends_with(" evicted"), "{summaries:?}");
    assert_eq!(summaries.last().unwrap(), "18");
}
