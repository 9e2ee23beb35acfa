//! Foreign text in the log: one entry is one line, of the priority that it has.

use std::io::{BufRead, BufReader};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::{Daemon, by_file, directory};

#[test]
fn a_name_that_looks_like_a_priority_is_quoted_in_its_line() {
    let mut daemon = Daemon::start();
    let mut eve = daemon.client("<0>eve");
    for action in ["\u{1b}[2J\n<0>forged", "\r\n", "<0>", "\0", "a\u{9b}b"] {
        eve.send(json!({"action": action, "channel": "<0>news"}));
        assert_eq!(eve.expect_type("error")["code"], "unknown_action");
    }
    assert_eq!(eve.closed_with(), 4009);
    drop(eve);
    let line = daemon.logged();
    assert!(line.starts_with("WARN closed ") && line.contains(" of \"<0>eve\": "), "{line}");
    let mut worker = daemon.worker();
    worker.send(json!({"action": "operation_start", "operation_id": "<0>op", "channel": "<0>news", "id": 1}));
    assert_eq!(worker.receive()["type"], "ok");
    for channel in ["a\nb", "a\u{1b}b", "a\u{9b}b", "a\u{2028}b"] {
        let line = json!({"action": "operation_start", "operation_id": channel, "channel": channel, "id": 2});
        worker.send(line);
        assert_eq!(worker.receive()["code"], "bad_request", "{channel:?}");
    }
    drop(worker);
    let line = daemon.logged();
    assert!(line.starts_with("WARN operation \"<0>op\" on \"<0>news\": "), "{line}");
    daemon.stop();
    assert_eq!(daemon.ended().1.lines().count(), 1, "nothing of it became a line of its own");
}

#[test]
fn control_characters_of_a_configuration_are_escaped_in_the_log() {
    let directory = directory();
    let file = directory.join("wshubd.toml");
    let listen = "[listen]\nhttp = [\"127.0.0.1:0\"]\n";
    std::fs::write(&file, listen).unwrap();
    for is_journal in [false, true] {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = by_file(&directory);
        if is_journal {
            let stat = rustix::fs::fstat(&writer).unwrap();
            command.env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino));
        }
        let mut daemon = command.stderr(writer).spawn().unwrap();
        // The command holds the other end.
        drop(command);
        let mut log = BufReader::new(reader).lines().map(Result::unwrap);
        let (info, error) = if is_journal { ("<6>", "<3>") } else { ("INFO ", "ERROR ") };
        assert!(log.find(|line| line.contains("started: ")).unwrap().starts_with(info));
        std::fs::write(&file, format!("{listen}\"\\u001b[2J\\n<0>forged\\r\\u009b\" = 1\n")).unwrap();
        let pid = Pid::from_child(&daemon);
        kill_process(pid, Signal::HUP).unwrap();
        let line = log.next().unwrap();
        assert!(line.starts_with(&format!("{error}not reloaded, and nothing is changed: ")), "{line}");
        assert!(line.contains("forged") && !line.contains(char::is_control), "{line:?}");
        std::fs::write(&file, listen).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
        assert!(log.next().unwrap().starts_with(&format!("{info}reloaded: nothing has changed")));
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(log.count(), 1);
        assert_eq!(daemon.wait().unwrap().code(), Some(0));
    }
    crate::harness::remove(&directory);
}
