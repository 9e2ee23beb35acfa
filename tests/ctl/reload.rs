//! `wshubctl reload`.

use serde_json::{Value, json};

use crate::fake_hub::{Place, end, stderr, stdout};

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
    let place = Place::new();
    let (terminal, mut peer) = place.meet_at_terminal(["reload"]);
    let request = peer.expects(json!({"action": "reload"}));
    peer.grants(&request, changes());
    let shown = "limits.burst: 20 -> 50\n/etc/wshubd/jwt.key: read again, it has changed\n";
    assert_eq!(terminal.end(), (Some(0), shown.to_owned()));
}

#[test]
fn that_nothing_has_changed_is_said() {
    let place = Place::new();
    let (terminal, mut peer) = place.meet_at_terminal(["reload"]);
    let request = peer.hears();
    peer.grants(&request, json!({"changed": [], "warnings": []}));
    assert_eq!(terminal.end(), (Some(0), "nothing has changed\n".to_owned()));
}

#[test]
fn in_a_pipe_the_changes_are_one_object_and_warnings_go_elsewhere() {
    let place = Place::new();
    let (child, mut peer) = place.meet(["reload"]);
    let request = peer.hears();
    let mut answer = changes();
    answer["warnings"] = json!(["auth.anonymous lets everybody in"]);
    peer.grants(&request, answer.clone());
    let output = end(child);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), format!("{answer}\n")));
    assert_eq!(stderr(&output), "wshubctl: warning: auth.anonymous lets everybody in\n");
}

#[test]
fn mistakes_are_told_a_line_each_and_the_exit_code_says_that_nothing_was_done() {
    let place = Place::new();
    let (child, mut peer) = place.meet(["reload"]);
    let request = peer.hears();
    peer.refuses(&request, "bad_configuration", "a.toml:1: no\u{1b}\nb.toml:2: neither");
    let output = end(child);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
    let told =
        "wshubctl: not reloaded; wshubd goes on as before:\n  a.toml:1: no\\u{1b}\n  b.toml:2: neither\n";
    assert_eq!(stderr(&output), told);
}

#[test]
fn who_may_not_reload_learns_who_may() {
    let place = Place::new();
    let (child, mut peer) = place.meet(["reload"]);
    let request = peer.hears();
    peer.refuses(&request, "forbidden", "this is for administrators");
    let output = end(child);
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("administrators"), "{}", stderr(&output));
}
