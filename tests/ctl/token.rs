//! `wshubctl token check`.

use std::io::Write;

use serde_json::{Value, json};
use wshubd::edge::clock;
use wshubd::protocol::UnixTime;

use crate::hub::{Place, end, stderr, stdout};

fn holds(expires_at: &str) -> Value {
    json!({
        "valid": true, "user_id": "alice", "expires_at": expires_at, "alg": "HS256", "kid": "a",
        "rights": {
            "from": "token", "subscribe": ["logs:*", "room:7"], "publish": [], "interrupt": ["*"], "admin": true,
        },
    })
}

fn expired() -> Value {
    json!({"valid": false, "code": "token_expired", "message": "the token ended, 3h ago"})
}

#[test]
fn a_token_is_read_from_the_standard_input_or_given() {
    let place = Place::new();
    for words in [vec!["token", "check"], vec!["token", "check", "-"], vec!["token", "check", "a.b.c"]] {
        let (mut child, mut peer) = place.meet(&words);
        child.stdin.take().unwrap().write_all(b"  a.b.c\r\n\n").unwrap();
        let request = peer.expects(json!({"action": "token", "token": "a.b.c", "user_id": null}));
        peer.grants(&request, expired());
        assert_eq!(end(child).status.code(), Some(1), "{words:?}");
    }
}

#[test]
fn in_a_pipe_the_verdict_is_one_object_and_decides_the_exit_code() {
    let place = Place::new();
    for (verdict, code) in [(holds("2026-03-01T13:00:00.000Z"), 0), (expired(), 1)] {
        let (child, mut peer) = place.meet(["token", "check", "a.b.c"]);
        let request = peer.hears();
        peer.grants(&request, verdict.clone());
        let output = end(child);
        assert_eq!((output.status.code(), stdout(&output)), (Some(code), format!("{verdict}\n")));
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn on_a_terminal_a_token_that_holds_shows_what_it_allows() {
    let place = Place::new();
    let (terminal, mut peer) = place.meet_at_terminal(["token", "check", "a.b.c"]);
    let request = peer.hears();
    let end = UnixTime(clock::now().wall.0 + 3_630_000).to_string();
    peer.grants(&request, holds(&end));
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0));
    let expected = [
        "valid for    alice",
        &format!("ends         {end}, in 1h"),
        "key          HS256 with the kid a",
        "subscribe    logs:*, room:7",
        "publish      nothing",
        "interrupt    *",
        "admin        yes",
        "rights from  the token",
    ];
    assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn on_a_terminal_a_token_without_an_end_never_ends_and_what_is_unusual_is_noted() {
    let place = Place::new();
    let (terminal, mut peer) = place.meet_at_terminal(["token", "check", "a.b.c"]);
    let request = peer.hears();
    let verdict = json!({
        "valid": true, "user_id": "alice", "alg": "ES256", "warnings": ["its `kid` \u{1b}[1m is not looked at", "more"],
    });
    peer.grants(&request, verdict);
    let expected = "valid for  alice\nends       never\nkey        ES256\n\
                    warning    its `kid` \\u{1b}[1m is not looked at\nwarning    more\n";
    assert_eq!(terminal.end(), (Some(0), expected.to_owned()));
}

#[test]
fn on_a_terminal_a_token_that_fails_is_told_why() {
    let place = Place::new();
    let (terminal, mut peer) = place.meet_at_terminal(["token", "check", "a.b.c"]);
    let request = peer.hears();
    peer.grants(&request, expired());
    let said = "not valid: the token ended, 3h ago (token_expired)\n";
    assert_eq!(terminal.end(), (Some(1), said.to_owned()));
}

#[test]
fn no_token_at_all_is_a_mistake_of_the_caller() {
    let place = Place::new();
    let (child, peer) = place.meet(["token", "check"]);
    let output = end(child);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no token"), "{}", stderr(&output));
    peer.has_left();
}
