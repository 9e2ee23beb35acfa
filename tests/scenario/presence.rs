//! Who is on a channel.

use serde_json::json;

use super::bench::{Bench, Seat};

fn watch(bench: &mut Bench, seat: Seat) -> serde_json::Value {
    let heard = bench.ask(seat, json!({"action": "subscribe", "channel": "room", "presence": true}));
    heard.last().unwrap()["presence"].clone()
}

#[test]
fn a_list_names_users_with_their_connections_the_asker_included() {
    let mut bench = Bench::open();
    let (alice, alice_too, bob) = (bench.client("alice"), bench.client("alice"), bench.client("bob"));
    let nobody = bench.stranger();
    for seat in [alice, alice_too, nobody] {
        bench.subscribe(seat, "room");
    }
    let list = json!([{"user_id": "alice", "connections": 2}, {"user_id": "bob", "connections": 1}]);
    assert_eq!(watch(&mut bench, bob), list);
}

#[test]
fn those_who_asked_hear_who_comes_and_goes_once_each() {
    let mut bench = Bench::new();
    let (alice, bob, bob_too) = (bench.client("alice"), bench.client("bob"), bench.client("bob"));
    watch(&mut bench, alice);
    bench.subscribe(bob, "room");
    bench.subscribe(bob_too, "room");
    assert_eq!(bench.story(alice), ["user_joined bob"]);
    bench.say(bob, json!({"action": "unsubscribe", "channel": "room"}));
    assert!(bench.story(alice).is_empty());
    bench.say(bob_too, json!({"action": "unsubscribe", "channel": "room"}));
    assert_eq!(bench.story(alice), ["user_left bob"]);
}

#[test]
fn who_comes_back_within_fifteen_seconds_never_left() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    watch(&mut bench, alice);
    bench.subscribe(bob, "room");
    bench.leave(bob);
    bench.wait(14.0);
    let bob = bench.client("bob");
    bench.subscribe(bob, "room");
    bench.wait(20.0);
    assert_eq!(bench.story(alice), ["user_joined bob"]);
    bench.leave(bob);
    bench.wait(16.0);
    assert_eq!(bench.story(alice), ["user_left bob"]);
}

#[test]
fn one_does_not_hear_of_oneself() {
    let mut bench = Bench::new();
    let (alice, alice_too) = (bench.client("alice"), bench.client("alice"));
    watch(&mut bench, alice);
    bench.subscribe(alice_too, "room");
    bench.say(alice_too, json!({"action": "unsubscribe", "channel": "room"}));
    assert!(bench.story(alice).is_empty());
}
