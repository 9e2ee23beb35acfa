//! Revocation of tokens, and administration by token.
//!
//! Which tokens are refused is decided in the edge; here are the right to revoke, the time
//! of the answer, and the connections that are closed.

use std::rc::Rc;

use serde_json::{Value, json};
use wshubd::hub::{Input, Rights, Settings, Terms};
use wshubd::protocol::TokenId;

use super::bench::{Bench, Seat, rights};

fn of_token(jti: &str) -> Terms {
    Terms { jti: Some(TokenId::new(jti).unwrap()), ..Terms::default() }
}

fn admin_rights() -> Rc<Rights> {
    Rc::new(Rights { admin: true, ..(*rights(&["*"], &["*"], &[])).clone() })
}

/// An administrator over a WebSocket.
fn root(bench: &mut Bench) -> Seat {
    bench.client_with("root", admin_rights())
}

const REVOKE: &str = r#"{"action": "disconnect", "user_id": "alice", "revoke": true, "id": 7}"#;

fn revoke() -> Value {
    serde_json::from_str(REVOKE).unwrap()
}

#[test]
fn a_user_is_closed_once_the_revocation_is_on_the_disk() {
    let mut bench = Bench::new();
    let admin = bench.admin();
    let (alice, alice_too, bob) = (bench.client("alice"), bench.client("alice"), bench.client("bob"));
    assert!(bench.say(admin, revoke()).is_empty());
    assert_eq!(bench.publish(alice, "room", 1), ["send_success 0 0 kept"], "until then nothing has happened");
    bench.revocation_is_written(true);
    let answer = bench.frames(admin).remove(0);
    assert_eq!(
        (&answer["type"], &answer["id"], &answer["disconnected"]),
        (&json!("ok"), &json!(7), &json!(2))
    );
    assert_eq!(answer["revoked_at"], bench.now.wall.to_string());
    for seat in [alice, alice_too] {
        assert_eq!(bench.story(seat), ["closed 4003"]);
    }
    assert!(bench.story(bob).is_empty());
}

#[test]
fn revoking_a_token_closes_the_connections_that_used_it() {
    let mut bench = Bench::new();
    let admin = bench.admin();
    let first = bench.client_on("alice", of_token("t1"));
    let (same, other) = (bench.client_on("alice", of_token("t1")), bench.client_on("alice", of_token("t2")));
    bench.hand_over();
    let newer = bench.token_on("alice", of_token("t2"));
    bench.auth(same, &newer, None);
    assert!(bench.say(admin, json!({"action": "disconnect", "jti": "t1", "id": 1})).is_empty());
    bench.revocation_is_written(true);
    assert_eq!(bench.frames(admin)[0]["disconnected"], 1);
    assert_eq!(bench.story(first), ["closed 4003"]);
    assert!(bench.story(same).is_empty() && bench.story(other).is_empty());
}

#[test]
fn a_revocation_that_cannot_be_written_closes_nothing() {
    let mut bench = Bench::new();
    let (admin, alice) = (bench.admin(), bench.client("alice"));
    bench.tell(admin, &revoke());
    bench.revocation_is_written(false);
    let answer = bench.frames(admin).remove(0);
    assert_eq!((&answer["code"], &answer["action"]), (&json!("store_unavailable"), &json!("disconnect")));
    assert!(bench.story(alice).is_empty());
}

#[test]
fn a_revocation_holds_although_its_requester_left() {
    let mut bench = Bench::new();
    let (admin, alice) = (bench.admin(), bench.client("alice"));
    for is_written in [false, true] {
        bench.tell(admin, &revoke());
        if is_written {
            bench.leave(admin);
        }
        bench.revocation_is_written(is_written);
    }
    assert_eq!(bench.story(alice), ["closed 4003"]);
}

#[test]
fn revoking_ones_own_user_is_answered_before_the_close() {
    let mut bench = Bench::new();
    let admin = root(&mut bench);
    bench.tell(admin, &json!({"action": "disconnect", "user_id": "root", "revoke": true}));
    bench.revocation_is_written(true);
    assert_eq!(bench.story(admin), ["revoked", "closed 4003"]);
}

#[test]
fn a_revocation_names_exactly_a_user_or_a_token() {
    let mut bench = Bench::new();
    let admin = bench.admin();
    for (request, field) in [
        (json!({"revoke": true}), "`user_id` and `jti`"),
        (json!({"user_id": "a", "jti": "b"}), "`user_id` and `jti`"),
        (json!({"connection_id": "a", "jti": "b"}), "`revoke`"),
        (json!({"connection_id": "a", "revoke": true}), "`revoke`"),
        (json!({"user_id": "a", "revoke": "yes"}), "`revoke`"),
        (json!({"user_id": "", "revoke": true}), "`user_id`"),
        (json!({"jti": "a\u{200b}b"}), "`jti`"),
        (json!({"jti": ["a"]}), "`jti`"),
        (json!({"jti": "x".repeat(129)}), "`jti`"),
    ] {
        let mut request = request;
        request["action"] = json!("disconnect");
        let answer = bench.ask(admin, request.clone()).remove(0);
        assert!(answer["message"].as_str().unwrap().contains(field), "{request}: {answer}");
    }
    assert!(bench.revocations.is_empty());
}

#[test]
fn a_connection_revoked_in_another_process_is_closed() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    bench.hand_over();
    bench.handle(Input::TokenRevoked { conn: alice });
    assert_eq!(bench.story(alice), ["closed 4003"]);
}

/// What administrators ask on both sockets, and how that is answered.
fn questions() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"action": "stats"}), "stats"),
        (json!({"action": "connections"}), "connections"),
        (json!({"action": "channels"}), "channels"),
        (json!({"action": "inbox"}), "inboxes"),
        (json!({"action": "inbox", "user_id": "alice"}), "inbox"),
        (json!({"action": "operations"}), "operations"),
        (json!({"action": "purge", "channel": "room"}), "purged"),
        (json!({"action": "disconnect", "user_id": "nobody"}), "disconnected"),
    ]
}

#[test]
fn an_admin_token_has_the_requests_of_the_worker_socket() {
    let mut bench = Bench::new();
    let (local, remote) = (bench.admin(), root(&mut bench));
    bench.publish(remote, "room", 1);
    for (mut question, kind) in questions() {
        question["id"] = json!("q");
        let mut answers = [local, remote].map(|seat| bench.ask(seat, question.clone()).remove(0));
        assert_eq!((&answers[0]["type"], &answers[1]["type"]), (&json!("ok"), &json!(kind)), "{question}");
        let [local, remote] = &mut answers;
        local["type"].take();
        remote["type"].take();
        for one in ["requests_refused", "purged"] {
            local[one].take();
            remote[one].take();
        }
        assert_eq!(local, remote, "{question}");
    }
}

#[test]
fn other_tokens_do_not_administer_and_none_makes_tokens() {
    let mut bench = Bench::with(Settings { anonymous: true, ..Settings::default() });
    let (alice, nobody, root) = (bench.client("alice"), bench.stranger(), root(&mut bench));
    bench.hush(nobody);
    let mut all = questions();
    all.push((revoke(), ""));
    for (question, _) in all {
        for seat in [alice, nobody] {
            let answer = bench.ask(seat, question.clone()).remove(0);
            assert_eq!(
                (&answer["type"], &answer["code"]),
                (&json!("error"), &json!("forbidden")),
                "{question}"
            );
        }
        bench.wait(1.0);
        bench.live(1);
    }
    for action in ["token", "reload", "revocations", "lift"] {
        let request = json!({"action": action, "user_id": "alice"});
        assert_eq!(bench.say(root, request), ["error unknown_action"], "{action}");
    }
    assert!(bench.revocations.is_empty());
}

#[test]
fn administration_is_rate_limited_and_ends_with_its_right() {
    let mut bench = Bench::new();
    let root = root(&mut bench);
    let asked: Vec<String> = (0..25).flat_map(|_| bench.say(root, json!({"action": "stats"}))).collect();
    assert_eq!(asked.iter().filter(|answer| *answer == "stats").count(), 20);
    assert_eq!(asked.iter().filter(|answer| *answer == "error rate_limited").count(), 5);
    bench.wait(1.0);
    let lesser = bench.token("root", rights(&["*"], &[], &[]), 3600);
    bench.auth(root, &lesser, None);
    assert_eq!(bench.say(root, json!({"action": "stats"})), ["error forbidden"]);
}

#[test]
fn an_administrator_lists_operations_of_any_channel() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "payroll"}));
    let deaf = Rc::new(Rights { admin: true, ..(*rights(&[], &[], &[])).clone() });
    let deaf = bench.client_with("root", deaf);
    let told = bench.ask(deaf, json!({"action": "operations", "channel": "payroll"})).remove(0);
    assert_eq!(told["operations"][0]["operation_id"], "op");
    assert_eq!(
        bench.say(deaf, json!({"action": "presence", "channel": "payroll"})),
        ["error forbidden payroll"]
    );
}
