//! The bound on the effects of one input, whatever the state of the hub.

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{Effect, Effects, Input, Pattern, Requester, SendQueueState, Settings};
use wshubd::protocol;
use wshubd::protocol::Close;
use wshubd::protocol::message::Delivery;

use super::harness::{ConnectionId, Harness, for_hub};

/// Orders that follow from one input, and the bytes of all that is to be encoded for them:
/// twice the lists of one answer; four orders and a few hundred bytes for each of 128 channels.
const MOST_ORDERS: usize = 600;
const MOST_BYTES: usize = 1 << 20;

/// What the hub is to do after one input.
fn orders(harness: &mut Harness, input: Input) -> Effects {
    let mut out = Effects::default();
    harness.hub.handle(harness.now, input, &mut out);
    out
}

fn bytes(effects: &Effects) -> usize {
    let mut encoded = Vec::new();
    for effect in &effects.list {
        match effect {
            Effect::Deliver { message, .. } => message.encode(Delivery::Live, &mut encoded),
            Effect::Replay { message, .. } => message.encode(Delivery::Replayed, &mut encoded),
            Effect::Broadcast { frame, .. } | Effect::Reply { frame, .. } => frame.encode(None, &mut encoded),
            Effect::Interrupt { line } => line.encode(&mut encoded),
            _ => {}
        }
    }
    encoded.len()
}

/// So many are subscribed to all channels.
const USERS: u32 = 60;

/// A hub full of everything, and a connection that may ask for it.
fn crowded() -> (Harness, ConnectionId) {
    let policy = |keep| Policy { keep, count: 1000, ..Policy::default() };
    let policies = vec![(Pattern::new("c:*"), policy(Keep::History))];
    let mut settings = Settings { policies, ..Settings::default() };
    (settings.limits.requests_per_second, settings.limits.burst) = (1_000_000, 1_000_000);
    let mut harness = Harness::with(settings);
    let worker = harness.worker();
    let all: Vec<Value> = (0..128).map(|n| json!({"channel": format!("c:{n}"), "presence": true})).collect();
    let name = |n: u32| format!("user{n:03}{}", "u".repeat(100));
    for n in 0..USERS {
        let conn = harness.client(&name(n));
        harness.send(conn, json!({"action": "subscribe", "channels": all}));
    }
    for n in 0..1500 {
        let start = json!({"action": "operation_start", "operation_id": format!("op{n}"), "channel": "c:0",
            "label": "l".repeat(1024)});
        harness.send(worker, start);
        harness.send(
            worker,
            json!({"channel": format!("c:{}", n % 128), "event": "e", "data": "d".repeat(500)}),
        );
        harness.send(worker, json!({"user_id": "mallory", "event": "e", "data": "d".repeat(500)}));
        harness.send(worker, json!({"user_id": format!("away{n}"), "event": "e"}));
    }
    let mallory = harness.client("mallory");
    harness.discard_frames(mallory);
    (harness, mallory)
}

/// One request of a client, as large in its kind as it may be.
fn request() -> impl Strategy<Value = Value> {
    let channel = (0..130u32).prop_map(|n| format!("c:{n}"));
    let since = prop_oneof![Just(Value::Null), Just(json!({"epoch": "", "seq": 0}))];
    let wish = (channel.clone(), since, any::<bool>()).prop_map(
        |(channel, since, presence)| json!({"channel": channel, "since": since, "presence": presence}),
    );
    prop_oneof![
        4 => prop::collection::vec(wish, 1..128).prop_map(|list| json!({"action": "subscribe", "channels": list})),
        1 => channel.clone().prop_map(|channel| json!({"action": "unsubscribe", "channel": channel})),
        2 => (channel.clone(), 0..3000usize).prop_map(|(channel, data)| {
            json!({"action": "send", "channel": channel, "event": "e", "data": "d".repeat(data), "echo": true})
        }),
        1 => channel.clone().prop_map(|channel| json!({"action": "whisper", "channel": channel, "event": "w"})),
        1 => (0..1600u32).prop_map(|n| {
            json!({"action": "interrupt", "data": {"operation_id": format!("op{n}"), "reason": "r".repeat(1024)}})
        }),
        1 => channel.clone().prop_map(|channel| json!({"action": "operations", "channel": channel})),
        1 => channel.prop_map(|channel| json!({"action": "presence", "channel": channel})),
        1 => Just(json!({"action": "ack", "epoch": "", "seq": 1_000_000})),
        1 => Just(json!({"action": "ping"})),
    ]
}

#[test]
fn every_request_has_bounded_effects_and_bytes() {
    let (mut harness, mallory) = crowded();
    let within = |harness: &mut Harness, input: Input| {
        let shown = format!("{input:?}");
        let effects = orders(harness, input);
        let (count, bytes) = (effects.list.len(), bytes(&effects));
        let shown = shown.get(..200).unwrap_or(&shown);
        assert!(count <= MOST_ORDERS && bytes <= MOST_BYTES, "{count} orders, {bytes} bytes: {shown}");
        count
    };
    let mut runner = TestRunner::deterministic();
    let mut most = 0;
    for _ in 0..250 {
        let text = request().new_tree(&mut runner).unwrap().current().to_string();
        let from = Requester::Connection(mallory);
        let input = match protocol::parse(&text) {
            Ok(text) => Input::Request { from, request: for_hub(text) },
            Err(misspoken) => Input::Malformed { from, request: misspoken },
        };
        most = most.max(within(&mut harness, input));
    }
    assert!(most > 100, "{most}: these were no large requests");
    within(&mut harness, Input::SendQueue { conn: mallory, state: SendQueueState::Full });
    within(&mut harness, Input::SendQueue { conn: mallory, state: SendQueueState::Empty });
    within(&mut harness, Input::KeepAlive { conn: mallory, controls: 16 });
    within(&mut harness, Input::Closed { conn: mallory });
}

#[test]
fn lists_for_administrators_are_paged() {
    let (mut harness, _) = crowded();
    let admin = harness.admin();
    for (action, list) in [
        ("operations", "operations"),
        ("channels", "channels"),
        ("inbox", "inboxes"),
        ("connections", "connections"),
    ] {
        let (mut names, mut after) = (Vec::new(), Value::Null);
        loop {
            let answer = harness.request(admin, json!({"action": action, "after": after, "id": 1})).remove(0);
            let entries = answer[list].as_array().unwrap();
            assert!(entries.len() <= 1000, "{action}: {} entries", entries.len());
            let name = |entry: &Value| {
                ["operation_id", "user_id", "connection_id", "channel"]
                    .iter()
                    .find_map(|field| entry[*field].as_str().map(str::to_owned))
            };
            names.extend(entries.iter().map(|entry| name(entry).unwrap()));
            after = answer["next"].clone();
            if after.is_null() {
                break;
            }
        }
        let stats = harness.stats();
        let is_all = |counted: &str| names.len() as u64 == stats[counted].as_u64().unwrap();
        match action {
            "operations" => assert!(is_all("operations"), "{}", names.len()),
            "channels" => assert!(is_all("channels"), "{}", names.len()),
            "inbox" => assert_eq!(names.len(), 1500),
            _ => assert_eq!(names.len(), USERS as usize + 3),
        }
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{action}");
    }
    let wrong =
        harness.request(admin, json!({"action": "connections", "after": "nobody", "id": 1})).remove(0);
    assert_eq!(wrong["code"], "bad_request");
}

#[test]
fn simultaneous_expiry_is_processed_in_batches() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    for n in 0..6000 {
        for _ in 0..2 {
            harness.send(worker, json!({"user_id": format!("away{n}"), "event": "e", "ttl": 60}));
        }
    }
    harness.discard_frames(worker);
    harness.now.moment = harness.now.moment + Duration::from_secs(90);
    let mut turns = 0;
    while harness.hub.deadline().is_some_and(|due| due <= harness.now.moment) {
        let effects = orders(&mut harness, Input::Timeout);
        // One more may be begun at the last moment.
        assert!(effects.list.len() <= 4096 + 1000, "{} orders in one turn", effects.list.len());
        turns += 1;
    }
    assert!(turns > 2, "{turns}");
    let effects = orders(&mut harness, Input::Stopping { close: Close::Restarting });
    assert!(effects.list.len() < 10, "{:?}", effects.list.len());
}
