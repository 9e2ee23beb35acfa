//! `wshubctl interrupt`, `operations`, `status`, `token`, and the socket itself.

use serde_json::json;

use crate::fake_hub::{HubSocket, end, program, stderr, stdout};

#[test]
fn an_interrupt_waits_for_its_final_outcome() {
    let socket = HubSocket::new();
    for (outcome, code) in [("delivered", 0), ("already_ended", 0), ("no_owner", 1)] {
        let (child, mut peer) =
            socket.start_connected(["interrupt", "op", "--channel", "logs", "--reason", "enough"]);
        let request = peer.expect_line(
            json!({"action": "interrupt", "operation_id": "op", "channel": "logs", "reason": "enough"}),
        );
        peer.grant(&request, json!({"operation_id": "op", "outcome": "pending"}));
        peer.grant(&request, json!({"operation_id": "op", "outcome": outcome}));
        let output = end(child);
        assert_eq!((output.status.code(), stdout(&output)), (Some(code), format!("{outcome}\n")));
    }
}

#[test]
fn operations_in_a_pipe_are_one_object_a_line() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["operations"]);
    let request = peer.expect_line(json!({"action": "operations"}));
    let running = json!({"operation_id": "a", "channel": "logs", "state": "started", "started_at": "t"});
    peer.send(json!({"type": "operations", "id": request["id"], "operations": [running, running]}));
    assert_eq!(stdout(&end(child)), format!("{running}\n{running}\n"));
}

#[test]
fn status_prints_the_numbers_without_type_and_id() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["status"]);
    let request = peer.expect_line(json!({"action": "stats"}));
    peer.send(json!({"type": "stats", "id": request["id"], "workers": 1, "channels": 2}));
    assert_eq!(stdout(&end(child)), "{\"channels\":2,\"workers\":1}\n");
}

#[test]
fn a_new_token_is_alone_on_its_line() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["token", "new", "--user", "alice", "--ttl", "2h"]);
    let request = peer.expect_line(json!({"action": "token", "user_id": "alice", "ttl": 7200.0}));
    peer.send(json!({"type": "token", "id": request["id"], "token": "a.b.c", "user_id": "alice"}));
    let output = end(child);
    assert_eq!((stdout(&output), stderr(&output)), ("a.b.c\n".to_owned(), String::new()));
}

#[test]
fn without_a_hub_the_path_and_the_next_step_are_named() {
    let output = program().args(["--socket", "/nonexistent/worker.sock", "status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = stderr(&output);
    assert!(said.contains("/nonexistent/worker.sock") && said.contains("is wshubd running?"), "{said}");
}

#[test]
fn the_socket_is_looked_for_where_daemons_put_it() {
    let socket = HubSocket::new();
    let directory = socket.path().parent().unwrap().to_owned();
    let found = |name: &str, value: &std::path::Path| {
        let mut command = program();
        command.env_remove("WSHUBD_LISTEN__WORKER").env_remove("RUNTIME_DIRECTORY").env(name, value);
        let child = command.args(["token", "new", "--user", "u"]).spawn().unwrap();
        socket.accept().expect_line(json!({"action": "token"}));
        assert_eq!(end(child).status.code(), Some(3));
    };
    found("WSHUBD_LISTEN__WORKER", &socket.path());
    found("RUNTIME_DIRECTORY", &directory);
}

#[test]
fn a_socket_of_another_program_is_recognized() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["status"]);
    peer.receive();
    peer.send_text("220 mail.example ESMTP");
    let output = end(child);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is not wshubd"), "{}", stderr(&output));
}

#[test]
fn every_help_has_an_example() {
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
        let socket = HubSocket::new();
        assert_eq!(end(socket.start(&words)).status.code(), Some(2), "{words:?}");
    }
}
