//! Rights of a connection, and their changes.

use serde_json::json;
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{Credentials, Identity, Peer, Settings};
use wshubd::protocol::{InboxMode, UnixTime};

use super::harness::{ConnectionId, Harness, rights, user_id};

fn client_until(harness: &mut Harness, seconds: u64) -> ConnectionId {
    let expires_at = Some(UnixTime(harness.now.wall.0 + seconds * 1000));
    let identity =
        Identity { rights: Some(rights(&["*"], &[], &[])), expires_at, ..Identity::new(user_id("alice")) };
    let conn = harness.connect(Peer::Client {
        credentials: Credentials::Verified(identity),
        inbox: InboxMode::Auto,
        network: None,
    });
    harness.discard_frames(conn);
    conn
}

fn history() -> Harness {
    let policy = Policy { keep: Keep::History, ..Policy::default() };
    Harness::with(Settings { policy, ..Settings::default() })
}

#[test]
fn a_token_is_announced_to_expire_sixty_seconds_ahead() {
    let mut harness = Harness::new();
    let alice = client_until(&mut harness, 300);
    harness.keep_alive(239);
    assert!(harness.received(alice).is_empty());
    harness.keep_alive(1);
    let frames_received = harness.frames(alice);
    assert_eq!((frames_received.len(), &frames_received[0]["type"]), (1, &json!("token_expiring")));
    assert_eq!(frames_received[0]["expires_at"], json!("2027-01-15T08:05:00.000Z"));
    harness.keep_alive(59);
    assert!(harness.received(alice).is_empty(), "once");
    harness.keep_alive(1);
    assert_eq!(harness.received(alice), ["closed 4204"]);
}

#[test]
fn a_token_expiring_within_a_minute_is_announced_at_once() {
    let mut harness = Harness::new();
    let alice = client_until(&mut harness, 30);
    harness.keep_alive(1);
    assert_eq!(harness.received(alice), ["token_expiring"]);
    harness.keep_alive(29);
    assert_eq!(harness.received(alice), ["closed 4204"]);
}

#[test]
fn a_newer_token_extends_and_is_announced_in_turn() {
    let mut harness = Harness::new();
    let alice = client_until(&mut harness, 100);
    harness.keep_alive(50);
    assert_eq!(harness.received(alice), ["token_expiring"]);
    let newer = harness.token("alice", rights(&["*"], &[], &[]), 200);
    assert_eq!(harness.auth(alice, &newer, None), ["auth_success alice"]);
    harness.keep_alive(139);
    assert!(harness.received(alice).is_empty());
    harness.keep_alive(1);
    assert_eq!(harness.received(alice), ["token_expiring"]);
    harness.keep_alive(60);
    assert_eq!(harness.received(alice), ["closed 4204"]);
}

#[test]
fn a_newer_token_may_expire_sooner() {
    let mut harness = Harness::new();
    let alice = client_until(&mut harness, 3600);
    let shorter = harness.token("alice", rights(&["*"], &[], &[]), 90);
    harness.auth(alice, &shorter, None);
    harness.keep_alive(30);
    assert_eq!(harness.received(alice), ["token_expiring"]);
    harness.keep_alive(60);
    assert_eq!(harness.received(alice), ["closed 4204"]);
}

#[test]
fn an_invalid_token_changes_nothing() {
    let mut harness = Harness::new();
    let alice = client_until(&mut harness, 70);
    harness.subscribe(alice, "room");
    let old = harness.token("alice", rights(&["*"], &[], &[]), 5);
    harness.keep_alive(6);
    harness.discard_frames(alice);
    assert_eq!(harness.auth(alice, &old, None), ["auth_failed token_expired"]);
    assert_eq!(harness.auth(alice, "bad", None), ["auth_failed token_invalid"]);
    harness.publish(alice, "nowhere", 1);
    let worker = harness.worker();
    harness.send(worker, json!({"channel": "room", "event": "say", "data": 1}));
    assert_eq!(harness.received(alice).last().unwrap(), "say 1", "what it hears it goes on hearing");
    harness.keep_alive(64);
    assert_eq!(harness.received(alice), ["token_expiring", "closed 4204"], "the old one still ends");
}

#[test]
fn a_connection_keeps_its_user() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    assert_eq!(harness.auth(alice, "bob", None), ["error forbidden"]);
    let worker = harness.worker();
    harness.send(worker, json!({"user_id": "alice", "event": "say", "data": 1}));
    harness.send(worker, json!({"user_id": "bob", "event": "say", "data": 2}));
    assert_eq!(harness.received(alice), ["say 1"]);
}

#[test]
fn an_anonymous_connection_gains_a_user_once_with_its_rights() {
    let settings = Settings { anonymous: true, rights: rights(&["open"], &[], &[]), ..Settings::default() };
    let mut harness = Harness::with(settings);
    let conn = harness.anonymous_client();
    harness.subscribe(conn, "open");
    assert_eq!(harness.subscribe(conn, "team"), ["error forbidden team"]);
    harness.discard_frames(conn);
    let token = harness.token("alice", rights(&["open", "team"], &[], &[]), 3600);
    assert_eq!(harness.auth(conn, &token, None), ["auth_success alice"]);
    assert_eq!(harness.subscribe(conn, "team"), ["subscription_succeeded team 0"]);
    let worker = harness.worker();
    harness.send(worker, json!({"channel": "open", "event": "say", "data": 1}));
    assert_eq!(harness.received(conn), ["say 1"]);
    assert_eq!(harness.auth(conn, "bob", None), ["error forbidden"]);
    assert_eq!(harness.auth(conn, &token, None), ["auth_success alice"], "its own it may refresh");
}

#[test]
fn a_connection_that_gains_a_user_joins_its_channels() {
    let mut harness = Harness::open();
    let (conn, watcher) = (harness.anonymous_client(), harness.client("watcher"));
    harness.subscribe(conn, "room");
    harness.send(watcher, json!({"action": "subscribe", "channel": "room", "presence": true}));
    assert!(harness.received(watcher).is_empty());
    harness.auth(conn, "alice", None);
    assert_eq!(harness.received(watcher), ["user_joined alice"]);
}

#[test]
fn a_narrower_token_ends_some_subscriptions_only() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    for channel in ["a", "b", "c"] {
        harness.subscribe(alice, channel);
    }
    let narrow = harness.token("alice", rights(&["b"], &[], &[]), 3600);
    let received = harness.auth(alice, &narrow, None);
    assert_eq!(received[0], "auth_success alice");
    let mut ended = received[1..].to_vec();
    ended.sort();
    assert_eq!(ended, ["unsubscribed a forbidden", "unsubscribed c forbidden"]);
    let worker = harness.worker();
    for channel in ["a", "b", "c"] {
        harness.send(worker, json!({"channel": channel, "event": "say", "data": channel}));
    }
    assert_eq!(harness.received(alice), ["say b"]);
    assert_eq!(harness.subscribe(alice, "a"), ["error forbidden a"]);
}

#[test]
fn a_narrower_token_ends_a_replay() {
    let mut harness = history();
    let alice = harness.client("alice");
    let worker = harness.worker();
    for n in 1..=200 {
        harness.send(worker, json!({"channel": "orders", "event": "say", "data": n}));
    }
    let since = json!({"epoch": "", "seq": 0});
    harness.block_socket(alice);
    harness.send(alice, json!({"action": "subscribe", "channel": "orders", "since": since}));
    harness.drain(alice, 10);
    let narrow = harness.token("alice", rights(&["other"], &[], &[]), 3600);
    assert_eq!(harness.auth(alice, &narrow, None), ["auth_success alice", "unsubscribed orders forbidden"]);
    harness.unblock_socket(alice);
    assert!(harness.received(alice).is_empty(), "nothing comes after it");
}

#[test]
fn a_narrower_token_ends_a_replay_before_the_store_answers() {
    let mut harness = history();
    let alice = harness.client("alice");
    let worker = harness.worker();
    harness.send(worker, json!({"channel": "orders", "event": "say", "data": 1}));
    harness.slow_store = true;
    let since = json!({"epoch": "", "seq": 0});
    harness.send(alice, json!({"action": "subscribe", "channel": "orders", "since": since}));
    let narrow = harness.token("alice", rights(&[], &[], &[]), 3600);
    harness.auth(alice, &narrow, None);
    harness.store_answers();
    assert!(harness.received(alice).is_empty());
}

#[test]
fn a_narrower_token_does_not_take_the_inbox() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    let narrow = harness.token("alice", rights(&[], &[], &[]), 3600);
    assert_eq!(harness.auth(alice, &narrow, None), ["auth_success alice"]);
    let worker = harness.worker();
    harness.send(worker, json!({"user_id": "alice", "event": "say", "data": 1}));
    assert_eq!(harness.received(alice), ["say 1"]);
}

#[test]
fn a_narrower_token_keeps_the_channel_of_ones_own_operation() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    for (id, user) in [("own", json!("alice")), ("other", json!("bob"))] {
        let line =
            json!({"action": "operation_start", "operation_id": id, "channel": "jobs", "user_id": user});
        harness.send(worker, line);
        harness.subscribe(alice, &format!("operation:{id}"));
    }
    harness.discard_frames(alice);
    let narrow = harness.token("alice", rights(&[], &[], &[]), 3600);
    let received = harness.auth(alice, &narrow, None);
    assert_eq!(received, ["auth_success alice", "unsubscribed operation:other forbidden"]);
    harness.send(worker, json!({"action": "operation_end", "operation_id": "own", "state": "completed"}));
    assert_eq!(harness.received(alice)[0], "operation own ended completed");
}

#[test]
fn a_newer_token_decides_about_publishing() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    let mute = harness.token("alice", rights(&["*"], &[], &[]), 3600);
    harness.auth(alice, &mute, None);
    assert_eq!(harness.publish(alice, "room", 1), ["error forbidden room"]);
    let wide = harness.token("alice", rights(&["*"], &["room"], &[]), 3600);
    harness.auth(alice, &wide, None);
    assert_eq!(harness.publish(alice, "room", 1), ["send_success 0 0 kept"]);
}

#[test]
fn a_user_id_in_a_pattern_is_ones_own_and_no_wildcard() {
    let mut harness = Harness::new();
    let own = || rights(&["in:{user_id}:*"], &["@user:{user_id}"], &[]);
    let star = harness.client_with("*", own());
    harness.subscribe(star, "elsewhere");
    let is_forbidden =
        |received: Vec<String>| received.last().is_some_and(|last| last.starts_with("error forbidden"));
    assert!(is_forbidden(harness.subscribe(star, "in:bob:x")));
    let to = |user: &str| json!({"action": "send", "user_id": user, "event": "say"});
    assert_eq!(harness.send(star, to("bob")), ["error forbidden"]);
    assert_eq!(
        harness.send(star, to("*")),
        ["say null", "send_success 1 0 kept"].map(|s| s.replace(" null", ""))
    );
    let bob = harness.client_with("bob", own());
    harness.subscribe(bob, "elsewhere");
    assert_eq!(harness.subscribe(bob, "in:bob:x"), ["subscription_succeeded in:bob:x 0"]);
    assert!(is_forbidden(harness.subscribe(bob, "in:bobby:x")));
}

#[test]
fn a_user_id_in_a_pattern_matches_no_anonymous_connection() {
    let rights = rights(&["in:{user_id}"], &[], &[]);
    let mut harness = Harness::with(Settings { anonymous: true, rights, ..Settings::default() });
    let nobody = harness.anonymous_client();
    harness.discard_frames(nobody);
    assert_eq!(harness.subscribe(nobody, "in:{user_id}")[1..], ["error forbidden in:{user_id}"]);
    assert_eq!(harness.subscribe(nobody, "in:"), ["error forbidden in:"]);
}

#[test]
fn sending_to_users_and_connections_has_rights_of_its_own() {
    let mut harness = Harness::new();
    let bob = harness.client("bob");
    let to_user = json!({"action": "send", "user_id": "bob", "event": "say"});
    let to_connection = json!({"action": "send", "connection_id": bob.to_string(), "event": "say"});
    let usual = harness.client("alice");
    assert_eq!(harness.send(usual, to_user.clone()), ["error forbidden"], "`*` reaches no user");
    assert_eq!(harness.send(usual, to_connection.clone()), ["send_success 1 0 false"]);
    let star = harness.client_with("carol", rights(&[], &["*"], &[]));
    assert_eq!(harness.send(star, to_connection.clone()), ["error forbidden"]);
    let some = harness.client_with("dave", rights(&[], &["@user:bo*", "@connection:x*"], &[]));
    assert_eq!(harness.send(some, to_user), ["send_success 1 0 kept"]);
    assert_eq!(harness.send(some, to_connection), ["error forbidden"]);
}

#[test]
fn an_error_for_a_missing_right_names_it() {
    let mut harness = Harness::new();
    let alice = harness.client_with("alice", rights(&[], &[], &[]));
    let requests = [
        (json!({"action": "subscribe", "channel": "payroll"}), "subscribe to payroll"),
        (json!({"action": "send", "channel": "payroll", "event": "say"}), "publish to payroll"),
        (json!({"action": "send", "user_id": "bob", "event": "say"}), "publish to @user:bob"),
        (json!({"action": "presence", "channel": "payroll"}), "subscribe to payroll"),
        (json!({"action": "operations", "channel": "payroll"}), "subscribe to payroll"),
    ];
    for (request, right) in requests {
        let answer = harness.request(alice, request.clone()).pop().unwrap();
        assert_eq!(answer["code"], "forbidden");
        assert!(answer["message"].as_str().unwrap().contains(right), "{answer}");
    }
}

#[test]
fn refreshing_is_free_of_the_request_rate() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    for _ in 0..60 {
        assert_eq!(harness.auth(alice, "alice", None), ["auth_success alice"]);
    }
    assert_eq!(harness.send(alice, json!({"action": "ping"})), ["pong"]);
}
