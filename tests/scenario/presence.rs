//! Presence: lists, joins and leaves of a channel.

use serde_json::value::RawValue;
use serde_json::{Value, json};
use wshubd::hub::Terms;
use wshubd::protocol::Payload;

use super::harness::{ConnectionId, Harness};

fn watch(harness: &mut Harness, conn: ConnectionId) -> Value {
    let received = harness.request(conn, json!({"action": "subscribe", "channel": "room", "presence": true}));
    received.last().unwrap()["presence"].clone()
}

#[test]
fn a_list_has_users_with_connections_the_requester_included() {
    let mut harness = Harness::open();
    let (alice, alice_too, bob) = (harness.client("alice"), harness.client("alice"), harness.client("bob"));
    let nobody = harness.anonymous_client();
    for conn in [alice, alice_too, nobody] {
        harness.subscribe(conn, "room");
    }
    let list = json!([{"user_id": "alice", "connections": 2}, {"user_id": "bob", "connections": 1}]);
    assert_eq!(watch(&mut harness, bob), list);
}

#[test]
fn presence_subscribers_get_each_join_and_leave_once() {
    let mut harness = Harness::new();
    let (alice, bob, bob_too) = (harness.client("alice"), harness.client("bob"), harness.client("bob"));
    watch(&mut harness, alice);
    harness.subscribe(bob, "room");
    harness.subscribe(bob_too, "room");
    assert_eq!(harness.received(alice), ["user_joined bob"]);
    harness.send(bob, json!({"action": "unsubscribe", "channel": "room"}));
    assert!(harness.received(alice).is_empty());
    harness.send(bob_too, json!({"action": "unsubscribe", "channel": "room"}));
    assert_eq!(harness.received(alice), ["user_left bob"]);
}

#[test]
fn a_user_back_within_fifteen_seconds_never_left() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    watch(&mut harness, alice);
    harness.subscribe(bob, "room");
    harness.disconnect(bob);
    harness.wait(14.0);
    let bob = harness.client("bob");
    harness.subscribe(bob, "room");
    harness.wait(20.0);
    assert_eq!(harness.received(alice), ["user_joined bob"]);
    harness.disconnect(bob);
    harness.wait(16.0);
    assert_eq!(harness.received(alice), ["user_left bob"]);
}

#[test]
fn a_user_gets_no_presence_of_itself() {
    let mut harness = Harness::new();
    let (alice, alice_too) = (harness.client("alice"), harness.client("alice"));
    watch(&mut harness, alice);
    harness.subscribe(alice_too, "room");
    harness.send(alice_too, json!({"action": "unsubscribe", "channel": "room"}));
    assert!(harness.received(alice).is_empty());
}

#[test]
fn presence_needs_the_right_to_subscribe_not_a_subscription() {
    let mut harness = Harness::open();
    let (alice, bob, nobody) = (harness.client("alice"), harness.client("bob"), harness.anonymous_client());
    for conn in [alice, nobody] {
        harness.subscribe(conn, "room");
    }
    let request = json!({"action": "presence", "channel": "room", "id": 7});
    let reply = harness.request(bob, request.clone()).remove(0);
    assert_eq!(reply["presence"], json!([{"user_id": "alice", "connections": 1}]));
    assert_eq!((&reply["count"], &reply["channel"], &reply["id"]), (&json!(1), &json!("room"), &json!(7)));
    harness.subscribe(bob, "room");
    assert_eq!(harness.request(bob, request.clone()).remove(0)["count"], 2, "the asker included");
    let mallory = harness.client_with("mallory", super::harness::rights(&["hall"], &[], &[]));
    assert_eq!(harness.send(mallory, request), ["error forbidden room"]);
}

#[test]
fn an_unknown_channel_has_no_members() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    let reply = harness.request(alice, json!({"action": "presence", "channel": "room"})).remove(0);
    assert_eq!((&reply["presence"], &reply["count"]), (&json!([]), &json!(0)));
}

#[test]
fn only_presence_subscribers_get_joins() {
    let mut harness = Harness::new();
    let (alice, bob, carol) = (harness.client("alice"), harness.client("bob"), harness.client("carol"));
    harness.subscribe(alice, "room");
    watch(&mut harness, bob);
    harness.discard_frames(alice);
    harness.subscribe(carol, "room");
    assert!(harness.received(alice).is_empty());
    assert_eq!(harness.received(bob), ["user_joined carol"]);
    harness.subscribe(bob, "room");
    harness.send(carol, json!({"action": "unsubscribe", "channel": "room"}));
    assert!(harness.received(bob).is_empty(), "the second subscribe did not ask");
}

#[test]
fn anonymous_connections_cause_no_presence() {
    let mut harness = Harness::open();
    let (alice, nobody) = (harness.client("alice"), harness.anonymous_client());
    watch(&mut harness, alice);
    harness.subscribe(nobody, "room");
    harness.disconnect(nobody);
    harness.keep_alive(20);
    assert!(harness.received(alice).is_empty());
}

#[test]
fn above_a_thousand_users_presence_is_a_count_without_joins() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    watch(&mut harness, alice);
    let crowd: Vec<ConnectionId> = (0..1000).map(|n| harness.client(&format!("user{n}"))).collect();
    for conn in &crowd[..999] {
        harness.subscribe(*conn, "room");
    }
    assert_eq!(harness.received(alice).len(), 999);
    let request = json!({"action": "presence", "channel": "room"});
    assert_eq!(harness.request(alice, request.clone())[0]["presence"].as_array().unwrap().len(), 1000);
    harness.subscribe(crowd[999], "room");
    assert!(harness.received(alice).is_empty());
    let reply = harness.request(alice, request).remove(0);
    assert_eq!((&reply["count"], reply.get("presence")), (&json!(1001), None));
    assert!(watch(&mut harness, alice).is_null());
}

fn with_profile(info: &str) -> Terms {
    Terms { info: Some(Payload::new(RawValue::from_string(info.to_owned()).unwrap())), ..Terms::default() }
}

/// The entry of each user in a list.
fn infos(harness: &mut Harness, conn: ConnectionId) -> Vec<(String, Value)> {
    harness.discard_frames(conn);
    let reply = harness.request(conn, json!({"action": "presence", "channel": "room"})).remove(0);
    let list = reply["presence"].as_array().unwrap().clone();
    list.iter().map(|entry| (entry["user_id"].as_str().unwrap().to_owned(), entry["info"].clone())).collect()
}

#[test]
fn a_tokens_profile_is_in_lists_and_joins() {
    let mut harness = Harness::new();
    let (alice, bob) = (
        harness.client("alice"),
        harness.client_with_terms("bob", with_profile(r#"{"name": "Bob","n":1.0}"#)),
    );
    watch(&mut harness, alice);
    harness.subscribe(bob, "room");
    let joined = harness.frames(alice).remove(0);
    assert_eq!(joined["info"], json!({"name": "Bob", "n": 1.0}));
    assert_eq!(infos(&mut harness, alice)[1], ("bob".to_owned(), json!({"name": "Bob", "n": 1.0})));
    let reply = harness.request(alice, json!({"action": "presence", "channel": "room"})).remove(0);
    assert_eq!(reply["presence"][0].get("info"), None, "who says nothing has none");
    assert_eq!(watch(&mut harness, bob)[1]["info"], json!({"name": "Bob", "n": 1.0}));
}

#[test]
fn the_newest_connection_provides_a_users_profile() {
    for watched in [true, false] {
        let mut harness = Harness::new();
        let alice = harness.client("alice");
        if watched {
            watch(&mut harness, alice);
        }
        let first = harness.client_with_terms("bob", with_profile("1"));
        harness.wait(1.0);
        let second = harness.client_with_terms("bob", with_profile("2"));
        harness.wait(1.0);
        let silent = harness.client("bob");
        // By when they came, not by when they subscribed.
        for (conn, shown) in [(second, json!(2)), (first, json!(2)), (silent, json!(null))] {
            harness.subscribe(conn, "room");
            assert_eq!(infos(&mut harness, alice).pop().unwrap().1, shown);
        }
        harness.hand_over();
        for (conn, shown) in [(silent, json!(2)), (second, json!(1))] {
            harness.send(conn, json!({"action": "unsubscribe", "channel": "room"}));
            assert_eq!(infos(&mut harness, alice).pop().unwrap().1, shown);
        }
        let newer = harness.token_with_terms("bob", with_profile("[3]"));
        harness.auth(first, &newer, None);
        assert_eq!(infos(&mut harness, alice).pop().unwrap().1, json!([3]));
        harness.auth(first, "bob", None);
        assert_eq!(infos(&mut harness, alice).pop().unwrap().1, json!(null));
    }
}

#[test]
fn a_user_in_the_leave_delay_keeps_the_latest_profile() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client_with_terms("bob", with_profile(r#""b""#)));
    watch(&mut harness, alice);
    harness.subscribe(bob, "room");
    harness.disconnect(bob);
    assert_eq!(infos(&mut harness, alice)[1].1, json!("b"));
    harness.hand_over();
    assert_eq!(infos(&mut harness, alice)[1].1, json!("b"), "in another process, too");
    let bob = harness.client_with_terms("bob", with_profile(r#""B""#));
    harness.subscribe(bob, "room");
    assert_eq!(infos(&mut harness, alice)[1].1, json!("B"));
    harness.disconnect(bob);
    harness.keep_alive(16);
    assert_eq!(infos(&mut harness, alice).len(), 1);
    let bob = harness.client("bob");
    harness.subscribe(bob, "room");
    let joined = harness.frames(alice).pop().unwrap();
    assert_eq!((&joined["type"], joined.get("info")), (&json!("user_joined"), None), "gone is gone");
}

#[test]
fn a_list_over_sixty_four_kibibytes_is_a_count() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    watch(&mut harness, alice);
    let info = format!("{:?}", "x".repeat(254));
    let mut longest = 0;
    for n in 0..300 {
        let conn = harness.client_with_terms(&format!("user{n}\"\\"), with_profile(&info));
        harness.subscribe(conn, "room");
        harness.wait(0.1);
        harness.handle(wshubd::hub::Input::KeepAlive { conn: alice, controls: 1 });
        let reply = harness.request(alice, json!({"action": "presence", "channel": "room"})).pop().unwrap();
        assert_eq!(reply["count"], n + 2);
        longest = longest.max(reply["presence"].to_string().len());
        if reply.get("presence").is_none() {
            break;
        }
    }
    assert!((60 << 10..=64 << 10).contains(&longest), "{longest}");
    assert_eq!(watch(&mut harness, alice), json!(null));
    let more = harness.client_with_terms("zoe", with_profile("1"));
    harness.discard_frames(alice);
    harness.subscribe(more, "room");
    assert_eq!(harness.received(alice), ["user_joined zoe"], "who comes is told all the same");
}
