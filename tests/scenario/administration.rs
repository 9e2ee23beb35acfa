//! Requests of administrators, and the right to make them.

use serde_json::{Value, json};
use wshubd::hub::{Input, SendQueueState, Settings};
use wshubd::protocol::UnixTime;

use super::bench::{Bench, Seat};

/// The only answer to an administrator's question.
fn asked(bench: &mut Bench, admin: Seat, request: Value) -> Value {
    bench.ask(admin, request).pop().unwrap()
}

/// The entry of one connection.
fn seen(bench: &mut Bench, admin: Seat, seat: Seat) -> Value {
    let list = asked(bench, admin, json!({"action": "connections"}));
    let own = |entry: &&Value| entry["connection_id"] == seat.to_string();
    list["connections"].as_array().unwrap().iter().find(own).unwrap().clone()
}

/// A time so many seconds before now.
fn ago(bench: &Bench, seconds: u64) -> String {
    UnixTime(bench.now.wall.0 - seconds * 1000).to_string()
}

#[test]
fn a_connection_lists_its_age_and_last_activity() {
    let mut bench = Bench::new();
    let (admin, alice, worker) = (bench.admin(), bench.client("alice"), bench.worker());
    bench.subscribe(alice, "logs");
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "logs"}));
    bench.wait(30.0);
    bench.handle(Input::KeepAlive { conn: alice, controls: 1 });
    bench.wait(7.0);

    let client = seen(&mut bench, admin, alice);
    assert_eq!((&client["kind"], &client["user_id"]), (&json!("client"), &json!("alice")));
    assert_eq!(client["connected_at"], ago(&bench, 37));
    assert_eq!(client["heard_at"], ago(&bench, 7));
    assert_eq!((&client["subscriptions"], &client["operations"]), (&json!(1), &json!(0)));
    assert_eq!(
        (&client["uid"], &client["stalled"], &client["missed"]),
        (&json!(null), &json!(null), &json!(0))
    );
    let local = seen(&mut bench, admin, worker);
    assert_eq!((&local["kind"], &local["uid"]), (&json!("worker"), &json!(1000)));
    assert_eq!((&local["operations"], &local["user_id"]), (&json!(1), &json!(null)));
}

#[test]
fn setting_the_clock_does_not_change_a_connections_age() {
    let mut bench = Bench::new();
    let (admin, alice) = (bench.admin(), bench.client("alice"));
    bench.wait(5.0);
    bench.now.wall.0 += 1_000_000_000;
    assert_eq!(seen(&mut bench, admin, alice)["connected_at"], ago(&bench, 5));
}

#[test]
fn a_stalled_connection_lists_since_when_and_what_it_lost() {
    let mut bench = Bench::new();
    let (admin, alice, bob) = (bench.admin(), bench.client("alice"), bench.client("bob"));
    for seat in [alice, bob] {
        bench.subscribe(seat, "logs");
    }
    bench.outbound(alice, SendQueueState::Full);
    for n in 1..=2 {
        bench.say(admin, json!({"channel": "logs", "event": "log", "data": n}));
    }
    bench.wait(4.0);
    let slow = seen(&mut bench, admin, alice);
    assert_eq!((&slow["stalled"], &slow["missed"]), (&json!(4), &json!(2)));
    bench.handle(Input::WriteProgress { conn: alice });
    bench.wait(1.5);
    assert_eq!(seen(&mut bench, admin, alice)["stalled"], 1.5);
    bench.outbound(alice, SendQueueState::Empty);
    let clear = seen(&mut bench, admin, alice);
    assert_eq!((&clear["stalled"], &clear["missed"]), (&json!(null), &json!(0)));
}

#[test]
fn a_stalled_owner_of_an_operation_lists_since_when() {
    let mut bench = Bench::new();
    let (admin, worker) = (bench.admin(), bench.worker());
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "logs"}));
    bench.outbound(worker, SendQueueState::Full);
    bench.wait(3600.0);
    assert_eq!(seen(&mut bench, admin, worker)["stalled"], 3600);
    bench.say(worker, json!({"action": "operation_end", "operation_id": "op", "state": "completed"}));
    bench.hush(worker);
    bench.wait(10.0);
    assert_eq!(bench.story(worker), ["closed 4202"]);
}

#[test]
fn a_channel_lists_policy_lagging_readers_and_oldest_message() {
    let mut bench = Bench::new();
    let (admin, worker, alice, bob) =
        (bench.admin(), bench.worker(), bench.client("alice"), bench.client("bob"));
    for n in 1..=100 {
        bench.say(worker, json!({"channel": "logs", "event": "log", "data": n}));
        bench.wait(0.1);
    }
    bench.subscribe(bob, "room");
    bench.clog(alice);
    bench.subscribe(alice, "logs");

    let list = asked(&mut bench, admin, json!({"action": "channels"}));
    let (logs, room) = (&list["channels"][0], &list["channels"][1]);
    assert_eq!((&logs["channel"], &logs["keep"]), (&json!("logs"), &json!("undelivered")));
    assert_eq!((&logs["subscribers"], &logs["behind"]), (&json!(1), &json!(1)));
    assert_eq!((&logs["kept"], &logs["oldest_at"]), (&json!(100), &json!(ago(&bench, 10))));
    assert_eq!(
        (&room["channel"], &room["behind"], &room["oldest_at"]),
        (&json!("room"), &json!(0), &json!(null))
    );

    bench.drain(alice, 30);
    let list = asked(&mut bench, admin, json!({"action": "channels"}));
    assert_eq!(list["channels"][0]["oldest_at"], ago(&bench, 7));
}

#[test]
fn an_inbox_lists_what_waits_and_all_inboxes_without_a_user() {
    let mut bench = Bench::new();
    let (admin, _bob) = (bench.admin(), bench.client("bob"));
    bench.say(admin, json!({"user_id": "carol", "event": "e"}));
    bench.say(admin, json!({"user_id": "alice", "event": "e"}));
    bench.wait(90.0);
    bench.say(admin, json!({"user_id": "alice", "event": "e"}));

    let alice = asked(&mut bench, admin, json!({"action": "inbox", "user_id": "alice"}));
    assert_eq!((&alice["user_id"], &alice["connections"]), (&json!("alice"), &json!(0)));
    assert_eq!(alice["waiting"], 2);
    assert_eq!(alice["oldest_at"], ago(&bench, 90));
    let nobody = asked(&mut bench, admin, json!({"action": "inbox", "user_id": "dave"}));
    assert_eq!((&nobody["waiting"], &nobody["epoch"]), (&json!(0), &json!(null)));
    let all = asked(&mut bench, admin, json!({"action": "inbox"}));
    let waiting: Vec<_> = all["inboxes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|inbox| (&inbox["user_id"], &inbox["waiting"]))
        .collect();
    assert_eq!(waiting, [(&json!("alice"), &json!(2)), (&json!("carol"), &json!(1))]);
}

#[test]
fn a_refused_administrator_learns_the_rule() {
    let mut bench = Bench::with(Settings::default());
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.subscribe(alice, "logs");
    for request in [
        json!({"action": "connections"}),
        json!({"action": "channels"}),
        json!({"action": "inbox"}),
        json!({"action": "purge", "channel": "logs"}),
        json!({"action": "disconnect", "user_id": "alice"}),
    ] {
        let answer = asked(&mut bench, worker, request.clone());
        assert_eq!((&answer["code"], &answer["action"]), (&json!("forbidden"), &request["action"]));
        assert!(answer["message"].as_str().unwrap().contains("root, the daemon's own user"), "{answer}");
    }
    assert_eq!(bench.say(alice, json!({"action": "ping"})).last().unwrap(), "pong", "she is still there");
}
