//! Heartbeat: pings, pongs and silent peers.

use std::time::Duration;

use wshubd::hub::settings::Heartbeat;
use wshubd::hub::{Input, Settings};

use super::harness::Harness;

#[test]
fn a_silent_peer_is_pinged_and_then_closed() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.wait(53.9);
    assert!(harness.received(alice).is_empty());
    harness.wait(0.1);
    assert_eq!(harness.received(alice), ["ping"]);
    harness.wait(6.0);
    assert_eq!(harness.received(alice), ["closed 4203"]);
    assert_eq!(harness.stats()["closed_no_pong"], 1);
}

#[test]
fn any_frame_counts_as_a_sign_of_life() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    for _ in 0..5 {
        harness.wait(50.0);
        harness.handle(Input::KeepAlive { conn: alice, controls: 1 });
    }
    assert!(harness.received(alice).is_empty());
    harness.wait(54.0);
    assert_eq!(harness.received(alice), ["ping"]);
    harness.handle(Input::KeepAlive { conn: alice, controls: 1 });
    harness.wait(53.0);
    assert!(harness.received(alice).is_empty());
}

#[test]
fn the_ping_interval_does_not_depend_on_the_pong_timeout() {
    let [ping_interval, pong_timeout] = [20, 300].map(Duration::from_secs);
    let heartbeat = Heartbeat { ping_interval, pong_timeout };
    let mut harness = Harness::with(Settings { heartbeat, ..Settings::default() });
    let alice = harness.client("alice");
    for _ in 0..10 {
        harness.wait(19.9);
        assert!(harness.received(alice).is_empty());
        harness.wait(1.1);
        assert_eq!(harness.received(alice), ["ping"]);
        harness.handle(Input::KeepAlive { conn: alice, controls: 1 });
    }
    harness.wait(21.0);
    assert_eq!(harness.received(alice), ["ping"]);
    harness.wait(278.0);
    assert!(harness.received(alice).is_empty(), "not before its time");
    harness.wait(2.0);
    assert_eq!(harness.received(alice), ["closed 4203"]);
}

#[test]
fn workers_may_be_silent() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    assert_eq!(harness.hub.deadline(), None);
    harness.wait(86_400.0);
    assert!(harness.received(worker).is_empty());
}

#[test]
fn connections_of_the_same_second_are_pinged_together() {
    let mut harness = Harness::new();
    harness.now.moment.0 += 1;
    for n in 0..1000 {
        harness.client(&format!("user{n}"));
        harness.now.moment.0 += u64::from(n % 2 == 0);
    }
    let first = harness.hub.deadline().unwrap();
    harness.now.moment = first;
    harness.handle(Input::Timeout);
    let pings = harness.last.list.iter().filter(|effect| matches!(effect, wshubd::hub::Effect::Ping { .. }));
    assert_eq!(pings.count(), 1000, "those of one second share their wake-up");
}
