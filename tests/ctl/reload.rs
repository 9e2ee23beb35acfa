//! `wshubctl reload`.

use serde_json::{Value, json};

use crate::fake_hub::{HubSocket, end, stderr, stdout};

fn changes() -> Value {
    json!({
        "changed": [
            {"setting": "limits.burst", "from": "20", "to": "50"},
            {"file": "/etc/wshubd/jwt.key"},
        ],
        "warnings": [],
    })
}

#[test]
fn on_a_terminal_each_change_is_a_line() {
    let socket = HubSocket::new();
    let (terminal, mut peer) = socket.start_at_terminal(["reload"]);
    let request = peer.expect_line(json!({"action": "reload"}));
    peer.grant(&request, changes());
    let shown = "limits.burst: 20 -> 50\n/etc/wshubd/jwt.key: changed, read again\n";
    assert_eq!(terminal.end(), (Some(0), shown.to_owned()));
}

#[test]
fn a_reload_without_changes_is_reported() {
    let socket = HubSocket::new();
    let (terminal, mut peer) = socket.start_at_terminal(["reload"]);
    let request = peer.receive();
    peer.grant(&request, json!({"changed": [], "warnings": []}));
    assert_eq!(terminal.end(), (Some(0), "nothing has changed\n".to_owned()));
}

#[test]
fn piped_changes_are_one_object_without_the_warnings() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["reload"]);
    let request = peer.receive();
    let mut answer = changes();
    answer["warnings"] = json!(["auth.anonymous lets everybody in"]);
    peer.grant(&request, answer.clone());
    let output = end(child);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), format!("{answer}\n")));
    assert_eq!(stderr(&output), "wshubctl: warning: auth.anonymous lets everybody in\n");
}

#[test]
fn errors_of_a_reload_are_a_line_each_and_exit_with_one() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["reload"]);
    let request = peer.receive();
    peer.refuse(&request, "bad_configuration", "a.toml:1: no\u{1b}\nb.toml:2: neither");
    let output = end(child);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
    let told = "wshubctl: not reloaded; wshubd keeps its configuration:\n  a.toml:1: no\\u{1b}\n  b.toml:2: neither\n";
    assert_eq!(stderr(&output), told);
}

#[test]
fn a_reload_that_is_not_allowed_names_the_option() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["reload"]);
    let request = peer.receive();
    peer.refuse(&request, "forbidden", "this is for administrators");
    let output = end(child);
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("administrators"), "{}", stderr(&output));
}
