//! The stop of the daemon.

use serde_json::json;
use wshubd::hub::Effect;
use wshubd::protocol::{Close, HubRequest, InterruptRequest, OperationId};

use super::bench::Bench;

#[test]
fn every_connection_gets_bye_with_a_spread_reconnect_delay() {
    let mut bench = Bench::new();
    let seats: Vec<_> = (0..50).map(|n| bench.client(&format!("user{n}"))).collect();
    bench.stop(Close::ShuttingDown);
    let waits: Vec<u64> =
        seats.iter().map(|seat| bench.frames(*seat).pop().unwrap()["after_ms"].as_u64().unwrap()).collect();
    assert!(waits.iter().all(|wait| *wait <= 5000));
    assert!(waits.iter().max() > waits.iter().min());
}

#[test]
fn a_restart_reconnects_within_a_second() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    bench.stop(Close::Restarting);
    let frame = bench.frames(alice).pop().unwrap();
    assert_eq!(frame["code"], 4200);
    assert!(frame["after_ms"].as_u64().unwrap() <= 1000);
}

#[test]
fn newcomers_during_a_stop_are_refused() {
    let mut bench = Bench::new();
    bench.stop(Close::ShuttingDown);
    let alice = bench.stranger();
    assert_eq!(bench.story(alice), ["closed 4101"]);
    assert_eq!(bench.ask_http(1, HubRequest::Stats), ["error shutting_down"]);
}

#[test]
fn pending_requests_are_answered_and_no_operation_is_lost() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.subscribe(alice, "jobs");
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    let wish =
        InterruptRequest { operation_id: OperationId::new("other").unwrap(), channel: None, reason: None };
    bench.ask_http(1, HubRequest::Interrupt(wish));
    bench.hush(alice);
    bench.stop(Close::Restarting);
    assert_eq!(bench.answers(1), ["interrupt_result no_owner"]);
    assert_eq!(bench.story(alice), ["closed 4200"]);
    let closed = |effect: &&Effect| matches!(effect, Effect::Close { .. });
    assert_eq!(bench.last.list.iter().filter(closed).count(), 2);
    assert!(bench.hub.deadline().is_some(), "ended operations are remembered");
}

#[test]
fn ends_caused_by_a_stop_are_no_anomaly() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    bench.stop(Close::Restarting);
    assert!(!bench.last.list.iter().any(|effect| matches!(effect, Effect::LogAnomaly(_))));
}
