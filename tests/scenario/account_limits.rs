//! Request rates of one user over all connections.

use std::net::IpAddr;

use serde_json::json;
use wshubd::edge::http::upgrade::network;
use wshubd::hub::{Credentials, Peer, Settings};
use wshubd::protocol::InboxMode;

use super::bench::{Bench, Seat};

/// How many of so many pings are answered.
fn pings(bench: &mut Bench, seat: Seat, count: usize) -> usize {
    let answers = (0..count).flat_map(|_| bench.say(seat, json!({"action": "ping"})));
    answers.filter(|answer| answer == "pong").count()
}

/// A connection without a user, from an address; the rest of what it hears at first is
/// not looked at.
fn visitor(bench: &mut Bench, address: &str) -> (Seat, Vec<String>) {
    let network = network(address.parse::<IpAddr>().unwrap());
    let seat =
        bench.link(Peer::Client { credentials: Credentials::Nothing, inbox: InboxMode::Auto, network });
    let heard = bench.story(seat);
    (seat, heard)
}

fn open_to_all() -> Bench {
    Bench::with(Settings { anonymous: true, ..Settings::default() })
}

#[test]
fn reconnecting_does_not_refill_the_bucket() {
    let mut bench = Bench::new();
    let answered: usize = (0..50)
        .map(|_| {
            let alice = bench.client("alice");
            let answered = pings(&mut bench, alice, 20);
            bench.leave(alice);
            answered
        })
        .sum();
    assert_eq!(answered, 100);
    let bob = bench.client("bob");
    assert_eq!(pings(&mut bench, bob, 20), 20, "nobody pays for others");
}

#[test]
fn a_users_connections_share_a_rate_beside_their_own() {
    let mut bench = Bench::new();
    let seats: Vec<Seat> = (0..10).map(|_| bench.client("alice")).collect();
    assert_eq!(pings(&mut bench, seats[0], 30), 20);
    let answered: usize = seats.iter().map(|seat| pings(&mut bench, *seat, 20)).sum();
    assert_eq!(answered, 80);
    let another = bench.client("alice");
    let refused = bench.ask(another, json!({"action": "ping"})).remove(0);
    assert_eq!(refused["code"], "rate_limited");
    assert!(refused["message"].as_str().unwrap().contains("of this user together"), "{refused}");
    bench.wait(1.0);
    let answered: usize = seats.iter().map(|seat| pings(&mut bench, *seat, 20)).sum();
    assert_eq!(answered, 50, "so many a second");
}

#[test]
fn a_users_rate_is_kept_for_a_minute_and_handed_over() {
    let mut bench = Bench::new();
    let seats: Vec<Seat> = (0..5).map(|_| bench.client("alice")).collect();
    let answered: usize = seats.iter().map(|seat| pings(&mut bench, *seat, 20)).sum();
    assert_eq!(answered, 100);
    for seat in seats {
        bench.leave(seat);
    }
    bench.hand_over();
    let alice = bench.client("alice");
    assert_eq!(pings(&mut bench, alice, 5), 0);
    bench.wait(3.0);
    assert_eq!(pings(&mut bench, alice, 20), 20);
}

#[test]
fn a_user_has_five_times_the_whispers_of_a_connection() {
    let mut bench = Bench::new();
    let whisper = json!({"action": "whisper", "channel": "room", "event": "typing"});
    let interrupt = json!({"action": "interrupt", "data": {"operation_id": "none"}});
    let mut heard = 0;
    for _ in 0..8 {
        let alice = bench.client("alice");
        bench.subscribe(alice, "room");
        for _ in 0..40 {
            bench.say(alice, whisper.clone());
        }
        // As many as may wait of one connection.
        for _ in 0..16 {
            heard += usize::from(bench.say(alice, interrupt.clone()) != ["error rate_limited"]);
        }
        bench.leave(alice);
    }
    assert_eq!(bench.stats()["whispers_dropped"], 8 * 40 - 5 * 40);
    assert_eq!(heard, 100);
}

#[test]
fn a_user_connects_in_a_burst_and_then_at_a_rate() {
    let mut settings = Settings::default();
    settings.limits.connections_per_user = 150;
    let mut bench = Bench::with(settings);
    for n in 0..300 {
        let alice = bench.newcomer("alice", None);
        let heard = bench.story(alice);
        let is_let_in = heard.first().is_some_and(|first| first.starts_with("connection_established"));
        assert_eq!(is_let_in, n < 150, "{n}: {heard:?}");
        if !is_let_in {
            assert_eq!(heard.last().unwrap(), "closed 4103");
        }
        bench.leave(alice);
    }
    assert_eq!(bench.stats()["connections_refused"], 150);
    bench.wait(1.0);
    let alice = bench.newcomer("alice", None);
    assert!(bench.story(alice)[0].starts_with("connection_established"));
}

#[test]
fn anonymous_connections_of_one_address_share_a_rate() {
    let mut bench = open_to_all();
    for (address, other) in [("192.0.2.7", "192.0.2.8"), ("2001:db8::1", "2001:db8:0:1::1")] {
        let (first, _) = visitor(&mut bench, address);
        assert_eq!(pings(&mut bench, first, 20), 20);
        let seats: Vec<Seat> = (0..9).map(|_| visitor(&mut bench, address).0).collect();
        assert_eq!(seats.iter().map(|seat| pings(&mut bench, *seat, 20)).sum::<usize>(), 80);
        let (neighbour, _) = visitor(&mut bench, other);
        assert_eq!(pings(&mut bench, neighbour, 20), 20, "{other} is somebody else");
    }
    let (first, _) = visitor(&mut bench, "2001:db8:0:2::1");
    let (same, _) = visitor(&mut bench, "2001:db8:0:2::2");
    assert_eq!(pings(&mut bench, first, 20) + pings(&mut bench, same, 20), 40);
    let seats: Vec<Seat> = (0..5).map(|_| visitor(&mut bench, "2001:db8:0:2::3").0).collect();
    let rest: usize = seats.iter().map(|seat| pings(&mut bench, *seat, 20)).sum();
    assert_eq!(rest, 60, "a network has as many addresses as it likes");
}

#[test]
fn local_connections_behind_a_proxy_have_no_address_limit() {
    let mut bench = open_to_all();
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        let seats: Vec<Seat> = (0..20).map(|_| visitor(&mut bench, address).0).collect();
        assert_eq!(seats.iter().map(|seat| pings(&mut bench, *seat, 20)).sum::<usize>(), 400);
    }
}

#[test]
fn accounts_expire_and_count_as_memory() {
    let mut bench = Bench::new();
    let empty = bench.stats()["memory_bytes"].as_u64().unwrap();
    for n in 0..3000 {
        let seat = bench.client(&format!("user{n}"));
        bench.leave(seat);
    }
    bench.wait(30.0);
    let held = bench.stats()["memory_bytes"].as_u64().unwrap() - empty;
    assert!(held >= 3000 * 160, "{held}");
    bench.wait(60.0);
    for n in 0..2000 {
        let seat = bench.client(&format!("later{n}"));
        bench.leave(seat);
    }
    bench.wait(600.0);
    for n in 0..1000 {
        let seat = bench.client(&format!("last{n}"));
        bench.leave(seat);
    }
    let held = bench.stats()["memory_bytes"].as_u64().unwrap() - empty;
    assert!(held <= 1300 * 600, "{held}");
}
