//! Request rates of one user over all connections.

use std::net::IpAddr;

use serde_json::json;
use wshubd::edge::http::upgrade::network;
use wshubd::hub::{Credentials, Peer, Settings};
use wshubd::protocol::InboxMode;

use super::harness::{ConnectionId, Harness};

/// How many of so many pings are answered.
fn pings(harness: &mut Harness, conn: ConnectionId, count: usize) -> usize {
    let answers = (0..count).flat_map(|_| harness.send(conn, json!({"action": "ping"})));
    answers.filter(|answer| answer == "pong").count()
}

/// A connection without a user, from an address; the rest of what it hears at first is
/// not looked at.
fn visitor(harness: &mut Harness, address: &str) -> (ConnectionId, Vec<String>) {
    let network = network(address.parse::<IpAddr>().unwrap());
    let conn =
        harness.connect(Peer::Client { credentials: Credentials::Nothing, inbox: InboxMode::Auto, network });
    let received = harness.received(conn);
    (conn, received)
}

fn open_to_all() -> Harness {
    Harness::with(Settings { anonymous: true, ..Settings::default() })
}

#[test]
fn reconnecting_does_not_refill_the_bucket() {
    let mut harness = Harness::new();
    let answered: usize = (0..50)
        .map(|_| {
            let alice = harness.client("alice");
            let answered = pings(&mut harness, alice, 20);
            harness.disconnect(alice);
            answered
        })
        .sum();
    assert_eq!(answered, 100);
    let bob = harness.client("bob");
    assert_eq!(pings(&mut harness, bob, 20), 20, "nobody pays for others");
}

#[test]
fn a_users_connections_share_a_rate_beside_their_own() {
    let mut harness = Harness::new();
    let conns: Vec<ConnectionId> = (0..10).map(|_| harness.client("alice")).collect();
    assert_eq!(pings(&mut harness, conns[0], 30), 20);
    let answered: usize = conns.iter().map(|conn| pings(&mut harness, *conn, 20)).sum();
    assert_eq!(answered, 80);
    let another = harness.client("alice");
    let refused = harness.request(another, json!({"action": "ping"})).remove(0);
    assert_eq!(refused["code"], "rate_limited");
    assert!(refused["message"].as_str().unwrap().contains("of this user together"), "{refused}");
    harness.wait(1.0);
    let answered: usize = conns.iter().map(|conn| pings(&mut harness, *conn, 20)).sum();
    assert_eq!(answered, 50, "so many a second");
}

#[test]
fn a_users_rate_is_kept_for_a_minute_and_handed_over() {
    let mut harness = Harness::new();
    let conns: Vec<ConnectionId> = (0..5).map(|_| harness.client("alice")).collect();
    let answered: usize = conns.iter().map(|conn| pings(&mut harness, *conn, 20)).sum();
    assert_eq!(answered, 100);
    for conn in conns {
        harness.disconnect(conn);
    }
    harness.hand_over();
    let alice = harness.client("alice");
    assert_eq!(pings(&mut harness, alice, 5), 0);
    harness.wait(3.0);
    assert_eq!(pings(&mut harness, alice, 20), 20);
}

#[test]
fn a_user_has_five_times_the_whispers_of_a_connection() {
    let mut harness = Harness::new();
    let whisper = json!({"action": "whisper", "channel": "room", "event": "typing"});
    let interrupt = json!({"action": "interrupt", "data": {"operation_id": "none"}});
    let mut received = 0;
    for _ in 0..8 {
        let alice = harness.client("alice");
        harness.subscribe(alice, "room");
        for _ in 0..40 {
            harness.send(alice, whisper.clone());
        }
        // As many as may wait of one connection.
        for _ in 0..16 {
            received += usize::from(harness.send(alice, interrupt.clone()) != ["error rate_limited"]);
        }
        harness.disconnect(alice);
    }
    assert_eq!(harness.stats()["whispers_dropped"], 8 * 40 - 5 * 40);
    assert_eq!(received, 100);
}

#[test]
fn a_user_connects_in_a_burst_and_then_at_a_rate() {
    let mut settings = Settings::default();
    settings.limits.connections_per_user = 150;
    let mut harness = Harness::with(settings);
    for n in 0..300 {
        let alice = harness.new_client("alice", None);
        let received = harness.received(alice);
        let is_let_in = received.first().is_some_and(|first| first.starts_with("connection_established"));
        assert_eq!(is_let_in, n < 150, "{n}: {received:?}");
        if !is_let_in {
            assert_eq!(received.last().unwrap(), "closed 4103");
        }
        harness.disconnect(alice);
    }
    assert_eq!(harness.stats()["connections_refused"], 150);
    harness.wait(1.0);
    let alice = harness.new_client("alice", None);
    assert!(harness.received(alice)[0].starts_with("connection_established"));
}

#[test]
fn anonymous_connections_of_one_address_share_a_rate() {
    let mut harness = open_to_all();
    for (address, other) in [("192.0.2.7", "192.0.2.8"), ("2001:db8::1", "2001:db8:0:1::1")] {
        let (first, _) = visitor(&mut harness, address);
        assert_eq!(pings(&mut harness, first, 20), 20);
        let conns: Vec<ConnectionId> = (0..9).map(|_| visitor(&mut harness, address).0).collect();
        assert_eq!(conns.iter().map(|conn| pings(&mut harness, *conn, 20)).sum::<usize>(), 80);
        let (neighbour, _) = visitor(&mut harness, other);
        assert_eq!(pings(&mut harness, neighbour, 20), 20, "{other} is somebody else");
    }
    let (first, _) = visitor(&mut harness, "2001:db8:0:2::1");
    let (same, _) = visitor(&mut harness, "2001:db8:0:2::2");
    assert_eq!(pings(&mut harness, first, 20) + pings(&mut harness, same, 20), 40);
    let conns: Vec<ConnectionId> = (0..5).map(|_| visitor(&mut harness, "2001:db8:0:2::3").0).collect();
    let rest: usize = conns.iter().map(|conn| pings(&mut harness, *conn, 20)).sum();
    assert_eq!(rest, 60, "a network has as many addresses as it likes");
}

#[test]
fn local_connections_behind_a_proxy_have_no_address_limit() {
    let mut harness = open_to_all();
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        let conns: Vec<ConnectionId> = (0..20).map(|_| visitor(&mut harness, address).0).collect();
        assert_eq!(conns.iter().map(|conn| pings(&mut harness, *conn, 20)).sum::<usize>(), 400);
    }
}

#[test]
fn accounts_expire_and_count_as_memory() {
    let mut harness = Harness::new();
    let empty = harness.stats()["memory_bytes"].as_u64().unwrap();
    for n in 0..3000 {
        let conn = harness.client(&format!("user{n}"));
        harness.disconnect(conn);
    }
    harness.wait(30.0);
    let held = harness.stats()["memory_bytes"].as_u64().unwrap() - empty;
    assert!(held >= 3000 * 160, "{held}");
    harness.wait(60.0);
    for n in 0..2000 {
        let conn = harness.client(&format!("later{n}"));
        harness.disconnect(conn);
    }
    harness.wait(600.0);
    for n in 0..1000 {
        let conn = harness.client(&format!("last{n}"));
        harness.disconnect(conn);
    }
    let held = harness.stats()["memory_bytes"].as_u64().unwrap() - empty;
    assert!(held <= 1300 * 600, "{held}");
}
