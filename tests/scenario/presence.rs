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

#[test]
fn presence_is_told_to_whoever_may_subscribe_without_a_subscription() {
    let mut bench = Bench::open();
    let (alice, bob, nobody) = (bench.client("alice"), bench.client("bob"), bench.stranger());
    for seat in [alice, nobody] {
        bench.subscribe(seat, "room");
    }
    let ask = json!({"action": "presence", "channel": "room", "id": 7});
    let told = bench.ask(bob, ask.clone()).remove(0);
    assert_eq!(told["presence"], json!([{"user_id": "alice", "connections": 1}]));
    assert_eq!((&told["count"], &told["channel"], &told["id"]), (&json!(1), &json!("room"), &json!(7)));
    bench.subscribe(bob, "room");
    assert_eq!(bench.ask(bob, ask.clone()).remove(0)["count"], 2, "the asker included");
    let mallory = bench.client_with("mallory", super::bench::rights(&["hall"], &[], &[]));
    assert_eq!(bench.say(mallory, ask), ["error forbidden room"]);
}

#[test]
fn a_channel_that_nobody_knows_has_nobody_on_it() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    let told = bench.ask(alice, json!({"action": "presence", "channel": "room"})).remove(0);
    assert_eq!((&told["presence"], &told["count"]), (&json!([]), &json!(0)));
}

#[test]
fn only_who_asked_for_it_hears_who_comes() {
    let mut bench = Bench::new();
    let (alice, bob, carol) = (bench.client("alice"), bench.client("bob"), bench.client("carol"));
    bench.subscribe(alice, "room");
    watch(&mut bench, bob);
    bench.hush(alice);
    bench.subscribe(carol, "room");
    assert!(bench.story(alice).is_empty());
    assert_eq!(bench.story(bob), ["user_joined carol"]);
    bench.subscribe(bob, "room");
    bench.say(carol, json!({"action": "unsubscribe", "channel": "room"}));
    assert!(bench.story(bob).is_empty(), "the second subscribe did not ask");
}

#[test]
fn nobody_in_particular_comes_and_goes_unnoticed() {
    let mut bench = Bench::open();
    let (alice, nobody) = (bench.client("alice"), bench.stranger());
    watch(&mut bench, alice);
    bench.subscribe(nobody, "room");
    bench.leave(nobody);
    bench.live(20);
    assert!(bench.story(alice).is_empty());
}

#[test]
fn above_a_thousand_users_there_is_a_count_and_no_list_and_joins_are_not_told() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    watch(&mut bench, alice);
    let crowd: Vec<Seat> = (0..1000).map(|n| bench.client(&format!("user{n}"))).collect();
    for seat in &crowd[..999] {
        bench.subscribe(*seat, "room");
    }
    assert_eq!(bench.story(alice).len(), 999);
    let ask = json!({"action": "presence", "channel": "room"});
    assert_eq!(bench.ask(alice, ask.clone())[0]["presence"].as_array().unwrap().len(), 1000);
    bench.subscribe(crowd[999], "room");
    assert!(bench.story(alice).is_empty());
    let told = bench.ask(alice, ask).remove(0);
    assert_eq!((&told["count"], told.get("presence")), (&json!(1001), None));
    assert!(watch(&mut bench, alice).is_null());
}
