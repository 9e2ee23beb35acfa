//! Presence: lists, joins and leaves of a channel.

use serde_json::value::RawValue;
use serde_json::{Value, json};
use wshubd::hub::Terms;
use wshubd::protocol::Payload;

use super::bench::{Bench, Seat};

fn watch(bench: &mut Bench, seat: Seat) -> Value {
    let heard = bench.ask(seat, json!({"action": "subscribe", "channel": "room", "presence": true}));
    heard.last().unwrap()["presence"].clone()
}

#[test]
fn a_list_has_users_with_connections_the_requester_included() {
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
fn presence_subscribers_get_each_join_and_leave_once() {
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
fn a_user_back_within_fifteen_seconds_never_left() {
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
fn a_user_gets_no_presence_of_itself() {
    let mut bench = Bench::new();
    let (alice, alice_too) = (bench.client("alice"), bench.client("alice"));
    watch(&mut bench, alice);
    bench.subscribe(alice_too, "room");
    bench.say(alice_too, json!({"action": "unsubscribe", "channel": "room"}));
    assert!(bench.story(alice).is_empty());
}

#[test]
fn presence_needs_the_right_to_subscribe_not_a_subscription() {
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
fn an_unknown_channel_has_no_members() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    let told = bench.ask(alice, json!({"action": "presence", "channel": "room"})).remove(0);
    assert_eq!((&told["presence"], &told["count"]), (&json!([]), &json!(0)));
}

#[test]
fn only_presence_subscribers_get_joins() {
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
fn anonymous_connections_cause_no_presence() {
    let mut bench = Bench::open();
    let (alice, nobody) = (bench.client("alice"), bench.stranger());
    watch(&mut bench, alice);
    bench.subscribe(nobody, "room");
    bench.leave(nobody);
    bench.live(20);
    assert!(bench.story(alice).is_empty());
}

#[test]
fn above_a_thousand_users_presence_is_a_count_without_joins() {
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

fn says(info: &str) -> Terms {
    Terms { info: Some(Payload::new(RawValue::from_string(info.to_owned()).unwrap())), ..Terms::default() }
}

/// The entry of each user in a list.
fn infos(bench: &mut Bench, seat: Seat) -> Vec<(String, Value)> {
    bench.hush(seat);
    let told = bench.ask(seat, json!({"action": "presence", "channel": "room"})).remove(0);
    let list = told["presence"].as_array().unwrap().clone();
    list.iter().map(|entry| (entry["user_id"].as_str().unwrap().to_owned(), entry["info"].clone())).collect()
}

#[test]
fn a_tokens_profile_is_in_lists_and_joins() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client_on("bob", says(r#"{"name": "Bob","n":1.0}"#)));
    watch(&mut bench, alice);
    bench.subscribe(bob, "room");
    let joined = bench.frames(alice).remove(0);
    assert_eq!(joined["info"], json!({"name": "Bob", "n": 1.0}));
    assert_eq!(infos(&mut bench, alice)[1], ("bob".to_owned(), json!({"name": "Bob", "n": 1.0})));
    let told = bench.ask(alice, json!({"action": "presence", "channel": "room"})).remove(0);
    assert_eq!(told["presence"][0].get("info"), None, "who says nothing has none");
    assert_eq!(watch(&mut bench, bob)[1]["info"], json!({"name": "Bob", "n": 1.0}));
}

#[test]
fn the_newest_connection_provides_a_users_profile() {
    for watched in [true, false] {
        let mut bench = Bench::new();
        let alice = bench.client("alice");
        if watched {
            watch(&mut bench, alice);
        }
        let first = bench.client_on("bob", says("1"));
        bench.wait(1.0);
        let second = bench.client_on("bob", says("2"));
        bench.wait(1.0);
        let silent = bench.client("bob");
        // By when they came, not by when they subscribed.
        for (seat, shown) in [(second, json!(2)), (first, json!(2)), (silent, json!(null))] {
            bench.subscribe(seat, "room");
            assert_eq!(infos(&mut bench, alice).pop().unwrap().1, shown);
        }
        bench.hand_over();
        for (seat, shown) in [(silent, json!(2)), (second, json!(1))] {
            bench.say(seat, json!({"action": "unsubscribe", "channel": "room"}));
            assert_eq!(infos(&mut bench, alice).pop().unwrap().1, shown);
        }
        let newer = bench.token_on("bob", says("[3]"));
        bench.auth(first, &newer, None);
        assert_eq!(infos(&mut bench, alice).pop().unwrap().1, json!([3]));
        bench.auth(first, "bob", None);
        assert_eq!(infos(&mut bench, alice).pop().unwrap().1, json!(null));
    }
}

#[test]
fn a_user_in_the_leave_delay_keeps_the_latest_profile() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client_on("bob", says(r#""b""#)));
    watch(&mut bench, alice);
    bench.subscribe(bob, "room");
    bench.leave(bob);
    assert_eq!(infos(&mut bench, alice)[1].1, json!("b"));
    bench.hand_over();
    assert_eq!(infos(&mut bench, alice)[1].1, json!("b"), "in another process, too");
    let bob = bench.client_on("bob", says(r#""B""#));
    bench.subscribe(bob, "room");
    assert_eq!(infos(&mut bench, alice)[1].1, json!("B"));
    bench.leave(bob);
    bench.live(16);
    assert_eq!(infos(&mut bench, alice).len(), 1);
    let bob = bench.client("bob");
    bench.subscribe(bob, "room");
    let joined = bench.frames(alice).pop().unwrap();
    assert_eq!((&joined["type"], joined.get("info")), (&json!("user_joined"), None), "gone is gone");
}

#[test]
fn a_list_over_sixty_four_kibibytes_is_a_count() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    watch(&mut bench, alice);
    let info = format!("{:?}", "x".repeat(254));
    let mut longest = 0;
    for n in 0..300 {
        let seat = bench.client_on(&format!("user{n}\"\\"), says(&info));
        bench.subscribe(seat, "room");
        bench.wait(0.1);
        bench.handle(wshubd::hub::Input::KeepAlive { conn: alice, controls: 1 });
        let told = bench.ask(alice, json!({"action": "presence", "channel": "room"})).pop().unwrap();
        assert_eq!(told["count"], n + 2);
        longest = longest.max(told["presence"].to_string().len());
        if told.get("presence").is_none() {
            break;
        }
    }
    assert!((60 << 10..=64 << 10).contains(&longest), "{longest}");
    assert_eq!(watch(&mut bench, alice), json!(null));
    let more = bench.client_on("zoe", says("1"));
    bench.hush(alice);
    bench.subscribe(more, "room");
    assert_eq!(bench.story(alice), ["user_joined zoe"], "who comes is told all the same");
}
