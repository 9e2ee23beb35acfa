//! Progress bars and prompts below `wshubctl run`.

use std::fs;
use std::io::{BufReader, Read, Write};

use serde_json::{Value, json};

use crate::fake_hub::{HubSocket, Peer, end, stdout};
use crate::run::{ended, expect_notice, line, script};

/// The next output, with its fields beside the usual ones.
fn output(peer: &mut Peer) -> Value {
    let received = peer.expect_line(json!({"channel": "logs", "event": "operation:output"}));
    peer.grant_if_asked(&received);
    // What is unfinished is never kept, and what is whole always.
    assert_eq!(received["ttl"] == 0, received["data"]["partial"] == true, "{received}");
    assert_eq!(received["ttl"].is_null(), received["data"]["partial"].is_null(), "{received}");
    received["data"].clone()
}

fn partial(peer: &mut Peer, number: u64, text: &str) {
    let received = output(peer);
    assert_eq!(
        (&received["partial"], &received["line"], &received["text"]),
        (&json!(true), &json!(number), &json!(text))
    );
}

fn whole(peer: &mut Peer, number: u64, text: &str) {
    let received = output(peer);
    assert_eq!(
        (&received["partial"], &received["line"], &received["text"]),
        (&Value::Null, &json!(number), &json!(text))
    );
}

#[test]
fn a_bar_and_a_prompt_are_published_before_their_line_ends() {
    for options in [&[][..], &["--pty"]] {
        let socket = HubSocket::new();
        let questions = "printf '10%%\\r'; read x; printf '20%%\\r'; read x; printf '100%%\\n'; \
                         printf 'Continue? '; read x; echo yes; printf 'bye'";
        let (mut child, mut peer) = script(&socket, options, questions);
        let mut input = child.stdin.take().unwrap();
        let mut answer = || input.write_all(b"\n").unwrap();
        partial(&mut peer, 1, "10%");
        answer();
        partial(&mut peer, 1, "20%");
        answer();
        whole(&mut peer, 1, "100%");
        partial(&mut peer, 2, "Continue? ");
        answer();
        whole(&mut peer, 2, "Continue? yes");
        // What the stream ends with is a line.
        whole(&mut peer, 3, "bye");
        assert_eq!(ended(&mut peer)["data"], json!({"exit_code": 0, "lines": 3}));
        assert_eq!(stdout(&end(child)), "10%\r20%\r100%\nContinue? yes\nbye");
    }
}

#[test]
fn a_bar_that_is_never_finished_is_a_line_at_its_end() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = script(&socket, &[], "printf '99%%\\r'; read x");
    partial(&mut peer, 1, "99%");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    whole(&mut peer, 1, "99%");
    assert_eq!(ended(&mut peer)["data"]["lines"], 1);
    end(child);
}

#[test]
fn an_unfinished_line_keeps_its_number_beside_the_other_stream() {
    let socket = HubSocket::new();
    let both = "printf '10%%\\r'; read x; echo warning >&2; read x; echo 100%";
    let (mut child, mut peer) = script(&socket, &[], both);
    let mut input = child.stdin.take().unwrap();
    partial(&mut peer, 1, "10%");
    input.write_all(b"\n").unwrap();
    whole(&mut peer, 2, "warning");
    input.write_all(b"\n").unwrap();
    whole(&mut peer, 1, "100%");
    assert_eq!(ended(&mut peer)["data"]["lines"], 2);
    end(child);
}

#[test]
fn a_fast_progress_bar_does_not_flood_the_hub() {
    let socket = HubSocket::new();
    let fast = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); printf '%d\\r' $i; done; echo";
    let (mut child, mut peer) = script(&socket, &[], fast);
    drop(child.stdout.take());
    let mut partials = 0;
    let last = loop {
        let received = output(&mut peer);
        assert_eq!(received["line"], 1);
        if received["partial"].is_null() {
            break received;
        }
        partials += 1;
    };
    assert_eq!(last["text"], "100000");
    // Five a second, on a machine on which this takes a minute.
    assert!((1..300).contains(&partials), "{partials} states were published");
    ended(&mut peer);
    end(child);
}

#[test]
fn an_unanswered_state_holds_back_the_next_one() {
    let socket = HubSocket::new();
    let fifo = socket.file("go");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let bar = format!(
        "printf '0\\r'; for i in 1 2 3 4 5; do sleep 0.25; printf '%d\\r' $i; done; read x < {}; echo",
        fifo.display()
    );
    let (child, mut peer) = script(&socket, &[], &bar);
    let first = peer.expect_line(json!({"event": "operation:output"}));
    assert_eq!(first["data"]["text"], "0");
    // It opens when the last state is drawn, and until then nothing else is received.
    let mut go = fs::File::create(&fifo).unwrap();
    peer.grant(&first, json!({}));
    partial(&mut peer, 1, "5");
    go.write_all(b"go\n").unwrap();
    whole(&mut peer, 1, "5");
    ended(&mut peer);
    end(child);
}

#[test]
fn states_do_not_wait_for_a_disconnected_hub() {
    let socket = HubSocket::new();
    let away = "echo up; read x; printf '10%%\\r'; read x; printf '20%%\\r'; read x; echo";
    let (mut child, mut peer) = script(&socket, &[], away);
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut input = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let mut drawn = |text: &str| {
        let mut shown = vec![0; text.len()];
        screen.read_exact(&mut shown).unwrap();
        assert_eq!(String::from_utf8(shown).unwrap(), text);
    };
    drawn("up\n");
    line(&mut peer);
    drop(peer);
    expect_notice(&mut errors, "the command goes on");
    for state in ["10%\r", "20%\r"] {
        input.write_all(b"\n").unwrap();
        drawn(state);
    }
    let mut peer = socket.accept_probed();
    let again = peer.expect_line(json!({"action": "operation_start"}));
    peer.grant(&again, json!({}));
    let mut texts = Vec::new();
    // Of what was drawn meanwhile the last is received, once the hub is there.
    while texts.last().is_none_or(|text| text != "20%") {
        texts.push(output(&mut peer)["text"].clone());
    }
    assert!(!texts.contains(&json!("10%")), "{texts:?}");
    input.write_all(b"\n").unwrap();
    // The number of the line is that of its state.
    let last = output(&mut peer);
    assert_eq!((&last["text"], &last["partial"]), (&json!("20%"), &Value::Null));
    ended(&mut peer);
    end(child);
}
