//! Rights of a connection, and their changes.

use serde_json::json;
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{Credentials, Identity, Peer, Settings};
use wshubd::protocol::{InboxMode, UnixTime};

use super::bench::{Bench, Seat, rights, user_id};

fn client_until(bench: &mut Bench, seconds: u64) -> Seat {
    let expires_at = Some(UnixTime(bench.now.wall.0 + seconds * 1000));
    let identity =
        Identity { rights: Some(rights(&["*"], &[], &[])), expires_at, ..Identity::new(user_id("alice")) };
    let seat = bench.link(Peer::Client {
        credentials: Credentials::Verified(identity),
        inbox: InboxMode::Auto,
        network: None,
    });
    bench.hush(seat);
    seat
}

fn history() -> Bench {
    let policy = Policy { keep: Keep::History, ..Policy::default() };
    Bench::with(Settings { policy, ..Settings::default() })
}

#[test]
fn a_token_is_announced_to_expire_sixty_seconds_ahead() {
    let mut bench = Bench::new();
    let alice = client_until(&mut bench, 300);
    bench.live(239);
    assert!(bench.story(alice).is_empty());
    bench.live(1);
    let told = bench.frames(alice);
    assert_eq!((told.len(), &told[0]["type"]), (1, &json!("token_expiring")));
    assert_eq!(told[0]["expires_at"], json!("2027-01-15T08:05:00.000Z"));
    bench.live(59);
    assert!(bench.story(alice).is_empty(), "once");
    bench.live(1);
    assert_eq!(bench.story(alice), ["closed 4204"]);
}

#[test]
fn a_token_expiring_within_a_minute_is_announced_at_once() {
    let mut bench = Bench::new();
    let alice = client_until(&mut bench, 30);
    bench.live(1);
    assert_eq!(bench.story(alice), ["token_expiring"]);
    bench.live(29);
    assert_eq!(bench.story(alice), ["closed 4204"]);
}

#[test]
fn a_newer_token_extends_and_is_announced_in_turn() {
    let mut bench = Bench::new();
    let alice = client_until(&mut bench, 100);
    bench.live(50);
    assert_eq!(bench.story(alice), ["token_expiring"]);
    let newer = bench.token("alice", rights(&["*"], &[], &[]), 200);
    assert_eq!(bench.auth(alice, &newer, None), ["auth_success alice"]);
    bench.live(139);
    assert!(bench.story(alice).is_empty());
    bench.live(1);
    assert_eq!(bench.story(alice), ["token_expiring"]);
    bench.live(60);
    assert_eq!(bench.story(alice), ["closed 4204"]);
}

#[test]
fn a_newer_token_may_expire_sooner() {
    let mut bench = Bench::new();
    let alice = client_until(&mut bench, 3600);
    let shorter = bench.token("alice", rights(&["*"], &[], &[]), 90);
    bench.auth(alice, &shorter, None);
    bench.live(30);
    assert_eq!(bench.story(alice), ["token_expiring"]);
    bench.live(60);
    assert_eq!(bench.story(alice), ["closed 4204"]);
}

#[test]
fn an_invalid_token_changes_nothing() {
    let mut bench = Bench::new();
    let alice = client_until(&mut bench, 70);
    bench.subscribe(alice, "room");
    let old = bench.token("alice", rights(&["*"], &[], &[]), 5);
    bench.live(6);
    bench.hush(alice);
    assert_eq!(bench.auth(alice, &old, None), ["auth_failed token_expired"]);
    assert_eq!(bench.auth(alice, "bad", None), ["auth_failed token_invalid"]);
    bench.publish(alice, "nowhere", 1);
    let worker = bench.worker();
    bench.say(worker, json!({"channel": "room", "event": "say", "data": 1}));
    assert_eq!(bench.story(alice).last().unwrap(), "say 1", "what it hears it goes on hearing");
    bench.live(64);
    assert_eq!(bench.story(alice), ["token_expiring", "closed 4204"], "the old one still ends");
}

#[test]
fn a_connection_keeps_its_user() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    assert_eq!(bench.auth(alice, "bob", None), ["error forbidden"]);
    let worker = bench.worker();
    bench.say(worker, json!({"user_id": "alice", "event": "say", "data": 1}));
    bench.say(worker, json!({"user_id": "bob", "event": "say", "data": 2}));
    assert_eq!(bench.story(alice), ["say 1"]);
}

#[test]
fn an_anonymous_connection_gains_a_user_once_with_its_rights() {
    let settings = Settings { anonymous: true, rights: rights(&["open"], &[], &[]), ..Settings::default() };
    let mut bench = Bench::with(settings);
    let seat = bench.stranger();
    bench.subscribe(seat, "open");
    assert_eq!(bench.subscribe(seat, "team"), ["error forbidden team"]);
    bench.hush(seat);
    let token = bench.token("alice", rights(&["open", "team"], &[], &[]), 3600);
    assert_eq!(bench.auth(seat, &token, None), ["auth_success alice"]);
    assert_eq!(bench.subscribe(seat, "team"), ["subscription_succeeded team 0"]);
    let worker = bench.worker();
    bench.say(worker, json!({"channel": "open", "event": "say", "data": 1}));
    assert_eq!(bench.story(seat), ["say 1"]);
    assert_eq!(bench.auth(seat, "bob", None), ["error forbidden"]);
    assert_eq!(bench.auth(seat, &token, None), ["auth_success alice"], "its own it may refresh");
}

#[test]
fn a_connection_that_gains_a_user_joins_its_channels() {
    let mut bench = Bench::open();
    let (seat, watcher) = (bench.stranger(), bench.client("watcher"));
    bench.subscribe(seat, "room");
    bench.say(watcher, json!({"action": "subscribe", "channel": "room", "presence": true}));
    assert!(bench.story(watcher).is_empty());
    bench.auth(seat, "alice", None);
    assert_eq!(bench.story(watcher), ["user_joined alice"]);
}

#[test]
fn a_narrower_token_ends_some_subscriptions_only() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    for channel in ["a", "b", "c"] {
        bench.subscribe(alice, channel);
    }
    let narrow = bench.token("alice", rights(&["b"], &[], &[]), 3600);
    let heard = bench.auth(alice, &narrow, None);
    assert_eq!(heard[0], "auth_success alice");
    let mut ended = heard[1..].to_vec();
    ended.sort();
    assert_eq!(ended, ["unsubscribed a forbidden", "unsubscribed c forbidden"]);
    let worker = bench.worker();
    for channel in ["a", "b", "c"] {
        bench.say(worker, json!({"channel": channel, "event": "say", "data": channel}));
    }
    assert_eq!(bench.story(alice), ["say b"]);
    assert_eq!(bench.subscribe(alice, "a"), ["error forbidden a"]);
}

#[test]
fn a_narrower_token_ends_a_replay() {
    let mut bench = history();
    let alice = bench.client("alice");
    let worker = bench.worker();
    for n in 1..=200 {
        bench.say(worker, json!({"channel": "orders", "event": "say", "data": n}));
    }
    let since = json!({"epoch": "", "seq": 0});
    bench.clog(alice);
    bench.say(alice, json!({"action": "subscribe", "channel": "orders", "since": since}));
    bench.drain(alice, 10);
    let narrow = bench.token("alice", rights(&["other"], &[], &[]), 3600);
    assert_eq!(bench.auth(alice, &narrow, None), ["auth_success alice", "unsubscribed orders forbidden"]);
    bench.unclog(alice);
    assert!(bench.story(alice).is_empty(), "nothing comes after it");
}

#[test]
fn a_narrower_token_ends_a_replay_before_the_store_answers() {
    let mut bench = history();
    let alice = bench.client("alice");
    let worker = bench.worker();
    bench.say(worker, json!({"channel": "orders", "event": "say", "data": 1}));
    bench.slow_store = true;
    let since = json!({"epoch": "", "seq": 0});
    bench.say(alice, json!({"action": "subscribe", "channel": "orders", "since": since}));
    let narrow = bench.token("alice", rights(&[], &[], &[]), 3600);
    bench.auth(alice, &narrow, None);
    bench.store_answers();
    assert!(bench.story(alice).is_empty());
}

#[test]
fn a_narrower_token_does_not_take_the_inbox() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    let narrow = bench.token("alice", rights(&[], &[], &[]), 3600);
    assert_eq!(bench.auth(alice, &narrow, None), ["auth_success alice"]);
    let worker = bench.worker();
    bench.say(worker, json!({"user_id": "alice", "event": "say", "data": 1}));
    assert_eq!(bench.story(alice), ["say 1"]);
}

#[test]
fn a_narrower_token_keeps_the_channel_of_ones_own_operation() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    for (id, user) in [("own", json!("alice")), ("other", json!("bob"))] {
        let line =
            json!({"action": "operation_start", "operation_id": id, "channel": "jobs", "user_id": user});
        bench.say(worker, line);
        bench.subscribe(alice, &format!("operation:{id}"));
    }
    bench.hush(alice);
    let narrow = bench.token("alice", rights(&[], &[], &[]), 3600);
    let heard = bench.auth(alice, &narrow, None);
    assert_eq!(heard, ["auth_success alice", "unsubscribed operation:other forbidden"]);
    bench.say(worker, json!({"action": "operation_end", "operation_id": "own", "state": "completed"}));
    assert_eq!(bench.story(alice)[0], "operation own ended completed");
}

#[test]
fn a_newer_token_decides_about_publishing() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    let mute = bench.token("alice", rights(&["*"], &[], &[]), 3600);
    bench.auth(alice, &mute, None);
    assert_eq!(bench.publish(alice, "room", 1), ["error forbidden room"]);
    let wide = bench.token("alice", rights(&["*"], &["room"], &[]), 3600);
    bench.auth(alice, &wide, None);
    assert_eq!(bench.publish(alice, "room", 1), ["send_success 0 0 kept"]);
}

#[test]
fn a_user_id_in_a_pattern_is_ones_own_and_no_wildcard() {
    let mut bench = Bench::new();
    let own = || rights(&["in:{user_id}:*"], &["@user:{user_id}"], &[]);
    let star = bench.client_with("*", own());
    bench.subscribe(star, "elsewhere");
    let is_forbidden =
        |heard: Vec<String>| heard.last().is_some_and(|last| last.starts_with("error forbidden"));
    assert!(is_forbidden(bench.subscribe(star, "in:bob:x")));
    let to = |user: &str| json!({"action": "send", "user_id": user, "event": "say"});
    assert_eq!(bench.say(star, to("bob")), ["error forbidden"]);
    assert_eq!(
        bench.say(star, to("*")),
        ["say null", "send_success 1 0 kept"].map(|s| s.replace(" null", ""))
    );
    let bob = bench.client_with("bob", own());
    bench.subscribe(bob, "elsewhere");
    assert_eq!(bench.subscribe(bob, "in:bob:x"), ["subscription_succeeded in:bob:x 0"]);
    assert!(is_forbidden(bench.subscribe(bob, "in:bobby:x")));
}

#[test]
fn a_user_id_in_a_pattern_matches_no_anonymous_connection() {
    let rights = rights(&["in:{user_id}"], &[], &[]);
    let mut bench = Bench::with(Settings { anonymous: true, rights, ..Settings::default() });
    let nobody = bench.stranger();
    bench.hush(nobody);
    assert_eq!(bench.subscribe(nobody, "in:{user_id}")[1..], ["error forbidden in:{user_id}"]);
    assert_eq!(bench.subscribe(nobody, "in:"), ["error forbidden in:"]);
}

#[test]
fn sending_to_users_and_connections_has_rights_of_its_own() {
    let mut bench = Bench::new();
    let bob = bench.client("bob");
    let to_user = json!({"action": "send", "user_id": "bob", "event": "say"});
    let to_connection = json!({"action": "send", "connection_id": bob.to_string(), "event": "say"});
    let usual = bench.client("alice");
    assert_eq!(bench.say(usual, to_user.clone()), ["error forbidden"], "`*` reaches no user");
    assert_eq!(bench.say(usual, to_connection.clone()), ["send_success 1 0 false"]);
    let star = bench.client_with("carol", rights(&[], &["*"], &[]));
    assert_eq!(bench.say(star, to_connection.clone()), ["error forbidden"]);
    let some = bench.client_with("dave", rights(&[], &["@user:bo*", "@connection:x*"], &[]));
    assert_eq!(bench.say(some, to_user), ["send_success 1 0 kept"]);
    assert_eq!(bench.say(some, to_connection), ["error forbidden"]);
}

#[test]
fn an_error_for_a_missing_right_names_it() {
    let mut bench = Bench::new();
    let alice = bench.client_with("alice", rights(&[], &[], &[]));
    let requests = [
        (json!({"action": "subscribe", "channel": "payroll"}), "subscribe to payroll"),
        (json!({"action": "send", "channel": "payroll", "event": "say"}), "publish to payroll"),
        (json!({"action": "send", "user_id": "bob", "event": "say"}), "publish to @user:bob"),
        (json!({"action": "presence", "channel": "payroll"}), "subscribe to payroll"),
        (json!({"action": "operations", "channel": "payroll"}), "subscribe to payroll"),
    ];
    for (request, right) in requests {
        let answer = bench.ask(alice, request.clone()).pop().unwrap();
        assert_eq!(answer["code"], "forbidden");
        assert!(answer["message"].as_str().unwrap().contains(right), "{answer}");
    }
}

#[test]
fn refreshing_is_free_of_the_request_rate() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    for _ in 0..60 {
        assert_eq!(bench.auth(alice, "alice", None), ["auth_success alice"]);
    }
    assert_eq!(bench.say(alice, json!({"action": "ping"})), ["pong"]);
}
