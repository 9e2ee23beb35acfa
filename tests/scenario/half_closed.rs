//! A half-closed worker: it sends no more and still reads.

use serde_json::json;
use wshubd::hub::{Input, Settings};

use super::harness::{ConnectionId, Harness};

const HUNG_UP: &str = "hung up";

fn slow() -> Harness {
    let mut harness = Harness::with(Settings { has_disk: true, ..Settings::default() });
    harness.disk.slow = true;
    harness
}

fn durable(harness: &mut Harness, worker: ConnectionId, id: Option<u32>) {
    let line = json!({"channel": "room", "event": "say", "durable": true, "id": id});
    assert!(harness.send(worker, line).is_empty());
}

/// Half-closes the worker; the frames that it gets then.
fn end(harness: &mut Harness, worker: ConnectionId) -> Vec<String> {
    harness.handle(Input::ReadClosed { conn: worker });
    harness.received(worker)
}

#[test]
fn a_half_closed_worker_without_pending_answers_is_closed() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    assert_eq!(end(&mut harness, worker), [HUNG_UP]);
}

#[test]
fn a_half_closed_worker_gets_the_answer_of_the_disk() {
    let mut harness = slow();
    let worker = harness.worker();
    durable(&mut harness, worker, Some(1));
    durable(&mut harness, worker, Some(2));
    assert!(end(&mut harness, worker).is_empty(), "its answers wait");
    harness.disk_writes();
    assert_eq!(harness.received(worker), ["ok", "ok", HUNG_UP]);
}

#[test]
fn a_half_closed_worker_without_an_id_is_closed() {
    let mut harness = slow();
    let worker = harness.worker();
    durable(&mut harness, worker, None);
    assert!(end(&mut harness, worker).is_empty());
    harness.disk_writes();
    assert_eq!(harness.received(worker), [HUNG_UP]);
}

#[test]
fn a_half_closed_worker_gets_the_refusal_of_the_disk() {
    let mut harness = slow();
    let worker = harness.worker();
    durable(&mut harness, worker, Some(1));
    assert!(end(&mut harness, worker).is_empty());
    harness.handle(Input::Store(wshubd::hub::StoreEvent::Failed));
    assert_eq!(harness.received(worker), ["error store_unavailable room", HUNG_UP]);
}

#[test]
fn a_half_closed_worker_gets_the_outcome_of_an_interrupt() {
    let mut harness = Harness::new();
    let (admin, late) = (harness.admin(), harness.admin());
    let worker = harness.worker();
    for (conn, operation) in [(admin, "op"), (late, "other")] {
        let stop = json!({"action": "interrupt", "operation_id": operation, "id": 1});
        assert_eq!(harness.send(conn, stop), ["ok"]);
        assert!(end(&mut harness, conn).is_empty());
    }
    let start = json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "id": 2});
    harness.send(worker, start);
    assert_eq!(harness.received(admin), ["ok", HUNG_UP]);
    harness.wait(10.0);
    assert_eq!(harness.received(late), ["ok", HUNG_UP], "no owner");
}

#[test]
fn a_half_closed_worker_has_no_channel_and_no_operation() {
    let mut harness = slow();
    let (worker, bob) = (harness.worker(), harness.client("bob"));
    harness.send(worker, json!({"action": "subscribe", "channel": "news"}));
    harness.subscribe(bob, "jobs");
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    harness.discard_frames(bob);
    durable(&mut harness, worker, Some(1));
    assert!(end(&mut harness, worker).is_empty());
    assert_eq!(harness.received(bob), ["operation op ended owner_lost"]);
    let reply = harness.send(bob, json!({"action": "send", "channel": "news", "event": "say"}));
    assert_eq!(reply, ["send_success 0 0 kept"], "nobody hears it");
    harness.disk_writes();
    assert_eq!(harness.received(worker), ["ok", HUNG_UP]);
}

#[test]
fn a_half_closed_worker_that_vanishes_is_dropped() {
    let mut harness = slow();
    let worker = harness.worker();
    durable(&mut harness, worker, Some(1));
    end(&mut harness, worker);
    harness.disconnect(worker);
    harness.disk_writes();
    assert!(harness.last.list.is_empty());
}
