//! Revocation of tokens, and administration by token.
//!
//! Which tokens are refused is decided in the edge; here are the right to revoke, the time
//! of the answer, and the connections that are closed.

use std::rc::Rc;

use serde_json::{Value, json};
use wshubd::hub::{Input, Rights, Settings, Terms};
use wshubd::protocol::TokenId;

use super::harness::{ConnectionId, Harness, rights};

fn of_token(jti: &str) -> Terms {
    Terms { jti: Some(TokenId::new(jti).unwrap()), ..Terms::default() }
}

fn admin_rights() -> Rc<Rights> {
    Rc::new(Rights { admin: true, ..(*rights(&["*"], &["*"], &[])).clone() })
}

/// An administrator over a WebSocket.
fn root(harness: &mut Harness) -> ConnectionId {
    harness.client_with("root", admin_rights())
}

const REVOKE: &str = r#"{"action": "disconnect", "user_id": "alice", "revoke": true, "id": 7}"#;

fn revoke() -> Value {
    serde_json::from_str(REVOKE).unwrap()
}

#[test]
fn a_user_is_closed_once_the_revocation_is_on_the_disk() {
    let mut harness = Harness::new();
    let admin = harness.admin();
    let (alice, alice_too, bob) = (harness.client("alice"), harness.client("alice"), harness.client("bob"));
    assert!(harness.send(admin, revoke()).is_empty());
    assert_eq!(
        harness.publish(alice, "room", 1),
        ["send_success 0 0 kept"],
        "until then nothing has happened"
    );
    harness.revocation_is_written(true);
    let answer = harness.frames(admin).remove(0);
    assert_eq!(
        (&answer["type"], &answer["id"], &answer["disconnected"]),
        (&json!("ok"), &json!(7), &json!(2))
    );
    assert_eq!(answer["revoked_at"], harness.now.wall.to_string());
    for conn in [alice, alice_too] {
        assert_eq!(harness.received(conn), ["closed 4003"]);
    }
    assert!(harness.received(bob).is_empty());
}

#[test]
fn revoking_a_token_closes_the_connections_that_used_it() {
    let mut harness = Harness::new();
    let admin = harness.admin();
    let first = harness.client_with_terms("alice", of_token("t1"));
    let (same, other) = (
        harness.client_with_terms("alice", of_token("t1")),
        harness.client_with_terms("alice", of_token("t2")),
    );
    harness.hand_over();
    let newer = harness.token_with_terms("alice", of_token("t2"));
    harness.auth(same, &newer, None);
    assert!(harness.send(admin, json!({"action": "disconnect", "jti": "t1", "id": 1})).is_empty());
    harness.revocation_is_written(true);
    assert_eq!(harness.frames(admin)[0]["disconnected"], 1);
    assert_eq!(harness.received(first), ["closed 4003"]);
    assert!(harness.received(same).is_empty() && harness.received(other).is_empty());
}

#[test]
fn a_revocation_that_cannot_be_written_closes_nothing() {
    let mut harness = Harness::new();
    let (admin, alice) = (harness.admin(), harness.client("alice"));
    harness.send_unread(admin, &revoke());
    harness.revocation_is_written(false);
    let answer = harness.frames(admin).remove(0);
    assert_eq!((&answer["code"], &answer["action"]), (&json!("store_unavailable"), &json!("disconnect")));
    assert!(harness.received(alice).is_empty());
}

#[test]
fn a_revocation_holds_although_its_requester_left() {
    let mut harness = Harness::new();
    let (admin, alice) = (harness.admin(), harness.client("alice"));
    for is_written in [false, true] {
        harness.send_unread(admin, &revoke());
        if is_written {
            harness.disconnect(admin);
        }
        harness.revocation_is_written(is_written);
    }
    assert_eq!(harness.received(alice), ["closed 4003"]);
}

#[test]
fn revoking_ones_own_user_is_answered_before_the_close() {
    let mut harness = Harness::new();
    let admin = root(&mut harness);
    harness.send_unread(admin, &json!({"action": "disconnect", "user_id": "root", "revoke": true}));
    harness.revocation_is_written(true);
    assert_eq!(harness.received(admin), ["revoked", "closed 4003"]);
}

#[test]
fn a_revocation_names_exactly_a_user_or_a_token() {
    let mut harness = Harness::new();
    let admin = harness.admin();
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
        let answer = harness.request(admin, request.clone()).remove(0);
        assert!(answer["message"].as_str().unwrap().contains(field), "{request}: {answer}");
    }
    assert!(harness.revocations.is_empty());
}

#[test]
fn a_connection_revoked_in_another_process_is_closed() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.hand_over();
    harness.handle(Input::TokenRevoked { conn: alice });
    assert_eq!(harness.received(alice), ["closed 4003"]);
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
    let mut harness = Harness::new();
    let (local, remote) = (harness.admin(), root(&mut harness));
    harness.publish(remote, "room", 1);
    for (mut question, kind) in questions() {
        question["id"] = json!("q");
        let mut answers = [local, remote].map(|conn| harness.request(conn, question.clone()).remove(0));
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
    let mut harness = Harness::with(Settings { anonymous: true, ..Settings::default() });
    let (alice, nobody, root) = (harness.client("alice"), harness.anonymous_client(), root(&mut harness));
    harness.discard_frames(nobody);
    let mut all = questions();
    all.push((revoke(), ""));
    for (question, _) in all {
        for conn in [alice, nobody] {
            let answer = harness.request(conn, question.clone()).remove(0);
            assert_eq!(
                (&answer["type"], &answer["code"]),
                (&json!("error"), &json!("forbidden")),
                "{question}"
            );
        }
        harness.wait(1.0);
        harness.keep_alive(1);
    }
    for action in ["token", "reload", "revocations", "lift"] {
        let request = json!({"action": action, "user_id": "alice"});
        assert_eq!(harness.send(root, request), ["error unknown_action"], "{action}");
    }
    assert!(harness.revocations.is_empty());
}

#[test]
fn administration_is_rate_limited_and_ends_with_its_right() {
    let mut harness = Harness::new();
    let root = root(&mut harness);
    let asked: Vec<String> = (0..25).flat_map(|_| harness.send(root, json!({"action": "stats"}))).collect();
    assert_eq!(asked.iter().filter(|answer| *answer == "stats").count(), 20);
    assert_eq!(asked.iter().filter(|answer| *answer == "error rate_limited").count(), 5);
    harness.wait(1.0);
    let lesser = harness.token("root", rights(&["*"], &[], &[]), 3600);
    harness.auth(root, &lesser, None);
    assert_eq!(harness.send(root, json!({"action": "stats"})), ["error forbidden"]);
}

#[test]
fn an_administrator_lists_operations_of_any_channel() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "payroll"}));
    let deaf = Rc::new(Rights { admin: true, ..(*rights(&[], &[], &[])).clone() });
    let deaf = harness.client_with("root", deaf);
    let reply = harness.request(deaf, json!({"action": "operations", "channel": "payroll"})).remove(0);
    assert_eq!(reply["operations"][0]["operation_id"], "op");
    assert_eq!(
        harness.send(deaf, json!({"action": "presence", "channel": "payroll"})),
        ["error forbidden payroll"]
    );
}
