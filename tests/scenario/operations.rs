//! Operations, from start to their one end.

use serde_json::json;
use wshubd::hub::Settings;

use super::bench::{Bench, Seat, rights};

fn start(bench: &mut Bench, worker: Seat, id: &str) -> Vec<String> {
    bench.say(worker, json!({"action": "operation_start", "operation_id": id, "channel": "jobs", "id": 1}))
}

fn end(bench: &mut Bench, worker: Seat, id: &str) -> Vec<String> {
    let line =
        json!({"action": "operation_end", "operation_id": id, "state": "completed", "data": 7, "id": 2});
    bench.say(worker, line)
}

#[test]
fn the_channel_gets_the_start_and_end_of_an_operation() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.subscribe(alice, "jobs");
    bench.hush(alice);
    assert_eq!(start(&mut bench, worker, "op"), ["ok"]);
    assert_eq!(end(&mut bench, worker, "op"), ["ok"]);
    assert_eq!(bench.story(alice), ["operation op started", "operation op ended completed"]);
}

#[test]
fn a_connection_on_both_channels_gets_each_state_once() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    start(&mut bench, worker, "op");
    bench.subscribe(alice, "jobs");
    assert_eq!(
        bench.subscribe(alice, "operation:op"),
        ["subscription_succeeded operation:op 0", "operation op started"]
    );
    end(&mut bench, worker, "op");
    assert_eq!(bench.story(alice), ["operation op ended completed", "unsubscribed operation:op ended"]);
}

#[test]
fn a_running_id_is_a_conflict_except_for_its_own_connection() {
    let mut bench = Bench::new();
    let (worker, other) = (bench.worker(), bench.worker());
    start(&mut bench, worker, "op");
    assert_eq!(start(&mut bench, worker, "op"), ["ok"]);
    assert_eq!(start(&mut bench, other, "op"), ["error conflict"]);
    assert_eq!(end(&mut bench, other, "op"), ["error forbidden"]);
    end(&mut bench, worker, "op");
    assert_eq!(end(&mut bench, worker, "op"), ["error unknown_operation"]);
    assert_eq!(start(&mut bench, other, "op"), ["ok"], "its name is free again");
}

#[test]
fn a_reloaded_page_finds_running_operations() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    start(&mut bench, worker, "a");
    start(&mut bench, worker, "b");
    end(&mut bench, worker, "a");
    let heard = bench.ask(alice, json!({"action": "subscribe", "channel": "jobs"}));
    assert_eq!(heard[1]["operations"][0]["operation_id"], "b");
    let frame = bench.ask(alice, json!({"action": "operations", "channel": "jobs"})).remove(0);
    let running = frame["operations"].as_array().unwrap();
    assert_eq!((running.len(), &running[0]["operation_id"]), (1, &json!("b")));
}

#[test]
fn a_lost_owner_ends_its_operations_at_once() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.subscribe(alice, "jobs");
    start(&mut bench, worker, "op");
    bench.hush(alice);
    bench.leave(worker);
    assert_eq!(bench.story(alice), ["operation op ended owner_lost"]);
    assert_eq!(bench.stats()["operations"], 0);
}

#[test]
fn an_ended_operation_is_remembered_for_ten_minutes() {
    let mut bench = Bench::with(Settings::default());
    let worker = bench.worker();
    start(&mut bench, worker, "op");
    end(&mut bench, worker, "op");
    bench.wait(590.0);
    let alice = bench.client("alice");
    let told = ["subscription_succeeded operation:op 0", "operation op ended completed"];
    assert_eq!(
        bench.subscribe(alice, "operation:op")[1..],
        [&told[..], &["unsubscribed operation:op ended"]].concat()
    );
    bench.wait(12.0);
    assert_eq!(bench.subscribe(alice, "operation:op"), ["error unknown_operation operation:op"]);
}

#[test]
fn an_operation_channel_is_for_its_user_and_subscribers() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    let line =
        json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "user_id": "alice"});
    bench.say(worker, line);
    let alice = bench.client_with("alice", rights(&[], &[], &[]));
    let bob = bench.client_with("bob", rights(&["jobs"], &[], &[]));
    let carol = bench.client_with("carol", rights(&["*"], &[], &[]));
    let mallory = bench.client_with("mallory", rights(&["other"], &[], &[]));
    for seat in [alice, bob, carol] {
        assert_eq!(bench.subscribe(seat, "operation:op")[2], "operation op started");
    }
    assert_eq!(bench.subscribe(mallory, "operation:op")[1..], ["error forbidden operation:op"]);
}

#[test]
fn only_its_worker_publishes_on_the_channel_of_an_operation() {
    let mut bench = Bench::new();
    let (worker, other, alice) = (bench.worker(), bench.worker(), bench.client("alice"));
    start(&mut bench, worker, "op");
    bench.subscribe(alice, "operation:op");
    bench.hush(alice);
    let line = json!({"channel": "operation:op", "event": "step", "data": 1});
    assert!(bench.say(worker, line.clone()).is_empty());
    assert_eq!(bench.say(other, line), ["error forbidden"]);
    assert_eq!(bench.publish(alice, "operation:op", 1), ["step 1", "error forbidden"]);
    let line = json!({"channel": "operation:none", "event": "step"});
    assert_eq!(bench.say(worker, line), ["error unknown_operation"]);
}

#[test]
fn all_operations_are_listed_for_administrators_only() {
    let mut bench = Bench::new();
    let (worker, admin, alice) = (bench.worker(), bench.admin(), bench.client("alice"));
    start(&mut bench, worker, "op");
    let refused = bench.ask(alice, json!({"action": "operations"})).remove(0);
    assert_eq!(refused["code"], "forbidden");
    assert!(refused["message"].as_str().unwrap().contains("without `channel`"), "{refused}");
    let listed = bench.ask(admin, json!({"action": "operations"})).remove(0);
    assert_eq!(listed["operations"][0]["operation_id"], "op");
    assert_eq!(bench.ask(admin, json!({"action": "stats"}))[0]["operations"], 1);
    assert_eq!(bench.say(worker, json!({"action": "stats"})), ["error forbidden"]);
}

/// A subscriber that comes back to a backlog of `count` lines and reads it slowly.
fn reader(bench: &mut Bench, worker: Seat, count: u32) -> Seat {
    for n in 1..=count {
        bench.say(worker, json!({"channel": "jobs", "event": "line", "data": n}));
    }
    let alice = bench.client("alice");
    bench.clog(alice);
    bench.subscribe(alice, "jobs");
    bench.hush(alice);
    alice
}

#[test]
fn the_end_comes_after_all_lines() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    start(&mut bench, worker, "op");
    let alice = reader(&mut bench, worker, 70);
    end(&mut bench, worker, "op");
    assert!(bench.story(alice).is_empty(), "the end waits behind the backlog");
    bench.unclog(alice);
    let heard = bench.story(alice);
    assert_eq!(heard[..2], ["line 65 replayed", "line 66 replayed"]);
    assert_eq!(heard[5..], ["line 70 replayed", "operation op ended completed"]);
}

#[test]
fn lines_after_the_end_follow_it_in_the_backlog_too() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    start(&mut bench, worker, "op");
    let alice = reader(&mut bench, worker, 65);
    end(&mut bench, worker, "op");
    bench.say(worker, json!({"channel": "jobs", "event": "line", "data": "next"}));
    start(&mut bench, worker, "other");
    bench.unclog(alice);
    let told = bench.story(alice);
    let place = |what: &str| told.iter().position(|line| line == what).unwrap();
    assert_eq!(place("line 65 replayed"), 0);
    assert!(place("operation op ended completed") < place("line next replayed"), "{told:?}");
    assert!(place("operation op ended completed") < place("operation other started"), "{told:?}");
    assert_eq!(told.len(), 4);
}

#[test]
fn a_delayed_end_is_followed_by_the_end_of_its_channel() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    start(&mut bench, worker, "op");
    let alice = reader(&mut bench, worker, 65);
    bench.subscribe(alice, "operation:op");
    bench.hush(alice);
    end(&mut bench, worker, "op");
    bench.unclog(alice);
    let heard = bench.story(alice);
    let ends = ["operation op ended completed", "unsubscribed operation:op ended"];
    assert_eq!(heard, [&["line 65 replayed"], &ends[..]].concat());
}

#[test]
fn a_subscriber_without_backlog_gets_the_end_at_once() {
    let mut bench = Bench::new();
    let (worker, bob, carol) = (bench.worker(), bench.client("bob"), bench.client("carol"));
    start(&mut bench, worker, "op");
    let alice = reader(&mut bench, worker, 65);
    bench.subscribe(bob, "jobs");
    bench.subscribe(carol, "operation:op");
    bench.hush(bob);
    bench.hush(carol);
    end(&mut bench, worker, "op");
    assert_eq!(bench.story(bob), ["operation op ended completed"]);
    assert_eq!(bench.story(carol), ["operation op ended completed", "unsubscribed operation:op ended"]);
    assert!(bench.story(alice).is_empty());
}

#[test]
fn a_delayed_end_is_handed_over() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    start(&mut bench, worker, "op");
    let alice = reader(&mut bench, worker, 65);
    end(&mut bench, worker, "op");
    bench.hand_over();
    bench.unclog(alice);
    assert_eq!(bench.story(alice), ["line 65 replayed", "operation op ended completed"]);
}

#[test]
fn a_delayed_end_is_dropped_with_its_reader() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    start(&mut bench, worker, "op");
    let alice = reader(&mut bench, worker, 70);
    end(&mut bench, worker, "op");
    bench.say(alice, json!({"action": "unsubscribe", "channel": "jobs"}));
    bench.unclog(alice);
    assert!(bench.story(alice).is_empty(), "nothing of that channel comes after unsubscribing");
}

#[test]
fn each_kind_of_end_carries_what_the_worker_sent() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.subscribe(alice, "jobs");
    for state in ["completed", "failed", "interrupted"] {
        start(&mut bench, worker, "op");
        bench.hush(alice);
        let line =
            json!({"action": "operation_end", "operation_id": "op", "state": state, "data": [1, state]});
        bench.say(worker, line);
        let told = bench.frames(alice).remove(0);
        assert_eq!((&told["reason"], &told["data"]), (&json!(state), &json!([1, state])));
    }
}

#[test]
fn the_last_1024_ended_operations_are_remembered() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    for n in 0..=1024 {
        start(&mut bench, worker, &format!("op{n}"));
        end(&mut bench, worker, &format!("op{n}"));
    }
    let ask = |id: &str| json!({"action": "interrupt", "data": {"operation_id": id}});
    assert_eq!(bench.say(alice, ask("op1")), ["interrupt_result already_ended"]);
    assert_eq!(bench.say(alice, ask("op0")), ["interrupt_result pending"], "the first is forgotten");
}
