//! The stop of the daemon.

use serde_json::json;
use wshubd::hub::Effect;
use wshubd::protocol::{Close, HubRequest, InterruptRequest, OperationId};

use super::harness::Harness;

#[test]
fn every_connection_gets_bye_with_a_spread_reconnect_delay() {
    let mut harness = Harness::new();
    let conns: Vec<_> = (0..50).map(|n| harness.client(&format!("user{n}"))).collect();
    harness.stop(Close::ShuttingDown);
    let waits: Vec<u64> =
        conns.iter().map(|conn| harness.frames(*conn).pop().unwrap()["after_ms"].as_u64().unwrap()).collect();
    assert!(waits.iter().all(|wait| *wait <= 5000));
    assert!(waits.iter().max() > waits.iter().min());
}

#[test]
fn a_restart_reconnects_within_a_second() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.stop(Close::Restarting);
    let frame = harness.frames(alice).pop().unwrap();
    assert_eq!(frame["code"], 4200);
    assert!(frame["after_ms"].as_u64().unwrap() <= 1000);
}

#[test]
fn newcomers_during_a_stop_are_refused() {
    let mut harness = Harness::new();
    harness.stop(Close::ShuttingDown);
    let alice = harness.anonymous_client();
    assert_eq!(harness.received(alice), ["closed 4101"]);
    assert_eq!(harness.request_http(1, HubRequest::Stats), ["error shutting_down"]);
}

#[test]
fn pending_requests_are_answered_and_no_operation_is_lost() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.subscribe(alice, "jobs");
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    let wish =
        InterruptRequest { operation_id: OperationId::new("other").unwrap(), channel: None, reason: None };
    harness.request_http(1, HubRequest::Interrupt(wish));
    harness.discard_frames(alice);
    harness.stop(Close::Restarting);
    assert_eq!(harness.answers(1), ["interrupt_result no_owner"]);
    assert_eq!(harness.received(alice), ["closed 4200"]);
    let closed = |effect: &&Effect| matches!(effect, Effect::Close { .. });
    assert_eq!(harness.last.list.iter().filter(closed).count(), 2);
    assert!(harness.hub.deadline().is_some(), "ended operations are remembered");
}

#[test]
fn ends_caused_by_a_stop_are_no_anomaly() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    harness.stop(Close::Restarting);
    assert!(!harness.last.list.iter().any(|effect| matches!(effect, Effect::LogAnomaly(_))));
}
