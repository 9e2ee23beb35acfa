//! Authentication: tokens, anonymous connections, expiry.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use wshubd::hub::{Credentials, Identity, Input, Peer, Settings, TokenFault};
use wshubd::protocol::{InboxMode, Reason, UnixTime};

use super::harness::{ConnectionId, Harness, rights, user_id};

fn identity(harness: &Harness, seconds: u64) -> Identity {
    Identity {
        expires_at: Some(UnixTime(harness.now.wall.0 + seconds * 1000)),
        ..Identity::new(user_id("alice"))
    }
}

fn client_until(harness: &mut Harness, seconds: u64) -> ConnectionId {
    let claim = Credentials::Verified(identity(harness, seconds));
    harness.connect(Peer::Client { credentials: claim, inbox: InboxMode::Auto, network: None })
}

/// Time passes, and the peer is alive.
fn live(harness: &mut Harness, conn: ConnectionId, seconds: u32) {
    for _ in 0..seconds {
        harness.wait(1.0);
        harness.handle(Input::KeepAlive { conn, controls: 1 });
    }
}

#[test]
fn connection_established_has_all_a_client_needs() {
    let mut harness = Harness::new();
    let alice = client_until(&mut harness, 3600);
    let frame = harness.frames(alice).remove(0);
    assert_eq!(frame["type"], "connection_established");
    assert_eq!((&frame["user_id"], &frame["protocol"]), (&json!("alice"), &json!(1)));
    assert_eq!(frame["connection_id"], json!(alice.to_string()));
    assert_eq!((&frame["ping_interval"], &frame["pong_timeout"]), (&json!(54), &json!(60)));
    let limits =
        json!({"message_bytes": 524288, "requests_per_second": 10, "burst": 20, "subscriptions": 128});
    assert_eq!(frame["limits"], limits);
    assert_eq!(frame["expires_at"], json!("2027-01-15T09:00:00.000Z"));
}

#[test]
fn without_a_token_only_auth_is_understood() {
    let mut harness = Harness::new();
    let conn = harness.anonymous_client();
    assert_eq!(harness.received(conn), ["auth_required"]);
    assert_eq!(harness.send(conn, json!({"action": "ping"})), ["error auth_required"]);
    let answer = harness.send(conn, json!({"action": "auth", "token": "alice"}));
    assert_eq!(answer, ["auth_success alice", "connection_established"]);
    assert_eq!(harness.send(conn, json!({"action": "ping"})), ["pong"]);
    live(&mut harness, conn, 20);
    assert!(harness.received(conn).is_empty());
}

#[test]
fn a_connection_without_auth_for_ten_seconds_is_closed() {
    let mut harness = Harness::new();
    let conn = harness.anonymous_client();
    harness.discard_frames(conn);
    harness.wait(9.0);
    assert!(harness.received(conn).is_empty());
    harness.wait(1.0);
    assert_eq!(harness.received(conn), ["closed 4001"]);
}

#[test]
fn a_bad_token_closes_before_auth_and_is_an_error_after() {
    let mut harness = Harness::new();
    let conn = harness.anonymous_client();
    harness.discard_frames(conn);
    let bad = json!({"action": "auth", "token": "bad"});
    assert_eq!(harness.send(conn, bad.clone()), ["auth_failed token_invalid", "closed 4001"]);
    let alice = harness.client("alice");
    assert_eq!(harness.send(alice, bad), ["auth_failed token_invalid"]);
    assert_eq!(harness.send(alice, json!({"action": "ping"})), ["pong"]);
}

#[test]
fn a_refused_upgrade_of_a_page_gets_its_reason_and_a_close() {
    let mut harness = Harness::new();
    let fault = TokenFault {
        code: "token_expired",
        message: "it ended".into(),
        reason: Reason::TokenExpired,
        wait: Duration::from_millis(1500),
    };
    let conn = harness.connect(Peer::Client {
        credentials: Credentials::Refused(fault),
        inbox: InboxMode::Auto,
        network: None,
    });
    let frames = harness.frames(conn);
    assert_eq!((&frames[0]["type"], &frames[0]["code"]), (&json!("auth_failed"), &json!("token_expired")));
    assert_eq!(
        (&frames[1]["code"], &frames[1]["after_ms"]),
        (&json!(4001), &json!(1500)),
        "it has come before"
    );
}

#[test]
fn an_anonymous_connection_gains_a_user_once() {
    let mut harness = Harness::open();
    let conn = harness.anonymous_client();
    let frame = harness.frames(conn).remove(0);
    assert_eq!((&frame["type"], frame.get("user_id")), (&json!("connection_established"), None));
    assert_eq!(harness.send(conn, json!({"action": "auth", "token": "alice"})), ["auth_success alice"]);
    assert_eq!(harness.send(conn, json!({"action": "auth", "token": "bob"})), ["error forbidden"]);
    let stats = harness.stats();
    assert_eq!((&stats["connected_users"], &stats["total_connections"]), (&json!(1), &json!(1)));
}

#[test]
fn an_expiring_token_is_announced_and_then_closes() {
    let mut harness = Harness::new();
    let alice = client_until(&mut harness, 100);
    harness.discard_frames(alice);
    live(&mut harness, alice, 39);
    assert!(harness.received(alice).is_empty());
    live(&mut harness, alice, 1);
    assert_eq!(harness.received(alice), ["token_expiring"]);
    live(&mut harness, alice, 60);
    assert_eq!(harness.received(alice), ["closed 4204"]);
}

#[test]
fn a_newer_token_keeps_the_connection_open() {
    let mut harness = Harness::new();
    let alice = client_until(&mut harness, 30);
    live(&mut harness, alice, 5);
    harness.discard_frames(alice);
    let claim = Ok(identity(&harness, 3600));
    harness.handle(Input::TokenChecked { conn: alice, id: None, inbox: None, claim });
    assert_eq!(harness.received(alice), ["auth_success alice"]);
    live(&mut harness, alice, 120);
    assert!(harness.received(alice).is_empty());
}

#[test]
fn setting_the_clock_neither_ends_nor_extends_a_token() {
    let mut harness = Harness::new();
    let alice = client_until(&mut harness, 100);
    harness.discard_frames(alice);
    harness.now.wall = UnixTime(0);
    live(&mut harness, alice, 50);
    assert_eq!(harness.received(alice), ["token_expiring"]);
    harness.now.wall = UnixTime(4_000_000_000_000);
    live(&mut harness, alice, 49);
    assert!(harness.received(alice).is_empty());
    live(&mut harness, alice, 1);
    assert_eq!(harness.received(alice), ["closed 4204"]);
}

#[test]
fn a_new_token_ends_subscriptions_it_does_not_allow() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.subscribe(alice, "open:a");
    harness.subscribe(alice, "shut:b");
    let claim = Ok(Identity { rights: Some(rights(&["open:*"], &[], &[])), ..identity(&harness, 3600) });
    harness.handle(Input::TokenChecked { conn: alice, id: None, inbox: None, claim });
    assert_eq!(harness.received(alice), ["auth_success alice", "unsubscribed shut:b forbidden"]);
    let worker = harness.worker();
    harness.send(worker, json!({"channel": "shut:b", "event": "say", "data": 1}));
    assert!(harness.received(alice).is_empty());
}

#[test]
fn a_connection_with_inbox_off_still_belongs_to_its_user() {
    let mut harness = Harness::with(Settings { rights: Rc::new(Default::default()), ..Settings::default() });
    let claim = Credentials::Verified(identity(&harness, 3600));
    let alice = harness.connect(Peer::Client { credentials: claim, inbox: InboxMode::Off, network: None });
    harness.discard_frames(alice);
    let worker = harness.worker();
    harness.send(worker, json!({"user_id": "alice", "event": "say", "data": 1}));
    assert!(harness.received(alice).is_empty());
    assert_eq!(harness.stats()["connected_users"], 1);
    let claim = Ok(identity(&harness, 3600));
    harness.handle(Input::TokenChecked { conn: alice, id: None, inbox: Some(InboxMode::Auto), claim });
    assert_eq!(harness.received(alice), ["auth_success alice", "say 1 replayed"]);
}
