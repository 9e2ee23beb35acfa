//! The system user that started an operation: it may list and interrupt it.

use serde_json::{Value, json};
use wshubd::hub::{Peer, Settings};

use super::bench::{Bench, Seat, rights};

fn process(bench: &mut Bench, uid: u32) -> Seat {
    bench.link(Peer::Worker { uid, admin: false })
}

fn start(bench: &mut Bench, worker: Seat, id: &str) {
    let line = json!({"action": "operation_start", "operation_id": id, "channel": "jobs", "user_id": "bob", "id": 1});
    assert_eq!(bench.say(worker, line), ["ok"]);
}

fn interrupt(bench: &mut Bench, seat: Seat, id: &str) -> Vec<String> {
    bench.say(seat, json!({"action": "interrupt", "operation_id": id, "id": 2}))
}

fn listed(bench: &mut Bench, seat: Seat) -> Vec<String> {
    let heard = bench.ask(seat, json!({"action": "operations", "id": 3})).remove(0);
    let Some(list) = heard["operations"].as_array() else { return vec![heard["code"].to_string()] };
    list.iter().map(|entry| entry["operation_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_starter_lists_and_interrupts_from_another_process() {
    let mut bench = Bench::new();
    let (worker, other) = (process(&mut bench, 1000), process(&mut bench, 1001));
    start(&mut bench, worker, "build");
    start(&mut bench, other, "backup");
    let shell = process(&mut bench, 1000);
    assert_eq!(listed(&mut bench, shell), ["build"]);
    assert_eq!(interrupt(&mut bench, shell, "build"), ["ok"]);
    assert_eq!(bench.story(worker), ["interrupt build"]);
    assert_eq!(interrupt(&mut bench, shell, "backup"), ["error forbidden"]);
    assert!(bench.story(other).is_empty());
    let admin = bench.admin();
    assert_eq!(listed(&mut bench, admin), ["backup", "build"]);
    bench.hand_over();
    assert_eq!(listed(&mut bench, shell), ["build"], "after a hand-over too");
}

#[test]
fn an_early_interrupt_waits_for_an_operation_of_its_user() {
    let mut bench = Bench::new();
    let (shell, stranger) = (process(&mut bench, 1000), process(&mut bench, 1001));
    let outcome =
        |bench: &mut Bench, seat| bench.frames(seat).last().map(|frame: &Value| frame["outcome"].clone());
    for seat in [shell, stranger] {
        bench.tell(seat, &json!({"action": "interrupt", "operation_id": "build", "id": 2}));
        assert_eq!(outcome(&mut bench, seat), Some(json!("pending")));
    }
    let worker = process(&mut bench, 1000);
    bench.tell(
        worker,
        &json!({"action": "operation_start", "operation_id": "build", "channel": "jobs", "id": 1}),
    );
    assert_eq!(bench.story(worker), ["ok", "interrupt build"], "behind what confirms the start");
    assert_eq!(outcome(&mut bench, shell), Some(json!("delivered")));
    assert_eq!(outcome(&mut bench, stranger), Some(json!("no_owner")));
}

#[test]
fn the_end_of_an_operation_is_public_to_every_process() {
    let mut bench = Bench::new();
    let worker = process(&mut bench, 1000);
    start(&mut bench, worker, "build");
    bench.say(worker, json!({"action": "operation_end", "operation_id": "build", "state": "completed"}));
    for uid in [1000, 1001] {
        let seat = process(&mut bench, uid);
        bench.tell(seat, &json!({"action": "interrupt", "operation_id": "build", "id": 2}));
        assert_eq!(bench.frames(seat)[0]["outcome"], "already_ended");
    }
}

#[test]
fn root_and_unknown_peers_own_no_operation() {
    let mut bench = Bench::with(Settings { overflow_uid: 70000, ..Settings::default() });
    for uid in [0, 70000] {
        let id = format!("of-{uid}");
        let (worker, shell) = (process(&mut bench, uid), process(&mut bench, uid));
        start(&mut bench, worker, &id);
        assert_eq!(listed(&mut bench, shell), ["\"forbidden\""]);
        assert_eq!(interrupt(&mut bench, shell, &id), ["error forbidden"]);
    }
    let (worker, shell) = (process(&mut bench, 65534), process(&mut bench, 65534));
    start(&mut bench, worker, "named");
    assert_eq!(interrupt(&mut bench, shell, "named"), ["ok"], "here that is a user like others");
}

#[test]
fn a_client_cannot_interrupt_by_a_system_user_number() {
    let mut bench = Bench::with(Settings { rights: rights(&["*"], &[], &[]), ..Settings::default() });
    let (worker, alice) = (process(&mut bench, 1000), bench.client("1000"));
    start(&mut bench, worker, "build");
    let heard = bench.say(alice, json!({"action": "interrupt", "data": {"operation_id": "build"}}));
    assert_eq!(heard, ["error forbidden"]);
}
