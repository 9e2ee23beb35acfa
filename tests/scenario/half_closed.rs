//! A half-closed worker: it sends no more and still reads.

use serde_json::json;
use wshubd::hub::{Input, Settings};

use super::bench::{Bench, Seat};

const HUNG_UP: &str = "hung up";

fn slow() -> Bench {
    let mut bench = Bench::with(Settings { has_disk: true, ..Settings::default() });
    bench.disk.slow = true;
    bench
}

fn durable(bench: &mut Bench, worker: Seat, id: Option<u32>) {
    let line = json!({"channel": "room", "event": "say", "durable": true, "id": id});
    assert!(bench.say(worker, line).is_empty());
}

/// Half-closes the worker; the frames that it gets then.
fn end(bench: &mut Bench, worker: Seat) -> Vec<String> {
    bench.handle(Input::ReadClosed { conn: worker });
    bench.story(worker)
}

#[test]
fn a_half_closed_worker_without_pending_answers_is_closed() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    assert_eq!(end(&mut bench, worker), [HUNG_UP]);
}

#[test]
fn a_half_closed_worker_gets_the_answer_of_the_disk() {
    let mut bench = slow();
    let worker = bench.worker();
    durable(&mut bench, worker, Some(1));
    durable(&mut bench, worker, Some(2));
    assert!(end(&mut bench, worker).is_empty(), "its answers wait");
    bench.disk_writes();
    assert_eq!(bench.story(worker), ["ok", "ok", HUNG_UP]);
}

#[test]
fn a_half_closed_worker_without_an_id_is_closed() {
    let mut bench = slow();
    let worker = bench.worker();
    durable(&mut bench, worker, None);
    assert!(end(&mut bench, worker).is_empty());
    bench.disk_writes();
    assert_eq!(bench.story(worker), [HUNG_UP]);
}

#[test]
fn a_half_closed_worker_gets_the_refusal_of_the_disk() {
    let mut bench = slow();
    let worker = bench.worker();
    durable(&mut bench, worker, Some(1));
    assert!(end(&mut bench, worker).is_empty());
    bench.handle(Input::Store(wshubd::hub::StoreEvent::Failed));
    assert_eq!(bench.story(worker), ["error store_unavailable room", HUNG_UP]);
}

#[test]
fn a_half_closed_worker_gets_the_outcome_of_an_interrupt() {
    let mut bench = Bench::new();
    let (admin, late) = (bench.admin(), bench.admin());
    let worker = bench.worker();
    for (seat, operation) in [(admin, "op"), (late, "other")] {
        let stop = json!({"action": "interrupt", "operation_id": operation, "id": 1});
        assert_eq!(bench.say(seat, stop), ["ok"]);
        assert!(end(&mut bench, seat).is_empty());
    }
    let start = json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "id": 2});
    bench.say(worker, start);
    assert_eq!(bench.story(admin), ["ok", HUNG_UP]);
    bench.wait(10.0);
    assert_eq!(bench.story(late), ["ok", HUNG_UP], "no owner");
}

#[test]
fn a_half_closed_worker_has_no_channel_and_no_operation() {
    let mut bench = slow();
    let (worker, bob) = (bench.worker(), bench.client("bob"));
    bench.say(worker, json!({"action": "subscribe", "channel": "news"}));
    bench.subscribe(bob, "jobs");
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    bench.hush(bob);
    durable(&mut bench, worker, Some(1));
    assert!(end(&mut bench, worker).is_empty());
    assert_eq!(bench.story(bob), ["operation op ended owner_lost"]);
    let said = bench.say(bob, json!({"action": "send", "channel": "news", "event": "say"}));
    assert_eq!(said, ["send_success 0 0 kept"], "nobody hears it");
    bench.disk_writes();
    assert_eq!(bench.story(worker), ["ok", HUNG_UP]);
}

#[test]
fn a_half_closed_worker_that_vanishes_is_dropped() {
    let mut bench = slow();
    let worker = bench.worker();
    durable(&mut bench, worker, Some(1));
    end(&mut bench, worker);
    bench.leave(worker);
    bench.disk_writes();
    assert!(bench.last.list.is_empty());
}
