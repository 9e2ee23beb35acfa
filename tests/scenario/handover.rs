//! Hand-over of the hub's state to another process.

use serde_json::json;
use serde_json::value::RawValue;
use wshubd::hub::{Hub, Settings, StateError, Terms};
use wshubd::protocol::{Payload, RateLimit, TokenId};

use super::harness::Harness;

#[test]
fn a_new_process_goes_on_with_the_whole_state() {
    let mut harness = Harness::new();
    let (worker, alice, bob) = (harness.worker(), harness.client("alice"), harness.client("bob"));
    harness.subscribe(alice, "room");
    harness.publish(alice, "later", 1);
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "room"}));
    harness.send(bob, json!({"action": "interrupt", "data": {"operation_id": "none"}}));
    harness.discard_frames(alice);
    harness.discard_frames(bob);
    harness.hand_over();
    harness.publish(bob, "room", 2);
    assert_eq!(harness.received(alice), ["say 2"]);
    assert_eq!(harness.subscribe(bob, "later").last().unwrap(), "say 1 replayed");
    harness.wait(10.0);
    assert_eq!(harness.received(bob), ["interrupt_result no_owner"]);
    harness.disconnect(worker);
    assert_eq!(harness.received(alice), ["operation op ended owner_lost"]);
}

#[test]
fn a_replay_goes_on_at_its_position() {
    let mut harness = Harness::new();
    let (worker, bob) = (harness.worker(), harness.client("bob"));
    for n in 1..=100 {
        harness.send(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    harness.block_socket(bob);
    harness.subscribe(bob, "logs");
    harness.drain(bob, 10);
    harness.hand_over();
    harness.discard_frames(bob);
    harness.unblock_socket(bob);
    let received = harness.received(bob);
    assert_eq!((received.len(), received[0].as_str()), (36, "log 65 replayed"));
}

#[test]
fn token_claims_are_handed_over() {
    let mut harness = Harness::new();
    let (admin, watcher) = (harness.admin(), harness.client("watcher"));
    harness.request(watcher, json!({"action": "subscribe", "channel": "room", "presence": true}));
    let alice = harness.client_with_terms("alice", terms());
    harness.subscribe(alice, "room");
    harness.discard_frames(watcher);
    harness.hand_over();
    for _ in 0..30 {
        assert_eq!(harness.send(alice, json!({"action": "ping"})), ["pong"]);
    }
    let reply = harness.request(watcher, json!({"action": "presence", "channel": "room"})).remove(0);
    assert_eq!(reply["presence"][0]["info"], json!({"name": "Alice"}));
    let reply = harness.request(admin, json!({"action": "connections"})).remove(0);
    assert_eq!(reply["connections"][2]["jti"], "t1");
}

fn terms() -> Terms {
    let info = RawValue::from_string(r#"{"name":"Alice"}"#.to_owned()).unwrap();
    Terms {
        limits: Some(RateLimit::asked_for(100.0, 200.0)),
        info: Some(Payload::new(info)),
        jti: Some(TokenId::new("t1").unwrap()),
    }
}

/// What a daemon of this version has written. A field more, less or in another place does
/// not read it, and raises the version.
const OF_VERSION_5: &[u8] = include_bytes!("hub-of-version-5");

/// And one of the version before, which ends earlier.
const OF_VERSION_4: &[u8] = include_bytes!("hub-of-version-4");

#[test]
fn a_state_of_this_version_is_read_and_written_alike() {
    let hub = Hub::import(Settings::default(), OF_VERSION_5).unwrap();
    assert_eq!(hub.export(), OF_VERSION_5);
}

#[test]
fn a_state_of_the_previous_version_gets_defaults() {
    let hub = Hub::import(Settings::default(), OF_VERSION_4).unwrap();
    // Behind the mark and the version, up to the checksum.
    let body = &OF_VERSION_4[2..OF_VERSION_4.len() - 4];
    let bytes = hub.export();
    assert!(bytes[2..].starts_with(body));
    assert_eq!(bytes.len(), OF_VERSION_4.len() + 2, "two empty lists");
}

#[test]
fn a_truncated_state_is_refused() {
    let bytes = OF_VERSION_5;
    let import = |bytes: &[u8]| Hub::import(Settings::default(), bytes);
    for end in 0..bytes.len() {
        assert!(matches!(import(&bytes[..end]), Err(StateError::Form(_))), "cut off at {end}");
    }
    assert!(matches!(import(&[bytes, b"x"].concat()), Err(StateError::Form(_))));
}

#[test]
fn a_state_of_another_version_is_refused() {
    let mut other = OF_VERSION_5.to_vec();
    // Behind the mark.
    other[1] = 0;
    let error = Hub::import(Settings::default(), &other).unwrap_err();
    assert!(matches!(error, StateError::Version { found: 0, .. }));
    assert!(error.to_string().contains("version 0"));
    for none in [&b""[..], b"{", br#"{"version":4}"#] {
        assert!(matches!(Hub::import(Settings::default(), none), Err(StateError::Form(_))));
    }
}
