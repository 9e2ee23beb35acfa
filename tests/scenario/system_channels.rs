//! System channels for workers: presence of users, and undelivered messages.

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{SendQueueState, Settings};
use wshubd::protocol::InboxMode::{Ack, Auto, Off};

use super::harness::{ConnectionId, Harness, rights, summary};

/// A worker subscribed to one of the hub's channels.
fn listener(harness: &mut Harness, channel: &str) -> ConnectionId {
    let conn = harness.worker();
    assert!(harness.subscribe(conn, channel).is_empty());
    conn
}

/// The `system:undelivered` messages, as `state message_id`.
fn losses(harness: &mut Harness, conn: ConnectionId) -> Vec<String> {
    let event = |frame: &Value| {
        assert_eq!(frame["event"], "system:undelivered", "{}", summary(frame));
        let data = &frame["data"];
        format!("{} {}", data["state"].as_str().unwrap(), data["message_id"].as_str().unwrap())
    };
    harness.frames(conn).iter().map(event).collect()
}

fn to_bob(harness: &mut Harness, worker: ConnectionId, id: &str, ttl: u32) {
    harness.send(worker, json!({"user_id": "bob", "event": "note", "data": 1, "message_id": id, "ttl": ttl}));
}

fn to_room(harness: &mut Harness, worker: ConnectionId, id: &str, ttl: u32) {
    harness
        .send(worker, json!({"channel": "room", "event": "note", "data": 1, "message_id": id, "ttl": ttl}));
}

#[test]
fn system_channels_are_for_workers_and_tokens_that_name_them() {
    let mut harness = Harness::new();
    let alice = harness.client_with("alice", rights(&["*"], &["*", "system:*"], &[]));
    let carol = harness.client_with("carol", rights(&["system:*"], &["*", "system:*"], &[]));
    harness.subscribe(alice, "room");
    for channel in ["system:presence", "system:undelivered"] {
        assert_eq!(harness.subscribe(alice, channel), [format!("error forbidden {channel}")]);
        assert_eq!(harness.publish(alice, channel, 1), [format!("error forbidden {channel}")]);
        let received = harness.subscribe(carol, channel);
        assert_eq!(received.last().unwrap(), &format!("subscription_succeeded {channel} 0"));
        assert_eq!(harness.publish(carol, channel, 1), [format!("error forbidden {channel}")]);
        let worker = listener(&mut harness, channel);
        assert_eq!(harness.publish(worker, channel, 1), [format!("error forbidden {channel}")]);
    }
}

#[test]
fn a_user_joins_with_its_first_and_leaves_with_its_last() {
    let mut harness = Harness::open();
    let worker = listener(&mut harness, "system:presence");
    let first = harness.client_in("bob", Auto);
    assert_eq!(harness.received(worker), [r#"system:user_joined {"user_id":"bob"}"#]);
    let second = harness.client_in("bob", Off);
    harness.anonymous_client();
    harness.disconnect(first);
    harness.keep_alive(16);
    assert!(harness.received(worker).is_empty());
    harness.disconnect(second);
    harness.keep_alive(14);
    assert!(harness.received(worker).is_empty(), "it may come back");
    harness.keep_alive(2);
    assert_eq!(harness.received(worker), [r#"system:user_left {"user_id":"bob"}"#]);
}

#[test]
fn presence_notices_are_of_the_hub_and_never_kept() {
    let mut harness = Harness::new();
    harness.client_in("carol", Auto);
    let worker = listener(&mut harness, "system:presence");
    harness.client_in("bob", Auto);
    let received = harness.frames(worker).remove(0);
    assert_eq!((&received["channel"], &received["type"]), (&json!("system:presence"), &json!("message")));
    assert_eq!((&received["from"], &received["source"]), (&json!("hub"), &json!("hub")));
    assert_eq!(received["data"], json!({"user_id": "bob"}));
    harness.disconnect(worker);
    harness.client_in("dave", Auto);
    let worker = listener(&mut harness, "system:presence");
    assert!(harness.received(worker).is_empty());
    assert_eq!(harness.stored(), 0);
}

#[test]
fn a_user_who_is_back_within_fifteen_seconds_never_left() {
    let mut harness = Harness::new();
    let worker = listener(&mut harness, "system:presence");
    for _ in 0..3 {
        let bob = harness.client_in("bob", Auto);
        harness.keep_alive(5);
        harness.disconnect(bob);
        harness.keep_alive(14);
    }
    harness.keep_alive(2);
    let received = harness.received(worker);
    assert_eq!(
        received,
        [r#"system:user_joined {"user_id":"bob"}"#, r#"system:user_left {"user_id":"bob"}"#]
    );
    harness.client_in("bob", Auto);
    assert_eq!(harness.received(worker), [r#"system:user_joined {"user_id":"bob"}"#]);
}

#[test]
fn a_connection_that_gains_a_user_is_a_join() {
    let mut harness = Harness::open();
    let worker = listener(&mut harness, "system:presence");
    let conn = harness.anonymous_client();
    assert!(harness.received(worker).is_empty());
    harness.auth(conn, "bob", None);
    harness.auth(conn, "bob", None);
    assert_eq!(harness.received(worker), [r#"system:user_joined {"user_id":"bob"}"#]);
}

#[test]
fn a_message_for_an_absent_user_is_announced_as_kept() {
    let mut harness = Harness::new();
    let (worker, sender) = (listener(&mut harness, "system:undelivered"), harness.worker());
    to_bob(&mut harness, sender, "m1", 1000);
    let received = harness.frames(worker).remove(0);
    assert_eq!(
        (&received["channel"], &received["event"]),
        (&json!("system:undelivered"), &json!("system:undelivered"))
    );
    assert_eq!((&received["from"], &received["source"]), (&json!("hub"), &json!("hub")));
    let data = received["data"].as_object().unwrap();
    let field_of = |field: &str| data[field].clone();
    assert_eq!((field_of("state"), field_of("user_id")), (json!("kept"), json!("bob")));
    assert_eq!(
        (field_of("message_id"), field_of("event"), field_of("seq")),
        (json!("m1"), json!("note"), json!(1))
    );
    assert_eq!(data.get("data"), None, "ids, and nothing of what it says");
    let bob = harness.client_in("bob", Ack);
    assert_eq!(field_of("epoch"), json!(harness.inbox_epoch(bob)));
}

#[test]
fn kept_is_announced_only_while_the_inbox_has_no_reader() {
    let mut harness = Harness::new();
    let (worker, sender) = (listener(&mut harness, "system:undelivered"), harness.worker());
    let bob = harness.client_in("bob", Ack);
    to_bob(&mut harness, sender, "m1", 1000);
    assert!(losses(&mut harness, worker).is_empty(), "it is heard and not acknowledged");
    harness.auth(bob, "bob", Some("off"));
    assert_eq!(losses(&mut harness, worker), ["kept m1"], "now it waits");
    to_bob(&mut harness, sender, "m2", 1000);
    assert_eq!(losses(&mut harness, worker), ["kept m2"]);
    harness.auth(bob, "bob", Some("auto"));
    harness.send_queue(bob, SendQueueState::Full);
    to_bob(&mut harness, sender, "m3", 1000);
    assert!(losses(&mut harness, worker).is_empty(), "slow is not away");
    harness.disconnect(bob);
    to_bob(&mut harness, sender, "m4", 1000);
    assert_eq!(losses(&mut harness, worker), ["kept m4"]);
}

#[test]
fn a_fleeting_or_repeated_message_is_not_announced() {
    let mut harness = Harness::new();
    let (worker, sender) = (listener(&mut harness, "system:undelivered"), harness.worker());
    to_bob(&mut harness, sender, "m1", 0);
    assert!(losses(&mut harness, worker).is_empty());
    to_bob(&mut harness, sender, "m2", 1000);
    to_bob(&mut harness, sender, "m2", 1000);
    assert_eq!(losses(&mut harness, worker), ["kept m2"]);
}

#[test]
fn a_channel_backlog_is_announced_only_when_lost() {
    let mut harness = Harness::new();
    let (worker, sender) = (listener(&mut harness, "system:undelivered"), harness.worker());
    to_room(&mut harness, sender, "m1", 10);
    assert!(losses(&mut harness, worker).is_empty());
    harness.wait(11.0);
    let received = harness.frames(worker).remove(0);
    assert_eq!(received["data"]["state"], "expired");
    assert_eq!((&received["data"]["channel"], received["data"].get("user_id")), (&json!("room"), None));
    assert_eq!((&received["data"]["message_id"], &received["data"]["seq"]), (&json!("m1"), &json!(1)));
}

#[test]
fn an_expired_undelivered_message_is_announced_again() {
    let mut harness = Harness::new();
    let (worker, sender) = (listener(&mut harness, "system:undelivered"), harness.worker());
    to_bob(&mut harness, sender, "m1", 10);
    to_bob(&mut harness, sender, "m2", 1000);
    harness.wait(11.0);
    assert_eq!(losses(&mut harness, worker), ["kept m1", "kept m2", "expired m1"]);
}

#[test]
fn an_evicted_undelivered_message_is_announced() {
    let tight = Policy { count: 2, ..Policy::default() };
    let inbox = Policy { count: 2, ..Settings::default().inbox };
    let mut harness = Harness::with(Settings { policy: tight, inbox, ..Settings::default() });
    let (worker, sender) = (listener(&mut harness, "system:undelivered"), harness.worker());
    for id in ["r1", "r2", "r3"] {
        to_room(&mut harness, sender, id, 1000);
    }
    assert_eq!(losses(&mut harness, worker), ["evicted r1"]);
    for id in ["m1", "m2", "m3"] {
        to_bob(&mut harness, sender, id, 1000);
    }
    let mut notices = losses(&mut harness, worker);
    notices.sort();
    assert_eq!(notices, ["evicted m1", "kept m1", "kept m2", "kept m3"]);
}

#[test]
fn a_delivered_message_is_never_announced_as_lost() {
    let policy = Policy { keep: Keep::History, count: 2, ..Policy::default() };
    let mut harness = Harness::with(Settings { policy, ..Settings::default() });
    let (worker, sender) = (listener(&mut harness, "system:undelivered"), harness.worker());
    let alice = harness.client("alice");
    harness.subscribe(alice, "room");
    for id in ["r1", "r2", "r3"] {
        to_room(&mut harness, sender, id, 10);
    }
    let bob = harness.client_in("bob", Auto);
    to_bob(&mut harness, sender, "m1", 10);
    harness.keep_alive(11);
    assert!(losses(&mut harness, worker).is_empty());
    harness.disconnect(bob);
}

#[test]
fn a_replayed_inbox_is_not_announced_again() {
    let mut harness = Harness::new();
    let (worker, sender) = (listener(&mut harness, "system:undelivered"), harness.worker());
    to_bob(&mut harness, sender, "m1", 10);
    harness.client_in("bob", Auto);
    harness.keep_alive(11);
    assert_eq!(losses(&mut harness, worker), ["kept m1"]);
}

#[test]
fn notices_go_to_present_subscribers_only() {
    let mut harness = Harness::new();
    let sender = harness.worker();
    to_bob(&mut harness, sender, "m1", 10);
    let stored = harness.stored();
    let worker = listener(&mut harness, "system:undelivered");
    assert!(losses(&mut harness, worker).is_empty());
    assert_eq!(harness.stored(), stored, "and are kept for nobody");
}

#[test]
fn frames_of_a_lost_connection_are_announced_beside_later_ones() {
    let mut harness = Harness::new();
    let (worker, sender) = (listener(&mut harness, "system:undelivered"), harness.worker());
    let bob = harness.client_in("bob", Ack);
    to_bob(&mut harness, sender, "m1", 1000);
    harness.disconnect(bob);
    to_bob(&mut harness, sender, "m2", 1000);
    assert_eq!(losses(&mut harness, worker), ["kept m2"], "it may come back for the first");
    harness.keep_alive(16);
    assert_eq!(losses(&mut harness, worker), ["kept m1"]);
    let bob = harness.client_in("bob", Ack);
    harness.disconnect(bob);
    harness.keep_alive(16);
    assert!(losses(&mut harness, worker).is_empty(), "once");
}

#[test]
fn a_user_back_without_its_inbox_is_absent_for_what_waits() {
    let mut harness = Harness::new();
    let (worker, sender) = (listener(&mut harness, "system:undelivered"), harness.worker());
    let bob = harness.client_in("bob", Ack);
    to_bob(&mut harness, sender, "m1", 1000);
    harness.disconnect(bob);
    harness.keep_alive(5);
    assert!(losses(&mut harness, worker).is_empty());
    harness.client_in("bob", Off);
    assert_eq!(losses(&mut harness, worker), ["kept m1"]);
}
