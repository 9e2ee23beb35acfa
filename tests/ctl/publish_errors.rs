//! Lines that `wshubctl pub` cannot send, and its early ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::json;

use crate::fake_hub::{HubSocket, Peer, end, program, stderr};

/// Publishes this input; the hub takes `taken` messages. Its exit code, and what it says.
fn publish(words: &[&str], input: &[u8], taken: usize) -> (Option<i32>, Vec<String>, Vec<serde_json::Value>) {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(words);
    child.stdin.take().unwrap().write_all(input).unwrap();
    let received = (0..taken).map(|_| take(&mut peer)).collect();
    let output = end(child);
    peer.expect_end();
    (output.status.code(), stderr(&output).lines().map(str::to_owned).collect(), received)
}

/// Takes the next message; gives back its data.
fn take(peer: &mut Peer) -> serde_json::Value {
    let request = peer.expect_line(json!({"channel": "logs"}));
    peer.grant(&request, json!({"sent": 1}));
    request["data"].clone()
}

#[test]
fn a_line_that_is_no_text_is_reported_and_the_others_are_sent() {
    let (code, said, received) = publish(&["pub", "logs"], b"a\n\xff\xfe\nb\n", 2);
    assert_eq!((code, received), (Some(1), vec![json!("a"), json!("b")]));
    assert_eq!(said, ["wshubctl: line 2 of the standard input is not UTF-8, not sent"]);
}

#[test]
fn a_line_that_is_no_json_is_reported_and_the_others_are_sent() {
    let input = b"1\n{n: 1}\n\xff\n{\"n\":2}\r\n[1\n3";
    let (code, said, received) = publish(&["pub", "--json", "-v", "logs"], input, 3);
    assert_eq!((code, received), (Some(1), vec![json!(1), json!({"n": 2}), json!(3)]));
    let expected = [
        "wshubctl: line 2 of the standard input is not JSON: key must be a string at column 2, not sent",
        "wshubctl: line 3 of the standard input is not UTF-8, not sent",
        "wshubctl: line 5 of the standard input is not JSON: EOF while parsing a list at column 2, not sent",
        "wshubctl: 3 published, 3 delivered, 0 shed, 0 kept, 0 refused, 3 bad lines",
    ];
    assert_eq!(said, expected);
}

#[test]
fn of_many_bad_lines_five_are_shown_and_all_are_counted() {
    let (code, said, _) = publish(&["pub", "--json", "logs"], "x\n".repeat(2000).as_bytes(), 0);
    assert_eq!((code, said.len()), (Some(1), 6));
    assert!(said[4].contains("line 5 of the standard input"), "{said:?}");
    assert_eq!(said[5], "wshubctl: 2000 lines were not sent");
}

#[test]
fn with_json_a_blank_line_is_no_message_and_no_mistake() {
    let (code, said, received) = publish(&["pub", "--json", "logs"], b"\n1\n \t\r\n2\n", 2);
    assert_eq!((code, received.len()), (Some(0), 2));
    assert_eq!(said, ["wshubctl: 2 blank lines skipped"]);
    let (_, said, _) = publish(&["pub", "--json", "-v", "logs"], b"\n1\n", 1);
    let tally = "wshubctl: 1 published, 1 delivered, 0 shed, 0 kept, 0 refused, 1 blank line";
    assert_eq!(said, ["wshubctl: 1 blank line skipped", tally]);
}

#[test]
fn without_json_a_blank_line_is_a_message() {
    let (code, said, received) = publish(&["pub", "logs"], b"a\n\n \n", 3);
    assert_eq!((code, said), (Some(0), vec![]));
    assert_eq!(received, [json!("a"), json!(""), json!(" ")]);
}

#[test]
fn an_empty_input_is_reported() {
    let nothing = "wshubctl: nothing was published: there was no message on the standard input";
    for words in [vec!["pub", "logs"], vec!["pub", "--json", "logs"], vec!["pub", "--json", "logs", "-"]] {
        assert_eq!(publish(&words, b"", 0), (Some(0), vec![nothing.to_owned()], vec![]), "{words:?}");
    }
    let (code, said, _) = publish(&["pub", "--json", "logs"], b"\n\n", 0);
    assert_eq!(
        (code, said),
        (Some(0), vec!["wshubctl: 2 blank lines skipped".to_owned(), nothing.to_owned()])
    );
}

#[test]
fn strict_ends_at_the_first_bad_line_after_all_answers() {
    for (input, why) in [
        (&b"1\n2\n\xff\n3\n"[..], "is not UTF-8"),
        (&b"1\n2\nx\n3\n"[..], "is not JSON: expected value at column 1"),
        (&b"1\n2\n\n3\n"[..], "is blank"),
    ] {
        let (code, said, received) = publish(&["pub", "--json", "--strict", "logs"], input, 2);
        assert_eq!((code, received.len()), (Some(1), 2));
        let expected = format!(
            "wshubctl: line 3 of the standard input {why}: stopped, because of --strict; wshubd accepted 2 messages"
        );
        assert_eq!(said, [expected]);
    }
    let socket = HubSocket::new();
    let output = end(socket.start(["pub", "--strict", "logs", "text"]));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_line_longer_than_any_message_is_passed_over() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["pub", "logs"]);
    let mut input = child.stdin.take().unwrap();
    let writes = std::thread::spawn(move || {
        input.write_all(b"a\n").unwrap();
        for _ in 0..65 {
            input.write_all(&[b'x'; 1 << 20]).unwrap();
        }
        input.write_all(b"\nb\n").unwrap();
    });
    assert_eq!([take(&mut peer), take(&mut peer)], [json!("a"), json!("b")]);
    writes.join().unwrap();
    let output = end(child);
    assert_eq!(output.status.code(), Some(1));
    let said = "wshubctl: line 2 of the standard input is longer than 64 MiB, not sent\n";
    assert_eq!(stderr(&output), said);
}

#[test]
fn an_answer_is_handled_while_the_input_is_idle() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["pub", "logs"]);
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"a\nhalf").unwrap();
    let request = peer.receive();
    peer.refuse(&request, "rate_limited", "too \u{1b}fast");
    assert_eq!(said.next().unwrap().unwrap(), "wshubctl: refused: too \\u{1b}fast (rate_limited)");
    // The first half of the line is not lost.
    input.write_all(b" a line\n").unwrap();
    drop(input);
    assert_eq!(take(&mut peer), json!("half a line"));
    assert_eq!(end(child).status.code(), Some(1));
}

#[test]
fn an_input_error_leaves_no_answer_unread() {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let input = openpt(flags).unwrap();
    unlockpt(&input).unwrap();
    let mut typed = File::from(ioctl_tiocgptpeer(&input, flags).unwrap());
    let socket = HubSocket::new();
    let mut command = program();
    command.arg("--socket").arg(socket.path()).args(["pub", "logs"]);
    let child = command.stdin(Stdio::from(input)).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut peer = socket.accept();
    typed.write_all(b"a\nb\n").unwrap();
    let (first, second) = (peer.receive(), peer.receive());
    // The other end of a terminal that nobody has any more is an error, not an end.
    drop(typed);
    peer.refuse(&first, "rate_limited", "too fast");
    peer.grant(&second, json!({}));
    let output = end(child);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("refused: too fast"), "{said}");
    assert!(
        said.contains("standard input: ") && said.ends_with("; wshubd accepted 1 message and refused 1\n"),
        "{said}"
    );
}

#[test]
fn a_hub_that_goes_away_leaves_no_message_uncounted() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["pub", "-v", "logs"]);
    // Its input stays open.
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"a\nb\nc\nd\n").unwrap();
    let [first, second, _, fourth] = [(); 4].map(|()| peer.receive());
    peer.grant(&first, json!({"sent": 2}));
    peer.refuse(&second, "rate_limited", "too fast");
    peer.grant(&fourth, json!({"sent": 2}));
    drop(peer);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = stderr(&output);
    let tally = "2 published, 4 delivered, 0 shed, 0 kept, 1 refused, 1 without an answer\n";
    assert!(said.contains(tally), "{said}");
    let end =
        "; wshubd accepted 2 messages and refused 1; 1 has no answer and may or may not have been accepted\n";
    assert!(said.contains("lost the connection") && said.ends_with(end), "{said}");
    drop(input);
}

#[test]
fn a_message_that_nobody_acknowledges_ends_it_after_all_answers() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = socket.start_connected(["pub", "--to", "ada", "--wait-read"]);
    child.stdin.take().unwrap().write_all(b"a\nb\n").unwrap();
    let (first, second) = (peer.receive(), peer.receive());
    peer.grant(&first, json!({"kept": false}));
    peer.refuse(&second, "rate_limited", "too fast");
    let output = end(child);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("the message cannot be acknowledged")
            && said.contains("accepted 1 message and refused 1"),
        "{said}"
    );
}
