//! Hand-over of the hub's state to another process.

use serde_json::json;
use serde_json::value::RawValue;
use wshubd::hub::{Hub, Settings, StateError, Terms};
use wshubd::protocol::{Payload, RateLimit, TokenId};

use super::bench::Bench;

#[test]
fn a_new_process_goes_on_with_the_whole_state() {
    let mut bench = Bench::new();
    let (worker, alice, bob) = (bench.worker(), bench.client("alice"), bench.client("bob"));
    bench.subscribe(alice, "room");
    bench.publish(alice, "later", 1);
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "room"}));
    bench.say(bob, json!({"action": "interrupt", "data": {"operation_id": "none"}}));
    bench.hush(alice);
    bench.hush(bob);
    bench.hand_over();
    bench.publish(bob, "room", 2);
    assert_eq!(bench.story(alice), ["say 2"]);
    assert_eq!(bench.subscribe(bob, "later").last().unwrap(), "say 1 replayed");
    bench.wait(10.0);
    assert_eq!(bench.story(bob), ["interrupt_result no_owner"]);
    bench.leave(worker);
    assert_eq!(bench.story(alice), ["operation op ended owner_lost"]);
}

#[test]
fn a_replay_goes_on_at_its_position() {
    let mut bench = Bench::new();
    let (worker, bob) = (bench.worker(), bench.client("bob"));
    for n in 1..=100 {
        bench.say(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    bench.clog(bob);
    bench.subscribe(bob, "logs");
    bench.drain(bob, 10);
    bench.hand_over();
    bench.hush(bob);
    bench.unclog(bob);
    let heard = bench.story(bob);
    assert_eq!((heard.len(), heard[0].as_str()), (36, "log 65 replayed"));
}

#[test]
fn token_claims_are_handed_over() {
    let mut bench = Bench::new();
    let (admin, watcher) = (bench.admin(), bench.client("watcher"));
    bench.ask(watcher, json!({"action": "subscribe", "channel": "room", "presence": true}));
    let alice = bench.client_on("alice", terms());
    bench.subscribe(alice, "room");
    bench.hush(watcher);
    bench.hand_over();
    for _ in 0..30 {
        assert_eq!(bench.say(alice, json!({"action": "ping"})), ["pong"]);
    }
    let told = bench.ask(watcher, json!({"action": "presence", "channel": "room"})).remove(0);
    assert_eq!(told["presence"][0]["info"], json!({"name": "Alice"}));
    let told = bench.ask(admin, json!({"action": "connections"})).remove(0);
    assert_eq!(told["connections"][2]["jti"], "t1");
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
