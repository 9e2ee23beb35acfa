//! Heartbeat: pings, pongs and silent peers.

use std::time::Duration;

use wshubd::hub::settings::Heartbeat;
use wshubd::hub::{Input, Settings};

use super::bench::Bench;

#[test]
fn a_silent_peer_is_pinged_and_then_closed() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    bench.wait(53.9);
    assert!(bench.story(alice).is_empty());
    bench.wait(0.1);
    assert_eq!(bench.story(alice), ["ping"]);
    bench.wait(6.0);
    assert_eq!(bench.story(alice), ["closed 4203"]);
    assert_eq!(bench.stats()["closed_no_pong"], 1);
}

#[test]
fn any_frame_counts_as_a_sign_of_life() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    for _ in 0..5 {
        bench.wait(50.0);
        bench.handle(Input::KeepAlive { conn: alice, controls: 1 });
    }
    assert!(bench.story(alice).is_empty());
    bench.wait(54.0);
    assert_eq!(bench.story(alice), ["ping"]);
    bench.handle(Input::KeepAlive { conn: alice, controls: 1 });
    bench.wait(53.0);
    assert!(bench.story(alice).is_empty());
}

#[test]
fn the_ping_interval_does_not_depend_on_the_pong_timeout() {
    let [ping_interval, pong_timeout] = [20, 300].map(Duration::from_secs);
    let heartbeat = Heartbeat { ping_interval, pong_timeout };
    let mut bench = Bench::with(Settings { heartbeat, ..Settings::default() });
    let alice = bench.client("alice");
    for _ in 0..10 {
        bench.wait(19.9);
        assert!(bench.story(alice).is_empty());
        bench.wait(1.1);
        assert_eq!(bench.story(alice), ["ping"]);
        bench.handle(Input::KeepAlive { conn: alice, controls: 1 });
    }
    bench.wait(21.0);
    assert_eq!(bench.story(alice), ["ping"]);
    bench.wait(278.0);
    assert!(bench.story(alice).is_empty(), "not before its time");
    bench.wait(2.0);
    assert_eq!(bench.story(alice), ["closed 4203"]);
}

#[test]
fn workers_may_be_silent() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    assert_eq!(bench.hub.deadline(), None);
    bench.wait(86_400.0);
    assert!(bench.story(worker).is_empty());
}

#[test]
fn connections_of_the_same_second_are_pinged_together() {
    let mut bench = Bench::new();
    bench.now.moment.0 += 1;
    for n in 0..1000 {
        bench.client(&format!("user{n}"));
        bench.now.moment.0 += u64::from(n % 2 == 0);
    }
    let first = bench.hub.deadline().unwrap();
    bench.now.moment = first;
    bench.handle(Input::Timeout);
    let pings = bench.last.list.iter().filter(|effect| matches!(effect, wshubd::hub::Effect::Ping { .. }));
    assert_eq!(pings.count(), 1000, "those of one second share their wake-up");
}
