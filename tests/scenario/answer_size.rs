//! The size of the answers to one request.

use serde_json::{Value, json};

use super::harness::{ConnectionId, Harness};

/// Names one channel so many times in one request.
fn again_and_again(channel: &str, times: usize) -> Value {
    let wish = json!({"channel": channel, "presence": true});
    json!({"action": "subscribe", "channels": vec![wish; times], "id": 1})
}

/// The answers to a request, but for the id in the first subscription.
fn request_frames(harness: &mut Harness, conn: ConnectionId, request: Value) -> Vec<Value> {
    let received = harness.request(conn, request).into_iter();
    received.filter(|frame| frame["type"] != "connection_id").collect()
}

fn bytes(frames: &[Value]) -> usize {
    frames.iter().map(|frame| frame.to_string().len()).sum()
}

#[test]
fn a_channel_named_twice_is_answered_once_and_the_last_counts() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.send(alice, json!({"action": "subscribe", "channel": "before"}));
    let wish = |channel: &str, presence: bool| json!({"channel": channel, "presence": presence});
    let list = [wish("a", false), wish("b", true), wish("a", true), wish("b", false)];
    let received =
        request_frames(&mut harness, alice, json!({"action": "subscribe", "channels": list, "id": 1}));
    let lists: Vec<(&str, bool)> = received
        .iter()
        .map(|frame| (frame["channel"].as_str().unwrap(), frame["presence"].is_array()))
        .collect();
    assert_eq!(lists, [("a", true), ("b", false)]);
}

#[test]
fn a_request_that_names_one_channel_128_times_makes_one_list() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    for n in 0..200 {
        let start = json!({"action": "operation_start", "operation_id": format!("op{n}"), "channel": "room", "label": "l"});
        harness.send(worker, start);
    }
    let alice = harness.client("alice");
    let received = request_frames(&mut harness, alice, again_and_again("room", 128));
    assert_eq!(received.len(), 1);
    assert_eq!(received[0]["operations"].as_array().unwrap().len(), 200);
}

#[test]
fn the_list_of_operations_is_limited_and_then_counted() {
    for (label, count, listed) in [("short".to_owned(), 1500, 1000), ("l".repeat(1000), 400, 217)] {
        let mut harness = Harness::new();
        let worker = harness.worker();
        for n in 0..count {
            let id = format!("op{n:04}");
            harness.send(
                worker,
                json!({"action": "operation_start", "operation_id": id, "channel": "room", "label": label}),
            );
        }
        let alice = harness.client("alice");
        for request in [
            json!({"action": "subscribe", "channel": "room"}),
            json!({"action": "operations", "channel": "room"}),
        ] {
            let received = request_frames(&mut harness, alice, request);
            let operations = received[0]["operations"].as_array().unwrap();
            assert!(operations.len().abs_diff(listed) <= 15, "{} of {count}", operations.len());
            assert_eq!(operations[0]["operation_id"], "op0000");
            assert_eq!(received[0]["operations_running"], count);
            assert!(bytes(&received) <= 300_000, "{}", bytes(&received));
        }
        let admin = harness.admin();
        let received = harness.request(admin, json!({"action": "operations", "id": 1}));
        let seen = received[0]["operations"].as_array().unwrap().len();
        assert_eq!(seen, count.min(1000), "an administrator sees all, in parts");
    }
}

#[test]
fn the_lists_of_one_request_share_a_size_limit() {
    let mut harness = Harness::new();
    let long = |n: usize| format!("{n:04}{}", "u".repeat(120));
    for n in 0..100 {
        let user = harness.client(&long(n));
        for group in 0..5 {
            let list: Vec<Value> =
                (0..25).map(|channel| json!({"channel": format!("c{group}-{channel}")})).collect();
            harness.send(user, json!({"action": "subscribe", "channels": list}));
        }
        harness.discard_frames(user);
    }
    let alice = harness.client("alice");
    let list: Vec<Value> = (0..5)
        .flat_map(|group| {
            (0..25).map(move |channel| json!({"channel": format!("c{group}-{channel}"), "presence": true}))
        })
        .collect();
    let received =
        request_frames(&mut harness, alice, json!({"action": "subscribe", "channels": list, "id": 1}));
    assert_eq!(received.len(), 125, "all of them are answered");
    assert!(bytes(&received) < 400_000, "{}", bytes(&received));
    let with_list = received.iter().filter(|frame| frame["presence"].is_array()).count();
    assert!((5..100).contains(&with_list), "{with_list}");
    let one = request_frames(&mut harness, alice, json!({"action": "presence", "channel": "c4-24", "id": 2}));
    assert_eq!(one[0]["presence"].as_array().unwrap().len(), 101, "what was left out can be asked for");
}
