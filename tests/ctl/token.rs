//! `wshubctl token check`, and what `token new` asks for.

use std::io::Write;

use serde_json::{Value, json};
use wshubd::edge::clock;
use wshubd::protocol::UnixTime;

use crate::fake_hub::{HubSocket, end, stderr, stdout};

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
    let socket = HubSocket::new();
    for words in [vec!["token", "check"], vec!["token", "check", "-"], vec!["token", "check", "a.b.c"]] {
        let (mut child, mut peer) = socket.start_connected(&words);
        child.stdin.take().unwrap().write_all(b"  a.b.c\r\n\n").unwrap();
        let request = peer.expect_line(json!({"action": "token", "token": "a.b.c", "user_id": null}));
        peer.grant(&request, expired());
        assert_eq!(end(child).status.code(), Some(1), "{words:?}");
    }
}

#[test]
fn a_piped_verdict_is_one_object_and_decides_the_exit_code() {
    let socket = HubSocket::new();
    for (verdict, code) in [(holds("2026-03-01T13:00:00.000Z"), 0), (expired(), 1)] {
        let (child, mut peer) = socket.start_connected(["token", "check", "a.b.c"]);
        let request = peer.receive();
        peer.grant(&request, verdict.clone());
        let output = end(child);
        assert_eq!((output.status.code(), stdout(&output)), (Some(code), format!("{verdict}\n")));
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn on_a_terminal_a_token_that_holds_shows_what_it_allows() {
    let socket = HubSocket::new();
    let (terminal, mut peer) = socket.start_at_terminal(["token", "check", "a.b.c"]);
    let request = peer.receive();
    let end = UnixTime(clock::now().wall.0 + 3_630_000).to_string();
    let mut holds = holds(&end);
    holds["warnings"] = json!(["its claim `wshub` has members that mean nothing"]);
    peer.grant(&request, holds);
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
        "warning      its claim `wshub` has members that mean nothing",
    ];
    assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn on_a_terminal_a_token_without_an_end_shows_its_warnings() {
    let socket = HubSocket::new();
    let (terminal, mut peer) = socket.start_at_terminal(["token", "check", "a.b.c"]);
    let request = peer.receive();
    let verdict = json!({
        "valid": true, "user_id": "alice", "alg": "ES256", "warnings": ["its `kid` \u{1b}[1m is not looked at", "more"],
    });
    peer.grant(&request, verdict);
    let expected = "valid for  alice\nends       never\nkey        ES256\n\
                    warning    its `kid` \\u{1b}[1m is not looked at\nwarning    more\n";
    assert_eq!(terminal.end(), (Some(0), expected.to_owned()));
}

#[test]
fn on_a_terminal_a_token_that_fails_has_its_reason() {
    let socket = HubSocket::new();
    let (terminal, mut peer) = socket.start_at_terminal(["token", "check", "a.b.c"]);
    let request = peer.receive();
    peer.grant(&request, expired());
    let said = "not valid: the token ended, 3h ago (token_expired)\n";
    assert_eq!(terminal.end(), (Some(1), said.to_owned()));
}

#[test]
fn no_token_at_all_is_an_error_of_the_caller() {
    let socket = HubSocket::new();
    let (child, peer) = socket.start_connected(["token", "check"]);
    let output = end(child);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no token"), "{}", stderr(&output));
    peer.expect_end();
}

#[test]
fn a_token_is_asked_for_with_limits_and_with_what_others_see() {
    let socket = HubSocket::new();
    let info = r#"{"name": "Ada", "n": 12345678901234567890123}"#;
    let words = ["token", "new", "--user", "ada", "--rate", "0.5", "--burst", "1000", "--info", info];
    let (child, mut peer) = socket.start_connected(words);
    let limits = json!({"rate": 0.5, "burst": 1000.0});
    let request = peer.expect_line(json!({"action": "token", "user_id": "ada", "limits": limits}));
    assert_eq!(request["info"]["name"], "Ada");
    peer.grant(&request, json!({"token": "a.b.c"}));
    assert_eq!(stdout(&end(child)), "a.b.c\n");
    let (child, mut peer) = socket.start_connected(["token", "new", "--user", "ada"]);
    let request = peer.receive();
    assert_eq!((request.get("limits"), request.get("info")), (None, None));
    peer.grant(&request, json!({"token": "a.b.c"}));
    end(child);
}

#[test]
fn on_a_terminal_a_token_shows_its_limits_its_info_and_its_id() {
    let socket = HubSocket::new();
    let (terminal, mut peer) = socket.start_at_terminal(["token", "check", "a.b.c"]);
    let request = peer.receive();
    let mut verdict = holds("2026-03-01T13:00:00.000Z");
    verdict["limits"] = json!({"rate": 2.5, "burst": 30});
    verdict["info"] = json!({"name": "A\u{202e}da"});
    verdict["jti"] = json!("t1");
    peer.grant(&request, verdict);
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0));
    assert!(shown.contains("2.5 requests a second, 30 at once"), "{shown}");
    assert!(shown.contains("jti") && shown.contains("t1"), "{shown}");
    assert!(shown.contains("name") && !shown.contains('\u{202e}'), "{shown}");
}

#[test]
fn a_wrapped_token_is_put_together_with_a_warning() {
    let socket = HubSocket::new();
    for (given, expected, is_told) in [
        ("aaaa.bb\nbb.cccc\n", "aaaa.bbbb.cccc", true),
        ("aaaa.bb\r\n  bb.cc cc\n", "aaaa.bbbb.cccc", true),
        ("  aaaa.bbbb.cccc\r\n\n", "aaaa.bbbb.cccc", false),
        // What is no token with a break in it is judged as it is.
        ("Bearer a.b.c", "Bearer a.b.c", false),
        ("a.b.c\nd.e.f", "a.b.c\nd.e.f", false),
        ("a token is wanted", "a token is wanted", false),
    ] {
        for by_argument in [false, true] {
            let words = if by_argument { vec!["token", "check", given] } else { vec!["token", "check"] };
            let (mut child, mut peer) = socket.start_connected(&words);
            child.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
            let request = peer.expect_line(json!({"action": "token", "token": expected}));
            peer.grant(&request, expired());
            let said = stderr(&end(child));
            let told = "wshubctl: warning: the token contains spaces or line breaks, which are ignored here";
            assert_eq!(said.starts_with(told), is_told, "{given:?}: {said}");
        }
    }
}

#[test]
fn requested_and_granted_limits_of_a_token_are_both_shown() {
    let socket = HubSocket::new();
    let (terminal, mut peer) = socket.start_at_terminal(["token", "check", "a.b.c"]);
    let request = peer.receive();
    let mut verdict = holds("2026-03-01T13:00:00.000Z");
    verdict["limits"] = json!({"rate": 5000, "burst": 8000});
    verdict["granted"] = json!({"rate": 1000, "burst": 1000});
    peer.grant(&request, verdict);
    let (_, shown) = terminal.end();
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(
        lines.contains(&vec!["limits", "5000", "requests", "a", "second,", "8000", "at", "once"]),
        "{shown}"
    );
    assert!(
        lines.contains(&vec!["granted", "1000", "requests", "a", "second,", "1000", "at", "once"]),
        "{shown}"
    );
}
