//! Placement of messages on the disk or in memory alone, and eviction.

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy, WriteThrough};
use wshubd::hub::{Anomaly, Effect, Input, Pattern, Settings, StoreEvent};

use super::bench::{Bench, Seat};

/// A message of this much data counts a thousand bytes in a channel called `a`.
const DATA: usize = 1000 - 160 - "a".len() - "log".len() - 2;

/// All logs together hold ten such messages.
fn small() -> Bench {
    let mut settings = Settings { has_disk: true, ..Settings::default() };
    settings.limits.kept_bytes = 10_000;
    Bench::with(settings)
}

/// The memory has room for ten such messages and what comes with a log or two.
fn short_of_memory() -> Bench {
    let mut settings = Settings { has_disk: true, ..Settings::default() };
    settings.limits.memory = 26_000;
    Bench::with(settings)
}

fn line(channel: &str, data: Value, durable: bool) -> Value {
    json!({"channel": channel, "event": "log", "data": data, "durable": durable, "id": 1})
}

/// Publishes a message of a thousand bytes, and gives whether it is kept and stored.
fn fill(bench: &mut Bench, worker: Seat, channel: &str, durable: bool) -> (bool, bool) {
    let answer = bench.ask(worker, line(channel, json!("x".repeat(DATA)), durable)).remove(0);
    (answer["kept"] == true, answer["stored"] == true)
}

/// What is kept of a channel, as its first subscriber hears it: gaps in words, and
/// the positions of messages.
fn kept(bench: &mut Bench, channel: &str) -> Vec<String> {
    let reader = bench.client("reader");
    let request = json!({"action": "subscribe", "channel": channel, "since": {"epoch": "", "seq": 0}});
    let heard = bench.ask(reader, request);
    let told = heard.iter().filter_map(|frame| match frame["type"].as_str().unwrap() {
        "gap" => Some(super::bench::brief(frame)),
        "message" => Some(frame["seq"].to_string()),
        _ => None,
    });
    told.collect()
}

fn number(bench: &mut Bench, name: &str) -> u64 {
    bench.stats()[name].as_u64().unwrap()
}

#[test]
fn a_message_on_the_disk_counts_with_its_index_in_memory() {
    let mut bench = small();
    let worker = bench.worker();
    for _ in 0..5 {
        fill(&mut bench, worker, "a", false);
    }
    assert_eq!((number(&mut bench, "kept_bytes"), number(&mut bench, "unstored_bytes")), (5000, 5000));
    let before = number(&mut bench, "memory_bytes");
    bench.disk_writes_all();
    assert_eq!((number(&mut bench, "kept_bytes"), number(&mut bench, "unstored_bytes")), (5000, 0));
    assert_eq!(before - number(&mut bench, "memory_bytes"), 5 * (1000 - 64));
    assert_eq!(number(&mut bench, "messages_stored"), 5);
    bench.hand_over();
    assert_eq!((number(&mut bench, "kept_bytes"), number(&mut bench, "unstored_bytes")), (5000, 0));
    assert_eq!(kept(&mut bench, "a"), ["1", "2", "3", "4", "5"]);
    assert_eq!((number(&mut bench, "kept_bytes"), number(&mut bench, "unstored_bytes")), (0, 0));
}

#[test]
fn a_full_store_evicts_from_the_largest_log() {
    let mut bench = small();
    let worker = bench.worker();
    for _ in 0..3 {
        fill(&mut bench, worker, "b", false);
    }
    for _ in 0..6 {
        fill(&mut bench, worker, "a", false);
    }
    bench.disk_writes_all();
    assert_eq!(fill(&mut bench, worker, "c", true), (true, true));
    assert_eq!(fill(&mut bench, worker, "c", true), (true, true));
    assert_eq!(kept(&mut bench, "a"), ["gap 1 1 1 evicted", "2", "3", "4", "5", "6"]);
    assert_eq!(kept(&mut bench, "b"), ["1", "2", "3"]);
    assert_eq!(kept(&mut bench, "c"), ["1", "2"]);
}

/// The store reports how much of what is kept the disk takes.
fn takes(bench: &mut Bench, bytes: Option<u64>) {
    bench.handle(Input::Store(StoreEvent::Capacity { bytes }));
}

#[test]
fn messages_the_disk_refuses_are_evicted_as_for_a_newcomer() {
    let mut bench = small();
    let worker = bench.worker();
    for _ in 0..4 {
        fill(&mut bench, worker, "a", false);
    }
    for _ in 0..3 {
        fill(&mut bench, worker, "b", false);
    }
    fill(&mut bench, worker, "c", true);
    bench.disk_writes_all();
    takes(&mut bench, Some(5500));
    assert_eq!(number(&mut bench, "kept_bytes"), 5000);
    assert_eq!(number(&mut bench, "messages_evicted"), 3);
    assert_eq!(fill(&mut bench, worker, "d", false), (true, false), "the heaviest makes room for it");
    assert_eq!(number(&mut bench, "kept_bytes"), 5000);
    takes(&mut bench, None);
    for _ in 0..5 {
        fill(&mut bench, worker, "d", false);
    }
    assert_eq!(number(&mut bench, "kept_bytes"), 10_000, "what is not known limits nothing");
    assert_eq!(kept(&mut bench, "a")[0], "gap 1 2 2 evicted");
    assert_eq!(kept(&mut bench, "c"), ["1"]);
}

#[test]
fn connected_users_get_a_gap_for_what_the_disk_evicted() {
    let mut bench = small();
    let worker = bench.worker();
    for _ in 0..4 {
        fill(&mut bench, worker, "a", false);
    }
    bench.disk_writes_all();
    bench.slow_store = true;
    let reader = bench.client("reader");
    bench.say(reader, json!({"action": "subscribe", "channel": "a"}));
    takes(&mut bench, Some(2000));
    bench.store_answers();
    let heard = bench.story(reader);
    assert!(heard.iter().any(|frame| frame.starts_with("gap")), "{heard:?}");
}

#[test]
fn large_overflows_are_evicted_in_batches() {
    let mut settings = Settings { has_disk: true, ..Settings::default() };
    settings.policy.count = 5000;
    let mut bench = Bench::with(settings);
    let worker = bench.worker();
    for number in 0..3000 {
        bench.ask(worker, line(&format!("l:{}", number % 10), json!(number), false));
    }
    bench.disk_writes_all();
    takes(&mut bench, Some(1000));
    assert_eq!(number(&mut bench, "messages_evicted"), 500);
    for _ in 0..10 {
        bench.handle(Input::Timeout);
    }
    assert!(number(&mut bench, "kept_bytes") <= 1000);
    assert_eq!(bench.hub.deadline().filter(|due| *due <= bench.now.moment), None, "and then no more");
}

#[test]
fn a_newcomer_makes_room_for_itself_alone_on_a_smaller_disk() {
    let mut settings = Settings { has_disk: true, ..Settings::default() };
    settings.policy.count = 5000;
    let mut bench = Bench::with(settings);
    let worker = bench.worker();
    // More than gives way at a time, in logs of one message each.
    for number in 0..2000 {
        bench.ask(worker, line(&format!("l:{number}"), json!(number), false));
    }
    for _ in 0..20 {
        fill(&mut bench, worker, "promised", true);
    }
    bench.disk_writes_all();
    takes(&mut bench, Some(50_000));
    assert_eq!(fill(&mut bench, worker, "promised", true), (true, true));
    let kept = kept(&mut bench, "promised");
    assert_eq!((kept.first().map(String::as_str), kept.len()), (Some("gap 1 1 1 evicted"), 21), "{kept:?}");
}

#[test]
fn a_log_of_durable_messages_shrinks_in_batches() {
    let mut bench = small();
    let worker = bench.worker();
    for _ in 0..10 {
        fill(&mut bench, worker, "a", true);
    }
    bench.disk_writes_all();
    takes(&mut bench, Some(7000));
    let mut bytes = Vec::new();
    for _ in 0..5 {
        assert_eq!(fill(&mut bench, worker, "a", true), (true, true));
        bytes.push(number(&mut bench, "kept_bytes"));
    }
    assert_eq!(bytes, [9000, 8000, 7000, 7000, 7000]);
}

#[test]
fn durable_messages_stay_although_the_disk_holds_less() {
    let mut bench = small();
    let worker = bench.worker();
    for _ in 0..4 {
        fill(&mut bench, worker, "a", true);
    }
    takes(&mut bench, Some(2000));
    assert_eq!(number(&mut bench, "kept_bytes"), 4000);
    assert_eq!(bench.hub.deadline().filter(|due| *due <= bench.now.moment), None);
    assert_eq!(fill(&mut bench, worker, "b", false), (false, false), "a newcomer is not kept");
}

#[test]
fn a_durable_message_is_never_evicted_by_another_log() {
    let mut bench = small();
    let worker = bench.worker();
    for _ in 0..10 {
        assert_eq!(fill(&mut bench, worker, "a", true), (true, true));
    }
    assert_eq!(fill(&mut bench, worker, "b", false), (false, false), "the newcomer is not kept instead");
    assert_eq!(fill(&mut bench, worker, "b", true), (false, false), "a durable one no more than others");
    let is_order = |effect: &&Effect| matches!(effect, Effect::Append { .. } | Effect::Truncate { .. });
    assert_eq!(bench.last.list.iter().filter(is_order).count(), 0, "nothing is written for it");
    assert!(bench.last.list.contains(&Effect::LogAnomaly(Anomaly::KeptLimit { is_newcomer_lost: true })));
    let all: Vec<String> = (1..=10).map(|seq| seq.to_string()).collect();
    assert_eq!(kept(&mut bench, "a"), all);
    assert_eq!(kept(&mut bench, "b"), ["gap 1 2 2 not_kept"]);
}

#[test]
fn nothing_is_evicted_for_a_newcomer_that_is_not_kept() {
    let mut bench = small();
    let worker = bench.worker();
    for _ in 0..8 {
        assert_eq!(fill(&mut bench, worker, "a", true), (true, true));
    }
    for _ in 0..2 {
        assert_eq!(fill(&mut bench, worker, "b", true), (true, true));
    }
    bench.ask(worker, line("b", json!("x".repeat(2500)), true));
    assert!(bench.last.list.contains(&Effect::LogAnomaly(Anomaly::KeptLimit { is_newcomer_lost: true })));
    assert_eq!((number(&mut bench, "messages_evicted"), number(&mut bench, "kept_bytes")), (0, 10_000));
    assert_eq!(
        fill(&mut bench, worker, "b", true),
        (true, true),
        "what fits takes the place of its own oldest"
    );
    assert_eq!(kept(&mut bench, "a").len(), 8);
    assert_eq!(kept(&mut bench, "b"), ["gap 1 3 2 evicted", "2", "4"]);
}

#[test]
fn others_are_evicted_in_place_of_durable_messages() {
    let mut bench = small();
    let worker = bench.worker();
    for _ in 0..6 {
        fill(&mut bench, worker, "a", true);
    }
    for _ in 0..4 {
        fill(&mut bench, worker, "b", false);
    }
    for _ in 0..2 {
        assert_eq!(fill(&mut bench, worker, "c", false), (true, false));
    }
    assert_eq!(kept(&mut bench, "b"), ["gap 1 2 2 evicted", "3", "4"]);
    assert_eq!(kept(&mut bench, "a").len(), 6);
}

#[test]
fn a_durable_message_is_evicted_by_its_own_log() {
    let mut bench = small();
    let worker = bench.worker();
    for _ in 0..10 {
        fill(&mut bench, worker, "a", true);
    }
    assert_eq!(fill(&mut bench, worker, "a", false), (true, false));
    assert_eq!(kept(&mut bench, "a")[..2], ["gap 1 1 1 evicted", "2"]);
    let few = Policy { count: 2, ..Policy::default() };
    let settings = Settings { has_disk: true, policy: few, ..Settings::default() };
    let mut bench = Bench::with(settings);
    let worker = bench.worker();
    for _ in 0..3 {
        assert_eq!(fill(&mut bench, worker, "a", true), (true, true));
    }
    assert_eq!(kept(&mut bench, "a"), ["gap 1 1 1 evicted", "2", "3"]);
}

#[test]
fn a_log_full_by_itself_evicts_nothing_of_others() {
    let few = Policy { count: 5, ..Policy::default() };
    let mut settings =
        Settings { has_disk: true, policies: vec![(Pattern::new("a"), few)], ..Settings::default() };
    settings.limits.kept_bytes = 11_000;
    let mut bench = Bench::with(settings);
    let worker = bench.worker();
    for _ in 0..5 {
        fill(&mut bench, worker, "a", false);
    }
    for _ in 0..6 {
        fill(&mut bench, worker, "b", false);
    }
    for _ in 0..3 {
        fill(&mut bench, worker, "a", false);
    }
    assert_eq!(kept(&mut bench, "b").len(), 6);
    assert_eq!(kept(&mut bench, "a")[0], "gap 1 3 3 evicted");
}

#[test]
fn memory_only_messages_use_half_of_it_and_evict_the_oldest() {
    let mut bench = short_of_memory();
    let worker = bench.worker();
    for _ in 0..4 {
        fill(&mut bench, worker, "a", false);
    }
    bench.disk_writes_all();
    for _ in 0..4 {
        fill(&mut bench, worker, "b", false);
    }
    for _ in 0..10 {
        fill(&mut bench, worker, "a", false);
    }
    assert!(number(&mut bench, "unstored_bytes") <= 13_000);
    let heard = kept(&mut bench, "a");
    assert!(heard[0].starts_with("gap 5 ") && heard[0].ends_with(" evicted"), "{heard:?}");
    assert_eq!(heard[1..5], ["1", "2", "3", "4"], "what is on the disk stays");
    assert_eq!(heard.last().unwrap(), "14");
    assert_eq!(kept(&mut bench, "b").len(), 4, "the log that has most of it pays");
}

#[test]
fn a_message_written_in_time_is_not_lost_to_memory() {
    let mut bench = short_of_memory();
    let worker = bench.worker();
    for _ in 0..100 {
        assert_eq!(fill(&mut bench, worker, "a", false), (true, false));
        bench.disk_writes_all();
    }
    assert_eq!(number(&mut bench, "messages_evicted"), 0);
    assert_eq!(number(&mut bench, "kept_bytes"), 100_000);
}

#[test]
fn an_index_that_is_too_large_evicts_for_new_messages() {
    let mut bench = short_of_memory();
    let worker = bench.worker();
    for n in 1..=400 {
        let answer = bench.ask(worker, line("a", json!(n), false)).remove(0);
        assert_eq!(answer["kept"], true, "{n}");
        bench.disk_writes_all();
    }
    assert!(number(&mut bench, "memory_bytes") <= 13_000);
    let heard = kept(&mut bench, "a");
    assert!(heard[0].starts_with("gap 1 ") && heard[0].ends_with(" evicted"), "{heard:?}");
    assert_eq!(heard.last().unwrap(), "400");
}

#[test]
fn a_message_being_waited_for_is_not_lost_to_memory() {
    let mut bench = short_of_memory();
    bench.disk.slow = true;
    let worker = bench.worker();
    fill(&mut bench, worker, "a", false);
    bench.tell(worker, &line("a", json!("x".repeat(DATA)), true));
    for _ in 0..20 {
        fill(&mut bench, worker, "a", false);
    }
    bench.disk_writes();
    let answer = bench.frames(worker).remove(0);
    assert_eq!((&answer["kept"], &answer["stored"]), (&json!(true), &json!(true)));
    let heard = kept(&mut bench, "a");
    assert!(heard[0].starts_with("gap 1 ") && heard[0].ends_with(" evicted"), "{heard:?}");
    assert_eq!(heard[1], "2", "others went before and after it");
}

#[test]
fn a_message_promised_in_vain_is_kept_like_any_other() {
    let mut bench = short_of_memory();
    bench.disk.slow = true;
    let worker = bench.worker();
    bench.tell(worker, &line("a", json!("x".repeat(DATA)), true));
    bench.disk_fails();
    assert_eq!(bench.story(worker), ["error store_unavailable a"]);
    for _ in 0..20 {
        fill(&mut bench, worker, "b", false);
    }
    for _ in 0..20 {
        fill(&mut bench, worker, "a", false);
    }
    assert!(kept(&mut bench, "a")[0].starts_with("gap 1 "));
}

#[test]
fn messages_no_policy_writes_are_bounded_by_memory() {
    let mut settings = Settings { has_disk: true, ..Settings::default() };
    settings.policy = Policy { keep: Keep::History, disk: WriteThrough::Never, ..Policy::default() };
    settings.limits.memory = 26_000;
    let mut bench = Bench::with(settings);
    let worker = bench.worker();
    for _ in 0..30 {
        fill(&mut bench, worker, "a", false);
    }
    bench.disk_writes_all();
    assert_eq!(number(&mut bench, "messages_stored"), 0);
    assert!(number(&mut bench, "unstored_bytes") <= 13_000);
    assert_eq!(kept(&mut bench, "a").last().unwrap(), "30");
}

#[test]
fn a_reader_gets_a_gap_for_evictions_in_the_middle() {
    let mut bench = short_of_memory();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    for _ in 0..3 {
        fill(&mut bench, worker, "a", false);
    }
    bench.disk_writes_all();
    bench.slow_store = true;
    bench.subscribe(alice, "a");
    for _ in 0..15 {
        fill(&mut bench, worker, "a", false);
    }
    bench.slow_store = false;
    bench.store_answers();
    let heard: Vec<Value> = bench.frames(alice);
    let told = heard.iter().map(|frame| match frame["type"].as_str().unwrap() {
        "message" => frame["seq"].to_string(),
        _ => super::bench::brief(frame),
    });
    let told: Vec<String> = told.collect();
    assert_eq!(told[..3], ["1", "2", "3"]);
    assert!(told[3].starts_with("gap 4 ") && told[3].ends_with(" evicted"), "{told:?}");
    assert_eq!(told.last().unwrap(), "18");
}
