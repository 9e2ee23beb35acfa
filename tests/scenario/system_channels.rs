//! System channels for workers: presence of users, and undelivered messages.

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{SendQueueState, Settings};
use wshubd::protocol::InboxMode::{Ack, Auto, Off};

use super::bench::{Bench, Seat, brief, rights};

/// A worker subscribed to one of the hub's channels.
fn listener(bench: &mut Bench, channel: &str) -> Seat {
    let seat = bench.worker();
    assert!(bench.subscribe(seat, channel).is_empty());
    seat
}

/// The `system:undelivered` messages, as `state message_id`.
fn losses(bench: &mut Bench, seat: Seat) -> Vec<String> {
    let said = |frame: &Value| {
        assert_eq!(frame["event"], "system:undelivered", "{}", brief(frame));
        let data = &frame["data"];
        format!("{} {}", data["state"].as_str().unwrap(), data["message_id"].as_str().unwrap())
    };
    bench.frames(seat).iter().map(said).collect()
}

fn to_bob(bench: &mut Bench, worker: Seat, id: &str, ttl: u32) {
    bench.say(worker, json!({"user_id": "bob", "event": "note", "data": 1, "message_id": id, "ttl": ttl}));
}

fn to_room(bench: &mut Bench, worker: Seat, id: &str, ttl: u32) {
    bench.say(worker, json!({"channel": "room", "event": "note", "data": 1, "message_id": id, "ttl": ttl}));
}

#[test]
fn system_channels_are_for_workers_and_tokens_that_name_them() {
    let mut bench = Bench::new();
    let alice = bench.client_with("alice", rights(&["*"], &["*", "system:*"], &[]));
    let carol = bench.client_with("carol", rights(&["system:*"], &["*", "system:*"], &[]));
    bench.subscribe(alice, "room");
    for channel in ["system:presence", "system:undelivered"] {
        assert_eq!(bench.subscribe(alice, channel), [format!("error forbidden {channel}")]);
        assert_eq!(bench.publish(alice, channel, 1), [format!("error forbidden {channel}")]);
        let heard = bench.subscribe(carol, channel);
        assert_eq!(heard.last().unwrap(), &format!("subscription_succeeded {channel} 0"));
        assert_eq!(bench.publish(carol, channel, 1), [format!("error forbidden {channel}")]);
        let worker = listener(&mut bench, channel);
        assert_eq!(bench.publish(worker, channel, 1), [format!("error forbidden {channel}")]);
    }
}

#[test]
fn a_user_joins_with_its_first_and_leaves_with_its_last() {
    let mut bench = Bench::open();
    let worker = listener(&mut bench, "system:presence");
    let first = bench.client_in("bob", Auto);
    assert_eq!(bench.story(worker), [r#"system:user_joined {"user_id":"bob"}"#]);
    let second = bench.client_in("bob", Off);
    bench.stranger();
    bench.leave(first);
    bench.live(16);
    assert!(bench.story(worker).is_empty());
    bench.leave(second);
    bench.live(14);
    assert!(bench.story(worker).is_empty(), "it may come back");
    bench.live(2);
    assert_eq!(bench.story(worker), [r#"system:user_left {"user_id":"bob"}"#]);
}

#[test]
fn presence_notices_are_of_the_hub_and_never_kept() {
    let mut bench = Bench::new();
    bench.client_in("carol", Auto);
    let worker = listener(&mut bench, "system:presence");
    bench.client_in("bob", Auto);
    let heard = bench.frames(worker).remove(0);
    assert_eq!((&heard["channel"], &heard["type"]), (&json!("system:presence"), &json!("message")));
    assert_eq!((&heard["from"], &heard["source"]), (&json!("hub"), &json!("hub")));
    assert_eq!(heard["data"], json!({"user_id": "bob"}));
    bench.leave(worker);
    bench.client_in("dave", Auto);
    let worker = listener(&mut bench, "system:presence");
    assert!(bench.story(worker).is_empty());
    assert_eq!(bench.stored(), 0);
}

#[test]
fn a_user_who_is_back_within_fifteen_seconds_never_left() {
    let mut bench = Bench::new();
    let worker = listener(&mut bench, "system:presence");
    for _ in 0..3 {
        let bob = bench.client_in("bob", Auto);
        bench.live(5);
        bench.leave(bob);
        bench.live(14);
    }
    bench.live(2);
    let told = bench.story(worker);
    assert_eq!(told, [r#"system:user_joined {"user_id":"bob"}"#, r#"system:user_left {"user_id":"bob"}"#]);
    bench.client_in("bob", Auto);
    assert_eq!(bench.story(worker), [r#"system:user_joined {"user_id":"bob"}"#]);
}

#[test]
fn a_connection_that_gains_a_user_is_a_join() {
    let mut bench = Bench::open();
    let worker = listener(&mut bench, "system:presence");
    let seat = bench.stranger();
    assert!(bench.story(worker).is_empty());
    bench.auth(seat, "bob", None);
    bench.auth(seat, "bob", None);
    assert_eq!(bench.story(worker), [r#"system:user_joined {"user_id":"bob"}"#]);
}

#[test]
fn a_message_for_an_absent_user_is_announced_as_kept() {
    let mut bench = Bench::new();
    let (worker, sender) = (listener(&mut bench, "system:undelivered"), bench.worker());
    to_bob(&mut bench, sender, "m1", 1000);
    let heard = bench.frames(worker).remove(0);
    assert_eq!(
        (&heard["channel"], &heard["event"]),
        (&json!("system:undelivered"), &json!("system:undelivered"))
    );
    assert_eq!((&heard["from"], &heard["source"]), (&json!("hub"), &json!("hub")));
    let data = heard["data"].as_object().unwrap();
    let told = |field: &str| data[field].clone();
    assert_eq!((told("state"), told("user_id")), (json!("kept"), json!("bob")));
    assert_eq!((told("message_id"), told("event"), told("seq")), (json!("m1"), json!("note"), json!(1)));
    assert_eq!(data.get("data"), None, "ids, and nothing of what it says");
    let bob = bench.client_in("bob", Ack);
    assert_eq!(told("epoch"), json!(bench.inbox_epoch(bob)));
}

#[test]
fn kept_is_announced_only_while_the_inbox_has_no_reader() {
    let mut bench = Bench::new();
    let (worker, sender) = (listener(&mut bench, "system:undelivered"), bench.worker());
    let bob = bench.client_in("bob", Ack);
    to_bob(&mut bench, sender, "m1", 1000);
    assert!(losses(&mut bench, worker).is_empty(), "it is heard and not acknowledged");
    bench.auth(bob, "bob", Some("off"));
    assert_eq!(losses(&mut bench, worker), ["kept m1"], "now it waits");
    to_bob(&mut bench, sender, "m2", 1000);
    assert_eq!(losses(&mut bench, worker), ["kept m2"]);
    bench.auth(bob, "bob", Some("auto"));
    bench.outbound(bob, SendQueueState::Full);
    to_bob(&mut bench, sender, "m3", 1000);
    assert!(losses(&mut bench, worker).is_empty(), "slow is not away");
    bench.leave(bob);
    to_bob(&mut bench, sender, "m4", 1000);
    assert_eq!(losses(&mut bench, worker), ["kept m4"]);
}

#[test]
fn a_fleeting_or_repeated_message_is_not_announced() {
    let mut bench = Bench::new();
    let (worker, sender) = (listener(&mut bench, "system:undelivered"), bench.worker());
    to_bob(&mut bench, sender, "m1", 0);
    assert!(losses(&mut bench, worker).is_empty());
    to_bob(&mut bench, sender, "m2", 1000);
    to_bob(&mut bench, sender, "m2", 1000);
    assert_eq!(losses(&mut bench, worker), ["kept m2"]);
}

#[test]
fn a_channel_backlog_is_announced_only_when_lost() {
    let mut bench = Bench::new();
    let (worker, sender) = (listener(&mut bench, "system:undelivered"), bench.worker());
    to_room(&mut bench, sender, "m1", 10);
    assert!(losses(&mut bench, worker).is_empty());
    bench.wait(11.0);
    let heard = bench.frames(worker).remove(0);
    assert_eq!(heard["data"]["state"], "expired");
    assert_eq!((&heard["data"]["channel"], heard["data"].get("user_id")), (&json!("room"), None));
    assert_eq!((&heard["data"]["message_id"], &heard["data"]["seq"]), (&json!("m1"), &json!(1)));
}

#[test]
fn an_expired_undelivered_message_is_announced_again() {
    let mut bench = Bench::new();
    let (worker, sender) = (listener(&mut bench, "system:undelivered"), bench.worker());
    to_bob(&mut bench, sender, "m1", 10);
    to_bob(&mut bench, sender, "m2", 1000);
    bench.wait(11.0);
    assert_eq!(losses(&mut bench, worker), ["kept m1", "kept m2", "expired m1"]);
}

#[test]
fn an_evicted_undelivered_message_is_announced() {
    let tight = Policy { count: 2, ..Policy::default() };
    let inbox = Policy { count: 2, ..Settings::default().inbox };
    let mut bench = Bench::with(Settings { policy: tight, inbox, ..Settings::default() });
    let (worker, sender) = (listener(&mut bench, "system:undelivered"), bench.worker());
    for id in ["r1", "r2", "r3"] {
        to_room(&mut bench, sender, id, 1000);
    }
    assert_eq!(losses(&mut bench, worker), ["evicted r1"]);
    for id in ["m1", "m2", "m3"] {
        to_bob(&mut bench, sender, id, 1000);
    }
    let mut told = losses(&mut bench, worker);
    told.sort();
    assert_eq!(told, ["evicted m1", "kept m1", "kept m2", "kept m3"]);
}

#[test]
fn a_delivered_message_is_never_announced_as_lost() {
    let policy = Policy { keep: Keep::History, count: 2, ..Policy::default() };
    let mut bench = Bench::with(Settings { policy, ..Settings::default() });
    let (worker, sender) = (listener(&mut bench, "system:undelivered"), bench.worker());
    let alice = bench.client("alice");
    bench.subscribe(alice, "room");
    for id in ["r1", "r2", "r3"] {
        to_room(&mut bench, sender, id, 10);
    }
    let bob = bench.client_in("bob", Auto);
    to_bob(&mut bench, sender, "m1", 10);
    bench.live(11);
    assert!(losses(&mut bench, worker).is_empty());
    bench.leave(bob);
}

#[test]
fn a_replayed_inbox_is_not_announced_again() {
    let mut bench = Bench::new();
    let (worker, sender) = (listener(&mut bench, "system:undelivered"), bench.worker());
    to_bob(&mut bench, sender, "m1", 10);
    bench.client_in("bob", Auto);
    bench.live(11);
    assert_eq!(losses(&mut bench, worker), ["kept m1"]);
}

#[test]
fn notices_go_to_present_subscribers_only() {
    let mut bench = Bench::new();
    let sender = bench.worker();
    to_bob(&mut bench, sender, "m1", 10);
    let stored = bench.stored();
    let worker = listener(&mut bench, "system:undelivered");
    assert!(losses(&mut bench, worker).is_empty());
    assert_eq!(bench.stored(), stored, "and are kept for nobody");
}

#[test]
fn frames_of_a_lost_connection_are_announced_beside_later_ones() {
    let mut bench = Bench::new();
    let (worker, sender) = (listener(&mut bench, "system:undelivered"), bench.worker());
    let bob = bench.client_in("bob", Ack);
    to_bob(&mut bench, sender, "m1", 1000);
    bench.leave(bob);
    to_bob(&mut bench, sender, "m2", 1000);
    assert_eq!(losses(&mut bench, worker), ["kept m2"], "it may come back for the first");
    bench.live(16);
    assert_eq!(losses(&mut bench, worker), ["kept m1"]);
    let bob = bench.client_in("bob", Ack);
    bench.leave(bob);
    bench.live(16);
    assert!(losses(&mut bench, worker).is_empty(), "once");
}

#[test]
fn a_user_back_without_its_inbox_is_absent_for_what_waits() {
    let mut bench = Bench::new();
    let (worker, sender) = (listener(&mut bench, "system:undelivered"), bench.worker());
    let bob = bench.client_in("bob", Ack);
    to_bob(&mut bench, sender, "m1", 1000);
    bench.leave(bob);
    bench.live(5);
    assert!(losses(&mut bench, worker).is_empty());
    bench.client_in("bob", Off);
    assert_eq!(losses(&mut bench, worker), ["kept m1"]);
}
