//! Another process takes over.

use serde_json::{Value, json};
use wshubd::hub::{Hub, Settings, StateError};

use super::bench::Bench;

#[test]
fn a_new_process_goes_on_as_if_nothing_happened() {
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
fn a_replay_goes_on_where_it_was() {
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

/// Whether all that is in one value is in another.
fn is_in(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            part.iter().all(|(name, part)| whole.get(name).is_some_and(|whole| is_in(part, whole)))
        }
        (Value::Array(part), Value::Array(whole)) => {
            part.len() == whole.len() && part.iter().zip(whole).all(|(part, whole)| is_in(part, whole))
        }
        _ => part == whole,
    }
}

#[test]
fn a_state_that_was_written_as_json_is_taken_over() {
    let bytes = include_bytes!("hub-of-version-3");
    let hub = Hub::import(Settings::default(), bytes).unwrap();
    let state: Value = serde_json::from_slice(bytes).unwrap();
    let here = serde_json::to_value(&hub).unwrap();
    assert!(is_in(&state["hub"], &here), "{here}");
    let hub = Hub::import(Settings::default(), &hub.export()).unwrap();
    assert_eq!(serde_json::to_value(&hub).unwrap(), here);
}

#[test]
fn a_state_that_is_cut_off_is_not_taken_over() {
    let hub = Hub::import(Settings::default(), include_bytes!("hub-of-version-3")).unwrap();
    let bytes = hub.export();
    let import = |bytes: &[u8]| Hub::import(Settings::default(), bytes);
    for end in 0..bytes.len() {
        assert!(matches!(import(&bytes[..end]), Err(StateError::Form(_))), "cut off at {end}");
    }
    assert!(matches!(import(&[&bytes[..], b"x"].concat()), Err(StateError::Form(_))));
}

#[test]
fn a_state_of_another_version_is_not_taken_over() {
    let error = Hub::import(Settings::default(), br#"{"version":0,"other":1}"#).unwrap_err();
    assert!(matches!(error, StateError::Version { found: 0, .. }));
    assert!(error.to_string().contains("version 0"));
    assert!(matches!(Hub::import(Settings::default(), b"{"), Err(StateError::Form(_))));
}
