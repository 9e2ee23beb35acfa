//! Authentication: tokens, anonymous connections, expiry.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use wshubd::hub::{Credentials, Identity, Input, Peer, Settings, TokenFault};
use wshubd::protocol::{InboxMode, Reason, UnixTime};

use super::bench::{Bench, Seat, rights, user_id};

fn identity(bench: &Bench, seconds: u64) -> Identity {
    Identity {
        expires_at: Some(UnixTime(bench.now.wall.0 + seconds * 1000)),
        ..Identity::new(user_id("alice"))
    }
}

fn client_until(bench: &mut Bench, seconds: u64) -> Seat {
    let claim = Credentials::Verified(identity(bench, seconds));
    bench.link(Peer::Client { credentials: claim, inbox: InboxMode::Auto, network: None })
}

/// Time passes, and the peer is alive.
fn live(bench: &mut Bench, seat: Seat, seconds: u32) {
    for _ in 0..seconds {
        bench.wait(1.0);
        bench.handle(Input::KeepAlive { conn: seat, controls: 1 });
    }
}

#[test]
fn connection_established_has_all_a_client_needs() {
    let mut bench = Bench::new();
    let alice = client_until(&mut bench, 3600);
    let frame = bench.frames(alice).remove(0);
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
    let mut bench = Bench::new();
    let seat = bench.stranger();
    assert_eq!(bench.story(seat), ["auth_required"]);
    assert_eq!(bench.say(seat, json!({"action": "ping"})), ["error auth_required"]);
    let answer = bench.say(seat, json!({"action": "auth", "token": "alice"}));
    assert_eq!(answer, ["auth_success alice", "connection_established"]);
    assert_eq!(bench.say(seat, json!({"action": "ping"})), ["pong"]);
    live(&mut bench, seat, 20);
    assert!(bench.story(seat).is_empty());
}

#[test]
fn a_connection_without_auth_for_ten_seconds_is_closed() {
    let mut bench = Bench::new();
    let seat = bench.stranger();
    bench.hush(seat);
    bench.wait(9.0);
    assert!(bench.story(seat).is_empty());
    bench.wait(1.0);
    assert_eq!(bench.story(seat), ["closed 4001"]);
}

#[test]
fn a_bad_token_closes_before_auth_and_is_an_error_after() {
    let mut bench = Bench::new();
    let seat = bench.stranger();
    bench.hush(seat);
    let bad = json!({"action": "auth", "token": "bad"});
    assert_eq!(bench.say(seat, bad.clone()), ["auth_failed token_invalid", "closed 4001"]);
    let alice = bench.client("alice");
    assert_eq!(bench.say(alice, bad), ["auth_failed token_invalid"]);
    assert_eq!(bench.say(alice, json!({"action": "ping"})), ["pong"]);
}

#[test]
fn a_refused_upgrade_of_a_page_gets_its_reason_and_a_close() {
    let mut bench = Bench::new();
    let fault = TokenFault {
        code: "token_expired",
        message: "it ended".into(),
        reason: Reason::TokenExpired,
        wait: Duration::from_millis(1500),
    };
    let seat = bench.link(Peer::Client {
        credentials: Credentials::Refused(fault),
        inbox: InboxMode::Auto,
        network: None,
    });
    let frames = bench.frames(seat);
    assert_eq!((&frames[0]["type"], &frames[0]["code"]), (&json!("auth_failed"), &json!("token_expired")));
    assert_eq!(
        (&frames[1]["code"], &frames[1]["after_ms"]),
        (&json!(4001), &json!(1500)),
        "it has come before"
    );
}

#[test]
fn an_anonymous_connection_gains_a_user_once() {
    let mut bench = Bench::open();
    let seat = bench.stranger();
    let frame = bench.frames(seat).remove(0);
    assert_eq!((&frame["type"], frame.get("user_id")), (&json!("connection_established"), None));
    assert_eq!(bench.say(seat, json!({"action": "auth", "token": "alice"})), ["auth_success alice"]);
    assert_eq!(bench.say(seat, json!({"action": "auth", "token": "bob"})), ["error forbidden"]);
    let stats = bench.stats();
    assert_eq!((&stats["connected_users"], &stats["total_connections"]), (&json!(1), &json!(1)));
}

#[test]
fn an_expiring_token_is_announced_and_then_closes() {
    let mut bench = Bench::new();
    let alice = client_until(&mut bench, 100);
    bench.hush(alice);
    live(&mut bench, alice, 39);
    assert!(bench.story(alice).is_empty());
    live(&mut bench, alice, 1);
    assert_eq!(bench.story(alice), ["token_expiring"]);
    live(&mut bench, alice, 60);
    assert_eq!(bench.story(alice), ["closed 4204"]);
}

#[test]
fn a_newer_token_keeps_the_connection_open() {
    let mut bench = Bench::new();
    let alice = client_until(&mut bench, 30);
    live(&mut bench, alice, 5);
    bench.hush(alice);
    let claim = Ok(identity(&bench, 3600));
    bench.handle(Input::TokenChecked { conn: alice, id: None, inbox: None, claim });
    assert_eq!(bench.story(alice), ["auth_success alice"]);
    live(&mut bench, alice, 120);
    assert!(bench.story(alice).is_empty());
}

#[test]
fn setting_the_clock_neither_ends_nor_extends_a_token() {
    let mut bench = Bench::new();
    let alice = client_until(&mut bench, 100);
    bench.hush(alice);
    bench.now.wall = UnixTime(0);
    live(&mut bench, alice, 50);
    assert_eq!(bench.story(alice), ["token_expiring"]);
    bench.now.wall = UnixTime(4_000_000_000_000);
    live(&mut bench, alice, 49);
    assert!(bench.story(alice).is_empty());
    live(&mut bench, alice, 1);
    assert_eq!(bench.story(alice), ["closed 4204"]);
}

#[test]
fn a_new_token_ends_subscriptions_it_does_not_allow() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    bench.subscribe(alice, "open:a");
    bench.subscribe(alice, "shut:b");
    let claim = Ok(Identity { rights: Some(rights(&["open:*"], &[], &[])), ..identity(&bench, 3600) });
    bench.handle(Input::TokenChecked { conn: alice, id: None, inbox: None, claim });
    assert_eq!(bench.story(alice), ["auth_success alice", "unsubscribed shut:b forbidden"]);
    let worker = bench.worker();
    bench.say(worker, json!({"channel": "shut:b", "event": "say", "data": 1}));
    assert!(bench.story(alice).is_empty());
}

#[test]
fn a_connection_with_inbox_off_still_belongs_to_its_user() {
    let mut bench = Bench::with(Settings { rights: Rc::new(Default::default()), ..Settings::default() });
    let claim = Credentials::Verified(identity(&bench, 3600));
    let alice = bench.link(Peer::Client { credentials: claim, inbox: InboxMode::Off, network: None });
    bench.hush(alice);
    let worker = bench.worker();
    bench.say(worker, json!({"user_id": "alice", "event": "say", "data": 1}));
    assert!(bench.story(alice).is_empty());
    assert_eq!(bench.stats()["connected_users"], 1);
    let claim = Ok(identity(&bench, 3600));
    bench.handle(Input::TokenChecked { conn: alice, id: None, inbox: Some(InboxMode::Auto), claim });
    assert_eq!(bench.story(alice), ["auth_success alice", "say 1 replayed"]);
}
