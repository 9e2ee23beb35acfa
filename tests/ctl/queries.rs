//! `wshubctl interrupt`, `operations`, `status`, `token`, and the socket itself.

use serde_json::json;

use crate::fake_hub::{Place, end, program, stderr, stdout};

#[test]
fn an_interrupt_waits_for_its_final_outcome() {
    let place = Place::new();
    for (outcome, code) in [("delivered", 0), ("already_ended", 0), ("no_owner", 1)] {
        let (child, mut peer) = place.meet(["interrupt", "op", "--channel", "logs", "--reason", "enough"]);
        let request = peer.expects(
            json!({"action": "interrupt", "operation_id": "op", "channel": "logs", "reason": "enough"}),
        );
        peer.grants(&request, json!({"operation_id": "op", "outcome": "pending"}));
        peer.grants(&request, json!({"operation_id": "op", "outcome": outcome}));
        let output = end(child);
        assert_eq!((output.status.code(), stdout(&output)), (Some(code), format!("{outcome}\n")));
    }
}

#[test]
fn operations_in_a_pipe_are_one_object_a_line() {
    let place = Place::new();
    let (child, mut peer) = place.meet(["operations"]);
    let request = peer.expects(json!({"action": "operations"}));
    let running = json!({"operation_id": "a", "channel": "logs", "state": "started", "started_at": "t"});
    peer.says(json!({"type": "operations", "id": request["id"], "operations": [running, running]}));
    assert_eq!(stdout(&end(child)), format!("{running}\n{running}\n"));
}

#[test]
fn status_gives_the_numbers_and_nothing_of_the_conversation() {
    let place = Place::new();
    let (child, mut peer) = place.meet(["status"]);
    let request = peer.expects(json!({"action": "stats"}));
    peer.says(json!({"type": "stats", "id": request["id"], "workers": 1, "channels": 2}));
    assert_eq!(stdout(&end(child)), "{\"channels\":2,\"workers\":1}\n");
}

#[test]
fn a_new_token_is_alone_on_its_line() {
    let place = Place::new();
    let (child, mut peer) = place.meet(["token", "new", "--user", "alice", "--ttl", "2h"]);
    let request = peer.expects(json!({"action": "token", "user_id": "alice", "ttl": 7200.0}));
    peer.says(json!({"type": "token", "id": request["id"], "token": "a.b.c", "user_id": "alice"}));
    let output = end(child);
    assert_eq!((stdout(&output), stderr(&output)), ("a.b.c\n".to_owned(), String::new()));
}

#[test]
fn without_a_hub_the_path_is_named_and_what_to_do() {
    let output = program().args(["--socket", "/nonexistent/worker.sock", "status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = stderr(&output);
    assert!(said.contains("/nonexistent/worker.sock") && said.contains("is wshubd running?"), "{said}");
}

#[test]
fn the_socket_is_looked_for_where_daemons_put_it() {
    let place = Place::new();
    let directory = place.path().parent().unwrap().to_owned();
    let found = |name: &str, value: &std::path::Path| {
        let mut command = program();
        command.env_remove("WSHUBD_LISTEN__WORKER").env_remove("RUNTIME_DIRECTORY").env(name, value);
        let child = command.args(["token", "new", "--user", "u"]).spawn().unwrap();
        place.accept().expects(json!({"action": "token"}));
        assert_eq!(end(child).status.code(), Some(3));
    };
    found("WSHUBD_LISTEN__WORKER", &place.path());
    found("RUNTIME_DIRECTORY", &directory);
}

#[test]
fn a_socket_of_something_else_is_told_from_a_hub() {
    let place = Place::new();
    let (child, mut peer) = place.meet(["status"]);
    peer.hears();
    peer.says_text("220 mail.example ESMTP");
    let output = end(child);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("speaks no wshubd"), "{}", stderr(&output));
}

#[test]
fn help_teaches_by_an_example_everywhere() {
    for words in [
        vec!["--help"],
        vec!["pub", "--help"],
        vec!["sub", "--help"],
        vec!["interrupt", "--help"],
        vec!["operations", "--help"],
        vec!["status", "--help"],
        vec!["channels", "--help"],
        vec!["connections", "--help"],
        vec!["inbox", "--help"],
        vec!["disconnect", "--help"],
        vec!["purge", "--help"],
        vec!["reload", "--help"],
        vec!["token", "new", "--help"],
        vec!["token", "check", "--help"],
        vec!["run", "--help"],
    ] {
        let output = program().args(&words).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(stdout(&output).contains("Example"), "{words:?}");
    }
}

#[test]
fn a_wrong_command_line_exits_with_two() {
    for words in [
        vec!["pub"],
        vec!["sub"],
        vec!["run", "logs"],
        vec!["pub", "--to", "u", "a", "b"],
        vec!["pub", "--wait-read", "logs", "a"],
        vec!["pub", "--to", "u", "--timeout", "1s", "a"],
        vec!["pub", "--to", "u", "--wait-read", "--ttl", "0s", "a"],
        vec!["disconnect"],
        vec!["disconnect", "c", "--user", "u"],
        vec!["disconnect", "--revoke", "u", "--jti", "t"],
        vec!["disconnect", "--revoked", "u"],
        vec!["disconnect", "--lift"],
        vec!["token", "new", "--user", "u", "--rate", "10"],
        vec!["token", "new", "--user", "u", "--rate", "0", "--burst", "1"],
        vec!["token", "new", "--user", "u", "--rate", "inf", "--burst", "1"],
        vec!["token", "new", "--user", "u", "--info", "{name}"],
        vec!["purge"],
        vec!["purge", "c", "--user", "u"],
        vec!["token"],
        vec!["x"],
    ] {
        let place = Place::new();
        assert_eq!(end(place.start(&words)).status.code(), Some(2), "{words:?}");
    }
}
