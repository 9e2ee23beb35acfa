//! Command lines as people write them, right and wrong.

use std::io::{BufRead, BufReader, Read};

use serde_json::json;

use crate::fake_hub::{HubSocket, end, program, stderr, stdout};

/// The error about a command line that is wrong.
fn complaint(words: &[&str]) -> String {
    let output = end(HubSocket::new().start(words));
    assert_eq!(output.status.code(), Some(2), "{words:?}");
    stderr(&output)
}

#[test]
fn a_command_without_its_two_dashes_gets_a_hint() {
    for (words, line) in [
        (vec!["run", "logs", "make", "test"], "wshubctl run logs -- make test"),
        (vec!["--wait", "3", "run", "logs", "ls", "-la"], "wshubctl run logs -- ls -la"),
        (vec!["run", "logs", "\u{1b}[2J"], "wshubctl run logs -- \\u{1b}[2J"),
        (vec!["run", "--quiet", "logs", "make"], "wshubctl run CHANNEL -- COMMAND"),
        (vec!["run", "logs"], "wshubctl run CHANNEL -- COMMAND"),
    ] {
        let said = complaint(&words);
        assert!(said.contains(&format!("put `--` before the command: {line}")), "{words:?}: {said}");
    }
    let said = complaint(&["run", "--nonsense", "logs", "--", "make"]);
    assert!(!said.contains("put `--`") && said.contains("--nonsense"), "{said}");
}

#[test]
fn a_text_without_its_quotes_gets_a_hint() {
    for words in [
        vec!["pub", "logs", "hello", "world"],
        vec!["pub", "logs", "hello", "world", "again"],
        vec!["pub", "--to", "ada", "hello", "world"],
        vec!["pub", "--all", "hello", "world"],
    ] {
        let said = complaint(&words);
        assert!(said.contains("a text with spaces needs quotes"), "{words:?}: {said}");
    }
}

#[test]
fn a_duration_may_do_without_its_unit_everywhere() {
    let socket = HubSocket::new();
    for (text, seconds) in [("90", 90.0), ("1.5", 1.5), ("1.5m", 90.0), ("1h", 3600.0)] {
        let (child, mut peer) = socket.start_connected(["pub", "--ttl", text, "logs", "x"]);
        let request = peer.expect_line(json!({"channel": "logs"}));
        assert_eq!(request["ttl"].as_f64(), Some(seconds), "{text}");
        peer.grant(&request, json!({}));
        assert_eq!(end(child).status.code(), Some(0));
    }
    for words in [
        vec!["--wait", "-", "status"],
        vec!["pub", "--ttl", "soon", "logs", "x"],
        vec!["pub", "--to", "ada", "--wait-read", "--timeout", "soon", "x"],
        vec!["sub", "--timeout", "soon", "logs"],
        vec!["token", "new", "--user", "ada", "--ttl", "soon"],
        vec!["run", "--deadline", "soon", "logs", "--", "true"],
        vec!["run", "--term-after", "soon", "logs", "--", "true"],
        vec!["run", "--kill-after", "soon", "logs", "--", "true"],
        vec!["run", "--linger", "soon", "logs", "--", "true"],
    ] {
        let said = complaint(&words);
        assert!(said.contains("a duration such as 90, 90s"), "{words:?}: {said}");
    }
}

#[test]
fn a_token_request_has_the_rights_that_were_named_and_no_others() {
    let socket = HubSocket::new();
    let token = |words: &[&str]| {
        let words = [&["token", "new", "--user", "ada", "--ttl", "60"], words].concat();
        let (child, mut peer) = socket.start_connected(words);
        let mut request = peer.expect_line(json!({"action": "token", "user_id": "ada", "ttl": 60.0}));
        peer.send(json!({"type": "token", "id": request["id"], "token": "a.b.c", "user_id": "ada"}));
        assert_eq!(stdout(&end(child)), "a.b.c\n");
        for field in ["id", "action", "user_id", "ttl"] {
            request.as_object_mut().unwrap().remove(field);
        }
        request
    };
    assert_eq!(token(&[]), json!({}));
    assert_eq!(token(&["--subscribe", "logs:*", "news"]), json!({"subscribe": ["logs:*", "news"]}));
    let all = ["--publish", "a", "--publish", "b", "--interrupt", "*", "--admin"];
    assert_eq!(token(&all), json!({"publish": ["a", "b"], "interrupt": ["*"], "admin": true}));
}

#[test]
fn completions_need_no_hub_and_leave_out_hidden_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = program().args(["--socket", "/nonexistent/x", "completions", shell]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = stdout(&output);
        for word in ["wshubctl", "interrupt", "wait-read", "check"] {
            assert!(script.contains(word), "{shell} completes no {word}");
        }
        assert!(!script.contains("in-session") && !script.contains("stopping"), "{shell}");
    }
}

#[test]
fn on_a_terminal_sub_names_its_channels_once_they_are_granted() {
    let socket = HubSocket::new();
    let (mut terminal, mut peer) = socket.start_at_terminal(["sub", "-n", "1", "logs", "ne\u{1b}ws", "logs"]);
    let mut said = BufReader::new(terminal.errors());
    let (first, second) = (peer.receive(), peer.receive());
    peer.grant(&first, json!({"channel": "logs"}));
    peer.grant(&second, json!({"channel": "news"}));
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "wshubctl: subscribed to logs, ne\\u{1b}ws; Ctrl-C ends\n");
    peer.send(json!({"type": "message", "channel": "logs", "event": "e", "data": 1, "from": "worker",
        "message_id": "m", "timestamp": "2024-05-06T07:08:09.123Z"}));
    assert_eq!(terminal.end().0, Some(0));
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn json_on_a_terminal_moves_no_cursor_either() {
    let socket = HubSocket::new();
    let text = "\u{9b}2J\u{7f}\u{202e}";
    let (terminal, mut peer) = socket.start_at_terminal(["sub", "--json", "-n", "1", "logs"]);
    let request = peer.receive();
    peer.grant(&request, json!({"channel": "logs"}));
    peer.send(json!({"type": "message", "channel": "logs", "data": text}));
    let (_, shown) = terminal.end();
    assert_eq!(shown, "{\"channel\":\"logs\",\"data\":\"\\u009b2J\\u007f\\u202e\",\"type\":\"message\"}\n");

    let (terminal, mut peer) = socket.start_at_terminal(["status", "--json"]);
    let request = peer.receive();
    peer.send(json!({"type": "stats", "id": request["id"], "name": text}));
    assert_eq!(terminal.end().1, "{\"name\":\"\\u009b2J\\u007f\\u202e\"}\n");
}

#[test]
fn an_error_message_of_a_hub_moves_no_cursor() {
    let socket = HubSocket::new();
    for words in [vec!["status"], vec!["sub", "logs"], vec!["pub", "logs", "x"], vec!["interrupt", "op"]] {
        let (child, mut peer) = socket.start_connected(&words);
        let request = peer.receive();
        peer.refuse(&request, "bad_request", "\u{1b}[2J\u{202e}");
        let said = stderr(&end(child));
        assert!(said.contains(r"\u{1b}[2J\u{202e}") && !said.contains('\u{1b}'), "{words:?}: {said}");
    }
}
